"""What all attacks share: gradients per image, loops that compile once, what comes out.

An attack is a `step(config, constants, i, state) -> state`, a module-level function:
`config` is hashable and static, `constants` and `state` are pytrees of arrays. Its
state has `active`, bool `[B]`: the loop ends when no image is active any more.
"""

import functools
import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from uronet_jax import batches
from uronet_jax.attacks import balls
from uronet_jax.attacks.objectives import LossFn, as_pytree, is_known, take

# Images that a step takes at once on a CPU, whose caches hold the features of so many:
# the gradient of a ResNet-20 takes two thirds of the time that it takes of 128.
_SLICE = 32


class NonFiniteError(ValueError):
    """A loss or a gradient that an attack needs is not a number.

    Attributes:
        positions: Of the images, from 0, in the arrays that the caller gave.
    """

    def __init__(self, positions: Sequence[int] | np.ndarray, where: str = ""):
        """Takes the positions, and what the message begins with."""
        super().__init__(positions, where)
        self.positions = [int(position) for position in positions]
        self._where = where

    def __str__(self) -> str:
        """Returns how many images, and the first of them."""
        return (
            f"{self._where}loss or gradient is not finite at {len(self.positions)} "
            f"images, the first {self.positions[:5]}: check the network there"
        )


class LossAndGradient(NamedTuple):
    """A loss function at a batch of images.

    Attributes:
        loss: `[B]`.
        success: bool `[B]`; all False if the loss function does not tell.
        gradient: `[B, H, W, C]` of each image's own loss.
        finite: bool `[B]`, whether loss and gradient are numbers.
    """

    loss: jax.Array
    success: jax.Array
    gradient: jax.Array
    finite: jax.Array


def evaluate(
    loss_fn: LossFn,
    images: jax.Array,
    key: jax.Array | None = None,
    samples: int = 0,
) -> LossAndGradient:
    """Returns loss, success and gradient of every image.

    With `samples` the loss function is one of a key and the images: loss and gradient
    are means over so many draws (expectation over transformation), and success is that
    of more than half of them.
    """

    def total(images, call):
        loss, success = loss_and_success(call, images)
        return loss.sum(), (loss, success)

    gradient_of = jax.grad(total, has_aux=True)
    if not samples:
        gradient, (loss, success) = gradient_of(images, loss_fn)
    else:

        def draw(key):
            gradient, (loss, success) = gradient_of(
                images, functools.partial(loss_fn, key)
            )
            return gradient, loss, success.astype(loss.dtype)

        draws = jax.lax.map(draw, jax.random.split(key, samples))
        gradient, loss, success = jax.tree.map(lambda x: x.mean(axis=0), draws)
        success = success > 0.5
    finite = jnp.isfinite(gradient).all(axis=(1, 2, 3)) & jnp.isfinite(loss)
    return LossAndGradient(loss, success & finite, gradient, finite)


def evaluate_step(constants: Any, i: jax.Array, images: jax.Array, samples: int) -> Any:
    """Returns what `evaluate` does; a random loss function draws anew at each step."""
    key = jax.random.fold_in(jax.random.fold_in(constants.key, 2**31 - 1), i)
    return evaluate(constants.loss_fn, images, key, samples)


