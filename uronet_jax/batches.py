"""Batches of images: checks, randomness of each image, straight-through gradients."""

import math
import numbers
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

# Under this name too: the pure rooms import no other file.
from uronet_jax.specs import known_name as known_name

# Numbers of one image from which on a CPU draws for one image after the other.
_MANY_NUMBERS = 16_384


def check_images(images: jax.Array, index: jax.Array | None) -> None:
    """Raises `ValueError` unless `images` is a batch in `[0, 1]` and `index` fits it.

    Values are looked at only outside jit.
    """
    check_batch(images, index)
    if not isinstance(images, Tracer):
        low, high = _extremes(images)
        if not (low >= 0.0 and high <= 1.0 + 1e-6):  # A NaN fails both comparisons.
            raise ValueError(
                f"intensities must be in [0, 1]: found {low:g} to {high:g}"
                f"{_offenders(images)}; divide 0..255 images by 255 and replace NaN"
            )


def check_batch(images: jax.Array, index: jax.Array | None) -> None:
    """Raises `ValueError` unless `images` is a float batch and `index` fits it.

    Its values may be any: it may be what another function has made.
    """
    check_array("images", images)
    if images.ndim != 4 or images.size == 0:
        raise ValueError(
            f"need a non-empty batch of images [B, H, W, C]: {images.shape}"
        )
    check_channels_last(images)
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(
            f"need floating-point images in [0, 1]: {images.dtype}; "
            "convert integer images with x.astype('float32') / 255"
        )
    if index is not None and (
        index.shape != images.shape[:1] or not jnp.issubdtype(index.dtype, jnp.integer)
    ):
        raise ValueError(
            f"index must hold one integer per image, shape {images.shape[:1]}: "
            f"{index.dtype}{list(index.shape)}"
        )


def check_array(name: str, value: Any) -> None:
    """Raises `ValueError` unless `value` is an array of NumPy or JAX."""
    if not isinstance(value, np.ndarray | jax.Array):
        raise ValueError(
            f"{name} must be an array of NumPy or JAX, not a {type(value).__name__}"
        )


def check_channels_last(images: jax.Array) -> None:
    """Raises `ValueError` if `[B, ., ., .]` looks like images in PyTorch's layout."""
    if images.shape[1] in (1, 3) and images.shape[3] > 4:
        raise ValueError(
            f"need images [B, H, W, C]: {list(images.shape)} looks like [B, C, H, W]; "
            "bring the channels to the end with x.transpose(0, 2, 3, 1)"
        )


def _offenders(images):
    if isinstance(images, jax.Array) and not images.is_fully_addressable:
        return ""
    flat = np.asarray(images).reshape(len(images), -1)
    inside = ((flat >= 0.0) & (flat <= 1.0 + 1e-6)).all(axis=1)
    bad = np.flatnonzero(~inside)
    return f" in {bad.size} images, the first {bad[:5].tolist()}"


def _extremes(images):
    if not isinstance(images, jax.Array) or (
        images.is_fully_addressable
        and all(device.platform == "cpu" for device in images.devices())
    ):
        # XLA's reductions to one number are slow on a CPU; NumPy reads the same memory.
        images = np.asarray(images)
    return float(images.min()), float(images.max())


def check_key(key: Any) -> None:
    """Raises `ValueError` unless `key` is one typed PRNG key."""
    dtype = getattr(key, "dtype", None)
    if dtype is None or not jnp.issubdtype(dtype, jax.dtypes.prng_key):
        raw = dtype == jnp.uint32 and key.shape == (2,)
        raise ValueError(
            "need a typed key, such as jax.random.key(0): "
            + (
                "jax.random.wrap_key_data makes one of this array"
                if raw
                else f"{key!r}"
            )
        )
    if key.shape:
        raise ValueError(f"need one key, not several: {list(key.shape)}")


def check_range(name: str, value: Any, low: float, high: float) -> None:
    """Raises `ValueError` unless every value is finite and in `[low, high]`."""
    value = np.asarray(value)
    if value.dtype.kind not in "iuf" or not np.all(
        (value >= low) & (value <= high) & np.isfinite(value)
    ):
        raise ValueError(f"{name} must be finite and in [{low}, {high}]: {value}")


def check_whole(name: str, value: Any, low: int, high: int = 2**31 - 1) -> None:
    """Raises `ValueError` unless `value` is an integer in `[low, high]`.

    `high` is by default the largest that 32 bits hold.
    """
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not whole or not low <= value <= high:
        raise ValueError(f"{name} must be an integer in [{low}, {high}]: {value!r}")


def check_number(
    name: str,
    value: Any,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    above: float = -math.inf,
    below: float = math.inf,
) -> None:
    """Raises `ValueError` unless `value` is a finite number in `[low, high]`.

    With `above` or `below` that bound itself is refused: `above=0.0` is `(0, ...`.
    """
    if isinstance(value, jax.Array | np.ndarray) and value.ndim == 0:
        value = value.item()
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    inside = number and low <= value <= high and above < value < below
    if not inside or not math.isfinite(value):
        left = f"[{low:g}" if low > above else f"({above:g}"
        right = f"{high:g}]" if high < below else f"{below:g})"
        raise ValueError(
            f"{name} must be a finite number in {left}, {right}: {value!r}"
        )


def check_listed(name: str, value: Any) -> None:
    """Raises `ValueError` if `value` is one text or number in place of several."""
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise ValueError(f"{name} must be several, such as ({value!r},): {value!r}")


def per_image(draw: Callable, key: jax.Array, index: jax.Array) -> Any:
    """Calls `draw(key of the image)` for every image and stacks the results.

    The key of image `i` is `fold_in(key, index[i])`: the result does not depend on the
    batch it is in. Draw flat arrays and reshape: XLA's CPU backend compiles draws of
    several dimensions to slow code.
    """
    check_key(key)

    def draw_one(i):
        return draw(jax.random.fold_in(key, i))

    drawn = jax.tree.leaves(jax.eval_shape(draw, key))
    if sum(math.prod(x.shape) for x in drawn) < _MANY_NUMBERS:
        return jax.vmap(draw_one)(index)
    # On a CPU it takes half the time if the numbers of one image stay in the cache.
    return jax.lax.platform_dependent(
        index,
        cpu=lambda index: jax.lax.map(draw_one, index),
        default=lambda index: jax.vmap(draw_one)(index),
    )


def straight(value: jax.Array, differentiable: jax.Array) -> jax.Array:
    """Returns `value` with the gradient of `differentiable`."""
    # The difference is exactly 0: the value is not rounded.
    return value + (differentiable - jax.lax.stop_gradient(differentiable))
