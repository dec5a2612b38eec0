"""Turns image files and arrays into TFDS data sets, without TensorFlow.

Everything downstream then reads one kind of source. Images are stored as PNG,
without loss, in array_record files.
"""

import contextlib
import hashlib
import importlib.util
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps

from uronet_jax.array_files import map_array, read_archive
from uronet_jax.batches import check_whole
from uronet_jax.data import folders, packed, sources
from uronet_jax.data.folders import SplitImages
from uronet_jax.progress import progress_bar
from uronet_jax.specs import known_name, nearest_name

VERSION = "1.0.0"
_EXAMPLES_PER_SHARD = 10_000
_CHUNK = 500


class Prepared(NamedTuple):
    """A data set that was written, and what its user should know."""

    folder: Path  # `<data_dir>/<name>/<version>`.
    notes: Sequence[str]  # A sentence each, such as what was left out.


class _Found(NamedTuple):
    """What an input holds."""

    splits: dict[str, SplitImages]
    class_names: Sequence[str]
    notes: Sequence[str] = ()


class _ReadOptions(NamedTuple):
    """Those of `prepare` that are of reading."""

    skip_broken: bool
    scale_16bit: bool
    progress: bool


def prepare(
    name: str,
    *,
    source: str,
    input_path: str | os.PathLike | None = None,
    data_dir: str | os.PathLike | None = None,
    resize: tuple[int, int] | None = None,
    overwrite: bool = False,
    skip_broken: bool = False,
    scale_16bit: bool = False,
    spread_classes: bool = False,
    progress: bool = True,
) -> Prepared:
    """Writes the TFDS data set `name` with the features `image` and `label`.

    Args:
        name: Name of the new data set: lower-case letters, digits and `_`. For
            `packed` a key of `packed.SETS`, for `tfds` the official name, which may
            have a config (`name/config`).
        source: Where the images come from:
            `packed`: `input_path` is a folder of packed sets.
            `folder`: a folder of image files, `<class>/*.png` (one split, `train`) or
            `<split>/<class>/*.png`. Classes get their labels in order of name, and
            are spread evenly over the split. See `folders.read_folder`.
            `arrays`: an `.npz` file with `images` and `labels` (one split, `train`)
            or `x_train`, `y_train`, `x_test`, `y_test`, and optionally
            `class_names`; or a folder with `images.npy` and `labels.npy`. uint8
            `[N, H, W, C]` or `[N, H, W]`; their order stays.
            `tfds`: downloads an official set, which needs TensorFlow.
        input_path: Folder or file to read; none for `tfds`.
        data_dir: Folder to write to: see `sources.open_source`.
        resize: `(height, width)`: every image is scaled to cover this and the middle
            cut out. Not for `tfds`.
        overwrite: Replace the data set if it was prepared before. The old one stays
            until the new one is complete.
        skip_broken: Leave out image files of a folder that cannot be read.
        scale_16bit: Divide the intensities of 16-bit images of a folder by 257.
        spread_classes: Spread the classes evenly over each split, of arrays too.
        progress: Show a progress bar.

    Raises:
        FileNotFoundError: If input is missing.
        FileExistsError: If another process prepared the data set meanwhile.
        ValueError: If the input is not as described, holds images of different sizes
            and no `resize` is given, or the data set is already there.
    """
    known_name("source", source, INPUT_KINDS)
    if (input_path is None) != (source == "tfds"):
        raise ValueError(f"source {source!r} needs {_INPUTS[source]} as input")
    plain = name.isascii() and name.isidentifier() and name.islower()
    if source != "tfds" and not plain:
        raise ValueError(
            f"bad data set name {name!r}: use lower-case letters, digits and '_'"
        )
    if name in sources.BUILT_IN:
        raise ValueError(f"{name!r} is the name of a built-in data set: use another")
    if resize is not None:
        if source == "tfds" or not isinstance(resize, Sequence) or len(resize) != 2:
            raise ValueError(
                f"cannot resize to {resize} (source {source!r}): need height and width"
            )
        for side in resize:
            check_whole("each of resize", side, 1, 2**15)
    if (skip_broken or scale_16bit) and source != "folder":
        raise ValueError("skip_broken and scale_16bit are for folders of image files")
    folder = sources.resolve_data_dir(data_dir)
    old = sources.find_prepared(name, folder)
    if old and not overwrite:
        raise ValueError(
            f"{name} is already prepared in {old}: overwrite it (--overwrite) or "
            "choose another name"
        )
    if input_path is None:
        return Prepared(_prepare_official(name, folder, overwrite), ())
    if old and old.name != VERSION:
        raise ValueError(
            f"{old} is not written by this program and would hide version {VERSION}: "
            "choose another name"
        )
    if not Path(input_path).exists():
        raise FileNotFoundError(f"no such file or folder: {input_path}")
    options = _ReadOptions(skip_broken, scale_16bit, progress)
    found = READERS[source](name, Path(input_path), options)
    splits = found.splits
    if spread_classes:
        splits = {split: _spread(images) for split, images in splits.items()}
    shape = _common_shape(splits, resize)
    written = _write(
        name, folder, splits, found.class_names, shape, progress, overwrite
    )
    return Prepared(written, found.notes)


