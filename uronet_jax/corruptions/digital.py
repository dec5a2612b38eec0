"""Digital corruptions: contrast, saturation, coarse pixels. All are deterministic."""

import jax
import jax.numpy as jnp
import numpy as np

from uronet_jax import batches
from uronet_jax.corruptions.operation import (
    Constants,
    Operation,
    check_colours,
    column,
    grey_levels,
    one_number,
)

# Binary places of Pillow's weights for 8-bit images.
_WEIGHT_BITS = 22


def _apply_contrast(key, images, factor, shared, index):
    mean = jnp.mean(images, axis=(1, 2), keepdims=True)
    return (images - mean) * factor + mean


contrast = Operation(
    """Scales the deviations from the mean colour: `clip((x - mu) * factor + mu)`.

    `mu` is the mean over the pixels of an image, per channel, of any number of
    channels. Differentiable in `images`.

    Parameters:
        factor: 0 or more. Below 1 the contrast falls; at 0 only the mean is left.
    """,
    one_number("factor", 0.0),
    _apply_contrast,
    formula="(x - mean) factor + mean, mean per channel",
    source="HD",
    example={"factor": 0.4},
    is_random=False,
)


def _prepare_saturate(shape, settings):
    check_colours(shape[2])
    constants = column(settings, "factor", 0.0), column(settings, "offset", -1.0, 1.0)
    return Constants(np.transpose(constants))


def _apply_saturate(key, images, constants, shared, index):
    if images.shape[-1] == 1:
        return images
    factor, offset = constants
    red, green, blue = jnp.split(images, 3, axis=-1)
    value = jnp.maximum(jnp.maximum(red, green), blue)
    chroma = value - jnp.minimum(jnp.minimum(red, green), blue)
    coloured = chroma > 0.0
    # Divisors that are safe where the quotient is not used: no NaN in the gradient.
    saturation = jnp.where(coloured, chroma / jnp.where(coloured, value, 1.0), 0.0)
    changed = value * jnp.clip(factor * saturation + offset, 0.0, 1.0)
    ratio = jnp.where(coloured, changed / jnp.where(coloured, chroma, 1.0), 0.0)
    # Red keeps the value of a pixel without hue.
    is_red = np.array([True, False, False])[None, None, None]
    lost = jnp.where(coloured | is_red, 0.0, changed)
    return value - (value - images) * ratio - lost


saturate = Operation(
    """Changes the saturation in HSV space: `s' = clip(factor * s + offset)`.

    Hue and value stay, so with `v = max(r, g, b)` and `s = (v - min(r, g, b)) / v` each
    channel becomes `x' = v - (v - x) * s' / s`. A pixel with `s = 0` has no hue and
    counts as red, as in `skimage.color.rgb2hsv`: `r' = v`, `g' = b' = v * (1 - s')`.
    Images have 3 channels, or 1: grey images have no saturation and are returned
    unchanged. Differentiable in `images` but where channels are equal or the
    saturation is clipped.

    Parameters:
        factor: 0 or more.
        offset: In `[-1, 1]`.
    """,
    _prepare_saturate,
    _apply_saturate,
    formula="factor times the saturation of HSV, plus offset",
    source="HD",
    example={"factor": 1.5, "offset": 0.1},
    is_random=False,
)


def _box_members(side, size):
    """Returns bool `[size, side]`: which pixels each of `size` boxes holds."""
    scale = side / size
    width = max(scale, 1.0)
    centre = (np.arange(size)[:, None] + 0.5) * scale
    pixel = np.arange(side)
    # Two tests that differ in rounding alone: at a tie both decide, as in Pillow.
    first, end = (np.floor(centre + w + 0.5) for w in (-0.5 * width, 0.5 * width))
    position = (pixel - centre + 0.5) * (1.0 / width)
    return (pixel >= first) & (pixel < end) & (position > -0.5) & (position <= 0.5)


def _prepare_pixelate(shape, settings):
    factors = column(settings, "factor", 0.0, 1.0)
    return Constants([_prepare_axis(side, factors) for side in shape[:2]])


def _prepare_axis(side, factors):
    """Returns members of each box, weight of a member, and the box of each pixel."""
    sizes = [int(side * factor) for factor in factors]
    if min(sizes) < 1:
        raise ValueError(f"factor {min(factors)} leaves no pixel of a side of {side}")
    boxes = np.zeros((len(sizes), max(sizes), side), np.float32)
    weights = np.zeros((len(sizes), max(sizes)), np.int32)
    cells = np.empty((len(sizes), side), np.int32)
    for row, size in enumerate(sizes):
        members = _box_members(side, size)
        boxes[row, :size] = members
        weights[row, :size] = np.floor(2**_WEIGHT_BITS / members.sum(axis=1) + 0.5)
        # Enlarging, a box holds the centre of one pixel.
        cells[row] = _box_members(size, side).argmax(axis=1)
    return boxes, weights, cells


def _apply_pixelate(key, images, constants, shared, index, *, straight_through=False):
    levels = grey_levels(images, straight_through=straight_through)

    def mean(spec, boxes, levels, weights):
        # Sums of whole numbers, exact in float32; the weights are Pillow's.
        total = jnp.einsum(spec, boxes, levels, precision=jax.lax.Precision.HIGHEST)
        fixed = total.astype(jnp.int32) * weights + (1 << (_WEIGHT_BITS - 1))
        rounded = (fixed >> _WEIGHT_BITS).astype(jnp.float32)
        if straight_through:
            return batches.straight(rounded, total * (weights * 2.0**-_WEIGHT_BITS))
        return rounded

    (row_boxes, row_weights, row_cells), (boxes, weights, cells) = constants
    levels = mean("xw,bhwc->bhxc", boxes, levels, weights[None, None, :, None])
    # Rows are enlarged in the same product, which costs less than a pass of its own.
    row_boxes, row_weights = row_boxes[row_cells], row_weights[row_cells]
    levels = mean("yh,bhwc->bywc", row_boxes, levels, row_weights[None, :, None, None])
    return jnp.take(levels / 255.0, cells, axis=2, mode="clip")


pixelate = Operation(
    """Shrinks images to `int(factor * side)` pixels a side and enlarges them again.

    Both ways by box filter, bit for bit as `PIL.Image.resize(..., BOX)`: a pixel of the
    small image is the mean of the pixels whose centres lie in its box, along the rows
    and then along the columns, each time rounded half up to whole grey levels. Before
    that, images of any number of channels are truncated to multiples of 1/255.

    Parameters:
        factor: Above 0 and at most 1, and large enough to leave a pixel.
        straight_through: Static. Pass gradients as if nothing was rounded: those of
            the two linear resizes. Otherwise the gradient is zero.
    """,
    _prepare_pixelate,
    _apply_pixelate,
    formula="box-filtered to int(factor side) pixels a side and back",
    source="HD",
    example={"factor": 0.6},
    options=("straight_through",),
    is_random=False,
)
