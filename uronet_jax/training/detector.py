"""Phase 2: the detector learns to tell clean from degraded, through the remover."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from uronet_jax.defense import detector_input
from uronet_jax.models import Remover
from uronet_jax.training.pairs import Pairs
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

# The validation metric by which the best checkpoint is chosen, and its sense.
BEST_METRIC = ("accuracy", "max")


def make_detector_step(
    detector: nn.Module,
    remover: Remover,
    optimizer: optax.GradientTransformation,
    pairs: Pairs,
    *,
    inputs: str = "image",
) -> Step:
    """Builds the update of the detector: cross-entropy on balanced pairs.

    Every image of the batch enters twice, clean (label 0) and degraded (label 1), so
    a step sees twice the batch size.

    Args:
        detector: Two-class module that is trained.
        remover: The frozen remover.
        optimizer: The detector's optimizer.
        pairs: Where clean and degraded images come from.
        inputs: What the noise pattern is laid beside, see `defense.detector_input`.

    Returns:
        `step(state, frozen, batch) -> (state, metrics)` where `frozen` is a dict of
        what `pairs` need and `"remover"`, the remover's variables. Metrics are sums
        over the pairs plus `count`.
    """

    def step(state: TrainState, frozen: Any, batch: Batch):
        key = jax.random.fold_in(state.key, state.step)
        clean, degraded = pairs.train(key, frozen, batch)
        # Pairs side by side, not clean after degraded: so no image has to move to
        # another device.
        images = jnp.stack([clean, degraded], axis=1).reshape(-1, *clean.shape[1:])
        labels = jnp.tile(jnp.asarray([0, 1], jnp.int32), clean.shape[0])
        separation = remover.apply(frozen["remover"], images)
        features = detector_input(images, separation, inputs)
        return update_by_labels(state, optimizer, detector, features, labels)

    return step


def make_detector_evaluation(
    detector: nn.Module, remover: Remover, pairs: Pairs, *, inputs: str = "image"
) -> Evaluation:
    """Builds the validation of the detector; arguments as for the step.

    Returns:
        `evaluate(variables, frozen, key, batch) -> sums` over the images that
        `batch["mask"]` keeps: `loss` and `accuracy`, each the mean of an image's
        clean and degraded copy, and `count`.
    """

    def evaluate(variables: Any, frozen: Any, key: jax.Array, batch: Batch) -> Metrics:
        values = []
        for label, images in enumerate(pairs.validation(key, frozen, batch)):
            separation = remover.apply(frozen["remover"], images)
            features = detector_input(images, separation, inputs)
            logits = detector.apply(variables, features, train=False)
            labels = jnp.full(images.shape[0], label, jnp.int32)
            values.append(decisions(logits, labels))
        both = jax.tree.map(lambda a, b: (a + b) / 2, *values)
        return masked_sums(both, batch["mask"])

    return evaluate
