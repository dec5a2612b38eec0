"""Between this package and foolbox: its models here, our functions there.

The other direction needs no code of ours but `foolbox_model`: every `logits_fn` is a
model for foolbox. foolbox is imported only there.
"""

import dataclasses
from typing import Any

import jax
from jax.tree_util import Partial

from uronet_jax.attacks.objectives import LogitsFn


def from_foolbox(model: Any) -> Partial:
    """Returns a foolbox model over JAX as `logits_fn` for images in `[0, 1]`.

    Args:
        model: `foolbox.models.JAXModel`, or another model over JAX that is callable and
            has `bounds`. Its bounds and its preprocessing are taken into account.

    Raises:
        ValueError: If it is a model over PyTorch or TensorFlow, has no bounds, or its
            images are not channels-last.
    """
    if type(model).__name__ in ("PyTorchModel", "TensorFlowModel"):
        raise ValueError(
            f"JAX cannot differentiate a {type(model).__name__}: load its weights into "
            "a Flax module (`load_defense` and `load_classifier` read CIFAR ResNets), "
            "or attack it with foolbox"
        )
    bounds = getattr(model, "bounds", None)
    if bounds is None:
        raise ValueError(
            f"a foolbox model has bounds, {type(model).__name__} has none: pass a "
            "function of images in [0, 1] as it is"
        )
    if getattr(model, "data_format", "channels_last") != "channels_last":
        raise ValueError(
            "images are [B, H, W, C] here: give the model data_format='channels_last'"
        )
    low, high = (float(bound) for bound in bounds)
    return Partial(_FromFoolbox(model, low, high))


@dataclasses.dataclass(frozen=True)
class _FromFoolbox:
    """`images in [0, 1] -> logits`; two of the same model are the same."""

    model: Any
    low: float
    high: float

    def __call__(self, images):
        return self.model(self.low + (self.high - self.low) * images)


def foolbox_model(logits_fn: LogitsFn) -> Any:
    """Returns a `logits_fn` as a foolbox model, for foolbox's attacks.

    Args:
        logits_fn: `[B, H, W, C]` in `[0, 1]` -> `[B, K]`; of a defence:
            `lambda images: defend(frozen, images).logits`.

    Returns:
        `foolbox.models.JAXModel` with bounds `(0, 1)`.

    Raises:
        ImportError: If foolbox is not installed.
    """
    from foolbox.models import JAXModel

    return JAXModel(jax.jit(logits_fn), bounds=(0, 1), data_format="channels_last")
