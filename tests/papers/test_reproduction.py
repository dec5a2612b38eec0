"""The experiments: rows are those of the published tables, and count what they say."""

import csv
import functools
import importlib
import zlib
from pathlib import Path

import numpy as np
import pytest

from uronet_jax.corruptions import SuiteEntry
from uronet_jax.evaluation.judge import CLEAN_ENTRY, StoredEntry, detection_metrics
from uronet_jax.papers import uronet
from uronet_jax.papers.all_models import open_store
from uronet_jax.papers.experiments import EXPERIMENTS, LackError, check_needs
from uronet_jax.papers.kinds import ModelKey, entry_name
from uronet_jax.papers.laboratory import Laboratory

PUBLISHED = Path(uronet.__file__).parent / "published"


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

    def __init__(self, store):
        super().__init__(store)
        # Not cached, so that every part is seen to ask for what it uses.
        self.model, self.classifier = self._model, self._classifier

    def _judge(self, role, *, attacked=False, part="test", count=None):
        return NamedImages(role if part == "test" else f"{role} {part}")

    def _model(self, role, kind, name):
        key = ModelKey(role, kind, name)
        assert key in self.trained, f"{key} was not asked for"
        return key

    def _classifier(self, role, title):
        source = self.store.classifiers(role)[title]
        assert source.removeprefix("train:") in {k.name for k in self.trained}
        return title

    def attacked(self, role, attack, title=None, remover=None):
        title = title or next(iter(self.store.classifiers(role)))
        how = f"{attack} on {title} of {role} behind {remover and remover.name}"
        return StoredEntry(how, 0, None)

    def accuracies(self, judge, classifiers, entry=CLEAN_ENTRY, purifier=None, **how):
        seen = judge.seen(entry)
        if purifier is not None:
            mirror = how.get("mirror", False)
            seen += f" by {purifier.kind} {purifier.name}, {mirror}"
        assert all(title in ("", name) for title, name in classifiers.items())
        return {title: number(name, seen) for title, name in classifiers.items()}

    def probabilities(self, judge, purifier, detector, entry=CLEAN_ENTRY):
        behind = self.store.kinds[detector.kind].purifier
        # A detector knows the noise patterns of one purifier.
        assert purifier == detector._replace(kind=behind)
        return probabilities(detector.kind, detector.name, judge.seen(entry))


def number(*names):
    return zlib.crc32(" ".join(names).encode()) % 10_000 / 100


def probabilities(*names):
    return np.random.default_rng(int(100 * number(*names))).random(50)


def detection(kind, name, noisy, clean="data clean"):
    found = detection_metrics(
        probabilities(kind, name, clean), probabilities(kind, name, noisy)
    )
    return 100 * found["detection_accuracy"]


class NamedImages(str):
    """The judge of images that are a text."""

    def __len__(self):
        return 2

    def seen(self, entry):
        if isinstance(entry, StoredEntry):
            return entry.noise
        if entry == CLEAN_ENTRY:
            return f"{self} clean"
        if isinstance(entry, SuiteEntry):
            return f"{self} {entry_name(entry)}"
        return f"{self} {type(entry).__name__} {entry_name(entry)}"


def paper_rows(experiment, tmp_path, **sections):
    store = open_store(load(**sections), tmp_path)
    laboratory = Paper(store)
    parts = EXPERIMENTS[experiment].parts(store)
    assert len({part.key for part in parts}) == len(parts)
    rows = []
    for part in parts:
        assert part.group in EXPERIMENTS[experiment].needs
        laboratory.trained = set(store.with_purifiers(part.models))
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


