"""The page of one experiment: its tables and pictures beside the paper's claims."""

import re
from collections.abc import Iterable, Mapping, Sequence
from statistics import mean
from typing import Any

from uronet_jax.papers.uronet.pages import pictures
from uronet_jax.papers.uronet.pages.claims import CLAIMS, claims_table, judge_claim
from uronet_jax.papers.uronet.pages.comparison import (
    MEASURED,
    Group,
    distance_from_paper,
    noise_footnote,
    noisy_values,
    place_of,
)
from uronet_jax.papers.uronet.pages.layouts import PAGE_LAYOUTS, PICTURES, Layout
from uronet_jax.reports.results import origin_line
from uronet_jax.reports.tables import markdown_table

# Steps of the paper's attacks, where their label does not say.
_STEPS = 40
_ATTACKS = ("train_attack", "test_attack", "attack")
# A wider table is a picture only: the numbers stand in its cells.
_WIDEST = 12
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


def experiment_title(experiment: str) -> str:
    """Returns what an experiment shows."""
    known = experiment in PAGE_LAYOUTS
    return PAGE_LAYOUTS[experiment].title if known else experiment


def render_experiment(group: Group, groups: Sequence[Group] = ()) -> str:
    """Returns the page of an experiment, one of all `groups`, as Markdown."""
    size = " (small models)" if group.small else ""
    title = f"# {experiment_title(group.experiment)}{size}\n"
    parts = [title, origin_line(group.runs), _summary(group)]
    layout = PAGE_LAYOUTS.get(group.experiment)
    note = [_NOTES[group.experiment]] if group.experiment in _NOTES else []
    if group.experiment in ("universal", "universal_corruptions", "zero_shot"):
        note += [_gains(group), _advantage(group.config)]
    if any(note):
        parts.append(" ".join(filter(None, note)) + "\n")
    claims = [claim for claim in CLAIMS if claim.experiment == group.experiment]
    if claims:
        parts.append(claims_table([judge_claim(claim, group) for claim in claims]))
    if group.experiment in PICTURES:
        parts.append(_image(group.name, picture_name(group)))
    if group.experiment == "universal":
        parts.append(_beside_single_noises(group, groups))
    drawn = {picture.block: picture.name for picture in pictures.group_pictures(group)}
    for block, cells in pictures.table_blocks(group).items() if layout else ():
        parts.append(f"**{block}**\n")
        if block in drawn:
            parts.append(_image(f"{group.name}, {block}", drawn[block]))
        if group.experiment != "universal":  # All of it stands in the table above.
            parts.append(_matrix(layout, cells))
        parts.append(_remarks(layout, cells))
    rest = [
        cell
        for cell in group.measured()
        if not (layout and (layout.has_place(cell) or cell["metric"] in layout.derived))
    ]
    if rest:
        parts += ["Also measured:\n"] if layout else []
        parts.append(_listing(rest))
    if layout and (layout.published or group.experiment in ("universal", "ablations")):
        parts.append(noise_footnote([group, *groups]))
    return "\n".join(filter(None, parts))


def _summary(group: Group) -> str:
    """One sentence on the distance from the paper."""
    layout = PAGE_LAYOUTS.get(group.experiment)
    if layout is None or not layout.published:
        return ""
    found = distance_from_paper(group)
    text = f"{found['measured']} of {found['published']} published numbers are measured"
    if found["compared"]:
        text += (
            f"; at or above the paper: {found['at_or_above']} of {found['compared']} "
            f"{layout.counted_name}, mean difference {found['mean_difference']:+.2f} "
            "points"
        )
    if found["mean_spread"] is not None:
        text += (
            f"; {found['seeds']} seeds, standard deviation {found['mean_spread']:.2f} "
            f"points on average and {found['max_spread']:.2f} at most"
        )
    return f"{text}.\n"


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


