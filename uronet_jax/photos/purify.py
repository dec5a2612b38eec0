"""Purifies picture files: finds, reads, purifies, writes, judges, and goes on.

    read (threads) -> tiles through the purifier -> write (threads)
      -> windows through the detector -> both pictures through the classifier -> record

Each arrow is a generator that pulls, so that a few pictures are held at a time.
"""

import csv
import dataclasses
import functools
import hashlib
import io
import itertools
import json
import math
import os
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from uronet_jax import sharding
from uronet_jax.attacks.adaptive import degraded_probability
from uronet_jax.batches import check_number
from uronet_jax.checkpoints import locked_workdir
from uronet_jax.defense import classifier_function, detector_input
from uronet_jax.host import num_threads
from uronet_jax.loading import (
    LoadedModel,
    check_detector,
    check_models_match,
    detector_inputs,
    load_classifier,
    load_detector,
    load_purifier,
)
from uronet_jax.photos import pictures, tiles, verdicts
from uronet_jax.photos.contact_sheet import SheetEntry, draw_contact_sheet
from uronet_jax.photos.finished import (
    FinishedPictures,
    concerns_folder,
    source_state,
    writable,
    write_whole,
)
from uronet_jax.photos.inputs import (
    CONTACT_SHEET,
    VERDICTS,
    FoundPicture,
    find_pictures,
)
from uronet_jax.photos.streams import bounded_map, in_batches
from uronet_jax.progress import Progress
from uronet_jax.purifiers import as_purifier

# Changes when the same settings give other files.
_VERSION = 2
COLUMNS = (
    *("file", "output", "width", "height", "degraded_probability", "verdict"),
    *("removed", "label_before", "confidence_before", "label_after"),
    *("confidence_after", "notes", "error"),
)
# Of a batch of tiles, and of pictures that are read or written at a time. A CPU gains
# nothing by large batches: they leave its caches, and the last of each size of windows
# is filled up with nothing.
_BATCH_PIXELS, _CPU_BATCH_PIXELS, _WAITING_PIXELS = 2**20, 2**16, 2**26
_LARGEST_BATCH = 256
# So that at most a thousand small ones wait.
_PRICE_OF_A_FILE = 2**16
_LOOKS = 256  # Heads of files that are read ahead.
_ON_SHEET = 12


@dataclasses.dataclass(frozen=True)
class PhotoModels:
    """What purifies pictures, and what judges them.

    Attributes:
        purifier: It and its variables.
        detector: Says how degraded they are; None says nothing.
        classifier: Labels them before and after; None does not.
    """

    purifier: LoadedModel
    detector: LoadedModel | None = None
    classifier: LoadedModel | None = None

    def __post_init__(self):
        """Raises ValueError if the models do not belong together."""
        check_models_match(self.purifier, self.detector)
        check_detector(self.detector, self.purifier)
        for model in (self.purifier, self.detector, self.classifier):
            shape = model and model.image_shape
            if shape and shape[-1] not in (1, 3):
                raise ValueError(
                    f"the {model.role} takes images of {shape[-1]} channels: pictures "
                    "have 1 or 3"
                )

    @property
    def trained(self) -> tuple[int, int, int] | None:
        """Image shape that purifier and detector were trained on, if any."""
        shape = self.purifier.image_shape
        return shape if shape or not self.detector else self.detector.image_shape


def load_photo_models(
    purifier: str | os.PathLike,
    detector: str | os.PathLike | None = None,
    classifier: str | os.PathLike | None = None,
) -> PhotoModels:
    """Loads what `purify_files` needs.

    Args:
        purifier: What `load_purifier` reads: a transformation, the folder of a run.
        detector: What `load_detector` reads, behind that purifier.
        classifier: What `load_classifier` reads. It is shown pictures of its own size.

    Raises:
        FileNotFoundError: If a run has no checkpoint.
        ValueError: If the models do not belong together.
    """
    return PhotoModels(
        load_purifier(purifier),
        load_detector(detector) if detector else None,
        load_classifier(classifier) if classifier else None,
    )


@dataclasses.dataclass(frozen=True)
class PurifiedFiles:
    """What `purify_files` did.

    Attributes:
        rows: What is in `verdicts.csv`, in order of the pictures.
        notes: What a user should know of files that were left out.
        made: How many were purified now.
        kept: How many were finished before.
        failed: How many have an error.
        left: How many were not reached, because somebody asked to stop.
    """

    rows: list[dict[str, Any]]
    notes: list[str]
    made: int
    kept: int
    failed: int
    left: int


