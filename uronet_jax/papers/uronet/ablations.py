"""The ablations of section 3.3: other detectors, one head, grey images."""

import functools
from collections.abc import Sequence

from uronet_jax.corruptions import SuiteEntry
from uronet_jax.papers.laboratory import Laboratory, TidyRow
from uronet_jax.papers.store import Store
from uronet_jax.papers.uronet.kinds import ModelKey, entry_name
from uronet_jax.papers.uronet.parts import (
    CLEAN,
    Part,
    dataset_title,
    defence_models,
    detection_rows,
    noise_tests,
)

# Detectors that stand behind other removers.
_NOT_ABLATIONS = ("detector_attack", "detector_universal", "detector_corruptions")


def _detectors_part(kind: str, entry: SuiteEntry, lab: Laboratory) -> list[TidyRow]:
    judge, name = lab.judge("data"), entry_name(entry)
    remover = lab.model("data", "remover", name)
    rows = []
    for one in ("detector", kind):
        model = lab.store.kinds[one].model
        base = {
            "ablation": kind,
            "own": one == "detector",
            "dataset": dataset_title(lab, "data"),
            "variant": f"{model['name']}, {model['inputs']}",
            "train_noise": entry.noise,
            "train_severity": entry.severity,
        }
        found = detection_rows(
            lab,
            judge,
            remover,
            lab.model("data", one, name),
            noise_tests(lab.store.entries),
            auroc=False,
        )
        rows += [base | row for row in found]
    return rows


def _variants_part(
    role: str, ablation: str, kinds: Sequence[str], entry: SuiteEntry, lab: Laboratory
) -> list[TidyRow]:
    """Accuracy without remover and behind removers of some kinds, at one severity."""
    judge, classifiers = lab.judge(role), lab.classifiers(role)
    found = {"undefended": lab.accuracies(judge, classifiers, entry)}
    for kind in kinds:
        remover = lab.model(role, kind, entry_name(entry))
        found[kind] = lab.accuracies(judge, classifiers, entry, remover)
    return [
        lab.row(
            judge,
            values[title],
            ablation=ablation,
            dataset=dataset_title(lab, role),
            variant=variant,
            classifier=title,
            test_noise=entry.noise,
            test_severity=entry.severity,
            metric="accuracy",
        )
        for title in classifiers
        for variant, values in found.items()
    ]


def _clean_part(lab: Laboratory) -> list[TidyRow]:
    """Accuracy on clean grey images, which the paper gives."""
    judge = lab.judge("grey")
    return [
        lab.row(
            judge,
            value,
            ablation="grey",
            dataset=dataset_title(lab, "grey"),
            variant="undefended",
            classifier=title,
            **CLEAN,
            metric="accuracy",
        )
        for title, value in lab.accuracies(judge, lab.classifiers("grey")).items()
    ]


def ablations(store: Store) -> list[Part]:
    """Section 3.3: detectors that see or are something else, DCAE, grey images."""
    noises = store.config["ablations"]["noises"]
    chosen = [e for e in store.entries if e.severity == 1 and e.noise in noises]
    parts = [
        Part(
            f"{kind} {entry_name(entry)}",
            (
                *defence_models("data", "detector", entry_name(entry)),
                ModelKey("data", kind, entry_name(entry)),
            ),
            functools.partial(_detectors_part, kind, entry),
        )
        for kind in store.kinds
        if kind.startswith("detector_") and kind not in _NOT_ABLATIONS
        for entry in chosen
    ]
    parts += [
        Part(
            f"dcae {entry_name(entry)}",
            (
                *store.classifier_keys("data"),
                ModelKey("data", "remover", entry_name(entry)),
                ModelKey("data", "dcae", entry_name(entry)),
            ),
            functools.partial(
                _variants_part, "data", "dcae", ("dcae", "remover"), entry
            ),
        )
        for entry in chosen
    ]
    parts.append(
        Part("grey clean", tuple(store.classifier_keys("grey")), _clean_part, "grey")
    )
    grey = [e for e in store.entries if e.noise in ("GN", "UN", "SPN")]
    return parts + [
        Part(
            f"grey {entry_name(entry)}",
            (
                *store.classifier_keys("grey"),
                ModelKey("grey", "remover", entry_name(entry)),
            ),
            functools.partial(_variants_part, "grey", "grey", ("remover",), entry),
            "grey",
        )
        for entry in grey
    ]
