"""The experiments on adversarial noise training by name."""

import dataclasses
import functools
import math
from collections.abc import Sequence

import jax
import numpy as np
from jax.tree_util import Partial

from uronet_jax import sharding
from uronet_jax.attacks import ATTACKS, balls, clipping_aware_rescale
from uronet_jax.corruptions import SuiteEntry, list_corruptions, list_severities
from uronet_jax.data import evaluation_batches
from uronet_jax.defense import classifier_function
from uronet_jax.evaluation.judge import (
    CLEAN_ENTRY,
    CorruptionEntry,
    Entry,
    Judge,
    StoredEntry,
)
from uronet_jax.evaluation.noise_robustness import (
    NOISE_DIRECTIONS,
    gaussian_direction,
    learned_direction,
    noise_robustness,
)
from uronet_jax.loading import LoadedModel
from uronet_jax.models import NOISE_GENERATORS, compute_dtype, make_noise_generator
from uronet_jax.papers.adversarial_noise.models import (
    noise_models,
    noise_section,
    scanned_models,
)
from uronet_jax.papers.kinds import ModelKey
from uronet_jax.papers.laboratory import Laboratory, TidyRow
from uronet_jax.papers.made_images import save_arrays
from uronet_jax.papers.parts import PaperExperiment, Part, needs_of
from uronet_jax.papers.store import Store
from uronet_jax.seeds import named_seed
from uronet_jax.training.noise_generator import train_noise_generators
from uronet_jax.training.state import to_float

# Corruptions of a suite that are noises, and those that are no part of the first 15.
_NOISES = ("gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise")
_EXTRA = ("speckle_noise", "gaussian_blur", "spatter", "saturate")
# How many images are shown.
_SHOWN = 5
# What stands for classifiers that learned noise.
_ROBUST = "ANT 1x1"


def _models(store: Store, role: str) -> dict[str, ModelKey | None]:
    """Returns title -> model; None is the first classifier of the data set."""
    network = noise_section(store.config, role)["network"]
    return {
        title: ModelKey(role, kind, network) if kind else None
        for title, kind in noise_models(store.config, role).items()
    }


def _suite(store: Store, role: str) -> tuple[str, tuple[str, ...], tuple[int, ...]]:
    """Returns the suite that a data set is judged on, its corruptions, severities."""
    section = noise_section(store.config, role)
    suite = section["suite"]
    severities = section["tested_severities"] or list_severities(suite)
    return suite, tuple(list_corruptions(suite)), tuple(severities)


def _extra(suite: str) -> tuple[str, ...]:
    """Returns what a benchmark's mean leaves out: 4 of CIFAR-10-C's 19, identity."""
    return _EXTRA if suite == "cifar_c" else ("identity",)


