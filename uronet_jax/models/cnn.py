"""The five-layer network for grey images.

URoNet uses "a custom 5-layer CNN" on Fashion-MNIST (91.45 %) and does not describe
it. This one has three convolutions and two dense layers.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from uronet_jax.models import layers


class CNN(nn.Module):
    """Three 3x3 convolutions with pools, two dense layers, no batch norm.

    Attributes:
        num_classes: Size of the logits.
        width: Filters of the first layer; the others have 2 and 4 times as many.
        mean: Pixel mean that is subtracted first, one value or one per channel.
        std: Pixel deviation that is divided by, likewise.
        dtype: Computation type; parameters and logits are float32.
    """

    num_classes: int
    width: int = 32
    mean: Sequence[float] = (0.0,)
    std: Sequence[float] = (1.0,)
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        """Returns logits `[B, num_classes]` of images `[B, H, W, C]` in `[0, 1]`."""
        del train  # Nothing in it depends on the mode.
        layers.check_float_images(images, min_size=8)  # Halved three times.
        x = layers.normalize(images, self.mean, self.std, self.dtype)
        for factor in (1, 2, 4):
            x = nn.relu(layers.Conv(factor * self.width, dtype=self.dtype)(x))
            height, width = x.shape[1] // 2 * 2, x.shape[2] // 2 * 2
            x = layers.max_pool(x[:, :height, :width])
        x = x.reshape(x.shape[0], -1)
        x = nn.relu(nn.Dense(4 * self.width, dtype=self.dtype)(x))
        return nn.Dense(self.num_classes)(x.astype(jnp.float32))
