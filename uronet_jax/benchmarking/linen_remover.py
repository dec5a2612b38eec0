"""The remover of the paper out of linen's own layers: what one writes first.

The same function and the same number of weights as `models.Remover`; the benchmark
shows what the layers of `models.layers` save.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from uronet_jax.models import Separation


class _Encoder(nn.Module):
    widths: Sequence[int]
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for width in self.widths:
            for _ in range(2):
                x = nn.relu(nn.Conv(width, (3, 3), dtype=self.dtype)(x))
            x = nn.max_pool(x, (2, 2), strides=(2, 2))
        return x


class _Decoder(nn.Module):
    widths: Sequence[int]
    channels: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for width in reversed(self.widths):
            x = nn.ConvTranspose(
                width, (3, 3), (2, 2), padding=((1, 2), (1, 2)), dtype=self.dtype
            )(x)
            x = nn.relu(x)
            x = nn.relu(nn.Conv(width, (3, 3), dtype=self.dtype)(x))
        x = nn.Conv(self.channels, (3, 3), dtype=self.dtype)(x)
        return nn.sigmoid(x.astype(jnp.float32))


class LinenRemover(nn.Module):
    """Separates images whose sides are multiples of `2 ** len(widths)`.

    Attributes:
        widths: Filters of each pair of layers.
        dtype: Computation type; parameters and outputs are float32.
    """

    widths: Sequence[int]
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array) -> Separation:
        """Separates `[B, H, W, C]` images in `[0, 1]`."""
        code = _Encoder(self.widths, self.dtype, name="encoder")(images)
        clean, noise = (
            _Decoder(self.widths, images.shape[-1], self.dtype, name=name)(code)
            for name in ("clean_decoder", "noise_decoder")
        )
        return Separation(clean, 2.0 * noise - 1.0)


def linen_params(params: Any) -> Any:
    """Returns parameters or gradients of a `paper` remover as `LinenRemover` has them.

    Linen's transposed convolution takes its kernel turned by half a turn.
    """

    def convert(path, x):
        names = jax.tree_util.keystr(path, simple=True, separator="/")
        if "UpsampleConv" in names and names.endswith("kernel"):
            return x[::-1, ::-1]
        return x

    turned = jax.tree_util.tree_map_with_path(convert, params)
    return {
        part: {
            layer.replace("UpsampleConv", "ConvTranspose"): values
            for layer, values in layers.items()
        }
        for part, layers in turned.items()
    }
