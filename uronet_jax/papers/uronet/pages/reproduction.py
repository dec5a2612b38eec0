"""URoNet's tables and figures from our runs, as Markdown and pictures."""

import dataclasses
import hashlib
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from uronet_jax.papers.uronet.pages import ablations, classifiers, universal
from uronet_jax.papers.uronet.pages.comparison import (
    MEASURED,
    Group,
    Row,
    cost,
    sessions,
    summarize,
)
from uronet_jax.papers.uronet.pages.layouts import LAYOUTS, PICTURES, Layout
from uronet_jax.reports import figures
from uronet_jax.reports.tables import markdown_table

# Of the JSON that `launch.reproduce` writes.
SCHEMA = "uronet_jax.reproduction"
SCHEMA_VERSION = 1
# Steps of the paper's attacks, where their label does not say.
_STEPS = 40
# Columns that name an attack.
_ATTACKS = ("train_attack", "test_attack", "attack")
# Sections of a config that an experiment's page shows, and those of some experiments.
_SHOWN = ("preset", "seed", "dtype", "suite", "evaluation", "remover", "detector")
_SHOWN_OF = {
    **dict.fromkeys(("universal", "zero_shot"), ("universal", "universal_detector")),
    **dict.fromkeys(("table5", "table6", "table11", "figure6"), ("attack",)),
    **dict.fromkeys(PICTURES, ("attack",)),
    "universal_corruptions": ("universal", "universal_corruptions"),
    "universal_trials": ("universal_trials",),
    "ablations": ("ablations",),
}
# What it shows of the data sets that the rows name.
_SHOWN_DATA = ("name", "title", *classifiers.FIELDS)
# Experiments for which no remover or detector is trained.
_WITHOUT_MODELS = ("figure1", "figure2", "figure4")
# Folder of the pictures, seen from the page.
FIGURES = "figures"


def title(experiment: str) -> str:
    """Returns what an experiment shows."""
    return LAYOUTS[experiment].title if experiment in LAYOUTS else experiment


def not_run(groups: Sequence[Group]) -> str:
    """Names the experiments that have no result, as a Markdown list.

    Args:
        groups: From `comparison.group`.
    """
    lines = []
    for size, small in (("full size", False), ("small models", True)):
        run = {found.experiment for found in groups if found.small is small}
        lacking = [f"`{name}`" for name in LAYOUTS if name not in run]
        lines.append(f"- With {size}. Not run: {', '.join(lacking) or 'none'}.\n")
    return "".join(lines)


