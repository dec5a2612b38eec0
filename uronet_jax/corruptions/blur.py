"""Blur corruptions: Gaussian, defocus, frosted glass, motion and zoom."""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from uronet_jax import batches
from uronet_jax.corruptions import filters
from uronet_jax.corruptions.operation import (
    Constants,
    Operation,
    column,
    grey_levels,
    whole_column,
)


def disk_kernel(radius: float, alias_blur: float) -> np.ndarray:
    """Returns the kernel of `defocus_blur`: float64, square, of an odd side."""
    half = 8 if radius <= 8 else math.ceil(radius)
    offsets = np.arange(-half, half + 1)
    disk = offsets[:, None] ** 2 + offsets**2 <= radius**2
    reach = 1 if radius <= 8 else 2
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / alias_blur) ** 2)
    weights = np.outer(weights, weights) / weights.sum() ** 2
    windows = np.lib.stride_tricks.sliding_window_view(
        np.pad(disk / disk.sum(), reach, mode="reflect"), weights.shape
    )
    return np.einsum("yxij,ij->yx", windows, weights)


def frosted_glass(
    images: jax.Array,
    rows: jax.Array,
    columns: jax.Array,
    displacements: Callable[[jax.Array], jax.Array],
    iterations: int | jax.Array,
    *,
    swap: bool = False,
    straight_through: bool = False,
) -> jax.Array:
    """Applies `glass_blur` with given random draws.

    `rows` `[H, H]` and `columns` `[W, W]` are the Gaussian filters, or a `filters.band`
    of them. `displacements` maps the number of a scan to int32 `[B, H * W]`: how far
    from each pixel, in flat positions, the one lies that it copies or is swapped with,
    inside the image. The number of scans may be traced.
    """
    blurred = filters.filter_rows_columns(images, rows, columns)
    levels = grey_levels(blurred, straight_through=straight_through)
    batch, height, width, channels = images.shape
    pixels = levels.reshape(batch, height * width, channels)
    position = jnp.arange(height * width)[None]
    scan = _swap_in_turn if swap else _copy_in_turn

    def move(i, sources):
        return scan(sources, position + displacements(i))

    # Only positions go through the loop: the pixels are read once, differentiably.
    start = jnp.broadcast_to(position, pixels.shape[:2])
    sources = jax.lax.fori_loop(0, iterations, move, start)
    moved = _take(pixels, sources[..., None]).reshape(images.shape)
    return filters.filter_rows_columns(moved / 255.0, rows, columns)


def draw_displacements(
    key: jax.Array,
    index: jax.Array,
    height: int,
    width: int,
    max_delta: int | jax.Array,
    move_probability: float | jax.Array,
) -> jax.Array:
    """Draws the displacements of `frosted_glass` for one scan, whose key is given.

    int32 `[B, H * W]`, zero where a pixel stays; the last two arguments may be traced.
    """
    draw = functools.partial(
        jax.random.uniform, shape=(height * width,), dtype=jnp.float32
    )
    # One number decides on all: below the probability it is uniform once more.
    uniform = batches.per_image(draw, key, index)
    side = jnp.asarray(2 * max_delta, jnp.int32)
    share = uniform / jnp.maximum(move_probability, 1e-6)
    choice = (share * (side**2).astype(jnp.float32)).astype(jnp.int32)
    choice = jnp.minimum(choice, side**2 - 1)  # The product may be rounded up.
    down, right = choice // side - max_delta, choice % side - max_delta
    row, column = jnp.arange(height)[:, None], jnp.arange(width)[None]
    inside = (row > max_delta) & (row <= height - max_delta)
    inside &= (column > max_delta) & (column <= width - max_delta)
    moves = inside.reshape(1, -1) & (uniform < move_probability)
    return jnp.where(moves, down * width + right, 0)


