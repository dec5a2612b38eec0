"""Square: every proposal beside the paper's algorithms, search, contracts."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attack_helpers import Recorder
from jax.tree_util import Partial
from numpy.testing import assert_allclose, assert_array_equal

from uronet_jax.attacks import loop
from uronet_jax.attacks.square import square

BATCH, SHAPE = 8, (7, 9, 2)
KEY = jax.random.key(3)
EPSILON = {"linf": 0.1, "l2": 0.8}


def distance(centre, images):
    """Loss of each image."""
    flat = images.reshape(images.shape[0], -1)
    return jnp.sum(jnp.square(flat - centre), axis=-1)


@pytest.fixture(scope="module")
def loss():
    centre = np.random.default_rng(1).random((1, 126))
    return Partial(distance, centre.astype(np.float32))


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).random((BATCH, *SHAPE)).astype(np.float32)


def draws(count, query, index, run=0):
    """The contract of the draws: the key, the run, the query, the image's number."""
    key = jax.random.fold_in(jax.random.fold_in(KEY, run), query)
    return np.asarray(jax.random.uniform(jax.random.fold_in(key, index), (count,)))


def signs(numbers):
    return np.where(numbers < 0.5, -1.0, 1.0)


def share(query, total=None):
    """The schedule of the paper; `total` rescales it to so many queries."""
    if total:
        query = int(query / total * 10_000)
    after = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
    return 0.8 / 2 ** sum(query > threshold for threshold in after)


def bump(side):
    """Equation (2) of the paper, split into two halves of opposite signs."""

    def peak(rows, columns):
        n = max(rows, columns) // 2
        values = np.zeros((rows, columns))
        for r, s in itertools.product(range(rows), range(columns)):
            m = n - max(abs(r - rows // 2), abs(s - columns // 2))
            values[r, s] = sum(1 / (n + 1 - k) ** 2 for k in range(m + 1))
        return values / max(np.linalg.norm(values), 1e-12)

    both = np.concatenate([peak(side // 2, side), -peak(side - side // 2, side)])
    return both / np.linalg.norm(both)


def start_linf(x, epsilon, index):
    height, width, channels = x.shape
    stripes = signs(draws(width * channels, 0, index)).reshape(1, width, channels)
    return np.clip(x + epsilon * stripes, 0, 1)


def propose_linf(x, best, epsilon, query, side, index):
    height, width, channels = x.shape
    numbers = draws(width * channels, query + 1, index)
    r = int(numbers[0] * (height - side + 1))
    c = int(numbers[1] * (width - side + 1))
    new = best.copy()
    new[r : r + side, c : c + side] += 2 * epsilon * signs(numbers[2 : 2 + channels])
    return np.clip(np.clip(new, x - epsilon, x + epsilon), 0, 1)


def start_l2(x, epsilon, index):
    height, width, channels = x.shape
    side = min(height, width) // 5
    rows, columns = height // side, width // side
    numbers = draws(rows * columns * (1 + channels), 0, index)
    numbers = numbers.reshape(rows, columns, 1 + channels)
    delta, tile = np.zeros(x.shape), bump(side)
    top, left = (height - rows * side) // 2, (width - columns * side) // 2
    for i, j in itertools.product(range(rows), range(columns)):
        shape = tile.T if numbers[i, j, 0] < 0.5 else tile
        delta[
            top + i * side : top + (i + 1) * side,
            left + j * side : left + (j + 1) * side,
        ] = shape[:, :, None] * signs(numbers[i, j, 1:])
    return np.clip(x + epsilon * delta / np.linalg.norm(delta), 0, 1)


def propose_l2(x, best, epsilon, query, side, index):
    """Algorithm 3 of the paper."""
    height, width, channels = x.shape
    side = max(side, 3)
    side = min(side + (side % 2 == 0), min(height, width))
    tile = min(height, width) // 5
    tiles = (height // tile) * (width // tile)
    numbers = draws(tiles * (1 + channels), query + 1, index)
    corners = [
        int(u * (length - side + 1))
        for u, length in zip(numbers[:4], (height, width) * 2, strict=True)
    ]
    first, second = (
        (slice(r, r + side), slice(c, c + side)) for r, c in (corners[:2], corners[2:])
    )
    either = np.zeros((height, width), bool)
    either[first] = either[second] = True
    delta = best - x
    unused = max(epsilon**2 - np.sum(delta**2), 0)
    shape = bump(side).T if numbers[4] < 0.5 else bump(side)
    new = np.where(either[:, :, None], 0, delta)
    for i, sign in enumerate(signs(numbers[5 : 5 + channels])):
        window = delta[(*first, i)]
        temporary = sign * shape + window / max(np.linalg.norm(window), 1e-12)
        available = np.sqrt(np.sum(delta[either, i] ** 2) + unused / channels)
        new[(*first, i)] = temporary / np.linalg.norm(temporary) * available
    return np.clip(x + new, 0, 1)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_every_proposal_is_that_of_the_paper(norm, loss, images):
    linf, l2 = (start_linf, propose_linf), (start_l2, propose_l2)
    start, propose = {"linf": linf, "l2": l2}[norm]
    recorder, epsilon, steps = Recorder(loss), EPSILON[norm], 80
    programs = loop._one._cache_size()
    for rescale in (False, True):
        usual = {"epsilon": epsilon, "norm": norm, "rescale_schedule": rescale}
        found = square(KEY, images, recorder, steps=steps, **usual)
        proposals = recorder.calls()
        assert len(proposals) == steps + 1
        sides = set()
        for b in (0, 3):
            x = images[b].astype(np.float64)
            best = start(x, epsilon, b)
            assert_allclose(proposals[0, b], best, atol=1e-5)
            value = float(loss(proposals[0, b][None])[0])
            for query in range(steps):
                p = share(query, steps if rescale else None)
                side = min(max(round(np.sqrt(p * 7 * 9)), 1), 7)
                sides.add(side)
                new = propose(x, best, epsilon, query, side, b)
                # float32; a window elsewhere changes pixels by epsilon.
                assert_allclose(proposals[query + 1, b], new, atol=2e-5)
                reached = float(loss(proposals[query + 1, b][None])[0])
                if reached > value:
                    best, value = new, reached
            assert_allclose(found[b], best, atol=2e-5)
        assert sides == ({7, 4, 3, 2, 1} if rescale else {7, 5, 4})
    assert loop._one._cache_size() == programs + 1


def test_a_linear_loss_reaches_its_optimum(images):
    weights = np.random.default_rng(2).normal(size=(1, *SHAPE)).astype(np.float32)
    small, weights = images[:, :3, :3], weights[:, :3, :3]

    def linear(images):
        return jnp.sum(images * weights, axis=(1, 2, 3))

    found = square(KEY, small, linear, epsilon=0.1, steps=3000)
    assert_allclose(found, np.clip(small + 0.1 * np.sign(weights), 0, 1), atol=1e-6)


def test_without_success_the_highest_loss_counts(loss, images):
    recorder = Recorder(loss)
    found = square(KEY, images, recorder, epsilon=0.1, steps=60, restarts=1)
    values = np.stack([loss(x) for x in recorder.calls()])
    assert_array_equal(loss(found), values.max(axis=0))
