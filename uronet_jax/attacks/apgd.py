"""APGD, the gradient attack of AutoAttack: momentum, and step sizes that adapt."""

import functools
from collections import namedtuple

import jax
import jax.numpy as jnp

from uronet_jax.attacks import balls, loop
from uronet_jax.attacks.adaptive import without_success
from uronet_jax.attacks.attack import in_all_norms
from uronet_jax.attacks.objectives import (
    LEAST_CLASSES,
    LogitsFn,
    LossFn,
    is_wrong,
    likeliest,
    margin,
    prepare_classifier,
    targeted_misclassification,
)

# Share of the gradient step in a move; the rest repeats the move before.
_MOMENTUM = 0.75
# Steps between checkpoints, in hundredths of all steps: before the first checkpoint,
# how many fewer before each further one, and at least.
_FIRST, _FEWER, _LEAST = 22, 3, 6


_Config = namedtuple("_Config", "norm samples stop_early")
_Constants = namedtuple("_Constants", "key index origin loss_fn epsilon steps rho")
# Of this run, and from `active` on of all runs.
_State = namedtuple(
    "_State",
    "images before loss best_images best_gradient best_loss step_size rises halved "
    "checked_loss period checkpoint active finite succeeded result result_loss",
)


def apgd(
    key: jax.Array,
    images: jax.Array,
    loss_fn: LossFn,
    *,
    epsilon: float | jax.Array,
    norm: str = "linf",
    steps: int | jax.Array = 100,
    restarts: int = 0,
    samples: int = 0,
    rho: float | jax.Array = 0.75,
    stop_early: bool = True,
    index: jax.Array | None = None,
) -> jax.Array:
    """Auto-PGD: projected gradient ascent that needs no step size.

    It starts on the surface of the ball, in a random direction. With d the sign of the
    gradient (in L2 the gradient at unit length), P the projection to the ball and then
    to `[0, 1]`, and a = 3/4 (1 in the first step):

        z = P(x_i + step * d)
        x_{i+1} = P(x_i + a (z - x_i) + (1 - a) (x_i - x_{i-1}))

    The step is `2 epsilon` at first. At each checkpoint (of 100 steps after 22, 41, 57,
    70, 80, 87, 93 and 99) it is halved for the images whose loss rose in at most `rho`
    of the steps since the last one, or whose highest loss has not risen since then
    though the step was not halved there; they go on from their best iterate.

    If `loss_fn` tells success, the result is the last successful iterate; otherwise
    that of the highest loss. The authors' code goes on to the last step where
    `stop_early` stops, which finds no further success; and it compares the loss after
    the first step with zero, where this compares it with the loss at the start.

    A run evaluates one gradient more than it takes `steps`, and `restarts` are for
    images without success. `rho`, 0 or more, may be traced. With `stop_early` an image
    stays at its first success; otherwise it goes on to the end of the run. The other
    arguments, the result and the errors are those of `pgd`.

    Source:
        Croce & Hein, "Reliable evaluation of adversarial robustness with an ensemble of
        diverse parameter-free attacks", ICML 2020.
    """
    usual = (index, epsilon, norm, steps, restarts, rho, samples, stop_early)
    state = _ascend(key, images, loss_fn, *usual)
    return loop.finish(state.result, state.finite)


# The best images of all targets so far; arrays `[B]` but the images.
_Best = namedtuple("_Best", "images margin succeeded finite")