def _copy_in_turn(sources, targets):
    """Copies `sources[p] = sources[targets[p]]`, p descending; all `[B, H * W]`.

    A pixel gets what its target holds when its turn comes: of a later position what
    that one has copied before, else what has been there from the start. So each
    pixel heads a chain that ends at the first target that is not a later position.
    All chains are followed at once, each round doubling the part that is known.
    """
    position = jnp.arange(targets.shape[1])[None]
    # The end of a chain is stored as -1 - position once it is known.
    reached = jnp.where(targets > position, targets, ~targets)

    def double(reached):
        further = _take(reached, jnp.maximum(reached, 0))
        return jnp.where(reached < 0, reached, further)

    ends = jax.lax.while_loop(lambda reached: jnp.any(reached >= 0), double, reached)
    return _take(sources, ~ends)


def _swap_in_turn(sources, targets):
    """Swaps `sources[p]` and `sources[targets[p]]`, p descending; all `[B, H * W]`."""
    batch, size = targets.shape
    image = jnp.arange(batch)[:, None]

    def swap(step, sources):
        position = size - 1 - step
        here = jnp.full((batch, 1), position, targets.dtype)
        pair = jnp.concatenate([here, targets[:, position, None]], axis=1)
        return sources.at[image, pair].set(sources[image, pair[:, ::-1]])

    return jax.lax.fori_loop(0, size, swap, sources)


def _take(values, positions):
    return jnp.take_along_axis(values, positions, axis=1, mode="promise_in_bounds")


def _gaussian_matrices(shape, settings):
    """Returns the filters along the height and the width, or bands of them."""

    def stack(side):
        matrices = [filters.gaussian_matrix(side, s["sigma"]) for s in settings]
        return filters.band(np.asarray(matrices))

    return stack(shape[0]), stack(shape[1])


gaussian_blur = Operation(
    """Blurs with a Gaussian: weights `exp(-k^2 / (2 sigma^2))`, normalised, both axes.

    The weights reach to `floor(4 sigma + 1/2)` pixels; outside the image its edge
    pixels continue. Linear in `images`.

    Parameters:
        sigma: Standard deviation in pixels, 0 or more.
    """,
    lambda shape, settings: Constants(_gaussian_matrices(shape, settings)),
    lambda key, images, matrices, *_: filters.filter_rows_columns(images, *matrices),
    formula="G(sigma) x",
    source="HD",
    example={"sigma": 0.7},
    is_random=False,
)


def _prepare_defocus(shape, settings):
    """Diagonalises the blurs: cosines are the eigenvectors of a symmetric kernel.

    That holds because an image that is mirrored about its edge pixels is a sum of
    cosines. Two pairs of matrix products then apply a kernel of any size, and no
    Fourier transform is needed.
    """
    waves = [_cosines(np.arange(side), side) for side in shape[:2]]
    gains = []
    for setting in settings:
        batches.check_number("radius", setting["radius"], 1e-3, min(shape[:2]) - 1)
        batches.check_number("alias_blur", setting["alias_blur"], 1e-3)
        kernel = disk_kernel(**setting)
        offsets = np.arange(len(kernel)) - len(kernel) // 2
        rows, columns = (_cosines(offsets, side) for side in shape[:2])
        gains.append(rows.T @ kernel @ columns - 1.0)
    return Constants(np.asarray(gains), (list(map(np.linalg.inv, waves)), waves))


def _cosines(positions, side):
    """Returns float64 `[positions, side]`: the waves `cos(pi position j / (side - 1))`.

    They are all that has the period `2 * (side - 1)` and is even on `side` samples.
    """
    return np.cos(np.pi / (side - 1) * np.outer(positions, np.arange(side)))


def _apply_defocus(key, images, gain, shared, index):
    analysis, synthesis = shared
    spectrum = filters.filter_rows_columns(images, *analysis)
    # Only the change goes through the transform, so that constant areas stay exact.
    change = spectrum * gain[None, :, :, None]
    return images + filters.filter_rows_columns(change, *synthesis)


