"""Pipelines: order of examples, equality of both kinds, masks, several processes."""

import json
import socket
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uronet_jax import sharding
from uronet_jax.data import (
    PIPELINES,
    OnDevice,
    PairedSource,
    Streamed,
    evaluation_batches,
    make_pipeline,
    open_source,
    sources,
)

SIZE, BATCH = 22, 8  # 22 examples: neither devices nor batches divide them.


class CountingSource(sources.ArraySource):
    """Remembers which rows were read."""

    def __init__(self, size=SIZE):
        rng = np.random.default_rng(0)
        images = rng.integers(0, 256, (size, 4, 3, 1), dtype=np.uint8)
        super().__init__("toy", "train", images, np.arange(size) % 5, "abcde")
        self.rows_read = []

    def read(self, indices):
        self.rows_read.append(np.asarray(indices))
        return super().read(indices)


@pytest.fixture
def source():
    return CountingSource()


@pytest.fixture
def unused_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def make(kind, source, mesh, *, batch_size=BATCH, seed=0, **kwargs):
    return make_pipeline(
        source, kind=kind, batch_size=batch_size, seed=seed, mesh=mesh, **kwargs
    )


def run(pipeline, step, count):
    """Returns the batches of some steps, as a training loop gets them."""

    @jax.jit
    def scan(resident, xs):
        def body(_, x):
            return None, pipeline.fetch(resident, x)

        return jax.lax.scan(body, None, xs)[1]

    return jax.device_get(scan(pipeline.resident, pipeline.inputs(step, count)))


@pytest.mark.parametrize("kind", sorted(PIPELINES))
def test_every_example_once_an_epoch_in_a_new_order(kind, source, mesh):
    pipeline = make(kind, source, mesh)
    batches = run(pipeline, 0, SIZE)  # 22 steps of 8 are 8 epochs of 22.
    chex.assert_shape(batches["image"], (SIZE, BATCH, 4, 3, 1))
    chex.assert_type([batches["image"], batches["label"]], [np.uint8, np.int32])
    order = batches["index"].reshape(-1, SIZE)
    np.testing.assert_array_equal(np.sort(order), np.tile(np.arange(SIZE), (8, 1)))
    assert len({tuple(epoch) for epoch in order}) == 8
    # The images and labels are those of the indices.
    images, labels = source.arrays()
    np.testing.assert_array_equal(batches["image"], images[batches["index"]])
    np.testing.assert_array_equal(batches["label"], labels[batches["index"]])
    pipeline.close()


def test_streamed_equals_on_device_after_any_jump(source, mesh):
    on_device, streamed = (
        make(kind, source, mesh) for kind in ("on_device", "streamed")
    )
    for step in (0, 3, 6, 1, 1000):  # Goes on, jumps back, jumps ahead.
        chex.assert_trees_all_equal(run(on_device, step, 3), run(streamed, step, 3))
    long = on_device.inputs(0, 7)
    chex.assert_trees_all_equal(long[4:6], on_device.inputs(4, 2))
    other = make("on_device", source, mesh, seed=1).inputs(0, 7)
    assert not np.array_equal(long, other)
    streamed.close()


def test_one_device_gives_the_same_batches(source, mesh):
    single = sharding.data_mesh(jax.devices()[:1])
    for kind in PIPELINES:
        batches = (run(make(kind, source, where), 2, 3) for where in (mesh, single))
        chex.assert_trees_all_equal(*batches)


@pytest.mark.parametrize("kind", sorted(PIPELINES))
def test_batches_are_split_over_the_devices(kind, source, mesh):
    pipeline = make(kind, source, mesh)
    for array in jax.tree.leaves(pipeline.resident):
        assert array.sharding.spec == jax.P("data") and array.shape[0] == 24
    x = jax.tree.map(lambda array: array[0], pipeline.inputs(0, 1))
    compiled = jax.jit(pipeline.fetch).lower(pipeline.resident, x).compile()
    batch = compiled(pipeline.resident, x)
    split = sharding.batch_sharding(mesh)
    for array in jax.tree.leaves(batch):
        assert array.sharding.is_equivalent_to(split, array.ndim)
    # The data set itself, 24 images, never travels.
    assert "u8[24," not in compiled.as_text()
    pipeline.close()


def test_streamed_reads_on_in_sequence(source, mesh):
    pipeline = make("streamed", source, mesh, num_threads=1)
    for step in range(4):
        pipeline.inputs(step, 1)
    pipeline.close()
    # Four batches used and at most two waiting, one in work: none is read twice.
    assert 4 <= len(source.rows_read) <= 7


def test_state_round_trips_and_names_what_differs(source, mesh):
    pipeline = make("on_device", source, mesh)
    state = json.loads(json.dumps(pipeline.state(17)))
    assert state["step"] == 17
    pipeline.check_state(state)
    make("streamed", source, mesh).check_state(state)  # Both kinds agree.
    with pytest.raises(ValueError, match="seed is 1.*checkpoint 0") as error:
        make("on_device", source, mesh, seed=1).check_state(state)
    assert "batch_size" not in str(error.value)
    with pytest.raises(ValueError, match="batch_size is 4.*checkpoint 8"):
        make("on_device", source, mesh, batch_size=4).check_state(state)
    with pytest.raises(ValueError, match="num_examples is 23.*checkpoint 22"):
        make("on_device", CountingSource(23), mesh).check_state(state)
    with pytest.raises(ValueError, match="name is 'toy'"):
        pipeline.check_state({})


def paired(source, copies=(), dtype=np.uint8):
    shape = (len(source), *copies, *source.image_shape)
    high = np.iinfo(dtype).max + 1
    degraded = np.random.default_rng(1).integers(0, high, shape, dtype)
    return PairedSource(source, degraded)


