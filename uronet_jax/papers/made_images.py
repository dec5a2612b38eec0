"""Attacked and corrupted copies of images, made once and kept on disk."""

import dataclasses
import functools
import glob
import itertools
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from jax.tree_util import Partial

from uronet_jax import sharding
from uronet_jax.attacks import flax_logits, ifgsm, misclassification, pgd
from uronet_jax.attacks.adaptive import without_success
from uronet_jax.attacks.digests import digest
from uronet_jax.corruptions import entry_key
from uronet_jax.data import evaluation_batches
from uronet_jax.data.mixed_corruptions import corrupt_mixed
from uronet_jax.data.sources import ArraySource
from uronet_jax.papers.progress import Progress, StoppedError
from uronet_jax.training import grid

# Seconds between two writes of attacked images.
_SAVE_EVERY = 60.0


class ImageMaker:
    """Makes copies of images, unless a file holds them already."""

    def __init__(
        self, config: Mapping[str, Any], mesh: jax.sharding.Mesh, progress: Progress
    ):
        """Takes what all copies share; computes nothing.

        Args:
            config: The fields of `configs/reproduce.py`.
            mesh: Where to run.
            progress: Where it shows how far it is, and is told to stop.
        """
        self._config, self._mesh, self._progress = config, mesh, progress

    def attacked(
        self,
        path: Path,
        source: ArraySource,
        models: Sequence[Any],
        attack: str,
        part: str,
    ) -> np.ndarray:
        """Returns adversarial copies of images.

        They are kept with 16 bits, so that rounding neither leaves the ball nor gives
        them the even levels of a clean image, by which they could be told from noise.

        Args:
            path: The file.
            source: The images.
            models: The classifier that is attacked, with `module` and `variables`;
                behind it the remover that stands before it and is known to the
                attacker, if there is one.
            attack: See `attack_steps`.
            part: `train`, `validation` or `test`; each has its own random starts.

        Returns:
            uint16 `[N, H, W, C]`.

        Raises:
            StoppedError: If it was asked to stop; what was made is kept.
            ValueError: If the file was made with other weights or settings.
        """
        settings = self._config["attack"]
        made_with = {
            **{name: settings[name] for name in ("epsilon", "step_size", "restarts")},
            "steps": attack_steps(self._config, attack)[1],
            "seed": self._config["seed"],
            "images": [source.name, source.split, len(source)],
            "weights": [digest(model.variables) for model in models],
        }
        found, done = _read_made(path, made_with)
        if found is None:
            found = np.empty((0, *source.image_shape), np.uint16)
        if len(found) > len(source) or (done and len(found) < len(source)):
            raise ValueError(
                f"{path} holds {len(found)} images of {len(source)}: delete the file "
                "and what was measured with it"
            )
        if done:
            return found
        save = functools.partial(_save_made, path, made_with)
        return self._attack(source, models, attack, part, found, save)

    def corrupted(self, path: Path, source: ArraySource, part: str) -> np.ndarray:
        """Returns copies of images with a corruption drawn for each one.

        Args:
            path: The file.
            source: The images.
            part: `train`, of which there are several copies, or `validation`.

        Returns:
            uint8 `[copies, N, H, W, C]`.

        Raises:
            StoppedError: If it was asked to stop.
            ValueError: If the file was made with other settings.
        """
        settings = self._config["universal_corruptions"]
        made_with = {
            **{name: settings[name] for name in ("suite", "names", "severities")},
            "copies": settings["copies"] if part == "train" else 1,
            "seed": grid.row_seed(self._config["seed"], "corrupted", part),
            "images": [source.name, source.split, len(source)],
        }
        made_with = json.loads(json.dumps(made_with))
        found, done = _read_made(path, made_with)
        if done:
            return found
        with self._progress.bar(
            None, f"corrupting {part}", "batch", leave=False
        ) as bar:

            def on_batch():
                self._progress.stopping()
                bar.update()

            images = corrupt_mixed(
                source.arrays()[0],
                settings["names"],
                settings["severities"],
                suite=settings["suite"],
                copies=made_with["copies"],
                seed=made_with["seed"],
                batch_size=self._config["evaluation"]["batch_size"],
                mesh=self._mesh,
                on_batch=on_batch,
            )
        _save_made(path, made_with, images, True)
        return images

    def _attack(
        self,
        source: ArraySource,
        models: Sequence[Any],
        attack: str,
        part: str,
        found: np.ndarray,
        save: Callable[[np.ndarray, bool], None],
    ) -> np.ndarray:
        """Attacks the images behind those that are found; returns them all."""
        name, steps = attack_steps(self._config, attack)
        settings = self._config["attack"]
        weights = sharding.replicate([m.variables for m in models], self._mesh)
        logits_fn = flax_logits(models[0].module, weights[0], train=False)
        if len(models) > 1:
            defended = _Defended(*(model.module for model in models))
            logits_fn = Partial(defended, weights)
        key = sharding.replicate(
            entry_key(self._config["seed"], f"attack/{part}/{name}", 1), self._mesh
        )
        parameters = {
            "epsilon": settings["epsilon"],
            "step_size": settings["step_size"],
            "steps": steps,
        }
        size = settings["batch_size"]
        parts, last_save = [found], time.perf_counter()
        # What is found may end within a batch, if batches had another size.
        begin, known = divmod(len(found), size)
        batches = evaluation_batches(source, batch_size=size, mesh=self._mesh)
        batches = itertools.islice(batches, begin, None)
        total = -(-len(source) // size)
        with self._progress.bar(
            total, f"{attack} on {part}", "batch", leave=False
        ) as bar:
            bar.update(begin)
            for batch in batches:
                if self._progress.stop():
                    save(np.concatenate(parts), False)
                    raise StoppedError
                loss_fn = without_success(misclassification(logits_fn, batch["label"]))
                images = batch["image"].astype(np.float32) / 255.0
                if name == "IFGSM":
                    adversarial = ifgsm(key, images, loss_fn, **parameters)
                else:
                    restarts = settings["restarts"] if name == "PGD10" else 0
                    adversarial = pgd(
                        key,
                        images,
                        loss_fn,
                        restarts=restarts,
                        index=batch["index"],
                        **parameters,
                    )
                levels = np.rint(65535.0 * np.asarray(adversarial)).astype(np.uint16)
                parts.append(levels[np.asarray(batch["mask"])][known:])
                known = 0
                if time.perf_counter() - last_save > _SAVE_EVERY:
                    save(np.concatenate(parts), False)
                    last_save = time.perf_counter()
                bar.update()
        images = np.concatenate(parts)
        save(images, True)
        return images


def attack_steps(config: Mapping[str, Any], attack: str) -> tuple[str, int]:
    """Returns the attack and the number of steps that a name stands for.

    Args:
        config: The fields of `configs/reproduce.py`.
        attack: `IFGSM`, `PGD0` or `PGD10`, optionally with a number of steps as in
            `PGD0-20`, which `attack.steps` of the config limits.
    """
    name, _, steps = attack.partition("-")
    limit = config["attack"]["steps"]
    return name, min(int(steps), limit) if steps else limit


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes a .npz file that is complete or not there at all.

    The folder is to be locked: what a killed run left half written is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.npz"):
        left.unlink()
    temporary = path.with_name(f".{path.name}.{os.getpid()}.npz")
    try:
        np.savez(temporary, **dict(arrays))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@dataclasses.dataclass(frozen=True)
class _Defended:
    """`(variables of both, images) -> logits`; two of the same modules are the same."""

    classifier: nn.Module
    remover: nn.Module

    def __call__(self, variables: Any, images: jax.Array) -> jax.Array:
        clean = self.remover.apply(variables[1], images).clean
        return self.classifier.apply(variables[0], clean, train=False)


def _read_made(
    path: Path, made_with: Mapping[str, Any]
) -> tuple[np.ndarray | None, bool]:
    """Returns the images on disk, None without a file, and whether they are all."""
    if not path.exists():
        return None, False
    with np.load(path) as file:
        arrays = dict(file)
    made_before = json.loads(str(arrays.get("made_with", "null")))
    if made_before != made_with:
        raise ValueError(
            f"{path} was made with other weights or settings ({made_before} there, "
            f"{made_with} now): choose another --workdir, or delete the file and what "
            "was measured with it"
        )
    return arrays["images"], bool(arrays["done"])


def _save_made(
    path: Path, made_with: Mapping[str, Any], images: np.ndarray, done: bool
) -> None:
    header = {"done": done, "made_with": json.dumps(made_with)}
    save_arrays(path, {"images": images, **header})
