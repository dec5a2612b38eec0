"""Training: the three steps, optimizers, evaluation, and runs that stop and resume."""

import dataclasses
import functools
import itertools
import json
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from jax.tree_util import Partial

from uronet_jax import sharding
from uronet_jax.attacks import pgd
from uronet_jax.checkpoints import (
    Checkpoints,
    find_step,
    read_variables,
)
from uronet_jax.corruptions import make_degradation
from uronet_jax.data import evaluation_batches
from uronet_jax.data.augment import flip_crop
from uronet_jax.data.sources import ArraySource
from uronet_jax.models import Separation, make_remover
from uronet_jax.training import loop, losses, pairs
from uronet_jax.training.adversarial_training import adversarial_training_task
from uronet_jax.training.classifier import classifier_task
from uronet_jax.training.detector import detector_task
from uronet_jax.training.optimizers import SCHEDULES, make_optimizer
from uronet_jax.training.pairs import clean_pairs, drawn_pairs, stored_pairs
from uronet_jax.training.remover import remover_task
from uronet_jax.training.run import fit
from uronet_jax.training.state import TrainState, to_float

SHAPE, CLASSES, BATCH = (8, 8, 1), 3, 8
NOISE = make_degradation([("salt_and_pepper_noise", 0.4), ("gaussian_noise", 0.3)])


class Tiny(nn.Module):
    """A classifier that compiles fast: batch norm and a dense layer."""

    classes: int = CLASSES

    @nn.compact
    def __call__(self, x, *, train=False):
        x = nn.BatchNorm(not train, momentum=0.9)(x)
        return nn.Dense(self.classes)(x.reshape(x.shape[0], -1))


def make_images(size):
    """Stripes: none, horizontal or vertical, of random contrast."""
    labels = np.arange(size, dtype=np.int32) % CLASSES
    contrast = np.random.default_rng(0).uniform(40, 100, (size, 1, 1, 1))
    rows, columns = np.mgrid[:8, :8]
    patterns = np.stack([0 * rows, rows % 2, columns % 2])[..., None]
    images = (120 + contrast * patterns[labels]).astype(np.uint8)
    return images, labels


IMAGES, LABELS = make_images(24)


def source(split="train", size=24):
    return ArraySource("stripes", split, IMAGES[:size], LABELS[:size], "abc")


def brighten(key, images, degradation, index, *, clip=True):
    """Stands in for `degrade`, which takes seconds to compile: +0.2, known exactly."""
    return images + 0.2


def make_task(phase, make_variables):
    optimizer = optax.sgd(0.1 if phase == "detector" else 0.3, momentum=0.5)
    if phase == "classifier":
        return classifier_task(Tiny(), optimizer, image_shape=SHAPE)
    remover = make_remover("skip", widths=(4,), clean_mean=0.5)
    if phase == "remover":
        return remover_task(remover, optimizer, drawn_pairs(NOISE), image_shape=SHAPE)
    variables = make_variables(remover, SHAPE)
    return detector_task(
        Tiny(2), remover, variables, optimizer, drawn_pairs(NOISE), image_shape=SHAPE
    )


def first_state(task, make_variables):
    variables = make_variables(task.module, task.input_shape)
    params = jax.tree.map(jnp.asarray, variables["params"])
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        key=jax.random.key(1),
        params=params,
        batch_stats=variables.get("batch_stats", {}),
        opt_state=task.optimizer.init(params),
    )


def batch_of(images, labels):
    index = np.arange(len(images), dtype=np.int32)
    return {"image": images, "label": labels, "index": index}


def raw(state):
    return jax.device_get(state.replace(key=jax.random.key_data(state.key)))


@pytest.fixture(scope="module", params=["remover", "detector", "classifier"])
def phase(request):
    return request.param


