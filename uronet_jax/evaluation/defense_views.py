"""How attackers and measurements see a defence: functions to compile once.

Their argument `frozen` holds `variables`, those of the models, `gate` and `threshold`.
What makes them is cached: a program is compiled for each function object anew.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from uronet_jax.attacks import LossFn, adaptive, balls, loop
from uronet_jax.defense import Classify, detector_input
from uronet_jax.models import Remover, Separation


class Models(NamedTuple):
    """What is compiled in.

    Attributes:
        classify: `(variables, images) -> logits`.
        remover: Purifies the images, if there is one.
        detector: Two-class module, if there is one; class 1 is degraded.
        inputs: What the detector looks at, see `defense.detector_input`.
        gated: Whether only what the detector takes for degraded is purified.
    """

    classify: Classify
    remover: Remover | None
    detector: nn.Module | None
    inputs: str
    gated: bool


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
    models: Models,
    target: str,
    straight_through: bool,
    both_ways: bool,
    pair: bool = False,
) -> Callable:
    """Returns what is attacked: `(frozen, key, images) -> logits`.

    Args:
        models: The defence.
        target: `classifier` or `defense`.
        straight_through: Whether the gradient takes the remover for the identity.
        both_ways: Whether, at a gate, it is that of both ways.
        pair: Whether to return `(logits, detector's logits)` of the defence.
    """
    if target == "classifier":
        return lambda frozen, key, images: models.classify(
            frozen["variables"]["classifier"], images
        )
    defend = _make_defend(models, straight_through, both_ways)
    if pair:
        return lambda frozen, key, images: defend(frozen, key, images)[:2]
    return lambda frozen, key, images: defend(frozen, key, images)[0]


@functools.cache
def make_measure(models: Models) -> Callable:
    """Returns `(frozen, key, batch, adversarial) -> dict` of numbers `[B]`.

    `defended` and `undefended`: whether the label is given by the defence and by the
    classifier alone; `confidence` of the defence; `finite`: whether all logits are; the
    sizes of the perturbations by norm. With a detector also the `probability` that the
    image is degraded, `flagged`, and `evaded`: wrong and not flagged.
    """
    defend = _make_defend(models, False, False)

    def measure(frozen, key, batch, adversarial):
        def right(logits):
            return jnp.argmax(logits, axis=-1) == batch["label"]

        logits, detected, _ = defend(frozen, key, adversarial)
        bare = models.classify(frozen["variables"]["classifier"], adversarial)
        perturbation = adversarial - batch["image"]
        result = {
            "defended": right(logits),
            "undefended": right(bare),
            "confidence": nn.softmax(logits).max(axis=-1),
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
def make_purify(models: Models) -> Callable:
    """Returns `(frozen, key, images) -> images`, for a defence with a remover."""
    defend = _make_defend(models, False, False)
    return lambda frozen, key, images: defend(frozen, key, images)[2]


def find_blind(loss_fn: LossFn, images: jax.Array) -> jax.Array:
    """Returns where a loss has no gradient and no success, bool `[B]`."""
    result = loop.evaluate(loss_fn, images)
    return ~result.success & (balls.size(result.gradient, "linf") == 0)


@functools.cache
def _make_defend(models: Models, straight_through: bool, both_ways: bool) -> Callable:
    """Returns `(frozen, key, images) -> (logits, detector's logits, purified)`."""

    def defend(frozen, key, images):
        variables = frozen["variables"]

        def classify(pictures):
            return models.classify(variables["classifier"], pictures)

        if models.remover is None:
            return classify(images), None, None

        def separate(images):
            return models.remover.apply(
                variables["remover"], images, rngs={"defense": key}
            )

        if straight_through:
            separate = adaptive.bpda(separate, _nothing_to_remove)
        separation = separate(images)
        clean = separation.clean
        if models.detector is None:
            return classify(clean), None, clean
        features = detector_input(images, separation, models.inputs)
        detected = models.detector.apply(variables["detector"], features, train=False)
        if not models.gated:
            return classify(clean), detected, clean
        purify = adaptive.degraded_probability(detected) > frozen["gate"]
        if not both_ways:
            return classify(balls.where(purify, clean, images)), detected, clean

        def gated(logits):
            return jnp.where(purify[:, None], *logits)

        def mean(logits):
            return (logits[0] + logits[1]) / 2

        return (
            adaptive.bpda(gated, mean)((classify(clean), classify(images))),
            detected,
            clean,
        )

    return defend


def _nothing_to_remove(images):
    return Separation(images, jnp.zeros_like(images))
