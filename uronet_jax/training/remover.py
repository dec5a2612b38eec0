"""Phase 1: the remover learns to separate degraded images."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from uronet_jax.evaluation.metrics import psnr
from uronet_jax.models import Remover, Separation
from uronet_jax.training.pairs import Pairs
from uronet_jax.training.state import (
    Batch,
    Evaluation,
    Metrics,
    Step,
    TrainState,
    apply_update,
    masked_sums,
)

# The validation metric by which the best checkpoint is chosen, and its sense.
BEST_METRIC = ("loss", "min")


def make_remover_step(
    remover: Remover,
    optimizer: optax.GradientTransformation,
    pairs: Pairs,
    *,
    noise_weight: float = 1.0,
    classifier: nn.Module | None = None,
    consistency_weight: float = 0.0,
) -> Step:
    """Builds the update of the remover: two mean squared errors.

    The loss is `MSE(clean_hat, clean) + noise_weight * MSE(code_hat, code)`, where
    `code = (noise + 1) / 2` is the signed pattern `degraded - clean` as the sigmoid
    head can express it (URoNet, equation 1; the code is our reading).

    Args:
        remover: The module that is trained.
        optimizer: Its optimizer.
        pairs: Where clean and degraded images come from.
        noise_weight: Weight of the second term; 1 in the paper. A remover without
            noise head is trained on the first term alone.
        classifier: A frozen classifier; needed for the next.
        consistency_weight: Weight of a third term, the Kullback-Leibler divergence of
            what the classifier says to the purified picture from what it says to the
            clean one. No label is used.

    Returns:
        `step(state, frozen, batch) -> (state, metrics)` where `frozen` is a dict of
        what `pairs` need; with a consistency weight also `frozen["classifier"]`, the
        classifier's variables. Metrics are sums over the global batch plus `count`.

    Raises:
        ValueError: If there is a consistency weight and no classifier.
    """
    if consistency_weight and classifier is None:
        raise ValueError("a consistency term needs a frozen classifier: give one")

    def step(state: TrainState, frozen: Any, batch: Batch):
        key = jax.random.fold_in(state.key, state.step)
        clean, degraded = pairs.train(key, frozen, batch)

        def loss_fn(params):
            separation = remover.apply({"params": params}, degraded)
            errors = separation_errors(
                remover, separation, clean, degraded, noise_weight
            )
            if consistency_weight:
                divergence = _inconsistency(
                    classifier, frozen["classifier"], separation.clean, clean
                )
                errors["loss"] += consistency_weight * divergence
                errors["inconsistency"] = divergence
            everything = jnp.ones(clean.shape[0], bool)
            metrics = masked_sums(errors, everything)
            return errors["loss"].mean(), (state.batch_stats, metrics)

        return apply_update(state, optimizer, loss_fn)

    return step


def make_remover_evaluation(
    remover: Remover, pairs: Pairs, *, noise_weight: float = 1.0
) -> Evaluation:
    """Builds the validation of the remover; arguments as for the step.

    Returns:
        `evaluate(variables, frozen, key, batch) -> sums` over the images that
        `batch["mask"]` keeps: the two errors, the loss, `psnr` in dB and `count`.
    """

    def evaluate(variables: Any, frozen: Any, key: jax.Array, batch: Batch) -> Metrics:
        clean, degraded = pairs.validation(key, frozen, batch)
        separation = remover.apply({"params": variables["params"]}, degraded)
        errors = separation_errors(remover, separation, clean, degraded, noise_weight)
        quality = {"psnr": psnr(separation.clean, clean)}
        return masked_sums(errors | quality, batch["mask"])

    return evaluate


def separation_errors(
    remover: Remover,
    separation: Separation,
    clean: jax.Array,
    degraded: jax.Array,
    noise_weight: float,
) -> Metrics:
    """Returns the errors of every image, `[B]` each, and the loss they make.

    Args:
        remover: The module; without noise head the loss is the first error alone.
        separation: What it made of the degraded images.
        clean: `[B, H, W, C]`.
        degraded: `[B, H, W, C]`.
        noise_weight: Weight of the noise pattern's error in the loss.
    """
    clean_mse = _mse(separation.clean, clean)
    # Half the difference of the patterns is the difference of their codes.
    noise_mse = _mse(separation.noise / 2, (degraded - clean) / 2)
    loss = clean_mse
    if remover.noise_head:
        loss = loss + noise_weight * noise_mse
    return {"loss": loss, "clean_mse": clean_mse, "noise_mse": noise_mse}


def _inconsistency(
    classifier: nn.Module, variables: Any, purified: jax.Array, clean: jax.Array
) -> jax.Array:
    """Returns the Kullback-Leibler divergence of the classifier's answers, `[B]`."""

    def answer(images):
        logits = classifier.apply(variables, images, train=False)
        return nn.log_softmax(logits.astype(jnp.float32))

    expected, found = answer(clean), answer(purified)
    return jnp.sum(jnp.exp(expected) * (expected - found), axis=-1)


def _mse(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.mean(jnp.square(a - b), axis=(1, 2, 3))
