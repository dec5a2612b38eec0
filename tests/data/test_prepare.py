"""Preparing data sets, and reading them back, without TensorFlow."""

import functools
import io
import json
import os
import re
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from uronet_jax.data import open_source, packed, prepare, sources

CLASS_NAMES = ("ant, black", "bee", "cow")


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (23, 6, 5, 3), dtype=np.uint8)
    return images, rng.integers(0, 3, 23)


@pytest.fixture
def run(tmp_path):
    """Returns `prepare` into a folder of this test."""
    return functools.partial(prepare.prepare, data_dir=tmp_path, progress=False)


@pytest.fixture
def prepare_arrays(tmp_path, run):
    def make(images, labels, *, name="animals", **kwargs):
        path = tmp_path / "input.npz"
        np.savez(path, images=images, labels=labels, class_names=CLASS_NAMES)
        return run(name, source="arrays", input_path=path, **kwargs)

    return make


@pytest.fixture
def prepare_folder(tmp_path, run):
    def make(**kwargs):
        run("photos", source="folder", input_path=tmp_path / "photos", **kwargs)

    return make


def test_arrays_come_back_equal_in_order(tmp_path, arrays, prepare_arrays, monkeypatch):
    monkeypatch.setattr(prepare, "_CHUNK", 4)
    monkeypatch.setattr(prepare, "_EXAMPLES_PER_SHARD", 8)  # Three shards.
    monkeypatch.setattr(sources, "_CHUNK", 7)
    images, labels = arrays
    path = prepare_arrays(images, labels).folder
    assert path == tmp_path / "animals" / "1.0.0"
    source = open_source("animals", "train", data_dir=tmp_path)
    assert source.class_names == CLASS_NAMES and source.num_classes == 3
    assert source.image_shape == (6, 5, 3) and len(source) == 23
    read_images, read_labels = source.arrays()
    np.testing.assert_array_equal(read_images, images)
    np.testing.assert_array_equal(read_labels, labels)
    assert read_labels.dtype == np.int32

    part = open_source("animals", "train[9:20]", data_dir=tmp_path)
    np.testing.assert_array_equal(part.arrays()[0], images[9:20])
    np.testing.assert_array_equal(part[10]["image"], images[19])
    assert part[10]["label"] == labels[19]
    rows = np.array([7, 0, 7])
    np.testing.assert_array_equal(part.read(rows)[0], images[9:20][rows])
    with pytest.raises(IndexError):
        part[11]
    with pytest.raises(ValueError, match="it has train"):
        open_source("animals", "test", data_dir=tmp_path)


def test_tfds_itself_reads_the_result(tmp_path, arrays, prepare_arrays):
    tfds = pytest.importorskip("tensorflow_datasets")
    images, labels = arrays
    # Grey arrays without a channel axis become [H, W, 1].
    prepare_arrays(images[..., 0], labels)
    records = tfds.data_source("animals", split="train", data_dir=tmp_path)
    assert len(records) == 23
    np.testing.assert_array_equal(records[5]["image"], images[5, ..., :1])
    assert records[5]["label"] == labels[5]
    source = open_source("animals", "train", data_dir=tmp_path)
    np.testing.assert_array_equal(source.arrays()[0], images[..., :1])


def test_keras_layout_and_npy_folder(tmp_path, arrays, run):
    images, labels = arrays
    train = {"x_train": images[:20], "y_train": labels[:20, None]}
    test = {"x_test": images[20:], "y_test": labels[20:, None]}
    np.savez(tmp_path / "keras.npz", **train, **test)
    folder = tmp_path / "folder"
    folder.mkdir()
    np.save(folder / "images.npy", images)
    np.save(folder / "labels.npy", labels)
    for name, path in (("keras", tmp_path / "keras.npz"), ("npy", folder)):
        run(name, source=prepare.deduce_source(name, path), input_path=path)
    test = open_source("keras", "test", data_dir=tmp_path)
    np.testing.assert_array_equal(test.arrays()[0], images[20:])
    np.testing.assert_array_equal(test.arrays()[1], labels[20:])
    assert test.class_names == ("0", "1", "2")
    train = open_source("npy", "train", data_dir=tmp_path)
    np.testing.assert_array_equal(train.arrays()[0], images)


