"""JPEG compression against Pillow, that is libjpeg-turbo, bit for bit."""

import functools
import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from uronet_jax.corruptions import jpeg, suites

QUALITIES = {1, 50, 95, 100}
for suite in ("cifar_c", "tiny_c", "imagenet_c"):
    settings = suites.suite_settings(suite, "jpeg_compression").settings
    QUALITIES |= {setting["quality"] for setting in settings}
QUALITIES = sorted(QUALITIES)
SETTINGS = [{"quality": quality} for quality in QUALITIES]


def make_waves(rng, shape):
    """Returns smooth colours with a little noise, clipped here and there."""
    height, width, channels = shape
    y, x = np.mgrid[:height, :width, :1][:2] / 32
    waves = sum(
        rng.normal(0, 60, channels)
        * np.cos(rng.uniform(0, 12) * x + rng.uniform(0, 12) * y + rng.uniform(0, 6))
        for _ in range(6)
    )
    return np.clip(127 + waves + rng.normal(0, 4, shape), 0, 255).astype(np.uint8)


KINDS = {
    "noise": lambda rng, shape: rng.integers(0, 256, shape, np.uint8),
    "black_and_white": lambda rng, shape: 255 * rng.integers(0, 2, shape, np.uint8),
    "waves": make_waves,
}


def make_images(shape, kinds=KINDS):
    rng = np.random.default_rng(0)
    return np.stack([KINDS[kind](rng, shape) for kind in kinds])


def through_pillow(image, quality):
    buffer = io.BytesIO()
    picture = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
    picture.save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer)).reshape(image.shape)


def compress(images, settings, choice=0, **options):
    """Returns int arrays of grey levels."""
    run, key = jpeg.jpeg_compression.run, jax.random.key(0)
    images = images.astype(np.float32) / 255
    out = run(key, images, settings, choice, uint8=True, **options)
    return np.asarray(out).astype(int)


# Whole blocks of 16; odd sides; sides whose halves are odd.
SIDES = [(32, 32), (28, 28), (33, 47), (50, 34), (224, 224)]


@pytest.mark.parametrize(
    ("sides", "channels"), [*((s, 3) for s in SIDES), ((28, 28), 1), ((47, 33), 1)]
)
def test_equals_pillow(sides, channels):
    images = make_images((*sides, channels))
    for choice, quality in enumerate(QUALITIES):
        expected = [through_pillow(image, quality) for image in images]
        out = compress(images, SETTINGS, choice)
        np.testing.assert_array_equal(out, expected, err_msg=f"quality {quality}")


def test_tables_are_those_of_pillow():
    image = Image.new("RGB", (16, 16))
    for quality in range(1, 101):
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality)
        stored = Image.open(buffer).quantization
        tables = jpeg.quantisation_tables(quality)
        for number, table in stored.items():
            np.testing.assert_array_equal(tables[number].ravel(), table)


@pytest.mark.parametrize(("kind", "limit"), [("noise", 0.8), ("waves", 0.5)])
def test_fast_is_close(kind, limit):
    images = make_images((32, 32, 3), [kind] * 3)
    differences = []
    for choice in range(len(QUALITIES)):
        exact = compress(images, SETTINGS, choice)
        fast = compress(images, SETTINGS, choice, fidelity="fast")
        differences.append(np.abs(fast - exact))
    # The transforms differ by less than a level. A coefficient near a tie differs by a
    # quantisation step, which shows in its whole block: so few blocks, but by far.
    assert np.mean(differences) < limit
    assert np.median(differences) == 0 and np.max(differences) < 64


@pytest.mark.parametrize(("fidelity", "channels"), [("exact", 1), ("fast", 3)])
def test_gradients(fidelity, channels, key):
    # Far from black and white: nothing is clipped.
    images = jax.random.uniform(key, (2, 32, 32, channels), minval=0.4, maxval=0.6)
    grey, weights = jax.random.normal(jax.random.key(1), (2, 2, 32, 32, 1))
    # The same in every channel: chroma, which is averaged, does not change.
    direction = jnp.broadcast_to(grey, images.shape)

    options = {"quality": 90, "fidelity": fidelity}
    corrupted = functools.partial(jpeg.jpeg_compression, key, **options)
    through = functools.partial(corrupted, straight_through=True)
    plain, zero = jax.jvp(corrupted, [images], [direction])
    np.testing.assert_array_equal(zero, 0)
    value, tangent = jax.jvp(through, [images], [direction])
    np.testing.assert_allclose(value, plain, atol=1e-6)
    # With the quantiser passed straight through, the transforms undo each other.
    np.testing.assert_allclose(tangent, direction, atol=2e-4)
    gradient = jax.grad(lambda x: jnp.sum(weights * through(x)))(images)
    expected = jnp.sum(weights * direction)
    np.testing.assert_allclose(jnp.vdot(gradient, direction), expected, rtol=1e-3)
