"""What an entry of `ATTACKS` is: an attack, its usual parameters, what it does."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from uronet_jax import batches
from uronet_jax.attacks import balls, loop
from uronet_jax.attacks.objectives import (
    LogitsFn,
    LossFn,
    check_order,
    misclassification,
)

# What an attack takes by position.
_POSITIONAL = {"key", "images", "loss_fn", "logits_fn", "labels"}


class Attack(NamedTuple):
    """An attack on a classifier, with the parameters that are usual for it.

    Attributes:
        function: `(key, images, loss_fn, *, ...)`, or of an attack that is minimal or
            takes logits `(key, images, logits_fn, labels, *, ...)`.
        norm: `linf` or `l2`.
        minimal: Whether it looks for the smallest perturbation and takes no `epsilon`.
        loss: That it raises, a key of `LOSSES` or, if it takes logits, the name of its
            own; empty for a minimal attack.
        relative_step: If there is one, `step_size` is by default this number times
            `epsilon / steps`.
        defaults: Keyword arguments.
        gradient_free: Whether it looks at no gradient.
        takes_logits: Whether it takes `epsilon` but no loss function, and makes its own
            of the logits. With `stop_early=False` it must not stop at a success.
        class_gradients: Whether it takes the gradients of several classes at once.
        least_classes: Number of classes that its loss needs.
        about: What it does, for docs/ATTACKS.md.
        source: Its paper, likewise.
    """

    function: Callable[..., jax.Array]
    norm: str
    minimal: bool = False
    loss: str = ""
    relative_step: float | None = None
    defaults: Mapping[str, Any] = {}
    gradient_free: bool = False
    takes_logits: bool = False
    class_gradients: bool = False
    least_classes: int = 2
    about: str = ""
    source: str = ""

    def __call__(
        self,
        key: jax.Array,
        images: jax.Array,
        logits_fn: LogitsFn,
        labels: jax.Array,
        **parameters: Any,
    ) -> jax.Array:
        """Returns adversarial images; an image stays at its first wrong label.

        To push every image to the end use `on_loss` with `adaptive.without_success`, or
        `stop_early=False` of an attack that takes logits.

        Args:
            key: Typed PRNG key; one serves the whole batch.
            images: `[B, H, W, C]`, floating point, in `[0, 1]`.
            logits_fn: `images -> [B, K]`; see `objectives`.
            labels: Integer `[B]`, the right ones.
            **parameters: Of the attack, `epsilon` among them unless it is minimal.

        Raises:
            ValueError: If an argument is wrong; outside jit also if a gradient is not
                finite.
        """
        check_order(images, logits_fn, labels)
        self._check(key, parameters, images)
        parameters = {**self.defaults, **parameters}
        if not self.minimal and "epsilon" not in parameters:
            raise ValueError("give epsilon, the largest norm of the perturbation")
        if self.minimal or self.takes_logits:
            return self.function(key, images, logits_fn, labels, **parameters)
        loss_fn = misclassification(logits_fn, labels, loss=self.loss)
        return self.on_loss(key, images, loss_fn, **parameters)

    def on_loss(
        self,
        key: jax.Array,
        images: jax.Array,
        loss_fn: LossFn,
        *,
        epsilon: float | jax.Array,
        **parameters: Any,
    ) -> jax.Array:
        """Returns images that raise any loss function, with the usual parameters.

        Like a call otherwise. It is a `ValueError` if the attack takes no loss
        function: if it is a minimal one or takes logits.
        """
        if self.takes_logits or self.minimal:
            raise ValueError(
                "this attack is made of logits and labels and raises no other loss: "
                "call it with them, or choose one that takes a loss function, such as "
                "apgd_dlr"
            )
        self._check(key, {**parameters, "epsilon": epsilon}, images)
        parameters = {**self.defaults, **parameters}
        if self.relative_step is not None and "step_size" not in parameters:
            loop.check_count("steps", parameters["steps"])
            parameters["step_size"] = self.relative_step * epsilon / parameters["steps"]
        return self.function(key, images, loss_fn, epsilon=epsilon, **parameters)

    def _check(self, key, parameters, images):
        batches.check_key(key)
        batches.check_array("images", images)
        if parameters.get("norm", self.norm) != self.norm:
            raise ValueError(
                f"this attack is of norm {self.norm}: choose the one whose name ends "
                f"in {parameters['norm']}"
            )
        known = inspect.signature(self.function).parameters.keys() - _POSITIONAL
        unknown = sorted(parameters.keys() - known)
        if unknown:
            raise ValueError(
                f"this attack has no parameter {', '.join(unknown)}: it takes "
                f"{', '.join(sorted(known - {'norm'}))}"
            )
        if "epsilon" in parameters and not self.minimal:
            count = images.shape[0] if images.ndim else None
            loop.check_budget(parameters["epsilon"], self.norm, count=count)


def in_all_norms(
    name: str, function: Callable[..., jax.Array], **fields: Any
) -> dict[str, Attack]:
    """Returns `<name>_<norm>` of each norm, an `Attack` with these fields."""
    return {
        f"{name}_{norm}": Attack(functools.partial(function, norm=norm), norm, **fields)
        for norm in balls.NORMS
    }
