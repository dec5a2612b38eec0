"""The universal models: on what they learned, on what they never saw, and trials."""

import functools
from collections.abc import Iterable, Iterator

import numpy as np

from uronet_jax.evaluation.protocols import detection_metrics
from uronet_jax.papers.laboratory import (
    Examples,
    Images,
    Laboratory,
    Row,
    banding,
    dead_columns,
)
from uronet_jax.papers.store import Zoo
from uronet_jax.papers.uronet.kinds import ModelKey, universal_trials
from uronet_jax.papers.uronet.parts import (
    CLEAN,
    Part,
    dataset_title,
    defence_models,
    noise_tests,
)

# What the universal models never saw: corruptions of this suite.
_UNSEEN_SUITE = "cifar_c"
_UNSEEN = ("defocus_blur", "gaussian_blur", "jpeg_compression", "fog", "contrast")
# Faulty sensors: what they do, at severities 1 to 5.
_FAULTS = {
    "banding": (banding, (0.02, 0.04, 0.06, 0.09, 0.12)),
    "dead_columns": (dead_columns, (1, 2, 3, 4, 6)),
}


# Trials that are shown mirror images too: where they start from, where they lead.
_ENSEMBLED = ("skip", "combined")


class _Universal:
    """The universal models of the first data set, and the rows they make.

    Those of the noises, or with `of="corruptions"` those of a suite.
    """

    def __init__(self, lab: Laboratory, of: str = "universal"):
        self._lab = lab
        self._remover = lab.model("data", f"remover_{of}", "all")
        self._detector = lab.model("data", f"detector_{of}", "all")
        self._mirror = lab.zoo.config["universal"]["mirror"]

    def false_alarms(self, role: str) -> Row:
        """Returns how many clean images of a data set are called degraded."""
        examples = self._lab.examples(role)
        clean = self._probabilities(examples, examples.clean())
        value = 100.0 * float((clean > 0.5).mean())
        return self._row(role, CLEAN, value, "detection", "false_alarm_rate")

    def detection(self, tests: Iterable[tuple[Row, Images]]) -> Iterator[Row]:
        """Yields the detection accuracy on degraded and as many clean images."""
        examples = self._lab.examples("data")
        clean = self._probabilities(examples, examples.clean())
        for columns, images in tests:
            found = detection_metrics(clean, self._probabilities(examples, images))
            value = 100.0 * found["detection_accuracy"]
            yield self._row("data", columns, value, "detection", "detection_accuracy")

    def accuracy(self, tests: Iterable[tuple[Row, Images]]) -> Iterator[Row]:
        """Yields the accuracy of every classifier, alone and behind the remover."""
        examples = self._lab.examples("data")
        for columns, images in tests:
            purified = self._lab.purify(self._remover, images, mirror=self._mirror)
            for title in self._lab.zoo.classifiers("data"):
                classifier = self._lab.classifier("data", title)
                for condition, shown in (("noisy", images), ("mitigated", purified)):
                    value = self._lab.accuracy(classifier, examples, shown)
                    row = self._row("data", columns, value, condition, "accuracy")
                    yield row | {"classifier": title}

    def _probabilities(self, examples: Examples, images: Images) -> np.ndarray:
        return self._lab.probabilities(self._remover, self._detector, examples, images)

    def _row(
        self, role: str, columns: Row, value: float, condition: str, metric: str
    ) -> Row:
        return self._lab.row(
            self._lab.examples(role),
            value,
            dataset=dataset_title(self._lab, role),
            model=self._lab.zoo.config["universal"]["variant"],
            **columns,
            classifier=None,
            condition=condition,
            metric=metric,
        )


def _degradations_part(lab: Laboratory) -> list[Row]:
    universal, examples = _Universal(lab), lab.examples("data")
    tests = list(noise_tests(lab, examples, lab.zoo.entries))
    return [
        universal.false_alarms("data"),
        *universal.detection(tests),
        *universal.accuracy([(CLEAN, examples.clean()), *tests]),
    ]


def _universal_models(zoo: Zoo, of: str = "universal") -> tuple[ModelKey, ...]:
    pair = defence_models("data", f"detector_{of}", "all", f"remover_{of}")
    return (*pair, *zoo.classifier_keys("data"))


