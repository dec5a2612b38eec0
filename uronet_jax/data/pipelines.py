"""Pipelines: the batches of a training run, and of an evaluation, on a mesh.

Both training pipelines give the same examples in the same order, which Grain
defines: every example once an epoch, a new order each epoch, batches running on
across the end of an epoch. A batch depends only on its step, so that a run resumes
at a step without replaying what came before.

    pipeline = make_pipeline(source, batch_size=128, seed=0, mesh=mesh)
    xs = pipeline.inputs(step, count)
    # Inside jit, over many steps:
    jax.lax.scan(lambda state, x: train(state, pipeline.fetch(resident, x)), state, xs)

with `resident = pipeline.resident` passed to the jitted function as an argument.
"""

import functools
import math
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from uronet_jax import sharding
from uronet_jax.batches import check_array, check_images, check_whole
from uronet_jax.data.sources import PairedSource, Source
from uronet_jax.specs import known_name

Batch = dict[str, jax.Array]


def check_fits(batch_size: int, source: Source) -> None:
    """Raises ValueError if there are fewer images than a batch has."""
    if batch_size > len(source):
        raise ValueError(
            f"batch size {batch_size} is larger than {source.name}, split "
            f"{source.split}: set batch_size to at most its {len(source)} images"
        )


class _Pipeline:
    """What both pipelines share: checks, the order of examples, the position."""

    def __init__(
        self, source: Source, *, batch_size: int, seed: int, mesh: jax.sharding.Mesh
    ):
        sharding.check_batch_size(batch_size, mesh)
        check_fits(batch_size, source)
        check_whole("data seed", seed, 0, 2**32 - 1)
        import grain

        self._mesh = mesh
        order = grain.MapDataset.range(len(source)).seed(seed).shuffle().repeat()
        # Step -> the indices of its batch, int32 [B].
        self._batches: Any = order.batch(
            batch_size, batch_fn=lambda rows: np.asarray(rows, np.int32)
        )
        self._identity = {
            "name": source.name,
            "split": source.split,
            "num_examples": len(source),
            "batch_size": batch_size,
            "seed": seed,
        }

    def state(self, step: int) -> dict[str, Any]:
        """Returns what a checkpoint must hold, as JSON; `step` is the next step."""
        return {"step": step, **self._identity}

    def check_state(self, state: dict[str, Any]) -> None:
        """Raises ValueError if a checkpoint is of a run on other batches."""
        differ = [
            f"{field} is {now!r}, in the checkpoint {state.get(field)!r}"
            for field, now in self._identity.items()
            if state.get(field) != now
        ]
        if differ:
            raise ValueError(
                f"the checkpoint belongs to other training data: {'; '.join(differ)}. "
                "Use its settings, or start in an empty folder"
            )


