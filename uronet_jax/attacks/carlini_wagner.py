"""The L2 attack of Carlini and Wagner."""

from collections import namedtuple

import jax
import jax.numpy as jnp
import optax

from uronet_jax.attacks import balls, loop
from uronet_jax.attacks.attack import Attack
from uronet_jax.attacks.objectives import LogitsFn, is_wrong, margin, prepare_classifier

_LARGEST_CONSTANT = 1e10
# By how much the loss must fall in a tenth of the steps.
_PROGRESS = 0.9999


_Constants = namedtuple(
    "_Constants",
    "origin logits_fn labels binary_search_steps steps step_size confidence "
    "abort_early",
)
# One run of Adam, each image at its own step.
_Descent = namedtuple("_Descent", "step code adam found previous_loss")
_State = namedtuple(
    "_State", "active finite descent search constant lower upper best_images best_norm"
)


def carlini_wagner(
    key: jax.Array,
    images: jax.Array,
    logits_fn: LogitsFn,
    labels: jax.Array,
    *,
    binary_search_steps: int | jax.Array = 9,
    steps: int | jax.Array = 10_000,
    step_size: float | jax.Array = 0.01,
    confidence: float | jax.Array = 0.0,
    initial_constant: float | jax.Array = 1e-3,
    abort_early: bool | jax.Array = True,
) -> jax.Array:
    """Carlini-Wagner L2: Adam on the squared norm plus a hinge of the logits.

    With `x = (tanh(code) + 1) / 2`, which is always in the box, Adam minimises
    `|x - x0|^2 + c max(0, Z_label - max_other Z + confidence)`. An outer search looks
    for the smallest `c` that works: ten times as large until something is found, then
    the middle of the bracket. The smallest perturbation of all steps is kept.

    Each image has its own state, so that no image depends on its neighbours: it goes on
    to its next `c` as soon as its own run ends. This differs from foolbox, which
    decides for the whole batch when a run has made no progress. The loss at the start
    of a run is no measure of it here: Adam first steps far too wide, and with few steps
    single images would stop there.

    It tries `binary_search_steps` values of `c`, first `initial_constant` (above 0),
    with at most `steps` of Adam each. The first step of Adam moves every intensity by
    up to half of `step_size` (above 0): with few steps it must be small beside the
    distances that are looked for. The largest wrong logit must exceed that of the label
    by `confidence`, 0 or more, or the image counts as right. With `abort_early` a run
    ends when its loss has not fallen by 1e-4, relative, in a tenth of the steps; from
    the second tenth on. All of these may be traced. It is not random: `key` is not
    used. The other arguments, the result and the errors are those of `fab`.

    Source:
        Carlini & Wagner, "Towards evaluating the robustness of neural networks", IEEE
        S&P 2017.
    """
    del key
    images, _ = loop.prepare_images(images, steps=steps)
    loop.check_count("binary_search_steps", binary_search_steps)
    loop.check_parameter("step_size", step_size, above=True)
    loop.check_parameter("confidence", confidence)
    loop.check_parameter("initial_constant", initial_constant, above=True)
    logits_fn, labels, _ = prepare_classifier(logits_fn, labels, images)
    dtype, count = images.dtype, images.shape[0]
    state = loop.iterate(
        _step,
        None,
        _Constants(
            images,
            logits_fn,
            labels,
            *loop.arrays(jnp.int32, binary_search_steps, steps),
            *loop.arrays(dtype, step_size, confidence),
            jnp.asarray(abort_early, bool),
        ),
        loop.begin(
            _State,
            images,
            descent=_descent(images),
            search=jnp.zeros(count, jnp.int32),
            constant=jnp.full(count, initial_constant, dtype),
            lower=jnp.zeros(count, dtype),
            upper=jnp.full(count, jnp.inf, dtype),
        ),
        steps * binary_search_steps + 1,  # The first one looks at the clean image.
    )
    return loop.finish(state.best_images, state.finite)


