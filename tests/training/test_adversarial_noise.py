"""Adversarial noise training: what is shown to whom, when, and what is kept."""

import functools
from unittest import mock

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from numpy.testing import assert_allclose, assert_array_equal

from uronet_jax import sharding
from uronet_jax.attacks import clipping_aware_rescale
from uronet_jax.data.sources import ArraySource
from uronet_jax.models import learned_noise, make_noise_generator
from uronet_jax.training import adversarial_noise
from uronet_jax.training.adversarial_noise import (
    adversarial_noise_task,
    batch_blocks,
    batch_parts,
)
from uronet_jax.training.noise_generator import train_noise_generators
from uronet_jax.training.pairs import Pairs
from uronet_jax.training.run import fit
from uronet_jax.training.state import to_float

SHAPE, BATCH, EPSILON = (8, 8, 1), 20, 1.5
EVERY, RESTART, STEPS = 3, 2, 12  # Cycles of five steps; the third is cut short.
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (BATCH, *SHAPE), dtype=np.uint8)
LABELS = (np.arange(BATCH) % 3).astype(np.int32)
INDEX = RNG.permutation(100)[:BATCH].astype(np.int32)
CLEAN = IMAGES.astype(np.float32) / 255


class Tiny(nn.Module):
    """A classifier that compiles fast: batch norm and a dense layer."""

    @nn.compact
    def __call__(self, x, *, train=False):
        x = nn.BatchNorm(not train, momentum=0.9)(x)
        return nn.Dense(3)(x.reshape(x.shape[0], -1))


def inverted():
    """Pairs whose degraded image is the negative."""

    def pair(key, frozen, batch):
        clean = to_float(batch["image"])
        return clean, 1.0 - clean

    return Pairs(pair, pair, {})


def make_task(**fields):
    given = {
        **{"image_shape": SHAPE, "num_steps": STEPS, "epsilon": EPSILON},
        **{"rate": 0.02, "restart_rate": 0.05, "degraded": 0.1},
        **{"restart_every": EVERY, "restart_steps": RESTART},
    }
    optimizer = optax.sgd(0.3, momentum=0.5)
    return adversarial_noise_task(Tiny(), optimizer, inverted(), **(given | fields))


@functools.cache
def states():
    """Returns the task, and its state before each step and at the end."""
    from uronet_jax.training.state import create_state

    task = make_task()
    state = task.extend(
        create_state(task.module, task.optimizer, jax.random.key(3), SHAPE)
    )
    kinds, found, metrics = task.step.kinds, [state], []
    kinds = [jax.jit(chex.assert_max_traces(n=1)(kind)) for kind in kinds]
    for i in range(STEPS):
        state, sums = kinds[task.step.choose(i)](state, {}, batch())
        found.append(state)
        metrics.append(sums)
    return task, found, metrics


@functools.cache
def shown_by_step():
    """Returns `(state, batch) -> state, images, labels` that a step learns from."""
    task, *_ = states()

    def look(state, optimizer, network, images, labels):
        return (state, images, labels), {}

    def show(state, batch):
        with mock.patch.object(adversarial_noise, "update_by_labels", look):
            return task.step.kinds[0](state, {}, batch)[0]

    return jax.jit(show)


def batch():
    return {"image": IMAGES, "label": LABELS, "index": INDEX}


def distances(images):
    return np.sqrt(np.sum(np.square(images - CLEAN), axis=(1, 2, 3)))


def test_new_generators_learn_alone_while_the_classifier_rests():
    _, found, _ = states()
    for i in (0, 1, 5, 6, 10, 11):
        before, after = found[i], found[i + 1]
        for field in ("params", "batch_stats", "opt_state", "snapshots"):
            chex.assert_trees_all_equal(getattr(before, field), getattr(after, field))
        assert after.step == i + 1
    starts = [found[i + 1].generator.params for i in (0, 5, 10)]
    fresh = [jax.tree.leaves(start)[1] for start in starts]
    assert not np.allclose(fresh[0], fresh[1]) and not np.allclose(fresh[1], fresh[2])
    for i, start in zip((0, 5, 10), starts, strict=True):
        # Adam's first step is its rate; without it these are N(0, 0.01).
        old = np.concatenate([np.ravel(x) for x in jax.tree.leaves(start)])
        assert np.abs(old).max() < 0.05 + 0.05, i
        assert found[i + 1].generator.opt.count == 1


def test_generators_are_kept_where_the_classifier_goes_on():
    _, found, _ = states()
    last = found[-1].snapshots
    for number, step in enumerate((2, 7)):
        kept = jax.tree.map(lambda x, n=number: x[n], last)
        chex.assert_trees_all_equal(kept, found[step].generator.params)
        assert found[step].generator.opt.count == RESTART
        assert found[step + 1].generator.opt.count == 1  # Its optimizer starts anew.
    # The third cycle has not come so far.
    for leaf in jax.tree.leaves(last):
        assert leaf.shape[0] == 3
        assert_array_equal(leaf[2], 0)