def _spread(images: SplitImages) -> SplitImages:
    order = sources.spread_classes(images.labels)
    return SplitImages(
        images.labels[order], lambda i: images.read(order[i]), images.shapes
    )


def _common_shape(splits, resize) -> tuple[int, int, int]:
    """Returns `(H, W, C)` for all images; grey becomes colour if both occur."""
    shapes = {s: n for images in splits.values() for s, n in images.shapes.items()}
    sizes = {shape[:2]: example for shape, example in shapes.items()}
    if resize is None and len(sizes) > 1:
        some = [f"{h}x{w} ({example})" for (h, w), example in sizes.items()]
        raise ValueError(
            f"images of {len(sizes)} sizes, as {', '.join(some[:3])}: bring them to "
            "one size with resize (--resize=HEIGHT,WIDTH)"
        )
    height, width = resize or next(iter(sizes))
    return height, width, max(shape[2] for shape in shapes)


def _write(name, folder, splits, class_names, shape, progress, overwrite) -> Path:
    import tensorflow_datasets as tfds

    mode = "RGB" if shape[2] == 3 else "L"
    size = (shape[1], shape[0])  # Pillow counts width first.

    def example(images, index):
        image = images.read(index).convert(mode)
        if image.size != size:
            image = ImageOps.fit(image, size, Image.Resampling.BICUBIC)
        # Pillow images, since TFDS needs TensorFlow to encode NumPy arrays.
        return {"image": image, "label": int(images.labels[index])}

    final = folder / name / VERSION
    final.parent.mkdir(parents=True, exist_ok=True)
    # Written beside its place and renamed when complete: an interrupted run leaves
    # nothing that looks prepared, and the old version stays until the end.
    with tempfile.TemporaryDirectory(prefix="incomplete.", dir=final.parent) as temp:
        complete = os.path.join(temp, "data")
        os.mkdir(complete)
        features = {
            "image": tfds.features.Image(shape=shape, encoding_format="png"),
            "label": tfds.features.ClassLabel(names=list(class_names)),
        }
        version = tfds.core.Version(VERSION)
        info = tfds.core.DatasetInfo(
            builder=tfds.core.DatasetIdentity(name, version, complete, __name__),
            description="Images with class labels, prepared by uronet_jax.",
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("image", "label"),
        )
        # Unlike a builder it keeps the order of the examples.
        writer = tfds.core.SequentialWriter(
            info, _EXAMPLES_PER_SHARD, file_format="array_record"
        )
        writer.initialize_splits(list(splits))
        with ThreadPoolExecutor() as pool:
            for split, images in splits.items():
                count = len(images.labels)
                text = {"description": f"{name} {split}", "unit": " images"}
                with progress_bar(count, **text, shown=progress) as bar:
                    for start in range(0, count, _CHUNK):
                        chunk = range(start, min(start + _CHUNK, count))
                        examples = pool.map(lambda i, s=images: example(s, i), chunk)
                        made = {split: list(examples)}
                        with _explained(final):
                            writer.add_examples(made)
                        bar.update(len(chunk))
        with _explained(final):
            writer.close_all()
        if overwrite and final.exists():
            shutil.rmtree(final)
        try:
            os.rename(complete, final)
        except OSError as error:
            if not final.exists():
                raise
            raise FileExistsError(
                f"another process has prepared {final} meanwhile: look whether it is "
                "what you want, or overwrite it (--overwrite)"
            ) from error
    return final


