"""What the fields of `configs/reproduce.py` must be."""

from collections.abc import Mapping
from typing import Any

import jax

from uronet_jax import sharding
from uronet_jax.batches import check_number, check_whole
from uronet_jax.corruptions import list_corruptions, list_severities
from uronet_jax.data.pipelines import check_pipeline
from uronet_jax.training.experiment import augmenter

# Sections of the config that name a data set.
ROLES = ("data", "second", "grey")
# Fields of such a section that name its classifiers.
CLASSIFIER_FIELDS = ("classifier", "other_classifier")


def check_settings(config: Mapping[str, Any], mesh: jax.sharding.Mesh) -> None:
    """Checks what neither models nor the suite check themselves.

    Args:
        config: The fields of `configs/reproduce.py`.
        mesh: Where it is to run.

    Raises:
        ValueError: If a field names something unknown or is out of range.
    """
    attack = config["attack"]
    for role in ROLES:
        for part in ("train", "validation"):
            split = config[role][f"{part}_split"]
            if any(x.strip().startswith("test") for x in split.split("+")):
                raise ValueError(
                    f"{role}.{part}_split is {split!r}: the test split is only "
                    "judged on; split off a part of train"
                )
        titles = [config[role][f"{x}_title"] for x in CLASSIFIER_FIELDS]
        if all(config[role][x] for x in CLASSIFIER_FIELDS) and len(set(titles)) == 1:
            raise ValueError(
                f"both classifiers of {role} are called {titles[0]!r}: rows could "
                "not be told apart; change a title"
            )
    augmenter(config["augmentation"])
    check_pipeline(config["pipeline"])
    for section in ("evaluation", "attack"):
        sharding.check_batch_size(config[section]["batch_size"], mesh)
    check_number("attack.epsilon", attack["epsilon"], 0.0, 1.0)
    check_number("attack.step_size", attack["step_size"], 0.0, 1.0)
    check_whole("attack.steps", attack["steps"], 1, 10_000)
    check_whole("attack.restarts", attack["restarts"], 0, 10_000)
    if config["ablations"]["detector"] == config["detector"]["name"]:
        raise ValueError(
            f"ablations.detector is the usual one, {config['detector']['name']!r}: "
            "name another network"
        )
    check_whole("seed", config["seed"], 0, 2**31 - 1)
    for section in ("universal", "universal_trials"):
        entries = config[section]["clean_entries"]
        check_whole(f"{section}.clean_entries", entries, 0, 1000)
    for section in (
        *("remover", "detector", "universal", "universal_trials"),
        *("universal_detector", "training"),
    ):
        size = config[section]["batch_size"]
        check_whole(f"{section}.batch_size", size, 1, 2**20)
    for section, field in (
        ("remover", "noise_weight"),
        ("universal", "consistency_weight"),
        ("universal_trials", "consistency_weight"),
        ("universal_trials", "weak_consistency_weight"),
    ):
        check_number(f"{section}.{field}", config[section][field], 0.0)
    if not isinstance(config["universal"]["mirror"], bool):
        raise ValueError(
            f"universal.mirror must be True or False: {config['universal']['mirror']!r}"
        )
    share = config["universal_corruptions"]["clean_share"]
    check_number("universal_corruptions.clean_share", share, 0.0, 1.0)
    copies = config["universal_corruptions"]["copies"]
    check_whole("universal_corruptions.copies", copies, 1, 1000)
    for name, count in {
        "evaluation.num_images": config["evaluation"]["num_images"],
        "attack.num_test": attack["num_test"],
        "attack.num_train": attack["num_train"],
    }.items():
        if count < 0:
            raise ValueError(f"{name} cannot be negative (0 takes all): {count}")
    suite = config["universal_corruptions"]["suite"]
    noises, severities = list_corruptions("uronet"), list_severities("cifar_c")
    for section, field, known in (
        ("ablations", "noises", noises),
        ("zero_shot", "severities", severities),
        ("universal_corruptions", "names", list_corruptions(suite)),
        ("universal_corruptions", "severities", list_severities(suite)),
        ("universal_corruptions", "tested_severities", list_severities(suite)),
    ):
        values = config[section][field]
        if not values or not set(values) <= set(known):
            raise ValueError(
                f"{section}.{field} must be some of {known}: {tuple(values)}"
            )
