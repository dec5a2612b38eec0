"""Mitigation: what classifiers see behind a remover, Tables 7, 8, 11, 12, Figure 6."""

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
                    *((place("noisy", e), e, None) for e in store.entries),
                ],
                dataset=store.dataset(role),
            )

        return Part(f"undefended {title}", keys, rows, role)

    def mitigated(entry):
        remover = ModelKey(role, "remover", entry_name(entry))

        def rows(lab):
            return [
                row
                for test in store.entries
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
    return undefended_parts + [mitigated(entry) for entry in store.entries]


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
