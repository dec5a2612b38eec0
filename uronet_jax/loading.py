"""Trained models from disk, ready to use."""

import dataclasses
import functools
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from uronet_jax import checkpoints
from uronet_jax.attacks.digests import digest
from uronet_jax.defense import Defense, classifier_function, no_classifier
from uronet_jax.models.keras import network_from_keras
from uronet_jax.models.pytorch import network_from_pytorch
from uronet_jax.pretrained import (
    USUAL_PRETRAINED,
    is_pretrained_name,
    list_pretrained,
    read_pretrained,
)
from uronet_jax.purifiers import Purifier, chain, parse_purifier
from uronet_jax.specs import nearest_name
from uronet_jax.training.phases import find_phase
from uronet_jax.transformations import TRANSFORMATIONS
from uronet_jax.weight_files import (
    KERAS_FILES,
    WEIGHT_FILES,
    read_keras,
    read_pytorch,
)


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """A trained model, or a purifier that needs no training.

    Attributes:
        role: What it is in a defence: `purifier`, `detector` or `classifier`.
        module: The Flax module, or the purifier.
        variables: What it takes; None if it has none.
        image_shape: `(H, W, C)` of the images it was trained on; None for any.
        any_size: Whether it is as good for images of other sizes, and `image_shape` is
            only what it is usually shown.
        num_classes: Classes of the data set it was trained on; None where it has none.
        config: The run's config; of others what they are made of.
    """

    role: str
    module: nn.Module | Purifier
    variables: Any
    image_shape: tuple[int, int, int] | None
    num_classes: int | None
    config: dict[str, Any]
    any_size: bool = False

    def takes(self, shape: Sequence[int]) -> bool:
        """Returns whether it was made for images of a shape `(H, W, C)`.

        Any size is from the smallest on that its network takes.
        """
        if self.image_shape is None or self.image_shape == tuple(shape):
            return True
        *sides, channels = shape
        return (
            self.any_size
            and min(sides) >= self.module.smallest
            and channels == self.image_shape[-1]
        )

    @property
    def shape_text(self) -> str:
        """Which images it was made for, as errors tell it."""
        if not self.any_size:
            return f"of shape {list(self.image_shape)}"
        smallest = self.module.smallest
        return (
            f"of {smallest}x{smallest} pixels or more, of {self.image_shape[-1]} "
            "channels"
        )

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
    if not {"phase", "resolved"} <= config.keys():
        raise ValueError(
            f"{workdir} is no run of `uronet train`: its config lacks phase or resolved"
        )
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
    like = _shapes_of(module, phase.input_shape(config, shape))
    variables = read({"batch_stats": {}, **like})
    classes = config["resolved"]["num_classes"]
    return LoadedModel(phase.role, module, variables, shape, classes, config)


@functools.lru_cache(maxsize=64)
def _shapes_of(module: nn.Module, image_shape: tuple[int, int, int]) -> Any:
    """Returns shapes of variables; tracing takes longer than reading small ones."""
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    return jax.eval_shape(module.init, jax.random.key(0), images)


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
            f"no folder {text!r}, and no pretrained weights of that name{hint}: "
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


def detector_for(purifier: str | None, detector: str | None) -> str | None:
    """Returns which detector a command is to load: what is named, or what comes along.

    Args:
        purifier: What `load_purifier` reads, None for none.
        detector: What `load_detector` reads; empty for none; None for that which comes
            with the purifier, as it does with pretrained weights.
    """
    if detector is not None:
        return detector or None
    return purifier if purifier and _is_pretrained(purifier) else None


def usual_models(purifier: str | None, detector: str | None) -> tuple[str, str | None]:
    """Returns purifier and detector of a command that has a usual purifier.

    Args:
        purifier: What `load_purifier` reads; None for that of a pretrained detector,
            else `USUAL_PRETRAINED`.
        detector: As for `detector_for`.

    Raises:
        ValueError: If a run's detector is named without its purifier.
    """
    if purifier is None:
        if detector and not _is_pretrained(detector):
            raise ValueError(
                f"detector {detector} without a purifier: name the purifier that this "
                "detector learned behind (--purifier)"
            )
        purifier = detector or USUAL_PRETRAINED
    return purifier, detector_for(purifier, detector)


