"""What the experiments measure with: images on the devices, attacked images, models.

On six images and models of random weights.
"""

import dataclasses
import functools
import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from test_reproduction import load

from uronet_jax.corruptions import corrupt, entry_key, gaussian_noise
from uronet_jax.data.mixed_corruptions import store_mixed
from uronet_jax.data.sources import ArraySource
from uronet_jax.defense import classifier_function, make_defense
from uronet_jax.evaluation import attacked_copies
from uronet_jax.evaluation.defense_table import defense_table
from uronet_jax.evaluation.judge import CLEAN_ENTRY, CorruptionEntry, Judge, StoredEntry
from uronet_jax.evaluation.threat_models import AttackRun
from uronet_jax.loading import LoadedModel
from uronet_jax.models import make_classifier, make_remover
from uronet_jax.papers.all_models import open_store
from uronet_jax.papers.experiments import EXPERIMENTS
from uronet_jax.papers.kinds import entry_name
from uronet_jax.papers.laboratory import Laboratory
from uronet_jax.papers.made_images import attack_steps, save_arrays
from uronet_jax.progress import StoppedError
from uronet_jax.sharding import data_mesh


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    labels = np.arange(6) % 3
    pictures = rng.integers(0, 256, (6, 28, 28, 3), np.uint8)
    return ArraySource("noise", "test", pictures, labels, "abc")


@pytest.fixture(scope="module")
def models(make_variables):
    """Returns role -> model of random weights, which nobody needs to train."""

    config, models = {"model": {"inputs": "image"}}, {}
    for role, module, channels in (
        ("purifier", make_remover("skip", widths=(4,)), 3),
        ("detector", make_classifier("cnn_narrow", 2), 6),
        ("classifier", make_classifier("cnn_narrow", 3), 3),
    ):
        variables = make_variables(module, (28, 28, channels), seed=len(models))
        models[role] = LoadedModel(role, module, variables, (28, 28, 3), 3, config)
    return models


@pytest.fixture
def make_store(images, models, tmp_path):
    """Returns `make(folder, **attack) -> store` of the six images and the models."""

    def make(folder="", stop=lambda: False, **attack):
        config = load(attack={"num_test": 0, **attack})
        store = open_store(config, tmp_path / folder, stop=stop, progress=False)
        store.first = lambda *args: images
        store.source = store.first
        store.load_classifier = lambda role, title: models["classifier"]
        store.load = lambda key: models["purifier"]
        return store

    return make


@pytest.fixture(scope="module")
def laboratory(images, models, tmp_path_factory):
    store = open_store(load(), tmp_path_factory.mktemp("store"))
    store.first = lambda *args: images
    laboratory = Laboratory(store)
    kinds = models | {"remover": models["purifier"]}
    laboratory.model = lambda role, kind, name: kinds[kind]
    laboratory.classifier = lambda role, title: models["classifier"]
    return laboratory


def measure(laboratory, experiment, key):
    """Returns the rows of one part of an experiment."""
    parts = EXPERIMENTS[experiment].parts(laboratory.store)
    (rows,) = (part.rows for part in parts if part.key == key)
    return rows(laboratory)


def by_noise(rows, column="noise"):
    """Returns noise and severity -> value; of all classifiers, which are the same."""
    found = {(row[column], row["test_severity"], row["value"]) for row in rows}
    values = {(noise, severity): value for noise, severity, value in found}
    assert len(values) == len(found)
    return values


def test_numbers_are_those_of_the_defense_table(laboratory, models, images):
    """The same models and draws in the evaluation of a single defence."""
    store = laboratory.store
    purifier, detector, classifier = (model.module for model in models.values())
    defense = make_defense(purifier, detector, classifier_function(classifier))
    variables = {role: model.variables for role, model in models.items()}
    judge = Judge(images, batch_size=4, mesh=store.mesh, seed=laboratory.seed + 1)
    entries = [store.entry("GN_1"), store.entry("SN_3")]
    summary, expected = defense_table(judge, defense, variables, entries)
    title = next(iter(store.classifiers("data")))
    detected = by_noise(measure(laboratory, "table2", "GN_1"), "test_noise")
    undefended = by_noise(measure(laboratory, "table7", f"undefended {title}"))
    assert undefended[None, None] == pytest.approx(100 * summary["clean_accuracy"])
    for entry, row in zip(entries, expected, strict=True):
        where = entry.noise, entry.severity
        assert detected[where] == pytest.approx(100 * row["detection_accuracy"])
        assert undefended[where] == pytest.approx(100 * row["undefended_accuracy"])
        purified = by_noise(measure(laboratory, "table7", entry_name(entry)))
        assert purified[where] == pytest.approx(100 * row["purified_accuracy"])


