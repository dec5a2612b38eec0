"""What an attack raises: losses of logits, and loss functions that say when to stop.

A *loss function* maps images `[B, H, W, C]` to one loss per image, `[B]`, which the
attack raises. It may return a pair `(loss, success)`, `success` being boolean `[B]`:
then an attack knows which images have reached their goal. And it may have a method
`check(images)`, which an attack calls outside jit before it does any work.

The loss functions made here are pytrees, whose arrays (weights, labels) stay arguments
of compiled programs. With a pytree as `logits_fn`, such as `flax_logits` makes, one
program serves all batches and all weights. A plain function works as well; it is
compiled anew for every function object and has its weights built in.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax.core import Tracer
from jax.tree_util import Partial

from uronet_jax import batches

LogitsFn = Callable[[jax.Array], jax.Array]
LossFn = Callable[[jax.Array], jax.Array | tuple[jax.Array, jax.Array]]


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Returns the cross-entropy of `[B, K]` logits with integer labels, `[B]`."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def margin(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Returns `max_{k != y} Z_k - Z_y`, `[B]`: positive where the label is wrong."""
    right = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
    others = jnp.max(jnp.where(right, -jnp.inf, logits), axis=-1)
    return others - _at(logits, labels)


def dlr(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Returns the difference of logits ratio, `[B]`: positive where the label is wrong.

    `-(Z_y - max_{k != y} Z_k) / (Z_(1) - Z_(3) + 1e-12)` with `Z_(i)` in falling order.

    Raises:
        ValueError: If there are fewer than three classes.

    Source:
        Croce & Hein, "Reliable evaluation of adversarial robustness with an ensemble of
        diverse parameter-free attacks", ICML 2020.
    """
    ordered = _ordered(logits, 3, "DLR")
    return margin(logits, labels) / (ordered[:, 0] - ordered[:, 2] + 1e-12)


def targeted_dlr(logits: jax.Array, labels: jax.Array, targets: jax.Array) -> jax.Array:
    """Returns the targeted difference of logits ratio, `[B]`.

    `-(Z_y - Z_t) / (Z_(1) - (Z_(3) + Z_(4)) / 2 + 1e-12)`. Source: as `dlr`.

    Raises:
        ValueError: If there are fewer than four classes.
    """
    ordered = _ordered(logits, 4, "targeted DLR")
    scale = ordered[:, 0] - (ordered[:, 2] + ordered[:, 3]) / 2 + 1e-12
    return (_at(logits, targets) - _at(logits, labels)) / scale


def is_wrong(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Returns where the first largest logit is not that of the label, bool `[B]`.

    Logits that are not numbers are not wrong: they are nothing.
    """
    finite = jnp.isfinite(logits).all(axis=-1)
    return finite & (jnp.argmax(logits, axis=-1) != labels)


LOSSES: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
    "cross_entropy": cross_entropy,
    "margin": margin,
    "dlr": dlr,
}
# Least number of classes, of losses that need more than two.
LEAST_CLASSES = {"dlr": 3, "targeted_dlr": 4}