def _is_pretrained(text: str) -> bool:
    """Returns whether a text names weights that ship, and no folder."""
    known = is_pretrained_name(text) and not Path(text).exists()
    return known and text in list_pretrained()


def load_purifier(spec: str | os.PathLike, *, which: str = "best") -> LoadedModel:
    """Loads a purifier; `which` and errors are those of `load_model`.

    Args:
        spec: Folder of a run; `name:parameter=value,...` of an input transformation,
            such as `jpeg:quality=75` or `quilting:patches=patches.npy`; a name of
            pretrained weights, such as `universal-cifar10`; or several of these, joined
            by `+`, one after the other. A folder that has the name of a transformation
            is written as `./jpeg`, and goes before pretrained weights of its name.
        which: Checkpoint of a run.
    """
    text = os.fspath(spec)
    parts = text.split("+")
    if Path(text).exists() and not all(map(_is_transformation, parts)):
        parts = [text]
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
    if not _is_transformation(text):
        name = text.partition(":")[0]
        if name.isidentifier() and not Path(text).exists():
            known = [*TRANSFORMATIONS, *list_pretrained()]
            raise ValueError(
                f"no purifier {text!r}{nearest_name(name, known)}: it is neither the "
                "folder of a run nor a transformation or pretrained weights "
                f"({', '.join(known)})"
            )
        pretrained = _find_pretrained(text)
        if pretrained:
            return pretrained.purifier
        return load_model(text, role="purifier", which=which)
    made = parse_purifier(text)
    # The variables tell its data from others, wherever the files lie.
    config = {"model": {"name": made.name, **dict(made.parameters)}}
    return LoadedModel("purifier", made, made.load(), None, None, config)


def _is_transformation(text: str) -> bool:
    return text.partition(":")[0] in TRANSFORMATIONS


