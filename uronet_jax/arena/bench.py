"""The bench: the images of an arena, degraded and attacked once, shown to everybody."""

import functools
import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from uronet_jax import sharding
from uronet_jax.arena.contenders import Contender
from uronet_jax.attacks.adaptive import degraded_probability
from uronet_jax.data import evaluation_batches, open_source
from uronet_jax.data.sources import Subset
from uronet_jax.defense import (
    DefenseFunction,
    classifier_function,
    detector_input,
)
from uronet_jax.evaluation.attacked_copies import store_attacked
from uronet_jax.evaluation.judge import CLEAN_ENTRY, Entry, Judge
from uronet_jax.evaluation.subject import choose_gate
from uronet_jax.evaluation.threat_models import AttackRun
from uronet_jax.loading import load_classifier
from uronet_jax.models import Separation
from uronet_jax.progress import Progress

# Images that are kept in memory, degraded or purified, lest they are made again.
_KEPT_BYTES = 2**28
# Compiled programs that are kept, of each kind.
_KEPT_PROGRAMS = 8


class Shown(NamedTuple):
    """Images that defences are shown.

    Attributes:
        name: What they are, another name for other images.
        images: `[N, H, W, C]`, float32 in `[0, 1]`, or uint8 or uint16 of their full
            range; it may be memory-mapped.
    """

    name: str
    images: np.ndarray


class Answers(NamedTuple):
    """What a defence says to images.

    Attributes:
        logits: float32 `[N, K]`.
        probability: Of being degraded, `[N]`; None without a detector.
    """

    logits: np.ndarray
    probability: np.ndarray | None


