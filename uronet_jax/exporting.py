"""A whole defence as one file that JAX alone runs, by `jax.export`.

Purifier, detector, classifier and their weights are one StableHLO program, lowered for
CPU and CUDA, for any number of images. What it takes and gives stands in a JSON beside
it. docs/SERVING.md shows how it is loaded and served.
"""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax import export

from uronet_jax.batches import check_number
from uronet_jax.defense import Defense
from uronet_jax.purifiers import random_stages
from uronet_jax.records import provenance, write_file, write_json

PLATFORMS = ("cpu", "cuda")
_RANGES = {"degraded_probability": [0, 1], "clean": [0, 1], "noise": [-1, 1]}


def export_defense(
    defense: Defense,
    path: str | os.PathLike,
    *,
    threshold: float = 0.5,
    models: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Writes a defence as a program, and the JSON that describes it.

    The program takes uint8 images `[N, H, W, C]`, N at least 1, of the defence's size:
    what decoded files are, with no value out of range, and a fourth of the bytes of
    float32. It returns a dict of the fields of `defense.Prediction`, float32.

    Args:
        defense: With a purifier that draws nothing, or none.
        path: File to write, `defense.stablehlo`; the JSON is `defense.json` beside it.
        threshold: Degraded probability above which a picture is to be called degraded;
            it is told in the JSON alone.
        models: Role -> where the model is from, for the JSON.

    Returns:
        What is in the JSON.

    Raises:
        ValueError: If a number is out of range, the purifier is random, or the file
            would be the JSON.
    """
    path = Path(path)
    if path.suffix == ".json":
        raise ValueError(f"{path} is where the description goes: name it .stablehlo")
    check_number("threshold, a probability,", threshold, 0.0, 1.0)

    def defend(images):
        shown = images.astype(jnp.float32) / 255.0
        found = defense.function(defense.variables, shown)._asdict()
        return {name: x for name, x in found.items() if x is not None}

    shape = export.symbolic_shape(", ".join(map(str, ("batch", *defense.image_shape))))
    images = jax.ShapeDtypeStruct(shape, jnp.uint8)
    shown = jax.ShapeDtypeStruct(shape, jnp.float32)
    own = defense.variables.get("purifier")
    if drawing := random_stages(defense.function.purifier, own, shown):
        raise ValueError(
            f"{drawing[0]} is random, and the program takes no key: choose a purifier "
            "that draws nothing"
        )
    exported = export.export(jax.jit(defend), platforms=PLATFORMS)(images)
    program = exported.serialize()
    outputs = jax.tree.unflatten(exported.out_tree, exported.out_avals)
    about = {
        "schema": "uronet_jax.export",
        "input": {"name": "images", **_describe(images), "range": [0, 255]},
        "outputs": {
            name: {**_describe(x), "range": _RANGES.get(name)}
            for name, x in outputs.items()
        },
        "num_classes": outputs["logits"].shape[-1],
        "threshold": threshold,
        "gate": defense.function.gate,
        "models": dict(models or {}),
        "platforms": list(exported.platforms),
        "calling_convention": exported.calling_convention_version,
        "sha256": hashlib.sha256(program).hexdigest(),
        "versions": provenance({}, seconds=0.0)["versions"],
    }
    write_file(path, program)
    write_json(path.with_suffix(".json"), about)
    return about


def _describe(array: Any) -> dict[str, Any]:
    sizes = [x if isinstance(x, int) else str(x) for x in array.shape]
    return {"shape": sizes, "dtype": str(array.dtype)}
