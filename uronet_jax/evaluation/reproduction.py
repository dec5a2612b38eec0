"""The experiments of the paper, as parts that return tidy rows.

An experiment is a list of parts; a part names the models it needs and returns rows when
they are trained. A row is one number, in percent unless its metric says otherwise,
under the column names of the published table.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from uronet_jax.corruptions import SuiteEntry
from uronet_jax.evaluation import metrics
from uronet_jax.evaluation.grad_cam import grad_cam
from uronet_jax.evaluation.laboratory import (
    Examples,
    Images,
    Laboratory,
    Placed,
    Row,
    banding,
    dead_columns,
)
from uronet_jax.evaluation.protocols import detection_metrics
from uronet_jax.evaluation.zoo import (
    ModelKey,
    Zoo,
    entry_name,
    save_arrays,
    universal_trials,
)

# Published label of a training attack -> the attack, by data set.
_TRAIN_ATTACKS = {
    "data": {"FGSM40": "IFGSM-40", "PGD40": "PGD0-40"},
    "second": {"IFGSM40": "IFGSM-40", "PGD20": "PGD0-20"},
}
_TEST_ATTACKS = {"IFGSM": "IFGSM", "PGD": "PGD0"}
# Severity of Table 12's rows, from their equality with Table 7.
_TABLE12_SEVERITY = {"UN": 3}
_METHODS = {
    "dcae": "DCAE (single-output denoising autoencoder)",
    "remover": "URoNet",
}
# What the universal models never saw: corruptions of this suite.
_UNSEEN_SUITE = "cifar_c"
_UNSEEN = ("defocus_blur", "gaussian_blur", "jpeg_compression", "fog", "contrast")
_CLEAN: Row = {"test_noise": "clean", "test_severity": 0}
# Figures 1 and 2: what they show, and how much patterns are amplified.
_PATTERNS = ("GN_1", "UN_3", "IFGSM", "PGD")
_PATTERN_IMAGES = 5
_AMPLIFICATION = 10.0


class Part(NamedTuple):
    """A piece of an experiment that is computed, and kept, as a whole.

    Attributes:
        key: Its name within the experiment.
        models: What must be trained before.
        rows: Computes it.
        group: Which of the experiment's needs it has.
    """

    key: str
    models: tuple[ModelKey, ...]
    rows: Callable[[Laboratory], list[Row]]
    group: str = "data"


class Experiment(NamedTuple):
    """What can be asked for by name.

    Attributes:
        summary: One line for people.
        needs: Group of parts -> what they need, such as `data.train` (images) or
            `data.classifier`. Groups whose needs are not met are left out; without
            any group the experiment cannot run.
        parts: Lists them. Nothing is computed.
        settings: Fields and sections of the config that its numbers depend on, besides
            those of `COMMON_SETTINGS` and of the data sets of its needs.
    """

    summary: str
    needs: Mapping[str, tuple[str, ...]]
    parts: Callable[[Zoo], list[Part]]
    settings: tuple[str, ...] = ()

    def depends_on(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the part of a config that the numbers depend on."""
        roles = {need.partition(".")[0] for x in self.needs.values() for need in x}
        names = {*COMMON_SETTINGS, *roles, *self.settings}
        return {name: config[name] for name in names if name in config}


# Of every experiment.
COMMON_SETTINGS = (
    "preset",
    "seed",
    "dtype",
    "augmentation",
    "suite",
    "evaluation",
    "optimizer",
)


# What parts share.


def _title(lab: Laboratory, role: str) -> str:
    return lab.zoo.config[role]["title"]


def _detect(
    lab: Laboratory,
    examples: Examples,
    remover: Placed,
    detector: Placed,
    tests: Iterable[tuple[Row, Images]],
    *,
    auroc: bool = True,
) -> Iterator[Row]:
    """Yields the detection accuracy on as many clean as degraded images."""
    clean = lab.probabilities(remover, detector, examples, examples.clean())
    for columns, images in tests:
        degraded = lab.probabilities(remover, detector, examples, images)
        found = detection_metrics(clean, degraded)
        row = lab.row(
            examples,
            100.0 * found["detection_accuracy"],
            **columns,
            metric="detection_accuracy",
        )
        further = ("auroc", "tpr_at_5_percent_fpr") if auroc else ()
        yield row | {name: found[name] for name in further}


