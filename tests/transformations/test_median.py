"""Median smoothing beside SciPy's."""

import jax
import numpy as np
import pytest
from scipy import ndimage

from uronet_jax.transformations import TRANSFORMATIONS

MEDIAN = TRANSFORMATIONS["median"]


def draw(*shape):
    # Few levels: many equal values in a window.
    return np.random.default_rng(0).integers(0, 9, shape).astype(np.float32) / 8


@pytest.mark.parametrize("size", [1, 3, 5, 7])
def test_it_is_that_of_scipy(size):
    images = draw(2, 9, 6, 3)
    expected = ndimage.median_filter(images, (1, size, size, 1), mode="reflect")
    found = jax.jit(lambda x: MEDIAN(x, size=size))(images)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (1, 1, 4, 3), (1, 2, 1, 1)])
def test_a_window_may_be_larger_than_the_image(shape):
    images = draw(*shape)
    expected = ndimage.median_filter(images, (1, 9, 9, 1), mode="reflect")
    np.testing.assert_array_equal(MEDIAN(images, size=9), expected)


def test_the_gradient_goes_to_the_median():
    # Distinct values: every element gets what the windows give whose median it is.
    values = np.random.default_rng(1).permutation(5 * 4).reshape(1, 5, 4, 1) / 20
    images = values.astype(np.float32)
    weights = np.random.default_rng(2).normal(size=images.shape).astype(np.float32)
    found = jax.grad(lambda x: (weights * MEDIAN(x)).sum())(images)
    median = ndimage.median_filter(images, (1, 3, 3, 1), mode="reflect")
    expected = np.zeros_like(images)
    for weight, value in zip(weights.ravel(), median.ravel(), strict=True):
        expected[images == value] += weight
    # Mirrored elements are equal ones: their shares go to one element all the same.
    np.testing.assert_allclose(found, expected, atol=1e-6)  # Sums of 9 in float32.


def test_equal_values_share_the_gradient():
    flat = np.full((1, 5, 5, 1), 0.5, np.float32)
    found = jax.grad(lambda x: MEDIAN(x)[0, 2, 2, 0])(flat)[0, :, :, 0]
    expected = np.zeros((5, 5))
    expected[1:4, 1:4] = 1 / 9
    np.testing.assert_allclose(found, expected, rtol=1e-6)
