"""Mitigation: what classifiers see behind a remover, Tables 7 to 12, Figure 6."""

from collections.abc import Mapping, Sequence
from typing import Any

from uronet_jax.corruptions import SuiteEntry
from uronet_jax.evaluation.judge import CLEAN_ENTRY
from uronet_jax.papers.kinds import ModelKey, entry_name
from uronet_jax.papers.parts import Part, accuracy_rows, trained_on
from uronet_jax.papers.store import Store

# Severity of Table 12's rows, from their equality with Table 7.
_TABLE12_SEVERITY = {"UN": 3}
_METHODS = {
    "dcae": "DCAE (single-output denoising autoencoder)",
    "remover": "URoNet",
}


def mitigation_of_noises(role: str, store: Store) -> list[Part]:
    """Tables 7 and 8: removers on their own noise at every severity; no remover."""
    return _mitigation(role, store, store.entries, store.entries)


def mitigation_of_unseen_severities(role: str, store: Store) -> list[Part]:
    """Tables 9 and 10: removers of the mildest noises on the stronger ones."""
    mildest = [entry for entry in store.entries if entry.severity == 1]
    stronger = [entry for entry in store.entries if entry.severity > 1]
    if not mildest or not stronger:
        raise ValueError(
            "this experiment needs severity 1 and others: add them to suite.severities"
        )
    return _mitigation(role, store, mildest, stronger)


def _mitigation(
    role: str,
    store: Store,
    trained: Sequence[SuiteEntry],
    tested: Sequence[SuiteEntry],
) -> list[Part]:
    """Returns the parts of removers of some noises, on tested ones of their kind."""
    keys = tuple(store.classifier_keys(role))

    def place(condition, entry=None, severity=None):
        return {
            "condition": condition,
            "noise": entry and entry.noise,
            "test_severity": entry and entry.severity,
            "remover_train_severity": severity,
        }

    def undefended(title):
        def rows(lab):
            return accuracy_rows(
                lab,
                lab.judge(role),
                {title: lab.classifier(role, title)},
                [
                    (place("clean"), CLEAN_ENTRY, None),
                    *((place("noisy", e), e, None) for e in tested),
                ],
                dataset=store.dataset(role),
            )

        return Part(f"undefended {title}", keys, rows, role)

    def mitigated(entry):
        remover = ModelKey(role, "remover", entry_name(entry))

        def rows(lab):
            return [
                row
                for test in tested
                if test.noise == entry.noise
                for row in accuracy_rows(
                    lab,
                    lab.judge(role),
                    lab.classifiers(role),
                    [({}, test, lab.model(*remover))],
                    dataset=store.dataset(role),
                    **place("mitigated", test, entry.severity),
                )
            ]

        return Part(remover.name, (*keys, remover), rows, role)

    undefended_parts = [undefended(title) for title in store.classifiers(role)]
    return undefended_parts + [mitigated(entry) for entry in trained]


def other_resolutions(store: Store) -> list[Part]:
    """Removers of three resolutions in front of classifiers of the largest.

    On noise of one severity above that which the removers learned, as in Table 10; the
    universal one learned all of them.
    """
    role, severity = "imagenette", store.config["resolutions"]["severity"]
    keys = tuple(store.classifier_keys(role))
    learned = {"removers of small images": "tiny", "removers of their size": role}

    def part(entry):
        removers = {
            title: ModelKey(other, "remover", f"{entry.noise}_1")
            for title, other in learned.items()
        }

        def rows(lab):
            behind = {"none": None}
            behind |= {title: lab.model(*key) for title, key in removers.items()}
            behind |= {
                title: lab.purifier(named)
                for title, named in universal_remover(store.config).items()
            }
            count = store.config["resolutions"]["num_images"]
            return accuracy_rows(
                lab,
                lab.judge(role, count=count),
                lab.classifiers(role),
                [({"remover": x}, entry, purifier) for x, purifier in behind.items()],
                dataset=store.dataset(role),
                noise=entry.noise,
                test_severity=entry.severity,
            )

        return Part(entry.noise, (*keys, *removers.values()), rows)

    found = [part(entry) for entry in store.entries if entry.severity == severity]
    if not found:
        raise ValueError(
            f"resolutions.severity is {severity}: choose one of suite.severities"
        )
    return found


