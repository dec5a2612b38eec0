"""The experiments of all papers by name, and whether they have what they need.

An experiment is a list of parts; see `parts`.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

from uronet_jax.papers.adversarial_noise.experiments import (
    ADVERSARIAL_NOISE_EXPERIMENTS,
)
from uronet_jax.papers.kinds import CLASSIFIER_FIELDS
from uronet_jax.papers.parts import PaperExperiment
from uronet_jax.papers.reconstructive.experiments import RECONSTRUCTIVE_EXPERIMENTS
from uronet_jax.papers.store import CHOICES, TUNE, Store, is_made_here
from uronet_jax.papers.uronet.experiments import URONET_EXPERIMENTS

EXPERIMENTS: dict[str, PaperExperiment] = {
    **URONET_EXPERIMENTS,
    **ADVERSARIAL_NOISE_EXPERIMENTS,
    **RECONSTRUCTIVE_EXPERIMENTS,
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
    if no_purifier := _find_purifier_lack(store, EXPERIMENTS[experiment]):
        lacks = {group: lack or no_purifier for group, lack in lacks.items()}
    missing = {group: lack for group, lack in lacks.items() if lack is not None}
    if len(missing) == len(needs):
        texts = dict.fromkeys(f"{what}: {why}" for what, why in missing.values())
        raise LackError(f"{experiment} lacks {'; '.join(texts)}")
    return missing


def _find_purifier_lack(store: Store, experiment: PaperExperiment) -> Lack | None:
    for title, named in experiment.purifiers(store.config).items():
        try:
            store.named_purifier(named)
        except FileNotFoundError as error:
            return Lack(f"the {title} that the config names", str(error))
    return None


def _find_lack(store: Store, needs: Iterable[str]) -> Lack | None:
    for need in needs:
        role, part = need.split(".")
        section = store.config[role]
        if part == "classifier":
            todo = f"set --config.{role}.classifier to {CHOICES}"
            if not store.classifiers(role):
                return Lack(f"a classifier of {section['title']}", todo)
            for title, source in store.classifiers(role).items():
                field = next(x for x in CLASSIFIER_FIELDS if section.get(x) == source)
                todo = f"set --config.{role}.{field} to {CHOICES}"
                if source.startswith(TUNE):
                    try:
                        store.given(source.removeprefix(TUNE))
                    except FileNotFoundError as error:
                        what = f"the weights of {title} for {section['title']}"
                        return Lack(what, f"{error}: {todo}")
                if not is_made_here(source):
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
