"""AutoAttack: chains of attacks on the images that still stand."""