def test_overwrite_and_failure_keep_what_is_there(
    tmp_path, arrays, prepare_arrays, monkeypatch
):
    images, labels = arrays
    prepare_arrays(images, labels)
    with pytest.raises(ValueError, match="already prepared.*--overwrite"):
        prepare_arrays(images, labels)

    def fail(pixels):
        raise OSError("broken image")

    with monkeypatch.context() as patch:
        patch.setattr(Image, "fromarray", fail)
        for name in ("animals", "fresh"):
            with pytest.raises(OSError, match="broken"):
                prepare_arrays(255 - images, labels, name=name, overwrite=True)
    with monkeypatch.context() as patch:

        def full(self):
            raise RuntimeError("write() failed: No space left on device")

        patch.setattr("tensorflow_datasets.core.SequentialWriter.close_all", full)
        with pytest.raises(OSError, match="cannot write .*fresh/1.0.0 .*No space left"):
            prepare_arrays(255 - images, labels, name="fresh")

        def unable(self, examples):
            raise NotImplementedError("of another matter")

        patch.setattr("tensorflow_datasets.core.SequentialWriter.add_examples", unable)
        with pytest.raises(NotImplementedError, match="^of another matter$"):
            prepare_arrays(255 - images, labels, name="fresh")
    with pytest.raises(FileNotFoundError):
        open_source("fresh", "train", data_dir=tmp_path)
    assert os.listdir(tmp_path / "animals") == ["1.0.0"]
    old = open_source("animals", "train", data_dir=tmp_path).arrays()[0]
    np.testing.assert_array_equal(old, images)

    prepare_arrays(255 - images, labels, overwrite=True)
    new = open_source("animals", "train", data_dir=tmp_path).arrays()[0]
    np.testing.assert_array_equal(new, 255 - images)
    assert os.listdir(tmp_path / "animals") == ["1.0.0"]


def test_set_that_cannot_be_read_says_why(tmp_path, arrays, prepare_arrays):
    path = prepare_arrays(*arrays).folder
    file = path / "dataset_info.json"
    info = json.loads(file.read_text())
    file.write_text(json.dumps({**info, "fileFormat": "tfrecord"}))
    with pytest.raises(ValueError, match="array_record"):
        open_source("animals", "train", data_dir=tmp_path)
    path.rename(path.parent / "3.0.0")
    with pytest.raises(ValueError, match="choose another name"):
        prepare_arrays(*arrays, overwrite=True)


def save_image(path, image, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)


def test_folder_by_split_and_class(tmp_path, prepare_folder):
    rng = np.random.default_rng(0)
    pixels = {}
    for folder, count in (("train/ant", 4), ("train/bee", 2), ("val/bee", 1)):
        for i in range(count):
            image = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
            pixels[f"{folder}/{i}"] = image
            path = tmp_path / "photos" / folder / f"{i}.png"
            save_image(path, Image.fromarray(image))
    (tmp_path / "photos/train/ant/notes.txt").write_text("not an image")
    assert prepare.deduce_source("photos", tmp_path / "photos") == "folder"
    prepare_folder()
    train = open_source("photos", "train", data_dir=tmp_path)
    assert train.class_names == ("ant", "bee")
    # Two to one, spread evenly.
    np.testing.assert_array_equal(train.arrays()[1], [0, 1, 0, 0, 1, 0])
    for row, name in ((0, "ant/0"), (1, "bee/0"), (5, "ant/3")):
        np.testing.assert_array_equal(train[row]["image"], pixels[f"train/{name}"])
    val = open_source("photos", "val", data_dir=tmp_path)
    assert len(val) == 1 and val[0]["label"] == 1


def test_folder_with_mixed_sizes_and_modes_needs_resize(tmp_path, prepare_folder):
    left_white = np.zeros((8, 16), np.uint8)
    left_white[:, :8] = 255
    save_image(tmp_path / "photos/a/wide.png", Image.fromarray(left_white))
    save_image(tmp_path / "photos/b/red.webp", Image.new("RGB", (4, 4), (200, 0, 0)))
    with pytest.raises(ValueError, match="2 sizes.*8x16.*wide.png.*--resize"):
        prepare_folder()
    prepare_folder(resize=(8, 8))
    images, labels = open_source("photos", "train", data_dir=tmp_path).arrays()
    assert images.shape == (2, 8, 8, 3)
    # The middle is cut out, not squeezed; grey became colour.
    np.testing.assert_array_equal(images[0], left_white[:, 4:12, None].repeat(3, 2))
    assert labels.tolist() == [0, 1]
    # Within 5 levels of lossy WebP.
    assert np.abs(images[1].astype(int) - (200, 0, 0)).max() <= 5


