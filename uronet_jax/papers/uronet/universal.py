"""The universal models: on what they learned, on what they never saw, and trials."""

import functools
from collections.abc import Callable, Iterable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from uronet_jax.corruptions import CORRUPTIONS, SUITES
from uronet_jax.evaluation.judge import (
    CLEAN_ENTRY,
    CorruptionEntry,
    Entry,
    FunctionEntry,
    detection_metrics,
)
from uronet_jax.papers.laboratory import (
    Laboratory,
    TidyRow,
)
from uronet_jax.papers.store import Store
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
# Faulty sensors: what they do, at severities 1 to 5 as in the suite `sensor`; in float,
# not truncated to 8 bits, and of the same random numbers as the noises.
_FAULTS = {name: CORRUPTIONS[name] for name in SUITES["sensor"]}


@functools.cache  # One object for each, so that programs are shared.
def _fault(name: str) -> Callable[..., jax.Array]:
    apply = _FAULTS[name].apply
    return lambda key, images, level, index: jnp.clip(
        apply(key, images, level, None, index), 0.0, 1.0
    )


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
        self._mirror = lab.store.config["universal"]["mirror"]

    def false_alarms(self, role: str) -> TidyRow:
        """Returns how many clean images of a data set are called degraded."""
        clean = self._probabilities(role, CLEAN_ENTRY)
        value = 100.0 * float((clean > 0.5).mean())
        return self._row(role, CLEAN, value, "detection", "false_alarm_rate")

    def detection(self, tests: Iterable[tuple[TidyRow, Entry]]) -> Iterator[TidyRow]:
        """Yields the detection accuracy on degraded and as many clean images."""
        clean = self._probabilities("data", CLEAN_ENTRY)
        for columns, entry in tests:
            found = detection_metrics(clean, self._probabilities("data", entry))
            value = 100.0 * found["detection_accuracy"]
            yield self._row("data", columns, value, "detection", "detection_accuracy")

    def accuracy(self, tests: Iterable[tuple[TidyRow, Entry]]) -> Iterator[TidyRow]:
        """Yields the accuracy of every classifier, alone and behind the remover."""
        judge, classifiers = self._lab.judge("data"), self._lab.classifiers("data")
        for columns, entry in tests:
            bare = self._lab.accuracies(judge, classifiers, entry)
            behind = self._lab.accuracies(
                judge, classifiers, entry, self._remover, mirror=self._mirror
            )
            for title in classifiers:
                for condition, found in (("noisy", bare), ("mitigated", behind)):
                    row = self._row(
                        "data", columns, found[title], condition, "accuracy"
                    )
                    yield row | {"classifier": title}

    def _probabilities(self, role: str, entry: Entry) -> np.ndarray:
        judge = self._lab.judge(role)
        return self._lab.probabilities(judge, self._remover, self._detector, entry)

    def _row(
        self, role: str, columns: TidyRow, value: float, condition: str, metric: str
    ) -> TidyRow:
        return self._lab.row(
            self._lab.judge(role),
            value,
            dataset=dataset_title(self._lab, role),
            model=self._lab.store.config["universal"]["variant"],
            **columns,
            classifier=None,
            condition=condition,
            metric=metric,
        )


def _degradations_part(lab: Laboratory) -> list[TidyRow]:
    universal = _Universal(lab)
    tests = list(noise_tests(lab.store.entries))
    return [
        universal.false_alarms("data"),
        *universal.detection(tests),
        *universal.accuracy([(CLEAN, CLEAN_ENTRY), *tests]),
    ]


def _universal_models(store: Store, of: str = "universal") -> tuple[ModelKey, ...]:
    pair = defence_models("data", f"detector_{of}", "all", f"remover_{of}")
    return (*pair, *store.classifier_keys("data"))


def degradations(store: Store) -> list[Part]:
    """The models of all noises, on these noises."""
    return [Part("all", _universal_models(store), _degradations_part)]


