"""What claims of the paper are judged on: numbers, made of cells, with their margins.

A rule turns the cells of an experiment into findings, one for each number that a claim
speaks of, measured or not. It takes the cells that the claim names and no others:
classifiers that are not the paper's do not count.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import mean
from typing import NamedTuple

from uronet_jax.reports.ablations import FILE as _SECTION_3_3
from uronet_jax.reports.comparison import Row
from uronet_jax.reports.layouts import join
from uronet_jax.reports.paper import rows

NOISES = ("GN", "UN", "SPN", "SN", "IN", "SPKN")
SEVERITIES = ("1", "2", "3")
# Mild and strong ends of the noises: the paper's uniform noise runs backwards.
_ENDS = {noise: ("3", "1") if noise == "UN" else ("1", "3") for noise in NOISES}
# Detection accuracy half way between chance and certainty: above it, a detector sees.
SEES = 75.0
# Figure 6: every attack, made on each classifier.
_ATTACKS = ("IFGSM", "PGD0", "PGD10")
_CLASSIFIERS = ("ResNet", "Wide-ResNet16-8")
_GREY_CLASSIFIER = "custom 5-layer CNN"

trained = join("train_noise", "train_severity")
tested = join("test_noise", "test_severity")


def attacked(cell: Row) -> str:
    """Returns the attack of a cell of Table 5 or 11."""
    return cell["test_attack"] if "test_attack" in cell else cell["attack"]


class Finding(NamedTuple):
    """A number that a claim speaks of.

    Attributes:
        name: What it is of, such as `UN-3`.
        value: Ours, in percent, or in points if it is a difference; None if a cell is
            not measured.
        limit: What the claim compares it with.
        margin: How far chance may move it, in points.
        cells: What it is made of.
        signed: Whether it is a difference.
    """

    name: str
    value: float | None
    limit: float
    margin: float
    cells: tuple[Row, ...]
    signed: bool


Rule = Callable[[Sequence[Row]], list[Finding]]


def margin(cell: Row) -> float:
    """Returns how far chance may move a number: two standard deviations, in points.

    Those of the seeds where there are several, else of a share of the test images.

    Args:
        cell: Of `comparison.compare`, measured.
    """
    deviation = cell["spread"]
    if deviation is None:
        share = cell["ours"] / 100.0
        variance = max(share * (1.0 - share), 0.0)
        if cell["metric"] == "accuracy_gain":
            variance = 0.5  # Of two accuracies at most, each 1/4.
        deviation = 100.0 * math.sqrt(variance / cell["num_images"])
    return 2.0 * deviation


def finding(
    name: str, plus: Sequence[Row], minus: Sequence[Row] = (), *, limit: float = 0.0
) -> Finding:
    """Makes a number of cells: a mean, less another mean.

    Args:
        name: See `Finding`.
        plus: The cells of the mean.
        minus: Those of what is taken off, if anything.
        limit: See `Finding`.

    Returns:
        The margin of a mean is the mean of the margins, as its cells share their
        images; that of a difference follows from both.
    """
    cells = (*plus, *minus)
    signed = bool(minus) or plus[0].get("metric") == "accuracy_gain"
    if any(cell["ours"] is None for cell in cells):
        return Finding(name, None, limit, 0.0, cells, signed)
    value, chance = 0.0, 0.0
    for sign, side in ((1.0, plus), (-1.0, minus)):
        if side:
            value += sign * mean(cell["ours"] for cell in side)
            chance = math.hypot(chance, mean(map(margin, side)))
    return Finding(name, value, limit, chance, cells, signed)


def _published(cells: Iterable[Row], **where: str) -> list[Row]:
    """Returns the paper's cells whose columns have these values."""
    return [
        cell
        for cell in cells
        if cell["published"] is not None
        and all(cell[column] == value for column, value in where.items())
    ]


def each(
    limit: float | None,
    name: Callable[[Row], str] = tested,
    *,
    without: Mapping[Callable[[Row], str], str] | None = None,
    **where: str,
) -> Rule:
    """A rule: every published cell with these values of its columns.

    Args:
        limit: Of each; None for the published number of the cell itself.
        name: Cell -> name of the finding.
        without: Cell -> text, and the text of the cells that are left out.
        **where: Columns and their values.
    """

    def rule(cells):
        return [
            finding(
                name(cell), [cell], limit=cell["published"] if limit is None else limit
            )
            for cell in _published(cells, **where)
            if not any(label(cell) == out for label, out in (without or {}).items())
        ]

    return rule


