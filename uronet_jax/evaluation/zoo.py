"""The data, models and attacked images that the paper's experiments share.

Everything is kept in one folder and made once, whichever experiment asks first:
`models/<data set>/<kind>/<name>` holds runs as `launch.train` writes them, and
`attacked/<data set>/` adversarial images.
"""

import dataclasses
import functools
import itertools
import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import linen as nn
from jax.tree_util import Partial

from uronet_jax import sharding
from uronet_jax.attacks import flax_logits, ifgsm, misclassification, pgd
from uronet_jax.attacks.adaptive import without_success
from uronet_jax.attacks.digests import digest
from uronet_jax.batches import check_range, check_whole
from uronet_jax.checkpoints import read_config
from uronet_jax.corruptions import (
    SuiteEntry,
    entry_key,
    list_corruptions,
    list_severities,
    make_degradation,
    suite_degradations,
)
from uronet_jax.data import evaluation_batches, open_source
from uronet_jax.data.pipelines import check_pipeline
from uronet_jax.data.sources import ArraySource
from uronet_jax.data.statistics import pixel_statistics
from uronet_jax.defense import DETECTOR_INPUTS, detector_channels
from uronet_jax.evaluation.mixed_corruptions import corrupt_mixed
from uronet_jax.loading import (
    LoadedModel,
    build_module,
    load_classifier,
    load_model,
)
from uronet_jax.models import REMOVER_VARIANTS, make_classifier
from uronet_jax.training import grid, stored, tasks
from uronet_jax.training.loop import validate_schedule
from uronet_jax.training.optimizers import make_optimizer
from uronet_jax.training.run import Task, check_same_config

# What `--config.classifier` says to have one trained here.
TRAIN = "train:"
# Sections of the config that name a data set.
ROLES = ("data", "second", "grey")
# Fields of such a section that name its classifiers.
_CLASSIFIERS = ("classifier", "other_classifier")


class StoppedError(Exception):
    """Somebody asked to stop; everything that was under way is saved."""


class ModelKey(NamedTuple):
    """Which model.

    Attributes:
        role: Section of the config that names its data set.
        kind: A key of `Zoo.kinds`.
        name: Within the kind: `GN_1` and the like, `all`, an attack, or the name of a
            classifier.
    """

    role: str
    kind: str
    name: str


@dataclasses.dataclass(frozen=True)
class Kind:
    """Models that one compiled program trains: they differ in data and seed.

    Attributes:
        phase: `remover`, `detector` or `classifier`.
        model: What `loading.build_module` takes as `model`.
        schedule: How long each trains.
        optimizer: Arguments of `make_optimizer`.
        remover: Kind of the remover that a detector stands behind.
        noise_weight: Of a remover's loss.
        clean_entries: How often a mix of all degradations holds the clean image.
        stored: `attacked` or `corrupted` if it learns on such images from disk.
        consistency_weight: Of a remover's loss; of the first classifier.
        variant_of: What its seeds are named after, if not itself: models that are
            compared start alike and see the same crops and degradations.
    """

    phase: str
    model: Mapping[str, Any]
    schedule: grid.Schedule
    optimizer: Mapping[str, Any]
    remover: str = ""
    noise_weight: float = 1.0
    clean_entries: int = 0
    stored: str = ""
    consistency_weight: float = 0.0
    variant_of: str = ""


