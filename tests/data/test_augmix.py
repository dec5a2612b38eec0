"""AugMix against Pillow, operation by operation, and the law of its mixtures."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageOps

from uronet_jax.data import augmix

LEVEL = 2.7
AFFINE, LINEAR = Image.Transform.AFFINE, Image.Resampling.BILINEAR


def affine(image, matrix):
    return image.transform(image.size, AFFINE, matrix, LINEAR)


def by_pillow(image, operation, sign):
    """The authors' code for CIFAR-10, with LEVEL for its draw."""
    width, height = image.size
    shear = sign * LEVEL * 0.3 / 10
    x, y = (sign * int(LEVEL * (side / 3) / 10) for side in (width, height))
    return [
        lambda: ImageOps.autocontrast(image),
        lambda: ImageOps.equalize(image),
        lambda: ImageOps.posterize(image, 4 - int(LEVEL * 4 / 10)),
        lambda: ImageOps.solarize(image, 256 - int(LEVEL * 256 / 10)),
        lambda: image.rotate(sign * int(LEVEL * 30 / 10), resample=LINEAR),
        lambda: affine(image, (1, shear, 0, 0, 1, 0)),
        lambda: affine(image, (1, 0, 0, shear, 1, 0)),
        lambda: affine(image, (1, 0, x, 0, 1, 0)),
        lambda: affine(image, (1, 0, 0, 0, 1, y)),
    ][operation]()


@pytest.fixture(scope="module")
def pictures():
    draw = np.random.default_rng(0)
    smooth = draw.normal(size=(32, 30, 3)).cumsum(0).cumsum(1) + 20.0
    smooth = 40 + 150 * (smooth - smooth.min()) / np.ptp(smooth)
    return [smooth.astype(np.uint8), draw.integers(20, 200, (32, 30, 3), np.uint8)]


@pytest.mark.parametrize("sign", [-1, 1])
def test_operations_are_pillows(sign, pictures):
    change = jax.jit(augmix.change)
    for pixels in pictures:
        for operation in range(9):
            found = change(
                jnp.asarray(pixels, jnp.float32), operation, LEVEL, float(sign)
            )
            expected = np.asarray(by_pillow(Image.fromarray(pixels), operation, sign))
            difference = np.abs(np.asarray(found) - expected)
            # Where it falls on a whole number, rounding decides on one grey level.
            assert difference.max() <= (1 if operation >= 4 else 0), operation
            assert not np.array_equal(found, pixels), operation


def test_a_plain_image_stays(key):
    plain = jnp.full((4, 8, 8, 3), 0.5)
    found = augmix.augmix(key, plain, jnp.arange(4))
    # Only what comes from outside, and the steps of posterize and 8 bits, differ.
    assert float(jnp.abs(found[:, 3:5, 3:5] - plain[:, 3:5, 3:5]).max()) < 0.07


def test_mixtures_are_convex_and_spread(key):
    images = jax.random.uniform(jax.random.key(1), (64, 8, 8, 3))
    found = jax.jit(augmix.augmix)(key, images, jnp.arange(64))
    assert found.min() >= 0.0 and found.max() <= 1.0
    draws = jax.vmap(augmix._draw)(jax.random.split(key, 2000))
    # Standard deviations of these means are below 0.007, of the counts 0.011.
    np.testing.assert_allclose(draws["share"].mean(), 0.5, atol=0.03)
    np.testing.assert_allclose(draws["weights"].mean(0), 1 / 3, atol=0.03)
    np.testing.assert_allclose(draws["weights"].sum(1), 1.0, rtol=1e-5)
    for depth in (1, 2, 3):
        np.testing.assert_allclose((draws["depth"] == depth).mean(), 1 / 3, atol=0.05)
    assert set(np.unique(draws["operation"])) == set(range(9))
