"""How a corruption is built: constants from the host, then one jitted function.

What depends on the parameters alone (filter matrices, quantisation tables, geometry) is
computed by `Operation.prepare` with NumPy in float64, as the originals do, for all
severities of a suite at once and in arrays of one shape. `Operation.apply` is pure JAX
and gets the constants of the severity at hand, which may be chosen inside jit: one
compiled program per corruption and image shape serves all severities.
"""

import dataclasses
import functools
import inspect
import math
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
    """What `Operation.prepare` computes: pytrees of arrays, which go on in 32 bits."""

    stacked: Any  # With a leading axis over the settings.
    shared: Any = ()  # For every setting.


# What `Operation.source` may abbreviate.
SOURCES = {
    "HD": 'Hendrycks & Dietterich, "Benchmarking Neural Network Robustness to Common '
    'Corruptions and Perturbations", ICLR 2019',
    "MG": 'Mu & Gilmer, "MNIST-C: A Robustness Benchmark for Computer Vision", 2019',
    "U": "URoNet paper, Table 1",
}


@dataclasses.dataclass(frozen=True, eq=False)
class Operation:
    """A corruption: all that programs, tests and docs/CORRUPTIONS.md know of it.

    Attributes:
        text: What it does to one batch, with its own parameters and options. With what
            all corruptions share it becomes the docstring.
        prepare: `(shape, settings) -> Constants`, for images `(H, W, C)` and one
            dictionary of all physical parameters per severity; raises `ValueError` for
            parameters out of range.
        apply: `(key, images, constants, shared, index, **options) -> images`.
            `images` is float32 `[B, H, W, C]` in `[0, 1]`, `constants` is `stacked`
            at one severity, `index` is integer `[B]`; the result need not be clipped.
        formula: In one line.
        source: Key of `SOURCES`, or any text.
        example: Each physical parameter that must be given, with a value in the middle
            of its range.
        defaults: Those that may be left out.
        options: Names of the keyword arguments of `apply`; they are static.
        is_random: Whether images and keys make a difference.
        smallest_side: Images below this side are refused.
    """

    text: str
    prepare: Callable[[tuple[int, int, int], Sequence[Setting]], Constants]
    apply: Callable[..., jax.Array]
    _: dataclasses.KW_ONLY
    formula: str
    source: str
    example: Setting
    defaults: Setting = dataclasses.field(default_factory=dict)
    options: tuple[str, ...] = ()
    is_random: bool = True
    smallest_side: int = SMALLEST_SIDE

    def __post_init__(self):
        """Gives the corruption a docstring."""
        text = inspect.cleandoc(self.text)
        shared = inspect.cleandoc(Operation.__call__.__doc__ or "")  # None with -OO.
        shared = shared.partition("\n\n")[2]
        source = SOURCES.get(self.source, self.source)
        doc = f"{text}\n\n{shared}\n\nSource:\n    {source}."
        object.__setattr__(self, "__doc__", doc)

    def __call__(
        self,
        key: jax.Array,
        images: jax.Array,
        *,
        index: jax.Array | None = None,
        **parameters: Any,
    ) -> jax.Array:
        """Corrupts a batch.

        Args:
            key: Typed PRNG key. One key serves the whole batch.
            images: `[B, H, W, C]`, floating point, intensities in `[0, 1]`; of at
                least 28x28, except for the noises.
            index: Integer `[B]`, global number of each image. Default: `0 .. B-1`.
            **parameters: Physical parameters, and options of the corruption. Those of
                the noises may be traced: a scalar, or `[B, 1, 1, 1]`, one per image.

        Returns:
            Corrupted images, same shape and dtype, in `[0, 1]`. Where the result is
            clipped the gradient is zero.

        Raises:
            ValueError: If images, index or a parameter are not as described.
        """
        setting, options = self.split(parameters)
        return self.run(key, images, [setting], 0, index, **options)

    def split(self, arguments: Mapping[str, Any]) -> tuple[dict, dict]:
        """Returns the physical parameters and the options among `arguments`.

        Raises:
            ValueError: If there is an unknown name.
        """
        known = [*self.example, *self.defaults, *self.options]
        for name in arguments:
            if name not in known:
                raise ValueError(
                    f"there is no parameter {name!r}: this corruption has {known}"
                )
        options = {k: v for k, v in arguments.items() if k in self.options}
        return {k: v for k, v in arguments.items() if k not in options}, options

    def check_complete(self, setting: Setting) -> None:
        """Raises ValueError if a physical parameter is missing."""
        missing = [name for name in self.example if name not in setting]
        if missing:
            raise ValueError(f"give {', '.join(missing)}, such as {self.example}")

    def constants(
        self, shape: tuple[int, int, int], settings: Sequence[Setting]
    ) -> Constants:
        """Returns what `prepare` computes, remembered; fills in the defaults.

        Raises:
            ValueError: If a parameter is missing, unknown or out of range.
        """
        for setting in settings:
            self.check_complete(setting)
            self.split(setting)
        frozen = tuple(
            tuple(_freeze(name, value) for name, value in sorted(setting.items()))
            for setting in ({**self.defaults, **setting} for setting in settings)
        )
        return _prepare(self, shape, frozen)

    def run(
        self,
        key: jax.Array,
        images: jax.Array,
        settings: Sequence[Setting],
        choice: int | jax.Array,
        index: jax.Array | None = None,
        *,
        uint8: bool = False,
        **options: Any,
    ) -> jax.Array:
        """Applies one of several settings; compiles once for all.

        As `__call__`, but `settings` holds the physical parameters of each severity,
        `choice` says which, from 0, and may be traced, and `uint8` asks for
        `truncate(images)`, as the benchmarks' files are. The options are static.
        """
        images = jnp.asarray(images)
        index = None if index is None else jnp.asarray(index)
        batches.check_key(key)
        batches.check_images(images, index)
        if min(images.shape[1:3]) < self.smallest_side:
            raise ValueError(
                f"images must be at least {self.smallest_side} pixels high and wide: "
                f"{images.shape[1]}x{images.shape[2]}; resize them first"
            )
        constants = self.constants(images.shape[1:], settings)
        index = jnp.arange(images.shape[0]) if index is None else index
        return _apply(
            self, tuple(sorted(options.items())), uint8, key, images,
            constants, jnp.asarray(choice), index,
        )  # fmt: skip