def read_published(name):
    """Returns the columns that tell published numbers apart, and the rows."""
    with open(PUBLISHED / f"uronet_{name}.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [c for c in rows[0] if c not in ("value", "note")], rows


# Table -> the part of the published rows that is the paper's own method.
OURS = {
    "table11": lambda row: row["defence"].startswith("URoNet"),
    "table12": lambda row: not row["method"].startswith(("Salman", "Xie")),
}


@pytest.mark.parametrize("number", [2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12])
def test_rows_are_those_of_the_published_table(number, tmp_path):
    columns, published = read_published(f"table{number:02}")
    rows = paper_rows(f"table{number}", tmp_path)
    ours = [row for row in published if OURS.get(f"table{number}", lambda _: 1)(row)]
    assert keys(ours, columns) <= keys(rows, columns)
    for row in rows:
        assert row.keys() >= {*columns, "value", "seed", "num_images"}
        assert 0.0 <= row["value"] <= 100.0


def cell(rows, **where):
    (found,) = (r for r in rows if all(r[name] == where[name] for name in where))
    return found["value"]


def test_numbers_are_of_the_models_and_images_that_their_columns_name(tmp_path):
    rows = functools.cache(lambda name: paper_rows(name, tmp_path))
    other, made = "Wide-ResNet16-8", "{} on {} of data behind {}".format

    def check(experiment, expected, **where):
        assert cell(rows(experiment), **where) == expected

    trained = {"train_noise": "GN", "train_severity": 2}
    found = detection("detector", "GN_2", "data UN_3")
    check("table2", found, **trained, test_noise="UN", test_severity=3)
    found = detection("detector", "SN_1", "second IN_1", "second clean")
    mild = {"train_noise": "SN", "test_noise": "IN", "test_severity": 1}
    check("table4", found, train_dataset="CIFAR-10", **mild)
    for label, attack in (("IFGSM", "IFGSM"), ("PGD", "PGD0")):
        found = detection("detector", "GN_2", made(attack, "ResNet", None))
        check("table5", found, dataset="CIFAR-10", **trained, test_attack=label)
    found = detection("detector_attack", "PGD0-40", "data SN_2")
    check("table6", found, train_attack="PGD40", test_noise="SN", test_severity=2)
    # A remover of severity 3 on images of severity 1, and none.
    for behind, where in (
        (["by remover SN_3, False"], {"remover_train_severity": 3}),
        ([], {"remover_train_severity": None}),
    ):
        where |= {"condition": "mitigated" if behind else "noisy"}
        where |= {"classifier": other, "noise": "SN", "test_severity": 1}
        check("table7", number(other, "data SN_1", *behind), **where)
    plain, knowing = (made("PGD10", "ResNet", x) for x in (None, "SPN_1"))
    by = "by remover SPN_1, False"
    for defence, *seen in (
        ("none", plain),
        ("URoNet (SPN-trained remover)", plain, by),
        ("URoNet (SPN-trained remover), white box", knowing, by),
    ):
        where = {"dataset": "CIFAR-10", "defence": defence, "attack": "PGD-10"}
        check("table11", number("ResNet", *seen), **where)
    for method, *behind in (
        ("none (raw corrupted)",),
        ("DCAE (single-output denoising autoencoder)", "by dcae UN_3, False"),
        ("URoNet", "by remover UN_3, False"),
    ):
        where = {"classifier": "ResNet", "noise": "UN", "method": method}
        check("table12", number("ResNet", "data UN_3", *behind), **where)
    # Made for one classifier, shown to the other, behind a remover.
    where = {"attack": "IFGSM", "attacked_classifier": other, "classifier": "ResNet"}
    seen = made("IFGSM", other, None)
    bare, purified = (
        number("ResNet", seen, *x) for x in ([], ["by remover SN_1, False"])
    )
    check("figure6", bare, **where, metric="adversarial_accuracy")
    where["train_noise"] = "SN"
    check("figure6", purified, **where, metric="robust_accuracy")
    check("figure6", purified - bare, **where, metric="accuracy_gain")


def test_figure_6_has_the_columns_of_the_published_claims(tmp_path):
    columns = read_published("figure06")[0]
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
    assert len(grey) == 3 * 3 * 2 + 1
    clean = {"ablation": "grey", "variant": "undefended", "test_noise": "clean"}
    assert cell(rows, **clean) == number("custom 5-layer CNN", "grey clean")
    of_suite = len(load()["universal_corruptions"]["names"])
    counts = {"universal": 18, "universal_corruptions": of_suite, "zero_shot": 7}
    for name, degradations in counts.items():
        rows = paper_rows(name, tmp_path)
        columns = ("test_noise", "test_severity", "condition", "classifier", "metric")
        keys(rows, (*columns, "dataset"))
        detected = [row for row in rows if row["metric"] == "detection_accuracy"]
        assert len(detected) == degradations
        assert [row["dataset"] for row in rows if row["metric"] == "false_alarm_rate"]
    trials = paper_rows("universal_trials", tmp_path)
    keys(trials, ("variant", "classifier", "test_noise", "test_severity"))
    variants = {row["variant"] for row in trials}
    assert variants == {"undefended", "skip", "consistency", "skip, self-ensemble"}
    # Clean images, 18 degradations and their mean, for two classifiers.
    assert len(trials) == 4 * 2 * 20
    for variant in variants:
        own = (row for row in trials if row["variant"] == variant)
        values = [row["value"] for row in own if row["classifier"] == "ResNet"]
        assert values[-1] == pytest.approx(np.mean(values[1:-1]))
    # What is chosen by them is measured on other images.
    seen = "data validation IN_2 by remover_trial_skip all"
    where = {"classifier": "ResNet", "test_noise": "IN", "test_severity": 2}
    undefended = cell(trials, variant="undefended", **where)
    assert undefended == number("ResNet", "data validation IN_2")
    for variant, mirror in (("skip", False), ("skip, self-ensemble", True)):
        expected = number("ResNet", f"{seen}, {mirror}")
        assert cell(trials, variant=variant, **where) == expected
    # Clean images of a set that nothing was trained on.
    assert "CIFAR-100" in {row["dataset"] for row in rows}


@pytest.mark.parametrize("preset", ["full", "small", "smoke"])
def test_presets_are_sound(preset, tmp_path):
    config = load(preset)
    store = open_store(config, tmp_path)
    names = [entry_name(entry) for entry in store.entries]
    assert names[:4] == ["GN_1", "GN_2", "GN_3", "UN_1"] and len(names) == 18
    for name, experiment in EXPERIMENTS.items():
        for part in experiment.parts(store):
            for key in part.models:
                assert store.kinds[key.kind], name
    for role in ("data", "second", "grey"):
        learned = config[role]["train_split"].removeprefix("train[:").rstrip("]")
        judged = config[role]["validation_split"].removeprefix("train[").split(":")[0]
        assert int(learned) <= int(judged) and config[role]["test_split"] == "test"
    # The paper's own models and attack, not ours, at full size.
    if preset == "full":
        assert config["remover"]["variant"] == "paper"
        assert config["remover"]["widths"] == (64, 128, 256)
        assert config["detector"]["name"] == "wrn10_2"
        limits = [config["attack"][x] for x in ("epsilon", "steps", "restarts")]
        assert limits == [0.03, 40, 10]


def test_experiments_that_need_a_missing_noise_say_so(tmp_path):
    store = open_store(load(suite={"noises": ("GN",)}), tmp_path)
    for name in ("table11", "figure1"):
        with pytest.raises(ValueError, match="needs (SPN|UN).*suite.noises"):
            check_needs(store, name)


def test_missing_data_are_reported_with_what_to_do(tmp_path):
    config = load()
    config["second"]["name"] = "cifar100"
    store = open_store(config, tmp_path, data_dir=str(tmp_path / "nowhere"))
    for name in ("table3", "table8"):
        with pytest.raises(FileNotFoundError) as caught:
            check_needs(store, name)
        text = str(caught.value)
        assert f"{name} lacks the training images of CIFAR-100 (train[:48]): " in text
        assert "no data set 'cifar100'" in text
        assert f"uronet prepare --name=cifar100 --data_dir={tmp_path}" in text
    # What the other half can say is said.
    missing = check_needs(store, "table5")
    assert list(missing) == ["second"]
    assert check_needs(store, "table2") == {}


def test_missing_classifiers_are_reported_with_what_to_do(tmp_path):
    config = load(data={"classifier": "nowhere.npz"})
    with pytest.raises(FileNotFoundError, match="nowhere.npz.*config.data.classifier"):
        check_needs(open_store(config, tmp_path), "table7")
    config["data"].update(classifier="", other_classifier="")
    with pytest.raises(FileNotFoundError, match="lacks a classifier of CIFAR-10: set"):
        check_needs(open_store(config, tmp_path), "table7")
    # Detection needs none.
    assert check_needs(open_store(config, tmp_path), "table2") == {}


def test_weights_that_are_tuned_are_asked_for(tmp_path):
    config = load(imagenette={"third_classifier": "tune:nowhere.pth"})
    store = open_store(config, tmp_path)
    expected = (
        "table10 lacks the weights of VGG16 for ImageNette: .*nowhere.pth.*: set "
        "--config.imagenette.third_classifier to .* tune:FILE"
    )
    with pytest.raises(LackError, match=expected):
        check_needs(store, "table10")
    assert check_needs(store, "table9") == {}


def test_removers_of_other_resolutions_stand_before_one_classifier(tmp_path):
    rows = paper_rows("resolutions", tmp_path)
    where = {"classifier": "DenseNet", "noise": "SN", "test_severity": 2}
    for remover, *behind in (
        ("none",),
        ("removers of small images", "by remover SN_1, False"),
        ("removers of their size", "by remover SN_1, False"),
    ):
        expected = number("DenseNet", "imagenette SN_2", *behind)
        assert cell(rows, **where, remover=remover) == expected