def _beside_single_noises(group: Group, groups: Sequence[Group]) -> str:
    """The universal models beside those of single noises of the same size and suite.

    The paper trains one remover and one detector per noise and severity. Of its
    detectors the best on average is shown, of its removers the best for each line: a
    user who does not know the noise could not choose that well.
    """

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
    return (
        "Beside the detector of a single noise that is best on average, and for each "
        "line the best remover of a single noise, chosen on these test images"
        f"{' (' + ', '.join(used) + ')' if used else ''}. Asked of the universal "
        f"models: {'; '.join(goals)}.\n\n{markdown_table(rows, ['', *columns])}"
    )


def _goal(what: str, value: float, limit: float) -> str:
    met = "met" if round(value, 2) >= limit else "**missed**"
    return f"{what} at least {limit:g} %, is {value:.2f} % ({met})"


def picture_name(group: Group) -> str:
    """Returns the file of an experiment of `PICTURES`, drawn when it was run."""
    return f"{group.name}.png"


def _image(text: str, name: str) -> str:
    return f"![{text}](../figures/{name})\n"


def _matrix(layout: Layout, cells: Sequence[Mapping[str, Any]]) -> str:
    lines = pictures.table_lines(layout, cells, context=layout.context)
    columns = dict.fromkeys(column for line in lines.values() for column in line)
    if len(columns) > _WIDEST:
        return ""

    def text(cell):
        if cell is None or cell["ours"] is None and cell["published"] is None:
            return None
        if cell["ours"] is None:
            return f"*{cell['published']:.2f}*"
        if cell["difference"] is None:
            return f"{cell['ours']:.2f}" if layout.published else cell["ours"]
        # No signed zero.
        return f"{cell['ours']:.2f} ({round(cell['difference'], 2) + 0.0:+.2f})"

    rows = [
        {"": row, **{column: text(line.get(column)) for column in columns}}
        for row, line in lines.items()
    ]
    legend = ""
    if any(cell["difference"] is not None for cell in cells):
        legend = "In brackets ours less published"
        legend += ", in italics published only.\n\n" if layout.context else ".\n\n"
    return legend + markdown_table(rows, ["", *columns])


def _remarks(layout: Layout, cells: Sequence[Mapping[str, Any]]) -> str:
    """What stands under a table: steps of attacks, ranking of detectors."""
    cells = [cell for cell in cells if cell["ours"] is not None]
    steps: dict[int, dict[str, None]] = {}
    for cell in cells:
        label = next((cell[c] for c in _ATTACKS if cell.get(c)), "")
        # The digits of a training attack are its steps, those of others restarts.
        said = re.search(r"\d+$", label) if cell.get("train_attack") else None
        if cell["steps"] not in (None, int(said[0]) if said else _STEPS):
            steps.setdefault(cell["steps"], {})[label] = None
    remarks = [
        f"Steps of the attack: {count}, not the paper's, for {', '.join(labels)}."
        for count, labels in steps.items()
    ]
    ranked = [cell for cell in cells if cell["auroc"] is not None]
    if ranked:
        worst = min(ranked, key=lambda cell: cell["auroc"])
        text = (
            f"AUROC: mean {mean(cell['auroc'] for cell in ranked):.4f}, lowest "
            f"{worst['auroc']:.4f} ({layout.row(worst)}, {layout.column(worst)})"
        )
        found = [cell["true_positive_rate"] for cell in ranked]
        if rates := [rate for rate in found if rate is not None]:
            text += "; true positive rate at 5 % false alarms: mean "
            text += f"{100.0 * mean(rates):.2f} %"
        remarks.append(f"{text}.")
    return " ".join(remarks) + "\n" if remarks else ""


def _listing(cells: Sequence[Mapping[str, Any]]) -> str:
    """Numbers without published ones: every column in which something is."""
    columns = dict.fromkeys(c for cell in cells for c in cell if c not in MEASURED)
    used = [column for column in columns if any(cell.get(column) for cell in cells)]
    headings = {**{column: column for column in used}, "ours": "ours"}
    if any(cell["spread"] is not None for cell in cells):
        headings["spread"] = "deviation over seeds"
    return markdown_table(cells, headings, missing="")