def _noise_tests(
    lab: Laboratory, examples: Examples, entries: Sequence[SuiteEntry]
) -> Iterator[tuple[Row, Images]]:
    for entry in entries:
        columns = {"test_noise": entry.noise, "test_severity": entry.severity}
        yield columns, examples.degraded(entry)


def _defence(role: str, kind: str, name: str, remover: str = "remover"):
    return (ModelKey(role, remover, name), ModelKey(role, kind, name))


# Tables 2 and 3.


def _detection_part(role: str, entry: SuiteEntry, lab: Laboratory) -> list[Row]:
    examples, name = lab.examples(role), entry_name(entry)
    rows = _detect(
        lab,
        examples,
        lab.model(role, "remover", name),
        lab.model(role, "detector", name),
        _noise_tests(lab, examples, lab.zoo.entries),
    )
    base = {
        "dataset": _title(lab, role),
        "train_noise": entry.noise,
        "train_severity": entry.severity,
    }
    return [base | row for row in rows]


def _detection(role: str, zoo: Zoo) -> list[Part]:
    return [
        Part(
            entry_name(entry),
            _defence(role, "detector", entry_name(entry)),
            functools.partial(_detection_part, role, entry),
            role,
        )
        for entry in zoo.entries
    ]


# Table 4.


def _cross_part(role: str, other: str, entry: SuiteEntry, lab: Laboratory) -> list[Row]:
    examples, name = lab.examples(other), entry_name(entry)
    mildest = [e for e in lab.zoo.entries if e.severity == 1]
    rows = _detect(
        lab,
        examples,
        lab.model(role, "remover", name),
        lab.model(role, "detector", name),
        _noise_tests(lab, examples, mildest),
    )
    base = {
        "train_dataset": _title(lab, role),
        "test_dataset": _title(lab, other),
        "train_noise": entry.noise,
        "train_severity": entry.severity,
    }
    return [base | row for row in rows]


def _cross(zoo: Zoo) -> list[Part]:
    return [
        Part(
            f"{role} to {other} {entry_name(entry)}",
            _defence(role, "detector", entry_name(entry)),
            functools.partial(_cross_part, role, other, entry),
            role,
        )
        for role, other in (("data", "second"), ("second", "data"))
        for entry in zoo.entries
        if entry.severity == 1
    ]


# Tables 5 and 6.


def _find_attacks_part(role: str, entry: SuiteEntry, lab: Laboratory) -> list[Row]:
    examples, name = lab.examples(role, attacked=True), entry_name(entry)
    tests = [
        ({"test_attack": label}, lab.attacked(role, attack))
        for label, attack in _TEST_ATTACKS.items()
    ]
    rows = _detect(
        lab,
        examples,
        lab.model(role, "remover", name),
        lab.model(role, "detector", name),
        tests,
    )
    base = {
        "dataset": _title(lab, role),
        "train_noise": entry.noise,
        "train_severity": entry.severity,
    }
    steps = lab.zoo.config["attack"]["steps"]
    return [base | row | {"steps": steps} for row in rows]


def _find_attacks(zoo: Zoo) -> list[Part]:
    return [
        Part(
            f"{role} {entry_name(entry)}",
            (
                *_defence(role, "detector", entry_name(entry)),
                *zoo.classifier_keys(role, first=True),
            ),
            functools.partial(_find_attacks_part, role, entry),
            role,
        )
        for role in ("data", "second")
        for entry in zoo.entries
    ]


def _attack_trained_part(
    role: str, label: str, attack: str, lab: Laboratory
) -> list[Row]:
    examples = lab.examples(role)
    rows = _detect(
        lab,
        examples,
        lab.model(role, "remover_attack", attack),
        lab.model(role, "detector_attack", attack),
        _noise_tests(lab, examples, lab.zoo.entries),
    )
    base = {"dataset": _title(lab, role), "train_attack": label}
    _, steps = lab.zoo.attack_steps(attack)
    return [base | row | {"steps": steps} for row in rows]


