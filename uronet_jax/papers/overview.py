"""The page that people see first: which defence helps against what, from the results.

Every number is taken from a stored result; a cell stays empty where nothing was
measured. Full results go before small ones.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from uronet_jax.papers.uronet.pages.claims import judge_all
from uronet_jax.papers.uronet.pages.comparison import (
    Group,
    compared_cells,
    distance_from_paper,
    noisy_values,
)
from uronet_jax.papers.uronet.pages.experiment_page import (
    MEAN_ACCURACY,
    best_detector,
    best_removers,
)
from uronet_jax.papers.uronet.pages.pictures import Picture
from uronet_jax.reports.results import Result
from uronet_jax.reports.tables import markdown_table

# The paper's ResNet, for which we have published weights.
_NETWORK = "ResNet"
_NOISY = {"classifier": _NETWORK, "condition": "noisy"}
_PURIFIED = {"classifier": _NETWORK, "condition": "mitigated"}
_FOUND = {"metric": "detection_accuracy"}
_SPN_REMOVER = "URoNet (SPN-trained remover)"
# Severities of CIFAR-10-C that the universal models were judged at.
_SEVERITIES = ("-1", "-3", "-5")
_EPSILON = 8 / 255
_HEADINGS = {
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
_Groups = Mapping[str, Group]


def _by_experiment(groups: Sequence[Group]) -> _Groups:
    """Experiment -> its first group, full ones first; an empty one without a run."""
    known = {group.experiment: group for group in reversed(groups)}
    return defaultdict(lambda: Group("", (), []), known)


def _mean(numbers: Mapping[str, float]) -> float | None:
    found = noisy_values(numbers)
    return mean(found) if found else None


def _row(defence: str, results: Sequence[Result], **values: Any) -> dict[str, Any]:
    """One line; what is None or empty leaves its cell empty."""
    counts = sorted({count for result in results for count in result.counts})
    images = " to ".join(f"{x:,}" for x in dict.fromkeys(counts[:1] + counts[-1:]))
    small = ", small" if any(result.small for result in results) else ""
    noises = values.pop("noises", {})
    worst = min(noisy_values(noises), default=None)
    values |= {"noises": _mean(noises), "worst": worst}
    for name, value in values.items():
        values[name] = f"{value:.1f}" if isinstance(value, float) else value
    return {"defence": defence, "images": images + small, **values}


def _runs(groups: _Groups, *experiments: str) -> list[Result]:
    return [run for name in experiments for run in groups[name].runs]


def _robust(groups: _Groups, defence: str) -> float | None:
    where = {"classifier": _NETWORK, "attack": "PGD-10", "defence": defence}
    return next((c["ours"] for c in groups["table11"].measured(**where)), None)


def _alarms(group: Group) -> float | None:
    cells = group.measured(metric="false_alarm_rate")
    return max((cell["ours"] for cell in cells), default=None)


def _reproduced(groups: _Groups) -> list[dict[str, Any]]:
    """ResNet-20 without a defence and behind removers of `launch.reproduce`."""
    noises, corruptions, unseen = (
        groups[x] for x in ("universal", "universal_corruptions", "zero_shot")
    )
    rows = [
        _row(
            "none: ResNet-20",
            _runs(groups, "universal", "table11"),
            clean=noises.numbers(**_NOISY).get("clean"),
            noises=noises.numbers(**_NOISY),
            corruptions=_mean(corruptions.numbers(**_NOISY)),
            unseen=_mean(unseen.numbers(**_NOISY)),
            unaware=_robust(groups, "none"),
            aware=_robust(groups, "none"),
        ),
        _row(
            "the best models of single noises, column by column, chosen on these "
            "images",
            _runs(groups, "table7"),
            noises=best_removers(groups["table7"].cells, "ours", _NETWORK),
            found=_mean(best_detector(groups["table2"].cells, "ours")),
        ),
        _row(
            "the remover of salt-and-pepper noise, which the paper praises against "
            "attacks",
            _runs(groups, "table11"),
            unaware=_robust(groups, _SPN_REMOVER),
            aware=_robust(groups, f"{_SPN_REMOVER}, white box"),
        ),
        _row(
            "**one universal remover**, trained on the 18 noises",
            noises.runs,
            clean=noises.numbers(**_PURIFIED).get("clean"),
            noises=noises.numbers(**_PURIFIED),
            unseen=_mean(unseen.numbers(**_PURIFIED)),
            found=_mean(noises.numbers(**_FOUND)),
            alarms=_alarms(noises),
        ),
        _row(
            "one trained on the 19 corruptions instead",
            corruptions.runs,
            clean=corruptions.numbers(**_PURIFIED).get("clean"),
            corruptions=_mean(corruptions.numbers(**_PURIFIED)),
            found=_mean(corruptions.numbers(**_FOUND)),
            alarms=_alarms(corruptions),
        ),
    ]
    return [row for row in rows if row["images"]]


def _percent(result: Result, column: str) -> dict[str, float]:
    return {
        f"{row['noise']}-{row['severity']}": 100.0 * row[column]
        for row in result.content["rows"]
        if column in row
    }


def _network(result: Result) -> str:
    models, config = result.content.get("models", {}), result.content["config"]
    return models.get("classifier", {}).get("name") or config.get("classifier", "")


def _undefended(results: Sequence[Result]) -> list[dict[str, Any]]:
    """The same ResNet-20 on all test images."""
    whole = [
        x
        for x in sorted(results, key=lambda x: len(x.content["rows"]))
        if x.kind == "evaluation" and not x.small and _network(x) == "resnet20"
    ]
    by_suite = {x.content["config"]["suite"]["name"]: x for x in whole}
    if "uronet" not in by_suite:
        return []
    noises, other = by_suite["uronet"], by_suite.get("cifar_c")
    corruptions = _percent(other, "undefended_accuracy") if other else {}
    chosen = {k: x for k, x in corruptions.items() if k[-2:] in _SEVERITIES}
    return [
        _row(
            "none: ResNet-20, all test images",
            [noises],
            clean=100.0 * noises.content["summary"]["clean_accuracy"],
            noises=_percent(noises, "undefended_accuracy"),
            corruptions=_mean(chosen),
        )
    ]


def _pgd(results: Sequence[Result], of: Result) -> tuple[list[Result], dict[str, Any]]:
    """Returns the attack on a result's models, and threat -> its PGD within Linf."""
    models = ("classifier", "detector", "checkpoint", "classifier_steps")
    models += ("remover_steps",)

    def made(result):
        config = result.content["config"]
        data = config.get("data") or {}
        # Before purifiers there were removers alone; a quickstart names its data set.
        purifier = config.get("purifier", config.get("remover"))
        data_set = config.get("dataset", data.get("name"))
        return [*map(config.get, models), purifier, data_set]

    found = [x for x in results if x.kind == "attack" and made(x) == made(of)]
    return found, {
        row["threat"]: row
        for x in found
        for row in x.content["rows"]
        if row["attack"] == "pgd_linf" and not row.get("sanity")
    }


