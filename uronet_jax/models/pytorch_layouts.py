"""How PyTorch names the layers of each network, and where flax has them.

A family is a function from weights to the layouts that they could have, and a line in
`FAMILIES`. Most have a few fixed layouts and do not look at the weights.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from flax import linen as nn

from uronet_jax.models.alexnet_vgg import IMAGENET_VGG_BLOCKS, AlexNet, ImageNetVGG
from uronet_jax.models.densenet import DENSENET_121_BLOCKS, DenseNet121
from uronet_jax.models.imagenet_resnet import IMAGENET_RESNET_BLOCKS, ImageNetResNet
from uronet_jax.models.imported import Family, Layers, WeightLayout, Weights
from uronet_jax.models.inception import InceptionV3, inception_layers
from uronet_jax.models.inputs import (
    CIFAR_RESNET,
    EFFICIENTNET_LITE,
    INCEPTION,
    TORCHVISION,
    WIDE_RESNET,
)
from uronet_jax.models.mobilenet import EfficientNetLite0, MobileNetV2
from uronet_jax.models.resnet import USUAL_DEPTHS, ResNet
from uronet_jax.models.wide_resnet import USUAL_SIZES, WideResNet

# PyTorch's names of a convolution and the batch norm behind it, or before it.
ConvAndNorm = tuple[str, str]

_WIDE_BLOCK = {
    "bn1": "BatchNorm_0",
    "conv1": "Conv_0",
    "bn2": "BatchNorm_1",
    "conv2": "Conv_1",
}


def _photographs(
    name: str, maker: str, build: Callable[..., nn.Module], layers: Layers, **options
) -> WeightLayout:
    """Returns the layout of a network for photographs."""
    title = f"{maker}'s {name.removesuffix('_imagenet')}"
    return WeightLayout(name, title, build, layers, **options)


def _conv_norms(names: Sequence[ConvAndNorm], *path: str, convs: str = "") -> Layers:
    """Returns pairs of convolution and batch norm as flax numbers them.

    Args:
        names: PyTorch's names of each pair.
        path: Of the flax module that they are in.
        convs: For each pair D if the convolution is a depthwise one, by default none.
    """
    layers, counts = {}, {"Conv": 0, "DepthwiseConv": 0}
    for number, (conv, norm) in enumerate(names):
        kind = "DepthwiseConv" if convs[number : number + 1] == "D" else "Conv"
        layers[conv] = (*path, f"{kind}_{counts[kind]}")
        layers[norm] = (*path, f"BatchNorm_{number}")
        counts[kind] += 1
    return layers


# ResNets


def _imagenet_resnets(_: Weights) -> Iterator[WeightLayout]:
    for depth, blocks in IMAGENET_RESNET_BLOCKS.items():
        build = partial(ImageNetResNet, depth)
        layers = _imagenet_resnet(blocks, bottleneck=depth >= 50)
        yield _photographs(f"resnet{depth}", "torchvision", build, layers)


def _imagenet_resnet(blocks: Sequence[int], bottleneck: bool) -> Layers:
    layers = _conv_norms([("conv1", "bn1")])
    number, depth = 0, 3 if bottleneck else 2
    for group, count in enumerate(blocks):
        for block in range(count):
            source = f"layer{group + 1}.{block}."
            numbers = range(1, depth + 1)
            names = [(f"{source}conv{i}", f"{source}bn{i}") for i in numbers]
            if block == 0 and (group > 0 or bottleneck):
                names += [(f"{source}downsample.0", f"{source}downsample.1")]
            layers |= _conv_norms(names, f"ResidualBlock_{number}")
            number += 1
    return {**layers, "fc": ("Dense_0",)}


def _blocks_of(weights: Weights, pattern: str) -> int:
    """Returns how many blocks the group with most has; `pattern` finds the group."""
    found = {match[0] for match in map(re.compile(pattern).match, weights) if match}
    groups = [re.match(pattern, block)[1] for block in found]
    return max(map(groups.count, groups), default=1)


def _cifar_resnets(weights: Weights) -> Iterator[WeightLayout]:
    blocks = _blocks_of(weights, r"(layer\d+)\.\d+\.")
    layers = _conv_norms([("conv1", "bn1")])
    for number in range(3 * blocks):
        source = f"layer{number // blocks + 1}.{number % blocks}."
        names = [(f"{source}conv{i}", f"{source}bn{i}") for i in (1, 2)]
        layers |= _conv_norms(names, f"BasicBlock_{number}")
    depth = 6 * blocks + 2
    yield WeightLayout(
        f"resnet{depth}",
        f"resnet{depth} for CIFAR-10 (akamaster/pytorch_resnet_cifar10)",
        partial(ResNet, depth),
        {**layers, "linear": ("Dense_0",)},
    )


def _wide_resnets(weights: Weights) -> Iterator[WeightLayout]:
    blocks = _blocks_of(weights, r"(block\d+)\.layer\.\d+\.")
    first = weights.get("block1.layer.0.conv1.weight", np.zeros(16))
    width = max(1, len(np.atleast_1d(first)) // 16)  # It has 16 filters for each.
    layers: Layers = {"conv1": ("Conv_0",)}
    for number in range(3 * blocks):
        source = f"block{number // blocks + 1}.layer.{number % blocks}."
        path = f"WideBlock_{number}"
        layers |= {f"{source}{x}": (path, y) for x, y in _WIDE_BLOCK.items()}
        if number % blocks == 0 and (number > 0 or width > 1):
            layers[f"{source}convShortcut"] = (path, "shortcut")
    depth = 6 * blocks + 4
    yield WeightLayout(
        f"wrn{depth}_{width}",
        f"WRN-{depth}-{width} (RobustBench, AugMix)",
        partial(WideResNet, depth, width),
        {**layers, "bn1": ("BatchNorm_0",), "fc": ("Dense_0",)},
        ignored=("sub_block1.",),  # RobustBench has it and does not use it.
    )


# Dense heads


def _dense_head(*names: str) -> Layers:
    return {f"classifier.{x}": (f"Dense_{i}",) for i, x in enumerate(names)}


def _alexnet(_: Weights) -> Iterator[WeightLayout]:
    convs = {f"features.{x}": (f"Conv_{i}",) for i, x in enumerate((0, 3, 6, 8, 10))}
    layers = {**convs, **_dense_head("1", "4", "6")}
    yield _photographs("alexnet", "torchvision", AlexNet, layers, biased=True)


def _vggs(_: Weights) -> Iterator[WeightLayout]:
    for depth, blocks in IMAGENET_VGG_BLOCKS.items():
        for norm in (False, True):
            layers, place, number = {}, 0, 0
            for count in blocks:
                for _ in range(count):
                    layers[f"features.{place}"] = (f"Conv_{number}",)
                    if norm:
                        layers[f"features.{place + 1}"] = (f"BatchNorm_{number}",)
                    place, number = place + 2 + norm, number + 1
                place += 1
            name = f"vgg{depth}{'_bn' if norm else ''}_imagenet"
            build = partial(ImageNetVGG, depth, norm)
            layers |= _dense_head("0", "3", "6")
            yield _photographs(name, "torchvision", build, layers, biased=True)


# Networks of many blocks


def _densenets(_: Weights) -> Iterator[WeightLayout]:
    layers = _conv_norms([("features.conv0", "features.norm0")])
    number = 0
    for block, count in enumerate(DENSENET_121_BLOCKS, 1):
        for layer in range(1, count + 1):
            source = f"features.denseblock{block}.denselayer{layer}."
            names = [(f"{source}conv{i}", f"{source}norm{i}") for i in (1, 2)]
            layers |= _conv_norms(names, f"DenseLayer_{number}")
            number += 1
        if block < len(DENSENET_121_BLOCKS):
            layers[f"features.transition{block}.norm"] = (f"BatchNorm_{block}",)
            layers[f"features.transition{block}.conv"] = (f"Conv_{block}",)
    layers |= {"features.norm5": ("BatchNorm_4",), "classifier": ("Dense_0",)}
    yield _photographs("densenet121", "torchvision", DenseNet121, layers)


def _inceptions(_: Weights) -> Iterator[WeightLayout]:
    layers: Layers = {}
    for path in inception_layers():
        source = ".".join(path)
        layers[f"{source}.conv"] = (*path, "Conv_0")
        layers[f"{source}.bn"] = (*path, "BatchNorm_0")
    layers |= {"fc": ("Dense_0",)}
    ignored = ("AuxLogits.",)
    yield _photographs(
        "inception_v3", "torchvision", InceptionV3, layers, ignored=ignored
    )


class _MobileNames(NamedTuple):
    """How a library names the parts of a network of inverted residuals.

    Attributes:
        maker: The library.
        stem: Convolution and batch norm.
        blocks: Stage, place in it, and place in the network, all from 0 on, and whether
            it widens first -> pairs of convolution and batch norm.
        last: Convolution and batch norm behind the blocks.
        head: The dense layer.
    """

    maker: str
    stem: ConvAndNorm
    blocks: Callable[[int, int, int, bool], list[ConvAndNorm]]
    last: ConvAndNorm
    head: str


def _torchvision_block(_stage, _place, number, widens):
    source = f"features.{number + 1}.conv."
    parts = [(f"{source}{i}.0", f"{source}{i}.1") for i in range(1 + widens)]
    return [*parts, (f"{source}{1 + widens}", f"{source}{2 + widens}")]


def _timm_block(stage, place, _number, widens):
    source = f"blocks.{stage}.{place}."
    convs = ("conv_pw", "conv_dw", "conv_pwl") if widens else ("conv_dw", "conv_pw")
    return [(f"{source}{x}", f"{source}bn{i}") for i, x in enumerate(convs, 1)]


def _lite_block(_stage, _place, number, widens):
    source = f"_blocks.{number}."
    convs = ("_expand_conv", "_depthwise_conv", "_project_conv")
    pairs = [(f"{source}{x}", f"{source}_bn{i}") for i, x in enumerate(convs)]
    return pairs if widens else pairs[1:]


_TORCHVISION_NAMES = _MobileNames(
    "torchvision",
    ("features.0.0", "features.0.1"),
    _torchvision_block,
    ("features.18.0", "features.18.1"),
    "classifier.1",
)
_TIMM_NAMES = _MobileNames(
    "timm",
    ("conv_stem", "bn1"),
    _timm_block,
    ("conv_head", "bn2"),
    "classifier",
)
_LITE_NAMES = _MobileNames(
    "efficientnet_lite_pytorch",
    ("_conv_stem", "_bn0"),
    _lite_block,
    ("_conv_head", "_bn1"),
    "_fc",
)


def _inverted_residuals(
    name: str, network: type[MobileNetV2], names: _MobileNames, **options
) -> WeightLayout:
    layers, number = _conv_norms([names.stem, names.last]), 0
    for i, stage in enumerate(network.stages):
        for place in range(stage.count):
            widens = stage.expansion != 1
            pairs = names.blocks(i, place, number, widens)
            convs = "CDC" if widens else "DC"
            layers |= _conv_norms(pairs, f"InvertedResidual_{number}", convs=convs)
            number += 1
    layers[names.head] = ("Dense_0",)
    return _photographs(name, names.maker, network, layers, **options)


def _mobilenets(_: Weights) -> Iterator[WeightLayout]:
    for names in (_TORCHVISION_NAMES, _TIMM_NAMES):
        yield _inverted_residuals("mobilenet_v2", MobileNetV2, names)


def _efficientnets(_: Weights) -> Iterator[WeightLayout]:
    name = "efficientnet_lite0"
    yield _inverted_residuals(name, EfficientNetLite0, _LITE_NAMES)
    twins = "its two, padded differently, have the same names"
    yield _inverted_residuals(name, EfficientNetLite0, _TIMM_NAMES, ambiguous=twins)


FAMILIES = (
    Family(
        "ResNets for photographs",
        "torchvision, timm",
        ImageNetResNet,
        tuple(f"resnet{n}" for n in IMAGENET_RESNET_BLOCKS),
        TORCHVISION,
        _imagenet_resnets,
    ),
    Family(
        "VGG, with batch norm or without",
        "torchvision",
        ImageNetVGG,
        tuple(f"vgg{n}{x}_imagenet" for n in IMAGENET_VGG_BLOCKS for x in ("", "_bn")),
        TORCHVISION,
        _vggs,
    ),
    Family("AlexNet", "torchvision", AlexNet, ("alexnet",), TORCHVISION, _alexnet),
    Family(
        "DenseNet-121",
        "torchvision, timm",
        DenseNet121,
        ("densenet121",),
        TORCHVISION,
        _densenets,
    ),
    Family(
        "Inception V3",
        "torchvision, timm; `AuxLogits` is left out",
        InceptionV3,
        ("inception_v3",),
        INCEPTION,
        _inceptions,
    ),
    Family(
        "MobileNet-V2",
        "torchvision, timm (`mobilenetv2_100`)",
        MobileNetV2,
        ("mobilenet_v2",),
        TORCHVISION,
        _mobilenets,
    ),
    Family(
        "EfficientNet-Lite0",
        "efficientnet_lite_pytorch",
        EfficientNetLite0,
        ("efficientnet_lite0",),
        EFFICIENTNET_LITE,
        _efficientnets,
    ),
    Family(
        "CIFAR ResNets of any depth",
        CIFAR_RESNET.source,
        ResNet,
        tuple(f"resnet{n}" for n in USUAL_DEPTHS),
        CIFAR_RESNET,
        _cifar_resnets,
        any_size=False,
    ),
    Family(
        "Wide ResNets of any size",
        "RobustBench, AugMix",
        WideResNet,
        tuple(f"wrn{depth}_{width}" for depth, width in USUAL_SIZES),
        WIDE_RESNET,
        _wide_resnets,
        any_size=False,
    ),
)
