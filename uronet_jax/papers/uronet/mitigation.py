"""Mitigation: what classifiers see behind a remover, Tables 7, 8, 11, 12, Figure 6."""

import functools

from uronet_jax.corruptions import SuiteEntry
from uronet_jax.papers.laboratory import Laboratory, Row
from uronet_jax.papers.store import Zoo
from uronet_jax.papers.uronet.kinds import ModelKey, entry_name
from uronet_jax.papers.uronet.parts import Part, dataset_title

# Severity of Table 12's rows, from their equality with Table 7.
_TABLE12_SEVERITY = {"UN": 3}
_METHODS = {
    "dcae": "DCAE (single-output denoising autoencoder)",
    "remover": "URoNet",
}


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
            dataset=dataset_title(lab, role),
            classifier=title,
            condition=condition,
            noise=noise,
            test_severity=severity,
            remover_train_severity=None,
            metric="accuracy",
        )
        for condition, noise, severity, images in tests
    ]


def _mitigated_part(role: str, entry: SuiteEntry, lab: Laboratory) -> list[Row]:
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
                dataset=dataset_title(lab, role),
                classifier=title,
                condition="mitigated",
                noise=test.noise,
                test_severity=test.severity,
                remover_train_severity=entry.severity,
                metric="accuracy",
            )
            rows.append(row)
    return rows


def noises(role: str, zoo: Zoo) -> list[Part]:
    """Tables 7 and 8: removers on their own noise at every severity; no remover."""
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
            functools.partial(_mitigated_part, role, entry),
            role,
        )
        for entry in zoo.entries
    ]
    return undefended + mitigated


def _attacks_part(role: str, lab: Laboratory) -> list[Row]:
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
                dataset=dataset_title(lab, role),
                # The paper does not say which Wide-ResNet.
                classifier="WRN" if title.startswith("Wide-ResNet") else title,
                defence=defence,
                attack=label,
                metric="robust_accuracy",
            )
            rows.append(row | {"steps": lab.zoo.config["attack"]["steps"]})
    return rows


def attacks(zoo: Zoo) -> list[Part]:
    """Table 11: robust accuracy behind the remover of salt and pepper noise."""
    zoo.entry("SPN_1")  # Raises if it is left out.
    return [
        Part(
            role,
            (
                ModelKey(role, "remover", "SPN_1"),
                *zoo.classifier_keys(role, first=True),
            ),
            functools.partial(_attacks_part, role),
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
                dataset=dataset_title(lab, role),
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


def gains(zoo: Zoo) -> list[Part]:
    """Figure 6: removers of noises on attacks, own and transferred."""
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
            dataset=dataset_title(lab, "data"),
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


def denoisers(zoo: Zoo) -> list[Part]:
    """Table 12: no remover, one with one head, and one with two."""
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
