"""Runs of `launch.reproduce` put together and laid beside the published numbers.

The results have one row per number, with the columns of the published table. What is
called a cell is one number of a table; of several seeds it holds the mean.
"""

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import mean, stdev
from typing import Any

from uronet_jax.papers.machine_settings import without_machine_settings
from uronet_jax.papers.uronet.pages.layouts import PAGE_LAYOUTS
from uronet_jax.reports.results import TEST_IMAGES, Result

# True positive rate of a detector at 5 % false alarms, in `[0, 1]`.
_RATE = ("tpr_at_5_percent_fpr", "tpr_at_5_fpr")
# Columns of rows that do not say which number it is.
_NOT_KEYS = {"value", "note", "seed", "num_images", "auroc", "steps", "own", *_RATE}
# Parts of a config in which runs of one experiment may differ.
_NOT_CONFIG = {"seed", "seeds", "data_dir", "workdir"}
# The paper's label -> what its text and its other half call the same attack.
_SAME = {"FGSM40": "IFGSM40"}
# A noise whose undefended accuracy is further from the paper's is another noise.
_SAME_NOISE = 10.0


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs of one experiment that differ in their seeds at most."""

    experiment: str
    runs: Sequence[Result]
    cells: list[dict[str, Any]]

    @property
    def name(self) -> str:
        """Of the first run's file, and of the page."""
        return self.runs[0].name

    @property
    def small(self) -> bool:
        """Whether models or test set are too small to stand beside the paper's."""
        return self.runs[0].small

    @property
    def config(self) -> Mapping[str, Any]:
        """Of the first run."""
        return self.runs[0].content["config"]

    def measured(self, **where: Any) -> list[dict[str, Any]]:
        """Returns the measured cells with these values of their columns."""
        return [
            cell
            for cell in self.cells
            if cell["ours"] is not None
            and all(cell.get(column) == value for column, value in where.items())
        ]

    def numbers(self, **where: Any) -> dict[str, float]:
        """Returns degradation -> our number of the cells with these values."""
        return {place_of(cell): cell["ours"] for cell in self.measured(**where)}


def place_of(cell: Mapping[str, Any]) -> str:
    """Returns what a cell was tested on, such as `UN-3` or `clean`."""
    noise = cell.get("test_noise") or cell.get("noise") or "clean"
    return noise if noise == "clean" else f"{noise}-{cell.get('test_severity')}"


def noisy_values(numbers: Mapping[str, float]) -> list[float]:
    """Returns the numbers of a mapping by degradation that are not of clean images."""
    return [value for place, value in numbers.items() if place != "clean"]


def group_runs(results: Iterable[Result]) -> list[Group]:
    """Groups the runs of `launch.reproduce` among results.

    In the order of `PAGE_LAYOUTS`, then of their names; full before small.
    """
    groups: dict[tuple, list[Result]] = {}
    for result in sorted(results, key=lambda result: result.name):
        if result.kind != "reproduction":
            continue
        content = result.content
        config = without_machine_settings(content["config"])
        config = {k: v for k, v in config.items() if k not in _NOT_CONFIG}
        # Seeds of other weights under the same name are no seeds of one thing.
        rests_on = json.dumps([config, content.get("classifiers")], sort_keys=True)
        key = (content["experiment"], result.small, rests_on)
        groups.setdefault(key, []).append(result)
    order = list(PAGE_LAYOUTS)

    def place(item):
        (experiment, small, _), runs = item
        known = order.index(experiment) if experiment in order else len(order)
        return known, experiment, small, runs[0].name

    return [
        Group(experiment, runs, lay_beside(experiment, runs))
        for (experiment, _, _), runs in sorted(groups.items(), key=place)
    ]


def lay_beside(experiment: str, runs: Sequence[Result]) -> list[dict[str, Any]]:
    """Lays the numbers of one experiment beside the published ones, which come first.

    Returns:
        One row per cell: its columns as texts, empty where they do not apply, and what
        `_joined` says of it.

    Raises:
        ValueError: If a number is there twice, in one run or in two of one seed, or
            is not finite, or if a row lacks a column.
    """
    layout = PAGE_LAYOUTS.get(experiment)
    theirs = layout.published_rows() if layout else []
    columns = [c for c in theirs[0] if c not in _NOT_KEYS] if theirs else None
    cells: dict[tuple, dict[str, Any]] = {}
    for row in theirs:
        key = _key(row, columns)
        cells[tuple(sorted(key.items()))] = {**key, "published": float(row["value"])}
    measured: dict[tuple, dict[Any, dict[str, Any]]] = {}
    origins: dict[tuple, str] = {}
    for run in runs:
        for row in run.content["rows"]:
            _check_columns(run.name, row, columns or (), layout)
            key = _key(row, columns or [c for c in row if c not in _NOT_KEYS])
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

    Numbers are means over the seeds, `spread` is their standard deviation, and
    `own` whether an ablation's detector is the usual one.
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
        "num_images": min(
            (row.get("num_images", TEST_IMAGES) for row in rows), default=None
        ),
        "steps": rows[0].get("steps") if rows else None,
        "own": rows[0].get("own") if rows else None,
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


def _key(row: Mapping[str, Any], columns: Sequence[str]) -> dict[str, str]:
    """The columns as texts: 1, 1.0 and "1" are the same."""

    def text(value):
        if value is None:
            return ""
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        return _SAME.get(str(value), str(value))

    return {column: text(row.get(column)) for column in columns}


def compared_cells(group: Group) -> list[dict[str, Any]]:
    """Returns the paper's own achievements of an experiment that we measured too."""
    cells = [cell for cell in group.cells if cell["difference"] is not None]
    return [c for c in cells if PAGE_LAYOUTS[group.experiment].counted(c)]


def distance_from_paper(group: Group) -> dict[str, Any]:
    """Returns how far the numbers of an experiment are from the published ones.

    `at_or_above` are those of `compared_cells` that are not below the paper when
    rounded to two decimals; `seeds` is the largest number of runs of a cell.
    """
    published = [cell for cell in group.cells if cell["published"] is not None]
    differences = [cell["difference"] for cell in compared_cells(group)]
    spreads = [cell["spread"] for cell in group.cells if cell["spread"] is not None]
    return {
        "published": len(published),
        "measured": sum(cell["ours"] is not None for cell in published),
        "compared": len(differences),
        "at_or_above": sum(round(d, 2) >= 0 for d in differences),
        "mean_difference": mean(differences) if differences else None,
        "seeds": max((cell["seeds"] for cell in group.cells), default=0),
        "mean_spread": mean(spreads) if spreads else None,
        "max_spread": max(spreads, default=None),
    }


def noise_footnote(groups: Iterable[Group]) -> str:
    """Says which noises are measurably not the paper's; empty if none is.

    Those are further than 10 points from the published accuracy of every undefended
    classifier of Tables 7 and 8 that was measured on them.
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
        if all(abs(cell["difference"]) > _SAME_NOISE for cell in cells)
    ]
    if not others:
        return ""
    return (
        f"Not the paper's noise, which it does not define: {', '.join(others)}. "
        "Numbers that rest on it cannot be compared.\n"
    )
