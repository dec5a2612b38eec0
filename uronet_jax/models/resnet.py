"""Residual networks for small images (He et al., CVPR 2016, section 4.2)."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from uronet_jax.models import layers


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a parameter-free ("option A") shortcut."""

    features: int
    strides: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Maps `[B, H, W, I]` to `[B, H / strides, W / strides, features]`."""

        def norm(y):
            return nn.BatchNorm(
                not train, momentum=0.9, epsilon=1e-5, dtype=self.dtype
            )(y)

        y = layers.Conv(
            self.features, strides=self.strides, use_bias=False, dtype=self.dtype
        )(x)
        y = nn.relu(norm(y))
        y = norm(layers.Conv(self.features, use_bias=False, dtype=self.dtype)(y))
        missing = self.features - x.shape[-1]
        x = x[:, :: self.strides, :: self.strides]
        x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (missing // 2, missing - missing // 2)))
        return nn.relu(x + y)


class ResNet(nn.Module):
    """ResNet-`depth` for small images, version 1: 16, 32 and 64 filters.

    Attributes:
        depth: Number of layers, `6n + 2` (20, 32, 44, 56, 110).
        num_classes: Size of the logits.
        mean: Pixel mean that is subtracted first, one value or one per channel.
        std: Pixel deviation that is divided by, likewise.
        dtype: Computation type; parameters and logits are float32.
    """

    depth: int
    num_classes: int
    mean: Sequence[float] = (0.0,)
    std: Sequence[float] = (1.0,)
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        """Returns logits `[B, num_classes]` of images `[B, H, W, C]` in `[0, 1]`."""
        layers.check_float_images(images)
        if self.depth < 8 or (self.depth - 2) % 6:
            raise ValueError(f"depth must be 6n + 2 (20, 32, 44, ...): {self.depth}")
        x = layers.normalize(images, self.mean, self.std, self.dtype)
        x = layers.Conv(16, use_bias=False, dtype=self.dtype)(x)
        x = nn.BatchNorm(not train, momentum=0.9, epsilon=1e-5, dtype=self.dtype)(x)
        x = nn.relu(x)
        for group, features in enumerate((16, 32, 64)):
            for block in range((self.depth - 2) // 6):
                strides = 2 if group > 0 and block == 0 else 1
                x = BasicBlock(features, strides, self.dtype)(x, train=train)
        x = x.mean(axis=(1, 2), dtype=jnp.float32)
        return nn.Dense(self.num_classes)(x)
