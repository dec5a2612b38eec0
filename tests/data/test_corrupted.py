"""Corrupted sets on disk: what is written, what survives, what is read back."""

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from uronet_jax import checkpoints, corruptions
from uronet_jax.data import corrupted, open_source

ROOT = Path(__file__).parent.parent.parent
NAMES = ("GN", "SPN")
SEVERITIES = (1, 3)
NUM_IMAGES = 50  # Not a multiple of the batch size.


@pytest.fixture(scope="module")
def source():
    return open_source("generated", f"test[:{NUM_IMAGES}]")


def write(source, folder, **changes):
    options = {"suite": "uronet", "names": NAMES, "severities": SEVERITIES}
    options |= {"batch_size": 32, "progress": False}
    corrupted.write(source, folder, **options | changes)


@pytest.fixture(scope="module")
def expected(source):
    """Returns what `corrupt` makes of the whole set at once."""
    images = source.arrays()[0].astype(np.float32) / 255

    def make(name, severity):
        key = corruptions.entry_key(0, name, severity)
        made = corruptions.corrupt(key, images, name, severity=severity, uint8=True)
        return np.asarray(made)

    return {(n, s): make(f"uronet/{n}", s) for n in NAMES for s in SEVERITIES}


def read_files(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def read_manifest(folder):
    return json.loads((folder / "manifest.json").read_text())


@pytest.mark.parametrize("in_memory", [True, False])
def test_arrays_are_laid_out_as_cifar_c(
    source, expected, tmp_path, monkeypatch, in_memory
):
    if not in_memory:
        monkeypatch.setattr(corrupted, "_RESIDENT_BYTES", 0)
    write(source, tmp_path)
    labels = source.arrays()[1]
    files = {"GN.npy", "SPN.npy", "labels.npy"}
    assert {p.name for p in tmp_path.iterdir()} == files | {"manifest.json", ".lock"}
    stored = np.load(tmp_path / "labels.npy")
    np.testing.assert_array_equal(stored, np.concatenate([labels, labels]))
    for name in NAMES:
        images = np.load(tmp_path / f"{name}.npy")
        assert images.shape == (2 * NUM_IMAGES, 32, 32, 3) and images.dtype == np.uint8
        for block, severity in enumerate(SEVERITIES):
            rows = slice(block * NUM_IMAGES, (block + 1) * NUM_IMAGES)
            np.testing.assert_array_equal(images[rows], expected[name, severity])
            loaded, loaded_labels = corrupted.load_stored(tmp_path, name, severity)
            np.testing.assert_array_equal(loaded, images[rows])
            np.testing.assert_array_equal(loaded_labels, labels)
    assert corrupted.list_stored(tmp_path) == NAMES

    manifest = read_manifest(tmp_path)
    assert manifest["dataset"] == "generated" and manifest["split"] == "test[:50]"
    assert manifest["corruptions"]["SPN"] == {
        "function": "salt_and_pepper_noise",
        "parameters": [{"amount": 0.1}, {"amount": 0.5}],
    }
    assert manifest["seed"] == 0 and manifest["unfinished"] == {}
    assert manifest["versions"]["jax"] == jax.__version__
    assert manifest["files"].keys() == files
    for file, checksum in manifest["files"].items():
        data = (tmp_path / file).read_bytes()
        assert hashlib.sha256(data).hexdigest() == checksum


def through_jpeg(image):
    buffer = io.BytesIO()
    image = image[..., 0] if image.shape[-1] == 1 else image
    Image.fromarray(image).save(buffer, "JPEG", quality=85, optimize=True)
    return buffer.getvalue()


def test_folders_are_laid_out_as_imagenet_c(source, expected, tmp_path):
    write(source, tmp_path, layout="folders")
    labels = source.arrays()[1]
    for (name, severity), images in expected.items():
        folder = tmp_path / name / str(severity)
        sums = {}
        for index, image in enumerate(images):
            file = f"wave_{labels[index]}/{index:08d}.JPEG"
            assert (folder / file).read_bytes() == through_jpeg(image)
            sums[file] = hashlib.sha256(through_jpeg(image)).hexdigest()
        lines = (folder / "SHA256SUMS").read_text().splitlines()
        assert lines == [f"{checksum}  {file}" for file, checksum in sums.items()]
        assert len(list(folder.glob("*/*"))) == NUM_IMAGES
        loaded, loaded_labels = corrupted.load_stored(tmp_path, name, severity)
        decoded = [Image.open(io.BytesIO(through_jpeg(image))) for image in images]
        np.testing.assert_array_equal(loaded, [np.asarray(image) for image in decoded])
        np.testing.assert_array_equal(loaded_labels, labels)
    assert corrupted.list_stored(tmp_path) == NAMES
    assert len(read_manifest(tmp_path)["files"]) == 4

    # Read without manifest, as a published set: sorted by class.
    (tmp_path / "manifest.json").unlink()
    loaded, loaded_labels = corrupted.load_stored(tmp_path, name, severity)
    order = np.argsort(labels, kind="stable")
    np.testing.assert_array_equal(loaded_labels, labels[order])
    np.testing.assert_array_equal(loaded[3], np.asarray(decoded[order[3]]))
    assert corrupted.list_stored(tmp_path) == NAMES
    with pytest.raises(ValueError, match="no severity 2 of GN .* choose from 1, 3"):
        corrupted.load_stored(tmp_path, "GN", 2)


def test_grey_images(tmp_path):
    grey = open_source("generated_grey", "test[:4]")
    for layout in corrupted.FILE_LAYOUTS:
        folder = tmp_path / layout
        write(grey, folder, names=["GN"], severities=[1], layout=layout, batch_size=4)
        images, _ = corrupted.load_stored(folder, "GN", 1)
        assert images.shape == (4, 28, 28, 1) and images.dtype == np.uint8


def test_frost_says_where_its_textures_come_from(source, tmp_path):
    options = {"suite": "cifar_c", "names": ["frost"], "severities": [1]}
    black = corruptions.stack_textures([np.zeros((64, 64, 3))], "a test")
    write(source, tmp_path, frost_textures=black, **options)
    described = read_manifest(tmp_path)["corruptions"]["frost"]
    assert described["textures"] == "photographs"
    # At severity 1 the image has weight 1.
    images, _ = corrupted.load_stored(tmp_path, "frost", 1)
    np.testing.assert_array_equal(images, source.arrays()[0])
    with pytest.raises(ValueError, match="'photographs'} there, .*'procedural'} now"):
        write(source, tmp_path, **options)


@pytest.mark.parametrize(("layout", "count"), [("arrays", 2), ("folders", 1 + 50)])
def test_damage_is_found(source, tmp_path, layout, count):
    write(source, tmp_path, names=["GN"], severities=[1], layout=layout)
    assert corrupted.verify(tmp_path) == count
    damaged = next(iter([*tmp_path.rglob("*.npy"), *tmp_path.rglob("*.JPEG")]))
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    with pytest.raises(ValueError, match=f"1 files in .* damaged.*{damaged.name}"):
        corrupted.verify(tmp_path)
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(ValueError, match="no manifest.json: .* cannot be verified"):
        corrupted.verify(tmp_path)


class Killed(BaseException):
    """Not caught by anything, as little as a signal."""


@pytest.mark.parametrize("layout", corrupted.FILE_LAYOUTS)
def test_killed_anywhere_it_goes_on(source, tmp_path, monkeypatch, layout):
    options = {"layout": layout, "names": ["GN"]}
    write(source, tmp_path / "undisturbed", **options)
    undisturbed = read_files(tmp_path / "undisturbed")
    replace, corrupt = os.replace, corrupted._corrupt
    left, computed = 0, []

    def tick():
        nonlocal left
        left -= 1
        if left == 0:
            raise Killed

    def killed_replace(*paths):
        tick()
        replace(*paths)
        tick()

    def killed_corrupt(corrupter, key, severity, batches, mesh):
        for examples in corrupt(corrupter, key, severity, batches, mesh):
            tick()
            yield examples
        computed.append(severity)

    monkeypatch.setattr(corrupted.os, "replace", killed_replace)
    monkeypatch.setattr(corrupted, "_corrupt", killed_corrupt)
    moment, finished = 0, False
    while not finished:
        moment += 1
        left, computed, folder = moment, [], tmp_path / str(moment)
        try:
            write(source, folder, **options)
            finished = True
        except Killed:
            left = -1
            write(source, folder, **options)
        assert read_files(folder) == undisturbed, f"killed at moment {moment}"
        # At most the block in which it was killed is made twice.
        assert len(computed) <= 3
    assert moment > 12


def test_complete_set_is_left_alone_and_can_grow(source, tmp_path, monkeypatch):
    write(source, tmp_path, names=["GN"])
    before = read_files(tmp_path)

    def compute(*arguments):
        raise AssertionError("made again")

    with monkeypatch.context() as patch:
        patch.setattr(corrupted, "_corrupt", compute)
        write(source, tmp_path, names=["GN"], batch_size=8)
    assert read_files(tmp_path) == before
    write(source, tmp_path, names=["SPN"], batch_size=8)
    assert corrupted.list_stored(tmp_path) == NAMES
    write(source, tmp_path / "other")
    for file, data in read_files(tmp_path / "other").items():
        assert (tmp_path / file).read_bytes() == data, file


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"seed": 1}, "another corrupted set .seed: 0 there, 1 now"),
        ({"severities": [1]}, r"severities: \[1, 3\] there, \[1\] now"),
        ({"layout": "folders"}, "layout: arrays there, folders now"),
        ({"suite": "cifar_c", "names": ["impulse_noise"]}, "suite: uronet there"),
    ],
)
def test_folder_of_another_set_is_refused(source, tmp_path, changes, expected):
    write(source, tmp_path, names=["GN"])
    before = read_files(tmp_path)
    with pytest.raises(ValueError, match=expected):
        write(source, tmp_path, **changes)
    assert read_files(tmp_path) == before


