"""Losses of purifiers as data: name -> function; a config gives each a weight."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from uronet_jax.batches import check_number
from uronet_jax.models import Separation
from uronet_jax.specs import known_name
from uronet_jax.training.state import Metrics


class LossInputs(NamedTuple):
    """What a loss may look at.

    Attributes:
        separation: What the purifier made of the degraded images.
        clean: `[B, H, W, C]`.
        degraded: `[B, H, W, C]`.
        classify: `images -> logits` of a frozen classifier; None without one.
    """

    separation: Separation
    clean: jax.Array
    degraded: jax.Array
    classify: Callable[[jax.Array], jax.Array] | None = None


def clean_mse(x: LossInputs) -> jax.Array:
    """Returns the mean squared error of the clean picture, `[B]`."""
    return _mse(x.separation.clean, x.clean)


def noise_mse(x: LossInputs) -> jax.Array:
    """Returns that of the noise pattern's code `(noise + 1) / 2`, `[B]`.

    Half the difference of the patterns is the difference of their codes.
    """
    return _mse(x.separation.noise / 2, (x.degraded - x.clean) / 2)


def inconsistency(x: LossInputs) -> jax.Array:
    """Returns how far the classifier's answers are apart, `[B]`.

    The Kullback-Leibler divergence of what it says to the purified picture from what
    it says to the clean one. No label is used.
    """
    expected, found = (
        nn.log_softmax(x.classify(images).astype(jnp.float32))
        for images in (x.clean, x.separation.clean)
    )
    return jnp.sum(jnp.exp(expected) * (expected - found), axis=-1)


def instability(x: LossInputs) -> jax.Array:
    """Returns the cross-entropy of the classifier's own labels, `[B]`.

    Those that it gives the clean pictures are to be its answers to the purified ones:
    the loss "Stab" of Salman et al., "Denoised Smoothing", NeurIPS 2020. No label of
    the data is used.
    """
    labels = jnp.argmax(x.classify(x.clean), axis=-1)
    found = x.classify(x.separation.clean).astype(jnp.float32)
    return optax.softmax_cross_entropy_with_integer_labels(found, labels)


def _mse(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.mean(jnp.square(a - b), axis=(1, 2, 3))


PURIFIER_LOSSES: dict[str, Callable[[LossInputs], jax.Array]] = {
    "clean_mse": clean_mse,
    "noise_mse": noise_mse,
    "inconsistency": inconsistency,
    "instability": instability,
}
# Those that ask a frozen classifier; the others are reported whatever their weight.
OF_CLASSIFIER = ("inconsistency", "instability")


def check_weights(weights: Mapping[str, Any]) -> None:
    """Raises ValueError unless the weights are numbers from 0 on of known losses.

    One that asks no classifier must have a weight: the validation knows no other.
    """
    for name, weight in weights.items():
        known_name("loss", name, PURIFIER_LOSSES)
        check_number(f"loss.{name}", weight, 0.0)
    judged = [name for name in PURIFIER_LOSSES if name not in OF_CLASSIFIER]
    if not any(weights.get(name) for name in judged):
        raise ValueError(
            f"one of {', '.join(judged)} needs a weight above 0: {dict(weights)}"
        )


def asks_classifier(weights: Mapping[str, float]) -> bool:
    """Returns whether one of the losses with a weight needs a frozen classifier."""
    return any(weights.get(name) for name in OF_CLASSIFIER)


def weigh(weights: Mapping[str, float], inputs: LossInputs) -> Metrics:
    """Returns the losses `[B]` by name, and `loss`, their weighted sum.

    Args:
        weights: Name -> weight.
        inputs: Without a classifier the losses that ask it are left out.
    """
    found, total = {}, 0.0
    for name, function in PURIFIER_LOSSES.items():
        weight = weights.get(name, 0.0)
        if name in OF_CLASSIFIER and (not weight or inputs.classify is None):
            continue
        found[name] = function(inputs)
        if weight:
            total = total + weight * found[name]
    return {"loss": total, **found}
