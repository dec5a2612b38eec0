"""Published numbers: `published/*.csv`, transcribed facts.

`published/sources.csv` names for every file its rows, its content and its source.
"""

import csv
import importlib.resources
from functools import cache


@cache
def _read(name: str) -> tuple[dict[str, str], ...]:
    folder = importlib.resources.files("uronet_jax.papers.uronet") / "published"
    text = (folder / name).read_text(encoding="utf-8")
    return tuple(csv.DictReader(text.splitlines()))


def sources() -> list[dict[str, str]]:
    """Returns one row per file: `file`, `rows`, `content` and `source`."""
    return [dict(row) for row in _read("sources.csv")]


def source(name: str) -> str:
    """Returns where the numbers of a file come from."""
    return next(row["source"] for row in _read("sources.csv") if row["file"] == name)


def rows(name: str) -> list[dict[str, str]]:
    """Returns the rows of a file of `published`, every field as text.

    Args:
        name: Of the file, such as `uronet_table02.csv`.

    Returns:
        One mapping per number; in URoNet's files `value` is in percent or points, and
        `note` says what of the row is an interpretation.
    """
    return [dict(row) for row in _read(name)]
