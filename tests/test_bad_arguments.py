"""Keys that are none and images in PyTorch's layout: one clear error everywhere."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uronet_jax.attacks import ATTACKS, autoattack
from uronet_jax.batches import check_number
from uronet_jax.corruptions import corrupt, degrade, make_degradation
from uronet_jax.models import make_classifier
from uronet_jax.purifiers import make_transformation

IMAGES = np.full((2, 32, 32, 3), 0.5, np.float32)
LABELS = np.zeros(2, np.int32)


def classify(variables, images):
    return images.mean(axis=(1, 2)) * variables


NOISE = make_transformation("gaussian_noise")
logits_fn = functools.partial(classify, 1.0)

# Name -> a call with images and a key.
CALLS = {
    "corrupt": lambda x, key: corrupt(key, x, "cifar_c/gaussian_noise", severity=1),
    "corrupt, no noise": lambda x, key: corrupt(key, x, "cifar_c/contrast", severity=1),
    "degrade": lambda x, key: degrade(
        key, x, make_degradation([("gaussian_noise", 0.1)])
    ),
    "attack": lambda x, key: ATTACKS["pgd_linf"](
        key, x, logits_fn, LABELS, epsilon=0.1
    ),
    "minimal attack": lambda x, key: ATTACKS["ddn_l2"](key, x, logits_fn, LABELS),
    "autoattack": lambda x, key: autoattack(key, x, logits_fn, LABELS, epsilon=0.1),
    "transformation": lambda x, key: NOISE(None, x, key),
}
KEYS = [
    (0, "need a typed key, such as jax.random.key.0.: 0"),
    ("seed", "need a typed key"),
    (np.arange(2, dtype=np.uint32), "wrap_key_data makes one of this array"),
    (jax.random.PRNGKey(0), "wrap_key_data makes one of this array"),
    (jax.random.split(jax.random.key(0)), r"need one key, not several: \[2\]"),
]


@pytest.mark.parametrize(
    ("value", "bounds", "message"),
    [
        (0, {"above": 0.0}, r"^x must be a finite number in \(0, inf\): 0$"),
        (1.0, {"low": 0.0, "below": 1.0}, r"in \[0, 1\): 1.0$"),
        (1.1, {"above": 0.0, "high": 1.0}, r"in \(0, 1\]: 1.1$"),
        (-0.1, {"low": 0.0}, r"in \[0, inf\): -0.1$"),
        (math.inf, {"low": 0.0}, r"in \[0, inf\): inf$"),
        (math.nan, {}, r"in \(-inf, inf\): nan$"),
        (True, {}, ": True$"),
        ("1", {"above": 0.0}, ": '1'$"),
    ],
)
def test_numbers(value, bounds, message):
    with pytest.raises(ValueError, match=message):
        check_number("x", value, **bounds)
    for inside in (1e-9, np.float32(0.5), jax.numpy.float32(0.5), 1 - 1e-9):
        check_number("x", inside, **bounds)


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize(("key", "message"), KEYS)
def test_keys(name, key, message):
    with pytest.raises(ValueError, match=message):
        CALLS[name](IMAGES, key)


@pytest.mark.parametrize("name", CALLS)
def test_images_of_pytorch(name, key):
    with pytest.raises(ValueError, match=r"looks like \[B, C, H, W\].*transpose\(0, 2"):
        CALLS[name](IMAGES.transpose(0, 3, 1, 2), key)


def test_images_of_pytorch_in_a_network(key):
    module = make_classifier("cnn_narrow", 10)
    with pytest.raises(ValueError, match=r"looks like \[B, C, H, W\]"):
        module.init(key, jnp.zeros((1, 3, 32, 32)))
