"""What the experiments measure with: images on the devices, attacked images, models.

On six images and models of random weights.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_reproduction import load

from uronet_jax.corruptions import corrupt, entry_key, gaussian_noise
from uronet_jax.data import evaluation_batches
from uronet_jax.data.mixed_corruptions import corrupt_mixed
from uronet_jax.data.sources import ArraySource
from uronet_jax.evaluation import protocols
from uronet_jax.models import make_classifier, make_remover
from uronet_jax.papers import made_images
from uronet_jax.papers.laboratory import (
    Examples,
    Laboratory,
    Placed,
    banding,
    dead_columns,
)
from uronet_jax.papers.made_images import ImageMaker, attack_steps
from uronet_jax.papers.progress import StoppedError
from uronet_jax.papers.store import Zoo
from uronet_jax.papers.uronet.experiments import EXPERIMENTS
from uronet_jax.papers.uronet.kinds import entry_name
from uronet_jax.sharding import data_mesh


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    labels = np.arange(6) % 3
    pictures = rng.integers(0, 256, (6, 28, 28, 3), np.uint8)
    return ArraySource("noise", "test", pictures, labels, "abc")


@pytest.fixture(scope="module")
def laboratory(images, make_variables, tmp_path_factory):
    """Returns a laboratory of random models, which nobody needs to train."""
    zoo = Zoo(load(), tmp_path_factory.mktemp("zoo"))
    zoo.first = lambda *args: images
    remover = make_remover("skip", widths=(4,))
    detector = make_classifier("cnn_narrow", 2)
    classifier = make_classifier("cnn_narrow", 3)
    modules = {"remover": (remover, 3), "detector": (detector, 6)}
    modules["classifier"] = (classifier, 3)
    models = {
        name: Placed(module, make_variables(module, (28, 28, channels), seed=number))
        for number, (name, (module, channels)) in enumerate(modules.items())
    }
    laboratory = Laboratory(zoo)
    laboratory.model = lambda role, kind, name: models[kind]
    laboratory.classifier = lambda role, title: models["classifier"]
    return laboratory


def measure(laboratory, experiment, key):
    """Returns the rows of one part of an experiment."""
    parts = EXPERIMENTS[experiment].parts(laboratory.zoo)
    (rows,) = (part.rows for part in parts if part.key == key)
    return rows(laboratory)


def test_numbers_are_those_of_the_defence_table(laboratory, images):
    """The same models and draws in the evaluation of a single defence."""
    zoo = laboratory.zoo
    models = {
        name: laboratory.model("data", name, "")
        for name in ("remover", "detector", "classifier")
    }
    batches = list(evaluation_batches(images, batch_size=4, mesh=zoo.mesh))
    judge = protocols.Judge(
        lambda variables, x: models["classifier"].module.apply(variables, x),
        {name: model.variables for name, model in models.items()},
        batches,
        mesh=zoo.mesh,
        remover=models["remover"].module,
        detector=models["detector"].module,
        seed=laboratory.seed + 1,
    )
    entries = [zoo.entry("GN_1"), zoo.entry("SN_3")]
    summary, expected = protocols.defence_table(judge, entries)
    detected = {
        (row["test_noise"], row["test_severity"]): row["value"]
        for row in measure(laboratory, "table2", "GN_1")
    }
    title = next(iter(zoo.classifiers("data")))
    undefended = {
        (row["noise"], row["test_severity"]): row["value"]
        for row in measure(laboratory, "table7", f"undefended {title}")
    }
    assert undefended[None, None] == pytest.approx(100 * summary["clean_accuracy"])
    for entry, row in zip(entries, expected, strict=True):
        where = entry.noise, entry.severity
        assert detected[where] == pytest.approx(100 * row["detection_accuracy"])
        assert undefended[where] == pytest.approx(100 * row["undefended_accuracy"])
        (purified,) = {
            r["value"]
            for r in measure(laboratory, "table7", entry_name(entry))
            if r["test_severity"] == entry.severity
        }
        assert purified == pytest.approx(100 * row["purified_accuracy"])


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
        Examples(images, batch_size=size, mesh=data_mesh(), seed=3) for size in (8, 4)
    )
    entry = Zoo(load(), "unused").entry("GN_2")

    def joined(examples, found):
        return np.concatenate([np.asarray(x) for x in found])[examples.mask]

    degraded = joined(one, one.degraded(entry))
    np.testing.assert_array_equal(degraded, joined(two, two.degraded(entry)))
    clean = images.arrays()[0].astype(np.float32) / 255
    expected = gaussian_noise(jax.random.key(3), clean, scale=0.12)
    # The same arithmetic in another program.
    np.testing.assert_allclose(degraded, expected, atol=1e-6)
    assert one.degraded(entry) is one.degraded(entry)  # Made once.
    contrast = joined(one, one.corrupted("cifar_c", "contrast", 3))
    key = entry_key(3, "cifar_c/contrast", 3)
    expected = corrupt(key, clean, "cifar_c/contrast", severity=3, uint8=True)
    np.testing.assert_allclose(255 * contrast, np.asarray(expected), atol=1e-3)
    np.testing.assert_array_equal(
        joined(two, two.stored(images.arrays()[0])), joined(two, two.clean())
    )


def test_bands_are_horizontal_and_as_strong_as_asked(key):
    grey = jnp.full((3, 16, 8, 3), 0.5)
    out = np.asarray(banding(key, grey, 0.1, jnp.arange(3)))
    assert out.std(axis=(2, 3)).max() < 1e-6  # Every row is of one grey.
    swing = np.abs(out - 0.5).max(axis=(1, 2, 3))
    # 16 rows and at most 6 waves: a sample is never far from a crest.
    assert (swing <= 0.1 + 1e-6).all() and (swing > 0.08).all()
    assert np.abs(out[0] - out[1]).max() > 0.01
    same = banding(key, grey[1:2], 0.1, jnp.asarray([1]))
    np.testing.assert_allclose(out[1:2], same, atol=1e-6)


@pytest.mark.parametrize("count", [1, 3])
def test_as_many_columns_die_as_asked(count, key):
    white = jnp.ones((4, 8, 16, 1))
    out = np.asarray(dead_columns(key, white, count, jnp.arange(4)))
    columns = out.min(axis=(1, 3))
    assert set(np.unique(out)) == {0.0, 1.0}
    np.testing.assert_array_equal(columns, out.max(axis=(1, 3)))
    np.testing.assert_array_equal((columns == 0).sum(axis=1), count)
    assert len({tuple(row) for row in columns}) > 1


def test_attacked_images_are_in_the_ball_and_made_once(
    images, make_variables, tmp_path, monkeypatch
):
    config = load(attack={"num_test": 0, "steps": 4})
    zoo = Zoo(config, tmp_path, progress=False)
    zoo.first = lambda *args: images
    module = make_classifier("cnn_narrow", 3)
    variables = make_variables(module, (28, 28, 3))
    model = Placed(module, variables)
    monkeypatch.setattr(zoo, "load_classifier", lambda role, title: model)
    clean, labels = images.arrays()

    def loss(x):
        logits = np.asarray(module.apply(variables, x.astype(np.float32)))
        logits = logits - logits.max(axis=-1, keepdims=True)
        norm = np.log(np.exp(logits).sum(axis=-1))
        return norm - logits[np.arange(len(labels)), labels]

    def levels(images):
        return images / np.iinfo(images.dtype).max

    found = {name: zoo.attacked("data", "test", name) for name in ("IFGSM", "PGD10")}
    for attacked in found.values():
        assert attacked.dtype == np.uint16 and attacked.shape == clean.shape
        distance = np.abs(levels(attacked) - levels(clean)).max(axis=(1, 2, 3))
        # Half a level of 16 bits is the rounding.
        assert distance.max() <= 0.03 + 0.5 / 65535 + 1e-7 and distance.min() > 0.02
        assert (loss(levels(attacked)) > loss(levels(clean))).all()
    assert (found["IFGSM"] != found["PGD10"]).any()
    # Random starts are those of the part: images of two parts share none.
    other = zoo.attacked("data", "validation", "PGD0")
    assert (other != zoo.attacked("data", "test", "PGD0")).any()
    monkeypatch.setattr(ImageMaker, "_attack", None)  # Not called again.
    again = zoo.attacked("data", "test", "IFGSM")
    np.testing.assert_array_equal(again, found["IFGSM"])
    assert attack_steps(config, "PGD0-20") == ("PGD0", 4)
    assert attack_steps(config, "PGD0-3") == ("PGD0", 3)
    heavier = jax.tree.map(lambda x: 2 * x, variables)
    monkeypatch.setattr(
        zoo, "load_classifier", lambda role, title: Placed(module, heavier)
    )
    with pytest.raises(ValueError, match="made with other weights or settings"):
        zoo.attacked("data", "test", "IFGSM")


def test_an_attack_goes_on_where_it_was_stopped(
    images, make_variables, tmp_path, monkeypatch
):
    module = make_classifier("cnn_narrow", 3)
    model = Placed(module, make_variables(module, (28, 28, 3)))
    asked = 0

    def stop():
        nonlocal asked
        asked += 1
        return asked == 2

    def zoo(folder, stop=lambda: False, size=4):
        config = load(attack={"num_test": 0, "batch_size": size})
        found = Zoo(config, tmp_path / folder, stop=stop, progress=False)
        found.first, found.load_classifier = (
            lambda *a: images,
            lambda role, title: model,
        )
        return found

    assert len(images) > 4
    undisturbed = zoo("one").attacked("data", "test", "PGD0")
    disturbed = zoo("two", stop)
    with pytest.raises(StoppedError):
        disturbed.attacked("data", "test", "PGD0")
    (path,) = (tmp_path / "two").rglob("*.npz")
    with np.load(path) as file:
        assert len(file["images"]) == 4 and not file["done"]
    begun = path.read_bytes()
    whole = disturbed.attacked("data", "test", "PGD0")
    np.testing.assert_array_equal(whole, undisturbed)

    # With more images at once, of which it has some already.
    path.write_bytes(begun)
    left = path.with_name(f".{path.name}.1.npz")
    left.write_bytes(b"half written")
    other = zoo("two", size=8).attacked("data", "test", "PGD0")
    assert not left.exists()
    epsilon = load()["attack"]["epsilon"]
    assert other.shape == undisturbed.shape
    clean = images.arrays()[0] / 255
    assert np.abs(other / 65535 - clean).max() <= epsilon + 1e-5  # 16 bits.

    # Killed: what was written from time to time is there.
    monkeypatch.setattr(made_images, "_SAVE_EVERY", 0.0)
    pgd, calls = made_images.pgd, []

    def dying(*args, **options):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return pgd(*args, **options)

    monkeypatch.setattr(made_images, "pgd", dying)
    with pytest.raises(KeyboardInterrupt):
        zoo("three").attacked("data", "test", "PGD0")
    (path,) = (tmp_path / "three").rglob("*.npz")
    with np.load(path) as file:
        np.testing.assert_array_equal(file["images"], undisturbed[:4])
    again = zoo("three").attacked("data", "test", "PGD0")
    np.testing.assert_array_equal(again, undisturbed)
    # A file that lacks images is no finished one.
    with np.load(path) as file:
        short = dict(file) | {"images": undisturbed[:4]}
    made_images.save_arrays(path, short)
    with pytest.raises(ValueError, match="holds 4 images of 6: delete the file"):
        zoo("three").attacked("data", "test", "PGD0")


def test_every_image_has_a_corruption_of_its_own(images):
    clean = images.arrays()[0]
    mesh = data_mesh(jax.devices()[:1])
    arguments = {"suite": "cifar_c", "seed": 3, "batch_size": 4, "mesh": mesh}

    def corrupt_some(names, severities, copies):
        return corrupt_mixed(clean, names, severities, copies=copies, **arguments)

    mixed = corrupt_some(("contrast", "pixelate"), (1, 5), 2)
    assert mixed.dtype == np.uint8 and mixed.shape == (2, *clean.shape)
    np.testing.assert_array_equal(
        mixed, corrupt_some(("contrast", "pixelate"), (1, 5), 2)
    )
    # These two are not random: each result is one of four.
    possible = np.stack(
        [
            np.asarray(
                corrupt(
                    jax.random.key(0),
                    jnp.asarray(clean, jnp.float32) / 255,
                    f"cifar_c/{name}",
                    severity=severity,
                    uint8=True,
                )
            )
            for name in ("contrast", "pixelate")
            for severity in (1, 5)
        ]
    )
    same = (mixed[:, None] == possible[None]).all(axis=(3, 4, 5))
    assert same.any(axis=1).all()
    drawn = same.argmax(axis=1)
    assert len(np.unique(drawn)) == 4 and (drawn[0] != drawn[1]).any()