@contextlib.contextmanager
def _explained(folder: Path) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # Of array_record, for instance on a full disk.
        if type(error) is not RuntimeError:  # NotImplementedError is another matter.
            raise
        raise OSError(
            f"cannot write {folder} ({error}): free some space or choose another "
            "folder (--data_dir)"
        ) from error


def _prepare_official(name: str, folder: Path, overwrite: bool) -> Path:
    """Downloads and prepares an official TFDS set."""
    if importlib.util.find_spec("tensorflow") is None:
        raise ValueError(
            f"preparing the official TFDS set {name!r} needs TensorFlow, once: "
            'pip install "uronet_jax[prepare]". Image folders, arrays and packed '
            "files need none: give --input"
        )
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.registered import DatasetNotFoundError

    try:
        builder = tfds.builder(name, data_dir=folder, file_format="array_record")
    except DatasetNotFoundError as error:
        known = tfds.list_builders(with_community_datasets=False)
        raise ValueError(
            f"TFDS has no data set {name!r}{nearest_name(name, known)}"
        ) from error
    kept = "REUSE_CACHE_IF_EXISTS" if overwrite else "REUSE_DATASET_IF_EXISTS"
    config = tfds.download.DownloadConfig(download_mode=tfds.GenerateMode[kept])
    builder.download_and_prepare(download_config=config)
    return Path(builder.data_path)


def _images_of_arrays(images: np.ndarray, labels: np.ndarray, what: str) -> SplitImages:
    sources.check_arrays(images, labels, what)
    if images.ndim == 4 and images.shape[-1] == 1:
        images = images[..., 0]
    height, width, channels = (*images.shape[1:], 1)[:3]
    shapes = {(height, width, channels): what}
    return SplitImages(labels, lambda i: Image.fromarray(images[i]), shapes)


def _read_folder(name: str, folder: Path, options: _ReadOptions) -> _Found:
    return _Found(*folders.read_folder(folder, **options._asdict()))


def _read_packed(name: str, folder: Path, options: _ReadOptions) -> _Found:
    arrays, class_names, notes = packed.load_packed(name, folder)
    splits = {
        split: _images_of_arrays(images, labels, f"{name} {split}")
        for split, (images, labels) in arrays.items()
    }
    return _Found(splits, class_names, notes)


def _read_arrays(name: str, path: Path, options: _ReadOptions) -> _Found:
    arrays: dict[str, Any]
    if path.is_dir():
        files = [path / "images.npy", path / "labels.npy"]
        missing = [file.name for file in files if not file.is_file()]
        if missing:
            raise FileNotFoundError(f"missing in {path}: {', '.join(missing)}")
        arrays = {file.stem: map_array(file) for file in files}
    elif path.suffix == ".npz":
        arrays = read_archive(path)
    else:
        raise ValueError(
            f"need an .npz file or a folder of images.npy, labels.npy: {path}"
        )
    keys = {"train": ("images", "labels")}
    if "x_train" in arrays:
        keys = {"train": ("x_train", "y_train"), "test": ("x_test", "y_test")}
        keys = {split: pair for split, pair in keys.items() if pair[0] in arrays}
    missing = [key for pair in keys.values() for key in pair if key not in arrays]
    if missing:
        raise ValueError(
            f"{path} holds {', '.join(arrays)}, not {', '.join(missing)}: need images "
            "and labels, or x_train, y_train, x_test, y_test"
        )
    splits = {}
    for split, (x, y) in keys.items():
        labels = arrays[y].ravel() if arrays[y].ndim == 2 else arrays[y]  # Keras: 2-D.
        splits[split] = _images_of_arrays(arrays[x], labels, f"{path.name} {split}")
    count = 1 + max(int(images.labels.max()) for images in splits.values())
    class_names = [str(n) for n in arrays.get("class_names", range(count))]
    names = len(class_names)
    if names < count or len(set(class_names)) < names:
        raise ValueError(
            f"{path}: need a class name of its own for each label from 0 to "
            f"{count - 1}, got {names}, {len(set(class_names))} of them different"
        )
    return _Found(splits, class_names)