class Zoo:
    """Data, models and attacked images of one folder."""

    def __init__(
        self,
        config: Mapping[str, Any],
        workdir: str | os.PathLike,
        *,
        data_dir: str | None = None,
        stop: Callable[[], bool] = lambda: False,
        progress: bool = True,
    ):
        """Checks the config; reads and computes nothing.

        Args:
            config: The fields of `configs/reproduce.py`.
            workdir: Folder of the models.
            data_dir: Folder of the prepared data sets.
            stop: Asked between dispatches; true saves and raises `StoppedError`.
            progress: Whether there are progress bars.

        Raises:
            ValueError: If a field names something unknown or is out of range.
        """
        self.config = config
        self.workdir = Path(workdir)
        self.progress = progress
        self._data_dir, self._stop = data_dir, stop
        self.mesh = sharding.data_mesh()
        self.kinds = make_kinds(config)
        self.entries: list[SuiteEntry] = suite_degradations(**config["suite"])
        self._check_models()
        self._check_fields()
        # One per instance: the arrays go when the zoo goes.
        self.source = functools.cache(self._source)
        self.statistics = functools.cache(self._statistics)
        self._shared_task = functools.cache(self._make_task)

    def _check_models(self) -> None:
        """Builds every module and optimizer once; any data will do."""
        resolved = {"clean_mean": 0.5, "num_classes": 2, "mean": (0.5,), "std": (0.5,)}
        for kind in self.kinds.values():
            schedule = kind.schedule
            validate_schedule(
                num_steps=schedule.num_steps,
                steps_per_dispatch=schedule.steps_per_dispatch,
                log_every=schedule.log_every,
                checkpoint_every=schedule.checkpoint_every,
            )
            make_optimizer(num_steps=schedule.num_steps, **kind.optimizer)
            if kind.phase != "classifier":
                fields = {"phase": kind.phase, "model": kind.model}
                dtype = self.config["dtype"]
                build_module({**fields, "dtype": dtype, "resolved": resolved})
            if kind.phase == "detector":
                detector_channels(3, kind.model["inputs"])
        for role in ROLES:
            for key in self.classifier_keys(role):
                make_classifier(key.name, 2)

    def _check_fields(self) -> None:
        """Checks what neither models nor the suite check themselves."""
        config, attack = self.config, self.config["attack"]
        for role in ROLES:
            for part in ("train", "validation"):
                split = config[role][f"{part}_split"]
                if any(x.strip().startswith("test") for x in split.split("+")):
                    raise ValueError(
                        f"{role}.{part}_split is {split!r}: the test split is only "
                        "judged on; split off a part of train"
                    )
            titles = [config[role][f"{x}_title"] for x in _CLASSIFIERS]
            if all(config[role][x] for x in _CLASSIFIERS) and len(set(titles)) == 1:
                raise ValueError(
                    f"both classifiers of {role} are called {titles[0]!r}: rows could "
                    "not be told apart; change a title"
                )
        tasks.augmenter(config["augmentation"])
        check_pipeline(config["pipeline"])
        for section in ("evaluation", "attack"):
            sharding.check_batch_size(config[section]["batch_size"], self.mesh)
        check_range("attack.epsilon", attack["epsilon"], 0.0, 1.0)
        check_range("attack.step_size", attack["step_size"], 0.0, 1.0)
        check_whole("attack.steps", attack["steps"], 1, 10_000)
        check_whole("attack.restarts", attack["restarts"], 0, 10_000)
        if config["ablations"]["detector"] == config["detector"]["name"]:
            raise ValueError(
                f"ablations.detector is the usual one, {config['detector']['name']!r}: "
                "name another network"
            )
        for section, field in (
            ("universal", "consistency_weight"),
            ("universal_trials", "consistency_weight"),
            ("universal_trials", "weak_consistency_weight"),
        ):
            weight = config[section][field]
            if not 0.0 <= weight < float("inf"):
                raise ValueError(
                    f"{section}.{field} must be finite and at least 0: {weight}"
                )
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

    def entry(self, name: str) -> SuiteEntry:
        """Returns the degradation called `GN_1` and the like.

        Raises:
            ValueError: If the config leaves it out.
        """
        for entry in self.entries:
            if entry_name(entry) == name:
                return entry
        raise ValueError(
            f"this experiment needs {name}: add it to suite.noises and suite.severities"
        )

    # Data.

    def _source(self, role: str, part: str) -> ArraySource:
        """Returns a part of a data set, in memory.

        Args:
            role: Section of the config.
            part: `train`, `validation` or `test`.

        Raises:
            FileNotFoundError: If the data set was not prepared.
            ValueError: If it lacks the split.
        """
        source = self.open(role, part)
        images, labels = source.arrays()
        return ArraySource(
            source.name, source.split, images, labels, source.class_names
        )

    def open(self, role: str, part: str) -> Any:
        """Opens a part of a data set without reading it; see `source`."""
        section = self.config[role]
        return open_source(
            section["name"], section[f"{part}_split"], data_dir=self._data_dir
        )

    def first(self, role: str, part: str, count: int) -> ArraySource:
        """Returns the first `count` images of a part; 0 for all."""
        source = self.source(role, part)
        if not count or count >= len(source):
            return source
        images, labels = source.arrays()
        return ArraySource(
            source.name,
            f"{source.split}, first {count}",
            images[:count],
            labels[:count],
            source.class_names,
        )

    def _statistics(self, role: str) -> dict[str, Any]:
        source = self.source(role, "train")
        mean, std = pixel_statistics(source.arrays()[0])
        return {
            "image_shape": list(source.image_shape),
            "num_classes": source.num_classes,
            "mean": mean,
            "std": std,
            "clean_mean": float(np.mean(mean)),
        }

    # Models.

    def folder(self, key: ModelKey) -> Path:
        """Returns the folder of a model's run."""
        return self.workdir / self._relative(key)

    def _relative(self, key: ModelKey) -> str:
        data = self.config[key.role]["name"].replace("/", "_").replace(":", "_")
        return f"models/{data}/{key.kind}/{key.name}"

    def load(self, key: ModelKey) -> LoadedModel:
        """Loads a model that `ensure` trained."""
        return load_model(
            self.folder(key), phase=self.kinds[key.kind].phase, which="last"
        )

    def classifiers(self, role: str) -> dict[str, str]:
        """Returns title -> source of the classifiers of a data set.

        A source is the folder of a run, a `.npz` file, or `train:` and a name.
        """
        section = self.config[role]
        return {
            section[f"{field}_title"]: section[field]
            for field in _CLASSIFIERS
            if section[field]
        }

    def classifier_keys(self, role: str, *, first: bool = False) -> list[ModelKey]:
        """Returns the classifiers of a data set that are to be trained here.

        Args:
            role: Section of the config.
            first: Whether only the first one is wanted.
        """
        sources = list(self.classifiers(role).values())
        return [
            _classifier_key(role, source)
            for source in (sources[:1] if first else sources)
            if source.startswith(TRAIN)
        ]

    def load_classifier(self, role: str, title: str) -> LoadedModel:
        """Loads a classifier.

        Raises:
            FileNotFoundError: If there is none.
            ValueError: If it is not one of the data set's classes and image shape.
        """
        source = self.classifiers(role)[title]
        if source.startswith(TRAIN):
            return self.load(_classifier_key(role, source))
        model = load_classifier(source)
        data = self.open(role, "test")
        if (model.image_shape, model.num_classes) != (
            tuple(data.image_shape),
            data.num_classes,
        ):
            raise ValueError(
                f"the classifier {source} is made for {model.num_classes} classes of "
                f"images {list(model.image_shape)}, {data.name} has {data.num_classes} "
                f"of {list(data.image_shape)}: name another one"
            )
        return model

    def ensure(self, keys: Iterable[ModelKey]) -> None:
        """Trains the models that are missing, and the removers they stand behind.

        Raises:
            StoppedError: If it was asked to stop; what was under way is saved.
            DivergedError: If a loss was not finite.
            ValueError: If a folder holds a model of another config.
        """
        ordered = self._with_removers(keys)
        self.check(ordered)
        for group, members in itertools.groupby(ordered, key=self._program):
            role, kind = group[:2]
            names = [key.name for key in members]
            missing = [
                name
                for name in names
                if grid.finished_steps(self.folder(ModelKey(role, kind, name)))
                < self.kinds[kind].schedule.num_steps
            ]
            if missing and not self._train(role, kind, names):
                raise StoppedError

    def check(self, keys: Iterable[ModelKey]) -> None:
        """Checks the models that are there, finished or not; trains nothing.

        Raises:
            ValueError: If a folder holds a model of another config, or one that was
                trained for longer.
        """
        for key in self._with_removers(keys):
            folder = self.folder(key)
            if not grid.finished_steps(folder):
                continue
            found = read_config(folder, "last")
            found.pop("best_metric", None)  # It follows from the phase.
            wanted = json.loads(json.dumps(self._row(key).config))
            try:
                check_same_config(found, wanted)
            except ValueError as error:
                raise ValueError(f"{folder}: {error}") from error

    def _with_removers(self, keys: Iterable[ModelKey]) -> list[ModelKey]:
        """Returns models and the removers they stand behind, in order of training."""
        wanted = dict.fromkeys(keys)
        behind = [
            ModelKey(key.role, self.kinds[key.kind].remover, key.name)
            for key in wanted
            if self.kinds[key.kind].remover
        ]
        return sorted(
            dict.fromkeys([*behind, *wanted]),
            key=lambda key: (list(self.kinds).index(key.kind), key.role),
        )

    def _program(self, key: ModelKey) -> tuple[str, ...]:
        """Returns what models must share to be trained by one program."""
        # Classifiers differ in architecture, all others of a kind in data alone.
        classifier = self.kinds[key.kind].phase == "classifier"
        alone = key.name if classifier else ""
        return key.role, key.kind, alone

    def _train(self, role: str, kind: str, names: Sequence[str]) -> bool:
        classifier = self.kinds[kind].phase == "classifier"
        task = self._shared_task(role, kind, names[0] if classifier else "")
        attacked = self.kinds[kind].stored == "attacked"
        count = self.config["attack"]["num_train"] if attacked else 0
        rows = [self._row(ModelKey(role, kind, name)) for name in names]
        return grid.train_grid(
            task,
            rows,
            self.first(role, "train", count),
            self.first(role, "validation", count),
            self.kinds[kind].schedule,
            seed=self.config["seed"],
            pipeline=self.config["pipeline"],
            stop=self._stop,
            description=f"{self.config[role]['name']} {kind}",
            progress=self.progress,
        )

    def _row(self, key: ModelKey) -> grid.Row:
        kind, config = self.kinds[key.kind], self.config
        name = config[key.role]["name"]
        drawn_as = kind.variant_of or key.kind
        seed = grid.row_seed(config["seed"], name, drawn_as, key.name)
        stored_config = {
            "phase": kind.phase,
            "kind": key.kind,
            "name": key.name,
            "preset": config["preset"],
            "seed": seed,
            "dtype": config["dtype"],
            "data": {
                "name": name,
                "train_split": config[key.role]["train_split"],
                "validation_split": config[key.role]["validation_split"],
                "augmentation": config["augmentation"],
            },
            "model": self._model(key),
            "schedule": dataclasses.asdict(kind.schedule),
            "optimizer": dict(kind.optimizer),
            "noise_weight": kind.noise_weight,
            "resolved": self.statistics(key.role),
        }
        if kind.stored == "corrupted":
            corruptions = self.config["universal_corruptions"]
            names = ("suite", "names", "severities", "copies")
            stored_config["corruptions"] = {name: corruptions[name] for name in names}
        elif kind.stored:
            stored_config["attack"] = dict(config["attack"])
        elif kind.phase != "classifier":
            stored_config["degradation"] = [list(e) for e in self._mix(key)]
        if kind.consistency_weight:
            stored_config["consistency"] = {
                "weight": kind.consistency_weight,
                "classifier": next(iter(self.classifiers(key.role))),
            }
        if kind.remover:
            remover = ModelKey(key.role, kind.remover, key.name)
            stored_config["remover"] = self._relative(remover)
        return grid.Row(
            key.name,
            self.folder(key),
            seed,
            functools.partial(self._frozen, key),
            stored_config,
        )

    def _model(self, key: ModelKey) -> dict[str, Any]:
        kind = self.kinds[key.kind]
        return {"name": key.name} if kind.phase == "classifier" else dict(kind.model)

    def _mix(self, key: ModelKey) -> list[tuple[str, float]]:
        """Returns what a model learns on, for `make_degradation`."""
        chosen = self.entries if key.name == "all" else [self.entry(key.name)]
        mix = [(entry.kind, entry.parameter) for entry in chosen]
        return mix + [("identity", 0.0)] * self.kinds[key.kind].clean_entries

    def _frozen(self, key: ModelKey) -> dict[str, Any]:
        kind = self.kinds[key.kind]
        if kind.phase == "classifier":
            return {}
        frozen: dict[str, Any] = {}
        if kind.stored:
            for part in ("train", "validation"):
                frozen[part] = (
                    self.attacked(key.role, part, key.name)
                    if kind.stored == "attacked"
                    else self.corrupted(key.role, part)
                )
        else:
            frozen["degradation"] = make_degradation(self._mix(key))
        if kind.remover:
            remover = ModelKey(key.role, kind.remover, key.name)
            frozen["remover"] = self.load(remover).variables
        if kind.consistency_weight:
            frozen["classifier"] = self._first_classifier(key.role).variables
        return frozen

    def _first_classifier(self, role: str) -> LoadedModel:
        return self.load_classifier(role, next(iter(self.classifiers(role))))

    def _make_task(self, role: str, kind_name: str, name: str) -> Task:
        kind, resolved = self.kinds[kind_name], self.statistics(role)
        shape = tuple(resolved["image_shape"])
        optimizer = make_optimizer(num_steps=kind.schedule.num_steps, **kind.optimizer)

        def build(kind_name):
            return build_module(
                {
                    "phase": self.kinds[kind_name].phase,
                    "model": self._model(ModelKey(role, kind_name, name)),
                    "dtype": self.config["dtype"],
                    "resolved": resolved,
                }
            )

        module = build(kind_name)
        augmentation = self.config["augmentation"]
        if kind.phase == "classifier":
            return tasks.classifier_task(
                module, optimizer, image_shape=shape, augmentation=augmentation
            )
        if kind.stored:
            augment = tasks.augmenter(augmentation)
            if kind.phase == "remover":
                return stored.stored_remover_task(
                    module,
                    optimizer,
                    augment,
                    image_shape=shape,
                    noise_weight=kind.noise_weight,
                )
            return stored.stored_detector_task(
                module,
                build(kind.remover),
                optimizer,
                augment,
                image_shape=shape,
                inputs=kind.model["inputs"],
            )
        nothing = make_degradation([("identity", 0.0)])  # Rows bring their own.
        if kind.phase == "remover":
            return tasks.remover_task(
                module,
                optimizer,
                nothing,
                image_shape=shape,
                augmentation=augmentation,
                noise_weight=kind.noise_weight,
                classifier=(
                    self._first_classifier(role).module
                    if kind.consistency_weight
                    else None
                ),
                consistency_weight=kind.consistency_weight,
            )
        return tasks.detector_task(
            module,
            build(kind.remover),
            {},
            optimizer,
            nothing,
            image_shape=shape,
            inputs=kind.model["inputs"],
            augmentation=augmentation,
        )

    # Attacked images.

    def attacked(
        self,
        role: str,
        part: str,
        attack: str,
        title: str | None = None,
        remover: ModelKey | None = None,
    ) -> np.ndarray:
        """Returns adversarial copies of the first images of a part.

        They are kept on disk with 16 bits, so that rounding neither leaves the ball nor
        gives them the even levels of a clean image, by which they could be told from
        noise.

        Args:
            role: Section of the config.
            part: `train`, `validation` or `test`.
            attack: `IFGSM`, `PGD0` or `PGD10`, optionally with a number of steps as in
                `PGD0-20`, which `attack.steps` of the config limits.
            title: Classifier that is attacked; by default the first.
            remover: What stands before the classifier, known to the attacker; by
                default nothing, or nothing that is known.

        Returns:
            uint16 `[N, H, W, C]`.

        Raises:
            StoppedError: If it was asked to stop; what was made is kept.
            ValueError: If the file on disk was made with other weights or settings.
        """
        title = title or next(iter(self.classifiers(role)))
        settings = self.config["attack"]
        count = settings["num_test" if part == "test" else "num_train"]
        source = self.first(role, part, count)
        models = [self.load_classifier(role, title)]
        if remover is not None:
            models.append(self.load(remover))
        made_with = {
            **{name: settings[name] for name in ("epsilon", "step_size", "restarts")},
            "steps": self.attack_steps(attack)[1],
            "seed": self.config["seed"],
            "images": [source.name, source.split, len(source)],
            "weights": [digest(model.variables) for model in models],
        }
        data = self.config[role]["name"].replace("/", "_").replace(":", "_")
        behind = f"_behind_{remover.name}" if remover else ""
        name = f"{title}{behind}_{attack}_{part}.npz"
        path = self.workdir / "attacked" / data / name
        found, done = _read_made(path, made_with)
        if done:
            return found
        if found is None:
            found = np.empty((0, *source.image_shape), np.uint16)
        images, done = self._attack(part, attack, source, models, found)
        _save_made(path, images, done, made_with)
        if not done:
            raise StoppedError
        return images

    def _attack(self, part, attack, source, models, found) -> tuple[np.ndarray, bool]:
        """Attacks what is not found yet; returns the images, and whether it is all."""
        name, steps = self.attack_steps(attack)
        settings = self.config["attack"]
        weights = sharding.replicate([m.variables for m in models], self.mesh)
        logits_fn = flax_logits(models[0].module, weights[0], train=False)
        if len(models) > 1:
            defended = _Defended(*(model.module for model in models))
            logits_fn = Partial(defended, weights)
        key = sharding.replicate(
            entry_key(self.config["seed"], f"attack/{part}/{name}", 1), self.mesh
        )
        parameters = {
            "epsilon": settings["epsilon"],
            "step_size": settings["step_size"],
            "steps": steps,
        }
        size = settings["batch_size"]
        parts = [found]
        batches = evaluation_batches(source, batch_size=size, mesh=self.mesh)
        # What is found ends with a batch.
        batches = itertools.islice(batches, -(-len(found) // size), None)
        total = -(-len(source) // size)
        with self.bar(total, f"{attack} on {part}", "batch", leave=False) as bar:
            bar.update(-(-len(found) // size))
            for batch in batches:
                if self._stop():
                    return np.concatenate(parts), False
                loss_fn = without_success(misclassification(logits_fn, batch["label"]))
                images = batch["image"].astype(np.float32) / 255.0
                if name == "IFGSM":
                    adversarial = ifgsm(key, images, loss_fn, **parameters)
                else:
                    restarts = settings["restarts"] if name == "PGD10" else 0
                    adversarial = pgd(
                        key,
                        images,
                        loss_fn,
                        restarts=restarts,
                        index=batch["index"],
                        **parameters,
                    )
                levels = np.rint(65535.0 * np.asarray(adversarial)).astype(np.uint16)
                parts.append(levels[np.asarray(batch["mask"])])
                bar.update()
        return np.concatenate(parts), True

    def corrupted(self, role: str, part: str) -> np.ndarray:
        """Returns copies of a part with a corruption drawn for each image.

        They are kept on disk.

        Args:
            role: Section of the config.
            part: `train` or `validation`.

        Returns:
            uint8 `[copies, N, H, W, C]`.

        Raises:
            StoppedError: If it was asked to stop.
            ValueError: If the file on disk was made with other settings.
        """
        settings = self.config["universal_corruptions"]
        source = self.source(role, part)
        made_with = {
            **{name: settings[name] for name in ("suite", "names", "severities")},
            "copies": settings["copies"] if part == "train" else 1,
            "seed": grid.row_seed(self.config["seed"], "corrupted", part),
            "images": [source.name, source.split, len(source)],
        }
        made_with = json.loads(json.dumps(made_with))
        data = self.config[role]["name"].replace("/", "_").replace(":", "_")
        path = self.workdir / "corrupted" / data / f"{part}.npz"
        found, done = _read_made(path, made_with)
        if done:
            return found
        with self.bar(None, f"corrupting {part}", "batch", leave=False) as bar:

            def on_batch():
                self.stopping()
                bar.update()

            images = corrupt_mixed(
                source.arrays()[0],
                settings["names"],
                settings["severities"],
                suite=settings["suite"],
                copies=made_with["copies"],
                seed=made_with["seed"],
                batch_size=self.config["evaluation"]["batch_size"],
                mesh=self.mesh,
                on_batch=on_batch,
            )
        _save_made(path, images, True, made_with)
        return images

    def attack_steps(self, attack: str) -> tuple[str, int]:
        """Returns the attack and the number of steps that a name stands for."""
        name, _, steps = attack.partition("-")
        limit = self.config["attack"]["steps"]
        return name, min(int(steps), limit) if steps else limit

    def bar(
        self, total: int | None, description: str, unit: str, *, leave: bool = True
    ) -> Any:
        """Returns a progress bar with rate and time left.

        Args:
            total: How many there are, if that is known.
            description: What it is called.
            unit: What is counted.
            leave: Whether it stays when it is full.
        """
        from tqdm import tqdm

        return tqdm(
            total=total,
            desc=description,
            unit=unit,
            disable=not self.progress,
            dynamic_ncols=True,
            leave=leave,
            # In a log file a line every few seconds is enough.
            mininterval=0.5 if sys.stderr.isatty() else 10.0,
        )

    def stopping(self) -> None:
        """Raises `StoppedError` if somebody asked to stop."""
        if self._stop():
            raise StoppedError


@dataclasses.dataclass(frozen=True)
class _Defended:
    """`(variables of both, images) -> logits`; two of the same modules are the same."""

    classifier: nn.Module
    remover: nn.Module

    def __call__(self, variables: Any, images: jax.Array) -> jax.Array:
        clean = self.remover.apply(variables[1], images).clean
        return self.classifier.apply(variables[0], clean, train=False)


def _read_made(
    path: Path, made_with: Mapping[str, Any]
) -> tuple[np.ndarray | None, bool]:
    """Returns the images on disk, None without a file, and whether they are all."""
    if not path.exists():
        return None, False
    with np.load(path) as file:
        arrays = dict(file)
    made_before = json.loads(str(arrays.get("made_with", "null")))
    if made_before != made_with:
        raise ValueError(
            f"{path} was made with other weights or settings ({made_before} there, "
            f"{made_with} now): choose another --workdir, or delete the file and what "
            "was measured with it"
        )
    return arrays["images"], bool(arrays["done"])


def _save_made(
    path: Path, images: np.ndarray, done: bool, made_with: Mapping[str, Any]
) -> None:
    header = {"done": done, "made_with": json.dumps(made_with)}
    save_arrays(path, {"images": images, **header})


def _classifier_key(role: str, source: str) -> ModelKey:
    name = source.removeprefix(TRAIN)
    return ModelKey(role, "cnn" if name.startswith("cnn") else "classifier", name)


def entry_name(entry: SuiteEntry) -> str:
    """Returns `GN_1` and the like."""
    return f"{entry.noise}_{entry.severity}"


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes a .npz file that is complete or not there at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.npz")
    try:
        np.savez(temporary, **dict(arrays))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _one_headed(variant: str) -> str:
    """Returns the variant of a remover that lacks the noise head and nothing else."""
    if variant not in REMOVER_VARIANTS:
        return variant  # Reported where it is built.
    wanted = {**REMOVER_VARIANTS[variant], "noise_head": False}
    twins = [name for name, fields in REMOVER_VARIANTS.items() if fields == wanted]
    if not twins:
        raise ValueError(
            f"remover.variant {variant!r} has no twin with one head, which the "
            "ablation needs: choose paper or skip"
        )
    return twins[0]


def universal_trials(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Returns name -> variant, widths and consistency weight of removers to compare.

    Each differs from `skip` in one thing.

    Args:
        config: The fields of `configs/reproduce.py`.

    Raises:
        ValueError: If the config names an unknown one, or leaves out `skip`.
    """
    trials = config["universal_trials"]
    base = {
        "variant": "skip",
        "widths": trials["widths"],
        "consistency_weight": 0.0,
    }
    known = {
        "paper": {**base, "variant": "paper"},
        "skip": base,
        "residual": {**base, "variant": "residual"},
        "wider": {**base, "widths": trials["wider"]},
        "consistency": {**base, "consistency_weight": trials["consistency_weight"]},
        "weak_consistency": {
            **base,
            "consistency_weight": trials["weak_consistency_weight"],
        },
    }
    names = tuple(trials["names"])
    if not {"skip"} <= set(names) <= set(known):
        raise ValueError(
            f"universal_trials.names must be skip and some of {', '.join(known)}: "
            f"{names}"
        )
    return {name: known[name] for name in names}


def make_kinds(config: Mapping[str, Any]) -> dict[str, Kind]:
    """Returns the kinds of models, in the order in which they need each other.

    Args:
        config: The fields of `configs/reproduce.py`.
    """

    def schedule(section: str) -> grid.Schedule:
        fields = config[section]
        return grid.Schedule(
            batch_size=fields["batch_size"],
            num_steps=fields["num_steps"],
            checkpoint_every=fields["checkpoint_every"],
            eval_batch_size=config["evaluation"]["batch_size"],
            steps_per_dispatch=config["steps_per_dispatch"],
            log_every=config["log_every"],
        )

    optimizer, universal = config["optimizer"], config["universal"]
    remover = {k: config["remover"][k] for k in ("variant", "widths")}
    detector = {k: config["detector"][k] for k in ("name", "inputs")}
    noise_weight = config["remover"]["noise_weight"]

    def removers(model=remover, section="remover", **fields):
        return Kind(
            "remover",
            model,
            schedule(section),
            optimizer,
            noise_weight=noise_weight,
            **fields,
        )

    def detectors(remover, section="detector", stored="", variant_of="", **changes):
        return Kind(
            "detector",
            {**detector, **changes},
            schedule(section),
            optimizer,
            remover=remover,
            stored=stored,
            variant_of=variant_of,
        )

    return {
        "classifier": Kind(
            "classifier", {}, schedule("training"), config["training"]["optimizer"]
        ),
        # Without batch norm, for which the other's learning rate is too high.
        "cnn": Kind("classifier", {}, schedule("training"), optimizer),
        "remover": removers(),
        "dcae": removers(
            {**remover, "variant": _one_headed(remover["variant"])},
            variant_of="remover",
        ),
        "remover_attack": removers(stored="attacked"),
        "remover_universal": removers(
            {"variant": universal["variant"], "widths": universal["widths"]},
            "universal",
            clean_entries=universal["clean_entries"],
            consistency_weight=universal["consistency_weight"],
        ),
        "remover_corruptions": removers(
            {"variant": universal["variant"], "widths": universal["widths"]},
            "universal",
            stored="corrupted",
        ),
        **{
            f"remover_trial_{name}": removers(
                {"variant": trial["variant"], "widths": trial["widths"]},
                "universal_trials",
                clean_entries=config["universal_trials"]["clean_entries"],
                consistency_weight=trial["consistency_weight"],
                variant_of="remover_trial",
            )
            for name, trial in universal_trials(config).items()
        },
        "detector": detectors("remover"),
        "detector_attack": detectors("remover_attack", stored="attacked"),
        "detector_corruptions": detectors(
            "remover_corruptions", "universal_detector", stored="corrupted"
        ),
        "detector_universal": detectors("remover_universal", "universal_detector"),
        "detector_other": detectors(
            "remover", variant_of="detector", name=config["ablations"]["detector"]
        ),
        **{
            f"detector_{inputs}": detectors(
                "remover", variant_of="detector", inputs=inputs
            )
            for inputs in DETECTOR_INPUTS
            if inputs != detector["inputs"]
        },
    }
