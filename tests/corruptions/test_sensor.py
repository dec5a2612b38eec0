"""Faults of a sensor, against their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from uronet_jax.corruptions import corrupt, sensor

INDEX = np.array([3, 0, 90, 7])


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).uniform(0.1, 1, (4, 40, 32, 3)).astype(np.float32)


@pytest.mark.parametrize("amplitude", [0.02, 0.12])
def test_banding_is_a_wave_along_the_rows(amplitude, key, images):
    out = sensor.banding(key, images, amplitude=amplitude, index=INDEX)
    severity = 1 if amplitude == 0.02 else 5
    of_suite = corrupt(key, images, "sensor/banding", severity=severity, index=INDEX)
    np.testing.assert_array_equal(of_suite, out)
    for image, i, result in zip(images, INDEX, out, strict=True):
        phase, share = jax.random.uniform(jax.random.fold_in(key, i), (2,)).tolist()
        turns = (2 + 4 * share) * np.arange(40) / 40 + phase
        wave = amplitude * np.sin(2 * np.pi * turns)[:, None, None]
        assert 1.5 * amplitude < np.ptp(wave) <= 2 * amplitude
        np.testing.assert_allclose(result, (image + wave).clip(0, 1), atol=1e-5)


def test_dead_columns_are_black_from_top_to_bottom(key, images):
    out = np.asarray(sensor.dead_columns(key, images, count=3, index=INDEX))
    dead = np.all(out == 0, axis=(1, 3))
    np.testing.assert_array_equal(dead.sum(axis=1), 3)
    assert len({row.tobytes() for row in dead}) == 4
    expected = np.where(dead[:, None, :, None], 0, images)
    np.testing.assert_array_equal(out, expected)
    gradient = jax.grad(lambda x: sensor.dead_columns(key, x, count=3).sum())(images)
    assert set(np.unique(gradient)) == {0.0, 1.0} and gradient.sum() == 4 * 40 * 29 * 3
    for count, rest in ((0, images), (32, 0.0)):
        all_or_none = sensor.dead_columns(key, images, count=count)
        np.testing.assert_array_equal(all_or_none, np.broadcast_to(rest, images.shape))


def test_every_column_may_die(key):
    white = jnp.ones((1000, 28, 32, 1))
    out = np.asarray(sensor.dead_columns(key, white, count=4))
    counts = np.sum(out[:, 0, :, 0] == 0, axis=0)
    assert counts.sum() == 4000 and stats.chisquare(counts).pvalue > 1e-3
