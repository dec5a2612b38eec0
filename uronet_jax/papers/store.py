"""The data, models and degraded images that a paper's experiments share.

Everything is kept in one folder and made once, whichever experiment asks first:
`models/<data set>/<kind>/<name>` holds runs as `launch.train` writes them,
`attacked/<data set>/` adversarial images and `corrupted/<data set>/` corrupted ones.
"""

import functools
import itertools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from uronet_jax import sharding
from uronet_jax.attacks.digests import digest
from uronet_jax.checkpoints import read_config
from uronet_jax.corruptions import SuiteEntry, suite_degradations
from uronet_jax.data import PairedSource, open_source
from uronet_jax.data.mixed_corruptions import store_mixed
from uronet_jax.data.pipelines import source_bytes
from uronet_jax.data.sources import ArraySource, Subset, check_disjoint
from uronet_jax.loading import (
    LoadedModel,
    initial_statistics,
    load_classifier,
    load_model,
    load_purifier,
)
from uronet_jax.models import make_classifier
from uronet_jax.papers.kinds import (
    CLASSIFIER_FIELDS,
    ROLES,
    Kind,
    ModelKey,
    entry_name,
)
from uronet_jax.papers.machine_settings import without_machine_settings
from uronet_jax.papers.made_images import NamedAttack, attacked_images
from uronet_jax.progress import Progress, StoppedError
from uronet_jax.seeds import named_seed
from uronet_jax.training import run
from uronet_jax.training.experiment import (
    check_task,
    initial_variables,
    make_task,
    resolve,
)
from uronet_jax.training.noise_generator import check_noise_norm
from uronet_jax.training.optimizers import make_optimizer
from uronet_jax.training.task import Task

# What `--config.classifier` says to have one trained here, or a given one tuned.
TRAIN, TUNE = "train:", "tune:"
# Images that take more are not read as a whole.
_MAX_RESIDENT = 2 * 2**30
# What a classifier may be.
CHOICES = (
    "the folder of a run, a file of PyTorch weights, train:NAME, or tune:FILE, of "
    "weights for other classes"
)


