"""Detection: what detectors find of noises and attacks, Tables 2 to 6."""

from collections.abc import Sequence
from typing import Any

from uronet_jax.corruptions import SuiteEntry
from uronet_jax.papers.kinds import ModelKey, entry_name
from uronet_jax.papers.made_images import attack_steps
from uronet_jax.papers.parts import (
    TEST_ATTACKS,
    Part,
    detection_rows,
    noise_tests,
    trained_on,
)
from uronet_jax.papers.store import Store

# Published label of a training attack -> the attack, by data set.
_TRAIN_ATTACKS = {
    "data": {"FGSM40": "IFGSM-40", "PGD40": "PGD0-40"},
    "second": {"IFGSM40": "IFGSM-40", "PGD20": "PGD0-20"},
}


def _on_noises(
    name: str,
    detector: ModelKey,
    judged: str,
    entries: Sequence[SuiteEntry],
    models: Sequence[ModelKey] = (),
    **columns: Any,
) -> Part:
    """Returns the part of one detector on noises of the data set `judged`."""

    def rows(lab):
        tests = noise_tests(entries)
        return detection_rows(lab, lab.judge(judged), detector, tests, **columns)

    return Part(name, (*models, detector), rows, detector.role)


def detection_of_noises(role: str, store: Store) -> list[Part]:
    """Tables 2 and 3: a detector of every noise, on every noise of its data set."""
    return [
        _on_noises(
            entry_name(entry),
            ModelKey(role, "detector", entry_name(entry)),
            role,
            store.entries,
            dataset=store.dataset(role),
            **trained_on(entry),
        )
        for entry in store.entries
    ]


def across_data_sets(store: Store) -> list[Part]:
    """Table 4: detectors of one data set on images of the other, mildest noises."""
    mildest = [entry for entry in store.entries if entry.severity == 1]
    return [
        _on_noises(
            f"{role} to {other} {entry_name(entry)}",
            ModelKey(role, "detector", entry_name(entry)),
            other,
            mildest,
            train_dataset=store.dataset(role),
            test_dataset=store.dataset(other),
            **trained_on(entry),
        )
        for role, other in (("data", "second"), ("second", "data"))
        for entry in mildest
    ]


def detection_of_attacks(store: Store) -> list[Part]:
    """Table 5: detectors that were trained on noises, on attacked images."""

    def part(role, entry):
        detector = ModelKey(role, "detector", entry_name(entry))

        def rows(lab):
            tests = [
                ({"test_attack": label}, lab.attacked(role, attack))
                for label, attack in TEST_ATTACKS.items()
            ]
            return detection_rows(
                lab,
                lab.judge(role, attacked=True),
                detector,
                tests,
                dataset=store.dataset(role),
                steps=store.config["attack"]["steps"],
                **trained_on(entry),
            )

        models = (detector, *store.classifier_keys(role, first=True))
        return Part(f"{role} {detector.name}", models, rows, role)

    return [part(role, e) for role in ("data", "second") for e in store.entries]


def trained_on_attacks(store: Store) -> list[Part]:
    """Table 6: detectors that were trained on attacked images, on noises."""
    return [
        _on_noises(
            f"{role} {label}",
            ModelKey(role, "detector_attack", attack),
            role,
            store.entries,
            store.classifier_keys(role, first=True),
            dataset=store.dataset(role),
            train_attack=label,
            steps=attack_steps(store.config, attack)[1],
        )
        for role in ("data", "second")
        for label, attack in _TRAIN_ATTACKS[role].items()
    ]
