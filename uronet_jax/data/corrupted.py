"""Corrupted test sets on disk, in the layouts of the published ones.

`write` makes them; `load_stored` reads them back, and the published ones as well:

    arrays, as CIFAR-10-C    <corruption>.npy, uint8 [S N, H, W, C], severity 1 first,
                             and labels.npy, [S N]; the N images in their order
    folders, as ImageNet-C   <corruption>/<severity>/<class>/<image>.JPEG; the
                             checksums of a severity are in its SHA256SUMS

`manifest.json` beside them says what the set is and holds the checksums of the files.
A file or severity has its name when it is complete: a writer that was killed goes on
where it stopped.
"""

import contextlib
import functools
import hashlib
import importlib.metadata
import io
import itertools
import json
import math
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

import uronet_jax
from uronet_jax import corruptions, sharding
from uronet_jax.array_files import map_array
from uronet_jax.batches import check_listed, check_whole
from uronet_jax.checkpoints import locked_workdir
from uronet_jax.data.folders import is_litter
from uronet_jax.data.pipelines import evaluation_batches
from uronet_jax.data.sources import Source, source_digest
from uronet_jax.progress import progress_bar
from uronet_jax.records import naming
from uronet_jax.specs import known_name

MANIFEST = "manifest.json"
_LABELS = "labels.npy"
_CHECKSUMS = "SHA256SUMS"
_PARTIAL = ".partial"
_PUBLISHED_SEVERITIES = (1, 2, 3, 4, 5)
_LARGEST_ARRAY_SIDE = 64  # Larger images are stored as JPEG files.
# Sources up to this size are decoded once, larger ones anew for every severity.
_RESIDENT_BYTES = 2**31

Manifest = dict[str, Any]
StoredExamples = tuple[np.ndarray, np.ndarray]  # uint8 [n, H, W, C], int32 [n].


