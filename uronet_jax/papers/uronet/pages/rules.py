"""What claims of the paper are judged on: numbers, made of cells, with their margins.

A rule turns the cells of an experiment into findings, one for each number that a claim
speaks of, measured or not. It takes the cells that the claim names and no others:
classifiers that are not the paper's do not count.
"""

import itertools
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import mean
from typing import NamedTuple

from uronet_jax.papers.uronet.pages.ablations import FILE as _SECTION_3_3
from uronet_jax.papers.uronet.pages.comparison import Row
from uronet_jax.papers.uronet.pages.layouts import join
from uronet_jax.papers.uronet.pages.paper import rows

NOISES = ("GN", "UN", "SPN", "SN", "IN", "SPKN")
SEVERITIES = ("1", "2", "3")
# Mild and strong ends of the noises: the paper's uniform noise runs backwards.
_ENDS = {noise: ("3", "1") if noise == "UN" else ("1", "3") for noise in NOISES}
# Detection accuracy half way between chance and certainty: above it, a detector sees.
SEES = 75.0
# Detection accuracy from which on a detector finds the noise that it was trained on.
FINDS = 90.0
# What findings on two detectors are.
OWN_LESS_OTHER = "the usual detector less the other"
# Student's t: quantiles at 97.5 % for 1 to 9 degrees of freedom; the last for more.
_QUANTILES = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
# Steps of the paper's attacks, where their label does not say, and those of CIFAR-100.
_STEPS, _STEPS_CIFAR_100 = 40, 20
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
        image_margin: How far the sample of test images may move it, in points.
        margin: How far chance may move it, that of training included if there are
            several seeds; never below `image_margin`.
        cells: What it is made of.
        signed: Whether it is a difference.
    """

    name: str
    value: float | None
    limit: float
    image_margin: float
    margin: float
    cells: tuple[Row, ...]
    signed: bool


Rule = Callable[[Sequence[Row]], list[Finding]]


def image_margin(cell: Row) -> float:
    """Returns how far the sample of test images may move a number, in points.

    Two standard deviations of a share of the images; seeds share their images.

    Args:
        cell: Of `comparison.compare`, measured.
    """
    share = cell["ours"] / 100.0
    variance = max(share * (1.0 - share), 0.0)
    if cell["metric"] == "accuracy_gain":
        variance = 0.5  # Of two accuracies at most, each 1/4.
    return 200.0 * math.sqrt(variance / cell["num_images"])


def margin(cell: Row) -> float:
    """Returns how far chance may move a number, in points.

    With several seeds at least the half-width of a 95 % interval of their mean
    (Student's t), and never less than `image_margin`. With one seed it is that, and the
    variance of training is not in it.

    Args:
        cell: Of `comparison.compare`, measured.
    """
    images, seeds = image_margin(cell), cell["seeds"]
    if seeds < 2:
        return images
    quantile = _QUANTILES[min(seeds - 1, len(_QUANTILES)) - 1]
    return max(images, quantile * cell["spread"] / math.sqrt(seeds))


def weaker_steps(cell: Row) -> tuple[int, int] | None:
    """Returns the steps of an attack and the paper's, if its own are fewer.

    Args:
        cell: Of `comparison.compare`.
    """
    if cell.get("steps") is None:
        return None
    said = re.search(r"\d+$", cell.get("train_attack") or "")
    usual = _STEPS_CIFAR_100 if cell.get("dataset") == "CIFAR-100" else _STEPS
    steps = int(said[0]) if said else usual
    return (cell["steps"], steps) if cell["steps"] < steps else None


def own_detection(cells: Iterable[Row]) -> dict[str, float]:
    """Returns trained noise -> how well its detector finds that very noise, in percent.

    Args:
        cells: Of Table 2.
    """
    return {
        trained(cell): cell["ours"]
        for cell in cells
        if cell["ours"] is not None and trained(cell) == tested(cell)
    }


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
        The margins of a mean are the means of the margins, as its cells share their
        images; those of a difference follow from both.
    """
    cells = (*plus, *minus)
    signed = bool(minus) or plus[0].get("metric") == "accuracy_gain"
    if any(cell["ours"] is None for cell in cells):
        return Finding(name, None, limit, 0.0, 0.0, cells, signed)
    value, images, chance = 0.0, 0.0, 0.0
    for sign, side in ((1.0, plus), (-1.0, minus)):
        if side:
            value += sign * mean(cell["ours"] for cell in side)
            images = math.hypot(images, mean(map(image_margin, side)))
            chance = math.hypot(chance, mean(map(margin, side)))
    return Finding(name, value, limit, images, chance, cells, signed)


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
    found = (
        (line[remover], finding(f"{noise}-{severity}", [line[remover]]))
        for (_, noise, severity), line in _mitigated(cells).items()
        for remover in SEVERITIES
    )
    return [one._replace(value=c["difference"], signed=True) for c, one in found]


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
        name = f"GN-1 on UN-1 ({OWN_LESS_OTHER})"
        return [finding(name, [own], [other], limit=limit)]

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