@pytest.fixture(scope="module")
def run_steps(phase, make_variables):
    """Returns `run(mesh, count) -> first state, metrics` of one phase.

    The remover's noise is real.
    """
    task = make_task(phase, make_variables)

    def run(mesh, count):
        chex.clear_trace_counter()
        step = chex.assert_max_traces(task.step, n=1)
        advance = sharding.compile_steps(step, lambda resident, batch: batch, mesh)
        state, frozen = sharding.replicate(
            (first_state(task, make_variables), task.frozen), mesh
        )
        before = jax.device_get(frozen)
        batch = batch_of(IMAGES[:BATCH], LABELS[:BATCH])
        batch = jax.tree.map(lambda x: x[None], batch)
        inputs = sharding.split_batch(batch, mesh, axis=1)
        history = []
        for i in range(count):
            state, metrics = advance(state, frozen, (), inputs)
            history.append(jax.device_get(metrics))
            if i == 0:
                first = raw(state)
        assert int(state.step) == count
        chex.assert_trees_all_equal(before, jax.device_get(frozen))
        return first, jax.tree.map(lambda *x: np.concatenate(x), *history)

    # Only as users compile are the classifier's numbers on one device as close to those
    # on four as the test demands.
    jax.config.update("jax_disable_most_optimizations", phase != "classifier")
    with pytest.MonkeyPatch.context() as patch:
        if phase != "remover":
            patch.setattr(pairs, "degrade", brighten)
        yield run
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture(scope="module")
def on_four(run_steps):
    return run_steps(sharding.data_mesh(), 30)


def test_loss_falls_and_metrics_are_sums(on_four, phase):
    _, metrics = on_four
    losses = metrics["loss"] / metrics["count"]
    assert np.isfinite(losses).all()
    # Every step draws other noise: compare means of ten.
    assert losses[-10:].mean() < 0.9 * losses[:10].mean()
    # The detector sees every image twice.
    count = 2 * BATCH if phase == "detector" else BATCH
    np.testing.assert_array_equal(metrics["count"], count)
    if phase == "remover":
        parts = metrics["clean_mse"] + metrics["noise_mse"]
        np.testing.assert_allclose(metrics["loss"], parts, rtol=1e-5)
    else:
        correct = metrics["correct"]
        assert correct.max() > 1 and (correct % 1 == 0).all() and correct.max() <= count


def test_four_devices_match_one(on_four, run_steps):
    first, metrics = run_steps(sharding.data_mesh(jax.devices()[:1]), 1)
    # Sums in another order, in float32.
    chex.assert_trees_all_close(on_four[0], first, rtol=1e-4, atol=1e-5)
    for name, values in metrics.items():
        np.testing.assert_allclose(values[0], on_four[1][name][0], rtol=1e-5)


def test_padding_of_an_evaluation_does_not_count(phase, make_variables, monkeypatch):
    monkeypatch.setattr(pairs, "degrade", brighten)
    task, mesh = make_task(phase, make_variables), sharding.data_mesh()
    variables, frozen, key = sharding.replicate(
        (make_variables(task.module, task.input_shape), task.frozen, jax.random.key(2)),
        mesh,
    )
    variables = {"batch_stats": {}, **variables}
    evaluate = sharding.compile_replicated(task.evaluation, mesh)
    (batch,) = evaluation_batches((IMAGES[:5], LABELS[:5]), batch_size=BATCH, mesh=mesh)
    sums = jax.device_get(evaluate(variables, frozen, key, batch))
    assert sums["count"] == 5
    assert {"loss", task.best_metric[0]} <= set(sums)
    other = {name: np.array(x) for name, x in batch.items()}
    other["image"][5:] = IMAGES[10:13]
    other["label"][5:] = 2
    other = evaluate(variables, frozen, key, sharding.split_batch(other, mesh))
    chex.assert_trees_all_equal(sums, jax.device_get(other))


# Known values from stand-in networks


class HalfGrey(nn.Module):
    """A remover that answers grey and no noise, whatever it sees."""

    noise_head: bool = True

    @nn.compact
    def __call__(self, images):
        value = self.param("value", nn.initializers.constant(0.5), (1, 1, 1, 1))
        clean = jnp.broadcast_to(value, images.shape)
        return Separation(clean, jnp.zeros_like(images))


MADE = {"drawn": drawn_pairs(NOISE), "stored": stored_pairs()}


