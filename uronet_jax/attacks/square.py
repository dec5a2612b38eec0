"""Square: a random search over square windows, which needs no gradients."""

import math
from collections import namedtuple

import jax
import jax.numpy as jnp
import numpy as np

from uronet_jax import batches
from uronet_jax.attacks import balls, loop
from uronet_jax.attacks.attack import in_all_norms
from uronet_jax.attacks.objectives import LossFn

# The share of the image that a window covers is halved after each of these proposals,
# of a search of 10,000.
_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
_FULL_LENGTH = 10_000
# Tiles along the shorter side of the first perturbation in L2, and its least window.
_TILES, _LEAST_L2 = 5, 3
# Keeps 0 / 0 out of unit vectors.
_TINY = 1e-12


_Constants = namedtuple(
    "_Constants", "key index origin loss_fn epsilon steps halvings sides bumps"
)
_State = namedtuple("_State", "best_images best_loss active finite result result_loss")
# The bumps side by side, `[H, W]`, and which tile a row or a column is in.
_Tiling = namedtuple("_Tiling", "bumps transposed rows columns")


def square(
    key: jax.Array,
    images: jax.Array,
    loss_fn: LossFn,
    *,
    epsilon: float | jax.Array,
    norm: str = "linf",
    steps: int | jax.Array = 5000,
    initial_share: float = 0.8,
    rescale_schedule: bool = False,
    restarts: int = 0,
    index: jax.Array | None = None,
) -> jax.Array:
    """Square attack: changes one random window at a time, keeps what raises the loss.

    A window has the side `sqrt(share * H * W)`, rounded; the share falls from
    `initial_share` by halves. An image stays at its first success, if `loss_fn` tells
    success.

    In L-inf the start is vertical stripes of `+-epsilon`. A proposal adds
    `+-2 epsilon`, one sign per channel, in the window and projects to the ball and to
    `[0, 1]`. In L2 the start is a tiling of bumps, each half positive and half
    negative. A proposal adds a bump to the window and gives it the norm of a second
    window, which becomes zero, and what the perturbation lacks to `epsilon`; in each
    channel.

    Two things differ from the authors' code. Each image draws its own windows and
    signs, where one draw served the whole batch. And a window may lie at every
    position, as the paper says, where the code leaves out the last row and column.

    The usual loss is the margin; its gradient is never taken. A run makes `steps`
    proposals, each one evaluation after that of the start. `initial_share` is in
    `(0, 1]` and known when compiling. With `rescale_schedule` the share falls over
    `steps` proposals as it does over 10,000 otherwise; AutoAttack does not rescale.
    `restarts` are for images without success, and the highest loss is kept. The other
    arguments, the result and the errors are those of `pgd`.

    Source:
        Andriushchenko et al., "Square Attack: a query-efficient black-box adversarial
        attack via random search", ECCV 2020.
    """
    images, index = loop.prepare_images(images, index, norm, epsilon, steps, restarts)
    height, width = images.shape[1:3]
    _check_share(initial_share)
    loss_fn = loop.check_loss(loss_fn, images)
    sides = _window_sides(initial_share, height, width, norm)
    state = loop.iterate(
        _step,
        norm,
        _Constants(
            key,
            index,
            images,
            loss_fn,
            balls.expand(epsilon, images),
            jnp.asarray(steps, jnp.int32),
            _halvings(steps, rescale_schedule),
            jnp.asarray(sides, jnp.int32),
            jnp.asarray(_bumps(sides), images.dtype) if norm == "l2" else None,
        ),
        loop.begin(_State, images),
        (steps + 1) * (restarts + 1),
    )
    return loop.finish(state.result, state.finite)


def _step(norm: str, constants: _Constants, i: jax.Array, state: _State):
    run, j = i // (constants.steps + 1), i % (constants.steps + 1)
    first = j == 0
    key = jax.random.fold_in(jax.random.fold_in(constants.key, run), j)
    start, start_count, propose, propose_count = _SEARCHES[norm]
    shape = constants.origin.shape[1:]
    # One draw for both: threefry takes a CPU compiler long.
    numbers = _uniform(constants, key, max(start_count(*shape), propose_count(*shape)))
    images = jax.lax.cond(
        first,
        lambda: start(constants, numbers[:, : start_count(*shape)]),
        lambda: propose(constants, numbers, j - 1, state.best_images),
    )
    loss, success = loop.loss_and_success(constants.loss_fn, images)
    finite = jnp.isfinite(loss)
    success = success & finite & state.active
    better = success | first | (loss > state.best_loss)
    take = success | (state.active & (loss > state.result_loss))
    return _State(
        best_images=balls.where(better, images, state.best_images),
        best_loss=jnp.where(better, loss, state.best_loss),
        active=state.active & ~success,
        finite=state.finite & (finite | ~state.active),
        result=balls.where(take, images, state.result),
        result_loss=jnp.where(take, loss, state.result_loss),
    )


