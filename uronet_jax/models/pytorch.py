"""Networks from PyTorch's weights, recognised by the names and shapes of the weights.

- ResNet-18 to ResNet-152 as torchvision and timm name them: `conv1`, `bn1`,
  `layer{1..4}.{block}.conv{1..3}`, `.bn{1..3}`, `.downsample.{0,1}`, `fc`.
- CIFAR ResNets with option-A shortcuts, as in `akamaster/pytorch_resnet_cifar10`:
  `conv1`, `bn1`, `layer{1,2,3}.{block}.conv{1,2}`, `.bn{1,2}`, `linear`.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from uronet_jax.models.imagenet_resnet import IMAGENET_RESNET_BLOCKS, ImageNetResNet
from uronet_jax.models.resnet import ResNet

# Networks of other libraries, and what their weights begin with.
_OTHER_FAMILIES = {
    "torchvision's VGG or AlexNet": ("features", "classifier"),
    "a vision transformer": ("patch_embed", "blocks"),
    "torchvision's vision transformer": ("conv_proj", "encoder"),
    "a Wide-ResNet of RobustBench": ("conv1", "block1", "fc"),
}
# What wrappers and checkpoints put before the names.
_PREFIXES = re.compile(r"^(?:(?:module|model|net|state_dict|_orig_mod)\.)+")
_BLOCK = re.compile(r"layer\d+\.\d+\.")
# Kind of a layer -> PyTorch's names -> where flax has them, and the order of the axes.
_TENSORS = {
    "Conv": {"weight": ("params", "kernel", (2, 3, 1, 0))},
    "Dense": {
        "weight": ("params", "kernel", (1, 0)),
        "bias": ("params", "bias", (0,)),
    },
    "BatchNorm": {
        "weight": ("params", "scale", (0,)),
        "bias": ("params", "bias", (0,)),
        "running_mean": ("batch_stats", "mean", (0,)),
        "running_var": ("batch_stats", "var", (0,)),
    },
}


class PyTorchNetwork(NamedTuple):
    """A network whose weights were PyTorch's.

    Attributes:
        name: What `CLASSIFIERS` calls it, such as `resnet50`.
        module: The Flax module.
        variables: `{"params", "batch_stats"}` of float32 arrays.
        image_shape: `(H, W, C)` of the images that such networks usually see.
        any_size: Whether there is no reason to expect just this height and width.
    """

    name: str
    module: nn.Module
    variables: dict[str, Any]
    image_shape: tuple[int, int, int]
    any_size: bool


class _Layout(NamedTuple):
    """A network and its layers: PyTorch's name of each -> names of flax."""

    name: str
    title: str
    build: Callable[..., nn.Module]
    layers: dict[str, tuple[str, ...]]
    image_shape: tuple[int, int, int]
    any_size: bool

    def tensors(self) -> dict[str, tuple[tuple[str, ...], tuple[int, ...]]]:
        """Returns PyTorch's name of each weight -> path in flax, order of the axes."""
        return {
            f"{source}.{name}": ((collection, *path, leaf), axes)
            for source, path in self.layers.items()
            for name, (collection, leaf, axes) in _TENSORS[
                path[-1].partition("_")[0]
            ].items()
        }


def network_from_pytorch(
    weights: Mapping[str, np.ndarray],
    *,
    mean: Sequence[float] = (0.0,),
    std: Sequence[float] = (1.0,),
) -> PyTorchNetwork:
    """Recognises a network by its weights and converts them.

    Args:
        weights: PyTorch's names -> arrays; convolutions `[O, I, rows, columns]`, the
            dense layer `[O, I]`. Leading `module.`, `model.`, `net.`, `state_dict.` of
            names are ignored, and so is `num_batches_tracked`.
        mean: Pixel mean that the network subtracts, see `make_classifier`.
        std: Pixel deviation that it divides by.

    Raises:
        ValueError: If they are of none of these networks. It names the nearest one and
            the first weights that are missing, left over or of another shape.
    """
    weights = _plain_names(weights)
    _check_family(weights)
    layout = max(_layouts(weights), key=partial(_likeness, weights))
    *_, head = layout.layers
    classes = np.size(weights.get(f"{head}.bias", ())) or 10
    module = layout.build(num_classes=classes, mean=tuple(mean), std=tuple(std))
    images = jax.ShapeDtypeStruct((1, *layout.image_shape), jnp.float32)
    like = jax.eval_shape(module.init, jax.random.key(0), images)
    tensors = layout.tensors()
    _check_fit(weights, layout.title, _pytorch_shapes(tensors, like))
    variables: dict[str, Any] = {}
    for name, (path, axes) in tensors.items():
        inner = variables
        for part in path[:-1]:
            inner = inner.setdefault(part, {})
        inner[path[-1]] = np.asarray(weights[name], np.float32).transpose(axes)
    return PyTorchNetwork(
        layout.name, module, variables, layout.image_shape, layout.any_size
    )


