"""Folders of image files as people have them: `<class>/*` or `<split>/<class>/*`."""

import collections
import dataclasses
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from uronet_jax.data import sources
from uronet_jax.progress import progress_bar

_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
# What systems leave behind, besides hidden files.
_LITTER = ("thumbs.db", "desktop.ini", "__macosx")
_SPLITS = ("train", "test", "val", "validation")
_EXIF_ORIENTATION = 0x0112
# Pillow's mode of images with 16 bits a channel, in memory also with 32.
_DEEP = "I"


@dataclasses.dataclass(frozen=True)
class SplitImages:
    """The images of one split, read one by one."""

    labels: np.ndarray  # int [N].
    read: Callable[[int], Image.Image]
    shapes: dict[tuple[int, int, int], str]  # Each (H, W, C), and an image that has it.


class _Seen(NamedTuple):
    """What a look at a file showed."""

    shape: tuple[int, int, int]  # (H, W, C).
    broken: str  # Why it cannot be read, or nothing.
    deep: bool  # More than 8 bits a channel.
    frames: int


def read_folder(
    root: Path,
    *,
    skip_broken: bool = False,
    scale_16bit: bool = False,
    progress: bool = False,
) -> tuple[dict[str, SplitImages], list[str], list[str]]:
    """Finds the images of a folder, and decodes each once to see which are broken.

    A folder with images right in it is a class, and so are its neighbours; otherwise
    the folders at the top are splits. What lies deeper belongs to its class. Hidden
    files and what systems leave behind (`Thumbs.db`, `__MACOSX`) are passed over.
    Links are followed, but into each folder of a class once, and not to a folder that
    they lie in; a link of an image that leads nowhere is a broken image.

    Args:
        root: The folder.
        skip_broken: Leave out images that cannot be read.
        scale_16bit: Divide the intensities of 16-bit images by 257.
        progress: Show a progress bar.

    Returns:
        The splits, the class names in order of their labels, and what a user should
        know, a sentence each: what was left out, and classes that a split lacks.

    Raises:
        ValueError: If there are no images, images cannot be read or have more than 8
            bits a channel, or a class has no images to learn from.
    """
    if not root.is_dir():
        raise ValueError(f"not a folder: {root}")
    found, notes = _find(root)
    paths = [
        path for split in found.values() for group in split.values() for path in group
    ]
    if not paths:
        raise ValueError(
            f"no images in class folders of {root}: need <class>/* or "
            f"<split>/<class>/* with files {' '.join(_SUFFIXES)}"
            + "".join(f"; {note}" for note in notes)
        )
    seen = _look(paths, progress)
    broken = {path: x.broken for path, x in seen.items() if x.broken}
    if broken and not skip_broken:
        listed = "; ".join(f"{path} ({why})" for path, why in _first(broken.items()))
        raise ValueError(
            f"{len(broken)} of {len(paths)} images cannot be read: {listed}"
            f"{_more(broken)}: mend or remove them, or leave them out "
            "(`uronet prepare --skip_broken`)"
        )
    if broken:
        listed = ", ".join(str(path) for path in _first(broken))
        notes.append(f"{len(broken)} broken images left out: {listed}{_more(broken)}")
    whole = {path: x for path, x in seen.items() if not x.broken}
    deep = [path for path, x in whole.items() if x.deep]
    if deep and not scale_16bit:
        raise ValueError(
            f"{len(deep)} images have more than 8 bits a channel, the first {deep[0]}: "
            "convert them, or let 65535 become 255 (`uronet prepare --scale_16bit`)"
        )
    moving = [path for path, x in whole.items() if x.frames > 1]
    if moving:
        notes.append(
            f"{len(moving)} images have several frames, the first {moving[0]}: only "
            "the first frame is read"
        )
    found = {
        split: {name: [p for p in group if p in whole] for name, group in of.items()}
        for split, of in found.items()
    }
    notes += _check_classes(root, found)
    class_names = sorted({name for of in found.values() for name in of if of[name]})
    splits = {
        split: _split_images(of, class_names, whole) for split, of in found.items()
    }
    return splits, class_names, notes


def _find(root: Path) -> tuple[dict[str, dict[str, list[Path]]], list[str]]:
    """Returns split -> class -> images, and notes on files that are left out."""
    above = _lineage(root)
    tops = _folders(root, above)
    direct = {top: _images(top) for top in tops}
    if any(direct.values()):
        # Else the splits would become classes.
        for top in (x for x in tops if x.name.lower() in _SPLITS):
            if any(_images_below(folder, above) for folder in _folders(top, above)):
                stray = next(path for images in direct.values() for path in images)
                raise ValueError(
                    f"{top} holds class folders, but there are images outside of such "
                    f"folders, the first {stray}: move them into one, or away"
                )
        found = {"train": {top.name: _images_below(top, above) for top in tops}}
    else:
        found = {
            top.name: {f.name: _images_below(f, above) for f in _folders(top, above)}
            for top in tops
        }
    notes = []
    if outside := _images(root):
        notes.append(f"{len(outside)} images outside class folders left out")
    below = _files_below(root, above)
    others = {x for x in below if x.suffix.lower() not in _SUFFIXES}
    if lost := sorted(path for path in others if not path.exists()):
        notes.append(f"{len(lost)} links lead nowhere, the first {lost[0]}: left out")
    other = collections.Counter(x.suffix.lower() for x in others.difference(lost))
    if other:
        counts = ", ".join(f"{n} {x or 'without'}" for x, n in sorted(other.items()))
        notes.append(f"files of other kinds (by suffix) left out: {counts}")
    return found, notes


