"""What is said on the pages of the URoNet paper's experiments, beside their tables."""

import itertools
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from statistics import mean
from typing import Any

from uronet_jax.papers.pages.group import Group, noisy_values, place_of
from uronet_jax.reports.tables import markdown_table

# Steps of the paper's attacks, where their label does not say.
_STEPS = 40
_ATTACKS = ("train_attack", "test_attack", "attack")
# What this project asks of the universal models, in percent.
_MEAN_DETECTION, _LOWEST_DETECTION = 99.5, 99.0
MEAN_ACCURACY = {"ResNet": 85.0, "Wide-ResNet16-8": 88.0}
# What has to be known of an experiment.
_NOTES = {
    "universal_corruptions": "Trained on the very corruptions that it is judged on, "
    "with other draws: what such models can learn of them, and no score of that "
    "benchmark. Frost is cut from generated textures.",
    "universal_trials": "Judged on validation images, which a published classifier may "
    "have learned: the variants compare with each other only.",
}
# A noise whose undefended accuracy is further from the paper's is another noise.
_SAME_NOISE = 10.0


def experiment_note(group: Group) -> str:
    """Returns what has to be known of an experiment, and what a defence changes."""
    note = [_NOTES.get(group.experiment)]
    if group.experiment in ("universal", "universal_corruptions", "zero_shot"):
        note += [_gains(group), _advantage(group.config)]
    return " ".join(filter(None, note)) + "\n" if any(note) else ""


def _gains(group: Group) -> str:
    """What a defence changes for each classifier, on average and on clean images."""
    texts = []
    for name in dict.fromkeys(c["classifier"] for c in group.measured()):
        before, after = (
            group.numbers(metric="accuracy", classifier=name, condition=condition)
            for condition in ("noisy", "mitigated")
        )
        noisy = [noisy_values(x) for x in (before, after)]
        if not name or not all(noisy):
            continue
        text = f"{name}: {mean(noisy[0]):.1f} to {mean(noisy[1]):.1f} % on average"
        if "clean" in before.keys() & after:
            text += f", {before['clean']:.1f} to {after['clean']:.1f} % on clean images"
        texts.append(text)
    return f"Undefended to purified: {'; '.join(texts)}." if texts else ""


def _advantage(config: Mapping[str, Any]) -> str:
    """What of a universal remover's settings is not that of single noises."""
    own, single = config.get("universal") or {}, config.get("remover") or {}

    def shown(value):
        if isinstance(value, list | tuple):
            return ", ".join(map(str, value))
        return f"{value:,}" if type(value) is int else str(value)

    parts = [
        f"{field.replace('_', ' ')} {shown(value)}"
        + (f" (theirs {shown(single[field])})" if field in single else "")
        for field, value in own.items()
        if value and value != single.get(field) and not field.startswith("checkpoint")
    ]
    if not parts:
        return ""
    text = f"Settings that removers of single noises have not: {'; '.join(parts)}."
    if own.get("consistency_weight"):
        text += " It is held to the answers of the classifier that it is judged with."
    return text


def best_detector(cells: Iterable[Mapping[str, Any]], field: str) -> dict[str, float]:
    """Returns degradation -> detection by Table 2's best detector on average."""
    found: dict[tuple, dict[str, float]] = {}
    for cell in cells:
        if cell["metric"] == "detection_accuracy" and cell[field] is not None:
            name = cell["train_noise"], cell["train_severity"]
            found.setdefault(name, {})[place_of(cell)] = cell[field]
    return max(found.values(), key=lambda x: mean(x.values()), default={})


def best_removers(
    cells: Iterable[Mapping[str, Any]], field: str, classifier: str
) -> dict[str, float]:
    """Returns degradation -> accuracy behind the best of its noise's removers."""
    best: dict[str, float] = {}
    for cell in cells:
        if (cell["condition"], cell["classifier"]) == ("mitigated", classifier):
            if cell[field] is not None:
                place = place_of(cell)
                best[place] = max(best.get(place, 0.0), cell[field])
    return best


