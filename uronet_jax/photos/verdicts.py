"""What detector and classifier are shown of pictures of any size.

A detector judges noise, pixel by pixel, and learned it on images of one size. To make a
photograph as small would average the noise away before it is judged. So it is shown
windows of that size, as they are, each purified by itself as in training; the
probability of the picture is the mean over them. It says how much of the picture
is degraded: a false alarm in one window of many does not condemn it, as the maximum
would; a small damaged place does not show, but is where the contact sheet looks.

A classifier judges what there is to see. It is shown the middle of the picture, as much
as has the shape of its training images, made as small as they are (`pictures.fitted`).
"""

from typing import NamedTuple

import numpy as np

from uronet_jax.photos.tiles import mirrored_indices

# Of one picture; spread evenly if there are more. A mean over so many is within 0.03
# of the mean over all, one standard deviation, whatever they are.
MAX_WINDOWS = 256


class Sample(NamedTuple):
    """Windows of a picture.

    Attributes:
        windows: `[N, h, w, C]`, of the type of the picture.
        corners: int `[N, 2]`, row and column in the picture.
    """

    windows: np.ndarray
    corners: np.ndarray


def sample_windows(
    pixels: np.ndarray, shape: tuple[int, ...], most: int = MAX_WINDOWS
) -> Sample:
    """Cuts windows that cover a picture evenly; a smaller picture is mirrored.

    Args:
        pixels: `[H, W, C]`, uint8 or uint16.
        shape: Height and width of a window.
        most: How many windows at most.
    """
    counts = np.ceil(np.divide(pixels.shape[:2], shape[:2]))
    # Evenly fewer along both sides, but one at least.
    for _ in range(2):
        if counts.prod() > most:
            counts = np.maximum(np.floor(counts * np.sqrt(most / counts.prod())), 1)
    counts = np.minimum(counts, most)
    firsts = [
        _spread(size, side, int(count))
        for size, side, count in zip(pixels.shape, shape[:2], counts, strict=False)
    ]
    corners = np.array([(y, x) for y in firsts[0] for x in firsts[1]])
    windows = [
        pixels[
            mirrored_indices(y, shape[0], pixels.shape[0])[:, None],
            mirrored_indices(x, shape[1], pixels.shape[1]),
        ]
        for y, x in corners
    ]
    return Sample(np.stack(windows), corners)


def _spread(size, side, count):
    """Returns where windows start along an axis; in the middle if there is one."""
    if count == 1:
        return [(size - side) // 2]
    return np.rint(np.linspace(0, size - side, count)).astype(int).tolist()


class Change(NamedTuple):
    """How two pictures differ.

    Attributes:
        rms: Root of the mean square, of intensities in `[0, 1]`.
        row: Of the middle of the block of 64x64 pixels that differs most.
        column: Likewise.
    """

    rms: float
    row: int
    column: int


def measure_change(before: np.ndarray, after: np.ndarray, block: int = 64) -> Change:
    """Compares two pictures `[H, W, C]` of one unsigned type, block by block."""
    largest = float(np.iinfo(before.dtype).max)
    total, worst = 0.0, (-1.0, 0, 0)
    columns = np.arange(0, before.shape[1], block)
    for top in range(0, before.shape[0], block):
        rows = slice(top, top + block)
        difference = before[rows].astype(np.float32) - after[rows]
        squares = np.add.reduceat((difference**2).sum(axis=(0, 2)), columns)
        total += squares.sum(dtype=np.float64)
        place = int(squares.argmax())
        if squares[place] > worst[0]:
            left = place * block
            width = min(block, before.shape[1] - left)
            middle = top + len(difference) // 2, left + width // 2
            worst = (float(squares[place]), *middle)
    return Change(float(np.sqrt(total / before.size)) / largest, *worst[1:])
