"""JPEG compression, in the integer arithmetic of libjpeg-turbo.

The steps are those of Pillow's default (baseline, 4:2:0, quality scaled from the tables
of Annex K of the standard): conversion to YCbCr, chroma of half the size, discrete
cosine transform of 8x8 blocks, quantisation, and all of it back. The entropy coder
loses nothing and is left out.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from uronet_jax import batches
from uronet_jax.corruptions.operation import (
    Constants,
    Operation,
    check_colours,
    grey_levels,
)

_SIDE = 8  # Of a block.
_COLOUR_BITS = 16  # Binary places of the constants of the conversion of colours,
_CONST_BITS = 13  # of those of the transform,
_PASS_BITS = 2  # and of what its first pass hands to the second.

# Annex K, Tables K.1 (luminance) and K.2 (chrominance).
_BASE_TABLES = np.full((2, _SIDE, _SIDE), 99)
_BASE_TABLES[0] = [
    [16, 11, 10, 16, 24, 40, 51, 61],
    [12, 12, 14, 19, 26, 58, 60, 55],
    [14, 13, 16, 24, 40, 57, 69, 56],
    [14, 17, 22, 29, 51, 87, 80, 62],
    [18, 22, 37, 56, 68, 109, 103, 77],
    [24, 35, 55, 64, 81, 104, 113, 92],
    [49, 64, 78, 87, 103, 121, 120, 101],
    [72, 92, 95, 98, 112, 100, 103, 99],
]
_BASE_TABLES[1, :4, :4] = [
    [17, 18, 24, 47],
    [18, 21, 26, 66],
    [24, 26, 56, 99],
    [47, 66, 99, 99],
]

# The exact transform. Each pass of libjpeg's "islow" is linear up to its final shift,
# so it is a product with a matrix of whole numbers: 2^13 sqrt(8) times the orthonormal
# one, where sums of rounded constants have moved some entries by 1. This is its left
# half; row k holds frequency k, which is symmetric for even k.
_TRANSFORM = np.zeros((_SIDE, _SIDE), np.int32)
_TRANSFORM[:, :4] = [
    [8192, 8192, 8192, 8192],
    [11363, 9633, 6437, 2260],
    [10703, 4433, -4433, -10703],
    [9633, -2259, -11362, -6436],
    [8192, -8192, -8192, 8192],
    [6437, -11362, 2261, 9633],
    [4433, -10704, 10704, -4433],
    [2260, -6436, 9633, -11363],
]
_TRANSFORM[0::2, 4:] = _TRANSFORM[0::2, 3::-1]
_TRANSFORM[1::2, 4:] = -_TRANSFORM[1::2, 3::-1]

_FREQUENCIES = np.arange(_SIDE)[:, None]
_COSINES = np.cos(np.pi / _SIDE * _FREQUENCIES * (np.arange(_SIDE) + 0.5))
_COSINES *= np.where(_FREQUENCIES == 0, math.sqrt(1 / _SIDE), math.sqrt(2 / _SIDE))
_COSINES = _COSINES.astype(np.float32)


def quantisation_tables(quality: int) -> np.ndarray:
    """Returns the tables that libjpeg uses at a quality of 1 to 100 (else ValueError).

    Whole numbers, float32 `[2, 8, 8]`: luma, then chroma; rows are vertical
    frequencies.
    """
    batches.check_whole("quality", quality, 1, 100)
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    return np.clip((_BASE_TABLES * scale + 50) // 100, 1, 255).astype(np.float32)


def _prepare(shape, settings):
    check_colours(shape[2])
    tables = [quantisation_tables(setting["quality"]) for setting in settings]
    return Constants(np.stack(tables))


def _apply(
    key, images, tables, shared, index, *, fidelity="exact", straight_through=False
):
    batches.known_name("fidelity", fidelity, _TRANSCODERS)
    through = straight_through and fidelity == "fast"
    levels = grey_levels(images, straight_through=through)
    floor = functools.partial(_floor, straight_through=through)

    def transcode(planes, table):
        decoded = _TRANSCODERS[fidelity](_pad_edge(planes, _SIDE, _SIDE), table, floor)
        return decoded[:, : planes.shape[1], : planes.shape[2]]

    if images.shape[-1] == 1:
        decoded = transcode(levels[..., 0], tables[0])[..., None]
    else:
        decoded = _transcode_rgb(levels, tables, transcode, floor)
    decoded = decoded / 255.0
    if straight_through and fidelity == "exact":
        return batches.straight(decoded, images)
    return decoded


def _floor(x, *, straight_through):
    floored = jnp.floor(jax.lax.stop_gradient(x))
    return batches.straight(floored, x) if straight_through else floored


def _transcode_rgb(levels, tables, transcode, floor):
    height, width = levels.shape[1:3]
    luma, chroma = _to_ycc(levels, floor)
    luma = transcode(luma, tables[0])
    # A row is padded before it is halved, a column (up to an odd last row) afterwards.
    small = _halve(_pad_edge(chroma, 2, 2 * _SIDE), floor)
    small = transcode(small, tables[1])[:, :, : -(-width // 2)]
    # Without a barrier XLA would compute it anew for each of the three colours.
    chroma = jax.lax.optimization_barrier(_double(small, floor))
    return _to_rgb(luma, chroma[:, :height, :width], floor)


def _pad_edge(planes, row_multiple, column_multiple):
    _, height, width = planes.shape
    pad = ((0, 0), (0, -height % row_multiple), (0, -width % column_multiple))
    return jnp.pad(planes, pad, mode="edge")


# From here to the transforms everything is a whole number below 2^24, times a power of
# 2: float32 is exact, and has gradients.


def _fixed(value):
    return math.floor(value * 2**_COLOUR_BITS + 0.5)


def _scale_down(total, floor, bits=_COLOUR_BITS):
    return floor(total * 2.0**-bits)


def _to_ycc(levels, floor):
    """Returns luma `[B, H, W]`, and Cb and Cr in turn as one batch `[2 B, H, W]`."""
    red, green, blue = (levels[..., i] for i in range(3))
    half = 2 ** (_COLOUR_BITS - 1)
    luma = _fixed(0.299) * red + _fixed(0.587) * green + _fixed(0.114) * blue + half
    centre = 128 * 2**_COLOUR_BITS + half - 1
    cb = half * blue - _fixed(0.16874) * red - _fixed(0.33126) * green + centre
    cr = half * red - _fixed(0.41869) * green - _fixed(0.08131) * blue + centre
    # Neighbours along the batch: splitting it over devices moves nothing.
    chroma = jnp.stack([cb, cr], axis=1).reshape(-1, *luma.shape[1:])
    return _scale_down(luma, floor), _scale_down(chroma, floor)


def _to_rgb(luma, chroma, floor):
    cb, cr = chroma[0::2] - 128.0, chroma[1::2] - 128.0
    half = 2 ** (_COLOUR_BITS - 1)
    red = _fixed(1.402) * cr + half
    green = half - _fixed(0.34414) * cb - _fixed(0.71414) * cr
    blue = _fixed(1.772) * cb + half
    differences = _scale_down(jnp.stack([red, green, blue], axis=-1), floor)
    return jnp.clip(luma[..., None] + differences, 0.0, 255.0)


def _halve(planes, floor):
    """Averages 2x2 pixels; ties are rounded down and up in turn along a row."""
    above, below = planes[:, 0::2], planes[:, 1::2]
    total = above[..., 0::2] + above[..., 1::2] + below[..., 0::2] + below[..., 1::2]
    bias = 1.0 + np.arange(total.shape[2], dtype=np.float32) % 2
    return _scale_down(total + bias[None, None], floor, bits=2)


def _double(planes, floor):
    """Doubles both sides: 3/4 of the nearer and 1/4 of the farther pixel per axis."""

    def weigh(x, axis):
        padded = jnp.pad(x, [(int(a == axis),) * 2 for a in range(3)], mode="edge")
        before = jax.lax.slice_in_dim(padded, 0, x.shape[axis], axis=axis)
        after = jax.lax.slice_in_dim(padded, 2, None, axis=axis)
        return 3.0 * x + before, 3.0 * x + after

    batch, height, width = planes.shape
    tall = jnp.stack(weigh(planes, 1), axis=2).reshape(batch, 2 * height, width)
    left, right = weigh(tall, 2)
    wide = _scale_down(jnp.stack([left + 8.0, right + 7.0], axis=3), floor, bits=4)
    return wide.reshape(batch, 2 * height, 2 * width)


def _to_blocks(planes):
    """Returns `[8, 8, blocks]`: long contiguous rows for the transforms."""
    batch, height, width = planes.shape
    blocks = planes.reshape(batch, height // _SIDE, _SIDE, width // _SIDE, _SIDE)
    return blocks.transpose(2, 4, 0, 1, 3).reshape(_SIDE, _SIDE, -1)


def _from_blocks(blocks, shape):
    batch, height, width = shape
    blocks = blocks.reshape(_SIDE, _SIDE, batch, height // _SIDE, width // _SIDE)
    return blocks.transpose(2, 3, 0, 4, 1).reshape(shape)


def _transcode_exact(planes, table, floor):
    blocks = _to_blocks(planes).astype(jnp.int32) - 128
    blocks = _pass(_TRANSFORM, blocks, 1, _CONST_BITS - _PASS_BITS)
    blocks = _pass(_TRANSFORM, blocks, 0, _CONST_BITS + _PASS_BITS)
    # Coefficients are scaled by 8. Half a unit more than what rounds half away from
    # zero: no quotient is so near to a whole number that rounding errors matter.
    step = table[:, :, None]
    magnitude = jnp.abs(blocks).astype(jnp.float32) + (4.0 * step + 0.5)
    magnitude = step * jnp.floor(magnitude * (0.125 / step))
    blocks = jnp.sign(blocks) * magnitude.astype(jnp.int32)
    blocks = _pass(_TRANSFORM.T, blocks, 0, _CONST_BITS - _PASS_BITS)
    blocks = _pass(_TRANSFORM.T, blocks, 1, _CONST_BITS + _PASS_BITS + 3)
    # libjpeg-turbo clips here in its vector code, and wraps far beyond in plain C.
    decoded = jnp.clip(blocks + 128, 0, 255).astype(jnp.float32)
    return _from_blocks(decoded, planes.shape)


def _pass(matrix, blocks, axis, shift):
    equation = "kj,jxn->kxn" if axis == 0 else "kj,yjn->ykn"
    return (jnp.einsum(equation, matrix, blocks) + (1 << (shift - 1))) >> shift


def _transcode_fast(planes, table, floor):
    multiply = functools.partial(jnp.einsum, "ky,lx,yxn->kln", precision="highest")
    blocks = _to_blocks(planes) - 128.0
    step = table[:, :, None]
    levels = multiply(_COSINES, _COSINES, blocks) / step
    levels = jnp.sign(levels) * floor(jnp.abs(levels) + 0.5)
    blocks = multiply(_COSINES.T, _COSINES.T, levels * step)
    decoded = floor(jnp.clip(blocks + 128.5, 0.0, 255.0))
    return _from_blocks(decoded, planes.shape)


_TRANSCODERS = {"exact": _transcode_exact, "fast": _transcode_fast}

jpeg_compression = Operation(
    """Compresses images as baseline JPEG and decompresses them.

    Images are first truncated to multiples of 1/255. They have 3 channels, or 1: grey
    images are stored as such. After ITU-T T.81, Annexes A and K; Loeffler, Ligtenberg
    & Moschytz, "Practical fast 1-D DCT algorithms with 11 multiplications", ICASSP
    1989.

    Parameters:
        quality: Whole number, 1 to 100; smaller is worse.
        fidelity: Static. `"exact"` (default): equal, bit for bit, to what Pillow with
            libjpeg-turbo makes of the image. `"fast"`: the transform in float32, the
            rest as before; a coefficient near a tie may be quantised to the other side.
        straight_through: Static. For `"exact"`: pass gradients as if nothing was done
            to the image. For `"fast"`: as if nothing was rounded; what is left is the
            averaging of chroma over neighbours and the clipping to 0..255. Without it
            the gradient is zero.
    """,
    _prepare,
    _apply,
    formula="baseline JPEG of the quality, chroma at half the resolution, decoded",
    source="HD",
    example={"quality": 50},
    options=("fidelity", "straight_through"),
    is_random=False,
)
