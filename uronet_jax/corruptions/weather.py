"""Weather: brightness, fog and snow. Frost and spatter have modules of their own."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from uronet_jax import batches
from uronet_jax.corruptions.filters import (
    blur_along_line,
    clipped_zoom_matrix,
    filter_rows_columns,
    motion_weights,
)
from uronet_jax.corruptions.operation import (
    Constants,
    Operation,
    check_colours,
    column,
    grey_levels,
    one_number,
    whole_column,
)


def luma(images: jax.Array) -> jax.Array:
    """Returns `0.299 R + 0.587 G + 0.114 B` of `[..., 3]` as `[..., 1]`."""
    # By slices: XLA's CPU backend is 15 times slower at sums over three channels.
    red, green, blue = jnp.split(images, 3, axis=-1)
    return 0.299 * red + 0.587 * green + 0.114 * blue


def brighten(images: jax.Array, amount: jax.Array) -> jax.Array:
    """Raises the value of HSV; see `brightness`. Any dimensions before channels."""
    # By slices: XLA's CPU backend is slow at maxima over few channels.
    value = functools.reduce(jnp.maximum, jnp.split(images, images.shape[-1], axis=-1))
    raised = jnp.clip(value + amount, 0.0, 1.0)
    black = value == 0.0
    share = jnp.where(black, 1.0, images / jnp.where(black, 1.0, value))
    return images + (raised - value) * share


brightness = Operation(
    """Raises the value of HSV: `v = clip(max(x) + amount)`, hue and saturation fixed.

    In closed form, `x * v / max(x)` with the maximum over the channels, of any number;
    black becomes grey. On grey images it is `clip(x + amount)`. Differentiable in
    `images`.

    Parameters:
        amount: In `[0, 1]`, units of the intensity range.
    """,
    one_number("amount", 0.0, 1.0),
    lambda key, images, amount, shared, index: brighten(images, amount),
    formula="the value of HSV plus amount",
    source="HD",
    example={"amount": 0.2},
    is_random=False,
)


def _prepare_fog(shape, settings):
    largest = max(shape[:2])
    sizes = {setting["map_size"] for setting in settings}
    if len(sizes) > 1:
        raise ValueError(f"map_size must be the same at all severities: {sizes}")
    size = sizes.pop()
    if size is not None:
        batches.check_whole("map_size", size, 1, 2**14)
    levels = math.ceil(math.log2(largest if size is None else size))
    if size not in (None, 2**levels) or 2**levels < largest:
        raise ValueError(
            f"map_size must be a power of two and at least {largest}, the larger side "
            f"of the images: {size}"
        )
    amounts = column(settings, "amount", 0.0)
    decays = column(settings, "decay", 0.1, 1000.0)
    # The original multiplies by its decreasing factor twice, hence the square.
    return Constants((amounts, decays[:, None] ** (-2.0 * np.arange(levels))))


def _apply_fog(key, images, constants, shared, index):
    amount, amplitudes = constants
    draws = 4 ** amplitudes.shape[0] - 1
    draw = functools.partial(
        jax.random.uniform, shape=(draws,), dtype=jnp.float32, minval=-1.0
    )
    clouds = plasma(batches.per_image(draw, key, index), amplitudes)
    return add_fog(images, clouds[:, : images.shape[1], : images.shape[2]], amount)


def add_fog(images: jax.Array, clouds: jax.Array, amount: jax.Array) -> jax.Array:
    """Adds given clouds, `[B, H, W]` in `[0, 1]`; see `fog`. Does not clip."""
    brightest = jnp.max(images, axis=(1, 2, 3), keepdims=True)
    # Both are 0 only where the result is 0 anyhow.
    share = brightest / jnp.maximum(brightest + amount, 1e-6)
    return (images + amount * clouds[..., None]) * share


def plasma(uniform: jax.Array, amplitudes: jax.Array) -> jax.Array:
    """Returns plasma fractals by the diamond-square algorithm on a torus.

    Each level halves the grid: the centre of a square gets the mean of its corners,
    then the middle of an edge the mean of its ends and of the two nearest centres,
    each plus `amplitude * uniform`. In the end the map, float32
    `[B, 2^levels, 2^levels]`, is scaled to `[0, 1]`. Fournier, Fussell & Carpenter,
    "Computer rendering of stochastic models", 1982.

    `uniform`, float32 `[B, 4^levels - 1]` in `[-1, 1)`, holds level by level the draws
    of the centres, of the horizontal and of the vertical edges, row by row. Of
    `amplitudes` `[levels]` only the ratios matter.
    """
    batch = uniform.shape[0]
    grid = jnp.zeros((batch, 1, 1))
    for level in range(len(amplitudes)):
        side = 2**level
        draws = uniform[:, side**2 - 1 : 4 * side**2 - 1]
        noise = draws.reshape(batch, 3, side, side) * amplitudes[level]
        below = grid + jnp.roll(grid, -1, axis=1)
        right = grid + jnp.roll(grid, -1, axis=2)
        centres = (below + jnp.roll(below, -1, axis=2)) / 4.0 + noise[:, 0]
        across = (right + centres + jnp.roll(centres, 1, axis=1)) / 4.0 + noise[:, 1]
        along = (below + centres + jnp.roll(centres, 1, axis=2)) / 4.0 + noise[:, 2]
        blocks = jnp.stack((grid, across, along, centres), axis=1)
        blocks = blocks.reshape(batch, 2, 2, side, side).transpose(0, 3, 1, 4, 2)
        grid = blocks.reshape(batch, 2 * side, 2 * side)
    grid -= grid.min(axis=(1, 2), keepdims=True)
    return grid / grid.max(axis=(1, 2), keepdims=True)


fog = Operation(
    """Adds fog: `clip((x + amount * P) * m / (m + amount))`, `m = max(x)`.

    P is the upper left part of a plasma fractal in `[0, 1]`, the same for all
    channels, and m is one number per image. Differentiable in `images`.

    Parameters:
        amount: 0 or more, units of the intensity range.
        decay: In `[0.1, 1000]`. By this factor the root of the noise of the fractal
            falls whenever its grid is halved: large values make smooth fog.
        map_size: Side of the fractal, a power of two, at least the sides of the
            images. Default: the smallest such.
    """,
    _prepare_fog,
    _apply_fog,
    formula="(x + amount P) max(x) / (max(x) + amount), P a plasma fractal with decay",
    source="HD",
    example={"amount": 0.75, "decay": 2.5},
    defaults={"map_size": None},
)


def _prepare_snow(shape, settings):
    height, width, channels = shape
    check_colours(channels)
    zooms = column(settings, "zoom", 1.0)
    taps = 2 * whole_column(settings, "radius", 0, max(height, width)) + 1
    weights = [motion_weights(s["radius"], s["sigma"], max(taps)) for s in settings]
    constants = {
        "loc": column(settings, "loc"),
        "scale": column(settings, "scale", 0.0),
        "threshold": column(settings, "threshold"),
        "blend": column(settings, "blend", 0.0, 1.0),
        "rows": [clipped_zoom_matrix(height, zoom) for zoom in zooms],
        "columns": [clipped_zoom_matrix(width, zoom) for zoom in zooms],
        "weights": weights,
        "taps": taps,
    }
    return Constants({name: np.asarray(v) for name, v in constants.items()})


def _apply_snow(key, images, constants, shared, index):
    batch, height, width, _ = images.shape

    def draw(key):
        key_layer, key_angle = jax.random.split(key)
        angle = jax.random.uniform(key_angle, (), jnp.float32, -135.0, -45.0)  # Down.
        return jax.random.normal(key_layer, (height * width,), jnp.float32), angle

    normal, angles = batches.per_image(draw, key, index)
    layer = constants["loc"] + constants["scale"] * normal
    return add_snow(images, layer.reshape(batch, height, width), angles, constants)


def add_snow(
    images: jax.Array, layer: jax.Array, angles: jax.Array, constants: dict
) -> jax.Array:
    """Lets given snow fall; see `snow`. Does not clip.

    `layer`, float32 `[B, H, W]`, holds normal numbers of mean `loc` and deviation
    `scale`, `angles` `[B]` degrees; `constants` are those of one severity.
    """
    flakes = filter_rows_columns(
        layer[..., None], constants["rows"], constants["columns"]
    )
    flakes = jnp.where(flakes < constants["threshold"], 0.0, flakes)
    levels = grey_levels(flakes)
    flakes = blur_along_line(levels, angles, constants["weights"], constants["taps"])
    flakes = flakes / 255.0
    grey = luma(images) if images.shape[-1] == 3 else images
    pale = jnp.maximum(images, 1.5 * grey + 0.5)
    images = constants["blend"] * images + (1.0 - constants["blend"]) * pale
    return images + flakes + flakes[:, ::-1, ::-1]


snow = Operation(
    """Lets snow fall: `clip(x' + S + rotate(S, 180 degrees))`.

    The flakes S, one layer for all channels, are `N(loc, scale)` enlarged by `zoom`,
    set to 0 below the threshold, cut to 8 bits and blurred along a line that points
    down, up to 45 degrees aside. The image gets paler:
    `x' = blend * x + (1 - blend) * max(x, 1.5 * grey + 0.5)`. Images have 1 or 3
    channels; a grey image is its own `grey`. Differentiable in `images`.

    Parameters:
        loc: Mean of the layer.
        scale: Standard deviation of the layer, 0 or more.
        zoom: 1 or more; see `filters.clipped_zoom_matrix`.
        threshold: In units of the layer.
        radius: Of the blur in pixels, whole number, 0 or more; see
            `filters.blur_along_line`.
        sigma: Of the blur, standard deviation in pixels, above 0.
        blend: Share of the image that stays as it is, in `[0, 1]`.
    """,
    _prepare_snow,
    _apply_snow,
    formula="a layer of N(loc, scale), enlarged by zoom, cut off at the threshold, "
    "motion-blurred downwards, added twice (once turned by 180 degrees) to the blend "
    "of x with a whitened x",
    source="HD",
    example={
        "loc": 0.15,
        "scale": 0.3,
        "zoom": 1.75,
        "threshold": 0.55,
        "radius": 10,
        "sigma": 4.0,
        "blend": 0.9,
    },
)
