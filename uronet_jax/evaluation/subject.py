"""What an evaluation judges: models and images that belong together, from a config."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from uronet_jax import sharding
from uronet_jax.batches import check_number, check_whole
from uronet_jax.data import open_source
from uronet_jax.data.sources import RelabelledSource, Subset
from uronet_jax.defense import DefenseFunction, classifier_function
from uronet_jax.evaluation import metrics
from uronet_jax.evaluation.judge import Judge
from uronet_jax.loading import (
    LoadedModel,
    check_detector,
    check_models_match,
    detector_inputs,
    load_classifier,
    load_detector,
    load_purifier,
)
from uronet_jax.specs import known_name


@dataclasses.dataclass(frozen=True)
class Subject:
    """Models and images of an evaluation.

    Attributes:
        defense: The models as a function.
        models: Role -> model, of those that are named.
        test_source: Test images.
        validation_source: Clean images to set thresholds on; None without a detector.
        mesh: All devices.
        batch_size: Over all devices, at most.
    """

    defense: DefenseFunction
    models: dict[str, LoadedModel]
    test_source: Any
    validation_source: Any
    mesh: jax.sharding.Mesh
    batch_size: int

    @functools.cached_property
    def variables(self) -> dict[str, Any]:
        """The variables of every model, on the mesh."""
        found = {role: model.variables for role, model in self.models.items()}
        return sharding.replicate(found, self.mesh)

    def judge(self, images: Any, *, seed: int = 0) -> Judge:
        """Returns the judge of a source, or of images and labels.

        Its batch is no larger than these are many, but for what the devices divide: a
        small set is not filled up with black images.
        """
        length = len(images[0] if isinstance(images, tuple) else images)
        even = -(-length // self.mesh.size) * self.mesh.size
        batch_size = min(self.batch_size, even)
        return Judge(images, batch_size=batch_size, mesh=self.mesh, seed=seed)

    def threshold(self, false_alarms: float) -> float | None:
        """Returns the degraded probability that so many clean images exceed."""
        if self.validation_source is None:
            return None
        judge = self.judge(self.validation_source)
        return choose_gate(judge, self.defense, self.variables, false_alarms)

    def describe(self) -> dict[str, Any]:
        """Returns role -> architecture, for a result."""
        return {role: model.config["model"] for role, model in self.models.items()}


def choose_gate(
    validation: Judge, defense: DefenseFunction, variables: Any, false_alarms: float
) -> float:
    """Returns the threshold that purifies a given share of clean validation images.

    Args:
        validation: The judge of validation images.
        defense: With purifier and detector.
        variables: Of its models.
        false_alarms: The share, in `[0, 1)`.
    """
    clean = validation.measure(defense, variables)
    return metrics.threshold_at_fpr(clean["probability"], false_alarms)


def check_subject(config: Mapping[str, Any], false_alarms: str | None) -> None:
    """Checks what can be checked of the fields of `load_subject` without files.

    Args:
        config: The fields of `configs/evaluate.py` or `configs/attack.py`.
        false_alarms: Name of the field with the share of false alarms; None for an
            evaluation without detector, which needs no validation images.

    Raises:
        ValueError: If a field is missing or out of range.
    """
    data = config["data"]
    sharding.check_batch_size(config["batch_size"], sharding.data_mesh())
    check_whole("seed", config["seed"], 0)
    known_name("checkpoint", config["checkpoint"], ("best", "last"))
    if false_alarms and data["validation_split"].startswith("test"):
        raise ValueError(
            f"data.validation_split is {data['validation_split']!r}: the threshold "
            "must not be set on test images; name a part of train"
        )
    check_whole("data.num_examples", data["num_examples"], 0)
    if "every" in data:
        check_whole("data.every", data["every"], 1)
    if false_alarms:
        share = f"{false_alarms}, a share of images,"
        check_number(share, config[false_alarms], 0.0, below=1.0)
    if not config["classifier"]:
        raise ValueError(
            "name a classifier: the folder of its run, or a file of PyTorch weights"
        )
    if config.get("detector") and not config["purifier"]:
        raise ValueError(
            "a detector looks at the purifier's noise: name a purifier too"
        )


def load_subject(config: Mapping[str, Any], data_dir: str | None) -> Subject:
    """Loads the models and opens the data that an evaluation names.

    Args:
        config: The fields of `configs/evaluate.py` or `configs/attack.py`, checked.
        data_dir: Folder of the prepared data sets.

    Raises:
        ValueError: If models and data do not belong together, or one is damaged.
        FileNotFoundError: If a model or the data set is missing.
    """
    which, data = config["checkpoint"], config["data"]
    classifier = load_classifier(config["classifier"], which=which)
    models = {"classifier": classifier}
    if config["purifier"]:
        models["purifier"] = load_purifier(config["purifier"], which=which)
    if config.get("detector"):
        models["detector"] = load_detector(config["detector"], which=which)
    check_models_match(*models.values())
    check_detector(models.get("detector"), models.get("purifier"))
    source = open_source(data["name"], data["split"], data_dir=data_dir)
    labels = data.get("labels", ())  # Configs of earlier versions have none.
    if not labels and classifier.num_classes != source.num_classes:
        raise ValueError(
            f"the classifier in {config['classifier']} knows {classifier.num_classes} "
            f"classes and {data['name']} has {source.num_classes}: if these are among "
            "them, say in data.labels which"
        )
    if not classifier.takes(source.image_shape):
        raise ValueError(
            f"{data['name']} has images of shape {list(source.image_shape)}, the "
            f"classifier was made for images {classifier.shape_text}"
        )
    count, every = data["num_examples"], data.get("every", 1)
    test = source
    if every > 1:
        name = f"{source.split}, every {every}th"
        test = Subset(source, np.arange(0, len(source), every), name)
    if count > len(test):
        raise ValueError(
            f"num_examples is {count}, {data['name']} has {len(test)} images in "
            f"{data['split']}{f', every {every}th' if every > 1 else ''}: 0 takes all"
        )
    test = Subset(test, np.arange(count)) if count else test
    if labels:
        test = RelabelledSource(test, labels, classifier.num_classes)
    validation = None
    if "detector" in models:
        validation = open_source(
            data["name"], data["validation_split"], data_dir=data_dir
        )
    parts = {role: model.module for role, model in models.items()}
    defense = DefenseFunction(
        classifier_function(classifier.module),
        parts.get("purifier"),
        parts.get("detector"),
        detector_inputs(models.get("detector")),
    )
    return Subject(
        defense,
        models,
        test,
        validation,
        sharding.data_mesh(),
        config["batch_size"],
    )