@pytest.mark.parametrize(
    "noise_head, made", [(True, "drawn"), (True, "stored"), (False, "drawn")]
)
def test_remover_loss_by_hand(noise_head, made, make_variables, monkeypatch):
    monkeypatch.setattr(pairs, "degrade", brighten)
    task = remover_task(
        HalfGrey(noise_head),
        optax.sgd(1.0),
        MADE[made],
        image_shape=SHAPE,
        losses={"clean_mse": 1.0, "noise_mse": 3.0},
    )
    batch = batch_of(np.full((BATCH, *SHAPE), 51, np.uint8), LABELS[:BATCH])
    batch["degraded"] = batch["image"] + np.uint8(51)  # As `brighten` does.
    state = first_state(task, make_variables)
    state = state.replace(params={"value": jnp.full((1, 1, 1, 1), 0.5)})
    after, metrics = jax.jit(task.step)(state, task.frozen, batch)
    # Clean is 51 / 255 = 0.2. In the sigmoid's code, noise of 0.2 is 0.1 off zero.
    expected = {"clean_mse": 0.3**2, "noise_mse": 0.1**2, "count": 1.0}
    expected["loss"] = 0.3**2 + (3.0 * 0.1**2 if noise_head else 0.0)
    chex.assert_trees_all_close(
        metrics, {k: BATCH * v for k, v in expected.items()}, rtol=1e-5
    )
    # The gradient is that of the mean: 2 (0.5 - 0.2).
    np.testing.assert_allclose(after.params["value"].item(), 0.5 - 0.6, rtol=1e-4)
    sums = jax.jit(task.evaluation)(
        {"params": state.params}, task.frozen, state.key,
        batch | {"mask": np.arange(BATCH) < 3},
    )  # fmt: skip
    expected["psnr"] = -20 * math.log10(0.3)
    chex.assert_trees_all_close(
        sums, {k: 3 * v for k, v in expected.items()}, rtol=1e-5
    )


class MeanPixel(nn.Module):
    """A classifier whose log odds are a multiple of the mean pixel."""

    @nn.compact
    def __call__(self, x, *, train=False):
        scale = self.param("scale", nn.initializers.ones, (1,))
        odds = scale * x.mean(axis=(1, 2, 3))
        return jnp.stack([odds, jnp.zeros_like(odds)], axis=-1)


@pytest.mark.parametrize("made", MADE)
def test_remover_is_held_to_what_a_classifier_says(made, make_variables, monkeypatch):
    monkeypatch.setattr(pairs, "degrade", brighten)
    usual = {"clean_mse": 1.0, "noise_mse": 1.0}
    held = {
        "image_shape": SHAPE,
        "classifier": MeanPixel(),
        "classifier_variables": {"params": {"scale": jnp.full((1,), 10.0)}},
    }
    parts = (HalfGrey(), optax.sgd(1.0), MADE[made])
    tasks = {
        weight: remover_task(*parts, losses=usual | {"inconsistency": weight}, **held)
        for weight in (0.0, 0.5)
    }
    batch = batch_of(np.full((BATCH, *SHAPE), 51, np.uint8), LABELS[:BATCH])
    batch["degraded"] = np.full((BATCH, *SHAPE), 153, np.uint8)
    state = first_state(tasks[0.5], make_variables)
    state = state.replace(params={"value": jnp.full((1, 1, 1, 1), 0.5)})
    found = {
        weight: jax.jit(task.step)(state, task.frozen, batch)
        for weight, task in tasks.items()
    }
    # Log odds of 2 on the clean picture, of 5 on the purified one.
    clean, purified = (1 / (1 + np.exp(-odds)) for odds in (2.0, 5.0))
    expected = clean * np.log(clean / purified)
    expected += (1 - clean) * np.log((1 - clean) / (1 - purified))
    without, metrics = found[0.0][1], found[0.5][1]
    assert "inconsistency" not in without
    np.testing.assert_allclose(metrics["inconsistency"] / BATCH, expected, rtol=1e-4)
    np.testing.assert_allclose(
        metrics["loss"] - without["loss"], 0.5 * BATCH * expected, rtol=1e-3
    )
    # The gradient of the divergence by the log odds is the difference of the shares.
    values = [float(found[w][0].params["value"].item()) for w in (0.0, 0.5)]
    slope = 0.5 * 10.0 * (purified - clean)
    np.testing.assert_allclose(values[0] - values[1], slope, rtol=1e-3)
    # What is frozen has not moved, and validation needs no classifier.
    assert found[0.5][0].params.keys() == {"value"}
    sums = jax.eval_shape(
        tasks[0.5].evaluation,
        {"params": state.params},
        {k: v for k, v in tasks[0.5].frozen.items() if k != "classifier"},
        state.key,
        batch | {"mask": np.ones(BATCH, bool)},
    )
    assert sums.keys() == {"loss", "clean_mse", "noise_mse", "psnr", "count"}