def test_kind_is_chosen_by_size(source, mesh):
    clean = SIZE * 4 * 3
    assert isinstance(make("auto", source, mesh), OnDevice)
    # Copies count as well: here two of 16 bits.
    for data, size in ((source, clean), (paired(source, (2,), np.uint16), 5 * clean)):
        at_limit = make("auto", data, mesh, max_resident_bytes=size)
        assert isinstance(at_limit, OnDevice)
        beyond = make("auto", data, mesh, max_resident_bytes=size - 1)
        assert isinstance(beyond, Streamed)


@pytest.mark.parametrize(
    "copies, dtype", [((), np.uint8), ((), np.uint16), ((3,), np.uint8)]
)
def test_degraded_copies_ride_in_the_batches(copies, dtype, source, mesh):
    data = paired(source, copies, dtype)
    images, labels = source.arrays()
    batches = [run(make(kind, data, mesh), 2, 3) for kind in PIPELINES]
    chex.assert_trees_all_equal(*batches)  # Steps 2 to 4 run over the epoch's end.
    index = batches[0]["index"]
    assert batches[0]["degraded"].dtype == dtype
    np.testing.assert_array_equal(batches[0]["degraded"], data.copies[index])
    np.testing.assert_array_equal(batches[0]["image"], images[index])
    np.testing.assert_array_equal(batches[0]["label"], labels[index])
    found = list(evaluation_batches(data, batch_size=BATCH, mesh=mesh))
    found = jax.tree.map(lambda *arrays: np.concatenate(arrays), *found)
    np.testing.assert_array_equal(found["degraded"][:SIZE], data.copies)
    np.testing.assert_array_equal(found["image"][:SIZE], images)
    assert len(found["degraded"]) == 24 and not found["degraded"][SIZE:].any()


@pytest.mark.parametrize("batch_size", [8, 64])
def test_evaluation_drops_nothing(batch_size, source, mesh):
    images, labels = source.arrays()
    for data in (source, (images, labels)):
        batches = list(evaluation_batches(data, batch_size=batch_size, mesh=mesh))
        assert len(batches) == -(-SIZE // batch_size)
        for array in jax.tree.leaves(batches):
            assert array.shape[0] == batch_size
            assert array.sharding.spec == jax.P("data")
        joined = jax.tree.map(lambda *arrays: np.concatenate(arrays), *batches)
        mask = joined["mask"]
        assert mask.dtype == bool and mask.sum() == SIZE and mask[:SIZE].all()
        np.testing.assert_array_equal(joined["image"][mask], images)
        np.testing.assert_array_equal(joined["label"][mask], labels)
        np.testing.assert_array_equal(joined["index"], np.arange(len(mask)))
        assert not joined["image"][~mask].any() and not joined["label"][~mask].any()
        assert joined["image"].dtype == np.uint8 and joined["label"].dtype == np.int32


def test_evaluation_takes_float_images(mesh):
    images = np.linspace(0, 1, 5 * 4, dtype=np.float32).reshape(5, 2, 2, 1)
    (batch,) = evaluation_batches((images, np.arange(5)), batch_size=8, mesh=mesh)
    assert batch["image"].dtype == jnp.float32
    np.testing.assert_array_equal(batch["image"][:5], images)


# Run by each of two processes with two devices each.
WORKER = """
import sys
import jax
import numpy as np
process, port, out = int(sys.argv[1]), sys.argv[2], sys.argv[3]
jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(f"127.0.0.1:{port}", 2, process)
from uronet_jax import sharding
from uronet_jax.data import evaluation_batches, make_pipeline, open_source

mesh = sharding.data_mesh()
assert mesh.size == 4
source = open_source("generated_grey", "train[:22]")
read, rows_read = source.read, []
source.read = lambda rows: rows_read.append(len(rows)) or read(rows)
results = {}

def keep(name, batch):
    gather = jax.jit(lambda x: x, out_shardings=sharding.replicated_sharding(mesh))
    for key, array in batch.items():
        results[f"{name}_{key}"] = np.asarray(gather(array).addressable_data(0))

for kind in ("on_device", "streamed"):
    pipeline = make_pipeline(source, kind=kind, batch_size=8, seed=3, mesh=mesh)
    scan = jax.jit(
        lambda resident, xs, fetch=pipeline.fetch: jax.lax.scan(
            lambda _, x: (None, fetch(resident, x)), None, xs
        )[1]
    )
    keep(kind, scan(pipeline.resident, pipeline.inputs(1, 3)))
    pipeline.close()
*_, last = evaluation_batches(source, batch_size=8, mesh=mesh)
keep("last", last)
assert set(rows_read) == {4}, rows_read  # Its own half of every batch.
np.savez(f"{out}/{process}.npz", **results)
"""


def test_two_processes_equal_one(tmp_path, mesh, unused_port):
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(n), str(unused_port), str(tmp_path)],
            stderr=subprocess.PIPE,
            text=True,
        )
        for n in range(2)
    ]
    try:
        errors = [worker.communicate(timeout=90)[1] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert not any(worker.returncode for worker in workers), "\n".join(errors)

    source = open_source("generated_grey", "train[:22]")
    expected = {}
    for kind in PIPELINES:
        batches = run(make(kind, source, mesh, seed=3), 1, 3)
        expected |= {f"{kind}_{key}": array for key, array in batches.items()}
    *_, last = evaluation_batches(source, batch_size=8, mesh=mesh)
    expected |= {f"last_{key}": np.asarray(array) for key, array in last.items()}
    for process in range(2):
        with np.load(tmp_path / f"{process}.npz") as results:
            chex.assert_trees_all_equal(dict(results), expected)