def _attack_trained(zoo: Zoo) -> list[Part]:
    return [
        Part(
            f"{role} {label}",
            (
                *zoo.classifier_keys(role, first=True),
                *_defence(role, "detector_attack", attack, "remover_attack"),
            ),
            functools.partial(_attack_trained_part, role, label, attack),
            role,
        )
        for role in ("data", "second")
        for label, attack in _TRAIN_ATTACKS[role].items()
    ]


# Tables 7 and 8.


def _undefended_part(role: str, title: str, lab: Laboratory) -> list[Row]:
    examples, classifier = lab.examples(role), lab.classifier(role, title)
    tests = [("clean", None, None, examples.clean())]
    tests += [
        ("noisy", entry.noise, entry.severity, examples.degraded(entry))
        for entry in lab.zoo.entries
    ]
    return [
        lab.row(
            examples,
            lab.accuracy(classifier, examples, images),
            dataset=_title(lab, role),
            classifier=title,
            condition=condition,
            noise=noise,
            test_severity=severity,
            remover_train_severity=None,
            metric="accuracy",
        )
        for condition, noise, severity, images in tests
    ]


def _mitigation_part(role: str, entry: SuiteEntry, lab: Laboratory) -> list[Row]:
    examples = lab.examples(role)
    remover = lab.model(role, "remover", entry_name(entry))
    rows = []
    for test in lab.zoo.entries:
        if test.noise != entry.noise:
            continue
        pictures = lab.purify(remover, examples.degraded(test))
        for title in lab.zoo.classifiers(role):
            value = lab.accuracy(lab.classifier(role, title), examples, pictures)
            row = lab.row(
                examples,
                value,
                dataset=_title(lab, role),
                classifier=title,
                condition="mitigated",
                noise=test.noise,
                test_severity=test.severity,
                remover_train_severity=entry.severity,
                metric="accuracy",
            )
            rows.append(row)
    return rows


def _mitigation(role: str, zoo: Zoo) -> list[Part]:
    classifiers = tuple(zoo.classifier_keys(role))
    undefended = [
        Part(
            f"undefended {title}",
            classifiers,
            functools.partial(_undefended_part, role, title),
            role,
        )
        for title in zoo.classifiers(role)
    ]
    mitigated = [
        Part(
            entry_name(entry),
            (*classifiers, ModelKey(role, "remover", entry_name(entry))),
            functools.partial(_mitigation_part, role, entry),
            role,
        )
        for entry in zoo.entries
    ]
    return undefended + mitigated


# Table 11 and Figure 6.


def _robust_part(role: str, lab: Laboratory) -> list[Row]:
    examples = lab.examples(role, attacked=True)
    title = next(iter(lab.zoo.classifiers(role)))
    classifier = lab.classifier(role, title)
    remover = lab.model(role, "remover", "SPN_1")
    rows = []
    for label, attack in (("IFGSM", "IFGSM"), ("PGD-10", "PGD10")):
        images = lab.attacked(role, attack)
        # What the paper leaves out: an attacker who knows the remover.
        knowing = lab.attacked(role, attack, remover=ModelKey(role, "remover", "SPN_1"))
        defences = {
            "none": images,
            "URoNet (SPN-trained remover)": lab.purify(remover, images),
            "URoNet (SPN-trained remover), white box": lab.purify(remover, knowing),
        }
        for defence, pictures in defences.items():
            row = lab.row(
                examples,
                lab.accuracy(classifier, examples, pictures),
                dataset=_title(lab, role),
                # The paper does not say which Wide-ResNet.
                classifier="WRN" if title.startswith("Wide-ResNet") else title,
                defence=defence,
                attack=label,
                metric="robust_accuracy",
            )
            rows.append(row | {"steps": lab.zoo.config["attack"]["steps"]})
    return rows


