"""AutoAttack: chains of attacks on the images that still stand."""

from uronet_jax.attacks.auto.ensemble import AutoAttackResult, autoattack
from uronet_jax.attacks.auto.state import MisleadingEvaluation
from uronet_jax.attacks.auto.versions import AttackStep

__all__ = ["AttackStep", "AutoAttackResult", "MisleadingEvaluation", "autoattack"]
