"""What an output folder holds already, and of what it was made.

A line of JSON for each result, written when the file has its name: a run that is killed
goes on behind it, and a line that was cut off counts for nothing.
"""

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

RECORDS = ".purified.jsonl"
# What happens to a whole folder, not to one file.
_OF_THE_FOLDER = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)


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
                with contextlib.suppress(ValueError):
                    record = json.loads(line)
                    self._records[record["output"]] = record
        elif self._folder.is_dir() and any(
            path.name != ".lock" for path in self._folder.iterdir()
        ):
            raise ValueError(
                f"{folder} is not empty and was not made by purifying pictures: "
                "choose another folder"
            )

    def start(self, sources: Mapping[str, Path]) -> dict[str, dict[str, Any]]:
        """Removes results that are to be made again, and returns the others' rows.

        A result stays if it was made of its source, as that is now, with the same
        settings and weights. Whatever else was made of these sources goes before the
        first is made anew: no record vouches for pixels that are not of it.

        Args:
            sources: Result -> the file it is made of.

        Raises:
            ValueError: If a result is of another file; nothing is removed.
            OSError: If the folder cannot be written.
        """
        paths = {output: str(path.resolve()) for output, path in sources.items()}
        for output, path in paths.items():
            record = self._records.get(output)
            if record and record["source"][0] != path:
                raise ValueError(
                    f"{self._folder / output} was made of {record['source'][0]}, and "
                    f"{path} would overwrite it: choose another folder"
                )
        given = set(paths.values())
        rows = {}
        for output, record in list(self._records.items()):
            if output in sources and self._is_current(record, sources[output]):
                rows[output] = record["row"]
            elif record["source"][0] in given:
                (self._folder / output).unlink(missing_ok=True)
                del self._records[output]
        lines = (json.dumps(record) + "\n" for record in self._records.values())
        write_whole(self._path, "".join(lines).encode())
        return rows

    def _is_current(self, record, source):
        if record["made_with"] != self._made_with:
            return False
        with contextlib.suppress(OSError):  # Who reads it will say so.
            same = record["source"] == source_state(source)
            return same and (self._folder / record["output"]).is_file()
        return False

    def add(self, output: str, state: list[Any], row: dict[str, Any]) -> None:
        """Says that a result is complete.

        Args:
            output: Its name below the folder.
            state: Of its source, see `source_state`.
            row: What is known of it, JSON.
        """
        record = {"output": output, "made_with": self._made_with}
        record |= {"source": state, "row": row}
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")


def source_state(source: Path) -> list[Any]:
    """Returns what tells a file from a changed one; to be asked before reading."""
    stat = source.stat()
    return [str(source.resolve()), stat.st_size, stat.st_mtime_ns]


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


def concerns_folder(error: OSError) -> bool:
    """Returns whether other files of a folder cannot be written either."""
    return error.errno in _OF_THE_FOLDER


def write_whole(path: Path, data: bytes) -> None:
    """Writes a file that is complete or not there at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # As short as can be: a name may be as long as the file system allows.
    digest = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]
    partial = path.with_name(f".{digest}.partial")
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
