"""The noise remover: one encoder, one decoder per head.

Source: URoNet, Figure 3 and section 2. What the paper leaves open (padding, where the
decoders double the size, the code of the signed noise pattern) is listed with the
choices made in docs/ARCHITECTURE.md.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from uronet_jax.batches import check_number, check_whole, known_name
from uronet_jax.models import layers


class Separation(NamedTuple):
    """What the remover makes of an image.

    Attributes:
        clean: `[B, H, W, C]` in `[0, 1]`, the picture without its degradation.
        noise: `[B, H, W, C]` in `[-1, 1]`, the signed pattern `degraded - clean`.
    """

    clean: jax.Array
    noise: jax.Array


# Share of the image that a blending head starts with. As highway networks it starts by
# carrying its input on.
_CARRY = 0.88


class CleanHead(NamedTuple):
    """What the clean decoder predicts."""

    # (channels, clean_mean) -> where its output channels start, in (0, 1).
    start: Callable[[int, float], list[float]]
    # (output, images) -> the clean picture it means, [B, H, W, C].
    picture: Callable[[jax.Array, jax.Array], jax.Array]


def _add(output: jax.Array, images: jax.Array) -> jax.Array:
    return jnp.clip(images + 2.0 * output - 1.0, 0.0, 1.0)


def _blend(output: jax.Array, images: jax.Array) -> jax.Array:
    kept, picture = jnp.split(output, 2, axis=-1)
    return kept * images + (1.0 - kept) * picture


CLEAN_HEADS = {
    "picture": CleanHead(lambda n, mean: [mean] * n, lambda output, images: output),
    "residual": CleanHead(lambda n, mean: [0.5] * n, _add),
    "blend": CleanHead(lambda n, mean: [_CARRY] * n + [mean] * n, _blend),
}


class Encoder(nn.Module):
    """Pairs of 3x3 convolutions, a 2x2 maximum after each pair."""

    widths: Sequence[int]
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, list[jax.Array]]:
        """Returns the code and the features before every pool, finest first."""
        features = []
        for width in self.widths:
            for _ in range(2):
                x = nn.relu(layers.Conv(width, dtype=self.dtype)(x))
            features.append(x)
            x = layers.max_pool(x)
        return x, features


class Decoder(nn.Module):
    """Mirror of the encoder: each pair doubles the size, then convolves."""

    widths: Sequence[int]
    output_means: Sequence[float]
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, skips: Sequence[jax.Array]) -> jax.Array:
        """Returns `[B, H, W, len(output_means)]` in `(0, 1)`, float32."""
        for level in reversed(range(len(self.widths))):
            x = layers.UpsampleConv(self.widths[level], dtype=self.dtype)(x)
            if skips:
                x = x + skips[level]
            x = nn.relu(x)
            x = nn.relu(layers.Conv(self.widths[level], dtype=self.dtype)(x))
        # A sigmoid that starts at 1/2 on mostly black images is driven into
        # saturation within a hundred steps and never returns; started at the mean
        # pixel it has nothing to unlearn.
        start = [math.log(mean / (1.0 - mean)) for mean in self.output_means]
        x = layers.Conv(
            len(start),
            dtype=self.dtype,
            kernel_init=layers.kernel_init(1.0),
            bias_init=lambda key, shape: jnp.asarray(start, jnp.float32).reshape(shape),
        )(x)
        return nn.sigmoid(x.astype(jnp.float32))


class Remover(nn.Module):
    """Separates images into a clean picture and a noise pattern.

    Any size: images are mirrored up to a multiple of `2 ** len(widths)` and the
    result is cropped back.

    Attributes:
        widths: Filters of each pair of layers; the paper's are 64, 128, 256.
        skips: Adds the encoder's features to the decoders' at equal size. The paper
            draws none; Mao et al. (2016), whom it follows, have them.
        noise_head: Whether a second decoder predicts the noise pattern. Without it
            (the denoising autoencoder of the ablation) `noise` is image minus clean.
        clean_head: What the clean head predicts. `picture`: the clean picture, as
            published. `residual`: what to add to the image, clipped to `[0, 1]` (Zhang
            et al., DnCNN, 2017). `blend`: a picture, and for every element how much of
            the image to keep; the result is the mean so weighted, so that it can copy
            what is intact and paint what is lost, and never leaves `[0, 1]` (on pixels,
            the gate of Srivastava et al., Highway Networks, 2015).
        mirror: Whether results are means over the image and its mirror image
            (self-ensembling; Lim et al., 2017). It takes twice the time and no other
            weights: `remover.clone(mirror=True)`.
        clean_mean: Mean pixel of the training set, in (0, 1): where the clean head
            starts. The noise head, and a residual one, start at zero; a blend starts by
            keeping most of the image.
        dtype: Computation type; parameters and outputs are float32.
    """

    widths: Sequence[int] = (64, 128, 256)
    skips: bool = False
    noise_head: bool = True
    clean_head: str = "picture"
    mirror: bool = False
    clean_mean: float = 0.5
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array) -> Separation:
        """Separates `[B, H, W, C]` images in `[0, 1]`.

        Raises:
            ValueError: If `images` is not a float batch, or too small to be mirrored,
                or `clean_head` is unknown.
        """
        layers.check_float_images(images)
        mean = "clean_mean, the mean pixel of the training images,"
        check_number(mean, self.clean_mean, above=0.0, below=1.0)
        known_name("clean head", self.clean_head, CLEAN_HEADS)
        head, channels = CLEAN_HEADS[self.clean_head], images.shape[-1]
        encoder = Encoder(self.widths, self.dtype, name="encoder")
        starts = {"clean_decoder": head.start(channels, self.clean_mean)}
        if self.noise_head:
            starts["noise_decoder"] = [0.5] * channels
        decoders = {
            name: Decoder(self.widths, start, self.dtype, name=name)
            for name, start in starts.items()
        }

        def separate(images: jax.Array) -> Separation:
            padded, crop = layers.pad_to_multiple(images, 2 ** len(self.widths))
            code, features = encoder(padded)
            features = features if self.skips else []
            found = {
                name: decoder(code, features) for name, decoder in decoders.items()
            }
            images = images.astype(jnp.float32)
            clean = head.picture(found["clean_decoder"][crop], images)
            if not self.noise_head:
                return Separation(clean, images - clean)
            return Separation(clean, 2.0 * found["noise_decoder"][crop] - 1.0)

        separation = separate(images)
        if not self.mirror:
            return separation
        mirrored = separate(images[:, :, ::-1])
        return jax.tree.map(lambda x, y: (x + y[:, :, ::-1]) / 2, separation, mirrored)


# Variant -> the fields in which it differs from the others.
REMOVER_VARIANTS = {
    "paper": {"skips": False, "noise_head": True},
    "skip": {"skips": True, "noise_head": True},
    "dcae": {"skips": False, "noise_head": False},
    "skip_dcae": {"skips": True, "noise_head": False},
    "residual": {"skips": True, "noise_head": True, "clean_head": "residual"},
    "blend": {"skips": True, "noise_head": True, "clean_head": "blend"},
    "blend_dcae": {"skips": True, "noise_head": False, "clean_head": "blend"},
}


def make_remover(
    variant: str,
    *,
    widths: Sequence[int] = (64, 128, 256),
    mirror: bool = False,
    clean_mean: float = 0.5,
    dtype: Any = jnp.float32,
) -> Remover:
    """Builds a remover by the name of its variant.

    `paper` is as published, `skip` has skip connections, `dcae` one head (the paper's
    ablation), `skip_dcae` both; `residual` and `blend` are `skip` with such a clean
    head, `blend_dcae` is that with one head. The rest is as for `Remover`.

    Raises:
        ValueError: If the variant is unknown or a width is not positive.
    """
    known_name("remover variant", variant, sorted(REMOVER_VARIANTS))
    if np.ndim(widths) != 1 or not len(widths):
        raise ValueError(f"widths must hold one or more whole numbers: {widths!r}")
    for width in widths:
        check_whole("each of widths", width, 1)
    options = {"mirror": mirror, "clean_mean": clean_mean, "dtype": dtype}
    return Remover(tuple(widths), **REMOVER_VARIANTS[variant], **options)