class Digit(nn.Module):
    """A classifier by a late digit of the brightness, which any change changes."""

    scale: float

    def __call__(self, images, *, train=False):
        level = jnp.int32(self.scale * images.mean(axis=(1, 2, 3)))
        return nn.one_hot(level % 3, 3)


def test_numbers_are_those_of_the_models_by_hand(laboratory, models, images):
    judge, entry = laboratory.judge("data"), laboratory.store.entry("UN_1")
    remover, detector, classifier = models.values()
    digits = {
        title: dataclasses.replace(classifier, module=Digit(scale), variables={})
        for title, scale in (("tenths", 10.0), ("hundredths", 100.0), ("fine", 999.0))
    }
    seen, labels = judge.pictures(entry, len(images)), images.arrays()[1]

    def apply(model, x, **options):
        module = model.module.clone(**options)
        return jax.jit(module.apply)(model.variables, x)

    clean, noise = apply(remover, seen)
    # The same arithmetic in another program.
    purified = laboratory.purified(judge, remover, entry)
    np.testing.assert_allclose(purified, clean, atol=1e-5)
    logits = apply(detector, np.concatenate([seen, noise], axis=-1))
    probability = jax.nn.softmax(logits)[:, 1]
    found = laboratory.probabilities(judge, remover, detector, entry)
    np.testing.assert_allclose(found, probability, atol=1e-5)
    mirrored, _ = apply(remover, seen, mirror=True)
    accuracies = []
    for shown, behind in (
        (seen, {}),
        (clean, {"purifier": remover}),
        (mirrored, {"purifier": remover, "mirror": True}),
    ):
        answers = {t: np.argmax(apply(x, shown), axis=-1) for t, x in digits.items()}
        expected = {
            title: pytest.approx(100 * (answer == labels).mean())
            for title, answer in answers.items()
        }
        accuracies.append(laboratory.accuracies(judge, digits, entry, **behind))
        assert accuracies[-1] == expected and list(accuracies[-1]) == list(digits)
        fine = {"fine": digits["fine"]}
        alone = laboratory.accuracies(judge, fine, entry, **behind)
        assert alone == {"fine": expected["fine"]}
    assert len({tuple(found.values()) for found in accuracies}) == 3


def test_a_table_of_all_degradations_compiles_nothing_twice(laboratory):
    compiled = []
    measure(laboratory, "table2", "GN_1")
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, _, **__: "backend_compile" in event and compiled.append(event)
    )
    for name in ("UN_3", "SN_2"):
        assert len(measure(laboratory, "table2", name)) == 18
    assert not compiled


def test_degraded_images_do_not_depend_on_batches(images):
    one, two = (
        Judge(images, batch_size=size, mesh=data_mesh(), seed=3) for size in (8, 4)
    )
    clean = images.arrays()[0].astype(np.float32) / 255

    def check(entry, expected, atol):
        degraded = one.pictures(entry, len(images))
        np.testing.assert_array_equal(degraded, two.pictures(entry, len(images)))
        # The same arithmetic in another program.
        np.testing.assert_allclose(degraded, expected, atol=atol)

    gaussian = gaussian_noise(jax.random.key(3), clean, scale=0.12)
    check(open_store(load(), "unused").entry("GN_2"), gaussian, 1e-6)
    key = entry_key(3, "cifar_c/contrast", 3)
    contrast = corrupt(key, clean, "cifar_c/contrast", severity=3, uint8=True)
    check(CorruptionEntry("contrast", 3, "cifar_c"), np.asarray(contrast) / 255, 4e-6)
    check(StoredEntry("stored", 1, images.arrays()[0]), clean, 0)
    check(CLEAN_ENTRY, clean, 0)


