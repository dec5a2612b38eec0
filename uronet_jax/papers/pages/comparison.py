"""Runs of `launch.reproduce` put together and laid beside the published numbers.

The results have one row per number, with the columns of the published table. What is
called a cell is one number of a table; of several seeds it holds the mean.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import mean, stdev
from typing import Any

from uronet_jax.papers.experiments import EXPERIMENTS
from uronet_jax.papers.machine_settings import without_machine_settings
from uronet_jax.papers.pages.all_papers import PAGE_LAYOUTS
from uronet_jax.papers.pages.group import Group
from uronet_jax.papers.pages.layout import Layout
from uronet_jax.reports.results import Result

# True positive rate of a detector at 5 % false alarms, in `[0, 1]`.
_RATE = ("tpr_at_5_percent_fpr", "tpr_at_5_fpr")
# Columns of rows that do not say which number it is.
_NOT_KEYS = {"value", "std", "note", "seed", "num_images", "auroc", "steps", "own"}
_NOT_KEYS |= {"infinite", "severities", "attempts", "randomness", *_RATE}
_NOT_KEYS |= {"eps_stars", "never_fooled"}
# Parts of a config in which runs of one experiment may differ.
_NOT_CONFIG = {"seed", "seeds", "data_dir", "workdir"}
# Fields of sections that say what is measured, not how.
_SELECTION = {"models", "eps_star_images", "attacked_images"}
_NONE: Mapping[str, str] = {}


def group_runs(results: Iterable[Result]) -> list[Group]:
    """Groups the runs of `launch.reproduce` among results.

    In the order of `PAGE_LAYOUTS`, then of their names; full before small.
    """
    groups: dict[tuple, list[Result]] = {}
    for result in sorted(results, key=lambda result: result.name):
        if result.kind != "reproduction":
            continue
        content = result.content
        config, known = content["config"], EXPERIMENTS.get(content["experiment"])
        # A section that came later, for other experiments, is no difference.
        config = known.depends_on(config) if known else without_machine_settings(config)
        config = {
            name: _without_selection(value)
            for name, value in config.items()
            if name not in _NOT_CONFIG
        }
        # Seeds of other weights under the same name are no seeds of one thing.
        rests_on = json.dumps([config, content.get("classifiers")], sort_keys=True)
        # Of other images they would be other numbers.
        rests_on += str(result.counts)
        key = (content["experiment"], result.small, rests_on)
        groups.setdefault(key, []).append(result)
    order = list(PAGE_LAYOUTS)

    def place(item):
        (experiment, small, _), runs = item
        known = order.index(experiment) if experiment in order else len(order)
        return known, experiment, small, runs[0].name

    return [
        Group(experiment, runs, lay_beside(layout, runs), layout)
        for (experiment, _, _), runs in sorted(groups.items(), key=place)
        for layout in (PAGE_LAYOUTS.get(experiment),)
    ]


def _without_selection(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    return {name: x for name, x in value.items() if name not in _SELECTION}


def lay_beside(layout: Layout | None, runs: Sequence[Result]) -> list[dict[str, Any]]:
    """Lays the numbers of an experiment beside the published ones, which come first.

    Returns:
        One row per cell: its columns as texts, empty where they do not apply, and what
        `_joined` says of it.

    Raises:
        ValueError: If a number is there twice, in one run or in two of one seed, or
            is not finite, or if a row lacks a column.
    """
    theirs = layout.published_rows() if layout else []
    same = layout.same if layout else {}
    columns = [c for c in theirs[0] if c not in _NOT_KEYS] if theirs else None
    cells: dict[tuple, dict[str, Any]] = {}
    for row in theirs:
        key = _key(row, columns, same)
        cells[tuple(sorted(key.items()))] = {**key, "published": float(row["value"])}
    measured: dict[tuple, dict[Any, dict[str, Any]]] = {}
    origins: dict[tuple, str] = {}
    for run in runs:
        for row in run.content["rows"]:
            _check_columns(run.name, row, columns or (), layout)
            names = columns or [c for c in row if c not in _NOT_KEYS]
            key = _key(row, names, same)
            place = tuple(sorted(key.items()))
            seed = row.get("seed", run.content["config"].get("seed"))
            other = origins.setdefault((place, seed), run.name)
            if seed in measured.setdefault(place, {}):
                raise ValueError(_twice(run.name, other, seed, key))
            if not math.isfinite(row["value"]):
                raise ValueError(f"{run.name} has a number that is not finite: {key}")
            cells.setdefault(place, key)
            measured[place][seed] = row
    return [
        {**cell, **_joined(cell, list(measured.get(place, {}).values()))}
        for place, cell in cells.items()
    ]


def _twice(name: str, other: str, seed: Any, key: Mapping[str, str]) -> str:
    if name == other:
        return f"{name} has a number twice: {key}"
    both = f"{other} and {name} hold the same number of the same seed, {seed}: {key}"
    return f"{both}. Seeds are counted, so keep one of the two files"


def _joined(cell: Mapping[str, Any], rows: Sequence[Mapping]) -> dict[str, Any]:
    """What `lay_beside` says of a cell; None is what was not measured or published.

    Numbers are means over the seeds and `spread` is their standard deviation; `std` is
    what a row itself says, and `own` whether an ablation's detector is the usual one.
    `infinite` is whether the number of a seed stands for infinity, and `each` what
    every direction of noise gave, None where infinite; None where rows do not say it.
    `severities` is what a mean is over.
    """
    values = [float(row["value"]) for row in rows]
    ours, published = mean(values) if values else None, cell.get("published")
    both = ours is not None and published is not None

    def average(*names: str) -> float | None:
        found = [row[name] for row in rows for name in names if name in row]
        return mean(found) if found else None

    return {
        "ours": ours,
        "seeds": len(values),
        "spread": stdev(values) if len(values) > 1 else None,
        "published": published,
        "difference": ours - published if both else None,
        "num_images": min((row["num_images"] for row in rows), default=None),
        "steps": rows[0].get("steps") if rows else None,
        "own": rows[0].get("own") if rows else None,
        "infinite": any(row.get("infinite") for row in rows),
        "each": [x for row in rows for x in row["eps_stars"]]
        if rows and all("eps_stars" in row for row in rows)
        else None,
        "severities": rows[0].get("severities") if rows else None,
        "std": average("std"),
        "auroc": average("auroc"),
        "true_positive_rate": average(*_RATE),
    }


# What `lay_beside` adds to a cell's own columns.
MEASURED = {*_joined({}, ())}


def _check_columns(name: str, row: Mapping, columns: Sequence[str], layout) -> None:
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


def _key(
    row: Mapping[str, Any], columns: Sequence[str], same: Mapping[str, str] = _NONE
) -> dict[str, str]:
    """The columns as texts: 1, 1.0 and "1" are the same, and what `same` says."""

    def text(value):
        if value is None:
            return ""
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        return same.get(str(value), str(value))

    return {column: text(row.get(column)) for column in columns}
