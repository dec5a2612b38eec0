"""URoNet's tables from our runs, beside the published numbers.

The results of `launch.reproduce` have one row per number, with the columns of the
published table. What this page calls a cell is one number of a table; of several
seeds it holds the mean.
"""

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from uronet_jax.reports import figures, universal
from uronet_jax.reports.layouts import LAYOUTS, PICTURES, Layout
from uronet_jax.reports.tables import markdown_table

SCHEMA = "uronet_jax.reproduction"
# Test images of CIFAR-10, CIFAR-100 and Fashion-MNIST alike.
_TEST_IMAGES = 10_000
# Columns of rows that do not say which number it is.
_NOT_KEYS = {"value", "note", "seed", "num_images", "auroc", "steps"}
# Parts of a config in which runs of one experiment may differ.
_NOT_CONFIG = {"seed", "seeds", "data_dir", "workdir"}
# The paper's label -> what its text and its other half call the same attack.
_SAME = {"FGSM40": "IFGSM40"}
# Sections of a config that an experiment's page shows, and those of some experiments.
_SHOWN = ("preset", "seed", "dtype", "suite", "evaluation", "remover", "detector")
_SHOWN_OF = {
    **dict.fromkeys(("universal", "zero_shot"), ("universal", "universal_detector")),
    **dict.fromkeys(("table5", "table6", "table11", "figure6"), ("attack",)),
    **dict.fromkeys(PICTURES, ("attack",)),
    "universal_trials": ("universal_trials",),
    "ablations": ("ablations",),
}
# What `compare` adds to a cell's own columns.
_MEASURED = {"ours", "seeds", "spread", "published", "difference"}
# Folder of the pictures, seen from the page.
FIGURES = "figures"

Row = dict[str, Any]


def title(experiment: str) -> str:
    """Returns what an experiment shows."""
    return LAYOUTS[experiment].title if experiment in LAYOUTS else experiment


def is_small(content: Mapping[str, Any]) -> bool:
    """Whether a result comes from small models or part of a test set.

    Args:
        content: JSON of `launch.reproduce`.
    """
    if content["config"].get("preset") != "full":
        return True
    if content["experiment"] in PICTURES:
        return False  # They show a few images.
    counts = (row.get("num_images", _TEST_IMAGES) for row in content["rows"])
    return any(count < _TEST_IMAGES for count in counts)


