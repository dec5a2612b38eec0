"""A picture of every corruption at every severity."""

import os
from collections.abc import Sequence

import numpy as np

from uronet_jax.corruptions import corrupt, entry_key, list_corruptions, list_severities
from uronet_jax.reports import figures


def sample_photographs(side: int) -> np.ndarray:
    """Returns scikit-learn's photographs of a temple and a flower, cut to squares.

    They are float32 `[2, side, side, 3]` in `[0, 1]`. The extra `quickstart` brings
    scikit-learn.
    """
    from PIL import Image
    from sklearn.datasets import load_sample_images

    pictures = []
    for image in load_sample_images().images:
        size = min(image.shape[:2])
        top, left = ((n - size) // 2 for n in image.shape[:2])
        square = Image.fromarray(image[top : top + size, left : left + size])
        scaled = square.resize((side, side), Image.Resampling.LANCZOS)
        pictures.append(np.asarray(scaled, np.float32) / 255.0)
    return np.stack(pictures)


def draw_corruptions(
    path: str | os.PathLike,
    image: np.ndarray,
    suite: str = "imagenet_c",
    *,
    names: Sequence[str] | None = None,
    severities: Sequence[int] | None = None,
    seed: int = 0,
    cell_inches: float = 1.0,
) -> None:
    """Writes a PNG with one row per corruption and one column per severity.

    The image is `[H, W, C]` in `[0, 1]`; by default all corruptions and severities of
    the suite are shown.
    """
    names = list_corruptions(suite) if names is None else names
    severities = list_severities(suite) if severities is None else severities
    batch = np.asarray(image, np.float32)[None]

    def degraded(name, severity):
        key = entry_key(seed, f"{suite}/{name}", severity)
        return corrupt(key, batch, f"{suite}/{name}", severity=severity)[0]

    columns = {"clean": np.repeat(batch, len(names), axis=0)}
    for severity in severities:
        images = [np.asarray(degraded(name, severity)) for name in names]
        columns[f"severity {severity}"] = np.stack(images)
    labels = [name.replace("_", "\n") for name in names]
    figures.gallery(path, columns, labels, cell_inches=cell_inches)
