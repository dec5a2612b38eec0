"""What the overview says of the URoNet paper's experiments."""

import math
from statistics import mean
from typing import Any

from uronet_jax.papers.pages.group import Group
from uronet_jax.papers.pages.overview_rows import (
    OVERVIEW_SEVERITIES,
    at_overview_severities,
    mean_of_noisy,
    overview_row,
)
from uronet_jax.papers.pages.paper_pages import KnownGroups
from uronet_jax.papers.pages.pictures import Picture, TablePicture
from uronet_jax.papers.uronet.page_notes import (
    MEAN_ACCURACY,
    best_detector,
    best_removers,
)
from uronet_jax.reports.results import Result

# The paper's ResNet, for which we have published weights.
_NETWORK = "ResNet"
_NOISY = {"classifier": _NETWORK, "condition": "noisy"}
_PURIFIED = {"classifier": _NETWORK, "condition": "mitigated"}
_FOUND = {"metric": "detection_accuracy"}
_SPN_REMOVER = "URoNet (SPN-trained remover)"


def _runs(groups: KnownGroups, *experiments: str) -> list[Result]:
    return [run for name in experiments for run in groups[name].runs]


def _robust(groups: KnownGroups, defence: str) -> float | None:
    where = {"classifier": _NETWORK, "attack": "PGD-10", "defence": defence}
    return next((c["ours"] for c in groups["table11"].measured(**where)), None)


def _smaller(one: Group, other: Group) -> bool:
    """Whether one is of small models, and the other of those at full size."""
    return bool(one.runs and other.runs) and one.small and not other.small


def _alarms(group: Group) -> float | None:
    cells = group.measured(metric="false_alarm_rate")
    return max((cell["ours"] for cell in cells), default=None)


def uronet_rows(groups: KnownGroups) -> list[dict[str, Any]]:
    """Returns ResNet-20 without a defence and behind removers of `launch.reproduce`."""
    noises, corruptions, unseen = (
        groups[x] for x in ("universal", "universal_corruptions", "zero_shot")
    )

    def shown(**where):
        return at_overview_severities(corruptions.numbers(**where))

    rows = [
        overview_row(
            "none: ResNet-20",
            _runs(groups, "universal", "table11"),
            clean=noises.numbers(**_NOISY).get("clean"),
            noises=noises.numbers(**_NOISY),
            corruptions=mean_of_noisy(shown(**_NOISY)),
            unseen=mean_of_noisy(unseen.numbers(**_NOISY)),
            unaware=_robust(groups, "none"),
            aware=_robust(groups, "none"),
        ),
        overview_row(
            "the best models of single noises, column by column, chosen on these "
            "images",
            _runs(groups, "table7"),
            noises=best_removers(groups["table7"].cells, "ours", _NETWORK),
            found=mean_of_noisy(best_detector(groups["table2"].cells, "ours")),
        ),
        overview_row(
            "the remover of salt-and-pepper noise, which the paper praises against "
            "attacks",
            _runs(groups, "table11"),
            unaware=_robust(groups, _SPN_REMOVER),
            aware=_robust(groups, f"{_SPN_REMOVER}, white box"),
        ),
        overview_row(
            "**one universal remover**, trained on the 18 noises",
            noises.runs,
            clean=noises.numbers(**_PURIFIED).get("clean"),
            noises=noises.numbers(**_PURIFIED),
            unseen=mean_of_noisy(unseen.numbers(**_PURIFIED)),
            found=mean_of_noisy(noises.numbers(**_FOUND)),
            alarms=_alarms(noises),
        ),
        overview_row(
            "one trained on the 19 corruptions instead",
            corruptions.runs,
            clean=corruptions.numbers(**_PURIFIED).get("clean"),
            corruptions=mean_of_noisy(shown(**_PURIFIED)),
            found=mean_of_noisy(corruptions.numbers(**_FOUND)),
            alarms=_alarms(corruptions),
        ),
    ]
    # Without more than `launch.evaluate` says of all test images.
    if noises.runs and not noises.small:
        if all(rows[0][x] is None for x in ("corruptions", "unseen", "unaware")):
            del rows[0]
    return [row for row in rows if row["images"]]


