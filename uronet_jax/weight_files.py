"""PyTorch's weights from files, by their names: .safetensors, .npz, .pt and .pth."""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from uronet_jax.array_files import read_archive

# Under what training programs put the weights in a checkpoint.
_NESTED = ("state_dict", "model_state_dict", "model", "net")
_CONVERT = (
    "write it with numpy.savez(path, **{name: x.cpu().numpy() for name, x in "
    "state_dict.items()})"
)


def read_pytorch(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Reads the weights of a PyTorch network; nothing in the file is executed.

    Args:
        path: `.npz` or `.safetensors` of arrays; or `.pt` or `.pth` of a `state_dict`,
            also one under `state_dict`, `model_state_dict`, `model` or `net` of a
            checkpoint. The latter needs torch, and is read with `weights_only=True`.

    Returns:
        PyTorch's names -> arrays; what torch has read is float32.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is damaged, or no such file; or torch is needed and missing.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no classifier weights at {path}")
    weights = _READERS[path.suffix](path)
    for name, value in weights.items():
        if value.dtype.kind in "cOSUMm":  # bfloat16 is V.
            raise ValueError(
                f"{path}: weight {name!r} is of {value.dtype}, expected real numbers: "
                f"from PyTorch {_CONVERT}"
            )
        if not np.isfinite(np.asarray(value, np.float32)).all():
            raise ValueError(
                f"{path}: weight {name!r} holds numbers that are not finite: copy or "
                "train it anew"
            )
    return weights


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        return read_archive(path) if path.suffix == ".npz" else load_file(path)
    except (ValueError, SafetensorError) as error:
        raise ValueError(
            f"{path} is damaged or no file of weights: copy it anew; from PyTorch "
            f"{_CONVERT}"
        ) from error


def _read_checkpoint(path: Path) -> dict[str, np.ndarray]:
    try:
        import torch
    except ImportError as error:
        raise ValueError(
            f"{path} is a file of PyTorch, which is needed to read it: install torch "
            f"here, or where it is {_CONVERT}"
        ) from error
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # Of a dozen kinds.
        raise ValueError(
            f"{path} is damaged, or holds more than weights, such as a whole module: "
            "write them alone, with torch.save(model.state_dict(), path)"
        ) from error
    while isinstance(content, Mapping):
        tensors = {k: v for k, v in content.items() if isinstance(v, torch.Tensor)}
        if tensors:
            return {name: value.float().numpy() for name, value in tensors.items()}
        content = next((content[name] for name in _NESTED if name in content), None)
    raise ValueError(
        f"{path} holds no weights by their names, neither itself nor under "
        f"{', '.join(_NESTED)}: write them with torch.save(model.state_dict(), path)"
    )


_READERS = {
    **dict.fromkeys((".npz", ".safetensors"), _read_arrays),
    **dict.fromkeys((".pt", ".pth"), _read_checkpoint),
}
# What names a file of weights, and not the folder of a run.
WEIGHT_FILES = tuple(_READERS)
