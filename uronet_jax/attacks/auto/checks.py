"""The checks of AutoAttack: its arguments, and what makes an evaluation misleading."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.tree_util import Partial

from uronet_jax import batches
from uronet_jax.attacks import loop
from uronet_jax.attacks.auto.batch import classify_batch, has_no_gradient
from uronet_jax.attacks.auto.state import AutoAttackTask, State
from uronet_jax.attacks.auto.versions import (
    PARAMETERS,
    TARGETED_DLR,
    VERSIONS,
    AttackStep,
    has_gradients,
)
from uronet_jax.attacks.objectives import (
    LEAST_CLASSES,
    LOSSES,
    check_classes,
    check_labels,
)

# Largest share of images without a gradient, and largest change of logits, in parts of
# the largest one, between two calls, that raise no suspicion.
_WITHOUT_GRADIENT, _SAME_LOGITS = 0.1, 1e-2
# Draws of a random classifier, from the AutoAttack paper.
_SAMPLES = 20


def check_version(
    version: str | Sequence[AttackStep], samples: int | None
) -> tuple[tuple[AttackStep, ...], int]:
    """Returns the checked steps and number of draws."""
    steps = version
    if isinstance(version, str):
        steps = VERSIONS[batches.known_name("version", version, VERSIONS)]
    steps = tuple(steps)
    if not steps or not all(isinstance(step, AttackStep) for step in steps):
        raise ValueError(f"version must be one or more AttackStep: {version!r}")
    for step in steps:
        _check_step(step)
    if samples is None:
        samples = _SAMPLES if version == "rand" else 0
    loop.check_count("samples", samples, 0)
    fixed = [step.name for step in steps if step.attack != "apgd"]
    if samples and fixed:
        raise ValueError(
            f"{', '.join(fixed)} cannot attack a random classifier: use version='rand' "
            "or steps of apgd, or samples=0"
        )
    if version == "rand" and not samples:
        raise ValueError("version 'rand' is for random classifiers: give samples")
    return steps, int(samples)


def _check_step(step):
    batches.known_name(f"attack of step {step.name!r},", step.attack, PARAMETERS)
    known = PARAMETERS[step.attack]
    unknown = sorted(set(step.parameters) - set(known))
    if unknown:
        raise ValueError(
            f"unknown parameters {unknown} of step {step.name!r}: {step.attack} takes "
            f"{', '.join(known)}"
        )
    parameters = step.all_parameters
    for name, value in parameters.items():
        if name in ("steps", "targets", "restarts") and value is not None:
            loop.check_count(name, value, int(name != "restarts"))
        elif name in ("rho", "initial_share"):
            batches.check_number(name, value, 0.0, 1.0)
    losses = (*LOSSES, TARGETED_DLR)
    loss = parameters.get("loss", losses[0])
    batches.known_name(f"loss of step {step.name!r},", loss, losses)


def check_data(
    images: Any, labels: Any, index: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the checked arrays on the host, with an index where none is given."""
    images = np.asarray(images)
    labels = np.asarray(check_labels(labels))
    index = None if index is None else np.asarray(index)
    batches.check_images(images, index)
    if len(labels) != len(images):
        raise ValueError(f"need one label per image: {len(labels)} for {len(images)}")
    index = np.arange(len(images)) if index is None else index
    return images.astype(np.float32), labels, index.astype(np.int32)


def check_classifier(task: AutoAttackTask) -> int:
    """Returns the number of classes, enough for all losses; nothing is computed."""
    logits_fn = task.logits_fn
    if task.samples:
        logits_fn = Partial(logits_fn, task.key)
    classes = check_classes(logits_fn, task.labels, task.images)
    for step in task.steps:
        least = LEAST_CLASSES.get(step.all_parameters.get("loss"), 2)
        if classes < least:
            other = (
                "a sequence of AttackStep of apgd with cross_entropy and with margin"
                if task.samples
                else "'few_classes'"
            )
            raise ValueError(
                f"the loss of {step.name} needs at least {least} classes, the "
                f"classifier has {classes}: give as version {other}"
            )
    return classes


def check_clean(task: AutoAttackTask, state: State, logits: np.ndarray) -> None:
    """Warns of what makes gradients or draws misleading, seen at the clean images."""
    totals = logits.sum(axis=1)
    if logits.min() >= 0 and logits.max() <= 1 and np.allclose(totals, 1, atol=1e-3):
        state.warn(
            "the logits are probabilities: their losses have vanishing gradients; "
            "leave the softmax out"
        )
    if (logits == np.round(logits)).all():
        state.warn(
            "the logits are whole numbers, like decisions: they have no gradients, and "
            "only square attacks such a classifier"
        )
    _check_randomness(task, state, logits)
    if has_gradients(task.steps) and state.robust.any():
        _check_gradients(task, state)


def _check_randomness(task, state, logits):
    rows = np.arange(min(task.batch_size, len(task.images)))
    before = logits[rows]
    if task.samples:
        other = task._replace(key=jax.random.fold_in(task.key, 2**31 - 1))
        if np.array_equal(before, classify_batch(other, rows)[0]):
            state.warn(
                "the classifier gives the same logits with every key: it is not "
                "random, and version='standard' is stronger"
            )
        return
    for anew in (False, True):
        change = np.abs(before - classify_batch(task, rows, anew=anew)[0]).max()
        if change > _SAME_LOGITS * np.abs(before).max():
            state.warn(
                "two calls of the classifier disagree: it is random, and attacks see "
                "one draw of it; make it a function of a key and use version='rand'"
            )
            return


def _check_gradients(task, state):
    losses = [step.all_parameters.get("loss") for step in task.steps]
    loss = next((name for name in losses if name in LOSSES), "margin")
    rows = np.flatnonzero(state.robust)[: task.batch_size]
    count = int(has_no_gradient(task, loss, rows).sum())
    if count > _WITHOUT_GRADIENT * len(rows):
        state.warn(
            f"the gradient of {loss} is zero at {count} of {len(rows)} clean images: "
            "attacks that need it are blind there"
        )
