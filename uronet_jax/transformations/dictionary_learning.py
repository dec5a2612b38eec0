"""Dictionaries for `sparse_coding`, learned from clean images.

Online convolutional dictionary learning (Liu, Garcia-Cardona, Wohlberg, Yin, *First and
second order methods for online convolutional dictionary learning*, SIAM J. Imaging
Sciences 2018): some images are coded by the filters as they are, then the filters take
a step down the gradient of the fit and are brought back to mean 0 and norm 1. The step
is Adam's, which asks for no scale.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from tqdm import tqdm

from uronet_jax.batches import check_images, check_whole
from uronet_jax.transformations.sparse_coding import (
    convolve_maps,
    sparse_maps,
    tikhonov_low_pass,
)


def sparse_objective(
    signals: jax.Array, maps: jax.Array, filters: jax.Array, weight: float
) -> jax.Array:
    """Returns what `sparse_maps` minimises, `[B]`.

    Args:
        signals: `[B, H, W, C]`.
        maps: `[B, M, H, W]`.
        filters: `[M, P, P, C]`.
        weight: Of the l1 norm.
    """
    missing = convolve_maps(maps, filters) - signals
    fit = 0.5 * jnp.sum(missing**2, axis=(1, 2, 3))
    return fit + weight * jnp.sum(jnp.abs(maps), axis=(1, 2, 3))


def _normalise(filters):
    filters = filters - filters.mean((1, 2), keepdims=True)
    norm = jnp.sqrt(jnp.sum(filters**2, axis=(1, 2, 3), keepdims=True))
    return filters / jnp.maximum(norm, 1e-12)


@functools.partial(jax.jit, static_argnames=("weight", "smoothing", "optimizer"))
def _step(filters, state, images, *, weight, smoothing, optimizer):
    signals = images - tikhonov_low_pass(images, smoothing=smoothing)
    maps = sparse_maps(signals, filters, weight=weight)

    def objective(filters):
        return sparse_objective(signals, maps, filters, weight).mean()

    value, gradient = jax.value_and_grad(objective)(filters)
    updates, state = optimizer.update(gradient, state)
    return _normalise(optax.apply_updates(filters, updates)), state, value


def learn_dictionary(
    images: np.ndarray,
    *,
    filters: int = 64,
    size: int = 8,
    weight: float = 0.2,
    smoothing: float = 5.0,
    steps: int = 200,
    batch_size: int = 32,
    learning_rate: float = 0.03,
    seed: int = 0,
    progress: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Learns filters that code the high-pass parts of clean images sparsely.

    Args:
        images: `[N, H, W, C]`, float in `[0, 1]`, not smaller than the filters.
        filters: How many.
        size: Their side, in pixels.
        weight: Of the l1 norm, as it will be when images are purified.
        smoothing: Of the low-pass part, likewise.
        steps: How many batches are looked at.
        batch_size: Images in one, drawn without replacement.
        learning_rate: Adam's at the first step; it falls to 0 by a cosine.
        seed: Of the first filters (normal numbers) and of the batches.
        progress: Show a progress bar.

    Returns:
        Filters `[M, P, P, C]`, float32, each of norm 1 with mean 0 in each channel; and
        `[steps]`, the mean objective of an image at each step.

    Raises:
        ValueError: If images are no such batch, smaller than the filters or fewer than
            `batch_size`.
    """
    check_images(images, None)
    for name, value in (("filters", filters), ("steps", steps)):
        check_whole(name, value, 1, 10**9)
    check_whole("size", size, 2, min(images.shape[1:3]))
    check_whole("batch_size", batch_size, 1, len(images))
    optimizer = _make_optimizer(learning_rate, steps)
    rng = np.random.default_rng(seed)
    found = rng.normal(size=(filters, size, size, images.shape[-1]))
    found = _normalise(jnp.asarray(found, jnp.float32))
    state, values = optimizer.init(found), []
    for _ in tqdm(range(steps), "dictionary", unit=" steps", disable=not progress):
        chosen = np.sort(rng.choice(len(images), batch_size, replace=False))
        batch = jnp.asarray(images[chosen], jnp.float32)
        found, state, value = _step(
            *(found, state, batch),
            weight=weight,
            smoothing=smoothing,
            optimizer=optimizer,
        )
        values.append(value)
    return np.asarray(found), np.asarray(jax.device_get(values))


@functools.cache  # Equal ones share a program.
def _make_optimizer(learning_rate, steps):
    return optax.adam(optax.cosine_decay_schedule(learning_rate, steps))
