"""The balls that perturbations stay in: sizes, projections, steepest steps, starts.

Everything is per image: arrays are `[B, H, W, C]` and an image's values are one vector.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from uronet_jax import batches

NORMS = ("linf", "l2")
# Below this the direction of a gradient is lost in rounding.
_SMALLEST = 1e-12


def check_norm(norm: str) -> None:
    """Raises `ValueError` unless the norm is known."""
    batches.known_name("norm", norm, NORMS)


def expand(values: Any, images: jax.Array) -> jax.Array:
    """Returns a scalar or `[B]` values in a shape that broadcasts against images."""
    values = jnp.asarray(values, images.dtype)
    return values.reshape(values.shape + (1,) * (images.ndim - values.ndim))


def where(choose: jax.Array, a: jax.Array, b: jax.Array | float) -> jax.Array:
    """Returns images of `a` where bool `[B]` `choose`, of `b` elsewhere."""
    return jnp.where(choose.reshape((-1,) + (1,) * (a.ndim - 1)), a, b)


def size(perturbations: jax.Array, norm: str) -> jax.Array:
    """Returns the norm of each perturbation, `[B]`; its gradient at zero is zero."""
    check_norm(norm)
    flat = perturbations.reshape(perturbations.shape[0], -1)
    if norm == "linf":
        return jnp.max(jnp.abs(flat), axis=-1)
    squared = jnp.sum(jnp.square(flat), axis=-1)
    positive = squared > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, squared, 1.0)), 0.0)


def project(perturbations: jax.Array, norm: str, epsilon: Any) -> jax.Array:
    """Returns the nearest perturbations whose norm is at most a scalar or `[B]`."""
    check_norm(norm)
    if norm == "linf":
        radius = expand(epsilon, perturbations)
        return jnp.clip(perturbations, -radius, radius)
    # Not optax's projection, which is 0 / 0 for a radius of zero.
    radius = jnp.asarray(epsilon, perturbations.dtype).reshape(-1)
    shrink = jnp.minimum(1.0, radius / jnp.maximum(size(perturbations, "l2"), 1e-37))
    return perturbations * expand(shrink, perturbations)


def move(
    images: jax.Array, step: jax.Array, origin: jax.Array, norm: str, epsilon: Any
) -> jax.Array:
    """Returns `images + step`, projected to the ball around `origin`, then clipped."""
    return jnp.clip(origin + project(images + step - origin, norm, epsilon), 0.0, 1.0)


def direction(gradients: jax.Array, norm: str) -> jax.Array:
    """Returns the unit step that raises a loss fastest: the sign, or the unit vector.

    A gradient of zero gives a step of zero.
    """
    check_norm(norm)
    if norm == "linf":
        return jnp.sign(gradients)
    # Scaled first: squares of tiny gradients would underflow.
    largest = expand(jnp.maximum(size(gradients, "linf"), 1e-37), gradients)
    scaled = gradients / largest
    return scaled / expand(jnp.maximum(size(scaled, "l2"), _SMALLEST), gradients)


def draw_uniform(
    key: jax.Array,
    index: jax.Array,
    shape: tuple[int, ...],
    norm: str,
    *,
    on_surface: bool = False,
) -> jax.Array:
    """Draws perturbations uniformly from the unit ball, one `shape` per image.

    An image folds its number, `[B]` integers, into the key. In L2 these are the first n
    coordinates of a uniform point of the sphere in n + 2 dimensions. With `on_surface`
    they have norm 1, in random directions.
    """
    check_norm(norm)
    count = math.prod(shape)

    def draw(key):
        if norm == "linf":
            uniform = jax.random.uniform(key, (count,), jnp.float32, -1.0, 1.0)
            return uniform / jnp.max(jnp.abs(uniform)) if on_surface else uniform
        normal = jax.random.normal(
            key, (count if on_surface else count + 2,), jnp.float32
        )
        return (normal / jnp.linalg.norm(normal))[:count]

    return batches.per_image(draw, key, index).reshape(-1, *shape)
