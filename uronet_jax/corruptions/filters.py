"""Linear filters that several corruptions share: Gaussian, zoom and motion blur."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from uronet_jax import batches
from uronet_jax.corruptions import operation

# Samples that a block of a band makes.
_BLOCK = 32


def gaussian_matrix(
    size: int, sigma: float, *, truncate: float = 4.0, border: str = "nearest"
) -> np.ndarray:
    """Returns the Gaussian filter along one axis: float64 `[size, size]`.

    The weights are `exp(-k^2 / (2 sigma^2))`, `k = -r .. r`, with sum 1 and
    `r = floor(truncate * sigma + 0.5)`, which may exceed the size. Sigma, in samples,
    is 0 or more (else ValueError), and 0 gives the identity. Outside lies the edge
    sample (border `"nearest"`, `aaa|abc|ccc`) or the mirror image (`"reflect"`,
    `cba|abc|cba`; anything else is a ValueError).
    """
    batches.check_number("sigma", sigma, 0.0)
    radius = int(truncate * sigma + 0.5)
    if radius == 0:
        return np.eye(size)
    offsets = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 * (offsets / sigma) ** 2)
    source = np.arange(size)[:, None] + offsets
    if border == "nearest":
        source = source.clip(0, size - 1)
    elif border == "reflect":
        source = source % (2 * size)
        source = np.minimum(source, 2 * size - 1 - source)
    else:
        raise ValueError(f"border must be 'nearest' or 'reflect': {border!r}")
    matrix = np.zeros((size, size))
    np.add.at(matrix, (np.arange(size)[:, None], source), weights / weights.sum())
    return matrix


def clipped_zoom_samples(size: int, factor: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns where a linear enlargement of the centre reads its input, along one axis.

    The central `ceil(size / factor)` samples are interpolated linearly to `factor`
    (1 or more, else ValueError) times as many (rounded), end point to end point, of
    which the central `size` stay.

    Returns:
        `(left, share)`, int32 and float64 `[size]`: the enlarged signal is
        `(1 - share) * signal[left] + share * signal[left + 1]`.
    """
    batches.check_number("factor", factor, 1.0)
    crop = math.ceil(size / factor)
    enlarged = round(crop * factor)
    first, trim = (size - crop) // 2, (enlarged - size) // 2
    position = (np.arange(size) + trim) * ((crop - 1) / (enlarged - 1))
    # The last sample has a right neighbour as well, the share of which is then 1.
    left = np.floor(position).clip(0, max(crop - 2, 0)).astype(np.int32)
    return first + left, position - left


def clipped_zoom_matrix(size: int, factor: float) -> np.ndarray:
    """Returns `clipped_zoom_samples` as a matrix, float64 `[size, size]`."""
    left, share = clipped_zoom_samples(size, factor)
    matrix = np.zeros((size, size))
    matrix[np.arange(size), left] = 1.0 - share
    matrix[np.arange(size), left + 1] = share
    return matrix


def band(matrices: np.ndarray) -> np.ndarray:
    """Leaves out what is zero far from the diagonals, where that saves half or more.

    Returns what `filter_rows_columns` takes in place of matrices `[..., n, n]`: these,
    or `[..., blocks, 32, width]`, where block `b` makes samples `32 b` to `32 b + 31`
    from `width` samples around them, as far as there are.
    """
    size = matrices.shape[-1]
    i, j = np.nonzero(matrices.reshape(-1, size, size).any(axis=0))
    reach = int(np.abs(i - j).max())
    width = _BLOCK + 2 * reach
    if 2 * width > size:
        return matrices
    starts = _band_starts(size, width)
    blocks = np.zeros((*matrices.shape[:-2], len(starts), _BLOCK, width))
    for number, start in enumerate(starts):
        rows = slice(number * _BLOCK, min((number + 1) * _BLOCK, size))
        part = matrices[..., rows, start : start + width]
        blocks[..., number, : part.shape[-2], :] = part
    return blocks


def _band_starts(size, width):
    firsts = np.arange(0, size, _BLOCK) - (width - _BLOCK) // 2
    return firsts.clip(0, size - width).tolist()


