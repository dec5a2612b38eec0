"""Weights from PyTorch: CIFAR ResNets with option-A shortcuts.

The layout is that of `akamaster/pytorch_resnet_cifar10`: `conv1`, `bn1`,
`layer{1,2,3}.{block}.conv{1,2}`, `.bn{1,2}`, `linear`.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

# Networks of other libraries, and what their weights begin with.
_OTHER_FAMILIES = {
    "torchvision's or timm's ResNet": ("conv1", "layer4", "fc"),
    "torchvision's VGG or AlexNet": ("features", "classifier"),
    "a vision transformer": ("patch_embed", "blocks"),
    "torchvision's vision transformer": ("conv_proj", "encoder"),
    "a Wide-ResNet of RobustBench": ("conv1", "block1", "fc"),
}


def resnet_variables(weights: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Converts the weights of a CIFAR ResNet to variables of `models.ResNet`.

    Args:
        weights: PyTorch's names -> arrays; convolutions `[O, I, rows, columns]`, the
            dense layer `[O, I]`. A leading `module.` of a name is ignored, and so is
            `num_batches_tracked`.

    Returns:
        `{"params", "batch_stats"}` of float32 arrays.

    Raises:
        ValueError: If a weight is missing, left over or has another number of axes.
    """
    weights = {
        name.removeprefix("module."): np.asarray(value, np.float32)
        for name, value in weights.items()
        if not name.endswith("num_batches_tracked")
    }
    _check_family(weights)
    params: dict[str, Any] = {}
    stats: dict[str, Any] = {}

    def take(name: str, axes: int = 1) -> np.ndarray:
        if name not in weights:
            raise ValueError(
                f"weight {name!r} is missing: expected a CIFAR ResNet with names "
                "like conv1.weight, layer1.0.bn2.running_var, linear.bias"
            )
        if weights[name].ndim != axes:
            raise ValueError(
                f"weight {name!r} has shape {weights[name].shape}: expected {axes} axes"
            )
        return weights.pop(name)

    def convert(source: str, number: int, conv: str, norm: str, block: str | None):
        inner, inner_stats = params, stats
        if block is not None:
            inner = params.setdefault(block, {})
            inner_stats = stats.setdefault(block, {})
        kernel = take(f"{source}{conv}.weight", 4).transpose(2, 3, 1, 0)
        inner[f"Conv_{number}"] = {"kernel": kernel}
        inner[f"BatchNorm_{number}"] = {
            "scale": take(f"{source}{norm}.weight"),
            "bias": take(f"{source}{norm}.bias"),
        }
        inner_stats[f"BatchNorm_{number}"] = {
            "mean": take(f"{source}{norm}.running_mean"),
            "var": take(f"{source}{norm}.running_var"),
        }

    convert("", 0, "conv1", "bn1", None)
    for number, (layer, block) in enumerate(sorted(_blocks(weights))):
        for i in (0, 1):
            source = f"layer{layer}.{block}."
            convert(source, i, f"conv{i + 1}", f"bn{i + 1}", f"BasicBlock_{number}")
    params["Dense_0"] = {
        "kernel": take("linear.weight", 2).T,
        "bias": take("linear.bias"),
    }
    if weights:
        raise ValueError(f"weights left over: {', '.join(sorted(weights)[:5])}")
    return {"params": params, "batch_stats": stats}


def _check_family(weights: Mapping[str, np.ndarray]) -> None:
    """Raises ValueError for well-known networks that are none of these."""
    prefixes = {name.split(".")[0] for name in weights}
    for family, marks in _OTHER_FAMILIES.items():
        if set(marks) <= prefixes:
            raise ValueError(
                f"these are weights of {family} (they have "
                f"{', '.join(f'{mark}.*' for mark in marks)}), which is not supported "
                "yet: pass the network itself as a function, see make_defense"
            )


def resnet_depth(weights: Mapping[str, np.ndarray]) -> int:
    """Returns the depth of the CIFAR ResNet that `weights` belong to."""
    return 2 * len(_blocks(weights)) + 2


def _blocks(weights: Mapping[str, np.ndarray]) -> set[tuple[int, int]]:
    """Returns layer and number of each block."""
    found = (re.match(r"(?:module\.)?layer(\d+)\.(\d+)\.", name) for name in weights)
    return {(int(match[1]), int(match[2])) for match in found if match}
