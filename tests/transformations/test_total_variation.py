"""Total variation minimisation beside the released solver, scikit-image and SciPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage, optimize
from skimage.restoration import denoise_tv_bregman

from uronet_jax.transformations import TRANSFORMATIONS
from uronet_jax.transformations import total_variation as tv

RELEASED = TRANSFORMATIONS["total_variation"]
ART = TRANSFORMATIONS["total_variation_art"]


def make_images(*shape):
    """Returns blobs with some noise."""
    noise = np.random.default_rng(3).normal(size=shape)
    images = ndimage.gaussian_filter(noise, (0, 2, 2, 0)) * 2 + 0.5 + 0.03 * noise
    return images.clip(0, 1).astype(np.float32)


def make_kept(shape, rate):
    return np.random.default_rng(4).uniform(size=shape) < rate


def solve_slowly(image, kept, weight, rows_first):
    """Returns what the released solver does of `[H, W, C]`, and after how many steps.

    Its elements one by one in float64; at the border with the number of neighbours
    that there are. The order is its own, row by row, or that of a chess board.
    """
    height, width = image.shape[:2]
    fidelity = 1 / weight
    coupling = 2 * fidelity
    image = np.where(kept, image, 0.0).astype(np.float64)
    places = [(y, x) for y in range(height) for x in range(width)]
    if not rows_first:
        places.sort(key=lambda place: sum(place) % 2)
    u = image.copy()
    d, b = np.zeros((2, *u.shape)), np.zeros((2, *u.shape))
    change, count = 1.0, 0
    while change > 0.01:
        before = u.copy()
        for y, x in places * 10:
            terms = [(d - b)[0, y - 1, x]] if y > 0 else []
            terms += [(d - b)[1, y, x - 1]] if x > 0 else []
            pull = sum(terms) - (d - b)[0, y, x] - (d - b)[1, y, x]
            near = [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
            near = [u[i, j] for i, j in near if 0 <= i < height and 0 <= j < width]
            around = sum(near) + pull
            known = coupling * around + fidelity * image[y, x]
            known /= fidelity + coupling * len(near)
            u[y, x] = np.where(kept[y, x], known, around / max(len(near), 1))
        slopes = b.copy()
        slopes[0, :-1] += np.diff(u, axis=0)
        slopes[1, :, :-1] += np.diff(u, axis=1)
        size = np.sqrt((slopes**2).sum(0))
        d = slopes * (size * coupling / (size * coupling + 1))
        b = slopes - d
        change, count = np.sqrt(np.mean((u - before) ** 2)), count + 1
    return u, count


@functools.cache
def solved():
    images, kept = make_images(2, 7, 6, 2), make_kept((2, 7, 6, 2), 0.5)
    images[1] *= 0.1
    found = jax.jit(lambda x, k: tv.split_bregman(x, k, weight=0.03))(images, kept)
    return images, kept, np.asarray(found)


def test_it_is_the_released_solver_in_the_order_of_a_chess_board():
    steps = []
    for image, kept, found in zip(*solved(), strict=True):
        expected, count = solve_slowly(image, kept, 0.03, rows_first=False)
        steps.append(count)
        # float32 against float64.
        np.testing.assert_allclose(found, expected, atol=2e-6)
    assert len(set(steps)) == 2  # Each image stopped by itself.


def test_the_order_of_the_elements_matters_little():
    for image, kept, found in zip(*solved(), strict=True):
        expected, _ = solve_slowly(image, kept, 0.03, rows_first=True)
        # It stops at changes below 0.01. What it does is much more.
        assert np.abs(found - expected).mean() < 0.005
        assert np.abs(found - image).mean() > 0.01


def test_without_drops_it_goes_where_the_solver_of_scikit_image_goes(monkeypatch):
    image = make_images(1, 36, 36, 1)
    monkeypatch.setattr(tv, "_SMALL_CHANGE", 0.0)
    monkeypatch.setattr(tv, "_STEPS", 200)
    kept = np.ones_like(image, bool)
    found = tv.split_bregman(image, kept, weight=0.1)[0, :, :, 0]
    expected = denoise_tv_bregman(
        image[0, :, :, 0].astype(np.float64), weight=10, max_num_iter=4000, eps=1e-9
    )
    # That one has another border, which fades within a few pixels.
    middle = slice(12, -12)
    change = np.abs(image[0, :, :, 0] - expected)[middle, middle].max()
    distance = np.abs(found - expected)[middle, middle].max()
    assert change > 0.03 and distance < 2e-4


def test_a_dropped_element_is_not_looked_at(key):
    images = make_images(2, 7, 6, 2)
    index = jnp.arange(2)
    kept = np.asarray(tv._draw_kept(jnp.asarray(images), key, index, 0.5))
    one = RELEASED(images, key=key, index=index)
    other = RELEASED(np.where(kept, images, 0.9), key=key, index=index)
    np.testing.assert_array_equal(one, other)
    assert 0.3 < kept.mean() < 0.7


def test_what_is_dropped_is_the_mean_of_its_neighbours_without_noise(key):
    # On a flat image also at the border, where the released code darkens. It fills in
    # from black until the change is small.
    flat = np.full((1, 8, 8, 1), 0.6, np.float32)
    found = RELEASED(flat, key=key, index=jnp.arange(1))
    np.testing.assert_allclose(found, flat, atol=0.02)


def test_its_gradient_is_that_of_its_steps(key):
    images, kept, _ = solved()
    direction = np.random.default_rng(5).normal(size=images.shape).astype(np.float32)

    def total(x):
        return jnp.sum(direction * tv.split_bregman(x, kept, weight=0.03))

    gradient = jax.jit(jax.grad(total))(images)
    assert (np.asarray(gradient)[~kept] == 0).all()
    # Against differences of the slow solver, in float64.
    move = 1e-5 * direction.astype(np.float64)
    slope = 0.0
    for i in range(2):
        up, down = (
            solve_slowly(images[i] + sign * move[i], kept[i], 0.03, rows_first=False)
            for sign in (1, -1)
        )
        assert up[1] == down[1]
        slope += (direction[i] * (up[0] - down[0])).sum() / 2e-5
    np.testing.assert_allclose((gradient * direction).sum(), slope, rtol=1e-4)


@pytest.mark.parametrize("drop_rate, expected", [(0.0, 0.7), (1.0, 0.0)])
def test_all_or_nothing_of_a_pixel(drop_rate, expected, key):
    pixel = np.full((2, 1, 1, 3), 0.7, np.float32)
    found = RELEASED(pixel, key=key, index=jnp.arange(2), drop_rate=drop_rate)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def art_loss(z, x, kept, weight):
    z = z.reshape(x.shape)
    norm = np.linalg.norm
    rows, columns = norm(np.diff(z, axis=0), axis=1), norm(np.diff(z, axis=1), axis=0)
    return norm(kept * (z - x)) + weight * (rows.sum() + columns.sum())


def art_gradient(z, x, kept, weight):
    """Returns the gradient as ART has it: that of the variation twice as large."""
    z = z.reshape(x.shape)
    gradient = kept * (z - x) / max(np.linalg.norm(kept * (z - x)), 1e-6)
    for axis in (0, 1):
        steps = np.diff(z, axis=axis)
        norms = np.linalg.norm(steps, axis=1 - axis, keepdims=True)
        steps = 2 * weight * steps / np.maximum(norms, 1e-6)
        pad = [(int(i == axis),) * 2 for i in (0, 1)]
        gradient -= np.diff(np.pad(steps, pad), axis=axis)
    return gradient.ravel()


def minimise_as_art(x, kept, weight=0.5, iterations=10):
    x = x.astype(np.float64)
    return optimize.minimize(
        art_loss,
        x.ravel(),
        (x, kept.astype(int), weight),
        jac=art_gradient,
        method="L-BFGS-B",
        options={"maxiter": iterations},
    )


def draw_planes():
    """Returns pictures, noise and a bar like a digit, `[12, 32, 32, 1]`."""
    bar = np.zeros((1, 32, 32, 1), np.float32)
    bar[:, 6:26, 12:18] = make_images(1, 20, 6, 1)
    noise = np.random.default_rng(6).uniform(size=(1, 32, 32, 1))
    return np.concatenate([make_images(10, 32, 32, 1), noise, bar]).astype(np.float32)


def test_the_objective_of_art_is_reached_at_least_as_well_as_by_scipy():
    images, kept = draw_planes(), make_kept((12, 32, 32, 1), 0.3)
    found = jax.jit(
        lambda x, k: tv.descend_art_objective(
            x, k, weight=0.5, iterations=ART.parameters["iterations"]
        )
    )(images, kept)
    ratios, moves, distances = [], [], []
    for x, k, own in zip(*(a[..., 0] for a in (images, kept, found)), strict=True):
        expected = minimise_as_art(x, k)
        ratios.append(art_loss(own, x, k, 0.5) / expected.fun)
        picture = expected.x.reshape(x.shape)
        moves.append(np.sqrt(np.mean((picture - x) ** 2)))
        distances.append(np.sqrt(np.mean((picture - own) ** 2)))
        value = tv.art_objective(own, x, k, 0.5)
        np.testing.assert_allclose(value, art_loss(own, x, k, 0.5), rtol=1e-5)
    assert max(ratios[:-1]) <= 1.0, ratios
    # The bar starts on black, where norms of 0 have no gradient: it takes longer.
    assert ratios[-1] <= 1.05, ratios
    # And it is the same picture: far from the image, near to SciPy's.
    assert np.mean(distances) < 0.1 * np.mean(moves), (distances, moves)


@pytest.mark.parametrize("shape", [(6, 1, 1, 1), (6, 1, 5, 1), (6, 4, 4, 1)])
def test_no_element_or_all_and_flat_images(shape):
    images = make_images(*shape)
    images[2:4] = 0.5
    kept = make_kept(shape, 0.5)
    kept[0::2], kept[1:4:2] = True, False
    found = jax.jit(
        lambda x, k: tv.descend_art_objective(x, k, weight=0.5, iterations=30)
    )(images, kept)
    np.testing.assert_array_equal(found[2:4], images[2:4])
    before, after = (
        tv.art_objective(x[..., 0], images[..., 0], kept[..., 0], 0.5)
        for x in (images, found)
    )
    assert (after <= before).all()  # A NaN would not be.
    if shape[1] > 1:  # Nothing is kept, and a flat picture is the best.
        assert after[1] < 0.1 * before[1]
