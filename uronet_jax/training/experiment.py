"""From a config, as plain dicts, to data and a task: written once.

`launch.train` trains one config; the papers train many and bring data and frozen
models of their own (`make_task`).
"""

import dataclasses
import itertools
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from uronet_jax import sharding
from uronet_jax.array_files import map_array
from uronet_jax.batches import check_listed, check_whole
from uronet_jax.checkpoints import check_path, locked_workdir, read_config
from uronet_jax.corruptions import (
    Degradation,
    find_corruption,
    list_corruptions,
    list_severities,
    make_degradation,
    suite_degradations,
)
from uronet_jax.data import AUGMENTATIONS, PairedSource, open_source, prepare
from uronet_jax.data.mixed_corruptions import store_mixed
from uronet_jax.data.pipelines import check_fits, check_pipeline
from uronet_jax.data.sources import check_disjoint, source_digest
from uronet_jax.data.statistics import pixel_statistics
from uronet_jax.data.stored import check_digests, is_finished
from uronet_jax.loading import (
    LoadedModel,
    check_models_match,
    head_name,
    initial_model,
    initial_statistics,
    load_classifier,
    load_initial,
    load_purifier,
)
from uronet_jax.progress import Progress
from uronet_jax.seeds import named_seed
from uronet_jax.specs import known_name
from uronet_jax.training.optimizers import OPTIMIZER_FIELDS, make_optimizer
from uronet_jax.training.pairs import Pairs, clean_pairs, drawn_pairs, stored_pairs
from uronet_jax.training.phases import find_phase
from uronet_jax.training.run import Schedule, check_same_config, finished_steps
from uronet_jax.training.task import Config, Task

# Any data will do to build a module once.
_NO_DATA = {
    **{"clean_mean": 0.5, "num_classes": 2, "mean": (0.5,), "std": (0.5,)},
    "image_shape": (32, 32, 3),
}
# Fields that every phase needs: to build a task, to open its data, and to degrade.
_TASK_FIELDS = ("dtype", "batch_size", "num_steps", "optimizer.peak_rate")
_DATA_FIELDS = (
    *("seed", "eval_batch_size", "initial", "data.name", "data.train_split"),
    *("data.validation_split", "data.pipeline", "data.augmentation"),
)
_DEGRADATION_FIELDS = (
    *("degradation.suite", "degradation.noises", "degradation.severities"),
    *("degradation.clean_entries", "degradation.clean_share", "degradation.copies"),
    *("degradation.folder", "degradation.spn_reading", "degradation.un_reading"),
)
_LOADERS = {"purifier": load_purifier, "classifier": load_classifier}


class Experiment(NamedTuple):
    """A config made real: data, task, and the config with what the data added."""

    train_source: Any
    validation_source: Any
    task: Task
    config: dict[str, Any]


def schedule_of(config: Config) -> Schedule:
    """Returns how long a config trains."""
    needed = {"batch_size": config["batch_size"], "num_steps": config["num_steps"]}
    names = [field.name for field in dataclasses.fields(Schedule)]
    return Schedule(**{x: config[x] for x in names if x in config} | needed)


def augmenter(name: str):
    """Returns an augmentation by name; raises ValueError if it is unknown."""
    return AUGMENTATIONS[known_name("augmentation", name, AUGMENTATIONS)]


def degrades(config: Config) -> bool:
    """Returns whether a config names a degradation."""
    fields = config.get("degradation") or {}
    return any(fields.get(name) for name in ("suite", "noises", "parameters"))


def has_copies(config: Config) -> bool:
    """Returns whether degraded images are stored beforehand, not drawn in the step."""
    fields = config.get("degradation") or {}
    return bool(fields.get("copies") or fields.get("folder"))


