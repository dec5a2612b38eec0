"""The classifier learns clean images, or degraded ones; a defence never changes it."""

from typing import Any

import jax
import optax
from flax import linen as nn

from uronet_jax.models import compute_dtype, make_classifier
from uronet_jax.training.pairs import Pairs, clean_pairs
from uronet_jax.training.state import (
    Batch,
    Evaluation,
    Metrics,
    Step,
    TrainState,
    decisions,
    masked_sums,
    update_by_labels,
)
from uronet_jax.training.task import Config, Ingredients, Phase, Shape, Task


def make_classifier_step(
    classifier: nn.Module, optimizer: optax.GradientTransformation, pairs: Pairs
) -> Step:
    """Builds the update of a classifier: cross-entropy on degraded images.

    Args:
        classifier: The module that is trained.
        optimizer: Its optimizer.
        pairs: Where the images come from; `clean_pairs` degrade nothing.

    Returns:
        `step(state, frozen, batch) -> (state, metrics)` where `frozen` is a dict of
        what `pairs` need. Metrics are sums over the global batch plus `count`.
    """

    def step(state: TrainState, frozen: Any, batch: Batch):
        key = jax.random.fold_in(state.key, state.step)
        _, images = pairs.train(key, frozen, batch)
        return update_by_labels(state, optimizer, classifier, images, batch["label"])

    return step


def make_classifier_evaluation(classifier: nn.Module, pairs: Pairs) -> Evaluation:
    """Builds the validation of a classifier on degraded images.

    Returns:
        `evaluate(variables, frozen, key, batch) -> sums` over the images that
        `batch["mask"]` keeps: `loss`, `accuracy` and `count`.
    """

    def evaluate(variables: Any, frozen: Any, key: jax.Array, batch: Batch) -> Metrics:
        _, images = pairs.validation(key, frozen, batch)
        logits = classifier.apply(variables, images, train=False)
        return masked_sums(decisions(logits, batch["label"]), batch["mask"])

    return evaluate


def classifier_task(
    classifier: nn.Module,
    optimizer: optax.GradientTransformation,
    pairs: Pairs | None = None,
    *,
    image_shape: Shape,
) -> Task:
    """Returns the task of training a classifier.

    Args:
        classifier: The module.
        optimizer: Its optimizer.
        pairs: Where the images come from; by default clean and not augmented.
        image_shape: `(H, W, C)`.
    """
    pairs = clean_pairs() if pairs is None else pairs
    return Task(
        "classifier",
        classifier,
        image_shape,
        optimizer,
        make_classifier_step(classifier, optimizer, pairs),
        make_classifier_evaluation(classifier, pairs),
        ("accuracy", "max"),
        pairs.frozen,
    )


def _build(config: Config) -> nn.Module:
    resolved = config["resolved"]
    return make_classifier(
        config["model"]["name"],
        resolved["num_classes"],
        mean=resolved["mean"],
        std=resolved["std"],
        dtype=compute_dtype(config["dtype"]),
    )


def _make_task(given: Ingredients) -> Task:
    return classifier_task(
        _build(given.config),
        given.optimizer,
        given.pairs,
        image_shape=given.image_shape,
    )


CLASSIFIER_PHASE = Phase("classifier", _build, _make_task, degrades=False)
