"""Builds the three tasks from names and numbers, as a config states them."""

from typing import Any

import optax
from flax import linen as nn

from uronet_jax.data.augment import AUGMENTATIONS
from uronet_jax.defense import detector_channels
from uronet_jax.models import Remover
from uronet_jax.training import classifier as classifier_phase
from uronet_jax.training import detector as detector_phase
from uronet_jax.training import remover as remover_phase
from uronet_jax.training.pairs import Pairs
from uronet_jax.training.run import Task

Shape = tuple[int, int, int]


def remover_task(
    remover: Remover,
    optimizer: optax.GradientTransformation,
    pairs: Pairs,
    *,
    image_shape: Shape,
    noise_weight: float = 1.0,
    classifier: nn.Module | None = None,
    classifier_variables: Any = None,
    consistency_weight: float = 0.0,
) -> Task:
    """Returns the task of training a remover.

    Args:
        remover: The module.
        optimizer: Its optimizer.
        pairs: Where clean and degraded images come from, `drawn_pairs` or
            `stored_pairs`.
        image_shape: `(H, W, C)`.
        noise_weight: Weight of the noise pattern's error.
        classifier: Frozen, for the consistency term; see `make_remover_step`.
        classifier_variables: Its variables.
        consistency_weight: Weight of that term; 0 leaves it out.
    """
    frozen = dict(pairs.frozen)
    if consistency_weight:
        frozen["classifier"] = classifier_variables
    return Task(
        name="remover",
        module=remover,
        input_shape=image_shape,
        optimizer=optimizer,
        step=remover_phase.make_remover_step(
            remover,
            optimizer,
            pairs,
            noise_weight=noise_weight,
            classifier=classifier,
            consistency_weight=consistency_weight,
        ),
        evaluation=remover_phase.make_remover_evaluation(
            remover, pairs, noise_weight=noise_weight
        ),
        best_metric=remover_phase.BEST_METRIC,
        frozen=frozen,
    )


def detector_task(
    detector: nn.Module,
    remover: Remover,
    remover_variables: Any,
    optimizer: optax.GradientTransformation,
    pairs: Pairs,
    *,
    image_shape: Shape,
    inputs: str = "image",
) -> Task:
    """Returns the task of training a detector behind a frozen remover.

    Args:
        detector: Two-class module.
        remover: The frozen remover.
        remover_variables: Its variables.
        optimizer: The detector's optimizer.
        pairs: Where clean and degraded images come from, `drawn_pairs` or
            `stored_pairs`.
        image_shape: `(H, W, C)` of the images.
        inputs: What the detector looks at, see `defense.detector_input`.
    """
    height, width, channels = image_shape
    return Task(
        name="detector",
        module=detector,
        input_shape=(height, width, detector_channels(channels, inputs)),
        optimizer=optimizer,
        step=detector_phase.make_detector_step(
            detector, remover, optimizer, pairs, inputs=inputs
        ),
        evaluation=detector_phase.make_detector_evaluation(
            detector, remover, pairs, inputs=inputs
        ),
        best_metric=detector_phase.BEST_METRIC,
        frozen={**pairs.frozen, "remover": remover_variables},
    )


def classifier_task(
    classifier: nn.Module,
    optimizer: optax.GradientTransformation,
    *,
    image_shape: Shape,
    augmentation: str = "none",
) -> Task:
    """Returns the task of training a classifier on clean images.

    Args:
        classifier: The module.
        optimizer: Its optimizer.
        image_shape: `(H, W, C)`.
        augmentation: A key of `AUGMENTATIONS`.
    """
    return Task(
        name="classifier",
        module=classifier,
        input_shape=image_shape,
        optimizer=optimizer,
        step=classifier_phase.make_classifier_step(
            classifier, optimizer, augmenter(augmentation)
        ),
        evaluation=classifier_phase.make_classifier_evaluation(classifier),
        best_metric=classifier_phase.BEST_METRIC,
    )


def augmenter(name: str):
    """Returns an augmentation by name; raises ValueError if it is unknown."""
    if name not in AUGMENTATIONS:
        raise ValueError(
            f"unknown augmentation {name!r}: choose from {list(AUGMENTATIONS)}"
        )
    return AUGMENTATIONS[name]
