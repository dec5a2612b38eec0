"""The experiments: rows are those of the published tables, and count what they say."""

import csv
import dataclasses
import importlib
import json
import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from uronet_jax.corruptions import corrupt, entry_key, gaussian_noise, make_degradation
from uronet_jax.data import evaluation_batches
from uronet_jax.data.sources import ArraySource
from uronet_jax.defense import DETECTOR_INPUTS
from uronet_jax.evaluation import protocols, reproduction
from uronet_jax.evaluation.laboratory import (
    Examples,
    Laboratory,
    Placed,
    banding,
    dead_columns,
)
from uronet_jax.evaluation.mixed_corruptions import corrupt_mixed
from uronet_jax.evaluation.reproduction import EXPERIMENTS
from uronet_jax.evaluation.zoo import ModelKey, StoppedError, Zoo, entry_name
from uronet_jax.models import make_classifier, make_remover
from uronet_jax.sharding import data_mesh
from uronet_jax.training import stored
from uronet_jax.training.state import create_state

PUBLISHED = Path(reproduction.__file__).parent.parent / "reports" / "published"


@pytest.fixture(scope="module", autouse=True)
def quick_compilation():
    """Compiles for the few calls that these tests make."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def load(preset="smoke", **sections):
    """Returns the config as plain dicts, with some fields of sections changed."""
    config = importlib.import_module("configs.reproduce").get_config(preset).to_dict()
    for section, fields in sections.items():
        config[section].update(fields)
    return config


class Paper(Laboratory):
    """Measures nothing: images are texts of how they were made, numbers their hash.

    So all experiments run in a second, and what was measured can be told by its number.
    """

    def __init__(self, zoo):
        super().__init__(zoo)
        # Not cached, so that every part is seen to ask for what it uses.
        self.model, self.classifier = self._model, self._classifier

    def _examples(self, role, *, attacked=False, part="test"):
        return NoExamples(role, attacked, part)

    def _model(self, role, kind, name):
        key = ModelKey(role, kind, name)
        assert key in self.trained, f"{key} was not asked for"
        return key

    def _classifier(self, role, title):
        source = self.zoo.classifiers(role)[title]
        assert source.removeprefix("train:") in {k.name for k in self.trained}
        return title

    def attacked(self, role, attack, title=None, remover=None):
        title = title or next(iter(self.zoo.classifiers(role)))
        return [f"{attack} on {title} of {role} behind {remover and remover.name}"]

    def purify(self, remover, images, *, mirror=False):
        return [f"{x} by {remover.kind} {remover.name}, {mirror}" for x in images]

    def probabilities(self, remover, detector, examples, images):
        if self.zoo.kinds[detector.kind].remover:
            # A detector knows the noise patterns of one remover.
            assert remover == detector._replace(
                kind=self.zoo.kinds[detector.kind].remover
            )
        return probabilities(detector.kind, detector.name, *images)

    def accuracy(self, classifier, examples, pictures):
        return number(classifier, *pictures)


def number(*names):
    return zlib.crc32(" ".join(names).encode()) % 10_000 / 100


def probabilities(*names):
    return np.random.default_rng(int(100 * number(*names))).random(50)


def detection(kind, name, noisy, clean="data clean"):
    found = protocols.detection_metrics(
        probabilities(kind, name, clean), probabilities(kind, name, noisy)
    )
    return 100 * found["detection_accuracy"]


class NoExamples:
    source = "nothing"

    def __init__(self, role, attacked, part):
        self.name = role if part == "test" else f"{role} {part}"

    def __len__(self):
        return 2

    def clean(self):
        return [f"{self.name} clean"]

    def degraded(self, entry, *, draw=0):
        return [f"{self.name} {entry_name(entry)}"]

    def corrupted(self, *args):
        return [f"{self.name} {args}"]

    changed = corrupted


def paper_rows(experiment, tmp_path, **sections):
    zoo = Zoo(load(**sections), tmp_path)
    laboratory = Paper(zoo)
    parts = EXPERIMENTS[experiment].parts(zoo)
    assert len({part.key for part in parts}) == len(parts)
    rows = []
    for part in parts:
        assert part.group in EXPERIMENTS[experiment].needs
        laboratory.trained = set(part.models)
        rows += part.rows(laboratory)
    return rows


def keys(rows, columns):
    """Returns the rows as texts, empty where a column does not apply."""
    found = [
        tuple("" if row[column] is None else str(row[column]) for column in columns)
        for row in rows
    ]
    assert len(set(found)) == len(found), "a number was measured twice"
    return set(found)


# Table -> the part of the published rows that is the paper's own method.
OURS = {
    "table11": lambda row: row["defence"].startswith("URoNet"),
    "table12": lambda row: not row["method"].startswith(("Salman", "Xie")),
}


@pytest.mark.parametrize("number", [2, 3, 4, 5, 6, 7, 8, 11, 12])
def test_rows_are_those_of_the_published_table(number, tmp_path):
    path = PUBLISHED / f"uronet_table{number:02}.csv"
    with open(path, encoding="utf-8") as file:
        published = list(csv.DictReader(file))
    rows = paper_rows(f"table{number}", tmp_path)
    columns = [c for c in published[0] if c not in ("value", "note")]
    ours = [row for row in published if OURS.get(f"table{number}", lambda _: 1)(row)]
    assert keys(ours, columns) <= keys(rows, columns)
    for row in rows:
        assert row.keys() >= {*columns, "value", "seed", "num_images"}
        assert 0.0 <= row["value"] <= 100.0


def cell(rows, **where):
    (found,) = (r for r in rows if all(r[name] == where[name] for name in where))
    return found["value"]


def test_numbers_are_of_the_models_and_images_that_their_columns_name(tmp_path):
    rows = {n: paper_rows(f"table{n}", tmp_path) for n in (2, 4, 5, 6, 7, 11, 12)}
    rows["figure6"] = paper_rows("figure6", tmp_path)
    trained = {"train_noise": "GN", "train_severity": 2}
    assert cell(rows[2], **trained, test_noise="UN", test_severity=3) == detection(
        "detector", "GN_2", "data UN_3"
    )
    assert cell(
        rows[4],
        train_dataset="CIFAR-10",
        train_noise="SN",
        test_noise="IN",
        test_severity=1,
    ) == detection("detector", "SN_1", "second IN_1", "second clean")
    attacks = {"IFGSM": "IFGSM", "PGD": "PGD0"}
    for label, attack in attacks.items():
        attacked = f"{attack} on ResNet of data behind None"
        assert cell(
            rows[5], dataset="CIFAR-10", **trained, test_attack=label
        ) == detection("detector", "GN_2", attacked)
    assert cell(
        rows[6], train_attack="PGD40", test_noise="SN", test_severity=2
    ) == detection("detector_attack", "PGD0-40", "data SN_2")
    # A remover of severity 3 on images of severity 1, and none.
    common = {"classifier": "Wide-ResNet16-8", "noise": "SN", "test_severity": 1}
    assert cell(
        rows[7], **common, condition="mitigated", remover_train_severity=3
    ) == number("Wide-ResNet16-8", "data SN_1 by remover SN_3, False")
    assert cell(rows[7], **common, condition="noisy") == number(
        "Wide-ResNet16-8", "data SN_1"
    )
    for defence, seen in (
        ("none", "PGD10 on ResNet of data behind None"),
        (
            "URoNet (SPN-trained remover)",
            "PGD10 on ResNet of data behind None by remover SPN_1, False",
        ),
        (
            "URoNet (SPN-trained remover), white box",
            "PGD10 on ResNet of data behind SPN_1 by remover SPN_1, False",
        ),
    ):
        assert cell(
            rows[11], dataset="CIFAR-10", defence=defence, attack="PGD-10"
        ) == number("ResNet", seen)
    for method, made in (
        ("none (raw corrupted)", "data UN_3"),
        ("DCAE (single-output denoising autoencoder)", "data UN_3 by dcae UN_3, False"),
        ("URoNet", "data UN_3 by remover UN_3, False"),
    ):
        assert cell(rows[12], classifier="ResNet", noise="UN", method=method) == number(
            "ResNet", made
        )
    # Made for one classifier, shown to the other, behind a remover.
    seen = "IFGSM on Wide-ResNet16-8 of data behind None"
    where = {"attack": "IFGSM", "attacked_classifier": "Wide-ResNet16-8"}
    where |= {"classifier": "ResNet"}
    bare = number("ResNet", seen)
    purified = number("ResNet", f"{seen} by remover SN_1, False")
    of_figure = rows["figure6"]
    assert cell(of_figure, **where, metric="adversarial_accuracy") == bare
    assert (
        cell(of_figure, **where, train_noise="SN", metric="robust_accuracy") == purified
    )
    assert cell(
        of_figure, **where, train_noise="SN", metric="accuracy_gain"
    ) == pytest.approx(purified - bare)


def test_figure_6_has_the_columns_of_the_published_claims(tmp_path):
    with open(PUBLISHED / "uronet_figure06.csv", encoding="utf-8") as file:
        columns = [c for c in next(csv.reader(file)) if c not in ("value", "note")]
    rows = paper_rows("figure6", tmp_path)
    found = keys(rows, columns)
    # Own and transferred attacks, three of them, behind the removers of six noises.
    gains = [row for row in rows if row["metric"] == "accuracy_gain"]
    assert len(gains) == 2 * 2 * 3 * 6
    assert {row["train_severity"] for row in gains} == {1}
    own = ("CIFAR-10", "ResNet", "GN", "PGD0", "ResNet", "accuracy_gain")
    transferred = ("CIFAR-10", "ResNet", "GN", "PGD0", "Wide-ResNet16-8", own[-1])
    assert {own, transferred} <= found


def test_the_other_experiments_measure_what_their_names_say(tmp_path):
    rows = paper_rows("ablations", tmp_path)
    found = {row["ablation"] for row in rows}
    detectors = {"detector_other", "detector_image_only", "detector_clean"}
    assert found == {*detectors, "dcae", "grey"}
    for row in rows:
        if row["ablation"] in detectors:
            kind = "detector" if row["own"] else row["ablation"]
            name = f"{row['train_noise']}_{row['train_severity']}"
            noisy = f"data {row['test_noise']}_{row['test_severity']}"
            assert row["value"] == detection(kind, name, noisy)
    where = ("ablation", "variant", "metric", "classifier", "dataset")
    noise = ("train_noise", "train_severity", "test_noise", "test_severity")
    keys([dict.fromkeys((*where, *noise)) | row for row in rows], (*where, *noise))
    grey = [row for row in rows if row["ablation"] == "grey"]
    assert {row["dataset"] for row in grey} == {"Fashion-MNIST"}
    assert len(grey) == 3 * 3 * 2
    of_suite = len(load()["universal_corruptions"]["names"])
    for name, degradations in (
        ("universal", 18),
        ("universal_corruptions", of_suite),
        ("zero_shot", 7),
    ):
        rows = paper_rows(name, tmp_path)
        columns = ("test_noise", "test_severity", "condition", "classifier", "metric")
        keys(rows, (*columns, "dataset"))
        detected = [row for row in rows if row["metric"] == "detection_accuracy"]
        assert len(detected) == degradations
        assert [row["dataset"] for row in rows if row["metric"] == "false_alarm_rate"]
    trials = paper_rows("universal_trials", tmp_path)
    keys(trials, ("variant", "classifier", "test_noise", "test_severity"))
    variants = {row["variant"] for row in trials}
    assert variants == {"skip", "consistency", "self-ensemble"}
    # Clean images, 18 degradations and their mean, for two classifiers.
    assert len(trials) == 3 * 2 * 20
    for variant in variants:
        values = [
            row["value"]
            for row in trials
            if (row["variant"], row["classifier"]) == (variant, "ResNet")
        ]
        assert values[-1] == pytest.approx(np.mean(values[1:-1]))
    # What is chosen by them is measured on other images.
    seen = "data validation IN_2 by remover_trial_skip all"
    for variant, mirror in (("skip", False), ("self-ensemble", True)):
        where = {"classifier": "ResNet", "test_noise": "IN", "test_severity": 2}
        assert cell(trials, variant=variant, **where) == number(
            "ResNet", f"{seen}, {mirror}"
        )
    # Clean images of a set that nothing was trained on.
    assert "CIFAR-100" in {row["dataset"] for row in rows}


def test_what_is_compared_is_drawn_alike(tmp_path):
    """Or a difference could be that of two starts, two orders of noises."""
    zoo = Zoo(load("small"), tmp_path)
    drawn_as = {kind: x.variant_of or kind for kind, x in zoo.kinds.items()}
    alike = {}
    for kind, shared in drawn_as.items():
        alike.setdefault(shared, set()).add(kind)
    assert alike["remover"] == {"remover", "dcae"}
    # The usual detector itself has the inputs `image`.
    inputs = set(DETECTOR_INPUTS) - {"image"}
    variants = {"detector", "detector_other", *(f"detector_{x}" for x in inputs)}
    assert alike["detector"] == variants
    assert len(alike["remover_trial"]) == 6
    smoke = Zoo(load(), tmp_path)
    rows = [
        smoke._row(ModelKey("data", kind, "GN_1"))
        for kind in ("remover", "dcae", "detector", "detector_other")
    ]
    assert rows[0].seed == rows[1].seed != rows[2].seed == rows[3].seed


@pytest.mark.parametrize("preset", ["full", "small", "smoke"])
def test_presets_are_sound(preset, tmp_path):
    config = load(preset)
    zoo = Zoo(config, tmp_path)
    assert [entry_name(e) for e in zoo.entries][:4] == ["GN_1", "GN_2", "GN_3", "UN_1"]
    assert len(zoo.entries) == 18
    for name, experiment in EXPERIMENTS.items():
        for part in experiment.parts(zoo):
            for key in part.models:
                assert zoo.kinds[key.kind], name
    for role in ("data", "second", "grey"):
        learned = config[role]["train_split"].removeprefix("train[:").rstrip("]")
        judged = config[role]["validation_split"].removeprefix("train[").split(":")[0]
        assert int(learned) <= int(judged) and config[role]["test_split"] == "test"
    # The paper's own models and attack, not ours, at full size.
    if preset == "full":
        assert config["remover"]["variant"] == "paper"
        assert config["remover"]["widths"] == (64, 128, 256)
        assert config["detector"]["name"] == "wrn10_2"
        attack = config["attack"]
        assert (attack["epsilon"], attack["steps"], attack["restarts"]) == (
            0.03,
            40,
            10,
        )


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ({"remover": {"variant": "unet"}}, "unknown remover variant 'unet'"),
        ({"detector": {"name": "wrn10_3"}}, "unknown classifier 'wrn10_3'"),
        ({"detector": {"inputs": "noise"}}, "unknown detector input 'noise'"),
        ({"ablations": {"detector": "vgg12"}}, "unknown classifier 'vgg12'"),
        ({"remover": {"num_steps": 0}}, "num_steps must be at least 1: 0"),
        ({"optimizer": {"peak_rate": -1.0}}, "peak_rate must be positive"),
        ({"suite": {"noises": ("GX",)}}, "'GX'"),
        ({"suite": {"un_reading": "per_row"}}, "'per_row'"),
        ({"evaluation": {"batch_size": 6}}, "batch size 6 .* multiple of 4"),
        ({"evaluation": {"num_images": -1}}, "num_images cannot be negative"),
        ({"attack": {"epsilon": 3.0}}, r"epsilon must be finite and in \[0.*: 3.0"),
        ({"attack": {"steps": 0}}, "steps must be an integer in .*: 0"),
        ({"attack": {"num_train": -2}}, "num_train cannot be negative"),
        ({"second": {"train_split": "test"}}, "second.train_split is 'test'"),
        (
            {"universal_trials": {"names": ("paper",)}},
            "names must be skip and some of .*paper.*: ",
        ),
        (
            {"universal": {"consistency_weight": -1.0}},
            "universal.consistency_weight must be .* at least 0: -1",
        ),
        (
            {"zero_shot": {"severities": (0,)}},
            r"zero_shot.severities.*1, 2, 3, 4, 5.*\(0,\)",
        ),
        ({"ablations": {"noises": ("FOG",)}}, "ablations.noises.*'FOG'"),
        ({"grey": {"classifier": "train:cnn9"}}, "unknown classifier 'cnn9'"),
        ({"data": {"other_classifier_title": "ResNet"}}, "of data are called 'ResNet'"),
    ],
)
def test_wrong_fields_are_reported(sections, expected, tmp_path):
    with pytest.raises(ValueError, match=expected):
        Zoo(load(**sections), tmp_path)


def test_experiments_that_need_a_missing_noise_say_so(tmp_path):
    zoo = Zoo(load(suite={"noises": ("GN",)}), tmp_path)
    for name in ("table11", "figure1"):
        with pytest.raises(ValueError, match="needs (SPN|UN).*suite.noises"):
            reproduction.check_needs(zoo, name)


def test_missing_data_are_reported_with_what_to_do(tmp_path):
    config = load()
    config["second"]["name"] = "cifar100"
    zoo = Zoo(config, tmp_path, data_dir=str(tmp_path / "nowhere"))
    for name in ("table3", "table8"):
        with pytest.raises(FileNotFoundError) as caught:
            reproduction.check_needs(zoo, name)
        text = str(caught.value)
        assert f"{name} lacks the training images of CIFAR-100 (train[:48]): " in text
        assert "no data set 'cifar100'" in text
        assert f"launch.prepare_data --name=cifar100 --data_dir={tmp_path}" in text
    # What the other half can say is said.
    missing = reproduction.check_needs(zoo, "table5")
    assert list(missing) == ["second"]
    assert reproduction.check_needs(zoo, "table2") == {}


def test_missing_classifiers_are_reported_with_what_to_do(tmp_path):
    config = load(data={"classifier": "nowhere.npz"})
    with pytest.raises(FileNotFoundError, match="nowhere.npz.*config.data.classifier"):
        reproduction.check_needs(Zoo(config, tmp_path), "table7")
    config["data"].update(classifier="", other_classifier="")
    with pytest.raises(FileNotFoundError, match="no classifier: set --config.data"):
        reproduction.check_needs(Zoo(config, tmp_path), "table7")
    # Detection needs none.
    assert reproduction.check_needs(Zoo(config, tmp_path), "table2") == {}


# What is counted, on eight images and models of random weights.


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
        for row in reproduction._detection_part("data", entries[0], laboratory)
    }
    title = next(iter(zoo.classifiers("data")))
    undefended = {
        (row["noise"], row["test_severity"]): row["value"]
        for row in reproduction._undefended_part("data", title, laboratory)
    }
    assert undefended[None, None] == pytest.approx(100 * summary["clean_accuracy"])
    for entry, row in zip(entries, expected, strict=True):
        where = entry.noise, entry.severity
        assert detected[where] == pytest.approx(100 * row["detection_accuracy"])
        assert undefended[where] == pytest.approx(100 * row["undefended_accuracy"])
        (purified,) = {
            r["value"]
            for r in reproduction._mitigation_part("data", entry, laboratory)
            if r["test_severity"] == entry.severity
        }
        assert purified == pytest.approx(100 * row["purified_accuracy"])


def test_a_table_of_all_degradations_compiles_nothing_twice(laboratory):
    compiled = []
    entry = laboratory.zoo.entry("GN_1")
    reproduction._detection_part("data", entry, laboratory)
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, _, **__: "backend_compile" in event and compiled.append(event)
    )
    for name in ("UN_3", "SN_2"):
        other = laboratory.zoo.entry(name)
        assert len(reproduction._detection_part("data", other, laboratory)) == 18
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
    zoo = Zoo(load(attack={"num_test": 0, "steps": 4}), tmp_path)
    zoo.first = lambda *args: images
    module = make_classifier("cnn_narrow", 3)
    variables = make_variables(module, (28, 28, 3))
    model = Placed(module, variables)
    monkeypatch.setattr(zoo, "load_classifier", lambda role, title: model)
    zoo.progress = False
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
    monkeypatch.setattr(zoo, "_attack", None)  # Not called again.
    again = zoo.attacked("data", "test", "IFGSM")
    np.testing.assert_array_equal(again, found["IFGSM"])
    assert zoo.attack_steps("PGD0-20") == ("PGD0", 4)
    assert zoo.attack_steps("PGD0-3") == ("PGD0", 3)
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

    def zoo(folder, stop):
        config = load(attack={"num_test": 0, "batch_size": 4})
        found = Zoo(config, tmp_path / folder, stop=stop, progress=False)
        found.first, found.load_classifier = (
            lambda *a: images,
            lambda role, title: model,
        )
        return found

    assert len(images) > 4
    undisturbed = zoo("one", lambda: False).attacked("data", "test", "PGD0")
    disturbed = zoo("two", stop)
    with pytest.raises(StoppedError):
        disturbed.attacked("data", "test", "PGD0")
    (path,) = (tmp_path / "two").rglob("*.npz")
    with np.load(path) as file:
        assert len(file["images"]) == 4 and not file["done"]
    whole = disturbed.attacked("data", "test", "PGD0")
    np.testing.assert_array_equal(whole, undisturbed)


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


def test_one_of_several_stored_copies_is_taken_for_each_image(key):
    clean = np.zeros((6, 2, 2, 1), np.uint8)
    copies = np.stack([np.full_like(clean, 50), np.full_like(clean, 100)])
    batch = {"image": clean, "index": jnp.arange(6)}
    first = stored._pair(batch, jnp.asarray(copies))[1]
    np.testing.assert_allclose(first, 50 / 255, atol=1e-6)

    def nothing(key, images, index):
        return images

    seen = []
    for number in range(8):
        step = jax.random.fold_in(key, number)
        original, degraded = stored._pair(batch, jnp.asarray(copies), nothing, step)
        assert not original.any()
        seen.append(np.rint(255 * degraded[:, 0, 0, 0]))
    assert set(np.unique(seen)) == {50, 100}
    # Each image draws for itself, and anew in each step.
    assert np.std(seen, axis=0).min() > 0 and np.std(seen, axis=1).max() > 0


def test_stored_pairs_are_looked_up_by_the_index(key):
    """The loss of the first step, by hand: zero weights give grey pictures."""
    rng = np.random.default_rng(0)
    clean, degraded = rng.integers(0, 256, (2, 5, 4, 4, 1), np.uint8)
    remover = make_remover("paper", widths=(2,))
    shape = (4, 4, 1)

    def changed(key, images, index):
        return images + 0.0 * index[:, None, None, None]

    task = stored.stored_remover_task(
        remover, optax.sgd(0.0), changed, image_shape=shape, noise_weight=0.5
    )
    state = jax.tree.map(
        lambda x: x if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else 0 * x,
        create_state(task.module, task.optimizer, key, shape),
    )
    index = np.asarray([3, 0, 4])
    batch = {"image": clean[index], "index": index, "mask": np.asarray([1, 0, 1], bool)}
    frozen = {"train": degraded, "validation": degraded[::-1].copy()}

    def expected(index, degraded):
        x, y = clean[index] / 255, degraded[index] / 255
        picture = ((0.5 - x) ** 2).mean(axis=(1, 2, 3))
        return picture + 0.5 * (((y - x) / 2) ** 2).mean(axis=(1, 2, 3))

    _, sums = jax.jit(task.step)(state, frozen, batch)
    assert float(sums["loss"]) == pytest.approx(
        expected(index, degraded).sum(), rel=1e-5
    )
    found = jax.jit(task.evaluation)(state.variables, frozen, key, batch)
    by_hand = expected(index, degraded[::-1])[[0, 2]].sum()
    assert float(found["loss"]) == pytest.approx(by_hand, rel=1e-5)
    assert float(found["count"]) == 2


def test_detectors_learn_stored_pairs(key):
    """White copies of dark pictures: anything that learns tells them apart."""
    rng = np.random.default_rng(0)
    clean = rng.integers(0, 100, (8, 8, 8, 1), np.uint8)
    frozen_images = np.full_like(clean, 255)
    task = stored.stored_detector_task(
        make_classifier("cnn_narrow", 2),
        (remover := make_remover("dcae", widths=(2,))),
        optax.adam(1e-2),
        lambda key, images, index: images,
        image_shape=(8, 8, 1),
        inputs="image_only",
    )
    state = create_state(task.module, task.optimizer, key, task.input_shape)
    variables = remover.init(key, jnp.zeros((1, 8, 8, 1)))
    frozen = {"train": frozen_images, "validation": frozen_images, "remover": variables}
    index = np.arange(8)
    batch = {"image": clean, "index": index, "mask": np.ones(8, bool)}
    step, accuracy = jax.jit(task.step), []
    for _ in range(30):
        state, sums = step(state, frozen, batch)
        assert float(sums["count"]) == 16  # Each image clean and degraded.
        accuracy.append(float(sums["accuracy"]) / 16)
    assert accuracy[0] < 1.0 and accuracy[-1] == 1.0
    sums = jax.jit(task.evaluation)(state.variables, frozen, key, batch)
    assert float(sums["accuracy"] / sums["count"]) == 1.0


def test_models_are_trained_once_behind_their_removers(tmp_path, monkeypatch):
    zoo = Zoo(load(), tmp_path)
    trained, configs = [], {}
    monkeypatch.setattr(
        "uronet_jax.evaluation.zoo.read_config",
        lambda folder, which: json.loads(json.dumps(configs[folder])),
    )

    def train(task, rows, *sources_and_schedule, **options):
        trained.append([row.workdir.relative_to(tmp_path / "models") for row in rows])
        for row in rows:
            (row.workdir / "checkpoints" / "2" / "state").mkdir(parents=True)
            configs[row.workdir] = row.config | {"best_metric": ["loss", "min"]}
        return True

    monkeypatch.setattr("uronet_jax.training.grid.train_grid", train)
    wanted = [ModelKey("data", "detector", name) for name in ("GN_1", "GN_2")]
    wanted += [ModelKey("data", "cnn", "cnn_narrow"), *wanted]
    zoo.ensure(wanted)
    names = [[path.as_posix() for path in paths] for paths in trained]
    assert names == [
        ["generated/cnn/cnn_narrow"],
        ["generated/remover/GN_1", "generated/remover/GN_2"],
        ["generated/detector/GN_1", "generated/detector/GN_2"],
    ]
    zoo.ensure(wanted)
    assert len(trained) == 3
    # Sets of one name share their models, whatever they are called in the config.
    zoo.ensure([ModelKey("second", "detector", "GN_1")])
    assert len(trained) == 3
    monkeypatch.setattr(
        "uronet_jax.training.grid.train_grid", lambda *args, **kwargs: False
    )
    with pytest.raises(StoppedError):
        zoo.ensure([ModelKey("data", "dcae", "GN_1")])
    # What is there and finished is looked at too.
    other = Zoo(load(remover={"widths": (8, 8)}), tmp_path)
    with pytest.raises(ValueError, match=r"GN_1: .*model.widths: \[4, 4\] there, \[8"):
        other.ensure([ModelKey("data", "detector", "GN_1")])


def test_rows_of_a_grid_differ_in_nothing_but_data_and_seed(tmp_path):
    zoo = Zoo(load(), tmp_path)
    first, second = (
        zoo._row(ModelKey("data", "remover", name)) for name in ("GN_1", "UN_3")
    )
    differing = {k for k in first.config if first.config[k] != second.config[k]}
    assert differing == {"name", "seed", "degradation"}
    chosen = make_degradation([("uniform_noise", 0.1)])
    jax.tree.map(np.testing.assert_array_equal, second.frozen()["degradation"], chosen)
    mixed = zoo._row(ModelKey("data", "remover_universal", "all"))
    # All 18, and the clean image as often as the config says.
    assert mixed.frozen()["degradation"].kind.shape == (20,)
    other = Zoo(load() | {"seed": 1}, tmp_path)
    again = other._row(ModelKey("data", "remover", "GN_1"))
    assert again.seed != first.seed
    assert dataclasses.replace(again, seed=first.seed).name == first.name
