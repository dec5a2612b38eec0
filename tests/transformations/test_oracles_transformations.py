"""Input transformations beside other implementations, where they are installed."""

import jax
import numpy as np
import pytest
from scipy import ndimage

from uronet_jax.transformations import TRANSFORMATIONS
from uronet_jax.transformations.total_variation import descend_art_objective


def make_images(*shape):
    noise = np.random.default_rng(7).normal(size=shape)
    images = ndimage.gaussian_filter(noise, (0, 2, 2, 0)) * 2 + 0.5
    return images.clip(0, 1).astype(np.float32)


def test_median_is_that_of_art():
    preprocessor = pytest.importorskip("art.defences.preprocessor")
    images = make_images(2, 12, 9, 3)
    expected, _ = preprocessor.SpatialSmoothing()(images)
    np.testing.assert_array_equal(TRANSFORMATIONS["median"](images), expected)


def test_total_variation_is_nearly_that_of_art():
    preprocessor = pytest.importorskip("art.defences.preprocessor")
    images = make_images(4, 32, 32, 3)
    kept = np.random.default_rng(8).uniform(size=images.shape) < 0.3
    entry = TRANSFORMATIONS["total_variation_art"]
    settings = {x: entry.parameters[x] for x in ("weight", "iterations")}
    found = jax.jit(lambda x, k: descend_art_objective(x, k, **settings))(images, kept)
    art = preprocessor.TotalVarMin()
    assert (art.prob, art.lamb) == tuple(
        entry.parameters[x] for x in ("keep_rate", "weight")
    )
    for x, k, own in zip(images, kept, found, strict=True):
        expected = art._minimize(x, k.astype(int))
        move = np.sqrt(np.mean((expected - x) ** 2))
        # Two searches for one minimum, both ended early: as far, and nearly there.
        assert np.sqrt(np.mean((own - x) ** 2)) == pytest.approx(move, rel=0.1)
        assert np.sqrt(np.mean((own - expected) ** 2)) < 0.15 * move
        for c in range(3):
            planes = (x[..., c], k[..., c].astype(int), 2, 0.5)
            ours, theirs = (
                art._loss_func(np.asarray(y[..., c], np.float64).ravel(), *planes)
                for y in (own, expected)
            )
            assert ours <= 1.01 * theirs
