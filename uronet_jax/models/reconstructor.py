"""The autoencoder of reconstructive training.

Source: Patrick et al., "Reconstructive Training for Real-World Robustness in Image
Classification", WACV workshops 2022, section 3.1, and its code (`generator.py` of
github.com/UTSA-VAIL/ReconstructiveTraining). The two differ; both are here.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from uronet_jax.batches import check_number, known_name
from uronet_jax.models import layers
from uronet_jax.models.remover import Separation

# Keras' own, which the code leaves as they are.
_MOMENTUM, _EPSILON = 0.99, 1e-3

_Triple = tuple[float, float, float]


class AutoencoderLayout(NamedTuple):
    """Filters of the layers, in units of the base width.

    Attributes:
        encoder: Of each block, which ends with a convolution of stride 2.
        decoder: Of each block, which begins with a transposed convolution of stride 2.
        skip_halved: Whether what the skip connection carries is the first encoder block
            after its halving, joined before the last doubling; else it is that before
            the halving, joined after the doubling.
    """

    encoder: Sequence[_Triple]
    decoder: Sequence[_Triple]
    skip_halved: bool


RECONSTRUCTOR_VARIANTS = {
    "code": AutoencoderLayout(
        ((1, 1, 1), (2, 2, 1 / 2), (4, 4, 4)),
        ((1 / 4, 4, 4), (1 / 2, 2, 2), (1, 1, 1)),
        skip_halved=True,
    ),
    "paper": AutoencoderLayout(
        ((1, 1, 1), (1 / 2, 1 / 2, 1 / 2), (1 / 4, 1 / 4, 1 / 4)),
        ((1 / 4, 1 / 4, 1 / 4), (1 / 2, 1 / 2, 1 / 2), (1, 1, 1)),
        skip_halved=False,
    ),
}


class Reconstructor(nn.Module):
    """A fully convolutional autoencoder: images to pictures without their degradation.

    All convolutions are 3x3, followed by batch norm and ReLU; the last one gives the
    channels of the image and has a tanh instead. Images are in `[-1, 1]` inside.

    `code` is the network that was published: blocks that grow (48, 96, 192 filters)
    with narrow layers (24, 12) between them. Weights could be exchanged but for two
    things that change no function that it can learn: it has no biases before batch
    norm, and its stride-2 layers pad on either side as PyTorch's do, so that it is the
    mirror image of Keras'.

    `paper` is the network that the paper describes: two convolutions a block, half of
    the filters in each next block, decoder blocks that mirror them, strided and
    transposed convolutions between all blocks, and one skip connection from the output
    of the first encoder block to the input of the last decoder block. Where it is
    silent we took the code's: three blocks from 48 filters on (so 48, 24, 12), layers
    between blocks as wide as the block on their outer side with batch norm and ReLU,
    a skip connection that concatenates, and the head. As a pool lies between blocks and
    not in them, its skip connection is at full size; the code's is at half of it.

    Any size: images are mirrored up to a multiple of 8 and the result is cropped back.

    Attributes:
        variant: A key of `RECONSTRUCTOR_VARIANTS`.
        width: Base width, a multiple of 4; the code's is 48.
        clean_mean: Mean pixel of the training set, in (0, 1), where the picture starts;
            1/2 is the code's. From there a tanh on mostly black images would saturate.
        dtype: Computation type; parameters and outputs are float32.
    """

    variant: str = "code"
    width: int = 48
    clean_mean: float = 0.5
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> Separation:
        """Restores `[B, H, W, C]` images in `[0, 1]`.

        Args:
            images: Floating point.
            train: Whether batch norm looks at the batch, and updates `batch_stats`.

        Returns:
            The clean picture, and as noise what was removed.

        Raises:
            ValueError: If `images` is not a float batch, or too small to be mirrored.
        """
        layers.check_float_images(images)
        layout = RECONSTRUCTOR_VARIANTS[self.variant]
        images = images.astype(jnp.float32)
        x, crop = layers.pad_to_multiple(2 * images - 1, 2 ** len(layout.encoder))

        def activate(x):
            norm = nn.BatchNorm(
                not train, momentum=_MOMENTUM, epsilon=_EPSILON, dtype=self.dtype
            )
            return nn.relu(norm(x))

        def conv(x, factor, strides=1):
            features = int(factor * self.width)
            options = {"strides": strides, "use_bias": False, "dtype": self.dtype}
            return activate(layers.Conv(features, **options)(x))

        def upsample(x, factor):
            features = int(factor * self.width)
            options = {"use_bias": False, "dtype": self.dtype}
            return activate(layers.UpsampleConv(features, **options)(x))

        skip = None
        for first, second, halving in layout.encoder:
            full = conv(conv(x, first), second)
            x = conv(full, halving, strides=2)
            if skip is None:
                skip = x if layout.skip_halved else full
        for number, (doubling, first, second) in enumerate(layout.decoder, 1):
            last = number == len(layout.decoder)
            if last and layout.skip_halved:
                x = jnp.concatenate([x, skip], axis=-1)
            x = upsample(x, doubling)
            if last and not layout.skip_halved:
                x = jnp.concatenate([x, skip], axis=-1)
            x = conv(conv(x, first), second)
        start = math.atanh(2 * self.clean_mean - 1)
        x = layers.Conv(
            images.shape[-1],
            dtype=self.dtype,
            kernel_init=layers.kernel_init(1.0),
            bias_init=nn.initializers.constant(start),
        )(x)
        clean = (jnp.tanh(x.astype(jnp.float32)) + 1)[crop] / 2
        return Separation(clean, images - clean)


def make_reconstructor(
    variant: str = "code",
    *,
    width: int = 48,
    clean_mean: float = 0.5,
    dtype: Any = jnp.float32,
) -> Reconstructor:
    """Builds the autoencoder by the name of its variant; see `Reconstructor`.

    Raises:
        ValueError: If the variant is unknown, the width is no positive multiple of 4,
            or the mean pixel is not in (0, 1).
    """
    known_name("reconstructor variant", variant, RECONSTRUCTOR_VARIANTS)
    if isinstance(width, bool) or not isinstance(width, int) or width < 4 or width % 4:
        raise ValueError(
            "width must be a multiple of 4 from 4 on, as there are layers of a quarter "
            f"of it: {width!r}"
        )
    mean = "clean_mean, the mean pixel of the training images,"
    check_number(mean, clean_mean, above=0.0, below=1.0)
    return Reconstructor(variant, width, clean_mean, dtype)
