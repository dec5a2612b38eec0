"""Trained models from disk, ready to use."""

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from safetensors import SafetensorError
from safetensors.numpy import load_file

from uronet_jax import checkpoints
from uronet_jax.array_files import read_archive
from uronet_jax.attacks.digests import digest
from uronet_jax.command import nearest_name
from uronet_jax.defense import Defense, classifier_function
from uronet_jax.models import ResNet
from uronet_jax.models.pytorch import resnet_depth, resnet_variables
from uronet_jax.pretrained import (
    is_pretrained_name,
    list_pretrained,
    read_pretrained,
)
from uronet_jax.purifiers import Purifier, chain, parse_purifier
from uronet_jax.training.phases import find_phase
from uronet_jax.transformations import TRANSFORMATIONS

# Files of PyTorch weights.
_WEIGHT_FILES = (".npz", ".safetensors")
# The statistics that PyTorch's CIFAR ResNets are usually normalised with.
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """A trained model, or a purifier that needs no training.

    Attributes:
        role: What it is in a defence: `purifier`, `detector` or `classifier`.
        module: The Flax module, or the purifier.
        variables: What it takes; None if it has none.
        image_shape: `(H, W, C)` of the images it was trained on; None for any.
        num_classes: Classes of the data set it was trained on; None where it has none.
        config: The run's config; of others what they are made of.
    """

    role: str
    module: nn.Module | Purifier
    variables: Any
    image_shape: tuple[int, int, int] | None
    num_classes: int | None
    config: dict[str, Any]

    @property
    def identity(self) -> str:
        """What tells it from models with other weights or parameters."""
        model = json.dumps(self.config["model"], sort_keys=True)
        return f"{digest(self.variables)} {model}"


def load_model(
    workdir: str | os.PathLike, *, role: str | None = None, which: str = "best"
) -> LoadedModel:
    """Loads a model that `launch.train` trained.

    Args:
        workdir: Folder of the run.
        role: What it must be, if given: `purifier`, `detector` or `classifier`.
        which: `best`, `last`, or a step number.

    Raises:
        FileNotFoundError: If there is no checkpoint.
        ValueError: If it is damaged, of another architecture or of another role.
    """
    config = checkpoints.read_config(workdir, which)
    found = find_phase(config["phase"]).role
    if role is not None and found != role:
        raise ValueError(
            f"{workdir} holds a {found}, expected a {role}: check the path"
        )
    return _rebuild(
        config, lambda like: checkpoints.read_variables(workdir, like, which)
    )


def _rebuild(config: dict[str, Any], read: Callable[[Any], Any]) -> LoadedModel:
    """Returns the model of a config; `read(like)` gives variables of such shapes."""
    phase = find_phase(config["phase"])
    module = phase.build(config)
    shape = tuple(config["resolved"]["image_shape"])
    images = jnp.zeros((1, *phase.input_shape(config, shape)))
    like = jax.eval_shape(module.init, jax.random.key(0), images)
    variables = read({"batch_stats": {}, **like})
    classes = config["resolved"]["num_classes"]
    return LoadedModel(phase.role, module, variables, shape, classes, config)


class PretrainedModels(NamedTuple):
    """A purifier and the detector that learned behind it."""

    purifier: LoadedModel
    detector: LoadedModel


def load_pretrained(
    name: str, *, folder: str | os.PathLike | None = None
) -> PretrainedModels:
    """Loads weights that come with the package.

    The modules compute in float32, whatever they were trained in.

    Args:
        name: A key of `list_pretrained()`.
        folder: Where entries lie, by default in the package.

    Raises:
        ValueError: If the name is unknown, or a file is damaged.
        FileNotFoundError: If a file is missing.
    """
    entry = read_pretrained(name, folder)

    def rebuild(role):
        def read(like):
            try:
                checkpoints.check_same_shapes(entry.variables[role], like)
            except ValueError as error:
                raise ValueError(f"{name} is of another version: {error}") from error
            return entry.variables[role]

        return _rebuild(entry.configs[role], read)

    return PretrainedModels(*map(rebuild, PretrainedModels._fields))


def _find_pretrained(text: str) -> PretrainedModels | None:
    """Returns the models that a text names; what is on disk goes before them."""
    if not is_pretrained_name(text) or Path(text).exists():
        return None
    if text not in list_pretrained():
        hint = nearest_name(text, list_pretrained())
        raise FileNotFoundError(
            f"no folder {text!r}, and no pretrained weights of that name: {hint}"
            "`uronet list pretrained` names them"
        )
    return load_pretrained(text)


