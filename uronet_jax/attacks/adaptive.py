"""Attacks that know the defence: through it, over its randomness, past its detector.

A defence is here a function `images -> (logits, detector)`: logits `[B, K]`, and what
its detector says, either its two logits `[B, 2]`, class 1 being degraded, or the
degraded probability `[B]`. Give logits where there are some: a probability that has
rounded to one has no gradient left. An image is flagged if its degraded probability is
above a threshold.
"""

from collections.abc import Callable
from typing import Any

import flax
import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from uronet_jax import batches
from uronet_jax.attacks import loop
from uronet_jax.attacks.objectives import (
    LOSSES,
    RandomLoss,
    as_pytree,
    check_classes,
    check_labels,
    check_logits,
    check_loss_name,
    is_wrong,
    margin,
    misclassification,
    take,
)

Defend = Callable[[jax.Array], tuple[jax.Array, jax.Array]]

# Odds of a probability are computed this far from 0 and 1, in float32.
_EDGE = 1e-7


def unchanged(argument: Any) -> Any:
    """Returns what it is given."""
    return argument


def bpda(
    function: Callable[[Any], Any], backward: Callable[[Any], Any] = unchanged
) -> Partial:
    """Returns a function with the value of one and the gradient of another.

    For parts of a defence whose own gradient is zero, absent or misleading (backward
    pass differentiable approximation); with the identity it is straight-through.

    Args:
        function: Of one argument, such as images; its gradient is not taken.
        backward: Returns the same structure and shapes.

    Source:
        Athalye et al., "Obfuscated gradients give a false sense of security", ICML
        2018.
    """
    return Partial(_bpda, as_pytree(function), as_pytree(backward))


def _bpda(function, backward, argument):
    value = jax.lax.stop_gradient(function(argument))
    return jax.tree.map(batches.straight, value, backward(argument))


def averaged_logits(
    logits_fn: Callable[[jax.Array, jax.Array], Any], key: jax.Array, samples: int
) -> Partial:
    """Returns the mean over draws of a random function, for attacks of any kind.

    The draws are the same at every call, so what is attacked is a fixed function that
    stands for the expectation (expectation over transformation). Attacks that take
    `samples` can draw anew at every step: see `random_misclassification`.

    Args:
        logits_fn: `(key, images) -> [B, K]`, or any arrays.
        key: Typed PRNG key.
        samples: Number of draws; they run side by side, as one batch.

    Returns:
        `images -> means`.

    Raises:
        ValueError: If `samples` is not a positive integer.

    Source:
        Athalye et al., "Synthesizing robust adversarial examples", ICML 2018.
    """
    batches.check_whole("samples", samples, 1, 2**20)
    return Partial(_averaged, as_pytree(logits_fn), jax.random.split(key, samples))


def _averaged(logits_fn, keys, images):
    draws = jax.vmap(lambda key: logits_fn(key, images))(keys)
    return jax.tree.map(lambda x: x.mean(axis=0), draws)


def random_misclassification(
    logits_fn: Callable[[jax.Array, jax.Array], jax.Array],
    labels: jax.Array,
    *,
    loss: str = "cross_entropy",
) -> "LossAlone":
    """Returns the loss function of a random classifier, for attacks with `samples`.

    Like `misclassification` of `(key, images) -> [B, K]`, but `loss_fn(key, images)`
    does not tell success, so that no attack stops at a lucky draw.
    """
    return without_success(RandomLoss(misclassification(logits_fn, labels, loss=loss)))


def without_success(loss_fn: Callable[..., Any]) -> "LossAlone":
    """Returns a loss function that does not tell success, so that no attack stops.

    For defences that are random, where a success may be luck and farther is surer, and
    for a grey box, where the border of the classifier is not that of the defence.
    """
    return LossAlone(as_pytree(loss_fn))


@flax.struct.dataclass
class LossAlone:
    """See `without_success`."""

    loss_fn: Any

    def __call__(self, *arguments: jax.Array) -> jax.Array:
        """Returns the loss, `[B]`."""
        result = self.loss_fn(*arguments)
        return result[0] if isinstance(result, tuple) else result

    def take(self, rows: slice) -> "LossAlone | None":
        """Returns the loss function of some of the images; see `objectives.take`."""
        loss_fn = take(self.loss_fn, rows)
        return None if loss_fn is None else self.replace(loss_fn=loss_fn)

    def check(self, images: jax.Array) -> None:
        """Makes the check of the loss function, if it has one."""
        getattr(self.loss_fn, "check", lambda images: None)(images)


