"""Tidy rows to Markdown tables."""

import csv
import importlib.resources
import math
import textwrap
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any


def markdown_table(
    rows: Sequence[Mapping[str, Any]],
    columns: Sequence[str] | Mapping[str, str],
    *,
    formats: Mapping[str, str] | None = None,
    number_format: str = ".2f",
    missing: str = "-",
) -> str:
    """Writes rows as a GitHub table; columns without text are aligned to the right.

    Args:
        rows: One mapping of column name to value per line.
        columns: The columns to show, in order; a mapping also gives their headings.
        formats: Column -> format specification of its numbers, such as `".1%"`.
        number_format: Of all other numbers that are not whole.
        missing: Printed where a row lacks the column, or its value is None or NaN.

    Raises:
        ValueError: If there is no row or column, or a column that is in no row.
    """
    if not rows or not columns:
        raise ValueError(
            f"a table needs rows and columns: {len(rows)} rows, {len(columns)} columns"
        )
    headings = columns if isinstance(columns, Mapping) else {c: c for c in columns}
    formats = formats or {}
    unknown = {*headings, *formats} - {key for row in rows for key in row}
    if unknown:
        raise ValueError(f"columns {sorted(unknown)} are in no row")

    def cell(row, column):
        value = row.get(column)
        if value is None or (isinstance(value, Real) and math.isnan(value)):
            return missing
        if isinstance(value, Real) and not isinstance(value, bool):
            whole = isinstance(value, Integral)
            return format(value, formats.get(column, "d" if whole else number_format))
        return _escape(value)

    def is_text(column):
        return any(
            isinstance(v, bool) or not isinstance(v, Real | None)
            for v in (row.get(column) for row in rows)
        )

    lines = [
        [_escape(heading) for heading in headings.values()],
        [":---" if is_text(column) else "---:" for column in headings],
        *([cell(row, column) for column in headings] for row in rows),
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def labelled_list(
    numbers: Mapping[str, Any], labels: Mapping[str, tuple[str, str]]
) -> str:
    """Writes the numbers that are there as a list; `labels` are text and format."""
    return "".join(
        f"- {label}: {format(numbers[name], spec)}\n"
        for name, (label, spec) in labels.items()
        if name in numbers
    )


def wrap_markdown(text: str, width: int = 110) -> str:
    """Breaks a page at spaces, but for headings, tables, pictures and code."""
    lines = []
    for line in text.splitlines():
        if line.startswith(("#", "|", "!", "<", "    ")):
            lines.append(line)
            continue
        indent = "  " if line.startswith("- ") else ""
        lines += textwrap.wrap(
            line,
            width,
            subsequent_indent=indent,
            break_long_words=False,
            break_on_hyphens=False,
        ) or [""]
    return "\n".join(lines) + "\n"


def _escape(value):
    return " ".join(str(value).split()).replace("|", "\\|")


def read_published(package: str, name: str) -> list[dict[str, str]]:
    """Returns the rows of a CSV file in a package's folder `published`, as texts."""
    path = importlib.resources.files(package) / "published" / name
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
