"""Additive noise as an attack: random directions, of a given size after clipping."""

from collections import namedtuple

import jax
import jax.numpy as jnp

from uronet_jax import batches
from uronet_jax.attacks import balls, loop
from uronet_jax.attacks.attack import Attack
from uronet_jax.attacks.objectives import LossFn
from uronet_jax.attacks.rescaling import clipping_aware_rescale

_Constants = namedtuple("_Constants", "key index origin loss_fn epsilon")
_State = namedtuple("_State", "active finite result result_loss")


def additive_gaussian_noise(
    key: jax.Array,
    images: jax.Array,
    loss_fn: LossFn,
    *,
    epsilon: float | jax.Array,
    steps: int | jax.Array = 100,
    index: jax.Array | None = None,
) -> jax.Array:
    """Adds Gaussian noise of L2 norm `epsilon`, until an image succeeds.

    Each step draws new noise, normal and independent in every element, and scales it
    such that its norm is `epsilon` once intensities are clipped to `[0, 1]`; see
    `clipping_aware_rescale`. One step is noise added once.

    If `loss_fn` tells success, an image stays at its first one, and as it is if it
    needs no noise. Otherwise the result is the noisy image of the highest loss.

    Args:
        key: Typed PRNG key of the noise; one serves the whole batch.
        images: `[B, H, W, C]`, floating point, in `[0, 1]`.
        loss_fn: `images -> [B]`, or `(loss, success)`, raised; see `objectives`. The
            usual loss is the margin; its gradient is never taken.
        epsilon: L2 norm of the perturbation, a scalar or `[B]`; may be traced.
        steps: How often noise is drawn; may be traced. One evaluation each, and one of
            the images themselves.
        index: Integer `[B]`, number that each image draws with; default `0 .. B-1`.

    Returns:
        Noisy images, `[B, H, W, C]`, float32 in `[0, 1]`. The norm is less than
        `epsilon` only where the image has no more room.

    Raises:
        ValueError: If an argument is wrong, or outside jit if a loss is not finite.

    Source:
        Rauber & Bethge, "Fast differentiable clipping-aware normalization and
        rescaling", 2020.
    """
    return _attack("gaussian", key, images, loss_fn, epsilon, steps, index)


def additive_uniform_noise(
    key: jax.Array,
    images: jax.Array,
    loss_fn: LossFn,
    *,
    epsilon: float | jax.Array,
    steps: int | jax.Array = 100,
    index: jax.Array | None = None,
) -> jax.Array:
    """Adds uniform noise of L2 norm `epsilon`, until an image succeeds.

    Before scaling, noise is uniform in `[-1, 1)` and independent in every element. All
    else is as in `additive_gaussian_noise`.
    """
    return _attack("uniform", key, images, loss_fn, epsilon, steps, index)


def _attack(distribution, key, images, loss_fn, epsilon, steps, index):
    images, index = loop.prepare_images(images, index, epsilon=epsilon, steps=steps)
    loss_fn = loop.check_loss(loss_fn, images)
    epsilon = jnp.broadcast_to(jnp.asarray(epsilon, images.dtype), len(images))
    state = loop.iterate(
        _step,
        distribution,
        _Constants(key, index, images, loss_fn, epsilon),
        loop.begin(_State, images),
        steps + 1,
    )
    return loop.finish(state.result, state.finite)


def _step(distribution: str, constants: _Constants, i: jax.Array, state: _State):
    origin, first = constants.origin, i == 0

    def noisy():
        noise = _draw(distribution, constants, i)
        return clipping_aware_rescale(origin, noise, constants.epsilon)

    images = jax.lax.cond(first, lambda: origin, noisy)
    loss, success = loop.loss_and_success(constants.loss_fn, images)
    finite = jnp.isfinite(loss)
    success = success & finite & state.active
    # The images themselves do not count unless they succeed.
    better = state.active & ~first & (loss > state.result_loss)
    take = success | better
    return _State(
        active=state.active & ~success,
        finite=state.finite & (finite | ~state.active),
        result=balls.where(take, images, state.result),
        result_loss=jnp.where(take, loss, state.result_loss),
    )


def _draw(distribution, constants, i):
    shape, dtype = constants.origin.shape, constants.origin.dtype

    def draw(key):
        count = (constants.origin[0].size,)
        if distribution == "gaussian":
            return jax.random.normal(key, count, dtype)
        return jax.random.uniform(key, count, dtype, minval=-1.0, maxval=1.0)

    key = jax.random.fold_in(constants.key, i)
    return batches.per_image(draw, key, constants.index).reshape(shape)


def _entry(function, name):
    return Attack(
        function,
        "l2",
        loss="margin",
        defaults={"steps": 100},
        gradient_free=True,
        about=f"{name} noise that has the whole budget for its norm after clipping, "
        "drawn anew until the label is wrong",
        source="Rauber & Bethge, 2020",
    )


NOISE_ATTACKS = {
    "gaussian_noise_l2": _entry(additive_gaussian_noise, "Gaussian"),
    "uniform_noise_l2": _entry(additive_uniform_noise, "uniform"),
}
