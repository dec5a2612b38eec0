"""The arena: every defence against everything, and a board that others can join."""
