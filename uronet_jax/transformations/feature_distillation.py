"""Feature distillation: quantised cosine coefficients of each channel."""

import jax
import jax.numpy as jnp
import numpy as np

from uronet_jax.batches import straight
from uronet_jax.transformations.transformation import Transformation

_SIDE = 8  # Of a block.
_LOW = 4  # Frequencies of an axis that count as low.

_FREQUENCIES = np.arange(_SIDE)[:, None]
_TRANSFORM = np.cos(np.pi / _SIDE * _FREQUENCIES * (np.arange(_SIDE) + 0.5))
_TRANSFORM *= np.where(_FREQUENCIES == 0, np.sqrt(1 / _SIDE), np.sqrt(2 / _SIDE))


def distil_features(
    images: jax.Array, *, low_step: float, high_step: float
) -> jax.Array:
    """Quantises the cosine coefficients of blocks of 8x8 pixels.

    Of every channel by itself, without a change of colours or a shift of levels;
    orthonormal transform. Images whose sides are no multiples of 8 are continued by
    their last row and column, as JPEG does, and cropped again.

    Args:
        images: `[B, H, W, C]`, float, in `[0, 1]`.
        low_step: Quantisation step of the 4x4 lowest frequencies, for levels 0 to 255.
        high_step: That of the others.
    """
    batch, height, width, channels = images.shape
    pad = ((0, 0), (0, -height % _SIDE), (0, -width % _SIDE), (0, 0))
    levels = jnp.pad(255.0 * images, pad, mode="edge")
    rows, columns = levels.shape[1] // _SIDE, levels.shape[2] // _SIDE
    blocks = levels.reshape(batch, rows, _SIDE, columns, _SIDE, channels)
    blocks = blocks.transpose(0, 1, 3, 5, 2, 4).reshape(-1, _SIDE**2)

    # Rows and columns at once: products of 8 rows do not compile for some GPUs.
    transform = jnp.asarray(np.kron(_TRANSFORM, _TRANSFORM), jnp.float32)
    steps = np.full((_SIDE, _SIDE), high_step, np.float32)
    steps[:_LOW, :_LOW] = low_step
    steps = jnp.asarray(steps).reshape(1, -1)
    found = jnp.matmul(blocks, transform.T, precision="highest")
    found = jnp.round(found / steps) * steps
    blocks = jnp.matmul(found, transform, precision="highest")

    blocks = blocks.reshape(batch, rows, columns, channels, _SIDE, _SIDE)
    levels = blocks.transpose(0, 1, 4, 2, 5, 3).reshape(levels.shape)
    levels = levels[:, :height, :width]
    return straight(jnp.clip(levels / 255.0, 0.0, 1.0), images)


FEATURE_DISTILLATION = Transformation(
    distil_features,
    {"low_step": 25.0, "high_step": 30.0},
    {"low_step": (1.0, 255.0), "high_step": (1.0, 255.0)},
    "cosine coefficients of 8x8 blocks of each channel rounded to multiples of a step, "
    "another one for the 4x4 lowest frequencies",
    "Liu et al., CVPR 2019",
    gradient="straight-through",
)
