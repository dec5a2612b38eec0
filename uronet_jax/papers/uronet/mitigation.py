"""Mitigation: what classifiers see behind a remover, Tables 7, 8, 11, 12, Figure 6."""

import functools

from uronet_jax.corruptions import SuiteEntry
from uronet_jax.evaluation.judge import CLEAN_ENTRY
from uronet_jax.papers.laboratory import Laboratory, TidyRow
from uronet_jax.papers.store import Store
from uronet_jax.papers.uronet.kinds import ModelKey, entry_name
from uronet_jax.papers.uronet.parts import Part, dataset_title

# Severity of Table 12's rows, from their equality with Table 7.
_TABLE12_SEVERITY = {"UN": 3}
_METHODS = {
    "dcae": "DCAE (single-output denoising autoencoder)",
    "remover": "URoNet",
}


def _undefended_part(role: str, title: str, lab: Laboratory) -> list[TidyRow]:
    judge, classifier = lab.judge(role), lab.classifier(role, title)
    tests = [("clean", None, None, CLEAN_ENTRY)]
    tests += [("noisy", e.noise, e.severity, e) for e in lab.store.entries]
    return [
        lab.row(
            judge,
            lab.accuracy(judge, classifier, entry),
            dataset=dataset_title(lab, role),
            classifier=title,
            condition=condition,
            noise=noise,
            test_severity=severity,
            remover_train_severity=None,
            metric="accuracy",
        )
        for condition, noise, severity, entry in tests
    ]


def _mitigated_part(role: str, entry: SuiteEntry, lab: Laboratory) -> list[TidyRow]:
    judge = lab.judge(role)
    remover = lab.model(role, "remover", entry_name(entry))
    rows = []
    for test in lab.store.entries:
        if test.noise != entry.noise:
            continue
        found = lab.accuracies(judge, lab.classifiers(role), test, remover)
        for title, value in found.items():
            row = lab.row(
                judge,
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


def mitigation_of_noises(role: str, store: Store) -> list[Part]:
    """Tables 7 and 8: removers on their own noise at every severity; no remover."""
    classifiers = tuple(store.classifier_keys(role))
    undefended = [
        Part(
            f"undefended {title}",
            classifiers,
            functools.partial(_undefended_part, role, title),
            role,
        )
        for title in store.classifiers(role)
    ]
    mitigated = [
        Part(
            entry_name(entry),
            (*classifiers, ModelKey(role, "remover", entry_name(entry))),
            functools.partial(_mitigated_part, role, entry),
            role,
        )
        for entry in store.entries
    ]
    return undefended + mitigated


def _attacks_part(role: str, lab: Laboratory) -> list[TidyRow]:
    judge = lab.judge(role, attacked=True)
    title = next(iter(lab.store.classifiers(role)))
    classifier = lab.classifier(role, title)
    remover = lab.model(role, "remover", "SPN_1")
    rows = []
    for label, attack in (("IFGSM", "IFGSM"), ("PGD-10", "PGD10")):
        images = lab.attacked(role, attack)
        # What the paper leaves out: an attacker who knows the remover.
        knowing = lab.attacked(role, attack, remover=ModelKey(role, "remover", "SPN_1"))
        defences = {
            "none": (images, None),
            "URoNet (SPN-trained remover)": (images, remover),
            "URoNet (SPN-trained remover), white box": (knowing, remover),
        }
        for defence, (shown, purifier) in defences.items():
            row = lab.row(
                judge,
                lab.accuracy(judge, classifier, shown, purifier),
                dataset=dataset_title(lab, role),
                # The paper does not say which Wide-ResNet.
                classifier="WRN" if title.startswith("Wide-ResNet") else title,
                defence=defence,
                attack=label,
                metric="robust_accuracy",
            )
            rows.append(row | {"steps": lab.store.config["attack"]["steps"]})
    return rows


def mitigation_of_attacks(store: Store) -> list[Part]:
    """Table 11: robust accuracy behind the remover of salt and pepper noise."""
    store.entry("SPN_1")  # Raises if it is left out.
    return [
        Part(
            role,
            (
                ModelKey(role, "remover", "SPN_1"),
                *store.classifier_keys(role, first=True),
            ),
            functools.partial(_attacks_part, role),
            role,
        )
        for role in ("data", "second")
    ]


def _gains_part(
    attacked_title: str, attack: str, lab: Laboratory, role: str = "data"
) -> list[TidyRow]:
    judge = lab.judge(role, attacked=True)
    images = lab.attacked(role, attack, attacked_title)
    removers = [e for e in lab.store.entries if e.severity == 1]
    rows = []

    def add(title, noise, severity, metric, value):
        rows.append(
            lab.row(
                judge,
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

    classifiers = lab.classifiers(role)
    attacked = lab.accuracies(judge, classifiers, images)
    for title, value in attacked.items():
        add(title, None, None, "adversarial_accuracy", value)
    for entry in removers:
        remover = lab.model(role, "remover", entry_name(entry))
        found = lab.accuracies(judge, classifiers, images, remover)
        for title, robust in found.items():
            where = title, entry.noise, entry.severity
            add(*where, "robust_accuracy", robust)
            add(*where, "accuracy_gain", robust - attacked[title])
    return rows


def gains(store: Store) -> list[Part]:
    """Figure 6: removers of noises on attacks, own and transferred."""
    models = [ModelKey("data", "remover", entry_name(e)) for e in store.entries]
    mildest = [key for key in models if key.name.endswith("_1")]
    return [
        Part(
            f"{attack} on {title}",
            (*mildest, *store.classifier_keys("data")),
            functools.partial(_gains_part, title, attack),
        )
        for title in store.classifiers("data")
        for attack in ("IFGSM", "PGD0", "PGD10")
    ]


def _denoisers_part(entry: SuiteEntry, lab: Laboratory) -> list[TidyRow]:
    judge, classifiers = lab.judge("data"), lab.classifiers("data")
    found = {"none (raw corrupted)": lab.accuracies(judge, classifiers, entry)}
    for kind, method in _METHODS.items():
        remover = lab.model("data", kind, entry_name(entry))
        found[method] = lab.accuracies(judge, classifiers, entry, remover)
    return [
        lab.row(
            judge,
            values[title],
            dataset=dataset_title(lab, "data"),
            classifier=title,
            noise=entry.noise,
            inferred_severity=entry.severity,
            method=method,
            metric="accuracy",
        )
        for title in classifiers
        for method, values in found.items()
    ]


def _table12_entries(store: Store) -> list[SuiteEntry]:
    return [e for e in store.entries if e.severity == _TABLE12_SEVERITY.get(e.noise, 1)]


def denoisers(store: Store) -> list[Part]:
    """Table 12: no remover, one with one head, and one with two."""
    return [
        Part(
            entry_name(entry),
            (
                *store.classifier_keys("data"),
                *(ModelKey("data", kind, entry_name(entry)) for kind in _METHODS),
            ),
            functools.partial(_denoisers_part, entry),
        )
        for entry in _table12_entries(store)
    ]
