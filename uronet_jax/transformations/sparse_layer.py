"""Sparse transformation layer: the smooth part, and the rest from a few filters."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from uronet_jax.batches import straight
from uronet_jax.transformations.arrays import read_windows
from uronet_jax.transformations.sparse_coding import (
    convolve_maps,
    sparse_maps,
    tikhonov_low_pass,
)
from uronet_jax.transformations.transformation import Transformation

_FOLDER = Path(__file__).parent / "dictionaries"


def load_dictionaries(dictionary: str = "") -> tuple[np.ndarray, ...]:
    """Returns dictionaries `[M, P, P, C]` of filters, float32.

    Args:
        dictionary: `.npy` or `.npz` file of one; by default those of the package, for
            colour and grey images, see `dictionaries/README.md`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it holds no dictionary.
    """
    paths = (
        [dictionary] if dictionary else [_FOLDER / "colour.npy", _FOLDER / "grey.npy"]
    )
    return tuple(read_windows(path, "filters") for path in paths)


def _choose(dictionaries, images):
    """Returns the first dictionary of as many channels, or of one."""
    height, width, channels = images.shape[1:]
    for wanted in (channels, 1):
        for filters in dictionaries:
            size = filters.shape[1]
            if filters.shape[-1] != wanted:
                continue
            if size > min(height, width):
                raise ValueError(
                    f"sparse_layer: images of {height} x {width} pixels are smaller "
                    f"than filters of {size} x {size}: learn smaller filters"
                )
            return filters
    found = [filters.shape[-1] for filters in dictionaries]
    raise ValueError(
        f"sparse_layer: images have {channels} channels and the filters {found}: need "
        f"a dictionary of 1 or {channels}"
    )


def code_sparsely(
    images: jax.Array,
    dictionaries: tuple[jax.Array, ...],
    *,
    weight: float,
    smoothing: float,
    iterations: int,
) -> jax.Array:
    """Replaces the high-pass part of images by its sparse code, and stretches them.

    As in the authors' program an image is divided by its largest value, over pixels and
    channels, and then clipped; it is not rounded to 8 bits, as theirs is in a file.
    Filters of the images' channels share their maps among the channels; with filters of
    one channel every channel is coded alone.

    Raises:
        ValueError: If no dictionary has the images' channels, or one, or the images are
            smaller than the filters.
    """
    given = images
    images = jax.lax.stop_gradient(images)
    filters = _choose(dictionaries, images)
    low = tikhonov_low_pass(images, smoothing=smoothing)
    signals = images - low
    alone = filters.shape[-1] < images.shape[-1]
    if alone:
        signals = jnp.moveaxis(signals, -1, 1).reshape(-1, *images.shape[1:3], 1)
    maps = sparse_maps(signals, filters, weight=weight, iterations=iterations)
    high = convolve_maps(maps, filters)
    if alone:
        planes = images.shape[0], images.shape[-1], *images.shape[1:3]
        high = jnp.moveaxis(high.reshape(planes), 1, -1)
    found = low + high
    peak = found.max((1, 2, 3), keepdims=True)
    found = jnp.clip(found / jnp.where(peak > 0.0, peak, 1.0), 0.0, 1.0)
    return straight(found, given)


SPARSE_LAYER = Transformation(
    code_sparsely,
    {"weight": 0.2, "smoothing": 5.0, "iterations": 200, "dictionary": ""},
    {"weight": (1e-3, 10.0), "smoothing": (0.0, 1000.0), "iterations": (1, 10_000)},
    "low-pass part plus the rest as few of 64 learned filters, over its maximum",
    "Sun et al., CVPR 2019",
    gradient="straight-through",
    load=load_dictionaries,
)
