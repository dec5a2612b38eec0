"""Which pictures are meant by files, folders and patterns, and what they become."""

import collections
import glob
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from uronet_jax.data.folders import is_litter
from uronet_jax.photos.pictures import picture_suffixes

CONTACT_SHEET = "contact_sheet.png"
VERDICTS = "verdicts.csv"
_WILD = "*?["


class FoundPicture(NamedTuple):
    """A file that is to be purified.

    Attributes:
        path: Where it is.
        name: What it is called in tables: its path below the folder that was named.
        output: Where its result goes, below the output folder.
    """

    path: Path
    name: str
    output: str


def find_pictures(
    inputs: Sequence[str | os.PathLike],
    out: str | os.PathLike,
    *,
    same_suffix: bool = False,
) -> tuple[list[FoundPicture], list[str]]:
    """Finds pictures and names their results.

    Args:
        inputs: Files; folders, in which everything deep down with the suffix of a
            picture is meant; or patterns of both such as `photos/**/*.jpg`. Hidden
            files and what systems leave behind are meant only if named, and so are
            folders behind links.
        out: Where results go: each as far below it as the picture is below the folder
            that was named, or below the folder that a pattern's wildcards begin in.
        same_suffix: Whether results keep the suffix, instead of `.png`.

    Returns:
        The pictures, in order and each once, and notes on what was left out.

    Raises:
        FileNotFoundError: If something named is not there, or there is no picture.
        ValueError: If a result would have the name of another, or results would lie
            among the pictures.
        OSError: If a folder cannot be read.
    """
    if isinstance(inputs, str | os.PathLike):  # One, and not its letters.
        inputs = [inputs]
    out, suffixes = Path(out), picture_suffixes()
    found: dict[Path, tuple[Path, str]] = {}
    other, links = set(), set()
    for given in map(os.fspath, inputs):
        for path, below, named in _expand(given):
            if path.is_dir():
                links.add(path)
            elif named or path.suffix.lower() in suffixes:
                name = path.relative_to(below).as_posix()
                found.setdefault(path.resolve(), (path, name))
            else:
                other.add(path)
        if Path(given).is_dir() and _is_below(out, Path(given)):
            raise ValueError(
                f"the output folder {out} is {given} or inside it: results would be "
                "taken for pictures next time; choose a folder elsewhere"
            )
    if not found:
        listed = ", ".join(map(os.fspath, inputs)) or "nothing"
        raise FileNotFoundError(
            f"no pictures in {listed}: name image files, folders with some, or "
            "patterns such as 'photos/*.jpg'"
        )
    pictures = []
    for real, (path, name) in found.items():
        if _is_below(real, out):
            raise ValueError(
                f"{path} lies in the output folder {out}: choose another folder"
            )
        keep = same_suffix and path.suffix
        output = name if keep else Path(name).with_suffix(".png").as_posix()
        pictures.append(FoundPicture(path, name, output))
    _check_outputs(pictures)
    notes = []
    if links:
        listed = ", ".join(map(str, sorted(links)))
        notes.append(f"folders behind links left out (name them): {listed}")
    if other:
        kinds = collections.Counter(x.suffix.lower() or "without" for x in other)
        counts = ", ".join(f"{n} {suffix}" for suffix, n in sorted(kinds.items()))
        notes.append(f"files of other kinds (by suffix) left out: {counts}")
    return pictures, notes


def _expand(given):
    """Yields `(file, the folder it is named below, whether it was named itself)`.

    A folder that is yielded is one behind a link.
    """
    path = Path(given)
    if path.is_dir():
        yield from ((file, path, False) for file in _files_below(path))
    elif path.exists():
        yield path, path.parent, True
    elif any(sign in given for sign in _WILD):
        # A folder that is there may have such signs in its name.
        below = next(folder for folder in path.parents if folder.exists())
        pattern = str(path.relative_to(below))
        found = glob.glob(pattern, root_dir=below, recursive=True)
        for match in sorted(below / name for name in found):
            if match.is_dir():
                yield from ((file, below, False) for file in _files_below(match))
            else:
                # `*` means everything that is a picture; `*.xyz` is somebody's wish.
                suffix = path.suffix
                yield match, below, bool(suffix) and not set(suffix) & set(_WILD)
    else:
        raise FileNotFoundError(f"no such file or folder: {given}")


def _files_below(folder):
    for root, folders, files in os.walk(folder, onerror=_raise):
        folders[:] = sorted(f for f in folders if not is_litter(Path(f)))
        links = [f for f in folders if (Path(root) / f).is_symlink()]
        paths = (Path(root) / name for name in sorted(files + links))
        yield from (path for path in paths if not is_litter(path))


def _raise(error):
    raise error


def _is_below(path: Path, folder: Path) -> bool:
    path, folder = path.resolve(), folder.resolve()
    return path == folder or folder in path.parents


def _check_outputs(pictures):
    # On many file systems, names of either case are one.
    taken = {CONTACT_SHEET.casefold(): "the contact sheet"}
    for picture in pictures:
        output = picture.output.casefold()
        if output in taken:
            raise ValueError(
                f"{picture.path} and {taken[output]} would both become "
                f"{picture.output}: keep suffixes (--same_suffix), rename one, or "
                "purify them into folders of their own"
            )
        taken[output] = str(picture.path)