def _descent(images):
    count = images.shape[0]
    return _Descent(
        step=jnp.zeros(count, jnp.int32),
        code=jnp.zeros_like(images),
        adam=jax.vmap(optax.scale_by_adam().init)(images),
        found=jnp.zeros(count, bool),
        previous_loss=jnp.full(count, jnp.inf, images.dtype),
    )


def _step(config: None, constants: _Constants, i: jax.Array, state: _State):
    del config
    descent, clean = state.descent, i == 0
    gradient, (loss, images, success) = jax.grad(_loss, argnums=2, has_aux=True)(
        constants, clean, descent.code, state.constant
    )
    finite = jnp.isfinite(gradient).all(axis=(1, 2, 3)) & jnp.isfinite(loss)
    finite = state.finite & (finite | ~state.active)

    norm = balls.size(images - constants.origin, "l2")
    better = state.active & success & (norm < state.best_norm)

    tenth = -(-constants.steps // 10)
    look = constants.abort_early & (descent.step % tenth == 0) & (descent.step > 0)
    stuck = look & ~(loss <= _PROGRESS * descent.previous_loss)
    over = ~clean & (stuck | (descent.step == constants.steps - 1))
    updates, adam = jax.vmap(optax.scale_by_adam().update)(gradient, descent.adam)
    found = descent.found | success
    gone_on = _Descent(
        step=descent.step + 1,
        code=descent.code - constants.step_size * updates,
        adam=adam,
        found=found,
        previous_loss=jnp.where(look, loss, descent.previous_loss),
    )
    fresh = _descent(constants.origin)
    upper = jnp.where(over & found, state.constant, state.upper)
    lower = jnp.where(over & ~found, state.constant, state.lower)
    search = state.search + over
    active = state.active & finite & (search < constants.binary_search_steps)
    return _State(
        active=active & ~(clean & success),
        finite=finite,
        descent=jax.tree.map(
            lambda new, on, old: jnp.where(clean, old, balls.where(over, new, on)),
            fresh,
            gone_on,
            descent,
        ),
        search=search,
        constant=jnp.where(over, _next(state.constant, lower, upper), state.constant),
        lower=lower,
        upper=upper,
        best_images=balls.where(better, images, state.best_images),
        best_norm=jnp.where(better, norm, state.best_norm),
    )


def _loss(constants, clean, code, constant):
    """Returns the sum of the losses; and of each image loss, image and success."""
    # Not quite to the ends of the box, where the code would be infinite.
    start = jnp.arctanh(0.999999 * jnp.clip(2 * constants.origin - 1, -1.0, 1.0))
    nearest = (jnp.tanh(start) + 1) / 2
    moved = (jnp.tanh(start + code) + 1) / 2
    images = jnp.where(clean, constants.origin, moved)
    logits = constants.logits_fn(images)
    labels = constants.labels
    right = jax.nn.one_hot(labels, logits.shape[1], dtype=logits.dtype)
    success = is_wrong(logits + constants.confidence * right, labels)
    hinge = jax.nn.relu(constants.confidence - margin(logits, labels))
    squares = jnp.square(images - nearest).reshape(images.shape[0], -1).sum(axis=-1)
    loss = squares + constant * hinge
    return loss.sum(), (loss, images, success)


def _next(constant, lower, upper):
    larger = jnp.minimum(10 * constant, _LARGEST_CONSTANT)
    return jnp.where(jnp.isinf(upper), larger, (lower + upper) / 2)


CARLINI_WAGNER_ATTACKS = {
    "carlini_wagner_l2": Attack(
        carlini_wagner,
        "l2",
        minimal=True,
        defaults={"binary_search_steps": 9, "steps": 10_000, "step_size": 0.01},
        about="Adam on squared norm plus hinge of the logits, with a search for its "
        "weight",
        source="Carlini & Wagner, S&P 2017",
    )
}