@flax.struct.dataclass
class Evasion:
    """See `joint_loss`, and without a weight `selective_loss`."""

    defend: Any
    labels: jax.Array
    weight: jax.Array | None
    threshold: jax.Array
    loss: str = flax.struct.field(pytree_node=False, default="cross_entropy")

    def __call__(self, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns loss and success, `[B]` each."""
        logits, detector = _judged(self.defend, self.labels, images)
        wrong = is_wrong(logits, self.labels)
        missed = degraded_probability(detector) <= self.threshold
        log_clean = log_clean_probability(detector)
        of_classifier = LOSSES[self.loss](logits, self.labels)
        if self.weight is not None:
            return of_classifier + self.weight * log_clean, wrong & missed
        value = jnp.where(wrong, 1.0 / (1.0 - log_clean), margin(logits, self.labels))
        followed = jnp.where(wrong, log_clean, of_classifier)
        value = batches.straight(jax.lax.stop_gradient(value), followed)
        return value, wrong & missed

    def check(self, images: jax.Array) -> None:
        """Raises `ValueError` if logits are of a wrong shape or a label is no class."""
        check_classes(Partial(_logits_of, self.defend), self.labels, images)


def _logits_of(defend, images):
    return defend(images)[0]


def joint_loss(
    defend: Defend,
    labels: jax.Array,
    *,
    weight: float | jax.Array,
    threshold: float | jax.Array = 0.5,
    loss: str = "cross_entropy",
) -> Evasion:
    """Returns a loss that fools classifier and detector together, their weighted sum.

    `loss of the classifier + weight * log P(clean)`.

    Args:
        defend: `images -> (logits, detector)`, see the module.
        labels: Integer `[B]`, the right ones.
        weight: Of the detector, 0 or more; try several, they trade one for the other.
        threshold: Degraded probability above which an image is flagged.
        loss: Of the classifier: `cross_entropy`, `margin` or `dlr`.

    Returns:
        `loss_fn(images) -> (loss, success)`; success is a wrong label of an image that
        is not flagged.

    Raises:
        ValueError: If an argument is wrong.

    Source:
        Carlini & Wagner, "Adversarial examples are not easily detected", AISec 2017.
    """
    loop.check_parameter("weight", weight)
    weight = jnp.asarray(weight, jnp.float32)
    return _evasion(defend, labels, weight, threshold, loss)


def selective_loss(
    defend: Defend,
    labels: jax.Array,
    *,
    threshold: float | jax.Array = 0.5,
    loss: str = "cross_entropy",
) -> Evasion:
    """Returns a loss that works on one at a time: the classifier, then the detector.

    Its gradient is that of the classifier's loss while the label is right, and that of
    `log P(clean)` where it is wrong already. Its value is the margin (not above 0)
    while the label is right, and in `(0, 1]` where it is wrong, rising with P(clean):
    so the largest value is the best image, in attacks that keep one.

    Arguments, result and errors are those of `joint_loss`; `loss` is that of the
    classifier whose gradient is followed.

    Source:
        The selective attack of Bryniarski et al., "Evading adversarial example
        detection defenses with orthogonal projected gradient descent", ICLR 2022.
    """
    return _evasion(defend, labels, None, threshold, loss)


def _evasion(defend, labels, weight, threshold, loss):
    check_loss_name(loss)
    labels, threshold = check_labels(labels), _threshold(threshold)
    return Evasion(as_pytree(defend), labels, weight, threshold, loss)


def evasion_logits(
    defend: Defend, labels: jax.Array, *, threshold: float | jax.Array = 0.5
) -> Partial:
    """Returns a defence as two classes, for attacks that look for a smallest step.

    Class 0 is "the defence holds": the label is right or the image is flagged. Its
    logit is the larger of the classifier's margin in favour of the label and of the
    detector's log odds above the threshold; that of class 1 is 0.

    It maps images to `[B, 2]`: attack it with labels of 0. Arguments and errors are
    those of `joint_loss`.
    """
    labels = check_labels(labels)
    return Partial(_evasion_logits, as_pytree(defend), labels, _threshold(threshold))


def _evasion_logits(defend, labels, threshold, images):
    logits, detector = _judged(defend, labels, images)
    flagged = _log_odds(detector) - _log_odds(threshold)
    holds = jnp.maximum(-margin(logits, labels), flagged)
    return jnp.stack([holds, jnp.zeros_like(holds)], axis=-1)


def degraded_probability(detector: jax.Array) -> jax.Array:
    """Returns the degraded probability `[B]` of what a detector says, in any form."""
    return detector if detector.ndim == 1 else jax.nn.softmax(detector)[:, 1]


def log_clean_probability(detector: jax.Array) -> jax.Array:
    """Returns `log P(clean)`, `[B]`, of what a detector says, in any form."""
    return -jax.nn.softplus(_log_odds(detector))


def _log_odds(detector):
    if detector.ndim == 2:
        return detector[:, 1] - detector[:, 0]
    clipped = jnp.clip(detector, _EDGE, 1.0 - _EDGE)
    return jnp.log(clipped) - jnp.log1p(-clipped)


def _judged(defend, labels, images):
    logits, detector = defend(images)
    check_logits(logits, labels)
    count = labels.shape[0]
    if detector.shape not in ((count,), (count, 2)):
        raise ValueError(
            f"a defence returns logits and what its detector says, [{count}] "
            f"probabilities or [{count}, 2] logits: {list(detector.shape)}"
        )
    return logits, detector


def _threshold(value):
    loop.check_parameter("threshold", value, high=1.0)
    return jnp.asarray(value, jnp.float32)
