"""Pixel deflection beside the authors' loop, and where its values come from."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uronet_jax.transformations import TRANSFORMATIONS, pixel_deflection

RANDOM = np.random.default_rng(0).uniform(size=(4, 12, 8, 3)).astype(np.float32)


@functools.partial(jax.jit, static_argnames=("deflections", "window", "sigma"))
def deflect(images, key, index=None, **parameters):
    """Without denoising, unless it is wanted: sigma 0 removes nothing."""
    index = jnp.arange(len(images)) if index is None else index
    entry = TRANSFORMATIONS["pixel_deflection"]
    return entry(images, key=key, index=index, **{"sigma": 0.0, **parameters})


def in_turn(planes, targets, sources):
    """The authors' loop, with draws that are given."""
    planes = planes.copy()
    for image, plane in enumerate(planes):
        for i in range(targets.shape[-1]):
            for c in range(len(plane)):
                plane[c, targets[image, c, i]] = plane[c, sources[image, c, i]]
    return planes


@pytest.fixture
def drawn(key):
    """For the images above: about as many deflections as there are values."""

    def draw(number):
        key_of_image = jax.random.fold_in(key, number)
        return pixel_deflection._draw(key_of_image, (3, 100), 12, 8, 2)

    return [np.asarray(x) for x in jax.vmap(draw)(jnp.arange(4))]


def test_copies_in_turn_like_the_loop(key, drawn):
    planes = np.moveaxis(RANDOM, -1, 1).reshape(4, 3, 96)
    expected = in_turn(planes, *drawn)
    # 298 of three channels are 300.
    found = deflect(RANDOM, key, deflections=298, window=2)
    found = np.moveaxis(np.asarray(found), -1, 1).reshape(4, 3, 96)
    np.testing.assert_array_equal(found, expected)
    # The turn matters: it is not as if all read the image as it was.
    targets, sources = drawn
    at_once = planes.copy()
    read = np.take_along_axis(planes, sources, axis=-1)
    np.put_along_axis(at_once, targets, read, axis=-1)
    assert np.mean(at_once != expected) > 0.2


def test_chains_end_where_the_loop_ends(drawn):
    # What accelerators do; the other tests see what a CPU does.
    np.testing.assert_array_equal(
        pixel_deflection._origins_at_once(*drawn),
        pixel_deflection._origins_in_turn(*drawn, 96),
    )


def test_is_the_same_with_64_bits(key):
    parameters = {"deflections": 298, "window": 2}
    expected = deflect(RANDOM, key, **parameters)
    with jax.enable_x64(True):
        found = deflect(RANDOM, key, **parameters)
    np.testing.assert_array_equal(found, expected)


def test_gradients_go_to_the_values_that_were_read(key, drawn):
    positions = np.broadcast_to(np.arange(96), (4, 3, 96))
    origins = in_turn(positions, *drawn)
    counts = [[np.bincount(x, minlength=96) for x in image] for image in origins]

    gradient = jax.grad(lambda x: deflect(x, key, deflections=298, window=2).sum())
    gradient = np.moveaxis(np.asarray(gradient(RANDOM)), -1, 1).reshape(4, 3, 96)
    np.testing.assert_array_equal(gradient, counts)


def test_every_pixel_inside_the_window_is_as_likely(key):
    height, width, window = 4, 3, 1
    shape = (3, 40_000)
    targets, sources = pixel_deflection._draw(key, shape, height, width, window)
    found = np.zeros((12, 12))
    np.add.at(found, (targets.ravel(), sources.ravel()), 1)
    expected = np.zeros((12, 12))
    for y, x in np.ndindex(height, width):
        # The authors' condition: y + a > 0, not >= 0.
        allowed = [
            (y + a) * width + x + b
            for a in range(-window, window + 1)
            for b in range(-window, window + 1)
            if 0 < y + a < height and 0 < x + b < width
        ]
        expected[y * width + x, allowed] = targets.size / 12 / len(allowed)
    assert not found[expected == 0].any()
    cells = expected > 0
    chi_squared = np.sum((found - expected)[cells] ** 2 / expected[cells])
    # Its mean is the number of cells less one, its variance twice that: 5 deviations.
    free = cells.sum() - 1
    assert chi_squared < free + 5 * np.sqrt(2 * free)


def test_changes_as_many_values_as_it_says_in_each_channel(key):
    # Every value of an image is another one.
    images = np.random.default_rng(1).permutation(3 * 64 * 64).reshape(1, 64, 64, 3)
    images = (images / images.size).astype(np.float32)
    changed = (deflect(images, key) != images)[0].sum(axis=(0, 1))
    # 201 in whole rounds; now and then one is met twice or replaced by itself.
    assert np.all((changed > 60) & (changed <= 67))


def test_draws_by_the_number_of_the_image(key):
    images, index = RANDOM[:1].repeat(4, axis=0), jnp.array([5, 5, 6, 6])
    parameters = {"deflections": 298, "window": 2}
    found = deflect(images, key, index, **parameters)
    np.testing.assert_array_equal(found[::2], found[1::2])
    assert np.any(found[0] != found[2])
    assert np.any(found != deflect(images, jax.random.key(1), index, **parameters))


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 6, 1), (6, 1, 1)])
def test_narrow_images(shape, key):
    images = RANDOM[:2].ravel()[: 2 * np.prod(shape)].reshape(2, *shape)
    found = deflect(images, key, deflections=60, window=2)
    if shape[:2] == (1, 1):
        np.testing.assert_array_equal(found, images)
    for image, before in zip(found, images, strict=True):
        assert np.isin(image, before).all()


def test_denoises_afterwards(key):
    parameters = {"deflections": 298, "window": 2}
    deflected = deflect(RANDOM, key, **parameters)
    np.testing.assert_allclose(
        deflect(RANDOM, key, **parameters, sigma=0.1),
        TRANSFORMATIONS["wavelet"](deflected, sigma=0.1),
        atol=1e-6,  # Of float32.
    )