def _corruptions_part(name: str, lab: Laboratory) -> list[TidyRow]:
    universal = _Universal(lab, "corruptions")
    if not name:
        clean = [(CLEAN, CLEAN_ENTRY)]
        return [universal.false_alarms("data"), *universal.accuracy(clean)]
    settings = lab.store.config["universal_corruptions"]
    tests = [
        (
            {"test_noise": name, "test_severity": severity},
            CorruptionEntry(name, severity, settings["suite"]),
        )
        for severity in settings["tested_severities"]
    ]
    return [*universal.detection(tests), *universal.accuracy(tests)]


def corruptions(store: Store) -> list[Part]:
    """The models of a suite's corruptions, on these corruptions."""
    models = _universal_models(store, "corruptions")
    return [
        Part(name or "clean", models, functools.partial(_corruptions_part, name))
        for name in ("", *store.config["universal_corruptions"]["names"])
    ]


def _trial_part(
    trial: str, lab: Laboratory, *, variant: str = "", mirror: bool = False
) -> list[TidyRow]:
    """Accuracy behind one of the removers that are compared, on every degradation.

    On validation images: what is chosen by them is measured on others afterwards. A
    classifier that comes from elsewhere may have learned on them; its accuracy without
    a remover, `trial` empty, tells.
    """
    judge = lab.judge("data", part="validation")
    remover = lab.model("data", f"remover_trial_{trial}", "all") if trial else None
    tests = [(CLEAN, CLEAN_ENTRY), *noise_tests(lab.store.entries)]
    classifiers = lab.classifiers("data")
    found = [
        (columns, lab.accuracies(judge, classifiers, entry, remover, mirror=mirror))
        for columns, entry in tests
    ]
    mean = {"test_noise": "mean over degradations", "test_severity": 0}
    noisy = [values for columns, values in found if columns is not CLEAN]
    found.append(
        (mean, {x: float(np.mean([v[x] for v in noisy])) for x in classifiers})
    )
    return [
        lab.row(
            judge,
            values[title],
            dataset=dataset_title(lab, "data"),
            variant=variant or trial,
            classifier=title,
            **columns,
            metric="accuracy",
        )
        for title in classifiers
        for columns, values in found
    ]


def trials(store: Store) -> list[Part]:
    """Short trainings of removers of all noises, compared on validation images."""
    classifiers = tuple(store.classifier_keys("data"))

    def part(trial, variant="", **fields):
        removers = [ModelKey("data", f"remover_trial_{trial}", "all")] if trial else []
        rows = functools.partial(_trial_part, trial, variant=variant, **fields)
        return Part(variant or trial, (*classifiers, *removers), rows)

    return [
        part("", "undefended"),
        *map(part, universal_trials(store.config)),
        # The same weights as others, shown every image twice.
        *(
            part(trial, f"{trial}, self-ensemble", mirror=True)
            for trial in universal_trials(store.config)
            if trial in _ENSEMBLED
        ),
    ]


def _unseen_part(name: str, lab: Laboratory) -> list[TidyRow]:
    universal, tests = _Universal(lab), []
    for severity in lab.store.config["zero_shot"]["severities"]:
        entry: Entry = CorruptionEntry(name, severity, _UNSEEN_SUITE)
        if name in _FAULTS:
            (level,) = SUITES["sensor"][name].settings[severity - 1].values()
            entry = FunctionEntry(name, severity, _fault(name), level)
        tests.append(({"test_noise": name, "test_severity": severity}, entry))
    return [*universal.detection(tests), *universal.accuracy(tests)]


def _false_alarms_part(lab: Laboratory) -> list[TidyRow]:
    universal = _Universal(lab)
    return [universal.false_alarms(role) for role in ("data", "second")]


def zero_shot(store: Store) -> list[Part]:
    """The models of all noises, on what they never saw."""
    models = _universal_models(store)
    parts = [
        Part(name, models, functools.partial(_unseen_part, name))
        for name in (*_UNSEEN, *_FAULTS)
    ]
    return [*parts, Part("false alarms", models, _false_alarms_part, "second")]
