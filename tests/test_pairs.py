"""Pairs of clean and degraded images, drawn or stored, and training on them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from uronet_jax.corruptions import make_degradation
from uronet_jax.data.augment import no_augmentation
from uronet_jax.models import make_classifier, make_remover
from uronet_jax.training import pairs, tasks
from uronet_jax.training.state import create_state


def test_one_of_several_stored_copies_is_taken_for_each_image(key):
    clean = np.zeros((6, 2, 2, 1), np.uint8)
    copies = np.stack([np.full_like(clean, 50), np.full_like(clean, 100)])
    batch = {"image": clean, "index": jnp.arange(6)}
    frozen = {"train": jnp.asarray(copies), "validation": jnp.asarray(copies)}
    made = pairs.stored_pairs(no_augmentation)
    first = made.validation(key, frozen, batch)[1]
    np.testing.assert_allclose(first, 50 / 255, atol=1e-6)
    seen = []
    for number in range(8):
        original, degraded = made.train(jax.random.fold_in(key, number), frozen, batch)
        assert not original.any()
        seen.append(np.rint(255 * degraded[:, 0, 0, 0]))
    assert set(np.unique(seen)) == {50, 100}
    # Each image draws for itself, and anew in each step.
    assert np.std(seen, axis=0).min() > 0 and np.std(seen, axis=1).max() > 0


def test_a_share_of_stored_pairs_is_clean(key):
    clean = np.zeros((2000, 1, 1, 1), np.uint8)
    stored = jnp.full(clean.shape, 255, jnp.uint8)
    batch = {"image": clean, "index": jnp.arange(2000)}
    made = pairs.stored_pairs(no_augmentation, clean_share=0.25)
    original, degraded = made.train(key, {"train": stored}, batch)
    assert not original.any() and set(np.unique(degraded)) == {0, 1}
    # Four standard deviations of a share of 2,000.
    assert float(degraded.mean()) == pytest.approx(0.75, abs=0.04)
    # Validation is told nothing of it.
    assert made.validation(key, {"validation": stored}, batch)[1].all()


def test_drawn_pairs_degrade_what_was_augmented(key):
    """Validation takes the images as they are, training others with every key."""

    def brighter(key, images, index):
        del key
        return images + 0.1 * index[:, None, None, None]

    frozen = {"degradation": make_degradation([("gaussian_noise", 0.05)])}
    batch = {"image": np.full((2, 16, 16, 3), 102, np.uint8), "index": jnp.arange(2)}
    made = pairs.drawn_pairs(brighter)
    clean, degraded = made.train(key, frozen, batch)
    # A mean of 768 in float32.
    np.testing.assert_allclose(clean.mean(axis=(1, 2, 3)), [0.4, 0.5], atol=1e-5)
    # 768 draws a picture: the deviation is known to 2.6 %, of which this is four.
    np.testing.assert_allclose((degraded - clean).std(axis=(1, 2, 3)), 0.05, rtol=0.1)
    again = made.train(jax.random.fold_in(key, 1), frozen, batch)
    assert np.abs(again[1] - degraded).max() > 0.05
    clean, degraded = made.validation(key, frozen, batch)
    np.testing.assert_allclose(clean, 0.4, atol=1e-6)
    assert 0.0 < np.abs(degraded - clean).mean() < 0.1


def test_stored_pairs_are_looked_up_by_the_index(key):
    """The loss of the first step, by hand: zero weights give grey pictures."""
    rng = np.random.default_rng(0)
    clean, degraded = rng.integers(0, 256, (2, 5, 4, 4, 1), np.uint8)
    remover = make_remover("paper", widths=(2,))
    shape = (4, 4, 1)
    task = tasks.remover_task(
        remover, optax.sgd(0.0), None, image_shape=shape, noise_weight=0.5
    )
    state = jax.tree.map(
        lambda x: x if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else 0 * x,
        create_state(task.module, task.optimizer, key, shape),
    )
    index = np.asarray([3, 0, 4])
    batch = {"image": clean[index], "index": index, "mask": np.asarray([1, 0, 1], bool)}
    frozen = {"train": degraded, "validation": degraded[::-1].copy()}

    def expected(index, degraded):
        x, y = clean[index] / 255, degraded[index] / 255
        picture = ((0.5 - x) ** 2).mean(axis=(1, 2, 3))
        return picture + 0.5 * (((y - x) / 2) ** 2).mean(axis=(1, 2, 3))

    _, sums = jax.jit(task.step)(state, frozen, batch)
    assert float(sums["loss"]) == pytest.approx(
        expected(index, degraded).sum(), rel=1e-5
    )
    found = jax.jit(task.evaluation)(state.variables, frozen, key, batch)
    by_hand = expected(index, degraded[::-1])[[0, 2]].sum()
    assert float(found["loss"]) == pytest.approx(by_hand, rel=1e-5)
    assert float(found["count"]) == 2


def test_detectors_learn_stored_pairs(key):
    """White copies of dark pictures: anything that learns tells them apart."""
    rng = np.random.default_rng(0)
    clean = rng.integers(0, 100, (8, 8, 8, 1), np.uint8)
    frozen_images = np.full_like(clean, 255)
    task = tasks.detector_task(
        make_classifier("cnn_narrow", 2),
        (remover := make_remover("dcae", widths=(2,))),
        {},
        optax.adam(1e-2),
        None,
        image_shape=(8, 8, 1),
        inputs="image_only",
    )
    state = create_state(task.module, task.optimizer, key, task.input_shape)
    variables = remover.init(key, jnp.zeros((1, 8, 8, 1)))
    frozen = {"train": frozen_images, "validation": frozen_images, "remover": variables}
    index = np.arange(8)
    batch = {"image": clean, "index": index, "mask": np.ones(8, bool)}
    step, accuracy = jax.jit(task.step), []
    for _ in range(30):
        state, sums = step(state, frozen, batch)
        assert float(sums["count"]) == 16  # Each image clean and degraded.
        accuracy.append(float(sums["correct"]) / 16)
    assert accuracy[0] < 1.0 and accuracy[-1] == 1.0
    sums = jax.jit(task.evaluation)(state.variables, frozen, key, batch)
    assert float(sums["accuracy"] / sums["count"]) == 1.0