def test_losses_by_hand():
    """Two images of one pixel: picture 0.5 and 0.9, patterns of 0.2 and 0."""

    def pixels(values):
        return np.reshape(values, (2, 1, 1, 1))

    inputs = losses.LossInputs(
        Separation(pixels([0.5, 0.9]), pixels([0.2, 0.0])),
        clean=pixels([0.1, 0.8]),
        degraded=pixels([0.5, 0.2]),
        classify=lambda x: jnp.concatenate([x, 1 - x], axis=-1)[:, 0, 0],
    )
    weights = {"clean_mse": 2.0, "inconsistency": 10.0, "instability": 3.0}
    found = losses.weigh(weights, inputs)
    expected = {"clean_mse": [0.16, 0.01], "noise_mse": [0.01, 0.09]}
    # Log odds of 2 x - 1: -0.8 and 0.6 where it should answer, 0 and 0.8 where it does.
    p, q = (1 / (1 + np.exp(-np.array(x))) for x in ([-0.8, 0.6], [0.0, 0.8]))
    kl = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
    expected["inconsistency"] = kl
    # By its own labels, 1 and 0, the answers have these probabilities.
    expected["instability"] = -np.log([1 - q[0], q[1]])
    expected["loss"] = 2 * np.array(expected["clean_mse"]) + 10 * kl
    expected["loss"] += 3 * expected["instability"]
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-3, err_msg=name)
    # Who asks a classifier is left out where there is none, or no weight.
    for weight, asked in ((1.0, inputs._replace(classify=None)), (0.0, inputs)):
        weights = {"noise_mse": 1.0, "inconsistency": weight}
        found = losses.weigh(weights, asked)
        assert found.keys() == {"loss", "clean_mse", "noise_mse"}
        np.testing.assert_allclose(found["loss"], found["noise_mse"])


class BrightPixels(nn.Module):
    """A detector that calls an image without a pixel below 0.4 degraded."""

    @nn.compact
    def __call__(self, x, *, train=False):
        scale = self.param("scale", nn.initializers.ones, (1,))
        bright = (x.min(axis=(1, 2, 3)) >= 0.4) * 2.0 - 1.0
        return 10 * scale[None] * jnp.stack([-bright, bright], axis=-1)


@pytest.mark.parametrize("made", MADE)
def test_detector_sees_every_image_clean_and_degraded(
    made, make_variables, monkeypatch
):
    monkeypatch.setattr(pairs, "degrade", brighten)
    variables = {"params": {"value": jnp.full((1, 1, 1, 1), 0.5)}}
    task = detector_task(
        BrightPixels(), HalfGrey(), variables, optax.sgd(1.0), MADE[made],
        image_shape=SHAPE, inputs="image_only",
    )  # fmt: skip
    assert task.input_shape == SHAPE
    # The first five turn from dark to bright; the others are bright all along.
    pixels = np.repeat(np.array([80, 150], np.uint8), [5, 3])
    images = np.broadcast_to(pixels[:, None, None, None], (BATCH, *SHAPE))
    batch = batch_of(images, LABELS[:BATCH]) | {"degraded": images + np.uint8(51)}
    state = first_state(task, make_variables).replace(params={"scale": jnp.ones(1)})
    _, metrics = jax.jit(task.step)(state, task.frozen, batch)
    assert metrics["count"] == 2 * BATCH and metrics["correct"] == 2 * 5 + 3
    # Logits are 20 apart: a wrong one costs 20, a right one nothing.
    np.testing.assert_allclose(metrics["loss"], 3 * 20.0, rtol=1e-5)
    sums = jax.jit(task.evaluation)(
        {"params": state.params}, task.frozen, state.key,
        batch | {"mask": np.arange(BATCH) >= 4},
    )  # fmt: skip
    # One image right twice, three right once.
    assert sums["count"] == 4 and sums["accuracy"] == 1 + 3 / 2
    np.testing.assert_allclose(sums["loss"], 3 * 20 / 2, rtol=1e-5)