def test_unusable_folders_are_refused(source, tmp_path, monkeypatch):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("")
    with pytest.raises(ValueError, match="thesis is not empty and has no manifest"):
        write(source, tmp_path / "thesis")
    (tmp_path / "bad").mkdir()
    for text in ("{", "[]", '{"name": "another program"}'):
        (tmp_path / "bad" / "manifest.json").write_text(text)
        with pytest.raises(ValueError, match="manifest.json is damaged or not of a"):
            write(source, tmp_path / "bad")
    with checkpoints.locked_workdir(tmp_path / "busy"):
        with pytest.raises(OSError, match="another run is using .*busy"):
            write(source, tmp_path / "busy")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10_000))
    with pytest.raises(OSError, match="0 MB free and the set needs 1 MB"):
        write(source, tmp_path / "full")
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(ValueError, match="written by one process"):
        write(source, tmp_path / "two")


@pytest.fixture
def published(tmp_path):
    """Returns a folder laid out as CIFAR-10-C, with 3 images, and its contents."""
    rng = np.random.default_rng(0)
    labels = np.tile(np.array([3, 8, 8], np.uint8), 5)
    images = {n: rng.integers(0, 256, (15, 32, 32, 3), np.uint8) for n in ("fog", "fx")}
    for name, array in {**images, "labels": labels}.items():
        np.save(tmp_path / f"{name}.npy", array)
    return tmp_path, images