def load_classifier(
    path: str | os.PathLike,
    *,
    which: str = "best",
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> LoadedModel:
    """Loads a classifier: one of ours, or a network of PyTorch or Keras.

    The latter is a file that `read_pytorch` or `read_keras` reads, of a network that
    `models.list_importable` names. It has as many classes as its last layer, and no
    dropout if it is trained on. Networks for photographs take images of any size from
    their smallest on; a second head for training, as Inception V3 has, is left out.
    Errors are those of `load_model`.

    Args:
        path: Folder of a run, or file of weights.
        which: Checkpoint of a run, see `load_model`.
        mean: Pixel mean that a network of PyTorch or Keras was trained with, one value
            or one per channel, if it is neither in the file as `mu` (beside `sigma`, as
            RobustBench has them) nor that of `models.preprocessing`. A VGG of Keras is
            then taken as trained on red, green, blue; else on the reverse.
        std: Pixel deviation, likewise.
    """
    path = Path(path)
    if path.suffix not in WEIGHT_FILES:
        return load_model(path, role="classifier", which=which)
    keras = path.suffix in KERAS_FILES
    weights = read_keras(path) if keras else read_pytorch(path)
    convert = network_from_keras if keras else network_from_pytorch
    try:
        network = convert(weights, mean=mean, std=std)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return LoadedModel(
        "classifier",
        network.module,
        network.variables,
        network.image_shape,
        network.module.num_classes,
        {"model": {"name": network.name, **network.statistics}},
        any_size=network.any_size,
    )


def load_initial(
    path: str | os.PathLike,
    like: Any,
    which: str = "best",
    *,
    model: LoadedModel | None = None,
    new_head: Any = None,
) -> Any:
    """Loads the weights that a training is to start from.

    Args:
        path: Folder of a run with a model of the same shapes, or a file of weights of
            PyTorch or Keras, see `load_classifier`.
        like: `{"params", "batch_stats"}` with the shapes of the module to be trained.
        which: Checkpoint of a run, see `load_model`.
        model: What `initial_model` returned for `path`, lest a file is read twice.
        new_head: Parameters of the layer `head_name`, in place of those there.

    Raises:
        FileNotFoundError: If there is nothing.
        ValueError: If a file is damaged or the shapes differ; names the first that do.
    """
    if model is not None:
        variables = model.variables
    elif Path(path).suffix in WEIGHT_FILES:
        variables = load_classifier(path).variables
    else:
        variables = load_model(path, which=which).variables
    if new_head is not None:
        variables = _with_head(variables, new_head)
    try:
        checkpoints.check_same_shapes(variables, like)
    except ValueError as error:
        more = ""
        if _same_but_head(variables, like):
            more = ": only the last layer differs; to draw it anew set new_head=True"
        raise ValueError(f"{path} does not fit the model: {error}{more}") from error
    return variables


def head_name(variables: Any) -> str | None:
    """Returns the last dense layer of `{"params", ...}`, None if there is none."""
    dense = [x for x in variables["params"] if x.startswith("Dense_")]
    return max(dense, key=lambda x: int(x.removeprefix("Dense_")), default=None)


def _with_head(variables: Any, head: Any) -> dict[str, Any]:
    params = {**variables["params"], head_name(variables): head}
    return {**variables, "params": params}


def _same_but_head(variables: Any, like: Any) -> bool:
    """Returns whether two models have the same shapes all but those of their heads."""
    name = head_name(variables)
    if not name or name != head_name(like):
        return False
    try:
        checkpoints.check_same_shapes(_with_head(variables, like["params"][name]), like)
    except ValueError:
        return False
    return True


def initial_model(path: str | os.PathLike, role: str) -> LoadedModel | None:
    """Returns the model of a pretrained name or a file of weights, None of a folder.

    Raises:
        ValueError: If there is none for the role, or it is damaged.
        FileNotFoundError: If there is nothing of the name.
    """
    if Path(path).suffix in WEIGHT_FILES:
        return load_classifier(path)
    models = _find_pretrained(os.fspath(path))
    if models and role not in models._fields:
        raise ValueError(
            f"{path} holds {' and '.join(models._fields)}, and a {role} is to be "
            "trained: name the folder of its run"
        )
    return getattr(models, role) if models else None


def initial_statistics(
    path: str | os.PathLike, model: LoadedModel | None = None
) -> dict[str, Any]:
    """Returns the pixel statistics that initial weights were trained with.

    Arguments are those of `load_initial`.
    """
    if Path(path).suffix in WEIGHT_FILES:
        module = (model or load_classifier(path)).module
        return {"mean": list(module.mean), "std": list(module.std)}
    config = model.config if model else checkpoints.read_config(path)
    resolved = config["resolved"]
    return {name: resolved[name] for name in ("mean", "std", "clean_mean")}


def check_models_match(*models: LoadedModel | None) -> None:
    """Raises ValueError if models were made for images of different shapes."""
    shaped = [m for m in models if m is not None and m.image_shape is not None]
    shaped.sort(key=lambda model: model.any_size)  # The others tell which size it is.
    for model in shaped[1:]:
        if not model.takes(shaped[0].image_shape):
            raise ValueError(
                f"the {model.role} was made for images {model.shape_text} and the "
                f"{shaped[0].role} for images {shaped[0].shape_text}: choose models "
                "of one data set"
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
    if classifier is None:
        raise ValueError("a defence needs a classifier: only the others may be None")
    return assemble_defense(
        load_purifier(purifier) if purifier is not None else None,
        load_detector(detector) if detector is not None else None,
        load_classifier(classifier),
        gate=gate,
        batch_size=batch_size,
    )


def assemble_defense(
    purifier: LoadedModel | None,
    detector: LoadedModel | None,
    classifier: LoadedModel | None,
    *,
    gate: float | None = None,
    batch_size: int = 128,
) -> Defense:
    """Returns loaded models as a defence; arguments are those of `load_defense`.

    Without a classifier it purifies and detects, and its logits are None.

    Raises:
        ValueError: If the models do not belong together.
    """
    roles = {"purifier": purifier, "detector": detector, "classifier": classifier}
    models = {role: model for role, model in roles.items() if model is not None}
    check_models_match(*models.values())
    check_detector(detector, purifier)
    fixed = [m.image_shape for m in models.values() if not m.any_size and m.image_shape]
    channels = classifier.image_shape[-1] if classifier else None
    return Defense(
        purifier and purifier.module,
        detector and detector.module,
        classifier_function(classifier.module) if classifier else no_classifier,
        {"classifier": None} | {role: m.variables for role, m in models.items()},
        image_shape=fixed[0] if fixed else (None, None, channels),
        inputs=detector_inputs(detector),
        gate=gate,
        batch_size=batch_size,
    )