def _plain_names(weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the weights under their names in the network itself."""
    plain: dict[str, np.ndarray] = {}
    for name, value in weights.items():
        short = _PREFIXES.sub("", name)
        if short in plain:
            raise ValueError(
                f"two weights are called {short!r}, with other prefixes: keep the "
                "network that is meant"
            )
        if not short.endswith("num_batches_tracked"):
            plain[short] = value
    return plain


def _check_family(weights: Mapping[str, np.ndarray]) -> None:
    """Raises ValueError for well-known networks that are none of these."""
    prefixes = {name.split(".")[0] for name in weights}
    for family, marks in _OTHER_FAMILIES.items():
        if set(marks) <= prefixes:
            raise ValueError(
                f"these are weights of {family} (they have "
                f"{', '.join(f'{mark}.*' for mark in marks)}), which is not supported "
                "yet: pass the network itself as a function, see make_defense and "
                "adapters.pytorch_classifier"
            )


def _layouts(weights: Mapping[str, np.ndarray]) -> Iterator[_Layout]:
    """Returns the networks that these weights could be of."""
    for depth, blocks in IMAGENET_RESNET_BLOCKS.items():
        yield _Layout(
            f"resnet{depth}",
            f"torchvision's resnet{depth}",
            partial(ImageNetResNet, depth),
            _imagenet_resnet(blocks, bottleneck=depth >= 50),
            (224, 224, 3),
            True,
        )
    found = {tuple(name.split(".")[:2]) for name in weights if _BLOCK.match(name)}
    groups = [group for group, _ in found]
    blocks = max(map(groups.count, groups), default=1)
    yield _Layout(
        f"resnet{6 * blocks + 2}",
        f"resnet{6 * blocks + 2} for CIFAR-10 (akamaster/pytorch_resnet_cifar10)",
        partial(ResNet, 6 * blocks + 2),
        _cifar_resnet(blocks),
        (32, 32, 3),
        False,
    )


def _imagenet_resnet(blocks: Sequence[int], bottleneck: bool) -> dict:
    layers = {"conv1": ("Conv_0",), "bn1": ("BatchNorm_0",)}
    number, depth = 0, 3 if bottleneck else 2
    for group, count in enumerate(blocks):
        for block in range(count):
            source, name = f"layer{group + 1}.{block}.", f"ResidualBlock_{number}"
            for i in range(depth):
                layers[f"{source}conv{i + 1}"] = (name, f"Conv_{i}")
                layers[f"{source}bn{i + 1}"] = (name, f"BatchNorm_{i}")
            if block == 0 and (group > 0 or bottleneck):
                layers[f"{source}downsample.0"] = (name, f"Conv_{depth}")
                layers[f"{source}downsample.1"] = (name, f"BatchNorm_{depth}")
            number += 1
    return {**layers, "fc": ("Dense_0",)}


def _cifar_resnet(blocks: int) -> dict:
    layers = {"conv1": ("Conv_0",), "bn1": ("BatchNorm_0",)}
    for number in range(3 * blocks):
        source = f"layer{number // blocks + 1}.{number % blocks}."
        name = f"BasicBlock_{number}"
        for i in (0, 1):
            layers[f"{source}conv{i + 1}"] = (name, f"Conv_{i}")
            layers[f"{source}bn{i + 1}"] = (name, f"BatchNorm_{i}")
    return {**layers, "linear": ("Dense_0",)}


def _likeness(weights: Mapping[str, np.ndarray], layout: _Layout) -> float:
    """Returns the share of names, of both, that both have."""
    names = layout.tensors().keys()
    return len(names & weights.keys()) / len(names | weights.keys())


def _pytorch_shapes(tensors: dict, like: Any) -> dict[str, tuple[int, ...]]:
    """Returns the shape that each weight must have in PyTorch."""
    shapes = {}
    for name, (path, axes) in tensors.items():
        leaf = like
        for part in path:
            leaf = leaf[part]
        shapes[name] = tuple(leaf.shape[axes.index(i)] for i in range(len(axes)))
    return shapes


def _check_fit(
    weights: Mapping[str, np.ndarray], title: str, shapes: dict[str, tuple[int, ...]]
) -> None:
    """Raises ValueError that says what is wrong with weights."""

    def listed(names):
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        return ", ".join(names[:3]) + more

    missing = [name for name in shapes if name not in weights]
    others = [name for name in weights if name not in shapes]
    differing = [
        f"{name} has shape {np.shape(weights[name])}, expected {shape}"
        for name, shape in shapes.items()
        if name in weights and np.shape(weights[name]) != shape
    ]
    found = (("missing: ", missing), ("left over: ", others), ("", differing))
    problems = [f"{text}{listed(names)}" for text, names in found if names]
    if problems:
        raise ValueError(
            f"these weights are of no network that is known here. The nearest is "
            f"{title}; {'; '.join(problems)}. Networks that are known: CIFAR ResNets; "
            f"ResNet-{', -'.join(map(str, IMAGENET_RESNET_BLOCKS))} of torchvision. "
            "Any other may be passed as a function, see make_defense"
        )
