"""Pictures from files of any format that Pillow reads, and back.

What is purified are intensities: grey or red, green and blue. Kept beside them are
transparency, colour profile, and the camera's notes (not those of a TIFF) but for the
rotation, which is applied. Everything else, such as resolution, gamma and XMP, is not.
"""

import contextlib
import dataclasses
import io
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps

# More would take more memory than is fair: a picture is held twice.
MAX_PIXELS = 2**28
# What Pillow opens and that holds no pixels of one picture: drawings, films, data.
_NO_PICTURES = ("EPS", "WMF", "MPEG", "HDF5", "GRIB", "BUFR", "PDF")
# Several pictures in a file that nobody means to move: a photograph and its preview.
_STILL = ("MPO", "ICO", "ICNS")
_DEEP_MODES = ("I", "I;16", "I;16L", "I;16B", "I;16N")
_GREY_MODES = ("1", "L", "LA", "La", *_DEEP_MODES)
_EXIF_ORIENTATION = 0x0112
# Formats whose notes of the camera are nothing else: those of a TIFF say where its
# pixels are.
_WITH_EXIF = ("JPEG", "MPO", "PNG", "WEBP", "AVIF")
_UNLIMITED = threading.Lock()

# Format -> options with which nothing is lost, or (JPEG, AVIF) little. Not here are
# formats that lose more, such as GIF, and those that pictures are rarely in.
SAVING: dict[str, dict[str, Any]] = {
    "PNG": {"compress_level": 4},  # Files of 6, the usual one, in two thirds the time.
    "JPEG": {"quality": 95, "subsampling": 0, "optimize": True},
    "WEBP": {"lossless": True, "exact": True},
    "TIFF": {"compression": "tiff_adobe_deflate"},
    "JPEG2000": {"irreversible": False},
    "AVIF": {"quality": 100, "subsampling": "4:4:4"},
    "BMP": {},
    "PPM": {},
    "TGA": {},
}
# Those that Pillow would write, but without some of it.
_NOT_DEEP, _NOT_CLEAR = ("WEBP", "AVIF"), ("BMP", "PPM")


class Look(NamedTuple):
    """What the head of a file says."""

    height: int  # As stored, before a rotation.
    width: int
    channels: int


@dataclasses.dataclass
class DecodedPicture:
    """A decoded picture.

    Attributes:
        pixels: `[H, W, 1]` or `[H, W, 3]`, uint8, or uint16 if grey.
        alpha: uint8 `[H, W]`, None where there is none.
        notes: What a user should know about how it was read.
        keep: What is saved with it as it was: Pillow's options.
    """

    pixels: np.ndarray
    alpha: np.ndarray | None
    notes: list[str]
    keep: dict[str, Any]


def picture_suffixes() -> frozenset[str]:
    """Returns the suffixes of files that may hold a picture, lower case."""
    known = Image.registered_extensions()
    return frozenset(
        suffix
        for suffix, name in known.items()
        if name in Image.OPEN and name not in _NO_PICTURES
    )


@contextlib.contextmanager
def trusted_sizes() -> Iterator[None]:
    """Lets Pillow open pictures of any size: here `MAX_PIXELS` is the limit."""
    with _UNLIMITED:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """Raises ValueError with a short reason for whatever Pillow raises."""
    try:
        yield
    except Image.UnidentifiedImageError as error:
        raise ValueError("no image") from error
    except (Image.DecompressionBombError, MemoryError) as error:
        raise ValueError(f"too large: {error}") from error
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from error
    except ValueError:
        raise
    except Exception as error:  # Broken files make Pillow raise whatever there is.
        raise ValueError(f"broken: {error}") from error


def look_at_picture(path: Path) -> Look:
    """Reads the head of a file.

    Raises:
        ValueError: Why it cannot be purified.
    """
    with _explained():
        if not path.stat().st_size:
            raise ValueError("empty file")
        with Image.open(path) as image:
            _check_still(image)
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise ValueError(
                    f"{width}x{height} pixels are more than {MAX_PIXELS}: cut it up"
                )
            return Look(height, width, 1 if image.mode in _GREY_MODES else 3)


def _check_still(image):
    if image.format in _NO_PICTURES:
        raise ValueError(f"{image.format} files are no pictures of pixels")
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format not in _STILL:
        raise ValueError(f"{frames} frames: only still pictures are purified")


def read_picture(path: Path) -> DecodedPicture:
    """Decodes a file.

    Grey of up to 16 bits stays what it is. Palettes become colours; other colour spaces
    become red, green and blue, which a note says.

    Raises:
        ValueError: Why it cannot be purified.
    """
    with _explained(), Image.open(path) as image:
        _check_still(image)
        # Before `load`, which forgets it.
        deep_colour = any(";16" in str(tile) for tile in getattr(image, "tile", ()))
        image.load()
        turned = image.getexif().get(_EXIF_ORIENTATION, 1) != 1
        ImageOps.exif_transpose(image, in_place=True)
        notes = ["rotated as its camera says"] if turned else []
        if deep_colour and image.mode not in _DEEP_MODES:
            notes.append("16 bits a colour are read as 8")
        exif = image.getexif() if image.format in _WITH_EXIF else None
        keep = {
            "icc_profile": image.info.get("icc_profile"),
            "exif": exif.tobytes() if exif else None,
        }
        return _picture(image, notes, keep)


