"""Adversarial noise training (Rusak et al., ECCV 2020): its experiments."""