def _robust(zoo: Zoo) -> list[Part]:
    zoo.entry("SPN_1")  # Raises if it is left out.
    return [
        Part(
            role,
            (
                ModelKey(role, "remover", "SPN_1"),
                *zoo.classifier_keys(role, first=True),
            ),
            functools.partial(_robust_part, role),
            role,
        )
        for role in ("data", "second")
    ]


def _gains_part(
    attacked_title: str, attack: str, lab: Laboratory, role: str = "data"
) -> list[Row]:
    examples = lab.examples(role, attacked=True)
    images = lab.attacked(role, attack, attacked_title)
    removers = [e for e in lab.zoo.entries if e.severity == 1]
    rows = []

    def add(title, noise, severity, metric, value):
        rows.append(
            lab.row(
                examples,
                value,
                dataset=_title(lab, role),
                classifier=title,
                train_noise=noise,
                train_severity=severity,
                attack=attack,
                attacked_classifier=attacked_title,
                metric=metric,
            )
        )

    attacked = {}
    for title in lab.zoo.classifiers(role):
        classifier = lab.classifier(role, title)
        attacked[title] = lab.accuracy(classifier, examples, images)
        add(title, None, None, "adversarial_accuracy", attacked[title])
    for entry in removers:
        remover = lab.model(role, "remover", entry_name(entry))
        pictures = lab.purify(remover, images)
        for title in lab.zoo.classifiers(role):
            classifier = lab.classifier(role, title)
            robust = lab.accuracy(classifier, examples, pictures)
            where = title, entry.noise, entry.severity
            add(*where, "robust_accuracy", robust)
            add(*where, "accuracy_gain", robust - attacked[title])
    return rows


def _gains(zoo: Zoo) -> list[Part]:
    models = [ModelKey("data", "remover", entry_name(e)) for e in zoo.entries]
    mildest = [key for key in models if key.name.endswith("_1")]
    return [
        Part(
            f"{attack} on {title}",
            (*mildest, *zoo.classifier_keys("data")),
            functools.partial(_gains_part, title, attack),
        )
        for title in zoo.classifiers("data")
        for attack in ("IFGSM", "PGD0", "PGD10")
    ]


# Table 12.


def _denoisers_part(entry: SuiteEntry, lab: Laboratory) -> list[Row]:
    examples = lab.examples("data")
    images = examples.degraded(entry)
    pictures = {"none (raw corrupted)": images}
    for kind, method in _METHODS.items():
        remover = lab.model("data", kind, entry_name(entry))
        pictures[method] = lab.purify(remover, images)
    return [
        lab.row(
            examples,
            lab.accuracy(lab.classifier("data", title), examples, shown),
            dataset=_title(lab, "data"),
            classifier=title,
            noise=entry.noise,
            inferred_severity=entry.severity,
            method=method,
            metric="accuracy",
        )
        for title in lab.zoo.classifiers("data")
        for method, shown in pictures.items()
    ]


def _table12_entries(zoo: Zoo) -> list[SuiteEntry]:
    return [e for e in zoo.entries if e.severity == _TABLE12_SEVERITY.get(e.noise, 1)]


def _denoisers(zoo: Zoo) -> list[Part]:
    return [
        Part(
            entry_name(entry),
            (
                *zoo.classifier_keys("data"),
                *(ModelKey("data", kind, entry_name(entry)) for kind in _METHODS),
            ),
            functools.partial(_denoisers_part, entry),
        )
        for entry in _table12_entries(zoo)
    ]


# Ablations of section 3.3.

# Detectors that stand behind other removers.
_NOT_ABLATIONS = ("detector_attack", "detector_universal", "detector_corruptions")


