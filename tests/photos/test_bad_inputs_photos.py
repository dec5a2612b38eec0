"""Files and settings that cannot be purified, and the one error that says why."""

import numpy as np
import pytest
from PIL import Image
from test_pictures import write_bad
from test_purify import HALVING, judged, photo, results_in, save

from uronet_jax.photos import pictures, tiles
from uronet_jax.photos.purify import load_photo_models, purify_files

# What is named, the output folder, and what the message holds.
INPUTS = [
    ((), "out", "no pictures in nothing: name image files"),
    (("in/void",), "out", "no pictures in .*void"),
    (("in/*.tif",), "out", r"no pictures in .*\*.tif"),
    (("in/none.png",), "out", "no such file or folder: .*none.png"),
    (("in",), "in", "the output folder .* is .* or inside it"),
    (("in",), "in/void/out", "the output folder .* or inside it"),
    (("in/a.png",), "in", "a.png lies in the output folder"),
    (("in", "again"), "out", "a.png and .*a.png would both become a.png"),
    (("in", "twin"), "out", "both become b.png: keep suffixes"),
    (("in", "case"), "out", "both become A.png: keep suffixes"),
    (("sheet",), "out", "and the contact sheet would both become contact_sheet"),
    (("in",), "full", "full is not empty and was not made by purifying"),
    (("again",), "in/a.png", "cannot write to workdir .*a.png"),
    (("in",), "/proc/nothing", "cannot write to workdir /proc/nothing"),
]


@pytest.fixture
def photos(tmp_path):
    """A folder with two pictures, and others beside it."""
    for name in ("in/a.png", "in/b.png", "again/a.png", "twin/b.bmp", "case/A.png"):
        save(tmp_path / name, photo(2, 2))
    for name in ("sheet/contact_sheet.png", "full/z.png"):
        save(tmp_path / name, photo(2, 2))
    (tmp_path / "in/void").mkdir()
    return tmp_path / "in"


@pytest.mark.parametrize(("inputs", "out", "message"), INPUTS)
def test_inputs(photos, tmp_path, inputs, out, message):
    before = results_in(tmp_path)
    with pytest.raises((ValueError, OSError), match=message):
        purify_files([tmp_path / x for x in inputs], tmp_path / out, HALVING)
    assert results_in(tmp_path) == before


SETTINGS = [
    ({"threshold": 1.5}, r"threshold, a probability, .* in \[0, 1\]: 1.5"),
    ({"threshold": float("nan")}, "threshold, a probability, .*: nan"),
    ({"threshold": "0.5"}, "threshold, a probability, .*: '0.5'"),
    ({"tile": 50}, "multiple of 32 and at least 192, got 50"),
    ({"tile": 256.0}, "multiple of 32 and at least 192, got 256.0"),
    ({"tile": "256"}, "multiple of 32 and at least 192, got '256'"),
    ({"class_names": ["a"]}, "1 class names for a classifier of 2"),
]


@pytest.mark.parametrize(("options", "message"), SETTINGS)
def test_settings(photos, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        purify_files([photos], tmp_path / "out", judged(), **options)
    assert not (tmp_path / "out").exists()


def test_one_path_is_no_list_of_letters(photos, tmp_path):
    """Its first letter would be the root of the file system."""
    with pytest.raises(ValueError, match="the output folder .* or inside it"):
        purify_files(str(photos), photos / "out", HALVING)


def encode(suffix, **changes):
    pixels = np.zeros((2, 2, 3), np.uint8)
    picture = pictures.DecodedPicture(pixels, pixels[..., 0], [], {})
    pictures.encode_picture(picture, pixels, suffix)


ROWS = [
    (
        "a purifier",
        lambda _: load_photo_models("jpg"),
        "no purifier 'jpg' .nearest: 'jpeg'.: it is neither the folder of a run nor",
    ),
    ("no file", lambda f: pictures.look_at_picture(f / "a.png"), "No such file"),
    ("alpha", lambda _: encode(".jpg"), "cannot be written as .jpg"),
    *(
        (
            f"a suffix: {x}",
            lambda _, x=x: encode(x),
            f"{x} files are not written: leave",
        )
        for x in (".psd", ".gif", ".mpo")
    ),
    *(
        (
            f"a tile: {x}",
            lambda _, x=x: tiles.check_tile(x, tiles.Reach(8, 43)),
            f"multiple of 8 and at least 96, got {x}",
        )
        for x in (64, 100, 0, -8)
    ),
]


@pytest.mark.parametrize(("name", "call", "message"), ROWS)
def test_what_is_wrong_is_told(name, call, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        call(tmp_path)


def test_a_detector_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint under .*nowhere"):
        load_photo_models("median", tmp_path / "nowhere")


def test_pictures(tmp_path):
    for name, why in write_bad(tmp_path).items():
        with pytest.raises(ValueError, match=why):
            pictures.look_at_picture(tmp_path / name)
            pictures.read_picture(tmp_path / name)


def test_too_large_a_picture_is_refused_unread(tmp_path, monkeypatch):
    path = tmp_path / "large.png"
    Image.new("1", (20_000, 10_000)).save(path)  # More than Pillow warns of.
    with pictures.trusted_sizes():
        assert pictures.look_at_picture(path) == (10_000, 20_000, 1)
        monkeypatch.setattr(pictures, "MAX_PIXELS", 10**8)
        with pytest.raises(ValueError, match="20000x10000 pixels are more than 1000"):
            pictures.look_at_picture(path)
    assert Image.MAX_IMAGE_PIXELS is not None
