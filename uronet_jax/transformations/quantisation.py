"""Bit-depth reduction."""

import jax
import jax.numpy as jnp

from uronet_jax.batches import straight
from uronet_jax.transformations.transformation import Transformation


def reduce_bit_depth(images: jax.Array, *, bits: int) -> jax.Array:
    """Rounds intensities to `2 ** bits` levels, 0 and 1 among them."""
    levels = 2**bits - 1
    return straight(jnp.round(images * levels) / levels, images)


BIT_DEPTH = Transformation(
    reduce_bit_depth,
    {"bits": 3},
    {"bits": (1, 16)},
    "intensities rounded to 2^bits levels",
    "Guo et al., ICLR 2018; Xu et al., NDSS 2018",
    gradient="straight-through",
)
