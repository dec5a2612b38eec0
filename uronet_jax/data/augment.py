"""Augmentations: pure, jittable, and random per image.

The key of an image is the given key folded with the image's index in the data set,
so the result depends neither on the batch nor on the devices. Fold the key with the
step first, or every epoch sees the same variant.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

Augmentation = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def _check(images: jax.Array, index: jax.Array) -> None:
    if images.ndim != 4 or not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(f"need float [B, H, W, C]: {images.dtype}{images.shape}")
    if index.shape != images.shape[:1] or not jnp.issubdtype(index.dtype, jnp.integer):
        raise ValueError(
            f"need one integer index for each of {len(images)} images: "
            f"{index.dtype}{index.shape}"
        )


def random_flip(key: jax.Array, images: jax.Array, index: jax.Array) -> jax.Array:
    """Mirrors each image left to right with probability 1/2.

    Args:
        key: Typed PRNG key.
        images: Float `[B, H, W, C]`.
        index: Integer `[B]`, the index of each image in its data set.

    Returns:
        Images of the same shape and dtype.

    Raises:
        ValueError: If shapes or dtypes are not as above.
    """
    _check(images, index)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, index)
    flip = jax.vmap(jax.random.bernoulli)(keys)
    return jnp.where(flip[:, None, None, None], images[:, :, ::-1], images)


def random_crop(
    key: jax.Array, images: jax.Array, index: jax.Array, *, padding: int = 4
) -> jax.Array:
    """Pads each image with zeros and cuts out a random window of its first size.

    Args:
        key: Typed PRNG key.
        images: Float `[B, H, W, C]`.
        index: Integer `[B]`, the index of each image in its data set.
        padding: Pixels added on each side; the largest shift. At least 0.

    Returns:
        Images of the same shape and dtype; zeros where the window left the image.

    Raises:
        ValueError: If shapes or dtypes are not as above, or `padding` is negative.
    """
    _check(images, index)
    if padding < 0:
        raise ValueError(f"padding must be 0 or more: {padding}")
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, index)
    corners = jax.vmap(lambda k: jax.random.randint(k, (2,), 0, 2 * padding + 1))(keys)
    spread = (padding, padding)
    padded = jnp.pad(images, ((0, 0), spread, spread, (0, 0)))

    def cut(image, corner):
        start = (corner[0], corner[1], jnp.zeros_like(corner[0]))
        return jax.lax.dynamic_slice(image, start, images.shape[1:])

    return jax.vmap(cut)(padded, corners)


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
