"""What is measured with the models of a paper, on test images and their copies."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sized
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from uronet_jax import sharding
from uronet_jax.defense import DefenseFunction, no_classifier
from uronet_jax.evaluation.judge import CLEAN_ENTRY, Entry, Judge, StoredEntry
from uronet_jax.loading import LoadedModel, detector_inputs
from uronet_jax.papers.kinds import ModelKey
from uronet_jax.papers.store import Store

TidyRow = dict[str, Any]


class Laboratory:
    """Test images and models on the devices, and what is measured with them."""

    def __init__(self, store: Store):
        """Takes the models of a folder; computes nothing."""
        self.store = store
        self.seed = store.config["seed"]
        self.judge = functools.cache(self._judge)
        self.classifier = functools.cache(self._classifier)
        # Few: most models are for one part, those of the universal defence for many.
        self.model = functools.lru_cache(maxsize=4)(self._model)
        # By what `load_purifier` reads.
        self.purifier = functools.cache(lambda x: self.place(store.named_purifier(x)))

    def forget(self) -> None:
        """Gives the memory of images and models back; they are placed anew if asked."""
        for cache in (self.judge, self.classifier, self.model, self.purifier):
            cache.cache_clear()

    def _judge(
        self,
        role: str,
        *,
        attacked: bool = False,
        part: str = "test",
        count: int | None = None,
    ) -> Judge:
        """Returns the judge of some images, or only of `count`, or of the attacked."""
        config = self.store.config
        if attacked:
            count = config["attack"]["num_test"]
        if count is None:
            count = config["evaluation"]["num_images"]
        return Judge(
            self.store.first(role, part, count),
            batch_size=config["evaluation"]["batch_size"],
            mesh=self.store.mesh,
            # Of the degradations of test images; training draws from other streams.
            seed=self.seed + 1,
        )

    def _classifier(self, role: str, title: str) -> LoadedModel:
        return self.place(self.store.load_classifier(role, title))

    def classifiers(self, role: str) -> dict[str, LoadedModel]:
        """Returns title -> classifier of a data set."""
        titles = self.store.classifiers(role)
        return {title: self.classifier(role, title) for title in titles}

    def _model(self, role: str, kind: str, name: str) -> LoadedModel:
        return self.place(self.store.load(ModelKey(role, kind, name)))

    def place(self, model: LoadedModel) -> LoadedModel:
        """Returns a model whose variables are on the mesh."""
        variables = sharding.replicate(model.variables, self.store.mesh)
        return dataclasses.replace(model, variables=variables)

    def attacked(self, role: str, attack: str, *args, **kwargs) -> StoredEntry:
        """Returns the first test images when attacked; see `Store.attacked`."""
        images = self.store.attacked(role, "test", attack, *args, **kwargs)
        return StoredEntry(attack, 0, images)

    def accuracies(
        self,
        judge: Judge,
        classifiers: Mapping[str, LoadedModel],
        entry: Entry = CLEAN_ENTRY,
        purifier: LoadedModel | None = None,
        *,
        mirror: bool = False,
    ) -> dict[str, float]:
        """Returns title -> how many of the labels are right, in percent.

        With `mirror` the purifier also sees mirror images, see `models.Remover`.
        """
        modules = tuple((title, x.module) for title, x in classifiers.items())
        variables = {"classifier": {k: x.variables for k, x in classifiers.items()}}
        module = None
        if purifier is not None:
            variables["purifier"] = purifier.variables
            module = purifier.module
            module = module.clone(mirror=True) if mirror else module
        defense = DefenseFunction(_Several(modules), module)
        right = judge.run(_measurement(defense, _right), variables, entry)
        # In their order: what comes from a compiled function is sorted by name.
        return {title: 100.0 * float(right[title].mean()) for title in classifiers}

    def probabilities(
        self,
        judge: Judge,
        purifier: LoadedModel,
        detector: LoadedModel,
        entry: Entry = CLEAN_ENTRY,
    ) -> np.ndarray:
        """Returns `[N]`, how likely the detector finds each image degraded."""
        modules = purifier.module, detector.module, detector_inputs(detector)
        defense = DefenseFunction(no_classifier, *modules)
        variables = {"purifier": purifier.variables, "detector": detector.variables}
        variables["classifier"] = {}
        measurement = _measurement(defense, _probability)
        return judge.run(measurement, variables, entry)["probability"]

    def purified(self, judge: Judge, purifier: LoadedModel, entry: Entry) -> np.ndarray:
        """Returns the pictures that a purifier makes, float32 `[N, H, W, C]`."""
        defense = DefenseFunction(no_classifier, purifier.module)
        variables = {"classifier": {}, "purifier": purifier.variables}
        return judge.run(_measurement(defense, _clean), variables, entry)["clean"]

    def row(self, shown: Sized, value: float, metric: str, /, **columns) -> TidyRow:
        """Returns a row about some images."""
        numbers = {"value": value, "seed": self.seed, "num_images": len(shown)}
        return {**columns, "metric": metric, **numbers}


@dataclasses.dataclass(frozen=True)
class _Several:
    """Classifiers side by side: `(variables, images) -> title -> logits`."""

    modules: tuple[tuple[str, nn.Module], ...]

    def __call__(self, variables, images):
        return {
            title: module.apply(variables[title], images, train=False)
            for title, module in self.modules
        }


@functools.cache  # A program is compiled for each function object anew.
def _measurement(defense: DefenseFunction, read: Callable) -> Callable:
    def measure(variables, key, images, batch):
        return read(defense(variables, images, key, batch["index"]), batch)

    return measure


def _right(found, batch):
    guesses = {title: jnp.argmax(x, axis=-1) for title, x in found.logits.items()}
    return {title: guess == batch["label"] for title, guess in guesses.items()}


def _probability(found, batch):
    return {"probability": found.degraded_probability}


def _clean(found, batch):
    return {"clean": found.clean}