def levels(images):
    return images / np.iinfo(images.dtype).max


def test_attacked_images_are_in_the_ball_and_made_once(
    images, models, make_store, monkeypatch
):
    store = make_store(steps=4)
    clean, labels = images.arrays()
    model, remover = models["classifier"], models["purifier"]

    def loss(x, purifier=None):
        x = x.astype(np.float32)
        if purifier is not None:
            x = purifier.module.apply(purifier.variables, x).clean
        logits = model.module.apply(model.variables, x)
        return -np.asarray(jax.nn.log_softmax(logits))[np.arange(len(labels)), labels]

    found = {name: store.attacked("data", "test", name) for name in ("IFGSM", "PGD10")}
    knowing = store.attacked(
        "data", "test", "IFGSM", remover=types.SimpleNamespace(name="SPN_1")
    )
    for attacked in (*found.values(), knowing):
        assert attacked.dtype == np.uint16 and attacked.shape == clean.shape
        distance = np.abs(levels(attacked) - levels(clean)).max(axis=(1, 2, 3))
        # Half a level of 16 bits is the rounding.
        assert distance.max() <= 0.03 + 0.5 / 65535 + 1e-7 and distance.min() > 0.02
        behind = remover if attacked is knowing else None
        assert (loss(levels(attacked), behind) > loss(levels(clean), behind)).all()
    assert (found["IFGSM"] != found["PGD10"]).any()
    assert (found["IFGSM"] != knowing).any()
    # Random starts are those of the part: images of two parts share none.
    other = store.attacked("data", "validation", "PGD0")
    assert (other != store.attacked("data", "test", "PGD0")).any()
    # Not made again, and not taken for those of other weights.
    monkeypatch.setattr(AttackRun, "raise_loss", None)
    again = store.attacked("data", "test", "IFGSM")
    np.testing.assert_array_equal(again, found["IFGSM"])
    heavier = jax.tree.map(lambda x: 2 * x, model.variables)
    store.load_classifier = lambda *_: dataclasses.replace(model, variables=heavier)
    with pytest.raises(ValueError, match="made with other weights or settings"):
        store.attacked("data", "test", "IFGSM")


def test_names_of_attacks_may_hold_their_steps():
    config = load(attack={"steps": 4})
    assert attack_steps(config, "PGD0-20") == ("PGD0", 4)
    assert attack_steps(config, "PGD0-3") == ("PGD0", 3)


def after(calls, error):
    """Returns a function that raises an error when it is called once more."""
    counted = iter(range(calls))

    def call(*args, **kwargs):
        if next(counted, None) is None:
            raise error

    return call


def sidecar(path):
    return json.loads(path.with_suffix(".json").read_text())


def test_an_attack_goes_on_where_it_was_stopped(images, make_store, monkeypatch):
    def attacked(folder, stop=lambda: False, size=4):
        store = make_store(folder, stop, batch_size=size)
        return store.attacked("data", "test", "PGD0")

    assert len(images) > 4
    undisturbed = attacked("one")
    asked = iter([False, True])
    with pytest.raises(StoppedError):
        attacked("two", lambda: next(asked))
    (path,) = make_store("two").workdir.rglob("*.npy")
    begun = path.read_bytes(), path.with_suffix(".json").read_text()
    assert sidecar(path)["done"] == [4] and not sidecar(path)["finished"]
    np.testing.assert_array_equal(np.load(path)[:4], undisturbed[:4])
    assert not np.load(path)[4:].any()
    calls = []  # It asks for each batch, of which one is left.
    whole = attacked("two", lambda: calls.append(1))
    np.testing.assert_array_equal(whole, undisturbed)
    assert sidecar(path)["finished"] and len(calls) == 1

    # With more images at once, of which it has some already.
    path.write_bytes(begun[0])
    path.with_suffix(".json").write_text(begun[1])
    other = attacked("two", size=8)
    epsilon = load()["attack"]["epsilon"]
    assert other.shape == undisturbed.shape
    distance = np.abs(levels(other) - levels(images.arrays()[0]))
    assert distance.max() <= epsilon + 1e-5  # 16 bits.

    # Killed: what was written from time to time is there.
    monkeypatch.setattr(attacked_copies, "_SAVE_EVERY", 0.0)
    raise_loss, die = AttackRun.raise_loss, after(1, KeyboardInterrupt)

    def dying(*args, **kwargs):
        die()
        return raise_loss(*args, **kwargs)

    monkeypatch.setattr(AttackRun, "raise_loss", dying)
    with pytest.raises(KeyboardInterrupt):
        attacked("three")
    monkeypatch.setattr(AttackRun, "raise_loss", raise_loss)
    (path,) = make_store("three").workdir.rglob("*.npy")
    assert sidecar(path)["done"] == [4]
    np.testing.assert_array_equal(attacked("three"), undisturbed)
    # A file that lacks images is no finished one.
    np.save(path, undisturbed[:4])
    with pytest.raises(ValueError, match=r"uint16 \[4, .* expected uint16 \[6, .*dele"):
        attacked("three")


