"""Corruptions: clean images to degraded images. Pure, jittable, random per image."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from uronet_jax.batches import known_name
from uronet_jax.corruptions.frost import FrostTextures, procedural_frost, stack_textures
from uronet_jax.corruptions.noise import (
    NOISES,
    Degradation,
    choose_entries,
    degrade,
    gaussian_noise,
    make_degradation,
)
from uronet_jax.corruptions.operation import Operation, quantize, truncate
from uronet_jax.corruptions.registry import CORRUPTIONS
from uronet_jax.corruptions.suites import (
    SUITES,
    Corruption,
    SuiteEntry,
    entry_key,
    find_corruption,
    list_corruptions,
    list_severities,
    suite_degradations,
    suite_settings,
)

__all__ = [
    "CORRUPTIONS",
    "NOISES",
    "SUITES",
    "Corruption",
    "Degradation",
    "FrostTextures",
    "Operation",
    "SuiteEntry",
    "choose_entries",
    "corrupt",
    "degrade",
    "entry_key",
    "find_corruption",
    "gaussian_noise",
    "list_corruptions",
    "list_severities",
    "make_degradation",
    "procedural_frost",
    "quantize",
    "stack_textures",
    "suite_degradations",
    "truncate",
]


def corrupt(
    key: jax.Array,
    images: jax.Array,
    name: str,
    *,
    severity: int | jax.Array | None = None,
    index: jax.Array | None = None,
    uint8: bool = False,
    **parameters: Any,
) -> jax.Array:
    """Applies a corruption: `"cifar_c/fog"` at a severity, or `"fog"` with parameters.

    Compiles once per name, image shape and dtype, whatever the severity.

    Args:
        key: Typed PRNG key. One key serves the whole batch.
        images: `[B, H, W, C]`, floating point, intensities in `[0, 1]`. All but the
            noises need sides of at least 28.
        name: `"<suite>/<corruption>"`, see `SUITES` and `list_corruptions`; or a key
            of `CORRUPTIONS`.
        severity: Of a suite: whole number, one of `list_severities(suite)`. It may be
            a traced integer scalar, which is clamped to that range.
        index: Integer `[B]`, global number of each image. Default: `0 .. B-1`.
        uint8: Return uint8 images, truncated as in the benchmarks' files. Give
            float32 images then: float16 holds k / 255 less exactly than a level.
        **parameters: Physical parameters, which replace those of a suite, and options
            of the corruption, such as `straight_through=True`; see its docstring.

    Returns:
        Corrupted images, same shape and dtype (or uint8), in `[0, 1]`.

    Raises:
        ValueError: If the name, severity or a parameter is unknown, or `images` is not
            a non-empty batch of floating-point images in `[0, 1]`. Intensities are
            looked at only outside jit.
    """
    suite, slash, corruption = str(name).partition("/")
    if slash:
        function, settings = suite_settings(suite, corruption)
        choice = _choose(suite, corruption, severity, len(settings))
    elif severity is not None:
        raise ValueError(
            "a severity belongs to a suite: need '<suite>/<corruption>', such as "
            f"'uronet/GN', with it, or parameters in its place: {name!r}"
        )
    else:
        function = known_name("corruption", name, CORRUPTIONS)
        settings, choice = ({},), 0
    operation = CORRUPTIONS[function]
    changes, options = operation.split(parameters)
    settings = [{**setting, **changes} for setting in settings]
    return operation.run(key, images, settings, choice, index, uint8=uint8, **options)


def _choose(suite, corruption, severity, count):
    if isinstance(severity, Tracer):
        if severity.shape or not jnp.issubdtype(severity.dtype, jnp.integer):
            raise ValueError(
                f"a traced severity must be an integer scalar: {severity.aval}"
            )
        return jnp.clip(severity, 1, count) - 1
    if isinstance(severity, jax.Array | np.ndarray) and severity.ndim == 0:
        severity = severity.item()
    find_corruption(suite, corruption, severity)
    return severity - 1
