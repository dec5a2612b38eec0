"""JPEG compression before a classifier."""

import dataclasses

import jax

from uronet_jax.corruptions.jpeg import jpeg_compression
from uronet_jax.transformations.transformation import Transformation

# The corruption is of benchmarks, whose images are larger; the codec takes any.
_any_size = dataclasses.replace(jpeg_compression, smallest_side=1)


def compress(images: jax.Array, *, quality: int) -> jax.Array:
    """Compresses images as baseline JPEG of a quality and decompresses them."""
    key = jax.random.key(0)  # Not used: nothing is drawn.
    return _any_size(key, images, quality=quality, straight_through=True)


JPEG = Transformation(
    compress,
    {"quality": 75},
    {"quality": (1, 100)},
    "baseline JPEG of the quality, chroma at half the resolution, decoded",
    "Dziugaite et al., 2016; Guo et al., ICLR 2018",
    gradient="straight-through",
)