def _evaluated(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Whole defences of `launch.evaluate` and the quickstart, and PGD on them."""
    rows = []
    for result in results:
        content = result.content
        summary = content.get("summary", content)
        if "purified_clean_accuracy" not in summary:
            continue
        attacks, pgd = _pgd(results, result)

        def under(threat, column, pgd=pgd):
            if threat not in pgd:
                return None
            text = f"{100.0 * pgd[threat][column]:.1f}"
            other = abs(pgd[threat]["epsilon"] - _EPSILON) > 1 / 255
            return f"{text} (within {pgd[threat]['epsilon']:g})" if other else text

        # Whoever attacks the bare classifier knows all there is.
        alone = under("grey_box", "undefended_accuracy")
        alarms = summary.get("false_alarm_rate")
        behind = {
            "unaware": under("grey_box", "robust_accuracy"),
            "aware": under("adaptive", "robust_accuracy"),
            "found": _mean(_percent(result, "detection_accuracy")),
            "alarms": None if alarms is None else 100.0 * alarms,
        }
        data = content.get("dataset") or content["config"]["data"]["name"]
        suite = content["config"].get("suite") or {"name": "uronet"}
        purifier = _purifier_name(result)
        for name, column, clean, more in (
            ("none", "undefended", "", {"unaware": alone, "aware": alone}),
            (purifier, "purified", "purified_", behind),
            (f"{purifier} behind a gate", "gated", "gated_", {}),
        ):
            if f"{clean}clean_accuracy" in summary:
                row = _row(
                    f"{name}: {_network(result)}, {data}",
                    [result, *(attacks if more else ())],
                    clean=100.0 * summary[f"{clean}clean_accuracy"],
                    **_of_suite(suite["name"], _percent(result, f"{column}_accuracy")),
                    **more,
                )
                rows.append(row)
    return rows


def _purifier_name(result: Result) -> str:
    """Returns `remover`, or what stands in its place."""
    models = result.content.get("models", {})
    model = models.get("purifier", models.get("remover")) or {}
    stages = model.get("chain", [model])
    return " + ".join(stage.get("name", "remover") for stage in stages)


def _of_suite(suite: str, values: Mapping[str, float]) -> dict[str, Any]:
    """Returns accuracies under the column that they belong to, if they are complete."""
    chosen = {k: x for k, x in values.items() if k[-2:] in _SEVERITIES}
    if suite == "uronet" and len(values) == 18:
        return {"noises": values}
    if suite == "cifar_c" and len(chosen) == 19 * len(_SEVERITIES):
        return {"corruptions": _mean(chosen)}
    return {}


def _changes(group: Group) -> dict[str, float]:
    """Returns degradation -> points that its remover gives the ResNet."""
    before, after = (group.numbers(**x) for x in (_NOISY, _PURIFIED))
    return {k: after[k] - before[k] for k in before if k in after and k != "clean"}


def _failures(results: Sequence[Result], groups: Sequence[Group]) -> list[str]:
    """Returns what goes wrong, in sentences with the results' numbers."""
    known, found = _by_experiment(groups), []
    for result in results:
        aware = _pgd([result], result)[1].get("detector_aware")
        if aware and abs(aware["epsilon"] - _EPSILON) < 1e-3:
            found.append(
                "Attackers who know the defence break it. Under PGD within 8/255 "
                f"{100 * aware['robust_accuracy']:.0f} % stay right, and "
                f"{100 * aware['robust_or_detected_accuracy']:.0f} % right or flagged "
                f"if it fools the detector too ({aware['num_images']} images, small)."
            )
    purified = known["universal"].numbers(**_PURIFIED)
    if average := _mean(purified):
        hardest = sorted((v, k) for k, v in purified.items() if k != "clean")[:2]
        goal = MEAN_ACCURACY[_NETWORK]
        found.append(
            "Strong noise stays hard for the universal remover: "
            + ", ".join(f"{place} {value:.0f} %" for value, place in hardest)
            + f". The goal of {goal:g} % on average is "
            + ("met." if average >= goal else f"missed: {average:.1f} %.")
        )
    changes = _changes(known["zero_shot"])
    changes = {k: v for k, v in changes.items() if not k.startswith("dead_columns")}
    seen = known["zero_shot"].numbers(**_FOUND)
    if changes and seen:
        found.append(
            "What it never saw (blur, JPEG, fog, contrast, banding; dead columns "
            "aside, which it repairs in part) its detector does "
            f"not notice ({max(map(seen.get, changes)):.0f} % at most, chance is 50), "
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
    if groups:
        verdicts = judge_all(groups)
        answers = Counter(verdict.answer for verdict in verdicts)
        full = sum(v.measured > 0 and not v.small for v in verdicts)
        text = (
            f"Of the paper's {len(verdicts)} claims {answers['yes']} hold, "
            f"{answers['no']} do not, {answers['open']} are open; {full} were judged "
            "at full size."
        )
        if compared_cells(known["table7"]):
            distance = distance_from_paper(known["table7"])["mean_difference"]
            text += f" Removers of single noises are {distance:+.1f} points from it"
            text += " (small)." if known["table7"].small else "."
        found.append(text)
    return found


def overview_pictures(groups: Sequence[Group]) -> list[Picture]:
    """Returns the pictures of the overview that are drawn from results."""
    known = _by_experiment(groups)
    noises, corruptions = known["universal"], known["universal_corruptions"]
    found = []
    lines = {
        "undefended": noises.numbers(**_NOISY),
        "best of single noises": best_removers(known["table7"].cells, "ours", _NETWORK),
        "universal remover": noises.numbers(**_PURIFIED),
    }
    places = [place for place in lines["undefended"] if place != "clean"]
    lines = {name: x for name, x in lines.items() if x.keys() >= set(places)}
    if places:
        values = [[numbers[place] for place in places] for numbers in lines.values()]
        title = f"Accuracy of the ResNet-20 in percent{_size(noises)}"
        found.append(
            Picture("overview_noises.png", "", title, list(lines), places, values)
        )
    sides = [corruptions.numbers(**x) for x in (_NOISY, _PURIFIED)]
    names = dict.fromkeys(x.rpartition("-")[0] for x in sides[0] if x != "clean")
    if names and sides[0].keys() == sides[1].keys():
        values = [
            [mean(v for k, v in x.items() if k.startswith(f"{name}-")) for x in sides]
            for name in names
        ]
        gains = [[math.nan, after - before] for before, after in values]
        title = f"ResNet-20 on CIFAR-10-C{_size(corruptions)},\nseverities 1, 3, 5"
        labels = ["undefended", "behind a remover\ntrained on them"]
        name = "overview_corruptions.png"
        found.append(Picture(name, "", title, list(names), labels, values, gains))
    return found


def _size(group: Group) -> str:
    return ", small" if group.small else ""


def render_overview(
    results: Sequence[Result],
    groups: Sequence[Group],
    links: Mapping[str, Sequence[str]],
) -> str:
    """Returns the first page; `links` are heading -> links to the other pages."""
    known = _by_experiment(groups)
    rows = _undefended(results) + _reproduced(known) + _evaluated(results)
    parts = [
        "# Results\n\nA remover in front of an unchanged classifier undoes most of the "
        "noise that it was trained on, and a detector finds it. It does not protect "
        "against what it never saw, nor against attackers who know it.\n"
    ]
    if not rows and not links:
        return parts[0] + "\nNo result is stored yet.\n"
    if rows:
        headings = {
            k: v for k, v in _HEADINGS.items() if any(row.get(k) for row in rows)
        }
        parts += [
            "## Which defence helps against what\n",
            markdown_table(rows, headings, missing=""),
            "Accuracy in percent, one seed; an empty cell was not measured. *18 noises*"
            " and *19 corruptions* (CIFAR-10-C, severities 1, 3, 5) are means. "
            "*Unseen*: blur, JPEG, fog, contrast, banding, dead columns. *PGD* is "
            "within 0.03 or 8/255 unless said otherwise. *Detected* is accuracy on as "
            "many clean as degraded images. *Small* is an indication: small models or "
            "part of the test set.\n",
        ]
    if pictures := [f"figures/{x.name}" for x in overview_pictures(groups)]:
        beside = ["gallery.png", *pictures[1:]]
        parts += [
            "## Three pictures\n",
            f"![Accuracy under noise]({pictures[0]})\n",
            " ".join(f'<img src="{x}" width="40%">' for x in beside) + "\n",
        ]
    if failures := _failures(results, groups):
        parts.append("## Known failures\n")
        parts.append("".join(f"- {text}\n" for text in failures))
    parts.append("## All pages\n")
    lines = [{"": k, "pages": " · ".join(v)} for k, v in links.items()]
    parts += [markdown_table(lines, ["", "pages"])] if lines else []
    parts.append(
        "Made by `python -m launch.report` from the JSON files in [results](results), "
        "each with config, versions, device and time. See also "
        "[corruptions](CORRUPTIONS.md) and [attacks](ATTACKS.md) one by one.\n"
    )
    return "\n".join(parts)
