"""What the URoNet paper claims, judged by rules over our results."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from statistics import mean

from uronet_jax.reports import paper
from uronet_jax.reports.reproduction import Group, Row, title
from uronet_jax.reports.tables import markdown_table

# Detection accuracy between chance and certainty: above it, a detector sees.
_SEES = 75.0
# Points by which undefended accuracies may differ before two noises are two noises.
_SAME_NOISE = 10.0
# Mild and strong ends of the six noises: the paper's uniform noise runs backwards.
_ENDS = {
    "GN": ("1", "3"),
    "UN": ("3", "1"),
    "SPN": ("1", "3"),
    "SN": ("1", "3"),
    "IN": ("1", "3"),
    "SPKN": ("1", "3"),
}
_NUM_NOISES = 18

# A rule returns whether the claim holds and the numbers behind that, or None where
# cells are missing that it needs.
Rule = Callable[[Sequence[Row]], tuple[bool, str] | None]


@dataclasses.dataclass(frozen=True)
class Claim:
    """Something the paper says.

    Attributes:
        experiment: Whose cells can tell.
        text: What it says, with its numbers.
        rule: See `Rule`.
    """

    experiment: str
    text: str
    rule: Rule


@dataclasses.dataclass(frozen=True)
class Judgement:
    """A claim and what our results say of it.

    Attributes:
        claim: The paper's.
        holds: None where nothing was measured that can tell.
        evidence: Our numbers.
        small: Whether they come from small models or part of a test set, which is no
            verdict on the paper.
        result: Name of the file.
    """

    claim: Claim
    holds: bool | None
    evidence: str = ""
    small: bool = False
    result: str = ""


def _ours(cells: Iterable[Row], **where: str) -> list[float]:
    """Returns our numbers of the cells whose columns have these values."""
    return [
        cell["ours"]
        for cell in cells
        if cell["ours"] is not None
        and all(cell.get(column) == value for column, value in where.items())
    ]


def _all_at_least(
    limit: float, count: int, *, without: Sequence[str] = (), **where: str
) -> Rule:
    """A rule: `count` cells, apart from some tests, reach a limit."""

    def rule(cells):
        kept = [
            cell
            for cell in cells
            if f"{cell['test_noise']}-{cell['test_severity']}" not in without
        ]
        values = _ours(kept, **where)
        if len(values) < count:
            return None
        return round(min(values), 2) >= limit, f"lowest {min(values):.2f} %"

    return rule


def _mild_generalises(cells):
    means = {}
    for noise, ends in _ENDS.items():
        for severity in ends:
            values = _ours(cells, train_noise=noise, train_severity=severity)
            if len(values) < _NUM_NOISES:
                return None
            means[noise, severity] = mean(values)
    wins = [
        n for n, (mild, strong) in _ENDS.items() if means[n, mild] > means[n, strong]
    ]
    return len(wins) == len(_ENDS), f"{len(wins)} of {len(_ENDS)} noises"


def _misses_uniform(cells):
    values = _ours(cells, train_noise="SPN", test_noise="UN", test_severity="3")
    if len(values) < 3:
        return None
    return max(values) < _SEES, f"at most {max(values):.2f} %"


def _noise_detectors_miss_attacks(cells):
    cells = [c for c in cells if c["dataset"] == "CIFAR-10"]
    others = [
        c for c in cells if (c["train_noise"], c["train_severity"]) != ("UN", "3")
    ]
    values = _ours(others)
    if len(values) < 2 * (_NUM_NOISES - 1):
        return None
    return max(values) < _SEES, f"at most {max(values):.2f} %"


def _uniform_detectors_see_attacks(cells):
    where = {"dataset": "CIFAR-10", "train_noise": "UN", "train_severity": "3"}
    values = [_ours(cells, test_attack=name, **where) for name in ("IFGSM", "PGD")]
    if not all(values):
        return None
    (ifgsm,), (pgd,) = values
    return min(ifgsm, pgd) > _SEES, f"IFGSM {ifgsm:.2f} %, PGD {pgd:.2f} %"


def _pairs(cells: Sequence[Row]) -> list[tuple[Row, Row]]:
    """Returns mitigated cells of Tables 7 and 8 with their undefended ones."""

    def place(cell):
        return cell["classifier"], cell["noise"], cell["test_severity"]

    measured = [cell for cell in cells if cell["ours"] is not None]
    noisy = {place(c): c for c in measured if c["condition"] == "noisy"}
    mitigated = [c for c in measured if c["condition"] == "mitigated"]
    return [(c, noisy[place(c)]) for c in mitigated if place(c) in noisy]


def _every_remover_helps(cells):
    pairs = _pairs(cells)
    if not pairs:
        return None
    better = sum(with_it["ours"] > without["ours"] for with_it, without in pairs)
    return better == len(pairs), f"{better} of {len(pairs)} cells"


def _mitigation_reaches_the_paper(cells):
    """Leaves out the noises that are not the paper's."""
    alike = [
        with_it["difference"]
        for with_it, without in _pairs(cells)
        if abs(without["difference"]) <= _SAME_NOISE
    ]
    if not alike:
        return None
    return (
        round(mean(alike), 2) >= 0,
        f"{mean(alike):+.2f} points on average over {len(alike)} comparable cells",
    )


