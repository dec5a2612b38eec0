"""Phase 3: the classifier learns clean images; the defence never changes it."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from uronet_jax.training.state import (
    Augment,
    Batch,
    Evaluation,
    Metrics,
    Step,
    TrainState,
    apply_update,
    masked_sums,
    to_float,
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

        def loss_fn(params):
            logits, mutated = classifier.apply(
                {"params": params, "batch_stats": state.batch_stats},
                images,
                train=True,
                mutable=["batch_stats"],
            )
            loss = optax.softmax_cross_entropy_with_integer_labels(
                logits, batch["label"]
            )
            correct = jnp.argmax(logits, axis=-1) == batch["label"]
            metrics = {
                "loss": loss.sum(),
                "correct": correct.sum(dtype=jnp.float32),
                "count": jnp.asarray(loss.size, jnp.float32),
            }
            return loss.mean(), (mutated.get("batch_stats", {}), metrics)

        return apply_update(state, optimizer, loss_fn)

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
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
        correct = (jnp.argmax(logits, axis=-1) == batch["label"]).astype(jnp.float32)
        return masked_sums({"loss": loss, "accuracy": correct}, batch["mask"])

    return evaluate
