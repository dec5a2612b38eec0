"""Reconstructive training: its losses, the switch, and runs that stop and resume."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from numpy.testing import assert_allclose

from uronet_jax import sharding
from uronet_jax.data import evaluation_batches
from uronet_jax.data.sources import ArraySource
from uronet_jax.models import Separation
from uronet_jax.training import reconstructor
from uronet_jax.training.pairs import Pairs
from uronet_jax.training.reconstructor import (
    psnr_term,
    reconstructor_task,
    rmse_term,
    visual_loss,
)
from uronet_jax.training.run import fit
from uronet_jax.training.state import create_state, to_float

SHAPE, CLASSES, BATCH, WARMUP = (8, 4, 1), 3, 8, 3
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (24, *SHAPE), np.uint8)
LABELS = (np.arange(24) % CLASSES).astype(np.int32)


class Restorer(nn.Module):
    """A purifier that compiles fast: batch norm and a convolution."""

    @nn.compact
    def __call__(self, images, *, train=False):
        x = nn.BatchNorm(not train, momentum=0.9)(images)
        clean = nn.sigmoid(nn.Conv(1, (3, 3))(x))
        return Separation(clean, images - clean)


class Classifier(nn.Module):
    """One that compiles fast, with batch norm, which must not move."""

    @nn.compact
    def __call__(self, x, *, train=False):
        x = nn.BatchNorm(not train, momentum=0.9)(x)
        return nn.Dense(CLASSES)(x.reshape(len(x), -1))


def darker():
    """Pairs whose degraded image has a third of the light."""

    def pair(key, frozen, batch):
        clean = to_float(batch["image"])
        return clean, clean / 3

    return Pairs(pair, pair, {})


@functools.cache
def classifier_variables(seed=0):
    variables = Classifier().init(jax.random.key(seed), jnp.zeros((1, *SHAPE)))
    return jax.tree.map(lambda x: 3 * x, variables)


def make_task(seed=0, optimizer=None, **fields):
    given = {"batch_size": BATCH, "warmup_steps": WARMUP, **fields}
    return reconstructor_task(
        Restorer(),
        optimizer or optax.adam(0.01),
        darker(),
        image_shape=SHAPE,
        classifier=Classifier(),
        classifier_variables=classifier_variables(seed),
        **given,
    )


def batch_of(rows=slice(0, BATCH)):
    index = np.arange(24, dtype=np.int32)[rows]
    return {"image": IMAGES[rows], "label": LABELS[rows], "index": index}


def first_state(task):
    return create_state(task.module, task.optimizer, jax.random.key(1), SHAPE)


def run_steps(task, count, state=None):
    """Returns the states before each step and at the end, and the metrics."""
    states, metrics = [first_state(task) if state is None else state], []
    step = jax.jit(task.step)
    for _ in range(count):
        state, found = step(states[-1], task.frozen, batch_of())
        states.append(state)
        metrics.append(jax.device_get(found))
    return states, metrics


def raw(state):
    return jax.device_get(state.replace(key=jax.random.key_data(state.key)))


def visual_by_hand(restored, clean, largest):
    """The formulas of the code, of images in [-1, 1], in float64."""
    x, y = (2 * np.asarray(a, np.float64) - 1 for a in (restored, clean))
    mse = ((x - y) ** 2).mean(axis=(1, 2, 3))
    psnr = 20 * np.log10(largest) - 10 * np.log10(mse)
    rmse = np.sqrt(((x - y) ** 2).mean(axis=-1).sum()) / len(x)
    return 0.01 * (100 - psnr.mean()) + 1.0 * rmse


def entropy_by_hand(logits, labels):
    logits = np.asarray(logits, np.float64)
    return np.log(np.exp(logits).sum(-1)) - logits[np.arange(len(labels)), labels]


def test_losses_by_hand():
    a, b = RNG.uniform(size=(2, 5, 6, 4, 3)).astype(np.float32)
    x, y = 2.0 * a - 1, 2.0 * b - 1
    mse = ((x - y) ** 2).mean(axis=(1, 2, 3))
    for largest in (2.0, 255.0):
        expected = 100 - 20 * np.log10(largest) + 10 * np.log10(mse)
        assert_allclose(psnr_term(a, b, largest), expected, rtol=1e-5)
        found = visual_loss(a, b, largest)
        assert_allclose(found, visual_by_hand(a, b, largest), rtol=1e-5)
    assert_allclose(rmse_term(a, b), np.sqrt(6 * 4 * mse.sum()) / 5, rtol=1e-5)
    # Twice as many equal images: 1 / sqrt(2) of the root, the same PSNR.
    assert_allclose(
        rmse_term(np.tile(a, (2, 1, 1, 1)), np.tile(b, (2, 1, 1, 1))),
        rmse_term(a, b) / np.sqrt(2),
        rtol=1e-5,
    )
    # An image that is restored exactly has a loss and a gradient.
    loss, gradient = jax.value_and_grad(visual_loss)(a, a, 2.0)
    assert abs(loss) < 1e-5 and np.isfinite(gradient).all()


@pytest.mark.parametrize("labels", ["true", "predictions"])
def test_a_step_minimises_the_visual_loss_and_then_both(labels):
    weights = {"visual_weight": 0.3, "class_weight": 0.7, "labels": labels}
    task = make_task(**weights)
    states, metrics = run_steps(task, WARMUP + 2)
    clean = IMAGES[:BATCH] / np.float32(255)
    variables = classifier_variables()
    answers = np.asarray(Classifier().apply(variables, clean)).argmax(-1)
    assert (answers != LABELS[:BATCH]).any()
    wanted = LABELS[:BATCH] if labels == "true" else answers
    for number, (state, found) in enumerate(zip(states, metrics, strict=False)):
        restored = (
            Restorer()
            .apply(state.variables, clean / 3, train=True, mutable=["batch_stats"])[0]
            .clean
        )
        largest = 2.0 if number < WARMUP else 255.0
        visual = visual_by_hand(restored, clean, largest)
        logits = Classifier().apply(variables, restored)
        entropy = entropy_by_hand(logits, wanted)
        right = (np.asarray(logits).argmax(-1) == wanted).sum()
        loss = visual if number < WARMUP else 0.3 * visual + 0.7 * entropy.mean()
        # Sums over the batch, in float32.
        assert found["count"] == BATCH and found["accuracy"] == right
        assert_allclose(found["visual"], BATCH * visual, rtol=1e-4)
        assert_allclose(found["cross_entropy"], entropy.sum(), rtol=1e-4)
        assert_allclose(found["loss"], BATCH * loss, rtol=1e-4)


def test_the_gradient_is_that_of_the_loss_by_hand():
    """By central differences of what is computed by hand, in float64."""
    rate, clean = 0.1, IMAGES[:BATCH] / np.float32(255)
    for warmup in (1, 0):
        task = make_task(warmup_steps=warmup, optimizer=optax.sgd(rate))
        before, after = run_steps(task, 1)[0]

        def loss(bias, before=before, warmup=warmup):
            params = {**before.params, "Conv_0": dict(before.params["Conv_0"])}
            params["Conv_0"]["bias"] = jnp.full((1,), bias, jnp.float32)
            restored = (
                Restorer()
                .apply(
                    {"params": params, "batch_stats": before.batch_stats},
                    clean / 3,
                    train=True,
                    mutable=["batch_stats"],
                )[0]
                .clean
            )
            if warmup:
                return visual_by_hand(restored, clean, 2.0)
            logits = Classifier().apply(classifier_variables(), restored)
            entropy = entropy_by_hand(logits, LABELS[:BATCH]).mean()
            return 0.005 * visual_by_hand(restored, clean, 255.0) + entropy

        gradient = (loss(0.01) - loss(-0.01)) / 0.02
        (moved,) = after.params["Conv_0"]["bias"] - before.params["Conv_0"]["bias"]
        # Of differences by 0.01 with float32 activations.
        assert_allclose(moved, -rate * gradient, rtol=2e-3)


def test_what_the_warm_up_learns_does_not_depend_on_the_classifier():
    one, other = (run_steps(make_task(seed), WARMUP + 1) for seed in (0, 1))
    for a, b in zip(one[0][: WARMUP + 1], other[0], strict=False):
        chex.assert_trees_all_equal(raw(a), raw(b))
    for a, b in zip(one[1][:WARMUP], other[1], strict=False):
        assert a["loss"] == b["loss"] and a["cross_entropy"] != b["cross_entropy"]
    kernels = (x[0][-1].params["Conv_0"]["kernel"] for x in (one, other))
    assert np.abs(np.subtract(*kernels)).max() > 1e-4


def test_the_optimizer_is_fresh_where_both_losses_begin():
    # Of a rate that falls: the schedule begins anew too.
    optimizer = optax.adam(optax.linear_schedule(0.1, 0.0, 4))
    task = make_task(optimizer=optimizer)
    states, _ = run_steps(task, WARMUP + 2)
    counts = [int(state.opt_state[0].count) for state in states]
    assert counts == [0, 1, 2, 3, 1, 2]
    before, after = states[WARMUP], states[WARMUP + 1]
    fresh = before.replace(opt_state=optimizer.init(before.params))
    (_, expected), _ = run_steps(task, 1, fresh)
    chex.assert_trees_all_equal(raw(after), raw(expected))
    # Adam's first step is the rate, whatever the gradient.
    moved = np.abs(after.params["Conv_0"]["kernel"] - before.params["Conv_0"]["kernel"])
    assert_allclose(moved, 0.1, rtol=1e-3)


def test_without_a_warm_up_both_losses_count_from_the_start():
    one = run_steps(make_task(warmup_steps=0), 2)[0]
    assert [int(state.opt_state[0].count) for state in one] == [0, 1, 2]
    fields = {"warmup_steps": 0, "class_weight": 0.0, "visual_weight": 1.0}
    visual, warm = (run_steps(make_task(**x), 2)[0] for x in (fields, {}))
    # The largest pixel adds a constant alone.
    chex.assert_trees_all_close(visual[-1].params, warm[-1].params, atol=1e-5)
    kernels = (x[-1].params["Conv_0"]["kernel"] for x in (one, warm))
    assert np.abs(np.subtract(*kernels)).max() > 1e-4


def test_the_validation_is_of_each_image_alone(mesh):
    task = make_task(visual_weight=0.3, class_weight=0.7, labels="predictions")
    state = run_steps(task, 1)[0][-1]
    assert task.best_metric == ("loss", "min")
    variables, frozen, key = sharding.replicate(
        (state.variables, task.frozen, jax.random.key(2)), mesh
    )
    evaluate = sharding.compile_replicated(task.evaluation, mesh)

    def judged(count, size):
        images = IMAGES[:count], LABELS[:count]
        batches = evaluation_batches(images, batch_size=size, mesh=mesh)
        sums = [evaluate(variables, frozen, key, batch) for batch in batches]
        return {k: float(sum(x[k] for x in sums)) for k in sums[0]}

    found = judged(6, 8)
    for name, value in judged(6, 4).items():
        assert value == pytest.approx(found[name], rel=1e-5), name
    clean = IMAGES[:6] / np.float32(255)
    restored = Restorer().apply(state.variables, clean / 3).clean
    visual = [
        visual_by_hand(
            *(np.tile(x[i], (BATCH, 1, 1, 1)) for x in (restored, clean)), 255
        )
        for i in range(6)
    ]
    logits = Classifier().apply(classifier_variables(), restored)
    answers = np.asarray(Classifier().apply(classifier_variables(), clean)).argmax(-1)
    entropy = entropy_by_hand(logits, answers)
    assert found["count"] == 6
    assert found["accuracy"] == (logits.argmax(-1) == LABELS[:6]).sum()
    assert found["cross_entropy"] == pytest.approx(entropy.sum(), rel=1e-4)
    assert found["visual"] == pytest.approx(sum(visual), rel=1e-4)
    loss = 0.3 * sum(visual) + 0.7 * entropy.sum()
    assert found["loss"] == pytest.approx(loss, rel=1e-4)
    errors = ((restored - clean) ** 2).mean(axis=(1, 2, 3))
    psnr = -10 * np.log10(errors).sum()
    assert found["psnr"] == pytest.approx(psnr, rel=1e-4)


def test_four_devices_match_one_and_the_classifier_stays_as_it_is():
    task, found = make_task(optimizer=optax.sgd(0.1)), []
    for devices in (jax.devices(), jax.devices()[:1]):
        mesh = sharding.data_mesh(devices)
        chex.clear_trace_counter()
        step = chex.assert_max_traces(task.step, n=1)
        advance = sharding.compile_steps(step, lambda resident, batch: batch, mesh)
        state, frozen = sharding.replicate((first_state(task), task.frozen), mesh)
        inputs = jax.tree.map(lambda x: np.stack([x] * (WARMUP + 1)), batch_of())
        inputs = sharding.split_batch(inputs, mesh, axis=1)
        state, metrics = advance(state, frozen, (), inputs)
        chex.assert_trees_all_equal(jax.device_get(frozen), jax.device_get(task.frozen))
        found.append((raw(state), jax.device_get(metrics)))
    # Sums in another order, in float32.
    chex.assert_trees_all_close(*found, rtol=1e-4, atol=1e-5)


def test_a_run_that_is_stopped_anywhere_goes_on_bit_for_bit(tmp_path):
    """Before, at and after the switch."""
    source = ArraySource("random", "train", IMAGES, LABELS, "abc")

    def run(folder, stop=lambda: False):
        return fit(
            make_task(),
            *(source, source),
            **{"batch_size": BATCH, "num_steps": 6, "steps_per_dispatch": 1},
            **{"log_every": 1, "eval_every": 3, "checkpoint_every": 0},
            workdir=tmp_path / folder,
            config={},
            stop=stop,
            progress=False,
        )

    whole = run("whole")
    for at in (WARMUP - 1, WARMUP, WARMUP + 1):
        asked = iter(range(100))
        stopped = run(f"at {at}", lambda asked=asked, at=at: next(asked) >= at - 1)
        assert int(stopped.state.step) == at and not stopped.finished
        resumed = run(f"at {at}")
        assert resumed.metrics == whole.metrics
        chex.assert_trees_all_equal(raw(resumed.state), raw(whole.state))


def test_the_rate_falls_over_the_longer_part():
    updates = reconstructor.RECONSTRUCTOR_PHASE.updates
    for warmup, expected in ((0, 12), (3, 9), (8, 8), (12, 12)):
        config = {"num_steps": 12, "reconstruction": {"warmup_steps": warmup}}
        assert updates(config) == expected