class Store:
    """Data, models and attacked images of one folder."""

    def __init__(
        self,
        config: Mapping[str, Any],
        workdir: str | os.PathLike,
        kinds: Mapping[str, Kind],
        attacks: Mapping[str, NamedAttack],
        *,
        data_dir: str | None = None,
        stop: Callable[[], bool] = lambda: False,
        progress: bool = True,
    ):
        """Builds every module and optimizer once; computes nothing.

        Args:
            config: The fields of `configs/reproduce.py`.
            workdir: Where everything is kept.
            kinds: Name -> the models of a kind, in the order in which they need each
                other.
            attacks: Title -> attack, besides those of `made_images.attack_steps`.
            data_dir: Where data sets lie: see `sources.open_source`.
            stop: Asked between dispatches; true saves and raises `StoppedError`.
            progress: Whether there are progress bars.
        """
        self.config = config
        self.workdir = Path(workdir)
        self.progress = Progress(stop, shown=progress)
        self._data_dir = data_dir
        self.mesh = sharding.data_mesh()
        self.kinds, self.attacks = dict(kinds), dict(attacks)
        self.entries: list[SuiteEntry] = suite_degradations(**config["suite"])
        self._check_models()
        # One per instance: the arrays go when the store goes.
        self.source = functools.cache(self._source)
        self.statistics = functools.cache(lambda x: resolve(self.source(x, "train")))
        self.identity = functools.cache(self._identity)
        # By its name; `purifier` is what a detector stands behind.
        self.named_purifier = functools.cache(load_purifier)
        # By the name of a file: what classifiers that are tuned start from.
        self.given = functools.cache(load_classifier)

    def _check_models(self) -> None:
        """Builds every module and optimizer once; any data will do."""
        for kind in self.kinds.values():
            if kind.role == "classifier" and not kind.model:
                kind.schedule.check()
                make_optimizer(num_steps=kind.schedule.num_steps, **kind.optimizer)
            else:
                check_task(self._fields(kind, dict(kind.model)))
        for role in ROLES:
            for key in self.classifier_keys(role):
                if not self.kinds[key.kind].initial:
                    make_classifier(key.name, 2)

    def entry(self, name: str) -> SuiteEntry:
        """Returns the degradation called `GN_1` and the like."""
        for entry in self.entries:
            if entry_name(entry) == name:
                return entry
        raise ValueError(
            f"this experiment needs {name}: add it to suite.noises and suite.severities"
        )

    # Data.

    def dataset(self, role: str) -> str:
        """Returns what rows call a data set."""
        return self.config[role]["title"]

    def _source(self, role: str, part: str) -> Any:
        """Returns `train`, `validation` or `test` of a set, in memory if it fits."""
        source = self.open(role, part)
        if source_bytes(source) > _MAX_RESIDENT:
            return source  # Whoever uses it reads it in batches.
        images, labels = source.arrays()
        return ArraySource(
            source.name, source.split, images, labels, source.class_names
        )

    def open(self, role: str, part: str) -> Any:
        """Opens a part of a data set without reading it; see `source`."""
        section = self.config[role]
        split = section[f"{part}_split"]
        return open_source(section["name"], split, data_dir=self._data_dir)

    def first(self, role: str, part: str, count: int) -> Any:
        """Returns the first `count` images of a part; 0 for all."""
        source = self.source(role, part)
        if not count or count >= len(source):
            return source
        return Subset(source, np.arange(count))

    # Models.

    def folder(self, key: ModelKey) -> Path:
        """Returns the folder of a model's run."""
        return self.workdir / self._relative(key)

    def _relative(self, key: ModelKey) -> str:
        return f"models/{self._set_folder(key.role)}/{key.kind}/{key.name}"

    def _set_folder(self, role: str) -> str:
        return self.config[role]["name"].replace("/", "_").replace(":", "_")

    def load(self, key: ModelKey) -> LoadedModel:
        """Loads a model that `ensure` trained."""
        role = self.kinds[key.kind].role
        return load_model(self.folder(key), role=role, which="last")

    def classifiers(self, role: str) -> dict[str, str]:
        """Returns title -> source, one of `CHOICES`, of a data set's classifiers."""
        section = self.config[role]
        named = [field for field in CLASSIFIER_FIELDS if section.get(field)]
        return {section[f"{field}_title"]: section[field] for field in named}

    def classifier_keys(self, role: str, *, first: bool = False) -> list[ModelKey]:
        """Returns those of all classifiers, or of the first, to be trained here."""
        sources = list(self.classifiers(role).values())[: 1 if first else None]
        return [_classifier_key(role, x) for x in sources if is_made_here(x)]

    def _file(self, key: ModelKey) -> str:
        """Returns the file of the weights that a classifier is tuned from."""
        sources = filter(is_made_here, self.classifiers(key.role).values())
        (source,) = (x for x in sources if _classifier_key(key.role, x) == key)
        return source.removeprefix(TUNE)

    def load_classifier(self, role: str, title: str) -> LoadedModel:
        """Loads a classifier, which must be of the data set's classes and shape."""
        source = self.classifiers(role)[title]
        if is_made_here(source):
            return self.load(_classifier_key(role, source))
        model = load_classifier(source)
        data = self.open(role, "test")
        if not (
            model.takes(data.image_shape) and model.num_classes == data.num_classes
        ):
            raise ValueError(
                f"the classifier {source} is made for {model.num_classes} classes of "
                f"images {model.shape_text}, {data.name} has {data.num_classes} "
                f"of {list(data.image_shape)}: name another one"
            )
        return model

    def _identity(self, role: str, title: str) -> str:
        """Returns what tells a classifier from all others."""
        source = self.classifiers(role)[title]
        if is_made_here(source):  # Its config is compared.
            return self._relative(_classifier_key(role, source))
        return digest(self.load_classifier(role, title).variables)

    def ensure(self, keys: Iterable[ModelKey]) -> None:
        """Trains the models that are missing, and the purifiers they stand behind."""
        ordered = self.with_purifiers(keys)
        self.check(ordered)
        for _, group in itertools.groupby(ordered, key=self._program):
            members = list(group)
            if any(map(self.is_unfinished, members)) and not self._train(members):
                raise StoppedError

    def is_unfinished(self, key: ModelKey) -> bool:
        """Returns whether a model is not trained to its last step."""
        steps = run.finished_steps(self.folder(key))
        return steps < self.kinds[key.kind].schedule.num_steps

    def check(self, keys: Iterable[ModelKey]) -> None:
        """Raises ValueError if the data or the models that are there do not fit."""
        ordered = self.with_purifiers(keys)
        for key in {(key.role, key.kind): key for key in ordered}.values():
            self._check_data(key)
        for key in ordered:
            folder = self.folder(key)
            if not run.finished_steps(folder):
                continue
            found = read_config(folder, "last")
            found.pop("best_metric", None)  # It follows from the phase.
            try:
                run.check_same_config(found, self._config(key))
            except ValueError as error:
                raise ValueError(f"{folder}: {error}") from error

    def _check_data(self, key: ModelKey) -> None:
        """Raises ValueError if models of a kind cannot learn on the data."""
        role, kind, name = key
        section = self.config[role]
        parts = ("train", "validation", "test")
        splits = {part: section[f"{part}_split"] for part in parts}
        where = {"data_dir": self._data_dir, "section": role}
        count = check_disjoint(section["name"], splits, **where)["train"]
        shape = tuple(self.open(role, "train").image_shape)
        for field, norm in self.kinds[kind].norms:
            check_noise_norm(norm, shape, field)
        limit = f"{role}.train_split"
        if self.kinds[kind].stored == "attacked":
            asked = self._num_attacked(name, "train")
            if 0 < asked < count:
                count, limit = asked, f"{self._attack_section(name)}.num_train"
        size = self.kinds[kind].schedule.batch_size
        if size > count:
            raise ValueError(
                f"{limit} has {count} images, too few for the batches of {size} that "
                f"models of kind {kind} learn on"
            )

    def with_purifiers(self, keys: Iterable[ModelKey]) -> list[ModelKey]:
        """Returns models and what they stand behind or start from, in that order."""
        wanted, kinds = dict.fromkeys(keys), list(self.kinds)
        behind = [self.purifier(key) for key in wanted]
        behind += [self._initial(key) for key in wanted]
        return sorted(
            dict.fromkeys([*filter(None, behind), *wanted]),
            key=lambda key: (kinds.index(key.kind), key.role),
        )

    def purifier(self, key: ModelKey) -> ModelKey | None:
        """Returns what a detector stands behind; None for any other model."""
        kind = self.kinds[key.kind].purifier
        return key._replace(kind=kind) if kind else None

    def _initial(self, key: ModelKey) -> ModelKey | None:
        """Returns the model trained here that another starts from, if there is one."""
        kind = self.kinds[key.kind].initial
        if kind == "file":
            return None
        if kind == "classifier":
            return next(iter(self.classifier_keys(key.role, first=True)), None)
        return key._replace(kind=kind) if kind else None

    def _start(self, key: ModelKey, task: Task, config: Mapping[str, Any]) -> Any:
        """Returns the variables that a model starts from; None for random ones."""
        initial = self.kinds[key.kind].initial
        if not initial:
            return None
        if initial == "file":
            fields = {**config, "initial": self._file(key)}
            return initial_variables(fields, task, self.given(self._file(key)))
        trained = self._initial(key)
        if trained:
            return self.load(trained).variables
        return self.load_classifier(key.role, self.first_title(key.role)).variables

    def _program(self, key: ModelKey) -> tuple[str, ...]:
        """Returns what models must share to be trained by one program."""
        # Classifiers differ in architecture, all others of a kind in data alone.
        alone = self.kinds[key.kind].role == "classifier"
        return key.role, key.kind, key.name if alone else ""

    def _train(self, keys: Sequence[ModelKey]) -> bool:
        """Trains models of one kind and data set; returns whether all are finished."""
        role, kind, name = keys[0]
        attacked = self.kinds[kind].stored == "attacked"
        count = self._num_attacked(name, "train") if attacked else 0
        return run.train_grid(
            self._task(keys[0]),
            [self._row(key) for key in keys],
            self.first(role, "train", count),
            self.first(role, "validation", count),
            self.kinds[kind].schedule,
            seed=self.config["seed"],
            pipeline=self.config["pipeline"],
            stop=self.progress.stop,
            description=f"{self.config[role]['name']} {kind}",
            progress=self.progress.shown,
        )

    def _row(self, key: ModelKey) -> run.GridRow:
        config, stored = self._config(key), self.kinds[key.kind].stored
        return run.GridRow(
            key.name,
            self.folder(key),
            config["seed"],
            lambda: self._task(key).frozen,
            config,
            functools.partial(self._paired, key) if stored else None,
        )

    def _task(self, key: ModelKey) -> Task:
        """Returns the task of a model; what it stands behind is trained."""
        purifier, config = self.purifier(key), self._config(key)
        models = {"purifier": self.load(purifier)} if purifier else {}
        if config.get("classifier"):
            title = self.first_title(key.role)
            models["classifier"] = self.load_classifier(key.role, title)
        task = make_task(config, models)
        start = self._start(key, task, config)
        return replace(task, initial=start) if start else task

    def _fields(self, kind: Kind, model: Mapping[str, Any]) -> dict[str, Any]:
        """Returns what of a config follows from the kind."""
        return {
            "phase": kind.phase,
            "dtype": kind.dtype or self.config["dtype"],
            "model": dict(model),
            "num_steps": kind.schedule.num_steps,
            "batch_size": kind.schedule.batch_size,
            "optimizer": dict(kind.optimizer),
            **({"loss": dict(kind.loss)} if kind.loss else {}),
            **kind.sections,
        }

    def _config(self, key: ModelKey) -> dict[str, Any]:
        """Returns the config of a model, in the form of `configs/*.py`.

        Without what of the schedule changes no weight.
        """
        kind, config = self.kinds[key.kind], self.config
        section = config[key.role]
        named = kind.variant_of or key.kind
        classifier = kind.role == "classifier"
        found = {
            **self._fields(kind, kind.model or {"name": self._network(key)}),
            "kind": key.kind,
            "name": key.name,
            "preset": config["preset"],
            "seed": named_seed(config["seed"], section["name"], named, key.name),
            "data": {
                "name": section["name"],
                "train_split": section["train_split"],
                "validation_split": section["validation_split"],
                "augmentation": section.get("augmentation", config["augmentation"]),
            },
            "resolved": self.statistics(key.role),
        }
        if not classifier:
            found["degradation"] = self._degradation(key)
        if kind.stored == "attacked":
            found["attack"] = self._attack_of(key)
        if kind.loss.get("inconsistency") or kind.asks_classifier:
            found["classifier"] = self._first_identity(key.role)
        if kind.initial:
            found |= self._started(key)
        if kind.purifier:
            found["purifier"] = self._relative(self.purifier(key))
        return found

    def _network(self, key: ModelKey) -> str:
        """Returns the name of a classifier's network."""
        if self.kinds[key.kind].initial != "file":
            return key.name
        return self.given(self._file(key)).config["model"]["name"]

    def _started(self, key: ModelKey) -> dict[str, Any]:
        """Returns what of a config follows from the weights that a model starts from.

        Other pixel statistics would make another function of them.
        """
        if self.kinds[key.kind].initial == "file":
            given = self.given(self._file(key))
            statistics = initial_statistics(self._file(key), given)
            return {
                "initial": digest(given.variables),
                "new_head": True,
                "resolved": self.statistics(key.role) | statistics,
            }
        trained = self._initial(key)
        if trained:
            return {"initial": self._relative(trained)}
        given = self.classifiers(key.role)[self.first_title(key.role)]
        statistics = initial_statistics(given)
        return {
            "initial": self._first_identity(key.role),
            "resolved": self.statistics(key.role) | statistics,
        }

    def _degradation(self, key: ModelKey) -> dict[str, Any]:
        """Returns what a model learns on, as the section of its config."""
        kind, config = self.kinds[key.kind], self.config
        found = {
            **config["suite"],
            **{"suite": "uronet", "copies": 0, "folder": ""},
            **{x: getattr(kind, x) for x in ("clean_entries", "clean_share")},
        }
        if kind.stored == "attacked":
            return found | {"folder": f"attacked/{self._set_folder(key.role)}"}
        if kind.stored == "corrupted":
            settings = config["universal_corruptions"]
            same = {x: settings[x] for x in ("suite", "severities", "copies")}
            return found | {"noises": settings["names"], **same}
        if key.name == "all":
            return found
        entry = self.entry(key.name)
        return found | {"noises": (entry.noise,), "severities": (entry.severity,)}

    def _paired(self, key: ModelKey) -> tuple[PairedSource, PairedSource]:
        """Returns training and validation images with their stored copies."""
        role, kind = key.role, self.kinds[key.kind]
        attacked = kind.stored == "attacked"
        count = self._num_attacked(key.name, "train") if attacked else 0

        def pair(part):
            copies = (
                self.attacked(role, part, key.name, labels=kind.attack_labels)
                if attacked
                else self.corrupted(role, part)
            )
            return PairedSource(self.first(role, part, count), copies)

        return pair("train"), pair("validation")

    def first_title(self, role: str) -> str:
        """Returns the title of the first classifier; ValueError if there is none."""
        for title in self.classifiers(role):
            return title
        raise ValueError(
            f"a classifier is needed: set --config.{role}.classifier to {CHOICES}"
        )

    def _first_identity(self, role: str) -> str:
        return self.identity(role, self.first_title(role))

    # Attacked and corrupted images.

    def _attack_section(self, attack: str) -> str:
        """Returns the section of the config that says how many images are attacked."""
        named = self.attacks.get(attack)
        return named.section if named else "attack"

    def _num_attacked(self, attack: str, part: str) -> int:
        """Returns how many images of a part are attacked; 0 for all."""
        section = self.config[self._attack_section(attack)]
        return section["num_test" if part == "test" else "num_train"]

    def _attack_of(self, key: ModelKey) -> dict[str, Any]:
        """Returns what a model learns on depends on, for its config."""
        identity = {"classifier": self._first_identity(key.role)}
        if (labels := self.kinds[key.kind].attack_labels) != "true":
            identity["labels"] = labels
        if key.name not in self.attacks:
            attack = without_machine_settings({"attack": self.config["attack"]})
            return {**attack["attack"], **identity}
        run = self.attacks[key.name].run
        made_of = {"epsilon": run.epsilon, "parameters": run.all_parameters}
        count = self._num_attacked(key.name, "train")
        return {"attack": run.name, **made_of, "num_train": count, **identity}

    def attacked(
        self,
        role: str,
        part: str,
        attack: str,
        title: str | None = None,
        remover: ModelKey | None = None,
        labels: str = "true",
    ) -> np.ndarray:
        """Returns adversarial copies of the first images of a part, kept on disk.

        By default of the first classifier, and no remover before it that is known to
        the attacker. For `attack` and `labels` see `made_images.attacked_images`.
        """
        title = title or self.first_title(role)
        count = self._num_attacked(attack, part)
        models = {"classifier": self.load_classifier(role, title)}
        if remover is not None:
            models["purifier"] = self.load(remover)
        behind = f"_behind_{remover.name}" if remover else ""
        led = "" if labels == "true" else f"_{labels}"
        name = f"{title}{behind}_{attack}{led}_{part}.npy"
        return attacked_images(
            self.workdir / "attacked" / self._set_folder(role) / name,
            self.first(role, part, count),
            models,
            attack,
            part,
            labels=labels,
            config=self.config,
            attacks=self.attacks,
            mesh=self.mesh,
            progress=self.progress,
        )

    def corrupted(self, role: str, part: str) -> np.ndarray:
        """Returns copies of a part, kept on disk, a corruption drawn for each image."""
        settings = self.config["universal_corruptions"]
        with self.progress.bar(None, f"corrupting {part}", "batch", leave=False) as bar:

            def on_batch():
                self.progress.stopping()
                bar.update()

            return store_mixed(
                self.workdir / "corrupted" / self._set_folder(role) / f"{part}.npy",
                self.source(role, part),
                settings["names"],
                settings["severities"],
                suite=settings["suite"],
                copies=settings["copies"] if part == "train" else 1,
                seed=named_seed(self.config["seed"], "corrupted", part),
                batch_size=self.config["evaluation"]["batch_size"],
                mesh=self.mesh,
                on_batch=on_batch,
            )


def is_made_here(source: str) -> bool:
    """Whether a classifier, one of `CHOICES`, is trained or tuned here."""
    return source.startswith((TRAIN, TUNE))


def _classifier_key(role: str, source: str) -> ModelKey:
    if source.startswith(TUNE):
        return ModelKey(role, "tuned", Path(source.removeprefix(TUNE)).stem)
    name = source.removeprefix(TRAIN)
    return ModelKey(role, "cnn" if name.startswith("cnn") else "classifier", name)
