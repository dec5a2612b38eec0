"""Image quilting beside a plain loop, and what its database must be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uronet_jax import loading
from uronet_jax.transformations.quilting import (
    extract_patches,
    nearest_patches,
    quilt,
)

IMAGES = np.random.default_rng(0).random((2, 13, 10, 3), np.float32)
PATCHES = np.random.default_rng(1).random((30, 5, 5, 3), np.float32)


def cheapest_cut(errors):
    """All paths are tried: from row to row by at most one column."""
    paths = [[start] for start in range(errors.shape[1])]
    for _ in range(len(errors) - 1):
        paths = [
            [*path, column]
            for path in paths
            for column in range(errors.shape[1])
            if abs(column - path[-1]) <= 1
        ]
    costs = [sum(errors[i, x] for i, x in enumerate(path)) for path in paths]
    return paths[int(np.argmin(costs))]


def quilt_slowly(image, patches, overlap):
    size, step = patches.shape[1], patches.shape[1] - overlap

    def places(length):
        found = [0]
        while found[-1] + size < length:
            found.append(min(found[-1] + step, length - size))
        return found

    canvas = np.zeros_like(image)
    for y in places(image.shape[0]):
        for x in places(image.shape[1]):
            window = np.s_[y : y + size, x : x + size]
            distances = ((patches - image[window]) ** 2).sum((1, 2, 3))
            new, old = patches[distances.argmin()], canvas[window].copy()
            errors = ((new - old) ** 2).sum(-1)
            keep = np.zeros((size, size), bool)
            if x > 0:
                for row, cut in enumerate(cheapest_cut(errors[:, :overlap])):
                    keep[row, :cut] = True
            if y > 0:
                for column, cut in enumerate(cheapest_cut(errors.T[:, :overlap])):
                    keep[:cut, column] = True
            canvas[window] = np.where(keep[..., None], old, new)
    return canvas


# With 3 pixels the cut is a path: with 2 every turn is allowed.
@pytest.mark.parametrize("overlap", [2, 3])
def test_it_is_the_plain_loop(overlap):
    found = jax.jit(lambda x, p: quilt(x, p, overlap=overlap))(IMAGES, PATCHES)
    for image, ours in zip(IMAGES, found, strict=True):
        np.testing.assert_array_equal(ours, quilt_slowly(image, PATCHES, overlap))
        assert len(np.unique(ours)) > 100  # Of many patches.


def test_an_image_of_patches_comes_back():
    # Every window of the image is in the database, among others.
    image = IMAGES[:1, :, :, :1]
    windows = np.lib.stride_tricks.sliding_window_view(image[0, :, :, 0], (5, 5))
    patches = np.concatenate([PATCHES[..., :1], windows.reshape(-1, 5, 5, 1)])
    np.testing.assert_array_equal(quilt(image, patches, overlap=2), image)


def test_a_database_in_parts_gives_the_same_neighbours(monkeypatch):
    queries, patches = PATCHES[:7].reshape(7, -1) + 0.1, PATCHES.reshape(30, -1)
    patches[25] = patches[3]  # As near: the first is taken.
    whole = nearest_patches(queries, patches)
    monkeypatch.setattr("uronet_jax.transformations.quilting._DISTANCES", 7 * 8)
    np.testing.assert_array_equal(nearest_patches(queries, patches), whole)
    np.testing.assert_array_equal(whole, np.arange(7))


def test_patches_are_cut_from_images():
    levels = np.rint(IMAGES * 255).astype(np.uint8)
    patches = extract_patches(levels, 40, seed=3)
    assert patches.shape == (40, 5, 5, 3) and patches.dtype == np.float32
    windows = np.lib.stride_tricks.sliding_window_view(levels, (5, 5), axis=(1, 2))
    windows = np.moveaxis(windows, 3, -1).reshape(-1, 5, 5, 3) / np.float32(255)
    known = {window.tobytes() for window in windows}
    cut = {patch.tobytes() for patch in patches}
    assert cut <= known and len(cut) > 20
    np.testing.assert_array_equal(
        extract_patches(levels / np.float32(255), 40, seed=3), patches
    )


def test_it_is_a_purifier_by_the_path_of_its_patches(tmp_path):
    path = tmp_path / "patches.npz"
    np.savez(path, patches=PATCHES)
    model = loading.load_purifier(f"bit_depth:bits=2+quilting:patches={path},overlap=3")
    np.testing.assert_array_equal(model.variables[1], PATCHES)
    assert model.variables[0] is None and hash(model.module)
    rounded = jnp.round(IMAGES * 3) / 3
    np.testing.assert_array_equal(
        model.module(model.variables, IMAGES).clean, quilt(rounded, PATCHES, overlap=3)
    )
    # Where a file lies does not matter, what is in it does.
    paths = [tmp_path / name for name in ("a.npy", "b.npy", "c.npy")]
    for name, patches in zip(paths, (PATCHES, PATCHES, PATCHES[1:]), strict=True):
        np.save(name, patches)
    first, same, other = (
        loading.load_purifier(f"quilting:patches={name}").identity for name in paths
    )
    assert first == same != other
