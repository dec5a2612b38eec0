"""Geometric corruptions: elastic transform, and the affine maps of MNIST-C.

All of them read every output pixel from a position between input pixels, by bilinear
interpolation. Points and vectors are in `(x, y)` order, pixel centres are integers.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from uronet_jax import batches
from uronet_jax.corruptions.filters import filter_rows_columns, gaussian_matrix
from uronet_jax.corruptions.operation import Constants, Operation, column, one_number

# Anchors moved onto one line have no inverse map; this keeps coordinates finite.
_SMALLEST_DETERMINANT = 1e-6


def sample_bilinear(
    images: jax.Array, y: jax.Array, x: jax.Array, border: str
) -> jax.Array:
    """Reads images at positions between pixels, by bilinear interpolation.

    From float32 `[B, H, W, C]`, of at least 2x2 pixels, and rows y and columns x,
    float32 `[B, H', W']`, to float32 `[B, H', W', C]`; differentiable in all three.
    Outside lies the mirror image without the edge (border `"reflect-101"`,
    `dcb|abcd|cba`, OpenCV's default), with the edge (`"reflect"`, `cba|abc|cba`,
    SciPy's default), or nothing (`"zero"`); any other border is a ValueError.
    """
    if border == "zero":
        images = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
        y, x = y + 1.0, x + 1.0
    batch, height, width, channels = images.shape
    if border in _FOLDS:
        y, x = _FOLDS[border](y, height), _FOLDS[border](x, width)
    elif border != "zero":
        raise ValueError(f"border must be one of {[*_FOLDS, 'zero']}: {border!r}")
    y, x = jnp.clip(y, 0.0, height - 1.0), jnp.clip(x, 0.0, width - 1.0)
    # The last cell includes its far edge: no corner lies outside.
    top = jnp.minimum(jnp.floor(y), height - 2.0)
    left = jnp.minimum(jnp.floor(x), width - 2.0)
    share_y, share_x = (y - top)[..., None], (x - left)[..., None]
    first = top.astype(jnp.int32) * width + left.astype(jnp.int32)
    pixels = images.reshape(batch, height * width, channels)

    def add_row(row, total):
        here = first + row * width
        left, right = _read_pixels(pixels, here), _read_pixels(pixels, here + 1)
        weight = jnp.where(row == 0, 1.0 - share_y, share_y)
        return total + weight * (left + share_x * (right - left))

    # A loop is a border to XLA's CPU backend. It would fuse two samplings in a row, and
    # evaluate the first of them anew for each of the four neighbours of the second.
    shape = (*first.shape, channels)
    return jax.lax.fori_loop(0, 2, add_row, jnp.zeros(shape, images.dtype))


def _read_pixels(pixels, positions):
    """Returns `pixels[b, positions[b]]` of each image `b`."""

    def read(pixels, positions):
        return pixels.at[positions].get(mode="promise_in_bounds")

    def read_list(pixels, positions):
        # All images as one list of pixels: XLA's CPU backend gathers its rows fastest.
        batch, size, channels = pixels.shape
        start = size * jnp.arange(batch, dtype=jnp.int32)[:, None, None]
        return read(pixels.reshape(batch * size, channels), start + positions)

    # Elsewhere image by image, so that images on several devices stay where they are.
    return jax.lax.platform_dependent(
        pixels, positions, cpu=read_list, default=jax.vmap(read)
    )


def _fold_inside_edge(position, size):
    period = 2.0 * (size - 1)
    position = position - period * jnp.floor(position / period)
    return jnp.where(position > size - 1, period - position, position)


def _fold_at_edge(position, size):
    period = 2.0 * size
    position = position - period * jnp.floor((position + 0.5) / period)
    return jnp.where(position > size - 0.5, period - 1.0 - position, position)


_FOLDS = {"reflect-101": _fold_inside_edge, "reflect": _fold_at_edge}


def warp_affine(
    images: jax.Array,
    linear: jax.Array,
    offset: jax.Array,
    centre: tuple[float, float],
    border: str,
) -> jax.Array:
    """Reads output pixel `p` at `centre + linear (p - centre) + offset`.

    `linear` `[B, 2, 2]` acts on `(x, y)` columns, `offset` is `[B, 2]`, in pixels.
    """
    _, height, width, _ = images.shape
    x = jnp.arange(width, dtype=jnp.float32)[None, None, :] - centre[0]
    y = jnp.arange(height, dtype=jnp.float32)[None, :, None] - centre[1]
    linear, offset = linear[..., None, None], offset[..., None, None]
    return sample_bilinear(
        images,
        centre[1] + linear[:, 1, 0] * x + linear[:, 1, 1] * y + offset[:, 1],
        centre[0] + linear[:, 0, 0] * x + linear[:, 0, 1] * y + offset[:, 0],
        border,
    )


def warp_elastically(
    images: jax.Array,
    displacements: jax.Array,
    fields: jax.Array,
    alpha: jax.Array,
    rows: jax.Array,
    columns: jax.Array,
) -> jax.Array:
    """Does what `elastic_transform` does, for given random numbers.

    `displacements` `[B, 3, 2]` are of the anchors in the order there; `fields`
    `[B, H, W, 2]`, in `[-1, 1]`, become `dx` and `dy`; `rows` `[H, H]` and `columns`
    `[W, W]` are the Gaussian filters.
    """
    _, height, width, _ = images.shape
    linear, offset = _invert_anchors(displacements, min(height, width) // 3)
    centre = (width // 2, height // 2)
    warped = warp_affine(images, linear, offset, centre, "reflect-101")
    moved = alpha * filter_rows_columns(fields, rows, columns)
    x = jnp.arange(width, dtype=jnp.float32)[None, None, :] + moved[..., 0]
    y = jnp.arange(height, dtype=jnp.float32)[None, :, None] + moved[..., 1]
    return sample_bilinear(warped, y, x, "reflect")


def _invert_anchors(displacements, q):
    """Returns the linear part and offset that lead from new anchors to old ones."""
    first, second, third = displacements[:, 0], displacements[:, 1], displacements[:, 2]
    # About the centre the anchors are (q, q), (q, -q), (-q, -q): their differences are
    # along the axes, which solves the equations of the map by inspection.
    along_x = (second - third) / (2.0 * q)
    along_y = (first - second) / (2.0 * q)
    a, c = 1.0 + along_x[:, 0], along_x[:, 1]
    b, d = along_y[:, 0], 1.0 + along_y[:, 1]
    determinant = a * d - b * c
    size = jnp.maximum(jnp.abs(determinant), _SMALLEST_DETERMINANT)
    determinant = jnp.where(determinant < 0.0, -1.0, 1.0) * size
    adjugate = jnp.stack([jnp.stack([d, -b], -1), jnp.stack([-c, a], -1)], -2)
    inverse = adjugate / determinant[:, None, None]
    shift = 0.5 * (first + third)
    return inverse, -jnp.sum(inverse * shift[:, None, :], -1)


def _prepare_elastic(shape, settings):
    height, width, _ = shape
    names = ("alpha", "sigma", "affine")
    alpha, sigmas, affine = (column(settings, name, 0.0) for name in names)

    def matrices(size):
        # The original filters its fields with a support of 3 standard deviations.
        options = {"truncate": 3.0, "border": "reflect"}
        return np.stack([gaussian_matrix(size, sigma, **options) for sigma in sigmas])

    strengths = np.stack([alpha, affine], axis=1)
    return Constants((strengths, matrices(height), matrices(width)))


def _apply_elastic(key, images, constants, shared, index):
    (alpha, affine), rows, columns = constants
    batch, height, width, _ = images.shape

    draws = 6 + 2 * height * width
    draw = functools.partial(
        jax.random.uniform, shape=(draws,), dtype=jnp.float32, minval=-1.0
    )
    uniform = batches.per_image(draw, key, index)
    displacements = affine * uniform[:, :6].reshape(batch, 3, 2)
    fields = uniform[:, 6:].reshape(batch, height, width, 2)
    return warp_elastically(images, displacements, fields, alpha, rows, columns)


elastic_transform = Operation(
    """Moves three anchor points at random, then every pixel by a smooth random field.

    With `q` a third of the shorter side and `c` the centre, the anchors `c + (q, q)`,
    `c + (q, -q)` and `c - (q, q)` are each displaced by `U(-affine, affine)` per
    coordinate, and the image follows by the affine map that they define (borders
    mirrored without the edge). Then pixel `(x, y)` is read at `(x + dx, y + dy)`, where
    `dx = alpha * gauss(U(-1, 1), sigma)`, `dy` likewise, and gauss is a Gaussian filter
    with a support of 3 sigma (borders mirrored with the edge). The field is the same
    for all channels. The original, after Simard et al., "Best Practices for
    Convolutional Neural Networks", ICDAR 2003, is for squares; here
    `c = (W // 2, H // 2)`. Linear in `images`.

    Parameters:
        alpha: Strength of the field, 0 or more, in pixels. 0: only the affine map.
        sigma: Standard deviation of the filter, 0 or more, in pixels.
        affine: Largest displacement of an anchor, 0 or more, in pixels.
    """,
    _prepare_elastic,
    _apply_elastic,
    formula="a random affine map of strength affine, then displacements alpha G(sigma) "
    "U(-1, 1)",
    source="HD",
    example={"alpha": 4.0, "sigma": 3.0, "affine": 2.0},
)


def affine_map(
    name: str, value: jax.Array, signs: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns `linear` and `offset` for `warp_affine` about the centre of the image.

    The name is that of the corruption, the value its parameter, and `signs` `[B, 2]`
    are 1 or -1: shear and rotate use the first, scale none.
    """
    angle = value * signs[:, 0]
    sine, cosine = jnp.sin(angle), jnp.cos(angle)
    zero, one = jnp.zeros_like(angle), jnp.ones_like(angle)
    first, second = {
        "shear": ((one, -sine), (zero, cosine)),
        "rotate": ((cosine, -sine), (sine, cosine)),
        "scale": ((one / value, zero), (zero, one / value)),
        "translate": ((one, zero), (zero, one)),
    }[name]
    linear = jnp.stack([jnp.stack(first, -1), jnp.stack(second, -1)], -2)
    return linear, value * signs * (1.0 if name == "translate" else 0.0)


def _affine(name: str, ends: tuple[float, float], text: str, **entry) -> Operation:
    def draw(key):
        # As jax.random.rademacher, which draws other bits where x64 is enabled.
        positive = jax.random.bernoulli(key, jnp.float32(0.5), (2,))
        return jnp.where(positive, 1.0, -1.0).astype(jnp.float32)

    def apply(key, images, value, shared, index):
        linear, offset = affine_map(name, value, batches.per_image(draw, key, index))
        _, height, width, _ = images.shape
        centre = ((width - 1) / 2, (height - 1) / 2)
        return warp_affine(images, linear, offset, centre, "zero")

    (parameter,) = entry["example"]
    prepare = one_number(parameter, *ends)
    return Operation(text, prepare, apply, source="MG", **entry)


shear = _affine(
    "shear",
    (0.0, 1.5),
    """Slants the image to the left or right. Linear in `images`.

    About the centre, output `(x, y)` is read at `(x - y sin(s), y cos(s))`, which is
    what scikit-image called a shear then, with `s = shear` or `-shear` with equal
    probability; outside is black.

    Parameters:
        shear: Angle in radians, in `[0, 1.5]`.
    """,
    formula="sheared by a random sign times shear",
    example={"shear": 0.4},
)
rotate = _affine(
    "rotate",
    (0.0, math.pi),
    """Rotates the image about its centre, either way with equal probability.

    Black where there is no input. Linear in `images`.

    Parameters:
        angle: In radians, in `[0, pi]`.
    """,
    formula="rotated by a random sign times the angle, in radians",
    example={"angle": 0.4},
)
scale = _affine(
    "scale",
    (0.01, 100.0),
    """Shrinks or enlarges the image about its centre. Not random.

    Black where there is no input. Linear in `images`.

    Parameters:
        factor: Size of the result, in `[0.01, 100]`; below 1 the image shrinks.
    """,
    formula="shrunk about its centre to the factor",
    example={"factor": 0.7},
    is_random=False,
)
translate = _affine(
    "translate",
    (0.0, math.inf),
    """Moves the image along both axes, each way with equal probability.

    Black where there is no input. Linear in `images`.

    Parameters:
        distance: Along each axis, 0 or more, in pixels; need not be whole.
    """,
    formula="moved by a random sign times the distance along each axis, in pixels",
    example={"distance": 2.5},
)
