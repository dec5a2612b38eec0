"""Augmentations: what they do to pixels, and that they depend on the index only."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

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


def test_other_keys_give_other_variants(key, images):
    first = augment.flip_crop(key, images, INDEX)
    again = augment.flip_crop(jax.random.fold_in(key, 1), images, INDEX)
    assert np.mean(np.any(first != again, axis=(1, 2, 3))) > 0.9