def _same_severity_is_best(cells):
    places: dict[tuple, dict[str, float]] = {}
    for cell, _ in _pairs(cells):
        place = cell["classifier"], cell["noise"], cell["test_severity"]
        places.setdefault(place, {})[cell["remover_train_severity"]] = cell["ours"]
    whole = {place: line for place, line in places.items() if len(line) == 3}
    if not whole:
        return None
    best = sum(line[place[2]] == max(line.values()) for place, line in whole.items())
    return 2 * best > len(whole), f"{best} of {len(whole)} cases"


def _beats_other_defences(cells):
    lines = []
    for attack in ("IFGSM", "PGD-10"):
        published = [
            cell
            for cell in cells
            if (cell["classifier"], cell["attack"]) == ("ResNet", attack)
            and cell["published"] is not None
        ]
        uronet = [c for c in published if c["defence"].startswith("URoNet")]
        others = [c["published"] for c in published if c not in uronet]
        ours = _ours(uronet)
        if not ours:
            return None
        lines.append((attack, ours[0], max(others)))
    return (
        all(ours > best for _, ours, best in lines),
        ", ".join(f"{attack} {ours:.2f} %" for attack, ours, _ in lines),
    )


def _beats_one_head(cells):
    margins = []
    for cell in cells:
        if cell["method"] != "URoNet" or cell["ours"] is None:
            continue
        where = {column: cell[column] for column in ("classifier", "noise")}
        dcae = [
            value
            for other in cells
            if other["method"].startswith("DCAE")
            for value in _ours([other], **where)
        ]
        margins += [cell["ours"] - value for value in dcae]
    if not margins:
        return None
    return min(margins) >= _ONE_HEAD_GAIN, f"{min(margins):+.2f} points at least"


def _gain(cells: Iterable[Row], attacked: str) -> list[float]:
    """Returns what the GN remover gives a ResNet back under PGD made on a network."""
    return _ours(
        cells,
        metric="accuracy_gain",
        classifier="ResNet",
        train_noise="GN",
        attack="PGD0",
        attacked_classifier=attacked,
    )


def _own_attacks_leave_more_to_gain(cells):
    own, transferred = _gain(cells, "ResNet"), _gain(cells, "Wide-ResNet16-8")
    if not own or not transferred:
        return None
    return (
        own[0] > transferred[0] > 0,
        f"{own[0]:+.2f} own, {transferred[0]:+.2f} transferred",
    )


def _salt_and_pepper_is_best_against_attacks(cells):
    means = {}
    for noise in _ENDS:
        values = _ours(cells, metric="accuracy_gain", train_noise=noise)
        if not values:
            return None
        means[noise] = mean(values)
    best = max(means, key=means.__getitem__)
    text = f"SPN {means['SPN']:+.2f} points on average"
    if best != "SPN":
        text += f", {best} {means[best]:+.2f}"
    return best == "SPN", text


def _detector_drops(cells: Sequence[Row], ablation: str) -> dict[tuple, float]:
    """Returns (train noise, test) -> what a detector loses against the paper's own.

    The paper's own stands first in an ablation's rows.
    """
    found: dict[tuple, dict[str, float]] = {}
    for cell in cells:
        if cell["ablation"] == ablation and cell["ours"] is not None:
            test = f"{cell['test_noise']}-{cell['test_severity']}"
            variants = found.setdefault((cell["train_noise"], test), {})
            variants[cell["variant"]] = cell["ours"]
    pairs = {k: list(v.values()) for k, v in found.items() if len(v) == 2}
    return {key: own - other for key, (own, other) in pairs.items()}


def _another_detector_is_worse(cells):
    drop = _detector_drops(cells, "detector_other").get(("GN", "UN-1"))
    if drop is None:
        return None
    return drop > 0, f"{drop:.2f} points less"


def _noise_pattern_helps(cells):
    drops = _detector_drops(cells, "detector_image_only").values()
    if not drops:
        return None
    average = mean(drops)
    return average >= _LEAST_PATTERN_DROP, f"{average:.2f} points less on average"


