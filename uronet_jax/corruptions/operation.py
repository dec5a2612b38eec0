"""How a corruption is built: constants from the host, then one jitted function.

What depends on the parameters alone (filter matrices, quantisation tables, geometry) is
computed by `Operation.prepare` with NumPy in float64, as the originals do, for all
severities of a suite at once and in arrays of one shape. `Operation.apply` is pure JAX
and gets the constants of the severity at hand, which may be chosen inside jit: one
compiled program per corruption and image shape serves all severities.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from uronet_jax import batches

# Below this side the spatial corruptions are not defined by any benchmark.
SMALLEST_SIDE = 28
# Grey levels. float32 puts 255 * (k / 255) up to 3e-5 below k: without this guard
# truncation would take such a value to k - 1.
_GUARD = 1e-4

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
    batches.check_images(images, index)
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


def grey_levels(images: jax.Array, *, straight_through: bool = False) -> jax.Array:
    """Returns `floor(255 * images)`: whole numbers 0 to 255, still float32.

    This is the cast to uint8 of the benchmarks, which truncates. `straight_through`
    gives it the gradient of `255 * images`; without it the gradient is zero.
    """
    levels = 255.0 * images
    floored = jnp.clip(jnp.floor(jax.lax.stop_gradient(levels) + _GUARD), 0.0, 255.0)
    return batches.straight(floored, levels) if straight_through else floored


def quantize(images: jax.Array, *, straight_through: bool = False) -> jax.Array:
    """Rounds images in `[0, 1]` down to multiples of 1/255, as a cast to uint8 does.

    Args:
        images: Floating point, in `[0, 1]`.
        straight_through: Pass gradients as if nothing was rounded. Otherwise zero.
    """
    return grey_levels(images, straight_through=straight_through) / 255.0


def truncate(images: jax.Array) -> jax.Array:
    """Casts images in `[0, 1]` to uint8 by truncation, as the benchmarks' files do."""
    return grey_levels(images).astype(jnp.uint8)