def write(
    source: Source,
    folder: str | os.PathLike,
    *,
    suite: str,
    names: Sequence[str] | None = None,
    severities: Sequence[int] | None = None,
    seed: int = 0,
    layout: str | None = None,
    batch_size: int | None = None,
    frost_textures: corruptions.FrostTextures | None = None,
    mesh: jax.sharding.Mesh | None = None,
    progress: bool = True,
) -> None:
    """Writes a corrupted copy of a set, or what is still missing of it.

    Image `i` at one severity is what `corrupt` makes of it with the key
    `entry_key(seed, "<suite>/<corruption>", severity)` and the index `i`: it depends on
    neither batch size nor devices.

    Args:
        source: The clean images.
        folder: Where to write: new or empty, or holding a part of the same set. Other
            corruptions may be added to a set later.
        suite: Name in `corruptions.SUITES`.
        names: Corruptions of the suite; all by default.
        severities: All by default.
        seed: `0 .. 2**32 - 1`.
        layout: `arrays` or `folders`; by default `arrays` for sides of at most 64.
        batch_size: Global, a multiple of the number of devices. Default: about 256,
            above 64 pixels a side 64.
        frost_textures: The photographs for `frost`, of `data.frost.load_frost`. Without
            them its textures are procedural, and the manifest says so.
        mesh: Where to compute; all devices by default.
        progress: Whether there is a progress bar.

    Raises:
        ValueError: If a name or number is wrong, the images do not suit a corruption,
            the folder holds something else, or there are several processes.
        OSError: If the folder cannot be written, lacks space, or is being written.
    """
    if jax.process_count() > 1:
        raise ValueError(
            "a corrupted set is written by one process, with all of its devices: give "
            "each process its own corruptions and folder, and do not connect them"
        )
    folder = Path(folder)
    mesh = sharding.data_mesh() if mesh is None else mesh
    if batch_size is None:
        batch_size = 256 if max(source.image_shape[:2]) <= _LARGEST_ARRAY_SIDE else 64
        batch_size = math.ceil(min(batch_size, len(source)) / mesh.size) * mesh.size
    sharding.check_batch_size(batch_size, mesh)
    photographs = frost_textures is not None
    wanted = _describe(source, suite, names, severities, seed, layout, photographs)
    _join(folder, wanted)  # Raises before any work.
    batch = {
        "image": jax.ShapeDtypeStruct((batch_size, *source.image_shape), jnp.uint8),
        "index": jax.ShapeDtypeStruct((batch_size,), jnp.int32),
    }
    corrupters = {}
    for name in wanted["corruptions"]:
        frost = name == "frost" and photographs
        changes = (("textures", frost_textures),) if frost else ()
        corrupters[name] = make_corrupter(f"{suite}/{name}", changes, mesh)
        # A ValueError now, and not after hours, if it cannot take these images.
        corrupters[name].eval_shape(jax.random.key(0), jnp.int32(1), batch)
    with locked_workdir(folder):
        manifest = _join(folder, wanted)
        _save_manifest(folder, manifest)
        store = _open_store(folder, manifest)
        missing = {
            name: [s for s in manifest["severities"] if not store.is_done(name, s)]
            for name in corrupters
        }
        num_blocks = len(missing) * len(manifest["severities"])
        num_missing = sum(len(severities) for severities in missing.values())
        store.check_space(num_missing)
        data = source
        if math.prod((len(source), *source.image_shape)) <= _RESIDENT_BYTES:
            data = source.arrays()
        with progress_bar(
            num_blocks * len(source),
            (num_blocks - num_missing) * len(source),
            description=suite,
            unit=" images",
            shown=progress,
        ) as bar:
            for name, corrupter in corrupters.items():
                for severity in missing[name]:
                    bar.set_description(f"{name} {severity}")
                    key = corruptions.entry_key(seed, f"{suite}/{name}", severity)
                    batches = evaluation_batches(data, batch_size=batch_size, mesh=mesh)
                    examples = _corrupt(corrupter, key, severity, batches, mesh)
                    store.write(name, severity, _count(examples, bar))
                for file in store.finish(name):
                    if file not in manifest["files"]:
                        manifest["files"][file] = _sha256_of(folder / file)
                _save_manifest(folder, manifest)


@functools.lru_cache(maxsize=64)
def make_corrupter(
    name: str, changes: tuple[tuple[str, Any], ...], mesh: jax.sharding.Mesh
) -> Any:
    """Compiles a corruption for batches on a mesh; the same arguments compile once.

    `name` is `"<suite>/<corruption>"`, `changes` the sorted items of parameters and
    options that `corrupt` takes. Returns `corrupter(key, severity, batch) -> images`,
    uint8 and split over the mesh, for batches of `evaluation_batches` with uint8
    images. Key and severity, an int32 scalar, are to be replicated.
    """

    def run(key, severity, batch):
        images = batch["image"].astype(jnp.float32) / 255.0
        options = {"index": batch["index"], "uint8": True, **dict(changes)}
        return corruptions.corrupt(key, images, name, severity=severity, **options)

    return sharding.compile_split(run, mesh)


def load_stored(folder: str | os.PathLike, name: str, severity: int) -> StoredExamples:
    """Reads one corruption at one severity (1 or more).

    The folder is one of `write`; or of the published CIFAR-10-C or CIFAR-100-C, or of
    another set in one of the layouts, which have no manifest.

    Returns:
        Images, uint8 `[N, H, W, C]`, memory-mapped in the layout `arrays`, and labels,
        int32 `[N]`. The order is that of the clean images, but for folders without
        manifest: there images are sorted by class and file, and classes get their
        labels in order of name.

    Raises:
        FileNotFoundError: If the folder or this corruption is missing or unfinished.
        ValueError: If there is no such severity, or a file is not as expected.
    """
    manifest = read_manifest(folder)
    if severity not in manifest["severities"]:
        there = ", ".join(str(s) for s in manifest["severities"])
        raise ValueError(
            f"no severity {severity} of {name} in {folder}: choose from {there}"
        )
    return _open_store(folder, manifest).read(name, severity)