def test_published_set_is_read(published):
    folder, images = published
    assert corrupted.list_stored(folder) == ("fog", "fx")
    for severity in range(1, 6):
        loaded, labels = corrupted.load_stored(folder, "fx", severity)
        rows = slice(3 * severity - 3, 3 * severity)
        np.testing.assert_array_equal(loaded, images["fx"][rows])
        np.testing.assert_array_equal(labels, [3, 8, 8])
        assert labels.dtype == np.int32


def test_what_systems_leave_behind_is_no_image_and_no_class(
    tmp_path, published, monkeypatch
):
    folder, images = published
    (folder / "._fog.npy").write_bytes(b"of macOS")
    assert corrupted.list_stored(folder) == ("fog", "fx")
    classes = tmp_path / "folders" / "fog" / "1"
    for name in ("n01", "n02", ".ipynb_checkpoints"):
        (classes / name).mkdir(parents=True)
        Image.fromarray(images["fx"][0]).save(classes / name / "0.JPEG")
    (classes / "n02" / "._0.JPEG").write_bytes(b"of macOS")
    (tmp_path / "folders" / "__MACOSX" / "1").mkdir(parents=True)
    assert corrupted.list_stored(tmp_path / "folders") == ("fog",)
    _, labels = corrupted.load_stored(tmp_path / "folders", "fog", 1)
    np.testing.assert_array_equal(labels, [0, 1])
    # But the user's own folder may have any name.
    (tmp_path / "folders").rename(tmp_path / ".folders")
    assert corrupted.list_stored(tmp_path / ".folders") == ("fog",)
    monkeypatch.chdir(tmp_path / ".folders" / "fog")
    assert corrupted.list_stored("..") == ("fog",)


