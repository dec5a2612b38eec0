"""Arrays that are made once, block by block, and kept on disk with what made them."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np


def is_finished(path: str | os.PathLike) -> bool:
    """Returns whether an array is on disk as a whole."""
    sidecar = Path(path).with_suffix(".json")
    return (
        sidecar.exists() and json.loads(sidecar.read_text(encoding="utf-8"))["finished"]
    )


class StoredArray:
    """A `.npy` file, memory-mapped, and a `.json` beside it that says what is done.

    A run that is killed goes on behind the last block that was marked.

    Attributes:
        array: The memory map; writable until it is finished.
        done: Blocks that were marked, JSON.
        finished: Whether all are.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        shape: tuple[int, ...],
        dtype: Any,
        made_with: Mapping[str, Any],
    ):
        """Opens the `.npy` file, or begins it.

        Raises:
            ValueError: If it was made with something else than `made_with`, JSON, or is
                damaged.
            OSError: If it cannot be written.
        """
        self._path = Path(path)
        self._sidecar = self._path.with_suffix(".json")
        self._made_with = json.loads(json.dumps(made_with))  # Tuples become lists.
        self.done: list[Any] = []
        self.finished = False
        if self._sidecar.exists():
            self._read(shape, dtype)
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self.array = np.lib.format.open_memmap(
            self._path, mode="w+", dtype=dtype, shape=tuple(shape)
        )
        self._write()

    def _read(self, shape, dtype):
        stored = json.loads(self._sidecar.read_text(encoding="utf-8"))
        if stored["made_with"] != self._made_with:
            raise ValueError(
                f"{self._path} was made with other weights or settings "
                f"({stored['made_with']} there, {self._made_with} now): choose another "
                "--workdir, or delete the file, the .json beside it and what was "
                "measured with it"
            )
        self.done, self.finished = stored["done"], stored["finished"]
        self.array = np.load(self._path, mmap_mode="r" if self.finished else "r+")
        if (self.array.shape, self.array.dtype) != (tuple(shape), np.dtype(dtype)):
            raise ValueError(
                f"{self._path} holds {self.array.dtype} {list(self.array.shape)}, "
                f"expected {np.dtype(dtype)} {list(shape)}: delete it, the .json "
                "beside it and what was measured with it"
            )

    def mark(self, block: Any, *, finished: bool = False) -> None:
        """Says that a block, JSON, is filled, and whether it was the last."""
        self.done.append(block)
        self.finished = finished
        self.array.flush()
        self._write()

    def _write(self):
        text = {"made_with": self._made_with, "done": self.done}
        text["finished"] = self.finished
        temporary = self._sidecar.with_suffix(".json.tmp")
        temporary.write_text(json.dumps(text), encoding="utf-8")
        os.replace(temporary, self._sidecar)
