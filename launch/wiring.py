"""From a config, as plain dicts, to sources and tasks."""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np

from uronet_jax import sharding
from uronet_jax.checkpoints import find_step
from uronet_jax.corruptions import (
    Degradation,
    make_degradation,
    suite_degradations,
)
from uronet_jax.data import evaluation_batches, open_source
from uronet_jax.data.pipelines import check_pipeline
from uronet_jax.data.statistics import pixel_statistics
from uronet_jax.defense import Classify, classifier_function, detector_channels
from uronet_jax.evaluation import protocols
from uronet_jax.loading import (
    LoadedModel,
    build_module,
    check_models_match,
    load_classifier,
    load_model,
)
from uronet_jax.training import tasks
from uronet_jax.training.loop import validate_schedule
from uronet_jax.training.optimizers import make_optimizer
from uronet_jax.training.pairs import drawn_pairs
from uronet_jax.training.run import Task


@dataclasses.dataclass(frozen=True)
class Subject:
    """What an evaluation judges: models and images that belong together.

    Attributes:
        models: `classifier`, and `remover` and `detector` where they are named.
        test_source: Test images.
        validation_source: Clean images to set thresholds on; None without a detector.
        mesh: All devices.
        batch_size: Over all devices.
        num_examples: The first so many of the test images are judged.
    """

    models: dict[str, LoadedModel]
    test_source: Any
    validation_source: Any
    mesh: jax.sharding.Mesh
    batch_size: int
    num_examples: int

    @property
    def classify(self) -> Classify:
        """The classifier as `(variables, images) -> logits`."""
        return _classify(self.models["classifier"].module)

    @property
    def variables(self) -> dict[str, Any]:
        """The variables of every model."""
        return {name: model.variables for name, model in self.models.items()}

    @property
    def modules(self) -> dict[str, Any]:
        """What a judge takes besides: `remover`, `detector`, `inputs` and `mesh`."""
        detector = self.models.get("detector")
        return {
            "remover": getattr(self.models.get("remover"), "module", None),
            "detector": getattr(detector, "module", None),
            "inputs": detector.config["model"]["inputs"] if detector else "image",
            "mesh": self.mesh,
        }

    def test_images(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns uint8 images and labels."""
        return self.test_source.read(np.arange(self.num_examples))

    def batches(self, images: Any) -> list[dict[str, jax.Array]]:
        """Returns a source, or images and labels, as batches on the mesh."""
        return list(
            evaluation_batches(images, batch_size=self.batch_size, mesh=self.mesh)
        )

    def judge(self, images: Any, *, seed: int = 0) -> protocols.Judge:
        """Returns the judge of a source, or of images and labels."""
        return protocols.Judge(
            self.classify,
            self.variables,
            self.batches(images),
            seed=seed,
            **self.modules,
        )

    def threshold(self, false_alarms: float) -> float | None:
        """Returns the degraded probability that so many clean images exceed."""
        if self.validation_source is None:
            return None
        return protocols.choose_gate(
            self.judge(self.validation_source), false_alarms=false_alarms
        )


# Cached, so that subjects with the same modules share compiled programs.
_classify = functools.cache(classifier_function)


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


def check_subject(config: dict[str, Any], false_alarms: str) -> None:
    """Checks what can be checked of the fields of `load_subject` without files.

    Args:
        config: The fields of `configs/evaluate.py` or `configs/attack.py`.
        false_alarms: Name of the field with the share of false alarms.

    Raises:
        ValueError: If a field is missing or out of range.
    """
    data = config["data"]
    sharding.check_batch_size(config["batch_size"], sharding.data_mesh())
    if config["checkpoint"] not in ("best", "last"):
        raise ValueError(f"checkpoint must be best or last: {config['checkpoint']!r}")
    if data["validation_split"].startswith("test"):
        raise ValueError(
            f"data.validation_split is {data['validation_split']!r}: the threshold "
            "must not be set on test images; name a part of train"
        )
    if data["num_examples"] < 0:
        raise ValueError(f"num_examples cannot be negative: {data['num_examples']}")
    if not 0.0 <= config[false_alarms] < 1.0:
        raise ValueError(
            f"{false_alarms} is a share of images, in [0, 1): {config[false_alarms]}"
        )
    if not config["classifier"]:
        raise ValueError("name a classifier: the folder of its run, or a .npz file")
    if config["detector"] and not config["remover"]:
        raise ValueError("a detector looks at the remover's noise: name a remover too")


def load_subject(config: dict[str, Any], data_dir: str | None) -> Subject:
    """Loads the models and opens the data that an evaluation names.

    Args:
        config: The fields of `configs/evaluate.py` or `configs/attack.py`, checked.
        data_dir: Folder of the prepared data sets.

    Raises:
        ValueError: If models and data do not belong together, or one is damaged.
        FileNotFoundError: If a model or the data set is missing.
    """
    which, data = config["checkpoint"], config["data"]
    models = {"classifier": load_classifier(config["classifier"], which=which)}
    for phase in ("remover", "detector"):
        if config[phase]:
            models[phase] = load_model(config[phase], phase=phase, which=which)
    if "remover" in models:
        check_models_match(
            models["remover"], models.get("detector"), models["classifier"]
        )
    source = open_source(data["name"], data["split"], data_dir=data_dir)
    classifier = models["classifier"]
    if classifier.num_classes != source.num_classes:
        raise ValueError(
            f"the classifier in {config['classifier']} knows {classifier.num_classes} "
            f"classes and {data['name']} has {source.num_classes}"
        )
    if tuple(source.image_shape) != classifier.image_shape:
        raise ValueError(
            f"{data['name']} has images of shape {list(source.image_shape)}, the "
            f"models were made for {list(classifier.image_shape)}"
        )
    if data["num_examples"] > len(source):
        raise ValueError(
            f"num_examples is {data['num_examples']}, {data['name']} has "
            f"{len(source)} images in {data['split']}: 0 takes all"
        )
    validation = None
    if "detector" in models:
        validation = open_source(
            data["name"], data["validation_split"], data_dir=data_dir
        )
    return Subject(
        models,
        source,
        validation,
        sharding.data_mesh(),
        config["batch_size"],
        data["num_examples"] or len(source),
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
    pairs = remover = None
    if config["phase"] != "classifier":
        augment = tasks.augmenter(data["augmentation"])
        pairs = drawn_pairs(build_degradation(config), augment)
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
    module = build_module(config)
    if config["phase"] == "remover":
        task = tasks.remover_task(
            module,
            optimizer,
            pairs,
            image_shape=shape,
            **config["loss"],
        )
    elif config["phase"] == "detector":
        task = tasks.detector_task(
            module,
            remover.module,
            remover.variables,
            optimizer,
            pairs,
            image_shape=shape,
            inputs=config["model"]["inputs"],
        )
    else:
        task = tasks.classifier_task(
            module, optimizer, image_shape=shape, augmentation=data["augmentation"]
        )
    return Experiment(train_source, validation_source, task, config)


def sample_images(source: Any, max_bytes: int = 2**28) -> np.ndarray:
    """Returns all images of a source, or where they are too many an even sample."""
    count = min(len(source), max(1, max_bytes // int(np.prod(source.image_shape))))
    return source.read(np.linspace(0, len(source) - 1, count).astype(int))[0]
