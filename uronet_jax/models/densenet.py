"""A densely connected network for photographs (Huang et al., CVPR 2017).

As torchvision has it; there is no dropout, as in the published one.
"""

from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from uronet_jax.models import layers

# Layers of the four blocks.
DENSENET_121_BLOCKS = (6, 12, 24, 16)
# Channels that a layer adds.
_GROWTH = 32


class DenseLayer(nn.Module):
    """A 1x1 and a 3x3 convolution, of which the result is laid beside the input.

    Attributes:
        epsilon: Of the batch norms.
        dtype: Computation type.
    """

    epsilon: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Maps `[B, H, W, C]` to `[B, H, W, C + 32]`."""
        norm = partial(
            layers.batch_norm, train=train, dtype=self.dtype, epsilon=self.epsilon
        )
        conv = partial(layers.Conv, use_bias=False, dtype=self.dtype)
        y = conv(4 * _GROWTH, size=1)(nn.relu(norm(x)))
        y = conv(_GROWTH)(nn.relu(norm(y)))
        return jnp.concatenate([x, y], axis=-1)


class DenseNet121(layers.Classifier):
    """DenseNet-121 for photographs: each layer sees all before it of its block.

    Attributes:
        epsilon: Of the batch norms; Keras' weights have 1.001e-5.
    """

    epsilon: float = 1e-5
    smallest: ClassVar[int] = 29  # Else nothing is left behind the last halving.

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        """Returns logits `[B, num_classes]` of images `[B, H, W, C]` in `[0, 1]`."""
        norm = partial(
            layers.batch_norm, train=train, dtype=self.dtype, epsilon=self.epsilon
        )
        conv = partial(layers.Conv, use_bias=False, dtype=self.dtype)
        x = self.normalized(images)
        x = nn.relu(norm(conv(2 * _GROWTH, size=7, strides=2)(x)))
        x = layers.overlapping_max_pool(x)
        for block, count in enumerate(DENSENET_121_BLOCKS):
            if block > 0:
                x = conv(x.shape[-1] // 2, size=1)(nn.relu(norm(x)))
                x = layers.mean_pool(x)
            for _ in range(count):
                x = DenseLayer(self.epsilon, self.dtype)(x, train=train)
        return self.logits(nn.relu(norm(x)))