@dataclasses.dataclass
class _Job:
    """A picture on its way."""

    found: FoundPicture
    row: dict[str, Any]
    state: list[Any]
    picture: pictures.DecodedPicture | None = None
    planes: list[np.ndarray] = dataclasses.field(default_factory=list)
    layout: tiles.TileLayout | None = None
    assemblies: list[tiles.Assembly] = dataclasses.field(default_factory=list)
    sample: verdicts.Sample | None = None
    probabilities: list[float] = dataclasses.field(default_factory=list)
    shown: list[np.ndarray] = dataclasses.field(default_factory=list)
    logits: list[np.ndarray] = dataclasses.field(default_factory=list)

    @property
    def number(self) -> int:
        """Tells the picture from others, whatever others there are."""
        # A name need not be text: whoever copies files may change their encoding.
        name = self.found.name.encode("utf-8", "surrogateescape")
        return zlib.crc32(name) & 0x7FFFFFFF

    def fail(self, error: Any) -> None:
        self.row["error"] = " ".join(str(error).split())
        self.release()

    def release(self) -> None:
        """Forgets pixels."""
        self.picture, self.planes, self.layout, self.assemblies = None, [], None, []


def purify_files(
    inputs: Sequence[str | os.PathLike],
    out: str | os.PathLike,
    models: PhotoModels,
    *,
    class_names: Sequence[str] | None = None,
    threshold: float = 0.5,
    tile: int = 512,
    same_suffix: bool = False,
    seed: int = 0,
    mesh: jax.sharding.Mesh | None = None,
    progress: Progress | None = None,
) -> PurifiedFiles:
    """Purifies picture files, and goes on where an earlier call stopped.

    Writes the pictures, `verdicts.csv` and `contact_sheet.png`. How pictures are cut is
    told in `tiles`, what a verdict means in `verdicts`, what of a file is kept in
    `pictures`. A result depends on its picture, its name and the settings alone; only a
    network that draws at random (`NetworkPurifier`) draws otherwise in another batch.

    Args:
        inputs: Files, folders and patterns, see `find_pictures`.
        out: Folder to write to: new or empty, or of an earlier call. What that made of
            these pictures stays, if picture, settings and weights are the same; the
            rest is removed and made anew.
        models: See `load_photo_models`.
        class_names: Names of the classifier's labels, instead of their numbers.
        threshold: A picture is called degraded above this probability.
        tile: Side of the windows of large pictures, in pixels.
        same_suffix: Write files of the same kind instead of PNG. Those of kinds that
            are not in `pictures.SAVING` fail.
        seed: Of random purifiers.
        mesh: Where to compute; all devices by default.
        progress: Shows how far it is and says when to stop: then what is under way is
            finished, and the table is of what is finished.

    Raises:
        FileNotFoundError: If there are no pictures.
        ValueError: If a setting is wrong, results would have one name, or the folder
            holds something else, such as results of other files of the same names.
        OSError: If it cannot be written to, or lacks space.
    """
    if jax.process_count() > 1:
        raise ValueError(
            "pictures are purified by one process, with all of its devices: give each "
            "process its own pictures and folder, and do not connect them"
        )
    check_number("threshold, a probability,", threshold, 0.0, 1.0)
    check_class_names(class_names, models.classifier)
    out, progress = Path(out), progress or Progress(shown=False)
    mesh = sharding.data_mesh() if mesh is None else mesh
    purifier = as_purifier(models.purifier.module)
    tiles.check_tile(tile, tiles.reach_of(purifier))
    found, notes = find_pictures(inputs, out, same_suffix=same_suffix)
    settings = {
        "version": _VERSION,
        "models": [
            model and model.identity
            for model in (models.purifier, models.detector, models.classifier)
        ],
        **{"tile": tile, "same_suffix": same_suffix, "seed": seed},
    }
    made_with = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:16]
    finished = FinishedPictures(out, made_with)  # Raises before the folder is made.
    with locked_workdir(out), pictures.trusted_sizes(), writable(out):
        finished = FinishedPictures(out, made_with)
        rows = finished.start({picture.output: picture.path for picture in found})
        kept = len(rows)
        for name in (VERDICTS, CONTACT_SHEET):
            (out / name).unlink(missing_ok=True)
        run = _Run(models, mesh, tile, seed, out)
        try:
            for job in run.purify([x for x in found if x.output not in rows], progress):
                rows[job.found.output] = job.row
                if "error" not in job.row:
                    finished.add(job.found.output, job.state, job.row)
        finally:
            complete = [rows[x.output] for x in found if x.output in rows]
            table = [_table_row(row, threshold, class_names) for row in complete]
            write_whole(out / VERDICTS, _csv(table))
        if len(rows) == len(found):
            _write_sheet(out, found, rows, table)
    failed = sum("error" in row for row in complete)
    made, left = len(rows) - kept - failed, len(found) - len(rows)
    return PurifiedFiles(table, notes, made, kept, failed, left)


