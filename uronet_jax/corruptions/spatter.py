"""Spatter: drops of water or mud on the lens.

Inside, images lie as `[H, W, B]`: with the batch last, a shift by one pixel moves whole
vectors, which makes the filters here several times faster on a CPU.

Water follows OpenCV step by step (`Canny`, `distanceTransform`, `blur`, `equalizeHist`,
`filter2D`): from the same 8-bit layer it gets the same film.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from uronet_jax import batches
from uronet_jax.corruptions.filters import filter_rows_columns, gaussian_matrix
from uronet_jax.corruptions.operation import Constants, Operation, check_colours, column

# Grey levels of R, G and B, and of grey images: the luma of water (pale turquoise), and
# for mud what MNIST-C uses.
_COLOURS = {
    ("water", 3): (175, 238, 238),
    ("water", 1): (0.299 * 175 + 0.587 * 238 + 0.114 * 238,),
    ("mud", 3): (63, 42, 20),
    ("mud", 1): (63,),
}
# Mud thinner than this is none.
_THINNEST_MUD = 0.8
# Thresholds of the edge detector, on |dx| + |dy| of 8-bit values.
_WEAK_EDGE, _STRONG_EDGE = 50.0, 150.0
# tan(22.5 degrees) with 15 fractional bits, as OpenCV has it.
_TAN = 13573.0
_ONE = 32768.0
# Pixels. Farther from an edge all is the same.
_FARTHEST = 20
# Lengths of the steps to the next pixel, diagonally, and like a knight.
_STRAIGHT, _DIAGONAL, _KNIGHT = (np.float32(length) for length in (1.0, 1.4, 2.1969))


def _prepare(shape, settings):
    height, width, channels = shape
    check_colours(channels)
    sigmas, strengths = (column(settings, n, 0.0) for n in ("sigma", "strength"))
    liquids = [setting["liquid"] for setting in settings]
    for liquid in liquids:
        if (liquid, channels) not in _COLOURS:
            raise ValueError(f"liquid must be 'water' or 'mud': {liquid!r}")

    def smooth(side):  # [side + 2, side], repeats the border.
        matrices = [gaussian_matrix(side, sigma) for sigma in sigmas]
        return np.pad(matrices, ((0, 0), (1, 1), (0, 0)), "edge")

    constants = {
        "loc": column(settings, "loc"),
        "scale": column(settings, "scale", 0.0),
        "rows": smooth(height),
        "columns": smooth(width),
        "threshold": column(settings, "threshold", 0.0),
        "strength": strengths,
        # For water the filters of the mud go unused.
        "mud_rows": [gaussian_matrix(height, strength) for strength in strengths],
        "mud_columns": [gaussian_matrix(width, strength) for strength in strengths],
        "colour": np.asarray([_COLOURS[name, channels] for name in liquids]) / 255.0,
        "is_mud": [liquid == "mud" for liquid in liquids],
    }
    return Constants({name: np.asarray(v) for name, v in constants.items()})


def _apply(key, images, constants, shared, index):
    batch, height, width, _ = images.shape
    draw = functools.partial(
        jax.random.normal, shape=(height * width,), dtype=jnp.float32
    )
    normal = batches.per_image(draw, key, index).reshape(batch, height, width)
    return splash(images, constants["loc"] + constants["scale"] * normal, constants)


def splash(images: jax.Array, layer: jax.Array, constants: dict) -> jax.Array:
    """Spatters images with a given layer; see `spatter`. Does not clip.

    `layer`, float32 `[B, H, W]`, holds normal numbers of mean `loc` and deviation
    `scale`; `constants` are those of one severity.
    """
    layer = layer.transpose(1, 2, 0)
    smooth = _filter(layer, constants["rows"], constants["columns"])
    weight = jax.lax.cond(constants["is_mud"], _mud, _water, smooth, constants)
    weight = weight.transpose(2, 0, 1)[..., None]
    cover = jnp.where(constants["is_mud"], weight, 0.0)
    return (1.0 - cover) * images + weight * constants["colour"][None, None, None]


def _filter(layer, rows, columns):
    return filter_rows_columns(layer[None], rows, columns)[0]  # Batch as channels.


def _mud(smooth, constants):
    drops = (smooth[1:-1, 1:-1] > constants["threshold"]).astype(jnp.float32)
    weight = _filter(drops, constants["mud_rows"], constants["mud_columns"])
    return jnp.where(weight < _THINNEST_MUD, 0.0, weight)


def _water(smooth, constants):
    smooth = jnp.where(smooth < constants["threshold"], 0.0, smooth)
    # Drops brighter than white turn black: the original's cast to 8 bits wraps around.
    levels = jnp.floor(255.0 * smooth)
    film = water_film(levels - 256.0 * jnp.floor(levels / 256.0))
    largest = jnp.maximum(film.max((0, 1), keepdims=True), 1.0)
    return film * (constants["strength"] / largest)


def water_film(levels: jax.Array) -> jax.Array:
    """Returns how much light the water adds, in whole numbers: float32 `[H, W, B]`.

    The distance to the nearest edge, at most 20, is smoothed and rounded down, its
    histogram equalised, embossed, smoothed again and multiplied by the layer: float32
    `[H + 2, W + 2, B]`, in whole grey levels, with its border repeated.
    """
    distance = edge_distances(edges(levels))
    relief = _equalize(jnp.floor(_box_sum(distance) / 9.0).astype(jnp.int32))
    padded = jnp.pad(relief, ((1, 1), (1, 1), (0, 0)), mode="reflect")
    at = functools.partial(neighbours, padded)
    relief = relief + at(0, 1) - at(0, -1) + at(1, 0) - at(-1, 0)
    relief = relief + 2.0 * (at(1, 1) - at(-1, -1))
    relief = jnp.clip(relief, 0.0, 255.0)
    relief = jnp.floor(_box_sum(relief) / 9.0 + 0.5)
    return levels[1:-1, 1:-1] * relief


def neighbours(padded: jax.Array, down: int, right: int) -> jax.Array:
    """Returns what lies that far from each pixel of `[H, W, B]`, padded by 1 pixel."""
    height, width, _ = padded.shape
    return padded[1 + down : height - 1 + down, 1 + right : width - 1 + right]


def _box_sum(images):
    """Returns sums over 3x3 pixels; the border mirrors but is not repeated."""
    padded = jnp.pad(images, ((1, 1), (1, 1), (0, 0)), mode="reflect")
    rows = padded[:-2] + padded[1:-1] + padded[2:]
    return rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]


def edges(levels: jax.Array) -> jax.Array:
    """Finds edges, bool `[H, W, B]`, as OpenCV's `Canny(levels, 50, 150)` does.

    `levels` are float32 `[H + 2, W + 2, B]`, whole grey levels with the border
    repeated. With 3x3 Sobel filters and `|dx| + |dy|`; Canny, "A Computational Approach
    to Edge Detection", 1986.
    """
    rows = levels[:-2] + 2.0 * levels[1:-1] + levels[2:]
    right = rows[:, 2:] - rows[:, :-2]
    columns = levels[:, :-2] + 2.0 * levels[:, 1:-1] + levels[:, 2:]
    down = columns[2:] - columns[:-2]
    size = jnp.abs(right) + jnp.abs(down)
    # Not a pad, which XLA would recompute at each of its uses.
    padded = jax.lax.dynamic_update_slice(
        jnp.zeros(levels.shape, size.dtype), size, (1, 1, 0)
    )
    at = functools.partial(neighbours, padded)
    # An edge is as large as any along its gradient, whose direction is rounded to
    # multiples of 45 degrees. Of two equal neighbours, the first is the edge.
    across = (size > at(0, -1)) & (size >= at(0, 1))
    along = (size > at(-1, 0)) & (size >= at(1, 0))
    falling = (size > at(-1, -1)) & (size > at(1, 1))
    rising = (size > at(-1, 1)) & (size > at(1, -1))
    diagonal = jnp.where((right < 0) == (down < 0), falling, rising)
    # Whole numbers up to 1020, hence exact; tan(67.5 degrees) = 2 + tan(22.5 degrees).
    x, y = jnp.abs(right), jnp.abs(down)
    steep = _ONE * (y - 2.0 * x) > _TAN * x
    peak = jnp.where(_ONE * y < _TAN * x, across, jnp.where(steep, along, diagonal))
    weak = peak & (size > _WEAK_EDGE)
    return link_edges(weak, weak & (size > _STRONG_EDGE))


def link_edges(weak: jax.Array, strong: jax.Array) -> jax.Array:
    """Returns which weak edges hang together with strong ones; all bool `[H, W, B]`."""
    height, width, batch = weak.shape
    words = -(-width // 32)
    bit = jnp.arange(32, dtype=jnp.uint32)[None, :, None]

    def pack(rows):
        padded = jnp.pad(rows, ((0, 0), (0, 32 * words - width), (0, 0)))
        bits = padded.reshape(2, words, 32, batch).astype(jnp.uint32) << bit[None]
        return jnp.sum(bits, 2, dtype=jnp.uint32)

    def grow(state):
        found, _ = state
        padded = jnp.pad(found, ((1, 1), (1, 1), (0, 0)))
        padded = padded[:-2] | padded[1:-1] | padded[2:]
        middle = padded[:, 1:-1]
        wider = middle | (middle << 1) | (middle >> 1)
        wider |= (padded[:, :-2] >> 31) | (padded[:, 2:] << 31)
        grown = wider & weak
        return grown, jnp.any(grown != found)

    # 32 columns in a word make this loop, which may be long, cheap.
    packed = jax.lax.map(pack, jnp.stack([weak, strong], 1))
    weak, strong = packed[:, 0], packed[:, 1]
    found, _ = jax.lax.while_loop(lambda state: state[1], grow, (strong, True))
    found = (found[:, :, None] >> bit[None]) & 1
    return found.reshape(height, 32 * words, batch)[:, :width] > 0


def edge_distances(edges: jax.Array) -> jax.Array:
    """Returns the distance of each pixel to the nearest edge, at most 20.

    A path is made of steps to the next pixel (length 1), diagonal ones (1.4) and
    knight's moves (2.1969), as in OpenCV's `distanceTransform` with a 5x5 mask
    (Borgefors, "Distance transformations in digital images", 1986). From bool to
    float32 `[H, W, B]`.
    """
    # A shortest path has at most two kinds of steps, whose order does not matter:
    # first those that change the row, then those within it.
    distance = jnp.where(edges, 0.0, float(_FARTHEST))
    distance = _sweep(_next_row, distance, rows=2, margin=2)
    distance = _sweep(_next_pixel, distance.transpose(1, 0, 2), rows=1, margin=0)
    return distance.transpose(1, 0, 2)


def _sweep(step: Callable, distance, *, rows, margin):
    """Passes distances on from row to row, downwards and upwards."""
    # An axis of their own: side by side in the batch they would lie on other devices.
    both = jnp.stack([distance, distance[::-1]], axis=2)
    shape = both.shape[1] + 2 * margin, *both.shape[2:]
    border = jnp.full(shape, _FARTHEST, jnp.float32)
    _, both = jax.lax.scan(step, (border,) * rows, both)
    return jnp.minimum(both[:, :, 0], both[::-1, :, 1])


def _next_row(last_two, row):
    last, before = last_two
    width = row.shape[0]

    def nearest(row, shift):
        return jnp.minimum(row[2 - shift :][:width], row[2 + shift :][:width])

    knight = jnp.minimum(nearest(last, 2), nearest(before, 1)) + _KNIGHT
    straight = jnp.minimum(nearest(last, 0) + _STRAIGHT, nearest(last, 1) + _DIAGONAL)
    row = jnp.minimum(row, jnp.minimum(straight, knight))
    padding = ((2, 2), (0, 0), (0, 0))
    padded = jnp.pad(row, padding, constant_values=_FARTHEST)
    return (padded, last), row


def _next_pixel(last, row):
    row = jnp.minimum(row, last[0] + _STRAIGHT)
    return (row,), row


def _equalize(levels):
    """Equalises histograms as OpenCV's `equalizeHist`: levels 0 .. 20 to 0 .. 255."""
    height, width, batch = levels.shape
    level = jnp.arange(_FARTHEST + 1, dtype=levels.dtype)
    # Not with a histogram of all images, which devices would have to add up.
    total = jnp.sum(levels[None] <= level[:, None, None, None], (1, 2), dtype=jnp.int32)
    lowest = jnp.min(jnp.where(total > 0, total, height * width), 0, keepdims=True)
    scale = 255.0 / jnp.maximum(height * width - lowest, 1).astype(jnp.float32)
    table = jnp.round((total - lowest).astype(jnp.float32) * scale)
    # A single level stays as it is.
    single = level.astype(jnp.float32)[:, None]
    table = jnp.where(lowest == height * width, single, table)
    # Row by row: otherwise XLA computes the table anew for every pixel.
    return jax.lax.map(lambda row: jnp.take_along_axis(table, row, axis=0), levels)