def _detectors_part(kind: str, entry: SuiteEntry, lab: Laboratory) -> list[Row]:
    examples, name = lab.examples("data"), entry_name(entry)
    remover = lab.model("data", "remover", name)
    rows = []
    for one in ("detector", kind):
        model = lab.zoo.kinds[one].model
        base = {
            "ablation": kind,
            "own": one == "detector",
            "dataset": _title(lab, "data"),
            "variant": f"{model['name']}, {model['inputs']}",
            "train_noise": entry.noise,
            "train_severity": entry.severity,
        }
        found = _detect(
            lab,
            examples,
            remover,
            lab.model("data", one, name),
            _noise_tests(lab, examples, lab.zoo.entries),
            auroc=False,
        )
        rows += [base | row for row in found]
    return rows


def _variants_part(
    role: str, ablation: str, kinds: Sequence[str], entry: SuiteEntry, lab: Laboratory
) -> list[Row]:
    """Accuracy without remover and behind removers of some kinds, at one severity."""
    examples, images = lab.examples(role), lab.examples(role).degraded(entry)
    shown = {"undefended": images}
    for kind in kinds:
        remover = lab.model(role, kind, entry_name(entry))
        shown[kind] = lab.purify(remover, images)
    return [
        lab.row(
            examples,
            lab.accuracy(lab.classifier(role, title), examples, pictures),
            ablation=ablation,
            dataset=_title(lab, role),
            variant=variant,
            classifier=title,
            test_noise=entry.noise,
            test_severity=entry.severity,
            metric="accuracy",
        )
        for title in lab.zoo.classifiers(role)
        for variant, pictures in shown.items()
    ]


def _ablations(zoo: Zoo) -> list[Part]:
    noises = zoo.config["ablations"]["noises"]
    chosen = [e for e in zoo.entries if e.severity == 1 and e.noise in noises]
    parts = [
        Part(
            f"{kind} {entry_name(entry)}",
            (
                *_defence("data", "detector", entry_name(entry)),
                ModelKey("data", kind, entry_name(entry)),
            ),
            functools.partial(_detectors_part, kind, entry),
        )
        for kind in zoo.kinds
        if kind.startswith("detector_") and kind not in _NOT_ABLATIONS
        for entry in chosen
    ]
    parts += [
        Part(
            f"dcae {entry_name(entry)}",
            (
                *zoo.classifier_keys("data"),
                ModelKey("data", "remover", entry_name(entry)),
                ModelKey("data", "dcae", entry_name(entry)),
            ),
            functools.partial(
                _variants_part, "data", "dcae", ("dcae", "remover"), entry
            ),
        )
        for entry in chosen
    ]
    grey = [e for e in zoo.entries if e.noise in ("GN", "UN", "SPN")]
    return parts + [
        Part(
            f"grey {entry_name(entry)}",
            (
                *zoo.classifier_keys("grey"),
                ModelKey("grey", "remover", entry_name(entry)),
            ),
            functools.partial(_variants_part, "grey", "grey", ("remover",), entry),
            "grey",
        )
        for entry in grey
    ]


# The universal models, and what they never saw.


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
        return self._row(role, _CLEAN, value, "detection", "false_alarm_rate")

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
            dataset=_title(self._lab, role),
            model=self._lab.zoo.config["universal"]["variant"],
            **columns,
            classifier=None,
            condition=condition,
            metric=metric,
        )


def _universal_part(lab: Laboratory) -> list[Row]:
    universal, examples = _Universal(lab), lab.examples("data")
    tests = list(_noise_tests(lab, examples, lab.zoo.entries))
    return [
        universal.false_alarms("data"),
        *universal.detection(tests),
        *universal.accuracy([(_CLEAN, examples.clean()), *tests]),
    ]


def _universal_models(zoo: Zoo, of: str = "universal") -> tuple[ModelKey, ...]:
    pair = _defence("data", f"detector_{of}", "all", f"remover_{of}")
    return (*pair, *zoo.classifier_keys("data"))


def _universal(zoo: Zoo) -> list[Part]:
    return [Part("all", _universal_models(zoo), _universal_part)]


def _corruption_part(name: str, lab: Laboratory) -> list[Row]:
    universal, examples = _Universal(lab, "corruptions"), lab.examples("data")
    if not name:
        clean = [(_CLEAN, examples.clean())]
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


