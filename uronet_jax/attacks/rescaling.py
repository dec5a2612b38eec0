"""Clipping-aware rescaling: noise of an exact norm after clipping to `[0, 1]`."""

import jax
import jax.numpy as jnp

from uronet_jax.attacks import balls, loop

# Noise so much smaller than an image's largest counts as none: the squared scale that
# would make it visible could leave float32's range.
_SMALLEST = 1e-15


def clipping_aware_rescale(
    images: jax.Array, noise: jax.Array, epsilon: float | jax.Array
) -> jax.Array:
    """Returns `clip(images + scale * noise)` whose distance is exactly `epsilon`.

    The scale of each image, 0 or more, is the one at which the *clipped* perturbation
    has that L2 norm. Where noise cannot reach it, because all that it touches is black
    or white by then, the image goes as far as that; noise of zero leaves an image as it
    is.

    Gradients flow to all arguments, through the scale as well. Along the noise of an
    image they are zero: its length does not matter.

    Args:
        images: `[B, H, W, C]`, floating point, in `[0, 1]`.
        noise: `[B, H, W, C]`, floating point, directions of any length.
        epsilon: L2 norm in units of the intensities, 0 or more, a scalar or `[B]`; may
            be traced.

    Returns:
        `[B, H, W, C]`, float32 in `[0, 1]`. NaN where an image's noise is not finite.

    Raises:
        ValueError: If an argument is wrong.

    Source:
        J. Rauber, M. Bethge, "Fast differentiable clipping-aware normalization and
        rescaling", 2020, where breakpoints are sorted.
    """
    images, _ = loop.prepare_images(images, epsilon=epsilon)
    noise = jnp.asarray(noise)
    if noise.shape != images.shape or not jnp.issubdtype(noise.dtype, jnp.floating):
        raise ValueError(
            "noise must be floating point, a value for each of images "
            f"{list(images.shape)}: {noise.dtype}{list(noise.shape)}"
        )
    noise = noise.astype(images.dtype)
    return _rescale(images, noise, balls.expand(epsilon, images))


@jax.jit
def _rescale(images, noise, epsilon):
    # The squared norm is an increasing, concave and piecewise linear function of the
    # squared scale. So Newton's method from below never overshoots, and is exact once
    # it knows which elements are clipped: mostly within ten steps, without a sort.
    up = noise >= 0
    room = jnp.where(up, 1.0 - images, images)
    known = _each(jnp.all, jnp.isfinite(noise)) & ~jnp.isnan(epsilon)
    noise = jnp.where(room > 0, noise, 0.0)
    # A constant factor, which keeps the squares in float32's range.
    largest = jax.lax.stop_gradient(_each(jnp.max, jnp.abs(noise)))
    noise = noise / jnp.where(largest > 0, largest, 1.0)
    noise = jnp.where(jnp.abs(noise) > _SMALLEST, noise, 0.0)
    squared, limit = jnp.square(noise), jnp.square(room)
    clipped = _clipped(*jax.lax.stop_gradient((squared, limit, epsilon)))
    scale = _squared_scale(clipped, squared, limit, epsilon)
    # It is infinite where all is clipped, and the gradient of the root is at zero.
    inside = jnp.isfinite(scale) & (scale > 0)
    scale = jnp.where(inside, jnp.sqrt(jnp.where(inside, scale, 1.0)), 0.0)
    moved = jnp.clip(images + scale * noise, 0.0, 1.0)
    moved = jnp.where(clipped, jnp.where(up, 1.0, 0.0), moved)
    return jnp.where(known, moved, jnp.nan)


def _clipped(squared, limit, epsilon):
    """Returns which elements are black or white at the end."""

    def grow(state):
        clipped, _ = state
        scale = _squared_scale(clipped, squared, limit, epsilon)
        found = clipped | ((squared > 0) & (scale * squared >= limit))
        return found, jnp.any(found != clipped)

    start = jnp.zeros(squared.shape, bool), jnp.bool_(True)
    return jax.lax.while_loop(lambda state: state[1], grow, start)[0]


def _squared_scale(clipped, squared, limit, epsilon):
    """Returns the squared scale if just these elements are clipped."""
    full = _each(jnp.sum, jnp.where(clipped, limit, 0.0))
    slope = _each(jnp.sum, jnp.where(clipped, 0.0, squared))
    left = jnp.maximum(jnp.square(epsilon) - full, 0.0)
    return jnp.where(slope > 0, left / jnp.where(slope > 0, slope, 1.0), jnp.inf)


def _each(reduce, values):
    return reduce(values, axis=(1, 2, 3), keepdims=True)