def filter_rows_columns(
    images: jax.Array, rows: jax.Array, columns: jax.Array
) -> jax.Array:
    """Applies a separable linear filter to every channel of float32 `[B, H, W, C]`.

    `rows` `[H, H]` acts along the height, `out[y] = sum_i rows[y, i] in[i]`, `columns`
    `[W, W]` along the width; each may be a `band`.
    """
    rows, columns = jnp.asarray(rows, jnp.float32), jnp.asarray(columns, jnp.float32)
    # Transposing to planes and back inside the products is the fastest way on CPU.
    planes = _multiply(images, columns, 2, "bijc,xj->bicx", 3)
    return _multiply(planes, rows, 1, "bicx,yi->byxc", 1)


def _multiply(images, matrix, axis, product, result_axis):
    if matrix.ndim == 2:
        return jnp.einsum(product, images, matrix, precision="highest")
    size, width = images.shape[axis], matrix.shape[2]
    parts = []
    for start, block in zip(_band_starts(size, width), matrix, strict=True):
        samples = jax.lax.slice_in_dim(images, start, start + width, axis=axis)
        parts.append(jnp.einsum(product, samples, block, precision="highest"))
    whole = jnp.concatenate(parts, result_axis)
    return jax.lax.slice_in_dim(whole, 0, size, axis=result_axis)


def motion_weights(radius: int, sigma: float, taps: int) -> np.ndarray:
    """Returns the half Gaussian of a motion blur: float64 `[taps]`, with sum 1.

    `exp(-i^2 / (2 sigma^2))` for `i` up to `2 * radius`, then zeros. The radius is a
    whole number, 0 or more, sigma above 0, both in pixels; else ValueError.
    """
    batches.check_number("radius", radius, 0, (taps - 1) // 2)
    batches.check_number("sigma", sigma, 1e-6)
    distance = np.arange(taps)
    weights = np.exp(-0.5 * (distance / sigma) ** 2) * (distance <= 2 * radius)
    return weights / weights.sum()


def blur_along_line(
    levels: jax.Array,
    angles: jax.Array,
    weights: jax.Array,
    taps_used: int | jax.Array,
    *,
    straight_through: bool = False,
) -> jax.Array:
    """Blurs along a line, one direction per image, as ImageMagick does.

    `out[y, x] = floor(sum_i weights[i] in[y + dy_i, x + dx_i])` with coordinates
    clamped to the image, `dx_i = ceil(i cos(angle) - 1/2)` and
    `dy_i = ceil(i sin(angle) - 1/2)`. Levels, float32 `[B, H, W, C]`, are whole
    numbers 0 to 255 before and after, angles `[B]` are in degrees. Only the first
    `taps_used` of the weights, a number that may be traced, are not zero.
    """
    weights = jnp.asarray(weights, jnp.float32)
    height, width, channels = levels.shape[1:]
    reach = weights.shape[0] - 1
    radians = jnp.deg2rad(angles.astype(jnp.float32))[:, None]
    distance = jnp.arange(reach + 1, dtype=jnp.float32)[None]
    right = jnp.ceil(distance * jnp.cos(radians) - 0.5).astype(jnp.int32)
    down = jnp.ceil(distance * jnp.sin(radians) - 0.5).astype(jnp.int32)
    # A loop of known length can be differentiated; the weights beyond are zero.
    steps = reach + 1 if straight_through else taps_used

    def blur(arguments):
        image, right, down = arguments
        padded = jnp.pad(image, ((reach, reach), (reach, reach), (0, 0)), mode="edge")
        padded = padded.reshape(height + 2 * reach, -1)

        def add(step, total):
            i = steps - 1 - step  # Small weights first: least rounding.
            corner = (reach + down[i], (reach + right[i]) * channels)
            return total + weights[i] * jax.lax.dynamic_slice(
                padded, corner, total.shape
            )

        start = jnp.zeros((height, width * channels), jnp.float32)
        return jax.lax.fori_loop(0, steps, add, start)

    # One image at a time stays in the cache of a CPU, where batching would turn the
    # slices into a slow gather.
    blurred = jax.lax.platform_dependent(
        (levels, right, down),
        cpu=lambda arguments: jax.lax.map(blur, arguments),
        default=lambda arguments: jax.vmap(blur)(arguments),
    ).reshape(levels.shape)
    return operation.grey_levels(blurred / 255.0, straight_through=straight_through)