def column(
    settings: Sequence[Setting],
    name: str,
    low: float = -math.inf,
    high: float = math.inf,
) -> np.ndarray:
    """Returns a parameter at every severity; ValueError if not finite, in the range."""
    for setting in settings:
        batches.check_number(name, setting[name], low, high)
    return np.asarray([setting[name] for setting in settings], np.float64)


def whole_column(
    settings: Sequence[Setting], name: str, low: int, high: int = 2**31 - 1
) -> np.ndarray:
    """Returns a parameter at every severity; ValueError if no integer in the range."""
    for setting in settings:
        batches.check_whole(name, setting[name], low, high)
    return np.asarray([setting[name] for setting in settings])


def one_number(name: str, low: float = -math.inf, high: float = math.inf) -> Callable:
    """Returns `Operation.prepare` where all that `apply` needs is one parameter."""
    return lambda shape, settings: Constants(column(settings, name, low, high))


def check_colours(channels: int) -> None:
    """Raises ValueError unless images have 1 or 3 channels."""
    if channels not in (1, 3):
        raise ValueError(f"images must have 1 or 3 channels: {channels}")


@functools.lru_cache(maxsize=256)
def _prepare(operation, shape, settings):
    settings = [{name: value for name, value, _ in setting} for setting in settings]
    return jax.tree.map(_to_32_bits, operation.prepare(shape, settings))


def _to_32_bits(array):
    wide = array.dtype.itemsize == 8
    return array.astype(f"{array.dtype.kind}4") if wide else array


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
        raise ValueError(
            f"{name} is of a wrong type, {type(value).__name__}: see the docstring of "
            "the corruption"
        ) from error
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
