"""Feature distillation beside SciPy's cosine transform."""

import jax
import numpy as np
import pytest
from scipy import fft

from uronet_jax.transformations import TRANSFORMATIONS

DISTILLATION = TRANSFORMATIONS["feature_distillation"]


def distil(image, low, high):
    """Returns the distilled image, and the least distance of a quotient from a tie."""
    height, width, _ = image.shape
    pad = ((0, -height % 8), (0, -width % 8), (0, 0))
    levels = np.pad(255.0 * image.astype(np.float64), pad, mode="edge")
    steps = np.full((8, 8, 1), high)
    steps[:4, :4] = low
    margin = 1.0
    for y in range(0, levels.shape[0], 8):
        for x in range(0, levels.shape[1], 8):
            block = (slice(y, y + 8), slice(x, x + 8))
            quotients = fft.dctn(levels[block], axes=(0, 1), norm="ortho") / steps
            margin = min(margin, np.abs(quotients % 1 - 0.5).min())
            levels[block] = fft.idctn(
                np.round(quotients) * steps, axes=(0, 1), norm="ortho"
            )
    return np.clip(levels[:height, :width] / 255, 0, 1), margin


@pytest.mark.parametrize("low, high", [(25.0, 30.0), (3, 90)])
@pytest.mark.parametrize("shape", [(16, 24, 3), (11, 13, 1), (1, 1, 3)])
def test_it_is_that_of_scipy(shape, low, high):
    images = np.random.default_rng(5).uniform(size=(2, *shape)).astype(np.float32)
    found = jax.jit(lambda x: DISTILLATION(x, low_step=low, high_step=high))(images)
    for image, own in zip(images, found, strict=True):
        expected, margin = distil(image, low, high)
        # Coefficients are up to 2040, known to 2e-4 in float32: none is at a tie.
        assert margin > 1e-4
        # A few roundings of numbers up to 1.
        np.testing.assert_allclose(own, expected, atol=2e-6)


def test_a_flat_image_moves_to_a_multiple_of_an_eighth_of_the_step():
    flat = np.full((1, 8, 8, 1), 100 / 255, np.float32)
    # Its one coefficient is 8 * 100 = 800, 32 steps of 25; of 27, 29.6 steps.
    np.testing.assert_allclose(DISTILLATION(flat), flat, rtol=1e-6)
    found = DISTILLATION(flat, low_step=27.0)
    np.testing.assert_allclose(found, flat * (30 * 27 / 800), rtol=1e-6)


def test_the_gradient_passes_even_where_it_is_clipped():
    white = np.ones((1, 8, 8, 1), np.float32)
    gradient = jax.grad(lambda x: DISTILLATION(x, low_step=27.0).sum())(white)
    np.testing.assert_array_equal(gradient, 1.0)
