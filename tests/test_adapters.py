"""Any classifier in a defence and under attack: linen, NNX, functions, the host."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from jax.tree_util import Partial

from uronet_jax import sharding
from uronet_jax.adapters import black_box, nnx_classifier, pytorch_classifier
from uronet_jax.attacks import ATTACKS
from uronet_jax.defense import Defense, make_defense
from uronet_jax.purifiers import parse_purifier

SHAPE = (8, 6, 3)
IMAGES = np.random.default_rng(0).random((4, *SHAPE), np.float32)
# Logits of the linear classifier that all of these are.
WEIGHTS = np.random.default_rng(1).normal(size=(8 * 6 * 3, 5)).astype(np.float32)
KEY = jax.random.key(0)


class Linen(nn.Module):
    """A linear classifier, whose call takes nothing but images."""

    @nn.compact
    def __call__(self, images):
        return nn.Dense(5, use_bias=False)(images.reshape(len(images), -1))


class NNX(nnx.Module):
    """The same, with layers that do something else in training."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.norm = nnx.BatchNorm(3, epsilon=0.0, rngs=rngs)  # The identity at first.
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.dense = nnx.Linear(len(WEIGHTS), 5, use_bias=False, rngs=rngs)
        self.dense.kernel[...] = jnp.asarray(WEIGHTS)

    def __call__(self, images):
        x = self.norm(images)
        return self.dense(self.dropout(x.reshape(len(images), -1)))


def on_host(images):
    """Refuses what is not NumPy's."""
    assert type(images) is np.ndarray and images.dtype == np.float32
    return images.reshape(len(images), -1) @ WEIGHTS


def pytorch():
    torch = pytest.importorskip("torch", reason="pip install uronet_jax[oracles]")
    dense = torch.nn.Linear(len(WEIGHTS), 5, bias=False, dtype=torch.float64)
    # PyTorch's rows are of images [C, H, W].
    weights = WEIGHTS.reshape(*SHAPE, 5).transpose(3, 2, 0, 1).reshape(5, -1)
    dense.weight.data = torch.from_numpy(weights.astype(np.float64))
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Dropout(), dense)
    return network.eval()


DIFFERENTIABLE = {
    "linen": lambda: (Linen().apply, {"params": {"Dense_0": {"kernel": WEIGHTS}}}),
    "nnx": lambda: nnx_classifier(NNX()),
    "function": lambda: (lambda _, x: x.reshape(len(x), -1) @ WEIGHTS, {}),
}
BLACK_BOXES = {
    "host": lambda: black_box(on_host),
    "pytorch": lambda: pytorch_classifier(pytorch()),
}
WITH_GRADIENT = [name for name, x in ATTACKS.items() if not x.gradient_free]
every = pytest.mark.parametrize("name", [*DIFFERENTIABLE, *BLACK_BOXES])


def made(name):
    return (DIFFERENTIABLE | BLACK_BOXES)[name]()


@every
def test_in_a_defence(name):
    classify, variables = made(name)
    defend = jax.jit(make_defense(None, None, classify))
    found = defend({"classifier": variables}, IMAGES)
    np.testing.assert_allclose(found.logits, on_host(IMAGES), atol=1e-4)
    median = parse_purifier("median")
    parts = {"purifier": None, "classifier": variables}
    defense = Defense(median, None, classify, parts, image_shape=SHAPE, batch_size=3)
    prediction = defense(IMAGES)
    expected = on_host(np.asarray(prediction.clean))
    np.testing.assert_allclose(prediction.logits, expected, atol=1e-4)
    assert np.abs(prediction.noise).max() > 0.1


@every
def test_under_attacks(name):
    classify, variables = made(name)
    parts = {"classifier": variables}
    logits_fn = Defense(None, None, classify, parts, image_shape=SHAPE).logits_fn
    labels = on_host(IMAGES).argmax(axis=-1)
    attacks = ["square_linf"] + ["fgsm_linf"] * (name in DIFFERENTIABLE)
    parameters = {"square_linf": {"steps": 60}}
    for attack in attacks:
        images = ATTACKS[attack](
            KEY, IMAGES, logits_fn, labels, epsilon=0.2, **parameters.get(attack, {})
        )
        # Where only random windows decide, a few images are found, too.
        assert (on_host(np.asarray(images)).argmax(axis=-1) != labels).sum() >= 2
        assert np.abs(images - IMAGES).max() <= 0.2 + 1e-6