def _universal_corruptions(zoo: Zoo) -> list[Part]:
    models = _universal_models(zoo, "corruptions")
    return [
        Part(name or "clean", models, functools.partial(_corruption_part, name))
        for name in ("", *zoo.config["universal_corruptions"]["names"])
    ]


def _trial_part(
    trial: str, lab: Laboratory, *, variant: str = "", mirror: bool = False
) -> list[Row]:
    """Accuracy behind one of the removers that are compared, on every degradation.

    On validation images: what is chosen by them is measured on others afterwards.
    """
    examples = lab.examples("data", part="validation")
    remover = lab.model("data", f"remover_trial_{trial}", "all")
    tests = [(_CLEAN, examples.clean())]
    tests += _noise_tests(lab, examples, lab.zoo.entries)
    rows = []
    for title in lab.zoo.classifiers("data"):
        classifier, values = lab.classifier("data", title), []

        def add(columns, value, title=title):
            row = lab.row(
                examples,
                value,
                dataset=_title(lab, "data"),
                variant=variant or trial,
                classifier=title,
                **columns,
                metric="accuracy",
            )
            rows.append(row)

        for columns, images in tests:
            pictures = lab.purify(remover, images, mirror=mirror)
            value = lab.accuracy(classifier, examples, pictures)
            add(columns, value)
            if columns is not _CLEAN:
                values.append(value)
        mean = {"test_noise": "mean over degradations", "test_severity": 0}
        add(mean, float(np.mean(values)))
    return rows


def _trials(zoo: Zoo) -> list[Part]:
    classifiers = tuple(zoo.classifier_keys("data"))
    parts = {
        name: functools.partial(_trial_part, name)
        for name in universal_trials(zoo.config)
    }
    trained = {name: name for name in parts}
    # The same weights as another one, shown every image twice.
    parts["self-ensemble"] = functools.partial(
        _trial_part, "skip", variant="self-ensemble", mirror=True
    )
    trained["self-ensemble"] = "skip"
    return [
        Part(
            name,
            (*classifiers, ModelKey("data", f"remover_trial_{trained[name]}", "all")),
            rows,
        )
        for name, rows in parts.items()
    ]


# Faulty sensors: what they do, at severities 1 to 5.
_FAULTS = {
    "banding": (banding, (0.02, 0.04, 0.06, 0.09, 0.12)),
    "dead_columns": (dead_columns, (1, 2, 3, 4, 6)),
}


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


def _zero_shot(zoo: Zoo) -> list[Part]:
    models = _universal_models(zoo)
    parts = [
        Part(name, models, functools.partial(_unseen_part, name))
        for name in (*_UNSEEN, *_FAULTS)
    ]
    return [*parts, Part("false alarms", models, _false_alarms_part, "second")]


# Figures 1, 2, 4 and 5.


def _host(images: Images, count: int) -> np.ndarray:
    return np.concatenate(jax.device_get(list(images)))[:count]


def _patterns_part(figure: str, lab: Laboratory) -> list[Row]:
    examples = lab.examples("data", attacked=True)
    count = min(_PATTERN_IMAGES, len(examples))
    clean = _host(examples.clean(), count)
    arrays, rows = {"clean": clean}, []
    for number, name in enumerate(_PATTERNS):
        if name in _TEST_ATTACKS:
            images, severity = lab.attacked("data", _TEST_ATTACKS[name]), None
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
                dataset=_title(lab, "data"),
                noise=name.partition("_")[0],
                severity=severity,
                metric="mean_absolute_noise",
            )
            | {"num_images": count}
        )
    save_arrays(lab.zoo.workdir / f"{figure}.npz", arrays)
    return rows


def _patterns(figure: str, zoo: Zoo) -> list[Part]:
    for name in set(_PATTERNS) - set(_TEST_ATTACKS):
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
    count = min(_PATTERN_IMAGES, len(examples))
    clean = _host(examples.clean(), count)
    arrays, rows = {"clean": clean}, []
    for entry in lab.zoo.entries:
        images = _host(examples.degraded(entry), count)
        arrays[entry_name(entry)] = images
        rows.append(
            lab.row(
                examples,
                float(np.mean(metrics.psnr(images, clean))),
                dataset=_title(lab, "data"),
                noise=entry.noise,
                severity=entry.severity,
                metric="psnr",
            )
            | {"num_images": count}
        )
    save_arrays(lab.zoo.workdir / "figure4.npz", arrays)
    return rows


