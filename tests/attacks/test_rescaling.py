"""Clipping-aware rescaling: norms, the sorted algorithm, gradients, contracts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attack_helpers import norms, rescale_by_sorting
from numpy.testing import assert_allclose, assert_array_equal

from uronet_jax.attacks import clipping_aware_rescale

SHAPE = (6, 5, 7, 2)
EPSILONS = (0.01, 1.0, 3.0, np.float32([0.02, 0.5, 2.0, 3.0, 4.0, 50.0]))


def make_images(kind, rng):
    uniform = rng.random(SHAPE)
    return {
        "uniform": uniform,
        "black and white": np.round(uniform),
        "mostly black": np.where(rng.random(SHAPE) < 0.8, 0.0, uniform),
        "grey": np.full(SHAPE, 0.5),
    }[kind].astype(np.float32)


def make_noise(kind, rng):
    normal = rng.normal(size=SHAPE)
    return {
        "normal": normal,
        "uniform": rng.uniform(-1, 1, SHAPE),
        "of long tails": normal**3,
        "sparse": np.where(rng.random(SHAPE) < 0.7, 0.0, normal),
        "of any length": normal * 10.0 ** np.arange(-30, 30, 10).reshape(6, 1, 1, 1),
    }[kind].astype(np.float32)


every_image = pytest.mark.parametrize(
    "kind", ["uniform", "black and white", "mostly black", "grey"]
)
every_noise = pytest.mark.parametrize(
    "noise", ["normal", "uniform", "of long tails", "sparse", "of any length"]
)


@pytest.fixture
def problem():
    """Images and noise of ordinary kinds."""
    rng = np.random.default_rng(0)
    return make_images("mostly black", rng), make_noise("normal", rng)


@every_image
@every_noise
def test_the_norm_is_reached_or_all_that_can_be(kind, noise):
    rng = np.random.default_rng(0)
    images, noise = make_images(kind, rng), make_noise(noise, rng)
    room = np.where(noise >= 0, 1 - images, images) * (noise != 0)
    possible, ends = norms(room, "l2"), np.where(noise > 0, 1.0, 0.0)
    saturated = np.where(noise == 0, images, ends)
    for epsilon in (*EPSILONS, 0.999 * possible, 1.001 * possible, 1e30):
        found = np.asarray(clipping_aware_rescale(images, noise, epsilon))
        assert found.dtype == np.float32 and found.min() >= 0 and found.max() <= 1
        expected = np.minimum(epsilon, possible)
        # An element of 1 is rounded by 3e-8 at most: 70 of them are 2.5e-7 off.
        assert_allclose(norms(found - images, "l2"), expected, rtol=1e-5, atol=2.5e-7)
        beyond = epsilon > possible
        assert_array_equal(found[beyond], saturated[beyond])
        # Along the noise, element by element.
        assert ((found - images) * np.sign(noise) >= 0).all()


@every_image
@every_noise
def test_it_is_what_sorting_finds(kind, noise):
    rng = np.random.default_rng(1)
    images, noise = make_images(kind, rng), make_noise(noise, rng)
    # The published algorithm takes noise below 1e-10 for 1e-10.
    unit = noise / np.abs(noise).max(axis=(1, 2, 3), keepdims=True)
    for epsilon in EPSILONS:
        found = clipping_aware_rescale(images, noise, epsilon)
        expected = rescale_by_sorting(images, unit, epsilon)
        # The squared norm is 1e-7 of itself off; where few elements still move, their
        # part is less than it.
        assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["uniform", "mostly black"])
def test_gradients_are_those_of_finite_differences(kind):
    rng = np.random.default_rng(2)
    images, noise = make_images(kind, rng), make_noise("normal", rng)
    images, noise = images[:3, :3, :2], noise[:3, :3, :2]
    weights = rng.normal(size=images.shape).astype(np.float32)
    # From few clipped elements to nearly all.
    possible = norms(np.where(noise >= 0, 1 - images, images), "l2")
    epsilon = np.float32([0.3, 0.7, 0.95]) * np.float32(possible)

    def total(images, noise, epsilon):
        return jnp.sum(weights * clipping_aware_rescale(images, noise, epsilon))

    gradient = jax.jit(jax.grad(total, argnums=(0, 1, 2)))
    found = gradient(images, noise, epsilon)
    place = [x.astype(np.float64) for x in (images, noise, epsilon)]
    for argument in range(3):
        # Black pixels cannot be darker, so that there is one side only.
        if argument == 0 and kind != "uniform":
            continue
        expected = np.zeros(place[argument].shape)
        for i in np.ndindex(*expected.shape):
            sides = []
            for step in (1e-6, -1e-6):
                moved = [x.copy() for x in place]
                moved[argument][i] += step
                sides.append(np.sum(weights * rescale_by_sorting(*moved)))
            expected[i] = (sides[0] - sides[1]) / 2e-6
        # The differences, in float64, are exact to 1e-9; ours are sums in float32.
        assert_allclose(found[argument], expected, rtol=1e-4, atol=1e-4)
    # The length of noise does not matter, as it would if the scale were constant.
    along = np.sum(found[1] * noise, axis=(1, 2, 3))
    assert np.abs(found[1]).max() > 0.1
    assert_allclose(along, 0.0, atol=1e-5)


def test_gradients_are_zero_where_nothing_moves(problem):
    images, noise = problem

    def total(images, noise, epsilon):
        return jnp.sum(clipping_aware_rescale(images, noise, epsilon) ** 2)

    gradient = jax.jit(jax.grad(total, argnums=(1, 2)))
    for factor, epsilon in ((0.0, 1.0), (1.0, 0.0), (1.0, 100.0)):
        for found in gradient(images, factor * noise, epsilon):
            assert_array_equal(found, np.zeros_like(found))


def test_what_is_not_to_change_does_not(problem):
    images, noise = problem
    assert_array_equal(clipping_aware_rescale(images, noise, 0.0), images)
    assert_array_equal(clipping_aware_rescale(images, 0 * noise, 3.0), images)
    assert_array_equal(clipping_aware_rescale(images, -0.0 * np.abs(noise), 3), images)
    white = np.ones(SHAPE, np.float32)
    assert_array_equal(clipping_aware_rescale(white, np.abs(noise), 3.0), white)
    # A single pixel has room.
    white[0, 1, 2, 0] = 0.25
    found = clipping_aware_rescale(white, 1e-6 + np.abs(noise), 0.5)
    assert_allclose(found[0, 1, 2, 0], 0.75, rtol=1e-6)
    white[0, 1, 2, 0] = 0.75
    assert_array_equal(found, white)


def test_noise_of_very_different_sizes():
    images = np.full((2, 2, 2, 1), 0.5, np.float32)
    images[:, 0, 0] = 0.999
    noise = np.ones_like(images)
    noise[0] = 1e-10
    noise[1] = 1e-17  # Too small beside the largest to count.
    noise[:, 0, 0] = 1.0
    found = np.asarray(clipping_aware_rescale(images, noise, 0.5))
    assert_allclose(norms(found - images, "l2"), [0.5, 0.001], rtol=1e-4)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_short_floats_are_computed_in_long_ones(dtype, problem):
    images, noise = (jnp.asarray(x, dtype) for x in problem)
    found = clipping_aware_rescale(images, noise, 2.0)
    assert found.dtype == jnp.float32
    assert_allclose(norms(found - images, "l2"), 2.0, rtol=1e-5)
    mixed = clipping_aware_rescale(images.astype(jnp.float32), noise, 2.0)
    assert_array_equal(mixed, found)


def test_what_is_no_number_stays_in_its_image(problem):
    images, noise = problem
    expected = np.array(clipping_aware_rescale(images, noise, 2.0))
    broken = noise.copy()
    broken[1, 0, 0, 0], broken[3, 2, 1, 1] = np.nan, np.inf
    images[1, 0, 0, 0] = 0.0
    expected[[1, 3]] = np.nan
    assert_array_equal(clipping_aware_rescale(images, broken, 2.0), expected)
    epsilon = np.float32([2.0, 2.0, 2.0, 2.0, np.nan, 2.0])
    expected[4] = np.nan
    found = jax.jit(clipping_aware_rescale)(images, broken, epsilon)
    assert_array_equal(found, expected)


def test_an_image_does_not_depend_on_its_neighbours(problem):
    images, noise = problem
    epsilon = EPSILONS[-1]
    whole = np.asarray(clipping_aware_rescale(images, noise, epsilon))
    order = np.array([4, 4, 0, 5, 2, 1])
    mixed = clipping_aware_rescale(images[order], noise[order], epsilon[order])
    assert_array_equal(mixed, whole[order])
    for i in (1, 5):
        # Sums may be in another order.
        alone = clipping_aware_rescale(images[[i]], noise[[i]], epsilon[i])
        assert_allclose(alone[0], whole[i], atol=1e-6)


def test_jit_and_vmap(problem):
    images, noise = problem
    budgets = jnp.asarray([0.5, 3.0, 30.0])
    together = jax.jit(jax.vmap(clipping_aware_rescale, (None, None, 0)))
    for epsilon, found in zip(budgets, together(images, noise, budgets), strict=True):
        expected = clipping_aware_rescale(images, noise, epsilon)
        assert_allclose(found, expected, atol=1e-6)
        inside = jax.jit(clipping_aware_rescale)(images, noise, epsilon)
        assert_allclose(inside, expected, atol=1e-6)
