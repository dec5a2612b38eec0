"""From a config, as plain dicts, to sources and tasks."""

import dataclasses
from typing import Any

import numpy as np

from uronet_jax import sharding
from uronet_jax.checkpoints import find_step
from uronet_jax.corruptions import (
    Degradation,
    make_degradation,
    suite_degradations,
)
from uronet_jax.data import open_source
from uronet_jax.data.pipelines import check_pipeline
from uronet_jax.data.statistics import pixel_statistics
from uronet_jax.defense import detector_channels
from uronet_jax.loading import build_module, load_model
from uronet_jax.training import tasks
from uronet_jax.training.loop import validate_schedule
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


def check_config(config: dict[str, Any]) -> None:
    """Checks every field that can be checked without data or models.

    Args:
        config: The fields of `configs/*.py` as plain dicts.

    Raises:
        ValueError: If a field names something unknown, is missing or out of range.
    """
    data = config["data"]
    for name in ("train_split", "validation_split"):
        if data[name].startswith("test"):
            raise ValueError(
                f"data.{name} is {data[name]!r}: the test split is read by "
                "launch.evaluate only; split off a part of train"
            )
    # Any data will do to build the modules once.
    resolved = {"clean_mean": 0.5, "num_classes": 2, "mean": (0.5,), "std": (0.5,)}
    try:
        build_module({**config, "resolved": resolved})
        make_optimizer(num_steps=config["num_steps"], **config["optimizer"])
        if config["phase"] != "classifier":
            build_degradation(config)
        if config["phase"] == "detector":
            detector_channels(3, config["model"]["inputs"])
    except KeyError as error:
        raise ValueError(
            f"config has no field {error}, which phase {config['phase']!r} needs: "
            f"start from configs/{config['phase']}.py"
        ) from error
    tasks.augmenter(data["augmentation"])
    check_pipeline(data["pipeline"])
    mesh = sharding.data_mesh()
    sharding.check_batch_size(config["batch_size"], mesh)
    sharding.check_batch_size(config["eval_batch_size"], mesh)
    validate_schedule(
        num_steps=config["num_steps"],
        steps_per_dispatch=config["steps_per_dispatch"],
        log_every=config["log_every"],
        eval_every=config["eval_every"],
        checkpoint_every=config["checkpoint_every"],
    )


def build_experiment(config: dict[str, Any], data_dir: str | None) -> Experiment:
    """Opens the data and builds the task.

    Args:
        config: The fields of `configs/*.py` as plain dicts.
        data_dir: Folder of the prepared data sets.

    Raises:
        ValueError: If a field names something unknown or does not fit the others.
        FileNotFoundError: If the data or the remover is missing.
    """
    check_config(config)
    data = config["data"]
    optimizer = make_optimizer(num_steps=config["num_steps"], **config["optimizer"])
    train_source, validation_source = (
        open_source(data["name"], data[f"{part}_split"], data_dir=data_dir)
        for part in ("train", "validation")
    )
    shape = tuple(train_source.image_shape)
    degradation = remover = None
    if config["phase"] != "classifier":
        degradation = build_degradation(config)
    if config["phase"] == "detector":
        remover = load_model(config["remover"], phase="remover")
        if remover.image_shape != shape:
            raise ValueError(
                f"the remover in {config['remover']} was trained on images of shape "
                f"{list(remover.image_shape)}, {data['name']} has {list(shape)}"
            )
    mean, std = pixel_statistics(sample_images(train_source))
    config = config | {
        "resolved": {
            "image_shape": list(shape),
            "num_classes": train_source.num_classes,
            "mean": mean,
            "std": std,
            "clean_mean": float(np.mean(mean)),
        }
    }
    if remover is not None:
        # If that run has a better checkpoint by the time this one is resumed, the
        # detector would go on behind another remover: the configs then differ.
        step = find_step(config["remover"]).name
        config["resolved"]["remover_step"] = int(step)
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


def sample_images(source: Any, max_bytes: int = 2**28) -> np.ndarray:
    """Returns all images of a source, or where they are too many an even sample."""
    count = min(len(source), max(1, max_bytes // int(np.prod(source.image_shape))))
    return source.read(np.linspace(0, len(source) - 1, count).astype(int))[0]
