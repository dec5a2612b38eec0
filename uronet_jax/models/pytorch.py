"""Networks from PyTorch's weights, recognised by the names and shapes of the weights.

`pytorch_layouts.FAMILIES` says which there are, and what their layers are called.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from uronet_jax.models.layers import check_statistics
from uronet_jax.models.pytorch_layouts import FAMILIES, WeightLayout

# Networks of other libraries, and what their weights begin with.
_OTHER_FAMILIES = {
    "a vision transformer": ("patch_embed.", "blocks."),
    "torchvision's vision transformer": ("conv_proj.", "encoder."),
    "timm's VGG, whose hidden layers are convolutions": ("features.", "pre_logits."),
    # MobileNet-V3 has no second norm, MnasNet another first block.
    "timm's EfficientNet": ("conv_stem.", "blocks.0.0.se.", "bn2."),
}
# What networks of RobustBench that normalise call mean and deviation.
_STATISTICS = ("mu", "sigma")
# What wrappers and checkpoints put before the names.
_PREFIXES = re.compile(r"^(?:(?:module|model|net|state_dict|_orig_mod)\.)+")
# The file that torchvision downloads for a DenseNet has names that it had once.
_OLD_NAMES = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12])(?=\.)")
# Kind of a layer -> PyTorch's names -> where flax has them, and the order of the axes.
_KERNEL = {"weight": ("params", "kernel", (2, 3, 1, 0))}
_BIAS = {"bias": ("params", "bias", (0,))}
_TENSORS = {
    **dict.fromkeys(("Conv", "DepthwiseConv", "shortcut"), _KERNEL),
    "Dense": {"weight": ("params", "kernel", (1, 0)), **_BIAS},
    "BatchNorm": {
        "weight": ("params", "scale", (0,)),
        **_BIAS,
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
        statistics: `mean` and `std` if they are not those of its published weights.
    """

    name: str
    module: nn.Module
    variables: dict[str, Any]
    image_shape: tuple[int, int, int]
    any_size: bool
    statistics: dict[str, list[float]]


def _tensors(
    layout: WeightLayout,
) -> dict[str, tuple[tuple[str, ...], tuple[int, ...]]]:
    """Returns PyTorch's name of each weight -> path in flax, order of the axes."""
    tensors = {}
    for source, path in layout.layers.items():
        kind = path[-1].partition("_")[0]
        found = _TENSORS[kind] | (_BIAS if kind == "Conv" and layout.biased else {})
        for name, (collection, leaf, axes) in found.items():
            tensors[f"{source}.{name}"] = (collection, *path, leaf), axes
    return tensors


def network_from_pytorch(
    weights: Mapping[str, np.ndarray],
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> PyTorchNetwork:
    """Recognises a network by its weights and converts them.

    Args:
        weights: PyTorch's names -> arrays; convolutions `[O, I, rows, columns]`, the
            dense layer `[O, I]`. Leading `module.`, `model.`, `net.`, `state_dict.` of
            names are ignored, and so is `num_batches_tracked`.
        mean: Pixel mean that the network subtracts, see `make_classifier`; by default
            `mu` among the weights if `sigma` is there too, else that of its published
            weights, see `preprocessing`.
        std: Pixel deviation that it divides by, likewise.

    Raises:
        ValueError: If they are of none of these networks. It names the nearest one and
            the first weights that are missing, left over or of another shape. Or if
            mean or std are none of pixels in `[0, 1]`.
    """
    weights = _plain_names(weights)
    own = None
    if weights.keys() >= set(_STATISTICS):
        own = [tuple(np.ravel(weights.pop(x)).tolist()) for x in _STATISTICS]
    pairs = [(family, x) for family in FAMILIES for x in family.layouts(weights)]
    family, layout = max(pairs, key=lambda pair: _likeness(weights, pair[1]))
    weights = {k: x for k, x in weights.items() if not k.startswith(layout.ignored)}
    usual = family.preprocessing
    own = own or (usual.mean, usual.std)
    mean = tuple(own[0] if mean is None else mean)
    std = tuple(own[1] if std is None else std)
    check_statistics(mean, std)
    *_, head = layout.layers
    module = layout.build(
        num_classes=np.size(weights.get(f"{head}.bias", ())) or 10,
        mean=mean,
        std=std,
    )
    image_shape = (usual.crop, usual.crop, 3)
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    like = jax.eval_shape(module.init, jax.random.key(0), images)
    tensors = _tensors(layout)
    _check_fit(weights, layout.title, _pytorch_shapes(tensors, like))
    if layout.ambiguous:
        raise ValueError(
            f"these are weights of {layout.title}, which is not supported: "
            f"{layout.ambiguous}. Pass the network itself as a function, see "
            "make_defense and adapters.pytorch_classifier"
        )
    variables: dict[str, Any] = {"params": {}, "batch_stats": {}}
    for name, (path, axes) in tensors.items():
        inner = variables
        for part in path[:-1]:
            inner = inner.setdefault(part, {})
        inner[path[-1]] = np.asarray(weights[name], np.float32).transpose(axes)
    statistics = {"mean": list(mean), "std": list(std)}
    if all(np.all(np.equal(statistics[x], getattr(usual, x))) for x in statistics):
        statistics = {}
    return PyTorchNetwork(
        layout.name, module, variables, image_shape, family.any_size, statistics
    )


def _plain_names(weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the weights under their names in the network itself."""
    plain: dict[str, np.ndarray] = {}
    for name, value in weights.items():
        short = _OLD_NAMES.sub(r"\1\2", _PREFIXES.sub("", name))
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
    for family, marks in _OTHER_FAMILIES.items():
        if all(any(name.startswith(x) for name in weights) for x in marks):
            raise ValueError(
                f"these are weights of {family} (they have "
                f"{', '.join(f'{mark}*' for mark in marks)}), which is not supported "
                "yet: pass the network itself as a function, see make_defense and "
                "adapters.pytorch_classifier"
            )


def _likeness(weights: Mapping[str, np.ndarray], layout: WeightLayout) -> float:
    """Returns the share of names, of both, that both have."""
    names = _tensors(layout).keys()
    others = {name for name in weights if not name.startswith(layout.ignored)}
    return len(names & others) / len(names | others)


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
        _check_family(weights)
        raise ValueError(
            f"these weights are of no network that is known here. The nearest is "
            f"{title}; {'; '.join(problems)}. Networks that are known: "
            f"{'; '.join(family.title for family in FAMILIES)}. "
            "Any other may be passed as a function, see make_defense"
        )
