"""How Keras names the layers of its applications, and where flax has them.

A weight is called by its layer and its place in it, such as `block1_conv1/0`: what
Keras calls it behind the layer's name differs between versions, the order does not.
"""

import math
import re
from collections.abc import Iterator
from functools import partial

import numpy as np

from uronet_jax.models.alexnet_vgg import IMAGENET_VGG_BLOCKS, ImageNetVGG
from uronet_jax.models.densenet import DENSENET_121_BLOCKS, DenseNet121
from uronet_jax.models.imported import Family, Layers, WeightLayout, Weights
from uronet_jax.models.inception import InceptionV3, inception_layers
from uronet_jax.models.inputs import (
    KERAS_DENSENET,
    KERAS_INCEPTION,
    KERAS_VGG,
    MOBILENET_V1,
)
from uronet_jax.models.mobilenet import MOBILENET_V1_BLOCKS, MobileNetV1

_VGG_DEPTHS = (16, 19)


def _vggs(weights: Weights) -> Iterator[WeightLayout]:
    # Keras lays all pixels that the last pool leaves beside each other, of 32 each.
    rows = (*np.shape(weights.get("fc1/0")), 0)[0]
    parts = math.isqrt(rows // 512) or 7
    for depth in _VGG_DEPTHS:
        layers: Layers = {}
        for block, count in enumerate(IMAGENET_VGG_BLOCKS[depth], 1):
            for conv in range(1, count + 1):
                layers[f"block{block}_conv{conv}"] = (f"Conv_{len(layers)}",)
        heads = ("fc1", "fc2", "predictions")
        layers |= {x: (f"Dense_{i}",) for i, x in enumerate(heads)}
        yield WeightLayout(
            f"vgg{depth}_imagenet",
            f"Keras' VGG{depth}",
            partial(ImageNetVGG, depth, parts=parts),
            layers,
            biased=True,
            side=32 * parts if parts != 7 else None,
        )


def _mobilenets(_: Weights) -> Iterator[WeightLayout]:
    layers: Layers = {"conv1": ("Conv_0",), "conv1_bn": ("BatchNorm_0",)}
    for i in range(1, len(MOBILENET_V1_BLOCKS) + 1):
        layers |= {
            f"conv_dw_{i}": (f"DepthwiseConv_{i - 1}",),
            f"conv_dw_{i}_bn": (f"BatchNorm_{2 * i - 1}",),
            f"conv_pw_{i}": (f"Conv_{i}",),
            f"conv_pw_{i}_bn": (f"BatchNorm_{2 * i}",),
        }
    layers["conv_preds"] = ("Dense_0",)
    title = "Keras' MobileNet (alpha 1)"
    yield WeightLayout("mobilenet_v1", title, MobileNetV1, layers)


def _densenets(_: Weights) -> Iterator[WeightLayout]:
    layers: Layers = {"conv1_conv": ("Conv_0",), "conv1_bn": ("BatchNorm_0",)}
    number = 0
    for block, count in enumerate(DENSENET_121_BLOCKS, 1):
        for layer in range(1, count + 1):
            source, path = f"conv{block + 1}_block{layer}_", f"DenseLayer_{number}"
            layers |= {
                f"{source}0_bn": (path, "BatchNorm_0"),
                f"{source}1_conv": (path, "Conv_0"),
                f"{source}1_bn": (path, "BatchNorm_1"),
                f"{source}2_conv": (path, "Conv_1"),
            }
            number += 1
        if block < len(DENSENET_121_BLOCKS):
            layers[f"pool{block + 1}_bn"] = (f"BatchNorm_{block}",)
            layers[f"pool{block + 1}_conv"] = (f"Conv_{block}",)
    layers |= {"bn": ("BatchNorm_4",), "predictions": ("Dense_0",)}
    build = partial(DenseNet121, epsilon=1.001e-5)
    yield WeightLayout("densenet121", "Keras' DenseNet121", build, layers)


def _inceptions(weights: Weights) -> Iterator[WeightLayout]:
    # Its layers have no names of their own: Keras numbers them as they are made, after
    # those that other networks of the program had. The first has no number, or 1.
    layers: Layers = {}
    for kind, name in (("conv2d", "Conv_0"), ("batch_normalization", "BatchNorm_0")):
        found = (re.fullmatch(rf"{kind}(?:_(\d+))?/0", x) for x in weights)
        first = min((int(match[1] or 0) for match in found if match), default=0)
        for number, path in enumerate(inception_layers(), first):
            layers[f"{kind}_{number}" if number else kind] = (*path, name)
    layers["predictions"] = ("Dense_0",)
    build = partial(InceptionV3, border_counts=False)
    yield WeightLayout("inception_v3", "Keras' InceptionV3", build, layers)


_SOURCE = "Keras, `keras.applications`"
KERAS_FAMILIES = (
    Family(
        "VGG-16 and VGG-19",
        f"{_SOURCE}, of any square `input_shape`",
        ImageNetVGG,
        tuple(f"vgg{n}_imagenet" for n in _VGG_DEPTHS),
        KERAS_VGG,
        _vggs,
    ),
    Family(
        "MobileNet",
        f"{_SOURCE} (`alpha=1`)",
        MobileNetV1,
        ("mobilenet_v1",),
        MOBILENET_V1,
        _mobilenets,
    ),
    Family(
        "DenseNet-121",
        _SOURCE,
        DenseNet121,
        ("densenet121",),
        KERAS_DENSENET,
        _densenets,
    ),
    Family(
        "Inception V3",
        _SOURCE,
        InceptionV3,
        ("inception_v3",),
        KERAS_INCEPTION,
        _inceptions,
    ),
)
