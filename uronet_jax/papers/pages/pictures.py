"""Pictures of the docs, drawn anew only when what they show has changed."""

import abc
import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from uronet_jax.papers.pages.group import Group
from uronet_jax.papers.pages.layout import Layout
from uronet_jax.reports import figures
from uronet_jax.reports.corruption_gallery import sample_photographs
from uronet_jax.reports.transformation_gallery import draw_transformations


def _over_training(path: Path, data: Mapping[str, Any], title: str, **kept) -> None:
    figures.accuracy_over_sigma(
        path,
        data["lines"],
        title,
        levels=data["levels"],
        x_label="sigma of the Gaussian noise in training",
        **kept,
    )


def _over_radius(path: Path, data: Mapping[str, Any], title: str, **kept) -> None:
    points = data["points"]
    figures.accuracy_over_radius(path, data["lines"], title, points=points, **kept)


# What a `Chart` may be -> what draws it.
_CHARTS = {
    "lines": figures.accuracy_over_sigma,
    "training": _over_training,
    "bars": figures.corruption_bars,
    "trade": figures.clean_against_gain,
    "radii": _over_radius,
}


@dataclasses.dataclass(frozen=True)
class Picture(abc.ABC):
    """A picture; of a table `block` is the key of `table_blocks` that it shows."""

    name: str
    block: str
    title: str

    @property
    def description(self) -> str:
        """Fingerprint of everything that is drawn."""
        drawn = json.dumps(dataclasses.astuple(self))
        return f"sha256 {hashlib.sha256(drawn.encode()).hexdigest()}"

    def draw(self, folder: str | os.PathLike) -> Path:
        """Writes it into a folder and returns its path."""
        path = Path(folder) / self.name
        self._write(path)
        return path

    @abc.abstractmethod
    def _write(self, path: Path) -> None: ...

    def is_drawn(self, folder: str | os.PathLike) -> bool:
        """Whether the folder holds the picture of these very numbers.

        Files are not compared: the same figure differs with the version of Matplotlib.
        """
        return figures.description_of(Path(folder) / self.name) == self.description


@dataclasses.dataclass(frozen=True)
class TablePicture(Picture):
    """Coloured cells.

    `values` and `differences` from the paper are `[rows, columns]`, NaN where there is
    none. Without `differences` the colours show our numbers.
    """

    rows: list[str]
    columns: list[str]
    values: list[list[float]]
    differences: list[list[float]] | None = None

    def _write(self, path: Path) -> None:
        names = self.rows, self.columns, self.title
        kept = {"description": self.description}
        if self.differences is None:
            figures.heat_map(path, self.values, *names, **kept)
        else:
            figures.difference_map(path, self.values, self.differences, *names, **kept)


@dataclasses.dataclass(frozen=True)
class ChartPicture(Picture):
    """Lines or bars, see `Chart`."""

    kind: str
    data: Mapping[str, Any]

    def _write(self, path: Path) -> None:
        kept = {"description": self.description}
        _CHARTS[self.kind](path, self.data, self.title, **kept)


@dataclasses.dataclass(frozen=True)
class TransformationPicture(Picture):
    """Every input transformation; `parameters` are name -> usual values."""

    parameters: Mapping[str, Mapping[str, Any]]

    def _write(self, path: Path) -> None:
        temple, flower = sample_photographs(64)
        kept = {"other": temple, "description": self.description}
        draw_transformations(path, flower, list(self.parameters), **kept)


def table_blocks(group: Group) -> dict[str, list[dict[str, Any]]]:
    """Returns the tables of a group: title -> cells, without those nobody measured."""
    tables: dict[str, list[dict[str, Any]]] = {}
    for cell in group.cells:
        if group.layout.has_place(cell):
            tables.setdefault(group.layout.block(cell), []).append(cell)
    return {
        block: cells
        for block, cells in tables.items()
        if any(cell["ours"] is not None for cell in cells)
    }


def table_lines(
    layout: Layout, cells: Sequence[Mapping[str, Any]], *, context: bool
) -> dict[str, dict[str, Mapping[str, Any]]]:
    """Returns line -> column -> cell; `context` shows what only the paper has."""
    shown = cells if context else [c for c in cells if c["ours"] is not None]
    names = {layout.row(cell) for cell in shown}
    lines: dict[str, dict] = {name: {} for name in layout.first if name in names}
    for cell in shown:
        line, column = lines.setdefault(layout.row(cell), {}), layout.column(cell)
        if column in line:
            raise ValueError(f"two numbers for {column}: {line[column]}, {cell}")
        line[column] = cell
    return lines


def group_pictures(group: Group) -> list[Picture]:
    """Returns the pictures of a group, one per table that is drawn."""
    if group.layout is None or group.layout.drawn:
        return []
    found = [_picture(group, *table) for table in table_blocks(group).items()]
    return [picture for picture in found if picture is not None]


def _picture(
    group: Group, block: str, cells: Sequence[Mapping[str, Any]]
) -> Picture | None:
    lines = table_lines(group.layout, cells, context=False)
    slug = "".join(c if c.isalnum() else "_" for c in block.lower())
    name = f"{group.name}_{slug}.png"
    if group.layout.chart:
        numbers = {
            row: {column: cell["ours"] for column, cell in line.items()}
            for row, line in lines.items()
        }
        chart = group.layout.chart(block, numbers)
        title = f"{block}, small" if group.small else block
        return ChartPicture(name, block, title, *chart) if chart else None
    columns = list(dict.fromkeys(c for line in lines.values() for c in line))

    def numbers(field):
        found = [
            [line.get(c, {}).get(field) for c in columns] for line in lines.values()
        ]
        return [[math.nan if x is None else x for x in line] for line in found]

    def count(values):
        return sum(math.isfinite(x) for line in values for x in line)

    values, differences = numbers("ours"), numbers("difference")
    heading = f"{group.layout.title.partition(':')[0]}: {block}\nours"
    if group.small:
        heading += ", small models"
    if 2 * count(differences) < count(values):
        differences = None
    else:
        heading += (
            ", and the difference from the paper:\nblue is above, red below, full at "
            "10 points"
        )
    return TablePicture(name, block, heading, list(lines), columns, values, differences)
