"""AutoAttack: an ensemble of attacks, each on the images that withstood those before.

A driver on the host: it gathers the images that still stand, attacks them in batches of
few shapes, and can write down after a while what was done, to go on there after a kill.
"""

import functools
import hashlib
import json
import os
import sys
import time
import warnings
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from uronet_jax import batches
from uronet_jax.attacks import balls, loop
from uronet_jax.attacks.apgd import apgd
from uronet_jax.attacks.fab import fab
from uronet_jax.attacks.objectives import (
    LEAST_CLASSES,
    LOSSES,
    as_pytree,
    check_classes,
    check_labels,
    count_classes,
    is_wrong,
    likeliest,
    misclassification,
    targeted_misclassification,
)
from uronet_jax.attacks.square import square

_TARGETED_DLR = "targeted_dlr"
# The last batch has the smallest of these parts of the batch size that it fits in.
_PARTS = (16, 4, 1)
# Seconds between two writes within an attack.
_SAVE_EVERY = 30.0
# Largest share of images without a gradient, and largest change of logits, in parts of
# the largest one, between two calls, that raise no suspicion.
_WITHOUT_GRADIENT, _SAME_LOGITS = 0.1, 1e-2
# Parameters of a step, with their values if they are not given.
_PARAMETERS: dict[str, dict[str, Any]] = {
    "apgd": {
        "loss": "cross_entropy",
        "steps": 100,
        "restarts": 0,
        "targets": 9,
        "rho": 0.75,
    },
    "fab": {"steps": 100, "restarts": 0, "targets": None},
    "square": {
        "steps": 5000,
        "restarts": 0,
        "initial_share": 0.8,
        "rescale_schedule": False,
    },
}
# Draws of a random classifier, from the AutoAttack paper.
_SAMPLES = 20


class MisleadingEvaluation(UserWarning):
    """Says that the robust accuracy may be higher than the classifier is robust."""


class AttackStep(NamedTuple):
    """One attack of the ensemble.

    Attributes:
        name: What its row is called.
        attack: `apgd`, `fab` or `square`.
        parameters: Of the attack; what is missing is as in the standard version. All
            take `steps` and `restarts`. `apgd`: `loss`, a key of `LOSSES` or
            `targeted_dlr`, `targets` of the latter (the likeliest wrong classes at the
            clean image, with a run for each), `rho`. `fab`: `targets`, or None for the
            untargeted attack. `square`: `initial_share`, `rescale_schedule`.
    """

    name: str
    attack: str
    parameters: Mapping[str, Any] = {}


_APGD_TARGETED = AttackStep("apgd-t", "apgd", {"loss": _TARGETED_DLR, "targets": 9})
_FAB_TARGETED = AttackStep("fab-t", "fab", {"targets": 9})
_SQUARE = AttackStep("square", "square")

