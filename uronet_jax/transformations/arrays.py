"""Arrays that a transformation reads from a file."""

import os
from pathlib import Path

import numpy as np

from uronet_jax.array_files import map_array, read_archive


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
    if Path(path).suffix == ".npz":
        arrays = list(read_archive(path).values())
        if len(arrays) != 1:
            raise ValueError(
                f"{path} holds {len(arrays)} arrays, not one of {what}: write one with "
                "numpy.save"
            )
        found = arrays[0]
    else:
        found = np.asarray(map_array(path))
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
