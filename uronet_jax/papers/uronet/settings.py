"""What the fields of `configs/reproduce.py` must be."""

from collections.abc import Mapping
from typing import Any

import jax

from uronet_jax import sharding
from uronet_jax.batches import check_number, check_whole
from uronet_jax.corruptions import list_corruptions, list_severities
from uronet_jax.data.pipelines import check_pipeline
from uronet_jax.papers.kinds import CLASSIFIER_FIELDS, ROLES
from uronet_jax.training.experiment import augmenter


def check_settings(config: Mapping[str, Any], mesh: jax.sharding.Mesh) -> None:
    """Raises ValueError for what neither models nor the suite check themselves."""

    def value(field):
        section, name = field.split(".")
        return config[section][name]

    for role in ROLES:
        for part in ("train", "validation"):
            split = config[role][f"{part}_split"]
            if any(x.strip().startswith("test") for x in split.split("+")):
                raise ValueError(
                    f"{role}.{part}_split is {split!r}: the test split is only "
                    "judged on; split off a part of train"
                )
        named = [x for x in CLASSIFIER_FIELDS if config[role].get(x)]
        titles = [config[role][f"{x}_title"] for x in named]
        if twice := [x for x in titles if titles.count(x) > 1]:
            raise ValueError(
                f"both classifiers of {role} are called {twice[0]!r}: rows could "
                "not be told apart; change a title"
            )
    augmenter(config["augmentation"])
    check_pipeline(config["pipeline"])
    for section in ("evaluation", "attack"):
        sharding.check_batch_size(config[section]["batch_size"], mesh)
    if config["ablations"]["detector"] == config["detector"]["name"]:
        raise ValueError(
            f"ablations.detector is the usual one, {config['detector']['name']!r}: "
            "name another network"
        )
    check_whole("seed", config["seed"], 0)
    for field, *bounds in (
        ("attack.epsilon", 0.0, 1.0),
        ("attack.step_size", 0.0, 1.0),
        ("remover.noise_weight", 0.0),
        ("universal.consistency_weight", 0.0),
        ("universal_trials.consistency_weight", 0.0),
        ("universal_trials.weak_consistency_weight", 0.0),
        ("universal_corruptions.clean_share", 0.0, 1.0),
    ):
        check_number(field, value(field), *bounds)
    sections = ("remover", "detector", "universal", "universal_trials")
    sections += ("universal_detector", "training", "fine_tuning")
    for field, *bounds in (
        ("attack.steps", 1, 10_000),
        ("attack.restarts", 0, 10_000),
        ("universal.clean_entries", 0, 1000),
        ("universal_trials.clean_entries", 0, 1000),
        ("universal_corruptions.copies", 1, 1000),
        *((f"{section}.batch_size", 1, 2**20) for section in sections),
        # 0 takes all.
        ("evaluation.num_images", 0),
        ("attack.num_test", 0),
        ("attack.num_train", 0),
        ("resolutions.num_images", 0),
    ):
        check_whole(field, value(field), *bounds)
    if not isinstance(config["universal"]["mirror"], bool):
        raise ValueError(
            f"universal.mirror must be True or False: {config['universal']['mirror']!r}"
        )
    suite = config["universal_corruptions"]["suite"]
    noises, severities = list_corruptions("uronet"), list_severities("cifar_c")
    for field, known in (
        ("ablations.noises", noises),
        ("zero_shot.severities", severities),
        ("universal_corruptions.names", list_corruptions(suite)),
        ("universal_corruptions.severities", list_severities(suite)),
        ("universal_corruptions.tested_severities", list_severities(suite)),
    ):
        values = value(field)
        if not values or not set(values) <= set(known):
            raise ValueError(f"{field} must be some of {known}: {tuple(values)}")
