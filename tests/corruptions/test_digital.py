"""Contrast, saturation and coarse pixels against the originals and other libraries."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from skimage import color

from uronet_jax.corruptions import CORRUPTIONS, digital


def random_levels(shape, seed=0):
    """Returns noise whose first pixels are black, white, grey and pure colours."""
    levels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    special = [(0, 0, 0), (255, 255, 255), (128, 128, 128), (255, 0, 0), (0, 0, 7)]
    levels[:, 0, : len(special)] = np.array(special)[:, : shape[-1]]
    return levels


def unit(levels):
    return levels.astype(np.float32) / 255


def corrupt(name, levels, settings, choice=0, **options):
    """Returns int arrays of grey levels."""
    run, key = CORRUPTIONS[name].run, jax.random.key(0)
    out = run(key, unit(levels), settings, choice, uint8=True, **options)
    return np.asarray(out).astype(int)


def saturate_in_hsv(levels, factor, offset):
    """Returns float64 grey levels, by scikit-image."""
    hsv = color.rgb2hsv(levels / 255)
    hsv[..., 1] = np.clip(hsv[..., 1] * factor + offset, 0, 1)
    return 255 * color.hsv2rgb(hsv)


def pillow_boxes(image, factor):
    height, width, channels = image.shape
    small = (int(width * factor), int(height * factor))  # Pillow counts width first.
    picture = Image.fromarray(image if channels == 3 else image[..., 0])
    picture = picture.resize(small, Image.Resampling.BOX)
    picture = picture.resize((width, height), Image.Resampling.BOX)
    return np.asarray(picture).reshape(image.shape)


@pytest.mark.parametrize("name", ["contrast", "pixelate"])
def test_contrast_and_pixelate_equal_the_original(name, originals):
    for setting, image, _, expected in originals(name):
        out = corrupt(name, image[None], [setting])[0]
        np.testing.assert_array_equal(out, expected)


def test_saturate_equals_the_original(originals):
    for setting, image, _, expected in originals("saturate"):
        out = corrupt("saturate", image[None], [setting])[0]
        # Half of these results are whole numbers before the truncation. In float64
        # some come out just below, and the original loses a level: that is not our
        # error. All others are equal.
        levels = saturate_in_hsv(image, **setting)
        whole = np.abs(levels - np.rint(levels)) < 1e-9
        np.testing.assert_array_equal(out, np.floor(levels + 1e-9))
        expected = np.where(whole & (expected == out - 1), out, expected)
        np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_contrast_is_its_formula(channels, key):
    images = np.random.default_rng(0).random((2, 33, 47, channels), np.float32)
    out = digital.contrast(key, images, factor=2.5)
    mean = images.mean(axis=(1, 2), keepdims=True, dtype=np.float64)
    expected = np.clip((images - mean) * 2.5 + mean, 0, 1)
    np.testing.assert_allclose(out, expected, atol=2e-6)


@pytest.mark.parametrize(
    ("factor", "offset"), [(0.0, 0.0), (0.3, 0.0), (1.0, 0.0), (20.0, 0.2), (2.0, -0.3)]
)
def test_saturate_is_that_of_hsv(factor, offset, key):
    levels = random_levels((2, 32, 32, 3))
    out = digital.saturate(key, unit(levels), factor=factor, offset=offset)
    expected = saturate_in_hsv(levels, factor, offset) / 255
    np.testing.assert_allclose(out, expected, atol=1e-6)


@pytest.mark.parametrize(
    "shape", [(1, 28, 28, 1), (1, 32, 32, 3), (2, 33, 47, 3), (1, 224, 224, 3)]
)
def test_pixelate_equals_pillow(shape):
    levels = random_levels(shape)
    # Boxes of a twelfth and a fourteenth have means that end in 1/2 and weights that
    # are not exact in 22 bits.
    factors = (1, 0.95, 0.9, 0.85, 0.8, 0.75, 0.65, 0.6, 0.5, 0.475, 0.3, 0.25)
    factors += (1 / 7, 1 / 12, 1 / 14)
    settings = [{"factor": factor} for factor in factors]
    for choice, factor in enumerate(factors):
        out = corrupt("pixelate", levels, settings, choice)
        expected = np.stack([pillow_boxes(image, factor) for image in levels])
        np.testing.assert_array_equal(out, expected, err_msg=str(factor))


@pytest.mark.parametrize(
    ("name", "setting", "channels"),
    [
        ("contrast", {"factor": 1.0}, 3),
        ("saturate", {"factor": 1.0, "offset": 0.0}, 3),
        ("saturate", {"factor": 5.0, "offset": 0.2}, 1),  # Grey has no saturation.
        ("pixelate", {"factor": 1.0}, 3),
    ],
)
def test_neutral_setting_changes_nothing(name, setting, channels):
    levels = random_levels((2, 32, 32, channels))
    np.testing.assert_array_equal(corrupt(name, levels, [setting]), levels)


@pytest.mark.parametrize("name", ["contrast", "saturate"])
def test_gradients(name, key):
    # Away from clipping; black and grey pixels have none in saturation.
    images = jax.random.uniform(key, (2, 32, 32, 3), minval=0.3, maxval=0.7)
    images = images.at[0, 0, 0].set(0.0).at[0, 0, 1].set(0.5)
    direction = jax.random.normal(jax.random.key(1), images.shape)
    direction = direction.at[0, 0, :2].set(0.0)

    def corrupted(x):
        entry = CORRUPTIONS[name]
        return entry(key, x, **entry.example | {"factor": 0.8})

    gradient = jax.grad(lambda x: jnp.vdot(corrupted(x), direction))(images)
    chex.assert_tree_all_finite(gradient)
    step = 1e-3 * direction
    difference = corrupted(images + step) - corrupted(images - step)
    slope = jnp.vdot(difference, direction) / 2e-3
    # Central differences; second-order terms of the hue are what is left.
    np.testing.assert_allclose(jnp.vdot(gradient, direction), slope, rtol=2e-3)


def test_pixelate_gradient_is_zero_or_straight_through(key):
    levels = random_levels((1, 32, 32, 3))
    images = jnp.asarray(unit(levels))

    corrupted = functools.partial(digital.pixelate, key, factor=0.5)
    zero = jax.grad(lambda x: corrupted(x).sum())(images)
    np.testing.assert_array_equal(zero, 0)
    through = functools.partial(corrupted, straight_through=True)
    out, tangent = jax.jvp(through, [images], [images])
    np.testing.assert_allclose(out, corrupted(images), atol=1e-7)
    # Without rounding it is linear: means of blocks of 2x2, spread over the block.
    blocks = unit(levels).reshape(1, 16, 2, 16, 2, 3)
    means = blocks.mean(axis=(2, 4), keepdims=True)
    expected = np.broadcast_to(means, blocks.shape).reshape(images.shape)
    # Clipping at 0 halves the gradient of what is exactly black.
    inside = (np.asarray(out) > 0) & (np.asarray(out) < 1)
    assert inside.mean() > 0.99
    np.testing.assert_allclose(tangent[inside], expected[inside], atol=1e-6)
