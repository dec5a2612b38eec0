"""Augmentations: pure, jittable, and random per image.

The key of an image is the given key folded with the image's index in the data set,
so the result depends neither on the batch nor on the devices. Fold the key with the
step first, or every epoch sees the same variant.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from uronet_jax import batches
from uronet_jax.data.augmix import augmix

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


def random_resized_crop(
    key: jax.Array,
    images: jax.Array,
    index: jax.Array,
    *,
    area: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> jax.Array:
    """Cuts out a window of random area and shape and resizes it to the first size.

    The usual augmentation of ImageNet (Szegedy et al., CVPR 2015, section 6), drawn as
    torchvision's `RandomResizedCrop` draws it, resized linearly and antialiased.

    Args:
        key: Typed PRNG key.
        images: Float `[B, H, W, C]`, in `[0, 1]`.
        index: Integer `[B]`.
        area: Least and largest share of an image's area, in `(0, 1]`.
        ratio: Least and largest width of a window divided by its height, above 0; its
            logarithm is drawn. Of ten draws the first that fits is taken, else the
            largest window in the middle whose ratio is allowed.

    Raises:
        ValueError: If a range is out of order or bounds, or as for any `Augmentation`.
    """
    batches.check_images(images, index)
    for name, (low, high), most in (("area", area, 1.0), ("ratio", ratio, math.inf)):
        batches.check_number(f"{name}[0]", low, above=0.0)
        batches.check_number(f"{name}[1]", high, low, most)
    size = images.shape[1:3]
    limits = [math.log(x) for x in ratio]
    windows = batches.per_image(lambda k: _window(k, size, area, limits), key, index)
    rows, columns = (
        _resizing(windows[:, axis], windows[:, 2 + axis], size[axis]) for axis in (0, 1)
    )
    resized = jnp.einsum("byi,bijc->byjc", rows, images, precision="highest")
    resized = jnp.einsum("bxj,byjc->byxc", columns, resized, precision="highest")
    # Only rounding leaves [0, 1].
    return jnp.clip(resized, 0.0, 1.0).astype(images.dtype)


def _window(key, size, area, limits, draws=10):
    """Returns int32 `[4]`: top, left, height, width of a window in an image."""
    height, width = size
    area_key, ratio_key, corner_key = jax.random.split(key, 3)
    share = jax.random.uniform(area_key, (draws,), jnp.float32, *area)
    ratio = jax.random.uniform(ratio_key, (draws,), jnp.float32, *limits)
    pixels, ratio = share * (height * width), jnp.exp(ratio)
    # Height, width of each draw, and at last of what is taken where none fits.
    sides = jnp.stack([jnp.sqrt(pixels / ratio), jnp.sqrt(pixels * ratio)], axis=1)
    low, high = map(math.exp, limits)
    middle = min(height, width / low), min(width, height * high)
    sides = jnp.concatenate([sides, jnp.asarray([middle], jnp.float32)])
    sides = jnp.round(sides).astype(jnp.int32)
    whole = jnp.asarray(size, jnp.int32)
    fits = jnp.all((sides >= 1) & (sides <= whole[None]), axis=1)
    chosen = jnp.argmax(fits.at[draws].set(True))
    side = jnp.clip(sides[chosen], 1, whole)
    room = whole - side
    corner = jax.random.randint(corner_key, (2,), 0, room + 1, jnp.int32)
    return jnp.concatenate([jnp.where(chosen < draws, corner, room // 2), side])


def _resizing(start, side, size):
    """Returns float32 `[B, size, size]`: windows along an axis resized to all of it."""
    step = side.astype(jnp.float32)[:, None, None] / size
    source = jnp.arange(size, dtype=jnp.int32)[None, None] - start[:, None, None]
    target = jnp.arange(size, dtype=jnp.float32)[None, :, None]
    # A linear filter as wide as a pixel becomes, cut at the window's edges.
    distance = source - ((target + 0.5) * step - 0.5)
    weights = jnp.maximum(1.0 - jnp.abs(distance) / jnp.maximum(step, 1.0), 0.0)
    inside = (source >= 0) & (source < side[:, None, None])
    weights = jnp.where(inside, weights, 0.0)
    return weights / weights.sum(axis=2, keepdims=True)


def flip_resized_crop(key: jax.Array, images: jax.Array, index: jax.Array) -> jax.Array:
    """Flips, cuts out and resizes at random: the usual augmentation of photographs."""
    flip_key, crop_key = jax.random.split(key)
    return random_resized_crop(crop_key, random_flip(flip_key, images, index), index)


def flip_crop_augmix(key: jax.Array, images: jax.Array, index: jax.Array) -> jax.Array:
    """Flips and crops as `flip_crop`, then mixes: the images of AugMix on CIFAR."""
    crop_key, mix_key = jax.random.split(key)
    return augmix(mix_key, flip_crop(crop_key, images, index), index)


def no_augmentation(key: jax.Array, images: jax.Array, index: jax.Array) -> jax.Array:
    """Returns `images` unchanged."""
    del key, index
    return images


AUGMENTATIONS: dict[str, Augmentation] = {
    "none": no_augmentation,
    "flip_crop": flip_crop,
    "flip_resized_crop": flip_resized_crop,
    "flip_crop_augmix": flip_crop_augmix,
}