def _grey_removers_help(cells):
    gains: dict[str, list[float]] = {noise: [] for noise in _GREY_GAINS}
    for cell in cells:
        if cell["ablation"] == "grey" and cell["variant"] == "remover":
            test = {c: cell[c] for c in ("test_noise", "test_severity")}
            undefended = _ours(cells, ablation="grey", variant="undefended", **test)
            if undefended and cell["test_noise"] in gains and cell["ours"] is not None:
                gains[cell["test_noise"]].append(cell["ours"] - undefended[0])
    if not all(gains.values()):
        return None
    least = {noise: min(values) for noise, values in gains.items()}
    return (
        all(value >= _GREY_GAINS[noise] for noise, value in least.items()),
        ", ".join(f"{noise} {value:+.2f}" for noise, value in least.items()),
    )


def _published(name: str, **where: str) -> list[float]:
    return [
        float(row["value"])
        for row in paper.rows(name)
        if all(row[column] == value for column, value in where.items())
    ]


_FIGURE_6, _SECTION_3_3 = "uronet_figure06.csv", "uronet_ablations.csv"
_OWN, _TRANSFERRED = _published(_FIGURE_6, classifier="ResNet", train_noise="GN")
(_SPN_GAIN,) = _published(_FIGURE_6, train_noise="SPN")
_GREY_GAINS = {
    row["test_noise"]: float(row["value"])
    for row in paper.rows(_SECTION_3_3)
    if row["ablation"] == "grey" and row["metric"] == "least_accuracy_gain"
}
(_OTHER_DROP,) = _published(_SECTION_3_3, ablation="detector_other", dataset="CIFAR-10")
_LEAST_PATTERN_DROP, _LARGEST_PATTERN_DROP = _published(
    _SECTION_3_3, ablation="detector_image_only"
)
(_ONE_HEAD_GAIN,) = _published(_SECTION_3_3, ablation="dcae")
_UN_3 = {"train_noise": "UN", "train_severity": "3"}
_SPKN_1 = {"train_noise": "SPKN", "train_severity": "1"}

CLAIMS = (
    Claim(
        "table2",
        "a detector trained on UN-3 finds 17 of the 18 degradations, all but IN-1 "
        "(98.39 % at least)",
        _all_at_least(98.39, _NUM_NOISES - 1, without=("IN-1",), **_UN_3),
    ),
    Claim(
        "table2",
        "one trained on SPKN-1 finds all 18 (88.93 % at least)",
        _all_at_least(88.93, _NUM_NOISES, **_SPKN_1),
    ),
    Claim(
        "table2",
        "training on the mildest severity of a noise generalises better than on the "
        "strongest (6 of 6 noises)",
        _mild_generalises,
    ),
    Claim(
        "table2",
        "detectors trained on SPN miss UN-3 (50.00 %)",
        _misses_uniform,
    ),
    Claim(
        "table3",
        "on CIFAR-100 a detector trained on SPKN-1 finds all 18 (67.93 % at least)",
        _all_at_least(67.93, _NUM_NOISES, **_SPKN_1),
    ),
    Claim(
        "table4",
        "a detector trained on GN-1 of CIFAR-10 serves CIFAR-100 (90.89 % at least)",
        _all_at_least(90.89, 6, train_dataset="CIFAR-10", train_noise="GN"),
    ),
    Claim(
        "table5",
        "detectors trained on noise miss attacks, those of UN-3 aside (58.24 % at "
        "most)",
        _noise_detectors_miss_attacks,
    ),
    Claim(
        "table5",
        "a detector trained on UN-3 sees them (IFGSM 82.86 %, PGD 99.46 %)",
        _uniform_detectors_see_attacks,
    ),
    Claim(
        "table6",
        "a detector trained on IFGSM finds all 18 noises (87.02 % at least)",
        _all_at_least(87.02, _NUM_NOISES, dataset="CIFAR-10", train_attack="IFGSM40"),
    ),
    Claim(
        "table7",
        "every remover raises the accuracy on its noise at every severity (108 of 108 "
        "cells)",
        _every_remover_helps,
    ),
    Claim(
        "table7",
        "accuracy behind the removers on CIFAR-10 as published",
        _mitigation_reaches_the_paper,
    ),
    Claim(
        "table7",
        "the remover trained at the severity met is the best of the three (17 of 36 "
        "cases in the paper's own table)",
        _same_severity_is_best,
    ),
    Claim(
        "table8",
        "accuracy behind the removers on CIFAR-100 as published",
        _mitigation_reaches_the_paper,
    ),
    Claim(
        "table11",
        "behind the SPN remover a ResNet keeps more accuracy on attacked images than "
        "with three other defences (IFGSM 54.59 %, PGD 64.66 %; the best other 51.47 % "
        "and 55.01 %)",
        _beats_other_defences,
    ),
    Claim(
        "table12",
        f"two heads remove noise better than one ({_ONE_HEAD_GAIN:g} points at least)",
        _beats_one_head,
    ),
    Claim(
        "figure6",
        "under PGD a remover trained on GN gives a ResNet back more if the attack was "
        f"made on it than on another network ({_OWN:+.2f} and {_TRANSFERRED:+.2f} "
        "points)",
        _own_attacks_leave_more_to_gain,
    ),
    Claim(
        "figure6",
        "of all removers that of SPN gives back most under attacks "
        f"({_SPN_GAIN:+.2f} points on average)",
        _salt_and_pepper_is_best_against_attacks,
    ),
    Claim(
        "ablations",
        "a VGG detector is worse than the Wide-ResNet (GN-trained on UN-1: "
        f"{_OTHER_DROP:g} points less)",
        _another_detector_is_worse,
    ),
    Claim(
        "ablations",
        "without the noise pattern the detector is worse "
        f"({_LEAST_PATTERN_DROP:g} to {_LARGEST_PATTERN_DROP:g} points less)",
        _noise_pattern_helps,
    ),
    Claim(
        "ablations",
        "on grey Fashion-MNIST removers give accuracy back ("
        + ", ".join(f"{noise} {gain:+g}" for noise, gain in _GREY_GAINS.items())
        + " points at least)",
        _grey_removers_help,
    ),
)
# What nobody can check, and why.
_OPEN = (
    "Tables 9 and 10 (Tiny ImageNet and ImageNette are not run here)",
    "Tables 13 and 14 (corruptions, severities and classifiers are not named)",
)