_INPUTS = {
    "packed": "a folder of packed files",
    "folder": "a folder of images",
    "arrays": "an .npz file or a folder of .npy files",
    "tfds": "nothing",
}

READERS: dict[str, Callable[[str, Path, _ReadOptions], _Found]] = {
    "folder": _read_folder,
    "packed": _read_packed,
    "arrays": _read_arrays,
}
INPUT_KINDS = (*READERS, "tfds")


def prepare_once(
    input_path: str | os.PathLike,
    *,
    data_dir: str | os.PathLike | None = None,
    resize: tuple[int, int] | None = None,
) -> tuple[str, list[str]]:
    """Prepares a folder or `.npz` file, if it is not there yet.

    Its classes are spread evenly over each split, so that any slice has all of them.

    Returns:
        The name of the data set, such as `photos_1f0c2ab9`: that of the folder or file,
        and a digest of the whole path and the size, so that it is no other's; and what
        the user should know. What is there already is not compared with the images of
        today.

    Raises:
        ValueError: See `prepare`.
        FileNotFoundError: If there is no such path.
    """
    path = Path(input_path).resolve()
    if not path.exists():
        raise FileNotFoundError(f"no such file or folder: {input_path}")
    stem = path.stem if path.is_file() else path.name
    made_of = hashlib.sha256(f"{path} {resize}".encode()).hexdigest()
    name = f"{re.sub('[^a-z0-9]', '_', stem.lower())}_{made_of[:8]}"
    name = name if name[0].isalpha() else f"data_{name}"
    folder = sources.resolve_data_dir(data_dir)
    found = sources.find_prepared(name, folder)
    if not found:
        try:
            prepared = prepare(
                name,
                source=deduce_source(name, path),
                input_path=path,
                data_dir=data_dir,
                resize=resize,
                spread_classes=True,
            )
            return name, [*prepared.notes, f"data set {name}, made of {path}"]
        except FileExistsError:  # By a training that began together with this one.
            found = sources.find_prepared(name, folder)
    return name, [
        f"data set {name}, made before of {path}: to include images that are new, "
        f"remove {found} first"
    ]


def learning_splits(name: str, data_dir: str | os.PathLike | None) -> tuple[str, str]:
    """Returns the splits that a set is learned and chosen by, if nobody names others.

    `train` and `validation` or `val`, or else 90 and 10 percent of `train`.
    """
    found = sources.find_prepared(name, sources.resolve_data_dir(data_dir))
    splits = sources.split_sizes(found) if found else {}
    for validation in ("validation", "val"):
        if validation in splits:
            return "train", validation
    return "train[:90%]", "train[90%:]"


def deduce_source(name: str, input_path: str | os.PathLike | None) -> str:
    """Returns the `source` of `prepare` that fits an input.

    No input means `tfds`; an `.npz` file or a folder with `images.npy` `arrays`; a
    folder with a file of the packed set `name` `packed`; any other path `folder`.
    """
    if input_path is None:
        return "tfds"
    path = Path(input_path)
    if path.suffix == ".npz" or (path / "images.npy").exists():
        return "arrays"
    files = packed.SETS[name].files.values() if name in packed.SETS else ()
    if any((path / file).exists() for group in files for file in group):
        return "packed"
    return "folder"
