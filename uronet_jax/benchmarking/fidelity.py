"""How exactly the corruptions reproduce the outputs of the original programs.

An archive holds what an original made of one image, with every random number it drew:
`input` (uint8 `[H, W, 3]`), `<corruption>/<severity>/out` (uint8), and the draws in the
order of the calls, `<corruption>/<severity>/draw<i>_<kind>`.
"""

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from uronet_jax.benchmarking.corruptions import photographs
from uronet_jax.corruptions import (
    CORRUPTIONS,
    blur,
    corrupt,
    filters,
    geometry,
    list_corruptions,
    list_severities,
    noise,
    spatter,
    suite_settings,
    truncate,
    weather,
)
from uronet_jax.records import provenance, write_json
from uronet_jax.reports import results

# Archive -> the suite whose maker it comes from.
ARCHIVES = {
    "cifar32": "cifar_c",
    "tiny64": "tiny_c",
    "imagenet224_severity3": "imagenet_c",
}
_Arrays = Mapping[str, np.ndarray]


def measure_fidelity(
    golden_dir: str | os.PathLike, path: str | os.PathLike
) -> list[dict[str, Any]]:
    """Compares every archive, and the two modes of JPEG, and writes the file."""
    start = time.perf_counter()
    paths = {name: Path(golden_dir) / f"{name}.npz" for name in ARCHIVES}
    missing = [str(path) for path in paths.values() if not path.exists()]
    if missing:
        raise FileNotFoundError(f"no archive at {', '.join(missing)}")
    rows = [
        {"reference": name, "suite": suite, **row}
        for name, suite in ARCHIVES.items()
        for row in compare_archive(dict(np.load(paths[name])), suite)
    ]
    rows += [*_fast_jpeg("cifar_c", 32), *_fast_jpeg("imagenet_c", 224)]
    seconds = time.perf_counter() - start
    origin = provenance({"archives": list(ARCHIVES)}, seconds=seconds)
    write_json(path, {"schema": results.FIDELITY, "rows": rows, **origin})
    return rows


def compare_archive(arrays: _Arrays, suite: str) -> list[dict[str, Any]]:
    """Reproduces every output of an archive; rows of differences in grey levels."""
    return [
        _row(
            corruption,
            severity,
            reproduce(arrays, suite, corruption, severity),
            arrays[f"{corruption}/{severity}/out"],
        )
        for corruption in list_corruptions(suite)
        for severity in list_severities(suite)
        if f"{corruption}/{severity}/out" in arrays
    ]


def _fast_jpeg(suite: str, side: int) -> list[dict[str, Any]]:
    """Compares the two modes of JPEG on generated images."""
    images = jnp.asarray(photographs(16, side), jnp.float32) / 255.0
    name, key = f"{suite}/jpeg_compression", jax.random.key(0)
    fields = {"reference": f"exact mode, {side}x{side}", "suite": suite}
    rows = []
    for severity in list_severities(suite):
        exact, fast = (
            corrupt(key, images, name, severity=severity, uint8=True, fidelity=mode)
            for mode in ("exact", "fast")
        )
        rows.append(fields | _row("jpeg_compression, fast", severity, exact, fast))
    return rows


def _row(corruption: str, severity: int, ours: Any, theirs: Any) -> dict[str, Any]:
    difference = np.abs(np.asarray(ours, int) - np.asarray(theirs, int))
    return {
        "corruption": corruption,
        "severity": severity,
        "max_difference": int(difference.max()),
        "share_differing": float((difference > 0).mean()),
        "mean_difference": float(difference.mean()),
    }


def reproduce(
    arrays: _Arrays, suite: str, corruption: str, severity: int
) -> np.ndarray:
    """Returns what we make of the input with the draws of the archive, uint8."""
    images = jnp.asarray(arrays["input"].astype(np.float32)[None] / 255)
    _, settings = suite_settings(suite, corruption)
    core = _CORES.get(corruption)
    if core is None:  # Nothing is drawn.
        name, key = f"{suite}/{corruption}", jax.random.key(0)
        return np.asarray(corrupt(key, images, name, severity=severity, uint8=True))[0]
    folder = f"{corruption}/{severity}/"
    draws = [
        jnp.asarray(arrays[name], jnp.float32)[None]
        for name in sorted(arrays)
        if name.startswith(folder) and name != f"{folder}out"
    ]
    stacked, _ = CORRUPTIONS[corruption].constants(images.shape[1:], settings)
    constants = jax.tree.map(lambda table: jnp.asarray(table[severity - 1]), stacked)
    out = core(images, draws, constants, settings[severity - 1])
    return np.asarray(truncate(jnp.clip(out, 0.0, 1.0)))[0]


def _glass(images, draws, constants, setting):
    side, delta = images.shape[1], setting["max_delta"]
    iterations, inner = setting["iterations"], side - 2 * delta
    # A scan descends, and visits the rows and columns from `delta + 1` on.
    grid = np.int32(draws[0]).reshape(iterations, inner, inner, 2)[:, ::-1, ::-1]
    flat = np.zeros((iterations, side, side), np.int32)
    inside = slice(delta + 1, side - delta + 1)
    flat[:, inside, inside] = grid[..., 1] * side + grid[..., 0]
    displacements = jnp.asarray(flat.reshape(iterations, 1, -1))
    matrix = filters.gaussian_matrix(side, setting["sigma"]).astype(np.float32)
    return blur.frosted_glass(
        images, matrix, matrix, lambda scan: displacements[scan], iterations
    )


def _motion(images, draws, constants, setting):
    taps = 2 * setting["radius"] + 1
    weights = filters.motion_weights(**setting, taps=taps)
    levels = jnp.round(255.0 * images)
    return filters.blur_along_line(levels, *draws, weights, taps) / 255.0


def _elastic(images, draws, constants, setting):
    anchors, dx, dy = draws
    (alpha, _), rows, columns = constants
    fields = jnp.stack([dx, dy], axis=-1)
    return geometry.warp_elastically(images, anchors, fields, alpha, rows, columns)


# Corruptions that draw: `core(images, draws, constants, setting) -> images`.
_CORES: dict[str, Callable[..., jax.Array]] = {
    "gaussian_noise": lambda x, draws, *_: noise.add_gaussian(x, *draws),
    "shot_noise": lambda x, draws, c, _: noise.from_counts(*draws, c),
    "speckle_noise": lambda x, draws, *_: noise.add_speckle(x, *draws),
    "glass_blur": _glass,
    "motion_blur": _motion,
    "snow": lambda x, draws, c, _: jax.jit(weather.add_snow)(x, *draws, c),
    "fog": lambda x, draws, c, s: weather.add_fog(x, *draws, s["amount"]),
    "spatter": lambda x, draws, c, _: jax.jit(spatter.splash)(x, *draws, c),
    "elastic_transform": _elastic,
}
