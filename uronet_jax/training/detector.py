"""The detector learns to tell clean from degraded, behind a frozen purifier."""

from collections.abc import Mapping
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
    Metrics,
    TrainState,
    decisions,
    masked_sums,
    update_by_labels,
)
from uronet_jax.training.task import Config, Phase, Shape, Task


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

    Cross-entropy on balanced pairs: every image of the batch enters twice, clean (label
    0) and degraded (label 1). The step's metrics, `loss` and `correct`, are sums over
    twice the batch; the validation's, `loss` and `accuracy`, are each the mean of an
    image's clean and degraded copy.

    Args:
        detector: Two-class module that is trained.
        purifier: The frozen purifier, see `purifiers.as_purifier`.
        purifier_variables: Its variables; None if it has none.
        optimizer: The detector's optimizer.
        pairs: Where clean and degraded images come from.
        image_shape: `(H, W, C)` of the images.
        inputs: What the detector looks at, see `defense.detector_input`.
    """
    purifier = as_purifier(purifier)

    def look(frozen, images, key, index):
        separation = purifier(frozen["purifier"], images, key, index)
        return detector_input(images, separation, inputs)

    def step(state: TrainState, frozen: Any, batch: Batch):
        key = jax.random.fold_in(state.key, state.step)
        clean, degraded = pairs.train(key, frozen, batch)
        # Pairs side by side, not clean after degraded: so no image has to move to
        # another device.
        images = jnp.stack([clean, degraded], axis=1).reshape(-1, *clean.shape[1:])
        labels = jnp.tile(jnp.asarray([0, 1], jnp.int32), clean.shape[0])
        index = jnp.repeat(2 * batch["index"], 2) + labels
        features = look(frozen, images, key, index)
        return update_by_labels(state, optimizer, detector, features, labels)

    def evaluate(variables: Any, frozen: Any, key: jax.Array, batch: Batch) -> Metrics:
        values = []
        for label, images in enumerate(pairs.validation(key, frozen, batch)):
            features = look(frozen, images, key, batch["index"])
            logits = detector.apply(variables, features, train=False)
            labels = jnp.full(images.shape[0], label, jnp.int32)
            values.append(decisions(logits, labels))
        both = jax.tree.map(lambda a, b: (a + b) / 2, *values)
        return masked_sums(both, batch["mask"])

    return Task(
        "detector",
        detector,
        (*image_shape[:2], detector_channels(image_shape[2], inputs)),
        optimizer,
        step,
        evaluate,
        ("accuracy", "max"),
        {**pairs.frozen, "purifier": purifier_variables},
    )


def _build(config: Config) -> nn.Module:
    dtype = compute_dtype(config["dtype"])
    return make_classifier(config["model"]["name"], 2, dtype=dtype)


def _needs(config: Config) -> dict[str, str]:
    if not config.get("purifier"):
        raise ValueError(
            "a detector looks at a purifier's noise pattern: set config.purifier to "
            "the folder of a run or a transformation"
        )
    return {"purifier": config["purifier"]}


def _make_task(config: Config, models: Mapping[str, Any], **given: Any) -> Task:
    purifier, inputs = models["purifier"], config["model"]["inputs"]
    return detector_task(
        _build(config), purifier.module, purifier.variables, inputs=inputs, **given
    )


def _input_shape(config: Config, shape: Shape) -> Shape:
    return (*shape[:2], detector_channels(shape[2], config["model"]["inputs"]))


def _check(config: Config) -> None:
    _input_shape(config, (1, 1, 3))  # Raises where it does not know the inputs.
    fields = config.get("degradation") or {}
    for name in ("clean_entries", "clean_share"):
        if fields.get(name):
            raise ValueError(
                f"degradation.{name} ({fields[name]}) would have a detector learn that "
                "clean images are degraded: set it to 0"
            )


DETECTOR_PHASE = Phase(
    *("detector", _build, _make_task, _needs, _check, _input_shape),
    fields=("model.name", "model.inputs"),
)