def in_short(content: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a result with the part of its config that its numbers depend on most."""
    shown = _SHOWN + _SHOWN_OF.get(content["experiment"], ())
    config = {name: content["config"].get(name) for name in shown}
    return {**content, "config": config}


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs of one experiment that differ in their seeds at most.

    Attributes:
        name: Of the first run's file.
        experiment: What was run.
        small: See `is_small`.
        runs: File name -> JSON.
        cells: See `compare`.
    """

    name: str
    experiment: str
    small: bool
    runs: dict[str, Mapping[str, Any]]
    cells: list[Row]


def group(contents: Mapping[str, Mapping[str, Any]]) -> list[Group]:
    """Puts runs together that differ in their seeds at most.

    Args:
        contents: Name of the file -> JSON of `launch.reproduce`.

    Returns:
        In the order of `LAYOUTS`, then of their names; full before small.

    Raises:
        ValueError: If a run has a number twice.
    """
    groups: dict[tuple, dict[str, Mapping[str, Any]]] = {}
    for name in sorted(contents):
        content = contents[name]
        config = {k: v for k, v in content["config"].items() if k not in _NOT_CONFIG}
        key = (
            content["experiment"],
            is_small(content),
            json.dumps(config, sort_keys=True),
        )
        groups.setdefault(key, {})[name] = content
    order = list(LAYOUTS)

    def place(item):
        (experiment, small, _), runs = item
        known = order.index(experiment) if experiment in order else len(order)
        return known, experiment, small, min(runs)

    return [
        Group(min(runs), experiment, small, runs, compare(experiment, runs))
        for (experiment, small, _), runs in sorted(groups.items(), key=place)
    ]


def compare(experiment: str, runs: Mapping[str, Mapping[str, Any]]) -> list[Row]:
    """Lays the numbers of one experiment beside the published ones.

    Args:
        experiment: A key of `LAYOUTS`, or one without published numbers.
        runs: File name -> JSON, of runs that differ in their seeds.

    Returns:
        One row per cell: its columns as texts, empty where they do not apply, `ours`
        (mean over the seeds, None if not measured), `seeds`, `spread` (their standard
        deviation, None for one seed), `published` and `difference` (None where there
        is none). Published cells first, in their order.

    Raises:
        ValueError: If a run has a number twice, one that is not finite, or a row
            that lacks a column.
    """
    layout = LAYOUTS.get(experiment)
    theirs = layout.published_rows() if layout else []
    columns = [c for c in theirs[0] if c not in _NOT_KEYS] if theirs else None
    cells: dict[tuple, Row] = {}
    for row in theirs:
        key = _key(row, columns)
        cells[tuple(sorted(key.items()))] = {**key, "published": float(row["value"])}
    values: dict[tuple, dict[tuple, float]] = {}
    for name, content in runs.items():
        for row in content["rows"]:
            _check_columns(name, row, columns or (), layout)
            key = _key(row, columns or [c for c in row if c not in _NOT_KEYS])
            seeds = values.setdefault(tuple(sorted(key.items())), {})
            run = (name, row.get("seed"))
            if run in seeds:
                raise ValueError(f"{name} has a number twice: {key}")
            if not math.isfinite(row["value"]):
                raise ValueError(f"{name} has a number that is not finite: {key}")
            seeds[run] = float(row["value"])
            cells.setdefault(tuple(sorted(key.items())), key)
    rows = []
    for key, cell in cells.items():
        seeds = list(values.get(key, {}).values())
        ours, published = mean(seeds) if seeds else None, cell.get("published")
        both = ours is not None and published is not None
        rows.append(
            {
                **cell,
                "ours": ours,
                "seeds": len(seeds),
                "spread": stdev(seeds) if len(seeds) > 1 else None,
                "published": published,
                "difference": ours - published if both else None,
            }
        )
    return rows


def _check_columns(
    name: str, row: Mapping[str, Any], columns: Sequence[str], layout: Layout | None
) -> None:
    lacking = [column for column in columns if column not in row]
    if not lacking and layout is not None:
        key = _key(row, list(row))
        try:
            for label in (layout.block, layout.row, layout.column):
                label(key)
        except KeyError as error:
            lacking = list(error.args)
    if lacking:
        raise ValueError(f"{name} has a row without {', '.join(lacking)}: {row}")


def _key(row: Mapping[str, Any], columns: Sequence[str]) -> dict[str, str]:
    """Returns the columns as texts: 1, 1.0 and "1" are the same."""

    def text(value):
        if value is None:
            return ""
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        return _SAME.get(str(value), str(value))

    return {column: text(row.get(column)) for column in columns}


def summarize(experiment: str, cells: Sequence[Row]) -> dict[str, Any]:
    """Returns how far the numbers of an experiment are from the published ones.

    Args:
        experiment: A key of `LAYOUTS`.
        cells: From `compare`.

    Returns:
        `published` and `measured`, numbers of published cells and of those that we
        have too; `compared`, those of them that count as the paper's achievement;
        `at_or_above`, how many of these are not below the paper when rounded to two
        decimals; `mean_difference` of these, in points (None without any); `seeds`,
        the largest number of runs of a cell; `mean_spread` and `max_spread` of the
        cells with several, in points (None without any).
    """
    counted = LAYOUTS[experiment].counted
    published = [cell for cell in cells if cell["published"] is not None]
    measured = [cell for cell in published if cell["ours"] is not None]
    differences = [cell["difference"] for cell in measured if counted(cell)]
    spreads = [cell["spread"] for cell in cells if cell["spread"] is not None]
    return {
        "published": len(published),
        "measured": len(measured),
        "compared": len(differences),
        "at_or_above": sum(round(d, 2) >= 0 for d in differences),
        "mean_difference": mean(differences) if differences else None,
        "seeds": max(cell["seeds"] for cell in cells),
        "mean_spread": mean(spreads) if spreads else None,
        "max_spread": max(spreads, default=None),
    }


def summary_line(found: Group) -> str:
    """Returns one sentence on a group: its distance, spread, device and hours."""
    parts = []
    layout = LAYOUTS.get(found.experiment)
    if layout is not None and layout.published:
        figure = summarize(found.experiment, found.cells)
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
        if figure["mean_spread"] is not None:
            parts.append(
                f"{figure['seeds']} seeds, standard deviation "
                f"{figure['mean_spread']:.2f} points on average and "
                f"{figure['max_spread']:.2f} at most"
            )
    devices, seconds = [], 0.0
    for content in found.runs.values():
        device = content["device"]
        devices.append(f"{device['count']} x {device['kind']}")
        seconds += content["seconds"]
    parts.append(f"{', '.join(dict.fromkeys(devices))}, {seconds / 3600:.2f} hours")
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
    drawn = {picture.block: picture.name for picture in pictures(found)}
    for block, cells in blocks(found).items():
        parts += [
            f"**{block}**\n",
            (_matrix if layout.compact else _triples)(layout, cells, found.small),
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


def _listing(cells: Sequence[Row], small: bool) -> str:
    """Shows numbers without published ones: every column in which something is."""
    columns = dict.fromkeys(c for cell in cells for c in cell if c not in _MEASURED)
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
