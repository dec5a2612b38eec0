"""FAB: steps to linearised boundaries inside the box, biased to the clean image."""

from collections import namedtuple

import jax
import jax.numpy as jnp

from uronet_jax.attacks import balls, loop
from uronet_jax.attacks.attack import in_all_norms
from uronet_jax.attacks.deepfool import nearest_boundary
from uronet_jax.attacks.objectives import (
    LogitsFn,
    is_wrong,
    likeliest,
    prepare_classifier,
)

# Starts lie within half of these where neither epsilon nor a perturbation is known.
_START = {"linf": 0.3, "l2": 1.0}
# Norms from here on are told from zero.
_SMALLEST = 1e-8


_Config = namedtuple("_Config", "norm targeted")
_Constants = namedtuple(
    "_Constants",
    "key index origin logits_fn labels steps runs start_norm goal_norm alpha_max "
    "eta beta",
)
_State = namedtuple("_State", "images active finite rivals best_images best_norm")


def fab(
    key: jax.Array,
    images: jax.Array,
    logits_fn: LogitsFn,
    labels: jax.Array,
    *,
    norm: str = "linf",
    steps: int | jax.Array = 100,
    restarts: int | jax.Array = 0,
    targets: int | None = None,
    epsilon: float | jax.Array | None = None,
    alpha_max: float | jax.Array = 0.1,
    eta: float | jax.Array = 1.05,
    beta: float | jax.Array = 0.9,
    index: jax.Array | None = None,
) -> jax.Array:
    """Fast adaptive boundary attack: the smallest perturbation that misclassifies.

    Let `d` and `d0` be the smallest perturbations of the iterate `x` and of the clean
    image `x0` that reach the nearest linearised boundary without leaving the box. Then
    `x <- clip((1 - a)(x + eta d) + a (x0 + eta d0))` with
    `a = min(|d| / (|d| + |d0|), alpha_max)`. Where that is misclassified it is kept if
    it is the nearest so far, and `x <- x0 + beta (x - x0)`. As in AutoAttack, and
    unlike in the paper, there is no final search on the line to the clean image.

    The first run starts at the clean image. The others start at a uniform point of the
    ball of half the norm of the best perturbation, or of half `epsilon` if that is
    smaller; where neither is known, of 0.15 in Linf and 0.5 in L2. (The paper starts on
    the surface of that ball.)

    Args:
        key: Typed PRNG key of the starts; one serves the whole batch.
        images: `[B, H, W, C]`, floating point, in `[0, 1]`.
        logits_fn: `[B, H, W, C] -> [B, K]`; see `objectives`.
        labels: Integer `[B]`, the right ones.
        norm: `linf` or `l2`.
        steps: How many in a run; may be traced.
        restarts: Runs after the first; may be traced.
        targets: None: each step goes to the nearest of all classes, which takes the
            gradients of all. Or how many of the likeliest wrong classes, at most all,
            get a run and its restarts, with one gradient in a step; any wrong class
            counts.
        epsilon: None, or the norm within which a perturbation is small enough, so that
            its image is done; a scalar or `[B]`, may be traced.
        alpha_max: Largest weight of the clean image, in `[0, 1]`; may be traced.
        eta: Overshoot, at least 1; may be traced.
        beta: How far back to the clean image, in `[0, 1]`; may be traced.
        index: Integer `[B]`, number that each image draws with; default `0 .. B-1`.

    Returns:
        Adversarial images, `[B, H, W, C]`, float32 in `[0, 1]`. Images that are already
        misclassified, and those for which nothing was found, are returned unchanged.

    Raises:
        ValueError: If an argument is wrong, or outside jit if a gradient is not finite.

    Source:
        Croce & Hein, "Minimally distorted adversarial examples with a fast adaptive
        boundary attack", ICML 2020.
    """
    budget = 0.0 if epsilon is None else epsilon
    images, index = loop.prepare_images(images, index, norm, budget, steps, restarts)
    known = epsilon is not None
    start_norm, goal_norm = (epsilon, epsilon) if known else (_START[norm], -1.0)
    loop.check_parameter("eta", eta, 1.0)
    loop.check_parameter("alpha_max", alpha_max, high=1.0)
    loop.check_parameter("beta", beta, high=1.0)
    logits_fn, labels, classes = prepare_classifier(logits_fn, labels, images)
    rivals = classes - 1
    if targets is not None:
        loop.check_count("targets", targets)
        rivals = min(targets, rivals)
    runs = (1 if targets is None else rivals) * (restarts + 1)
    state = loop.iterate(
        _step,
        _Config(norm, targets is not None),
        _Constants(
            key,
            index,
            images,
            logits_fn,
            labels,
            *loop.arrays(jnp.int32, steps, restarts + 1),
            *loop.arrays(images.dtype, start_norm, goal_norm, alpha_max, eta, beta),
        ),
        loop.begin(_State, images, rivals=jnp.zeros((len(images), rivals), jnp.int32)),
        steps * runs,
    )
    return loop.finish(state.best_images, state.finite)


