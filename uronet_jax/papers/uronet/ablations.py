"""The ablations of section 3.3: other detectors, one head, grey images."""

from uronet_jax.evaluation.judge import CLEAN_ENTRY
from uronet_jax.papers.kinds import ModelKey, entry_name
from uronet_jax.papers.parts import (
    Part,
    accuracy_rows,
    detection_rows,
    noise_tests,
    tested_on,
    trained_on,
)
from uronet_jax.papers.store import Store

# Detectors that stand behind other removers.
_NOT_ABLATIONS = ("detector_attack", "detector_universal", "detector_corruptions")


def ablations(store: Store) -> list[Part]:
    """Section 3.3: detectors that see or are something else, DCAE, grey images."""

    def detectors(kind, entry):
        keys = [ModelKey("data", one, entry_name(entry)) for one in ("detector", kind)]

        def rows(lab):
            found = []
            for key in keys:
                model = store.kinds[key.kind].model
                found += detection_rows(
                    lab,
                    lab.judge("data"),
                    key,
                    noise_tests(store.entries),
                    further=(),
                    ablation=kind,
                    own=key.kind == "detector",
                    dataset=store.dataset("data"),
                    variant=f"{model['name']}, {model['inputs']}",
                    **trained_on(entry),
                )
            return found

        return Part(f"{kind} {entry_name(entry)}", tuple(keys), rows)

    def removers(role, ablation, kinds, entry):
        """Accuracy without remover and behind removers of some kinds."""
        keys = [ModelKey(role, kind, entry_name(entry)) for kind in kinds]

        def rows(lab):
            behind = [({"variant": x.kind}, entry, lab.model(*x)) for x in keys]
            return accuracy_rows(
                lab,
                lab.judge(role),
                lab.classifiers(role),
                [({"variant": "undefended"}, entry, None), *behind],
                ablation=ablation,
                dataset=store.dataset(role),
                **tested_on(entry),
            )

        # The paper gives the accuracy on clean grey images too.
        name = "clean" if entry is CLEAN_ENTRY else entry_name(entry)
        models = (*store.classifier_keys(role), *keys)
        return Part(f"{ablation} {name}", models, rows, role)

    noises = store.config["ablations"]["noises"]
    chosen = [e for e in store.entries if e.severity == 1 and e.noise in noises]
    grey = [e for e in store.entries if e.noise in ("GN", "UN", "SPN")]
    return [
        *(
            detectors(kind, entry)
            for kind in store.kinds
            if kind.startswith("detector_") and kind not in _NOT_ABLATIONS
            for entry in chosen
        ),
        *(removers("data", "dcae", ("dcae", "remover"), entry) for entry in chosen),
        removers("grey", "grey", (), CLEAN_ENTRY),
        *(removers("grey", "grey", ("remover",), entry) for entry in grey),
    ]