def check_class_names(
    class_names: Sequence[str] | None, classifier: LoadedModel | None
) -> None:
    """Raises ValueError if names are not as many as a classifier's classes."""
    if class_names is None:
        return
    if classifier is None:
        raise ValueError("class names are of a classifier: give one, or no names")
    if len(class_names) != classifier.num_classes:
        raise ValueError(
            f"{len(class_names)} class names for a classifier of "
            f"{classifier.num_classes} classes"
        )


def _look_at(found):
    job = _Job(found, {"file": found.name, "output": found.output}, [])
    try:
        job.state = source_state(found.path)
        look = pictures.look_at_picture(found.path)
        pictures.check_suffix(Path(found.output).suffix)
        job.row |= {"width": look.width, "height": look.height}
        job.row["channels"] = look.channels
    except OSError as error:
        job.fail(error.strerror or error)
    except ValueError as error:
        job.fail(error)
    return job


class _Run:
    """The stages of the work, for one set of models on one mesh."""

    def __init__(self, models, mesh, tile, seed, out):
        self._models, self._mesh, self._tile, self._out = models, mesh, tile, out
        self._purifier = as_purifier(models.purifier.module)
        self._reach = tiles.reach_of(self._purifier)
        self._by_tiles = tiles.works_by_tiles(self._purifier)
        self._refusals: dict[tuple[int, ...], str | None] = {}
        self._key = sharding.replicate(jax.random.key(seed), mesh)
        shape = models.trained
        self._channels = shape[-1] if shape else None

    def purify(self, found, progress) -> Iterator[_Job]:
        """Yields a job for each picture when it is done, or has failed."""
        with (
            ThreadPoolExecutor(num_threads()) as pool,
            progress.bar(len(found), "purifying", " images") as bar,
        ):
            for job in self._finish(pool, found, progress, bar):
                yield job
                bar.set_postfix_str("", refresh=False)
                bar.update(1)

    def _finish(self, pool, found, progress, bar):
        # Pictures of one window in a row, so that they share batches.
        todo = []
        with progress.bar(len(found), "reading heads", " images", leave=False) as heads:
            unread = (picture for picture in found if not progress.stop())
            for job in bounded_map(pool, _look_at, unread, lambda _: 1, _LOOKS):
                if "error" in job.row:
                    yield job
                else:
                    todo.append(job)
                heads.update(1)
        if todo:
            bar.set_postfix_str("compiling")  # Until the first one is done.

        def going(jobs):
            return itertools.takewhile(lambda _: not progress.stop(), jobs)

        def threaded(function, jobs):
            return bounded_map(pool, function, jobs, self._price, _WAITING_PIXELS)

        # Reading is far ahead of purifying where that takes long, so both are asked.
        jobs = going(threaded(self._read, going(sorted(todo, key=self._order))))
        for stage in (
            self._clean,
            functools.partial(threaded, self._write),
            self._detect,
            self._classify,
        ):
            jobs = stage(jobs)
        for job in jobs:
            if "error" not in job.row:
                self._judge(job)
            job.release()
            job.sample, job.shown = None, []
            yield job

    def _order(self, job):
        size = job.row["height"], job.row["width"]
        return (*self._window(*size), job.row["channels"])

    def _price(self, job):
        height, width = job.row["height"], job.row["width"]
        price = height * width + _PRICE_OF_A_FILE
        if self._models.detector:  # Its windows are held when the picture is written.
            side, along = self._models.trained[:2]
            cover = (height + side) * (width + along)
            price += min(cover, verdicts.MAX_WINDOWS * side * along)
        return price

    def _window(self, height, width):
        if not self._by_tiles:
            return height, width
        return tiles.window_shape(
            height, width, self._tile, self._reach, self._models.trained
        )

    def _batch_size(self, shape):
        on_cpu = self._mesh.devices.flat[0].platform == "cpu"
        pixels = _CPU_BATCH_PIXELS if on_cpu else _BATCH_PIXELS
        size = min(max(pixels // (shape[0] * shape[1]), 1), _LARGEST_BATCH)
        return math.ceil(size / self._mesh.size) * self._mesh.size

    def _read(self, job):
        try:
            picture = pictures.read_picture(job.found.path)
        except ValueError as error:
            job.fail(error)
            return job
        height, width, channels = picture.pixels.shape
        job.row |= {"width": width, "height": height}
        window = self._window(height, width)
        layout = tiles.TileLayout(height, width, window, self._reach)
        if not self._by_tiles and max(window) > self._tile:
            job.fail(
                "what the purifier does depends on the whole picture, and it takes up "
                f"to {self._tile} pixels a side: choose larger tiles, or another one"
            )
            return job
        job.picture, job.layout = picture, layout
        job.planes = pictures.to_planes(picture.pixels, self._channels)
        refusal = self._refusal((*window, job.planes[0].shape[-1]))
        if refusal:
            job.fail(refusal)
            return job
        notes = list(picture.notes)
        if len(job.planes) > 1:
            notes.append("each colour purified as a grey image: the models are of grey")
        elif job.planes[0].shape[-1] != channels:
            notes.append("purified as three equal colours: the models are of colour")
        job.row["notes"] = "; ".join(notes)
        return job

    def _refusal(self, shape):
        """Returns why the purifier does not take windows of a shape, if so."""
        if shape not in self._refusals:
            images = jax.ShapeDtypeStruct((1, *shape), np.float32)
            numbers = jax.ShapeDtypeStruct((1,), np.int32)
            variables = self._models.purifier.variables
            try:
                jax.eval_shape(self._purifier, variables, images, self._key, numbers)
                self._refusals[shape] = None
            except ValueError as error:
                self._refusals[shape] = str(error)
        return self._refusals[shape]

    def _clean(self, jobs):
        program = _compile_purifier(self._purifier, self._mesh)
        variables = sharding.replicate(self._models.purifier.variables, self._mesh)

        def cut(job):
            layout = job.layout
            for i, plane in enumerate(job.planes):
                made = tiles.Assembly(layout, plane.shape[-1], plane.dtype)
                job.assemblies.append(made)
                for j, part in enumerate(layout.cut(plane)):
                    if "error" in job.row:  # Of a tile before.
                        return
                    yield part, (job.number + i * len(layout) + j) & 0x7FFFFFFF

        def add(job, clean):
            if "error" in job.row:
                return
            if not np.isfinite(clean).all():
                job.fail("the purifier gave numbers that are not finite")
                return
            next(a for a in job.assemblies if not a.complete).add(clean)

        def call(batch, numbers):
            split = sharding.split_batch((batch, numbers), self._mesh)
            return program(variables, self._key, *split)

        return in_batches(jobs, cut, call, add, self._batch_size)

    def _write(self, job):
        if "error" in job.row:
            return job
        picture = job.picture
        before = picture.pixels
        after = pictures.from_planes(
            [made.image for made in job.assemblies], before.shape[-1]
        )
        path = self._out / job.found.output
        try:
            data = pictures.encode_picture(picture, after, path.suffix)
        except ValueError as error:
            job.fail(error)
            return job
        try:
            write_whole(path, data)
        except OSError as error:
            if concerns_folder(error):
                raise
            job.fail(f"cannot be written to {path}: {error.strerror or error}")
            return job
        change = verdicts.measure_change(before, after)
        job.row |= {"removed": change.rms, "place": [change.row, change.column]}
        if self._models.detector:
            most = max(verdicts.MAX_WINDOWS // len(job.planes), 1)
            samples = [
                verdicts.sample_windows(plane, self._models.trained, most)
                for plane in job.planes
            ]
            job.sample = verdicts.Sample(
                *map(np.concatenate, zip(*samples, strict=True))
            )
        if self._models.classifier:
            shape = self._models.classifier.image_shape
            job.shown = [pictures.fitted(pixels, shape) for pixels in (before, after)]
        job.release()
        return job

    def _detect(self, jobs):
        models = self._models
        if not models.detector:
            return jobs
        program = _compile_detector(
            self._purifier,
            models.detector.module,
            detector_inputs(models.detector),
            self._mesh,
        )
        variables = sharding.replicate(
            (models.purifier.variables, models.detector.variables), self._mesh
        )

        def windows(job):
            if job.sample is None:
                return
            for i, window in enumerate(job.sample.windows):
                yield window, (job.number + i) & 0x7FFFFFFF

        def call(batch, numbers):
            split = sharding.split_batch((batch, numbers), self._mesh)
            return program(variables, self._key, *split)

        return in_batches(
            jobs,
            windows,
            call,
            lambda job, p: job.probabilities.append(float(p)),
            self._batch_size,
        )

    def _classify(self, jobs):
        model = self._models.classifier
        if not model:
            return jobs
        program = _compile_classifier(model.module, self._mesh)
        variables = sharding.replicate(model.variables, self._mesh)

        return in_batches(
            jobs,
            lambda job: ((pixels, 0) for pixels in job.shown),
            lambda batch, _: program(
                variables, sharding.split_batch(batch, self._mesh)
            ),
            lambda job, logits: job.logits.append(logits),
            self._batch_size,
        )

    def _judge(self, job):
        """Puts into the row what detector and classifier said."""
        if not np.isfinite([*job.probabilities, *np.ravel(job.logits)]).all():
            (self._out / job.found.output).unlink()
            job.fail("detector or classifier gave numbers that are not finite")
            return
        if job.probabilities:
            job.row["degraded_probability"] = float(np.mean(job.probabilities))
            corner = job.sample.corners[int(np.argmax(job.probabilities))]
            middle = corner + np.array(job.sample.windows.shape[1:3]) // 2
            job.row["place"] = middle.tolist()
        for when, logits in zip(("before", "after"), job.logits, strict=False):
            probabilities = np.asarray(jax.nn.softmax(jnp.asarray(logits)))
            job.row[f"label_{when}"] = int(probabilities.argmax())
            job.row[f"confidence_{when}"] = float(probabilities.max())


@functools.lru_cache(maxsize=16)
def _compile_purifier(purifier, mesh):
    def run(variables, key, images, numbers):
        return purifier(variables, images, key, numbers).clean

    return sharding.compile_split(run, mesh)


@functools.lru_cache(maxsize=16)
def _compile_detector(purifier, detector, inputs, mesh):
    def run(variables, key, images, numbers):
        separation = purifier(variables[0], images, key, numbers)
        features = detector_input(images, separation, inputs)
        return degraded_probability(detector.apply(variables[1], features, train=False))

    return sharding.compile_split(run, mesh)


@functools.lru_cache(maxsize=16)
def _compile_classifier(classifier, mesh):
    return sharding.compile_split(classifier_function(classifier), mesh)


def _table_row(row, threshold, class_names):
    row = dict.fromkeys(COLUMNS) | {k: v for k, v in row.items() if k in COLUMNS}
    if row["error"]:
        row["output"] = None
    if row["degraded_probability"] is not None:
        degraded = row["degraded_probability"] > threshold
        row["verdict"] = "degraded" if degraded else "clean"
    for when in ("before", "after"):
        label = row[f"label_{when}"]
        if class_names is not None and label is not None:
            row[f"label_{when}"] = class_names[label]
    return row


def _csv(table):
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in table:
        writer.writerow(
            {k: f"{v:.4f}" if isinstance(v, float) else v for k, v in row.items()}
        )
    # So that spreadsheets read names that are not English.
    return text.getvalue().encode("utf-8-sig", "backslashreplace")


def _write_sheet(out, found, rows, table):
    """Draws the pictures that are degraded most, or lost most where nobody judged."""
    good = [
        (picture, rows[picture.output], shown)
        for picture, shown in zip(found, table, strict=True)
        if not shown["error"]
    ]
    good.sort(
        key=lambda x: (x[1].get("degraded_probability", 0.0), x[1]["removed"]),
        reverse=True,
    )
    if good:
        entries = (_sheet_entry(out, *x) for x in good[:_ON_SHEET])
        write_whole(out / CONTACT_SHEET, draw_contact_sheet(entries))


def _sheet_entry(out, picture, row, shown):
    before = pictures.read_picture(picture.path).pixels
    after = pictures.read_picture(out / picture.output).pixels
    parts = [f"{row['width']}x{row['height']}"]
    if "degraded_probability" in row:
        parts.append(f"degraded {row['degraded_probability']:.0%}")
    parts.append(f"removed {row['removed']:.3f}")
    if "label_before" in row:
        labels = shown["label_before"], shown["label_after"]
        parts.append(" -> ".join(map(str, dict.fromkeys(labels))))
    return SheetEntry(
        picture.name, ", ".join(parts), before, after, tuple(row["place"])
    )