class OnDevice(_Pipeline):
    """Images live on the devices as uint8, split over them; a batch is a gather.

    Attributes:
        resident: The arrays that `fetch` needs. Give them to the jitted function as
            an argument; a closure would copy them into the program.
    """

    def __init__(self, source: Source, **order: Any):
        """Reads all images and places them on the devices; see `make_pipeline`."""
        super().__init__(source, **order)
        mesh = self._mesh
        images, labels = source.arrays()
        padded = -(-len(source) // mesh.size) * mesh.size
        # Rows past the end, which no batch asks for, repeat the last example.
        rows = np.minimum(_local_rows(padded, mesh), len(source) - 1)
        resident = {"image": images[rows], "label": labels[rows]}
        if isinstance(source, PairedSource):
            resident["degraded"] = source.read_degraded(rows)
        self.resident = sharding.split_batch(resident, mesh)

    def inputs(self, step: int, count: int) -> jax.Array:
        """Returns the inputs of a scan over steps `step .. step + count - 1`.

        They are indices of examples, int32 `[count, B]`, on every device.
        """
        rows = np.stack([self._batches[step + i] for i in range(count)])
        return sharding.replicate(rows, self._mesh)

    def fetch(self, resident: Any, x: jax.Array) -> Batch:
        """Returns the batch of one row of `inputs`. Pure; call it inside jit.

        It is split over the mesh: `image` uint8 `[B, H, W, C]`, `label` int32 `[B]`,
        `index` int32 `[B]`, and `degraded` of a `PairedSource`.
        """
        # XLA gathers on each device the rows that it holds and sums over devices:
        # one batch travels, never the data set.
        batch = {
            name: array.at[x].get(mode="promise_in_bounds")
            for name, array in resident.items()
        }
        return sharding.constrain_batch({**batch, "index": x}, self._mesh)

    def close(self) -> None:
        """Frees the memory of the devices."""
        jax.tree.map(lambda array: array.delete(), self.resident)


class Streamed(_Pipeline):
    """Images are read from the source in threads, ahead of use.

    Each process reads only the rows of a batch that its own devices need.

    Attributes:
        resident: Empty: nothing stays on the devices.
    """

    resident = ()

    def __init__(self, source: Source, *, num_threads: int = 4, **order: Any):
        """Reading starts with the first `inputs`; see `make_pipeline`."""
        check_whole("num_threads", num_threads, 1, 1000)
        super().__init__(source, **order)
        import grain

        rows = _local_rows(order["batch_size"], self._mesh)

        def read(indices):
            return {**_read(source, indices[rows]), "index": indices[rows]}

        options = grain.ReadOptions(
            num_threads=num_threads, prefetch_buffer_size=2 * num_threads
        )
        self._iterator = iter(self._batches.map(read).to_iter_dataset(options))

    def inputs(self, step: int, count: int) -> Batch:
        """Returns the batches of steps `step .. step + count - 1`, stacked on axis 0.

        A call that goes on where the last one ended finds them read; any other starts
        to read at `step`.
        """
        if self._iterator.get_state() != {"next_index": step}:
            self._iterator.set_state({"next_index": step})
        batches = [next(self._iterator) for _ in range(count)]
        stacked = jax.tree.map(lambda *arrays: np.stack(arrays), *batches)
        return sharding.split_batch(stacked, self._mesh, axis=1)

    def fetch(self, resident: Any, x: Batch) -> Batch:
        """Returns one batch, as `OnDevice.fetch` does; `x` is one row of `inputs`."""
        del resident
        return sharding.constrain_batch(x, self._mesh)

    def close(self) -> None:
        """Stops the reading threads."""
        self._iterator.close()


PIPELINES: dict[str, type[OnDevice] | type[Streamed]] = {
    "on_device": OnDevice,
    "streamed": Streamed,
}


def check_pipeline(kind: str) -> None:
    """Raises ValueError unless `kind` is `auto` or a key of `PIPELINES`."""
    known_name("pipeline", kind, ("auto", *PIPELINES))


def make_pipeline(
    source: Source,
    *,
    kind: str = "auto",
    batch_size: int,
    seed: int,
    mesh: jax.sharding.Mesh,
    max_resident_bytes: int = 2 * 2**30,
    num_threads: int = 4,
) -> OnDevice | Streamed:
    """Returns a training pipeline.

    Args:
        source: Examples to train on.
        kind: `on_device`, `streamed`, or `auto`: on device if the images take at
            most `max_resident_bytes`.
        batch_size: Global batch size B, a multiple of the number of devices and at
            most the number of examples.
        seed: Seed of the order of examples, `0 .. 2**32 - 1`.
        mesh: Devices.
        max_resident_bytes: Limit for `auto`, over all devices together. The host
            needs as much while the images are read.
        num_threads: Batches that the streamed pipeline reads at the same time; twice
            as many wait.

    Raises:
        ValueError: If `kind` is unknown or a number is out of range.
    """
    check_pipeline(kind)
    if kind == "auto":
        size = source_bytes(source)
        kind = "on_device" if size <= max_resident_bytes else "streamed"
    options: dict[str, Any] = {"batch_size": batch_size, "seed": seed, "mesh": mesh}
    if kind == "streamed":
        options["num_threads"] = num_threads
    return PIPELINES[kind](source, **options)


def evaluation_batches(
    data: Source | tuple[np.ndarray, np.ndarray],
    *,
    batch_size: int,
    mesh: jax.sharding.Mesh,
) -> Iterator[Batch]:
    """Iterates once over all examples in order, in batches of one size.

    Args:
        data: A source, or images `[N, H, W, C]` and labels `[N]`.
        batch_size: Global batch size B, a multiple of the number of devices.
        mesh: Devices.

    Returns:
        Iterator over batches, split over `mesh`: `image` `[B, H, W, C]` in the dtype
        of the data, `label` int32 `[B]`, `index` int32 `[B]`, `mask` bool `[B]`. The
        last batch is filled up with black images of label 0 whose mask is False. Those
        of a `PairedSource` also have `degraded`.

    Raises:
        ValueError: If `batch_size` does not fit the mesh; if the data are neither, or
            images and labels differ in number or are none, float images are not in
            `[0, 1]`, or labels are not integers from 0 on.
    """
    sharding.check_batch_size(batch_size, mesh)
    if isinstance(data, tuple):
        images, labels = data
        check_array("images", images)
        check_array("labels", labels)
        if images.ndim != 4 or images.size == 0 or labels.shape != images.shape[:1]:
            raise ValueError(
                "need images [N, H, W, C], at least 1, and as many labels [N]: "
                f"{list(images.shape)} and {list(labels.shape)}"
            )
        if not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0:
            raise ValueError(
                f"labels must be integers from 0 on: {labels.dtype} from "
                f"{labels.min()} on"
            )
        if np.issubdtype(images.dtype, np.floating):
            check_images(images, None)
        length = len(images)

        def read(rows):
            return {"image": images[rows], "label": labels[rows]}
    else:
        if not hasattr(data, "image_shape"):
            raise ValueError(
                "need a source, or a tuple of images and labels, not a "
                f"{type(data).__name__}"
            )
        length, read = len(data), functools.partial(_read, data)
    return _evaluation_batches(length, read, batch_size, mesh)


def source_bytes(source: Source) -> int:
    """Returns how much memory the images of a source take, copies included."""
    copies = source.copies.nbytes if isinstance(source, PairedSource) else 0
    return len(source) * math.prod(source.image_shape) + copies


def _read(source: Source, rows: np.ndarray) -> dict[str, np.ndarray]:
    images, labels = source.read(rows)
    batch = {"image": images, "label": labels}
    if isinstance(source, PairedSource):
        batch["degraded"] = source.read_degraded(rows)
    return batch


def _evaluation_batches(length, read, batch_size, mesh):
    rows = _local_rows(batch_size, mesh)
    for start in range(0, length, batch_size):
        index = start + rows
        mask = index < length
        # Past the end stands the last example, so that a process without an example
        # of its own still knows the shape.
        batch = dict(read(np.minimum(index, length - 1)))
        for name, values in batch.items():
            shown = mask.reshape(-1, *[1] * (values.ndim - 1))
            batch[name] = np.where(shown, values, np.zeros_like(values))
        batch["label"] = batch["label"].astype(np.int32)
        batch |= {"index": index.astype(np.int32), "mask": mask}
        yield sharding.split_batch(batch, mesh)


def _local_rows(size: int, mesh: jax.sharding.Mesh) -> np.ndarray:
    """Returns which of `size` rows, split over `mesh`, this process holds."""
    split = sharding.batch_sharding(mesh)
    slices = split.addressable_devices_indices_map((size,)).values()
    return np.unique(np.concatenate([np.arange(size)[index] for index in slices]))
