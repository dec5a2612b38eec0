"""The defences that are compared: transformations, autoencoders, the URoNet remover."""

import re
from collections.abc import Mapping
from typing import Any

from uronet_jax.batches import check_number, check_whole
from uronet_jax.evaluation.threat_models import AttackRun, parse_run
from uronet_jax.papers.kinds import Kind, ModelKey
from uronet_jax.purifiers import parse_purifier
from uronet_jax.training.run import Schedule

# Kinds of autoencoders: as published; with clean images among what they see. Ending of
# their title -> kind.
_PLAIN, _CLEAN = "reconstructor", "reconstructor_clean"
_AUTOENCODERS = {"": _PLAIN, ", a quarter clean": _CLEAN}
# As published, but of attacks that are led away from what the classifier says.
_CONTROL = "reconstructor_predictions"
# What the field `remover` says to leave it out.
NO_REMOVER = "none"
# The transformation that has patches, and no parameters here.
QUILTING_TITLE = "quilting"
# The URoNet remover beside the other defences.
REMOVER_TITLE = "URoNet remover"
# Names of other rows, columns and attacks.
_RESERVED = ("none", "clean", QUILTING_TITLE, "IFGSM", "PGD0", "PGD10")


def attack_runs(config: Mapping[str, Any]) -> dict[str, AttackRun]:
    """Returns title -> attack."""
    listed = config["reconstructive"]["attacks"]
    return {title: parse_run(text) for title, text in _pairs("attacks", listed).items()}


def white_box_runs(config: Mapping[str, Any]) -> dict[str, AttackRun]:
    """Returns title -> attack on whole defences: those with a budget, and further ones.

    The smallest perturbations have none: whoever knows a defence always finds one.
    """
    listed = config["reconstructive"]["further_white_box"]
    runs = {
        title: parse_run(text)
        for title, text in _pairs("further_white_box", listed).items()
    }
    return {k: x for k, x in (attack_runs(config) | runs).items() if x.epsilon}


def transformations(config: Mapping[str, Any]) -> dict[str, str]:
    """Returns title -> what `load_purifier` reads."""
    return _pairs("transformations", config["reconstructive"]["transformations"])


def named_remover(config: Mapping[str, Any]) -> dict[str, str]:
    """Returns title -> what `load_purifier` reads; empty if none is named."""
    named = config["reconstructive"]["remover"]
    return {REMOVER_TITLE: named} if named not in ("", NO_REMOVER) else {}


def autoencoders(config: Mapping[str, Any]) -> dict[str, ModelKey]:
    """Returns title -> model; without a share of clean images none sees such."""
    section = config["reconstructive"]
    return {
        f"RT ({name}){ending}": ModelKey("data", kind, name)
        for ending, kind in _AUTOENCODERS.items()
        for name in section["learned"]
        if section["clean_share"] or kind != _CLEAN
    }


def control(name: str) -> ModelKey:
    """Returns the autoencoder that learned on an attack made without labels."""
    return ModelKey("data", _CONTROL, name)


def reconstructive_kinds(config: Mapping[str, Any]) -> dict[str, Kind]:
    """Returns the kinds of models.

    Raises:
        ValueError: If a field of the section is wrong.
    """
    section = config["reconstructive"]
    _check_section(config)
    schedule = Schedule(
        batch_size=section["batch_size"],
        num_steps=section["num_steps"],
        checkpoint_every=section["checkpoint_every"],
        eval_batch_size=config["evaluation"]["batch_size"],
        steps_per_dispatch=config["steps_per_dispatch"],
        log_every=config["log_every"],
    )
    fields = ("warmup_steps", "visual_weight", "class_weight")

    def kind(**changes):
        reconstruction = {name: section[name] for name in fields} | {"labels": "true"}
        return Kind(
            "reconstructor",
            {"variant": section["variant"], "width": section["width"]},
            schedule,
            section["optimizer"],
            stored="attacked",
            asks_classifier=True,
            variant_of=_PLAIN,
            sections={"reconstruction": reconstruction},
            **changes,
        )

    return {
        _PLAIN: kind(),
        _CLEAN: kind(clean_share=section["clean_share"]),
        _CONTROL: kind(attack_labels="predictions"),
    }


def _check_section(config: Mapping[str, Any]) -> None:
    section = config["reconstructive"]
    for name, low in (
        *(("num_test", 0), ("num_white_box", 0), ("num_train", 0)),
        *(("patches", 0), ("batch_size", 1)),
    ):
        check_whole(f"reconstructive.{name}", section[name], low)
    check_number("reconstructive.clean_share", section["clean_share"], 0.0, 1.0)
    unknown = set(section["learned"]) - attack_runs(config).keys()
    if unknown:
        raise ValueError(
            f"reconstructive.learned must be some of reconstructive.attacks: {unknown}"
        )
    for text in transformations(config).values():
        parse_purifier(text)
    known = {*transformations(config), QUILTING_TITLE}
    if unknown := set(section["no_white_box"]) - known:
        raise ValueError(
            f"reconstructive.no_white_box must be {QUILTING_TITLE} or some of "
            f"reconstructive.transformations: {unknown}"
        )
    if not white_box_runs(config):
        raise ValueError("reconstructive.further_white_box must name an attack")


def _pairs(field: str, listed: Any) -> dict[str, str]:
    """Reads `title=text` of each item."""
    pairs = [item.partition("=") for item in listed]
    found = {title: text for title, _, text in pairs}
    for title in found:
        if title in _RESERVED or not re.fullmatch(r"[\w ().,-]+", title):
            raise ValueError(
                f"reconstructive.{field}: {title!r} is no title: use letters and "
                f"digits, and none of {', '.join(_RESERVED)}"
            )
    if len(found) < len(pairs) or not all(map(all, pairs)):
        raise ValueError(
            f"reconstructive.{field} must hold title=text, each title once: {listed}"
        )
    return found
