"""NumPy's files, `.npy` and `.npz`, never with pickled objects."""

import os
import zipfile
import zlib
from typing import Literal

import numpy as np

# What NumPy raises for a file of another kind, or the half of one.
_ERRORS = (ValueError, TypeError, EOFError, zipfile.BadZipFile, zlib.error)


def map_array(path: str | os.PathLike, mode: Literal["r", "r+"] = "r") -> np.ndarray:
    """Opens the array of a `.npy` file; only what is asked for is read.

    With the mode `r+` what is written to the array is written to the file.

    Raises:
        FileNotFoundError: If there is no file.
        ValueError: If it is damaged, or no array of numbers.
    """
    try:
        array = np.load(path, mmap_mode=mode)
    except _ERRORS as error:
        raise _unreadable(path, "array (.npy)") from error
    if not isinstance(array, np.ndarray):  # An archive under another name.
        raise _unreadable(path, "array (.npy)")
    return array


def read_archive(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Reads all arrays of a `.npz` file, by their names.

    Raises:
        FileNotFoundError: If there is no file.
        ValueError: If it is damaged, or no archive of arrays of numbers.
    """
    try:
        with open(path, "rb") as stream, np.load(stream) as archive:
            return dict(archive)
    except _ERRORS as error:
        raise _unreadable(path, "archive of arrays (.npz)") from error


def _unreadable(path: str | os.PathLike, kind: str) -> ValueError:
    return ValueError(
        f"{path} is damaged or no {kind} of plain numbers: make or copy it anew, with "
        "numpy.save or numpy.savez and without objects"
    )
