"""Where the clean and degraded images come from that remover and detector learn on.

Degradations that are quick to draw are drawn inside the step. Others, such as
adversarial images, are stored beforehand and looked up by the image's index.
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
    `[B, H, W, C]` in `[0, 1]`. Every image draws for itself, from the key and its
    index.

    Attributes:
        train: Augmented, degraded in another way with every key.
        validation: As the images are.
        frozen: What both look up in `frozen`. It is an argument of a step, so that
            models which differ in nothing else share a compiled one.
    """

    train: Pair
    validation: Pair
    frozen: dict[str, Any]


def drawn_pairs(degradation: Degradation, augment: Augment = no_augmentation) -> Pairs:
    """Returns pairs whose degraded image is drawn, from `frozen["degradation"]`.

    Args:
        degradation: One degradation, or a mix of which every image draws an entry; the
            identity may be among them.
        augment: `(key, images, index) -> images`, before the degradation.
    """

    def train(key: jax.Array, frozen: Any, batch: Batch):
        augment_key, noise_key = jax.random.split(key)
        clean = augment(augment_key, to_float(batch["image"]), batch["index"])
        return clean, degrade(noise_key, clean, frozen["degradation"], batch["index"])

    def validation(key: jax.Array, frozen: Any, batch: Batch):
        clean = to_float(batch["image"])
        return clean, degrade(key, clean, frozen["degradation"], batch["index"])

    return Pairs(train, validation, {"degradation": degradation})


def stored_pairs(
    train_copies: Any,
    validation_copies: Any,
    augment: Augment = no_augmentation,
    *,
    clean_share: float = 0.0,
) -> Pairs:
    """Returns pairs whose degraded image is stored.

    Args:
        train_copies: Degraded training images, uint8 or uint16, by the image's index:
            `[N, H, W, C]`, or `[K, N, H, W, C]`, of which training takes one at random
            for each image. They stand in `frozen["train"]`.
        validation_copies: Those of the validation images, in `frozen["validation"]`;
            of several the first is taken.
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
        stored, index = frozen["train"], batch["index"]
        if stored.ndim == 5:
            key, copy_key = jax.random.split(key)
            copies = stored.shape[0]
            copy = per_image(
                lambda k: jax.random.randint(k, (), 0, copies), copy_key, index
            )
            degraded = stored[copy, index]
        else:
            degraded = stored[index]
        clean, degraded = to_float(batch["image"]), to_float(degraded)
        if clean_share:
            key, clean_key = jax.random.split(key)
            kept = per_image(
                lambda k: jax.random.bernoulli(k, clean_share), clean_key, index
            )
            degraded = jnp.where(kept[:, None, None, None], clean, degraded)
        images = augment(key, jnp.concatenate([clean, degraded], axis=-1), index)
        clean, degraded = jnp.split(images, 2, axis=-1)
        return clean, degraded

    def validation(key: jax.Array, frozen: Any, batch: Batch):
        del key
        stored = frozen["validation"]
        first = stored[0] if stored.ndim == 5 else stored
        return to_float(batch["image"]), to_float(first[batch["index"]])

    frozen = {"train": train_copies, "validation": validation_copies}
    return Pairs(train, validation, frozen)