def test_a_folder_is_prepared_once_under_a_name_of_its_own(tmp_path, monkeypatch):
    for i, label in enumerate("abababab"):
        pixels = np.full((8, 9, 3), 9 * i, np.uint8)
        path = tmp_path / "My Birds" / label / f"{i}.png"
        save_image(path, Image.fromarray(pixels))
    once = functools.partial(
        prepare.prepare_once, data_dir=tmp_path / "sets", resize=(4, 4)
    )
    name, (note,) = once(tmp_path / "My Birds")
    assert re.fullmatch("my_birds_[0-9a-f]{8}", name) and "made of" in note
    source = open_source(name, "train", data_dir=tmp_path / "sets")
    assert (len(source), source.image_shape) == (8, (4, 4, 3))
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(prepare, "prepare", None)
        again, (note,) = once("My Birds")
    folder = tmp_path / "sets" / name / prepare.VERSION
    assert again == name and f"remove {folder} first" in note
    splits = prepare.learning_splits(name, tmp_path / "sets")
    assert splits == ("train[:90%]", "train[90%:]")
    # Neither another size, another folder nor an official set is taken for it.
    other, _ = once("My Birds", resize=(5, 5))
    for path in ("2024/My Birds", "2024", "cifar10"):
        save_image(tmp_path / path / "a" / "1.png", Image.fromarray(pixels))
        other += f" {once(path)[0]}"
    others = r"my_birds_\w{8} my_birds_\w{8} data_2024_\w{8} cifar10_\w{8}"
    assert re.fullmatch(others, other) and name not in other
    assert len(set(other.split())) == 4
    with pytest.raises(FileNotFoundError, match="no such file or folder: nowhere"):
        once("nowhere")


def test_of_two_that_prepare_together_the_first_is_kept(tmp_path, monkeypatch):
    path = tmp_path / "arrays.npz"
    np.savez(path, images=np.zeros((4, 4, 4), np.uint8), labels=np.zeros(4, int))
    common_shape = prepare._common_shape

    def other_is_faster(splits, resize):
        with monkeypatch.context() as patch:
            patch.setattr(prepare, "_common_shape", common_shape)
            prepare.prepare_once(path, data_dir=tmp_path / "sets")
        return common_shape(splits, resize)

    monkeypatch.setattr(prepare, "_common_shape", other_is_faster)
    name, (note,) = prepare.prepare_once(path, data_dir=tmp_path / "sets")
    assert "made before of" in note
    (found,) = (tmp_path / "sets" / name).iterdir()
    assert found.name == prepare.VERSION and note.endswith(f"remove {found} first")
    monkeypatch.setattr(prepare, "_common_shape", common_shape)
    monkeypatch.setattr(sources, "find_prepared", lambda name, folder: None)
    with pytest.raises(FileExistsError, match="another process has prepared .* meanw"):
        prepare.prepare(
            name, source="arrays", input_path=path, data_dir=tmp_path / "sets"
        )


