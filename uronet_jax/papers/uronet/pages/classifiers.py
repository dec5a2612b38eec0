"""Which classifiers and data sets are the paper's, and which only bear its names.

A classifier is the paper's if its accuracy on clean images is within
`noises.SAME_CLASSIFIER` points of the published one. Whose was not measured is not
known to be.
"""

import json
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, NamedTuple

from uronet_jax.papers.machine_settings import without_machine_settings
from uronet_jax.papers.uronet.pages import paper
from uronet_jax.papers.uronet.pages.noises import CLEAN, SAME_CLASSIFIER, Undefended

# Sections of a config that describe a data set and its classifiers.
ROLES = ("data", "second", "grey")
# The paper's data sets -> the names under which they are stored.
_DATA = {
    "CIFAR-10": "cifar10",
    "CIFAR-100": "cifar100",
    "Fashion-MNIST": "fashion_mnist",
}
_FILES = ("uronet_table07.csv", "uronet_table08.csv")
_GREY = ("Fashion-MNIST", "custom 5-layer CNN")
# The fields of a section that name a classifier, and those with its title.
FIELDS = ("classifier", "other_classifier")
# What Table 11 calls the first Wide-ResNet of CIFAR-100.
_WIDE, _WIDE_TITLE = "WRN", "Wide-ResNet"
# Columns that name a data set, and those that name a classifier.
DATASETS = ("dataset", "train_dataset", "test_dataset")
_CLASSIFIERS = ("classifier", "attacked_classifier")
_ATTACKS = ("train_attack", "test_attack")

# Title of a data set, and of a classifier of it.
Network = tuple[str, str]


class Origin(NamedTuple):
    """Which network it is.

    Attributes:
        made: Where it comes from, with all settings of its training if it was trained
            for the result.
        digest: Of its weights; empty where it is not known.
    """

    made: str
    digest: str

    def is_same(self, other: "Origin") -> bool:
        """Whether nothing tells them apart."""
        digests = {self.digest, other.digest} - {""}
        return self.made == other.made and len(digests) < 2


@cache
def published() -> Mapping[Network, float]:
    """Returns data set and classifier -> published accuracy on clean images."""
    found = {
        (row["dataset"], row["classifier"]): float(row["value"])
        for name in _FILES
        for row in paper.rows(name)
        if row["condition"] == CLEAN
    }
    grey = next(
        row
        for row in paper.rows("uronet_ablations.csv")
        if row["metric"] == "clean_accuracy"
    )
    return {**found, _GREY: float(grey["value"])}


def _section(config: Mapping[str, Any], dataset: str) -> Mapping[str, Any]:
    sections = (config.get(role) or {} for role in ROLES)
    return next((s for s in sections if s.get("title") == dataset), {})


def origin(content: Mapping[str, Any], network: Network) -> Origin:
    """Returns which network stands behind a title.

    Args:
        content: JSON of `launch.reproduce`.
        network: One of its data sets and classifiers.

    Returns:
        Empty texts if the result does not tell.
    """
    config = content["config"]
    section = _section(config, network[0])
    known = content.get("classifiers") or {}
    for field in FIELDS:
        if section.get(f"{field}_title") == network[1] and section.get(field):
            source = section[field]
            if source.startswith("train:"):
                settings = without_machine_settings(
                    {x: config.get(x) for x in ("training", "augmentation")}
                )
                data = {k: v for k, v in section.items() if "classifier" not in k}
                made = json.dumps([source, data, settings], sort_keys=True)
                return Origin(made, "")
            role = next(role for role in ROLES if config.get(role) is section)
            return Origin(source, known.get(role, {}).get(network[1], ""))
    return Origin("", "")


def rests_on(cell: Mapping[str, Any], config: Mapping[str, Any]) -> set[Network]:
    """Returns the classifiers that a number depends on.

    Args:
        cell: Of `comparison.compare`.
        config: Of its run. Attacks are made on the first classifier of their data set.
    """
    dataset = str(cell.get("dataset") or "")
    section = _section(config, dataset)
    first = section.get("classifier_title") or ""
    if not dataset:
        return set()
    found = {cell.get(column) for column in _CLASSIFIERS}
    if any(cell.get(column) for column in _ATTACKS):
        found.add(first)
    if _WIDE in found and first.startswith(_WIDE_TITLE):
        found = found - {_WIDE} | {first}
    return {(dataset, title) for title in found if title}


def other_data(cell: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, str]:
    """Returns title -> name of the data sets that only bear the title of the paper's.

    Args:
        cell: Of `comparison.compare`.
        config: Of its run.
    """
    found = {}
    for column in DATASETS:
        title = str(cell.get(column) or "")
        name = _section(config, title).get("name")
        base = None if name is None else name.partition(":")[0]  # Of any version.
        if title in _DATA and base not in (None, _DATA[title]):
            found[title] = name
    return found


def is_clean(cell: Mapping[str, Any]) -> bool:
    """Whether a cell is the accuracy of a classifier alone on clean test images."""
    if cell.get("metric") != "accuracy" or not cell.get("classifier"):
        return False
    alone = cell.get("condition") == "noisy" or (
        cell.get("ablation") == "grey" and cell.get("variant") == "undefended"
    )
    return cell.get("condition") == CLEAN or (alone and cell.get("test_noise") == CLEAN)


def doubt(network: Network, measured: Iterable[Undefended]) -> str:
    """Says why a classifier is not known to be the paper's; empty if it is.

    Args:
        network: Data set and classifier.
        measured: Its accuracies on clean images.
    """
    if network not in published():
        return "the paper has none of this name"
    measured = list(measured)
    if not measured:
        return "its accuracy on clean images is not measured"
    worst = max(measured, key=lambda x: x.gap)
    if worst.gap <= SAME_CLASSIFIER:
        return ""
    return f"{worst.ours:.2f} against {worst.published:.2f} % on clean images"