def beside_single_noises(group: Group, groups: Sequence[Group]) -> str:
    """Returns the universal models beside those of single noises, size and suite alike.

    The paper trains one remover and one detector per noise and severity. Of its
    detectors the best on average is shown, of its removers the best for each line: a
    user who does not know the noise could not choose that well.
    """
    if group.experiment != "universal":
        return ""

    def setting(one):
        evaluation = {**(one.config.get("evaluation") or {}), "batch_size": None}
        return one.small, one.config.get("suite"), evaluation

    alike = [one for one in groups if setting(one) == setting(group)]
    single = {one.experiment: one for one in reversed(alike)}
    table_2, table_7 = (
        single[name].cells if name in single else [] for name in ("table2", "table7")
    )
    columns = {
        "detection: universal": group.numbers(metric="detection_accuracy"),
        "detection: best single": best_detector(table_2, "ours"),
        "detection: the paper's best": best_detector(table_2, "published"),
    }
    goals = []
    if found := columns["detection: universal"]:
        goals += [
            _goal("mean detection", mean(found.values()), _MEAN_DETECTION),
            _goal("lowest detection", min(found.values()), _LOWEST_DETECTION),
        ]
    for name in dict.fromkeys(c["classifier"] for c in group.measured()):
        if not name:
            continue
        where = {"classifier": name, "metric": "accuracy"}
        purified = group.numbers(condition="mitigated", **where)
        columns[f"{name}: undefended"] = group.numbers(condition="noisy", **where)
        columns[f"{name}: universal"] = purified
        if "table7" in single:
            theirs = single["table7"].numbers(condition="noisy", classifier=name)
            ours = columns[f"{name}: undefended"]
            # Other accuracies without a remover: another network of this name.
            if all(ours[x] == theirs[x] for x in ours.keys() & theirs.keys()):
                best = best_removers(table_7, "ours", name)
                columns[f"{name}: best single"] = best
            best = best_removers(table_7, "published", name)
            columns[f"{name}: the paper's best"] = best
        noisy = noisy_values(purified)
        if noisy and name in MEAN_ACCURACY:
            goal = f"mean accuracy of {name}"
            goals.append(_goal(goal, mean(noisy), MEAN_ACCURACY[name]))
    columns = {heading: numbers for heading, numbers in columns.items() if numbers}
    if not columns:
        return ""
    places = list(dict.fromkeys(place for x in columns.values() for place in x))
    rows = [
        {"": place, **{heading: x.get(place) for heading, x in columns.items()}}
        for place in places
    ]
    noisy = [place for place in places if place != "clean"]
    whole = {k: x for k, x in columns.items() if x.keys() >= set(noisy)}
    for label, summary in (("**mean**", mean), ("**lowest**", min)):
        numbers = {k: summary(x[place] for place in noisy) for k, x in whole.items()}
        rows.append({"": label, **numbers})
    used = [f"`{single[x].name}`" for x in ("table2", "table7") if x in single]
    beside = (
        "Beside the detector of a single noise that is best on average, and for each "
        "line the best remover of a single noise, chosen on these test images "
        f"({', '.join(used)}). "
    )
    return (
        f"{beside if used else ''}Asked of the universal models: {'; '.join(goals)}."
        f"\n\n{markdown_table(rows, ['', *columns])}"
    )


def _goal(what: str, value: float, limit: float) -> str:
    met = "met" if round(value, 2) >= limit else "**missed**"
    return f"{what} at least {limit:g} %, is {value:.2f} % ({met})"


def steps_of_attacks(cells: Iterable[Mapping[str, Any]]) -> str:
    """Says of which measured cells the attacks had not the paper's steps."""
    steps: dict[int, dict[str, None]] = {}
    for cell in cells:
        label = next((cell[c] for c in _ATTACKS if cell.get(c)), "")
        # The digits of a training attack are its steps, those of others restarts.
        said = re.search(r"\d+$", label) if cell.get("train_attack") else None
        if cell["steps"] not in (None, int(said[0]) if said else _STEPS):
            steps.setdefault(cell["steps"], {})[label] = None
    return " ".join(
        f"Steps of the attack: {count}, not the paper's, for {', '.join(labels)}."
        for count, labels in steps.items()
    )


def noise_footnote(
    groups: Iterable[Group], places: Collection[str] | None = None
) -> str:
    """Says which noises are measurably not the paper's; empty if none is.

    Those are further than 10 points from the published accuracy of every undefended
    classifier of Tables 7 and 8 that was measured on them. `places` are what to speak
    of, such as `UN-3`; None for all.
    """
    found: dict[str, list[Mapping[str, Any]]] = {}
    for group in groups:
        if group.experiment in ("table7", "table8"):
            for cell in group.measured(condition="noisy"):
                if cell["difference"] is not None:
                    found.setdefault(place_of(cell), []).append(cell)
    others = [
        f"{name} (undefended {cells[0]['classifier']}: {cells[0]['ours']:.1f} % here, "
        f"{cells[0]['published']:.1f} % there)"
        for name, cells in found.items()
        if (places is None or name in places)
        and all(abs(cell["difference"]) > _SAME_NOISE for cell in cells)
    ]
    if not others:
        return ""
    return (
        f"Not the paper's noise, which it does not define: {', '.join(others)}. "
        "Numbers that rest on it cannot be compared.\n"
    )


def noise_footnote_of_page(group: Group, groups: Sequence[Group]) -> str:
    """Returns `noise_footnote` where the numbers rest on the noises."""
    rests = group.layout.published or group.experiment in ("universal", "ablations")
    alike = [x for x in groups if x.small == group.small]
    places = {
        f"{cell[noise]}-{cell[severity]}"
        for cell in group.measured()
        for noise, severity in itertools.product(cell, cell)
        if noise.endswith("noise") and severity.endswith("severity")
    }
    return noise_footnote([group, *alike], places) if rests else ""
