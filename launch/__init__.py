"""Commands: flags and wiring only."""