spatter = Operation(
    """Spatters the lens with water or mud.

    The layer `L = gauss(N(loc, scale), sigma)`, one value per pixel, is set to 0 below
    the threshold. Water adds light: `clip(x + m * colour)`, `m = strength * f / max(f)`
    with the film `f = floor(255 L) * D`, where D is an embossed map of the distance to
    the nearest edge of the layer; see `water_film`. Mud covers:
    `clip((1 - m) * x + m * colour)`, `m = gauss(L > threshold, strength)`, set to 0
    below 0.8. Images have 1 or 3 channels; grey ones get the luma of the water, and the
    mud of MNIST-C (Mu & Gilmer, 2019). An image without a drop stays as it is (there
    the original divides by 0). Differentiable in `images`.

    Parameters:
        loc: Mean of the layer.
        scale: Standard deviation of the layer, 0 or more.
        sigma: Standard deviation of the filter in pixels, 0 or more.
        threshold: In units of the layer, 0 or more.
        strength: Of water: the largest weight of its colour. Of mud: standard deviation
            of the second filter in pixels. 0 or more.
        liquid: `"water"` or `"mud"`.
    """,
    _prepare,
    _apply,
    formula="a filtered and thresholded layer of N(loc, scale); water: lit along its "
    "edges, in pale turquoise; mud: opaque brown",
    source="HD",
    example={
        "loc": 0.65,
        "scale": 0.3,
        "sigma": 1.0,
        "threshold": 0.69,
        "strength": 0.5,
    },
    defaults={"liquid": "water"},
)
