"""What models the paper's experiments need: their names, networks and schedules."""

from collections.abc import Mapping
from typing import Any

from uronet_jax.defense import DETECTOR_INPUTS
from uronet_jax.models import REMOVER_VARIANTS
from uronet_jax.papers.kinds import Kind
from uronet_jax.training.run import Schedule


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
        "tuned": Kind(
            "classifier",
            {},
            schedule("fine_tuning"),
            config["fine_tuning"]["optimizer"],
            initial="file",
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
