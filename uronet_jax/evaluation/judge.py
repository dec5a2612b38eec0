"""The judge: images and their degraded copies, run through any function in batches.

Nothing but a few batches is in memory at a time, unless all images fit easily.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from uronet_jax import corruptions, sharding
from uronet_jax.batches import check_whole
from uronet_jax.corruptions import SuiteEntry, degrade, make_degradation
from uronet_jax.data.corrupted import make_corrupter
from uronet_jax.data.pipelines import evaluation_batches, source_bytes
from uronet_jax.defense import DefenseFunction
from uronet_jax.evaluation import metrics
from uronet_jax.image_quality import psnr, ssim
from uronet_jax.training.state import to_float

CLEAN_ENTRY = SuiteEntry("clean", 0, "identity", 0.0)
SSIM_WINDOW = 11


class CorruptionEntry(NamedTuple):
    """One corruption of a suite at one severity, made as the images are judged.

    Images are truncated to uint8 as in the files that `launch.make_corrupted` writes;
    with the same seed they are the same images.

    Attributes:
        noise: Name in the suite, such as "fog".
        severity: 1 or more.
        suite: Name in `uronet_jax.corruptions.SUITES`.
        changes: Parameters and options that `corrupt` takes.
    """

    noise: str
    severity: int
    suite: str
    changes: Mapping[str, Any] = {}

    @property
    def fields(self) -> dict[str, Any]:
        """What a row says besides noise and severity."""
        fields = {"suite": self.suite}
        if self.noise == "frost":
            made = self.changes.get("textures") is None
            fields["textures"] = "procedural" if made else "photographs"
        return fields


class FunctionEntry(NamedTuple):
    """What any function makes of the images.

    Attributes:
        noise: What rows call it.
        severity: 1 or more.
        function: `(key, images, level, index) -> images`, pure; compiled once.
        level: How strong it is.
        fields: What rows say besides.
    """

    noise: str
    severity: int
    function: Callable[..., jax.Array]
    level: float
    fields: Mapping[str, Any] = {}


class StoredEntry(NamedTuple):
    """Degraded images from files.

    Attributes:
        noise: Name of the corruption.
        severity: 1 or more.
        images: uint8 or uint16 `[N, H, W, C]`, in the order of the images that are
            judged; it may be memory-mapped.
        fields: What rows say besides.
    """

    noise: str
    severity: int
    images: np.ndarray
    fields: Mapping[str, Any] = {}


Entry = SuiteEntry | CorruptionEntry | FunctionEntry | StoredEntry


class Judge:
    """Runs functions on images and on their degraded copies.

    One compiled program per function and batch shape serves every degradation, clean
    included; one more makes all noises, and one each corruption of a suite at all
    severities.
    """

    def __init__(
        self,
        images: Any,
        *,
        batch_size: int,
        mesh: jax.sharding.Mesh,
        seed: int = 0,
        max_resident_bytes: int = 2**30,
    ):
        """Takes the images, and reads them if they are few.

        Args:
            images: A source, or uint8 images `[N, H, W, C]` and labels `[N]`.
            batch_size: Over all devices.
            mesh: Where to run.
            seed: Of the degradations. Image `i` always gets the same draw.
            max_resident_bytes: Images that take no more stay on the devices; others
                are read anew for every degradation.

        Raises:
            ValueError: If `batch_size` does not fit the mesh, or there are no images.
        """
        check_whole("seed", seed, 0, 2**32 - 1)
        self._images, self._batch_size, self._mesh = images, batch_size, mesh
        batches = self._read(images)
        size = images[0].nbytes if isinstance(images, tuple) else source_bytes(images)
        self._length = len(images[0] if isinstance(images, tuple) else images)
        self._seed = seed
        self._key = sharding.replicate(jax.random.key(seed), mesh)
        # Kept once read: every degradation needs them again.
        self._kept = list(batches) if size <= max_resident_bytes else None

    def __len__(self) -> int:
        """Returns the number of images."""
        return self._length

    @property
    def mesh(self) -> jax.sharding.Mesh:
        """Where it runs."""
        return self._mesh

    def _read(self, images: Any) -> Iterator[dict[str, jax.Array]]:
        return evaluation_batches(images, batch_size=self._batch_size, mesh=self._mesh)

    def batches(self) -> Iterator[dict[str, jax.Array]]:
        """Returns the images as they are, in padded batches on the mesh."""
        return iter(self._read(self._images) if self._kept is None else self._kept)

    def degraded(self, entry: Entry, *, draw: int = 0) -> Iterator[tuple]:
        """Returns the batches, each with its degraded images, float in `[0, 1]`.

        Args:
            entry: Which degradation. All noises of the paper are made of the same
                random numbers, so that they can be compared image by image.
            draw: Another number is another draw of these.

        Raises:
            ValueError: If stored images do not fit the images that are judged.
        """
        make = self._maker(entry, draw)
        return ((batch, make(batch)) for batch in self.batches())

    def _maker(self, entry: Entry, draw: int) -> Callable[[dict], jax.Array]:
        place = functools.partial(sharding.replicate, mesh=self._mesh)
        key = self._key
        if draw:
            key = place(jax.random.fold_in(jax.random.key(self._seed), draw))
        if isinstance(entry, StoredEntry):
            return self._stored(entry)
        if isinstance(entry, CorruptionEntry):
            name = f"{entry.suite}/{entry.noise}"
            entry_key = corruptions.entry_key(self._seed, name, entry.severity)
            changes = tuple(sorted(entry.changes.items()))
            run = make_corrupter(name, changes, self._mesh)
            level = np.int32(entry.severity)
            return Partial(run, *place((entry_key, level)))
        if isinstance(entry, FunctionEntry):
            function, level = entry.function, np.float32(entry.level)
        else:
            level = make_degradation([(entry.kind, entry.parameter)])
            function = degrade
        return Partial(_compile_function(function, self._mesh), key, place(level))

    def _stored(self, entry: StoredEntry) -> Callable[[dict], jax.Array]:
        image = next(self.batches())["image"]
        shape = (self._length, *image.shape[1:])
        kinds = (np.uint8, np.uint16)
        if entry.images.shape != shape or entry.images.dtype not in kinds:
            raise ValueError(
                f"stored images of {entry.noise} {entry.severity} must be uint8 or "
                f"uint16 {list(shape)}, in the order of the clean ones: found "
                f"{entry.images.dtype} {list(entry.images.shape)}"
            )
        stored = self._read((entry.images, np.zeros(len(entry.images), np.int32)))
        return lambda batch: next(stored)["image"]

    def run(
        self, function: Callable, frozen: Any, entry: Entry = CLEAN_ENTRY
    ) -> dict[str, np.ndarray]:
        """Runs a function on every image under a degradation.

        Args:
            function: `(frozen, key, degraded, batch) -> arrays [B, ...]` by name;
                hashable, as equal ones share a compiled program. The key is for random
                purifiers.
            frozen: Arrays that it needs, on the mesh.
            entry: The degradation; `CLEAN_ENTRY` for none.

        Returns:
            One array `[N, ...]` per name, in the order of the images.
        """
        run = _compile_judged(function, self._mesh)
        found: list[dict[str, np.ndarray]] = []
        waiting = None
        for batch, degraded in self.degraded(entry):
            result = run(frozen, self._key, degraded, batch)
            # The devices are busy with this batch while the one before is fetched.
            if waiting is not None:
                found.append(jax.device_get(waiting))
            waiting = result
        found.append(jax.device_get(waiting))
        masks = [result.pop("mask") for result in found]
        return {
            name: np.concatenate(
                [x[name][mask] for x, mask in zip(found, masks, strict=True)]
            )
            for name in found[0]
        }

    def measure(
        self, defense: DefenseFunction, variables: Any, entry: Entry = CLEAN_ENTRY
    ) -> dict[str, np.ndarray]:
        """Measures a defence, and the classifier alone, under one degradation.

        Args:
            defense: Purifier and detector may be absent; what needs them is then
                absent from the result.
            variables: See `DefenseFunction.answer`; on the mesh.
            entry: The degradation.

        Returns:
            One array `[N]` per quantity: `undefended` and `purified` (whether the label
            is right), `probability` (of being degraded), `psnr_noisy`,
            `psnr_purified`, `ssim_noisy`, `ssim_purified`.
        """
        return self.run(make_measurement(defense), variables, entry)

    def pictures(self, entry: Entry, count: int, *, draw: int = 0) -> np.ndarray:
        """Returns the first degraded images, float32 `[count, H, W, C]`."""
        found: list[np.ndarray] = []
        for _, degraded in self.degraded(entry, draw=draw):
            found.append(np.asarray(as_float(degraded)))
            if sum(map(len, found)) >= count:
                break
        return np.concatenate(found)[:count]


def as_float(images: jax.Array) -> jax.Array:
    """Returns stored images, of integers, in `[0, 1]`; others as they are."""
    integer = jnp.issubdtype(images.dtype, jnp.integer)
    return to_float(images) if integer else images


# Cached, so that judges of the same images share the compiled program.
@functools.cache
def _compile_function(function: Callable, mesh: jax.sharding.Mesh) -> Callable:
    def run(key, level, batch):
        return function(key, to_float(batch["image"]), level, batch["index"])

    return sharding.compile_split(run, mesh)


@functools.cache
def _compile_judged(function: Callable, mesh: jax.sharding.Mesh) -> Callable:
    def run(frozen, key, degraded, batch):
        found = function(frozen, key, as_float(degraded), batch)
        return {**found, "mask": batch["mask"]}

    return sharding.compile_replicated(run, mesh)


@functools.cache
def make_measurement(defense: DefenseFunction) -> Callable:
    """Returns what `Judge.measure` runs."""

    def measure(variables, key, degraded, batch):
        images = to_float(batch["image"])
        with_ssim = min(images.shape[1:3]) >= SSIM_WINDOW

        def right(logits):
            return jnp.argmax(logits, axis=-1) == batch["label"]

        def quality(name, pictures):
            values = {f"psnr_{name}": psnr(pictures, images)}
            if with_ssim:
                values[f"ssim_{name}"] = ssim(pictures, images)
            return values

        bare = defense.classify(variables["classifier"], degraded)
        result = {"undefended": right(bare), **quality("noisy", degraded)}
        if defense.purifier is None:
            return result
        found = defense(variables, degraded, key, batch["index"])
        result |= {"purified": right(found.logits), **quality("purified", found.clean)}
        if found.degraded_probability is not None:
            result["probability"] = found.degraded_probability
        return result

    return measure


def detection_metrics(clean: np.ndarray, degraded: np.ndarray) -> dict[str, float]:
    """Measures a detector from the degraded probabilities of two sets of images.

    Args:
        clean: Probabilities `[N]` of images that are clean.
        degraded: Probabilities `[M]` of images that are degraded.

    Returns:
        `detection_accuracy` (mean of the two classes' accuracies at 1/2), `auroc`,
        and the true-positive rates at 1 % and 5 % false positives.
    """
    return {
        "detection_accuracy": float(
            ((clean <= 0.5).mean() + (degraded > 0.5).mean()) / 2
        ),
        "auroc": metrics.auroc(clean, degraded),
        "tpr_at_1_percent_fpr": metrics.tpr_at_fpr(clean, degraded, 0.01),
        "tpr_at_5_percent_fpr": metrics.tpr_at_fpr(clean, degraded, 0.05),
    }
