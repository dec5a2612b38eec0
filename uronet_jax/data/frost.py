"""Photographs of frost, which come with the code of the corruption benchmarks."""

from pathlib import Path

import numpy as np
from PIL import Image

from uronet_jax.batches import check_number
from uronet_jax.corruptions.frost import FrostTextures, stack_textures

# Six files exist, but the originals draw a number from 0 to 4: the last goes unused.
_USED = 5
# What the makers of the benchmarks shrink the photographs by.
FROST_SCALES = {"imagenet_c": 1.0, "tiny_c": 0.3, "cifar_c": 0.2}


def load_frost(frost_dir: str | Path, *, scale: float = 1.0) -> FrostTextures:
    """Reads the photographs for `textures` of the corruption `frost`.

    Args:
        frost_dir: Folder with `frost1.png` to `frost6.jpg` of
            github.com/hendrycks/robustness. The first five names that begin with
            "frost" are used, as there.
        scale: What they are shrunk by, in `(0, 1]`; see `FROST_SCALES`.

    Raises:
        ValueError: If the folder or the pictures in it are missing or unreadable, or
            the scale is out of range.
    """
    check_number("scale of frost pictures", scale, high=1.0, above=0.0)
    expected = "expected the folder with frost1.png ... frost6.jpg of the benchmarks"
    folder = Path(frost_dir)
    if not folder.is_dir():
        raise ValueError(f"no folder {folder}: {expected}")
    files = sorted([*folder.glob("frost*.png"), *folder.glob("frost*.jp*g")])[:_USED]
    if not files:
        raise ValueError(f"no frost pictures in {folder}: {expected}")
    pictures = []
    for file in files:
        try:
            with Image.open(file) as image:
                picture = np.asarray(image.convert("RGB"))
        except OSError as error:
            raise ValueError(f"cannot read {file}: {error}; {expected}") from error
        pictures.append(shrink(picture, scale))
    return stack_textures(pictures, str(folder))


def load_suite_frost(frost_dir: str | Path, suite: str) -> FrostTextures:
    """Reads the photographs as the makers of a suite shrink them; see `load_frost`.

    Raises:
        ValueError: As there, or if they are not for this suite.
    """
    if suite not in FROST_SCALES:
        raise ValueError(
            f"frost photographs are for {', '.join(FROST_SCALES)} only, not {suite}"
        )
    return load_frost(frost_dir, scale=FROST_SCALES[suite])


def shrink(picture: np.ndarray, scale: float) -> np.ndarray:
    """Resizes a picture bilinearly, without smoothing it first.

    This is `cv2.resize(picture, (0, 0), fx=scale, fy=scale)` with its default
    interpolation, up to 1 grey level.

    From uint8 `[H, W, C]` to uint8 `[round(scale * H), round(scale * W), C]`.
    """
    resized = picture.astype(np.float64)
    for axis in (0, 1):
        size = picture.shape[axis]
        # Centres of pixels fall on centres of pixels.
        position = (np.arange(round(size * scale)) + 0.5) / scale - 0.5
        position = position.clip(0.0, size - 1)
        first = np.floor(position).astype(int)
        share = (position - first).reshape((-1,) + (1,) * (2 - axis))
        low = resized.take(first, axis)
        high = resized.take(np.minimum(first + 1, size - 1), axis)
        resized = low + share * (high - low)
    return np.rint(resized).astype(np.uint8)
