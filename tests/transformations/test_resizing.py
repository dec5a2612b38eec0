"""Random resizing and padding, step by step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from uronet_jax.transformations import TRANSFORMATIONS

RESIZE_PAD = TRANSFORMATIONS["resize_pad"]


def place(image, sides, corner, canvas):
    """Enlarges one channel, puts it on grey, and resizes that to the image's size."""
    rows, columns = (
        [i * n // side for i in range(side)]
        for n, side in zip(image.shape, sides, strict=True)
    )
    grey = Image.new("F", canvas[::-1], 0.5)
    grey.paste(Image.fromarray(image[rows][:, columns]), corner[::-1])
    resized = grey.resize(image.shape[::-1], Image.Resampling.BILINEAR)
    return np.asarray(resized)


def possible(image, smallest, canvas):
    """Returns all that one channel can become: sides, corner and picture."""
    wholes = [round(canvas * n) for n in image.shape]
    lows = [round(smallest * n) for n in image.shape]
    found = []
    for height in range(lows[0], max(wholes[0], lows[0] + 1)):
        for width in range(lows[1], max(wholes[1], lows[1] + 1)):
            for y in range(wholes[0] - height + 1):
                for x in range(wholes[1] - width + 1):
                    sides, corner = (height, width), (y, x)
                    picture = place(image, sides, corner, wholes)
                    found.append((*sides, *corner, picture))
    return found


@pytest.mark.parametrize(
    "shape, settings, sides",
    [
        ((32, 32), {}, {(33, 33), (34, 34)}),
        # Both axes take the same share of their ranges, 7 to 8 and 10 to 12.
        (
            (7, 10),
            {"smallest": 1.0, "canvas": 1.3},
            {(7, 10), (7, 11), (8, 11), (8, 12)},
        ),
        ((9, 1), {}, {(9, 1)}),  # Sides 9, canvas 10; one pixel stays.
        ((10, 8), {"smallest": 0.6, "canvas": 1.0}, None),  # Smaller than the image.
    ],
)
def test_it_is_one_of_what_can_be_made(shape, settings, sides, key):
    rng = np.random.default_rng(0)
    image = rng.uniform(size=(1, *shape, 2)).astype(np.float32)
    count = 128
    images = np.repeat(image, count, axis=0)
    found = np.asarray(
        jax.jit(lambda x: RESIZE_PAD(x, key=key, index=jnp.arange(count), **settings))(
            images
        )
    )
    smallest, canvas = (
        settings.get(x, RESIZE_PAD.parameters[x]) for x in ("smallest", "canvas")
    )
    choices = possible(image[0, :, :, 0], smallest, canvas)
    pictures = np.stack([x[-1] for x in choices])
    distance = np.abs(found[:, None, :, :, 0] - pictures[None]).max((2, 3))
    chosen = distance.argmin(1)
    # Rounding in float32, here and in Pillow.
    assert distance.min(1).max() < 2e-6
    if sides is not None:
        assert {choices[i][:2] for i in chosen} == sides
    # Every corner that a pair of sides leaves is taken at some time, and each channel
    # of an image goes the same way.
    height, width = choices[chosen[0]][:2]
    corners = {x[2:4] for x in choices if x[:2] == (height, width)}
    taken = {choices[i][2:4] for i in chosen if choices[i][:2] == (height, width)}
    assert taken == corners
    other = possible(image[0, :, :, 1], smallest, canvas)[chosen[0]][-1]
    np.testing.assert_allclose(found[0, :, :, 1], other, atol=2e-6)


def test_sides_and_places_are_drawn_evenly(key):
    # The border is grey, or image: 16 pixels, enlarged to 17, on 18.
    draws = 400
    white = np.ones((draws, 16, 16, 1), np.float32)
    found = RESIZE_PAD(white, key=key, index=jnp.arange(draws))
    top = np.asarray(found[:, 0, 8, 0] < 0.99)
    left = np.asarray(found[:, 8, 0, 0] < 0.99)
    # Halves of 400, four deviations of 2.5 %.
    for share in (top.mean(), left.mean(), (top == left).mean()):
        assert share == pytest.approx(0.5, abs=0.1)


def test_it_is_linear_with_its_exact_gradient(key):
    rng = np.random.default_rng(1)
    index = jnp.arange(2)
    one, two, weights = rng.uniform(0, 1, (3, 2, 9, 8, 1)).astype(np.float32)

    def total(x):
        return (weights * RESIZE_PAD(x, key=key, index=index)).sum()

    gradient = jax.grad(total)(one)
    expected = (gradient * (two - one)).sum()
    # Differences of sums of 144 terms in float32.
    np.testing.assert_allclose(total(two) - total(one), expected, atol=1e-4)


def test_small_images_stay_as_they_are(key):
    small = np.random.default_rng(2).uniform(size=(2, 4, 1, 3)).astype(np.float32)
    found = RESIZE_PAD(small, key=key, index=jnp.arange(2))
    np.testing.assert_allclose(found, small, atol=1e-7)  # x - 1/2 + 1/2.