class _Measured:
    """One model of a data set, and rows about it."""

    def __init__(self, lab: Laboratory, role: str, title: str, key: ModelKey | None):
        self.lab, self.role, self.title = lab, role, title
        store = lab.store
        self.section = noise_section(store.config, role)
        model = (
            lab.model(*key) if key else lab.classifier(role, store.first_title(role))
        )
        # Also one that was trained for another experiment.
        module = model.module.clone(dtype=compute_dtype(self.section["dtype"]))
        self.model: LoadedModel = dataclasses.replace(model, module=module)
        self.columns = {
            "dataset": store.dataset(role),
            "network": self.section["network_title"],
            "model": title,
        }

    @property
    def judge(self) -> Judge:
        """The test images, placed when they are asked for."""
        return self.lab.judge(self.role)

    def row(self, value, test: str, metric: str = "accuracy", shown=None, **more):
        """Returns a row about what the model was tested on."""
        shown = self.judge if shown is None else shown
        columns = {**self.columns, "test": test}
        return self.lab.row(shown, float(value), metric, **columns, **more)

    def accuracy(self, entry: Entry, judge: Judge | None = None) -> float:
        """Returns the accuracy on a degradation, in percent; by default of the test."""
        judge = judge or self.judge
        return self.lab.accuracies(judge, {"": self.model}, entry)[""]

    def corruptions(self) -> list[TidyRow]:
        """Rows of clean images, every corruption and the means over them."""
        suite, names, severities = _suite(self.lab.store, self.role)
        clean = self.accuracy(CLEAN_ENTRY)
        found = {}
        for name in names:
            entries = [CorruptionEntry(name, s, suite) for s in severities]
            if name == "identity":
                found[name] = clean
                continue
            found[name] = np.mean([self.accuracy(entry) for entry in entries])
            self.lab.store.progress.stopping()

        extra = _extra(suite)
        everything = f"{len(names)} " + (
            "with identity" if "identity" in names else "corruptions"
        )
        rows = [self.row(clean, "clean")]
        for test, left_out in (
            ("corruptions", extra),
            ("corruptions without noises", (*_NOISES, *extra)),
            (everything, ()),
        ):
            mean = np.mean([x for name, x in found.items() if name not in left_out])
            rows.append(self.row(mean, test, **_severities(suite, severities)))
        shown = {name: x for name, x in found.items() if name != "identity"}
        return rows + [self.row(x, name) for name, x in shown.items()]

    def scanned(self) -> list[TidyRow]:
        """Rows of what strengths are chosen by, and what they come to on test images.

        They are chosen by corruptions of the validation images.
        """
        suite, names, severities = _suite(self.lab.store, self.role)
        entries = [
            CorruptionEntry(name, severity, suite)
            for name in names
            if name not in _extra(suite)
            for severity in severities
        ]
        rows = []
        for ending, part in ((", validation", "validation"), ("", "test")):
            judge = self.lab.judge(self.role, part=part)
            clean, found = self.accuracy(CLEAN_ENTRY, judge), []
            for entry in entries:
                self.lab.store.progress.stopping()
                found.append(self.accuracy(entry, judge))
            more = {"shown": judge}
            rows.append(self.row(clean, f"clean{ending}", **more))
            more |= _severities(suite, severities)
            rows.append(self.row(np.mean(found), f"corruptions{ending}", **more))
        return rows

    def sigmas(self) -> list[TidyRow]:
        """Rows of accuracy under Gaussian noise of several strengths."""
        return [
            self.row(
                self.accuracy(SuiteEntry("Gaussian", 1, "gaussian_noise", sigma)),
                f"sigma {sigma:g}",
            )
            for sigma in self.section["tested_sigmas"]
        ]

    def learned(self, variant: str, count: int) -> list[Partial]:
        """Trains generators against the model; returns the directions they draw."""
        store, section = self.lab.store, self.section
        found = train_noise_generators(
            classifier_function(self.model.module),
            self.model.variables,
            store.source(self.role, "train"),
            variant=variant,
            epsilon=section["generator_epsilon"],
            num_steps=section["generator_steps"],
            batch_size=section["batch_size"],
            rate=section["restart_rate"],
            seeds=[
                named_seed(self.lab.seed, self.role, "generator", str(number))
                for number in range(count)
            ],
            mesh=store.mesh,
            progress=store.progress,
        )
        network = make_noise_generator(variant)
        return [learned_direction(network, params) for params in found]

    def eps_star(self) -> list[TidyRow]:
        """Rows of the median distance to the border along three kinds of noise.

        One that is infinite says so, and has the number of elements of an image in its
        place, as the paper has. Beside it stand, for each direction, eps*, None where
        infinite, and the percentage of the images that were never fooled.
        """
        judge = self.lab.judge(self.role, count=self.section["eps_star_images"])
        learned = self.learned("1x1", self.section["generators"])
        found = noise_robustness(
            judge,
            classifier_function(self.model.module),
            self.model.variables,
            {**NOISE_DIRECTIONS, "learned": learned},
            seed=self.lab.seed + 1,
        )
        elements = math.prod(self.lab.store.open(self.role, "test").image_shape)
        rows = []
        for x in found:
            value, each = x["eps_star"], x.get("never_fooled_each", [x["never_fooled"]])
            more = {
                "eps_stars": x.get("eps_stars", [value]),
                "never_fooled": [100 * share for share in each],
            }
            if x["infinite"]:
                value, more = elements, more | {"infinite": True}
            elif x.get("eps_star_std") is not None:
                more["std"] = x["eps_star_std"]
            rows.append(self.row(value, x["noise"], "eps_star", judge, **more))
            never = 100 * x["never_fooled"]
            rows.append(self.row(never, x["noise"], "never_fooled", judge))
        return rows

    def attacks(self) -> list[TidyRow]:
        """Rows of accuracy under PGD and DDN, within a size for each element."""
        section, store = self.section, self.lab.store
        source = store.first(self.role, "test", section["attacked_images"])
        radius = section["attack_l2"] * math.prod(source.image_shape) ** 0.5
        linf = section["attack_linf"]
        rows = []
        for test, name, epsilon, given in (
            ("PGD linf", "pgd_linf", linf, {"epsilon": linf}),
            ("DDN l2", "ddn_l2", radius, {}),
        ):
            norm = ATTACKS[name].norm
            right = self._right_under(name, source, norm, epsilon, given)
            shown = {"shown": source, "epsilon": epsilon}
            rows.append(self.row(100 * right, test, **shown))
        return rows

    def _right_under(self, name, source, norm, epsilon, given) -> float:
        """Returns the share of images that an attack within a norm leaves right."""
        mesh, size = self.lab.store.mesh, self.lab.store.config["attack"]["batch_size"]
        logits_fn = Partial(
            classifier_function(self.model.module), self.model.variables
        )
        key = sharding.replicate(jax.random.key(self.lab.seed + 1), mesh)
        held = []
        for batch in evaluation_batches(source, batch_size=size, mesh=mesh):
            self.lab.store.progress.stopping()
            images, labels = to_float(batch["image"]), batch["label"]
            found = ATTACKS[name](
                key, images, logits_fn, labels, index=batch["index"], **given
            )
            wrong = logits_fn(found).argmax(-1) != labels
            # A budget is met but for rounding.
            within = balls.size(found - images, norm) <= epsilon * (1 + 1e-5)
            held.append(np.asarray(~(wrong & within))[np.asarray(batch["mask"])])
        return float(np.concatenate(held).mean())


