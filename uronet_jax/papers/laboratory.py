"""Test images and models on the devices, and what is measured with them."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from uronet_jax import batches, sharding
from uronet_jax.corruptions import SuiteEntry, degrade, entry_key, make_degradation
from uronet_jax.data import evaluation_batches
from uronet_jax.data.corrupted import make_corrupter
from uronet_jax.data.sources import ArraySource
from uronet_jax.defense import detector_input
from uronet_jax.loading import LoadedModel
from uronet_jax.models import Remover
from uronet_jax.papers.store import Zoo
from uronet_jax.papers.uronet.kinds import ModelKey, entry_name
from uronet_jax.training.state import to_float

Row = dict[str, Any]
# Batches of images on the devices, float32 in [0, 1].
Images = Sequence[jax.Array]

# Degraded test images are kept on the devices up to this many bytes.
_MAX_KEPT = 4 * 2**30


class Placed(NamedTuple):
    """A model on the devices."""

    module: Any
    variables: Any
    inputs: str = "image"


class Examples:
    """Test images on the devices, and their degraded copies."""

    def __init__(
        self,
        source: ArraySource,
        *,
        batch_size: int,
        mesh: jax.sharding.Mesh,
        seed: int,
    ):
        """Places the images.

        Args:
            source: The images, with labels.
            batch_size: Images of a compiled call.
            mesh: Where to run.
            seed: Of the degradations; image `i` always gets the same draw.
        """
        self.source, self._mesh, self._seed = source, mesh, seed
        self._batch_size = batch_size
        self._batches = self._place(*source.arrays())
        self.mask = np.concatenate([np.asarray(b["mask"]) for b in self._batches])
        self.labels = [batch["label"] for batch in self._batches]
        self._key = sharding.replicate(jax.random.key(seed), mesh)
        self._kept: dict[str, list[jax.Array]] = {}

    def __len__(self) -> int:
        """Returns the number of images."""
        return len(self.source)

    def _place(self, images, labels):
        return list(
            evaluation_batches(
                (images, labels), batch_size=self._batch_size, mesh=self._mesh
            )
        )

    def clean(self) -> Images:
        """Returns the images as they are."""
        return self._keep("clean", lambda: self._as_float(self._batches))

    def degraded(self, entry: SuiteEntry, *, draw: int = 0) -> Images:
        """Returns the images under one of the paper's noises.

        Args:
            entry: Which one. All noises are made of the same random numbers, so that
                severities and noises can be compared image by image.
            draw: Another number is another draw.
        """
        key = self._key
        if draw:
            key = sharding.replicate(
                jax.random.fold_in(jax.random.key(self._seed), draw), self._mesh
            )

        def make():
            degradation = sharding.replicate(
                make_degradation([(entry.kind, entry.parameter)]), self._mesh
            )
            run = _compile_degrade(self._mesh)
            return [run(key, degradation, batch) for batch in self._batches]

        return self._keep(f"{entry_name(entry)} {draw}", make)

    def corrupted(self, suite: str, name: str, severity: int) -> Images:
        """Returns the images under a corruption of a suite, as from a file."""
        key, level = sharding.replicate(
            (entry_key(self._seed, f"{suite}/{name}", severity), np.int32(severity)),
            self._mesh,
        )
        run = make_corrupter(f"{suite}/{name}", (), self._mesh)
        images = [run(key, level, batch) for batch in self._batches]
        return [to_float(x) for x in images]

    def changed(self, function: Callable[..., jax.Array], level: float) -> Images:
        """Returns `function(key, images, level, index)`."""
        run = _compile_change(function, self._mesh)
        level = sharding.replicate(np.float32(level), self._mesh)
        return [run(self._key, level, batch) for batch in self._batches]

    def stored(self, images: np.ndarray) -> Images:
        """Returns uint8 or uint16 images `[N, H, W, C]`, one for each example."""
        return self._as_float(self._place(images, np.zeros(len(images), np.int32)))

    def _as_float(self, found) -> Images:
        return [to_float(batch["image"]) for batch in found]

    def _keep(self, name: str, make: Callable[[], Images]) -> Images:
        if name not in self._kept:
            images = list(make())
            size = sum(x.nbytes for x in images)
            if size * (1 + len(self._kept)) > _MAX_KEPT:
                return images
            self._kept[name] = images
        return self._kept[name]


class Laboratory:
    """Test images and models on the devices, and what is measured with them."""

    def __init__(self, zoo: Zoo):
        """Takes the models of a folder; computes nothing."""
        self.zoo = zoo
        self.mesh = zoo.mesh
        self.seed = zoo.config["seed"]
        # Of the degradations of test images; training draws from other streams.
        self._test_seed = self.seed + 1
        self.examples = functools.cache(self._examples)
        self.classifier = functools.cache(self._classifier)
        # Few: most models are for one part, those of the universal defence for many.
        self.model = functools.lru_cache(maxsize=4)(self._model)

    def forget(self) -> None:
        """Gives the memory of images and models back; they are placed anew if asked."""
        for cache in (self.examples, self.classifier, self.model):
            cache.cache_clear()

    def _examples(
        self, role: str, *, attacked: bool = False, part: str = "test"
    ) -> Examples:
        """Returns images that are judged on.

        Args:
            role: Section of the config.
            attacked: Whether only those that are attacked.
            part: `test`, or `validation` where something is chosen by the result.
        """
        evaluation = self.zoo.config["evaluation"]
        count = evaluation["num_images"]
        if attacked:
            count = self.zoo.config["attack"]["num_test"]
        return Examples(
            self.zoo.first(role, part, count),
            batch_size=evaluation["batch_size"],
            mesh=self.mesh,
            seed=self._test_seed,
        )

    def _classifier(self, role: str, title: str) -> Placed:
        return self._place(self.zoo.load_classifier(role, title))

    def _model(self, role: str, kind: str, name: str) -> Placed:
        """Returns a trained model."""
        return self._place(self.zoo.load(ModelKey(role, kind, name)))

    def _place(self, model: LoadedModel) -> Placed:
        inputs = model.config["model"].get("inputs", "image")
        variables = sharding.replicate(model.variables, self.mesh)
        return Placed(model.module, variables, inputs)

    def attacked(
        self,
        role: str,
        attack: str,
        title: str | None = None,
        remover: ModelKey | None = None,
    ) -> Images:
        """Returns adversarial copies of the first test images; see `Zoo.attacked`."""
        images = self.zoo.attacked(role, "test", attack, title, remover)
        return self.examples(role, attacked=True).stored(images)

    def purify(
        self, remover: Placed, images: Images, *, mirror: bool = False
    ) -> Images:
        """Returns the images without their degradation.

        Args:
            remover: Which does it.
            images: What it is shown.
            mirror: Whether it also sees their mirror images, see `models.Remover`.
        """
        module = remover.module.clone(mirror=True) if mirror else remover.module
        run = _compile_purify(module, self.mesh)
        return [run(remover.variables, x) for x in images]

    def probabilities(
        self, remover: Placed, detector: Placed, examples: Examples, images: Images
    ) -> np.ndarray:
        """Returns `[N]`, how likely the detector finds each image degraded."""
        run = _compile_detect(
            remover.module, detector.module, detector.inputs, self.mesh
        )
        found = [run(remover.variables, detector.variables, x) for x in images]
        return np.concatenate(jax.device_get(found))[examples.mask]

    def accuracy(
        self, classifier: Placed, examples: Examples, pictures: Images
    ) -> float:
        """Returns how many of the labels are right, in percent."""
        run = _compile_classify(classifier.module, self.mesh)
        right = [
            run(classifier.variables, x, labels)
            for x, labels in zip(pictures, examples.labels, strict=True)
        ]
        right = np.concatenate(jax.device_get(right))[examples.mask]
        return 100.0 * float(right.mean())

    def row(self, examples: Examples, value: float, **columns: Any) -> Row:
        """Returns a row; `value` last in the columns, as in the published files."""
        return {
            **columns,
            "value": value,
            "seed": self.seed,
            "num_images": len(examples),
        }


# Cached, so that models of one architecture share the compiled program.
@functools.cache
def _compile_degrade(mesh: jax.sharding.Mesh) -> Callable:
    def run(key, degradation, batch):
        return degrade(key, to_float(batch["image"]), degradation, batch["index"])

    return sharding.compile_split(run, mesh)


@functools.cache
def _compile_change(function: Callable, mesh: jax.sharding.Mesh) -> Callable:
    def run(key, level, batch):
        return function(key, to_float(batch["image"]), level, batch["index"])

    return sharding.compile_split(run, mesh)


# A program holds only the decoder that its result needs.
@functools.cache
def _compile_purify(remover: Remover, mesh: jax.sharding.Mesh) -> Callable:
    return sharding.compile_split(
        lambda variables, images: remover.apply(variables, images).clean, mesh
    )


@functools.cache
def _compile_detect(
    remover: Remover, detector: nn.Module, inputs: str, mesh: jax.sharding.Mesh
) -> Callable:
    def run(remover_variables, detector_variables, images):
        separation = remover.apply(remover_variables, images)
        features = detector_input(images, separation, inputs)
        logits = detector.apply(detector_variables, features, train=False)
        return nn.softmax(logits)[:, 1]

    return sharding.compile_split(run, mesh)


@functools.cache
def _compile_classify(classifier: nn.Module, mesh: jax.sharding.Mesh) -> Callable:
    def run(variables, pictures, labels):
        logits = classifier.apply(variables, pictures, train=False)
        return jnp.argmax(logits, axis=-1) == labels

    return sharding.compile_split(run, mesh)


def banding(
    key: jax.Array, images: jax.Array, amplitude: jax.Array, index: jax.Array
) -> jax.Array:
    """Adds horizontal bands, as of a sensor that is read out under flickering light.

    Args:
        key: Typed PRNG key; one serves the whole batch.
        images: `[B, H, W, C]` in `[0, 1]`.
        amplitude: Of the wave, in units of the intensities.
        index: Integer `[B]`, global number of each image.

    Returns:
        Images in `[0, 1]`. Phase and number of waves (2 to 6) differ between images.
    """

    def draw(key):
        return jax.random.uniform(key, (2,))

    phase, waves = jnp.moveaxis(batches.per_image(draw, key, index), -1, 0)
    rows = jnp.arange(images.shape[1]) / images.shape[1]
    turns = (2.0 + 4.0 * waves)[:, None] * rows[None, :] + phase[:, None]
    wave = amplitude * jnp.sin(2.0 * jnp.pi * turns)
    return jnp.clip(images + wave[:, :, None, None], 0.0, 1.0)


def dead_columns(
    key: jax.Array, images: jax.Array, count: jax.Array, index: jax.Array
) -> jax.Array:
    """Blackens whole columns, as of a sensor with broken read-out lines.

    Args:
        key: Typed PRNG key; one serves the whole batch.
        images: `[B, H, W, C]` in `[0, 1]`.
        count: How many columns of each image, drawn without replacement.
        index: Integer `[B]`, global number of each image.

    Returns:
        Images in `[0, 1]`.
    """
    width = images.shape[2]

    def draw(key):
        return jax.random.permutation(key, width)

    dead = batches.per_image(draw, key, index) < count
    return jnp.where(dead[:, None, :, None], 0.0, images)
