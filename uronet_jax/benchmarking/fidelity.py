"""How exactly the corruptions reproduce the outputs of the original programs.

An archive holds what an original made of one image, with every random number it drew:
`input` (uint8 `[H, W, 3]`), `<corruption>/<severity>/out` (uint8), and the draws in the
order of the calls, `<corruption>/<severity>/draw<i>_<kind>`.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

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

# Archive -> the suite whose maker it comes from.
ARCHIVES = {
    "cifar32": "cifar_c",
    "tiny64": "tiny_c",
    "imagenet224_severity3": "imagenet_c",
}
Arrays = Mapping[str, np.ndarray]


def compare_archive(arrays: Arrays, suite: str) -> Iterator[dict[str, Any]]:
    """Reproduces every output of an archive.

    Args:
        arrays: The archive.
        suite: Whose parameters it was made with.

    Returns:
        Rows with `corruption`, `severity` and, in grey levels of the truncated images,
        `max_difference`, `mean_difference`, and `share_differing` in `[0, 1]`.
    """
    for corruption in list_corruptions(suite):
        for severity in list_severities(suite):
            if f"{corruption}/{severity}/out" in arrays:
                difference = np.abs(
                    reproduce(arrays, suite, corruption, severity).astype(int)
                    - arrays[f"{corruption}/{severity}/out"]
                )
                yield {
                    "corruption": corruption,
                    "severity": severity,
                    "max_difference": int(difference.max()),
                    "share_differing": float((difference > 0).mean()),
                    "mean_difference": float(difference.mean()),
                }


def reproduce(arrays: Arrays, suite: str, corruption: str, severity: int) -> np.ndarray:
    """Returns what we make of the input with the draws of the archive, uint8."""
    images = jnp.asarray(arrays["input"].astype(np.float32)[None] / 255)
    _, settings = suite_settings(suite, corruption)
    core = _CORES.get(corruption)
    if core is None:  # Nothing is drawn.
        name = f"{suite}/{corruption}"
        key = jax.random.key(0)
        return np.asarray(corrupt(key, images, name, severity=severity, uint8=True))[0]
    folder = f"{corruption}/{severity}/"
    draws = [
        arrays[name]
        for name in sorted(arrays)
        if name.startswith(folder) and name != f"{folder}out"
    ]
    stacked, _ = CORRUPTIONS[corruption].constants(images.shape[1:], settings)
    constants = jax.tree.map(lambda table: jnp.asarray(table[severity - 1]), stacked)
    out = core(images, draws, constants, settings[severity - 1])
    return np.asarray(truncate(jnp.clip(out, 0.0, 1.0)))[0]


def _batch(draw) -> jax.Array:
    return jnp.asarray(draw, jnp.float32)[None]


def _add(images, draws, constants, setting):
    return noise.add_gaussian(images, _batch(draws[0]))


def _multiply(images, draws, constants, setting):
    return noise.add_speckle(images, _batch(draws[0]))


def _count(images, draws, constants, setting):
    return noise.from_counts(_batch(draws[0]), constants)


def _glass(images, draws, constants, setting):
    side, delta, iterations = (
        images.shape[1],
        setting["max_delta"],
        setting["iterations"],
    )
    inner = side - 2 * delta
    # A scan descends, and visits the rows and columns from `delta + 1` on.
    grid = draws[0].astype(np.int32).reshape(iterations, inner, inner, 2)[:, ::-1, ::-1]
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
    return filters.blur_along_line(levels, _batch(draws[0]), weights, taps) / 255.0


def _snow(images, draws, constants, setting):
    return weather.add_snow(images, _batch(draws[0]), _batch(draws[1]), constants)


def _fog(images, draws, constants, setting):
    return weather.add_fog(images, _batch(draws[0]), setting["amount"])


def _spatter(images, draws, constants, setting):
    return spatter.splash(images, _batch(draws[0]), constants)


def _elastic(images, draws, constants, setting):
    anchors, dx, dy = map(_batch, draws)
    (alpha, _), rows, columns = constants
    fields = jnp.stack([dx, dy], axis=-1)
    return geometry.warp_elastically(images, anchors, fields, alpha, rows, columns)


# Corruptions that draw: `core(images, draws, constants, setting) -> images`.
_CORES: dict[str, Callable[..., jax.Array]] = {
    "gaussian_noise": _add,
    "shot_noise": _count,
    "speckle_noise": _multiply,
    "glass_blur": _glass,
    "motion_blur": _motion,
    "snow": _snow,
    "fog": _fog,
    "spatter": _spatter,
    "elastic_transform": _elastic,
}
