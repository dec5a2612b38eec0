"""Lines of the overview's table, and what they are made of."""

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from uronet_jax.papers.pages.group import noisy_values
from uronet_jax.reports.results import Result

# Severities of CIFAR-10-C whose mean stands in the table.
OVERVIEW_SEVERITIES = "1, 3, 5"
OVERVIEW_HEADINGS = {
    "defence": "defence",
    "images": "images",
    "clean": "clean",
    "noises": "18 noises",
    "worst": "worst noise",
    "corruptions": "19 corruptions",
    "unseen": "unseen",
    "unaware": "PGD, attacker does not know it",
    "aware": "PGD, attacker knows it",
    "found": "detected",
    "alarms": "false alarms",
}


def mean_of_noisy(numbers: Mapping[str, float]) -> float | None:
    """Returns the mean over degradations, clean images aside; None without any."""
    found = noisy_values(numbers)
    return mean(found) if found else None


def at_overview_severities(numbers: Mapping[str, float]) -> dict[str, float]:
    """Returns those of `corruption-severity` -> number that the table's means take."""
    shown = tuple(f"-{x}" for x in OVERVIEW_SEVERITIES.split(", "))
    return {place: x for place, x in numbers.items() if place.endswith(shown)}


def overview_row(
    defence: str, results: Sequence[Result], **values: Any
) -> dict[str, Any]:
    """Returns one line; what is None or empty leaves its cell empty.

    `noises` are accuracies by degradation, or their mean.
    """
    counts = sorted({count for result in results for count in result.counts})
    images = " to ".join(f"{x:,}" for x in dict.fromkeys(counts[:1] + counts[-1:]))
    small = ", small" if any(result.small for result in results) else ""
    if isinstance(noises := values.get("noises"), Mapping):
        worst = min(noisy_values(noises), default=None)
        values |= {"noises": mean_of_noisy(noises), "worst": worst}
    for name, value in values.items():
        values[name] = f"{value:.1f}" if isinstance(value, float) else value
    return {"defence": defence, "images": images + small, **values}
