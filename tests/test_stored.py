"""Training on stored pairs of clean and degraded images."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from uronet_jax.models import make_classifier, make_remover
from uronet_jax.training import stored
from uronet_jax.training.state import create_state


def test_one_of_several_stored_copies_is_taken_for_each_image(key):
    clean = np.zeros((6, 2, 2, 1), np.uint8)
    copies = np.stack([np.full_like(clean, 50), np.full_like(clean, 100)])
    batch = {"image": clean, "index": jnp.arange(6)}
    first = stored._pair(batch, jnp.asarray(copies))[1]
    np.testing.assert_allclose(first, 50 / 255, atol=1e-6)

    def nothing(key, images, index):
        return images

    seen = []
    for number in range(8):
        step = jax.random.fold_in(key, number)
        original, degraded = stored._pair(batch, jnp.asarray(copies), nothing, step)
        assert not original.any()
        seen.append(np.rint(255 * degraded[:, 0, 0, 0]))
    assert set(np.unique(seen)) == {50, 100}
    # Each image draws for itself, and anew in each step.
    assert np.std(seen, axis=0).min() > 0 and np.std(seen, axis=1).max() > 0


def test_stored_pairs_are_looked_up_by_the_index(key):
    """The loss of the first step, by hand: zero weights give grey pictures."""
    rng = np.random.default_rng(0)
    clean, degraded = rng.integers(0, 256, (2, 5, 4, 4, 1), np.uint8)
    remover = make_remover("paper", widths=(2,))
    shape = (4, 4, 1)

    def changed(key, images, index):
        return images + 0.0 * index[:, None, None, None]

    task = stored.stored_remover_task(
        remover, optax.sgd(0.0), changed, image_shape=shape, noise_weight=0.5
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
    task = stored.stored_detector_task(
        make_classifier("cnn_narrow", 2),
        (remover := make_remover("dcae", widths=(2,))),
        optax.adam(1e-2),
        lambda key, images, index: images,
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
        accuracy.append(float(sums["accuracy"]) / 16)
    assert accuracy[0] < 1.0 and accuracy[-1] == 1.0
    sums = jax.jit(task.evaluation)(state.variables, frozen, key, batch)
    assert float(sums["accuracy"] / sums["count"]) == 1.0
