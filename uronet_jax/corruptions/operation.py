"""How a corruption is built: constants from the host, then one jitted function.

What depends on the parameters alone (filter matrices, quantisation tables, geometry) is
computed by `Operation.prepare` with NumPy in float64, as the originals do, for all
severities of a suite at once and in arrays of one shape. `Operation.apply` is pure JAX
and gets the constants of the severity at hand, which may be chosen inside jit: one
compiled program per corruption and image shape serves all severities.
"""

import functools
import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

# Below this side the spatial corruptions are not defined by any benchmark.
SMALLEST_SIDE = 28
# Grey levels. float32 puts 255 * (k / 255) up to 3e-5 below k: without this guard
# truncation would take such a value to k - 1.
_GUARD = 1e-4

# Numbers of one image from which on a CPU draws for one image after the other.
_MANY_NUMBERS = 16_384

Setting = Mapping[str, Any]


class Constants(NamedTuple):
    """What `Operation.prepare` computes.

    Attributes:
        stacked: Pytree of NumPy arrays with a leading axis over the settings.
        shared: Pytree of arrays that serve every setting.
    """

    stacked: Any
    shared: Any = ()


class Operation(NamedTuple):
    """A corruption as two functions.

    Attributes:
        prepare: `(shape, settings) -> Constants`, for images `(H, W, C)` and one
            dictionary of physical parameters per severity; raises `ValueError` for
            parameters out of range.
        apply: `(key, images, constants, shared, index, **options) -> images`.
            `images` is float32 `[B, H, W, C]` in `[0, 1]`, `constants` is `stacked`
            at one severity, `index` is integer `[B]`; the result need not be clipped.
        options: Names of the keyword arguments of `apply`; they are static.
        smallest_side: Images below this side are refused.
    """

    prepare: Callable[[tuple[int, int, int], Sequence[Setting]], Constants]
    apply: Callable[..., jax.Array]
    options: tuple[str, ...] = ()
    smallest_side: int = SMALLEST_SIDE


def run(
    operation: Operation,
    key: jax.Array,
    images: jax.Array,
    settings: Sequence[Setting],
    choice: int | jax.Array,
    index: jax.Array | None = None,
    *,
    uint8: bool = False,
    **options: Any,
) -> jax.Array:
    """Applies one setting of an operation to a batch.

    Args:
        operation: Which.
        key: Typed PRNG key. One key serves the whole batch.
        images: `[B, H, W, C]`, floating point, in `[0, 1]`.
        settings: Physical parameters, one dictionary per severity.
        choice: Which setting, from 0; may be traced.
        index: Integer `[B]`, global number of each image. Default: `0 .. B-1`.
        uint8: Return `truncate(images)` as the benchmarks' files do.
        **options: Static options of the operation.

    Returns:
        Same shape, in `[0, 1]` and of the dtype of `images`; or uint8.

    Raises:
        ValueError: If images, index, parameters or options are wrong.
    """
    images = jnp.asarray(images)
    index = None if index is None else jnp.asarray(index)
    check_images(images, index)
    if min(images.shape[1:3]) < operation.smallest_side:
        raise ValueError(
            f"images must be at least {operation.smallest_side} pixels high and wide: "
            f"{images.shape[1]}x{images.shape[2]}; resize them first"
        )
    frozen = tuple(
        tuple(_freeze(name, setting[name]) for name in sorted(setting))
        for setting in settings
    )
    constants = _prepare(operation, images.shape[1:], frozen)
    index = jnp.arange(images.shape[0]) if index is None else index
    return _apply(
        operation, tuple(sorted(options.items())), uint8, key, images,
        constants, jnp.asarray(choice), index,
    )  # fmt: skip


@functools.lru_cache(maxsize=256)
def _prepare(operation, shape, settings):
    return operation.prepare(
        shape, [{name: value for name, value, _ in setting} for setting in settings]
    )


def _freeze(name, value):
    """Returns what a cache can tell apart: 6, 6.0 and True are equal, but not alike."""
    if isinstance(value, Tracer):
        raise ValueError(
            f"{name} must be known when compiling; of the corruptions only the noise "
            "functions take traced parameters (a severity may be traced everywhere)"
        )
    if isinstance(value, np.ndarray | np.generic | jax.Array) and value.ndim < 2:
        value = value.tolist()
    if isinstance(value, list | tuple):
        value = tuple(value)
        return name, value, tuple(map(type, value))
    try:
        hash(value)
    except TypeError as error:
        raise ValueError(f"{name} is of a wrong type: {type(value)}") from error
    return name, value, type(value)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _apply(operation, options, uint8, key, images, constants, choice, index):
    stacked = jax.tree.map(lambda table: jnp.asarray(table)[choice], constants.stacked)
    corrupted = operation.apply(
        key,
        images.astype(jnp.float32),
        stacked,
        constants.shared,
        index,
        **dict(options),
    )
    corrupted = jnp.clip(corrupted, 0.0, 1.0)
    return truncate(corrupted) if uint8 else corrupted.astype(images.dtype)