def _start_linf(constants, numbers):
    origin, epsilon = constants.origin, constants.epsilon
    signs = _signs(numbers).reshape(-1, 1, *origin.shape[2:])
    return balls.move(origin, epsilon * signs, origin, "linf", epsilon)


def _propose_linf(constants, numbers, query, images):
    side = constants.sides[_level(constants, query)]
    window = _window(numbers[:, 0], numbers[:, 1], side, images)[0]
    signs = _signs(numbers[:, 2 : 2 + images.shape[3]])
    step = 2 * constants.epsilon * signs[:, None, None] * window
    return balls.move(images, step, constants.origin, "linf", constants.epsilon)


def _start_l2(constants, numbers):
    _, height, width, channels = constants.origin.shape
    tiling = _tiling(height, width)
    rows, columns = tiling.rows.max() + 1, tiling.columns.max() + 1
    numbers = numbers.reshape(-1, rows, columns, 1 + channels)
    numbers = numbers[:, tiling.rows][:, :, tiling.columns]
    bumps = jnp.where(
        numbers[..., :1] < 0.5, tiling.transposed[..., None], tiling.bumps[..., None]
    )
    perturbation = bumps * _signs(numbers[..., 1:])
    length = balls.expand(balls.size(perturbation, "l2"), perturbation)
    return _perturbed(constants, perturbation / (length + _TINY) * constants.epsilon)


def _propose_l2(constants, numbers, query, images):
    level = _level(constants, query)
    side = constants.sides[level]
    channels = images.shape[3]
    window, rows, columns = _window(numbers[:, 0], numbers[:, 1], side, images)
    emptied = _window(numbers[:, 2], numbers[:, 3], side, images)[0]
    either = jnp.maximum(window, emptied)
    perturbation = images - constants.origin
    missing = constants.epsilon**2 - jnp.sum(
        perturbation**2, axis=(1, 2, 3), keepdims=True
    )
    norm = jnp.sqrt(_energy(perturbation * either) + jnp.maximum(missing, 0) / channels)
    bump = _bump_at(constants.bumps[level], rows, columns, numbers[:, 4] < 0.5)
    signs = _signs(numbers[:, 5 : 5 + channels])[:, None, None]
    new = signs * bump[..., None] * window + _unit(perturbation * window)
    return _perturbed(constants, perturbation * (1 - either) + _unit(new) * norm)


