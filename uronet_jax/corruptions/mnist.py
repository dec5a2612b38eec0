"""Corruptions that only MNIST-C has: stripe, lines and edges.

They are defined for 28x28 images. Stripes and lines take other sizes by stretching the
28x28 drawing over the image; every channel gets the same drawing.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from uronet_jax import batches
from uronet_jax.corruptions.operation import Constants, Operation, column
from uronet_jax.corruptions.spatter import link_edges, neighbours

_SIDE = 28
# A line fades to black this far from its middle, in pixels of a 28x28 image.
_REACH = 2.3
# Lines start and end in a row from 0 to 26, as in the original.
_END_ROWS = 27
# A zigzag goes from one column to the other, climbs by this much, and has teeth of this
# half length and height.
_ZIGZAG_COLUMNS = (2, 25)
_CLIMBS = range(-5, 5)
_TOOTH = 2.0
# Of a 0..1 image: an edge is kept from the lower on if the higher is reached along it.
_LOW_THRESHOLD, _HIGH_THRESHOLD = 0.1, 0.2


def _prepare_nothing(shape, settings):
    return Constants(())


identity = Operation(
    """Changes nothing: the clean images among the corruptions. Differentiable.""",
    _prepare_nothing,
    lambda key, images, constants, shared, index: images,
    formula="x",
    source="MG",
    example={},
    is_random=False,
)


def _apply_stripe(key, images, constants, shared, index):
    width = images.shape[2]
    quarter = 4 * np.arange(width)
    inverted = (quarter < width) | (quarter >= 3 * width)
    return jnp.where(inverted[None, None, :, None], 1.0 - images, images)


stripe = Operation(
    """Inverts the first and the last quarter of the columns: `1 - x` there.

    At width 28 these are columns 0 to 6 and 21 to 27; a column that lies only in part
    in the first quarter is inverted, one that lies in part in the last is not.
    Differentiable in `images`.
    """,
    _prepare_nothing,
    _apply_stripe,
    formula="the outer quarters of the columns inverted",
    source="MG",
    example={},
    is_random=False,
)


def draw_dotted_line(images: jax.Array, ends: jax.Array) -> jax.Array:
    """Does what `dotted_line` does, for given ends; does not clip.

    `images` are float32 `[B, H, W, C]`, `ends` `[B, 2]` the rows of the line at columns
    0 and 27 of a 28x28 image.
    """
    column = _positions(images.shape[2])[None, :]
    pixel = np.floor(column + 0.5)
    drawn = (pixel // 2 % 2 == 1) & (pixel < _SIDE - 1)
    start, end = ends[:, :1].astype(jnp.float32), ends[:, 1:].astype(jnp.float32)
    middle = start + (end - start) * jnp.asarray(column / (_SIDE - 1), jnp.float32)
    line = jnp.where(drawn[:, None, :], _profile(middle, images.shape[1]), 0.0)
    return images + line[..., None]


def _apply_dotted_line(key, images, constants, shared, index):
    draw = functools.partial(
        jax.random.randint, shape=(2,), minval=0, maxval=_END_ROWS, dtype=jnp.int32
    )
    return draw_dotted_line(images, batches.per_image(draw, key, index))


dotted_line = Operation(
    """Adds a white dashed line from the left edge to the right edge.

    In a 28x28 image, over which others are stretched, the line goes from column 0 to
    27; the rows of its ends are drawn from 0 to 26. At a vertical distance `d` from it,
    `max(0, 1 + log(1 - d / 2.3))` is added. Two columns without (beginning with columns
    0 and 1) and two with the line take turns; column 27 is without. Differentiable in
    `images`.
    """,
    _prepare_nothing,
    _apply_dotted_line,
    formula="plus a dotted line between random rows at the two edges",
    source="MG",
    example={},
)


def draw_zigzag(
    images: jax.Array, start: jax.Array, climb: jax.Array, segments: jax.Array
) -> jax.Array:
    """Does what `zigzag` does, for given rows of the ends; does not clip.

    `start` `[B]` is the row of the left end in a 28x28 image, `climb`, integer `[B]`
    from -5 to 4, by how many rows the right end is lower; `zigzag_segments(W)` gives
    the segments.
    """
    middle = segments[climb - _CLIMBS[0]] + start.astype(jnp.float32)[:, None, None]
    # What is added is never negative: clipping once is the same as after each segment.
    line = sum(_profile(middle[:, i], images.shape[1]) for i in range(middle.shape[1]))
    return images + line[..., None]


def zigzag_segments(width: int) -> np.ndarray:
    """Returns the rows of the segments of a zigzag that starts in row 0.

    `[10, 2, width]`: per climb from -5 to 4 the row of the line at each column,
    far away where there is none. A column in which one segment ends and the next begins
    has two lines, hence the second axis.
    """
    column = _positions(width)
    pixel = np.floor(column + 0.5)
    rows = np.full((len(_CLIMBS), 2, width), 1e3)
    first, last = _ZIGZAG_COLUMNS
    for i, climb in enumerate(_CLIMBS):
        x, y = _zigzag_corners(last - first, climb)
        x = x + first
        for j in range(len(x) - 1):
            inside = (pixel >= np.floor(x[j])) & (pixel < np.ceil(x[j + 1]))
            slope = (y[j + 1] - y[j]) / (x[j + 1] - x[j])
            line = y[j] + slope * (column - x[j])
            rows[i, j % 2, inside] = line[inside]
    return rows


def _zigzag_corners(run, climb):
    """Returns x and y of the corners, from the origin on."""
    length = np.hypot(run, climb)
    teeth = int((length - _TOOTH) // (2 * _TOOTH)) + 1
    along = _TOOTH * (2 * np.arange(teeth) + 1)
    across = _TOOTH * (-1.0) ** np.arange(teeth)
    # The last half tooth is cut off where the line ends; the height is the original's.
    rest = length - 2 * _TOOTH * (length // (2 * _TOOTH))
    along = np.concatenate([[0.0], along, [length]])
    across = np.concatenate([[0.0], across, [across[-1] / (2 * rest)]])
    cosine, sine = run / length, climb / length
    return cosine * along - sine * across, sine * along + cosine * across


def _apply_zigzag(key, images, constants, segments, index):
    lowest = np.array([0, _CLIMBS.start])
    ends = np.array([_END_ROWS, _CLIMBS.stop])
    draw = functools.partial(
        jax.random.randint, shape=(2,), minval=lowest, maxval=ends, dtype=jnp.int32
    )
    start, climb = batches.per_image(draw, key, index).T
    return draw_zigzag(images, start, climb, segments)


zigzag = Operation(
    """Adds a white zigzag line from left to right.

    In a 28x28 image, over which others are stretched, it begins at column 2 in a row
    drawn from 0 to 26, and ends at column 25, from 5 rows higher to 4 rows lower. About
    the straight line between them it has teeth of half length and height 2. Its
    segments have the profile of `dotted_line`. Differentiable in `images`.
    """,
    lambda shape, settings: Constants((), zigzag_segments(shape[1])),
    _apply_zigzag,
    formula="plus a zigzag line between random rows",
    source="MG",
    example={},
)


def _positions(size):
    """Returns where the centres of pixels lie along a side of a 28x28 image."""
    return (np.arange(size) + 0.5) * (_SIDE / size) - 0.5


def _profile(middle, height):
    """Returns `[B, H, W]`, what a line adds; `middle` `[B, W]` is its row."""
    row = jnp.asarray(_positions(height), jnp.float32)[None, :, None]
    distance = jnp.minimum(jnp.abs(row - middle[:, None, :]), _REACH)
    return jnp.maximum(0.0, 1.0 + jnp.log1p(-distance / _REACH))


def _prepare_canny(shape, settings):
    height, width, _ = shape
    sigmas = column(settings, "sigma", 0.0, 1e3)

    def matrices(size):
        smooth = np.stack([_inner_gaussian(size, sigma) for sigma in sigmas])
        # Sobel's derivative and average along an axis; edge pixels are repeated.
        padded = np.pad(np.eye(size), ((1, 1), (0, 0)), mode="edge")
        before, here, after = padded[:-2], padded[1:-1], padded[2:]
        derivative, average = after - before, before + 2.0 * here + after
        return derivative @ smooth, average @ smooth

    return Constants((matrices(height), matrices(width)))


def _inner_gaussian(size, sigma):
    radius = int(4.0 * sigma + 0.5)
    if radius == 0:
        return np.eye(size)
    offset = np.arange(size)[:, None] - np.arange(size)
    weights = np.exp(-0.5 * (offset / sigma) ** 2) * (np.abs(offset) <= radius)
    return weights / weights.sum(1, keepdims=True)


def _apply_canny(key, images, constants, shared, index):
    (row_derivative, row_average), (column_derivative, column_average) = constants
    batch, height, width, channels = images.shape
    planes = jnp.moveaxis(jax.lax.stop_gradient(images), -1, 1)

    def derivative(rows, columns):  # [H, W, planes].
        spec = "yi,bcij,xj->bcyx"
        product = jnp.einsum(spec, rows, planes, columns, precision="highest")
        return product.reshape(-1, height, width).transpose(1, 2, 0)

    dy = derivative(row_derivative, column_average)
    dx = derivative(row_average, column_derivative)
    magnitude = jnp.sqrt(dy * dy + dx * dx)
    possible = _is_maximum(dy, dx, magnitude) & (magnitude >= _LOW_THRESHOLD)
    inside = np.zeros((height, width, 1), bool)
    inside[1:-1, 1:-1] = True
    possible &= inside
    edges = link_edges(possible, possible & (magnitude >= _HIGH_THRESHOLD))
    edges = edges.reshape(height, width, batch, channels).transpose(2, 0, 1, 3)
    return edges.astype(jnp.float32)


def _is_maximum(dy, dx, magnitude):
    """Says where the magnitude is a maximum along the gradient."""
    at = functools.partial(neighbours, jnp.pad(magnitude, ((1, 1), (1, 1), (0, 0))))
    steep = jnp.abs(dy) > jnp.abs(dx)
    # Whether the gradient points to the lower right or upper left, or along an axis.
    falling = ((dy >= 0.0) & (dx >= 0.0)) | ((dy <= 0.0) & (dx <= 0.0))
    longer = jnp.maximum(jnp.abs(dy), jnp.abs(dx))
    share = jnp.minimum(jnp.abs(dy), jnp.abs(dx)) / jnp.maximum(longer, 1e-12)

    def exceeds(side):
        beside = jnp.where(falling, at(0, side), at(0, -side))
        straight = jnp.where(steep, at(side, 0), beside)
        diagonal = jnp.where(falling, at(side, side), at(side, -side))
        return straight + share * (diagonal - straight) <= magnitude

    return exceeds(1) & exceeds(-1)


canny_edges = Operation(
    """Replaces each channel by its edges, 0 or 1 (Canny's detector). Not random.

    A Gaussian filter that is normalised over the part of its support inside the image,
    then Sobel derivatives (unnormalised: a unit step has the gradient 4). An edge is a
    pixel whose gradient is not smaller than the gradients on both sides, interpolated
    linearly between neighbours, and at least 0.1; and which is linked by such pixels
    (8 neighbours) to one of at least 0.2. Pixels at the border are never edges. This is
    `skimage.feature.canny(image, sigma)` of float images; Canny, "A Computational
    Approach to Edge Detection", PAMI 1986. The gradient in `images` is zero.

    Parameters:
        sigma: Standard deviation of the filter, 0 or more, in pixels.
    """,
    _prepare_canny,
    _apply_canny,
    formula="the edges of Canny's detector with the sigma",
    source="MG",
    example={"sigma": 1.0},
    is_random=False,
)
