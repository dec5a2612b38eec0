"""Folders of images as people have them: what is read, what is told, what is refused.

One line of `REFUSED` each: the files, and the error.
"""

import re

import numpy as np
import pytest
from PIL import Image

from uronet_jax.data import folders, open_source, prepare

PIXELS = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)


def png(path, pixels=PIXELS):
    Image.fromarray(pixels).save(path)


def truncated(path):
    Image.fromarray(np.tile(PIXELS, (8, 8, 1))).save(path, "JPEG")
    path.write_bytes(path.read_bytes()[:900])


def bad_png(path):
    png(path)
    content = bytearray(path.read_bytes())
    content[40:60] = bytes(20)
    path.write_bytes(content)


def empty(path):
    path.write_bytes(b"")


def text(path):
    path.write_text("not an image")


def deep(path, high=65535):
    levels = np.linspace(0, high, 64).astype(np.uint16 if high < 65536 else np.int32)
    Image.fromarray(levels.reshape(8, 8)).save(path)


def too_deep(path):
    deep(path, 70_000)


def floating(path):
    Image.fromarray(np.full((8, 8), 0.5, np.float32)).save(path)


def deep_and_turned(path):
    """16 bits, the left half white, stored lying on its side."""
    levels = np.zeros((8, 16), np.uint16)
    levels[:, :8] = 65535
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(levels).save(path, exif=exif)


def to(target):
    return lambda path: path.symlink_to(target)


def animated(path):
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    frames[0].save(path, save_all=True, append_images=frames[1:])


def nothing(path):
    """A folder without files."""
    path.mkdir()


def make(root, files):
    for name, write in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path)
    return root


TWO = {"cat/a.png": png, "dog/a.png": png}
BROKEN = "of 3 images cannot be read: "
REFUSED = [
    ({**TWO, "cat/b.jpg": truncated}, f"1 {BROKEN}.*b.jpg .*truncated.*--skip_broken"),
    ({**TWO, "cat/b.png": bad_png}, f"1 {BROKEN}.*b.png .no image"),
    ({**TWO, "cat/b.png": empty}, f"1 {BROKEN}.*b.png .empty file"),
    ({**TWO, "cat/b.webp": text}, f"1 {BROKEN}.*b.webp .no image"),
    ({f"cat/{i}.png": empty for i in range(7)}, "7 of 7 .*4.png .*and 2 more: mend"),
    (
        {**TWO, "dog/b.png": deep},
        "1 images have more than 8 bits.*b.png.*--scale_16bit",
    ),
    ({**TWO, "dog/b.tif": too_deep}, f"1 {BROKEN}.*0 to 70000, expected 0 to 65535"),
    (
        {**TWO, "fox": nothing},
        "no images that can be read in class folders of train: fox",
    ),
    ({**TWO, "fox/a.heic": text}, "class folders of train: fox: remove these folders"),
    ({"train/cat/a.png": png, "train/fox": nothing}, "folders of train: fox"),
    (
        {"train/cat/a.png": png, "test/fox": nothing, "test/cat/a.png": png},
        "folders of test: fox",
    ),
    ({"train/cat/a.png": png, "test": nothing}, "folders of test: test: remove"),
    (
        {"train/cat/a.png": png, "train/b.png": png},
        "train holds class folders, .*the first .*b.png",
    ),
    (
        {f"{x}/cat/a.png": png for x in ("train", "test")} | {"samples/b.png": png},
        "(train|test) holds class folders, .*samples/b.png",
    ),
    ({**TWO, "cat/b.tif": floating}, f"1 {BROKEN}.*floating-point pixels"),
    ({"cat/a.heic": text, "cat/b.txt": text}, "no images in class .* 1 .heic, 1 .txt"),
    ({"a.png": png}, "no images in class folders .*; 1 images outside class folders"),
    ({**TWO, "cat/b.png": to("/nowhere/b.png")}, f"1 {BROKEN}.*b.png .*No such file"),
]


@pytest.mark.parametrize(("files", "message"), REFUSED)
def test_refused_before_anything_is_written(files, message, tmp_path):
    root = make(tmp_path / "photos", files)
    data = tmp_path / "data"
    with pytest.raises(ValueError, match=message):
        prepare.prepare(
            "pets", source="folder", input_path=root, data_dir=data, progress=False
        )
    assert not data.exists() or not any(data.iterdir())


