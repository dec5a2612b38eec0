"""Attacks: images and a loss function to adversarial images.

`fgsm`, `ifgsm`, `pgd`, `apgd` and `square` raise a loss function within a budget
`epsilon`; `deepfool`, `ddn`, `carlini_wagner` and `fab` look for the smallest
perturbation that changes a label. `ATTACKS` gives all of them one signature.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from uronet_jax.attacks.gradient import fgsm, ifgsm, pgd
from uronet_jax.attacks.objectives import (
    LOSSES,
    LogitsFn,
    LossFn,
    flax_logits,
    misclassification,
    targeted_misclassification,
)

__all__ = [
    "ATTACKS",
    "LOSSES",
    "Attack",
    "LogitsFn",
    "LossFn",
    "fgsm",
    "flax_logits",
    "ifgsm",
    "misclassification",
    "pgd",
    "targeted_misclassification",
]


class Attack(NamedTuple):
    """An attack on a classifier, with the parameters that are usual for it.

    Attributes:
        function: `(key, images, loss_fn, *, ...)`, or of a minimal attack
            `(key, images, logits_fn, labels, *, ...)`.
        norm: `linf` or `l2`.
        minimal: Whether it looks for the smallest perturbation and takes no `epsilon`.
        loss: That it raises, a key of `LOSSES`; empty for a minimal attack.
        defaults: Keyword arguments.
    """

    function: Callable[..., jax.Array]
    norm: str
    minimal: bool = False
    loss: str = ""
    defaults: Mapping[str, Any] = {}

    def __call__(
        self,
        key: jax.Array,
        images: jax.Array,
        logits_fn: LogitsFn,
        labels: jax.Array,
        **parameters: Any,
    ) -> jax.Array:
        """Returns adversarial images.

        Args:
            key: Typed PRNG key; one serves the whole batch.
            images: `[B, H, W, C]`, floating point, in `[0, 1]`.
            logits_fn: `images -> [B, K]`.
            labels: Integer `[B]`, the right ones.
            **parameters: Of the attack, `epsilon` among them unless it is minimal.

        Raises:
            ValueError: If an argument is wrong; outside jit also if a gradient is not
                finite.
        """
        parameters = {**self.defaults, **parameters}
        if self.minimal:
            return self.function(key, images, logits_fn, labels, **parameters)
        if "epsilon" not in parameters:
            raise ValueError("give epsilon, the largest norm of the perturbation")
        loss_fn = misclassification(logits_fn, labels, loss=self.loss)
        return self.function(key, images, loss_fn, **parameters)


def _budget(function, loss="cross_entropy", **defaults):
    return {
        norm: Attack(
            functools.partial(function, norm=norm), norm, loss=loss, defaults=defaults
        )
        for norm in ("linf", "l2")
    }


ATTACKS: dict[str, Attack] = {}
