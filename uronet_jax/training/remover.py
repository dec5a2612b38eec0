"""The remover learns to separate degraded images."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from uronet_jax.image_quality import psnr
from uronet_jax.models import Remover, compute_dtype, make_remover
from uronet_jax.training.losses import (
    LossInputs,
    asks_classifier,
    check_weights,
    weigh,
)
from uronet_jax.training.pairs import Pairs
from uronet_jax.training.state import (
    Batch,
    Metrics,
    TrainState,
    apply_update,
    masked_sums,
)
from uronet_jax.training.task import Config, Phase, Shape, Task

# The paper's: the errors of picture and noise pattern, alike.
USUAL_LOSSES = {"clean_mse": 1.0, "noise_mse": 1.0}


def remover_task(
    remover: Remover,
    optimizer: optax.GradientTransformation,
    pairs: Pairs,
    *,
    image_shape: Shape,
    losses: Mapping[str, float] = USUAL_LOSSES,
    classifier: nn.Module | None = None,
    classifier_variables: Any = None,
) -> Task:
    """Returns the task of training a remover: a weighted sum of losses.

    With the usual ones it is `MSE(clean_hat, clean) + MSE(code_hat, code)`, where
    `code = (noise + 1) / 2` is the signed pattern `degraded - clean` as the sigmoid
    head can express it (URoNet, equation 1; the code is our reading). The metrics are
    the losses, those that ask a classifier in the step alone, and their weighted sum
    `loss`; the validation adds `psnr` in dB.

    Args:
        remover: The module that is trained.
        optimizer: Its optimizer.
        pairs: Where clean and degraded images come from.
        image_shape: `(H, W, C)`.
        losses: Name in `losses.PURIFIER_LOSSES` -> weight. A remover without noise head
            is trained without `noise_mse`.
        classifier: A frozen classifier, for the losses that ask it.
        classifier_variables: Its variables.

    Raises:
        ValueError: If a weight is wrong, or a loss asks for a classifier and there is
            none.
    """
    losses = _of_heads(remover, losses)
    check_weights(losses)
    if asks_classifier(losses) and classifier is None:
        raise ValueError("a consistency term needs a frozen classifier: give one")

    def step(state: TrainState, frozen: Any, batch: Batch):
        key = jax.random.fold_in(state.key, state.step)
        clean, degraded = pairs.train(key, frozen, batch)
        classify = None
        if classifier is not None:
            classify = functools.partial(
                classifier.apply, frozen["classifier"], train=False
            )

        def loss_fn(params):
            separation = remover.apply({"params": params}, degraded)
            found = weigh(losses, LossInputs(separation, clean, degraded, classify))
            metrics = masked_sums(found, jnp.ones(clean.shape[0], bool))
            return found["loss"].mean(), (state.batch_stats, metrics)

        return apply_update(state, optimizer, loss_fn)

    def evaluate(variables: Any, frozen: Any, key: jax.Array, batch: Batch) -> Metrics:
        clean, degraded = pairs.validation(key, frozen, batch)
        separation = remover.apply({"params": variables["params"]}, degraded)
        found = weigh(losses, LossInputs(separation, clean, degraded))
        quality = {"psnr": psnr(separation.clean, clean)}
        return masked_sums(found | quality, batch["mask"])

    frozen = dict(pairs.frozen)
    if classifier is not None:
        frozen["classifier"] = classifier_variables
    best = ("loss", "min")
    return Task(
        "remover", remover, image_shape, optimizer, step, evaluate, best, frozen
    )


def _of_heads(remover: Remover, losses: Mapping[str, float]) -> dict[str, float]:
    """Returns the weights, without that of a head that the remover lacks."""
    return {k: v for k, v in losses.items() if remover.noise_head or k != "noise_mse"}


def _build(config: Config) -> Remover:
    model = config["model"]
    return make_remover(
        model["variant"],
        widths=model["widths"],
        mirror=model.get("mirror", False),
        clean_mean=config["resolved"]["clean_mean"],
        dtype=compute_dtype(config["dtype"]),
    )


def _needs(config: Config) -> dict[str, str]:
    if not asks_classifier(config["loss"]):
        return {}
    if not config.get("classifier"):
        raise ValueError(
            "loss.inconsistency and loss.instability ask a classifier: set "
            "config.classifier to the folder of its run or a file of PyTorch weights, "
            "or the weight to 0"
        )
    return {"classifier": config["classifier"]}


def _make_task(config: Config, models: Mapping[str, Any], **given: Any) -> Task:
    classifier = models.get("classifier")
    return remover_task(
        # Mirror images serve who purifies; training sees images one way.
        _build(config).clone(mirror=False),
        losses=config["loss"],
        classifier=classifier and classifier.module,
        classifier_variables=classifier and classifier.variables,
        **given,
    )


def _check(config: Config) -> None:
    check_weights(config["loss"])
    check_weights(_of_heads(_build(config), config["loss"]))
    if not isinstance(config["model"].get("mirror", False), bool):
        raise ValueError(
            f"model.mirror must be True or False: {config['model']['mirror']!r}"
        )


REMOVER_PHASE = Phase(
    *("purifier", _build, _make_task, _needs, _check),
    fields=("model.variant", "model.widths", "loss"),
)
