"""Results on disk: JSON files that can be traced and repeated."""

import contextlib
import importlib.metadata
import json
import os
import pathlib
import platform
from collections.abc import Iterator
from typing import Any

import jax

import uronet_jax

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def provenance(config: Any, *, seconds: float) -> dict[str, Any]:
    """Returns config, versions, device and wall time of a result.

    Args:
        config: JSON of what was run.
        seconds: How long it took.
    """
    device = jax.devices()[0]
    # What an environment variable may have changed; by default a GPU takes TF32.
    precision = jax.config.values["jax_default_matmul_precision"]
    return {
        "config": config,
        "versions": {
            "uronet_jax": uronet_jax.__version__,
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in _PACKAGES},
        },
        "device": {
            "platform": device.platform,
            "kind": device.device_kind,
            "count": jax.device_count(),
            "processes": jax.process_count(),
            **({"matmul_precision": precision} if precision else {}),
        },
        "seconds": round(seconds, 1),
    }


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Writes a JSON file that is complete or not there at all.

    Keys are sorted, so that equal values give equal files. A file that exists is
    replaced in one step; readers see the old one or the new one.

    Args:
        path: Missing folders are created.
        value: Anything JSON knows, and NumPy or JAX numbers and arrays.

    Raises:
        ValueError: If a number is NaN or infinite: JSON has neither.
        TypeError: If a value has no JSON form. The file is not touched either way.
    """
    layout = {"indent": 2, "sort_keys": True, "allow_nan": False}
    try:
        text = json.dumps(value, default=_plain, **layout)
    except ValueError as error:
        raise ValueError(f"{path} is not written: {error}") from error
    write_file(path, f"{text}\n".encode())


def write_file(path: str | os.PathLike, data: bytes) -> None:
    """Writes a file that is complete or not there at all; makes missing folders."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # In the same folder: a rename is atomic only within one file system.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with naming(path):
            temporary.write_bytes(data)
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def naming(path: str | os.PathLike) -> Iterator[None]:
    """Lets an OSError say which file it is of: that of a full disk does not."""
    try:
        yield
    except OSError as error:
        if error.errno and not error.filename:
            error.filename = os.fspath(path)
        raise


def _plain(value):
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} has no JSON form: {value!r}")