def per_image(draw: Callable, key: jax.Array, index: jax.Array) -> Any:
    """Calls `draw(key of the image)` for every image and stacks the results.

    The key of image `i` is `fold_in(key, index[i])`: the result does not depend on the
    batch it is in. Draw flat arrays and reshape: XLA's CPU backend compiles draws of
    several dimensions to slow code.
    """

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


def grey_levels(images: jax.Array, *, straight_through: bool = False) -> jax.Array:
    """Returns `floor(255 * images)`: whole numbers 0 to 255, still float32.

    This is the cast to uint8 of the benchmarks, which truncates. `straight_through`
    gives it the gradient of `255 * images`; without it the gradient is zero.
    """
    levels = 255.0 * images
    floored = jnp.clip(jnp.floor(jax.lax.stop_gradient(levels) + _GUARD), 0.0, 255.0)
    return straight(floored, levels) if straight_through else floored


def quantize(images: jax.Array, *, straight_through: bool = False) -> jax.Array:
    """Rounds images in `[0, 1]` down to multiples of 1/255, as a cast to uint8 does.

    Args:
        images: Floating point, in `[0, 1]`.
        straight_through: Pass gradients as if nothing was rounded. Otherwise zero.
    """
    return grey_levels(images, straight_through=straight_through) / 255.0


def straight(value: jax.Array, differentiable: jax.Array) -> jax.Array:
    """Returns `value` with the gradient of `differentiable`."""
    # The difference is exactly 0: the value is not rounded.
    return value + (differentiable - jax.lax.stop_gradient(differentiable))


def truncate(images: jax.Array) -> jax.Array:
    """Casts images in `[0, 1]` to uint8 by truncation, as the benchmarks' files do."""
    return grey_levels(images).astype(jnp.uint8)


def check_images(images: jax.Array, index: jax.Array | None) -> None:
    """Raises `ValueError` unless `images` is a batch in `[0, 1]` and `index` fits it.

    Values are looked at only outside jit.
    """
    if images.ndim != 4 or images.size == 0:
        raise ValueError(
            f"need a non-empty batch of images [B, H, W, C]: {images.shape}"
        )
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(
            f"need floating-point images in [0, 1]: {images.dtype}; "
            "convert integer images with x.astype('float32') / 255"
        )
    if not isinstance(images, Tracer):
        low, high = _extremes(images)
        if not (low >= 0.0 and high <= 1.0 + 1e-6):  # A NaN fails both comparisons.
            raise ValueError(
                f"intensities must be in [0, 1]: found {low:g} to {high:g}; "
                "divide 0..255 images by 255 and replace NaN"
            )
    if index is not None and (
        index.shape != images.shape[:1] or not jnp.issubdtype(index.dtype, jnp.integer)
    ):
        raise ValueError(
            f"index must hold one integer per image, shape {images.shape[:1]}: "
            f"{index.dtype}{list(index.shape)}"
        )


def _extremes(images):
    if isinstance(images, jax.Array) and (
        not images.is_fully_addressable
        or any(device.platform != "cpu" for device in images.devices())
    ):
        return float(images.min()), float(images.max())
    # XLA's reductions to one number are slow on a CPU; NumPy reads the same memory.
    images = np.asarray(images)
    return float(images.min()), float(images.max())


def check_range(name: str, value: Any, low: float, high: float) -> None:
    """Raises `ValueError` unless every value is finite and in `[low, high]`."""
    value = np.asarray(value)
    if not np.all((value >= low) & (value <= high) & np.isfinite(value)):
        raise ValueError(f"{name} must be finite and in [{low}, {high}]: {value}")


def check_whole(name: str, value: Any, low: int, high: int) -> None:
    """Raises `ValueError` unless `value` is an integer in `[low, high]`."""
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not whole or not low <= value <= high:
        raise ValueError(f"{name} must be an integer in [{low}, {high}]: {value!r}")