def test_classifier_loss_of_a_network_that_knows_nothing(make_variables):
    task = make_task("classifier", make_variables)
    state = first_state(task, make_variables)
    state = state.replace(params=jax.tree.map(jnp.zeros_like, state.params))
    batch = batch_of(IMAGES[:BATCH], LABELS[:BATCH])
    _, metrics = jax.jit(task.step)(state, {}, batch)
    np.testing.assert_allclose(metrics["loss"], BATCH * math.log(CLASSES), rtol=1e-5)
    assert metrics["correct"] == np.sum(LABELS[:BATCH] == 0)


def test_means_divide_once():
    sums = [{"loss": 6.0, "count": 3.0}, {"loss": [1.0, 1.0], "count": [0.0, 1.0]}]
    assert loop.means(sums) == {"loss": 2.0}


# Optimizers


def rates(steps, **kwargs):
    """Returns the learning rates that plain SGD applies to a gradient of 1."""
    optimizer = make_optimizer("sgd", momentum=0.0, nesterov=False, **kwargs)
    params, rates = jnp.zeros(()), []
    state = optimizer.init(params)
    for _ in range(steps):
        update, state = optimizer.update(jnp.ones(()), state, params)
        rates.append(-float(update))
    return rates


def test_schedules():
    cosine = rates(11, peak_rate=2.0, num_steps=10)
    expected = [1 + math.cos(math.pi * i / 10) for i in range(11)]
    np.testing.assert_allclose(cosine, expected, atol=1e-6)
    steps = rates(10, peak_rate=1.0, num_steps=10, schedule="steps")
    expected = [1] * 3 + [0.2] * 3 + [0.04] * 2 + [0.008] * 2
    np.testing.assert_allclose(steps, expected, rtol=1e-5)
    constant = rates(5, peak_rate=0.3, num_steps=4, schedule="constant")
    np.testing.assert_allclose(constant, 0.3, rtol=1e-6)
    warm = rates(8, peak_rate=1.0, num_steps=8, warmup_steps=4)
    expected = [0, 0.25, 0.5, 0.75, 1, *[(1 + math.cos(a)) / 2 for a in (
        math.pi / 4, math.pi / 2, 3 * math.pi / 4
    )]]  # fmt: skip
    np.testing.assert_allclose(warm, expected, atol=1e-6)
    assert set(SCHEDULES) == {"constant", "cosine", "steps"}


def test_weight_decay_is_coupled_and_clipping_comes_first():
    optimizer = make_optimizer(
        "sgd", peak_rate=0.1, num_steps=10, schedule="constant", momentum=0.9,
        nesterov=False, weight_decay=0.5, clip_norm=1.0,
    )  # fmt: skip
    params, gradient = jnp.array([2.0, 0.0]), jnp.array([3.0, 4.0])  # Norm 5.
    update, state = optimizer.update(gradient, optimizer.init(params), params)
    first = np.array([0.6 + 1.0, 0.8])
    np.testing.assert_allclose(update, -0.1 * first, rtol=1e-5)
    update, _ = optimizer.update(gradient, state, params)
    np.testing.assert_allclose(update, -0.1 * 1.9 * first, rtol=1e-5)


def test_adams_first_step_is_the_rate():
    optimizer = make_optimizer("adam", peak_rate=0.01, num_steps=5)
    params = jnp.zeros(2)
    update, _ = optimizer.update(jnp.array([7.0, -0.1]), optimizer.init(params), params)
    np.testing.assert_allclose(update, [-0.01, 0.01], rtol=1e-4)


# Whole runs