def apgd_targeted(
    key: jax.Array,
    images: jax.Array,
    logits_fn: LogitsFn,
    labels: jax.Array,
    *,
    epsilon: float | jax.Array,
    norm: str = "linf",
    steps: int | jax.Array = 100,
    targets: int = 9,
    restarts: int = 0,
    rho: float | jax.Array = 0.75,
    stop_early: bool = True,
    index: jax.Array | None = None,
) -> jax.Array:
    """Targeted Auto-PGD: `apgd` of the targeted DLR loss, for one class after another.

    The targets are the wrong classes of the largest logits at the clean image, in
    falling order: `targets` of them, or all. Any wrong label counts, and an image stays
    at its first one, also if it has one already. Where none is found, or without
    `stop_early`, where every run goes to its end, the image of the largest margin,
    `max_{k != y} Z_k - Z_y`, is returned, of the clean image and the best of each
    target.

    `logits_fn` maps images to `[B, K]`, at least four classes; `labels` are the right
    ones, integer `[B]`. The other arguments, the result and the errors are those of
    `apgd`, and the restarts are those of each target.

    Source:
        Croce & Hein, "Reliable evaluation of adversarial robustness with an ensemble of
        diverse parameter-free attacks", ICML 2020: APGD-T of AutoAttack.
    """
    images, index = loop.prepare_images(images, index, norm, epsilon, steps, restarts)
    loop.check_parameter("rho", rho)
    loop.check_count("targets", targets)
    logits_fn, labels, classes = prepare_classifier(logits_fn, labels, images)
    best, ranked = _rank(logits_fn, labels, images, min(targets, classes - 1))
    if not stop_early:
        best = best._replace(succeeded=jnp.zeros_like(best.succeeded))

    def pursue(best, number, pursued):
        loss_fn = targeted_misclassification(logits_fn, labels, pursued)
        state = _ascend(
            jax.random.fold_in(key, number),
            # Without a budget an image that has succeeded is done at once.
            balls.where(best.succeeded, best.images, images),
            loss_fn if stop_early else without_success(loss_fn),
            index,
            jnp.where(best.succeeded, 0.0, epsilon),
            *(norm, steps, restarts, rho),
            samples=0,
            stop_early=True,
        )
        return _better(logits_fn, labels, best, state)

    if loop.is_traced((key, ranked, epsilon, steps, rho)):
        numbers = jnp.arange(ranked.shape[1])
        best, _ = jax.lax.scan(
            lambda best, run: (pursue(best, *run), None), best, (numbers, ranked.T)
        )
        return loop.finish(best.images, best.finite)
    for number in range(ranked.shape[1]):
        if best.succeeded.all():
            break
        best = pursue(best, number, ranked[:, number])
    return loop.finish(best.images, best.finite)


@functools.partial(jax.jit, static_argnums=3)
def _rank(logits_fn, labels, images, count):
    """Returns what is known of clean images, and their likeliest wrong classes."""
    logits = logits_fn(images)
    finite = jnp.isfinite(logits).all(axis=-1)
    best = _Best(images, margin(logits, labels), is_wrong(logits, labels), finite)
    return best, likeliest(logits, labels, count)


@jax.jit
def _better(logits_fn, labels, best, state):
    found = margin(logits_fn(state.result), labels)
    better = state.succeeded | (found > best.margin)
    better = better & ~best.succeeded
    return _Best(
        balls.where(better, state.result, best.images),
        jnp.where(better, found, best.margin),
        best.succeeded | state.succeeded,
        best.finite & state.finite,
    )


def _ascend(
    key,
    images,
    loss_fn,
    index,
    epsilon,
    norm,
    steps,
    restarts,
    rho,
    samples,
    stop_early,
):
    """Returns the state after all runs; the arguments are those of `apgd`."""
    images, index = loop.prepare_images(
        images, index, norm, epsilon, steps, restarts, samples
    )
    loop.check_parameter("rho", rho)
    loss_fn = loop.check_loss(loss_fn, images)
    count = len(images)
    zeros = jnp.zeros(count, images.dtype)
    nothing = jnp.zeros(count, bool)
    return loop.iterate(
        _step,
        _Config(norm, samples, bool(stop_early)),
        _Constants(
            key,
            index,
            images,
            loss_fn,
            balls.expand(epsilon, images),
            jnp.asarray(steps, jnp.int32),
            jnp.asarray(rho, images.dtype),
        ),
        loop.begin(
            _State,
            images,
            before=images,
            loss=zeros,
            best_gradient=jnp.zeros_like(images),
            step_size=zeros,
            rises=jnp.zeros(count, jnp.int32),
            halved=nothing,
            checked_loss=zeros,
            period=jnp.int32(0),
            checkpoint=jnp.int32(0),
            succeeded=nothing,
        ),
        (steps + 1) * (restarts + 1),
        per_image=("index", "origin", "epsilon"),
    )


def _step(config: _Config, constants: _Constants, i: jax.Array, state: _State):
    run, j = i // (constants.steps + 1), i % (constants.steps + 1)
    state = _begin(config, constants, run, j == 0, state)
    result = loop.evaluate_step(constants, i, state.images, config.samples)
    state = _record(config, state, result, j == 0)
    state, gradient = _adapt(constants, state, result.gradient, j)
    return _move(config, constants, state, gradient, j == 0)