@pytest.mark.parametrize("step", [2, 8])
def test_a_batch_is_clean_degraded_noisy_and_noisy_by_earlier_generators(step):
    task, found, _ = states()
    state = found[step]
    after, images, labels = shown_by_step()(state, batch())
    assert_array_equal(labels, LABELS)
    # Of 20: 40 % clean, 10 % degraded, 30 % and twice 10 % noisy.
    # Compiled, a division by 255 is a product.
    assert_allclose(images[:8], CLEAN[:8], atol=1e-7)
    assert_allclose(images[8:10], 1 - CLEAN[8:10], atol=1e-7)
    # Of so few steps of float32 sums of 64 squares.
    assert_allclose(distances(images)[10:], EPSILON, rtol=1e-5)

    key = jax.random.split(jax.random.fold_in(state.key, state.step), 4)[2]

    def noisy(params):
        network = make_noise_generator("1x1")
        noise = learned_noise(network, params, key, INDEX, SHAPE)
        return np.asarray(clipping_aware_rescale(CLEAN, noise, EPSILON))

    current = noisy(after.generator.params)
    # Sums in another order.
    assert_allclose(images[10:16], current[10:16], atol=1e-6)
    kept = [jax.tree.map(lambda x, n=n: x[n], after.snapshots) for n in (0, 1)]
    earlier = [noisy(params) for params in kept]
    replay_key = jax.random.split(jax.random.fold_in(state.key, state.step), 4)[3]
    for i, part in enumerate((slice(16, 18), slice(18, 20))):
        chosen = jax.random.randint(jax.random.fold_in(replay_key, i), (), 0, 2)
        # In the first cycle there is no earlier one.
        expected = current if step == 2 else earlier[int(chosen)]
        assert_allclose(images[part], expected[part], atol=1e-6)


def test_every_block_of_a_large_batch_has_all_parts():
    sizes = (8, 128, 200, 250, 1024)
    assert [batch_blocks(size) for size in sizes] == [1, 1, 2, 2, 8]
    task, found, _ = states()
    large = jax.tree.map(lambda x: np.concatenate([x] * 10), batch())
    clean = np.concatenate([CLEAN] * 10)
    _, images, _ = shown_by_step()(found[2], large)
    images = np.asarray(images)
    for block in (slice(0, 100), slice(100, 200)):
        shown, own = images[block], clean[block]
        assert_allclose(shown[:40], own[:40], atol=1e-7)
        assert_allclose(shown[40:50], 1 - own[40:50], atol=1e-7)
        distance = np.linalg.norm((shown - own)[50:].reshape(50, -1), axis=1)
        # In float32, of 64 numbers.
        assert_allclose(distance, EPSILON, rtol=1e-5)


def test_the_generator_raises_the_loss_of_the_classifier_as_it_judges():
    task, found, metrics = states()
    state = found[0]
    network = make_noise_generator("1x1")

    def loss(params, key):
        noise = learned_noise(network, params, key, INDEX, SHAPE)
        images = clipping_aware_rescale(CLEAN, noise, EPSILON)
        model = {"params": state.params, "batch_stats": state.batch_stats}
        logits = Tiny().apply(model, images, train=False)
        return optax.softmax_cross_entropy_with_integer_labels(logits, LABELS)

    key = jax.random.split(jax.random.fold_in(state.key, state.step), 4)[1]
    first = found[1].generator  # Adam's first step is the sign of the gradient.
    before = loss(found[0].generator.params, key)
    assert loss(first.params, key).mean() > before.mean()
    assert_allclose(metrics[0]["noise_loss"], before.sum(), rtol=1e-5)
    assert metrics[0]["loss"] == metrics[0]["noise_loss"]
    assert metrics[2]["loss"] != metrics[2]["noise_loss"]
    assert {m["count"].item() for m in metrics} == {BATCH}
    # Alone, against a classifier that stays as it is.
    source = ArraySource("random", "train", IMAGES, LABELS, "abc")
    model = {"params": state.params, "batch_stats": state.batch_stats}
    (params, other) = train_noise_generators(
        lambda variables, images: Tiny().apply(variables, images),
        *(model, source),
        **{"seeds": (0, 1), "epsilon": EPSILON, "num_steps": 40},
        **{"batch_size": BATCH, "rate": 0.05},
    )
    for learned in (params, other):
        assert loss(learned, key).mean() > before.mean() + 0.05
    kernels = (x["_Convolution_0"]["kernel"] for x in (params, other))
    assert not np.allclose(*kernels)


def test_kinds_of_steps_alternate_in_a_scan_as_in_a_loop(mesh):
    task, found, metrics = states()

    def step(state, _):
        return task.step(state, {}, batch())

    state, sums = jax.jit(lambda s: jax.lax.scan(step, s, None, STEPS))(found[0])
    for name, values in sums.items():
        # Fused otherwise.
        assert_allclose(values, [m[name] for m in metrics], rtol=2e-4, err_msg=name)
    assert_allclose(
        state.params["Dense_0"]["kernel"][0],
        found[-1].params["Dense_0"]["kernel"][0],
        atol=1e-4,
    )

    advance = sharding.compile_steps(task.step, lambda resident, x: batch(), mesh)
    first = jax.tree.map(jnp.copy, found[0])
    state, sums = advance(sharding.replicate(first, mesh), {}, (), np.zeros((STEPS, 1)))
    assert_allclose(sums["loss"], [m["loss"] for m in metrics], rtol=2e-4)