def judge(groups: Sequence[Group]) -> list[Judgement]:
    """Applies every rule to the first results that can tell, full before small."""
    judgements = []
    for claim in CLAIMS:
        found = Judgement(claim, None)
        for group in sorted(groups, key=lambda g: g.small):
            if group.experiment != claim.experiment:
                continue
            answer = claim.rule(group.cells)
            if answer is not None:
                found = Judgement(claim, *answer, group.small, group.name)
                break
        judgements.append(found)
    return judgements


def other_noises(groups: Sequence[Group]) -> list[str]:
    """Names the noises that hurt an undefended classifier unlike the paper's.

    Behind a remover they cannot be compared either.
    """
    found: dict[str, list[str]] = {}
    for group in groups:
        if group.small or group.experiment not in ("table7", "table8"):
            continue
        for cell in group.cells:
            far = abs(cell["difference"] or 0.0) > _SAME_NOISE
            if cell["condition"] == "noisy" and far:
                found.setdefault(f"{cell['noise']}-{cell['test_severity']}", []).append(
                    f"{cell['ours']:.2f} against {cell['published']:.2f} %"
                )
    return [f"{noise} (undefended {texts[0]})" for noise, texts in found.items()]


def verdict(groups: Sequence[Group]) -> str:
    """Returns which claims hold, as a Markdown list of at most six lines.

    Args:
        groups: From `reproduction.group`.
    """
    judgements = judge(groups)
    measured = [j for j in judgements if j.holds is not None]
    if not measured:
        return "- The paper's tables: nothing measured yet.\n"
    missing = list(dict.fromkeys(_place(j) for j in judgements if j.holds is None))
    open_ = [*other_noises(groups), *_OPEN]

    def full(holds):
        return [_sentence(j) for j in measured if not j.small and j.holds is holds]

    def small(holds):
        return [_sentence(j) for j in measured if j.small and j.holds is holds]

    lines = {
        f"Confirmed, of {len(CLAIMS)} published claims": full(True),
        "Not confirmed": full(False),
        "Cannot be compared": open_,
        "Hold for small models, which is no verdict": small(True),
        "Do not hold for small models, which is no verdict": small(False),
        "Not measured yet": missing,
    }
    return "".join(
        f"- **{heading} ({len(texts)}):** {'; '.join(texts)}.\n"
        for heading, texts in lines.items()
        if texts
    )


def _place(judgement: Judgement) -> str:
    """Returns where the paper says it."""
    return title(judgement.claim.experiment).partition(":")[0]


def _sentence(judgement: Judgement) -> str:
    who = "small" if judgement.small else "ours"
    return f"{judgement.claim.text}: {who} {judgement.evidence}"


def table(groups: Sequence[Group]) -> str:
    """Returns every claim with our numbers as a Markdown table."""

    def answer(judgement):
        if judgement.holds is None:
            return "not measured"
        text = "yes" if judgement.holds else "**no**"
        return f"small models: {text}" if judgement.small else text

    return markdown_table(
        [
            {
                "table": _place(j),
                "claim": j.claim.text,
                "holds": answer(j),
                "evidence": j.evidence or None,
                "result": f"`{j.result}`" if j.result else None,
            }
            for j in judge(groups)
        ],
        {
            "table": "source",
            "claim": "the paper says",
            "holds": "holds here",
            "evidence": "our numbers",
            "result": "result",
        },
        missing="",
    )