def build_degradation(fields: Mapping[str, Any]) -> Degradation:
    """Builds the mix of degradations that the section `degradation` describes."""
    check_whole("degradation.clean_entries", fields["clean_entries"], 0, 1000)
    clean = [("identity", 0.0)] * fields["clean_entries"]
    if not fields["suite"]:
        if not fields["parameters"]:
            raise ValueError(
                f"degradation.noises {tuple(fields['noises'])} are of no suite: name "
                "it in degradation.suite, or how strong they are in "
                "degradation.parameters"
            )
        found = itertools.product(fields["noises"], fields["parameters"])
        try:
            return make_degradation([*found, *clean])
        except ValueError as error:
            raise ValueError(
                f"degradation.noises {tuple(fields['noises'])} do not take "
                f"degradation.parameters {tuple(fields['parameters'])}: {error}"
            ) from error
    names, severities = _chosen(fields)
    entries = suite_degradations(
        fields["suite"],
        noises=names,
        severities=severities,
        spn_reading=fields["spn_reading"],
        un_reading=fields["un_reading"],
    )
    return make_degradation([(x.kind, x.parameter) for x in entries] + clean)


def make_pairs(config: Config) -> Pairs:
    """Returns where the clean and degraded images of a config come from."""
    augment = augmenter(config["data"]["augmentation"])
    if not degrades(config) and not has_copies(config):
        return clean_pairs(augment)
    fields = config["degradation"]
    share = fields["clean_share"]
    if has_copies(config):
        return stored_pairs(augment, clean_share=share)
    # Configs of earlier versions do not say whether.
    clip = fields.get("clip", True)
    degradation = build_degradation(fields)
    return drawn_pairs(degradation, augment, clean_share=share, clip=clip)


def _check_degradation(config: Config) -> None:
    fields = config["degradation"]
    clip = fields.get("clip", True)
    purifies = find_phase(config["phase"]).role == "purifier"
    if not isinstance(clip, bool) or not (clip or purifies):
        raise ValueError(
            "degradation.clip must be True, or False for a purifier that is to be "
            f"smoothed: {clip!r} in phase {config['phase']!r}"
        )
    if not clip and has_copies(config):
        raise ValueError(
            "degradation.clip=False is for noise that is drawn: leave "
            "degradation.copies and degradation.folder empty"
        )
    if has_copies(config):
        check_whole("degradation.copies", fields["copies"], 0, 1000)
        drawn = ("clean_entries", 0), ("spn_reading", "per_pixel")
        for name, usual in (*drawn, ("un_reading", "per_element")):
            if fields[name] != usual:
                raise ValueError(
                    f"degradation.{name} ({fields[name]!r}) is for degradations that "
                    f"are drawn: beside copies set it to {usual!r}; "
                    "degradation.clean_share is the share of clean images"
                )
    if fields["folder"]:
        check_whole("degradation.copies beside a folder", fields["copies"], 0, 0)
        for name in ("suite", "noises", "severities", "parameters"):
            if fields.get(name):
                raise ValueError(
                    f"degradation.{name} ({fields[name]!r}) is for degradations that "
                    f"are made, and degradation.folder ({fields['folder']}) holds "
                    "copies: leave one of them empty"
                )
        return
    if fields.get("parameters") and (fields["suite"] or not fields["noises"]):
        raise ValueError(
            f"degradation.parameters {tuple(fields['parameters'])} are of "
            "degradation.noises that are of no suite, such as gaussian_noise: name "
            "these and leave degradation.suite empty"
        )
    if fields["suite"]:
        for name, severity in itertools.product(*_chosen(fields)):
            find_corruption(fields["suite"], name, severity)
    if fields["copies"]:
        if not fields["suite"]:
            raise ValueError("stored copies are of a suite: set degradation.suite")
        return
    try:
        build_degradation(fields)
    except ValueError as error:
        if fields["suite"] in ("", "uronet"):
            raise
        raise ValueError(
            f"{fields['suite']} takes too long to be drawn in every step: set "
            "degradation.copies to how many copies of the training set are to be "
            f"made beforehand ({error})"
        ) from error