def _severities(zoo: Zoo) -> list[Part]:
    del zoo
    return [Part("all", (), _severities_part)]


# Figure 5: a noise, and what is seen of it.
_LOOKED_AT = "GN_1"


def _attention_part(lab: Laboratory) -> list[Row]:
    """Grad-CAM of the first classifier on clean, noisy and purified images."""
    examples, entry = lab.examples("data"), lab.zoo.entry(_LOOKED_AT)
    classifier = lab.classifier("data", next(iter(lab.zoo.classifiers("data"))))
    noisy = examples.degraded(entry)
    purified = lab.purify(lab.model("data", "remover", _LOOKED_AT), noisy)
    count = min(_PATTERN_IMAGES, len(examples))
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
            dataset=_title(lab, "data"),
            noise=entry.noise,
            severity=entry.severity,
            images=name,
            metric="mean_absolute_change_of_the_map",
        )
        rows.append(row | {"num_images": count})
    save_arrays(lab.zoo.workdir / "figure5.npz", arrays)
    return rows


def _attention(zoo: Zoo) -> list[Part]:
    zoo.entry(_LOOKED_AT)  # Raises if it is left out.
    models = (
        ModelKey("data", "remover", _LOOKED_AT),
        *zoo.classifier_keys("data", first=True),
    )
    return [Part("all", models, _attention_part)]


def _needs(*roles: str, classifier: bool = True) -> dict[str, tuple[str, ...]]:
    parts = ("train", "test", *(("classifier",) if classifier else ()))
    return {role: tuple(f"{role}.{part}" for part in parts) for role in roles}


# Sections of the config that the usual and the universal models depend on.
_DEFENCE = ("remover", "detector")
_UNIVERSAL = (*_DEFENCE, "universal", "universal_detector", "training")

EXPERIMENTS: dict[str, Experiment] = {
    "table2": Experiment(
        "detection, 18 detectors on 18 degradations, CIFAR-10",
        _needs("data", classifier=False),
        functools.partial(_detection, "data"),
        _DEFENCE,
    ),
    "table3": Experiment(
        "the same on CIFAR-100",
        _needs("second", classifier=False),
        functools.partial(_detection, "second"),
        _DEFENCE,
    ),
    "table4": Experiment(
        "detection across data sets",
        {
            "data": ("data.train", "second.test"),
            "second": ("second.train", "data.test"),
        },
        _cross,
        _DEFENCE,
    ),
    "table5": Experiment(
        "detectors trained on noises, on attacked images",
        _needs("data", "second"),
        _find_attacks,
        (*_DEFENCE, "attack", "training"),
    ),
    "table6": Experiment(
        "detectors trained on attacked images, on noises",
        _needs("data", "second"),
        _attack_trained,
        (*_DEFENCE, "attack", "training"),
    ),
    "table7": Experiment(
        "mitigation at equal and unequal severities, CIFAR-10",
        _needs("data"),
        functools.partial(_mitigation, "data"),
        ("remover", "training"),
    ),
    "table8": Experiment(
        "the same on CIFAR-100",
        _needs("second"),
        functools.partial(_mitigation, "second"),
        ("remover", "training"),
    ),
    "table11": Experiment(
        "robust accuracy behind the SPN remover",
        _needs("data", "second"),
        _robust,
        ("remover", "attack", "training"),
    ),
    "table12": Experiment(
        "raw, DCAE and URoNet, CIFAR-10",
        _needs("data"),
        _denoisers,
        ("remover", "training"),
    ),
    "figure1": Experiment(
        "noise patterns, amplified ten times",
        _needs("data"),
        functools.partial(_patterns, "figure1"),
        ("attack", "training"),
    ),
    "figure2": Experiment(
        "the images of these patterns",
        _needs("data"),
        functools.partial(_patterns, "figure2"),
        ("attack", "training"),
    ),
    "figure4": Experiment(
        "every noise at every severity",
        {"data": ("data.test",)},
        _severities,
    ),
    "figure5": Experiment(
        "where the classifier looks (Grad-CAM): clean, noisy and purified images",
        _needs("data"),
        _attention,
        ("remover", "training"),
    ),
    "figure6": Experiment(
        "mitigation of attacks, own and transferred",
        _needs("data"),
        _gains,
        ("remover", "attack", "training"),
    ),
    "ablations": Experiment(
        "section 3.3: another detector, no noise pattern, DCAE, grey images",
        _needs("data", "grey"),
        _ablations,
        (*_DEFENCE, "training", "ablations"),
    ),
    "universal": Experiment(
        "one remover and one detector for all 18 degradations",
        _needs("data"),
        _universal,
        _UNIVERSAL,
    ),
    "universal_corruptions": Experiment(
        "one remover and one detector for all corruptions of a suite",
        _needs("data"),
        _universal_corruptions,
        (*_UNIVERSAL, "universal_corruptions"),
    ),
    "universal_trials": Experiment(
        "short trainings of the universal remover that differ in one thing",
        _needs("data"),
        _trials,
        ("universal_trials", "remover", "training"),
    ),
    "zero_shot": Experiment(
        "the universal models on what they never saw",
        {
            "data": ("data.train", "data.test", "data.classifier"),
            "second": ("data.train", "data.test", "second.test"),
        },
        _zero_shot,
        (*_UNIVERSAL, "zero_shot"),
    ),
}


