"""FGSM, IFGSM and PGD: their iterates, restarts, early stops and random losses."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attack_helpers import waves
from jax.tree_util import Partial
from numpy.testing import assert_allclose

from uronet_jax.attacks import ATTACKS, fgsm, flax_logits, ifgsm, pgd
from uronet_jax.data import packed
from uronet_jax.loading import load_classifier

BATCH, SHAPE = 6, (3, 3, 2)
KEY = jax.random.key(3)


def quadratic(slope, centre, images):
    """Loss of each image; its gradient is `2 * slope * (images - centre)`."""
    flat = images.reshape(images.shape[0], -1)
    return jnp.sum(slope * jnp.square(flat - centre), axis=-1)


@pytest.fixture(scope="module")
def loss():
    rng = np.random.default_rng(1)
    slope, centre = rng.normal(size=(1, 18)), rng.uniform(0.2, 0.8, (1, 18))
    return Partial(quadratic, np.float32(slope), np.float32(centre))


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).random((BATCH, *SHAPE)).astype(np.float32)


def numpy_pgd(images, loss, norm, epsilon, step_size, steps):
    """The definition in float64, from the images themselves."""
    slope, centre = (np.asarray(a, np.float64) for a in loss.args)
    origin = images.reshape(BATCH, -1).astype(np.float64)
    x = origin
    for _ in range(steps):
        g = 2 * slope * (x - centre)
        if norm == "linf":
            x = np.clip(x + step_size * np.sign(g), origin - epsilon, origin + epsilon)
        else:
            step = x + step_size * g / np.linalg.norm(g, axis=1, keepdims=True) - origin
            size = np.linalg.norm(step, axis=1, keepdims=True)
            x = origin + step * np.minimum(1, epsilon / size)
        x = np.clip(x, 0, 1)
    return x.reshape(images.shape)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_iterates_equal_the_definition(norm, loss, images):
    # 9 steps of .07 leave the ball of .25 and are projected back.
    ours = ifgsm(KEY, images, loss, epsilon=0.25, step_size=0.07, steps=9, norm=norm)
    expected = numpy_pgd(images, loss, norm, 0.25, 0.07, 9)
    # float32 over nine steps.
    assert_allclose(ours, expected, atol=2e-6)
    one = fgsm(KEY, images, loss, epsilon=0.1, norm=norm)
    expected = numpy_pgd(images, loss, norm, 0.1, 0.1, 1)
    assert_allclose(one, expected, atol=1e-6)


def test_without_a_random_start_the_first_run_is_that_of_the_image(images):
    loss = Partial(waves, 40.0)
    attack = functools.partial(
        pgd, KEY, images, loss, epsilon=0.3, step_size=0.01, steps=4
    )
    plain = attack(random_start=False)
    best = attack(random_start=False, restarts=4)
    assert (np.asarray(loss(plain)) <= np.asarray(loss(best))).all()
    assert np.abs(attack() - plain).max() > 0.01


def test_loss_functions_may_have_traced_arrays_built_in(loss, images):
    def attack(slope):
        # The images are known.
        def loss_fn(images):
            return quadratic(slope, loss.args[1], images)

        usual = {"epsilon": 0.1, "step_size": 0.03, "steps": 4, "restarts": 1}
        return pgd(KEY, images, loss_fn, **usual)

    inside = jax.jit(attack)(loss.args[0])
    chex.assert_trees_all_close(inside, attack(loss.args[0]), atol=1e-6)
    # What is broken becomes NaN.
    assert np.isnan(jax.jit(attack)(loss.args[0] * jnp.nan)).all()


def test_published_resnet20_falls_to_pgd(data_dir, models_dir):
    arrays, *_ = packed.load_packed("cifar10", data_dir, splits=["test"])
    images, labels = (x[:200] for x in arrays["test"])
    images = images.astype(np.float32) / 255
    model = load_classifier(f"{models_dir}/cifar10_resnet20.npz")
    logits_fn = flax_logits(model.module, model.variables, train=False)
    logits, right = jax.jit(lambda x: logits_fn(x)), 0
    attack = functools.partial(ATTACKS["pgd_linf"], KEY, epsilon=8 / 255)
    for part in np.split(np.arange(200), 2):
        adversarial = attack(images[part], logits_fn, labels[part])
        right += (np.argmax(logits(adversarial), axis=-1) == labels[part]).sum()
    assert right == 0
