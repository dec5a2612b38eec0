"""The five-layer network for grey images.

URoNet uses "a custom 5-layer CNN" on Fashion-MNIST (91.45 %) and does not describe
it. This one has three convolutions and two dense layers.
"""

from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from uronet_jax.models import layers


class CNN(layers.Classifier):
    """Three 3x3 convolutions with pools, two dense layers, no batch norm.

    Attributes:
        width: Filters of the first layer; the others have 2 and 4 times as many.
    """

    width: int = 32
    smallest: ClassVar[int] = 8  # Halved three times.

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        """Returns logits `[B, num_classes]` of images `[B, H, W, C]` in `[0, 1]`."""
        del train  # Nothing in it depends on the mode.
        x = self.normalized(images)
        for factor in (1, 2, 4):
            x = nn.relu(layers.Conv(factor * self.width, dtype=self.dtype)(x))
            x = layers.max_pool(x)
        x = x.reshape(x.shape[0], -1)
        x = nn.relu(nn.Dense(4 * self.width, dtype=self.dtype)(x))
        return nn.Dense(self.num_classes)(x.astype(jnp.float32))


class MadryCNN(layers.Classifier):
    """The MNIST network of Madry et al., ICLR 2018: two 5x5 convolutions with pools.

    Attributes:
        width: Filters of the first layer; the second has twice as many, the dense layer
            32 times.

    It takes images as they are, as the original does, and leaves `mean` and `std` out.
    """

    width: int = 32
    smallest: ClassVar[int] = 4  # Halved twice.

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        """Returns logits `[B, num_classes]` of images `[B, H, W, C]` in `[0, 1]`."""
        del train  # Nothing in it depends on the mode.
        layers.check_float_images(images, self.smallest)
        x = images.astype(self.dtype)
        init = {
            "kernel_init": nn.initializers.truncated_normal(0.1),
            "bias_init": nn.initializers.constant(0.1),
        }
        for factor in (1, 2):
            x = layers.Conv(factor * self.width, size=5, dtype=self.dtype, **init)(x)
            x = layers.max_pool(nn.relu(x))
        x = x.reshape(x.shape[0], -1)
        x = nn.relu(nn.Dense(32 * self.width, dtype=self.dtype, **init)(x))
        return nn.Dense(self.num_classes, **init)(x.astype(jnp.float32))
