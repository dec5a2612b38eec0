"""The data, models and attacked images that the paper's experiments share.

Everything is kept in one folder and made once, whichever experiment asks first:
`models/<data set>/<kind>/<name>` holds runs as `launch.train` writes them,
`attacked/<data set>/` adversarial images and `corrupted/<data set>/` corrupted ones.
"""

import functools
import itertools
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from uronet_jax import sharding
from uronet_jax.attacks.digests import digest
from uronet_jax.checkpoints import read_config
from uronet_jax.corruptions import SuiteEntry, make_degradation, suite_degradations
from uronet_jax.data import open_source
from uronet_jax.data.sources import ArraySource, split_range
from uronet_jax.data.statistics import pixel_statistics
from uronet_jax.defense import detector_channels
from uronet_jax.loading import LoadedModel, build_module, load_classifier, load_model
from uronet_jax.models import make_classifier
from uronet_jax.papers.machine_settings import without_machine_settings
from uronet_jax.papers.made_images import ImageMaker
from uronet_jax.papers.progress import Progress, StoppedError
from uronet_jax.papers.uronet.kinds import ModelKey, entry_name, make_kinds
from uronet_jax.papers.uronet.settings import CLASSIFIERS, ROLES, check_settings
from uronet_jax.training import grid, tasks
from uronet_jax.training.loop import validate_schedule
from uronet_jax.training.optimizers import make_optimizer
from uronet_jax.training.pairs import drawn_pairs, stored_pairs
from uronet_jax.training.run import Task, check_same_config

