"""Protocols: what is measured on which images, as functions that return tidy rows."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from tqdm import tqdm

from uronet_jax import corruptions, sharding
from uronet_jax.corruptions import SuiteEntry, degrade, make_degradation
from uronet_jax.data.corrupted import make_corrupter
from uronet_jax.data.pipelines import evaluation_batches
from uronet_jax.defense import Classify, detector_input
from uronet_jax.evaluation import metrics
from uronet_jax.models import Remover

CLEAN = SuiteEntry("clean", 0, "identity", 0.0)
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


class StoredEntry(NamedTuple):
    """Corrupted images from files.

    Attributes:
        noise: Name of the corruption.
        severity: 1 or more.
        images: uint8 `[N, H, W, C]`, in the order of the images that are judged; it
            may be memory-mapped.
        fields: What a row says besides noise and severity.
    """

    noise: str
    severity: int
    images: np.ndarray
    fields: Mapping[str, Any] = {}


Entry = SuiteEntry | CorruptionEntry | StoredEntry


class Judge:
    """Runs a classifier, and the defence before it, on degraded images.

    One compiled program per batch shape serves every degradation, clean included; one
    more makes all noises, and one each corruption of a suite at all severities.
    Remover and detector may be absent; what needs them is then absent from the rows.
    """

    def __init__(
        self,
        classify: Classify,
        variables: dict[str, Any],
        batches: Sequence[dict[str, jax.Array]],
        *,
        mesh: jax.sharding.Mesh,
        remover: Remover | None = None,
        detector: nn.Module | None = None,
        inputs: str = "image",
        seed: int = 0,
    ):
        """Places variables on the mesh.

        Args:
            classify: `(variables, images) -> logits`.
            variables: `classifier`, and `remover` and `detector` where those are
                given: variables of each.
            batches: Of `data.evaluation_batches`, on the mesh, all of one shape.
            mesh: Where to run.
            remover: Separates the images.
            detector: Two-class module; class 1 is degraded. Needs the remover.
            inputs: What the detector looks at, see `defense.detector_input`.
            seed: Of the degradations. Image `i` always gets the same draw.

        Raises:
            ValueError: If there is a detector without a remover, or no batch.
        """
        if detector is not None and remover is None:
            raise ValueError("a detector looks at the remover's noise: give a remover")
        if not batches:
            raise ValueError("need at least one batch to evaluate on")
        self._batches = list(batches)
        self._length = sum(int(jnp.sum(b["mask"])) for b in self._batches)
        self._key, self._variables = sharding.replicate(
            (jax.random.key(seed), variables), mesh
        )
        self._seed = seed
        self._run = sharding.compile_replicated(
            _make_judge_step(classify, remover, detector, inputs), mesh
        )
        self._mesh = mesh

    def measure(self, entry: Entry) -> dict[str, np.ndarray]:
        """Measures one degradation.

        Args:
            entry: Which one; `CLEAN` for none.

        Returns:
            One array `[N]` per quantity, in the order of the images: `undefended`
            and `purified` (whether the label is right), `probability` (of being
            degraded), `psnr_noisy`, `psnr_purified`, `ssim_noisy`, `ssim_purified`.

        Raises:
            ValueError: If stored images do not fit the images that are judged.
        """
        degraded = self._degraded(entry)
        results = [
            self._run(self._variables, images, batch)
            for images, batch in zip(degraded, self._batches, strict=True)
        ]
        results = jax.device_get(results)
        mask = np.concatenate([r.pop("mask") for r in results])
        return {
            name: np.concatenate([r[name] for r in results])[mask]
            for name in results[0]
        }

    def _degraded(self, entry: Entry) -> Iterator[jax.Array]:
        if isinstance(entry, StoredEntry):
            shape = (self._length, *self._batches[0]["image"].shape[1:])
            if entry.images.shape != shape or entry.images.dtype != np.uint8:
                raise ValueError(
                    f"stored images of {entry.noise} {entry.severity} must be uint8 "
                    f"{list(shape)}, in the order of the clean ones: found "
                    f"{entry.images.dtype} {list(entry.images.shape)}"
                )
            return (
                batch["image"]
                for batch in evaluation_batches(
                    (entry.images, np.zeros(len(entry.images), np.int32)),
                    batch_size=self._batches[0]["image"].shape[0],
                    mesh=self._mesh,
                )
            )
        if isinstance(entry, CorruptionEntry):
            name = f"{entry.suite}/{entry.noise}"
            key, severity = sharding.replicate(
                (
                    corruptions.entry_key(self._seed, name, entry.severity),
                    np.int32(entry.severity),
                ),
                self._mesh,
            )
            changes = tuple(sorted(entry.changes.items()))
            corrupt = make_corrupter(name, changes, self._mesh)
            return (corrupt(key, severity, batch) for batch in self._batches)
        degradation = sharding.replicate(
            make_degradation([(entry.kind, entry.parameter)]), self._mesh
        )
        degrade = _degrader(self._mesh)
        return (degrade(self._key, degradation, batch) for batch in self._batches)


def _float_images(batch: dict[str, jax.Array]) -> jax.Array:
    return batch["image"].astype(jnp.float32) / 255.0


# Cached, so that judges of the same images share the compiled program.
@functools.cache
def _degrader(mesh: jax.sharding.Mesh) -> Callable:
    def run(key, degradation, batch):
        return degrade(key, _float_images(batch), degradation, batch["index"])

    return sharding.compile_split(run, mesh)


@functools.cache
def _make_judge_step(
    classify: Classify,
    remover: Remover | None,
    detector: nn.Module | None,
    inputs: str,
) -> Callable:
    def step(variables, degraded, batch):
        images = _float_images(batch)
        if jnp.issubdtype(degraded.dtype, jnp.integer):
            degraded = degraded.astype(jnp.float32) / 255.0
        with_ssim = min(images.shape[1:3]) >= SSIM_WINDOW

        def right(pictures):
            logits = classify(variables["classifier"], pictures)
            return jnp.argmax(logits, axis=-1) == batch["label"]

        def quality(name, pictures):
            values = {f"psnr_{name}": metrics.psnr(pictures, images)}
            if with_ssim:
                values[f"ssim_{name}"] = metrics.ssim(pictures, images)
            return values

        result = {
            "mask": batch["mask"],
            "undefended": right(degraded),
            **quality("noisy", degraded),
        }
        if remover is None:
            return result
        separation = remover.apply(variables["remover"], degraded)
        result |= {
            "purified": right(separation.clean),
            **quality("purified", separation.clean),
        }
        if detector is None:
            return result
        features = detector_input(degraded, separation, inputs)
        logits = detector.apply(variables["detector"], features, train=False)
        return result | {"probability": nn.softmax(logits)[:, 1]}

    return step


def defence_table(
    judge: Judge,
    entries: Sequence[Entry],
    *,
    gate: float | None = None,
    progress: bool = False,
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Judges the defence on clean images and on every degradation.

    Args:
        judge: Holds models and images.
        entries: The degradations.
        gate: Threshold on the degraded probability above which an image is
            purified; set it on validation images with `choose_gate`. None leaves
            the gated accuracies out.
        progress: Whether there is a progress bar.

    Returns:
        Summary of the clean images and one row per degradation. All accuracies and
        rates are fractions in `[0, 1]`, PSNR is in dB and averaged over images.
        `detection_accuracy` is that of the balanced set of the clean and the
        degraded images at probability 1/2.
    """
    clean = judge.measure(CLEAN)
    summary: dict[str, float] = {
        "num_images": len(clean["undefended"]),
        "clean_accuracy": float(clean["undefended"].mean()),
    }
    if "purified" in clean:
        summary["purified_clean_accuracy"] = float(clean["purified"].mean())
        summary["clean_psnr_purified"] = float(clean["psnr_purified"].mean())
    if "probability" in clean:
        summary["false_alarm_rate"] = float((clean["probability"] > 0.5).mean())
        if gate is not None:
            summary["gate"] = gate
            summary["gated_clean_accuracy"] = _gated(clean, gate)
            summary["gated_clean_share_purified"] = float(
                (clean["probability"] > gate).mean()
            )
    rows = []
    for entry in tqdm(entries, desc="degradations", disable=not progress):
        measured = judge.measure(entry)
        row: dict[str, Any] = {
            "noise": entry.noise,
            "severity": entry.severity,
            **entry.fields,
            "undefended_accuracy": float(measured["undefended"].mean()),
        }
        if "purified" in measured:
            row["purified_accuracy"] = float(measured["purified"].mean())
        if "probability" in measured:
            row |= detection_metrics(clean["probability"], measured["probability"])
            if gate is not None:
                row["gated_accuracy"] = _gated(measured, gate)
        for name in ("psnr_noisy", "psnr_purified", "ssim_noisy", "ssim_purified"):
            if name in measured:
                row[name] = float(measured[name].mean())
        rows.append(row)
    return summary, rows


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


def choose_gate(validation: Judge, *, false_alarms: float = 0.05) -> float:
    """Returns the threshold that purifies a given share of clean validation images.

    Args:
        validation: A judge over validation images, with remover and detector.
        false_alarms: The share, in `[0, 1)`.
    """
    clean = validation.measure(CLEAN)
    return metrics.threshold_at_fpr(clean["probability"], false_alarms)


def _gated(measured: dict[str, np.ndarray], gate: float) -> float:
    purify = measured["probability"] > gate
    return float(np.where(purify, measured["purified"], measured["undefended"]).mean())