def _images(folder: Path) -> list[Path]:
    """Returns the images right in a folder, in order of name."""
    return _in_order(_files(folder))


def _images_below(folder: Path, above: set[Path]) -> list[Path]:
    return _in_order(_files_below(folder, above))


def _in_order(files: Iterable[Path]) -> list[Path]:
    return sorted(path for path in files if path.suffix.lower() in _SUFFIXES)


def _files(folder: Path) -> list[Path]:
    """Returns files, and links that lead nowhere."""
    inside = [path for path in folder.iterdir() if not is_litter(path)]
    return [path for path in inside if path.is_file() or not path.exists()]


def _files_below(folder: Path, above: set[Path]) -> list[Path]:
    """Returns the files of a folder and of those below it, each folder once."""
    files, waiting, seen = [], [folder], above | _lineage(folder)
    while waiting:
        here = waiting.pop()
        files += _files(here)
        for path in _folders(here, seen):
            if path.resolve() not in seen:  # Two links may lead to one.
                seen.add(path.resolve())
                waiting.append(path)
    return files


def _folders(folder: Path, seen: set[Path]) -> list[Path]:
    """Returns the folders in a folder, without links to those that are `seen`."""
    seen = seen | _lineage(folder)
    inside = sorted(path for path in folder.iterdir() if path.is_dir())
    return [p for p in inside if not is_litter(p) and p.resolve() not in seen]


def _lineage(folder: Path) -> set[Path]:
    """Returns where a folder is, and all folders that it lies in."""
    folder = folder.resolve()
    return {folder, *folder.parents}


def is_litter(path: Path) -> bool:
    """Returns whether a file or folder is hidden or left behind by a system."""
    return path.name.startswith(".") or path.name.lower() in _LITTER


def _look(paths: Sequence[Path], progress: bool) -> dict[Path, _Seen]:
    """Looks at every image, decoding all of it."""
    text, seen = {"description": "reading", "unit": " images"}, {}
    with (
        ThreadPoolExecutor() as pool,
        progress_bar(len(paths), **text, shown=progress) as bar,
    ):
        for path, found in zip(paths, pool.map(_look_at, paths), strict=True):
            seen[path] = found
            bar.update()
    return seen


def _look_at(path: Path) -> _Seen:
    try:
        if not os.path.getsize(path):
            raise OSError("empty file")
        with Image.open(path) as image:
            image.load()
            channels = 3 if image.mode not in ("1", "L", "LA") else 1
            if image.mode.startswith("F"):
                raise ValueError("floating-point pixels: convert them to 8 bits")
            deep = image.mode.startswith(_DEEP)
            if deep:
                low, high = np.min(image), np.max(image)
                if not 0 <= low <= high <= 65535:
                    raise ValueError(f"{low:g} to {high:g}, expected 0 to 65535")
            turned = image.getexif().get(_EXIF_ORIENTATION, 1) >= 5
            height, width = image.size if turned else image.size[::-1]
            shape = (height, width, 1 if deep else channels)
            return _Seen(shape, "", deep, getattr(image, "n_frames", 1))
    except Image.UnidentifiedImageError:
        return _Seen((0, 0, 0), "no image", False, 1)
    # SyntaxError is what Pillow raises for a broken PNG.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return _Seen((0, 0, 0), str(error), False, 1)


def _open(path: Path) -> Image.Image:
    image = Image.open(path)
    ImageOps.exif_transpose(image, in_place=True)  # Cameras store rotated pictures.
    if image.mode.startswith(_DEEP):
        levels = np.asarray(image, np.float64)
        image = Image.fromarray(np.rint(levels / 257).astype(np.uint8))
    return image


def _check_classes(root: Path, found: dict[str, dict[str, list[Path]]]) -> list[str]:
    """Raises ValueError for classes that cannot be learned; returns notes on others."""
    own = {split: {c for c in of if of[c]} for split, of in found.items()}
    everywhere = set().union(*own.values())
    notes = []
    for split, of in found.items():
        # Of a split for tests a class may be missing, one to be learned may not.
        needed = set(of) if split == "train" else set(of) - everywhere
        empty = sorted(needed - own[split])
        if empty or not own[split]:
            folders = ", ".join(map(str, empty)) or split
            raise ValueError(
                f"{root}: no images that can be read in class folders of {split}: "
                f"{folders}: remove these folders, or put images there"
            )
        train = own.get("train", own[split])
        if own[split] - train:
            classes = ", ".join(sorted(own[split] - train))
            notes.append(f"{split} has classes that train lacks: {classes}")
        if train - own[split]:
            classes = ", ".join(sorted(train - own[split]))
            notes.append(f"{split} lacks classes of train: {classes}")
    return notes


def _split_images(
    of: dict[str, list[Path]], class_names: Sequence[str], seen: dict[Path, _Seen]
) -> SplitImages:
    label_of = {name: label for label, name in enumerate(class_names)}
    paths = [path for group in of.values() for path in group]
    labels = np.array([label_of[name] for name, group in of.items() for _ in group])
    order = sources.spread_classes(labels)
    paths = [paths[i] for i in order]
    shapes: dict[tuple[int, int, int], str] = {}
    for path in paths:
        shapes.setdefault(seen[path].shape, str(path))
    return SplitImages(labels[order], lambda i: _open(paths[i]), shapes)


def _first(items: Iterable) -> list:
    return list(items)[:5]


def _more(items: Sequence) -> str:
    return f" and {len(items) - 5} more" if len(items) > 5 else ""
