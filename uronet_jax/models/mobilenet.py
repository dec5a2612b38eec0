"""Networks of depthwise convolutions: MobileNet (1 and 2) and EfficientNet-Lite0.

None has dropout, nor drops blocks while it trains, as their authors' programs do.
"""

from functools import partial
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from uronet_jax.models import layers
from uronet_jax.models.depthwise import DepthwiseConv

# Filters and stride of each block of MobileNet.
MOBILENET_V1_BLOCKS = (
    *((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)),
    *[(512, 1)] * 5,
    *((1024, 2), (1024, 1)),
)


class MobileNetV1(layers.Classifier):
    """MobileNet (Howard et al., 2017) of full width, as Keras has it (alpha 1).

    A stride-2 depthwise convolution is padded behind alone, whatever the size.
    """

    smallest: ClassVar[int] = 32

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        """Returns logits `[B, num_classes]` of images `[B, H, W, C]` in `[0, 1]`."""

        def norm(x):
            x = layers.batch_norm(x, train=train, dtype=self.dtype, epsilon=1e-3)
            return nn.relu6(x)

        conv = partial(layers.Conv, use_bias=False, dtype=self.dtype)
        x = self.normalized(images)
        x = norm(conv(32, strides=2, padding="same")(x))
        for features, strides in MOBILENET_V1_BLOCKS:
            padding = "half" if strides == 1 else ((0, 1), (0, 1))
            x = norm(DepthwiseConv(3, strides, padding, self.dtype)(x))
            x = norm(conv(features, size=1)(x))
        return self.logits(x)


class MobileStage(NamedTuple):
    """Blocks in a row: the first has the stride, and may change the filters.

    Attributes:
        expansion: How many times wider a block is inside.
        features: Filters that it gives.
        count: Number of blocks.
        strides: Step of the first one along height and width.
        size: Kernel side of the depthwise convolutions.
    """

    expansion: int
    features: int
    count: int
    strides: int
    size: int = 3


class InvertedResidual(nn.Module):
    """A 1x1 convolution to more channels, a depthwise one, a 1x1 one to few.

    Attributes:
        stage: What it is of.
        strides: Step along height and width.
        padding: Of the depthwise convolution, see `layers.find_padding`.
        epsilon: Of the batch norms.
        dtype: Computation type.
    """

    stage: MobileStage
    strides: int
    padding: str
    epsilon: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Maps `[B, H, W, I]` to `[B, H / strides, W / strides, features]`."""
        norm = partial(
            layers.batch_norm, train=train, dtype=self.dtype, epsilon=self.epsilon
        )
        conv = partial(layers.Conv, size=1, use_bias=False, dtype=self.dtype)
        depthwise = DepthwiseConv(
            self.stage.size, self.strides, self.padding, self.dtype
        )
        inputs, y = x.shape[-1], x
        if self.stage.expansion != 1:
            y = nn.relu6(norm(conv(self.stage.expansion * inputs)(y)))
        y = nn.relu6(norm(depthwise(y)))
        y = norm(conv(self.stage.features)(y))
        same = self.strides == 1 and inputs == self.stage.features
        return x + y if same else y


class MobileNetV2(layers.Classifier):
    """MobileNet-V2 (Sandler et al., CVPR 2018) of full width, as torchvision has it."""

    stages: ClassVar[tuple[MobileStage, ...]] = (
        MobileStage(1, 16, 1, 1),
        MobileStage(6, 24, 2, 2),
        MobileStage(6, 32, 3, 2),
        MobileStage(6, 64, 4, 2),
        MobileStage(6, 96, 3, 1),
        MobileStage(6, 160, 3, 2),
        MobileStage(6, 320, 1, 1),
    )
    padding: ClassVar[str] = "half"
    epsilon: ClassVar[float] = 1e-5

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        """Returns logits `[B, num_classes]` of images `[B, H, W, C]` in `[0, 1]`."""
        norm = partial(
            layers.batch_norm, train=train, dtype=self.dtype, epsilon=self.epsilon
        )
        conv = partial(layers.Conv, use_bias=False, dtype=self.dtype)
        options = self.padding, self.epsilon, self.dtype
        x = self.normalized(images)
        x = nn.relu6(norm(conv(32, strides=2, padding=self.padding)(x)))
        for stage in self.stages:
            for block in range(stage.count):
                strides = stage.strides if block == 0 else 1
                x = InvertedResidual(stage, strides, *options)(x, train=train)
        return self.logits(nn.relu6(norm(conv(1280, size=1)(x))))


class EfficientNetLite0(MobileNetV2):
    """EfficientNet-Lite0 (Liu, 2020; Tan & Le, ICML 2019), padded as TensorFlow does.

    EfficientNet-B0 without squeeze and excitation, with clipped rectifiers.
    """

    stages: ClassVar[tuple[MobileStage, ...]] = (
        MobileStage(1, 16, 1, 1),
        MobileStage(6, 24, 2, 2),
        MobileStage(6, 40, 2, 2, 5),
        MobileStage(6, 80, 3, 2),
        MobileStage(6, 112, 3, 1, 5),
        MobileStage(6, 192, 4, 2, 5),
        MobileStage(6, 320, 1, 1),
    )
    padding: ClassVar[str] = "same"
    epsilon: ClassVar[float] = 1e-3
