"""The detector learns to tell clean from degraded, behind a frozen purifier."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from uronet_jax.defense import detector_channels, detector_input
from uronet_jax.models import compute_dtype, make_classifier
from uronet_jax.purifiers import as_purifier
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
from uronet_jax.training.task import Config, Ingredients, Phase, Shape, Task


def make_detector_step(
    detector: nn.Module,
    purifier: Any,
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
        purifier: The frozen purifier, see `purifiers.as_purifier`.
        optimizer: The detector's optimizer.
        pairs: Where clean and degraded images come from.
        inputs: What the noise pattern is laid beside, see `defense.detector_input`.

    Returns:
        `step(state, frozen, batch) -> (state, metrics)` where `frozen` is a dict of
        what `pairs` need and `"purifier"`, its variables. Metrics are sums over the
        pairs plus `count`.
    """
    purifier = as_purifier(purifier)

    def step(state: TrainState, frozen: Any, batch: Batch):
        key = jax.random.fold_in(state.key, state.step)
        clean, degraded = pairs.train(key, frozen, batch)
        # Pairs side by side, not clean after degraded: so no image has to move to
        # another device.
        images = jnp.stack([clean, degraded], axis=1).reshape(-1, *clean.shape[1:])
        labels = jnp.tile(jnp.asarray([0, 1], jnp.int32), clean.shape[0])
        index = jnp.repeat(2 * batch["index"], 2) + labels
        separation = purifier(frozen["purifier"], images, key, index)
        features = detector_input(images, separation, inputs)
        return update_by_labels(state, optimizer, detector, features, labels)

    return step


def make_detector_evaluation(
    detector: nn.Module, purifier: Any, pairs: Pairs, *, inputs: str = "image"
) -> Evaluation:
    """Builds the validation of the detector; arguments as for the step.

    Returns:
        `evaluate(variables, frozen, key, batch) -> sums` over the images that
        `batch["mask"]` keeps: `loss` and `accuracy`, each the mean of an image's
        clean and degraded copy, and `count`.
    """
    purifier = as_purifier(purifier)

    def evaluate(variables: Any, frozen: Any, key: jax.Array, batch: Batch) -> Metrics:
        values, index = [], batch["index"]
        for label, images in enumerate(pairs.validation(key, frozen, batch)):
            separation = purifier(frozen["purifier"], images, key, index)
            features = detector_input(images, separation, inputs)
            logits = detector.apply(variables, features, train=False)
            labels = jnp.full(images.shape[0], label, jnp.int32)
            values.append(decisions(logits, labels))
        both = jax.tree.map(lambda a, b: (a + b) / 2, *values)
        return masked_sums(both, batch["mask"])

    return evaluate


def detector_task(
    detector: nn.Module,
    purifier: Any,
    purifier_variables: Any,
    optimizer: optax.GradientTransformation,
    pairs: Pairs,
    *,
    image_shape: Shape,
    inputs: str = "image",
) -> Task:
    """Returns the task of training a detector behind a frozen purifier.

    Args:
        detector: Two-class module.
        purifier: The frozen purifier.
        purifier_variables: Its variables; None if it has none.
        optimizer: The detector's optimizer.
        pairs: Where clean and degraded images come from.
        image_shape: `(H, W, C)` of the images.
        inputs: What the detector looks at, see `defense.detector_input`.
    """
    return Task(
        "detector",
        detector,
        (*image_shape[:2], detector_channels(image_shape[2], inputs)),
        optimizer,
        make_detector_step(detector, purifier, optimizer, pairs, inputs=inputs),
        make_detector_evaluation(detector, purifier, pairs, inputs=inputs),
        ("accuracy", "max"),
        {**pairs.frozen, "purifier": purifier_variables},
    )


def _build(config: Config) -> nn.Module:
    dtype = compute_dtype(config["dtype"])
    return make_classifier(config["model"]["name"], 2, dtype=dtype)


def _needs(config: Config) -> dict[str, str]:
    if not config["purifier"]:
        raise ValueError(
            "a detector looks at a purifier's noise pattern: set config.purifier to "
            "the folder of a run or a transformation"
        )
    return {"purifier": config["purifier"]}


def _make_task(given: Ingredients) -> Task:
    purifier = given.models["purifier"]
    return detector_task(
        _build(given.config),
        purifier.module,
        purifier.variables,
        given.optimizer,
        given.pairs,
        image_shape=given.image_shape,
        inputs=given.config["model"]["inputs"],
    )


def _input_shape(config: Config, shape: Shape) -> Shape:
    return (*shape[:2], detector_channels(shape[2], config["model"]["inputs"]))


def _check(config: Config) -> None:
    _input_shape(config, (1, 1, 3))  # Raises where it does not know the inputs.


DETECTOR_PHASE = Phase(
    "detector",
    _build,
    _make_task,
    needs=_needs,
    check=_check,
    input_shape=_input_shape,
)