class Bench:
    """Holds the images and the classifier of an arena.

    Attributes:
        classifier: The one that stands behind purifiers, and that grey boxes know.
        images: uint8 `[N, H, W, C]`.
        labels: int32 `[N]`.
        mesh: All devices.
        batch_size: Over all devices.
        digest: Tells other images or labels.
    """

    def __init__(
        self, config: Mapping[str, Any], workdir: Path, data_dir: str | None = None
    ):
        """Loads the classifier and reads the images.

        Args:
            config: The fields of `configs/arena.py`, checked.
            workdir: Where attacked images are kept.
            data_dir: Folder of the prepared data sets.

        Raises:
            ValueError: If the classifier was made for other images or classes.
            FileNotFoundError: If the classifier or the data set is missing.
        """
        data = config["data"]
        self.classifier = load_classifier(config["classifier"])
        source = open_source(data["name"], data["split"], data_dir=data_dir)
        count = data["num_examples"]
        if count > len(source):
            raise ValueError(
                f"num_examples is {count}, {data['name']} has {len(source)} images in "
                f"{data['split']}: 0 takes all"
            )
        self.source = Subset(source, np.arange(count)) if count else source
        self.images, self.labels = self.source.arrays()
        if self.classifier.num_classes != source.num_classes:
            raise ValueError(
                f"the classifier in {config['classifier']} knows "
                f"{self.classifier.num_classes} classes and {data['name']} has "
                f"{source.num_classes}"
            )
        if not self.classifier.takes(source.image_shape):
            raise ValueError(
                f"{data['name']} has images of shape {list(source.image_shape)}, the "
                f"classifier was made for images {self.classifier.shape_text}"
            )
        self.mesh = sharding.data_mesh()
        self.batch_size = min(config["batch_size"], self._even(len(self.images)))
        total = hashlib.sha256(self.images.tobytes())
        total.update(self.labels.astype("<i4").tobytes())
        self.digest = total.hexdigest()[:16]
        self._config, self._workdir, self._data_dir = config, workdir, data_dir
        self._kept: OrderedDict[Any, Any] = OrderedDict()
        self._placed: tuple[str, Any] = ("", None)

    def threshold(self, defense: DefenseFunction, variables: Any, name: str) -> float:
        """Returns the degraded probability that few clean validation images exceed."""

        def find():
            data = self._config["data"]
            images = open_source(
                data["name"], data["validation_split"], data_dir=self._data_dir
            )
            size = min(self.batch_size, self._even(len(images)))
            judge = Judge(images, batch_size=size, mesh=self.mesh)
            placed = sharding.replicate(variables, self.mesh)
            share = self._config["false_alarms"]
            return choose_gate(judge, defense, placed, share)

        return self._keep(("threshold", name), find)

    def judge(
        self, seed: int, count: int | None = None, batch_size: int | None = None
    ) -> Judge:
        """Returns the judge that degrades the images, or the first of them."""
        images, labels = self.images[:count], self.labels[:count]
        size = min(batch_size or self.batch_size, self._even(len(images)))
        return Judge((images, labels), batch_size=size, mesh=self.mesh, seed=seed)

    def _even(self, count: int) -> int:
        """Returns the least number from `count` on that the devices divide."""
        return -(-count // self.mesh.size) * self.mesh.size

    def shown(self, entry: Entry = CLEAN_ENTRY, seed: int = 0) -> Shown:
        """Returns the images under a degradation, clean by default."""
        if entry is CLEAN_ENTRY:
            return Shown("clean", self.images)
        kind = getattr(entry, "suite", "noises")
        name = f"{kind}/{entry.noise} {entry.severity}, seed {seed}"
        return self._keep(name, lambda: Shown(name, self._degrade(entry, seed)))

    def _degrade(self, entry, seed):
        found, done = None, 0
        for batch, degraded in self.judge(seed).degraded(entry):
            images = np.asarray(degraded)[np.asarray(batch["mask"])]
            if found is None:
                found = np.empty((len(self.images), *images.shape[1:]), images.dtype)
            found[done : done + len(images)] = images
            done += len(images)
        return found

    def attacked(self, run: AttackRun, progress: Progress) -> Shown:
        """Returns the images as one attacks them who knows the classifier alone.

        They are made once and kept on disk; no image stays at its first success.
        """
        name = f"attacked by {run.name}"
        seed = self._config["seed"]
        made_with = {
            "images": self.digest,
            "classifier": self.classifier.identity,
            "attack": run.name,
            "epsilon": run.epsilon,
            "parameters": run.all_parameters,
            "seed": seed,
        }
        text = json.dumps(made_with, sort_keys=True)
        # Those of other settings may lie beside them.
        ending = hashlib.sha256(text.encode()).hexdigest()[:8]
        logits_fn = Partial(
            classifier_function(self.classifier.module),
            sharding.replicate(self.classifier.variables, self.mesh),
        )
        stored = store_attacked(
            self._workdir / "attacked" / f"{run.name}_{ending}.npy",
            self.source,
            run,
            sharding.replicate(jax.random.key(seed), self.mesh),
            logits_fn,
            made_with,
            batch_size=min(self._config["attack"]["batch_size"], self.batch_size),
            mesh=self.mesh,
            progress=progress,
            description=name,
        )
        return Shown(name, stored)

    def answers(
        self,
        contender: Contender,
        shown: Shown,
        *,
        draw: int = 0,
        count: int | None = None,
    ) -> Answers:
        """Shows images to a defence.

        Args:
            contender: The defence.
            shown: The images.
            draw: Another number is another draw of a random defence.
            count: How many of the first images; None for all.

        Raises:
            ValueError: If the answers have another shape, or are not finite.
        """
        images = shown.images[:count]
        size = min(self.batch_size, self._even(len(images)))
        starts = range(0, len(images), size)
        defense = contender.defense
        classify = _compile_classify(defense.classify, self.mesh)
        purify = self._purify(contender, images, draw, size)
        kept = None
        # Several defences have this purifier; what is too large is made anew.
        if contender.purifier_identity is not None and 4 * images.size <= _KEPT_BYTES:
            name = contender.purifier_identity, shown.name, count
            kept = self._keep(name, lambda: np.concatenate([*map(purify, starts)]))
        logits, probability = [], []
        for start in starts:
            given = _as_float(images[start : start + size])
            pictures = given
            if defense.purifier is not None:
                pictures = purify(start) if kept is None else kept[start : start + size]
            if defense.detector is not None:
                probability.append(self._suspected(contender, given, pictures, size))
            if defense.gate is not None:
                flagged = (probability[-1] > defense.gate)[:, None, None, None]
                pictures = np.where(flagged, pictures, given)
            logits.append(self._run(classify, contender, pictures, draw, size))
        logits = np.concatenate(logits)
        wanted = (len(images), self.classifier.num_classes)
        if logits.shape != wanted:
            raise ValueError(
                f"the defence answers {list(logits.shape)} to {shown.name}, expected "
                f"logits {list(wanted)}"
            )
        bad = np.flatnonzero(~np.isfinite(logits).all(axis=1))
        if bad.size:
            raise ValueError(
                f"the defence answers NaN or infinity to {bad.size} images of "
                f"{shown.name}, the first {bad[:5].tolist()}"
            )
        return Answers(logits, np.concatenate(probability) if probability else None)

    def _purify(self, contender, images, draw, size):
        """Returns what purifies the batch from an image on."""

        def purify(start):
            separate = _compile_purifier(contender.defense.purifier, self.mesh)
            given = _as_float(images[start : start + size])
            return self._run(separate, contender, given, draw, size, start)

        return purify

    def _suspected(self, contender, images, pictures, size):
        """Returns the degraded probabilities of a batch."""
        defense = contender.defense
        detect = _compile_detector(defense.detector, defense.inputs, self.mesh)
        pairs = np.concatenate([images, pictures], axis=-1)
        return self._run(detect, contender, pairs, 0, size)

    def _run(self, function, contender, images, draw, size, start=0):
        """Runs a compiled function on a batch, filled up to `size`.

        The first image is that of number `start`.
        """
        key = sharding.replicate(jax.random.key(draw), self.mesh)
        data = images, np.zeros(len(images), np.int32)
        (batch,) = evaluation_batches(data, batch_size=size, mesh=self.mesh)
        batch["index"] += start
        result = function(self.place(contender), key, batch)
        return np.asarray(result)[: len(images)]

    def place(self, contender: Contender) -> Any:
        """Returns the variables of a contender on the devices."""
        if self._placed[0] != contender.identity:
            placed = sharding.replicate(contender.variables, self.mesh)
            self._placed = (contender.identity, placed)
        return self._placed[1]

    def _keep(self, name: Any, make: Callable[[], Any]) -> Any:
        """Returns what was made before, or makes it; the oldest are forgotten."""
        if name in self._kept:
            self._kept.move_to_end(name)
            return self._kept[name]
        self._kept[name] = found = make()
        while len(self._kept) > 1 and _bytes(self._kept.values()) > _KEPT_BYTES:
            self._kept.popitem(last=False)
        return found


def _as_float(images):
    images = np.asarray(images)
    if images.dtype == np.float32:
        return images
    return images.astype(np.float32) / np.float32(np.iinfo(images.dtype).max)


def _bytes(tree):
    return sum(getattr(x, "nbytes", 0) for x in jax.tree.leaves(list(tree)))


@functools.lru_cache(_KEPT_PROGRAMS)
def _compile_classify(classify, mesh):
    def run(frozen, key, batch):
        del key
        return classify(frozen["classifier"], batch["image"])

    return sharding.compile_replicated(run, mesh)


@functools.lru_cache(_KEPT_PROGRAMS)
def _compile_purifier(purifier, mesh):
    def run(frozen, key, batch):
        own = frozen.get("purifier")
        return purifier(own, batch["image"], key, batch["index"]).clean

    return sharding.compile_replicated(run, mesh)


@functools.lru_cache(_KEPT_PROGRAMS)
def _compile_detector(detector, inputs, mesh):
    def run(frozen, key, batch):
        del key
        images, clean = jnp.split(batch["image"], 2, axis=-1)
        separation = Separation(clean, images - clean)
        features = detector_input(images, separation, inputs)
        logits = detector.apply(frozen["detector"], features, train=False)
        return degraded_probability(logits)

    return sharding.compile_replicated(run, mesh)
