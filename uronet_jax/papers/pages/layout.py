"""How the numbers of an experiment are laid out as tables."""

import dataclasses
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, NamedTuple

from uronet_jax.reports.tables import read_published

_Cell = Mapping[str, Any]


@cache
def published_rows(file: str) -> tuple[dict[str, str], ...]:
    """Returns a file such as `uronet/uronet_table02.csv`, every field as text.

    That is a paper's package and a file of its folder `published`: transcribed facts.
    `sources.csv` there names for every file its rows, its content and its source; in
    the others `value` is the number, and `note` says what is an interpretation.
    """
    package, _, name = file.partition("/")
    return tuple(read_published(f"uronet_jax.papers.{package}", name))


class Chart(NamedTuple):
    """A table that is drawn as `lines` over sigma or as `bars` per corruption.

    `data` is what `accuracy_over_sigma` or `corruption_bars` of `reports.figures` take;
    over the sigma of `training` these are its `lines` and `levels`.
    """

    kind: str
    data: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Layout:
    """The tables of an experiment: the block, row and column that a cell is in.

    Attributes:
        title: What they show.
        block: Cell -> the table it is in; likewise `row` and `column`.
        published: File of the published numbers (see `published_rows`), or none.
        counted: Whether the cell is the paper's own achievement.
        counted_name: What such cells are called.
        metrics: Quantities in the tables. Default: the published ones, or all.
        derived: Quantities that follow from these and are not shown.
        context: Whether published cells without a counterpart are shown.
        first: Names of the lines that stand first; the others keep their order.
        same: Published value of a column -> ours for the same thing.
        drawn: Whether the result is a picture of images, drawn when it was run.
        written: Whether tables are written too, not only drawn.
        widest: Columns up to which they are.
        chart: Table, row -> column -> number of ours -> what is drawn in place of
            coloured cells; None for nothing.
        reference: File of published numbers that have no counterpart, such as those of
            another data set; they are a table of their own, in the same columns.
        reference_cells: Which of them.
        reference_row: Their lines.
        reference_note: What stands above that.
    """

    title: str
    block: Callable[[_Cell], str]
    row: Callable[[_Cell], str]
    column: Callable[[_Cell], str]
    published: str = ""
    counted: Callable[[_Cell], bool] = lambda cell: True
    counted_name: str = "cells"
    metrics: tuple[str, ...] = ()
    derived: tuple[str, ...] = ()
    context: bool = False
    first: tuple[str, ...] = ()
    same: Mapping[str, str] = dataclasses.field(default_factory=dict)
    drawn: bool = False
    written: bool = True
    widest: int = 12
    chart: Callable[[str, Mapping[str, Mapping[str, float]]], Chart | None] | None = (
        None
    )
    reference: str = ""
    reference_cells: Callable[[_Cell], bool] = lambda cell: True
    reference_row: Callable[[_Cell], str] = lambda cell: ""
    reference_note: str = ""

    def published_rows(self) -> list[dict[str, str]]:
        """Returns the published numbers, none without a file."""
        return list(published_rows(self.published)) if self.published else []

    def has_place(self, cell: _Cell) -> bool:
        """Whether a cell is in the tables."""
        if self.metrics:
            return cell["metric"] in self.metrics
        published = {row["metric"] for row in self.published_rows()}
        return not published or cell["metric"] in published


def join_columns(*columns: str, separator: str = "-") -> Callable[[_Cell], str]:
    """Returns a function that joins some fields of a cell, leaving out empty ones."""

    def label(cell):
        return separator.join(cell[c] for c in columns if cell[c])

    return label