def test_wrong_reads_are_reported(source, published):
    folder, images = published
    for severity in (0, 6):
        with pytest.raises(ValueError, match=f"no severity {severity} of fog"):
            corrupted.load_stored(folder, "fog", severity)
    with pytest.raises(FileNotFoundError, match="no snow.npy in"):
        corrupted.load_stored(folder, "snow", 1)
    for array in (images["fog"][:14], images["fog"] / 255, images["fog"][..., 0]):
        np.save(folder / "fog.npy", array)
        with pytest.raises(ValueError, match=r"5 severities of 3 images: found"):
            corrupted.load_stored(folder, "fog", 1)
    (folder / "fog.npy").write_bytes((folder / "fx.npy").read_bytes()[:1000])
    with pytest.raises(ValueError, match="fog.npy is damaged"):
        corrupted.load_stored(folder, "fog", 1)
    for read in (corrupted.list_stored, lambda f: corrupted.load_stored(f, "fog", 1)):
        with pytest.raises(FileNotFoundError, match="no such folder: .*nowhere"):
            read(folder / "nowhere")
        (folder / "empty").mkdir(exist_ok=True)
        with pytest.raises(FileNotFoundError, match="no corrupted set in .*empty"):
            read(folder / "empty")


def test_unfinished_and_damaged_sets_are_reported(
    source, expected, tmp_path, monkeypatch
):
    def stop(corrupter, key, severity, batches, mesh):
        if severity == 3:
            raise Killed
        yield expected["GN", severity], source.arrays()[1]

    for layout in corrupted.FILE_LAYOUTS:
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(corrupted, "_corrupt", stop)
            write(source, tmp_path / layout, layout=layout)
        with pytest.raises(FileNotFoundError, match="no corruption is complete"):
            corrupted.list_stored(tmp_path / layout)
    with pytest.raises(FileNotFoundError, match="no GN.npy in .*: it is not finished"):
        corrupted.load_stored(tmp_path / "arrays", "GN", 1)
    with pytest.raises(FileNotFoundError, match="GN/3 holds 0 of 50 images"):
        corrupted.load_stored(tmp_path / "folders", "GN", 3)
    corrupted.load_stored(tmp_path / "folders", "GN", 1)
    next((tmp_path / "folders").glob("GN/1/*/*07.JPEG")).unlink()
    with pytest.raises(FileNotFoundError, match="GN/1 holds 49 of 50 images"):
        corrupted.load_stored(tmp_path / "folders", "GN", 1)


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "launch.make_corrupted", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )


def test_command(source, expected, tmp_path):
    common = (f"--out={tmp_path}/new", "--suite=uronet", "--corruptions=GN")
    done = command(*common, "--dataset=generated", "--severities=1,3")
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("new holds 1 corruptions: GN\n")
    images, _ = corrupted.load_stored(tmp_path / "new", "GN", 3)
    assert images.shape == (64, 32, 32, 3)
    # The same images, whatever the batches: here all 64 on one device.
    np.testing.assert_array_equal(images[:NUM_IMAGES], expected["GN", 3])
    wrong = command(*common, "--dataset=generated", "--severities=one")
    assert wrong.returncode == 2
    assert wrong.stderr == "error: --severities takes numbers such as 1,3: one\n"