_MEASUREMENTS = {
    "corruptions": _Measured.corruptions,
    "sigmas": _Measured.sigmas,
    "eps_star": _Measured.eps_star,
    "attacks": _Measured.attacks,
}
# A page each: what is judged at once, and what takes many passes for an image.
_JUDGED, _ATTACKED = ("corruptions", "sigmas"), ("eps_star", "attacks")


def _learned_noise(role: str, store: Store) -> list[Part]:
    """What generators learn against the classifier on clean images, as pictures."""
    title, key = next(iter(_models(store, role).items()))

    def rows(lab):
        model = _Measured(lab, role, title, key)
        epsilon, judge = model.section["generator_epsilon"], model.judge
        clean = judge.pictures(CLEAN_ENTRY, len(judge))
        index, shape = np.arange(len(judge)), clean.shape[1:]
        directions = {
            "Gaussian": gaussian_direction,
            **{f"learned, {x}": model.learned(x, 1)[0] for x in NOISE_GENERATORS},
        }
        count = min(_SHOWN, len(judge))
        arrays, found = {"clean": clean[:count]}, []
        for name, direction in directions.items():
            noise = direction(jax.random.key(lab.seed + 1), index, shape)
            noisy = np.asarray(clipping_aware_rescale(clean, noise, epsilon))
            arrays |= {name: noisy[:count], f"{name}_noise": np.asarray(noise[:count])}
            stored = np.round(noisy * 65535).astype(np.uint16)
            values = np.asarray(noise, np.float64).ravel()
            score = (values - values.mean()) / values.std()
            right = model.accuracy(StoredEntry(name, 1, stored))
            for test, value, metric in (
                ("accuracy under it", right, "accuracy"),
                ("excess kurtosis", np.mean(score**4) - 3, "kurtosis"),
            ):
                found.append(model.row(value, test, metric) | {"model": name})
        save_arrays(store.workdir / "ant_noise.npz", arrays)
        return found

    return [Part("all", _trained(store, role, key), rows)]


def _trained(store: Store, role: str, key: ModelKey | None) -> tuple[ModelKey, ...]:
    """Returns what has to be trained before a model is judged."""
    return (key,) if key else tuple(store.classifier_keys(role, first=True))


