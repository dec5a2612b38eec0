"""The experiments of the URoNet paper by name."""

import functools

from uronet_jax.papers.parts import PaperExperiment, needs_of
from uronet_jax.papers.uronet import (
    ablations,
    detection,
    mitigation,
    pictures,
    universal,
)

# Sections of the config that the usual and the universal models depend on.
_DEFENCE = ("remover", "detector")
_PHOTOGRAPHS = ("remover", "training", "fine_tuning")
_UNIVERSAL = (*_DEFENCE, "universal", "universal_detector", "training")

URONET_EXPERIMENTS: dict[str, PaperExperiment] = {
    "table2": PaperExperiment(
        "detection, 18 detectors on 18 degradations, CIFAR-10",
        needs_of("data", classifier=False),
        functools.partial(detection.detection_of_noises, "data"),
        _DEFENCE,
    ),
    "table3": PaperExperiment(
        "the same on CIFAR-100",
        needs_of("second", classifier=False),
        functools.partial(detection.detection_of_noises, "second"),
        _DEFENCE,
    ),
    "table4": PaperExperiment(
        "detection across data sets",
        {
            "data": ("data.train", "second.test"),
            "second": ("second.train", "data.test"),
        },
        detection.across_data_sets,
        _DEFENCE,
    ),
    "table5": PaperExperiment(
        "detectors trained on noises, on attacked images",
        needs_of("data", "second"),
        detection.detection_of_attacks,
        (*_DEFENCE, "attack", "training"),
    ),
    "table6": PaperExperiment(
        "detectors trained on attacked images, on noises",
        needs_of("data", "second"),
        detection.trained_on_attacks,
        (*_DEFENCE, "attack", "training"),
    ),
    "table7": PaperExperiment(
        "mitigation at equal and unequal severities, CIFAR-10",
        needs_of("data"),
        functools.partial(mitigation.mitigation_of_noises, "data"),
        ("remover", "training"),
    ),
    "table8": PaperExperiment(
        "the same on CIFAR-100",
        needs_of("second"),
        functools.partial(mitigation.mitigation_of_noises, "second"),
        ("remover", "training"),
    ),
    "table9": PaperExperiment(
        "mitigation at severities that no remover saw, Tiny ImageNet",
        needs_of("tiny"),
        functools.partial(mitigation.mitigation_of_unseen_severities, "tiny"),
        _PHOTOGRAPHS,
    ),
    "table10": PaperExperiment(
        "the same on ImageNette",
        needs_of("imagenette"),
        functools.partial(mitigation.mitigation_of_unseen_severities, "imagenette"),
        _PHOTOGRAPHS,
    ),
    "table11": PaperExperiment(
        "robust accuracy behind the SPN remover",
        needs_of("data", "second"),
        mitigation.mitigation_of_attacks,
        ("remover", "attack", "training"),
    ),
    "table12": PaperExperiment(
        "raw, DCAE and URoNet, CIFAR-10",
        needs_of("data"),
        mitigation.denoisers,
        ("remover", "training"),
    ),
    "figure1": PaperExperiment(
        "noise patterns, amplified ten times",
        needs_of("data"),
        functools.partial(pictures.noise_patterns, "figure1"),
        ("attack", "training"),
    ),
    "figure2": PaperExperiment(
        "the images of these patterns",
        needs_of("data"),
        functools.partial(pictures.noise_patterns, "figure2"),
        ("attack", "training"),
    ),
    "figure4": PaperExperiment(
        "every noise at every severity",
        {"data": ("data.test",)},
        pictures.noise_severities,
    ),
    "figure5": PaperExperiment(
        "where the classifier looks (Grad-CAM): clean, noisy and purified images",
        needs_of("data"),
        functools.partial(pictures.looked_at, "figure5", "data"),
        ("remover", "training"),
    ),
    "figure5_photographs": PaperExperiment(
        "the same on ImageNette",
        {"data": needs_of("imagenette")["imagenette"]},
        functools.partial(pictures.looked_at, "figure5_photographs", "imagenette"),
        _PHOTOGRAPHS,
    ),
    "figure6": PaperExperiment(
        "mitigation of attacks, own and transferred",
        needs_of("data"),
        mitigation.gains,
        ("remover", "attack", "training"),
    ),
    "resolutions": PaperExperiment(
        "removers of smaller images in front of classifiers of photographs",
        {"data": ("tiny.train", *needs_of("imagenette")["imagenette"])},
        mitigation.other_resolutions,
        (*_PHOTOGRAPHS, "resolutions"),
        mitigation.universal_remover,
    ),
    "ablations": PaperExperiment(
        "section 3.3: another detector, no noise pattern, DCAE, grey images",
        needs_of("data", "grey"),
        ablations.ablations,
        (*_DEFENCE, "training", "ablations"),
    ),
    "universal": PaperExperiment(
        "one remover and one detector for all 18 degradations",
        needs_of("data"),
        universal.degradations,
        _UNIVERSAL,
    ),
    "universal_corruptions": PaperExperiment(
        "one remover and one detector for all corruptions of a suite",
        needs_of("data"),
        universal.corruptions,
        (*_UNIVERSAL, "universal_corruptions"),
    ),
    "universal_trials": PaperExperiment(
        "short trainings that led to the universal remover",
        needs_of("data"),
        universal.trials,
        ("universal_trials", "remover", "training"),
    ),
    "zero_shot": PaperExperiment(
        "the universal models on what they never saw",
        {
            "data": ("data.train", "data.test", "data.classifier"),
            "second": ("data.train", "data.test", "data.classifier", "second.test"),
        },
        universal.zero_shot,
        (*_UNIVERSAL, "zero_shot"),
    ),
}