def mildest_against_strongest(cells: Sequence[Row]) -> list[Finding]:
    """Mean detection when trained on the mildest severity, less on the strongest."""

    def row(noise, severity):
        return _published(cells, train_noise=noise, train_severity=severity)

    return [
        finding(noise, row(noise, mild), row(noise, strong))
        for noise, (mild, strong) in _ENDS.items()
    ]


def _mitigated(cells: Sequence[Row]) -> dict[tuple, dict[str, Row]]:
    """Returns classifier, noise and severity -> remover's severity -> published cell.

    The undefended one has no severity.
    """
    found: dict[tuple, dict[str, Row]] = {}
    for cell in _published(cells):
        if cell["condition"] != "clean":
            place = cell["classifier"], cell["noise"], cell["test_severity"]
            found.setdefault(place, {})[cell["remover_train_severity"]] = cell
    return found


def removers_against_none(cells: Sequence[Row]) -> list[Finding]:
    """Accuracy behind each remover of Table 7 or 8, less the undefended one."""
    return [
        finding(f"{noise}-{severity}", [line[remover]], [line[""]])
        for (_, noise, severity), line in _mitigated(cells).items()
        for remover in SEVERITIES
    ]


def removers_against_published(cells: Sequence[Row]) -> list[Finding]:
    """Accuracy behind each remover of Table 7 or 8, less the published one."""
    return [
        Finding(
            f"{noise}-{severity}",
            line[remover]["difference"],
            0.0,
            0.0 if line[remover]["ours"] is None else margin(line[remover]),
            (line[remover],),
            True,
        )
        for (_, noise, severity), line in _mitigated(cells).items()
        for remover in SEVERITIES
    ]


def same_severity_against_others(cells: Sequence[Row]) -> list[Finding]:
    """Accuracy behind the remover of the severity met, less the mean of the others."""
    return [
        finding(
            f"{noise}-{severity}",
            [line[severity]],
            [line[other] for other in SEVERITIES if other != severity],
        )
        for (_, noise, severity), line in _mitigated(cells).items()
    ]


def uronet_against_defences(cells: Sequence[Row]) -> list[Finding]:
    """Accuracy of a ResNet on attacked images, beside the best of other defences."""
    found = []
    for attack in ("IFGSM", "PGD-10"):
        published = _published(cells, classifier="ResNet", attack=attack)
        own = [cell for cell in published if cell["defence"].startswith("URoNet")]
        others = [cell["published"] for cell in published if cell not in own]
        found.append(finding(attack, own, limit=max(others)))
    return found


def two_heads_against_one(limit: float) -> Rule:
    """A rule: URoNet's accuracy in Table 12 less that of one head."""

    def rule(cells):
        pairs: dict[tuple, dict[str, Row]] = {}
        for cell in _published(cells):
            method = cell["method"].partition(" (")[0]
            place = cell["classifier"], join("noise", "inferred_severity")(cell)
            pairs.setdefault(place, {})[method] = cell
        return [
            finding(noise, [pair["URoNet"]], [pair["DCAE"]], limit=limit)
            for (_, noise), pair in pairs.items()
        ]

    return rule


def _wanted(
    cells: Iterable[Row], columns: Sequence[str], keys: Iterable[tuple]
) -> dict[tuple, Row]:
    """Returns key -> the cell whose columns have its values, or an unmeasured one."""
    measured = {tuple(cell.get(c) for c in columns): cell for cell in cells}
    return {
        key: measured.get(key, {**dict(zip(columns, key, strict=True)), "ours": None})
        for key in keys
    }


def _gains(cells: Iterable[Row]) -> dict[tuple, Row]:
    """Returns noise, attack, attacked classifier and classifier -> gain of Figure 6."""
    columns = ("train_noise", "attack", "attacked_classifier", "classifier")
    return _wanted(
        (cell for cell in cells if cell["metric"] == "accuracy_gain"),
        columns,
        itertools.product(NOISES, _ATTACKS, _CLASSIFIERS, _CLASSIFIERS),
    )


def _gaussian_gains(cells: Iterable[Row]) -> list[Row]:
    """Returns what the GN remover gives a ResNet back: own attack, transferred."""
    gains = _gains(cells)
    return [gains["GN", "PGD0", attacked, "ResNet"] for attacked in _CLASSIFIERS]