@flax.struct.dataclass
class Misclassification:
    """See `misclassification`, and with targets `targeted_misclassification`."""

    logits_fn: Any
    labels: jax.Array
    targets: jax.Array | None = None
    loss: str = flax.struct.field(pytree_node=False, default="cross_entropy")

    def __call__(self, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns loss and success, `[B]` each; success is any wrong label."""
        logits = self.logits_fn(images)
        check_logits(logits, self.labels)
        if self.targets is None:
            loss = LOSSES[self.loss](logits, self.labels)
        else:
            loss = targeted_dlr(logits, self.labels, self.targets)
        return loss, is_wrong(logits, self.labels)

    def take(self, rows: slice) -> "Misclassification | None":
        """Returns the loss function of some of the images; see `take`."""
        logits_fn = take(self.logits_fn, rows)
        if logits_fn is None:
            return None
        labels, targets = jax.tree.map(lambda x: x[rows], (self.labels, self.targets))
        return self.replace(logits_fn=logits_fn, labels=labels, targets=targets)

    def check(self, images: jax.Array) -> None:
        """Raises `ValueError` if logits are of a wrong shape or a label is no class."""
        check_classes(self.logits_fn, self.labels, images)
        if self.targets is not None:
            check_classes(self.logits_fn, self.targets, images, "targets")


@flax.struct.dataclass
class RandomLoss:
    """`(key, images) -> (loss, success)` of one draw of a random classifier.

    Its loss function is one of a `logits_fn(key, images)`.
    """

    loss_fn: Misclassification

    def __call__(self, key: jax.Array, images: jax.Array) -> Any:
        """Returns loss and success of one draw, `[B]` each."""
        return self._draw(key)(images)

    def check(self, images: jax.Array) -> None:
        """Makes the check of the loss function."""
        self._draw(jax.random.key(0)).check(images)

    def _draw(self, key):
        return self.loss_fn.replace(
            logits_fn=Partial(call, self.loss_fn.logits_fn, key)
        )


def misclassification(
    logits_fn: LogitsFn, labels: jax.Array, *, loss: str = "cross_entropy"
) -> Misclassification:
    """Returns the loss function of an untargeted attack on a classifier.

    Args:
        logits_fn: `[B, H, W, C] -> [B, K]`.
        labels: Integer `[B]`, the right ones.
        loss: `cross_entropy`, `margin` or `dlr`.

    Returns:
        `loss_fn(images) -> (loss, success)`; success is a wrong label.

    Raises:
        ValueError: If the loss is unknown or labels are not integers `[B]`.
    """
    check_loss_name(loss)
    return Misclassification(as_pytree(logits_fn), check_labels(labels), loss=loss)


def targeted_misclassification(
    logits_fn: LogitsFn, labels: jax.Array, targets: jax.Array
) -> Misclassification:
    """Returns the loss function of `targeted_dlr`; success is any wrong label.

    Like `misclassification`, of at least four classes. `targets` are the wrong ones
    that are pursued, integer `[B]`.
    """
    return Misclassification(
        as_pytree(logits_fn),
        check_labels(labels),
        check_labels(targets, "targets"),
        loss="targeted_dlr",
    )


def as_pytree(function: Callable[..., Any]) -> Any:
    """Returns a function that is no pytree as a pytree without leaves."""
    return Partial(function) if jax.tree_util.all_leaves([function]) else function


def take(function: Any, rows: slice) -> Any:
    """Returns a function of a batch of images for some of them alone.

    None if it is not known how: it has no method `take(rows)` that tells, and was not
    made by `flax_logits`.
    """
    if isinstance(function, Partial) and isinstance(function.func, _FlaxCall):
        # A random one would draw the same numbers for every part.
        return None if "rngs" in dict(function.func.kwargs) else function
    known = getattr(function, "take", None)
    return None if known is None else known(rows)


def flax_logits(module: nn.Module, variables: Any, **kwargs: Any) -> Partial:
    """Returns a Flax classifier as `logits_fn`, ready for attacks.

    Args:
        module: Maps `[B, H, W, C]` in `[0, 1]` to `[B, K]`, each image on its own, as
            networks do outside training. One that mixes the images of a batch is to be
            given as a plain function instead.
        variables: What `module.apply` takes.
        **kwargs: Static keyword arguments of the call, such as `train=False`.
    """
    return Partial(_FlaxCall(module, tuple(sorted(kwargs.items()))), variables)


@dataclasses.dataclass(frozen=True)
class _FlaxCall:
    """`(variables, images) -> logits`; two of the same module are the same."""

    module: nn.Module
    kwargs: tuple[tuple[str, Any], ...]

    def __call__(self, variables, images):
        return self.module.apply(variables, images, **dict(self.kwargs))


def call(function: Callable[..., Any], *arguments: Any) -> Any:
    """Returns `function(*arguments)`: makes a function that is a pytree an argument."""
    return function(*arguments)


def likeliest(logits: jax.Array, labels: jax.Array, count: int) -> jax.Array:
    """Returns the wrong classes of the largest logits, in falling order.

    Logits are `[B, K]`, labels integer `[B]`, and the classes `[B, count]`.
    """
    right = jax.nn.one_hot(labels, logits.shape[1], dtype=bool)
    return jax.lax.top_k(jnp.where(right, -jnp.inf, logits), count)[1]


def is_known(value: Any) -> bool:
    """Returns whether this process sees all of a value, and not inside jit only."""
    traced = isinstance(value, Tracer)
    return not traced and getattr(value, "is_fully_addressable", True)


def check_loss_name(loss: str) -> None:
    """Raises `ValueError` unless it is a key of `LOSSES`."""
    batches.known_name("loss", loss, LOSSES)


def check_order(images: Any, logits_fn: Any, labels: Any) -> None:
    """Raises `ValueError` unless arguments stand in their order and one can be asked.

    A module of PyTorch or linen can be called, but not with these images alone, unless
    it is one of linen that is bound to its variables.
    """
    if callable(images) or callable(labels):
        swapped = "images" if callable(images) else "labels"
        raise ValueError(
            f"arguments are key, images, logits_fn, labels, in this order: {swapped} "
            "and logits_fn are swapped"
        )
    if hasattr(logits_fn, "state_dict"):
        raise ValueError(
            "logits_fn is a module of PyTorch: make a function of it with "
            "adapters.pytorch_classifier"
        )
    unbound = isinstance(logits_fn, nn.Module) and logits_fn.scope is None
    if not callable(logits_fn) or unbound:
        raise ValueError(
            f"logits_fn must be a function, images -> logits, not a "
            f"{type(logits_fn).__name__}: flax_logits makes one of a Flax module and "
            "its variables"
        )


def check_labels(labels: Any, name: str = "labels") -> jax.Array:
    """Returns labels as an array; raises `ValueError` unless they are integer `[B]`."""
    labels = jnp.asarray(np.nan if labels is None else labels)
    if labels.ndim != 1 or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(
            f"{name} must be integers, one per image, shape [B]: "
            f"{labels.dtype}{list(labels.shape)}"
        )
    return labels


def check_logits(logits: jax.Array, labels: jax.Array) -> None:
    """Raises `ValueError` unless logits are `[B, K]`, a row for every label."""
    if not isinstance(logits, jax.Array | jax.ShapeDtypeStruct):
        raise ValueError(
            f"logits_fn must return logits [B, K]: got {type(logits).__name__}; of a "
            "defence return prediction.logits"
        )
    if not jnp.issubdtype(logits.dtype, jnp.floating):
        raise ValueError(
            f"logits must be floating point, not {logits.dtype}: return what comes "
            "before the argmax"
        )
    if logits.ndim != 2 or logits.shape[0] != labels.shape[0]:
        raise ValueError(
            f"logits must have shape [B, K], one row for each of {labels.shape[0]} "
            f"labels: {list(logits.shape)}; give one label per image"
        )
    if logits.shape[1] < 2:
        raise ValueError(f"need logits of at least 2 classes: {list(logits.shape)}")


def check_classes(
    logits_fn: LogitsFn, labels: jax.Array, images: jax.Array, name: str = "labels"
) -> int:
    """Returns the number of classes; raises `ValueError` unless each label is one.

    Nothing is computed. Inside jit the labels themselves are not looked at.
    """
    try:
        logits = jax.eval_shape(call, as_pytree(logits_fn), images)
    except jax.errors.TracerArrayConversionError as error:
        raise ValueError(
            "logits_fn gives NumPy or another library what JAX traces: compute with "
            "jnp, and wrap tables that are indexed in jnp.asarray; of a model of "
            "another library adapters.black_box makes a function for attacks"
        ) from error
    check_logits(logits, labels)
    classes = logits.shape[1]
    if not is_known(labels):
        return classes
    labels = np.asarray(labels)
    bad = np.flatnonzero((labels < 0) | (labels >= classes))
    if bad.size:
        raise ValueError(
            f"{name} must be classes 0 to {classes - 1}: images {bad[:5].tolist()} "
            f"have {labels[bad[:5]].tolist()}"
        )
    return classes


def prepare_classifier(
    logits_fn: LogitsFn, labels: Any, images: jax.Array
) -> tuple[Any, jax.Array, int]:
    """Returns a checked classifier as a pytree, its labels, the number of classes."""
    logits_fn, labels = as_pytree(logits_fn), check_labels(labels)
    return logits_fn, labels, check_classes(logits_fn, labels, images)


def _at(logits, labels):
    return jnp.take_along_axis(logits, labels[:, None], axis=-1)[:, 0]


def _ordered(logits, count, name):
    if logits.shape[-1] < count:
        raise ValueError(
            f"{name} needs at least {count} classes, the logits have "
            f"{logits.shape[-1]}: use cross_entropy or margin"
        )
    return jax.lax.top_k(logits, count)[0]
