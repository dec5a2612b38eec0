"""Networks from PyTorch's weights, recognised by the names and shapes of the weights.

`pytorch_layouts.FAMILIES` says which there are, and what their layers are called.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from uronet_jax.batches import known_name
from uronet_jax.models.imported import (
    ImportedNetwork,
    Library,
    WeightLayout,
    Weights,
    import_network,
    layout_tensors,
)
from uronet_jax.models.pytorch_layouts import FAMILIES

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


def network_from_pytorch(
    weights: Mapping[str, np.ndarray],
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> ImportedNetwork:
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
    if weights.keys() >= set(_STATISTICS):
        own = [tuple(np.ravel(weights.pop(x)).tolist()) for x in _STATISTICS]
        mean, std = own[0] if mean is None else mean, own[1] if std is None else std
    return import_network(weights, _PYTORCH, mean, std)


def weights_for_pytorch(title: str, variables: Mapping[str, Any]) -> Weights:
    """Returns a network's weights under PyTorch's names, in its order of the axes.

    Args:
        title: Whose network that is, such as `torchvision's resnet50`: the title of a
            layout of `pytorch_layouts`.
        variables: `{"params", "batch_stats"}` of our network.

    Raises:
        ValueError: If no layout has this title.
    """
    layouts = {x.title: x for family in FAMILIES for x in family.layouts({})}
    layout = layouts[known_name("network of PyTorch", title, sorted(layouts))]
    weights = {}
    for name, (path, axes) in layout_tensors(layout, _PYTORCH).items():
        leaf: Any = variables
        for part in path:
            leaf = leaf[part]
        weights[name] = np.asarray(leaf).transpose(np.argsort(axes))
    return weights


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


def _check_family(weights: Weights, _: WeightLayout) -> None:
    """Raises ValueError for well-known networks that are none of these."""
    for family, marks in _OTHER_FAMILIES.items():
        if all(any(name.startswith(x) for name in weights) for x in marks):
            raise ValueError(
                f"these are weights of {family} (they have "
                f"{', '.join(f'{mark}*' for mark in marks)}), which is not supported "
                "yet: pass the network itself as a function, see make_defense and "
                "adapters.pytorch_classifier"
            )


_PYTORCH = Library(FAMILIES, ".", _TENSORS, "bias", _check_family)
