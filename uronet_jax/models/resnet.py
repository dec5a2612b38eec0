"""Residual networks for small images (He et al., CVPR 2016, section 4.2)."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from uronet_jax.models import layers

# That have a name in `CLASSIFIERS`.
USUAL_DEPTHS = (8, 20, 32, 44, 56, 110)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a parameter-free ("option A") shortcut."""

    features: int
    strides: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Maps `[B, H, W, I]` to `[B, H / strides, W / strides, features]`."""
        norm = partial(layers.batch_norm, train=train, dtype=self.dtype)
        conv = partial(layers.Conv, self.features, use_bias=False, dtype=self.dtype)
        y = nn.relu(norm(conv(strides=self.strides)(x)))
        y = norm(conv()(y))
        missing = self.features - x.shape[-1]
        x = x[:, :: self.strides, :: self.strides]
        x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (missing // 2, missing - missing // 2)))
        return nn.relu(x + y)


class ResNet(layers.Classifier):
    """ResNet-`depth` for small images, version 1: 16, 32 and 64 filters.

    Attributes:
        depth: Number of layers, `6n + 2` (20, 32, 44, 56, 110).
    """

    depth: int

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        """Returns logits `[B, num_classes]` of images `[B, H, W, C]` in `[0, 1]`."""
        x = self.normalized(images)
        if self.depth < 8 or (self.depth - 2) % 6:
            raise ValueError(f"depth must be 6n + 2 (20, 32, 44, ...): {self.depth}")
        x = layers.Conv(16, use_bias=False, dtype=self.dtype)(x)
        x = nn.relu(layers.batch_norm(x, train=train, dtype=self.dtype))
        for group, features in enumerate((16, 32, 64)):
            for block in range((self.depth - 2) // 6):
                strides = 2 if group > 0 and block == 0 else 1
                x = BasicBlock(features, strides, self.dtype)(x, train=train)
        return self.logits(x)
