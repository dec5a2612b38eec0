"""Networks from Keras' weights, recognised by the names and shapes of the weights.

`keras_layouts.KERAS_FAMILIES` says which there are, and what their layers are called.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from uronet_jax.models.alexnet_vgg import ImageNetVGG
from uronet_jax.models.imported import (
    ImportedNetwork,
    Library,
    WeightLayout,
    Weights,
    import_network,
)
from uronet_jax.models.keras_layouts import KERAS_FAMILIES

# Kind of a layer -> place of a weight -> where flax has it, and the order of the axes.
_TENSORS = {
    "Conv": {"0": ("params", "kernel", (0, 1, 2, 3))},
    "DepthwiseConv": {"0": ("params", "kernel", (0, 1, 3, 2))},
    "Dense": {"0": ("params", "kernel", (0, 1)), "1": ("params", "bias", (0,))},
    "BatchNorm": {
        "0": ("params", "scale", (0,)),
        "1": ("params", "bias", (0,)),
        "2": ("batch_stats", "mean", (0,)),
        "3": ("batch_stats", "var", (0,)),
    },
}


def network_from_keras(
    weights: Weights,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> ImportedNetwork:
    """Recognises a network of `keras.applications` by its weights and converts them.

    Args:
        weights: Layer and place of each weight, such as `block1_conv1/0` -> array;
            convolutions `[rows, columns, I, O]`, depthwise `[rows, columns, C, 1]`.
        mean: Pixel mean that the network subtracts, see `make_classifier`; by default
            that of its published weights, see `preprocessing`. Those of VGG were
            trained on blue, green, red, and are turned to the order here; with `mean`
            or `std` they are taken as trained on red, green, blue.
        std: Pixel deviation that it divides by, likewise.

    Raises:
        ValueError: If they are of none of these networks, or without the dense layers
            at the end. It names the nearest one and the first weights that are
            missing, left over or of another shape.
    """
    network = import_network(_plain_weights(weights), _KERAS, mean, std)
    if isinstance(network.module, ImageNetVGG):
        params = network.variables["params"]
        # Here features are laid out channel by channel, there pixel by pixel.
        parts, kernel = network.module.parts, params["Dense_0"]["kernel"]
        pixels = kernel.reshape(parts, parts, -1, kernel.shape[-1])
        channels = pixels.transpose(2, 0, 1, 3).reshape(kernel.shape)
        params["Dense_0"]["kernel"] = channels
        if mean is None and std is None:
            params["Conv_0"]["kernel"] = params["Conv_0"]["kernel"][:, :, ::-1]
    return network


def _plain_weights(weights: Weights) -> dict[str, np.ndarray]:
    """Returns weights as the current Keras names them, every layer of a kind alike."""
    plain: dict[str, np.ndarray] = {}
    for name, value in weights.items():
        layer, _, place = name.rpartition("/")
        # The files that Keras downloads for a DenseNet have names of once.
        layer = {"fc1000": "predictions"}.get(layer, layer).replace("/", "_")
        if layer == "conv_preds" and place == "0" and np.shape(value)[:2] == (1, 1):
            value = value[0, 0]  # MobileNet ends with a 1x1 convolution.
        plain[f"{layer}/{place}"] = value
    for name in [x for x in plain if x.startswith("batch_normalization")]:
        layer, _, place = name.rpartition("/")
        if place == "2" and f"{layer}/3" not in plain:  # Without a scale.
            for i in (3, 2, 1):
                plain[f"{layer}/{i}"] = plain[f"{layer}/{i - 1}"]
            plain[f"{layer}/0"] = np.ones_like(plain[f"{layer}/1"])
    return plain


def _explain(weights: Mapping[str, np.ndarray], layout: WeightLayout) -> None:
    """Raises ValueError for weights without what comes after the last pool."""
    top = {x for x, path in layout.layers.items() if path[-1].startswith("Dense")}
    layers = {name.rpartition("/")[0] for name in weights}
    if layers == layout.layers.keys() - top:
        raise ValueError(
            f"these are weights of {layout.title} without its top, {', '.join(top)}, "
            "and so without classes: save the network with include_top=True, or the "
            "file whose name does not end in notop"
        )


_KERAS = Library(KERAS_FAMILIES, "/", _TENSORS, "1", _explain)
