"""How attackers and measurements see a defence: functions to compile once.

Their argument `frozen` holds `variables`, those of the models, and `threshold`. What
makes them is cached: a program is compiled for each function object anew.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from uronet_jax.attacks import LossFn, adaptive, balls, loop
from uronet_jax.defense import DefenseFunction


def prepare_batch(batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Returns a batch of float images, with an image of its own as padding.

    What is black could have a gradient that no image has. A copy has the number of its
    image: so it draws the same numbers, and what it does the image does.
    """
    images, mask = batch["image"], batch["mask"]
    if jnp.issubdtype(images.dtype, jnp.integer):
        images = images.astype(jnp.float32) / 255.0
    real = jnp.argmax(mask)
    own = {
        name: jnp.where(mask, batch[name], batch[name][real])
        for name in ("label", "index")
    }
    return {**batch, **own, "image": balls.where(mask, images, images[real][None])}


@functools.cache
def make_attacked(
    defense: DefenseFunction, target: str = "defense", pair: bool = False
) -> Callable:
    """Returns what is attacked: `(frozen, key, images) -> logits`.

    Args:
        defense: With the options by which its gradient is seen.
        target: `classifier` or `defense`.
        pair: Whether to return `(logits, detector's logits)` of the defence.
    """
    if target == "classifier":
        return lambda frozen, key, images: defense.classify(
            frozen["variables"]["classifier"], images
        )

    def attacked(frozen, key, images):
        answer = defense.answer(frozen["variables"], images, key)
        return answer[:2] if pair else answer.logits

    return attacked


@functools.cache
def make_measure(defense: DefenseFunction) -> Callable:
    """Returns `(frozen, key, batch, adversarial) -> dict` of numbers `[B]`.

    `defended` and `undefended`: whether the label is given by the defence and by the
    classifier alone; `finite`: whether all logits are; the sizes of the perturbations
    by norm. With a detector also the `probability` that the image is degraded,
    `flagged`, and `evaded`: wrong and not flagged.
    """

    def measure(frozen, key, batch, adversarial):
        def right(logits):
            return jnp.argmax(logits, axis=-1) == batch["label"]

        variables = frozen["variables"]
        logits, detected, _ = defense.answer(variables, adversarial, key)
        bare = defense.classify(variables["classifier"], adversarial)
        perturbation = adversarial - batch["image"]
        result = {
            "defended": right(logits),
            "undefended": right(bare),
            "finite": jnp.isfinite(logits).all(-1) & jnp.isfinite(bare).all(-1),
            **{norm: balls.size(perturbation, norm) for norm in balls.NORMS},
        }
        if detected is None:
            return result
        probability = adaptive.degraded_probability(detected)
        flagged = probability > frozen["threshold"]
        return result | {
            "probability": probability,
            "flagged": flagged,
            "evaded": ~flagged & ~result["defended"],
        }

    return measure


@functools.cache
def make_purify(defense: DefenseFunction) -> Callable:
    """Returns `(frozen, key, images) -> images`, for a defence with a purifier."""
    return lambda frozen, key, images: (
        defense.answer(frozen["variables"], images, key).separation.clean
    )


def find_blind(loss_fn: LossFn, images: jax.Array) -> jax.Array:
    """Returns where a loss has no gradient and no success, bool `[B]`."""
    result = loop.evaluate(loss_fn, images)
    return ~result.success & (balls.size(result.gradient, "linf") == 0)