# What `--config.classifier` says to have one trained here.
TRAIN = "train:"
# What a classifier may be.
CHOICES = "the folder of a run, a .npz file, or train:NAME"


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
        self.progress = Progress(stop, shown=progress)
        self._data_dir = data_dir
        self.mesh = sharding.data_mesh()
        self._maker = ImageMaker(config, self.mesh, self.progress)
        self.kinds = make_kinds(config)
        self.entries: list[SuiteEntry] = suite_degradations(**config["suite"])
        self._check_models()
        check_settings(config, self.mesh)
        # One per instance: the arrays go when the zoo goes.
        self.source = functools.cache(self._source)
        self.statistics = functools.cache(self._statistics)
        self.identity = functools.cache(self._identity)
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
        return f"models/{self._set_folder(key.role)}/{key.kind}/{key.name}"

    def _set_folder(self, role: str) -> str:
        return self.config[role]["name"].replace("/", "_").replace(":", "_")

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
            for field in CLASSIFIERS
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

    def _identity(self, role: str, title: str) -> str:
        """Returns what tells a classifier from all others.

        Where it is trained here that is its folder, whose config is compared; else a
        digest of its weights.

        Raises:
            FileNotFoundError: If there is none.
            ValueError: See `load_classifier`.
        """
        source = self.classifiers(role)[title]
        if source.startswith(TRAIN):
            return self._relative(_classifier_key(role, source))
        return digest(self.load_classifier(role, title).variables)

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
            members = list(members)
            if any(map(self.is_unfinished, members)) and not self._train(
                role, kind, [key.name for key in members]
            ):
                raise StoppedError

    def is_unfinished(self, key: ModelKey) -> bool:
        """Returns whether a model is not trained to its last step."""
        steps = grid.finished_steps(self.folder(key))
        return steps < self.kinds[key.kind].schedule.num_steps

    def check(self, keys: Iterable[ModelKey]) -> None:
        """Checks data and the models that are there, finished or not; trains nothing.

        Raises:
            ValueError: If a folder holds a model of another config, or one that was
                trained for longer, or if the data do not suffice.
        """
        ordered = self._with_removers(keys)
        for role, kind in dict.fromkeys((key.role, key.kind) for key in ordered):
            self._check_data(role, kind)
        for key in ordered:
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

    def _check_data(self, role: str, kind: str) -> None:
        """Raises ValueError if models of a kind cannot learn on the data."""
        section = self.config[role]
        ranges = {}
        for part in ("train", "validation", "test"):
            split = section[f"{part}_split"]
            try:
                ranges[part] = split_range(
                    section["name"], split, data_dir=self._data_dir
                )
            except ValueError:
                if part != "test":  # Not every set that is learned is judged on.
                    raise
        for one, other in itertools.combinations(ranges, 2):
            (a, start, stop), (b, begin, end) = ranges[one], ranges[other]
            if a == b and max(start, begin) < min(stop, end):
                raise ValueError(
                    f"{role}.{one}_split {section[f'{one}_split']!r} and "
                    f"{role}.{other}_split {section[f'{other}_split']!r} share images: "
                    "what is judged on must neither be learned nor chosen by"
                )
        _, start, stop = ranges["train"]
        count, limit = stop - start, f"{role}.train_split"
        if self.kinds[kind].stored == "attacked":
            asked = self.config["attack"]["num_train"]
            if 0 < asked < count:
                count, limit = asked, "attack.num_train"
        size = self.kinds[kind].schedule.batch_size
        if size > count:
            raise ValueError(
                f"{limit} has {count} images, too few for the batches of {size} that "
                f"models of kind {kind} learn on"
            )

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
            stop=self.progress.stop,
            description=f"{self.config[role]['name']} {kind}",
            progress=self.progress.shown,
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
            # What else is in the schedule changes no weight.
            "schedule": {
                name: getattr(kind.schedule, name)
                for name in ("num_steps", "batch_size")
            },
            "optimizer": dict(kind.optimizer),
            "noise_weight": kind.noise_weight,
            "resolved": self.statistics(key.role),
        }
        if kind.stored == "corrupted":
            corruptions = self.config["universal_corruptions"]
            names = ("suite", "names", "severities", "copies")
            stored_config["corruptions"] = {name: corruptions[name] for name in names}
        elif kind.stored:
            attack = without_machine_settings({"attack": config["attack"]})["attack"]
            attack["classifier"] = self.identity(key.role, self._first_title(key.role))
            stored_config["attack"] = attack
        elif kind.phase != "classifier":
            stored_config["degradation"] = [list(e) for e in self._mix(key)]
        if kind.clean_share:
            stored_config["clean_share"] = kind.clean_share
        if kind.consistency_weight:
            stored_config["consistency"] = {
                "weight": kind.consistency_weight,
                "classifier": self.identity(key.role, self._first_title(key.role)),
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

    def _first_title(self, role: str) -> str:
        titles = list(self.classifiers(role))
        if not titles:
            raise ValueError(
                f"a classifier is needed: set --config.{role}.classifier to {CHOICES}"
            )
        return titles[0]

    def _first_classifier(self, role: str) -> LoadedModel:
        return self.load_classifier(role, self._first_title(role))

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
        # Rows bring their own degradation, or images that are stored.
        augment = tasks.augmenter(augmentation)
        if kind.stored:
            nothing = np.empty((0, *shape), np.uint8)
            pairs = stored_pairs(
                nothing, nothing, augment, clean_share=kind.clean_share
            )
        else:
            pairs = drawn_pairs(make_degradation([("identity", 0.0)]), augment)
        if kind.phase == "remover":
            return tasks.remover_task(
                module,
                optimizer,
                pairs,
                image_shape=shape,
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
            pairs,
            image_shape=shape,
            inputs=kind.model["inputs"],
        )

    # Attacked and corrupted images.

    def attacked(
        self,
        role: str,
        part: str,
        attack: str,
        title: str | None = None,
        remover: ModelKey | None = None,
    ) -> np.ndarray:
        """Returns adversarial copies of the first images of a part, kept on disk.

        Args:
            role: Section of the config.
            part: `train`, `validation` or `test`.
            attack: See `made_images.attack_steps`.
            title: Classifier that is attacked; by default the first.
            remover: What stands before the classifier, known to the attacker; by
                default nothing, or nothing that is known.

        Returns:
            uint16 `[N, H, W, C]`.

        Raises:
            StoppedError: If it was asked to stop; what was made is kept.
            ValueError: If the file on disk was made with other weights or settings.
        """
        title = title or self._first_title(role)
        count = self.config["attack"]["num_test" if part == "test" else "num_train"]
        models = [self.load_classifier(role, title)]
        if remover is not None:
            models.append(self.load(remover))
        behind = f"_behind_{remover.name}" if remover else ""
        name = f"{title}{behind}_{attack}_{part}.npz"
        return self._maker.attacked(
            self.workdir / "attacked" / self._set_folder(role) / name,
            self.first(role, part, count),
            models,
            attack,
            part,
        )

    def corrupted(self, role: str, part: str) -> np.ndarray:
        """Returns copies of a part, kept on disk, a corruption drawn for each image.

        Args:
            role: Section of the config.
            part: `train` or `validation`.

        Returns:
            uint8 `[copies, N, H, W, C]`.

        Raises:
            StoppedError: If it was asked to stop.
            ValueError: If the file on disk was made with other settings.
        """
        return self._maker.corrupted(
            self.workdir / "corrupted" / self._set_folder(role) / f"{part}.npz",
            self.source(role, part),
            part,
        )


def _classifier_key(role: str, source: str) -> ModelKey:
    name = source.removeprefix(TRAIN)
    return ModelKey(role, "cnn" if name.startswith("cnn") else "classifier", name)
