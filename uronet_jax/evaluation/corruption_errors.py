"""Averages over the corruptions of a benchmark, as the papers report them.

Rows are mappings with `corruption`, `severity` and `accuracy` (a fraction); what else
they hold is ignored. Hendrycks & Dietterich, "Benchmarking
Neural Network Robustness to Common Corruptions and Perturbations", ICLR 2019, define
15 common corruptions at 5 severities; no average here stands for a set with gaps.
"""

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from uronet_jax.batches import check_number

Rows = Sequence[Mapping[str, Any]]

SEVERITIES = (1, 2, 3, 4, 5)
# The common corruptions by category. The other four of the suites (speckle_noise,
# gaussian_blur, spatter, saturate) are for validation and no part of any mCE.
CATEGORIES = {
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise"),
    "blur": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    "weather": ("snow", "frost", "fog", "brightness"),
    "digital": ("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
}
COMMON = tuple(name for names in CATEGORIES.values() for name in names)
# Top-1 errors of AlexNet on ImageNet-C, mean over the severities: Hendrycks &
# Dietterich 2019, digits as in the code of AugMix (Hendrycks et al., ICLR 2020).
ALEXNET_ERRORS = {
    "gaussian_noise": 0.886428,
    "shot_noise": 0.894468,
    "impulse_noise": 0.922640,
    "defocus_blur": 0.819880,
    "glass_blur": 0.826268,
    "motion_blur": 0.785948,
    "zoom_blur": 0.798360,
    "snow": 0.866816,
    "frost": 0.826572,
    "fog": 0.819324,
    "brightness": 0.564592,
    "contrast": 0.853204,
    "elastic_transform": 0.646056,
    "pixelate": 0.717840,
    "jpeg_compression": 0.606500,
}
# On clean ImageNet: torchvision's AlexNet, 56.5 % top-1.
ALEXNET_CLEAN_ERROR = 0.4348


def summarize(
    rows: Rows, *, clean_accuracy: float, alexnet: bool = False
) -> dict[str, Any]:
    """Averages what was measured, and computes what the benchmark reports.

    Args:
        rows: One per corruption and severity, of any suite. All corruptions have the
            same severities.
        clean_accuracy: Fraction, without corruption.
        alexnet: Add the figures relative to AlexNet, which only ImageNet-C defines.

    Returns:
        Always: `clean_accuracy`, `num_corruptions`, `severities`, `mean_accuracy` (over
        all rows) and `accuracy_by_corruption` (over severities).

        Only if the rows hold all of `COMMON` at severities 1 to 5, and over these:
        `common_mean_accuracy`; `common_mean_accuracy_without_noises`, of the 12 others;
        `accuracy_by_category`; and `mean_corruption_error`, the mCE of the CIFAR-10-C
        literature: 1 minus the mean accuracy, not normalised by any network.

        With `alexnet`, in percent, 100 for AlexNet: `alexnet_mce`,
        `mean_c(E_c / E_c(AlexNet))` of the errors summed over severities, and
        `alexnet_relative_mce`, the same with the error on clean images subtracted
        above and below the line: what the corruptions add.

        All else are fractions in `[0, 1]`.

    Raises:
        ValueError: If there is no row, one is twice there or has no accuracy in
            `[0, 1]`, a corruption lacks a severity that another has, or `alexnet` is
            asked for rows with gaps.
    """
    check_number("clean_accuracy, a fraction,", clean_accuracy, 0.0, 1.0)
    table = _table(rows)
    accuracy = {name: mean(column.values()) for name, column in table.items()}
    summary: dict[str, Any] = {
        "clean_accuracy": clean_accuracy,
        "num_corruptions": len(table),
        "severities": sorted(next(iter(table.values()))),
        "mean_accuracy": mean(accuracy.values()),
        "accuracy_by_corruption": accuracy,
    }
    gaps = _gaps(table)
    if gaps and alexnet:
        raise ValueError(
            f"an mCE needs the {len(COMMON)} common corruptions at severities "
            f"{SEVERITIES[0]} to {SEVERITIES[-1]}: no {gaps}"
        )
    if gaps:
        return summary
    errors = {name: 1.0 - mean(table[name][s] for s in SEVERITIES) for name in COMMON}
    error = mean(errors.values())
    others = [name for name in COMMON if name not in CATEGORIES["noise"]]
    summary |= {
        "common_mean_accuracy": 1.0 - error,
        "common_mean_accuracy_without_noises": mean(accuracy[n] for n in others),
        "accuracy_by_category": {
            category: mean(accuracy[name] for name in names)
            for category, names in CATEGORIES.items()
        },
        "mean_corruption_error": error,
    }
    if alexnet:
        added = [
            (errors[name] - (1.0 - clean_accuracy))
            / (ALEXNET_ERRORS[name] - ALEXNET_CLEAN_ERROR)
            for name in COMMON
        ]
        summary |= {
            "alexnet_mce": 100.0 * mean(errors[n] / ALEXNET_ERRORS[n] for n in COMMON),
            "alexnet_relative_mce": 100.0 * mean(added),
        }
    return summary


def _table(rows):
    """Returns corruption -> severity -> accuracy; it has no empty cell."""
    if not rows:
        raise ValueError("need at least one row with corruption, severity and accuracy")
    table: dict[str, dict[int, float]] = {}
    for row in rows:
        name, severity = row["corruption"], row["severity"]
        column = table.setdefault(name, {})
        if severity in column:
            raise ValueError(f"{name} at severity {severity} is there twice")
        what = f"accuracy of {name} at {severity}, a fraction,"
        check_number(what, row["accuracy"], 0.0, 1.0)
        column[severity] = float(row["accuracy"])
    severities = {severity for column in table.values() for severity in column}
    gaps = _gaps(table, table, severities)
    if gaps:
        raise ValueError(f"a mean needs every corruption at every severity: no {gaps}")
    return table


def _gaps(table, names=COMMON, severities=SEVERITIES):
    """Returns what is missing from the table, as text; "" if nothing is."""
    gaps = []
    for name in names:
        missing = sorted(set(severities) - set(table.get(name, ())))
        if name not in table:
            gaps.append(name)
        elif missing:
            gaps.append(f"{name} at severity {', '.join(map(str, missing))}")
    return "; ".join(gaps)