def test_sorted_arrays_have_all_classes_in_training_and_validation(tmp_path):
    images = np.arange(40, dtype=np.uint8)[:, None, None].repeat(4, 1).repeat(4, 2)
    labels = np.repeat(np.arange(4), 10)
    np.savez(tmp_path / "sorted.npz", images=images, labels=labels)
    name, _ = prepare.prepare_once(tmp_path / "sorted.npz", data_dir=tmp_path)
    splits = prepare.learning_splits(name, tmp_path)
    learned, judged = (
        open_source(name, split, data_dir=tmp_path).arrays() for split in splits
    )
    assert np.bincount(learned[1]).tolist() == [9] * 4
    assert np.bincount(judged[1]).tolist() == [1] * 4
    for images, labels in (learned, judged):  # Each image has kept its label.
        assert (images[:, 0, 0, 0] // 10).tolist() == labels.tolist()


@pytest.mark.parametrize("validation", ["validation", "val"])
def test_a_folder_with_a_validation_split_is_judged_on_it(validation, tmp_path):
    for split in ("train", validation):
        for label in "ab":
            pixels = np.zeros((4, 4), np.uint8)
            path = tmp_path / "birds" / split / label / "1.png"
            save_image(path, Image.fromarray(pixels))
    name, _ = prepare.prepare_once(tmp_path / "birds", data_dir=tmp_path)
    assert prepare.learning_splits(name, tmp_path) == ("train", validation)


def test_rotated_photo_is_turned(tmp_path, prepare_folder):
    exif = Image.Exif()
    exif[0x0112] = 6  # Stored lying on its side.
    photo = Image.new("L", (16, 8), 99)
    save_image(tmp_path / "photos" / "a" / "phone.jpg", photo, exif=exif)
    prepare_folder()
    assert open_source("photos", "train", data_dir=tmp_path).image_shape == (16, 8, 1)


def test_official_set(tmp_path, arrays, run, monkeypatch):
    tfds = pytest.importorskip("tensorflow_datasets")
    images, labels = arrays

    monkeypatch.setattr(prepare.importlib.util, "find_spec", lambda name: name)
    with pytest.raises(ValueError, match="nearest: .*'cifar10'"):
        run("cifar1", source="tfds")

    class Zoo(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        """Stands for an official set: it has a further feature and shuffles."""

        VERSION = tfds.core.Version("3.0.2")
        name = "zoo"

        def _info(self):
            features = {
                "id": tfds.features.Text(),
                "image": tfds.features.Image(shape=(None, None, 3)),
                "label": tfds.features.ClassLabel(num_classes=3),
            }
            features = tfds.features.FeaturesDict(features)
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for i, (image, label) in enumerate(zip(images, labels, strict=True)):
                pixels = Image.fromarray(image)
                yield i, {"id": f"{i}", "image": pixels, "label": int(label)}

    monkeypatch.setattr(tfds, "builder", lambda name, **kwargs: Zoo(**kwargs))
    for overwrite in (False, True):
        path = run("zoo", source="tfds", overwrite=overwrite).folder
    assert path == tmp_path / "zoo" / "3.0.2"
    with pytest.raises(ValueError, match="already prepared"):
        run("zoo", source="tfds")
    # In any order.
    read = open_source("zoo", "train", data_dir=tmp_path).arrays()
    found, expected = (
        sorted(
            (image.tobytes(), int(label)) for image, label in zip(*pair, strict=True)
        )
        for pair in (read, (images, labels))
    )
    assert found == expected


# First labels as every copy of these sets has them; means of the published pixels.
@pytest.mark.parametrize(
    ("name", "first", "mean"),
    [
        ("cifar10", [3, 8, 8, 0, 6, 6, 1, 6], (0.4942, 0.4851, 0.4504)),
        ("cifar100", [0, 1, 2, 3, 4, 5, 6, 7], None),
        ("mnist", [7, 2, 1, 0, 4, 1, 4, 9], (0.1325,)),
        ("fashion_mnist", [9, 2, 1, 1, 6, 1, 4, 6], (0.2868,)),
    ],
)
def test_packed_test_sets(data_dir, name, first, mean):
    splits, class_names, _ = packed.load_packed(name, data_dir, splits=["test"])
    images, labels = splits["test"]
    assert len(images) == len(labels) == 10_000
    np.testing.assert_array_equal(labels[:8], first)
    if name != "mnist":
        assert set(np.bincount(labels)) == {10_000 // len(class_names)}
    if mean is not None:
        pixel_mean = images.mean(axis=(0, 1, 2)) / 255
        np.testing.assert_allclose(pixel_mean, mean, atol=1e-4)  # Printed digits.


def test_packed_imagenet_subset(data_dir):
    splits, class_names, _ = packed.load_packed("tiny_imagenet10", data_dir)
    assert class_names[0] == "Egyptian cat" and class_names[9].startswith("plunger")
    assert splits["train"][0].shape == (5000, 64, 64, 3)
    np.testing.assert_array_equal(splits["train"][1], np.arange(5000) % 10)
    np.testing.assert_array_equal(splits["validation"][1], np.arange(500) % 10)


def test_packed_formats(tmp_path, run):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
    with zipfile.ZipFile(tmp_path / "cifar100_test.zip", "w") as archive:
        for name, strip in (("00003", pixels[3:]), ("00000", pixels[:3])):
            buffer = io.BytesIO()
            image = Image.fromarray(strip.reshape(-1, 32, 3))
            image.save(buffer, "webp", lossless=True)
            archive.writestr(f"images/{name}.webp", buffer.getvalue())
        buffer = io.BytesIO()
        np.save(buffer, np.array([7, 7, 99, 0, 1, 2], np.uint8))
        archive.writestr("fine_labels.npy", buffer.getvalue())
    with tarfile.open(tmp_path / "imagenette224_small.tar", "w") as archive:
        files = {"classes.tsv": b"0\tn02\tcat\n1\tn01\tdog"}
        paths = ("train/n01/x", "train/n01/y", "train/n02/z", "val/n02/v")
        for i, path in enumerate(paths):
            buffer = io.BytesIO()
            Image.new("L", (8, 8), 50 * i).save(buffer, "jpeg")
            files[path] = buffer.getvalue()
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))

    # The training files of CIFAR-100 may be missing, of the others not.
    assert prepare.deduce_source("cifar100", tmp_path) == "packed"
    (note,) = run("cifar100", source="packed", input_path=tmp_path).notes
    assert "no train files" in note
    source = open_source("cifar100", "test", data_dir=tmp_path)
    np.testing.assert_array_equal(source.arrays()[0], pixels)
    np.testing.assert_array_equal(source.arrays()[1], [7, 7, 99, 0, 1, 2])
    assert source.class_names[7] == "beetle" and source.num_classes == 100
    with pytest.raises(FileNotFoundError, match="cifar100_train_1.zip"):
        packed.load_packed("cifar100", tmp_path, splits=["train"])

    splits, class_names, _ = packed.load_packed("imagenette224", tmp_path)
    assert class_names == ("cat", "dog")
    images, labels = splits["train"]
    # One cat among two dogs stands in the middle; the files are grey.
    np.testing.assert_array_equal(labels, [1, 0, 1])
    np.testing.assert_array_equal(images[:, 0, 0], [[0] * 3, [100] * 3, [50] * 3])
    assert splits["validation"][1].tolist() == [0]
