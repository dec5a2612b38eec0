"""Arrays that a transformation reads from a file."""

import os
import zipfile
from pathlib import Path

import numpy as np


def read_windows(path: str | os.PathLike, what: str) -> np.ndarray:
    """Reads square windows, such as filters or patches, from a NumPy file.

    Args:
        path: `.npy`, or `.npz` with one array.
        what: What they are, for messages.

    Returns:
        float32 `[N, P, P, C]`.

    Raises:
        FileNotFoundError: If there is no file.
        ValueError: If it is damaged, or holds no such array of finite numbers.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no file of {what} at {path}")
    try:
        with open(path, "rb") as stream:
            found = np.load(stream)
            if isinstance(found, np.lib.npyio.NpzFile):
                if len(found.files) != 1:
                    raise ValueError(f"it holds {len(found.files)} arrays, not one")
                found = found[found.files[0]]
    except (ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{path} holds no {what} ({error}): write one array with numpy.save"
        ) from error
    check_windows(found, f"{what} in {path}")
    return found.astype(np.float32)


def check_windows(windows: np.ndarray, what: str) -> None:
    """Raises ValueError unless `windows` are finite floats `[N, P, P, C]`."""
    square = windows.ndim == 4 and windows.shape[1] == windows.shape[2]
    if not square or windows.size == 0 or not np.issubdtype(windows.dtype, np.floating):
        raise ValueError(
            f"{what}: need floating-point windows [N, P, P, C], found "
            f"{windows.dtype}{list(windows.shape)}"
        )
    if not np.isfinite(windows).all():
        raise ValueError(f"{what}: some are NaN or infinite; leave those out")