def test_a_run_is_ranked_by_clean_and_noisy_accuracy():
    """Noise of the generator that the classifier learned from last, not a new one."""
    task, found, _ = states()
    assert task.best_metric == ("accuracy", "max")
    for at, learned in ((5, 5), (6, 5), (7, 5), (8, 8)):
        state = found[at]
        opponent = found[learned].generator.params
        chex.assert_trees_all_equal(state.opponent, opponent)
        key, mask = jax.random.key(5), np.arange(BATCH) != 3
        values = task.evaluation(state.variables, {}, key, {**batch(), "mask": mask})
        network = make_noise_generator("1x1")
        noise = learned_noise(network, opponent, key, INDEX, SHAPE)
        model = {"params": state.params, "batch_stats": state.batch_stats}
        shown = CLEAN, clipping_aware_rescale(CLEAN, noise, EPSILON)
        right = [
            (Tiny().apply(model, images).argmax(-1) == LABELS)[mask].sum()
            for images in shown
        ]
        assert [values["clean_accuracy"], values["noise_accuracy"]] == right
        assert values["accuracy"] == pytest.approx(sum(right) / 2)
        assert values["count"] == BATCH - 1


def test_without_restarts_one_generator_learns_all_along():
    source = ArraySource("random", "train", IMAGES, LABELS, "abc")
    task = make_task(restart_every=0, restart_steps=0, replay=0.0)
    result = fit(task, source, source, batch_size=BATCH, num_steps=2, progress=False)
    assert not jax.tree.leaves(result.state.snapshots)[0].size
    assert result.state.generator.opt.count == 2


@pytest.mark.parametrize(
    ("num_steps", "every", "steps", "updates"),
    [(12, 3, 2, 6), (12, 3, 0, 12), (12, 0, 0, 12), (10, 3, 2, 6), (11, 3, 2, 6)]
    + [(13, 3, 2, 7), (40_560, 352, 1000, 10_560)],
)
def test_the_learning_rate_falls_over_the_updates_of_the_classifier(
    num_steps, every, steps, updates
):
    noise = {"restart_every": every, "restart_steps": steps}
    config = {"num_steps": num_steps, "noise": noise}
    found = adversarial_noise.ADVERSARIAL_NOISE_PHASE.updates(config)
    if steps:
        fields = {"restart_every": every, "restart_steps": steps}
        step = make_task(num_steps=num_steps, **fields).step
        assert found == sum(step.choose(i) == 0 for i in range(num_steps))
    assert found == updates


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        ((0.3, 0.2, 2, 0.0), (64, 0, 38, [13, 13])),  # The paper's.
        ((0.5, 0.0, 2, 0.0), (64, 0, 64, [])),
        ((0.0, 0.5, 1, 0.0), (64, 0, 0, [64])),
        ((0.45, 0.0, 1, 0.3), (32, 38, 58, [])),  # With stylised images.
        ((0.6, 0.4, 2, 0.0), (0, 0, 77, [25, 26])),
    ],
)
def test_shares_fill_the_batch(shares, expected):
    parts = batch_parts(128, *shares)
    found = parts["clean"], parts["degraded"], parts["noise"], parts["replay"]
    assert found == expected
    assert sum(found[:3]) + sum(found[3]) == 128


@pytest.mark.parametrize(
    ("variant", "channels", "count"),
    [("1x1", 3, 983), ("3x3", 3, 4183), ("1x1", 1, 901), ("3x3", 1, 4101)],
)
def test_generators_start_as_gaussian_noise_and_see_their_window(
    variant, channels, count
):
    network, shape = make_noise_generator(variant), (6, 7, channels)
    z = network.draw(jax.random.key(0), jnp.arange(50), shape)
    params = network.init(jax.random.key(1), z)["params"]
    assert sum(x.size for x in jax.tree.leaves(params)) == count
    noise = learned_noise(network, params, jax.random.key(0), jnp.arange(50), shape)
    assert noise.shape == (50, *shape)
    # Four layers of weights of 0.01 add less than 1e-4 to normal numbers.
    margin = network.window // 2
    inner = z[:, margin : margin + 6, margin : margin + 7]
    assert_allclose(noise, inner, atol=1e-4)
    # Of 6300 numbers and more: five standard errors.
    assert noise.std() == pytest.approx(1.0, abs=0.05)
    large = jax.tree.map(lambda x: 30 * x, params)

    def pixel(z):
        return network.apply({"params": large}, z)[0, 3, 3].sum()

    seen = np.any(np.asarray(jax.grad(pixel)(z[:1]))[0] != 0, axis=-1)
    rows, columns = np.nonzero(seen)
    middle = 3 + margin
    assert rows.min() >= middle - margin and rows.max() <= middle + margin
    assert columns.min() >= middle - margin and columns.max() <= middle + margin
    assert seen.sum() == network.window**2
