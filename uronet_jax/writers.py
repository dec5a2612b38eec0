"""Where numbers go while a run runs, and files that are written in parts."""

import json
import math
import os
from pathlib import Path
from typing import Any

from uronet_jax.batches import check_whole
from uronet_jax.records import naming


class Writer:
    """Writes scalars of a run to every place that was asked for.

    After a kill the steps since the last checkpoint are written again: of two lines of
    one step and kind the later counts. Half a line at the end is cut off.
    """

    def __init__(
        self,
        workdir: str | os.PathLike | None = None,
        *,
        tensorboard: bool = False,
        active: bool = True,
        done: int = 0,
    ):
        """Opens the files.

        Args:
            workdir: Folder of the run: `metrics.jsonl` is appended to. Without one
                nothing is written.
            tensorboard: Also write event files to `workdir/tensorboard`; needs the
                `tensorboard` extra (no TensorFlow).
            active: Whether this process writes; of several let only the first.
            done: Updates of the checkpoint that the run goes on from: TensorBoard hides
                what an earlier process wrote of later ones.

        Raises:
            ValueError: If TensorBoard is asked for and tensorboardX is missing.
        """
        self._file = self._events = None
        if workdir is None or not active:
            return
        self._path = Path(workdir) / "metrics.jsonl"
        self._event_folder = Path(workdir) / "tensorboard"
        if tensorboard:
            try:
                from tensorboardX import SummaryWriter
            except ImportError as error:
                raise ValueError(
                    "TensorBoard files need tensorboardX: "
                    'pip install "uronet_jax[tensorboard]", or set tensorboard=False'
                ) from error
            self._events = SummaryWriter(str(self._event_folder), purge_step=done + 1)
        if self._path.exists() and self._path.stat().st_size:
            _mend_end(self._path)
        self._file = open(self._path, "a", encoding="utf-8")

    def write(self, step: int, kind: str, values: dict[str, Any]) -> None:
        """Appends one line `{"step", "kind", ...values}`, at once on disk.

        `step` is the number of updates so far, `kind` is `train` or `validation`.
        """
        values = {name: _plain(value) for name, value in values.items()}
        if self._file is not None:
            line = json.dumps({"step": step, "kind": kind, **values}, allow_nan=False)
            with naming(self._path):
                self._file.write(line + "\n")
                self._file.flush()
        if self._events is not None:
            with naming(self._event_folder):
                for name, value in values.items():
                    if isinstance(value, int | float):
                        self._events.add_scalar(f"{kind}/{name}", value, step)
                self._events.flush()

    def close(self) -> None:
        """Closes the files."""
        # They may try to write what they could not.
        if self._file is not None:
            with naming(self._path):
                self._file.close()
        if self._events is not None:
            with naming(self._event_folder):
                self._events.close()
        self._file = self._events = None


class PartsWriter:
    """A file to write in parts `NAME.0000`, `NAME.0001`, ...; `cat NAME.*` joins them.

    The parts of an earlier one stay until this one is complete.
    """

    def __init__(self, path: str | os.PathLike, part_bytes: int):
        """Opens nothing yet; ValueError if `part_bytes` is below 1."""
        check_whole("bytes of a part", part_bytes, 1, 2**63 - 1)
        self._path, self._part_bytes = Path(path), part_bytes
        self._written: list[Path] = []
        self._room, self._file = 0, None

    def __enter__(self):
        """Returns the file."""
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        """Puts the parts in their place, if nothing failed."""
        if self._file:
            self._file.close()
        if kind is None:
            for old in self._path.parent.glob(f"{self._path.name}.[0-9]*"):
                old.unlink()
        for number, path in enumerate(self._written):
            if kind is None:
                path.rename(f"{self._path}.{number:04d}")
            else:
                path.unlink(missing_ok=True)

    def write(self, data: bytes) -> int:
        """Writes bytes, to further parts where one is full."""
        rest = memoryview(data)
        while rest:
            if not self._room:
                if self._file:
                    self._file.close()
                name = f".{self._path.name}.{len(self._written):04d}.tmp"
                self._written.append(self._path.with_name(name))
                self._file = open(self._written[-1], "wb")
                self._room = self._part_bytes
            taken = rest[: self._room]
            self._file.write(taken)
            self._room -= len(taken)
            rest = rest[len(taken) :]
        return len(data)


def _mend_end(path: Path) -> None:
    """Cuts off half a line, and ends a whole one: the next would be lost with it."""
    with open(path, "r+b") as file:
        start, tail = file.seek(0, os.SEEK_END), b""
        while start and b"\n" not in tail:
            size = min(start, 4096)
            start = file.seek(start - size)
            tail = file.read(size) + tail
        last = tail.rpartition(b"\n")[2]
        if not last:
            return
        try:
            json.loads(last)
        except ValueError:
            file.seek(-len(last), os.SEEK_END)
            file.truncate()
        else:
            file.seek(0, os.SEEK_END)
            file.write(b"\n")


def _plain(value: Any) -> Any:
    if isinstance(value, str | int | bool):
        return value
    value = float(value)
    # JSON has no NaN; a reader must see that the number is missing, not zero.
    return value if math.isfinite(value) else None
