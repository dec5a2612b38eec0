"""VGG with batch norm for small images (Simonyan & Zisserman, ICLR 2015)."""

from typing import ClassVar

import jax
from flax import linen as nn

from uronet_jax.models import layers

# Filters of each layer, "pool" where the size is halved.
_LAYERS = {
    11: (64, "pool", 128, "pool", 256, 256, "pool", 512, 512, "pool", 512, 512),
    16: (
        *(64, 64, "pool", 128, 128, "pool", 256, 256, 256, "pool"),
        *(512, 512, 512, "pool", 512, 512, 512),
    ),
}


class VGG(layers.Classifier):
    """VGG-`depth` with batch norm, global average pooling and one dense layer.

    The common form for 32x32 images: the two hidden dense layers of the original
    (for 224x224) are left out.

    Attributes:
        depth: 11 or 16.
        narrow: How many times fewer filters there are in every layer, a divisor of 64;
            for CPUs.
    """

    depth: int
    narrow: int = 1
    smallest: ClassVar[int] = 16  # Halved four times.

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        """Returns logits `[B, num_classes]` of images `[B, H, W, C]` in `[0, 1]`."""
        if self.depth not in _LAYERS:
            raise ValueError(f"depth must be one of {sorted(_LAYERS)}: {self.depth}")
        x = self.normalized(images)
        for features in _LAYERS[self.depth]:
            if features == "pool":
                x = layers.max_pool(x)
                continue
            features //= self.narrow
            x = layers.Conv(features, use_bias=False, dtype=self.dtype)(x)
            x = nn.relu(layers.batch_norm(x, train=train, dtype=self.dtype))
        return self.logits(x)