def list_stored(folder: str | os.PathLike) -> tuple[str, ...]:
    """Returns the corruptions that are complete in a folder; see `load_stored`.

    Raises:
        FileNotFoundError: If there are none.
    """
    manifest = read_manifest(folder)
    store = _open_store(folder, manifest)
    names = tuple(name for name in manifest["corruptions"] if store.is_complete(name))
    if not names:
        raise FileNotFoundError(f"no corruption is complete in {folder}")
    return names


def read_manifest(folder: str | os.PathLike) -> Manifest:
    """Returns the manifest of a corrupted set.

    Of a published set, which has none: `layout`, `severities`, the names of its
    `corruptions`, and `num_images`, None if unknown.

    Raises:
        FileNotFoundError: If there is no set.
        ValueError: If the manifest is damaged.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"no such folder: {folder}")
    if (folder / MANIFEST).exists():
        return _parse_manifest(folder / MANIFEST)
    found = [path for path in _visible(folder, "*/*") if path.name.isdigit()]
    count = None
    if (folder / _LABELS).exists():
        layout, severities = "arrays", _PUBLISHED_SEVERITIES
        count = len(_load_npy(folder / _LABELS)) // len(severities)
        arrays = {path.stem for path in _visible(folder, "*.npy")}
        names = arrays - {Path(_LABELS).stem}
    elif found:
        layout, severities = "folders", {int(path.name) for path in found}
        names = {path.parent.name for path in found}
    else:
        raise FileNotFoundError(
            f"no corrupted set in {folder}: need {MANIFEST}, or <corruption>.npy and "
            f"{_LABELS}, or <corruption>/<severity>/<class>/*.JPEG"
        )
    return {
        "layout": layout,
        "severities": sorted(severities),
        "num_images": count,
        "corruptions": sorted(names),
        "image_shape": None,
        "classes": None,
    }


def verify(folder: str | os.PathLike) -> int:
    """Compares the files of a set by `write` with its checksums; returns their number.

    Raises:
        ValueError: If files are missing or damaged, which it names; or if there is no
            manifest.
    """
    folder = Path(folder)
    if not (folder / MANIFEST).exists():
        raise ValueError(f"{folder} has no {MANIFEST}: its files cannot be verified")
    sums = _parse_manifest(folder / MANIFEST)["files"]
    for path in [folder / name for name in sums]:
        if path.name == _CHECKSUMS and path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                digest, file = line.split("  ", 1)
                sums[str(path.parent.relative_to(folder) / file)] = digest
    damaged = [
        name
        for name, digest in sums.items()
        if not (folder / name).exists() or _sha256_of(folder / name) != digest
    ]
    if damaged:
        raise ValueError(
            f"{len(damaged)} files in {folder} are missing or damaged, such as "
            f"{', '.join(damaged[:5])}: remove them and write the set again"
        )
    return len(sums)


def _describe(source, suite, names, severities, seed, layout, photographs) -> Manifest:
    """Returns the manifest of a set of which nothing is written."""
    names = corruptions.list_corruptions(suite) if names is None else names
    if severities is None:
        severities = corruptions.list_severities(suite)
    check_listed("names", names)
    check_listed("severities", severities)
    names, severities = list(names), sorted(set(severities))
    if not names or not severities:
        raise ValueError("name at least one corruption and one severity")
    described = {}
    for name in names:
        settings = [corruptions.find_corruption(suite, name, s) for s in severities]
        described[name] = {
            "function": settings[0][0],
            "parameters": [parameters for _, parameters in settings],
        }
    if "frost" in described:
        textures = "photographs" if photographs else "procedural"
        described["frost"]["textures"] = textures
    elif photographs:
        raise ValueError(f"frost photographs are of no use for {', '.join(names)}")
    check_whole("seed", seed, 0, 2**32 - 1)
    if layout is None:
        small = max(source.image_shape[:2]) <= _LARGEST_ARRAY_SIDE
        layout = "arrays" if small else "folders"
    known_name("layout", layout, FILE_LAYOUTS)
    classes = [re.sub(r"[^\w-]+", "_", name) for name in source.class_names]
    if layout == "folders" and len(set(classes)) < len(classes):
        raise ValueError(f"classes of {source.name} would share a folder: {classes}")
    packages = ("jax", "jaxlib", "numpy", "pillow")
    manifest = {
        "layout": layout,
        "dataset": source.name,
        "split": source.split,
        "num_images": len(source),
        "examples_sha256": source_digest(source),
        "image_shape": source.image_shape,
        "classes": classes,
        "suite": suite,
        "severities": [int(severity) for severity in severities],
        "seed": seed,
        "uronet_jax": uronet_jax.__version__,
        "corruptions": described,
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "unfinished": {},
        "files": {},
    }
    return json.loads(json.dumps(manifest))  # As it will be read: tuples are lists.


def _join(folder: Path, wanted: Manifest) -> Manifest:
    """Returns the manifest in `folder`, if of the same set, with what is wanted."""
    if not (folder / MANIFEST).exists():
        # What a writer leaves that was killed before it had a manifest.
        own = {".lock", MANIFEST + _PARTIAL}
        if folder.is_dir() and any(path.name not in own for path in folder.iterdir()):
            raise ValueError(
                f"{folder} is not empty and has no {MANIFEST}: choose another folder"
            )
        return wanted
    found = _parse_manifest(folder / MANIFEST)
    growing = ("corruptions", "versions", "unfinished", "files")
    differ = [
        f"{field}: {found.get(field)} there, {wanted[field]} now"
        for field in wanted
        if field not in growing and found.get(field) != wanted[field]
    ] + [
        f"{name}: {found['corruptions'][name]} there, {described} now"
        for name, described in wanted["corruptions"].items()
        if found["corruptions"].get(name, described) != described
    ]
    if differ:
        raise ValueError(
            f"{folder} holds another corrupted set ({'; '.join(differ)}): choose "
            "another folder"
        )
    return {**found, "corruptions": found["corruptions"] | wanted["corruptions"]}


def _corrupt(corrupter, key, severity, batches, mesh) -> Iterator[StoredExamples]:
    key, traced_severity = sharding.replicate((key, np.int32(severity)), mesh)

    def fetch(images, batch):
        mask = np.asarray(batch["mask"])
        return np.asarray(images)[mask], np.asarray(batch["label"])[mask]

    # The devices work on a batch while the one before it is written.
    dispatched = ((corrupter(key, traced_severity, batch), batch) for batch in batches)
    for waiting, _ in itertools.pairwise(itertools.chain(dispatched, [None])):
        yield fetch(*waiting)


def _count(examples: Iterable[StoredExamples], bar: Any) -> Iterator[StoredExamples]:
    for images, labels in examples:
        yield images, labels
        bar.update(len(images))


class _Store:
    def __init__(self, folder: Path, manifest: Manifest):
        self._folder, self._manifest = folder, manifest


class _Arrays(_Store):
    """`<corruption>.npy` with all severities, and `labels.npy`.

    A file is called `<corruption>.npy.partial` while severities are missing; those that
    are not are listed under `unfinished` in the manifest.
    """

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.npy"

    def _partial(self, name: str) -> Path:
        return self._folder / f"{name}.npy{_PARTIAL}"

    def is_complete(self, name: str) -> bool:
        path, severities = self._path(name), self._manifest["severities"]
        if not path.exists() or not (self._folder / _LABELS).exists():
            return False  # Lost labels are made again with the images.
        if self._manifest["image_shape"] is None:
            return True
        return path.stat().st_size > len(severities) * self._block_bytes()

    def is_done(self, name: str, severity: int) -> bool:
        done = severity in self._manifest["unfinished"].get(name, ())
        return self.is_complete(name) or (done and self._partial(name).exists())

    def check_space(self, num_blocks: int) -> None:
        needed = num_blocks * self._block_bytes()
        free = shutil.disk_usage(self._folder).free
        if free < needed:
            raise OSError(
                f"{self._folder} has {free / 1e6:.0f} MB free and the set needs "
                f"{needed / 1e6:.0f} MB more: free some space or choose another folder"
            )

    def _block_bytes(self) -> int:
        return self._manifest["num_images"] * math.prod(self._manifest["image_shape"])

    def write(self, name: str, severity: int, examples: Iterable) -> None:
        severities = self._manifest["severities"]
        unfinished = self._manifest["unfinished"]
        partial = self._partial(name)
        if name not in unfinished or not partial.exists():
            count = len(severities) * self._manifest["num_images"]
            shape = (count, *self._manifest["image_shape"])
            np.lib.format.open_memmap(partial, "w+", np.uint8, shape)
            unfinished[name] = []
        # Not through the memory map: on a full disk that would kill the process.
        with naming(partial), open(partial, "r+b") as file:
            blocks_to_end = len(severities) - severities.index(severity)
            file.seek(-blocks_to_end * self._block_bytes(), os.SEEK_END)
            labels = []
            for images, part in examples:
                file.write(images.tobytes())
                labels.append(part)
            _flush(file)
        if not (self._folder / _LABELS).exists():
            with _replacing(self._folder / _LABELS) as file:
                np.save(file, np.tile(np.concatenate(labels), len(severities)))
        unfinished[name].append(severity)
        _save_manifest(self._folder, self._manifest)

    def finish(self, name: str) -> list[str]:
        if self._partial(name).exists():
            os.replace(self._partial(name), self._path(name))
        self._manifest["unfinished"].pop(name, None)
        return [self._path(name).name, _LABELS]

    def read(self, name: str, severity: int) -> StoredExamples:
        images, labels = _load_npy(self._path(name)), _load_npy(self._folder / _LABELS)
        severities, count = self._manifest["severities"], self._manifest["num_images"]
        shape = self._manifest["image_shape"] or images.shape[1:]
        if (
            images.dtype != np.uint8
            or images.shape != (len(severities) * count, *shape)
            or images.ndim != 4
            or labels.shape != images.shape[:1]
            or not np.issubdtype(labels.dtype, np.integer)
        ):
            raise ValueError(
                f"{self._path(name)} and {_LABELS} must be uint8 [N, H, W, C] and "
                f"integer [N], {len(severities)} severities of {count} images: found "
                f"{images.dtype} {list(images.shape)}, {labels.dtype} "
                f"{list(labels.shape)}"
            )
        start = severities.index(severity) * count
        rows = slice(start, start + count)
        return images[rows], labels[rows].astype(np.int32)


class _Folders(_Store):
    """`<corruption>/<severity>/<class>/<number of the image>.JPEG`.

    A severity is called `<severity>.partial` until it is complete.
    """

    def _path(self, name: str, severity: int) -> Path:
        return self._folder / name / str(severity)

    def is_complete(self, name: str) -> bool:
        return all(self.is_done(name, s) for s in self._manifest["severities"])

    def is_done(self, name: str, severity: int) -> bool:
        return self._path(name, severity).is_dir()

    def check_space(self, num_blocks: int) -> None:
        """Does nothing: how far the images compress is not known."""

    def write(self, name: str, severity: int, examples: Iterable) -> None:
        final = self._path(name, severity)
        partial = final.with_name(final.name + _PARTIAL)
        if partial.exists():
            shutil.rmtree(partial)
        sums: list[str] = []

        def save(index, image, label):
            file = f"{self._manifest['classes'][label]}/{index:08d}.JPEG"
            data = io.BytesIO()
            pixels = image[..., 0] if image.shape[-1] == 1 else image
            # As ImageNet-C is stored.
            Image.fromarray(pixels).save(data, "JPEG", quality=85, optimize=True)
            (partial / file).parent.mkdir(parents=True, exist_ok=True)
            (partial / file).write_bytes(data.getvalue())
            return f"{hashlib.sha256(data.getvalue()).hexdigest()}  {file}\n"

        with ThreadPoolExecutor() as pool:
            for images, labels in examples:
                indices = range(len(sums), len(sums) + len(images))
                sums += pool.map(save, indices, images, labels)
        (partial / _CHECKSUMS).write_text("".join(sums), encoding="utf-8")
        os.replace(partial, final)

    def finish(self, name: str) -> list[str]:
        severities = self._manifest["severities"]
        return [f"{name}/{severity}/{_CHECKSUMS}" for severity in severities]

    def read(self, name: str, severity: int) -> StoredExamples:
        folder, count = self._path(name, severity), self._manifest["num_images"]
        files = sorted(_visible(folder, "*/*.JPEG"))
        if not files or len(files) != (count or len(files)):
            raise FileNotFoundError(
                f"{folder} holds {len(files)} of {count or 'some'} images"
            )
        classes = self._manifest["classes"]
        if classes is None:
            classes = sorted({path.parent.name for path in files})
        else:
            files.sort(key=lambda path: path.name)
        labels = np.array([classes.index(path.parent.name) for path in files], np.int32)
        with ThreadPoolExecutor() as pool:
            first = _decode(files[0])
            images = np.empty((len(files), *first.shape), np.uint8)
            for row, image in enumerate(pool.map(_decode, files)):
                if image.shape != first.shape:
                    raise ValueError(
                        f"images of {folder} differ in size: {files[0].name} is "
                        f"{list(first.shape)}, {files[row].name} {list(image.shape)}"
                    )
                images[row] = image
        return images, labels


FILE_LAYOUTS = {"arrays": _Arrays, "folders": _Folders}


def _open_store(folder: str | os.PathLike, manifest: Manifest) -> _Store:
    return FILE_LAYOUTS[manifest["layout"]](Path(folder), manifest)


def _visible(folder: Path, pattern: str) -> list[Path]:
    """Returns what matches, but for what systems and notebooks leave behind."""
    return [
        path
        for path in folder.glob(pattern)
        if not any(is_litter(Path(part)) for part in path.relative_to(folder).parts)
    ]


def _decode(path: Path) -> np.ndarray:
    try:
        with Image.open(path) as image:
            pixels = np.asarray(image)
    except (OSError, SyntaxError) as error:
        if getattr(error, "errno", None):  # Not of Pillow: no permission, for instance.
            raise
        raise ValueError(
            f"{path} is damaged ({error}): copy or make it anew"
        ) from error
    return pixels.reshape(*pixels.shape[:2], -1)


def _load_npy(path: Path) -> np.ndarray:
    if not path.exists():
        raise FileNotFoundError(
            f"no {path.name} in {path.parent}"
            + (": it is not finished" if Path(f"{path}{_PARTIAL}").exists() else "")
        )
    return map_array(path)


def _parse_manifest(path: Path) -> Manifest:
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if manifest["layout"] not in FILE_LAYOUTS:
            raise ValueError(f"layout {manifest['layout']!r}")
        for field in ("severities", "num_images", "corruptions", "files"):
            manifest[field]
    except (ValueError, KeyError, TypeError) as e:
        raise ValueError(f"{path} is damaged or not of a corrupted set: {e!r}") from e
    return manifest


def _save_manifest(folder: Path, manifest: Manifest) -> None:
    with _replacing(folder / MANIFEST) as file:
        file.write(json.dumps(manifest, indent=1).encode())


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """Opens a file that gets the name `path` when it is complete."""
    partial = Path(f"{path}{_PARTIAL}")
    with naming(partial), open(partial, "wb") as file:
        yield file
        _flush(file)
    os.replace(partial, path)


def _flush(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sha256_of(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
