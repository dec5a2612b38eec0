"""The five-layer network for grey images.

URoNet uses "a custom 5-layer CNN" on Fashion-MNIST (91.45 %) and does not describe
it. This one has three convolutions and two dense layers.
"""

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

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        """Returns logits `[B, num_classes]` of images `[B, H, W, C]` in `[0, 1]`."""
        del train  # Nothing in it depends on the mode.
        x = self.normalized(images, min_size=8)  # Halved three times.
        for factor in (1, 2, 4):
            x = nn.relu(layers.Conv(factor * self.width, dtype=self.dtype)(x))
            x = layers.max_pool(x)
        x = x.reshape(x.shape[0], -1)
        x = nn.relu(nn.Dense(4 * self.width, dtype=self.dtype)(x))
        return nn.Dense(self.num_classes)(x.astype(jnp.float32))
