"""Sparse transformation layer: low-pass plus sparsely coded high-pass.

After B. Sun et al., *Adversarial defense by stratified convolutional sparse coding*,
CVPR 2019, and their program (github.com/GitBoSun/AdvDefense_CSC), which calls SPORCO
(github.com/bwohlberg/sporco). Convolutional sparse coding is SPORCO's `ConvBPDN`:
ADMM with the solution in the Fourier domain (Wohlberg, *Efficient algorithms for
convolutional sparse representations*, IEEE TIP 2016), over-relaxation and a penalty
that follows the residuals. Here each image has its own penalty and stops by itself, and
the penalty is kept after 100 steps: else long runs may circle, as SPORCO's do.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

# Of SPORCO's ADMM: over-relaxation, and how the penalty follows the residuals.
_RELAXATION, _RATIO, _LARGEST_CHANGE = 1.8, 1.2, 1000.0
# Steps after which the penalty is kept.
_ADAPTIVE_STEPS = 100


def tikhonov_low_pass(
    images: jax.Array, *, smoothing: float = 5.0, padding: int = 16
) -> jax.Array:
    """Returns the smooth part of images.

    It is `argmin_l 1/2 |s - l|^2 + smoothing / 2 (|Dx l|^2 + |Dy l|^2)` of the images
    `s` mirrored at their edges by `padding` pixels, with circular forward differences.

    Args:
        images: `[..., H, W, C]`.
        smoothing: How much smoothness weighs.
        padding: Pixels, cut off again.
    """
    rows, columns = images.shape[-3:-1]
    edges = [(0, 0)] * (images.ndim - 3) + [(padding, padding)] * 2 + [(0, 0)]
    padded = jnp.pad(images, edges, mode="symmetric")
    height, width = padded.shape[-3:-1]

    def difference(size, frequencies):  # Squared gain of a forward difference.
        return 2.0 - 2.0 * np.cos(2 * np.pi * np.arange(frequencies) / size)

    across = difference(width, width // 2 + 1)
    gain = 1.0 + smoothing * (difference(height, height)[:, None] + across)
    # The channels go first: transforms of the last two axes are fast.
    moved = jnp.moveaxis(padded, -1, -3)
    spectrum = jnp.fft.rfft2(moved)
    gain = gain.reshape((1,) * (spectrum.ndim - 2) + gain.shape).astype(images.dtype)
    low = jnp.fft.irfft2(spectrum / gain, s=(height, width))
    low = low[..., padding : padding + rows, padding : padding + columns]
    return jnp.moveaxis(low, -3, -1)


class _Spectrum(NamedTuple):
    """Filters in the Fourier domain, with channels that do not see each other."""

    filters: jax.Array  # [M, C, H, W // 2 + 1], rows orthogonal at each frequency.
    power: jax.Array  # [C, H, W // 2 + 1], their squared norms.
    rotation: jax.Array  # [C, C, H, W // 2 + 1], from channels to these.


def _spectrum(filters: jax.Array, height: int, width: int) -> _Spectrum:
    # The matrix that ADMM inverts at each frequency is a penalty plus one of rank C.
    # In the eigenvectors of its C x C part it falls apart into C terms of Sherman
    # and Morrison, for any penalty.
    moved = jnp.moveaxis(filters, -1, 1)
    plain = jnp.fft.rfft2(moved, s=(height, width))
    channels = plain.shape[1]
    if channels == 1:
        power = jnp.sum(jnp.abs(plain) ** 2, axis=0)
        return _Spectrum(plain, power, jnp.ones_like(plain[:1]))
    gram = jnp.einsum("mchw,mdhw->hwcd", plain, plain.conj(), precision="highest")
    power, vectors = jnp.linalg.eigh(gram)
    rotation = jnp.moveaxis(vectors.conj(), (-1, -2), (0, 1))
    rotated = jnp.einsum("cdhw,mdhw->mchw", rotation, plain, precision="highest")
    return _Spectrum(rotated, jnp.maximum(jnp.moveaxis(power, -1, 0), 0.0), rotation)


def _analyse(spectrum, maps):
    """Returns the Fourier transform of filters convolved with maps, `[C, ...]`."""
    return jnp.sum(spectrum.filters * jnp.fft.rfft2(maps)[:, None], axis=0)


class _State(NamedTuple):
    step: jax.Array
    maps: jax.Array  # [M, H, W], sparse.
    dual: jax.Array  # [M, H, W], scaled by the penalty.
    penalty: jax.Array
    converged: jax.Array


def _code_one(spectrum, signal, *, weight, iterations, tolerance):
    """Codes one signal `[H, W, C]`; returns maps `[M, H, W]`."""
    height, width, _ = signal.shape
    wanted = jnp.fft.rfft2(jnp.moveaxis(signal, -1, 0))
    wanted = jnp.sum(spectrum.rotation * wanted[None], axis=1)
    target = 1.0 + 18.3 ** (math.log10(weight) + 1.0)

    def step(state):
        start = state.maps - state.dual
        missing = (wanted - _analyse(spectrum, start)) / (
            state.penalty + spectrum.power
        )
        change = jnp.sum(spectrum.filters.conj() * missing[None], axis=1)
        fitted = start + jnp.fft.irfft2(change, s=(height, width))
        relaxed = _RELAXATION * fitted + (1.0 - _RELAXATION) * state.maps
        shifted = relaxed + state.dual
        limit = weight / state.penalty
        # What soft thresholding takes away is the new dual variable.
        dual = jnp.clip(shifted, -limit, limit)
        maps = shifted - dual

        def norm(x):
            return jnp.sqrt(jnp.sum(x * x))

        def over(x, y):  # Where all is zero, nothing is left to do.
            return x / jnp.where(y == 0.0, 1.0, y)

        primal = over(norm(fitted - maps), jnp.maximum(norm(fitted), norm(maps)))
        gap = over(norm(maps - state.maps), norm(dual))
        ratio = over(primal, gap * target)
        change = jnp.sqrt(jnp.where(ratio > 1.0, ratio, over(1.0, ratio)))
        change = jnp.where((primal == 0.0) | (gap == 0.0), _LARGEST_CHANGE, change)
        change = jnp.minimum(change, _LARGEST_CHANGE)
        factor = jnp.where(
            primal > target * _RATIO * gap,
            change,
            jnp.where(gap > _RATIO / target * primal, 1.0 / change, 1.0),
        )
        follow = (state.step > 0) & (state.step < _ADAPTIVE_STEPS)
        factor = jnp.where(follow, factor, 1.0)
        return _State(
            state.step + 1,
            maps,
            dual / factor,
            state.penalty * factor,
            (primal < tolerance) & (gap < tolerance),
        )

    zero = jnp.zeros((spectrum.filters.shape[0], height, width), signal.dtype)
    first = _State(
        jnp.int32(0),
        zero,
        zero,
        jnp.asarray(50.0 * weight + 1.0, signal.dtype),
        jnp.asarray(False),
    )
    return jax.lax.while_loop(
        lambda state: (state.step < iterations) & ~state.converged, step, first
    ).maps


def sparse_maps(
    signals: jax.Array,
    filters: jax.Array,
    *,
    weight: float = 0.2,
    iterations: int = 200,
    tolerance: float = 5e-3,
) -> jax.Array:
    """Codes signals by filters, sparsely.

    Minimises `1/2 |sum_m filters_m * maps_m - signal|^2 + weight sum_m |maps_m|_1` of
    each signal, with circular convolutions; filters of several channels share a map.

    Args:
        signals: `[B, H, W, C]`, not smaller than the filters.
        filters: `[M, P, P, C]`.
        weight: Of the l1 norm, above 0.
        iterations: At most so many of ADMM.
        tolerance: Relative residuals, primal and dual, at which a signal is done.

    Returns:
        `[B, M, H, W]`.
    """
    spectrum = _spectrum(filters, *signals.shape[1:3])
    code = functools.partial(
        _code_one, weight=weight, iterations=iterations, tolerance=tolerance
    )
    # On a CPU a signal's maps stay in the cache, and none waits for the slowest.
    return jax.lax.platform_dependent(
        spectrum,
        signals,
        cpu=lambda spectrum, x: jax.lax.map(lambda s: code(spectrum, s), x),
        default=lambda spectrum, x: jax.vmap(code, in_axes=(None, 0))(spectrum, x),
    )


def convolve_maps(maps: jax.Array, filters: jax.Array) -> jax.Array:
    """Returns `sum_m filters_m * maps_m`, `[B, H, W, C]`, with circular convolutions.

    Args:
        maps: `[B, M, H, W]`.
        filters: `[M, P, P, C]`.
    """
    height, width = maps.shape[2:]
    plain = jnp.fft.rfft2(jnp.moveaxis(filters, -1, 1), s=(height, width))
    found = jnp.einsum(
        "bmhw,mchw->bchw", jnp.fft.rfft2(maps), plain, precision="highest"
    )
    return jnp.moveaxis(jnp.fft.irfft2(found, s=(height, width)), 1, -1)
