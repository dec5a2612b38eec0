"""Where the clean and degraded images come from that models learn on.

Degradations that are quick to draw are drawn inside the step. Others, such as
adversarial images, are stored beforehand and ride in the batch.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from uronet_jax.batches import check_number, per_image
from uronet_jax.corruptions import Degradation, degrade
from uronet_jax.data.augment import no_augmentation
from uronet_jax.training.state import Augment, Batch, to_float

# (key, frozen, batch) -> clean, degraded
Pair = Callable[[jax.Array, Any, Batch], tuple[jax.Array, jax.Array]]


class Pairs(NamedTuple):
    """How a batch becomes pairs of a clean image and its degraded copy.

    Both functions take `(key, frozen, batch)`, with uint8 `batch["image"]`
    `[B, H, W, C]` and `batch["index"]` `[B]`, and return two float arrays
    `[B, H, W, C]` in `[0, 1]`, the degraded one unless it is not clipped. Every image
    draws for itself, from the key and its index.

    Attributes:
        train: Augmented, degraded in another way with every key.
        validation: As the images are.
        frozen: What both look up in `frozen`. It is an argument of a step, so that
            models which differ in nothing else share a compiled one.
    """

    train: Pair
    validation: Pair
    frozen: dict[str, Any]


def drawn_pairs(
    degradation: Degradation,
    augment: Augment = no_augmentation,
    *,
    clean_share: float = 0.0,
    clip: bool = True,
) -> Pairs:
    """Returns pairs whose degraded image is drawn, from `frozen["degradation"]`.

    Of a mix every image draws an entry; the identity may be among them.

    Args:
        degradation: One, or a mix.
        augment: `(key, images, index) -> images`, before they are degraded.
        clean_share: Share of the images, of the validation too, in `[0, 1]`, that are
            shown undegraded.
        clip: Whether degraded images are clipped to `[0, 1]`; see `degrade`.

    Raises:
        ValueError: If `clean_share` is out of range.
    """
    check_number("clean_share", clean_share, 0.0, 1.0)

    def draw(key: jax.Array, clean: jax.Array, frozen: Any, index: jax.Array):
        degraded = degrade(key, clean, frozen["degradation"], index, clip=clip)
        return clean, _keep_clean(key, clean, degraded, index, clean_share)

    def train(key: jax.Array, frozen: Any, batch: Batch):
        augment_key, noise_key = jax.random.split(key)
        clean = augment(augment_key, to_float(batch["image"]), batch["index"])
        return draw(noise_key, clean, frozen, batch["index"])

    def validation(key: jax.Array, frozen: Any, batch: Batch):
        return draw(key, to_float(batch["image"]), frozen, batch["index"])

    return Pairs(train, validation, {"degradation": degradation})


def clean_pairs(augment: Augment = no_augmentation) -> Pairs:
    """Returns pairs of which both images are the clean one, augmented."""

    def train(key: jax.Array, frozen: Any, batch: Batch):
        del frozen
        clean = augment(key, to_float(batch["image"]), batch["index"])
        return clean, clean

    def validation(key: jax.Array, frozen: Any, batch: Batch):
        del key, frozen
        clean = to_float(batch["image"])
        return clean, clean

    return Pairs(train, validation, {})


def stored_pairs(
    augment: Augment = no_augmentation, *, clean_share: float = 0.0
) -> Pairs:
    """Returns pairs whose degraded image rides in the batch, see `PairedSource`.

    `batch["degraded"]` holds it, uint8 or uint16 `[B, H, W, C]`, or several of each
    image, `[B, K, H, W, C]`: training takes one at random, validation the first.

    Args:
        augment: `(key, images, index) -> images`; an image and its copy are changed
            alike.
        clean_share: Share of the training images, in `[0, 1]`, that are shown
            undegraded. A mix that is drawn has entries for that; copies are shared with
            detectors, to which all of them are degraded.

    Raises:
        ValueError: If `clean_share` is out of range.
    """
    check_number("clean_share", clean_share, 0.0, 1.0)

    def train(key: jax.Array, frozen: Any, batch: Batch):
        del frozen
        degraded, index = batch["degraded"], batch["index"]
        if degraded.ndim == 5:
            key, copy_key = jax.random.split(key)
            copies = degraded.shape[1]
            copy = per_image(
                lambda k: jax.random.randint(k, (), 0, copies, jnp.int32),
                copy_key,
                index,
            )
            degraded = jnp.take_along_axis(
                degraded, copy[:, None, None, None, None], axis=1
            )[:, 0]
        clean, degraded = to_float(batch["image"]), to_float(degraded)
        degraded = _keep_clean(key, clean, degraded, index, clean_share)
        images = augment(key, jnp.concatenate([clean, degraded], axis=-1), index)
        clean, degraded = jnp.split(images, 2, axis=-1)
        return clean, degraded

    def validation(key: jax.Array, frozen: Any, batch: Batch):
        del key, frozen
        degraded = batch["degraded"]
        degraded = degraded[:, 0] if degraded.ndim == 5 else degraded
        return to_float(batch["image"]), to_float(degraded)

    return Pairs(train, validation, {})


def _keep_clean(key, clean, degraded, index, share):
    """Returns the degraded images, of which a share is clean instead."""
    if not share:
        return degraded
    _, key = jax.random.split(key)
    kept = per_image(lambda k: jax.random.bernoulli(k, jnp.float32(share)), key, index)
    return jnp.where(kept[:, None, None, None], clean, degraded)
