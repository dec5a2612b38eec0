"""What an output folder holds already, and of what it was made.

A line of JSON for each result, written when the file has its name: a run that is killed
goes on behind it, and a line that was cut off counts for nothing.
"""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

RECORDS = ".purified.jsonl"
_PARTIAL = ".partial"


class FinishedPictures:
    """The results in a folder."""

    def __init__(self, folder: str | os.PathLike, made_with: str):
        """Reads what is there.

        Args:
            folder: The output folder.
            made_with: Tells settings and weights from others.

        Raises:
            ValueError: If the folder holds files and no records.
        """
        self._folder, self._made_with = Path(folder), made_with
        self._path = self._folder / RECORDS
        self._records: dict[str, dict[str, Any]] = {}
        if self._path.exists():
            for line in self._path.read_text(encoding="utf-8").splitlines():
                with contextlib.suppress(ValueError, KeyError):
                    record = json.loads(line)
                    self._records[record["output"]] = record
        elif self._folder.is_dir() and any(
            path.name != ".lock" for path in self._folder.iterdir()
        ):
            raise ValueError(
                f"{folder} is not empty and was not made by purifying pictures: "
                "choose another folder"
            )

    def find(self, output: str, source: Path) -> dict[str, Any] | None:
        """Returns the row of a result that need not be made again, else None.

        It was made of this file, as it is now, with the same settings and weights.
        """
        record = self._records.get(output)
        if record is None or record.get("made_with") != self._made_with:
            return None
        with contextlib.suppress(OSError):  # Who reads it will say so.
            same = record.get("source") == self.state(source)
            if same and (self._folder / output).exists():
                return record["row"]
        return None

    def start(self) -> None:
        """Makes the folder one of ours.

        Raises:
            OSError: If it cannot be written.
        """
        with open(self._path, "a+b") as file:
            # A line that was cut off must not swallow the next one.
            if file.tell() and os.pread(file.fileno(), 1, file.tell() - 1) != b"\n":
                file.write(b"\n")

    def state(self, source: Path) -> list[Any]:
        """Returns what tells a file from a changed one; to be asked before reading."""
        stat = source.stat()
        return [str(source.resolve()), stat.st_size, stat.st_mtime_ns]

    def add(self, output: str, state: list[Any], row: dict[str, Any]) -> None:
        """Says that a result is complete.

        Args:
            output: Its name below the folder.
            state: Of its source, see `state`.
            row: What is known of it, JSON.
        """
        record = {"output": output, "made_with": self._made_with}
        record |= {"source": state, "row": row}
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")


@contextlib.contextmanager
def writable(folder: Path) -> Iterator[None]:
    """Says of an OSError that what is finished is kept."""
    try:
        yield
    except OSError as error:
        raise OSError(
            f"cannot write to {folder} ({error.strerror or error}): finished pictures "
            "are kept; free some space or choose a folder that you may write to, and "
            "run the same again"
        ) from error


def write_whole(path: Path, data: bytes) -> None:
    """Writes a file that is complete or not there at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}{_PARTIAL}")
    try:
        with open(partial, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise
