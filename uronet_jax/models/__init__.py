"""Networks: linen modules without I/O or training.

Every classifier maps float images `[B, H, W, C]` in `[0, 1]` to float32 logits
`[B, K]`, for any C, H and W (from `module.smallest` pixels on):
`module.apply(variables, images, train=False)`. The normalisation of the pixels is
part of the module.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from uronet_jax.batches import check_whole, known_name
from uronet_jax.models.alexnet_vgg import IMAGENET_VGG_BLOCKS, AlexNet, ImageNetVGG
from uronet_jax.models.cnn import CNN, MadryCNN
from uronet_jax.models.densenet import DenseNet121
from uronet_jax.models.imagenet_resnet import (
    IMAGENET_RESNET_BLOCKS,
    ImageNetResNet,
)
from uronet_jax.models.importable import (
    KERAS_PREPROCESSING,
    PREPROCESSING,
    Importable,
    list_importable,
    preprocessing,
)
from uronet_jax.models.inception import InceptionV3
from uronet_jax.models.inputs import Preprocessing
from uronet_jax.models.layers import check_statistics
from uronet_jax.models.mobilenet import EfficientNetLite0, MobileNetV1, MobileNetV2
from uronet_jax.models.noise_generator import (
    NOISE_GENERATORS,
    NoiseGenerator,
    learned_noise,
    make_noise_generator,
)
from uronet_jax.models.reconstructor import (
    RECONSTRUCTOR_VARIANTS,
    Reconstructor,
    make_reconstructor,
)
from uronet_jax.models.remover import (
    REMOVER_VARIANTS,
    Remover,
    Separation,
    make_remover,
)
from uronet_jax.models.resnet import USUAL_DEPTHS, ResNet
from uronet_jax.models.vgg import VGG
from uronet_jax.models.wide_resnet import USUAL_SIZES, WideResNet

CLASSIFIERS: dict[str, Callable[..., nn.Module]] = {
    "cnn": CNN,
    "cnn_narrow": partial(CNN, width=8),
    "cnn_madry": MadryCNN,
    **{f"resnet{n}": partial(ResNet, n) for n in USUAL_DEPTHS},
    **{f"resnet{n}": partial(ImageNetResNet, n) for n in IMAGENET_RESNET_BLOCKS},
    "alexnet": AlexNet,
    "densenet121": DenseNet121,
    "efficientnet_lite0": EfficientNetLite0,
    "inception_v3": InceptionV3,
    "mobilenet_v1": MobileNetV1,
    "mobilenet_v2": MobileNetV2,
    **{f"vgg{n}_imagenet": partial(ImageNetVGG, n) for n in IMAGENET_VGG_BLOCKS},
    **{
        f"vgg{n}_bn_imagenet": partial(ImageNetVGG, n, True)
        for n in IMAGENET_VGG_BLOCKS
    },
    "vgg11": partial(VGG, 11),
    "vgg11_narrow": partial(VGG, 11, narrow=4),
    "vgg16": partial(VGG, 16),
    **{f"wrn{n}_{width}": partial(WideResNet, n, width) for n, width in USUAL_SIZES},
}

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def make_classifier(
    name: str,
    num_classes: int,
    *,
    mean: Sequence[float] = (0.0,),
    std: Sequence[float] = (1.0,),
    dtype: Any = jnp.float32,
) -> nn.Module:
    """Builds a classifier by name.

    Args:
        name: A key of `CLASSIFIERS`.
        num_classes: Size of the logits, at least 2.
        mean: Pixel mean, one value or one per channel, in units of `[0, 1]`.
        std: Pixel standard deviation, likewise.
        dtype: Computation type; parameters and logits are float32.

    Raises:
        ValueError: If the name is unknown, there are fewer than two classes, or a
            statistic is none of pixels in `[0, 1]`.
    """
    known_name("classifier", name, sorted(CLASSIFIERS))
    check_whole("num_classes", num_classes, 2)
    check_statistics(mean, std)
    return CLASSIFIERS[name](
        num_classes=num_classes, mean=tuple(mean), std=tuple(std), dtype=dtype
    )


def compute_dtype(name: str) -> Any:
    """Returns the computation type called `float32` or `bfloat16`."""
    return DTYPES[known_name("dtype", name, DTYPES)]


__all__ = [
    "AlexNet",
    "CLASSIFIERS",
    "CNN",
    "DTYPES",
    "DenseNet121",
    "EfficientNetLite0",
    "ImageNetResNet",
    "ImageNetVGG",
    "Importable",
    "InceptionV3",
    "KERAS_PREPROCESSING",
    "MadryCNN",
    "MobileNetV1",
    "MobileNetV2",
    "NOISE_GENERATORS",
    "NoiseGenerator",
    "PREPROCESSING",
    "Preprocessing",
    "RECONSTRUCTOR_VARIANTS",
    "REMOVER_VARIANTS",
    "Reconstructor",
    "Remover",
    "ResNet",
    "Separation",
    "VGG",
    "WideResNet",
    "compute_dtype",
    "learned_noise",
    "list_importable",
    "make_classifier",
    "make_noise_generator",
    "make_reconstructor",
    "make_remover",
    "preprocessing",
]