def _changes(group: Group) -> dict[str, float]:
    """Returns degradation -> points that its remover gives the ResNet."""
    before, after = (group.numbers(**x) for x in (_NOISY, _PURIFIED))
    return {k: after[k] - before[k] for k in before if k in after and k != "clean"}


def uronet_failures(known: KnownGroups) -> list[str]:
    """Returns what goes wrong, in sentences with the results' numbers."""
    found = []
    purified = known["universal"].numbers(**_PURIFIED)
    if average := mean_of_noisy(purified):
        hardest = sorted((v, k) for k, v in purified.items() if k != "clean")[:2]
        goal = MEAN_ACCURACY[_NETWORK]
        found.append(
            "Strong noise is hard for the universal remover: "
            + ", ".join(f"{place} {value:.0f} %" for value, place in hardest)
            + f". The goal of {goal:g} % is "
            + ("met." if average >= goal else f"missed: {average:.1f} %.")
        )
    changes = _changes(known["zero_shot"])
    changes = {k: v for k, v in changes.items() if not k.startswith("dead_columns")}
    seen = known["zero_shot"].numbers(**_FOUND)
    if changes and seen:
        small = _smaller(known["zero_shot"], known["universal"])
        subject = "What a small one" if small else "What it"
        found.append(
            f"{subject} never saw (blur, JPEG, fog, contrast, banding; dead columns "
            "aside, which it repairs in part) its detector misses "
            f"({max(map(seen.get, changes)):.0f} % at most, chance is 50), "
            f"and accuracy changes by {min(changes.values()):+.1f} to "
            f"{max(changes.values()):+.1f} points."
        )
    changes = _changes(known["universal_corruptions"])
    alarms = _alarms(known["universal_corruptions"])
    if changes and alarms is not None:
        worst = min(changes, key=changes.__getitem__)
        found.append(
            f"Trained on corruptions, the detector has {alarms:.0f} % false alarms, "
            f"and the remover makes some worse ({worst}: {changes[worst]:+.1f} points)."
        )
    return found


def uronet_pictures(known: KnownGroups) -> list[Picture]:
    """Returns the pictures of the overview that are drawn from results."""
    noises, corruptions = known["universal"], known["universal_corruptions"]
    found = []
    single = known["table7"]
    cells = [] if _smaller(single, noises) else single.cells
    lines = {
        "undefended": noises.numbers(**_NOISY),
        "best of single noises": best_removers(cells, "ours", _NETWORK),
        "universal remover": noises.numbers(**_PURIFIED),
    }
    places = [place for place in lines["undefended"] if place != "clean"]
    lines = {name: x for name, x in lines.items() if x.keys() >= set(places)}
    if places:
        values = [[numbers[place] for place in places] for numbers in lines.values()]
        title = f"Accuracy of the ResNet-20 in percent{_size(noises)}"
        found.append(
            TablePicture("overview_noises.png", "", title, list(lines), places, values)
        )
    sides = [
        at_overview_severities(corruptions.numbers(**x)) for x in (_NOISY, _PURIFIED)
    ]
    names = dict.fromkeys(x.rpartition("-")[0] for x in sides[0])
    if names and sides[0].keys() == sides[1].keys():
        values = [
            [mean(v for k, v in x.items() if k.startswith(f"{name}-")) for x in sides]
            for name in names
        ]
        gains = [[math.nan, after - before] for before, after in values]
        title = f"ResNet-20 on CIFAR-10-C{_size(corruptions)},\n"
        title += f"severities {OVERVIEW_SEVERITIES}"
        labels = ["undefended", "behind a remover\ntrained on them"]
        name = "overview_corruptions.png"
        found.append(TablePicture(name, "", title, list(names), labels, values, gains))
    return found


def _size(group: Group) -> str:
    return ", small" if group.small else ""
