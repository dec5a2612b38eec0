"""AutoAttack: an ensemble of attacks, each on the images that withstood those before.

A driver on the host: it gathers the images that still stand, attacks them in batches of
few shapes, and can write down after a while what was done, to go on there after a kill.
"""

import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from uronet_jax import batches
from uronet_jax.attacks import balls, loop
from uronet_jax.attacks.auto.batch import attack_batch, classify_batch
from uronet_jax.attacks.auto.checks import (
    check_classifier,
    check_clean,
    check_data,
    check_version,
)
from uronet_jax.attacks.auto.state import AutoAttackTask, State, StateFile
from uronet_jax.attacks.auto.versions import AttackStep, has_gradients
from uronet_jax.attacks.objectives import as_pytree, check_order, likeliest

# Seconds between two writes within an attack.
_SAVE_EVERY = 30.0


class AutoAttackResult(NamedTuple):
    """What AutoAttack found.

    Attributes:
        images: float32 `[N, H, W, C]`: an adversarial image where one was found, the
            image itself elsewhere.
        robust: bool `[N]`: classified right, and no attack changed that.
        log: One row for the clean images and one for each attack: `attack`, `norm`,
            `epsilon`, `attacked` (how many images), `robust` (how many stand after it),
            `robust_accuracy` (of all images) and `seconds`.
        warnings: Why the robust accuracy may be misleading; also given as
            `MisleadingEvaluation`.
    """

    images: np.ndarray
    robust: np.ndarray
    log: list[dict[str, Any]]
    warnings: list[str]


def autoattack(
    key: jax.Array,
    images: Any,
    logits_fn: Callable[..., jax.Array],
    labels: Any,
    *,
    epsilon: float,
    norm: str = "linf",
    version: str | Sequence[AttackStep] = "standard",
    batch_size: int = 128,
    samples: int | None = None,
    path: str | os.PathLike | None = None,
    progress: bool = False,
    log: Callable[[dict[str, Any]], None] | None = None,
    place: Callable[[np.ndarray], jax.Array] = jnp.asarray,
    index: Any = None,
) -> AutoAttackResult:
    """Attacks every image with a sequence of attacks until one succeeds.

    An image counts as broken if it is wrong in the end: every adversarial image is
    projected to the ball and to `[0, 1]` and classified once more. The attacks stop at
    the first success of an image, which changes no robust accuracy.

    Versions: `standard` is APGD with cross-entropy, APGD with the targeted DLR loss
    (9 targets), targeted FAB (9 targets) and Square (5,000 proposals). `plus` is APGD
    with cross-entropy and with DLR and FAB, five runs each, then Square and the
    targeted ones. `rand`, for random classifiers, is APGD with both losses and
    gradients averaged over draws. With fewer classes than targets and one, all wrong
    classes are targets. `few_classes`, for two or three (the targeted DLR loss needs
    four, DLR three), is APGD with cross-entropy and with the margin, FAB and Square.

    The result does not depend on how images are batched, up to rounding. The draws of
    a random classifier are its own: if an image's depend on the batch, so does the
    result.

    Args:
        key: Typed PRNG key.
        images: `[N, H, W, C]`, floating point, in `[0, 1]`; they stay on the host.
        logits_fn: `[B, H, W, C] -> [B, K]`, logits, no probabilities; a pytree such as
            `flax_logits` makes compiles once for all weights. Of a random classifier:
            `(key, images) -> [B, K]`.
        labels: Integer `[N]`, the right ones.
        epsilon: Largest norm of the perturbation, in units of the intensities.
        norm: `linf` or `l2`.
        version: Key of `VERSIONS`, or a sequence of `AttackStep`.
        batch_size: Images attacked together. The last batch is filled up to this, to
            its quarter or to its sixteenth.
        samples: Draws of a random classifier that losses and gradients are averaged
            over; it then counts as wrong if more than half of as many draws are. 0: the
            classifier is not random. By default 20 for `rand` and 0 otherwise.
        path: File of the state, written after each attack, and within one every
            half-minute. If it exists, the run goes on from there.
        progress: Whether to print a line per batch to standard error.
        log: Called with the row of every finished attack, after the state is written.
        place: Puts images of a batch on the devices, for example split over a mesh. The
            sizes of batches are then to be divisible by the number of devices.
        index: Integer `[N]`, global number of each image, for its random draws.
            Default: `0 .. N-1`.

    Returns:
        Adversarial images, which images are robust, and the log.

    Raises:
        ValueError: If an argument is wrong, the classifier has too few classes for a
            loss, or the file at `path` was begun with other arguments.
        NonFiniteError: If an attack meets a gradient that is not finite; with the
            positions in `images`. It is a `ValueError`.

    Source:
        Croce & Hein, "Reliable evaluation of adversarial robustness with an ensemble of
        diverse parameter-free attacks", ICML 2020.
    """
    check_order(images, logits_fn, labels)
    batches.check_key(key)
    steps, samples = check_version(version, samples)
    images, labels, index = check_data(images, labels, index)
    balls.check_norm(norm)
    loop.check_budget(epsilon, norm)
    loop.check_count("batch_size", batch_size)
    task = AutoAttackTask(
        key,
        images,
        labels,
        index,
        as_pytree(logits_fn),
        float(epsilon),
        norm,
        steps,
        int(batch_size),
        samples,
        place,
    )
    classes = check_classifier(task)
    file = None if path is None else StateFile(Path(path), task)
    state = None if file is None else file.load()
    began = time.perf_counter()
    logits, right = _clean(task)
    if state is None:
        state = State(images, right)
        check_clean(task, state, logits)
        state.seconds = time.perf_counter() - began
        _add_row(task, state, "clean")
    elif not np.array_equal(state.right, right):
        raise ValueError(
            f"{path} was begun with another classifier, which was right on other "
            "images: delete the file to start anew"
        )
    ranked = np.asarray(likeliest(jnp.asarray(logits), labels, classes - 1))
    while state.step < len(steps):
        _run_step(task, state, ranked, file, progress)
        if file is not None:
            file.save(state)
        if log is not None:
            log(dict(state.log[-1]))
    return AutoAttackResult(state.images, state.robust, state.log, state.warnings)


