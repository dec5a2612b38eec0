"""Median smoothing."""

import functools

import jax
import jax.numpy as jnp

from uronet_jax.transformations.transformation import Transformation


def take_median(images: jax.Array, *, size: int) -> jax.Array:
    """Replaces every element by the median of its channel in a window around it.

    Outside lies the mirror image (`cba|abc|cba`), as in
    `scipy.ndimage.median_filter`. The gradient goes to the element that is the
    median, in equal shares where several are.

    Args:
        images: `[B, H, W, C]`, float, in `[0, 1]`.
        size: Side of the window in pixels, odd.

    Raises:
        ValueError: If `size` is even.
    """
    if size % 2 == 0:
        raise ValueError(f"size must be odd, such as 3 or 5: {size}")
    return _median(images, size)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _median(images, size):
    values = _window(_mirror(images, size // 2), size)
    for i, j in _median_network(len(values)):
        low, high = values[i], values[j]
        values[i], values[j] = jnp.minimum(low, high), jnp.maximum(low, high)
    return values[len(values) // 2]


def _median_forward(images, size):
    median = _median(images, size)
    return median, (images, median)


def _median_backward(size, saved, cotangent):
    # Derived step by step, the network would take minutes to compile.
    images, median = saved
    padded, unmirror = jax.vjp(lambda x: _mirror(x, size // 2), images)
    count = sum((x == median).astype(median.dtype) for x in _window(padded, size))
    # What an element gives to the windows it is in, it gets from them.
    border = [(0, 0), (size - 1,) * 2, (size - 1,) * 2, (0, 0)]
    share = _window(jnp.pad(cotangent / count, border), size)
    median = _window(jnp.pad(median, border, constant_values=jnp.nan), size)
    pairs = zip(median, share, strict=True)
    return unmirror(sum(jnp.where(x == padded, y, 0.0) for x, y in pairs))


_median.defvjp(_median_forward, _median_backward)


def _mirror(images, pad):
    return jnp.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)), mode="symmetric")


def _window(padded, size):
    """Returns the elements of all windows that fit, each as images of one size."""
    height, width = (side - size + 1 for side in padded.shape[1:3])
    return [
        padded[:, y : y + height, x : x + width]
        for y in range(size)
        for x in range(size)
    ]


@functools.cache
def _median_network(count):
    """Returns pairs `(i, j)` to put in order, after which the median is in the middle.

    Batcher's merge exchange (Knuth, The Art of Computer Programming 3, 5.2.2 M) without
    what the middle does not depend on: many times as fast as sorting on any device.
    """
    pairs = []
    top = 1 << ((count - 1).bit_length() - 1) if count > 1 else 0
    p = top
    while p > 0:
        q, r, d = top, 0, p
        while True:
            pairs += [(i, i + d) for i in range(count - d) if i & p == r]
            if q == p:
                break
            q, r, d = q // 2, p, q - p
        p //= 2
    needed, kept = {count // 2}, []
    for pair in reversed(pairs):
        if needed & set(pair):
            needed |= set(pair)
            kept.append(pair)
    return tuple(reversed(kept))


MEDIAN = Transformation(
    take_median,
    {"size": 3},
    {"size": (1, 9)},
    "median of each channel in a window of size x size (odd), mirrored at the border",
    "Xu et al., NDSS 2018 (as in ART)",
)
