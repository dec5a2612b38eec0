"""The pictures of an evaluation are those that were judged."""

import jax
import numpy as np
import pytest

from uronet_jax import sharding
from uronet_jax.corruptions import suite_degradations
from uronet_jax.defense import Defense, DefenseFunction
from uronet_jax.evaluation.examples import example_pictures
from uronet_jax.evaluation.judge import CLEAN_ENTRY, Judge
from uronet_jax.purifiers import make_transformation

ENTRIES = suite_degradations("uronet", noises=["GN", "SPN", "SN"])
PIXELS = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)


def brightness(variables, images):
    return images.mean(axis=(1, 2))


@pytest.mark.parametrize("name", ["median", "gaussian_noise", None])
def test_pictures_are_those_of_the_judge_and_the_defence(name):
    mesh = sharding.data_mesh(jax.devices()[:1])
    labels = np.zeros(2, np.int32)
    judge = Judge((PIXELS, labels), batch_size=2, mesh=mesh, seed=5)
    purifier = make_transformation(name) if name else None
    variables = {"classifier": {}}
    defense = DefenseFunction(brightness, purifier)
    found = example_pictures(judge, defense, variables, ENTRIES, seed=5)
    # Of each noise the middle severity; two images serve three noises in turn.
    assert found.entries == [("GN", 2), ("SPN", 2), ("SN", 2)]
    order = [0, 1, 0]
    clean = judge.pictures(CLEAN_ENTRY, 2)[order]
    np.testing.assert_array_equal(found.clean, clean)
    np.testing.assert_array_equal(np.rint(255 * clean), PIXELS[order])
    middle = [entry for entry in ENTRIES if entry.severity == 2]
    for entry, i, degraded in zip(middle, order, found.degraded, strict=True):
        np.testing.assert_array_equal(degraded, judge.pictures(entry, 2)[i])
    if purifier is None:
        assert (found.purified, found.noise) == (None, None)
        return
    shown = Defense(
        purifier, None, brightness, variables, image_shape=(8, 8, 3), batch_size=3
    )(found.degraded, jax.random.key(5))
    np.testing.assert_array_equal(found.purified, shown.clean)
    np.testing.assert_array_equal(found.noise, shown.noise)
    # float32 arithmetic of a difference.
    np.testing.assert_allclose(found.noise, found.degraded - found.purified, atol=1e-6)
