"""Adversarial training: the classifier learns images that PGD makes against it."""

import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from uronet_jax.attacks import balls
from uronet_jax.batches import check_number, check_whole
from uronet_jax.training.pairs import Pairs, clean_pairs
from uronet_jax.training.state import (
    Batch,
    Metrics,
    TrainState,
    decisions,
    masked_sums,
    update_by_labels,
)
from uronet_jax.training.task import Config, Phase, Shape, Task, build_classifier


def adversarial_training_task(
    classifier: nn.Module,
    optimizer: optax.GradientTransformation,
    pairs: Pairs | None = None,
    *,
    image_shape: Shape,
    epsilon: float,
    step_size: float,
    steps: int,
    norm: str = "linf",
) -> Task:
    """Returns the task of adversarial training (Madry et al., ICLR 2018).

    Every image is attacked by PGD from a random start, against the classifier in
    evaluation mode; the classifier learns the adversarial images alone. The step's
    metrics are `loss` and `correct` on them; the validation's `accuracy`, which ranks
    checkpoints, is that under the same attack, beside `clean_accuracy`.

    Args:
        classifier: The module that is trained.
        optimizer: Its optimizer.
        pairs: Where the images come from, of which the degraded ones are attacked; by
            default clean and not augmented.
        image_shape: `(H, W, C)`.
        epsilon: Largest norm of the perturbation, in units of the intensities.
        step_size: Norm of a step of PGD.
        steps: How many.
        norm: `linf` or `l2`.
    """
    pairs = clean_pairs() if pairs is None else pairs

    def attack(variables, key, images, batch):
        labels = batch["label"]

        def loss(moved):
            logits = classifier.apply(variables, moved, train=False)
            return decisions(logits, labels)["loss"].sum()

        def step(moved):
            uphill = step_size * balls.direction(jax.grad(loss)(moved), norm)
            return balls.move(moved, uphill, images, norm, epsilon)

        def unrolled(moved):
            for _ in range(steps):
                moved = step(moved)
            return moved

        def looped(moved):
            return jax.lax.fori_loop(0, steps, lambda _, x: step(x), moved)

        key = jax.random.fold_in(key, 0)  # The first run of `attacks.pgd`.
        start = balls.draw_uniform(key, batch["index"], image_shape, norm)
        start = jnp.clip(images + epsilon * start, 0.0, 1.0)
        # XLA's CPU backend runs convolutions in a loop several times slower.
        return jax.lax.platform_dependent(start, cpu=unrolled, default=looped)

    def step(state: TrainState, frozen: Any, batch: Batch):
        pair_key, key = jax.random.split(jax.random.fold_in(state.key, state.step))
        _, images = pairs.train(pair_key, frozen, batch)
        images = jax.lax.stop_gradient(attack(state.variables, key, images, batch))
        return update_by_labels(state, optimizer, classifier, images, batch["label"])

    def evaluate(variables: Any, frozen: Any, key: jax.Array, batch: Batch) -> Metrics:
        _, images = pairs.validation(key, frozen, batch)
        judge = functools.partial(classifier.apply, variables, train=False)
        found = decisions(judge(attack(variables, key, images, batch)), batch["label"])
        clean = decisions(judge(images), batch["label"])
        found["clean_accuracy"] = clean["accuracy"]
        return masked_sums(found, batch["mask"])

    best = ("accuracy", "max")
    return Task(
        "adversarial training",
        classifier,
        image_shape,
        optimizer,
        step,
        evaluate,
        best,
        pairs.frozen,
    )


def _make_task(config: Config, models: Mapping[str, Any], **given: Any) -> Task:
    del models
    module = build_classifier(config)
    return adversarial_training_task(module, **config["attack"], **given)


def _check(config: Config) -> None:
    attack = config["attack"]
    balls.check_norm(attack["norm"])
    for name in ("epsilon", "step_size"):
        largest = 1.0 if attack["norm"] == "linf" else math.inf
        check_number(f"attack.{name}", attack[name], 0.0, largest)
    check_whole("attack.steps", attack["steps"], 1, 1000)


ADVERSARIAL_TRAINING_PHASE = Phase(
    *("classifier", build_classifier, _make_task),
    check=_check,
    degrades=False,
    fields=(
        "model.name",
        *(f"attack.{name}" for name in ("norm", "epsilon", "step_size", "steps")),
    ),
)
