"""Corruptions: clean images to degraded images. Pure, jittable, random per image."""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from uronet_jax.corruptions import (
    blur,
    digital,
    frost,
    geometry,
    jpeg,
    mnist,
    noise,
    spatter,
    weather,
)
from uronet_jax.corruptions.frost import (
    FrostTextures,
    procedural_frost,
    stack_textures,
)
from uronet_jax.corruptions.noise import (
    NOISES,
    Degradation,
    choose_entries,
    degrade,
    gaussian_noise,
    impulse_noise,
    make_degradation,
    salt_and_pepper_noise,
    shot_noise,
    speckle_noise,
    uniform_draw,
    uniform_noise,
)
from uronet_jax.corruptions.operation import Operation, quantize, run, truncate
from uronet_jax.corruptions.suites import (
    SPN_READINGS,
    SUITES,
    UN_READINGS,
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
    "SPN_READINGS",
    "SUITES",
    "UN_READINGS",
    "Corruption",
    "Degradation",
    "FrostTextures",
    "SuiteEntry",
    "choose_entries",
    "corrupt",
    "degrade",
    "entry_key",
    "find_corruption",
    "gaussian_noise",
    "impulse_noise",
    "list_corruptions",
    "list_severities",
    "make_degradation",
    "procedural_frost",
    "quantize",
    "salt_and_pepper_noise",
    "shot_noise",
    "speckle_noise",
    "stack_textures",
    "suite_degradations",
    "truncate",
    "uniform_draw",
    "uniform_noise",
]

# Every corruption: `f(key, images, *, <physical parameters>, index=None) -> images`.
CORRUPTIONS: dict[str, Callable[..., jax.Array]] = {
    "gaussian_noise": gaussian_noise,
    "shot_noise": shot_noise,
    "impulse_noise": impulse_noise,
    "speckle_noise": speckle_noise,
    "salt_and_pepper_noise": salt_and_pepper_noise,
    "uniform_noise": uniform_noise,
    "gaussian_blur": blur.gaussian_blur,
    "defocus_blur": blur.defocus_blur,
    "glass_blur": blur.glass_blur,
    "motion_blur": blur.motion_blur,
    "zoom_blur": blur.zoom_blur,
    "snow": weather.snow,
    "frost": frost.frost,
    "fog": weather.fog,
    "brightness": weather.brightness,
    "spatter": spatter.spatter,
    "contrast": digital.contrast,
    "saturate": digital.saturate,
    "pixelate": digital.pixelate,
    "jpeg_compression": jpeg.jpeg_compression,
    "elastic_transform": geometry.elastic_transform,
    "identity": mnist.identity,
    "shear": geometry.shear,
    "scale": geometry.scale,
    "rotate": geometry.rotate,
    "translate": geometry.translate,
    "stripe": mnist.stripe,
    "dotted_line": mnist.dotted_line,
    "zigzag": mnist.zigzag,
    "canny_edges": mnist.canny_edges,
}

# The same as operations, which `corrupt` runs.
OPERATIONS: dict[str, Operation] = {
    **noise.OPERATIONS,
    **blur.OPERATIONS,
    **weather.OPERATIONS,
    **frost.OPERATIONS,
    **spatter.OPERATIONS,
    **digital.OPERATIONS,
    **jpeg.OPERATIONS,
    **geometry.OPERATIONS,
    **mnist.OPERATIONS,
}


def corrupt(
    key: jax.Array,
    images: jax.Array,
    name: str,
    *,
    severity: int | jax.Array,
    index: jax.Array | None = None,
    uint8: bool = False,
    **changes: Any,
) -> jax.Array:
    """Applies a corruption of a suite, for example `"cifar_c/fog"`.

    Compiles once per name, image shape and dtype, whatever the severity.

    Args:
        key: Typed PRNG key. One key serves the whole batch.
        images: `[B, H, W, C]`, floating point, intensities in `[0, 1]`. All but the
            noises need sides of at least 28.
        name: `"<suite>/<corruption>"`; see `SUITES` and `list_corruptions`.
        severity: Whole number, one of `list_severities(suite)`. It may be a traced
            integer scalar, which is clamped to that range.
        index: Integer `[B]`, global number of each image. Default: `0 .. B-1`.
        uint8: Return uint8 images, truncated as in the benchmarks' files. Give
            float32 images then: float16 holds k / 255 less exactly than a level.
        **changes: Parameters that replace those of the suite, and options of the
            corruption, such as `straight_through=True`; see its function.

    Returns:
        Corrupted images, same shape and dtype (or uint8), in `[0, 1]`.

    Raises:
        ValueError: If the name, severity or a change is unknown, or `images` is not a
            non-empty batch of floating-point images in `[0, 1]`. Intensities are
            looked at only outside jit.
    """
    if not isinstance(name, str) or "/" not in name:
        raise ValueError(f"need '<suite>/<corruption>', such as 'uronet/GN': {name!r}")
    suite, _, corruption = name.partition("/")
    function, settings = suite_settings(suite, corruption)
    if isinstance(severity, Tracer):
        if severity.shape or not jnp.issubdtype(severity.dtype, jnp.integer):
            raise ValueError(
                f"a traced severity must be an integer scalar: {severity.aval}"
            )
        choice = jnp.clip(severity, 1, len(settings)) - 1
    else:
        if isinstance(severity, jax.Array | np.ndarray) and severity.ndim == 0:
            severity = severity.item()
        find_corruption(suite, corruption, severity)
        choice = severity - 1
    operation = OPERATIONS[function]
    options = {k: v for k, v in changes.items() if k in operation.options}
    parameters = {k: v for k, v in changes.items() if k not in operation.options}
    signature = inspect.signature(CORRUPTIONS[function]).parameters
    for change in parameters:
        if change not in signature or change in ("key", "images", "index"):
            known = [p for p in signature if p not in ("key", "images", "index")]
            raise ValueError(f"{name} has no parameter {change!r}: it has {known}")
    settings = [{**setting, **parameters} for setting in settings]
    return run(operation, key, images, settings, choice, index, uint8=uint8, **options)
