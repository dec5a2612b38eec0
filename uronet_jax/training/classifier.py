"""Phase 3: the classifier learns clean images; the defence never changes it."""

from typing import Any

import jax
import optax
from flax import linen as nn

from uronet_jax.training.state import (
    Augment,
    Batch,
    Evaluation,
    Metrics,
    Step,
    TrainState,
    decisions,
    masked_sums,
    to_float,
    update_by_labels,
)

# The validation metric by which the best checkpoint is chosen, and its sense.
BEST_METRIC = ("accuracy", "max")


def make_classifier_step(
    classifier: nn.Module, optimizer: optax.GradientTransformation, augment: Augment
) -> Step:
    """Builds the update of a classifier: cross-entropy on clean images.

    Args:
        classifier: The module that is trained.
        optimizer: Its optimizer.
        augment: `(key, images, index) -> images`.

    Returns:
        `step(state, frozen, batch) -> (state, metrics)`; `frozen` is not used.
        Metrics are sums over the global batch plus `count`.
    """

    def step(state: TrainState, frozen: Any, batch: Batch):
        del frozen
        key = jax.random.fold_in(state.key, state.step)
        images = augment(key, to_float(batch["image"]), batch["index"])
        return update_by_labels(state, optimizer, classifier, images, batch["label"])

    return step


def make_classifier_evaluation(classifier: nn.Module) -> Evaluation:
    """Builds the validation of a classifier on clean images.

    Returns:
        `evaluate(variables, frozen, key, batch) -> sums` over the images that
        `batch["mask"]` keeps: `loss`, `accuracy` and `count`.
    """

    def evaluate(variables: Any, frozen: Any, key: jax.Array, batch: Batch) -> Metrics:
        del frozen, key
        logits = classifier.apply(variables, to_float(batch["image"]), train=False)
        return masked_sums(decisions(logits, batch["label"]), batch["mask"])

    return evaluate
