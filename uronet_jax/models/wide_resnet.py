"""Wide residual networks (Zagoruyko & Komodakis, BMVC 2016)."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from uronet_jax.models import layers

# Depth and width of those that have a name in `CLASSIFIERS`.
USUAL_SIZES = ((10, 1), (10, 2), (16, 8), (28, 10), (40, 2))


class WideBlock(nn.Module):
    """Pre-activation block: two 3x3 convolutions and a 1x1 shortcut where needed."""

    features: int
    strides: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Maps `[B, H, W, I]` to `[B, H / strides, W / strides, features]`."""
        norm = partial(layers.batch_norm, train=train, dtype=self.dtype)
        conv = partial(layers.Conv, self.features, use_bias=False, dtype=self.dtype)
        y = nn.relu(norm(x))
        if x.shape[-1] != self.features or self.strides != 1:
            x = conv(size=1, strides=self.strides, name="shortcut")(y)
        y = nn.relu(norm(conv(strides=self.strides)(y)))
        return x + conv()(y)


class WideResNet(layers.Classifier):
    """Wide ResNet `depth`-`width` for small images.

    Attributes:
        depth: Number of layers, `6n + 4`.
        width: Factor on the 16, 32, 64 filters of the three groups.
    """

    depth: int
    width: int

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        """Returns logits `[B, num_classes]` of images `[B, H, W, C]` in `[0, 1]`."""
        x = self.normalized(images)
        if self.depth < 10 or (self.depth - 4) % 6:
            raise ValueError(
                f"depth must be 6n + 4 (10, 16, 22, 28, ...): {self.depth}"
            )
        x = layers.Conv(16, use_bias=False, dtype=self.dtype)(x)
        for group, features in enumerate((16, 32, 64)):
            for block in range((self.depth - 4) // 6):
                strides = 2 if group > 0 and block == 0 else 1
                wide = WideBlock(features * self.width, strides, self.dtype)
                x = wide(x, train=train)
        return self.logits(nn.relu(layers.batch_norm(x, train=train, dtype=self.dtype)))
