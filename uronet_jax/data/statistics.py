"""Statistics of a set of images."""

import numpy as np


def pixel_statistics(images: np.ndarray) -> tuple[list[float], list[float]]:
    """Returns mean and standard deviation of each channel.

    Args:
        images: uint8 `[N, H, W, C]`.

    Returns:
        Two lists of C floats, in units of `[0, 1]`. Exact: computed from histograms.
    """
    values = np.arange(256) / 255.0
    means, stds = [], []
    for channel in range(images.shape[-1]):
        counts = np.bincount(images[..., channel].ravel(), minlength=256)
        mean = float((counts * values).sum() / counts.sum())
        variance = float((counts * (values - mean) ** 2).sum() / counts.sum())
        means.append(mean)
        stds.append(variance**0.5)
    return means, stds
