"""From a config, as plain dicts, to sources and tasks."""

import dataclasses
from typing import Any

import numpy as np

from uronet_jax.corruptions import (
    Degradation,
    make_degradation,
    suite_degradations,
)
from uronet_jax.data import open_source
from uronet_jax.data.statistics import pixel_statistics
from uronet_jax.loading import build_module, load_model
from uronet_jax.training import tasks
from uronet_jax.training.optimizers import make_optimizer
from uronet_jax.training.run import Task


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A config made real: data, task, and the config with what the data added."""

    train_source: Any
    validation_source: Any
    task: Task
    config: dict[str, Any]


def build_degradation(config: dict[str, Any]) -> Degradation:
    """Builds the mix of degradations that `config["degradation"]` describes."""
    fields = dict(config["degradation"])
    clean_entries = fields.pop("clean_entries")
    if clean_entries < 0:
        raise ValueError(f"clean_entries cannot be negative: {clean_entries}")
    suite = fields.pop("suite")
    entries = [(e.kind, e.parameter) for e in suite_degradations(suite, **fields)]
    return make_degradation(entries + [("identity", 0.0)] * clean_entries)


def build_experiment(config: dict[str, Any], data_dir: str | None) -> Experiment:
    """Opens the data and builds the task.

    Args:
        config: The fields of `configs/*.py` as plain dicts.
        data_dir: Folder of the prepared data sets.

    Raises:
        ValueError: If a field names something unknown or does not fit the others.
        FileNotFoundError: If the data or the remover is missing.
    """
    data = config["data"]
    for name in ("train_split", "validation_split"):
        if data[name].startswith("test"):
            raise ValueError(
                f"data.{name} is {data[name]!r}: the test split is read by "
                "launch.evaluate only; split off a part of train"
            )
    # Fields are checked, and models built, before images are read.
    optimizer = make_optimizer(num_steps=config["num_steps"], **config["optimizer"])
    tasks.augmenter(data["augmentation"])
    degradation = build_degradation(config) if "degradation" in config else None
    remover = None
    if config["phase"] == "detector":
        remover = load_model(config["remover"], phase="remover")
    train_source, validation_source = (
        open_source(data["name"], data[f"{part}_split"], data_dir=data_dir)
        for part in ("train", "validation")
    )
    shape = tuple(train_source.image_shape)
    mean, std = pixel_statistics(train_source.arrays()[0])
    config = config | {
        "resolved": {
            "image_shape": list(shape),
            "num_classes": train_source.num_classes,
            "mean": mean,
            "std": std,
            "clean_mean": float(np.mean(mean)),
        }
    }
    augmentation = data["augmentation"]
    module = build_module(config)
    if config["phase"] == "remover":
        task = tasks.remover_task(
            module,
            optimizer,
            degradation,
            image_shape=shape,
            augmentation=augmentation,
            **config["loss"],
        )
    elif config["phase"] == "detector":
        if remover.image_shape != shape:
            raise ValueError(
                f"the remover in {config['remover']} was trained on images of shape "
                f"{list(remover.image_shape)}, {data['name']} has {list(shape)}"
            )
        task = tasks.detector_task(
            module,
            remover.module,
            remover.variables,
            optimizer,
            degradation,
            image_shape=shape,
            inputs=config["model"]["inputs"],
            augmentation=augmentation,
        )
    else:
        task = tasks.classifier_task(
            module, optimizer, image_shape=shape, augmentation=augmentation
        )
    return Experiment(train_source, validation_source, task, config)
