"""Wavelet denoising beside a plain form of it, and what it must leave or remove."""

import functools

import jax
import numpy as np
import pytest
from skimage import color

from uronet_jax.transformations import TRANSFORMATIONS


@functools.partial(jax.jit, static_argnames="sigma")
def wavelet(images, sigma=0.04):
    return TRANSFORMATIONS["wavelet"](images, sigma=sigma)


def haar(size):
    """Pair sums and differences of a side, the last pixel repeated if it is odd."""
    half = (size + 1) // 2
    low, high = np.zeros((2, half, size))
    for i in range(half):
        for position, sign in ((2 * i, 1), (min(2 * i + 1, size - 1), -1)):
            low[i, position] += np.sqrt(0.5)
            high[i, position] += sign * np.sqrt(0.5)
    return low, high


def shrink_plane(plane, sigma, levels):
    """One channel as scikit-image has it: transform, soft threshold, inverse."""
    if not levels:
        return plane
    (low_y, high_y), (low_x, high_x) = haar(plane.shape[0]), haar(plane.shape[1])
    result = inverse(low_y) @ (
        shrink_plane(low_y @ plane @ low_x.T, sigma, levels - 1) @ inverse(low_x).T
    )
    for y, x in ((low_y, high_x), (high_y, low_x), (high_y, high_x)):
        details = y @ plane @ x.T
        signal = np.mean(details**2) - sigma**2
        threshold = sigma**2 / np.sqrt(max(signal, np.finfo(np.float32).eps))
        kept = np.sign(details) * np.maximum(np.abs(details) - threshold, 0)
        result += inverse(y) @ kept @ inverse(x).T
    return result


def inverse(part):
    """The transpose, without what a repeated pixel has added."""
    return np.minimum(part.T, np.sqrt(0.5))


def plainly(image, sigma=0.04):
    """`[H, W, C]`, float64; channels of YCbCr stretched to [0, 1] and back."""
    levels = max(int(np.log2(min(image.shape[:2]))) - 3, 1)
    shrink = functools.partial(shrink_plane, levels=levels)
    if image.shape[-1] != 3:
        planes = [shrink(plane, sigma) for plane in np.moveaxis(image, -1, 0)]
        return np.clip(np.stack(planes, -1), 0, 1)
    planes = np.moveaxis(color.rgb2ycbcr(image), -1, 0)
    weights = color.rgb2ycbcr(np.eye(3)[None])[0] - color.rgb2ycbcr(np.zeros((1, 1, 3)))
    deviations = sigma * np.sqrt(np.sum(weights[0] ** 2, axis=0))
    for plane, deviation in zip(planes, deviations, strict=True):
        low, spread = plane.min(), np.ptp(plane)
        if spread:
            stretched = shrink((plane - low) / spread, deviation / spread)
            plane[:] = stretched * spread + low
    return np.clip(color.ycbcr2rgb(np.moveaxis(planes, 0, -1)), 0, 1)


def noisy_patches(shape, seed=0):
    """Flat patches with noise: some coefficients stay, some go."""
    rng = np.random.default_rng(seed)
    batch, height, width, channels = shape
    coarse = rng.uniform(size=(batch, -(-height // 8), -(-width // 8), channels))
    image = coarse.repeat(8, axis=1).repeat(8, axis=2)[:, :height, :width]
    image = image + 0.05 * rng.standard_normal(shape)
    return np.clip(image, 0, 1).astype(np.float32)


@pytest.mark.parametrize(
    "shape",
    # Two levels, odd at the first, at the second, at both; fewer pixels than a level.
    [(32, 32, 3), (34, 41, 1), (37, 32, 3), (1, 1, 3), (1, 7, 3), (5, 2, 2)],
)
def test_equals_a_plain_form(shape):
    images = noisy_patches((2, *shape))
    found = wavelet(images)
    expected = [plainly(image.astype(np.float64)) for image in images]
    # Some rounding errors of float32, of sums that reach a few units.
    np.testing.assert_allclose(found, expected, atol=2e-6)
    if min(shape[:2]) > 5:
        assert np.abs(found - images).max() > 0.05


def test_keeps_what_has_no_details_and_flattens_what_is_noise_alone():
    images = noisy_patches((1, 32, 32, 3))
    blocks = images[:, ::8, ::8].repeat(8, axis=1).repeat(8, axis=2)
    np.testing.assert_array_equal(wavelet(blocks), blocks)
    np.testing.assert_array_equal(wavelet(images, sigma=0.0), images)
    # Weaker than sigma: two levels of details go, means of 4x4 blocks stay.
    noise = 0.02 * np.random.default_rng(0).standard_normal((1, 32, 32, 3))
    flat = (0.5 + noise).astype(np.float32)
    means = flat.reshape(1, 8, 4, 8, 4, 3).mean(axis=(2, 4), keepdims=True)
    found = np.asarray(wavelet(flat)).reshape(1, 8, 4, 8, 4, 3)
    np.testing.assert_allclose(found, np.broadcast_to(means, found.shape), atol=1e-6)


def test_gradient_is_the_slope_of_the_plain_form():
    # Inside of [0, 1], where nothing is clipped.
    images = 0.2 + 0.6 * noisy_patches((1, 32, 32, 3))
    weights, direction = np.random.default_rng(1).standard_normal((2, *images.shape))
    gradient = jax.grad(lambda x: (weights.astype(np.float32) * wavelet(x)).sum())
    found = np.sum(np.asarray(gradient(images), np.float64) * direction)
    image, step = images[0].astype(np.float64), 1e-7 * direction[0]
    ahead, behind = plainly(image + step), plainly(image - step)
    slope = np.sum(weights[0] * (ahead - behind)) / 2e-7
    assert found == pytest.approx(slope, rel=1e-3)
    assert np.isfinite(gradient(np.full_like(images, 0.5))).all()
