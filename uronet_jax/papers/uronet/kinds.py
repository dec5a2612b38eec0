"""What models the paper's experiments need: their names, networks and schedules."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

from uronet_jax.corruptions import SuiteEntry
from uronet_jax.defense import DETECTOR_INPUTS
from uronet_jax.models import REMOVER_VARIANTS
from uronet_jax.training.phases import find_phase
from uronet_jax.training.run import Schedule


class ModelKey(NamedTuple):
    """Which model."""

    role: str  # Section of the config that names its data set.
    kind: str  # A key of `Store.kinds`.
    name: str  # `GN_1` and the like, `all`, an attack, or the name of a classifier.


@dataclasses.dataclass(frozen=True)
class Kind:
    """Models that one compiled program trains: they differ in data and seed."""

    phase: str  # A key of `training.phases.PHASES`.
    model: Mapping[str, Any]  # The section `model` of its config.
    schedule: Schedule
    optimizer: Mapping[str, Any]  # Arguments of `make_optimizer`.
    purifier: str = ""  # Kind of the purifier that a detector stands behind.
    # Name -> weight, of a purifier.
    loss: Mapping[str, float] = dataclasses.field(default_factory=dict)
    clean_entries: int = 0  # How often a mix of all degradations holds the clean image.
    stored: str = ""  # `attacked` or `corrupted` if it learns on such images from disk.
    # Share of clean images among these; where they are drawn, see `clean_entries`.
    clean_share: float = 0.0
    # What its seeds are named after, if not itself: models that are compared start
    # alike and see the same crops and degradations.
    variant_of: str = ""

    @property
    def role(self) -> str:
        """What its models are in a defence."""
        return find_phase(self.phase).role


def entry_name(entry: SuiteEntry) -> str:
    """Returns `GN_1` and the like."""
    return f"{entry.noise}_{entry.severity}"


def make_kinds(config: Mapping[str, Any]) -> dict[str, Kind]:
    """Returns the kinds of models, in the order in which they need each other."""

    def pick(section, *names):
        return {name: config[section][name] for name in names}

    def schedule(section: str) -> Schedule:
        return Schedule(
            **pick(section, "batch_size", "num_steps", "checkpoint_every"),
            eval_batch_size=config["evaluation"]["batch_size"],
            steps_per_dispatch=config["steps_per_dispatch"],
            log_every=config["log_every"],
        )

    def removers(model, section="remover", consistency_weight=0.0, **fields):
        weights = {
            "clean_mse": 1.0,
            "noise_mse": config["remover"]["noise_weight"],
            "inconsistency": consistency_weight,
        }
        return Kind(
            "remover", model, schedule(section), optimizer, loss=weights, **fields
        )

    optimizer = config["optimizer"]
    remover = pick("remover", "variant", "widths")
    detector = pick("detector", "name", "inputs")

    def detectors(purifier="remover", section="detector", model=detector, **fields):
        return Kind(
            "detector", model, schedule(section), optimizer, purifier=purifier, **fields
        )

    weight = pick("universal", "consistency_weight")
    universal = (pick("universal", "variant", "widths"), "universal")
    return {
        "classifier": Kind(
            "classifier", {}, schedule("training"), config["training"]["optimizer"]
        ),
        # Without batch norm, for which the other's learning rate is too high.
        "cnn": Kind("classifier", {}, schedule("training"), optimizer),
        "remover": removers(remover),
        "dcae": removers(
            {**remover, "variant": _one_headed(remover["variant"])},
            variant_of="remover",
        ),
        "remover_attack": removers(remover, stored="attacked"),
        "remover_universal": removers(
            *universal, **weight, **pick("universal", "clean_entries")
        ),
        "remover_corruptions": removers(
            *universal,
            **weight,
            **pick("universal_corruptions", "clean_share"),
            stored="corrupted",
        ),
        **{
            f"remover_trial_{name}": removers(
                {"variant": trial["variant"], "widths": trial["widths"]},
                "universal_trials",
                **pick("universal_trials", "clean_entries"),
                consistency_weight=trial["consistency_weight"],
                variant_of="remover_trial",
            )
            for name, trial in universal_trials(config).items()
        },
        "detector": detectors(),
        "detector_attack": detectors("remover_attack", stored="attacked"),
        "detector_corruptions": detectors(
            "remover_corruptions", "universal_detector", stored="corrupted"
        ),
        "detector_universal": detectors("remover_universal", "universal_detector"),
        **{
            f"detector_{name}": detectors(
                model={**detector, **changes}, variant_of="detector"
            )
            for name, changes in {
                "other": {"name": config["ablations"]["detector"]},
                **{inputs: {"inputs": inputs} for inputs in DETECTOR_INPUTS},
            }.items()
            if name != detector["inputs"]
        },
    }


def universal_trials(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Returns name -> variant, widths and consistency weight of removers to compare.

    Each differs from `skip` in one thing, but for `combined`.
    """
    trials = config["universal_trials"]
    skip = {"variant": "skip", "widths": trials["widths"], "consistency_weight": 0.0}
    wider = {"widths": trials["wider"]}
    weakly = {"consistency_weight": trials["weak_consistency_weight"]}
    known = {
        "paper": {"variant": "paper"},
        "skip": {},
        "residual": {"variant": "residual"},
        "blend": {"variant": "blend"},
        "one_head": {"variant": "skip_dcae"},
        "wider": wider,
        "consistency": {"consistency_weight": trials["consistency_weight"]},
        "weak_consistency": weakly,
        "combined": {"variant": "blend_dcae", **wider, **weakly},
    }
    names = tuple(trials["names"])
    if not {"skip"} <= set(names) <= set(known):
        raise ValueError(
            f"universal_trials.names must be skip and some of {', '.join(known)}: "
            f"{names}"
        )
    return {name: {**skip, **known[name]} for name in names}


def _one_headed(variant: str) -> str:
    """Returns the variant of a remover that lacks the noise head and nothing else."""
    if variant not in REMOVER_VARIANTS:
        return variant  # Reported where it is built.
    twins = {
        name: twin
        for name, fields in REMOVER_VARIANTS.items()
        for twin, others in REMOVER_VARIANTS.items()
        if fields["noise_head"] and others == {**fields, "noise_head": False}
    }
    if variant not in twins:
        raise ValueError(
            f"remover.variant {variant!r} is no remover with two heads that has a twin "
            f"with one, which the ablation needs: choose from {', '.join(twins)}"
        )
    return twins[variant]
