"""Arrays that are made once, block by block, and kept on disk with what made them."""

import errno
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from uronet_jax.array_files import map_array
from uronet_jax.records import naming


def is_finished(path: str | os.PathLike) -> bool:
    """Returns whether an array is on disk as a whole."""
    sidecar = Path(path).with_suffix(".json")
    return sidecar.exists() and _read_sidecar(sidecar)["finished"]


def check_digests(
    path: str | os.PathLike, digests: Mapping[str, str]
) -> dict[str, Any] | None:
    """Checks that an array was made of what it is now used with.

    Args:
        path: The `.npy` file.
        digests: What is used -> its digest. Compared with `made_with["digests"]` of
            `StoredArray`; what is only in one of them is not.

    Returns:
        What it was made with; None without a file beside it that says so.

    Raises:
        ValueError: If it was made of something else, is not finished, or what says so
            is damaged.
    """
    sidecar = Path(path).with_suffix(".json")
    if not sidecar.exists():
        return None
    stored = _read_sidecar(sidecar)
    made_with = stored["made_with"]
    if not stored["finished"]:
        raise ValueError(
            f"{path} is not finished: run the command that makes it once more"
        )
    made_of = made_with.get("digests", {})
    differing = [
        f"{name} ({made_of[name]} there, {now} now)"
        for name, now in digests.items()
        if made_of.get(name, now) != now
    ]
    if differing:
        raise ValueError(
            f"{path} was not made of what this run uses: {', '.join(differing)}; make "
            "it anew with `uronet make_attacked` in another folder, or use what it is "
            "of"
        )
    return made_with


def _read_sidecar(sidecar: Path) -> dict[str, Any]:
    """Returns `made_with`, `done` and `finished` of an array."""
    try:
        stored = json.loads(sidecar.read_text(encoding="utf-8"))
        made_with, finished = dict(stored["made_with"]), stored["finished"]
        done = list(stored.get("done", ()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        name = sidecar.with_suffix(".npy").name
        raise ValueError(
            f"{sidecar} is damaged: make {name} anew, without this file"
        ) from error
    return {"made_with": made_with, "done": done, "finished": finished}


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
            FileNotFoundError: If it was begun, and is gone.
            ValueError: If it was made with something else than `made_with`, JSON, or is
                damaged.
            OSError: If it cannot be written, or there is no room for all of it.
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
        self._reserve()
        self._write()

    def _read(self, shape, dtype):
        stored = _read_sidecar(self._sidecar)
        if stored["made_with"] != self._made_with:
            raise ValueError(
                f"{self._path} was made with other weights or settings "
                f"({stored['made_with']} there, {self._made_with} now): choose another "
                "folder, or delete the file, the .json beside it and what was "
                "measured with it"
            )
        if not self._path.exists():
            raise FileNotFoundError(
                f"{self._path} is gone, and the .json beside it is not: delete it to "
                "begin anew"
            )
        self.done, self.finished = stored["done"], stored["finished"]
        self.array = map_array(self._path, "r" if self.finished else "r+")
        if (self.array.shape, self.array.dtype) != (tuple(shape), np.dtype(dtype)):
            raise ValueError(
                f"{self._path} holds {self.array.dtype} {list(self.array.shape)}, "
                f"expected {np.dtype(dtype)} {list(shape)}: delete it, the .json "
                "beside it and what was measured with it"
            )

    def _reserve(self):
        # The file has holes. On a full disk, writing into one kills the process.
        if not hasattr(os, "posix_fallocate"):  # macOS.
            return
        try:
            with open(self._path, "r+b") as file:
                os.posix_fallocate(file.fileno(), 0, self._path.stat().st_size)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                return  # A file system that cannot reserve room.
            self._path.unlink()
            raise OSError(
                f"no room for {self._path}, {self.array.nbytes / 1e6:.0f} MB "
                f"({error.strerror}): free some space or choose another folder"
            ) from error

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
        with naming(self._sidecar):
            temporary.write_text(json.dumps(text), encoding="utf-8")
            os.replace(temporary, self._sidecar)
