"""Where the clean and degraded images come from that remover and detector learn on.

Degradations that are quick to draw are drawn inside the step. Others, such as
adversarial images, are stored beforehand and looked up by the image's index.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from uronet_jax.corruptions import degrade
from uronet_jax.training.state import Augment, Batch, to_float

# (key, frozen, batch) -> clean, degraded
Pair = Callable[[jax.Array, Any, Batch], tuple[jax.Array, jax.Array]]


class Pairs(NamedTuple):
    """How a batch becomes pairs of a clean image and its degraded copy.

    Both take `(key, frozen, batch)`, with uint8 `batch["image"]` `[B, H, W, C]` and
    `batch["index"]` `[B]`, and return two float arrays `[B, H, W, C]` in `[0, 1]`.

    Attributes:
        train: Augmented, another degradation with every key.
        validation: As the images are.
    """

    train: Pair
    validation: Pair


def drawn_pairs(augment: Augment) -> Pairs:
    """Returns pairs whose degraded image is drawn from `frozen["degradation"]`.

    Args:
        augment: `(key, images, index) -> images`, before the degradation.
    """

    def train(key: jax.Array, frozen: Any, batch: Batch):
        augment_key, noise_key = jax.random.split(key)
        clean = augment(augment_key, to_float(batch["image"]), batch["index"])
        return clean, degrade(noise_key, clean, frozen["degradation"], batch["index"])

    def validation(key: jax.Array, frozen: Any, batch: Batch):
        clean = to_float(batch["image"])
        return clean, degrade(key, clean, frozen["degradation"], batch["index"])

    return Pairs(train, validation)


def stored_pairs(augment: Augment, *, clean_share: float = 0.0) -> Pairs:
    """Returns pairs whose degraded image is stored.

    `frozen["train"]` and `frozen["validation"]` hold the degraded copies of both sets,
    uint8 or uint16: `[N, H, W, C]`, or `[K, N, H, W, C]`, of which training takes one
    at random for each image, and validation the first.

    Args:
        augment: `(key, images, index) -> images`; an image and its copy are changed
            alike.
        clean_share: Share of the images, in `[0, 1]`, that training shows undegraded.
    """

    def train(key: jax.Array, frozen: Any, batch: Batch):
        stored, index = frozen["train"], batch["index"]
        if stored.ndim == 5:
            key, copy_key = jax.random.split(key)
            copy = jax.random.randint(copy_key, index.shape, 0, stored.shape[0])
            degraded = stored[copy, index]
        else:
            degraded = stored[index]
        clean, degraded = to_float(batch["image"]), to_float(degraded)
        if clean_share:
            key, clean_key = jax.random.split(key)
            kept = jax.random.bernoulli(clean_key, clean_share, index.shape)
            degraded = jnp.where(kept[:, None, None, None], clean, degraded)
        images = augment(key, jnp.concatenate([clean, degraded], axis=-1), index)
        clean, degraded = jnp.split(images, 2, axis=-1)
        return clean, degraded

    def validation(key: jax.Array, frozen: Any, batch: Batch):
        del key
        stored = frozen["validation"]
        first = stored[0] if stored.ndim == 5 else stored
        return to_float(batch["image"]), to_float(first[batch["index"]])

    return Pairs(train, validation)
