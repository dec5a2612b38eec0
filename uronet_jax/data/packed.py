"""Readers of packed data sets: published image sets repacked without loss.

Each set is a handful of files in one folder: zip files of lossless WebP strips
(CIFAR), npz files (MNIST, Fashion-MNIST) or a tar of JPEG files (ImageNet subsets).
"""

import dataclasses
import functools
import io
import tarfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from uronet_jax.array_files import read_archive
from uronet_jax.data import sources
from uronet_jax.specs import known_name

PackedArrays = tuple[np.ndarray, np.ndarray]  # uint8 [N, H, W, C], int32 [N].

CIFAR10_CLASSES = (
    "airplane automobile bird cat deer dog frog horse ship truck"
).split()
CIFAR100_CLASSES = (
    "apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy "
    "bridge bus butterfly camel can castle caterpillar cattle chair chimpanzee clock "
    "cloud cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish "
    "forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion "
    "lizard lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange "
    "orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine "
    "possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper "
    "snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone "
    "television tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf "
    "woman worm"
).split()
FASHION_CLASSES = (
    "T-shirt/top,Trouser,Pullover,Dress,Coat,Sandal,Shirt,Sneaker,Bag,Ankle boot"
).split(",")


@dataclasses.dataclass(frozen=True)
class PackedSet:
    """Where a packed set lies and how to read it."""

    files: Mapping[str, Sequence[str]]  # Of each split, in order.
    read: Callable[[Path, str], PackedArrays]  # One file: `(path, split)`.
    class_names: Callable[[Path], Sequence[str]]  # Given the first file.
    optional: Sequence[str] = ()  # Splits that may be missing.


def load_packed(
    name: str, folder: str | Path, *, splits: Sequence[str] | None = None
) -> tuple[dict[str, PackedArrays], tuple[str, ...], list[str]]:
    """Reads a packed data set (a key of `SETS`) into memory, by default all splits.

    Returns:
        `{split: (images uint8 [N, H, W, C], labels int32 [N])}`, the class names, and
        a sentence for each split that was left out. Order is that of the files; sets
        stored by class (the tar files) are put in the order of
        `sources.spread_classes`.

    Raises:
        ValueError: If there is no such set or split.
        FileNotFoundError: If a file is missing. Only the training files of CIFAR-100
            may be: that split is then left out.
    """
    packed, found, notes = SETS[known_name("packed set", name, SETS)], {}, []
    for split in splits or packed.files:
        if split not in packed.files:
            raise ValueError(
                f"{name} has no split {split!r}: it has {', '.join(packed.files)}"
            )
        paths = [Path(folder) / file for file in packed.files[split]]
        missing = [path.name for path in paths if not path.is_file()]
        if not missing:
            found[split] = paths
        elif split in packed.optional and not splits and len(missing) == len(paths):
            notes.append(f"no {split} files in {folder}, split left out")
        else:
            raise FileNotFoundError(
                f"{name}, split {split}: missing in {folder}: {', '.join(missing)}"
            )
    class_names = tuple(_unpack(packed.class_names, next(iter(found.values()))[0]))
    arrays = {}
    for split, paths in found.items():
        parts = [_unpack(packed.read, path, split) for path in paths]
        images, labels = (np.concatenate(part) for part in zip(*parts, strict=True))
        arrays[split] = (images, labels.astype(np.int32))
    return arrays, class_names, notes


def _unpack(read: Callable, path: Path, *arguments: str) -> Any:
    """Returns `read(path, ...)`; ValueError if the file is none of a packed set."""
    try:
        return read(path, *arguments)
    except (zipfile.BadZipFile, tarfile.ReadError, OSError) as error:
        if getattr(error, "errno", None):  # Not of what is in the file.
            raise
        raise ValueError(
            f"{path} is damaged or no file of a packed set ({error}): copy it anew"
        ) from error


def _read_cifar(path: Path, split: str, *, label_file: str) -> PackedArrays:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        strips = sorted(n for n in names if n.endswith(".webp"))
        if not strips or label_file not in names:
            raise ValueError(f"{path} lacks strips or {label_file}: no packed set")
        files = [io.BytesIO(archive.read(name)) for name in (*strips, label_file)]
    images = [np.asarray(Image.open(strip)) for strip in files[:-1]]
    return np.concatenate(images).reshape(-1, 32, 32, 3), np.load(files[-1])


def _read_npz(path: Path, split: str) -> PackedArrays:
    arrays = read_archive(path)
    if missing := {"images", "labels"} - arrays.keys():
        raise ValueError(f"{path} lacks {', '.join(sorted(missing))}: no packed set")
    return arrays["images"][..., None], arrays["labels"]


def _tar_classes(path: Path) -> dict[str, str]:
    """Returns WordNet id to class name, in label order."""
    with tarfile.open(path) as archive:
        text = _read_member(archive, archive.next()).decode(errors="replace")
    rows = [row.split("\t") for row in text.splitlines()]
    if not rows or any(len(row) < 3 for row in rows):
        raise ValueError(f"{path} has no table of classes: no packed set")
    return {row[1]: row[2] for row in rows}


def _read_member(archive: tarfile.TarFile, member: tarfile.TarInfo | None) -> bytes:
    file = member and archive.extractfile(member)
    if not file:
        raise ValueError(f"{archive.name} is not laid out as a packed set")
    return file.read()


def _read_tar(path: Path, split: str) -> PackedArrays:
    folder = {"train": "train", "validation": "val"}[split]
    label_of = {wnid: label for label, wnid in enumerate(_tar_classes(path))}
    images, labels = [], []
    with tarfile.open(path) as archive:
        for member in archive:
            if member.name.startswith(f"{folder}/"):
                data = io.BytesIO(_read_member(archive, member))
                # A few files are grey.
                images.append(np.asarray(Image.open(data).convert("RGB")))
                wnid = member.name.split("/")[1]
                if wnid not in label_of:
                    raise ValueError(
                        f"{path}: {member.name} is of no class in its table"
                    )
                labels.append(label_of[wnid])
    order = sources.spread_classes(np.array(labels))
    return np.stack(images)[order], np.array(labels)[order]


def _cifar(name: str, label_file: str, class_names: Sequence[str], **kwargs):
    train = [f"{name}_train_{k}.zip" for k in range(1, 6)]
    files = {"train": train, "test": [f"{name}_test.zip"]}
    read = functools.partial(_read_cifar, label_file=label_file)
    return PackedSet(files, read, lambda path: class_names, **kwargs)


def _mnist(name: str, class_names: Sequence[str]) -> PackedSet:
    files = {"train": [f"{name}_train.npz"], "test": [f"{name}_test.npz"]}
    return PackedSet(files, _read_npz, lambda path: class_names)


def _imagenet(file: str) -> PackedSet:
    files = {"train": [file], "validation": [file]}
    return PackedSet(files, _read_tar, lambda path: list(_tar_classes(path).values()))


SETS: dict[str, PackedSet] = {
    "cifar10": _cifar("cifar10", "labels.npy", CIFAR10_CLASSES),
    "cifar100": _cifar(
        "cifar100", "fine_labels.npy", CIFAR100_CLASSES, optional=("train",)
    ),
    "mnist": _mnist("mnist", tuple("0123456789")),
    "fashion_mnist": _mnist("fashion_mnist", FASHION_CLASSES),
    "tiny_imagenet10": _imagenet("tiny_imagenet_10classes.tar.xz"),
    "imagenette224": _imagenet("imagenette224_small.tar"),
}
