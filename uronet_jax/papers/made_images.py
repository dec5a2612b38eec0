"""Attacked copies of images, made once and kept on disk."""

import glob
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.tree_util import Partial

from uronet_jax import sharding
from uronet_jax.attacks.digests import digest
from uronet_jax.corruptions import entry_key
from uronet_jax.defense import DefenseFunction, classifier_function
from uronet_jax.evaluation.attacked_copies import store_attacked
from uronet_jax.evaluation.defense_views import make_attacked
from uronet_jax.evaluation.threat_models import AttackRun, make_run
from uronet_jax.loading import LoadedModel
from uronet_jax.progress import Progress
from uronet_jax.records import naming

# The papers' names -> ours, and what it takes besides.
_ATTACKS = {
    "IFGSM": ("ifgsm_linf",),
    "PGD0": ("pgd_linf",),
    "PGD10": ("pgd_linf", "restarts"),
}


class NamedAttack(NamedTuple):
    """An attack that has a title of its own in a paper."""

    run: AttackRun
    section: str  # Of the config; it says how many images are attacked.


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
    labels: str = "true",
    config: Mapping[str, Any],
    attacks: Mapping[str, NamedAttack],
    mesh: jax.sharding.Mesh,
    progress: Progress,
) -> np.ndarray:
    """Returns adversarial copies of images as `store_attacked` keeps and makes them.

    The attack is one of `attacks`, or named as for `attack_steps`. The `classifier` is
    attacked, with the `purifier` before it if the attacker knows one; `labels` are
    those of `store_attacked`. Each part has its own random starts.
    """
    settings = config["attack"]
    name, run, parameters = _named_run(attack, config, attacks)
    made_with = {
        **parameters,
        "seed": config["seed"],
        "images": [source.name, source.split, len(source)],
        "weights": [digest(model.variables) for model in models.values()],
        **({} if labels == "true" else {"labels": labels}),
    }
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
        labels=labels,
        batch_size=settings["batch_size"],
        mesh=mesh,
        progress=progress,
        description=f"{attack} on {part}",
    )


def _named_run(
    attack: str, config: Mapping[str, Any], attacks: Mapping[str, NamedAttack]
) -> tuple[str, AttackRun, dict[str, Any]]:
    """Returns a name for random numbers, the attack, and what its images depend on."""
    if attack in attacks:
        run = attacks[attack].run
        parameters = {"attack": run.name, "parameters": run.all_parameters}
        return attack, run, {**parameters, "epsilon": run.epsilon}
    settings, (name, steps) = config["attack"], attack_steps(config, attack)
    ours, *restarts = _ATTACKS[name]
    fields = ("epsilon", "step_size", *restarts)
    run = make_run(ours, steps=steps, **{x: settings[x] for x in fields})
    known = ("epsilon", "step_size", "restarts")
    return name, run, {**{x: settings[x] for x in known}, "steps": steps}


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes a .npz file, into a locked folder, that is complete or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # What a killed run left half written.
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.npz"):
        left.unlink()
    temporary = path.with_name(f".{path.name}.{os.getpid()}.npz")
    try:
        with naming(path):
            np.savez(temporary, **dict(arrays))
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