def load_detector(spec: str | os.PathLike, *, which: str = "best") -> LoadedModel:
    """Loads a detector; `which` and errors are those of `load_model`.

    Args:
        spec: Folder of a run, or a name of pretrained weights; a folder of that name
            goes before them.
        which: Checkpoint of a run.
    """
    pretrained = _find_pretrained(os.fspath(spec))
    return (
        pretrained.detector
        if pretrained
        else load_model(spec, role="detector", which=which)
    )


def load_purifier(spec: str | os.PathLike, *, which: str = "best") -> LoadedModel:
    """Loads a purifier; `which` and errors are those of `load_model`.

    Args:
        spec: Folder of a run; `name:parameter=value,...` of an input transformation,
            such as `jpeg:quality=75` or `quilting:patches=patches.npy`; a name of
            pretrained weights, such as `universal-cifar10`; or several of these, joined
            by `+`, one after the other. A folder goes before what has its name.
        which: Checkpoint of a run.
    """
    text = os.fspath(spec)
    parts = [text] if Path(text).exists() else text.split("+")
    loaded = [_load_stage(part, which) for part in parts]
    if len(loaded) == 1:
        return loaded[0]
    shapes = list(dict.fromkeys(x.image_shape for x in loaded if x.image_shape))
    if len(shapes) > 1:
        listed = ", ".join(str(list(shape)) for shape in shapes)
        raise ValueError(
            f"the purifiers of {text} were trained on images of shapes {listed}: "
            "choose some of one data set"
        )
    return LoadedModel(
        "purifier",
        chain(*(stage.module for stage in loaded)),
        tuple(stage.variables for stage in loaded),
        shapes[0] if shapes else None,
        None,
        {"model": {"chain": [stage.config["model"] for stage in loaded]}},
    )


def _load_stage(text: str, which: str) -> LoadedModel:
    name = text.partition(":")[0]
    if name.isidentifier() and not Path(text).exists():
        if name not in TRANSFORMATIONS:
            known = [*TRANSFORMATIONS, *list_pretrained()]
            raise ValueError(
                f"no purifier {text!r}: {nearest_name(name, known)}It is neither the "
                "folder of a run nor a transformation or pretrained weights "
                f"({', '.join(known)})"
            )
        made = parse_purifier(text)
        # The variables tell its data from others, wherever the files lie.
        config = {"model": {"name": made.name, **dict(made.parameters)}}
        return LoadedModel("purifier", made, made.load(), None, None, config)
    pretrained = _find_pretrained(text)
    if pretrained:
        return pretrained.purifier
    return load_model(text, role="purifier", which=which)


def load_classifier(path: str | os.PathLike, *, which: str = "best") -> LoadedModel:
    """Loads a classifier: one of ours, or a PyTorch CIFAR ResNet.

    The latter is a `.npz` or `.safetensors` file with PyTorch's names and layouts (see
    `models.pytorch`), and is taken to normalise its 32x32 colour input with ImageNet's
    statistics. `which` and errors are those of `load_model`.
    """
    path, shape = Path(path), (32, 32, 3)
    if path.suffix not in _WEIGHT_FILES:
        return load_model(path, role="classifier", which=which)
    weights = read_pytorch(path)
    depth = resnet_depth(weights)
    try:
        variables = resnet_variables(weights)
        classes = int(variables["params"]["Dense_0"]["bias"].size)
        module = ResNet(
            depth, num_classes=classes, mean=IMAGENET_MEAN, std=IMAGENET_STD
        )
        images = jnp.zeros((1, *shape))
        like = jax.eval_shape(module.init, jax.random.key(0), images)
        checkpoints.check_same_shapes(variables, like)
    except ValueError as error:
        raise ValueError(f"{path} is not of a CIFAR ResNet: {error}") from error
    config = {"model": {"name": f"resnet{depth}"}}
    return LoadedModel("classifier", module, variables, shape, classes, config)