def _chosen(fields: Mapping[str, Any]) -> tuple[tuple, tuple]:
    """Returns names and severities of corruptions; where none are named all."""
    names = fields["noises"] or list_corruptions(fields["suite"])
    severities = fields["severities"] or list_severities(fields["suite"])
    check_listed("degradation.noises", names)
    check_listed("degradation.severities", severities)
    return tuple(names), tuple(severities)


def check_task(config: Config) -> None:
    """Checks module, loss, optimizer and schedule, as `check_config` does."""
    phase = find_phase(config.get("phase", ""))
    _check_present(config, (*_TASK_FIELDS, *phase.fields))
    schedule_of(config).check()
    built = {**config, "resolved": _NO_DATA}
    phase.build(built)
    phase.check(built)
    for name in config["optimizer"]:
        known_name("field of optimizer", name, OPTIMIZER_FIELDS)
    make_optimizer(num_steps=phase.updates(config), **config["optimizer"])


def _check_present(config: Config, names: Iterable[str]) -> None:
    """Raises ValueError for a field, `section.field`, that is missing."""
    for name in names:
        section, _, field = name.rpartition(".")
        fields = config.get(section, {}) if section else config
        if not isinstance(fields, Mapping):
            raise ValueError(
                f"config.{section} must hold fields, such as {field}: {fields!r}"
            )
        if field not in fields:
            raise ValueError(
                f"config has no field {name!r}, which phase {config['phase']!r} needs: "
                f"start from configs/{config['phase']}.py"
            )


def check_config(config: Config) -> None:
    """Checks every field that can be checked without data or models.

    Raises:
        ValueError: If a field names something unknown, is missing or out of range.
    """
    check_task(config)
    _check_present(config, _DATA_FIELDS)
    data = config["data"]
    for name in ("train_split", "validation_split"):
        if str(data[name]).startswith("test"):
            raise ValueError(
                f"data.{name} is {data[name]!r}: the test split is read by "
                "launch.evaluate only; split off a part of train"
            )
    check_whole("seed", config["seed"], 0)
    phase = find_phase(config["phase"])
    if config.get("new_head") and not (config["initial"] and phase.role != "purifier"):
        raise ValueError(
            "new_head draws the last layer of a classifier anew that starts from given "
            f"weights, and initial is {config['initial']!r}, phase {config['phase']!r}"
        )
    phase.needs(config)
    if degrades(config) or has_copies(config):
        _check_present(config, _DEGRADATION_FIELDS)
        _check_degradation(config)
    elif phase.degrades:
        raise ValueError(
            f"phase {config['phase']!r} learns on degraded images: set "
            f"degradation.suite, as in configs/{config['phase']}.py"
        )
    make_pairs(config)
    check_pipeline(data["pipeline"])
    mesh = sharding.data_mesh()
    sharding.check_batch_size(config["batch_size"], mesh)
    sharding.check_batch_size(config["eval_batch_size"], mesh)


def make_task(config: Config, models: Mapping[str, LoadedModel]) -> Task:
    """Builds the task of a config.

    Args:
        config: With `resolved`, see `resolve`.
        models: Role -> frozen model, of those that the phase needs.
    """
    phase = find_phase(config["phase"])
    updates = phase.updates(config)
    return phase.make_task(
        config,
        models,
        optimizer=make_optimizer(num_steps=updates, **config["optimizer"]),
        pairs=make_pairs(config),
        image_shape=tuple(config["resolved"]["image_shape"]),
    )


def resolve(source: Any) -> dict[str, Any]:
    """Returns what of a config follows from the training images."""
    mean, std = pixel_statistics(sample_images(source))
    return {
        "image_shape": list(source.image_shape),
        "num_classes": source.num_classes,
        "mean": mean,
        "std": std,
        "clean_mean": float(np.mean(mean)),
    }


