"""A grid of models: one program for all rows, checkpoints, devices, interruptions."""

import dataclasses
import itertools
import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from uronet_jax import checkpoints, sharding
from uronet_jax.data import make_pipeline
from uronet_jax.data.sources import ArraySource
from uronet_jax.seeds import named_seed
from uronet_jax.training import loop, run
from uronet_jax.training.state import (
    apply_update,
    initial_state,
    masked_sums,
    to_float,
)
from uronet_jax.training.task import Task

STEPS = 5
SCHEDULE = run.Schedule(
    4, STEPS, eval_batch_size=4, steps_per_dispatch=2, log_every=2, checkpoint_every=2
)
LEVELS = (0.0, 0.1, 0.2)


class Scale(nn.Module):
    """The smallest model: one number that images are multiplied with."""

    @nn.compact
    def __call__(self, images):
        return images * self.param("scale", nn.initializers.normal(), ())


def error(params, key, images, level):
    """Returns what a model makes of noisy images, its squared error `[B]`."""
    noisy = images + level * jax.random.normal(key, images.shape)
    return jnp.mean(jnp.square(params["scale"] * noisy - images), axis=(1, 2, 3))


def make_task():
    """Learns to undo noise whose level is an argument."""
    optimizer = optax.adam(0.1)

    def step(state, frozen, batch):
        key = jax.random.fold_in(state.key, state.step)

        def loss_fn(params):
            loss = error(params, key, to_float(batch["image"]), frozen["level"])
            sums = masked_sums({"loss": loss}, jnp.ones(len(loss), bool))
            return loss.mean(), ({}, sums)

        return apply_update(state, optimizer, loss_fn)

    def evaluate(variables, frozen, key, batch):
        images = to_float(batch["image"])
        loss = error(variables["params"], key, images, frozen["level"])
        return masked_sums({"loss": loss}, batch["mask"])

    best = ("loss", "min")
    return Task("scale", Scale(), (2, 2, 1), optimizer, step, evaluate, best)


@pytest.fixture(scope="module")
def sources():
    rng = np.random.default_rng(0)

    def make(split, size):
        images = rng.integers(0, 256, (size, 2, 2, 1), np.uint8)
        return ArraySource("noise", split, images, np.zeros(size, int), ["only"])

    return make("train", 12), make("validation", 6)


def make_rows(folder, hook=lambda level: None, **config):
    def make(i, level):
        def frozen():
            hook(level)
            return {"level": np.float32(level)}

        workdir, seed = folder / f"row{i}", named_seed(0, str(level))
        return run.GridRow(
            f"level {level}", workdir, seed, frozen, {"level": level, **config}
        )

    return [make(i, level) for i, level in enumerate(LEVELS)]


def train(rows, sources, task=None, **options):
    options = {"schedule": SCHEDULE, "progress": False, **options}
    return run.train_grid(task or make_task(), rows, *sources, **options)


def read(row):
    """Returns the number that a row has learned."""
    like = {"params": {"scale": jax.ShapeDtypeStruct((), np.float32)}}
    variables = checkpoints.read_variables(
        row.workdir, {"batch_stats": {}, **like}, "last"
    )
    return float(variables["params"]["scale"])


