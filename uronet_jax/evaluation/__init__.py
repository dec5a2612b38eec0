"""Evaluation: metrics, and the protocols of the papers as functions."""