def read_pytorch(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Reads a `.npz` or `.safetensors` file of arrays by their names.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is damaged, or no such file.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no classifier weights at {path}")
    try:
        if Path(path).suffix == ".npz":
            weights = read_archive(path)
        else:
            weights = load_file(path)
    except (ValueError, SafetensorError) as error:
        raise ValueError(
            f"{path} is damaged or no file of weights: copy it anew; from PyTorch "
            "write it with numpy.savez(path, **{name: x.cpu().numpy() for name, x in "
            "state_dict.items()})"
        ) from error
    for name, value in weights.items():
        if not np.isfinite(np.asarray(value, np.float32)).all():
            raise ValueError(
                f"{path}: weight {name!r} holds numbers that are not finite: copy or "
                "train it anew"
            )
    return weights


def load_initial(path: str | os.PathLike, like: Any, which: str = "best") -> Any:
    """Loads the weights that a training is to start from.

    Args:
        path: Folder of a run with a model of the same shapes, or a `.npz` or
            `.safetensors` file of PyTorch weights of a CIFAR ResNet.
        like: `{"params", "batch_stats"}` with the shapes of the module to be trained.
        which: Checkpoint of a run, see `load_model`.

    Raises:
        FileNotFoundError: If there is nothing.
        ValueError: If a file is damaged or the shapes differ; names the first that do.
    """
    if Path(path).suffix not in _WEIGHT_FILES:
        return checkpoints.read_variables(path, like, which)
    weights = read_pytorch(path)
    try:
        variables = resnet_variables(weights)
        checkpoints.check_same_shapes(variables, like)
    except ValueError as error:
        raise ValueError(f"{path} does not fit the model: {error}") from error
    return variables


def initial_statistics(path: str | os.PathLike) -> dict[str, Any]:
    """Returns the pixel statistics that initial weights were trained with."""
    if Path(path).suffix in _WEIGHT_FILES:
        return {"mean": list(IMAGENET_MEAN), "std": list(IMAGENET_STD)}
    resolved = checkpoints.read_config(path)["resolved"]
    return {name: resolved[name] for name in ("mean", "std", "clean_mean")}


def check_models_match(*models: LoadedModel | None) -> None:
    """Raises ValueError if models were made for images of different shapes."""
    shaped = [m for m in models if m is not None and m.image_shape is not None]
    for model in shaped[1:]:
        if model.image_shape != shaped[0].image_shape:
            raise ValueError(
                f"the {model.role} was trained on images of shape "
                f"{list(model.image_shape)} and the {shaped[0].role} on "
                f"{list(shaped[0].image_shape)}: choose models of one data set"
            )


def check_detector(detector: LoadedModel | None, purifier: LoadedModel | None) -> None:
    """Raises ValueError if a detector learned behind another purifier.

    Runs of earlier versions do not say behind which.
    """
    if detector is None or purifier is None:
        return
    learned = detector.config["resolved"].get("purifier")
    if learned not in (None, purifier.identity):
        raise ValueError(
            f"the detector learned behind another purifier, {learned}, and would judge "
            f"noise patterns that it never saw, of {purifier.identity}: train one "
            "behind this purifier, or leave the detector out"
        )


def detector_inputs(detector: LoadedModel | None) -> str:
    """Returns what a loaded detector looks at; `image` for none."""
    return detector.config["model"]["inputs"] if detector else "image"


def load_defense(
    purifier: str | os.PathLike | None,
    detector: str | os.PathLike | None,
    classifier: str | os.PathLike,
    *,
    gate: float | None = None,
    batch_size: int = 128,
) -> Defense:
    """Loads a whole defence.

    Args:
        purifier: What `load_purifier` reads, such as the folder of a remover's run;
            None shows the classifier the images as they come.
        detector: What `load_detector` reads, behind that purifier; None for none.
        classifier: What `load_classifier` reads.
        gate: Threshold above which an image is purified; None purifies all.
        batch_size: Images in a compiled call.

    Raises:
        FileNotFoundError: If a run has no checkpoint.
        ValueError: If the models do not belong together.
    """
    models = {}
    if purifier is not None:
        models["purifier"] = load_purifier(purifier)
    if detector is not None:
        models["detector"] = load_detector(detector)
    models["classifier"] = load_classifier(classifier)
    check_models_match(*models.values())
    found, cleaner = models.get("detector"), models.get("purifier")
    check_detector(found, cleaner)
    return Defense(
        cleaner and cleaner.module,
        found.module if found else None,
        classifier_function(models["classifier"].module),
        {name: model.variables for name, model in models.items()},
        image_shape=models["classifier"].image_shape,
        inputs=detector_inputs(found),
        gate=gate,
        batch_size=batch_size,
    )
