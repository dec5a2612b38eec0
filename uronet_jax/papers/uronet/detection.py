"""Detection: what detectors find of noises and attacks, Tables 2 to 6."""

import functools

from uronet_jax.corruptions import SuiteEntry
from uronet_jax.papers.laboratory import Laboratory, TidyRow
from uronet_jax.papers.made_images import attack_steps
from uronet_jax.papers.store import Store
from uronet_jax.papers.uronet.kinds import entry_name
from uronet_jax.papers.uronet.parts import (
    TEST_ATTACKS,
    Part,
    dataset_title,
    defence_models,
    detection_rows,
    noise_tests,
)

# Published label of a training attack -> the attack, by data set.
_TRAIN_ATTACKS = {
    "data": {"FGSM40": "IFGSM-40", "PGD40": "PGD0-40"},
    "second": {"IFGSM40": "IFGSM-40", "PGD20": "PGD0-20"},
}


def _noises_part(role: str, entry: SuiteEntry, lab: Laboratory) -> list[TidyRow]:
    judge, name = lab.judge(role), entry_name(entry)
    rows = detection_rows(
        lab,
        judge,
        lab.model(role, "remover", name),
        lab.model(role, "detector", name),
        noise_tests(lab.store.entries),
    )
    base = {
        "dataset": dataset_title(lab, role),
        "train_noise": entry.noise,
        "train_severity": entry.severity,
    }
    return [base | row for row in rows]


def detection_of_noises(role: str, store: Store) -> list[Part]:
    """Tables 2 and 3: a detector of every noise, on every noise of its data set."""
    return [
        Part(
            entry_name(entry),
            defence_models(role, "detector", entry_name(entry)),
            functools.partial(_noises_part, role, entry),
            role,
        )
        for entry in store.entries
    ]


def _across_data_sets_part(
    role: str, other: str, entry: SuiteEntry, lab: Laboratory
) -> list[TidyRow]:
    judge, name = lab.judge(other), entry_name(entry)
    mildest = [e for e in lab.store.entries if e.severity == 1]
    rows = detection_rows(
        lab,
        judge,
        lab.model(role, "remover", name),
        lab.model(role, "detector", name),
        noise_tests(mildest),
    )
    base = {
        "train_dataset": dataset_title(lab, role),
        "test_dataset": dataset_title(lab, other),
        "train_noise": entry.noise,
        "train_severity": entry.severity,
    }
    return [base | row for row in rows]


def across_data_sets(store: Store) -> list[Part]:
    """Table 4: detectors of one data set on images of the other, mildest noises."""
    return [
        Part(
            f"{role} to {other} {entry_name(entry)}",
            defence_models(role, "detector", entry_name(entry)),
            functools.partial(_across_data_sets_part, role, other, entry),
            role,
        )
        for role, other in (("data", "second"), ("second", "data"))
        for entry in store.entries
        if entry.severity == 1
    ]


def _attacks_part(role: str, entry: SuiteEntry, lab: Laboratory) -> list[TidyRow]:
    judge, name = lab.judge(role, attacked=True), entry_name(entry)
    tests = [
        ({"test_attack": label}, lab.attacked(role, attack))
        for label, attack in TEST_ATTACKS.items()
    ]
    rows = detection_rows(
        lab,
        judge,
        lab.model(role, "remover", name),
        lab.model(role, "detector", name),
        tests,
    )
    base = {
        "dataset": dataset_title(lab, role),
        "train_noise": entry.noise,
        "train_severity": entry.severity,
    }
    steps = lab.store.config["attack"]["steps"]
    return [base | row | {"steps": steps} for row in rows]


def detection_of_attacks(store: Store) -> list[Part]:
    """Table 5: detectors that were trained on noises, on attacked images."""
    return [
        Part(
            f"{role} {entry_name(entry)}",
            (
                *defence_models(role, "detector", entry_name(entry)),
                *store.classifier_keys(role, first=True),
            ),
            functools.partial(_attacks_part, role, entry),
            role,
        )
        for role in ("data", "second")
        for entry in store.entries
    ]


def _trained_on_attacks_part(
    role: str, label: str, attack: str, lab: Laboratory
) -> list[TidyRow]:
    judge = lab.judge(role)
    rows = detection_rows(
        lab,
        judge,
        lab.model(role, "remover_attack", attack),
        lab.model(role, "detector_attack", attack),
        noise_tests(lab.store.entries),
    )
    base = {"dataset": dataset_title(lab, role), "train_attack": label}
    _, steps = attack_steps(lab.store.config, attack)
    return [base | row | {"steps": steps} for row in rows]


def trained_on_attacks(store: Store) -> list[Part]:
    """Table 6: detectors that were trained on attacked images, on noises."""
    return [
        Part(
            f"{role} {label}",
            (
                *store.classifier_keys(role, first=True),
                *defence_models(role, "detector_attack", attack, "remover_attack"),
            ),
            functools.partial(_trained_on_attacks_part, role, label, attack),
            role,
        )
        for role in ("data", "second")
        for label, attack in _TRAIN_ATTACKS[role].items()
    ]
