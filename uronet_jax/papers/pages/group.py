"""Runs of one experiment, and its cells: what we measured beside what is published."""

import dataclasses
from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from uronet_jax.papers.pages.layout import Layout
from uronet_jax.reports.results import Result


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs of one experiment that differ in their seeds at most.

    The layout is None if no paper's pages know the experiment.
    """

    experiment: str
    runs: Sequence[Result]
    cells: list[dict[str, Any]]
    layout: Layout | None = None

    @property
    def name(self) -> str:
        """Of the first run's file, and of the page."""
        return self.runs[0].name

    @property
    def small(self) -> bool:
        """Whether models or test set are too small to stand beside the paper's."""
        return self.runs[0].small

    @property
    def mark(self) -> str:
        """` (small)` behind numbers of a small group, else nothing."""
        return " (small)" if self.small else ""

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


def compared_cells(group: Group) -> list[dict[str, Any]]:
    """Returns the paper's own achievements of an experiment that we measured too."""
    cells = [cell for cell in group.cells if cell["difference"] is not None]
    return [cell for cell in cells if group.layout.counted(cell)]


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
