"""Figures 1, 2, 4 and 5: arrays of images, and a number that goes with each."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from uronet_jax.evaluation import metrics
from uronet_jax.evaluation.grad_cam import grad_cam
from uronet_jax.papers.laboratory import Images, Laboratory, Row
from uronet_jax.papers.made_images import save_arrays
from uronet_jax.papers.store import Zoo
from uronet_jax.papers.uronet.kinds import ModelKey, entry_name
from uronet_jax.papers.uronet.parts import TEST_ATTACKS, Part, dataset_title

# How many images are shown.
_SHOWN = 5
# Figures 1 and 2: what they show, and how much patterns are amplified.
_PATTERNS = ("GN_1", "UN_3", "IFGSM", "PGD")
_AMPLIFICATION = 10.0
# Figure 5: a noise, and what is seen of it.
_LOOKED_AT = "GN_1"


def _host(images: Images, count: int) -> np.ndarray:
    return np.concatenate(jax.device_get(list(images)))[:count]


def _patterns_part(figure: str, lab: Laboratory) -> list[Row]:
    examples = lab.examples("data", attacked=True)
    count = min(_SHOWN, len(examples))
    clean = _host(examples.clean(), count)
    arrays, rows = {"clean": clean}, []
    for number, name in enumerate(_PATTERNS):
        if name in TEST_ATTACKS:
            images, severity = lab.attacked("data", TEST_ATTACKS[name]), None
        else:
            entry = lab.zoo.entry(name)
            # Of the same draw, patterns of two noises would look the same.
            images, severity = examples.degraded(entry, draw=number), entry.severity
        images = _host(images, count)
        noise = images - clean
        arrays[name] = images
        if figure == "figure1":
            arrays[name] = np.clip(0.5 + _AMPLIFICATION * noise / 2, 0.0, 1.0)
        rows.append(
            lab.row(
                examples,
                float(np.abs(noise).mean()),
                dataset=dataset_title(lab, "data"),
                noise=name.partition("_")[0],
                severity=severity,
                metric="mean_absolute_noise",
            )
            | {"num_images": count}
        )
    save_arrays(lab.zoo.workdir / f"{figure}.npz", arrays)
    return rows


def patterns(figure: str, zoo: Zoo) -> list[Part]:
    """Figures 1 and 2: patterns of noises and attacks, or the images they are of."""
    for name in set(_PATTERNS) - set(TEST_ATTACKS):
        zoo.entry(name)  # Raises if it is left out.
    return [
        Part(
            "all",
            tuple(zoo.classifier_keys("data", first=True)),
            functools.partial(_patterns_part, figure),
        )
    ]


def _severities_part(lab: Laboratory) -> list[Row]:
    examples = lab.examples("data")
    count = min(_SHOWN, len(examples))
    clean = _host(examples.clean(), count)
    arrays, rows = {"clean": clean}, []
    for entry in lab.zoo.entries:
        images = _host(examples.degraded(entry), count)
        arrays[entry_name(entry)] = images
        rows.append(
            lab.row(
                examples,
                float(np.mean(metrics.psnr(images, clean))),
                dataset=dataset_title(lab, "data"),
                noise=entry.noise,
                severity=entry.severity,
                metric="psnr",
            )
            | {"num_images": count}
        )
    save_arrays(lab.zoo.workdir / "figure4.npz", arrays)
    return rows


def severities(zoo: Zoo) -> list[Part]:
    """Figure 4: every noise at every severity."""
    del zoo
    return [Part("all", (), _severities_part)]


def _attention_part(lab: Laboratory) -> list[Row]:
    """Grad-CAM of the first classifier on clean, noisy and purified images."""
    examples, entry = lab.examples("data"), lab.zoo.entry(_LOOKED_AT)
    classifier = lab.classifier("data", next(iter(lab.zoo.classifiers("data"))))
    noisy = examples.degraded(entry)
    purified = lab.purify(lab.model("data", "remover", _LOOKED_AT), noisy)
    count = min(_SHOWN, len(examples))
    labels = jnp.asarray(np.concatenate(jax.device_get(examples.labels))[:count])
    arrays, rows = {}, []
    for name, images in (
        ("clean", examples.clean()),
        ("noisy", noisy),
        ("purified", purified),
    ):
        arrays[name] = _host(images, count)
        maps = grad_cam(
            classifier.module, classifier.variables, jnp.asarray(arrays[name]), labels
        )
        arrays[f"{name}_map"] = np.asarray(maps)
        moved = np.abs(arrays[f"{name}_map"] - arrays["clean_map"])
        row = lab.row(
            examples,
            float(moved.mean()),
            dataset=dataset_title(lab, "data"),
            noise=entry.noise,
            severity=entry.severity,
            images=name,
            metric="mean_absolute_change_of_the_map",
        )
        rows.append(row | {"num_images": count})
    save_arrays(lab.zoo.workdir / "figure5.npz", arrays)
    return rows


def attention(zoo: Zoo) -> list[Part]:
    """Figure 5: where a classifier looks on clean, noisy and purified images."""
    zoo.entry(_LOOKED_AT)  # Raises if it is left out.
    models = (
        ModelKey("data", "remover", _LOOKED_AT),
        *zoo.classifier_keys("data", first=True),
    )
    return [Part("all", models, _attention_part)]