def sample_images(source: Any, max_bytes: int = 2**28) -> np.ndarray:
    """Returns all images of a source, or where they are too many an even sample."""
    count = min(len(source), max(1, max_bytes // int(np.prod(source.image_shape))))
    return source.read(np.linspace(0, len(source) - 1, count).astype(int))[0]


def data_of_folder(
    path: str | os.PathLike,
    data_dir: str | os.PathLike | None = None,
    *,
    train_split: str | None = None,
    validation_split: str | None = None,
    resize: tuple[int, int] | None = None,
) -> tuple[dict[str, str], list[str]]:
    """Prepares a folder of images, if it is not yet.

    Returns fields of `config.data`, and what the user should know.

    Args:
        path: Folder or `.npz` file, see `prepare.prepare_once`, whose errors it has.
        data_dir: Folder of the prepared data sets.
        train_split: Part to learn on; None for `prepare.learning_splits`.
        validation_split: Part to be validated on; None likewise. Both or none.
        resize: `(height, width)` of the images.

    Raises:
        ValueError: If only one of the splits is given, or there are other processes.
    """
    splits = (train_split, validation_split)
    if any(splits) and not all(splits):
        raise ValueError(
            "a folder of images is divided as you say or as it is usual: give both "
            "data.train_split and data.validation_split, or none of them"
        )
    if jax.process_count() > 1:
        raise ValueError(
            "a folder is prepared by one process: do it first, with `uronet prepare`, "
            "and set data.name"
        )
    name, notes = prepare.prepare_once(path, data_dir=data_dir, resize=resize)
    if not any(splits):
        splits = prepare.learning_splits(name, data_dir)
        notes = [*notes, f"learns on {splits[0]}, is validated on {splits[1]}"]
    fields = {"name": name, "train_split": splits[0], "validation_split": splits[1]}
    return fields, notes


def build_experiment(
    config: dict[str, Any],
    data_dir: str | None,
    workdir: str | os.PathLike | None = None,
    *,
    progress: Progress | None = None,
) -> Experiment:
    """Opens the data, loads frozen models and builds the task.

    Args:
        config: The fields of `configs/*.py` as plain dicts.
        data_dir: Folder of the prepared data sets.
        workdir: Folder of the run; degraded copies that have to be made lie there.
        progress: Where making them shows how far it is, and is told to stop.

    Raises:
        StoppedError: If it was told to stop.
        ValueError: If a field names something unknown or does not fit the others.
        FileNotFoundError: If data, copies or a model are missing.
    """
    check_config(config)
    data = config["data"]
    splits = {part: data[f"{part}_split"] for part in ("train", "validation")}
    check_disjoint(data["name"], splits, data_dir=data_dir, section="data")
    sources = {
        part: open_source(data["name"], data[f"{part}_split"], data_dir=data_dir)
        for part in ("train", "validation")
    }
    shape = tuple(sources["train"].image_shape)
    phase = find_phase(config["phase"])
    wanted = phase.needs(config)
    models = {role: _LOADERS[role](spec) for role, spec in wanted.items()}
    for role, model in models.items():
        if not model.takes(shape):
            raise ValueError(
                f"the {role} in {wanted[role]} was made for images "
                f"{model.shape_text}, {data['name']} has {list(shape)}"
            )
    check_models_match(*models.values())
    config = config | {"resolved": resolve(sources["train"])}
    for role in wanted:
        # If there are other weights by the time this run is resumed, it would go on
        # with another model: the configs then differ.
        config["resolved"][role] = models[role].identity
    if has_copies(config):
        config["resolved"] |= _copies_origin(config, sources, models)
    begun = workdir is not None and finished_steps(workdir) > 0
    initial = None
    if config["initial"]:  # Other pixel statistics would make another function of it.
        # A run that is resumed has them, and goes on from its own weights.
        given = workdir if begun else config["initial"]
        initial = initial_model(given, phase.role)
        config["resolved"] |= initial_statistics(given, initial)
    task = make_task(config, models)
    if config["initial"] and not begun:
        task = dataclasses.replace(
            task, initial=initial_variables(config, task, initial)
        )
        if config.get("new_head"):
            told = f"the last layer is drawn, all others are those of {given}"
            (progress or Progress()).say(told)
    if has_copies(config):
        _check_before_copies(config, task, sources["train"], workdir)
        for part, source in sources.items():
            copies = _copies(config, part, source, workdir, progress or Progress())
            sources[part] = PairedSource(source, copies)
    return Experiment(sources["train"], sources["validation"], task, config)


def initial_variables(config: Config, task: Task, model: LoadedModel | None) -> Any:
    """Returns the variables that a task starts from, those of `config["initial"]`.

    With `config["new_head"]` but for the last layer, which is drawn. `model` is what
    `initial_model` returned for them.
    """

    def draw(key):
        return task.module.init(key, jnp.zeros((1, *task.input_shape)))

    like = {"batch_stats": {}, **jax.eval_shape(draw, jax.random.key(0))}
    head = None
    if config.get("new_head"):
        name = head_name(like)
        key = jax.random.key(named_seed(config["seed"], "head"))
        head = jax.device_get(jax.jit(lambda key: draw(key)["params"][name])(key))
    return load_initial(config["initial"], like, model=model, new_head=head)


def _check_before_copies(config, task, source, workdir) -> None:
    """Raises the errors that would come after copies were made, which takes long."""
    check_fits(config["batch_size"], source)
    if workdir is not None:
        check_path(workdir)
    if workdir is not None and finished_steps(workdir):
        stored = {"best_metric": list(task.best_metric), **config}
        check_same_config(read_config(workdir, "last"), stored)


def _copies_origin(
    config: Config, sources: Mapping[str, Any], models: Mapping[str, LoadedModel]
) -> dict[str, Any]:
    """Returns what given copies say they were made with, if it is of these models.

    Raises ValueError if it is of others, or of other images.
    """
    if not config["degradation"]["folder"]:
        return {}
    digests = {role: model.identity for role, model in models.items()}
    origins = {}
    for part, source in sources.items():
        images = {"images": source_digest(source)}
        origins[part] = check_digests(_given_copies(config, part), digests | images)
    made = [
        [origin.get(name) for name in ("attack", "epsilon", "parameters")]
        for origin in origins.values()
        if origin
    ]
    if any(x != made[0] for x in made):
        raise ValueError(
            f"copies in {config['degradation']['folder']} are of different attacks, of "
            f"training {made[0]}, of validation {made[1]}: make them together"
        )
    return {"copies": origins} if made else {}


def _given_copies(config: Config, part: str) -> Path:
    return Path(config["degradation"]["folder"]) / f"{part}.npy"


def _copies(
    config: Config, part: str, source: Any, workdir: Any, progress: Progress
) -> np.ndarray:
    """Returns the degraded copies of a part; makes those that nobody has given."""
    fields = config["degradation"]
    if fields["folder"]:
        path = _given_copies(config, part)
        if not path.exists():
            raise FileNotFoundError(
                f"no degraded copies at {path}: degradation.folder must hold train.npy "
                "and validation.npy, uint8 or uint16 [N, H, W, C] or [N, K, H, W, C]"
            )
        return map_array(path)
    if workdir is None:
        raise ValueError("degraded copies are kept in the work folder: name one")
    path = Path(workdir) / "copies" / f"{part}.npy"
    if jax.process_count() > 1 and not is_finished(path):
        raise ValueError(
            "degraded copies are made by one process: start the run alone once, or "
            "give degradation.folder"
        )
    with (
        locked_workdir(workdir),
        progress.bar(None, f"corrupting {part}", "batch", leave=False) as bar,
    ):

        def on_batch():
            progress.stopping()
            bar.update()

        return store_mixed(
            path,
            source,
            *_chosen(fields),
            suite=fields["suite"],
            copies=fields["copies"] if part == "train" else 1,
            # What is judged on must not be degraded by the draws that were learned.
            seed=named_seed(config["seed"], "corrupted", part),
            batch_size=config["eval_batch_size"],
            mesh=sharding.data_mesh(),
            on_batch=on_batch,
        )
