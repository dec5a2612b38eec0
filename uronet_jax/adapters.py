"""Between this package and others: their classifiers here, our functions there.

A classifier is a function `(variables, images) -> logits` and its variables, as
`make_defense` takes them; `Partial(classify, variables)` is its `logits_fn`. Of a linen
module that is `module.apply`, of a function of images `lambda _, images: f(images)`.
`nnx_classifier`, `pytorch_classifier` and `black_box` make it of other things.

For foolbox there are both directions; of ours `foolbox_model` is all that is needed:
every `logits_fn` is a model for it. foolbox and torch are imported only where they are
used.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.experimental.buffer_callback import buffer_callback
from jax.tree_util import Partial

from uronet_jax.attacks import ATTACKS
from uronet_jax.attacks.objectives import LogitsFn

_Classifier = tuple[Callable[[Any, jax.Array], jax.Array], Any]


def nnx_classifier(module: nnx.Module) -> _Classifier:
    """Returns an NNX module as a function `(variables, images) -> logits`.

    Args:
        module: Maps `[B, H, W, C]` in `[0, 1]` to `[B, K]`. Its dropout is switched off
            and its batch norm uses the running averages; it stays as it is itself.

    Returns:
        The function, and the variables it takes.
    """
    if not isinstance(module, nnx.Module):
        raise ValueError(
            f"need a module of NNX, not a {type(module).__name__}: of linen, pass "
            "module.apply itself as the function"
        )
    quiet = {"deterministic": True, "use_running_average": True}
    module = nnx.view(module, raise_if_not_found=False, **quiet)
    graph, state = nnx.split(module)
    return _NNXCall(graph), state


@dataclasses.dataclass(frozen=True)
class _NNXCall:
    """`(variables, images) -> logits`; two of the same graph are the same."""

    graph: Any

    def __call__(self, variables, images):
        return nnx.merge(self.graph, variables)(images)


def black_box(predict: Callable[[np.ndarray], np.ndarray]) -> _Classifier:
    """Returns any function on the host as a function `(variables, images) -> logits`.

    It is called from compiled programs, and has no gradient: whoever asks for one, as
    most attacks do, gets an error. A new shape of images costs one call on black ones.

    Args:
        predict: float32 `[B, H, W, C]` in `[0, 1]` -> logits `[B, K]`, of each image on
            its own. It must not call JAX.

    Returns:
        The function, and its variables: none.

    Raises:
        ValueError: The function, if `predict` does not return `[B, K]`, or when
            something takes its gradient.
    """
    if not callable(predict):
        raise ValueError(f"predict must be a function of images: {predict!r}")
    return _BlackBox(predict), {}


@dataclasses.dataclass(frozen=True)
class _BlackBox:
    """`(variables, images) -> logits`; two of the same function are the same."""

    predict: Callable[[np.ndarray], np.ndarray]

    def __call__(self, variables, images):
        del variables
        return _ask(self.predict, images)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _ask(predict, images):
    # Two, so that one answer for the whole batch shows.
    black = np.zeros((min(2, len(images)), *images.shape[1:]), np.float32)
    found = np.shape(predict(black))
    if len(found) != 2 or found[0] != len(black):
        raise ValueError(
            "a classifier must return logits [B, K], a row for each image: for images "
            f"of shape {list(black.shape)} it returned {list(found)}"
        )
    like = jax.ShapeDtypeStruct((images.shape[0], found[1]), jnp.float32)

    def call(images):
        return np.asarray(predict(np.asarray(images).copy()), np.float32)

    def write(context, logits, images):
        del context
        np.asarray(logits)[...] = call(images)

    # On a CPU the arguments of `pure_callback` are copied by a thread that may be the
    # one that waits for the answer: on a single core it would wait for ever.
    return jax.lax.platform_dependent(
        images.astype(jnp.float32),
        cpu=buffer_callback(write, like, vmap_method="sequential"),
        default=functools.partial(
            jax.pure_callback, call, like, vmap_method="sequential"
        ),
    )


@_ask.defjvp
def _refuse_gradient(predict, primals, tangents):
    able = ", ".join(name for name, attack in ATTACKS.items() if attack.gradient_free)
    raise ValueError(
        "this classifier is a black box on the host and has no gradient: choose an "
        f"attack that needs none ({able}), attack another network and judge this one "
        "on what was found, or load its weights into a Flax module"
    )


def pytorch_classifier(
    module: Any, *, mean: Sequence[float] = (0.0,), std: Sequence[float] = (1.0,)
) -> _Classifier:
    """Returns a PyTorch module as a `black_box`: forward only, where the module is.

    Args:
        module: Maps `[B, C, H, W]` to logits `[B, K]`. It must be in evaluation mode.
        mean: Pixel mean that is subtracted first, one value or one per channel, in
            units of `[0, 1]`; none if the module takes images in `[0, 1]`.
        std: Pixel deviation that is divided by, likewise.

    Returns:
        The function `(variables, images) -> logits`, and its variables: none.

    Raises:
        ValueError: If the module is in training mode; otherwise see `black_box`.
    """
    if not hasattr(module, "modules"):
        raise ValueError(
            f"need a module of PyTorch, not a {type(module).__name__}: black_box takes "
            "functions"
        )
    if any(part.training for part in module.modules()):
        raise ValueError(
            "the PyTorch module is in training mode, where images of a batch influence "
            "each other: call module.eval() first"
        )
    return black_box(_PyTorchForward(module, tuple(mean), tuple(std)))


@dataclasses.dataclass(frozen=True)
class _PyTorchForward:
    """`[B, H, W, C]` -> `[B, K]` in NumPy; two of the same module are the same."""

    module: Any
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, images):
        import torch

        images = (images - np.float32(self.mean)) / np.float32(self.std)
        x = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
        like = next(self.module.parameters(), x)
        with torch.no_grad():
            return self.module(x.to(like.device, like.dtype)).float().cpu().numpy()


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
            "a Flax module (`load_defense` and `load_classifier` read ResNets), attack "
            "it with foolbox, or without gradients as a `pytorch_classifier`"
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