def own_against_transferred(cells: Sequence[Row]) -> list[Finding]:
    """Points that a GN remover gives back under PGD, own attack less transferred."""
    own, transferred = _gaussian_gains(cells)
    return [finding("own less transferred", [own], [transferred])]


def gaussian_gains(own: float, transferred: float) -> Rule:
    """A rule: the points that a GN remover gives a ResNet back under PGD."""

    def rule(cells):
        names, limits = ("own", "transferred"), (own, transferred)
        pairs = zip(names, _gaussian_gains(cells), limits, strict=True)
        return [finding(name, [cell], limit=limit) for name, cell, limit in pairs]

    return rule


def _gains_of(gains: Mapping[tuple, Row], noise: str) -> list[Row]:
    return [cell for key, cell in gains.items() if key[0] == noise]


def salt_and_pepper_against_others(cells: Sequence[Row]) -> list[Finding]:
    """Mean gain of the SPN remover under attacks, less that of each other one."""
    gains = _gains(cells)
    own = _gains_of(gains, "SPN")
    return [
        finding(f"less {noise}", own, _gains_of(gains, noise))
        for noise in NOISES
        if noise != "SPN"
    ]


def salt_and_pepper_gain(limit: float) -> Rule:
    """A rule: the mean gain of the SPN remover over attacks and classifiers."""

    def rule(cells):
        return [finding("SPN", _gains_of(_gains(cells), "SPN"), limit=limit)]

    return rule


def _detectors(cells: Sequence[Row], ablation: str) -> dict[tuple, Row]:
    """Returns trained on, noise, severity and own -> cell of an ablation's detectors.

    The paper does not say which noises it trained on: those that were measured count,
    each with all tests.
    """
    kept = [
        {**cell, "trained": trained(cell)}
        for cell in cells
        if (cell["ablation"], cell["dataset"]) == (ablation, "CIFAR-10")
        and cell["own"] is not None
    ]
    names = dict.fromkeys(cell["trained"] for cell in kept) or ["GN-1"]
    return _wanted(
        kept,
        ("trained", "test_noise", "test_severity", "own"),
        itertools.product(names, NOISES, SEVERITIES, (True, False)),
    )


def usual_detector_against(ablation: str, limit: float = 0.0) -> Rule:
    """A rule: detection by the usual detector less that by a changed one, each test."""

    def rule(cells):
        found = _detectors(cells, ablation)
        return [
            finding(f"{noise}-{severity}", [cell], [found[*place, False]], limit=limit)
            for (*place, own), cell in found.items()
            if own
            for noise, severity in [place[1:]]
        ]

    return rule


def usual_detector_on_uniform(ablation: str, limit: float) -> Rule:
    """A rule: the same, trained on GN-1 and tested on UN-1."""

    def rule(cells):
        found = _detectors(cells, ablation)
        pair = _wanted(
            found.values(),
            ("trained", "test_noise", "test_severity", "own"),
            [("GN-1", "UN", "1", own) for own in (True, False)],
        )
        own, other = pair.values()
        return [finding("GN-1 on UN-1", [own], [other], limit=limit)]

    return rule


def grey_removers_against_none(limits: Mapping[str, float]) -> Rule:
    """A rule: accuracy on grey images behind a remover less the undefended one.

    Args:
        limits: Noise -> limit.
    """

    def rule(cells):
        found = _wanted(
            (c for c in cells if c["ablation"] == "grey"),
            ("classifier", "variant", "test_noise", "test_severity"),
            itertools.product(
                [_GREY_CLASSIFIER], ("remover", "undefended"), limits, SEVERITIES
            ),
        )
        return [
            finding(
                f"{noise}-{severity}",
                [cell],
                [found[network, "undefended", noise, severity]],
                limit=limits[noise],
            )
            for (network, variant, noise, severity), cell in found.items()
            if variant == "remover"
        ]

    return rule


def section_3_3(**where: str) -> list[float]:
    """Returns published numbers of the ablations with these values of their columns."""
    return published_numbers(_SECTION_3_3, **where)


def published_numbers(file: str, **where: str) -> list[float]:
    """Returns the numbers of a published file with these values of their columns."""
    return [
        float(row["value"])
        for row in rows(file)
        if all(row[column] == value for column, value in where.items())
    ]
