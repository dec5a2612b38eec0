"""Suites: which corruption, with which parameters, at which severity."""

import types
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax

from uronet_jax.batches import check_listed, check_whole, known_name
from uronet_jax.corruptions.noise import NOISES
from uronet_jax.corruptions.registry import CORRUPTIONS


class Corruption(NamedTuple):
    """A corruption as a suite uses it."""

    function: str  # Its name in `uronet_jax.corruptions.CORRUPTIONS`.
    settings: tuple[Mapping[str, Any], ...]  # Its parameters, from severity 1 on.


class SuiteEntry(NamedTuple):
    """One noise at one severity, ready for `make_degradation([(kind, parameter)])`."""

    noise: str  # Name in the suite, such as "GN".
    severity: int  # 1 or more.
    kind: str  # Name in `uronet_jax.corruptions.NOISES`.
    parameter: float  # Scale, half-width, amount or rate.

    @property
    def fields(self) -> dict[str, Any]:
        """What a row of an evaluation says besides noise and severity."""
        return {"kind": self.kind, "parameter": self.parameter}


def _corruption(function: str, *values: Any) -> Corruption:
    """Names what each severity sets, in the order of the example and the defaults.

    A value is a tuple, unless there is a single parameter to set.
    """
    operation = CORRUPTIONS[function]
    names = [*operation.example, *operation.defaults]
    rows = values if len(names) != 1 else [(value,) for value in values]
    settings = (dict(zip(names[: len(row)], row, strict=True)) for row in rows)
    return Corruption(function, tuple(map(types.MappingProxyType, settings)))


def _suite(**corruptions: Sequence) -> dict[str, Corruption]:
    return {name: _corruption(name, *values) for name, values in corruptions.items()}


def _zooms(*severities: tuple[int, float]) -> tuple[tuple[float, ...], ...]:
    """Returns factors from 1 on, given their number and step."""
    # As numpy.arange(1, stop, step) computes them, in float64: a factor that is off by
    # one rounding error can change the number of samples that a crop is zoomed to.
    return tuple(
        tuple(1.0 + i * ((1.0 + step) - 1.0) for i in range(count))
        for count, step in severities
    )


def _times(side: int, *values: tuple) -> tuple:
    return tuple(tuple(v * side for v in value) for value in values)


_CIFAR_ZOOM = _zooms(*((n, 0.01) for n in (7, 12, 16, 21, 26)))

