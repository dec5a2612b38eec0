"""The classifier learns clean images, or degraded ones; a defence never changes it."""

from typing import Any

import jax
import optax
from flax import linen as nn

from uronet_jax.training.pairs import Pairs, clean_pairs
from uronet_jax.training.state import (
    Batch,
    Metrics,
    TrainState,
    decisions,
    masked_sums,
    update_by_labels,
)
from uronet_jax.training.task import Phase, Shape, Task, build_classifier


def classifier_task(
    classifier: nn.Module,
    optimizer: optax.GradientTransformation,
    pairs: Pairs | None = None,
    *,
    image_shape: Shape,
) -> Task:
    """Returns the task of training a classifier: cross-entropy on degraded images.

    The step's metrics are `loss` and `correct`, the validation's `loss` and `accuracy`.

    Args:
        classifier: The module that is trained.
        optimizer: Its optimizer.
        pairs: Where the images come from; by default clean and not augmented.
        image_shape: `(H, W, C)`.
    """
    pairs = clean_pairs() if pairs is None else pairs

    def step(state: TrainState, frozen: Any, batch: Batch):
        key = jax.random.fold_in(state.key, state.step)
        _, images = pairs.train(key, frozen, batch)
        return update_by_labels(state, optimizer, classifier, images, batch["label"])

    def evaluate(variables: Any, frozen: Any, key: jax.Array, batch: Batch) -> Metrics:
        _, images = pairs.validation(key, frozen, batch)
        logits = classifier.apply(variables, images, train=False)
        return masked_sums(decisions(logits, batch["label"]), batch["mask"])

    best = ("accuracy", "max")
    return Task(
        "classifier",
        classifier,
        image_shape,
        optimizer,
        step,
        evaluate,
        best,
        pairs.frozen,
    )


CLASSIFIER_PHASE = Phase(
    "classifier",
    build_classifier,
    lambda config, models, **given: classifier_task(build_classifier(config), **given),
    degrades=False,
)
