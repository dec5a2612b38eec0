"""Residual networks for photographs (He et al., CVPR 2016, section 4.1).

As torchvision has them: the stride of a bottleneck is that of its 3x3 convolution
("version 1.5"), and a 1x1 convolution is the shortcut wherever the shape changes.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from uronet_jax.models import layers

# Depth -> blocks of the four groups.
IMAGENET_RESNET_BLOCKS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions, or with `bottleneck` a 1x1, a 3x3 and a 1x1 one.

    Attributes:
        features: Filters of the inner convolutions.
        strides: Step along height and width.
        bottleneck: Whether there are three, the last with four times the filters.
        dtype: Computation type.
    """

    features: int
    strides: int = 1
    bottleneck: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Maps `[B, H, W, I]` to `[B, H / strides, W / strides, O]`."""
        norm = partial(layers.batch_norm, train=train, dtype=self.dtype)
        conv = partial(layers.Conv, use_bias=False, dtype=self.dtype)
        outputs = self.features * (4 if self.bottleneck else 1)
        if self.bottleneck:
            y = nn.relu(norm(conv(self.features, size=1)(x)))
            y = nn.relu(norm(conv(self.features, strides=self.strides)(y)))
            y = norm(conv(outputs, size=1)(y))
        else:
            y = nn.relu(norm(conv(self.features, strides=self.strides)(x)))
            y = norm(conv(outputs)(y))
        if x.shape[-1] != outputs or self.strides != 1:
            x = norm(conv(outputs, size=1, strides=self.strides)(x))
        return nn.relu(x + y)


class ImageNetResNet(layers.Classifier):
    """ResNet-`depth` for photographs: 64 to 512 filters, a 32nd of the resolution.

    Attributes:
        depth: 18 or 34; with bottlenecks 50, 101 or 152.
    """

    depth: int

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        """Returns logits `[B, num_classes]` of images `[B, H, W, C]` in `[0, 1]`."""
        if self.depth not in IMAGENET_RESNET_BLOCKS:
            choices = ", ".join(map(str, IMAGENET_RESNET_BLOCKS))
            raise ValueError(f"depth must be one of {choices}: {self.depth}")
        x = self.normalized(images)
        x = layers.Conv(64, size=7, strides=2, use_bias=False, dtype=self.dtype)(x)
        x = nn.relu(layers.batch_norm(x, train=train, dtype=self.dtype))
        x = layers.overlapping_max_pool(x)
        for group, count in enumerate(IMAGENET_RESNET_BLOCKS[self.depth]):
            for block in range(count):
                strides = 2 if group > 0 and block == 0 else 1
                x = ResidualBlock(64 * 2**group, strides, self.depth >= 50, self.dtype)(
                    x, train=train
                )
        return self.logits(x)
