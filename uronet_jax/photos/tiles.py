"""Images of any size as windows of a few sizes, and back without seams.

A purifier is compiled for a shape, and photographs have many. Here an image is looked
at through windows:

    small       one square window, the next of `WINDOW_SIDES`; what the image lacks is
                its mirror image. One of the shape that the models were trained on is
                its own window.
    else        overlapping tiles, see `TileLayout`; their height and width are a tile's
                or three quarters of it, what takes the fewest pixels

So there are about a dozen shapes, whatever the images are. Only a purifier that needs
the whole picture (see `works_by_tiles`) is shown just that, without anything around it,
and is compiled for every size.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from uronet_jax.models import Reconstructor, Remover
from uronet_jax.models.reconstructor import RECONSTRUCTOR_VARIANTS
from uronet_jax.purifiers import Chain, NetworkPurifier, TransformationPurifier

# Sides of windows of small images.
WINDOW_SIDES = (16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768)
# Transformations whose result at a pixel depends on few pixels around it. Others look
# at statistics of all, or at where the picture ends.
_LOCAL = ("jpeg", "bit_depth", "median", "feature_distillation", "gaussian_noise")


class Reach(NamedTuple):
    """What the pixels of a result depend on.

    Attributes:
        multiple: Windows that start at multiples of it are treated alike.
        halo: Pixels from the edge of a window that may feel that it ends there.
        ramp: Pixels over which one tile fades into the next. 0 where tiles agree beyond
            the halo; more where a result depends a little on all of a window.
        centred: Whether the image lies in the middle of the padded one, as networks
            have it, or at its beginning.
    """

    multiple: int
    halo: int
    ramp: int = 0
    centred: bool = True


# Of the local ones. JPEG halves colours and cuts blocks of 8; medians reach 4 pixels.
# No ramp: noise that fades into other noise would be weaker there.
_OF_TRANSFORMATIONS = Reach(multiple=16, halo=16, centred=False)
_OF_OTHER_NETWORKS = Reach(multiple=32, halo=64, ramp=32)


def reach_of(purifier: Any) -> Reach:
    """Returns the reach of a purifier; exact for `Remover` and `Reconstructor`.

    Both are made of 3x3 convolutions. At level `l` (pixels of `2 ** l`) a convolution
    reaches `2 ** l` pixels farther. A remover has two of them on the way down, and on
    the way up one and a transposed one, which reaches `2 ** (l + 1)`; a reconstructor
    two, one that halves, a transposed one, and two. One more is last. To that comes
    where in its block of `2 ** levels` a pixel lies.
    """
    if isinstance(purifier, Chain):
        reaches = [reach_of(stage) for stage in purifier.stages]
        return Reach(
            math.lcm(*(r.multiple for r in reaches)),
            sum(r.halo for r in reaches),
            max(r.ramp for r in reaches),
            all(r.centred for r in reaches),
        )
    if isinstance(purifier, TransformationPurifier):
        return _OF_TRANSFORMATIONS
    module = purifier.module if isinstance(purifier, NetworkPurifier) else None
    if isinstance(module, Remover):
        levels, convolutions = len(module.widths), 2 + 1 + 2
    elif isinstance(module, Reconstructor):
        layout = RECONSTRUCTOR_VARIANTS[module.variant]
        levels, convolutions = len(layout.encoder), 2 + 1 + 2 + 2
    else:
        return _OF_OTHER_NETWORKS
    block = 2**levels
    return Reach(block, convolutions * (block - 1) + 1 + block - 1)


def works_by_tiles(purifier: Any) -> bool:
    """Returns whether windows of a picture give what the whole picture gives.

    Networks of others are taken to do so, but for what a ramp hides.
    """
    if isinstance(purifier, Chain):
        return all(map(works_by_tiles, purifier.stages))
    return not isinstance(purifier, TransformationPurifier) or purifier.name in _LOCAL


def check_tile(tile: int, reach: Reach) -> None:
    """Raises ValueError unless tiles of a side of `tile` pixels can overlap enough."""
    if not isinstance(tile, int) or not _overlaps(tile, reach):
        overlap = 2 * reach.halo + reach.ramp
        smallest = math.ceil(overlap / reach.multiple + 1) * reach.multiple
        raise ValueError(
            f"tiles of this purifier overlap by {overlap} pixels: tile must be a "
            f"multiple of {reach.multiple} and at least {smallest}, got {tile!r}"
        )


def _overlaps(side, reach):
    step = side - 2 * reach.halo - reach.ramp
    return step >= reach.multiple and side % reach.multiple == 0


def window_shape(
    height: int,
    width: int,
    tile: int,
    reach: Reach,
    trained: tuple[int, ...] | None = None,
) -> tuple[int, int]:
    """Returns height and width of the windows of an image; see the head of the module.

    Args:
        height: Of the image.
        width: Of the image.
        tile: Side of a tile.
        reach: Of the purifier.
        trained: Image shape of the models, if they have one.
    """
    if trained is not None and (height, width) == tuple(trained[:2]):
        return height, width
    shorter = 3 * tile // 4
    for side in WINDOW_SIDES:
        if max(height, width) <= side < shorter:
            return side, side
    sides = [tile, shorter] if _overlaps(shorter, reach) else [tile]
    return min(
        itertools.product(sides, sides),
        key=lambda window: (
            len(TileLayout(height, width, window, reach)) * window[0] * window[1],
            window,
        ),
    )


def mirrored_indices(first: int, count: int, size: int) -> np.ndarray:
    """Returns which of `size` pixels stand at `first, first + 1, ...`.

    Outside lies the mirror image (`dcb|abcd|cba`), as often as it takes.
    """
    period = max(2 * (size - 1), 1)
    along = (first + np.arange(count)) % period
    return np.where(along < size, along, period - along)


@dataclasses.dataclass(frozen=True)
class _Axis:
    size: int  # Of the image.
    window: int
    before: int  # Pixels of the first window that come before the image.
    starts: tuple[int, ...]  # Of the windows, from the beginning of the first.
    ramp: int

    @classmethod
    def make(cls, size: int, window: int, reach: Reach):
        if size <= window:
            missing = window - size
            before = missing // 2 if reach.centred else 0
            return cls(size, window, before, (0,), 0)
        missing = -size % reach.multiple
        before = missing // 2 if reach.centred else 0
        last = size + missing - window
        step = window - 2 * reach.halo - reach.ramp
        step = step // reach.multiple * reach.multiple
        return cls(size, window, before, (*range(0, last, step), last), reach.ramp)

    def first(self, number: int) -> int:
        """Returns where a window starts in the image; negative before its edge."""
        return self.starts[number] - self.before

    def inside(self, number: int) -> tuple[int, int]:
        """Returns the pixels of the image that a window shows, from and to."""
        first = self.first(number)
        return max(first, 0), min(first + self.window, self.size)

    def mirrored(self, number: int) -> np.ndarray:
        """Returns the pixel of the image that stands at each pixel of a window."""
        return mirrored_indices(self.first(number), self.window, self.size)

    @functools.lru_cache(maxsize=256)  # noqa: B019 - small, frozen, equal ones share.
    def weights(self, number: int) -> np.ndarray:
        """Returns the weight of each of the pixels `inside`; windows sum to one.

        A window comes in half-way through its overlap with the one before and leaves
        when the next one comes in.
        """
        low, high = self.inside(number)

        def coming(k):
            if k == 0:
                return 1.0
            if k == len(self.starts):
                return 0.0
            middle = (self.starts[k] + self.starts[k - 1] + self.window) / 2
            way = np.arange(low, high) + 0.5 + self.before - middle
            if self.ramp:
                return np.clip(way / self.ramp + 0.5, 0.0, 1.0)
            return (way > 0).astype(np.float64)

        whole = np.ones(high - low)
        return (whole * coming(number) - coming(number + 1)).astype(np.float32)


class TileLayout:
    """Where the windows of an image are.

    If the image is larger than a window, it is mirrored up to a multiple of
    `reach.multiple`, as the networks do it, and the windows start at multiples of it:
    the first at the edge of that image, the last so that it ends with it. Neighbours
    overlap by twice the halo and the ramp at least, and of a window nothing counts that
    lies in the halo of an edge which is not the image's. So a network whose reach is
    known gives, tile by tile, what it gives for the whole image. (A remover that also
    looks at the mirror image pads that on the other side; here both share the padding,
    which is other pixels of the border if an odd number is missing.)
    """

    def __init__(self, height: int, width: int, window: tuple[int, int], reach: Reach):
        """Lays out the windows of an image of this height and width."""
        self._rows = _Axis.make(height, window[0], reach)
        self._columns = _Axis.make(width, window[1], reach)
        self.shape = (height, width)
        self.window = window

    def __len__(self) -> int:
        """Returns the number of windows."""
        return len(self._rows.starts) * len(self._columns.starts)

    def _at(self, number):
        return divmod(number, len(self._columns.starts))

    def cut(self, pixels: np.ndarray) -> Iterator[np.ndarray]:
        """Yields the windows of `pixels [H, W, C]`, row by row: `[h, w, C]`, copies."""
        for number in range(len(self)):
            i, j = self._at(number)
            rows, columns = self._rows.mirrored(i), self._columns.mirrored(j)
            yield pixels[rows[:, None], columns]


class Assembly:
    """An image that is put together again from its purified windows.

    Besides the result a band as high as one window is held.

    Attributes:
        image: `[H, W, C]`, complete when the last window was added.
    """

    def __init__(self, layout: TileLayout, channels: int, dtype: Any):
        """Takes the type of the result: unsigned integers, or float32 in `[0, 1]`."""
        self._layout, self._added, self._top = layout, 0, 0
        height, width = layout.shape
        self.image = np.empty((height, width, channels), dtype)
        band = min(layout.window[0], height)
        self._band = np.zeros((band, width, channels), np.float32)

    @property
    def complete(self) -> bool:
        """Whether all windows were added."""
        return self._added == len(self._layout)

    def add(self, clean: np.ndarray) -> None:
        """Adds the next window `[h, w, C]`, float in `[0, 1]`, row by row."""
        layout = self._layout
        i, j = layout._at(self._added)
        rows, columns = layout._rows, layout._columns
        top, bottom = rows.inside(i)
        left, right = columns.inside(j)
        y, x = top - rows.first(i), left - columns.first(j)
        part = clean[y : y + bottom - top, x : x + right - left]
        weights = rows.weights(i)[:, None] * columns.weights(j)
        band = self._band[top - self._top : bottom - self._top, left:right]
        band += weights[..., None] * part
        self._added += 1
        if j + 1 == len(columns.starts):
            last = i + 1 == len(rows.starts)
            self._finish(bottom if last else rows.inside(i + 1)[0])

    def _finish(self, bottom):
        """Writes the rows above `bottom`, which no other window shows."""
        done = bottom - self._top
        self.image[self._top : bottom] = _quantized(self._band[:done], self.image.dtype)
        self._band[: len(self._band) - done] = self._band[done:].copy()
        self._band[len(self._band) - done :] = 0.0
        self._top = bottom
        if self.complete:
            self._band = np.zeros((0, 0, 0), np.float32)


def _quantized(values, dtype):
    if not np.issubdtype(dtype, np.integer):
        return values
    largest = np.iinfo(dtype).max
    return np.rint(np.clip(values, 0.0, 1.0) * largest).astype(dtype)
