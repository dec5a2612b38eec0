"""What AutoAttack does with one batch: fill it up, attack it, classify it."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from uronet_jax.attacks import balls, loop
from uronet_jax.attacks.apgd import apgd
from uronet_jax.attacks.auto.state import AutoAttackTask
from uronet_jax.attacks.auto.versions import TARGETED_DLR, AttackStep
from uronet_jax.attacks.fab import fab
from uronet_jax.attacks.objectives import (
    RandomLoss,
    is_wrong,
    misclassification,
    targeted_misclassification,
)
from uronet_jax.attacks.square import square

# The last batch has the smallest of these parts of the batch size that it fits in.
_PARTS = (16, 4, 1)


class _Batch(NamedTuple):
    """What of the task belongs to some rows, filled up to one of few sizes."""

    images: jax.Array
    labels: np.ndarray
    targets: np.ndarray | None
    index: np.ndarray


def _take(task, rows, targets=None):
    """Returns the rows, and the batch of them filled up with the first.

    A copy of an image goes the way of the image, so it holds up no batch.
    """
    sizes = [-(-task.batch_size // part) for part in _PARTS]
    size = min(size for size in sizes if size >= len(rows))
    rows = np.concatenate([rows, np.repeat(rows[:1], size - len(rows))])
    return rows, _Batch(
        task.place(task.images[rows]),
        task.labels[rows],
        None if targets is None else targets[rows],
        task.index[rows],
    )


def attack_batch(
    task: AutoAttackTask,
    step: AttackStep,
    key: jax.Array,
    rows: np.ndarray,
    targets: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns adversarial images of at most a batch of rows, and which are wrong.

    Targets are the wrong classes `[N]` that all images are to get, if the loss is a
    targeted one. A `NonFiniteError` has the positions in all images.
    """
    padded, batch = _take(task, rows, targets)
    attack_key, check_key = jax.random.split(key)
    try:
        found = _attack(task, step, attack_key, batch)
    except loop.NonFiniteError as error:
        # What fills up the batch stands for the image that it is a copy of.
        bad = np.unique(padded[error.positions])
        raise loop.NonFiniteError(bad, f"{step.name}: ") from None
    usual = {"norm": task.norm, "samples": task.samples}
    found, wrong = _verify(
        task.logits_fn, check_key, found, *batch[:2], task.epsilon, **usual
    )
    return np.asarray(found)[: len(rows)], np.asarray(wrong)[: len(rows)]


def _attack(task, step, key, batch):
    parameters = step.all_parameters
    parameters |= {"epsilon": task.epsilon, "norm": task.norm, "index": batch.index}
    if step.attack == "fab":
        return fab(key, batch.images, task.logits_fn, batch.labels, **parameters)
    # A step with restarts or targets comes here once for each of its runs.
    del parameters["restarts"]
    if step.attack == "square":
        return square(
            key, batch.images, _make_loss(task, "margin", batch), **parameters
        )
    del parameters["targets"]
    loss_fn = _make_loss(task, parameters.pop("loss"), batch)
    return apgd(key, batch.images, loss_fn, samples=task.samples, **parameters)


def _make_loss(task, loss, batch):
    """Returns a loss function of the classifier; of a random one `(key, images) ->`."""
    classifier = task.logits_fn, batch.labels
    if loss == TARGETED_DLR:
        loss_fn = targeted_misclassification(*classifier, batch.targets)
    else:
        loss_fn = misclassification(*classifier, loss=loss)
    return RandomLoss(loss_fn) if task.samples else loss_fn


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
    task: AutoAttackTask, rows: np.ndarray, *, anew: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Returns logits of clean images, at most a batch, and which of them are wrong.

    The classifier may be traced `anew`, which shows randomness from outside JAX.
    """
    _, batch = _take(task, rows)
    program = _classify_jit
    if anew:  # No program is known of a new function object.
        program = jax.jit(lambda *args: _classify(*args), static_argnums=4)
    key = jax.random.fold_in(task.key, len(task.steps))
    results = program(task.logits_fn, key, batch.images, batch.labels, task.samples)
    return tuple(np.asarray(x)[: len(rows)] for x in results)


def has_no_gradient(task: AutoAttackTask, loss: str, rows: np.ndarray) -> np.ndarray:
    """Returns where, of at most a batch of clean images, a key of `LOSSES` is flat."""
    _, batch = _take(task, rows)
    key = jax.random.fold_in(task.key, len(task.steps) + 1)
    loss_fn = _make_loss(task, loss, batch)
    zero = _gradient_is_zero(loss_fn, key, batch.images, task.samples)
    return np.asarray(zero)[: len(rows)]


@functools.partial(jax.jit, static_argnums=3)
def _gradient_is_zero(loss_fn, key, images, samples):
    gradient = loop.evaluate(loss_fn, images, key, samples).gradient
    return balls.size(gradient, "linf") == 0
