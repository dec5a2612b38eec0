"""Figures 1, 2, 4 and 5: arrays of images, and a number that goes with each."""

import functools

import jax.numpy as jnp
import numpy as np

from uronet_jax.evaluation.grad_cam import grad_cam
from uronet_jax.evaluation.judge import CLEAN_ENTRY
from uronet_jax.image_quality import psnr
from uronet_jax.papers.laboratory import Laboratory, TidyRow
from uronet_jax.papers.made_images import save_arrays
from uronet_jax.papers.store import Store
from uronet_jax.papers.uronet.kinds import ModelKey, entry_name
from uronet_jax.papers.uronet.parts import TEST_ATTACKS, Part, dataset_title

# How many images are shown.
_SHOWN = 5
# Figures 1 and 2: what they show, and how much patterns are amplified.
_PATTERNS = ("GN_1", "UN_3", "IFGSM", "PGD")
_AMPLIFICATION = 10.0
# Figure 5: a noise, and what is seen of it.
_LOOKED_AT = "GN_1"


def _patterns_part(figure: str, lab: Laboratory) -> list[TidyRow]:
    judge = lab.judge("data", attacked=True)
    count = min(_SHOWN, len(judge))
    clean = judge.pictures(CLEAN_ENTRY, count)
    arrays, rows = {"clean": clean}, []
    for number, name in enumerate(_PATTERNS):
        if name in TEST_ATTACKS:
            entry, severity = lab.attacked("data", TEST_ATTACKS[name]), None
        else:
            entry = lab.store.entry(name)
            severity = entry.severity
        # Of the same draw, patterns of two noises would look the same.
        images = judge.pictures(entry, count, draw=number)
        noise = images - clean
        arrays[name] = images
        if figure == "figure1":
            arrays[name] = np.clip(0.5 + _AMPLIFICATION * noise / 2, 0.0, 1.0)
        rows.append(
            lab.row(
                judge,
                float(np.abs(noise).mean()),
                dataset=dataset_title(lab, "data"),
                noise=name.partition("_")[0],
                severity=severity,
                metric="mean_absolute_noise",
            )
            | {"num_images": count}
        )
    save_arrays(lab.store.workdir / f"{figure}.npz", arrays)
    return rows


def noise_patterns(figure: str, store: Store) -> list[Part]:
    """Figures 1 and 2: patterns of noises and attacks, or the images they are of."""
    for name in set(_PATTERNS) - set(TEST_ATTACKS):
        store.entry(name)  # Raises if it is left out.
    return [
        Part(
            "all",
            tuple(store.classifier_keys("data", first=True)),
            functools.partial(_patterns_part, figure),
        )
    ]


def _severities_part(lab: Laboratory) -> list[TidyRow]:
    judge = lab.judge("data")
    count = min(_SHOWN, len(judge))
    clean = judge.pictures(CLEAN_ENTRY, count)
    arrays, rows = {"clean": clean}, []
    for entry in lab.store.entries:
        images = judge.pictures(entry, count)
        arrays[entry_name(entry)] = images
        rows.append(
            lab.row(
                judge,
                float(np.mean(psnr(images, clean))),
                dataset=dataset_title(lab, "data"),
                noise=entry.noise,
                severity=entry.severity,
                metric="psnr",
            )
            | {"num_images": count}
        )
    save_arrays(lab.store.workdir / "figure4.npz", arrays)
    return rows


def noise_severities(store: Store) -> list[Part]:
    """Figure 4: every noise at every severity."""
    del store
    return [Part("all", (), _severities_part)]


def _attention_part(lab: Laboratory) -> list[TidyRow]:
    """Grad-CAM of the first classifier on clean, noisy and purified images."""
    judge, entry = lab.judge("data"), lab.store.entry(_LOOKED_AT)
    classifier = lab.classifier("data", next(iter(lab.store.classifiers("data"))))
    remover = lab.model("data", "remover", _LOOKED_AT)
    count = min(_SHOWN, len(judge))
    labels = jnp.asarray(lab.store.first("data", "test", count).arrays()[1])
    arrays, rows = {}, []
    for name, images in (
        ("clean", judge.pictures(CLEAN_ENTRY, count)),
        ("noisy", judge.pictures(entry, count)),
        ("purified", lab.purified(judge, remover, entry)[:count]),
    ):
        arrays[name] = images
        maps = grad_cam(
            classifier.module, classifier.variables, jnp.asarray(arrays[name]), labels
        )
        arrays[f"{name}_map"] = np.asarray(maps)
        moved = np.abs(arrays[f"{name}_map"] - arrays["clean_map"])
        row = lab.row(
            judge,
            float(moved.mean()),
            dataset=dataset_title(lab, "data"),
            noise=entry.noise,
            severity=entry.severity,
            images=name,
            metric="mean_absolute_change_of_the_map",
        )
        rows.append(row | {"num_images": count})
    save_arrays(lab.store.workdir / "figure5.npz", arrays)
    return rows


def looked_at(store: Store) -> list[Part]:
    """Figure 5: where a classifier looks on clean, noisy and purified images."""
    store.entry(_LOOKED_AT)  # Raises if it is left out.
    models = (
        ModelKey("data", "remover", _LOOKED_AT),
        *store.classifier_keys("data", first=True),
    )
    return [Part("all", models, _attention_part)]