@pytest.fixture
def run(tmp_path, make_variables):
    """Returns `run(folder, **changes) -> FitResult` of a small deterministic run."""

    def run(folder=None, task=None, **changes):
        task = task or classifier_task(
            Tiny(),
            make_optimizer("adam", peak_rate=0.01, num_steps=8),
            clean_pairs(flip_crop),
            image_shape=SHAPE,
        )
        settings = {
            **{"batch_size": BATCH, "num_steps": 8, "seed": 5, "progress": False},
            **{"steps_per_dispatch": 2, "log_every": 2, "eval_every": 4},
            "checkpoint_every": 2,
            "mesh": sharding.data_mesh(jax.devices()[:1]),
            "config": {"rate": 0.01, "data": {"name": "stripes"}},
            "workdir": tmp_path / folder if folder else None,
        }
        return fit(task, source(), source("validation", 10), **settings | changes)

    return run


def test_stopped_and_resumed_run_is_the_whole_run(run, tmp_path):
    whole = run("whole")
    assert whole.finished and int(whole.state.step) == 8
    answers = itertools.chain([False], itertools.repeat(True))
    stopped = run("parts", stop=lambda: next(answers))
    assert not stopped.finished and int(stopped.state.step) == 4
    assert find_step(tmp_path / "parts", "last").name == "4"
    resumed = run("parts")
    assert resumed.finished
    chex.assert_trees_all_equal(raw(resumed.state), raw(whole.state))
    assert resumed.metrics == whole.metrics
    logs = [(tmp_path / x / "metrics.jsonl").read_text() for x in ("whole", "parts")]
    assert logs[0] == logs[1]
    lines = [json.loads(line) for line in logs[0].splitlines()]
    steps = {kind: [x["step"] for x in lines if x["kind"] == kind]
             for kind in ("train", "validation")}  # fmt: skip
    assert steps == {"train": [2, 4, 6, 8], "validation": [4, 8]}

    # A finished run has nothing left to do.
    again = run("parts")
    assert again.finished and again.metrics == whole.metrics
    chex.assert_trees_all_equal(raw(again.state), raw(whole.state))
    assert (tmp_path / "parts" / "metrics.jsonl").read_text() == logs[1]

    # And its folder is no place for another one.
    changed = {"rate": 0.02, "data": {"name": "stripes", "split": "all"}}
    differing = "data.split: 'absent' there, 'all' now; rate: 0.01 there, 0.02 now"
    with pytest.raises(ValueError, match=f"another config.*{differing}"):
        run("parts", config=changed)
    with pytest.raises(ValueError, match="other training data: batch_size is 4, in"):
        run("parts", batch_size=4)


def broken(task, change):
    """Returns `task` with `change(state, metrics)` applied in its seventh step."""

    def step(state, frozen, batch):
        after, metrics = task.step(state, frozen, batch)
        worse, worse_metrics = change(after, metrics)
        return jax.tree.map(
            lambda bad, good: jnp.where(state.step == 6, bad, good),
            (worse, worse_metrics), (after, metrics),
        )  # fmt: skip

    return dataclasses.replace(task, step=step)


@pytest.mark.parametrize(
    "num_steps, change, message",
    [
        (
            8,  # Whose state is due to be saved, and is of the same dispatch.
            lambda state, m: (state, m | {"loss": m["loss"] * jnp.nan}),
            "loss is not finite at step 7",
        ),
        # The loss of step 7 is computed before its update: only the validation tells.
        (
            7,
            lambda state, m: (
                state.replace(params=jax.tree.map(lambda x: x * jnp.nan, state.params)),
                m,
            ),
            "validation is not finite at step 7",
        ),
    ],
)
def test_a_run_that_diverges_keeps_what_was_good(
    num_steps, run, change, message, tmp_path, make_variables
):
    task = make_task("classifier", make_variables)
    with pytest.raises(loop.DivergedError, match=message):
        run("run", task=broken(task, change), num_steps=num_steps)
    assert find_step(tmp_path / "run", "last").name == "6"
    assert find_step(tmp_path / "run", "best").name == "4"
    store = Checkpoints(tmp_path / "run", best_metric="accuracy", best_mode="max")
    state, _, _ = store.restore(first_state(task, make_variables))
    store.close()
    assert int(state.step) == 6
    chex.assert_tree_all_finite(raw(state))


