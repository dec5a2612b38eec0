"""Networks of PyTorch's libraries, with the weights of ours.

The libraries are imported where they are used, since they are optional.
"""

import functools
import importlib.metadata
import importlib.util
from collections.abc import Callable
from typing import Any

from flax import linen as nn

from uronet_jax.models import EfficientNetLite0, ImageNetResNet
from uronet_jax.models.pytorch import weights_for_pytorch


def _torchvision_resnet(module: ImageNetResNet) -> tuple[Any, str]:
    from torchvision.models import get_model

    name, classes = f"resnet{module.depth}", module.num_classes
    return get_model(name, weights=None, num_classes=classes), name


def _timm_lite(module: EfficientNetLite0) -> tuple[Any, str]:
    import timm

    # Padded as TensorFlow does; it has no dropout unless told.
    name, classes = "tf_efficientnet_lite0", module.num_classes
    return timm.create_model(name, num_classes=classes), "efficientnet_lite0"


def _own_lite(module: EfficientNetLite0) -> tuple[Any, str]:
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name(
        "efficientnet-lite0",
        image_size=None,  # Any.
        num_classes=module.num_classes,
        dropout_rate=0.0,
        drop_connect_rate=0.0,
    )
    return network, "efficientnet_lite0"


# Our network -> the libraries that have it, and how to make it; the first is used that
# is installed. timm's EfficientNet-Lite0 pads fewer layers by themselves.
_Makers = dict[str, Callable[[Any], tuple[Any, str]]]
LIBRARIES: dict[type[nn.Module], _Makers] = {
    ImageNetResNet: {"torchvision": _torchvision_resnet},
    EfficientNetLite0: {"timm": _timm_lite, "efficientnet_lite_pytorch": _own_lite},
}


def find_library(module: nn.Module) -> str:
    """Returns the library whose network of this kind is taken.

    Raises:
        ImportError: If none is installed.
    """
    names = LIBRARIES[type(module)]
    for name in names:
        if importlib.util.find_spec(name) is not None:
            return name
    raise ImportError(f"no {' or '.join(names)} is installed")


def library_version(module: nn.Module) -> str:
    """Returns the library of `find_library` and its version, for people."""
    name = find_library(module)
    return f"{name} {importlib.metadata.version(name)}"


def library_network(module: nn.Module, variables: Any) -> Any:
    """Returns the library's network, of NCHW images in `[0, 1]`, with our weights.

    Raises:
        ImportError: If no library that has it is installed.
    """
    library = find_library(module)
    network, name = LIBRARIES[type(module)][library](module)
    return _classifier_class()(module, network, f"{library}'s {name}", variables)


@functools.cache
def _classifier_class() -> type:
    import torch

    class LibraryClassifier(torch.nn.Module):
        """A network of a library behind the normalisation that ours has inside."""

        def __init__(self, module: Any, network: Any, title: str, variables: Any):
            super().__init__()
            weights = weights_for_pytorch(title, variables)
            missing, unexpected = network.load_state_dict(
                {k: torch.from_numpy(x.copy()) for k, x in weights.items()},
                strict=False,
            )
            left = [x for x in missing if not x.endswith("num_batches_tracked")]
            if left or unexpected:
                raise ValueError(
                    f"{title} of this version has other layers: {left} have no "
                    f"weights, {unexpected} have no layer"
                )
            self.network = network
            for name, values in (("_mean", module.mean), ("_std", module.std)):
                tensor = torch.tensor(values).reshape(1, -1, 1, 1)
                self.register_buffer(name, tensor)

        def forward(self, x):
            """Returns float32 logits."""
            return self.network((x - self._mean) / self._std).float()

    return LibraryClassifier
