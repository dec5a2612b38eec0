"""Data as people have them: what is read, what is told, what is refused.

One line each: of `REFUSED` the files of a folder of images and the error, of `ROWS` a
call and the error.
"""

import errno
import io
import json
import re
import tarfile
import zipfile

import jax
import numpy as np
import pytest
from PIL import Image

from uronet_jax import sharding
from uronet_jax.data import (
    PairedSource,
    augment,
    corrupted,
    evaluation_batches,
    folders,
    make_pipeline,
    open_source,
    packed,
    prepare,
    sources,
)
from uronet_jax.data.pipelines import PIPELINES
from uronet_jax.data.stored import StoredArray, is_finished

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
        "train holds class folders, .*the first .*train/b.png",
    ),
    (
        {f"{x}/cat/a.png": png for x in ("train", "test")} | {"samples/b.png": png},
        "(train|test) holds class folders, .*samples/b.png",
    ),
    ({**TWO, "cat/b.tif": floating}, f"1 {BROKEN}.*floating-point pixels"),
    ({"cat/a.heic": text, "cat/b.txt": text}, "no images in class .* 1 .heic, 1 .txt"),
    (
        {"": nothing},
        "no images in class folders .*: need <class>/. or <split>/<class>/",
    ),
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
# Six folders with links to each other, twice.
SIX = [f"cat/{i}" for i in range(6)]
LINKED = {f"{x}/a.png": png for x in SIX[1:]} | {
    f"{x}/{prefix}{y[4:]}": to(f"../{y[4:]}")
    for prefix in "xy"
    for x in SIX
    for y in SIX
}
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
    ({**DEEP, "cat/one/two": to("../two"), "cat/two/one": to("../one")}, "", 4),
    (LINKED, "", 7),
    ({"pets": to("dog"), "dog/b.png": png}, "", 5),
    ({"cat/up": to(".."), "dog/self": to("."), "all": to(".")}, "", 2),
    ({"fox": to("/nowhere/fox")}, "1 links lead nowhere, the first .*fox: left out", 2),
]


@pytest.mark.parametrize(("files", "note", "count"), READ)
def test_read(files, note, count, tmp_path):
    splits, class_names, notes = folders.read_folder(make(tmp_path, {**TWO, **files}))
    classes = ["cat", "dog", *(["pets"] if "pets" in files else [])]
    assert class_names == classes and len(splits["train"].labels) == count
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


def test_broken_and_deep_images_on_request(tmp_path):
    files = {**TWO, "cat/b.jpg": truncated, "dog/b.png": deep}
    root = make(tmp_path / "photos", files)
    prepared = prepare.prepare(
        "pets",
        source="folder",
        input_path=root,
        data_dir=tmp_path,
        skip_broken=True,
        scale_16bit=True,
        progress=False,
    )
    (note,) = prepared.notes
    assert note.startswith("1 broken images left out: ")
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


IMAGES, LABELS = np.zeros((4, 8, 8, 3), np.uint8), np.arange(4)
FLOATS, INDEX = np.full((2, 8, 8, 3), 0.5, np.float32), np.arange(2)


def source(images=IMAGES, labels=LABELS, class_names="abcd"):
    return sources.ArraySource("toy", "train", images, labels, class_names)


def crop(images=FLOATS, index=INDEX, **options):
    return augment.random_crop(jax.random.key(0), images, index, **options)


def flip(images=FLOATS, index=INDEX):
    return augment.random_flip(jax.random.key(0), images, index)


def pipeline(**changes):
    usual = {"batch_size": 4, "seed": 0, "mesh": sharding.data_mesh()}
    return make_pipeline(source(), **usual | changes)


def batches(data, batch_size=4):
    return evaluation_batches(data, batch_size=batch_size, mesh=sharding.data_mesh())


def prepared(folder, content=None, **changes):
    """Prepares an archive of arrays, or what else is named."""
    path = folder / "input.npz"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        np.savez(path, **content)
    usual = {"source": "arrays", "input_path": path, "data_dir": folder / "data"}
    return prepare.prepare(**{"name": "pets", "progress": False} | usual | changes)


def arrays(**changes):
    return {"images": IMAGES, "labels": LABELS} | changes