def test_training_starts_from_the_weights_it_is_given(run, tmp_path, make_variables):
    given = make_variables(Tiny(), SHAPE)
    before = jax.tree.map(np.copy, given)
    still = classifier_task(Tiny(), optax.set_to_zero(), image_shape=SHAPE)
    still = dataclasses.replace(still, initial=given)

    def params(folder=None, **changes):
        task = dataclasses.replace(still, **changes)
        return jax.device_get(run(folder, task=task, num_steps=2).state.params)

    chex.assert_trees_all_equal(params("run"), given["params"])
    saved = read_variables(tmp_path / "run", given, "last")
    chex.assert_trees_all_equal(saved["params"], given["params"])
    # They are not written over; a run that is resumed goes on from its own.
    chex.assert_trees_all_equal(given, before)
    other = jax.tree.map(lambda x: x + 1, given)
    chex.assert_trees_all_equal(params("run", initial=other), given["params"])
    chex.assert_trees_all_equal(params(initial=other), other["params"])
    drawn = params(initial=None)["Dense_0"]["kernel"]
    assert np.abs(drawn - given["params"]["Dense_0"]["kernel"]).min() > 0
    # The first three of those that do not fit are named.
    other = {"params": make_variables(Tiny(5), SHAPE)["params"]}
    with pytest.raises(ValueError) as caught:
        params(initial=other)
    assert str(caught.value).endswith(
        "params/Dense_0/bias has shape (5,) in the checkpoint and (3,) in the model; "
        "and 1 more"
    )
    for name in ("mean", "var"):
        assert f"batch_stats/BatchNorm_0/{name} has shape None" in str(caught.value)


def test_pipelines_train_the_same_network(run, make_variables):
    task = make_task("classifier", make_variables)
    on_device, streamed = (
        run(task=task, pipeline=kind, mesh=sharding.data_mesh())
        for kind in ("on_device", "streamed")
    )
    # Two programs around the same step: equal but for rounding.
    chex.assert_trees_all_close(
        raw(on_device.state).params, raw(streamed.state).params, atol=1e-5
    )
    assert on_device.metrics == pytest.approx(streamed.metrics, rel=1e-4)


@pytest.mark.parametrize(
    "changes, message",
    [
        # Other intervals are among the wrong configs.
        ({"eval_every": -1}, r"eval_every must be an integer in \[0, .*: -1"),
        ({"batch_size": 25}, "batch size 25 is larger than stripes"),
        ({"pipeline": "magic"}, "unknown pipeline 'magic'"),
    ],
)
def test_wrong_settings_are_rejected(run, changes, message):
    with pytest.raises(ValueError, match=message):
        run(**changes)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_adversarial_training_shows_what_pgd_makes(norm, make_variables):
    sizes = {"epsilon": 0.1, "step_size": 0.04, "steps": 3}
    optimizer = optax.sgd(0.0)
    task = adversarial_training_task(
        Tiny(), optimizer, image_shape=SHAPE, norm=norm, **sizes
    )
    state, batch = first_state(task, make_variables), batch_of(IMAGES, LABELS)
    key = jax.random.split(jax.random.fold_in(state.key, state.step))[1]
    model = functools.partial(Tiny().apply, state.variables)
    clean = to_float(IMAGES)

    def loss_fn(images):  # Without success, so that no image stops early.
        logits = model(images)
        return optax.softmax_cross_entropy_with_integer_labels(logits, LABELS)

    made = pgd(key, clean, Partial(loss_fn), norm=norm, index=batch["index"], **sizes)
    _, metrics = jax.jit(task.step)(state, {}, batch)
    shown = model(made, train=True, mutable=["batch_stats"])[0]
    expected = optax.softmax_cross_entropy_with_integer_labels(shown, LABELS)
    # A gradient near 0 may have another sign under jit.
    assert metrics["loss"] == pytest.approx(float(expected.sum()), rel=1e-3)
    assert metrics["count"] == len(IMAGES)
    batch["mask"] = np.ones(len(IMAGES), bool)
    found = jax.jit(task.evaluation)(state.variables, {}, key, batch)
    assert found["loss"] == pytest.approx(float(loss_fn(made).sum()), rel=1e-3)
    right = (model(clean).argmax(-1) == LABELS).sum()
    assert found["accuracy"] <= found["clean_accuracy"] == right
