"""The universal remover and detector beside those of single noises, ours and published.

The paper trains one remover and one detector per noise and severity. Of its detectors
the one with the highest mean is shown, of its removers the best one of each noise: a
user who does not know the noise could not choose that well.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from statistics import mean
from typing import Any

from uronet_jax.reports.tables import markdown_table

# What this project asks of the universal models, in percent.
_MEAN_DETECTION, _LOWEST_DETECTION = 99.5, 99.0
_MEAN_ACCURACY = {"ResNet": 85.0, "Wide-ResNet16-8": 88.0}

Numbers = dict[str, float]


def render(found: Any, groups: Sequence[Any]) -> str:
    """Returns the comparison as Markdown.

    Args:
        found: A `comparison.Group` of the experiment `universal`.
        groups: All groups. Tables 2 and 7 of the same size, suite, preset and
            evaluation are used, the first of each, and named; so are the trials.
    """
    alike = [g for g in groups if (g.small, g.setting) == (found.small, found.setting)]
    first = {g.experiment: g for g in reversed(alike)}
    used = [first[name] for name in ("table2", "table7") if name in first]
    others = {group.experiment: group.cells for group in used}
    size = ", small" if found.small else ""
    columns, goals, strangers = {}, [], []
    detection = _numbers(found.cells, "ours", metric="detection_accuracy")
    if detection:
        columns[f"detection: universal{size}"] = detection
        goals += [
            _goal("mean detection", mean(detection.values()), _MEAN_DETECTION),
            _goal("lowest detection", min(detection.values()), _LOWEST_DETECTION),
        ]
    aside = set(found.other_noises)
    cells = others.get("table2", [])
    for field, who in (("ours", f"our {{}}{size}"), ("published", "the paper's {}")):
        if name := best_detector(cells, field, aside):
            columns[f"detection: {who.format(name)}"] = _trained(cells, field, name)
    for classifier in dict.fromkeys(c["classifier"] for c in found.cells):
        where = {"classifier": classifier, "condition": "mitigated"}
        purified = _numbers(found.cells, "ours", **where)
        if not classifier or not purified:
            continue
        columns[f"{classifier}: universal{size}"] = purified
        if classifier in _MEAN_ACCURACY:
            noisy = {k: v for k, v in purified.items() if k != "clean"}
            goals.append(
                _goal(
                    f"mean accuracy of {classifier}",
                    mean(noisy.values()),
                    _MEAN_ACCURACY[classifier],
                )
            )
        cells = others.get("table7", [])
        strange = not _same_network(found.cells, cells, classifier)
        if strange:
            strangers.append(classifier)
        for field, who in (
            ("ours", f"our best single{size}"),
            ("published", "the paper's best"),
        ):
            if field == "ours" and strange:
                continue
            if best := best_removers(cells, field, classifier):
                columns[f"{classifier}: {who}"] = best
    if not columns:
        return ""
    text = (
        "Beside detectors of single noises, of which the one with the highest mean is "
        "shown, and removers of single noises, of which the best for each line is "
        "shown."
    )
    if used:
        text += f" Ours of single noises: {_names(used)}."
    if aside:
        names = ", ".join(sorted(aside))
        text += (
            f" {names} is not the paper's noise: the last two lines are without it, "
            "and so are the means by which detectors are chosen."
        )
    for classifier in strangers:
        text += (
            f" {classifier} has other accuracies without a remover in these results, "
            "so it is another network: our removers of single noises are not shown "
            "before it."
        )
    text += advantage(found.config)
    if goals:
        text += f" Asked of the universal models{size}: {'; '.join(goals)}."
    trials = [g for g in groups if g.experiment == "universal_trials"]
    if trials:
        text += f" The short trainings that led to them: {_names(trials)}."
    table = markdown_table(_lines(columns, aside), ["degradation", *columns])
    return f"{text}\n\n{table}"


def advantage(config: Mapping[str, Any]) -> str:
    """Says what a universal remover has that those of single noises have not.

    Args:
        config: The fields of `configs/reproduce.py`.

    Returns:
        A sentence that begins with a space; empty if there is nothing.
    """
    own, single = config.get("universal") or {}, config.get("remover") or {}
    parts = []
    if own.get("consistency_weight"):
        parts.append(
            "it is trained on the answers of the very classifier that it is judged with"
        )
    differences = {
        "variant": "it is of the variant `{}`, theirs `{}`",
        "widths": "it has {} filters, theirs {}",
        "num_steps": "it is trained for {} steps, theirs for {} each",
        "batch_size": "on {} images a step, theirs on {}",
    }
    for field, text in differences.items():
        if own.get(field) and single.get(field) and own[field] != single[field]:
            parts.append(text.format(_listed(own[field]), _listed(single[field])))
    if own.get("clean_entries"):
        parts.append("it is shown clean images too")
    if own.get("mirror"):
        parts.append("its pictures are means over the image and its mirror image")
    if not parts:
        return ""
    return (
        " The universal remover has advantages that removers of single noises have "
        f"not: {'; '.join(parts)}."
    )


def _listed(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    if isinstance(value, str):
        return value
    return f"{value:,}"


def on_corruptions(found: Any) -> str:
    """Returns what to know of models that learned a suite's corruptions, as Markdown.

    Args:
        found: A `comparison.Group` of the experiment `universal_corruptions`.
    """
    suite = (found.config.get("universal_corruptions") or {}).get("suite")
    return (
        f"Trained on the very corruptions of `{suite}` that it is judged on, with "
        "other draws: it says what such models can learn of them, and is no score of "
        "that benchmark, whose corruptions are not to be learned. Frost is cut from "
        f"generated textures.{advantage(found.config)}\n"
    )


def on_trials(found: Any) -> str:
    """Returns what the numbers of the trials may be compared with, as Markdown.

    Args:
        found: A `comparison.Group` of the experiment `universal_trials`.
    """
    section = found.config.get("data") or {}
    text = (
        "Judged on validation images: the trials compare variants with each other, not "
        "with the columns of the test images."
    )
    source, split = section.get("classifier"), section.get("validation_split")
    if source and split and not source.startswith("train:"):
        alone = [
            cell["ours"]
            for cell in found.cells
            if cell["ours"] is not None
            and (cell["variant"], cell["test_noise"]) == ("undefended", "clean")
        ]
        right = f", on which it is right in {alone[0]:.2f} %" if alone else ""
        title = section.get("classifier_title")
        text += (
            f" The weights of the {title} come from elsewhere (`{source}`) and may "
            f"have learned these very images ({split}){right}."
        )
    return f"{text}\n"


def _same_network(
    cells: Iterable[Mapping[str, Any]],
    others: Iterable[Mapping[str, Any]],
    classifier: str,
) -> bool:
    """Returns whether a classifier has the same undefended accuracy in two results."""
    where = {"classifier": classifier, "condition": "noisy"}
    one, two = (_numbers(of, "ours", **where) for of in (cells, others))
    return all(one[place] == two[place] for place in one.keys() & two.keys())


def _names(groups: Sequence[Any]) -> str:
    return ", ".join(f"`{group.name}`" for group in groups)


def _lines(
    columns: Mapping[str, Numbers], aside: Collection[str]
) -> list[dict[str, Any]]:
    names = [n for n in dict.fromkeys(n for c in columns.values() for n in c)]
    noisy = [name for name in names if name != "clean"]
    rows: list[dict[str, Any]] = [
        {"degradation": name, **{c: columns[c].get(name) for c in columns}}
        for name in noisy
    ]
    kept = [name for name in noisy if name not in aside]
    without = f" without {', '.join(sorted(aside))}"
    for of, suffix in ((noisy, ""), (kept, without))[: 2 if aside else 1]:
        for label, summary in (("mean", mean), ("lowest", min)):
            row: dict[str, Any] = {"degradation": f"{label}{suffix}"}
            for heading, numbers in columns.items():
                values = [numbers[name] for name in of if name in numbers]
                row[heading] = summary(values) if len(values) == len(of) else None
            rows.append(row)
    return rows


def _goal(what: str, value: float, limit: float) -> str:
    met = "met" if round(value, 2) >= limit else "**missed**"
    return f"{what} at least {limit:g} %, is {value:.2f} % ({met})"


def _numbers(cells: Iterable[Mapping[str, Any]], field: str, **where: str) -> Numbers:
    """Returns degradation -> number of the cells with these values."""
    return {
        _place(cell): cell[field]
        for cell in cells
        if cell[field] is not None
        and all(cell[column] == value for column, value in where.items())
    }


def _place(cell: Mapping[str, Any]) -> str:
    noise = cell.get("test_noise") or cell.get("noise")
    return "clean" if noise == "clean" else f"{noise}-{cell['test_severity']}"


def _trained(cells: Iterable[Mapping[str, Any]], field: str, name: str) -> Numbers:
    noise, _, severity = name.partition("-")
    where = {"train_noise": noise, "train_severity": severity}
    return _numbers(cells, field, metric="detection_accuracy", **where)


def best_detector(
    cells: Sequence[Mapping[str, Any]], field: str, aside: Collection[str] = ()
) -> str | None:
    """Returns the detector of Table 2 with the highest mean over all its tests.

    Args:
        cells: Of Table 2.
        field: `ours` or `published`.
        aside: Degradations that do not count.
    """
    names = dict.fromkeys(f"{c['train_noise']}-{c['train_severity']}" for c in cells)
    means = {
        name: mean(counted)
        for name in names
        if (
            counted := [
                value
                for test, value in _trained(cells, field, name).items()
                if test not in aside
            ]
        )
    }
    return max(means, key=means.__getitem__, default=None)


def best_removers(
    cells: Iterable[Mapping[str, Any]], field: str, classifier: str
) -> Numbers:
    """Returns degradation -> accuracy behind the best of its noise's removers.

    Args:
        cells: Of Table 7.
        field: `ours` or `published`.
        classifier: Of the paper.
    """
    best: Numbers = {}
    for cell in cells:
        if cell["condition"] != "mitigated" or cell["classifier"] != classifier:
            continue
        if cell[field] is not None:
            place = _place(cell)
            best[place] = max(best.get(place, 0.0), cell[field])
    return best