def loss_and_success(loss_fn: LossFn, images: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns loss and success of every image, checked to be one of each."""
    result = loss_fn(images)
    loss, success = result if isinstance(result, tuple) else (result, None)
    loss = jnp.asarray(loss)
    count = images.shape[0]
    if jnp.shape(loss) != (count,) or not jnp.issubdtype(loss.dtype, jnp.floating):
        raise ValueError(
            f"the loss function must return one loss per image, floating [{count}]: "
            f"got {loss.dtype}{list(jnp.shape(loss))}; do not average over the batch"
        )
    if success is None:
        return loss, jnp.zeros(count, bool)
    if success.shape != (count,) or success.dtype != bool:
        raise ValueError(
            f"the success of a loss function must be bool [{count}]: "
            f"{success.dtype}{list(success.shape)}"
        )
    return loss, success


def iterate(
    step: Callable[..., Any],
    config: Hashable,
    constants: Any,
    state: Any,
    steps: int | jax.Array,
    per_image: Sequence[str] = (),
) -> Any:
    """Returns the state after `steps` steps, or when no image is active.

    The number of steps does not change the compiled program. On a CPU, outside jit, the
    compiled step is called in a Python loop: XLA's CPU backend runs convolutions in a
    loop of its own several times slower. There, on a single device, a few images at a
    time take all steps, if `per_image` is given and the loss function can be told to
    look at some images only, see `objectives.take`.

    Args:
        step: See the module, as for its arguments.
        config: Static.
        constants: Named tuple of arrays.
        state: Named tuple; what is no scalar has a row for each image.
        steps: How many at most.
        per_image: Fields of `constants` that have a row for each image, or one for all.
            Besides them `loss_fn` looks at images, and nothing else.
    """
    if is_traced((constants, state, steps)):
        return _loop(step, config, constants, state, 0, steps)
    if next(iter(state.active.devices())).platform != "cpu":
        return _loop(step, config, constants, state, 0, steps)
    rows = _sharding_of_rows(state)
    constants, state = _place(constants, state, rows)
    state = _in_slices(step, config, constants, state, steps, per_image)
    if rows is None:
        return state
    return jax.tree.map(lambda x: jax.device_put(x, rows) if x.ndim else x, state)


def _sharding_of_rows(state):
    """Returns how the caller has placed the images; None if that is left to jit."""
    given = (x.sharding for x in jax.tree.leaves(state) if x.committed)
    given = next(given, None)
    if given is None or not given.is_fully_addressable:
        return None
    if isinstance(given, jax.NamedSharding):
        return given.update(spec=jax.P(*given.spec[:1]))
    return given if len(given.device_set) == 1 else None


def _place(constants, state, rows):
    """Puts the state where a step leaves it, or the second step is compiled anew."""
    if rows is None:
        return constants, state
    if len(rows.device_set) == 1:  # A mesh of one device has several names for it.
        return jax.device_put((constants, state), *rows.device_set)
    whole = rows.update(spec=jax.P())
    return constants, jax.tree.map(
        lambda x: jax.device_put(x, rows if x.ndim else whole), state
    )


def _in_slices(step, config, constants, state, steps, per_image):
    """Takes all steps, of a few images at a time where that is possible."""
    count = len(state.active)
    whole = any(len(x.devices()) > 1 for x in jax.tree.leaves(state))
    if per_image and count > _SLICE and count % _SLICE == 0 and not whole:
        slices = [slice(i, i + _SLICE) for i in range(0, count, _SLICE)]
        parts = [_take(constants, state, rows, per_image) for rows in slices]
        if None not in parts:
            found = [_steps(step, config, *part, steps) for part in parts]
            return jax.tree.map(_join, *found)
    return _steps(step, config, constants, state, steps)


def _take(constants, state, rows, per_image):
    """Returns constants and state of some images; None if that is not possible."""
    loss_fn = take(constants.loss_fn, rows)
    if loss_fn is None:
        return None
    fields = {name: getattr(constants, name) for name in per_image}
    fields = {name: x if len(x) == 1 else x[rows] for name, x in fields.items()}
    constants = constants._replace(loss_fn=loss_fn, **fields)
    return constants, jax.tree.map(lambda x: x[rows] if x.ndim else x, state)


def _join(*parts):
    return jnp.concatenate(parts) if parts[0].ndim else parts[0]


def _steps(step, config, constants, state, steps):
    for i in range(int(steps)):
        state, active = _one(step, config, constants, np.int32(i), state)
        if is_traced(state):  # The loss function has traced arrays built in.
            return _loop(step, config, constants, state, i + 1, steps)
        if not active:
            break
    return state


def is_traced(tree: Any) -> bool:
    """Returns whether some of the arrays are known only inside jit."""
    return any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(tree))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _one(step, config, constants, i, state):
    state = step(config, constants, i, state)
    return state, state.active.any()


@functools.partial(jax.jit, static_argnums=(0, 1))
def _loop(step, config, constants, state, start, steps):
    def unfinished(carry):
        i, state = carry
        return (i < steps) & state.active.any()

    def body(carry):
        i, state = carry
        return i + 1, step(config, constants, i, state)

    start = jnp.asarray(start, jnp.int32)
    return jax.lax.while_loop(unfinished, body, (start, state))[1]


def prepare_images(
    images: Any,
    index: Any = None,
    norm: str = "l2",
    epsilon: Any = 0.0,
    steps: Any = 1,
    restarts: Any = 0,
    samples: Any = 0,
) -> tuple[jax.Array, jax.Array]:
    """Returns images as float32 and the index of each; checks common parameters."""
    images = jnp.asarray(images)
    index = None if index is None else jnp.asarray(index)
    batches.check_images(images, index)
    balls.check_norm(norm)
    check_parameter("epsilon", epsilon, count=len(images))
    check_count("steps", steps)
    check_count("restarts", restarts, 0)
    check_count("samples", samples, 0)
    images = images.astype(jnp.promote_types(images.dtype, jnp.float32))
    return images, jnp.arange(len(images)) if index is None else index


def begin(kind: Callable[..., Any], images: jax.Array, **others: Any) -> Any:
    """Returns a state: nothing is done or found yet, and `others` are as given."""
    every = jnp.ones(len(images), bool)
    lowest = jnp.full(len(images), -jnp.inf, images.dtype)
    usual = {"active": every, "finite": every, "best_norm": -lowest}
    usual |= dict.fromkeys(("best_loss", "result_loss"), lowest)
    usual |= dict.fromkeys(("images", "best_images", "result"), images)
    return kind(
        **{name: usual[name] for name in kind._fields if name in usual} | others
    )


def arrays(dtype: Any, *values: Any) -> list[jax.Array]:
    """Returns values of one type, so that other values are no other program."""
    return [jnp.asarray(value, dtype) for value in values]


def check_loss(loss_fn: LossFn, images: jax.Array) -> Any:
    """Returns a loss function as a pytree, after its own check, if it has one."""
    loss_fn = as_pytree(loss_fn)
    getattr(loss_fn, "check", lambda images: None)(images)
    return loss_fn


def check_parameter(
    name: str,
    value: Any,
    low: float = 0.0,
    high: float = math.inf,
    *,
    above: bool = False,
    count: int | None = None,
) -> None:
    """Raises `ValueError` unless a value is a finite number in a range.

    A value may be traced, and is then not looked at. With `above`, `low` itself is
    refused; with `count` there may be a value for each of so many images.
    """
    shape = np.shape(value)
    if shape and (count is None or shape != (count,)):
        expected = "a number" if count is None else f"a number or shape [{count}]"
        raise ValueError(f"{name} must be {expected}: shape {list(shape)}")
    if not is_known(value):
        return
    array = np.asarray(value)
    if array.dtype.kind not in "iuf":
        raise ValueError(f"{name} must be a number: {value!r}")
    inside = (array > low if above else array >= low) & (array <= high)
    if not (np.isfinite(array) & inside).all():
        relation = f"{'above' if above else 'at least'} {low:g}"
        relation += f" and at most {high:g}" if high < math.inf else ""
        raise ValueError(f"{name} must be finite and {relation}: {value}")


def check_budget(epsilon: Any, norm: str, *, count: int | None = None) -> None:
    """Raises `ValueError` unless `epsilon` is a budget for intensities in `[0, 1]`."""
    check_parameter("epsilon", epsilon, count=count)
    if norm == "linf" and is_known(epsilon) and np.max(epsilon) > 1:
        largest = np.max(epsilon)
        raise ValueError(
            f"epsilon {largest:g} allows any image: intensities are in [0, 1], so "
            f"{largest:g} of 255 levels are {largest / 255:.4g}"
        )


def check_count(name: str, value: Any, low: int = 1) -> None:
    """Raises `ValueError` unless a value is an integer from `low` on, or traced."""
    if isinstance(value, Tracer):
        whole = value.ndim == 0 and jnp.issubdtype(value.dtype, jnp.integer)
        if not whole:
            raise ValueError(f"{name} must be a scalar integer: {value.aval}")
        return
    array = np.asarray(value)
    if array.ndim or array.dtype.kind not in "iu" or array < low:
        raise ValueError(f"{name} must be an integer of at least {low}: {value!r}")


def finish(images: jax.Array, finite: jax.Array) -> jax.Array:
    """Returns the adversarial images if every gradient was a number.

    Inside jit, where nothing can be raised, the others become NaN.

    Raises:
        NonFiniteError: Outside jit, with the positions of the images in the batch.
    """
    if isinstance(finite, Tracer):
        return balls.where(finite, images, jnp.nan)
    if not bool(finite.all()):
        if not finite.is_fully_addressable:  # Every process is to know all of it.
            whole = finite.sharding.update(spec=jax.P())
            finite = jax.jit(lambda x: x, out_shardings=whole)(finite)
        raise NonFiniteError(np.flatnonzero(~np.asarray(finite)))
    return images
