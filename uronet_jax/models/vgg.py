"""VGG with batch norm for small images (Simonyan & Zisserman, ICLR 2015)."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
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


class VGG(nn.Module):
    """VGG-`depth` with batch norm, global average pooling and one dense layer.

    The common form for 32x32 images: the two hidden dense layers of the original
    (for 224x224) are left out.

    Attributes:
        depth: 11 or 16.
        num_classes: Size of the logits.
        narrow: How many times fewer filters there are in every layer, a divisor of 64;
            for CPUs.
        mean: Pixel mean that is subtracted first, one value or one per channel.
        std: Pixel deviation that is divided by, likewise.
        dtype: Computation type; parameters and logits are float32.
    """

    depth: int
    num_classes: int
    narrow: int = 1
    mean: Sequence[float] = (0.0,)
    std: Sequence[float] = (1.0,)
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        """Returns logits `[B, num_classes]` of images `[B, H, W, C]` in `[0, 1]`."""
        if self.depth not in _LAYERS:
            raise ValueError(f"depth must be one of {sorted(_LAYERS)}: {self.depth}")
        layers.check_float_images(
            images, min_size=2 ** _LAYERS[self.depth].count("pool")
        )
        x = layers.normalize(images, self.mean, self.std, self.dtype)
        for features in _LAYERS[self.depth]:
            if features == "pool":
                # An odd last row or column has no partner and is dropped.
                height, width = x.shape[1] // 2 * 2, x.shape[2] // 2 * 2
                x = layers.max_pool(x[:, :height, :width])
                continue
            features //= self.narrow
            x = layers.Conv(features, use_bias=False, dtype=self.dtype)(x)
            x = nn.BatchNorm(not train, momentum=0.9, epsilon=1e-5, dtype=self.dtype)(x)
            x = nn.relu(x)
        x = x.mean(axis=(1, 2), dtype=jnp.float32)
        return nn.Dense(self.num_classes)(x)