@pytest.mark.parametrize("name", BLACK_BOXES)
@pytest.mark.parametrize("attack", WITH_GRADIENT)
def test_attacks_that_need_a_gradient_say_so(attack, name):
    classify, variables = made(name)
    budget = {} if ATTACKS[attack].minimal else {"epsilon": 0.1}
    labels = np.arange(4) % 5
    with pytest.raises(ValueError, match="black box.*no gradient.*square_linf"):
        ATTACKS[attack](KEY, IMAGES, Partial(classify, variables), labels, **budget)


def test_no_derivative_of_a_black_box_passes_silently():
    classify, variables = black_box(on_host)

    def logits(images):
        return classify(variables, images)

    message = "black box on the host and has no gradient"
    for derive in (
        jax.grad(lambda x: logits(x).sum()),
        jax.jit(jax.grad(lambda x: logits(x).sum())),
        jax.jacfwd(logits),
        lambda x: jax.linearize(logits, x),
    ):
        with pytest.raises(ValueError, match=message):
            derive(IMAGES)
    # What does not depend on it has one.
    gradient = jax.grad(lambda y: (y * logits(IMAGES)).sum())(1.0)
    np.testing.assert_allclose(gradient, on_host(IMAGES).sum(), rtol=1e-4)


def test_a_black_box_under_vmap_and_over_devices():
    classify, variables = black_box(on_host)
    several = jax.vmap(classify, (None, 0))(variables, np.stack([IMAGES, IMAGES / 2]))
    np.testing.assert_allclose(several[1], on_host(IMAGES / 2), atol=1e-4)
    images = sharding.split_batch(IMAGES, sharding.data_mesh())
    found = jax.jit(classify)(variables, images)
    np.testing.assert_allclose(found, on_host(IMAGES), atol=1e-4)


ON_ONE_CORE = """
import faulthandler, os
faulthandler.dump_traceback_later(60, exit=True)
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
import jax, numpy as np
from uronet_jax.adapters import black_box
classify, variables = black_box(lambda images: images[:, 0, :2, 0])
images = np.random.default_rng(0).random((2, 224, 224, 3), np.float32)
found = jax.jit(lambda x: classify(variables, x / 2))(images)
np.testing.assert_allclose(found, images[:, 0, :2, 0] / 2)
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux")
def test_a_black_box_on_a_single_core_does_not_wait_for_ever(start):
    """Images above 100 kB are copied by a thread, of which there is one then."""
    process = start("-c", ON_ONE_CORE)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors


def test_equal_classifiers_share_a_program():
    module = NNX()
    (one, _), (other, _) = nnx_classifier(module), nnx_classifier(module)
    assert one == other and hash(one) == hash(other)
    assert black_box(on_host)[0] == black_box(on_host)[0]
    assert not module.dropout.deterministic and not module.norm.use_running_average


def test_pytorch_modules_are_normalised_and_not_in_training():
    torch = pytest.importorskip("torch", reason="pip install uronet_jax[oracles]")
    network = pytorch()
    mean, std = (0.2, 0.3, 0.4), (0.5, 1.0, 2.0)
    classify, variables = pytorch_classifier(network, mean=mean, std=std)
    expected = on_host((IMAGES - np.float32(mean)) / np.float32(std))
    np.testing.assert_allclose(classify(variables, IMAGES), expected, atol=1e-4)
    # Of a network without parameters the images keep their type.
    pool = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    classify, variables = pytorch_classifier(pool.eval())
    found = classify(variables, IMAGES)
    np.testing.assert_allclose(found, IMAGES.mean(axis=(1, 2)), atol=1e-6)
    network[1].train()
    with pytest.raises(ValueError, match=r"in training mode.*call module.eval\(\)"):
        pytorch_classifier(network)
