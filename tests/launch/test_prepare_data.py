"""The command that prepares a data set: what it tells of what it left out."""

import io
import zipfile

import numpy as np
from PIL import Image


def prepare(start, folder, name, *options):
    """Returns the lines of a run that ends well."""
    files = (f"--input={folder}", f"--data_dir={folder.parent}/data")
    run = start("-m", "launch.prepare_data", f"--name={name}", *files, *options)
    output, errors = run.communicate()
    assert run.returncode == 0, errors
    return output.splitlines()


def test_broken_images_that_are_left_out_are_told(start, tmp_path):
    photos = tmp_path / "photos"
    for path in ("cat/a.png", "dog/a.png"):
        (photos / path).parent.mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(photos / path)
    (photos / "cat/b.jpg").write_bytes(b"")
    lines = prepare(start, photos, "pets", "--skip_broken")
    assert lines[0].startswith("pets: 1 broken images left out: ")
    assert "b.jpg" in lines[0]
    assert lines[1:] == [
        f"wrote {tmp_path}/data/pets/1.0.0",
        "  train: 2 images, 8x8x3, 2 classes",
    ]


def test_files_of_a_packed_set_that_are_missing_are_told(start, tmp_path):
    packed = tmp_path / "packed"
    packed.mkdir()
    with zipfile.ZipFile(packed / "cifar100_test.zip", "w") as archive:
        strip, labels = io.BytesIO(), io.BytesIO()
        Image.new("RGB", (32, 3 * 32)).save(strip, "webp", lossless=True)
        np.save(labels, np.array([7, 99, 0], np.uint8))
        archive.writestr("images/00000.webp", strip.getvalue())
        archive.writestr("fine_labels.npy", labels.getvalue())
    lines = prepare(start, packed, "cifar100")
    assert lines[0].startswith("cifar100: no train files"), lines
    assert lines[-1] == "  test: 3 images, 32x32x3, 100 classes"
