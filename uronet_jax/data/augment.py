"""Augmentations: pure, jittable, and random per image.

The key of an image is the given key folded with the image's index in the data set,
so the result depends neither on the batch nor on the devices. Fold the key with the
step first, or every epoch sees the same variant.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from uronet_jax import batches

# `(key, images, index) -> images`: a typed PRNG key, float `[B, H, W, C]` in `[0, 1]`,
# and integer `[B]`, the index of each image in its data set. Shape and dtype stay.
# Wrong images or index are a ValueError.
Augmentation = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def random_flip(key: jax.Array, images: jax.Array, index: jax.Array) -> jax.Array:
    """Mirrors each image left to right with probability 1/2; see `Augmentation`."""
    batches.check_images(images, index)
    half = jnp.float32(0.5)  # With x64 another type would draw other numbers.
    flip = batches.per_image(lambda k: jax.random.bernoulli(k, half), key, index)
    return jnp.where(flip[:, None, None, None], images[:, :, ::-1], images)


def random_crop(
    key: jax.Array, images: jax.Array, index: jax.Array, *, padding: int = 4
) -> jax.Array:
    """Pads each image with zeros and cuts out a random window of its first size.

    `padding` pixels on each side, at least 0, are the largest shift. The rest, errors
    too, is as for any `Augmentation`.
    """
    batches.check_images(images, index)
    batches.check_whole("padding", padding, 0, 2**15)
    spread = (padding, padding)
    padded = jnp.pad(images, ((0, 0), spread, spread, (0, 0)))

    def draw(key):
        return jax.random.randint(key, (2,), 0, 2 * padding + 1, jnp.int32)

    def cut(image, corner):
        start = (corner[0], corner[1], jnp.zeros_like(corner[0]))
        return jax.lax.dynamic_slice(image, start, images.shape[1:])

    return jax.vmap(cut)(padded, batches.per_image(draw, key, index))


def flip_crop(key: jax.Array, images: jax.Array, index: jax.Array) -> jax.Array:
    """Flips and crops at random: the usual augmentation of CIFAR, padding 4."""
    flip_key, crop_key = jax.random.split(key)
    return random_crop(crop_key, random_flip(flip_key, images, index), index)


def no_augmentation(key: jax.Array, images: jax.Array, index: jax.Array) -> jax.Array:
    """Returns `images` unchanged."""
    del key, index
    return images


AUGMENTATIONS: dict[str, Augmentation] = {
    "none": no_augmentation,
    "flip_crop": flip_crop,
}
