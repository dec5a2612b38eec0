"""What an arena has measured: a JSON for each cell, and one for each defence."""

import json
import os
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from uronet_jax.arena.cards import DefenceCard, make_card
from uronet_jax.arena.fairness import flags_of
from uronet_jax.records import write_file, write_json

# Values of the field `schema`.
CELL_SCHEMA = "uronet_jax.arena_cell"
DEFENCE_SCHEMA = "uronet_jax.arena_defence"
ARENA_SCHEMA = "uronet_jax.arena"
DONE, FAILED = "done", "failed"


class CellStore:
    """The cells of an arena in its folder.

    Attributes:
        notes: What was found and cannot be used, a sentence each.
    """

    def __init__(self, workdir: str | os.PathLike):
        """Takes the folder of the arena."""
        self._folder = Path(workdir) / "cells"
        self.notes: list[str] = []

    def _path(self, card: DefenceCard, column: str) -> Path:
        return self._folder / card.slug / f"{column}.json"

    def read(
        self, card: DefenceCard, column: str, made_of: Mapping[str, Any]
    ) -> dict[str, Any] | None:
        """Returns a cell that is done and made of just this; else None.

        One that was half-written, or is of other images, weights or settings, is noted
        and is to be measured anew.
        """
        path = self._path(card, column)
        if not path.is_file():
            return None
        try:
            cell = json.loads(path.read_text(encoding="utf-8"))
            if cell["schema"] != CELL_SCHEMA:
                raise ValueError(f"schema {cell['schema']}")
            status, stored = cell["status"], cell["made_of"]
            cell["values"], cell["seconds"]  # Raises if they lack.
        except (ValueError, KeyError, TypeError):
            self.notes.append(f"{path} is damaged: measured anew")
            return None
        differing = [x for x in made_of if stored.get(x) != made_of[x]]
        if differing:
            self.notes.append(
                f"{path} is of other {', '.join(differing)}: measured anew"
            )
            return None
        return cell if status == DONE else None

    def write(self, card: DefenceCard, column: str, cell: Mapping[str, Any]) -> None:
        """Writes a cell, whole or not at all."""
        write_json(self._path(card, column), {"schema": CELL_SCHEMA, **cell})

    def explain(self, card: DefenceCard, step: str, error: Exception) -> str:
        """Returns an error in one line, which names a file with its traceback.

        And the last line of a module beside the card that it passed through.

        Args:
            card: Of the defence that failed.
            step: `load`, or a column.
            error: What was raised.
        """
        path = self._path(card, step).with_suffix(".traceback.txt")
        write_file(path, "".join(traceback.format_exception(error)).encode())
        own = [
            f"{Path(frame.filename).name}, line {frame.lineno}; "
            for frame in traceback.extract_tb(error.__traceback__)
            if card.folder and Path(frame.filename).parent == Path(card.folder)
        ]
        text = " ".join(str(error).partition("\n")[0].split())
        if not isinstance(error, ValueError):
            text = f"{type(error).__name__}: {text}"
        where = own[-1] if own else ""
        return f"{text} ({where}traceback: {path.relative_to(self._folder.parent)})"


def write_defence(
    workdir: str | os.PathLike, slug: str, row: Mapping[str, Any]
) -> None:
    """Writes the result of a defence, for a board."""
    path = Path(workdir) / "results" / f"{slug}.json"
    write_json(path, {"schema": DEFENCE_SCHEMA, **row})


def check_free(workdir: str | os.PathLike, card: DefenceCard) -> None:
    """Raises ValueError if the name of a card is that of another's result."""
    path = Path(workdir) / "results" / f"{card.slug}.json"
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))["card"]
        same = all(stored[x] == getattr(card, x) for x in ("name", "authors", "load"))
    except (OSError, ValueError, KeyError, TypeError):
        return  # None, or nothing that a board could show.
    if not same:
        raise ValueError(
            f"{path} is of another defence called {stored['name']!r}, by "
            f"{stored['authors']}: choose another name, or move the file away"
        )


# Fields of a result, and what they are.
_ROW = {
    "card": dict,
    "status": str,
    "cells": dict,
    "flags": list,
    "errors": dict,
    "arena": dict,
    "seconds": (int, float),
}


def read_defences(
    workdir: str | os.PathLike, arena: Mapping[str, Any]
) -> tuple[list[dict[str, Any]], list[str]]:
    """Reads the results in a folder, also those that others have put there.

    A file may hold a whole board; its rows stand behind results of the same name.

    Args:
        workdir: The arena's.
        arena: What results must be of to stand on one board: `images`, the digest of
            images and labels, `classifier` and `settings`.

    Returns:
        The rows, by name; and why files are left out, a sentence each.
    """
    rows, refused, names = [], [], {}
    for path, row, is_own in _stored_rows(Path(workdir) / "results", refused):
        try:
            card = _check_row(row, f"the card in {path.name}")
        except (ValueError, AttributeError, TypeError, KeyError) as error:
            refused.append(f"{path.name} is no result of the arena: {error}")
            continue
        differing = [x for x in arena if row["arena"].get(x) != arena[x]]
        if differing:
            refused.append(
                f"{path.name} is of other {', '.join(differing)} than this arena: "
                f"judge {card.name} here"
            )
            continue
        if card.name in names:
            if is_own:
                refused.append(
                    f"{path.name} has the name {card.name!r} of {names[card.name]}"
                )
            continue
        names[card.name] = path.name
        rows.append(row)
    return sorted(rows, key=lambda row: row["card"]["name"]), refused


def _stored_rows(folder, refused):
    """Returns `(path, row, whether it has a file of its own)`, boards last."""
    single, boards = [], []
    for path in sorted(folder.glob("*.json")):
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            if found.get("schema") == ARENA_SCHEMA:
                common = {"schema": DEFENCE_SCHEMA, "arena": found["arena"]}
                boards += [(path, {**row, **common}, False) for row in found["rows"]]
            else:
                single.append((path, found, True))
        except (ValueError, AttributeError, TypeError, KeyError) as error:
            refused.append(f"{path.name} is no result of the arena: {error}")
    return single + boards


def _check_row(row, what):
    """Returns the card of a result, whose flags are made whole; else ValueError."""
    lacking = [x for x in _ROW if x not in row]
    if row.get("schema") != DEFENCE_SCHEMA or lacking:
        raise ValueError(f"lacks {', '.join(lacking) or 'the schema'}")
    wrong = [x for x, kind in _ROW.items() if not isinstance(row[x], kind)]
    if not wrong:
        wrong = [x for x, y in row["cells"].items() if not isinstance(y, dict)]
    if not wrong:
        # Its own list may lack some that its numbers show.
        row["flags"] = list(dict.fromkeys([*flags_of(row["cells"]), *row["flags"]]))
        texts = [*row["flags"], *row["errors"].values()]
        wrong = [x for x in texts if not isinstance(x, str)]
    if wrong:
        raise ValueError(f"of another type: {', '.join(map(str, wrong))}")
    return make_card(row["card"], what)