defocus_blur = Operation(
    """Blurs with a disk, the edge of which is softened by a small Gaussian.

    The disk has weight `1 / N` at the `N` offsets with `x^2 + y^2 <= radius^2`. The
    Gaussian has 3x3 weights (5x5 for radii above 8). It treats the disk as an image
    of 17x17 pixels (of `2 radius + 1` for radii above 8) that is mirrored about its
    edge pixels, and so adds about 1 % to the sum of a disk that touches the edge.
    Images are mirrored about their edge pixels as well. Linear in `images` but for
    the clipping.

    Parameters:
        radius: Of the disk in pixels, above 0, less than the sides of the image.
        alias_blur: Standard deviation of the Gaussian in pixels, above 0.
    """,
    _prepare_defocus,
    _apply_defocus,
    formula="x correlated with a disk of the radius, itself blurred by alias_blur",
    source="HD",
    example={"radius": 1.0, "alias_blur": 0.2},
    is_random=False,
)


def _prepare_glass(shape, settings):
    max_delta = whole_column(settings, "max_delta", 1, (min(shape[:2]) - 1) // 2)
    iterations = whole_column(settings, "iterations", 1)
    swaps = {setting["swap"] for setting in settings}
    if len(swaps) > 1:
        raise ValueError("all severities must agree on swap")
    move_probability = column(settings, "move_probability", 0.0, 1.0)
    matrices = _gaussian_matrices(shape, settings)
    # The structure is static in `apply`, values are not.
    shared = {"swap": ()} if True in swaps else {}
    return Constants((matrices, iterations, max_delta, move_probability), shared)


def _apply_glass(key, images, constants, shared, index, *, straight_through=False):
    matrices, iterations, *parameters = constants
    sides = images.shape[1:3]

    def displacements(i):
        return draw_displacements(
            jax.random.fold_in(key, i), index, *sides, *parameters
        )

    return frosted_glass(
        images, *matrices, displacements, iterations,
        swap="swap" in shared, straight_through=straight_through,
    )  # fmt: skip


glass_blur = Operation(
    """Blurs, moves pixels at random by a few places, and blurs again: frosted glass.

    Between the two Gaussian blurs the image is truncated to 8 bits and scanned
    `iterations` times from the lower right to the upper left, leaving out a border:
    `h = H - d .. d + 1`, `w = W - d .. d + 1` with `d = max_delta`. At each step
    `x[h, w] = x[h + dy, w + dx]`, with `dx` and `dy` uniform in `-d .. d - 1`, reads
    what earlier steps have written. The benchmarks for colour images have copied
    instead of swapped by mistake; the one for MNIST swaps (Mu & Gilmer, 2019).

    Parameters:
        sigma: Standard deviation of either Gaussian in pixels, 0 or more.
        max_delta: Whole number, 1 or more, less than half of the sides of the image.
        iterations: Whole number, 1 or more.
        swap: Exchange the two pixels, instead of copying one to the other. Slower:
            the pixels are then visited one after another.
        move_probability: In `[0, 1]`: how likely a pixel takes part at each step.
        straight_through: Static. Pass gradients as if nothing was truncated;
            otherwise the gradient in `images` is zero.
    """,
    _prepare_glass,
    _apply_glass,
    formula="G(sigma), pixels displaced by up to max_delta in a sequential scan, "
    "iterations times, G(sigma); the scan copies a pixel where it meant to swap two, "
    "as in the published files",
    source="HD",
    example={"sigma": 0.4, "max_delta": 1, "iterations": 1},
    defaults={"swap": False, "move_probability": 1.0},
    options=("straight_through",),
)


def _prepare_motion(shape, settings):
    taps = 2 * whole_column(settings, "radius", 0, max(shape[:2])) + 1
    weights = [filters.motion_weights(**s, taps=max(taps)) for s in settings]
    return Constants((np.asarray(weights), taps))


def _apply_motion(key, images, constants, shared, index, *, straight_through=False):
    draw = functools.partial(
        jax.random.uniform, dtype=jnp.float32, minval=-45.0, maxval=45.0
    )
    angles = batches.per_image(draw, key, index)
    levels = grey_levels(images, straight_through=straight_through)
    levels = filters.blur_along_line(
        levels, angles, *constants, straight_through=straight_through
    )
    return levels / 255.0


motion_blur = Operation(
    """Blurs along a line in a random direction, `U(-45, 45)` degrees per image.

    The weights are half a Gaussian, so that the content shifts as well. The image is
    truncated to 8 bits before and after: see `filters.blur_along_line`, which does
    what `MotionBlurImage` of ImageMagick does.

    Parameters:
        radius: Whole number from 0 to the larger side of the image: the line is
            `2 * radius + 1` pixels long.
        sigma: Standard deviation of the Gaussian in pixels, above 0.
        straight_through: Static. Pass gradients as if nothing was truncated;
            otherwise the gradient in `images` is zero.
    """,
    _prepare_motion,
    _apply_motion,
    formula="half a Gaussian of the sigma along a random angle within 45 degrees of "
    "the horizontal, 2 radius + 1 taps at whole pixels, floored to levels",
    source="HD",
    example={"radius": 6, "sigma": 2.0},
    options=("straight_through",),
)


def _prepare_zoom(shape, settings):
    for setting in settings:
        if not isinstance(setting["factors"], tuple) or not setting["factors"]:
            raise ValueError(
                f"factors must hold at least one number: {setting['factors']!r}"
            )
    counts = [len(setting["factors"]) for setting in settings]

    def samples(side):
        start = np.zeros((len(settings), max(counts), side), np.int32)
        share = np.zeros(start.shape)
        for i, setting in enumerate(settings):
            for j, factor in enumerate(setting["factors"]):
                start[i, j], share[i, j] = filters.clipped_zoom_samples(side, factor)
        return start, share

    rows, columns = map(samples, shape[:2])
    return Constants((rows, columns, np.asarray(counts)))


def _apply_zoom(key, images, constants, shared, index):
    rows, columns, count = constants
    batch, height, width, channels = images.shape
    # With batch and channels last the interpolation reads contiguous runs of numbers.
    # The batch is the first of the two, so that it may be sharded.
    still = images.transpose(1, 2, 0, 3).reshape(height, width, -1)

    def enlarge(values, samples, axis):
        start, share = samples
        first, second = (
            jnp.take(values, position, axis=axis, mode="clip")
            for position in (start, start + 1)
        )
        return first + jnp.expand_dims(share, (1 - axis, 2)) * (second - first)

    def zoom(rows, columns):
        return enlarge(enlarge(still, rows, 0), columns, 1)

    def step_by_step(steps):
        def add(total, step):
            i, rows, columns = step
            # A loop of `count` steps could not be differentiated.
            total = jax.lax.cond(
                i < count, lambda: total + zoom(rows, columns), lambda: total
            )
            return total, None

        return jax.lax.scan(add, still, steps)[0]

    def at_once(steps):
        # One kernel, which finds the image in the cache, in place of many that each
        # move all of it.
        total = still
        for i in range(len(rows[0])):
            samples = jax.tree.map(lambda x, i=i: x[i], (rows, columns))
            total = total + jnp.where(i < count, zoom(*samples), 0.0)
        return total

    steps = (jnp.arange(len(rows[0])), rows, columns)
    total = jax.lax.platform_dependent(steps, cpu=step_by_step, default=at_once)
    mean = total / (count + 1).astype(jnp.float32)
    return mean.reshape(height, width, batch, channels).transpose(2, 0, 1, 3)


zoom_blur = Operation(
    """Averages the image and enlargements of its centre: `(x + sum zoom(x)) / (n + 1)`.

    Each enlargement interpolates linearly; see `filters.clipped_zoom_samples`. Linear
    in `images`.

    Parameters:
        factors: The `n` factors, each 1 or more.
    """,
    _prepare_zoom,
    _apply_zoom,
    formula="mean of x and of its centre enlarged by each factor",
    source="HD",
    example={"factors": (1.0, 1.05, 1.1)},
    is_random=False,
)