def in_short(content: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a result with the part of its config that its numbers depend on most."""
    shown = _SHOWN + _SHOWN_OF.get(content["experiment"], ())
    config = {name: content["config"].get(name) for name in shown}
    titles = {row.get(c) for row in content["rows"] for c in classifiers.DATASETS}
    for role in classifiers.ROLES:
        section = content["config"].get(role) or {}
        if section.get("title") in titles:
            config[role] = {name: section.get(name) for name in _SHOWN_DATA}
    if content.get("overridden"):
        config["not of the preset"] = content["overridden"]
    return {**content, "config": config}


def summary_line(found: Group) -> str:
    """Returns one sentence on a group: its distance, spread, devices and hours."""
    parts = []
    layout = LAYOUTS.get(found.experiment)
    if layout is not None and layout.published:
        figure = summarize(found)
        parts.append(
            f"{figure['measured']} of {figure['published']} published numbers have a "
            "counterpart"
        )
        if figure["compared"]:
            share = figure["at_or_above"] / figure["compared"]
            who = "ours, small," if found.small else "ours"
            parts.append(
                f"{who} at or above the paper in {figure['at_or_above']} of "
                f"{figure['compared']} {layout.counted_name} ({share:.1%}), mean "
                f"difference {_signed(figure['mean_difference'])} points"
            )
        if figure["other_noises"]:
            parts.append(
                "not compared, for noises that are not the paper's "
                f"({', '.join(found.other_noises)}): {figure['other_noises']} "
                f"{layout.counted_name}"
            )
        if figure["other_models"]:
            names = dict.fromkeys(
                name
                for cell in found.cells
                for name in [*found.doubtful(cell), *found.other_data(cell)]
            )
            parts.append(
                "not compared, for classifiers or data that are not known to be the "
                f"paper's ({', '.join(names)}): {figure['other_models']} "
                f"{layout.counted_name}"
            )
        if figure["mean_spread"] is not None:
            parts.append(
                f"{figure['seeds']} seeds, standard deviation "
                f"{figure['mean_spread']:.2f} points on average and "
                f"{figure['max_spread']:.2f} at most"
            )
    devices, seconds = cost(found.runs.values())
    every = [session for run in found.runs.values() for session in sessions(run)]
    training = sum(session.get("training_seconds", 0.0) for session in every)
    hours = f"{devices}, {seconds / 3600:.2f} hours"
    if (
        training == 0
        and any("training_seconds" in session for session in every)
        and found.experiment not in _WITHOUT_MODELS
    ):
        hours += (
            " without the training of the models, which were trained earlier in the "
            "same folder"
        )
    parts.append(hours)
    if found.experiment == "table2" and training > 0:
        parts.append(
            f"measuring added {(seconds - training) / training:.1%} to the training"
        )
    return "; ".join(parts) + ".\n"


def render(found: Group, groups: Sequence[Group] = ()) -> str:
    """Returns the summary line, tables and pictures of a group as Markdown.

    Args:
        found: What is shown.
        groups: All there are: the universal models are shown beside those of single
            noises.
    """
    parts = [summary_line(found)]
    layout = LAYOUTS.get(found.experiment)
    if layout is None:
        return "\n".join([*parts, _listing(found.cells, found.small)])
    if found.experiment in PICTURES:
        parts.append(_image(found.name, picture_name(found)))
    if found.experiment == "universal":
        parts.append(universal.render(found, groups))
    if found.experiment == "universal_corruptions":
        parts.append(universal.on_corruptions(found))
    if found.experiment == "zero_shot" and (text := universal.advantage(found.config)):
        parts.append(f"{text.strip()}\n")
    if found.experiment == "universal_trials":
        parts.append(universal.on_trials(found))
    if found.experiment == "ablations":
        parts.append(ablations.render(found.cells, small=found.small))
    drawn = {picture.block: picture.name for picture in pictures(found)}
    for block, cells in blocks(found).items():
        parts += [
            f"**{block}**\n",
            (_matrix if layout.compact else _triples)(layout, cells, found.small),
            *_remarks(layout, cells, found.small),
        ]
        if block in drawn:
            parts.append(_image(f"{found.name}, {block}", drawn[block]))
    rest = [
        cell
        for cell in found.cells
        if cell["ours"] is not None
        and not layout.has_place(cell)
        and cell["metric"] not in layout.derived
    ]
    if rest:
        parts += ["Also measured:\n", _listing(rest, found.small)]
    return "\n".join(parts)


def _image(text: str, name: str) -> str:
    return f"![{text}]({FIGURES}/{name})\n"


def picture_name(found: Group) -> str:
    """Returns the file of an experiment of `PICTURES`, drawn when it was run."""
    return f"{found.name}.png"


def blocks(found: Group) -> dict[str, list[Row]]:
    """Returns the tables of a group: title -> cells, without those nobody measured."""
    layout = LAYOUTS[found.experiment]
    tables: dict[str, list[Row]] = {}
    for cell in found.cells:
        if layout.has_place(cell):
            tables.setdefault(layout.block(cell), []).append(cell)
    return {
        block: cells
        for block, cells in tables.items()
        if any(cell["ours"] is not None for cell in cells)
    }


def _lines(layout: Layout, cells: Sequence[Row]) -> dict[str, dict[str, Row]]:
    """Returns line -> column -> cell, of the lines and columns that are shown."""
    shown = cells if layout.context else [c for c in cells if c["ours"] is not None]
    names = {layout.row(cell) for cell in shown}
    lines: dict[str, dict[str, Row]] = {n: {} for n in layout.first if n in names}
    for cell in shown:
        line, column = lines.setdefault(layout.row(cell), {}), layout.column(cell)
        if column in line:
            raise ValueError(f"two numbers for {column}: {line[column]}, {cell}")
        line[column] = cell
    return lines


def _matrix(layout: Layout, cells: Sequence[Row], small: bool) -> str:
    lines = _lines(layout, cells)
    columns = dict.fromkeys(column for line in lines.values() for column in line)

    def text(cell):
        if cell is None or cell["ours"] is None:
            return None
        if cell["difference"] is None:
            return f"{cell['ours']:.2f}" if layout.published else cell["ours"]
        return f"{cell['ours']:.2f} ({_signed(cell['difference'])})"

    legend = f"Ours{', small' if small else ''}"
    if layout.published:
        legend += ", and in brackets its difference from the published number"
    return f"{legend}.\n\n" + markdown_table(
        [
            {"": row, **{column: text(line.get(column)) for column in columns}}
            for row, line in lines.items()
        ],
        ["", *columns],
    )


def _triples(layout: Layout, cells: Sequence[Row], small: bool) -> str:
    lines = _lines(layout, cells)
    headings = {"": ""}
    rows: list[Row] = [{"": name} for name in lines]
    names = {
        "ours": "ours, small" if small else "ours",
        "published": "published",
        "difference": "difference",
    }
    for column in dict.fromkeys(c for line in lines.values() for c in line):
        for field, name in names.items():
            values = [line.get(column, {}).get(field) for line in lines.values()]
            if all(value is None for value in values):
                continue
            headings[f"{column} {field}"] = f"{column}: {name}"
            for row, value in zip(rows, values, strict=True):
                row[f"{column} {field}"] = value
    formats = {c: "+.2f" for c in headings if c.endswith(" difference")}
    return markdown_table(rows, headings, formats=formats)


def _remarks(layout: Layout, cells: Sequence[Row], small: bool) -> list[str]:
    """Returns what stands under a table: steps of attacks, ranking of detectors."""
    cells = [cell for cell in cells if cell["ours"] is not None]
    steps = {}
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
            f"AUROC{' (small)' if small else ''}: mean "
            f"{mean(cell['auroc'] for cell in ranked):.4f}, lowest "
            f"{worst['auroc']:.4f} ({layout.row(worst)}, {layout.column(worst)})"
        )
        rates = [cell["true_positive_rate"] for cell in ranked]
        rates = [rate for rate in rates if rate is not None]
        if rates:
            text += (
                "; true positive rate at 5 % false alarms: mean "
                f"{100.0 * mean(rates):.2f} %"
            )
        remarks.append(f"{text}.")
    return [" ".join(remarks) + "\n"] if remarks else []


def _listing(cells: Sequence[Row], small: bool) -> str:
    """Shows numbers without published ones: every column in which something is."""
    columns = dict.fromkeys(c for cell in cells for c in cell if c not in MEASURED)
    used = [column for column in columns if any(cell.get(column) for cell in cells)]
    headings = {**{column: column for column in used}, "ours": "ours"}
    if small:
        headings["ours"] = "ours, small"
    if any(cell["spread"] is not None for cell in cells):
        headings["spread"] = "deviation over seeds"
    return markdown_table(cells, headings, missing="")


@dataclasses.dataclass(frozen=True)
class Picture:
    """A table as a picture.

    Attributes:
        name: Of its file.
        block: The table it shows, a key of `blocks`.
        title: Above it.
        rows: Names of the lines.
        columns: Names of the columns.
        values: Ours, `[rows, columns]`, NaN where not measured.
        differences: Ours less published, NaN where there is none; None if most cells
            have none, then the colours show our numbers.
    """

    name: str
    block: str
    title: str
    rows: list[str]
    columns: list[str]
    values: list[list[float]]
    differences: list[list[float]] | None

    @property
    def description(self) -> str:
        """Fingerprint of everything that is drawn."""
        drawn = json.dumps(dataclasses.astuple(self))
        return f"sha256 {hashlib.sha256(drawn.encode()).hexdigest()}"


def pictures(found: Group) -> list[Picture]:
    """Returns the pictures of a group, one per table."""
    if found.experiment not in LAYOUTS or found.experiment in PICTURES:
        return []
    return [_picture(found, block, cells) for block, cells in blocks(found).items()]


def _picture(found: Group, block: str, cells: Sequence[Row]) -> Picture:
    layout = LAYOUTS[found.experiment]
    lines = _lines(dataclasses.replace(layout, context=False), cells)
    columns = list(dict.fromkeys(c for line in lines.values() for c in line))

    def numbers(field):
        found = [
            [line.get(c, {}).get(field) for c in columns] for line in lines.values()
        ]
        return [[math.nan if x is None else x for x in line] for line in found]

    def count(values):
        return sum(math.isfinite(x) for line in values for x in line)

    values, differences = numbers("ours"), numbers("difference")
    heading = f"{layout.title.partition(':')[0]}: {block}\nours"
    if found.small:
        heading += ", small models"
    if 2 * count(differences) < count(values):
        differences = None
    else:
        heading += (
            ", and the difference from the paper:\nblue is above, red below, full at "
            "10 points"
        )
    slug = "".join(c if c.isalnum() else "_" for c in block.lower())
    name = f"{found.name}_{slug}.png"
    return Picture(name, block, heading, list(lines), columns, values, differences)


def draw(picture: Picture, folder: str | os.PathLike) -> Path:
    """Writes a picture into a folder and returns its path."""
    path = Path(folder) / picture.name
    names = picture.rows, picture.columns, picture.title
    if picture.differences is None:
        figures.heat_map(path, picture.values, *names, description=picture.description)
    else:
        figures.difference_map(
            path,
            picture.values,
            picture.differences,
            *names,
            description=picture.description,
        )
    return path


def is_drawn(picture: Picture, folder: str | os.PathLike) -> bool:
    """Whether the folder holds the picture of these very numbers.

    Files are not compared: the same figure differs with the version of Matplotlib.
    """
    found = figures.description_of(Path(folder) / picture.name)
    return found == picture.description


def _signed(value: float) -> str:
    return f"{round(value, 2) + 0.0:+.2f}"
