"""Corruptions: clean images to degraded images. Pure, jittable, random per image."""

from collections.abc import Callable

import jax

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
from uronet_jax.corruptions.suites import (
    SPN_READINGS,
    SUITES,
    UN_READINGS,
    Corruption,
    SuiteEntry,
    find_corruption,
    list_corruptions,
    list_severities,
    suite_degradations,
)

__all__ = [
    "CORRUPTIONS",
    "NOISES",
    "SPN_READINGS",
    "SUITES",
    "UN_READINGS",
    "Corruption",
    "Degradation",
    "SuiteEntry",
    "choose_entries",
    "corrupt",
    "degrade",
    "find_corruption",
    "gaussian_noise",
    "impulse_noise",
    "list_corruptions",
    "list_severities",
    "make_degradation",
    "salt_and_pepper_noise",
    "shot_noise",
    "speckle_noise",
    "suite_degradations",
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
}


def corrupt(
    key: jax.Array,
    images: jax.Array,
    name: str,
    *,
    severity: int,
    index: jax.Array | None = None,
) -> jax.Array:
    """Applies a corruption of a suite, for example `"uronet/GN"`.

    Args:
        key: Typed PRNG key. One key serves the whole batch.
        images: `[B, H, W, C]`, floating point, intensities in `[0, 1]`.
        name: `"<suite>/<corruption>"`; see `SUITES` and `list_corruptions`.
        severity: Whole number, one of `list_severities(suite)`. Static under jit.
        index: Integer `[B]`, global number of each image. Default: `0 .. B-1`.

    Returns:
        Corrupted images, same shape and dtype, in `[0, 1]`.

    Raises:
        ValueError: If the name or severity is unknown, or `images` is not a
            non-empty batch of floating-point images.
    """
    suite, slash, corruption = name.partition("/")
    if not slash:
        raise ValueError(f"need '<suite>/<corruption>', such as 'uronet/GN': {name!r}")
    function, parameters = find_corruption(suite, corruption, severity)
    return CORRUPTIONS[function](key, images, **parameters, index=index)