VERSIONS: dict[str, tuple[AttackStep, ...]] = {
    "standard": (
        AttackStep("apgd-ce", "apgd", {"loss": "cross_entropy"}),
        _APGD_TARGETED,
        _FAB_TARGETED,
        _SQUARE,
    ),
    "plus": (
        AttackStep("apgd-ce", "apgd", {"loss": "cross_entropy", "restarts": 4}),
        AttackStep("apgd-dlr", "apgd", {"loss": "dlr", "restarts": 4}),
        AttackStep("fab", "fab", {"restarts": 4}),
        _SQUARE,
        _APGD_TARGETED,
        _FAB_TARGETED,
    ),
    "rand": (
        AttackStep("apgd-ce", "apgd", {"loss": "cross_entropy"}),
        AttackStep("apgd-dlr", "apgd", {"loss": "dlr"}),
    ),
}


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
    labels: Any,
    logits_fn: Callable[..., jax.Array],
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
    classes are targets.

    The result does not depend on how images are batched, up to rounding. The draws of
    a random classifier are its own: if an image's depend on the batch, so does the
    result.

    Args:
        key: Typed PRNG key.
        images: `[N, H, W, C]`, floating point, in `[0, 1]`; they stay on the host.
        labels: Integer `[N]`, the right ones.
        logits_fn: `[B, H, W, C] -> [B, K]`, logits, no probabilities; a pytree such as
            `flax_logits` makes compiles once for all weights. Of a random classifier:
            `(key, images) -> [B, K]`.
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
    if callable(labels) and not callable(logits_fn):
        raise ValueError("labels come before logits_fn here: they are swapped")
    steps, samples = _check_version(version, samples)
    images, labels, index = _check_data(images, labels, index)
    balls.check_norm(norm)
    loop.check_budget(epsilon, norm)
    loop.check_count("batch_size", batch_size)
    task = _Task(
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
    classes = _check_classifier(task)
    file = None if path is None else _File(Path(path), task)
    state = None if file is None else file.load()
    began = time.perf_counter()
    logits, right = _clean(task)
    if state is None:
        state = _State(images, right)
        _check_clean(task, state, logits)
        _add_row(task, state, "clean", time.perf_counter() - began)
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


class _Task(NamedTuple):
    """The arguments, checked."""

    key: jax.Array
    images: np.ndarray
    labels: np.ndarray
    index: np.ndarray
    logits_fn: Any
    epsilon: float
    norm: str
    steps: tuple[AttackStep, ...]
    batch_size: int
    samples: int
    place: Callable[[np.ndarray], jax.Array]


class _State:
    """What was done so far: all that changes."""

    def __init__(self, images: np.ndarray, right: np.ndarray):
        self.images = images.copy()
        self.right = right
        self.robust = right.copy()
        self.log: list[dict[str, Any]] = []
        self.warnings: list[str] = []
        # Of the step in progress: the run, and which images this run has attacked.
        self.step = 0
        self.run = 0
        self.done = np.zeros(len(right), bool)
        self.attacked = int(right.sum())
        self.seconds = 0.0

    def warn(self, message: str) -> None:
        """Notes a reason for doubt, and warns."""
        self.warnings.append(message)
        warnings.warn(message, MisleadingEvaluation, stacklevel=2)


def _run_step(task, state, ranked, file, progress):
    """Attacks what still stands with one step of the sequence."""
    step = task.steps[state.step]
    ranks = _targets_of_runs(step, ranked.shape[1])
    step_key = jax.random.fold_in(task.key, state.step)
    last_save = time.perf_counter()
    for run in range(state.run, len(ranks)):
        key = jax.random.fold_in(step_key, run)
        targets = ranked[:, ranks[run]]
        rows = np.flatnonzero(state.robust & ~state.done)
        for begin in range(0, len(rows), task.batch_size):
            began = time.perf_counter()
            batch = rows[begin : begin + task.batch_size]
            found, wrong = _attack_batch(task, step, key, batch, targets)
            state.images[batch[wrong]] = found[wrong]
            state.robust[batch[wrong]] = False
            state.done[batch] = True
            state.seconds += time.perf_counter() - began
            if progress:
                _print(state, step, run, len(ranks), len(rows) - begin - len(batch))
            if file is not None and time.perf_counter() - last_save > _SAVE_EVERY:
                file.save(state)
                last_save = time.perf_counter()
        state.run, state.done = run + 1, np.zeros_like(state.done)
    broken = state.attacked - int(state.robust.sum())
    _add_row(task, state, step.name, state.seconds)
    if step.attack == "square" and broken and _has_gradients(task.steps[: state.step]):
        state.warn(
            f"{step.name} broke {broken} images that withstood the attacks with "
            "gradients: the classifier may hide its gradients, and be less robust"
        )
    state.step, state.run, state.seconds = state.step + 1, 0, 0.0
    state.attacked = int(state.robust.sum())


def _targets_of_runs(step, wrong_classes):
    """Returns for each run which of the likeliest wrong classes it pursues, from 0."""
    parameters = _parameters(step)
    if step.attack == "fab":  # It goes through its runs itself.
        return [0]
    runs = parameters["restarts"] + 1
    if parameters.get("loss") == _TARGETED_DLR:
        return list(range(min(parameters["targets"], wrong_classes))) * runs
    return [0] * runs


def _attack_batch(task, step, key, rows, targets):
    """Returns adversarial images of the rows, and which of them are wrong."""
    padded = _padded(rows, task.batch_size)
    batch = _Batch(
        task.place(task.images[padded]),
        task.labels[padded],
        targets[padded],
        task.index[padded],
    )
    attack_key, check_key = jax.random.split(key)
    try:
        found = _ATTACKS[step.attack](task, _parameters(step), attack_key, batch)
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


class _Batch(NamedTuple):
    images: jax.Array
    labels: np.ndarray
    targets: np.ndarray
    index: np.ndarray


def _padded(rows, batch_size):
    """Returns the rows filled up with the first, to one of few sizes.

    A copy of an image goes the way of the image, so it holds up no batch.
    """
    sizes = [-(-batch_size // part) for part in _PARTS]
    size = min(size for size in sizes if size >= len(rows))
    return np.concatenate([rows, np.repeat(rows[:1], size - len(rows))])


def _apgd(task, parameters, key, batch):
    loss_fn = _loss_fn(task, parameters["loss"], batch)
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
        _loss_fn(task, "margin", batch),
        epsilon=task.epsilon,
        norm=task.norm,
        steps=parameters["steps"],
        initial_share=parameters["initial_share"],
        rescale_schedule=parameters["rescale_schedule"],
        index=batch.index,
    )


_ATTACKS = {"apgd": _apgd, "fab": _fab, "square": _square}


def _loss_fn(task, loss, batch):
    if loss == _TARGETED_DLR:
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


def _clean(task):
    """Returns the logits of all images, and which are classified right."""
    logits, right = [], []
    for begin in range(0, len(task.images), task.batch_size):
        rows = np.arange(begin, min(begin + task.batch_size, len(task.images)))
        of_rows, wrong = _classify_batch(task, rows, _classify_jit)
        bad = rows[~np.isfinite(of_rows).all(axis=1)]
        if bad.size:
            raise ValueError(
                f"the logits of {bad.size} clean images are not finite, the first "
                f"{bad[:5].tolist()}: check the network there"
            )
        logits.append(of_rows)
        right.append(~wrong)
    return np.concatenate(logits), np.concatenate(right)


def _classify_batch(task, rows, classify):
    padded = _padded(rows, task.batch_size)
    results = classify(
        task.logits_fn,
        jax.random.fold_in(task.key, len(task.steps)),
        task.place(task.images[padded]),
        task.labels[padded],
        task.samples,
    )
    return tuple(np.asarray(x)[: len(rows)] for x in results)


def _add_row(task, state, attack, seconds):
    standing = int(state.robust.sum())
    state.log.append(
        {
            "attack": attack,
            "norm": task.norm,
            "epsilon": task.epsilon,
            "attacked": 0 if attack == "clean" else state.attacked,
            "robust": standing,
            "robust_accuracy": standing / len(state.robust),
            "seconds": seconds,
        }
    )


def _print(state, step, run, runs, left):
    print(
        f"{step.name} run {run + 1} of {runs}: {left} images to go, robust accuracy "
        f"{state.robust.mean():.2%}, {state.seconds:.0f} s",
        file=sys.stderr,
        flush=True,
    )


def _check_version(version, samples):
    """Returns the steps and the number of draws."""
    steps = version
    if isinstance(version, str):
        if version not in VERSIONS:
            raise ValueError(
                f"unknown version {version!r}: choose from {', '.join(VERSIONS)}, or "
                "give a sequence of AttackStep"
            )
        steps = VERSIONS[version]
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
    if step.attack not in _PARAMETERS:
        raise ValueError(
            f"unknown attack {step.attack!r} of step {step.name!r}: choose from "
            f"{', '.join(_PARAMETERS)}"
        )
    known = _PARAMETERS[step.attack]
    unknown = sorted(set(step.parameters) - set(known))
    if unknown:
        raise ValueError(
            f"unknown parameters {unknown} of step {step.name!r}: {step.attack} takes "
            f"{', '.join(known)}"
        )
    parameters = _parameters(step)
    for name, value in parameters.items():
        if name in ("steps", "targets") and value is not None:
            loop.check_count(name, value)
        elif name == "restarts":
            loop.check_count(name, value, 0)
        elif name in ("rho", "initial_share"):
            batches.check_range(name, value, 0.0, 1.0)
    losses = (*LOSSES, _TARGETED_DLR)
    if parameters.get("loss", losses[0]) not in losses:
        raise ValueError(
            f"unknown loss {parameters['loss']!r} of step {step.name!r}: choose from "
            f"{', '.join(losses)}"
        )


def _parameters(step):
    return {**_PARAMETERS[step.attack], **step.parameters}


def _check_data(images, labels, index):
    images = np.asarray(images)
    labels = np.asarray(check_labels(labels))
    index = None if index is None else np.asarray(index)
    batches.check_images(images, index)
    if len(labels) != len(images):
        raise ValueError(f"need one label per image: {len(labels)} for {len(images)}")
    index = np.arange(len(images)) if index is None else index
    return images.astype(np.float32), labels, index.astype(np.int32)


def _check_classifier(task):
    """Returns the number of classes; nothing is computed."""
    logits_fn = task.logits_fn
    if task.samples:
        logits_fn = functools.partial(logits_fn, task.key)
    check_classes(logits_fn, task.labels, task.images)
    logits = jax.eval_shape(logits_fn, task.images)
    if not jnp.issubdtype(logits.dtype, jnp.floating):
        raise ValueError(
            f"logits must be floating-point: {logits.dtype}; a decision has no gradient"
        )
    for step in task.steps:
        least = LEAST_CLASSES.get(_parameters(step).get("loss"), 2)
        if logits.shape[1] < least:
            raise ValueError(
                f"the loss of {step.name} needs at least {least} classes, the "
                f"classifier has {logits.shape[1]}: give as version a sequence of "
                "AttackStep without it, such as apgd with cross_entropy and with "
                "margin, fab, square"
            )
    return logits.shape[1]


def _check_clean(task, state, logits):
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
    if _has_gradients(task.steps) and state.robust.any():
        _check_gradients(task, state)


def _check_randomness(task, state, logits):
    rows = np.arange(min(task.batch_size, len(task.images)))
    before = logits[rows]
    if task.samples:
        other = task._replace(key=jax.random.fold_in(task.key, 2**31 - 1))
        if np.array_equal(before, _classify_batch(other, rows, _classify_jit)[0]):
            state.warn(
                "the classifier gives the same logits with every key: it is not "
                "random, and version='standard' is stronger"
            )
        return
    # A new function is traced anew, which shows randomness from outside JAX.
    anew = jax.jit(lambda *args: _classify(*args), static_argnums=4)
    for classify in (_classify_jit, anew):
        change = np.abs(before - _classify_batch(task, rows, classify)[0]).max()
        if change > _SAME_LOGITS * np.abs(before).max():
            state.warn(
                "two calls of the classifier disagree: it is random, and attacks see "
                "one draw of it; make it a function of a key and use version='rand'"
            )
            return


def _check_gradients(task, state):
    losses = [_parameters(step).get("loss") for step in task.steps]
    loss = next((name for name in losses if name in LOSSES), "margin")
    rows = np.flatnonzero(state.robust)[: task.batch_size]
    padded = _padded(rows, task.batch_size)
    batch = _Batch(
        task.place(task.images[padded]), task.labels[padded], None, task.index[padded]
    )
    key = jax.random.fold_in(task.key, len(task.steps) + 1)
    zero = _gradient_is_zero(
        _loss_fn(task, loss, batch), key, batch.images, task.samples
    )
    count = int(np.asarray(zero)[: len(rows)].sum())
    if count > _WITHOUT_GRADIENT * len(rows):
        state.warn(
            f"the gradient of {loss} is zero at {count} of {len(rows)} clean images: "
            "attacks that need it are blind there"
        )


@functools.partial(jax.jit, static_argnums=3)
def _gradient_is_zero(loss_fn, key, images, samples):
    gradient = loop.evaluate(loss_fn, images, key, samples).gradient
    return balls.size(gradient, "linf") == 0


def _has_gradients(steps):
    return any(step.attack != "square" for step in steps)


class _File:
    """The state on disk, written beside its place and renamed when complete."""

    def __init__(self, path: Path, task: _Task):
        self._path = path
        self._arguments = _arguments(task)
        self._images = task.images
        path.parent.mkdir(parents=True, exist_ok=True)

    def load(self) -> _State | None:
        """Returns the state, or None if there is no file."""
        if not self._path.exists():
            return None
        try:
            with open(self._path, "rb") as file, np.load(file) as arrays:
                arrays = dict(arrays)
            header = json.loads(arrays.pop("header").item())
            differences = _differences(header["arguments"], self._arguments)
            if differences:
                raise _OtherArguments("; ".join(differences))
            state = _State(self._images, arrays["right"])
            state.robust, state.done = arrays["robust"], arrays["done"]
            state.images[state.right & ~state.robust] = arrays["broken"]
            for name in _SCALARS:
                setattr(state, name, header[name])
        except _OtherArguments as error:
            raise ValueError(
                f"{self._path} was begun with other arguments: {error}; give the same, "
                "another path, or delete the file"
            ) from None
        except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(
                f"{self._path} holds no state of autoattack ({error}): give another "
                "path, or delete the file"
            ) from error
        for message in state.warnings:
            warnings.warn(message, MisleadingEvaluation, stacklevel=2)
        return state

    def save(self, state: _State) -> None:
        """Writes the state."""
        header = {name: getattr(state, name) for name in _SCALARS}
        header["arguments"] = self._arguments
        partial = self._path.with_name(self._path.name + ".partial")
        with open(partial, "wb") as file:
            np.savez(
                file,
                header=json.dumps(header),
                right=state.right,
                robust=state.robust,
                done=state.done,
                broken=state.images[state.right & ~state.robust],
            )
        os.replace(partial, self._path)


# What of the state goes into the header of the file.
_SCALARS = ("log", "warnings", "step", "run", "attacked", "seconds")


class _OtherArguments(Exception):
    """A file was begun with other arguments."""


def _differences(then, now):
    names = sorted(name for name in now if then.get(name) != now[name])
    return [f"{name} ({then.get(name)} in the file, {now[name]} now)" for name in names]


def _arguments(task):
    """Returns what a run depends on, as JSON has it."""
    arguments = {
        "key": np.asarray(jax.random.key_data(task.key)).tolist(),
        "images": digest(task.images),
        "labels": digest(task.labels),
        "index": digest(task.index),
        "classifier": digest(task.logits_fn),
        "epsilon": task.epsilon,
        "norm": task.norm,
        "steps": [[s.name, s.attack, _parameters(s)] for s in task.steps],
        "batch_size": task.batch_size,
        "samples": task.samples,
    }
    return json.loads(json.dumps(arguments))


def digest(tree: Any) -> str:
    """Returns a short hash of the arrays of a pytree and of where they stand in it.

    What is no array, such as the architecture of a network, is not in it.
    """
    total = hashlib.sha256()
    for path, array in jax.tree_util.tree_leaves_with_path(tree):
        if jnp.issubdtype(getattr(array, "dtype", None), jax.dtypes.prng_key):
            array = jax.random.key_data(array)
        array = np.asarray(array)
        name = jax.tree_util.keystr(path)
        total.update(f"{name} {array.dtype}{array.shape}".encode())
        total.update(array.tobytes())
    return total.hexdigest()[:16]
