"""The network that learns which noise hurts a classifier most."""

from collections.abc import Sequence
from typing import Any

import jax
from flax import linen as nn

from uronet_jax import batches
from uronet_jax.models import layers

# Variant -> side of the window in which its noise is correlated.
NOISE_GENERATORS = {"1x1": 1, "3x3": 3}
_FEATURES = 20


class _Convolution(nn.Module):
    """Without padding; a 1x1 window is a matrix product, which is quick everywhere."""

    features: int
    side: int

    @nn.compact
    def __call__(self, x):
        shape = (self.side, self.side, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.normal(0.01), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        if self.side == 1:
            x = x @ kernel[0, 0]
        else:
            x = layers.conv(x, kernel, padding=((0, 0), (0, 0)))
        return x + bias[None, None, None]


class NoiseGenerator(nn.Module):
    """Normal numbers to noise: `z + net(z)`, four convolutions C-20-20-20-C.

    It starts as Gaussian noise, since weights are drawn from `N(0, 0.01)`. It never
    sees an image. For C = 3 it has 983 parameters, with a 3x3 kernel 4,183.

    Source:
        Rusak et al., ECCV 2020, and its code.

    Attributes:
        window: 1, or 3: then the second convolution is 3x3 without padding.
    """

    window: int = 1

    @nn.compact
    def __call__(self, z: jax.Array) -> jax.Array:
        """Returns noise `[B, H, W, C]` of `z` `[B, H + window - 1, W + ..., C]`."""
        x, channels, margin = z, z.shape[-1], self.window // 2
        for side in (1, self.window, 1):
            x = nn.relu(_Convolution(_FEATURES, side)(x))
        x = _Convolution(channels, 1)(x)
        height, width = x.shape[1:3]
        return x + z[:, margin : margin + height, margin : margin + width]

    def draw(self, key: jax.Array, index: jax.Array, shape: Sequence[int]) -> jax.Array:
        """Returns the `z` of noise for images `shape`, from key and index `[B]`."""
        height, width, channels = shape
        shape = height + self.window - 1, width + self.window - 1, channels
        size = shape[0] * shape[1] * channels
        z = batches.per_image(
            lambda k: jax.random.normal(k, (size,), "float32"), key, index
        )
        return z.reshape(-1, *shape)


def make_noise_generator(variant: str) -> NoiseGenerator:
    """Returns a generator of `NOISE_GENERATORS`; ValueError if it is unknown."""
    batches.known_name("noise generator", variant, NOISE_GENERATORS)
    return NoiseGenerator(NOISE_GENERATORS[variant])


def learned_noise(
    generator: NoiseGenerator,
    params: Any,
    key: jax.Array,
    index: jax.Array,
    shape: Sequence[int],
) -> jax.Array:
    """Returns noise `[B, *shape]`, of any norm, by key and index `[B]` of the image."""
    return generator.apply({"params": params}, generator.draw(key, index, shape))
