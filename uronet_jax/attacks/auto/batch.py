"""What AutoAttack does with one batch: fill it up, attack it, classify it."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from uronet_jax.attacks import balls, loop
from uronet_jax.attacks.apgd import apgd
from uronet_jax.attacks.auto.state import Task
from uronet_jax.attacks.auto.versions import TARGETED_DLR, AttackStep
from uronet_jax.attacks.fab import fab
from uronet_jax.attacks.objectives import (
    LossFn,
    count_classes,
    is_wrong,
    misclassification,
    targeted_misclassification,
)
from uronet_jax.attacks.square import square

# The last batch has the smallest of these parts of the batch size that it fits in.
_PARTS = (16, 4, 1)


class Batch(NamedTuple):
    """What of the arguments belongs to the rows of one batch."""

    images: jax.Array
    labels: np.ndarray
    targets: np.ndarray | None
    index: np.ndarray


def attack_batch(
    task: Task, step: AttackStep, key: jax.Array, rows: np.ndarray, targets: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns adversarial images of the rows, and which of them are wrong.

    Args:
        task: The arguments.
        step: The attack.
        key: Typed PRNG key.
        rows: Integer, which of the images, at most a batch of them.
        targets: Integer `[N]`, the wrong class that each of all images is to get.

    Raises:
        NonFiniteError: If a gradient is not finite; with the positions in all images.
    """
    padded = fill_up(rows, task.batch_size)
    batch = Batch(
        task.place(task.images[padded]),
        task.labels[padded],
        targets[padded],
        task.index[padded],
    )
    attack_key, check_key = jax.random.split(key)
    try:
        found = _ATTACKS[step.attack](task, step.all_parameters, attack_key, batch)
    except loop.NonFiniteError as error:
        # What fills up the batch stands for the image that it is a copy of.
        bad = np.unique(padded[error.positions])
        raise loop.NonFiniteError(bad, f"{step.name}: ") from None
    found, wrong = _verify(
        task.logits_fn,
        check_key,
        found,
        batch.images,
        batch.labels,
        task.epsilon,
        norm=task.norm,
        samples=task.samples,
    )
    return np.asarray(found)[: len(rows)], np.asarray(wrong)[: len(rows)]


def fill_up(rows: np.ndarray, batch_size: int) -> np.ndarray:
    """Returns the rows filled up with the first, to one of few sizes.

    A copy of an image goes the way of the image, so it holds up no batch.
    """
    sizes = [-(-batch_size // part) for part in _PARTS]
    size = min(size for size in sizes if size >= len(rows))
    return np.concatenate([rows, np.repeat(rows[:1], size - len(rows))])


def _apgd(task, parameters, key, batch):
    loss_fn = make_loss(task, parameters["loss"], batch)
    return apgd(
        key,
        batch.images,
        loss_fn,
        epsilon=task.epsilon,
        norm=task.norm,
        steps=parameters["steps"],
        samples=task.samples,
        rho=parameters["rho"],
        index=batch.index,
    )


def _fab(task, parameters, key, batch):
    targets = parameters["targets"]
    if targets is not None:
        classes = count_classes(task.logits_fn, batch.images)
        targets = min(targets, classes - 1)
    return fab(
        key,
        batch.images,
        task.logits_fn,
        batch.labels,
        norm=task.norm,
        steps=parameters["steps"],
        restarts=parameters["restarts"],
        targets=targets,
        epsilon=task.epsilon,
        index=batch.index,
    )


def _square(task, parameters, key, batch):
    return square(
        key,
        batch.images,
        make_loss(task, "margin", batch),
        epsilon=task.epsilon,
        norm=task.norm,
        steps=parameters["steps"],
        initial_share=parameters["initial_share"],
        rescale_schedule=parameters["rescale_schedule"],
        index=batch.index,
    )


_ATTACKS = {"apgd": _apgd, "fab": _fab, "square": _square}


def make_loss(task: Task, loss: str, batch: Batch) -> LossFn:
    """Returns a loss function of the classifier; of a random one `(key, images) ->`.

    Args:
        task: The arguments.
        loss: Key of `LOSSES`, or `targeted_dlr`, which needs the targets.
        batch: The images.
    """
    if loss == TARGETED_DLR:
        loss_fn = targeted_misclassification(
            task.logits_fn, batch.labels, batch.targets
        )
    else:
        loss_fn = misclassification(task.logits_fn, batch.labels, loss=loss)
    return Partial(_random_loss, loss_fn) if task.samples else loss_fn


def _random_loss(loss_fn, key, images):
    return loss_fn.replace(logits_fn=functools.partial(loss_fn.logits_fn, key))(images)


def _classify(logits_fn, key, images, labels, samples):
    """Returns logits and which images are wrong: of a random one, in most draws."""
    if not samples:
        logits = logits_fn(images)
        return logits, is_wrong(logits, labels)

    def draw(key):
        logits = logits_fn(key, images)
        return logits, is_wrong(logits, labels).astype(jnp.float32)

    draws = jax.lax.map(draw, jax.random.split(key, samples))
    logits, wrong = jax.tree.map(lambda x: x.mean(axis=0), draws)
    return logits, wrong > 0.5


_classify_jit = functools.partial(jax.jit, static_argnums=4)(_classify)


@functools.partial(jax.jit, static_argnames=("norm", "samples"))
def _verify(logits_fn, key, found, images, labels, epsilon, *, norm, samples):
    """Returns the images found, projected to ball and box, and which are wrong."""
    inside = balls.project(found - images, norm, epsilon)
    found = jnp.clip(images + inside, 0.0, 1.0)
    return found, _classify(logits_fn, key, found, labels, samples)[1]


def classify_batch(
    task: Task, rows: np.ndarray, *, anew: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Returns logits of clean images, `[n, K]`, and which of them are wrong.

    Args:
        task: The arguments.
        rows: Integer `[n]`, which of the images, at most a batch of them.
        anew: Whether to trace the classifier anew, which shows randomness from outside
            JAX.
    """
    padded = fill_up(rows, task.batch_size)
    program = _classify_jit
    if anew:  # No program is known of a new function object.
        program = jax.jit(lambda *args: _classify(*args), static_argnums=4)
    results = program(
        task.logits_fn,
        jax.random.fold_in(task.key, len(task.steps)),
        task.place(task.images[padded]),
        task.labels[padded],
        task.samples,
    )
    return tuple(np.asarray(x)[: len(rows)] for x in results)
