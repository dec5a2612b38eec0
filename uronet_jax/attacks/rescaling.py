"""Clipping-aware rescaling: noise of an exact norm after clipping to `[0, 1]`."""

from typing import Any

import jax
import jax.numpy as jnp

from uronet_jax.attacks import balls


def clipping_aware_rescale(
    images: jax.Array, noise: jax.Array, epsilon: Any
) -> jax.Array:
    """Returns `clip(images + scale * noise)` whose distance is exactly `epsilon`.

    The scale of each image is the one at which the *clipped* perturbation has that L2
    norm. Where noise cannot reach it, because all that it touches is black or white by
    then, the image goes as far as that; noise of zero leaves an image as it is. The
    gradient flows through the noise and through the scale's dependence on it.

    The squared norm is increasing, concave and piecewise linear in the squared scale:
    Newton's method from below never overshoots and is exact once it has found which
    elements are clipped, mostly within ten steps, without a sort.

    Args:
        images: `[B, H, W, C]`, floating point, in `[0, 1]`.
        noise: `[B, H, W, C]`, a direction of any length.
        epsilon: L2 norm in units of the intensities, 0 or more, a scalar or `[B]`.

    Source:
        J. Rauber, M. Bethge, *Fast Differentiable Clipping-Aware Normalization and
        Rescaling*, 2020, which sorts.
    """
    # Of length 1 before the squares, which would leave float32's range.
    noise = balls.direction(noise, "l2")
    room = jnp.where(noise >= 0, 1.0 - images, images)
    squared, limit = jnp.square(noise), jnp.square(room)
    target = jnp.square(balls.expand(epsilon, images))

    def squared_scale(clipped):
        full = _sum(jnp.where(clipped, limit, 0.0))
        slope = _sum(jnp.where(clipped, 0.0, squared))
        left = jnp.maximum(target - full, 0.0)
        return jnp.where(slope > 0, left / jnp.where(slope > 0, slope, 1.0), jnp.inf)

    def more(clipped):
        beyond = jax.lax.stop_gradient(squared_scale(clipped)) * squared >= limit
        return clipped | (beyond & (squared > 0))

    def find(state):
        clipped, _ = state
        found = more(clipped)
        return found, jnp.any(found != clipped)

    start = jnp.zeros(noise.shape, bool), jnp.bool_(True)
    clipped, _ = jax.lax.while_loop(lambda state: state[1], find, start)
    scale = squared_scale(clipped)
    # Where all is clipped the scale is infinite, and 0 * inf no number.
    reached = jnp.isfinite(scale) & (scale > 0)
    scale = jnp.where(reached, jnp.sqrt(jnp.where(reached, scale, 1.0)), 0.0)
    ends = jnp.where(noise >= 0, 1.0, 0.0)
    return jnp.where(clipped, ends, jnp.clip(images + scale * noise, 0.0, 1.0))


def _sum(values: jax.Array) -> jax.Array:
    return jnp.sum(values, axis=(1, 2, 3), keepdims=True)
