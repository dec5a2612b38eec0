"""Additive noise: every draw beside its definition, which one stays, contracts."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attack_helpers import Recorder, norms, rescale_by_sorting, waves
from jax.tree_util import Partial
from numpy.testing import assert_allclose, assert_array_equal

from uronet_jax.attacks import additive_gaussian_noise, additive_uniform_noise

BATCH, SHAPE, STEPS = 6, (4, 5, 2), 12
KEY = jax.random.key(3)
LOSS = Partial(waves, 8.0)
ATTACKS = {
    "gaussian": (additive_gaussian_noise, jax.random.normal),
    "uniform": (
        additive_uniform_noise,
        functools.partial(jax.random.uniform, minval=-1.0, maxval=1.0),
    ),
}
every_attack = pytest.mark.parametrize("name", ATTACKS)


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    images = rng.random((BATCH, *SHAPE))
    images = np.where(rng.random(images.shape) < 0.5, 0.0, images)
    images[1] = np.pi / 16  # Its loss is the highest.
    return images.astype(np.float32)


def noise_of(name, step, index):
    """The contract of the draws: the key, the step from 1 on, the image's number."""
    keys = [jax.random.fold_in(jax.random.fold_in(KEY, step), i) for i in index]
    draws = np.stack([ATTACKS[name][1](key, (np.prod(SHAPE),)) for key in keys])
    return draws.reshape(-1, *SHAPE)


@every_attack
def test_every_step_is_noise_of_its_own(name, images):
    recorder, index = Recorder(LOSS), np.array([7, 0, 3, 3, 12, 5])
    epsilon = np.float32([0.0, 0.3, 1.0, 2.0, 3.0, 50.0])
    attack = functools.partial(ATTACKS[name][0], KEY, images, index=index)
    found = attack(recorder, epsilon=epsilon, steps=STEPS)
    calls = recorder.calls()
    assert len(calls) == STEPS + 1
    assert_array_equal(calls[0], images)
    for step, noisy in enumerate(calls[1:], 1):
        noise = noise_of(name, step, index)
        # As near as that of `test_rescaling`.
        expected = rescale_by_sorting(images, noise, epsilon)
        assert_allclose(noisy, expected, atol=1e-5)
        assert_allclose(norms(noisy - images, "l2")[:4], epsilon[:4], rtol=1e-5)
    # The noise of the highest loss stays, be it lower than that of the image itself.
    losses = np.asarray(jax.vmap(LOSS)(calls[1:]))
    best = calls[1:][np.argmax(losses, axis=0), np.arange(BATCH)]
    assert_array_equal(found, best)
    assert losses.max(axis=0)[1] < LOSS(images)[1]
    once = attack(recorder, epsilon=epsilon, steps=1)
    assert_array_equal(once, recorder.calls()[1])
    assert_array_equal(once, calls[1])


@every_attack
def test_the_first_success_stays(name, images):
    recorder = Recorder(lambda goal, x: (LOSS(x), LOSS(x) > goal))
    attack = functools.partial(ATTACKS[name][0], KEY, images, epsilon=0.5, steps=STEPS)
    attack(Partial(recorder, np.full(BATCH, np.inf, np.float32)))
    losses = np.asarray(jax.vmap(LOSS)(recorder.calls()))
    goal = np.median(losses, axis=0)
    goal[:2] = 99.0  # Out of reach.
    goal[2:4] = losses[0, 2:4] - 0.01  # Not a step is needed.
    found = np.asarray(attack(Partial(recorder, goal)))
    calls = recorder.calls()
    success = np.asarray(jax.vmap(LOSS)(calls)) > goal
    assert_array_equal(found[2:4], images[2:4])
    for b in range(4, BATCH):
        assert success[:, b].any()
        assert_array_equal(found[b], calls[np.argmax(success[:, b]), b])
    assert_allclose(norms(found - images, "l2")[:2], 0.5, rtol=1e-5)
    # The batch ends when nothing is left to do.
    attack(Partial(recorder, np.full(BATCH, -np.inf, np.float32)))
    assert len(recorder.calls()) == 1


@every_attack
def test_inside_jit_it_is_the_same(name, images):
    usual = {"epsilon": 0.5, "steps": 5}
    attack = jax.jit(lambda x: ATTACKS[name][0](KEY, x, LOSS, **usual))
    expected = ATTACKS[name][0](KEY, images, LOSS, **usual)
    assert_allclose(attack(jnp.asarray(images)), expected, atol=1e-6)