def write(folder, images=IMAGES, suite="uronet", **changes):
    corrupted.write(
        source(images), folder / "new", suite=suite, progress=False, **changes
    )


def with_files(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def stored(folder, sidecar, content=None):
    files = {"a.json": sidecar} | ({"a.npy": content} if content else {})
    StoredArray(with_files(folder, files) / "a.npy", (2, 2), np.uint8, {})


def unpack(folder, file, name, split, content=b"x"):
    packed.load_packed(name, with_files(folder, {file: content}), splits=[split])


def png_bytes():
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, "PNG")
    return file.getvalue()


def as_zip(**files):
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return data.getvalue()


def tar(**files):
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return data.getvalue()


HALF = json.dumps({"layout": "arrays"}).encode()
BEGUN = json.dumps({"made_with": {}, "done": [], "finished": False}).encode()
LABEL = "need one integer label, 0 or more, for each of 4 images"
COPIES = r"copies of toy, split train, must be uint8 or uint16 \[4, 8, 8, 3\], or with"
ROWS = [
    # Splits and names.
    ("no such split", lambda _: open_source("generated", "val"), "it has test, train"),
    ("no text", lambda _: open_source("generated", None), "no split None: it has"),
    ("half a slice", lambda _: open_source("generated", "train["), "no split"),
    ("a step", lambda _: open_source("generated", "train[::2]"), "whole or sliced"),
    ("beyond", lambda _: open_source("generated", "train[:300]"), "beyond the 256"),
    ("above all", lambda _: open_source("generated", "train[:101%]"), "beyond the 256"),
    ("behind the end", lambda _: open_source("generated", "train[256:]"), "no image"),
    ("reversed", lambda _: open_source("generated", "train[9:5]"), "holds no image"),
    ("nothing", lambda _: open_source("generated", "train[:0]"), "holds no image"),
    (
        "a damaged set",
        lambda f: open_source(
            "pets",
            "train",
            data_dir=with_files(f, {"pets/1.0.0/dataset_info.json": b"{"}),
        ),
        "1.0.0 is damaged: prepare the data set again",
    ),
    # Arrays.
    ("floats", lambda _: source(IMAGES / 255), "need uint8 images .* got float64"),
    ("no channels", lambda _: source(IMAGES[..., 0]), r"need images \[N, H, W, C\]"),
    ("NCHW", lambda _: source(IMAGES.transpose(0, 3, 1, 2)), r"uint8 \[4, 3, 8, 8\]"),
    ("empty", lambda _: source(IMAGES[:0], LABELS[:0]), r"got uint8 \[0, 8, 8, 3\]"),
    ("lists", lambda _: source(IMAGES.tolist()), "need uint8 images .* got int64"),
    ("few labels", lambda _: source(labels=LABELS[:3]), rf"{LABEL}, got int64 \[3\]"),
    ("from -1 on", lambda _: source(labels=LABELS - 1), f"{LABEL}, .* from -1 on"),
    ("labels too large", lambda _: source(labels=LABELS + 1), "below 4.*labels to 4"),
    ("halves", lambda _: source(labels=LABELS + 0.5), f"{LABEL}, got float64"),
    (
        "float labels",
        lambda _: source(labels=LABELS.astype(float)),
        f"{LABEL}, got float64",
    ),
    (
        "one-hot labels",
        lambda _: source(labels=np.eye(4, dtype=int)),
        rf"{LABEL}, got int64 \[4, 4\]",
    ),
    (
        "rows out",
        lambda _: sources.Subset(source(), [4]),
        r"one or more integers from 0 to 3: int64\[1\], 4 to 4$",
    ),
    (
        "rows from the end",
        lambda _: sources.Subset(source(), [-1]),
        r"one or more integers from 0 to 3: int64\[1\], -1 to -1$",
    ),
    (
        "many rows",
        lambda _: sources.Subset(source(), np.arange(50_000)),
        r"from 0 to 3: int64\[50000\], 0 to 49999$",
    ),
    (
        "no rows",
        lambda _: sources.Subset(source(), []),
        "one or more integers from 0 to 3: float64",
    ),
    *(
        (
            f"labels {labels}",
            lambda _, labels=labels: sources.RelabelledSource(source(), labels, 12),
            r"data.labels must name, for each of the \d+ classes of .* of the class"
            rf"ifier's 12 \(0 to 11\): {found}",
        )
        for labels, found in (
            ((0, 1), r"2 entries: \(0, 1\)"),
            ((*range(9), 12), "10 entries: .*12"),
            ((*range(9), -1), "10 entries: .*-1"),
            ((*range(9), 0), "10 entries: .*8, 0"),
            ((*range(9), 9.5), "10 entries: .*9.5"),
            ("0123456789", "'0123456789'"),
        )
    ),
    ("few copies", lambda _: PairedSource(source(), IMAGES[:3]), COPIES),
    ("thin copies", lambda _: PairedSource(source(), IMAGES[..., :2]), COPIES),
    ("deep copies", lambda _: PairedSource(source(), IMAGES[None, None]), COPIES),
    ("flat copies", lambda _: PairedSource(source(), IMAGES[:, 0, 0]), COPIES),
    (
        "float copies",
        lambda _: PairedSource(source(), IMAGES / 255),
        f"{COPIES}.*found float64",
    ),
    # Pipelines and augmentations.
    *(
        (
            f"{name}, {kind}",
            lambda _, x=changes | {"kind": kind}: pipeline(**x),
            message,
        )
        for kind in PIPELINES
        for name, changes, message in (
            ("devices", {"batch_size": 6}, "size 6 cannot .* multiple of 4"),
            ("too large", {"batch_size": 8}, "8 is larger than toy.*4 images"),
            ("seed", {"seed": -1}, r"data seed must be an integer in \[0, .*: -1"),
        )
    ),
    ("a text", lambda _: pipeline(batch_size="4"), "size '4' cannot .* multiple of 4"),
    ("a float", lambda _: pipeline(batch_size=4.0), "size 4.0 cannot .* multiple of 4"),
    (
        "half a seed",
        lambda _: pipeline(seed=0.5),
        "data seed must be an integer .*: 0.5",
    ),
    (
        "kind",
        lambda _: pipeline(kind="stream"),
        "unknown pipeline 'stream' .nearest: 'streamed'.: choose from auto, on_device",
    ),
    (
        "threads",
        lambda _: pipeline(kind="streamed", num_threads=0),
        r"num_threads must be an integer in \[1, 1000\]: 0",
    ),
    (
        "judged devices",
        lambda _: batches(source(), 6),
        "size 6 cannot .* multiple of 4",
    ),
    (
        "a list",
        lambda _: batches([IMAGES, LABELS]),
        "a tuple of images and labels, not a list",
    ),
    (
        "unequal",
        lambda _: batches((IMAGES, LABELS[:3])),
        r"as many labels \[N\]: .*\[3\]",
    ),
    (
        "0 to 255",
        lambda _: batches((IMAGES + 200.0, LABELS)),
        "divide 0..255 images by 255",
    ),
    ("NaN", lambda _: batches((IMAGES * np.nan, LABELS)), "replace NaN"),
    (
        "halves",
        lambda _: batches((IMAGES, LABELS + 0.5)),
        "labels must be integers from 0 on: float64",
    ),
    ("one-hot", lambda _: batches((IMAGES, np.eye(4))), r"labels \[N\]: .*\[4, 4\]"),
    (
        "nested lists",
        lambda _: batches((IMAGES.tolist(), LABELS)),
        "images must be an array of NumPy or JAX, not a list",
    ),
    ("uint8", lambda _: crop(IMAGES[:2]), "need floating-point images.* / 255"),
    ("index", lambda _: crop(index=INDEX[:1]), "index must hold one integer per image"),
    ("uint8 turned", lambda _: flip(IMAGES[:2]), "need floating-point images.* / 255"),
    (
        "index turned",
        lambda _: flip(index=INDEX[:1]),
        "index must hold one integer per image",
    ),
    (
        "padding",
        lambda _: crop(padding=-1),
        r"padding must be an integer in \[0, .*: -1",
    ),
    # What is prepared.
    ("an empty file", lambda f: prepared(f, b""), "input.npz is damaged or no archive"),
    (
        "float pixels",
        lambda f: prepared(f, arrays(images=IMAGES / 255)),
        "need uint8 images .*got float64",
    ),
    (
        "2 channels",
        lambda f: prepared(f, arrays(images=IMAGES[..., :2])),
        r"uint8 images .* 1 or 3 channels .*\[4, 8, 8, 2\]",
    ),
    (
        "2 axes",
        lambda f: prepared(f, arrays(images=IMAGES[0, 0])),
        r"need uint8 images .*uint8 \[8, 3\]",
    ),
    (
        "text",
        lambda f: prepared(f, arrays(labels=np.array(list("abcd")))),
        f"{LABEL}, got <U1",
    ),
    (
        "other names",
        lambda f: prepared(f, {"x": IMAGES}),
        "holds x, not images, labels: need images and labels",
    ),
    (
        "no y_test",
        lambda f: prepared(f, {"x_train": IMAGES}),
        "holds x_train, not y_train: need images and labels, or x_train",
    ),
    (
        "too few names",
        lambda f: prepared(f, arrays(class_names=["a", "b", "c"])),
        "class name of its own for each label from 0 to 3, got 3, 3 of them different",
    ),
    (
        "a name twice",
        lambda f: prepared(f, arrays(class_names=["a", "a", "b", "c"])),
        "class name of its own for each label from 0 to 3, got 4, 3 of them different",
    ),
    *(
        (
            f"name {x}",
            lambda f, x=x: prepared(f, arrays(), name=x),
            f"bad data set name '{x}': use lower-case",
        )
        for x in ("Birds", "../birds", "my-birds")
    ),
    (
        "taken",
        lambda f: prepared(f, arrays(), name="mnist5k"),
        "'mnist5k' is the name of a built-in data set: use another",
    ),
    ("one side", lambda f: prepared(f, arrays(), resize=(8,)), "need height and width"),
    ("a number", lambda f: prepared(f, arrays(), resize=8), "need height and width"),
    (
        "no pixel",
        lambda f: prepared(f, arrays(), resize=(0, 8)),
        r"each of resize must be an integer in \[1, 32768\]: 0",
    ),
    (
        "a source",
        lambda f: prepared(f, arrays(), source="array"),
        "unknown source 'array' .nearest: 'arrays'.: choose from folder, packed",
    ),
    (
        "no input",
        lambda f: prepared(f, source="folder", input_path=None),
        "source 'folder' needs a folder of images",
    ),
    (
        "a packed set",
        lambda f: packed.load_packed("mnst", f),
        "unknown packed set 'mnst' .nearest: 'mnist'.: choose from cifar10",
    ),
    (
        "packed digits",
        lambda f: unpack(f, "mnist_test.npz", "mnist", "test"),
        "mnist_test.npz is damaged",
    ),
    (
        "a packed zip",
        lambda f: unpack(f, "cifar10_test.zip", "cifar10", "test"),
        "cifar10_test.zip is damaged or no file of a packed set",
    ),
    (
        "a packed tar",
        lambda f: unpack(f, "imagenette224_small.tar", "imagenette224", "train"),
        "imagenette224_small.tar is damaged",
    ),
    (
        "another tar",
        lambda f: unpack(
            f, "imagenette224_small.tar", "imagenette224", "train", tar(a=b"")
        ),
        "imagenette224_small.tar has no table of classes",
    ),
    (
        "a class",
        lambda f: unpack(
            *(f, "imagenette224_small.tar", "imagenette224", "train"),
            tar(**{"classes.tsv": b"0\tn02\tcat", "train/n01/x": png_bytes()}),
        ),
        "small.tar: train/n01/x is of no class in its table",
    ),
    (
        "another zip",
        lambda f: unpack(
            f, "cifar10_test.zip", "cifar10", "test", as_zip(**{"a.webp": b""})
        ),
        "cifar10_test.zip lacks strips or labels.npy",
    ),
    # Corrupted sets; they are refused before anything is made.
    (
        "a suite",
        lambda f: write(f, suite="cifarc"),
        "unknown suite 'cifarc' .nearest: 'cifar_c'.: choose from uronet",
    ),
    ("a noise", lambda f: write(f, names=["fog"]), "unknown uronet corruption 'fog'"),
    ("a text", lambda f: write(f, names="GN"), r"names must be several, .* \('GN',\)"),
    (
        "no noise",
        lambda f: write(f, names=[]),
        "at least one corruption and one severity",
    ),
    (
        "severity",
        lambda f: write(f, severities=[4]),
        r"severity of uronet/GN must be .* \[1, 3\]: 4",
    ),
    (
        "one",
        lambda f: write(f, severities=1),
        r"severities must be several, such as \(1,\): 1",
    ),
    ("a seed", lambda f: write(f, seed=-1), r"seed must be an integer in \[0, .*: -1"),
    (
        "a layout",
        lambda f: write(f, layout="zip"),
        "unknown layout 'zip': choose from arrays, folders",
    ),
    ("a batch", lambda f: write(f, batch_size=6), "batch size 6 .* multiple of 4"),
    (
        "photographs",
        lambda f: write(f, frost_textures=()),
        "frost photographs are of no use for GN, UN, SPN",
    ),
    (
        "small images",
        lambda f: write(f, suite="cifar_c", names=["gaussian_noise", "fog"]),
        "images must be at least 28 pixels high and wide: 8x8; resize them first",
    ),
    (
        "half a manifest",
        lambda f: corrupted.list_stored(with_files(f, {"manifest.json": HALF})),
        "manifest.json is damaged or not of a corrupted set",
    ),
    (
        "a broken image",
        lambda f: corrupted.load_stored(
            with_files(f, {"fog/1/a/b.JPEG": b""}), "fog", 1
        ),
        "b.JPEG is damaged .cannot identify .*: copy or make it anew",
    ),
    ("a sidecar", lambda f: stored(f, b"{"), "a.json is damaged: make a.npy anew"),
    ("a list", lambda f: stored(f, b"[]"), "a.json is damaged: make a.npy anew"),
    (
        "a text",
        lambda f: stored(f, BEGUN, b"x"),
        r"a.npy is damaged or no array \(.npy\)",
    ),
    (
        "unfinished?",
        lambda f: is_finished(with_files(f, {"a.json": b"{"}) / "a.npy"),
        "a.json is damaged: make a.npy anew",
    ),
]