def _begin(config, constants, run, first, state):
    """Starts a run, if this is its first step, for the images without success."""

    def start():
        key = jax.random.fold_in(constants.key, run)
        origin, index = constants.origin, constants.index
        shape = origin.shape[1:]
        draw = balls.draw_uniform(key, index, shape, config.norm, on_surface=True)
        moved = origin + constants.epsilon * draw.astype(origin.dtype)
        return jnp.clip(moved, 0.0, 1.0)

    steps = constants.steps
    images = jax.lax.cond(first, start, lambda: state.images)
    period = jnp.where(first, _hundredths(steps, _FIRST), state.period)
    return state._replace(
        images=images,
        before=jnp.where(first, images, state.before),
        step_size=jnp.where(first, 2 * constants.epsilon.reshape(-1), state.step_size),
        halved=state.halved | first,
        period=period,
        checkpoint=jnp.where(first, period, state.checkpoint),
        active=state.active & ~(first & state.succeeded),
    )


def _record(config, state, result, first):
    """Notes the loss at the iterate, whether it rose, and the best ones."""
    loss = result.loss
    better = first | (loss > state.best_loss)
    best_loss = jnp.where(better, loss, state.best_loss)
    success = state.active & result.success
    take = success | (state.active & ~state.succeeded & (loss > state.result_loss))
    return state._replace(
        loss=loss,
        rises=jnp.where(first, 0, state.rises + (loss > state.loss)),
        best_images=balls.where(better, state.images, state.best_images),
        best_gradient=balls.where(better, result.gradient, state.best_gradient),
        best_loss=best_loss,
        checked_loss=jnp.where(first, loss, state.checked_loss),
        finite=state.finite & (result.finite | ~state.active),
        active=state.active & ~(success & config.stop_early),
        succeeded=state.succeeded | success,
        result=balls.where(take, state.images, state.result),
        result_loss=jnp.where(take, loss, state.result_loss),
    )


def _adapt(constants, state, gradient, j):
    """Halves the steps of images that make no progress, if this is a checkpoint."""
    now = j == state.checkpoint
    few = state.rises <= constants.rho * state.period
    stuck = ~state.halved & (state.checked_loss >= state.best_loss)
    halve = now & (few | stuck)
    period = jnp.maximum(
        state.period - _hundredths(constants.steps, _FEWER),
        _hundredths(constants.steps, _LEAST),
    )
    adapted = state._replace(
        images=balls.where(halve, state.best_images, state.images),
        step_size=jnp.where(halve, state.step_size / 2, state.step_size),
        rises=jnp.where(now, 0, state.rises),
        halved=jnp.where(now, halve, state.halved),
        checked_loss=jnp.where(now, state.best_loss, state.checked_loss),
        period=jnp.where(now, period, state.period),
        checkpoint=jnp.where(now, state.checkpoint + period, state.checkpoint),
    )
    return adapted, balls.where(halve, state.best_gradient, gradient)


def _move(config, constants, state, gradient, first):
    images, norm = state.images, config.norm
    origin, epsilon = constants.origin, constants.epsilon
    step = balls.expand(state.step_size, images) * balls.direction(gradient, norm)
    ahead = balls.move(images, step, origin, norm, epsilon) - images
    share = jnp.where(first, 1.0, _MOMENTUM).astype(images.dtype)
    step = share * ahead + (1 - share) * (images - state.before)
    moved = balls.move(images, step, origin, norm, epsilon)
    return state._replace(images=moved, before=images)


def _hundredths(steps, share):
    """Returns so many hundredths of the steps, rounded down, at least 1."""
    return jnp.maximum(steps * share // 100, 1)


_APGD = {"defaults": {"steps": 100}, "source": "Croce & Hein, ICML 2020"}
APGD_ATTACKS = {
    **in_all_norms(
        "apgd_ce",
        apgd,
        **_APGD,
        loss="cross_entropy",
        about="PGD with momentum that chooses its steps itself, cross-entropy",
    ),
    **in_all_norms(
        "apgd_dlr",
        apgd,
        **_APGD,
        loss="dlr",
        least_classes=LEAST_CLASSES["dlr"],
        about="the same with the difference of logits ratio",
    ),
    **in_all_norms(
        "apgd_t",
        apgd_targeted,
        **_APGD | {"defaults": {"steps": 100, "targets": 9}},
        loss="targeted_dlr",
        takes_logits=True,
        least_classes=LEAST_CLASSES["targeted_dlr"],
        about="the same with the targeted DLR loss, once for each likely wrong class",
    ),
}