def universal_remover(config: Mapping[str, Any]) -> dict[str, str]:
    """Returns title -> what `load_purifier` reads; nothing if it is left out."""
    named = config["resolutions"]["universal"]
    return {"universal remover": named} if named else {}


def mitigation_of_attacks(store: Store) -> list[Part]:
    """Table 11: robust accuracy behind the remover of salt and pepper noise."""
    store.entry("SPN_1")  # Raises if it is left out.

    def part(role):
        key = ModelKey(role, "remover", "SPN_1")

        def rows(lab):
            title = next(iter(store.classifiers(role)))
            remover, shown = lab.model(*key), []
            for label, attack in (("IFGSM", "IFGSM"), ("PGD-10", "PGD10")):
                images = lab.attacked(role, attack)
                # What the paper leaves out: an attacker who knows the remover.
                knowing = lab.attacked(role, attack, remover=key)
                shown += [
                    ({"attack": label, "defence": defence}, *what)
                    for defence, *what in (
                        ("none", images, None),
                        ("URoNet (SPN-trained remover)", images, remover),
                        ("URoNet (SPN-trained remover), white box", knowing, remover),
                    )
                ]
            found = accuracy_rows(
                lab,
                lab.judge(role, attacked=True),
                {title: lab.classifier(role, title)},
                shown,
                metric="robust_accuracy",
                dataset=store.dataset(role),
                steps=store.config["attack"]["steps"],
            )
            # The paper does not say which Wide-ResNet.
            name = "WRN" if title.startswith("Wide-ResNet") else title
            return [row | {"classifier": name} for row in found]

        models = (key, *store.classifier_keys(role, first=True))
        return Part(role, models, rows, role)

    return [part(role) for role in ("data", "second")]


def gains(store: Store) -> list[Part]:
    """Figure 6: removers of noises on attacks, own and transferred."""
    mildest = [entry for entry in store.entries if entry.severity == 1]
    removers = [ModelKey("data", "remover", entry_name(entry)) for entry in mildest]

    def part(attacked_title, attack):
        def rows(lab):
            images = lab.attacked("data", attack, attacked_title)

            def accuracies(metric, remover, trained):
                return accuracy_rows(
                    lab,
                    lab.judge("data", attacked=True),
                    lab.classifiers("data"),
                    [(trained, images, remover)],
                    metric=metric,
                    dataset=store.dataset("data"),
                    attack=attack,
                    attacked_classifier=attacked_title,
                )

            bare = {"train_noise": None, "train_severity": None}
            found = accuracies("adversarial_accuracy", None, bare)
            alone = {row["classifier"]: row["value"] for row in found}
            for entry, key in zip(mildest, removers, strict=True):
                remover = lab.model(*key)
                for row in accuracies("robust_accuracy", remover, trained_on(entry)):
                    gain = row["value"] - alone[row["classifier"]]
                    found += [row, row | {"metric": "accuracy_gain", "value": gain}]
            return found

        models = (*removers, *store.classifier_keys("data"))
        return Part(f"{attack} on {attacked_title}", models, rows)

    return [
        part(title, attack)
        for title in store.classifiers("data")
        for attack in ("IFGSM", "PGD0", "PGD10")
    ]


def denoisers(store: Store) -> list[Part]:
    """Table 12: no remover, one with one head, and one with two."""

    def part(entry):
        keys = {kind: ModelKey("data", kind, entry_name(entry)) for kind in _METHODS}

        def rows(lab):
            shown = [({"method": "none (raw corrupted)"}, entry, None)]
            for kind, method in _METHODS.items():
                shown.append(({"method": method}, entry, lab.model(*keys[kind])))
            return accuracy_rows(
                lab,
                lab.judge("data"),
                lab.classifiers("data"),
                shown,
                dataset=store.dataset("data"),
                noise=entry.noise,
                inferred_severity=entry.severity,
            )

        models = (*store.classifier_keys("data"), *keys.values())
        return Part(entry_name(entry), models, rows)

    return [
        part(entry)
        for entry in store.entries
        if entry.severity == _TABLE12_SEVERITY.get(entry.noise, 1)
    ]