@pytest.mark.parametrize(("name", "call", "message"), ROWS)
def test_what_is_wrong_is_told(name, call, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        call(tmp_path)
    assert not (tmp_path / "new").exists() and not (tmp_path / "data/pets").exists()


# What is not there.
MISSING = [
    (
        "a name",
        lambda f: open_source("generatd", "train", data_dir=f),
        "no data set 'generatd' .nearest: 'generated'.*Built in: mnist5k, generated",
    ),
    ("no file", lambda f: prepared(f), "no such file or folder: .*input.npz"),
    (
        "no folder",
        lambda f: prepared(f, source="folder", input_path=f / "nowhere"),
        "no such file or folder: .*nowhere",
    ),
    (
        "no packed file",
        lambda f: prepared(f, name="mnist", source="packed", input_path=f),
        "mnist, split train: missing in .*: mnist_train.npz",
    ),
    ("no array", lambda f: stored(f, BEGUN), "a.npy is gone, and the .json beside it"),
]


@pytest.mark.parametrize(("name", "call", "message"), MISSING)
def test_what_is_missing_is_told(name, call, message, tmp_path):
    with pytest.raises(FileNotFoundError, match=message):
        call(tmp_path)
    assert not (tmp_path / "data/pets").exists()


def test_a_folder_in_place_of_an_image_stays_what_it_is(tmp_path):
    with_files(tmp_path, {"fog/1/a/b.JPEG/c": b""})
    with pytest.raises(IsADirectoryError, match="Is a directory: .*b.JPEG"):
        corrupted.load_stored(tmp_path, "fog", 1)


def test_what_is_not_of_a_packed_file_stays_what_it_is(tmp_path, monkeypatch):
    def open_zip(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(packed.zipfile, "ZipFile", open_zip)
    with pytest.raises(PermissionError, match="Permission denied: .*test.zip"):
        unpack(tmp_path, "cifar10_test.zip", "cifar10", "test")


def test_official_sets_need_tensorflow(tmp_path, monkeypatch):
    monkeypatch.setattr(prepare.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"uronet_jax\[prepare\]"):
        prepare.prepare("cifar10", source="tfds", data_dir=tmp_path)
