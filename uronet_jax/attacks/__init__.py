"""Attacks: images and a loss function to adversarial images.

`fgsm`, `ifgsm`, `pgd`, `apgd`, `square`, `additive_gaussian_noise` and
`additive_uniform_noise` raise a loss function within a budget `epsilon`, and
`apgd_targeted` one of its own; `deepfool`, `ddn`, `carlini_wagner` and `fab` look for
the smallest perturbation that changes a label. `ATTACKS` gives all of them one
signature: a new one is a file with its entries, and a line there.

Norms are in units of the intensities, which are in `[0, 1]`. An image's result depends
on its number, `index`, and not on the batch it is in.
"""

from uronet_jax.attacks.additive_noise import (
    NOISE_ATTACKS,
    additive_gaussian_noise,
    additive_uniform_noise,
)
from uronet_jax.attacks.apgd import APGD_ATTACKS, apgd, apgd_targeted
from uronet_jax.attacks.attack import Attack
from uronet_jax.attacks.auto import (
    AttackStep,
    AutoAttackResult,
    MisleadingEvaluation,
    autoattack,
)
from uronet_jax.attacks.carlini_wagner import CARLINI_WAGNER_ATTACKS, carlini_wagner
from uronet_jax.attacks.ddn import DDN_ATTACKS, ddn
from uronet_jax.attacks.deepfool import DEEPFOOL_ATTACKS, deepfool
from uronet_jax.attacks.fab import FAB_ATTACKS, fab
from uronet_jax.attacks.gradient import GRADIENT_ATTACKS, fgsm, ifgsm, pgd
from uronet_jax.attacks.loop import NonFiniteError
from uronet_jax.attacks.objectives import (
    LOSSES,
    LogitsFn,
    LossFn,
    flax_logits,
    misclassification,
    targeted_misclassification,
)
from uronet_jax.attacks.rescaling import clipping_aware_rescale
from uronet_jax.attacks.square import SQUARE_ATTACKS, square

__all__ = [
    "ATTACKS",
    "LOSSES",
    "Attack",
    "AttackStep",
    "AutoAttackResult",
    "LogitsFn",
    "LossFn",
    "MisleadingEvaluation",
    "NonFiniteError",
    "additive_gaussian_noise",
    "additive_uniform_noise",
    "apgd",
    "apgd_targeted",
    "autoattack",
    "carlini_wagner",
    "clipping_aware_rescale",
    "ddn",
    "deepfool",
    "fab",
    "fgsm",
    "flax_logits",
    "ifgsm",
    "misclassification",
    "pgd",
    "square",
    "targeted_misclassification",
]

ATTACKS: dict[str, Attack] = {
    **GRADIENT_ATTACKS,
    **APGD_ATTACKS,
    **SQUARE_ATTACKS,
    **NOISE_ATTACKS,
    **DEEPFOOL_ATTACKS,
    **DDN_ATTACKS,
    **CARLINI_WAGNER_ATTACKS,
    **FAB_ATTACKS,
}