def _picture(image, notes, keep):
    if image.mode == "F":
        raise ValueError("floating-point pixels: convert them to 16-bit grey")
    if image.mode in _DEEP_MODES:
        levels = np.asarray(image)
        if levels.min() < 0 or levels.max() > 65535:
            raise ValueError(
                f"intensities {levels.min()} to {levels.max()}: need 0 to 65535"
            )
        pixels = levels.astype(np.uint16)[..., None]
        return DecodedPicture(pixels, None, notes, _without_nones(keep))
    if image.mode not in ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa"):
        notes.append(f"{image.mode} became RGB")
        keep["icc_profile"] = None  # It was one of that colour space.
    image = image.convert(_plain_mode(image))
    bands = np.asarray(image)
    bands = bands.reshape(*bands.shape[:2], -1)
    alpha = None
    if image.mode in ("LA", "RGBA"):
        bands, alpha = bands[..., :-1], bands[..., -1]
    return DecodedPicture(bands, alpha, notes, _without_nones(keep))


def _without_nones(options):
    return {name: value for name, value in options.items() if value is not None}


def _plain_mode(image):
    clear = image.mode in ("LA", "La", "PA", "RGBA", "RGBa")
    clear = clear or "transparency" in image.info
    if image.mode in ("1", "L", "LA", "La"):
        return "LA" if clear else "L"
    return "RGBA" if clear else "RGB"


def encode_picture(picture: DecodedPicture, pixels: np.ndarray, suffix: str) -> bytes:
    """Returns a file of other `pixels` and everything else of a picture.

    Args:
        picture: What the pixels were made of.
        pixels: Of the same shape and type as its own.
        suffix: `.png`, without loss, or another of the formats in `SAVING`.

    Raises:
        ValueError: If the format cannot hold this.
    """
    bands = pixels
    if picture.alpha is not None:
        bands = np.concatenate([bands, picture.alpha[..., None]], axis=-1)
    image = Image.fromarray(bands[..., 0] if bands.shape[-1] == 1 else bands)
    name = check_suffix(suffix)
    if pixels.dtype == np.uint16 and name in _NOT_DEEP:
        raise ValueError(f"cannot be written as {suffix}: it has 16 bits")
    if picture.alpha is not None and name in _NOT_CLEAR:
        raise ValueError(f"cannot be written as {suffix}: it is transparent")
    data = io.BytesIO()
    try:
        image.save(data, name, **picture.keep, **SAVING[name])
    except Exception as error:  # Pillow raises whatever there is.
        raise ValueError(f"cannot be written as {suffix}: {error}") from error
    return data.getvalue()


def check_suffix(suffix: str) -> str:
    """Returns the format of files of a suffix; ValueError if none are written."""
    name = Image.registered_extensions().get(suffix.lower())
    if name not in SAVING:
        raise ValueError(f"{suffix} files are not written: leave out same_suffix")
    return name


def to_planes(pixels: np.ndarray, channels: int | None) -> list[np.ndarray]:
    """Returns the planes that a purifier of so many channels is shown.

    Grey is shown to a purifier of colours as three equal ones. Of colours, one of grey
    is shown each as an image of its own, so that none is lost.

    Args:
        pixels: `[H, W, 1]` or `[H, W, 3]`.
        channels: 1, 3, or None for any.
    """
    if channels == 1:
        return np.split(pixels, pixels.shape[-1], axis=-1)
    if channels == 3 and pixels.shape[-1] == 1:
        return [np.broadcast_to(pixels, (*pixels.shape[:2], 3))]
    return [pixels]


def from_planes(planes: list[np.ndarray], channels: int) -> np.ndarray:
    """Undoes `to_planes`; three colours that are to be grey become their luma."""
    if len(planes) > 1:
        return np.concatenate(planes, axis=-1)
    if planes[0].shape[-1] == channels:
        return planes[0]
    return luma_of(planes[0])


def luma_of(pixels: np.ndarray) -> np.ndarray:
    """Returns the luma (ITU-R BT.601) of `[H, W, 3]`, `[H, W, 1]` of the same type."""
    weights = np.array([0.299, 0.587, 0.114], np.float32)
    grey = np.einsum("hwc,c->hw", pixels, weights)[..., None]
    return np.rint(grey).astype(pixels.dtype)


def fitted(pixels: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Returns the picture as a classifier takes it, float32 `[H, W, C]` in `[0, 1]`.

    Scaled to cover `shape` (bicubic, antialiased) and the middle cut out, as the data
    sets are prepared; grey repeated or colours turned into luma. A picture of that size
    stays as it is.
    """
    height, width, channels = shape
    scale = np.float32(np.iinfo(pixels.dtype).max)
    if pixels.dtype != np.uint8:
        pixels = np.rint(pixels / scale * 255).astype(np.uint8)
        scale = np.float32(255)
    if pixels.shape[-1] > channels:
        pixels = luma_of(pixels)
    if pixels.shape[:2] != (height, width):
        image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
        fit = ImageOps.fit(image, (width, height), Image.Resampling.BICUBIC)
        pixels = np.asarray(fit).reshape(height, width, -1)
    return np.broadcast_to(pixels, shape).astype(np.float32) / scale
