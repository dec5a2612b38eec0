"""Image files as people have them, purified."""
