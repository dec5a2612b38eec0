"""Which purifiers are random: those whose result depends on the key."""

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn

from uronet_jax.models import Separation
from uronet_jax.purifiers import as_purifier, chain, make_transformation, random_stages


def shake(variables, images, key=None, index=None):
    noise = jax.random.uniform(key, images.shape)
    return Separation(images, noise)


def shake_or_not(variables, images, key=None, index=None):
    return shake(variables, images, jax.random.key(0) if key is None else key)


@jax.jit
def takes_a_key(variables, images, key=None, index=None):
    return Separation(images * variables, jnp.zeros_like(images))


class Network(nn.Module):
    """Draws as it is told, from `defense`: always, if it can, or never."""

    draws: str

    def __call__(self, images):
        if self.draws == "never" or not (
            self.draws == "always" or self.has_rng("defense")
        ):
            return images
        return images + jax.random.uniform(self.make_rng("defense"), images.shape)


NOISE = make_transformation("gaussian_noise", scale=0.1)


@pytest.mark.parametrize(
    ("purifier", "variables", "expected"),
    [
        (None, None, []),
        (shake, None, ["the purifier"]),
        (shake_or_not, None, ["the purifier"]),
        (takes_a_key, 2.0, []),
        (Network("always"), {}, ["the purifier"]),
        (Network("asks"), {}, ["the purifier"]),
        (Network("never"), {}, []),
        (chain(Network("never"), NOISE), ({}, None), ["gaussian_noise"]),
        (chain(shake, NOISE), (None, None), ["the purifier", "gaussian_noise"]),
    ],
)
def test_what_is_random(purifier, variables, expected):
    images = jax.ShapeDtypeStruct((2, 4, 4, 1), jnp.float32)
    assert random_stages(as_purifier(purifier), variables, images) == expected
