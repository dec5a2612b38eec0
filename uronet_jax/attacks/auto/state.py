"""A run of AutoAttack: its arguments and what was done so far, also on disk."""

import json
import os
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from uronet_jax.attacks.auto.versions import AttackStep
from uronet_jax.attacks.digests import digest

# What of the state goes into the header of the file.
_SCALARS = ("log", "warnings", "step", "run", "attacked", "seconds")


class MisleadingEvaluation(UserWarning):
    """Says that the robust accuracy may be higher than the classifier is robust."""


class AutoAttackTask(NamedTuple):
    """The arguments of `autoattack`, checked."""

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


class State:
    """What was done so far: all that changes."""

    def __init__(self, images: np.ndarray, right: np.ndarray):
        """Begins with the clean images, and whether the classifier is right on them."""
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


class StateFile:
    """The state on disk, written beside its place and renamed when complete."""

    def __init__(self, path: Path, task: AutoAttackTask):
        """Makes the folder of the file."""
        self._path = path
        self._arguments = _arguments(task)
        self._images = task.images
        path.parent.mkdir(parents=True, exist_ok=True)

    def load(self) -> State | None:
        """Returns the state, None if there is no file; a wrong file is an error."""
        if not self._path.exists():
            return None
        try:
            with open(self._path, "rb") as file, np.load(file) as arrays:
                arrays = dict(arrays)
            header = json.loads(arrays.pop("header").item())
            then = header["arguments"]
            differences = "; ".join(
                f"{name} ({then.get(name)} in the file, {now} now)"
                for name, now in sorted(self._arguments.items())
                if then.get(name) != now
            )
            state = None if differences else self._restored(header, arrays)
        except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(
                f"{self._path} holds no state of autoattack ({error}): give another "
                "path, or delete the file"
            ) from error
        if state is None:
            raise ValueError(
                f"{self._path} was begun with other arguments: {differences}; give the "
                "same, another path, or delete the file"
            )
        for message in state.warnings:
            warnings.warn(message, MisleadingEvaluation, stacklevel=2)
        return state

    def _restored(self, header, arrays):
        state = State(self._images, arrays["right"])
        state.robust, state.done = arrays["robust"], arrays["done"]
        state.images[state.right & ~state.robust] = arrays["broken"]
        for name in _SCALARS:
            setattr(state, name, header[name])
        return state

    def save(self, state: State) -> None:
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
        "steps": [[s.name, s.attack, s.all_parameters] for s in task.steps],
        "batch_size": task.batch_size,
        "samples": task.samples,
    }
    return json.loads(json.dumps(arguments))
