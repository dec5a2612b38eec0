"""Attacked copies of images, made once and kept on disk."""

import glob
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.tree_util import Partial

from uronet_jax import sharding
from uronet_jax.attacks.digests import digest
from uronet_jax.corruptions import entry_key
from uronet_jax.defense import DefenseFunction, classifier_function
from uronet_jax.evaluation.attacked_copies import store_attacked
from uronet_jax.evaluation.defense_views import make_attacked
from uronet_jax.evaluation.threat_models import make_run
from uronet_jax.loading import LoadedModel
from uronet_jax.progress import Progress

# The papers' names -> ours, and what it takes besides.
_ATTACKS = {
    "IFGSM": ("ifgsm_linf",),
    "PGD0": ("pgd_linf",),
    "PGD10": ("pgd_linf", "restarts"),
}


def attack_steps(config: Mapping[str, Any], attack: str) -> tuple[str, int]:
    """Returns the attack and the number of steps that a name stands for.

    A name is `IFGSM`, `PGD0` or `PGD10`, optionally with a number of steps as in
    `PGD0-20`, which `attack.steps` of the config limits.
    """
    name, _, steps = attack.partition("-")
    limit = config["attack"]["steps"]
    return name, min(int(steps), limit) if steps else limit


def attacked_images(
    path: Path,
    source: Any,
    models: Mapping[str, LoadedModel],
    attack: str,
    part: str,
    *,
    config: Mapping[str, Any],
    mesh: jax.sharding.Mesh,
    progress: Progress,
) -> np.ndarray:
    """Returns adversarial copies of images; makes those that are not on disk.

    They are kept with 16 bits, so that rounding neither leaves the ball nor gives
    them the even levels of a clean image, by which they could be told from noise. The
    `classifier` is attacked, with the `purifier` before it if the attacker knows one.
    Each part has its own random starts.
    """
    settings, (name, steps) = config["attack"], attack_steps(config, attack)
    made_with = {
        **{name: settings[name] for name in ("epsilon", "step_size", "restarts")},
        "steps": steps,
        "seed": config["seed"],
        "images": [source.name, source.split, len(source)],
        "weights": [digest(model.variables) for model in models.values()],
    }
    ours, *restarts = _ATTACKS[name]
    fields = ("epsilon", "step_size", *restarts)
    run = make_run(ours, steps=steps, **{x: settings[x] for x in fields})
    classifier, *purifier = (model.module for model in models.values())
    seen = DefenseFunction(classifier_function(classifier), *purifier)
    key = entry_key(config["seed"], f"attack/{part}/{name}", 1)
    variables = {role: model.variables for role, model in models.items()}
    key, frozen = sharding.replicate((key, {"variables": variables}), mesh)
    return store_attacked(
        path,
        source,
        run,
        key,
        Partial(make_attacked(seen), frozen, None),
        made_with,
        batch_size=settings["batch_size"],
        mesh=mesh,
        progress=progress,
        description=f"{attack} on {part}",
    )


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes a .npz file, into a locked folder, that is complete or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # What a killed run left half written.
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.npz"):
        left.unlink()
    temporary = path.with_name(f".{path.name}.{os.getpid()}.npz")
    try:
        np.savez(temporary, **dict(arrays))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
