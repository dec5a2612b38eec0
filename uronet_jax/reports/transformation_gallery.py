"""A picture of every input transformation on a clean and on degraded images."""

import os
from collections.abc import Sequence

import jax
import numpy as np

from uronet_jax.corruptions import corrupt
from uronet_jax.purifiers import make_transformation
from uronet_jax.reports import figures
from uronet_jax.transformations import TRANSFORMATIONS
from uronet_jax.transformations.quilting import extract_patches

# Label -> corruption and parameters.
_DEGRADED = {
    "Gaussian\nnoise": ("gaussian_noise", {"scale": 0.1}),
    "impulse\nnoise": ("impulse_noise", {"amount": 0.05}),
}
# Of the other image.
_PATCHES = 20_000


def draw_transformations(
    path: str | os.PathLike,
    image: np.ndarray,
    names: Sequence[str] | None = None,
    *,
    other: np.ndarray,
    seed: int = 0,
    cell_inches: float = 0.8,
    description: str = "",
) -> None:
    """Writes a PNG with a row per degradation and a column per transformation.

    The image is `[H, W, C]` in `[0, 1]`; by default all transformations are shown, at
    their usual parameters. The description is kept in the file's metadata, see
    `figures.description_of`.
    """
    names = list(TRANSFORMATIONS) if names is None else names
    clean, key = np.asarray(image, np.float32)[None], jax.random.key(seed)
    degraded = [
        np.asarray(corrupt(key, clean, name, **parameters))
        for name, parameters in _DEGRADED.values()
    ]
    columns = {"": np.concatenate([clean, *degraded])}
    for name in names:
        purifier = make_transformation(name)
        if "patches" in TRANSFORMATIONS[name].parameters:
            variables = extract_patches(other[None], _PATCHES)
        else:
            variables = purifier.load()
        pictures = jax.jit(purifier)(variables, columns[""], key)
        columns[name.replace("_", "\n")] = np.asarray(pictures.clean)
    labels = ["clean", *_DEGRADED]
    figures.gallery(
        path, columns, labels, cell_inches=cell_inches, description=description
    )
