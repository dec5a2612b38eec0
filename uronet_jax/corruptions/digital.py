"""Digital corruptions: contrast, saturation, coarse pixels. All are deterministic."""

import jax
import jax.numpy as jnp
import numpy as np

from uronet_jax import batches
from uronet_jax.corruptions import operation

# Binary places of Pillow's weights for 8-bit images.
_WEIGHT_BITS = 22


def contrast(
    key: jax.Array,
    images: jax.Array,
    *,
    factor: float,
    index: jax.Array | None = None,
) -> jax.Array:
    """Scales the deviations from the mean colour: `clip((x - mu) * factor + mu)`.

    `mu` is the mean over the pixels of an image, per channel.

    Args:
        key: Unused.
        images: `[B, H, W, C]`, floating point, intensities in `[0, 1]`. Any number of
            channels.
        factor: 0 or more. Below 1 the contrast falls; at 0 only the mean is left.
        index: Unused.

    Returns:
        Images, same shape and dtype, in `[0, 1]`. Differentiable in `images`; the
        gradient is zero where the result is clipped.

    Raises:
        ValueError: If `images` is not a non-empty batch of floating-point images with
            sides of at least 28, or `factor` is out of range.

    Source:
        Hendrycks & Dietterich, "Benchmarking Neural Network Robustness to Common
        Corruptions and Perturbations", ICLR 2019.
    """
    return operation.run(_CONTRAST, key, images, [{"factor": factor}], 0, index)


def _prepare_contrast(shape, settings):
    factors = [setting["factor"] for setting in settings]
    batches.check_range("factor", factors, 0.0, np.inf)
    return operation.Constants(np.asarray(factors, np.float32))


def _apply_contrast(key, images, factor, shared, index):
    mean = jnp.mean(images, axis=(1, 2), keepdims=True)
    return (images - mean) * factor + mean


def saturate(
    key: jax.Array,
    images: jax.Array,
    *,
    factor: float,
    offset: float,
    index: jax.Array | None = None,
) -> jax.Array:
    """Changes the saturation in HSV space: `s' = clip(factor * s + offset)`.

    Hue and value stay, so with `v = max(r, g, b)` and `s = (v - min(r, g, b)) / v` each
    channel becomes `x' = v - (v - x) * s' / s`. A pixel with `s = 0` has no hue; as
    usual it counts as red: `r' = v`, `g' = b' = v * (1 - s')`.

    Args:
        key: Unused.
        images: `[B, H, W, C]`, floating point, intensities in `[0, 1]`; C is 3, or 1:
            grey images have no saturation and are returned unchanged.
        factor: 0 or more.
        offset: In `[-1, 1]`.
        index: Unused.

    Returns:
        Images, same shape and dtype, in `[0, 1]`. Differentiable in `images` but where
        channels are equal or the saturation is clipped.

    Raises:
        ValueError: If `images` is not a non-empty batch of floating-point images with
            1 or 3 channels and sides of at least 28, or a parameter is out of range.

    Source:
        Hendrycks & Dietterich, ICLR 2019; HSV as in `skimage.color.rgb2hsv`.
    """
    setting = {"factor": factor, "offset": offset}
    return operation.run(_SATURATE, key, images, [setting], 0, index)


def _prepare_saturate(shape, settings):
    if shape[2] not in (1, 3):
        raise ValueError(f"images must have 1 or 3 channels: {shape[2]}")
    factors = [setting["factor"] for setting in settings]
    offsets = [setting["offset"] for setting in settings]
    batches.check_range("factor", factors, 0.0, np.inf)
    batches.check_range("offset", offsets, -1.0, 1.0)
    return operation.Constants(np.asarray([factors, offsets], np.float32).T)


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


def pixelate(
    key: jax.Array,
    images: jax.Array,
    *,
    factor: float,
    straight_through: bool = False,
    index: jax.Array | None = None,
) -> jax.Array:
    """Shrinks images to `int(factor * side)` pixels a side and enlarges them again.

    Both ways by box filter, bit for bit as `PIL.Image.resize(..., BOX)`: a pixel of the
    small image is the mean of the pixels whose centres lie in its box, along the rows
    and then along the columns, each time rounded half up to whole grey levels.

    Args:
        key: Unused.
        images: `[B, H, W, C]`, floating point, intensities in `[0, 1]`, first truncated
            to multiples of 1/255. Any number of channels.
        factor: Above 0 and at most 1, and large enough to leave a pixel.
        straight_through: Static. Pass gradients as if nothing was rounded.
        index: Unused.

    Returns:
        Images, same shape and dtype, in `[0, 1]`, multiples of 1/255. The gradient is
        zero, or with `straight_through` that of the two linear resizes.

    Raises:
        ValueError: If `images` is not a non-empty batch of floating-point images with
            sides of at least 28, or `factor` is out of range.

    Source:
        Hendrycks & Dietterich, ICLR 2019.
    """
    return operation.run(
        _PIXELATE, key, images, [{"factor": factor}], 0, index,
        straight_through=straight_through,
    )  # fmt: skip


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
    factors = [setting["factor"] for setting in settings]
    batches.check_range("factor", factors, 0.0, 1.0)
    return operation.Constants([_prepare_axis(side, factors) for side in shape[:2]])


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
    levels = operation.grey_levels(images, straight_through=straight_through)

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


_CONTRAST = operation.Operation(_prepare_contrast, _apply_contrast)
_SATURATE = operation.Operation(_prepare_saturate, _apply_saturate)
_PIXELATE = operation.Operation(
    _prepare_pixelate, _apply_pixelate, options=("straight_through",)
)
OPERATIONS = {"contrast": _CONTRAST, "saturate": _SATURATE, "pixelate": _PIXELATE}