def _defences(store: Store) -> list[Part]:
    """The universal remover, the classifier that learned noise, and both."""
    models = _models(store, "data")
    if _ROBUST not in models:
        raise ValueError(
            f"this experiment needs {_ROBUST}: add it to noise_training.models"
        )
    first, robust = models["Vanilla"], models[_ROBUST]
    remover = ModelKey("data", "remover_universal", "all")
    suite, names, severities = _suite(store, "data")

    def part(what, entries):
        def rows(lab):
            judge, plain = lab.judge("data"), _Measured(lab, "data", "Vanilla", first)
            classifiers = {"none": plain.model, _ROBUST: lab.model(*robust)}
            found = []
            for purifier in (None, lab.model(*remover)):
                mirror = bool(purifier) and store.config["universal"]["mirror"]
                measured = [
                    lab.accuracies(judge, classifiers, entry, purifier, mirror=mirror)
                    for entry in entries
                ]
                for title in classifiers:
                    values = [x[title] for x in measured]
                    numbers = {what: np.mean(values)}
                    if what.endswith("noises"):
                        numbers["worst noise"] = np.min(values)
                    columns = {"model": _in_front(purifier, title)}
                    if what.endswith("corruptions"):
                        columns |= _severities(suite, severities)
                    found += [
                        plain.row(x, test) | columns for test, x in numbers.items()
                    ]
            return found

        trained = (*_trained(store, "data", first), robust, remover)
        return Part(what, trained, rows)

    noises = "18 noises" if len(store.entries) == 18 else "noises"
    made = [CorruptionEntry(n, s, suite) for n in names for s in severities]
    return [
        part("clean", [CLEAN_ENTRY]),
        part(noises, store.entries),
        part(f"{len(names)} corruptions", made),
    ]


def _severities(suite: str, severities: Sequence[int]) -> dict[str, str]:
    """Returns the column that says at which severities a mean is."""
    known = tuple(severities) == tuple(list_severities(suite))
    return {"severities": "all" if known else ", ".join(map(str, severities))}


def _in_front(purifier: LoadedModel | None, title: str) -> str:
    if purifier is None:
        return title
    return "remover" if title == "none" else f"remover + {title}"


def _comparison(role: str, measurements: Sequence[str], store: Store) -> list[Part]:
    """The models of a data set, and what is measured of each of them."""

    def part(title, key, what):
        def rows(lab):
            return _MEASUREMENTS[what](_Measured(lab, role, title, key))

        return Part(f"{title}, {what}", _trained(store, role, key), rows)

    return [
        part(title, key, what)
        for what in measurements
        for title, key in _models(store, role).items()
    ]


def _scan(role: str, store: Store) -> list[Part]:
    """How strong the noise should be, Gaussian and learned."""
    network = noise_section(store.config, role)["network"]

    def part(title, key):
        def rows(lab):
            return _Measured(lab, role, title, key).scanned()

        return Part(title, _trained(store, role, key), rows)

    return [
        part(title, ModelKey(role, kind, network))
        for title, kind in scanned_models(store.config, role).items()
    ]


def _needs(role: str, *, classifier: bool) -> dict[str, tuple[str, ...]]:
    (needs,) = needs_of(role, classifier=classifier).values()
    return {"data": needs}  # The group of all parts.


ADVERSARIAL_NOISE_EXPERIMENTS: dict[str, PaperExperiment] = {
    "ant_cifar10": PaperExperiment(
        "classifiers trained on noise and on learned noise, CIFAR-10",
        _needs("data", classifier=True),
        functools.partial(_comparison, "data", _JUDGED),
        ("noise_training", "training"),
    ),
    "ant_cifar10_attacks": PaperExperiment(
        "the same classifiers under attack, and distances (eps*), CIFAR-10",
        _needs("data", classifier=True),
        functools.partial(_comparison, "data", _ATTACKED),
        ("noise_training", "training"),
    ),
    "ant_mnist": PaperExperiment(
        "classifiers trained on noise and on learned noise, MNIST",
        _needs("digits", classifier=False),
        functools.partial(_comparison, "digits", _JUDGED),
        ("mnist_noise_training",),
    ),
    "ant_mnist_attacks": PaperExperiment(
        "the same classifiers under attack, and distances (eps*), MNIST",
        _needs("digits", classifier=False),
        functools.partial(_comparison, "digits", _ATTACKED),
        ("mnist_noise_training",),
    ),
    "ant_mnist_scan": PaperExperiment(
        "how strong the noise should be that a classifier learns, MNIST",
        _needs("digits", classifier=False),
        functools.partial(_scan, "digits"),
        ("mnist_noise_training",),
    ),
    "ant_defences": PaperExperiment(
        "the universal remover, a classifier that learned noise, and both, CIFAR-10",
        _needs("data", classifier=True),
        _defences,
        ("noise_training", "training", "remover", "universal"),
    ),
    "ant_noise": PaperExperiment(
        "learned noise: images of it, and how it is distributed, CIFAR-10",
        _needs("data", classifier=True),
        functools.partial(_learned_noise, "data"),
        ("noise_training", "training"),
    ),
}
