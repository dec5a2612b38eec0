"""Trained models from disk, ready to use."""

import dataclasses
import os
import zipfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from uronet_jax import checkpoints
from uronet_jax.defense import Defense, classifier_function, detector_channels
from uronet_jax.models import ResNet, compute_dtype, make_classifier, make_remover
from uronet_jax.models.pytorch import resnet_depth, resnet_variables

# The statistics that PyTorch's CIFAR ResNets are usually normalised with.
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """A trained model.

    Attributes:
        phase: `remover`, `detector` or `classifier`.
        module: The Flax module.
        variables: What `module.apply` takes.
        image_shape: `(H, W, C)` of the images it was trained on.
        num_classes: Classes of the data set it was trained on.
        config: The run's config.
    """

    phase: str
    module: nn.Module
    variables: dict[str, Any]
    image_shape: tuple[int, int, int]
    num_classes: int
    config: dict[str, Any]


def build_module(config: dict[str, Any]) -> nn.Module:
    """Builds the module that a run's stored config describes.

    Args:
        config: As `launch.train` stores it: `phase`, `model`, `dtype`, and under
            `resolved` what was derived from the data.

    Raises:
        ValueError: If the phase or a name in it is unknown.
    """
    phase, model = config["phase"], config["model"]
    resolved, dtype = config["resolved"], compute_dtype(config["dtype"])
    if phase == "remover":
        return make_remover(
            model["variant"],
            widths=model["widths"],
            clean_mean=resolved["clean_mean"],
            dtype=dtype,
        )
    if phase == "detector":
        return make_classifier(model["name"], 2, dtype=dtype)
    if phase == "classifier":
        return make_classifier(
            model["name"],
            resolved["num_classes"],
            mean=resolved["mean"],
            std=resolved["std"],
            dtype=dtype,
        )
    raise ValueError(
        f"unknown phase {phase!r}: expected remover, detector or classifier"
    )


def load_model(
    workdir: str | os.PathLike, *, phase: str | None = None, which: str = "best"
) -> LoadedModel:
    """Loads a model that `launch.train` trained.

    Args:
        workdir: Folder of the run.
        phase: What it must be, if given.
        which: `best`, `last`, or a step number.

    Raises:
        FileNotFoundError: If there is no checkpoint.
        ValueError: If it is damaged, of another architecture or of another phase.
    """
    config = checkpoints.read_config(workdir, which)
    if phase is not None and config["phase"] != phase:
        raise ValueError(
            f"{workdir} holds a {config['phase']}, expected a {phase}: check the path"
        )
    module = build_module(config)
    shape = tuple(config["resolved"]["image_shape"])
    channels = shape[2]
    if config["phase"] == "detector":
        channels = detector_channels(channels, config["model"]["inputs"])
    like = jax.eval_shape(
        module.init, jax.random.key(0), jnp.zeros((1, *shape[:2], channels))
    )
    variables = checkpoints.read_variables(workdir, {"batch_stats": {}, **like}, which)
    return LoadedModel(
        phase=config["phase"],
        module=module,
        variables=variables,
        image_shape=shape,
        num_classes=config["resolved"]["num_classes"],
        config=config,
    )


def load_classifier(path: str | os.PathLike, *, which: str = "best") -> LoadedModel:
    """Loads a classifier: one of ours, or a PyTorch CIFAR ResNet as `.npz`.

    Args:
        path: Folder of a run, or a `.npz` file with PyTorch's names and layouts, see
            `models.pytorch`. Such a classifier is taken to normalise its 32x32
            colour input with ImageNet's statistics.
        which: Which checkpoint of a run.

    Raises:
        FileNotFoundError: If there is nothing.
        ValueError: If it is damaged or not a classifier.
    """
    path = Path(path)
    if path.suffix != ".npz":
        return load_model(path, phase="classifier", which=which)
    if not path.is_file():
        raise FileNotFoundError(f"no classifier weights at {path}")
    try:
        with np.load(path) as file:
            weights = dict(file)
    except (zipfile.BadZipFile, EOFError) as error:
        raise ValueError(f"{path} is damaged ({error}): copy it anew") from error
    variables = resnet_variables(weights)
    num_classes = int(variables["params"]["Dense_0"]["bias"].size)
    depth = resnet_depth(weights)
    module = ResNet(depth, num_classes, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    config = {"phase": "classifier", "model": {"name": f"resnet{depth}"}}
    return LoadedModel(
        "classifier", module, variables, (32, 32, 3), num_classes, config
    )


def check_models_match(
    remover: LoadedModel, detector: LoadedModel | None, classifier: LoadedModel
) -> None:
    """Raises ValueError if the models were made for images of different shapes."""
    for model in (detector, classifier):
        if model is not None and model.image_shape != remover.image_shape:
            raise ValueError(
                f"the {model.phase} was trained on images of shape "
                f"{list(model.image_shape)} and the remover on "
                f"{list(remover.image_shape)}: choose models of one data set"
            )


def load_defense(
    remover: str | os.PathLike,
    detector: str | os.PathLike,
    classifier: str | os.PathLike,
    *,
    gate: float | None = None,
    batch_size: int = 128,
) -> Defense:
    """Loads a whole defence from three runs.

    Args:
        remover: Folder of the remover's run.
        detector: Folder of the detector's run, trained behind that remover.
        classifier: Folder of a classifier's run, or a `.npz` file, see
            `load_classifier`.
        gate: Threshold above which an image is purified; None purifies all.
        batch_size: Images in a compiled call.

    Returns:
        `defense(images) -> Prediction`.

    Raises:
        FileNotFoundError: If a run has no checkpoint.
        ValueError: If the models do not belong together.
    """
    models = {
        "remover": load_model(remover, phase="remover"),
        "detector": load_model(detector, phase="detector"),
        "classifier": load_classifier(classifier),
    }
    check_models_match(**models)
    return Defense(
        models["remover"].module,
        models["detector"].module,
        classifier_function(models["classifier"].module),
        {name: model.variables for name, model in models.items()},
        image_shape=models["remover"].image_shape,
        inputs=models["detector"].config["model"]["inputs"],
        gate=gate,
        batch_size=batch_size,
    )
