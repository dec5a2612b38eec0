"""The experiments on reconstructive training by name."""

from collections.abc import Mapping

import numpy as np

from uronet_jax.data import evaluation_batches
from uronet_jax.data.stored import StoredArray
from uronet_jax.defense import DefenseFunction, classifier_function
from uronet_jax.evaluation.attack_judge import AttackJudge
from uronet_jax.evaluation.judge import CLEAN_ENTRY, Entry
from uronet_jax.evaluation.threat_models import THREAT_MODELS
from uronet_jax.image_quality import psnr, ssim
from uronet_jax.loading import LoadedModel
from uronet_jax.papers.kinds import ModelKey
from uronet_jax.papers.laboratory import Laboratory, TidyRow
from uronet_jax.papers.made_images import save_arrays
from uronet_jax.papers.parts import PaperExperiment, Part, needs_of
from uronet_jax.papers.reconstructive.models import (
    NO_REMOVER,
    QUILTING_TITLE,
    REMOVER_TITLE,
    attack_runs,
    autoencoders,
    control,
    named_remover,
    transformations,
    white_box_runs,
)
from uronet_jax.papers.store import Store
from uronet_jax.purifiers import make_transformation
from uronet_jax.transformations.quilting import extract_patches

_NONE, _CLEAN = "none", "clean"
# Where patches come from, and their side.
_LEARNED, _PATCH = ("data", "train"), 5
# The URoNet remover that stands beside the others, where none is named.
_REMOVER = ModelKey("data", "remover_universal", "all")
# Ending of the title of an attack that is led away from what the classifier says.
_OF_PREDICTIONS = " of predictions"
# Images of the picture.
_SHOWN = 5

# Title -> what stands before the classifier: nothing, a transformation, a model.
_Defences = Mapping[str, "str | ModelKey | None"]


def _defences(store: Store) -> _Defences:
    section = store.config["reconstructive"]
    found = {_NONE: None, **transformations(store.config)}
    if section["patches"]:
        found[QUILTING_TITLE] = QUILTING_TITLE
    found |= autoencoders(store.config)
    if section["remover"] == NO_REMOVER:
        return found
    return found | {REMOVER_TITLE: _REMOVER} | named_remover(store.config)


def _trained(store: Store, *keys: str | ModelKey | None) -> tuple[ModelKey, ...]:
    models = [key for key in keys if isinstance(key, ModelKey)]
    return tuple(models) + tuple(store.classifier_keys("data"))


def _purifier(lab: Laboratory, what: str | ModelKey | None) -> LoadedModel | None:
    if what is None:
        return None
    if what == QUILTING_TITLE:
        return _quilting(lab)
    return lab.purifier(what) if isinstance(what, str) else lab.model(*what)


def _quilting(lab: Laboratory) -> LoadedModel:
    """Quilting with patches of the training images, which are kept on disk."""
    store = lab.store
    count, source = store.config["reconstructive"]["patches"], store.source(*_LEARNED)
    made_of = {"images": [source.name, source.split, len(source)], "count": count}
    made_of["seed"] = store.config["seed"]
    shape = (count, _PATCH, _PATCH, source.image_shape[-1])
    path = store.workdir / "patches" / "patches.npy"
    stored = StoredArray(path, shape, np.float32, made_of)
    if not stored.finished:
        images, _ = source.arrays()
        stored.array[:] = extract_patches(images, count, _PATCH, seed=made_of["seed"])
        stored.mark(count, finished=True)
    made = make_transformation(QUILTING_TITLE)
    config = {"model": {"name": QUILTING_TITLE}}
    patches = np.asarray(stored.array)
    return lab.place(LoadedModel("purifier", made, patches, None, None, config))


def _entries(lab: Laboratory, title: str) -> dict[str, Entry]:
    """Returns the attacked images of a classifier."""
    attacks = attack_runs(lab.store.config)
    return {name: lab.attacked("data", name, title) for name in attacks}


def _led(lab: Laboratory, title: str) -> dict[str, Entry]:
    """Returns those of one attack, led away from labels and from predictions."""
    attack = _first_learned(lab.store)
    return {
        f"{attack}{ending}": lab.attacked("data", attack, title, labels=labels)
        for ending, labels in (("", "true"), (_OF_PREDICTIONS, "predictions"))
    }


def _first_learned(store: Store) -> str:
    return store.config["reconstructive"]["learned"][0]


def _columns(lab: Laboratory, classifier: str, defence: str) -> dict[str, str]:
    dataset = lab.store.dataset("data")
    return {"dataset": dataset, "classifier": classifier, "defence": defence}


def _grey_box(store: Store, title: str, defence: str, what, entries=_entries) -> Part:
    """What a defence gives back that the attacker does not know, and how it looks."""

    def rows(lab: Laboratory) -> list[TidyRow]:
        judge = lab.judge("data", count=store.config["reconstructive"]["num_test"])
        classifier = {title: lab.classifier("data", title)}
        purifier = _purifier(lab, what)
        columns = _columns(lab, title, defence) | {"threat": "grey box"}
        clean = judge.pictures(CLEAN_ENTRY, len(judge))
        found = []
        shown = {_CLEAN: CLEAN_ENTRY, **entries(lab, title)}
        for attack, entry in shown.items():
            store.progress.stopping()
            right = lab.accuracies(judge, classifier, entry, purifier)[title]
            if purifier is None:
                seen = judge.pictures(entry, len(judge))
            else:
                seen = lab.purified(judge, purifier, entry)
            numbers = {"accuracy": right}
            if purifier is not None or attack != _CLEAN:  # Else infinite.
                numbers["psnr"] = _mean(psnr, seen, clean)
                numbers["ssim"] = _mean(ssim, seen, clean)
            place = columns | {"attack": attack}
            found += [
                lab.row(judge, x, metric, **place) for metric, x in numbers.items()
            ]
        return found

    return Part(f"{defence}, grey box", _trained(store, what), rows)


