"""Training: state, one module per phase, one loop."""
