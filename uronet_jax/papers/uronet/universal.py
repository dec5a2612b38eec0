"""The universal models: on what they learned, on what they never saw, and trials."""

import functools
import itertools
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np

from uronet_jax.corruptions import CORRUPTIONS, SUITES
from uronet_jax.evaluation.judge import (
    CLEAN_ENTRY,
    CorruptionEntry,
    Entry,
    FunctionEntry,
)
from uronet_jax.papers.kinds import ModelKey
from uronet_jax.papers.laboratory import Laboratory, TidyRow
from uronet_jax.papers.parts import (
    Part,
    accuracy_rows,
    detection_rows,
    noise_tests,
    tested_on,
)
from uronet_jax.papers.store import Store
from uronet_jax.papers.uronet.kinds import universal_trials

# What the universal models never saw: corruptions of this suite.
_UNSEEN_SUITE = "cifar_c"
_UNSEEN = ("defocus_blur", "gaussian_blur", "jpeg_compression", "fog", "contrast")
# Faulty sensors: what they do, at severities 1 to 5 as in the suite `sensor`; in float,
# not truncated to 8 bits, and of the same random numbers as the noises.
_FAULTS = {name: CORRUPTIONS[name] for name in SUITES["sensor"]}
# Trials that are shown mirror images too: where they start from, where they lead.
_ENSEMBLED = ("skip", "combined")


@functools.cache  # One object for each, so that programs are shared.
def _fault(name: str) -> Callable[..., jax.Array]:
    apply = _FAULTS[name].apply
    return lambda key, images, level, index: jnp.clip(
        apply(key, images, level, None, index), 0.0, 1.0
    )


def _false_alarms(lab: Laboratory, role: str, of: str) -> TidyRow:
    """Returns how many clean images of a data set are called degraded."""
    judge = lab.judge(role)
    models = (lab.model("data", f"{x}_{of}", "all") for x in ("remover", "detector"))
    alarms = lab.probabilities(judge, *models) > 0.5
    return lab.row(
        judge,
        100.0 * float(alarms.mean()),
        "false_alarm_rate",
        dataset=lab.store.dataset(role),
        model=lab.store.config["universal"]["variant"],
        classifier=None,
        condition="detection",
        **tested_on(CLEAN_ENTRY),
    )


def _rows(
    lab: Laboratory, entries: Iterable[Entry], of: str, *, clean: bool = False
) -> list[TidyRow]:
    """Returns detection, and accuracies alone and behind the remover.

    The models are those `of="universal"`, of all noises, or `of="corruptions"`.
    `clean` adds false alarms and accuracies on clean images.
    """
    settings, judge = lab.store.config["universal"], lab.judge("data")
    columns = {"dataset": lab.store.dataset("data"), "model": settings["variant"]}
    rows = [_false_alarms(lab, "data", of)] if clean else []
    rows += detection_rows(
        lab,
        judge,
        ModelKey("data", f"detector_{of}", "all"),
        noise_tests(entries),
        further=(),
        classifier=None,
        condition="detection",
        **columns,
    )
    remover = lab.model("data", f"remover_{of}", "all")
    for entry in (CLEAN_ENTRY, *entries) if clean else entries:
        rows += accuracy_rows(
            lab,
            judge,
            lab.classifiers("data"),
            [
                ({"condition": "noisy"}, entry, None),
                ({"condition": "mitigated"}, entry, remover),
            ],
            mirror=settings["mirror"],
            **columns,
            **tested_on(entry),
        )
    return rows


def _models(store: Store, of: str) -> tuple[ModelKey, ...]:
    detector = ModelKey("data", f"detector_{of}", "all")
    return (detector, *store.classifier_keys("data"))


def degradations(store: Store) -> list[Part]:
    """The models of all noises, on these noises."""

    def rows(lab):
        return _rows(lab, store.entries, "universal", clean=True)

    return [Part("all", _models(store, "universal"), rows)]


def corruptions(store: Store) -> list[Part]:
    """The models of a suite's corruptions, on these corruptions."""
    settings = store.config["universal_corruptions"]

    def part(name):
        entries = [
            CorruptionEntry(name, severity, settings["suite"])
            for severity in settings["tested_severities"]
            if name
        ]

        def rows(lab):
            return _rows(lab, entries, "corruptions", clean=not name)

        return Part(name or "clean", _models(store, "corruptions"), rows)

    return [part(name) for name in ("", *settings["names"])]


def trials(store: Store) -> list[Part]:
    """Short trainings of removers of all noises, compared on validation images.

    What is chosen by them is measured on others afterwards. A classifier that comes
    from elsewhere may have learned on them; its accuracy without a remover tells.
    """

    def part(trial, variant="", mirror=False):
        keys = [ModelKey("data", f"remover_trial_{trial}", "all")] if trial else []

        def rows(lab):
            remover = lab.model(*keys[0]) if trial else None
            measured = accuracy_rows(
                lab,
                lab.judge("data", part="validation"),
                lab.classifiers("data"),
                [(tested_on(e), e, remover) for e in (CLEAN_ENTRY, *store.entries)],
                mirror=mirror,
                dataset=store.dataset("data"),
                variant=variant or trial,
            )
            found = []
            for _, group in itertools.groupby(measured, lambda row: row["classifier"]):
                clean, *noisy = group
                mean = float(np.mean([row["value"] for row in noisy]))
                of_all = {"test_noise": "mean over degradations", "value": mean}
                found += [clean, *noisy, clean | of_all]
            return found

        return Part(variant or trial, (*store.classifier_keys("data"), *keys), rows)

    names = universal_trials(store.config)
    # The same weights as others, shown every image twice.
    ensembled = [x for x in names if x in _ENSEMBLED]
    return [
        part("", "undefended"),
        *map(part, names),
        *(part(x, f"{x}, self-ensemble", mirror=True) for x in ensembled),
    ]


def zero_shot(store: Store) -> list[Part]:
    """The models of all noises, on what they never saw."""
    models = _models(store, "universal")

    def entry(name, severity) -> Entry:
        if name not in _FAULTS:
            return CorruptionEntry(name, severity, _UNSEEN_SUITE)
        (level,) = SUITES["sensor"][name].settings[severity - 1].values()
        return FunctionEntry(name, severity, _fault(name), level)

    def part(name):
        severities = store.config["zero_shot"]["severities"]
        entries = [entry(name, severity) for severity in severities]
        return Part(name, models, lambda lab: _rows(lab, entries, "universal"))

    def false_alarms(lab):
        return [_false_alarms(lab, role, "universal") for role in ("data", "second")]

    return [
        *map(part, (*_UNSEEN, *_FAULTS)),
        Part("false alarms", models, false_alarms, "second"),
    ]