def _step(config: _Config, constants: _Constants, i: jax.Array, state: _State):
    run, j = i // constants.steps, i % constants.steps
    labels, origin = constants.labels, constants.origin
    images = jax.lax.cond(
        j == 0, lambda: _start(config, constants, run, state), lambda: state.images
    )
    logits, pull = jax.vjp(constants.logits_fn, images)
    first = likeliest(logits, labels, state.rivals.shape[1])
    rivals = jnp.where(i == 0, first, state.rivals)
    active = state.active & ~((i == 0) & is_wrong(logits, labels))
    chosen = rivals
    if config.targeted:
        target = run // constants.runs
        chosen = jax.lax.dynamic_slice_in_dim(rivals, target, 1, axis=1)
    nearest = nearest_boundary(pull, logits, labels, chosen, config.norm)

    moved = _move(config, constants, images, nearest)
    moved_logits = constants.logits_fn(moved)
    finite = nearest.finite & jnp.isfinite(moved_logits).all(axis=-1)
    finite = state.finite & (finite | ~active)
    active = active & finite
    success = is_wrong(moved_logits, labels)
    norm = balls.size(moved - origin, config.norm)
    better = active & success & (norm < state.best_norm)
    best_norm = jnp.where(better, norm, state.best_norm)
    back = origin + constants.beta * (moved - origin)
    return _State(
        images=balls.where(active, balls.where(success, back, moved), images),
        active=active & (best_norm > constants.goal_norm),
        finite=finite,
        rivals=rivals,
        best_images=balls.where(better, moved, state.best_images),
        best_norm=best_norm,
    )


def _start(config, constants, run, state):
    def draw():
        radius = jnp.minimum(constants.start_norm, state.best_norm) / 2
        key = jax.random.fold_in(constants.key, run)
        shape = constants.origin.shape[1:]
        unit = balls.draw_uniform(key, constants.index, shape, config.norm)
        moved = constants.origin + balls.expand(radius, constants.origin) * unit
        return jnp.clip(moved, 0.0, 1.0)

    first = run % constants.runs == 0
    return jax.lax.cond(first, lambda: constants.origin, draw)


def _move(config, constants, images, nearest):
    origin, normal = constants.origin, nearest.gradient
    between = jnp.sum((normal * (origin - images)).reshape(len(images), -1), axis=-1)
    values = (nearest.difference, nearest.difference + between)
    ours, theirs = (
        to_hyperplane(points, normal, value, config.norm)
        for points, value in zip((images, origin), values, strict=True)
    )
    sizes = [jnp.maximum(balls.size(x, config.norm), _SMALLEST) for x in (ours, theirs)]
    alpha = jnp.minimum(sizes[0] / (sizes[0] + sizes[1]), constants.alpha_max)
    alpha = balls.expand(alpha, images)
    moved = (1 - alpha) * (images + constants.eta * ours) + alpha * (
        origin + constants.eta * theirs
    )
    return jnp.clip(moved, 0.0, 1.0)


def to_hyperplane(
    points: jax.Array, normal: jax.Array, value: jax.Array, norm: str
) -> jax.Array:
    """Returns the smallest perturbations from points to hyperplanes within the box.

    They solve `min |d|` with `value + <normal, d> = 0` and `points + d` in `[0, 1]`,
    all `[B, H, W, C]` but the values `[B]` of the linear function at the points; where
    the hyperplane misses the box they go as near as it allows. Every coordinate goes
    the same way relative to `normal`, by `min(t v, room)` with `v = 1` in Linf and
    `|normal|` in L2. What is gained is piecewise linear and concave in `t`, so Newton's
    method from 0 rises to the exact solution in finitely many steps: mostly fewer than
    ten, and cheaper than to sort the coordinates.
    """
    # Squares of small gradients would underflow.
    scale = jnp.maximum(balls.size(normal, "linf"), jnp.finfo(points.dtype).tiny)
    normal = normal / balls.expand(scale, points)
    way = -jnp.sign(normal) * balls.expand(jnp.sign(value), points)
    room = jnp.where(way > 0, 1 - points, points)
    weight = jnp.abs(normal)
    speed = weight if norm == "l2" else jnp.ones_like(weight)
    goal = jnp.abs(value) / scale

    def total(values):
        return jnp.sum(values.reshape(values.shape[0], -1), axis=-1)

    def rise(t):
        full = balls.expand(t, points) * speed >= room
        rate = total(jnp.where(full, 0.0, weight * speed))
        rest = goal - total(jnp.where(full, weight * room, 0.0))
        higher = rest / jnp.where(rate > 0, rate, 1.0)
        return jnp.where(rate > 0, jnp.maximum(higher, t), t)

    zero = jnp.zeros_like(goal)
    t, _ = jax.lax.while_loop(
        lambda carry: (carry[0] > carry[1]).any(),
        lambda carry: (rise(carry[0]), carry[0]),
        (rise(zero), zero),
    )
    return way * jnp.minimum(balls.expand(t, points) * speed, room)


FAB_ATTACKS = in_all_norms(
    "fab",
    fab,
    minimal=True,
    class_gradients=True,
    defaults={"steps": 100},
    about="projections to linearised boundaries, drawn towards the image",
    source="Croce & Hein, ICML 2020",
)