def _tile_count(height, width, channels):
    side = _tile_side(height, width)
    return (height // side) * (width // side) * (1 + channels)


# Start and proposal, each with the numbers that it draws for an image [H, W, C].
_SEARCHES = {
    "linf": (_start_linf, lambda h, w, c: w * c, _propose_linf, lambda h, w, c: 2 + c),
    "l2": (_start_l2, _tile_count, _propose_l2, lambda h, w, c: 5 + c),
}


def _perturbed(constants, perturbation):
    inside = balls.project(perturbation, "l2", constants.epsilon)
    return jnp.clip(constants.origin + inside, 0.0, 1.0)


def _energy(perturbation):
    """Returns the squared norm of each channel, `[B, 1, 1, C]`."""
    return jnp.sum(perturbation**2, axis=(1, 2), keepdims=True)


def _unit(perturbation):
    """Returns each channel at unit norm, or zero."""
    return perturbation / (jnp.sqrt(_energy(perturbation)) + _TINY)


def _uniform(constants, key, count):
    """Draws so many numbers in `[0, 1)` for each image."""

    def draw(key):
        return jax.random.uniform(key, (count,), constants.origin.dtype)

    return batches.per_image(draw, key, constants.index)


def _signs(numbers):
    return jnp.where(numbers < 0.5, -1.0, 1.0).astype(numbers.dtype)


def _level(constants, query):
    return jnp.sum(query >= constants.halvings)


def _window(vertical, horizontal, side, images):
    """Returns each image's window as a mask, and all coordinates relative to it.

    Places `[B]` go from 0 (top, left) to 1. The mask is `[B, H, W, 1]`, rows and
    columns are `[B, H]` and `[B, W]`.
    """

    def along(place, length):
        begin = jnp.floor(place * (length - side + 1)).astype(jnp.int32)
        return jnp.arange(length)[None] - begin[:, None]

    rows = along(vertical, images.shape[1])
    columns = along(horizontal, images.shape[2])
    inside = ((rows >= 0) & (rows < side))[:, :, None]
    inside = inside & ((columns >= 0) & (columns < side))[:, None]
    return inside[..., None].astype(images.dtype), rows, columns


def _bump_at(bump, rows, columns, transposed):
    """Returns the bump, or its transposed one, at each image's window coordinates."""
    last = bump.shape[0] - 1
    rows, columns = (jnp.clip(x, 0, last) for x in (rows, columns))
    upright = bump[rows[:, :, None], columns[:, None]]
    turned = bump[columns[:, None], rows[:, :, None]]
    return jnp.where(transposed[:, None, None], turned, upright)


def _halvings(steps, rescale):
    """Returns the proposals, from 0, at which the share is halved, int32 `[9]`."""
    after = np.array(_HALVINGS, np.int32) + 1
    if not rescale:
        return jnp.asarray(after)
    # Rounded up. The product of both numbers could overflow.
    whole, rest = steps // _FULL_LENGTH, steps % _FULL_LENGTH
    return jnp.asarray(after * whole - (-after * rest) // _FULL_LENGTH, jnp.int32)


def _window_sides(initial_share, height, width, norm):
    """Returns the side of a window after 0, 1, ... 9 halvings."""
    sides = []
    for level in range(len(_HALVINGS) + 1):
        side = round(math.sqrt(initial_share / 2**level * height * width))
        if norm == "l2":
            side = max(side, _LEAST_L2)
            side += side % 2 == 0
        side = max(side, 1)
        longest = min(height, width)
        if norm == "l2" and longest % 2 == 0:
            longest = max(longest - 1, 1)
        sides.append(min(side, longest))
    return sides


def _bumps(sides):
    """Returns the bump of each side in the corner of a square, `[levels, S, S]`."""
    bumps = np.zeros((len(sides), max(sides), max(sides)))
    for bump, side in zip(bumps, sides, strict=True):
        bump[:side, :side] = _bump(side)
    return bumps


def _bump(side):
    """Returns the perturbation of a window: two peaks of opposite signs, norm 1.

    A peak is highest in the middle and falls with the larger of the distances along
    rows and columns, d, as the sum of 1 / k^2 over k from d + 1 to `side // 2 + 1`.
    """
    half = side // 2
    upper, lower = _peak(half, side), _peak(side - half, side)
    bump = np.concatenate([upper, -lower])
    return bump / np.linalg.norm(bump)


def _peak(rows, columns):
    far = max(rows, columns) // 2
    tails = np.cumsum(1 / np.arange(far + 1, 0, -1) ** 2)[::-1]
    distance = np.maximum(
        np.abs(np.arange(rows) - rows // 2)[:, None],
        np.abs(np.arange(columns) - columns // 2)[None],
    )
    peak = tails[distance]
    return peak / max(np.linalg.norm(peak), _TINY)


def _tile_side(height, width):
    return max(min(height, width) // _TILES, 1)


def _tiling(height, width):
    side = _tile_side(height, width)

    def places(length):
        tiles = length // side
        place = np.arange(length) - (length - tiles * side) // 2
        covered = (place >= 0) & (place < tiles * side)
        return place % side, np.clip(place // side, 0, tiles - 1), covered

    (y, rows, inside_y), (x, columns, inside_x) = places(height), places(width)
    bump = np.float32(_bump(side))
    inside = np.float32(inside_y[:, None] & inside_x[None])
    upright, turned = bump[y[:, None], x[None]], bump[x[None], y[:, None]]
    return _Tiling(upright * inside, turned * inside, rows, columns)


def _check_share(share):
    name = "initial_share, known when compiling,"
    batches.check_number(name, share, high=1.0, above=0.0)


SQUARE_ATTACKS = in_all_norms(
    "square",
    square,
    loss="margin",
    defaults={"steps": 5000},
    gradient_free=True,
    about="random squares, no gradient; keeps what raises the margin loss",
    source="Andriushchenko et al., ECCV 2020",
)
