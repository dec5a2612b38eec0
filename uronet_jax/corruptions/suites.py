"""Suites: which corruption, with which parameters, at which severity."""

import difflib
import numbers
from collections.abc import Sequence
from typing import NamedTuple

from uronet_jax.corruptions.noise import NOISES


class Corruption(NamedTuple):
    """A corruption as a suite uses it.

    Attributes:
        function: Its name in `uronet_jax.corruptions.CORRUPTIONS`.
        parameters: Keyword argument of that function -> one value per severity,
            beginning with severity 1.
    """

    function: str
    parameters: dict[str, tuple]


class SuiteEntry(NamedTuple):
    """One noise at one severity, ready for `make_degradation([(kind, parameter)])`.

    Attributes:
        noise: Name in the suite, such as "GN".
        severity: 1 or more.
        kind: Name in `uronet_jax.corruptions.NOISES`.
        parameter: Scale, half-width, amount or rate.
    """

    noise: str
    severity: int
    kind: str
    parameter: float


SUITES: dict[str, dict[str, Corruption]] = {
    # URoNet paper, Table 1. Severity 1 of UN is its strongest, as printed.
    "uronet": {
        "GN": Corruption("gaussian_noise", {"scale": (0.08, 0.12, 0.18)}),
        "UN": Corruption("uniform_noise", {"half_width": (0.5, 0.3, 0.1)}),
        "SPN": Corruption("salt_and_pepper_noise", {"amount": (0.1, 0.3, 0.5)}),
        "SN": Corruption("shot_noise", {"rate": (60.0, 25.0, 12.0)}),
        "IN": Corruption("impulse_noise", {"amount": (0.03, 0.06, 0.09)}),
        "SPKN": Corruption("speckle_noise", {"scale": (0.15, 0.2, 0.35)}),
    },
}

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
    return tuple(SUITES[_known("suite", suite, SUITES)])


def list_severities(suite: str = "uronet") -> tuple[int, ...]:
    """Returns the severities of a suite, beginning with 1; ValueError if unknown."""
    first = next(iter(SUITES[_known("suite", suite, SUITES)].values()))
    return tuple(range(1, 1 + len(next(iter(first.parameters.values())))))


def find_corruption(
    suite: str, noise: str, severity: int
) -> tuple[str, dict[str, float]]:
    """Looks up one corruption.

    Args:
        suite: Name in `SUITES`.
        noise: Name in that suite.
        severity: Whole number, one of `list_severities(suite)`.

    Returns:
        Name in `CORRUPTIONS` and its keyword arguments.

    Raises:
        ValueError: If one of the three is unknown; the message lists what exists.
    """
    corruptions = SUITES[_known("suite", suite, SUITES)]
    corruption = corruptions[_known(f"corruption of {suite!r}", noise, corruptions)]
    severities = list_severities(suite)
    # 1.0 == 1: a severity is compared by type as well.
    if not isinstance(severity, numbers.Integral) or severity not in severities:
        raise ValueError(
            f"severity of {suite}/{noise} must be an integer in {severities}: "
            f"{severity!r}"
        )
    parameters = corruption.parameters.items()
    return corruption.function, {k: v[severity - 1] for k, v in parameters}


def suite_degradations(
    suite: str = "uronet",
    *,
    noises: Sequence[str] | None = None,
    severities: Sequence[int] | None = None,
    spn_reading: str = "per_pixel",
    un_reading: str = "per_element",
) -> list[SuiteEntry]:
    """Lists the noises of a suite in the form that `make_degradation` takes.

    Args:
        suite: Name in `SUITES`.
        noises: Names in that suite. Default: all.
        severities: Default: all.
        spn_reading: What SPN means, a key of `SPN_READINGS`.
        un_reading: What UN means, a key of `UN_READINGS`.

    Returns:
        One entry per noise and severity, noise by noise.

    Raises:
        ValueError: If a name, severity or reading is unknown, or if a corruption
            cannot be selected inside jit (it is not one of `NOISES`).
    """
    noises = list_corruptions(suite) if noises is None else noises
    severities = list_severities(suite) if severities is None else severities
    kinds = {
        "salt_and_pepper_noise": SPN_READINGS[
            _known("SPN reading", spn_reading, SPN_READINGS)
        ],
        "uniform_noise": UN_READINGS[_known("UN reading", un_reading, UN_READINGS)],
    }
    entries = []
    for noise in noises:
        for severity in severities:
            function, parameters = find_corruption(suite, noise, severity)
            kind = _known("noise", kinds.get(function, function), NOISES)
            (parameter,) = parameters.values()
            entries.append(SuiteEntry(noise, severity, kind, parameter))
    return entries


def _known(what, name, known):
    """Returns `name` if it is a key of `known`, else raises with the nearest ones."""
    if name not in known:
        near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
        hint = f" (nearest: {near[0]!r})" if near else ""
        raise ValueError(f"unknown {what}: {name!r}{hint}; known: {', '.join(known)}")
    return name
