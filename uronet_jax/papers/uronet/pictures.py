"""Figures 1, 2, 4 and 5: arrays of images, and a number that goes with each."""

import jax.numpy as jnp
import numpy as np

from uronet_jax.evaluation.grad_cam import grad_cam
from uronet_jax.evaluation.judge import CLEAN_ENTRY, Judge
from uronet_jax.image_quality import psnr
from uronet_jax.papers.kinds import ModelKey, entry_name
from uronet_jax.papers.laboratory import Laboratory, TidyRow
from uronet_jax.papers.made_images import save_arrays
from uronet_jax.papers.parts import TEST_ATTACKS, Part
from uronet_jax.papers.store import Store

# How many images are shown.
_SHOWN = 5
# Figures 1 and 2: what they show, and how much patterns are amplified.
_PATTERNS = ("GN_1", "UN_3", "IFGSM", "PGD")
_AMPLIFICATION = 10.0
# Figure 5: a noise, and what is seen of it.
_LOOKED_AT = "GN_1"


def _judge(
    lab: Laboratory, role: str = "data", **options
) -> tuple[Judge, int, np.ndarray]:
    """Returns the judge, how many images are shown, and these."""
    judge = lab.judge(role, **options)
    count = min(_SHOWN, len(judge))
    return judge, count, judge.pictures(CLEAN_ENTRY, count)


def _row(
    lab: Laboratory, shown, value, metric: str, /, role: str = "data", **columns
) -> TidyRow:
    dataset = lab.store.dataset(role)
    return lab.row(shown, float(np.mean(value)), metric, dataset=dataset, **columns)


def noise_patterns(figure: str, store: Store) -> list[Part]:
    """Figures 1 and 2: patterns of noises and attacks, or the images they are of."""
    for name in set(_PATTERNS) - set(TEST_ATTACKS):
        store.entry(name)  # Raises if it is left out.

    def rows(lab):
        judge, count, clean = _judge(lab, attacked=True)
        arrays, rows = {"clean": clean}, []
        for number, name in enumerate(_PATTERNS):
            if name in TEST_ATTACKS:
                entry, severity = lab.attacked("data", TEST_ATTACKS[name]), None
            else:
                entry = store.entry(name)
                severity = entry.severity
            # Of the same draw, patterns of two noises would look the same.
            images = judge.pictures(entry, count, draw=number)
            noise = images - clean
            arrays[name] = images
            if figure == "figure1":
                arrays[name] = np.clip(0.5 + _AMPLIFICATION * noise / 2, 0.0, 1.0)
            columns = {"noise": name.partition("_")[0], "severity": severity}
            metric = "mean_absolute_noise"
            rows.append(_row(lab, images, np.abs(noise), metric, **columns))
        save_arrays(store.workdir / f"{figure}.npz", arrays)
        return rows

    return [Part("all", tuple(store.classifier_keys("data", first=True)), rows)]


def noise_severities(store: Store) -> list[Part]:
    """Figure 4: every noise at every severity."""

    def rows(lab):
        judge, count, clean = _judge(lab)
        arrays, rows = {"clean": clean}, []
        for entry in store.entries:
            images = arrays[entry_name(entry)] = judge.pictures(entry, count)
            columns = {"noise": entry.noise, "severity": entry.severity}
            rows.append(_row(lab, images, psnr(images, clean), "psnr", **columns))
        save_arrays(store.workdir / "figure4.npz", arrays)
        return rows

    return [Part("all", (), rows)]


def looked_at(figure: str, role: str, store: Store) -> list[Part]:
    """Figure 5: where a classifier looks on clean, noisy and purified images.

    By Grad-CAM, the first classifier.
    """
    entry, remover = store.entry(_LOOKED_AT), ModelKey(role, "remover", _LOOKED_AT)

    def rows(lab):
        judge, count, clean = _judge(lab, role)
        classifier = lab.classifier(role, next(iter(store.classifiers(role))))
        labels = jnp.asarray(store.first(role, "test", count).arrays()[1])
        purified = lab.purified(judge, lab.model(*remover), entry)[:count]
        noisy = judge.pictures(entry, count)
        shown, rows = {"clean": clean, "noisy": noisy, "purified": purified}, []
        arrays = {}
        for name, images in shown.items():
            maps = grad_cam(
                classifier.module, classifier.variables, jnp.asarray(images), labels
            )
            arrays |= {name: images, f"{name}_map": np.asarray(maps)}
            moved = np.abs(arrays[f"{name}_map"] - arrays["clean_map"])
            columns = {"noise": entry.noise, "severity": entry.severity, "images": name}
            metric = "mean_absolute_change_of_the_map"
            rows.append(_row(lab, images, moved, metric, role=role, **columns))
        save_arrays(store.workdir / f"{figure}.npz", arrays)
        return rows

    models = (remover, *store.classifier_keys(role, first=True))
    return [Part("all", models, rows)]
