"""Training on degraded images that are stored, such as adversarial ones.

Remover and detector learn as in their own phases, but the degraded copy of an image is
looked up by the image's index instead of being made in the step.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from uronet_jax.defense import detector_channels, detector_input
from uronet_jax.models import Remover, Separation
from uronet_jax.training import detector as detector_phase
from uronet_jax.training import remover as remover_phase
from uronet_jax.training.run import Task
from uronet_jax.training.state import (
    Augment,
    Batch,
    Metrics,
    TrainState,
    apply_update,
    decisions,
    masked_sums,
    to_float,
    update_by_labels,
)


def stored_remover_task(
    remover: Remover,
    optimizer: optax.GradientTransformation,
    augment: Augment,
    *,
    image_shape: tuple[int, int, int],
    noise_weight: float = 1.0,
) -> Task:
    """Returns the task of training a remover on stored pairs.

    Its steps take `frozen = {"train": images, "validation": images}`, the degraded
    copies of both sets, uint8 or uint16: `[N, H, W, C]`, or `[K, N, H, W, C]`, of which
    a training step takes one at random for each image, and validation the first.

    Args:
        remover: The module.
        optimizer: Its optimizer.
        augment: `(key, images, index) -> images`; an image and its copy are changed
            alike.
        image_shape: `(H, W, C)`.
        noise_weight: Weight of the noise pattern's error.
    """

    def errors(separation: Separation, clean: jax.Array, degraded: jax.Array):
        found = remover_phase.separation_errors(
            remover, separation, clean, degraded, noise_weight
        )
        return {name: found[name] for name in ("loss", "clean_mse")}

    def step(state: TrainState, frozen: Any, batch: Batch):
        key = jax.random.fold_in(state.key, state.step)
        clean, degraded = _pair(batch, frozen["train"], augment, key)

        def loss_fn(params):
            separation = remover.apply({"params": params}, degraded)
            values = errors(separation, clean, degraded)
            everything = jnp.ones(clean.shape[0], bool)
            return values["loss"].mean(), (
                state.batch_stats,
                masked_sums(values, everything),
            )

        return apply_update(state, optimizer, loss_fn)

    def evaluate(variables: Any, frozen: Any, key: jax.Array, batch: Batch) -> Metrics:
        del key
        clean, degraded = _pair(batch, frozen["validation"])
        separation = remover.apply({"params": variables["params"]}, degraded)
        return masked_sums(errors(separation, clean, degraded), batch["mask"])

    return Task(
        name="remover",
        module=remover,
        input_shape=image_shape,
        optimizer=optimizer,
        step=step,
        evaluation=evaluate,
        best_metric=remover_phase.BEST_METRIC,
    )


def stored_detector_task(
    detector: nn.Module,
    remover: Remover,
    optimizer: optax.GradientTransformation,
    augment: Augment,
    *,
    image_shape: tuple[int, int, int],
    inputs: str = "image",
) -> Task:
    """Returns the task of training a detector on stored pairs, behind a remover.

    Its steps take `frozen = {"train", "validation", "remover"}`: images as for
    `stored_remover_task`, and the remover's variables.

    Args:
        detector: Two-class module; class 1 is degraded.
        remover: The frozen remover.
        optimizer: The detector's optimizer.
        augment: As for `stored_remover_task`.
        image_shape: `(H, W, C)` of the images.
        inputs: What the detector looks at, see `defense.detector_input`.
    """

    def features(frozen, images):
        return detector_input(images, remover.apply(frozen["remover"], images), inputs)

    def step(state: TrainState, frozen: Any, batch: Batch):
        key = jax.random.fold_in(state.key, state.step)
        pair = _pair(batch, frozen["train"], augment, key)
        images = jnp.stack(pair, axis=1).reshape(-1, *image_shape)
        labels = jnp.tile(jnp.asarray([0, 1], jnp.int32), pair[0].shape[0])
        x = features(frozen, images)
        state, sums = update_by_labels(state, optimizer, detector, x, labels)
        sums["accuracy"] = sums.pop("correct")  # As the logs of such runs have it.
        return state, sums

    def evaluate(variables: Any, frozen: Any, key: jax.Array, batch: Batch) -> Metrics:
        del key
        values = []
        for label, images in enumerate(_pair(batch, frozen["validation"])):
            logits = detector.apply(variables, features(frozen, images), train=False)
            labels = jnp.full(images.shape[0], label, jnp.int32)
            values.append(decisions(logits, labels))
        both = jax.tree.map(lambda a, b: (a + b) / 2, *values)
        return masked_sums(both, batch["mask"])

    height, width, channels = image_shape
    return Task(
        name="detector",
        module=detector,
        input_shape=(height, width, detector_channels(channels, inputs)),
        optimizer=optimizer,
        step=step,
        evaluation=evaluate,
        best_metric=detector_phase.BEST_METRIC,
    )


def _pair(
    batch: Batch,
    stored: jax.Array,
    augment: Augment | None = None,
    key: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Returns the images of a batch and their degraded copies, float in `[0, 1]`."""
    index = batch["index"]
    if stored.ndim == 5:
        copy = jnp.zeros_like(index)
        if key is not None:
            key, copy_key = jax.random.split(key)
            copy = jax.random.randint(copy_key, index.shape, 0, stored.shape[0])
        degraded = stored[copy, index]
    else:
        degraded = stored[index]
    pair = to_float(batch["image"]), to_float(degraded)
    images = jnp.concatenate(pair, axis=-1)
    if augment is not None:
        images = augment(key, images, index)
    clean, degraded = jnp.split(images, 2, axis=-1)
    return clean, degraded
