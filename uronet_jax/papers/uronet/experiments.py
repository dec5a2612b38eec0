"""The experiments of the paper by name, and whether they have what they need.

An experiment is a list of parts; see `parts`.
"""

import functools
import re
from collections.abc import Iterable
from typing import NamedTuple

from uronet_jax.papers.store import CHOICES, TRAIN, Store
from uronet_jax.papers.uronet import (
    ablations,
    detection,
    mitigation,
    pictures,
    universal,
)
from uronet_jax.papers.uronet.parts import PaperExperiment


def _needs(*roles: str, classifier: bool = True) -> dict[str, tuple[str, ...]]:
    parts = ("train", "test", *(("classifier",) if classifier else ()))
    return {role: tuple(f"{role}.{part}" for part in parts) for role in roles}


# Sections of the config that the usual and the universal models depend on.
_DEFENCE = ("remover", "detector")
_UNIVERSAL = (*_DEFENCE, "universal", "universal_detector", "training")

EXPERIMENTS: dict[str, PaperExperiment] = {
    "table2": PaperExperiment(
        "detection, 18 detectors on 18 degradations, CIFAR-10",
        _needs("data", classifier=False),
        functools.partial(detection.detection_of_noises, "data"),
        _DEFENCE,
    ),
    "table3": PaperExperiment(
        "the same on CIFAR-100",
        _needs("second", classifier=False),
        functools.partial(detection.detection_of_noises, "second"),
        _DEFENCE,
    ),
    "table4": PaperExperiment(
        "detection across data sets",
        {
            "data": ("data.train", "second.test"),
            "second": ("second.train", "data.test"),
        },
        detection.across_data_sets,
        _DEFENCE,
    ),
    "table5": PaperExperiment(
        "detectors trained on noises, on attacked images",
        _needs("data", "second"),
        detection.detection_of_attacks,
        (*_DEFENCE, "attack", "training"),
    ),
    "table6": PaperExperiment(
        "detectors trained on attacked images, on noises",
        _needs("data", "second"),
        detection.trained_on_attacks,
        (*_DEFENCE, "attack", "training"),
    ),
    "table7": PaperExperiment(
        "mitigation at equal and unequal severities, CIFAR-10",
        _needs("data"),
        functools.partial(mitigation.mitigation_of_noises, "data"),
        ("remover", "training"),
    ),
    "table8": PaperExperiment(
        "the same on CIFAR-100",
        _needs("second"),
        functools.partial(mitigation.mitigation_of_noises, "second"),
        ("remover", "training"),
    ),
    "table11": PaperExperiment(
        "robust accuracy behind the SPN remover",
        _needs("data", "second"),
        mitigation.mitigation_of_attacks,
        ("remover", "attack", "training"),
    ),
    "table12": PaperExperiment(
        "raw, DCAE and URoNet, CIFAR-10",
        _needs("data"),
        mitigation.denoisers,
        ("remover", "training"),
    ),
    "figure1": PaperExperiment(
        "noise patterns, amplified ten times",
        _needs("data"),
        functools.partial(pictures.noise_patterns, "figure1"),
        ("attack", "training"),
    ),
    "figure2": PaperExperiment(
        "the images of these patterns",
        _needs("data"),
        functools.partial(pictures.noise_patterns, "figure2"),
        ("attack", "training"),
    ),
    "figure4": PaperExperiment(
        "every noise at every severity",
        {"data": ("data.test",)},
        pictures.noise_severities,
    ),
    "figure5": PaperExperiment(
        "where the classifier looks (Grad-CAM): clean, noisy and purified images",
        _needs("data"),
        pictures.looked_at,
        ("remover", "training"),
    ),
    "figure6": PaperExperiment(
        "mitigation of attacks, own and transferred",
        _needs("data"),
        mitigation.gains,
        ("remover", "attack", "training"),
    ),
    "ablations": PaperExperiment(
        "section 3.3: another detector, no noise pattern, DCAE, grey images",
        _needs("data", "grey"),
        ablations.ablations,
        (*_DEFENCE, "training", "ablations"),
    ),
    "universal": PaperExperiment(
        "one remover and one detector for all 18 degradations",
        _needs("data"),
        universal.degradations,
        _UNIVERSAL,
    ),
    "universal_corruptions": PaperExperiment(
        "one remover and one detector for all corruptions of a suite",
        _needs("data"),
        universal.corruptions,
        (*_UNIVERSAL, "universal_corruptions"),
    ),
    "universal_trials": PaperExperiment(
        "short trainings that led to the universal remover",
        _needs("data"),
        universal.trials,
        ("universal_trials", "remover", "training"),
    ),
    "zero_shot": PaperExperiment(
        "the universal models on what they never saw",
        {
            "data": ("data.train", "data.test", "data.classifier"),
            "second": ("data.train", "data.test", "data.classifier", "second.test"),
        },
        universal.zero_shot,
        (*_UNIVERSAL, "zero_shot"),
    ),
}


class LackError(FileNotFoundError):
    """Nothing of an experiment can be computed with the data that are there."""


class Lack(NamedTuple):
    """What an experiment needs and does not have; why, and what to do."""

    what: str
    why: str


def check_needs(store: Store, experiment: str) -> dict[str, Lack]:
    """Returns group of parts -> why it is left out; `LackError` if all of them are."""
    try:
        EXPERIMENTS[experiment].parts(store)
    except ValueError as error:
        raise ValueError(f"{experiment}: {error}") from error
    needs = EXPERIMENTS[experiment].needs
    lacks = {group: _find_lack(store, wanted) for group, wanted in needs.items()}
    missing = {group: lack for group, lack in lacks.items() if lack is not None}
    if len(missing) == len(needs):
        texts = dict.fromkeys(f"{what}: {why}" for what, why in missing.values())
        raise LackError(f"{experiment} lacks {'; '.join(texts)}")
    return missing


def _find_lack(store: Store, needs: Iterable[str]) -> Lack | None:
    for need in needs:
        role, part = need.split(".")
        section = store.config[role]
        if part == "classifier":
            todo = f"set --config.{role}.classifier to {CHOICES}"
            if not store.classifiers(role):
                return Lack(f"a classifier of {section['title']}", todo)
            for title, source in store.classifiers(role).items():
                if not source.startswith(TRAIN):
                    try:
                        store.load_classifier(role, title)
                    except FileNotFoundError as error:
                        raise FileNotFoundError(f"{error}: {todo}") from error
            continue
        learned = part == "train"
        kind = "training" if learned else "test"
        for split in ("train", "validation") if learned else (part,):
            name = section[f"{split}_split"]
            try:
                store.open(role, split)
            except (FileNotFoundError, ValueError) as error:
                if not re.match(r"(train|validation|test)(\[|$)", name):
                    raise  # No split that could be prepared.
                what = f"the {kind} images of {section['title']} ({name})"
                return Lack(what, str(error))
    return None