DEEP = {"cat/one/b.png": png, "cat/two/b.png": png}
# Files beside those of `TWO`, what is told (or nothing), and how many images are read.
READ = [
    ({}, "", 2),
    ({"cat/._a.png": empty, "dog/Thumbs.db": text, "cat/.DS_Store": text}, "", 2),
    ({"__MACOSX/cat/._a.png": empty, "cat/.ipynb_checkpoints/a.png": png}, "", 2),
    ({"cat/2025/b.png": png, "cat/2025/may/b.png": png}, "", 4),
    (
        {"cat/b.heic": text, "cat/c.heic": text, "dog/LICENSE": text},
        "1 without, 2 .heic",
        2,
    ),
    ({"cat/b.gif": animated}, "1 images have several frames, the first .*b.gif", 3),
    ({"b.png": png}, "1 images outside class folders left out", 2),
    ({"b.png": png, "cat/b.png": to("../b.png")}, "1 images outside class", 3),
    ({**DEEP, "cat/one/two": to("../two"), "cat/two/one": to("../one")}, "", 6),
    ({"cat/up": to(".."), "dog/self": to("."), "all": to(".")}, "", 2),
    ({"fox": to("/nowhere/fox")}, "1 links lead nowhere, the first .*fox: left out", 2),
]


@pytest.mark.parametrize(("files", "note", "count"), READ)
def test_read(files, note, count, tmp_path):
    splits, class_names, notes = folders.read_folder(make(tmp_path, {**TWO, **files}))
    assert class_names == ["cat", "dog"] and len(splits["train"].labels) == count
    assert len(notes) == bool(note)
    assert re.search(note, " ".join(notes))


def test_classes_that_a_split_lacks_are_told(tmp_path):
    names = ("train/cat", "train/dog", "test/cat", "test/fox")
    make(tmp_path, {f"{name}/a.png": png for name in names} | {"test/dog": nothing})
    splits, class_names, notes = folders.read_folder(tmp_path)
    assert class_names == ["cat", "dog", "fox"]
    assert notes == [
        "test has classes that train lacks: fox",
        "test lacks classes of train: dog",
    ]
    assert sorted(splits["test"].labels) == [0, 2]


def test_broken_and_deep_images_on_request(tmp_path, capsys):
    files = {**TWO, "cat/b.jpg": truncated, "dog/b.png": deep}
    root = make(tmp_path / "photos", files)
    prepare.prepare(
        "pets",
        source="folder",
        input_path=root,
        data_dir=tmp_path,
        skip_broken=True,
        scale_16bit=True,
        progress=False,
    )
    assert "pets: 1 broken images left out: " in capsys.readouterr().out
    images, _ = open_source("pets", "train", data_dir=tmp_path).arrays()
    (grey,) = [x for x in images if (x[..., 0] == x[..., 1]).all()]
    # 65535 becomes 255, and so on in proportion.
    expected = np.linspace(0, 255, 64).reshape(8, 8)
    assert np.abs(grey[..., 0] - expected).max() <= 0.51
    # A class without an image that can be read is none.
    make(root, {"fox/a.png": empty})
    with pytest.raises(ValueError, match="class folders of train: fox"):
        folders.read_folder(root, skip_broken=True, scale_16bit=True)
    with pytest.raises(ValueError, match="are for folders of image files"):
        prepare.prepare(
            "x", source="arrays", input_path=root, data_dir=tmp_path, skip_broken=True
        )


def test_a_deep_image_is_turned_too(tmp_path):
    files = {"cat/a.png": deep_and_turned}
    splits, _, _ = folders.read_folder(make(tmp_path, files), scale_16bit=True)
    image = np.asarray(splits["train"].read(0))
    assert list(splits["train"].shapes) == [(16, 8, 1)] and image.shape == (16, 8)
    # Turned by a quarter, the left half is the upper one.
    np.testing.assert_array_equal(image, np.repeat([255, 0], 8)[:, None].repeat(8, 1))