def records(row):
    lines = (row.workdir / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def undisturbed(sources, tmp_path_factory):
    """Returns the rows of a grid that nothing stopped."""
    rows = make_rows(tmp_path_factory.mktemp("grid"))
    assert train(rows, sources)
    return rows


def test_a_row_is_trained_as_if_it_were_alone(undisturbed, sources):
    """The second row again, step by step, without any of the grid's machinery."""
    row, task = undisturbed[1], make_task()
    mesh = sharding.data_mesh(jax.devices()[:1])
    feed = make_pipeline(sources[0], batch_size=4, seed=0, mesh=mesh)
    key = jax.random.key(row.seed)
    state = initial_state(task.module, task.optimizer, key, task.input_shape)
    step = jax.jit(task.step)
    for inputs in feed.inputs(0, STEPS):
        batch = feed.fetch(feed.resident, inputs)
        state, _ = step(state, row.frozen(), batch)
    # Compiled in another way, so the last bits may differ.
    assert read(row) == pytest.approx(float(state.params["scale"]), rel=1e-5)
    found = records(row)
    assert [(r["step"], r["kind"]) for r in found] == [
        *((step, "train") for step in (2, 4, 5)),
        (5, "validation"),
    ]
    # 6 images in batches of 4: the last one is padded, and counts 2.
    images = to_float(sources[1].arrays()[0])
    level, key = LEVELS[1], jax.random.key(0)
    padded = np.concatenate([images[4:], np.zeros_like(images[:2])])
    losses = [error(state.params, key, x, level) for x in (images[:4], padded)]
    expected = float(np.concatenate(losses)[:6].mean())
    assert found[-1]["loss"] == pytest.approx(expected, rel=1e-5)


def test_rows_differ_in_seed_and_data(undisturbed):
    assert len({read(row) for row in undisturbed}) == len(LEVELS)
    assert len({row.seed for row in undisturbed}) == len(LEVELS)
    assert named_seed(0, "a", "b") == named_seed(0, "a", "b")
    others = {named_seed(*x) for x in ((1, "a", "b"), (0, "a", "c"), (0, "b", "a"))}
    assert len(others | {named_seed(0, "a", "b")}) == 4


def test_nothing_compiles_after_the_first_row(sources, tmp_path):
    compiled, at_row = [], {}

    def listen(event, _, **details):
        if "backend_compile" in event:
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    task = make_task()
    chex.clear_trace_counter()
    task = dataclasses.replace(
        task,
        step=chex.assert_max_traces(task.step, n=1),
        evaluation=chex.assert_max_traces(task.evaluation, n=1),
    )
    rows = make_rows(tmp_path, lambda level: at_row.setdefault(level, len(compiled)))
    assert train(rows, sources, task)
    assert at_row[LEVELS[0]] < at_row[LEVELS[1]]
    # Not even an addition: all rows run on what the first one compiled.
    assert at_row[LEVELS[1]] == at_row[LEVELS[2]] == len(compiled)


@pytest.mark.parametrize("after", [2, 5])
def test_a_stopped_grid_goes_on_bit_for_bit(after, undisturbed, sources, tmp_path):
    rows, asked = make_rows(tmp_path), itertools.count(1)
    assert not train(rows, sources, stop=lambda: next(asked) > after)
    steps = [run.finished_steps(row.workdir) for row in rows]
    assert 0 < steps[0] and steps[-1] == 0
    assert train(rows, sources)
    assert [read(row) for row in rows] == [read(row) for row in undisturbed]


@pytest.mark.parametrize(
    ("frozen", "error", "message"),
    [
        (lambda: 1 / 0, ZeroDivisionError, "division by zero"),
        (
            lambda: {"level": np.float32("nan")},
            loop.DivergedError,
            "level 0.1: loss is not finite at step 1",
        ),
    ],
)
def test_a_failure_leaves_the_other_rows_alone(
    frozen, error, message, undisturbed, sources, tmp_path
):
    rows = make_rows(tmp_path)
    with pytest.raises(error, match=message):
        train([rows[0], dataclasses.replace(rows[1], frozen=frozen), rows[2]], sources)
    assert [run.finished_steps(row.workdir) for row in rows] == [STEPS, 0, 0]
    before = records(rows[0])
    assert train(rows, sources)
    assert records(rows[0]) == before
    assert read(rows[2]) == read(undisturbed[2])


def test_devices_share_out_the_rows(undisturbed, sources, tmp_path, monkeypatch):
    places, compile_steps = [], sharding.compile_steps

    def spy(step, fetch, mesh):
        advance = compile_steps(step, fetch, mesh)

        def spied(state, frozen, resident, inputs):
            device = mesh.devices.flat[0]
            # Every array of a row is on its own device, and on no other.
            for leaf in jax.tree.leaves((state, frozen, resident, inputs)):
                assert leaf.devices() == {device} and leaf.committed
            places.append(device)
            return advance(state, frozen, resident, inputs)

        return spied

    monkeypatch.setattr(sharding, "compile_steps", spy)
    devices = jax.devices()[:2]
    assert train(make_rows(tmp_path), sources, devices=devices)
    # Two rows take turns; the third one follows on the device that was free first.
    assert places == [*devices * 3, *devices[:1] * 3]
    rows = make_rows(tmp_path)
    assert [read(row) for row in rows] == [read(row) for row in undisturbed]
    assert run.grid_devices() == jax.devices()[:1]  # Those of a CPU share its cores.


def test_what_cannot_be_trained_is_reported_before_any_work(
    undisturbed, sources, tmp_path, monkeypatch
):
    monkeypatch.setattr(run, "make_pipeline", None)  # No image is read.
    folder = undisturbed[0].workdir.parent
    rows = [
        run.GridRow("new", folder / "new", 0, dict, {}),
        *make_rows(folder, width=3),
    ]
    with pytest.raises(ValueError, match="width: 'absent' there, 3 now"):
        train(rows, sources)
    assert not (folder / "new").exists()
    with pytest.raises(ValueError, match="num_steps must be an integer .*: 0"):
        train(rows, sources, schedule=dataclasses.replace(SCHEDULE, num_steps=0))
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(ValueError, match="runs in one process, and this is one of 2"):
        train(rows, sources)
    monkeypatch.undo()
    rows = make_rows(tmp_path)
    with (
        checkpoints.locked_workdir(rows[0].workdir),
        pytest.raises(OSError, match="another run is using workdir"),
    ):
        train(rows, sources)
