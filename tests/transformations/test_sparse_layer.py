"""Sparse coding by its optimality conditions, the low-pass by a dense solve."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uronet_jax import loading
from uronet_jax.purifiers import make_transformation
from uronet_jax.transformations.dictionary_learning import (
    learn_dictionary,
    sparse_objective,
)
from uronet_jax.transformations.sparse_coding import (
    convolve_maps,
    sparse_maps,
    tikhonov_low_pass,
)
from uronet_jax.transformations.sparse_layer import code_sparsely, load_dictionaries

# One side even, one odd: the Fourier transform of real numbers treats them differently.
HEIGHT, WIDTH = 9, 10
WEIGHT = 0.1


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def filters_of(channels, rng):
    filters = rng.normal(size=(6, 3, 3, channels))
    norm = np.sqrt((filters**2).sum((1, 2, 3), keepdims=True))
    return (filters / norm).astype(np.float32)


def as_matrix(filters):
    """The convolution `[H W C, M H W]`, circular, written out pixel by pixel."""
    count, size, _, channels = filters.shape
    matrix = np.zeros((HEIGHT, WIDTH, channels, count, HEIGHT, WIDTH))
    for y in range(HEIGHT):
        for x in range(WIDTH):
            for dy in range(size):
                for dx in range(size):
                    row, column = (y + dy) % HEIGHT, (x + dx) % WIDTH
                    matrix[row, column, :, :, y, x] = filters[:, dy, dx].T
    return matrix.reshape(HEIGHT * WIDTH * channels, -1)


def ista(matrix, signal, steps):
    """A long plain run of the iterative soft-thresholding algorithm."""
    length = np.linalg.norm(matrix, 2) ** 2
    maps = np.zeros(matrix.shape[1])
    for _ in range(steps):
        maps = maps - matrix.T @ (matrix @ maps - signal) / length
        maps = np.sign(maps) * np.maximum(np.abs(maps) - WEIGHT / length, 0)
    return maps


@pytest.mark.parametrize("channels", [1, 3])
def test_maps_minimise_the_objective(channels, rng):
    filters = filters_of(channels, rng)
    signals = rng.normal(size=(2, HEIGHT, WIDTH, channels)).astype(np.float32)
    signals[1] *= 0.2  # Done earlier than the other.
    code = jax.jit(
        lambda s, f: sparse_maps(s, f, weight=WEIGHT, iterations=2000, tolerance=1e-5)
    )
    maps = code(signals, filters)
    matrix = as_matrix(filters)
    values = sparse_objective(signals, maps, filters, WEIGHT)
    for signal, found, value in zip(signals, maps, values, strict=True):
        signal, found = signal.ravel().astype(float), np.asarray(found, float).ravel()
        residual = signal - matrix @ found
        objective = 0.5 * residual @ residual + WEIGHT * np.abs(found).sum()
        assert float(value) == pytest.approx(objective, rel=1e-5)
        # Of the lasso: the gradient is the weight where a map is not 0, else below. It
        # is known as well as the maps, 1e-5 of their norm.
        gradient = matrix.T @ residual
        used = found != 0
        assert 0.02 < used.mean() < 0.5
        np.testing.assert_allclose(
            gradient[used], WEIGHT * np.sign(found[used]), atol=WEIGHT * 0.01
        )
        assert np.abs(gradient).max() < WEIGHT * 1.01
        slow = ista(matrix, signal, 2000)
        left = signal - matrix @ slow
        other = 0.5 * left @ left + WEIGHT * np.abs(slow).sum()
        assert objective < other * (1 + 1e-4)
    # A signal does not depend on how long another takes.
    np.testing.assert_array_equal(code(signals[1:], filters), maps[1:])


def test_convolutions_are_those_of_the_matrix(rng):
    filters, maps = filters_of(3, rng), rng.normal(size=(1, 6, HEIGHT, WIDTH))
    found = convolve_maps(maps.astype(np.float32), filters)
    expected = as_matrix(filters) @ maps.ravel()
    np.testing.assert_allclose(found.ravel(), expected, atol=1e-5)


def test_low_pass_is_the_dense_solution(rng):
    images, padding, smoothing = rng.random((1, 3, 4, 2), np.float32), 5, 3.0
    rows, columns = 3 + 2 * padding, 4 + 2 * padding

    def squared_difference(size):
        forward = np.roll(np.eye(size), 1, axis=1) - np.eye(size)
        return forward.T @ forward

    matrix = np.kron(squared_difference(rows), np.eye(columns))
    matrix += np.kron(np.eye(rows), squared_difference(columns))
    padded = np.pad(images[0], ((padding,) * 2,) * 2 + ((0, 0),), "symmetric")
    solved = np.linalg.solve(
        np.eye(rows * columns) + smoothing * matrix, padded.reshape(-1, 2)
    )
    expected = solved.reshape(rows, columns, 2)[padding:-padding, padding:-padding]
    found = tikhonov_low_pass(images, smoothing=smoothing, padding=padding)
    np.testing.assert_allclose(found[0], expected, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_brightest_value_is_one_and_a_great_weight_leaves_the_low_pass(
    channels, rng
):
    images = 0.5 * rng.random((2, 9, 11, channels), np.float32)
    layer = make_transformation("sparse_layer", weight=10.0)
    found = layer(layer.load(), images).clean
    low = tikhonov_low_pass(images)
    peak = low.max((1, 2, 3), keepdims=True)
    np.testing.assert_allclose(found, low / peak, atol=1e-6)
    assert not layer(layer.load(), np.zeros_like(images)).clean.any()


def test_channels_are_alone_with_grey_filters_and_together_with_those_of_colours(rng):
    images = rng.random((2, HEIGHT, WIDTH, 3), np.float32)
    settings = {"weight": WEIGHT, "smoothing": 5.0, "iterations": 20}
    grey, colour = filters_of(1, rng), filters_of(3, rng)
    stretched = code_sparsely(images, (colour, grey), **settings)
    signals = images - tikhonov_low_pass(images)
    maps = sparse_maps(signals, colour, weight=WEIGHT, iterations=20)
    whole = images - signals + convolve_maps(maps, colour)
    expected = jnp.clip(whole / whole.max((1, 2, 3), keepdims=True), 0, 1)
    np.testing.assert_allclose(stretched, expected, atol=1e-6)
    found = code_sparsely(images, (grey,), **settings)
    signals = signals.transpose(0, 3, 1, 2)
    maps = jnp.stack(
        [
            sparse_maps(signals[:, i, ..., None], grey, weight=WEIGHT, iterations=20)
            for i in range(3)
        ],
        axis=1,
    )
    high = jnp.concatenate([convolve_maps(maps[:, i], grey) for i in range(3)], -1)
    whole = tikhonov_low_pass(images) + high
    expected = jnp.clip(whole / whole.max((1, 2, 3), keepdims=True), 0, 1)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_dictionaries_of_the_package_are_as_they_should_be():
    colour, grey = load_dictionaries()
    assert colour.shape == (64, 8, 8, 3) and grey.shape == (64, 8, 8, 1)
    for filters in (colour, grey):
        np.testing.assert_allclose((filters**2).sum((1, 2, 3)), 1.0, atol=1e-5)
        np.testing.assert_allclose(filters.mean((1, 2)), 0.0, atol=1e-6)


def test_a_dictionary_of_ones_own(tmp_path, rng):
    path = tmp_path / "own.npy"
    np.save(path, filters_of(3, rng))
    model = loading.load_purifier(f"sparse_layer:dictionary={path},weight=0.3")
    images = rng.random((1, HEIGHT, WIDTH, 3), np.float32)
    clean = model.module(model.variables, images).clean
    assert clean.shape == images.shape and np.isfinite(clean).all()


def test_learning_lowers_the_objective_and_can_be_repeated(rng):
    # Images made of two shapes, at random places, on grey.
    shapes = np.zeros((2, 4, 4, 1), np.float32)
    shapes[0, 1], shapes[1, :, 2] = 1.0, -1.0
    maps = (rng.random((16, 2, 12, 12)) < 0.02) * rng.normal(size=(16, 2, 12, 12))
    images = 0.5 + 0.4 * convolve_maps(maps.astype(np.float32), shapes)
    images = np.clip(np.asarray(images), 0, 1)
    settings = {"filters": 8, "size": 4, "weight": 0.02, "steps": 30, "batch_size": 16}
    filters, values = learn_dictionary(images, **settings)
    assert filters.shape == (8, 4, 4, 1) and filters.dtype == np.float32
    np.testing.assert_allclose((filters**2).sum((1, 2, 3)), 1.0, atol=1e-5)
    np.testing.assert_allclose(filters.mean((1, 2)), 0.0, atol=1e-6)
    # All images are in the batch, so that nothing but the filters changes it.
    assert values[-1] < 0.8 * values[0]
    again, _ = learn_dictionary(images, **settings)
    np.testing.assert_array_equal(again, filters)


def test_command(tmp_path):
    root = Path(__file__).parents[2]

    def learn(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "launch.learn_dictionary", *arguments],
            cwd=root,
            env={**os.environ, "PYTHONPATH": str(root), "JAX_PLATFORMS": "cpu"},
            capture_output=True,
            text=True,
        )

    path = tmp_path / "new" / "own.npy"
    common = ("--dataset=generated", "--split=train[:4]", "--grey", "--steps=1")
    sizes = ("--filters=2", "--size=3", "--batch_size=2")
    done = learn(*common, *sizes, f"--out={path}")
    assert done.returncode == 0, done.stderr
    assert load_dictionaries(str(path))[0].shape == (2, 3, 3, 1)
    config = json.loads(path.with_suffix(".json").read_text())["config"]
    assert config["images"] == 4 and config["grey"] and config["seed"] == 0
    wrong = learn(*common, *sizes, f"--out={path}.txt")
    assert wrong.returncode == 2 and "--out must end in .npy" in wrong.stderr
