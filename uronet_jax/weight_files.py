"""Weights from files, by their names.

PyTorch's: .safetensors, .npz, .pt and .pth. Keras': .h5 and .keras.
"""

import io
import os
import zipfile
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
    # bfloat16 is V.
    _check_numbers(path, weights, "cOSUMm", f"from PyTorch {_CONVERT}")
    return weights


def _check_numbers(
    path: Path, weights: Mapping[str, np.ndarray], refused: str, advice: str
) -> None:
    """Raises ValueError for kinds of arrays that are refused, NaN and infinity."""
    for name, value in weights.items():
        if value.dtype.kind in refused:
            raise ValueError(
                f"{path}: weight {name!r} is of {value.dtype}, expected real numbers: "
                f"{advice}"
            )
        if not np.isfinite(np.asarray(value, np.float32)).all():
            raise ValueError(
                f"{path}: weight {name!r} holds numbers that are not finite: copy or "
                "train it anew"
            )


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


# Where a .keras file, which is an archive, has its weights.
_KERAS_MEMBER = "model.weights.h5"


def read_keras(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Reads the weights of a Keras network; nothing in the file is executed.

    Args:
        path: `.h5` of `save`, `save_weights` or `keras.applications`, `.weights.h5` or
            `.keras`. Needs h5py.

    Returns:
        Layer and place of each weight in it, such as `conv1/0` -> arrays.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is damaged, or holds no layers, or none with names; or h5py
            is missing.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no classifier weights at {path}")
    try:
        import h5py
    except ImportError as error:
        raise ValueError(
            f"{path} is a file of Keras, and h5py is needed to read it: "
            'pip install "uronet_jax[keras]"'
        ) from error
    try:
        content = path
        if path.suffix == ".keras":
            with zipfile.ZipFile(path) as archive:
                content = io.BytesIO(archive.read(_KERAS_MEMBER))
        with h5py.File(content, "r") as file:
            weights = _read_layers(file, path)
    except (OSError, KeyError, RuntimeError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{path} is damaged or no file of Keras' weights: copy it anew, or write "
            "it with model.save_weights('NAME.weights.h5')"
        ) from error
    if not weights:
        raise ValueError(
            f"{path} holds no layers with weights as Keras writes them: write it with "
            "the current Keras, model.save_weights('NAME.weights.h5')"
        )
    _check_numbers(path, weights, "cOSUMmV", "save the network in float32")
    return weights


def _read_layers(file, path: Path) -> dict[str, np.ndarray]:
    """Returns the weights of an open HDF5 file; none if it is not Keras'."""

    def words(values):
        return [x.decode() if isinstance(x, bytes) else str(x) for x in values]

    weights = {}
    # A whole network of Keras 2, or its weights; both are written by Keras 3, too.
    layers = file.get("model_weights", file)
    if "layer_names" in layers.attrs:
        for layer in words(layers.attrs["layer_names"]):
            group = layers[layer]
            for place, name in enumerate(words(group.attrs["weight_names"])):
                weights[f"{layer}/{place}"] = group[name][()]
    elif "layers" in file:  # Keras 3. The groups have other names than the layers.
        for group in file["layers"].values():
            values = group.get("vars", {})
            if len(values) and "name" not in values.attrs:
                raise ValueError(
                    f"{path} names no layers, as the first versions of Keras 3 wrote "
                    "it: load it into its network with the current Keras and write "
                    "it anew, model.save_weights('NAME.weights.h5')"
                )
            for place in values:
                weights[f"{values.attrs['name']}/{place}"] = values[place][()]
    return weights


KERAS_FILES = (".h5", ".keras")
# What names a file of weights, and not the folder of a run.
WEIGHT_FILES = (*_READERS, *KERAS_FILES)