def test_arrays_are_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "folder" / "figure.npz"
    left = path.with_name(f".{path.name}.1.npz")
    path.parent.mkdir()
    left.write_bytes(b"half written")
    save_arrays(path, {"a": np.arange(3)})
    np.testing.assert_array_equal(np.load(path)["a"], np.arange(3))
    monkeypatch.setattr(np, "savez", after(0, OSError("full")))
    with pytest.raises(OSError, match="full"):
        save_arrays(path, {"a": np.arange(4)})
    assert [x.name for x in path.parent.iterdir()] == [path.name]
    assert len(np.load(path)["a"]) == 3


def test_every_image_has_a_corruption_of_its_own(images, tmp_path):
    clean = images.arrays()[0]
    usual = {"suite": "cifar_c", "copies": 2, "seed": 3, "batch_size": 4}
    usual["mesh"] = data_mesh(jax.devices()[:1])

    def corrupt_some(folder, on_batch=lambda: None, **changes):
        path, names = tmp_path / folder / "mixed.npy", ("contrast", "pixelate")
        options = usual | changes | {"on_batch": on_batch}
        return store_mixed(path, images, names, (1, 5), **options)

    mixed = corrupt_some("one")
    assert mixed.dtype == np.uint8 and mixed.shape == (6, 2, *clean.shape[1:])
    # These two are not random: each result is one of four.
    apply = functools.partial(
        corrupt, jax.random.key(0), clean.astype(np.float32) / 255, uint8=True
    )
    names = ("cifar_c/contrast", "cifar_c/pixelate")
    possible = np.stack([apply(x, severity=y) for x in names for y in (1, 5)])
    same = (mixed.swapaxes(0, 1)[:, None] == possible[None]).all(axis=(3, 4, 5))
    assert same.any(axis=1).all()
    drawn = same.argmax(axis=1)
    assert len(np.unique(drawn)) == 4 and (drawn[0] != drawn[1]).any()

    # Killed in the second block, it goes on there, whatever the batches.
    with pytest.raises(KeyboardInterrupt):
        corrupt_some("two", after(2, KeyboardInterrupt))
    path = tmp_path / "two" / "mixed.npy"
    done = sidecar(path)["done"]
    assert 0 < len(done) < 4 and not sidecar(path)["finished"]
    calls = []
    again = corrupt_some("two", lambda: calls.append(1), batch_size=8)
    np.testing.assert_array_equal(again, mixed)
    assert len(calls) == 4 - len(done)
    corrupt_some("two", after(0, KeyboardInterrupt))  # Nothing is left to do.
    with pytest.raises(ValueError, match="made with other weights or settings"):
        corrupt_some("two", copies=3)


def test_corrupted_copies_are_of_their_part(make_store, images, monkeypatch):
    made = {}

    def store_mixed(path, source, names, severities, *, on_batch, **options):
        assert source is images
        on_batch()
        made[path.stem] = options

    monkeypatch.setattr("uronet_jax.papers.store.store_mixed", store_mixed)
    for part in ("train", "validation"):
        make_store().corrupted("data", part)
    assert [x["copies"] for x in made.values()] == [2, 1]
    assert made["train"]["seed"] != made["validation"]["seed"]
    with pytest.raises(StoppedError):
        make_store(stop=lambda: True).corrupted("data", "train")