def _run_step(task, state, ranked, file, progress):
    """Attacks what still stands with one step of the sequence."""
    step = task.steps[state.step]
    ranks = step.targets_of_runs(ranked.shape[1])
    step_key = jax.random.fold_in(task.key, state.step)
    last_save = time.perf_counter()
    for run in range(state.run, len(ranks)):
        key = jax.random.fold_in(step_key, run)
        targets = ranked[:, ranks[run]]
        rows = np.flatnonzero(state.robust & ~state.done)
        for begin in range(0, len(rows), task.batch_size):
            began = time.perf_counter()
            batch = rows[begin : begin + task.batch_size]
            found, wrong = attack_batch(task, step, key, batch, targets)
            state.images[batch[wrong]] = found[wrong]
            state.robust[batch[wrong]] = False
            state.done[batch] = True
            state.seconds += time.perf_counter() - began
            if progress:
                print(
                    f"{step.name} run {run + 1} of {len(ranks)}: "
                    f"{len(rows) - begin - len(batch)} images to go, robust accuracy "
                    f"{state.robust.mean():.2%}, {state.seconds:.0f} s",
                    file=sys.stderr,
                    flush=True,
                )
            if file is not None and time.perf_counter() - last_save > _SAVE_EVERY:
                file.save(state)
                last_save = time.perf_counter()
        state.run, state.done = run + 1, np.zeros_like(state.done)
    broken = state.attacked - int(state.robust.sum())
    _add_row(task, state, step.name)
    if step.attack == "square" and broken and has_gradients(task.steps[: state.step]):
        state.warn(
            f"{step.name} broke {broken} images that withstood the attacks with "
            "gradients: the classifier may hide its gradients, and be less robust"
        )
    state.step, state.run = state.step + 1, 0


def _clean(task):
    """Returns the logits of all images, and which are classified right."""
    logits, right = [], []
    for begin in range(0, len(task.images), task.batch_size):
        rows = np.arange(begin, min(begin + task.batch_size, len(task.images)))
        of_rows, wrong = classify_batch(task, rows)
        bad = rows[~np.isfinite(of_rows).all(axis=1)]
        if bad.size:
            raise ValueError(
                f"the logits of {bad.size} clean images are not finite, the first "
                f"{bad[:5].tolist()}: check the network there"
            )
        logits.append(of_rows)
        right.append(~wrong)
    return np.concatenate(logits), np.concatenate(right)


def _add_row(task, state, attack):
    """Notes what an attack did, and that the next one begins."""
    standing = int(state.robust.sum())
    state.log.append(
        {
            "attack": attack,
            "norm": task.norm,
            "epsilon": task.epsilon,
            "attacked": 0 if attack == "clean" else state.attacked,
            "robust": standing,
            "robust_accuracy": standing / len(state.robust),
            "seconds": state.seconds,
        }
    )
    state.attacked, state.seconds = standing, 0.0
