"""Wide residual networks (Zagoruyko & Komodakis, BMVC 2016)."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from uronet_jax.models import layers


class WideBlock(nn.Module):
    """Pre-activation block: two 3x3 convolutions and a 1x1 shortcut where needed."""

    features: int
    strides: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Maps `[B, H, W, I]` to `[B, H / strides, W / strides, features]`."""
        norm = _batch_norm(train, self.dtype)
        y = nn.relu(norm()(x))
        if x.shape[-1] != self.features or self.strides != 1:
            x = layers.Conv(
                self.features,
                size=1,
                strides=self.strides,
                use_bias=False,
                dtype=self.dtype,
                name="shortcut",
            )(y)
        y = layers.Conv(
            self.features, strides=self.strides, use_bias=False, dtype=self.dtype
        )(y)
        y = nn.relu(norm()(y))
        return x + layers.Conv(self.features, use_bias=False, dtype=self.dtype)(y)


class WideResNet(nn.Module):
    """Wide ResNet `depth`-`width` for small images.

    Attributes:
        depth: Number of layers, `6n + 4`.
        width: Factor on the 16, 32, 64 filters of the three groups.
        num_classes: Size of the logits.
        mean: Pixel mean that is subtracted first, one value or one per channel.
        std: Pixel deviation that is divided by, likewise.
        dtype: Computation type; parameters and logits are float32.
    """

    depth: int
    width: int
    num_classes: int
    mean: Sequence[float] = (0.0,)
    std: Sequence[float] = (1.0,)
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        """Returns logits `[B, num_classes]` of images `[B, H, W, C]` in `[0, 1]`."""
        layers.check_float_images(images)
        if self.depth < 10 or (self.depth - 4) % 6:
            raise ValueError(
                f"depth must be 6n + 4 (10, 16, 22, 28, ...): {self.depth}"
            )
        x = layers.normalize(images, self.mean, self.std, self.dtype)
        x = layers.Conv(16, use_bias=False, dtype=self.dtype)(x)
        for group, features in enumerate((16, 32, 64)):
            for block in range((self.depth - 4) // 6):
                strides = 2 if group > 0 and block == 0 else 1
                x = WideBlock(features * self.width, strides, self.dtype)(
                    x, train=train
                )
        x = nn.relu(_batch_norm(train, self.dtype)()(x))
        x = x.mean(axis=(1, 2), dtype=jnp.float32)
        return nn.Dense(self.num_classes)(x)


def _batch_norm(train: bool, dtype: Any):
    def norm(**kwargs):
        return nn.BatchNorm(
            use_running_average=not train,
            momentum=0.9,
            epsilon=1e-5,
            dtype=dtype,
            **kwargs,
        )

    return norm