def degradations(zoo: Zoo) -> list[Part]:
    """The models of all noises, on these noises."""
    return [Part("all", _universal_models(zoo), _degradations_part)]


def _corruptions_part(name: str, lab: Laboratory) -> list[Row]:
    universal, examples = _Universal(lab, "corruptions"), lab.examples("data")
    if not name:
        clean = [(CLEAN, examples.clean())]
        return [universal.false_alarms("data"), *universal.accuracy(clean)]
    settings = lab.zoo.config["universal_corruptions"]
    tests = [
        (
            {"test_noise": name, "test_severity": severity},
            examples.corrupted(settings["suite"], name, severity),
        )
        for severity in settings["tested_severities"]
    ]
    return [*universal.detection(tests), *universal.accuracy(tests)]


def corruptions(zoo: Zoo) -> list[Part]:
    """The models of a suite's corruptions, on these corruptions."""
    models = _universal_models(zoo, "corruptions")
    return [
        Part(name or "clean", models, functools.partial(_corruptions_part, name))
        for name in ("", *zoo.config["universal_corruptions"]["names"])
    ]


def _trial_part(
    trial: str, lab: Laboratory, *, variant: str = "", mirror: bool = False
) -> list[Row]:
    """Accuracy behind one of the removers that are compared, on every degradation.

    On validation images: what is chosen by them is measured on others afterwards. A
    classifier that comes from elsewhere may have learned on them; its accuracy without
    a remover, `trial` empty, tells.
    """
    examples = lab.examples("data", part="validation")
    remover = lab.model("data", f"remover_trial_{trial}", "all") if trial else None
    tests = [(CLEAN, examples.clean())]
    tests += noise_tests(lab, examples, lab.zoo.entries)
    rows = []
    for title in lab.zoo.classifiers("data"):
        classifier, values = lab.classifier("data", title), []

        def add(columns, value, title=title):
            row = lab.row(
                examples,
                value,
                dataset=dataset_title(lab, "data"),
                variant=variant or trial,
                classifier=title,
                **columns,
                metric="accuracy",
            )
            rows.append(row)

        for columns, images in tests:
            pictures = images
            if remover is not None:
                pictures = lab.purify(remover, images, mirror=mirror)
            value = lab.accuracy(classifier, examples, pictures)
            add(columns, value)
            if columns is not CLEAN:
                values.append(value)
        mean = {"test_noise": "mean over degradations", "test_severity": 0}
        add(mean, float(np.mean(values)))
    return rows


def trials(zoo: Zoo) -> list[Part]:
    """Short trainings of removers of all noises, compared on validation images."""
    classifiers = tuple(zoo.classifier_keys("data"))

    def part(trial, variant="", **fields):
        removers = [ModelKey("data", f"remover_trial_{trial}", "all")] if trial else []
        rows = functools.partial(_trial_part, trial, variant=variant, **fields)
        return Part(variant or trial, (*classifiers, *removers), rows)

    return [
        part("", "undefended"),
        *map(part, universal_trials(zoo.config)),
        # The same weights as others, shown every image twice.
        *(
            part(trial, f"{trial}, self-ensemble", mirror=True)
            for trial in universal_trials(zoo.config)
            if trial in _ENSEMBLED
        ),
    ]


def _unseen_part(name: str, lab: Laboratory) -> list[Row]:
    universal, examples = _Universal(lab), lab.examples("data")
    tests = []
    for severity in lab.zoo.config["zero_shot"]["severities"]:
        if name in _FAULTS:
            function, levels = _FAULTS[name]
            images = examples.changed(function, levels[severity - 1])
        else:
            images = examples.corrupted(_UNSEEN_SUITE, name, severity)
        tests.append(({"test_noise": name, "test_severity": severity}, images))
    return [*universal.detection(tests), *universal.accuracy(tests)]


def _false_alarms_part(lab: Laboratory) -> list[Row]:
    universal = _Universal(lab)
    return [universal.false_alarms(role) for role in ("data", "second")]


def zero_shot(zoo: Zoo) -> list[Part]:
    """The models of all noises, on what they never saw."""
    models = _universal_models(zoo)
    parts = [
        Part(name, models, functools.partial(_unseen_part, name))
        for name in (*_UNSEEN, *_FAULTS)
    ]
    return [*parts, Part("false alarms", models, _false_alarms_part, "second")]