class Lack(NamedTuple):
    """Something that an experiment needs and does not have.

    Attributes:
        what: In a few words.
        why: Where it was looked for, and what to do.
    """

    what: str
    why: str


def check_needs(zoo: Zoo, experiment: str) -> dict[str, Lack]:
    """Finds out what an experiment lacks.

    Args:
        zoo: Data and models.
        experiment: A key of `EXPERIMENTS`.

    Returns:
        Group of parts -> why it is left out; empty if nothing is.

    Raises:
        FileNotFoundError: If no group can be computed; says what to do.
        ValueError: If the config leaves out a noise that it needs.
    """
    EXPERIMENTS[experiment].parts(zoo)
    needs = EXPERIMENTS[experiment].needs
    lacks = {group: _find_lack(zoo, wanted) for group, wanted in needs.items()}
    missing = {group: lack for group, lack in lacks.items() if lack is not None}
    if len(missing) == len(needs):
        texts = dict.fromkeys(f"{what}: {why}" for what, why in missing.values())
        raise FileNotFoundError(f"{experiment} lacks {'; '.join(texts)}")
    return missing


def _find_lack(zoo: Zoo, needs: Iterable[str]) -> Lack | None:
    for need in needs:
        role, part = need.split(".")
        section = zoo.config[role]
        try:
            if part == "classifier":
                what = f"a classifier of {section['title']}"
                _check_classifiers(zoo, role)
            else:
                kind = {"train": "training", "test": "test"}[part]
                for split in ("train", "validation") if part == "train" else (part,):
                    name = section[f"{split}_split"]
                    what = f"the {kind} images of {section['title']} ({name})"
                    zoo.open(role, split)
        except (FileNotFoundError, ValueError) as error:
            return Lack(what, str(error))
    return None


def _check_classifiers(zoo: Zoo, role: str) -> None:
    found = zoo.classifiers(role)
    if not found:
        raise ValueError(
            f"no classifier: set --config.{role}.classifier to the folder of a run, a "
            ".npz file, or train:NAME"
        )
    for title, source in found.items():
        if not source.startswith("train:"):
            try:
                zoo.load_classifier(role, title)
            except FileNotFoundError as error:
                raise FileNotFoundError(
                    f"{error}: set --config.{role}.classifier to the folder of a run, "
                    "a .npz file, or train:NAME"
                ) from error
