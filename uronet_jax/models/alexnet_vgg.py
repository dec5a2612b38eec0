"""The first deep networks for photographs: AlexNet, and VGG with its dense layers.

As torchvision has them, so that they take images of any size; but without dropout.
"""

from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from uronet_jax.models import layers


class DenseHead(layers.Classifier):
    """What the two share: two hidden dense layers behind a mean over parts."""

    def dense_logits(self, x: jax.Array, parts: int) -> jax.Array:
        """Returns float32 logits `[B, num_classes]` of features `[B, H, W, C]`."""
        x = layers.adaptive_mean_pool(x, parts)
        # Channel by channel, as PyTorch has it: so weights mean the same thing.
        x = x.transpose(0, 3, 1, 2).reshape(len(x), -1)
        for _ in range(2):
            x = nn.relu(nn.Dense(4096, dtype=self.dtype)(x))
        return nn.Dense(self.num_classes)(x.astype(jnp.float32))


class AlexNet(DenseHead):
    """AlexNet (Krizhevsky, 2014: "One weird trick"), five convolutions."""

    smallest: ClassVar[int] = 63  # Else nothing is left behind the last pool.

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        """Returns logits `[B, num_classes]` of images `[B, H, W, C]` in `[0, 1]`."""
        del train  # Nothing in it depends on the mode.

        def conv(features, x, **options):
            return nn.relu(layers.Conv(features, dtype=self.dtype, **options)(x))

        def pool(x):
            return layers.overlapping_max_pool(x, padding=0)

        x = self.normalized(images)
        x = pool(conv(64, x, size=11, strides=4, padding=2))
        x = pool(conv(192, x, size=5))
        x = conv(256, conv(256, conv(384, x)))
        return self.dense_logits(pool(x), 6)


# Depth -> convolutions at each resolution, with 64, 128, 256, 512 and 512 filters.
IMAGENET_VGG_BLOCKS = {
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}


class ImageNetVGG(DenseHead):
    """VGG-`depth` for photographs (Simonyan & Zisserman, ICLR 2015).

    Attributes:
        depth: A key of `IMAGENET_VGG_BLOCKS`.
        batch_norm: Whether there is one behind each convolution.
        parts: Rows and columns that the dense layers see: images of 32 times as many
            pixels, of which others are averaged to so many.
    """

    depth: int
    batch_norm: bool = False
    parts: int = 7
    smallest: ClassVar[int] = 32  # Halved five times.

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        """Returns logits `[B, num_classes]` of images `[B, H, W, C]` in `[0, 1]`."""
        if self.depth not in IMAGENET_VGG_BLOCKS:
            choices = ", ".join(map(str, IMAGENET_VGG_BLOCKS))
            raise ValueError(f"depth must be one of {choices}: {self.depth}")
        x = self.normalized(images)
        for block, count in enumerate(IMAGENET_VGG_BLOCKS[self.depth]):
            for _ in range(count):
                x = layers.Conv(min(64 * 2**block, 512), dtype=self.dtype)(x)
                if self.batch_norm:
                    x = layers.batch_norm(x, train=train, dtype=self.dtype)
                x = nn.relu(x)
            x = layers.max_pool(x)
        return self.dense_logits(x, self.parts)
