"""Augmentations: what they do to pixels, and that they depend on the index only."""

import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from uronet_jax import sharding
from uronet_jax.data import AUGMENTATIONS, augment

INDEX = jnp.arange(100, 164, dtype=jnp.int32)


@pytest.fixture
def images():
    return jax.random.uniform(jax.random.key(1), (64, 8, 6, 3), minval=0.1)


@pytest.mark.parametrize("name", sorted(AUGMENTATIONS))
def test_contract(name, key, images):
    augmented = jax.jit(AUGMENTATIONS[name])(key, images, INDEX)
    chex.assert_trees_all_equal_shapes_and_dtypes(augmented, images)
    # Any order, any batch size, any number of devices.
    order = np.random.default_rng(0).permutation(64)[:16]
    mesh = sharding.data_mesh()
    part = sharding.split_batch((np.asarray(images)[order], INDEX[order]), mesh)
    chex.assert_trees_all_equal(
        np.asarray(jax.jit(AUGMENTATIONS[name])(key, *part)),
        np.asarray(augmented)[order],
    )


@pytest.mark.parametrize("name", sorted(AUGMENTATIONS))
def test_a_key_draws_the_same_where_jax_enable_x64_is_set(name, key, images):
    images, index = np.asarray(images)[:8], np.asarray(INDEX)[:8]
    expected = np.asarray(jax.jit(AUGMENTATIONS[name])(key, images, index))
    with jax.enable_x64(True):
        found = np.asarray(jax.jit(AUGMENTATIONS[name])(key, images, index))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)


def test_flip_mirrors_about_half(key, images):
    flipped = np.asarray(augment.random_flip(key, images, INDEX))
    images = np.asarray(images)
    mirrored = np.all(flipped == images[:, :, ::-1], axis=(1, 2, 3))
    same = np.all(flipped == images, axis=(1, 2, 3))
    assert np.all(mirrored ^ same)
    assert 16 <= mirrored.sum() <= 48  # 32 expected, standard deviation 4.


def test_crop_is_a_shift_with_zeros(key, images):
    cropped = np.asarray(augment.random_crop(key, images, INDEX, padding=2))
    padded = np.pad(np.asarray(images), ((0, 0), (2, 2), (2, 2), (0, 0)))
    corners = []
    for image, source in zip(cropped, padded, strict=True):
        windows = np.ndindex(5, 5)
        same = [np.array_equal(image, source[i:, j:][:8, :6]) for i, j in windows]
        assert sum(same) == 1
        corners.append(divmod(same.index(True), 5))
    # 64 draws from 25 windows: that one of five rows or columns stays out has
    # probability 6e-6.
    assert {i for i, _ in corners} == {j for _, j in corners} == set(range(5))
    unmoved = augment.random_crop(key, images, INDEX, padding=0)
    chex.assert_trees_all_equal(unmoved, images)


def test_flip_and_crop_are_independent_draws(key, images):
    both = augment.flip_crop(key, images, INDEX)
    crop_only = augment.random_crop(jax.random.split(key)[1], images, INDEX)
    flip_only = augment.random_flip(jax.random.split(key)[0], images, INDEX)
    flipped = np.any(flip_only != images, axis=(1, 2, 3))
    chex.assert_trees_all_equal(both[~flipped], crop_only[~flipped])
    assert not np.array_equal(both[flipped], crop_only[flipped])


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def draw_windows(keys, size, area, ratio):
    limits = [math.log(x) for x in ratio]
    return jax.vmap(lambda key: augment._window(key, size, area, limits))(keys)


def test_resized_crop_is_pillows(key, images):
    found = np.asarray(augment.random_resized_crop(key, images, INDEX))
    windows = draw_windows(
        jax.vmap(lambda i: jax.random.fold_in(key, i))(INDEX),
        (8, 6),
        (0.08, 1.0),
        (3 / 4, 4 / 3),
    )
    sizes = set()
    for image, drawn, result in zip(np.asarray(images), windows, found, strict=True):
        top, left, height, width = map(int, drawn)
        window = image[top : top + height, left : left + width]
        assert window.shape == (height, width, 3)
        sizes.add((height, width))
        for channel in range(3):
            expected = Image.fromarray(window[..., channel], mode="F").resize(
                (6, 8), Image.Resampling.BILINEAR
            )
            # Pillow keeps its weights in float64.
            np.testing.assert_allclose(result[..., channel], expected, atol=1e-6)
    assert len(sizes) > 10


def test_windows_have_the_areas_and_ratios_that_were_asked_for():
    keys = jax.random.split(jax.random.key(0), 500)
    windows = np.asarray(draw_windows(keys, (100, 80), (0.1, 0.5), (0.5, 2.0)))
    top, left, height, width = windows.T
    assert (top >= 0).all() and (top + height <= 100).all()
    assert (left >= 0).all() and (left + width <= 80).all()
    # Sides are rounded to whole pixels.
    share, slack = height * width / 8_000, 0.02
    assert 0.1 - slack <= share.min() < 0.12 and 0.45 < share.max() <= 0.5 + slack
    ratio = width / height
    assert 0.49 <= ratio.min() < 0.55 and 1.5 < ratio.max() <= 2.05
    # Where none fits it is the largest in the middle, as in torchvision.
    for size, expected in (
        ((20, 100), (0, 36, 20, 27)),  # round(20 * 4 / 3) pixels wide.
        ((100, 20), (36, 0, 27, 20)),
        ((20, 20), (0, 0, 20, 20)),
    ):
        windows = draw_windows(keys, size, (1.0, 1.0), (3 / 4, 4 / 3))
        fallback = np.all(np.asarray(windows) == expected, axis=1)
        assert fallback.mean() > 0.5, size


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"area": (0.0, 1.0)}, r"area\[0\] must be a finite number in \(0, .*: 0.0"),
        ({"area": (0.5, 0.4)}, r"area\[1\] must be a finite number in \[0.5, 1\]: 0.4"),
        ({"area": (0.5, 1.1)}, r"area\[1\] must .* \[0.5, 1\]: 1.1"),
        ({"ratio": (0.0, 1.0)}, r"ratio\[0\] must .* \(0, "),
        ({"ratio": (2.0, 1.0)}, r"ratio\[1\] must .* \[2, "),
    ],
)
def test_wrong_windows_are_refused(options, message, key, images):
    with pytest.raises(ValueError, match=message):
        augment.random_resized_crop(key, images, INDEX, **options)


def test_other_keys_give_other_variants(key, images):
    first = augment.flip_crop(key, images, INDEX)
    again = augment.flip_crop(jax.random.fold_in(key, 1), images, INDEX)
    assert np.mean(np.any(first != again, axis=(1, 2, 3))) > 0.9
