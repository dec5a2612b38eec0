"""Pairs of clean and degraded images, drawn or stored, and training on them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from uronet_jax.corruptions import make_degradation
from uronet_jax.data.augment import flip_crop
from uronet_jax.purifiers import parse_purifier
from uronet_jax.training import pairs
from uronet_jax.training.detector import detector_task
from uronet_jax.training.state import create_state


def test_one_of_several_stored_copies_is_taken_for_each_image(key):
    clean = np.zeros((6, 2, 2, 1), np.uint8)
    copies = np.stack([np.full_like(clean, 50), np.full_like(clean, 100)], axis=1)
    batch = {"image": clean, "degraded": copies, "index": jnp.arange(6)}
    made = pairs.stored_pairs()
    first = made.validation(key, made.frozen, batch)[1]
    np.testing.assert_allclose(first, 50 / 255, atol=1e-6)
    seen = []
    for number in range(8):
        original, degraded = made.train(
            jax.random.fold_in(key, number), made.frozen, batch
        )
        assert not original.any()
        seen.append(np.rint(255 * degraded[:, 0, 0, 0]))
    assert set(np.unique(seen)) == {50, 100}
    # Each image draws for itself, and anew in each step.
    assert np.std(seen, axis=0).min() > 0 and np.std(seen, axis=1).max() > 0


def test_a_share_of_stored_pairs_is_clean(key):
    clean = np.zeros((2000, 1, 1, 1), np.uint8)
    white = np.full_like(clean, 255)
    batch = {"image": clean, "degraded": white, "index": jnp.arange(2000)}
    made = pairs.stored_pairs(clean_share=0.25)
    original, degraded = made.train(key, made.frozen, batch)
    assert not original.any() and set(np.unique(degraded)) == {0, 1}
    # Four standard deviations of a share of 2,000.
    assert float(degraded.mean()) == pytest.approx(0.75, abs=0.04)
    # Validation is told nothing of it.
    assert made.validation(key, made.frozen, batch)[1].all()


def test_noise_for_smoothing_is_not_clipped(key):
    black = np.zeros((4, 16, 16, 3), np.uint8)
    batch = {"image": black, "index": jnp.arange(4)}
    noise = make_degradation([("gaussian_noise", 0.5)])
    made = {clip: pairs.drawn_pairs(noise, clip=clip) for clip in (False, True)}
    for part in ("train", "validation"):
        free, cut = (
            getattr(x, part)(key, x.frozen, batch)[1] for x in (made[False], made[True])
        )
        np.testing.assert_array_equal(np.clip(free, 0.0, 1.0), cut)
        # Of 3,072 numbers five standard errors: 0.045 of the mean, 0.032 of the other.
        assert abs(float(free.mean())) < 0.045
        assert float(free.std()) == pytest.approx(0.5, abs=0.032)


@pytest.mark.parametrize("kind", ["drawn", "stored", "clean"])
def test_pairs_do_not_depend_on_the_batch(kind, key):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (12, 8, 8, 3), np.uint8)
    copies = rng.integers(0, 256, (12, 3, 8, 8, 3), np.uint8)
    made = {
        "drawn": pairs.drawn_pairs(
            make_degradation([("gaussian_noise", 0.1), ("identity", 0.0)]), flip_crop
        ),
        "stored": pairs.stored_pairs(flip_crop, clean_share=0.5),
        "clean": pairs.clean_pairs(flip_crop),
    }[kind]

    def train(index):
        batch = {"image": images[index], "degraded": copies[index]}
        batch["index"] = jnp.asarray(index)
        return jax.jit(made.train)(key, made.frozen, batch)

    whole = train(np.arange(12))
    for index in (rng.permutation(12), np.arange(4, 8)):
        for part, expected in zip(train(index), whole, strict=True):
            # XLA may multiply by 1 / 255 in one program and divide in another.
            np.testing.assert_allclose(part, expected[index], atol=1e-6)


def test_an_image_and_its_stored_copy_are_changed_alike(key):
    images = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), np.uint8)
    batch = {"image": images, "degraded": images, "index": jnp.arange(6)}
    # Pairs of clean images are both the image itself.
    for made in (pairs.stored_pairs(flip_crop), pairs.clean_pairs(flip_crop)):
        clean, degraded = made.train(key, made.frozen, batch)
        np.testing.assert_allclose(clean, degraded, atol=1e-6)
        assert np.abs(clean - images / 255).max() > 0.1  # And they are changed.
        for image in made.validation(key, made.frozen, batch):
            np.testing.assert_allclose(image, images / 255, atol=1e-6)


def test_drawn_pairs_degrade_what_was_augmented(key):
    """Validation takes images as they are; each key degrades in its own way."""

    def brighter(key, images, index):
        del key
        return images + 0.1 * index[:, None, None, None]

    batch = {"image": np.full((2, 16, 16, 3), 102, np.uint8), "index": jnp.arange(2)}
    made = pairs.drawn_pairs(make_degradation([("gaussian_noise", 0.05)]), brighter)
    frozen = made.frozen
    clean, degraded = made.train(key, frozen, batch)
    # A mean of 768 in float32.
    np.testing.assert_allclose(clean.mean(axis=(1, 2, 3)), [0.4, 0.5], atol=1e-5)
    # 768 draws a picture: the deviation is known to 2.6 %, of which this is four.
    np.testing.assert_allclose((degraded - clean).std(axis=(1, 2, 3)), 0.05, rtol=0.1)
    again = made.train(jax.random.fold_in(key, 1), frozen, batch)
    assert np.abs(again[1] - degraded).max() > 0.05
    clean, degraded = made.validation(key, frozen, batch)
    np.testing.assert_allclose(clean, 0.4, atol=1e-6)
    np.testing.assert_allclose((degraded - clean).std(), 0.05, rtol=0.1)
    other = made.validation(jax.random.fold_in(key, 1), frozen, batch)[1]
    assert np.abs(other - degraded).max() > 0.05


def test_a_random_purifier_draws_another_noise_than_the_degradation(key):
    """Where both drew alike, the noise would be there twice, of twice the deviation."""
    seen = []

    class Spy(nn.Module):
        """A detector that keeps what it looks at."""

        @nn.compact
        def __call__(self, images, *, train=False):
            seen.append(images)
            return jnp.zeros((len(images), 2)) + self.param("w", nn.zeros, (1, 1))

    task = detector_task(
        Spy(),
        parse_purifier("gaussian_noise:scale=0.1"),
        None,
        optax.sgd(0.0),
        pairs.drawn_pairs(make_degradation([("gaussian_noise", 0.1)])),
        image_shape=(16, 16, 1),
        inputs="clean",
    )
    state = create_state(task.module, task.optimizer, key, task.input_shape)
    batch = {"image": np.full((4, 16, 16, 1), 128, np.uint8), "index": jnp.arange(4)}
    batch |= {"label": np.zeros(4, int), "mask": np.ones(4, bool)}
    del seen[:]
    task.evaluation(state.variables, task.frozen, key, batch)
    for features, deviation in zip(seen, (0.1, 0.1 * 2**0.5), strict=True):
        # 1,024 draws: 2 % each way, of which this is four.
        assert features[..., 0].std() == pytest.approx(deviation, rel=0.09)