def _mean(measure, images, clean) -> float:
    """Returns the mean over images, in slices that do not fill the memory."""
    slices = [slice(i, i + 250) for i in range(0, len(images), 250)]
    return float(np.mean([x for s in slices for x in measure(images[s], clean[s])]))


def _white_box(store: Store, title: str, defence: str, what) -> Part:
    """What is left of a defence that the attacker knows."""

    def rows(lab: Laboratory) -> list[TidyRow]:
        section = store.config["reconstructive"]
        source = store.first("data", "test", section["num_white_box"])
        classifier, purifier = lab.classifier("data", title), _purifier(lab, what)
        models = {"classifier": classifier, "purifier": purifier}
        judge = AttackJudge(
            DefenseFunction(
                classifier_function(classifier.module), purifier and purifier.module
            ),
            {name: x.variables for name, x in models.items() if x is not None},
            evaluation_batches(
                source,
                batch_size=store.config["attack"]["batch_size"],
                mesh=store.mesh,
            ),
            mesh=store.mesh,
            seed=lab.seed + 1,
        )
        columns = _columns(lab, title, defence) | {"threat": "white box"}
        found = []
        for attack, run in white_box_runs(store.config).items():
            store.progress.stopping()
            row, _ = judge.attack(THREAT_MODELS["adaptive"], run)
            if not found:
                clean = 100 * row["clean_accuracy"]
                place = columns | {"attack": _CLEAN}
                found.append(lab.row(source, clean, "accuracy", **place))
            evidence = {name: row[name] for name in ("attempts", "randomness")}
            for metric, value, more in (
                ("accuracy", row["robust_accuracy"], evidence),
                ("zero_gradients", row["zero_gradients"], {}),
            ):
                place = columns | {"attack": attack} | more
                found.append(lab.row(source, 100 * value, metric, **place))
        return found

    return Part(f"{defence}, white box", _trained(store, what), rows)


def _comparison(store: Store) -> list[Part]:
    """Table 2: the classifier that autoencoders learned before; and white boxes."""
    title, defences = store.first_title("data"), _defences(store)
    grey = [_grey_box(store, title, *x) for x in defences.items()]
    left_out = store.config["reconstructive"]["no_white_box"]
    known = [x for x in defences.items() if x[0] not in left_out]
    return grey + [_white_box(store, title, *x) for x in known]


def _transfer(store: Store) -> list[Part]:
    """Table 3: another classifier is attacked, and classifies."""
    *_, title = store.classifiers("data")
    if title == store.first_title("data"):
        raise ValueError(
            "reconstructive_transfer needs another classifier: set "
            "--config.data.other_classifier"
        )
    return [
        _grey_box(store, title, defence, what)
        for defence, what in _defences(store).items()
    ]


def _leak(store: Store) -> list[Part]:
    """Whether labels leak: the same attack led away from what the classifier says."""
    title, attack = store.first_title("data"), _first_learned(store)
    name = f"RT ({attack})"
    defences = {
        _NONE: None,
        name: autoencoders(store.config)[name],
        f"RT ({attack}{_OF_PREDICTIONS})": control(attack),
    }
    return [_grey_box(store, title, *x, entries=_led) for x in defences.items()]


def _perturbations(store: Store) -> list[Part]:
    """Figure 1: how far attacked images are from the originals, before and after."""
    attack = store.config["reconstructive"]["learned"][-1]
    defence, key = f"RT ({attack})", autoencoders(store.config)[f"RT ({attack})"]

    def rows(lab: Laboratory) -> list[TidyRow]:
        title = store.first_title("data")
        judge = lab.judge("data", count=store.config["reconstructive"]["num_test"])
        entry = lab.attacked("data", attack, title)
        clean = judge.pictures(CLEAN_ENTRY, len(judge))
        shown = {
            "attacked": judge.pictures(entry, len(judge)),
            "reconstructed": lab.purified(judge, lab.model(*key), entry),
        }
        arrays, found = {"original": clean[:_SHOWN]}, []
        for name, images in shown.items():
            change = np.abs(images - clean)
            # As in the paper, but amplified so that they can be seen.
            arrays[f"{name},_10_times_the_change"] = np.clip(10 * change[:_SHOWN], 0, 1)
            columns = _columns(lab, title, defence) | {"attack": f"{attack}, {name}"}
            columns["threat"] = "grey box"
            value = float(255 * change.mean())  # In levels.
            found.append(lab.row(judge, value, "mean_absolute_change", **columns))
        save_arrays(store.workdir / "reconstructive_figure1.npz", arrays)
        return found

    return [Part("all", _trained(store, key), rows)]


_SETTINGS = ("reconstructive", "attack", "training", "universal", "remover")


def _needs() -> dict[str, tuple[str, ...]]:
    (needs,) = needs_of("data", classifier=True).values()
    return {"data": needs}


RECONSTRUCTIVE_EXPERIMENTS: dict[str, PaperExperiment] = {
    "reconstructive": PaperExperiment(
        "reconstructive training and input transformations under attack",
        _needs(),
        _comparison,
        _SETTINGS,
        named_remover,
    ),
    "reconstructive_transfer": PaperExperiment(
        "the same before another classifier",
        _needs(),
        _transfer,
        _SETTINGS,
        named_remover,
    ),
    "reconstructive_labels": PaperExperiment(
        "whether labels leak into what reconstructive training learns on",
        _needs(),
        _leak,
        _SETTINGS,
    ),
    "reconstructive_figure1": PaperExperiment(
        "perturbations before and after reconstruction",
        _needs(),
        _perturbations,
        _SETTINGS,
    ),
}