SUITES: dict[str, dict[str, Corruption]] = {
    # URoNet paper, Table 1. Severity 1 of UN is its strongest, as printed.
    "uronet": {
        "GN": _corruption("gaussian_noise", 0.08, 0.12, 0.18),
        "UN": _corruption("uniform_noise", 0.5, 0.3, 0.1),
        "SPN": _corruption("salt_and_pepper_noise", 0.1, 0.3, 0.5),
        "SN": _corruption("shot_noise", 60.0, 25.0, 12.0),
        "IN": _corruption("impulse_noise", 0.03, 0.06, 0.09),
        "SPKN": _corruption("speckle_noise", 0.15, 0.2, 0.35),
    },
    # Hendrycks & Dietterich 2019: make_cifar_c.py, for 32x32 images. Some severities
    # are milder than the one before in one parameter (glass blur); that is so there.
    "cifar_c": _suite(
        gaussian_noise=(0.04, 0.06, 0.08, 0.09, 0.10),
        shot_noise=(500.0, 250.0, 100.0, 75.0, 50.0),
        impulse_noise=(0.01, 0.02, 0.03, 0.05, 0.07),
        defocus_blur=((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1.0, 0.2), (1.5, 0.1)),
        glass_blur=((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
        motion_blur=((6, 1.0), (6, 1.5), (6, 2.0), (8, 2.0), (9, 2.5)),
        zoom_blur=_CIFAR_ZOOM,
        snow=(
            (0.1, 0.2, 1.0, 0.6, 8, 3.0, 0.95),
            (0.1, 0.2, 1.0, 0.5, 10, 4.0, 0.9),
            (0.15, 0.3, 1.75, 0.55, 10, 4.0, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6.0, 0.85),
            (0.3, 0.3, 1.25, 0.65, 14, 12.0, 0.8),
        ),
        frost=((1.0, 0.2), (1.0, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)),
        fog=((0.2, 3.0), (0.5, 3.0), (0.75, 2.5), (1.0, 2.0), (1.5, 1.75)),
        brightness=(0.05, 0.1, 0.15, 0.2, 0.3),
        contrast=(0.75, 0.5, 0.4, 0.3, 0.15),
        elastic_transform=_times(
            32,
            (0.0, 0.0, 0.08),
            (0.05, 0.2, 0.07),
            (0.08, 0.06, 0.06),
            (0.1, 0.04, 0.05),
            (0.1, 0.03, 0.03),
        ),
        pixelate=(0.95, 0.9, 0.85, 0.75, 0.65),
        jpeg_compression=(80, 65, 58, 50, 40),
        speckle_noise=(0.06, 0.1, 0.12, 0.16, 0.2),
        gaussian_blur=(0.4, 0.6, 0.7, 0.8, 1.0),
        spatter=(
            (0.62, 0.1, 0.7, 0.7, 0.5, "water"),
            (0.65, 0.1, 0.8, 0.7, 0.5, "water"),
            (0.65, 0.3, 1.0, 0.69, 0.5, "water"),
            (0.65, 0.1, 0.7, 0.69, 0.6, "mud"),
            (0.65, 0.1, 0.5, 0.68, 0.6, "mud"),
        ),
        saturate=((0.3, 0.0), (0.1, 0.0), (1.5, 0.0), (2.0, 0.1), (2.5, 0.2)),
    ),
    # The same authors' make_tinyimagenet_c.py, for 64x64 images.
    "tiny_c": _suite(
        gaussian_noise=(0.04, 0.08, 0.12, 0.15, 0.18),
        shot_noise=(250.0, 100.0, 50.0, 30.0, 15.0),
        impulse_noise=(0.01, 0.02, 0.05, 0.08, 0.14),
        defocus_blur=((0.5, 0.6), (1.0, 0.1), (1.5, 0.1), (2.5, 0.01), (3.0, 0.1)),
        glass_blur=((0.1, 1, 1), (0.5, 1, 1), (0.6, 1, 2), (0.7, 2, 1), (0.9, 2, 2)),
        motion_blur=((10, 1.0), (10, 1.5), (10, 2.0), (10, 2.5), (12, 3.0)),
        zoom_blur=_CIFAR_ZOOM,
        snow=(
            (0.1, 0.2, 1.0, 0.6, 8, 3.0, 0.8),
            (0.1, 0.2, 1.0, 0.5, 10, 4.0, 0.8),
            (0.15, 0.3, 1.75, 0.55, 10, 4.0, 0.7),
            (0.25, 0.3, 2.25, 0.6, 12, 6.0, 0.65),
            (0.3, 0.3, 1.25, 0.65, 14, 12.0, 0.6),
        ),
        frost=((1.0, 0.3), (0.9, 0.4), (0.8, 0.45), (0.75, 0.5), (0.7, 0.55)),
        fog=((0.4, 3.0), (0.7, 3.0), (1.0, 2.5), (1.5, 2.0), (2.0, 1.75)),
        brightness=(0.1, 0.2, 0.3, 0.4, 0.5),
        contrast=(0.4, 0.3, 0.2, 0.1, 0.05),
        elastic_transform=_times(
            64,
            (0.0, 0.0, 0.08),
            (0.05, 0.3, 0.06),
            (0.1, 0.08, 0.06),
            (0.1, 0.03, 0.03),
            (0.16, 0.03, 0.02),
        ),
        pixelate=(0.9, 0.8, 0.7, 0.6, 0.5),
        jpeg_compression=(65, 58, 50, 40, 25),
        speckle_noise=(0.15, 0.2, 0.25, 0.3, 0.35),
        gaussian_blur=(0.5, 0.75, 1.0, 1.25, 1.5),
        spatter=(
            (0.62, 0.1, 0.7, 0.7, 0.6, "water"),
            (0.65, 0.1, 0.8, 0.7, 0.6, "water"),
            (0.65, 0.3, 1.0, 0.69, 0.6, "water"),
            (0.65, 0.1, 0.7, 0.68, 0.6, "mud"),
            (0.65, 0.1, 0.5, 0.67, 0.6, "mud"),
        ),
        saturate=((0.3, 0.0), (0.1, 0.0), (2.0, 0.0), (5.0, 0.1), (30.0, 0.2)),
    ),
    # The same authors' make_imagenet_c.py, for 224x224 images. The 244 of the elastic
    # transform is a misprint there that the published files contain.
    "imagenet_c": _suite(
        gaussian_noise=(0.08, 0.12, 0.18, 0.26, 0.38),
        shot_noise=(60.0, 25.0, 12.0, 5.0, 3.0),
        impulse_noise=(0.03, 0.06, 0.09, 0.17, 0.27),
        defocus_blur=((3.0, 0.1), (4.0, 0.5), (6.0, 0.5), (8.0, 0.5), (10.0, 0.5)),
        glass_blur=((0.7, 1, 2), (0.9, 2, 1), (1.0, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
        motion_blur=((10, 3.0), (15, 5.0), (15, 8.0), (15, 12.0), (20, 15.0)),
        zoom_blur=_zooms((12, 0.01), (16, 0.01), (11, 0.02), (13, 0.02), (11, 0.03)),
        snow=(
            (0.1, 0.3, 3.0, 0.5, 10, 4.0, 0.8),
            (0.2, 0.3, 2.0, 0.5, 12, 4.0, 0.7),
            (0.55, 0.3, 4.0, 0.9, 12, 8.0, 0.7),
            (0.55, 0.3, 4.5, 0.85, 12, 8.0, 0.65),
            (0.55, 0.3, 2.5, 0.85, 12, 12.0, 0.55),
        ),
        frost=((1.0, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)),
        fog=((1.5, 2.0), (2.0, 2.0), (2.5, 1.7), (2.5, 1.5), (3.0, 1.4)),
        brightness=(0.1, 0.2, 0.3, 0.4, 0.5),
        contrast=(0.4, 0.3, 0.2, 0.1, 0.05),
        elastic_transform=_times(
            244,
            (2.0, 0.7, 0.1),
            (2.0, 0.08, 0.2),
            (0.05, 0.01, 0.02),
            (0.07, 0.01, 0.02),
            (0.12, 0.01, 0.02),
        ),
        pixelate=(0.6, 0.5, 0.4, 0.3, 0.25),
        jpeg_compression=(25, 18, 15, 10, 7),
        speckle_noise=(0.15, 0.2, 0.35, 0.45, 0.6),
        gaussian_blur=(1.0, 2.0, 3.0, 4.0, 6.0),
        spatter=(
            (0.65, 0.3, 4.0, 0.69, 0.6, "water"),
            (0.65, 0.3, 3.0, 0.68, 0.6, "water"),
            (0.65, 0.3, 2.0, 0.68, 0.5, "water"),
            (0.65, 0.3, 1.0, 0.65, 1.5, "mud"),
            (0.67, 0.4, 1.0, 0.65, 1.5, "mud"),
        ),
        saturate=((0.3, 0.0), (0.1, 0.0), (2.0, 0.0), (5.0, 0.1), (20.0, 0.2)),
    ),
}


# Mu & Gilmer 2019: one severity per corruption. Where ImageNet-C has a corruption of
# the same name, the comment says which of its severities this one is.
SUITES["mnist_c"] = _suite(
    identity=((),),
    shot_noise=(3.0,),  # 5
    impulse_noise=(0.17,),  # 4
    # 1. On 2-D arrays the pixels are really swapped; a fair coin decides on each.
    glass_blur=((0.7, 1, 2, True, 0.5),),
    motion_blur=((10, 3.0),),  # 1
    shear=(0.4,),
    scale=(0.7,),
    rotate=(0.4,),
    brightness=(0.5,),  # 5
    translate=(3,),
    stripe=((),),
    fog=((3.0, 1.4, 256),),  # 5, on a map of this size.
    spatter=((0.65, 0.3, 1.0, 0.65, 1.5, "mud"),),  # 4
    dotted_line=((),),
    zigzag=((),),
    canny_edges=(1.0,),
)

# This project: faults of a camera's sensor, which no remover is trained on.
SUITES["sensor"] = _suite(
    banding=(0.02, 0.04, 0.06, 0.09, 0.12), dead_columns=(1, 2, 3, 4, 6)
)

# The paper does not define SPN and UN. Reading -> kind in NOISES.
SPN_READINGS = {
    "per_pixel": "salt_and_pepper_noise",
    "per_channel": "salt_and_pepper_noise_per_channel",
}
UN_READINGS = {
    "per_element": "uniform_noise",
    "per_pixel": "uniform_noise_shared",
    "positive": "uniform_noise_positive",
    "low_contrast": "uniform_noise_low_contrast",
}


def list_corruptions(suite: str = "uronet") -> tuple[str, ...]:
    """Returns the names of the corruptions of a suite; ValueError if unknown."""
    return tuple(SUITES[known_name("suite", suite, SUITES)])


def list_severities(suite: str = "uronet") -> tuple[int, ...]:
    """Returns the severities of a suite, beginning with 1; ValueError if unknown."""
    first = next(iter(SUITES[known_name("suite", suite, SUITES)].values()))
    return tuple(range(1, 1 + len(first.settings)))


def find_corruption(
    suite: str, noise: str, severity: int
) -> tuple[str, dict[str, Any]]:
    """Returns the name in `CORRUPTIONS`, and its keyword arguments, of one severity.

    Raises:
        ValueError: If one of the three is unknown; the message lists what exists.
    """
    function, settings = suite_settings(suite, noise)
    last = list_severities(suite)[-1]
    check_whole(f"severity of {suite}/{noise}", severity, 1, last)
    return function, dict(settings[severity - 1])


def suite_settings(suite: str, noise: str) -> Corruption:
    """Returns the function of a corruption, and its parameters per severity.

    Raises:
        ValueError: If suite or corruption are unknown; the message names the nearest.
    """
    corruptions = SUITES[known_name("suite", suite, SUITES)]
    return corruptions[known_name(f"{suite} corruption", noise, corruptions)]


def entry_key(seed: int, name: str, severity: int) -> jax.Array:
    """Returns the key of `"<suite>/<corruption>"` at one severity in a corrupted set.

    Every program that makes such a set uses it, so that the same seed gives the same
    images, and no two corruptions or severities share their random numbers.
    """
    key = jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()))
    return jax.random.fold_in(key, severity)


def suite_degradations(
    suite: str = "uronet",
    *,
    noises: Sequence[str] | None = None,
    severities: Sequence[int] | None = None,
    spn_reading: str = "per_pixel",
    un_reading: str = "per_element",
) -> list[SuiteEntry]:
    """Lists the noises of a suite in the form that `make_degradation` takes.

    One entry per noise and severity, by default all, noise by noise.

    Args:
        suite: Name in `SUITES`.
        noises: Names in that suite.
        severities: Of that suite.
        spn_reading: What SPN means, a key of `SPN_READINGS`.
        un_reading: What UN means, a key of `UN_READINGS`.

    Raises:
        ValueError: If a name, severity or reading is unknown, or if a corruption
            cannot be selected inside jit (it is not one of `NOISES`).
    """
    noises = list_corruptions(suite) if noises is None else noises
    severities = list_severities(suite) if severities is None else severities
    check_listed("noises", noises)
    check_listed("severities", severities)
    spn = SPN_READINGS[known_name("SPN reading", spn_reading, SPN_READINGS)]
    un = UN_READINGS[known_name("UN reading", un_reading, UN_READINGS)]
    kinds = {"salt_and_pepper_noise": spn, "uniform_noise": un}
    entries = []
    for noise in noises:
        for severity in severities:
            function, parameters = find_corruption(suite, noise, severity)
            kind = known_name("noise", kinds.get(function, function), NOISES)
            (parameter,) = parameters.values()
            entries.append(SuiteEntry(noise, severity, kind, parameter))
    return entries
