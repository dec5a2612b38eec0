"""Pictures of every kind that files hold, read and written again."""

import struct

import numpy as np
import pytest
from PIL import Image

from uronet_jax.photos import pictures

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(256, size=(5, 7, 3), dtype=np.uint8)
GREY = COLOUR[..., 0]
ALPHA = RNG.integers(256, size=(5, 7), dtype=np.uint8)
DEEP = RNG.integers(65536, size=(5, 7), dtype=np.uint16)


def with_alpha(image):
    image.putalpha(Image.fromarray(ALPHA))
    return image


def read(path, image, **options):
    image.save(path, **options)
    return pictures.read_picture(path)


def test_modes(tmp_path):
    grey, colour = Image.fromarray(GREY), Image.fromarray(COLOUR)
    palette = colour.quantize(8)
    clear = palette.copy()
    clear.info["transparency"] = 3
    for name, image, pixels, alpha in [
        ("grey.png", grey, GREY[..., None], None),
        ("grey_alpha.png", with_alpha(grey.copy()), GREY[..., None], ALPHA),
        ("colour.bmp", colour, COLOUR, None),
        ("colour_alpha.webp", with_alpha(colour.copy()), COLOUR, ALPHA),
        ("bits.png", grey.convert("1"), None, None),
        ("palette.gif", palette, np.asarray(palette.convert("RGB")), None),
        ("deep.png", Image.fromarray(DEEP), DEEP[..., None], None),
        ("deep.tif", Image.fromarray(DEEP), DEEP[..., None], None),
        (
            "deep_ints.tif",
            Image.fromarray(DEEP.astype(np.int32)),
            DEEP[..., None],
            None,
        ),
    ]:
        found = read(tmp_path / name, image, lossless=True, exact=True)
        if pixels is None:
            pixels = np.asarray(image.convert("L"))[..., None]
        assert (found.pixels.dtype, found.notes) == (pixels.dtype, []), name
        np.testing.assert_array_equal(found.pixels, pixels, err_msg=name)
        assert (found.alpha is None) == (alpha is None), name
        if alpha is not None:
            np.testing.assert_array_equal(found.alpha, alpha)
        look = pictures.look_at_picture(tmp_path / name)
        assert look == (*pixels.shape[:2], pixels.shape[-1]), name
        # Written as PNG it is the same picture, with the same transparency.
        data = pictures.encode_picture(found, found.pixels, ".png")
        (tmp_path / "again.png").write_bytes(data)
        again = pictures.read_picture(tmp_path / "again.png")
        np.testing.assert_array_equal(again.pixels, found.pixels, err_msg=name)
        assert again.pixels.dtype == found.pixels.dtype
        np.testing.assert_array_equal(again.alpha, found.alpha)
    found = read(tmp_path / "clear.png", palette, transparency=3)
    expected = np.where(np.asarray(palette) == 3, 0, 255)
    np.testing.assert_array_equal(found.alpha, expected)


def test_other_colours_become_rgb(tmp_path):
    inks = Image.fromarray(COLOUR).convert("CMYK")
    found = read(tmp_path / "inks.tif", inks)
    np.testing.assert_array_equal(found.pixels, COLOUR)
    assert found.notes == ["CMYK became RGB"]
    lab = Image.fromarray(COLOUR, "RGB").convert("YCbCr")
    found = read(tmp_path / "ycbcr.tif", lab)
    assert found.pixels.shape == (5, 7, 3)


def test_rotation_is_applied_and_the_rest_is_kept(tmp_path):
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "a camera"
    image = Image.fromarray(COLOUR)
    options = {"exif": exif, "icc_profile": b"a profile"}
    found = read(tmp_path / "turned.png", image, **options)
    np.testing.assert_array_equal(found.pixels, np.rot90(COLOUR, -1))
    assert found.notes == ["rotated as its camera says"]
    for suffix in (".png", ".jpg", ".webp"):
        path = tmp_path / f"again{suffix}"
        path.write_bytes(pictures.encode_picture(found, found.pixels, suffix))
        with Image.open(path) as again:
            assert again.size == (5, 7)
            assert again.info["icc_profile"] == b"a profile"
            assert dict(again.getexif()) == {0x010F: "a camera"}
    np.testing.assert_array_equal(
        pictures.read_picture(tmp_path / "again.webp").pixels, found.pixels
    )


def test_a_photograph_and_its_preview_are_one_picture(tmp_path):
    image = Image.fromarray(COLOUR)
    found = read(tmp_path / "a.mpo", image, save_all=True, append_images=[image])
    with Image.open(tmp_path / "a.mpo") as file:
        assert file.n_frames == 2
    assert found.pixels.shape == COLOUR.shape


def write_bad(folder):
    """Writes files that are no still pictures; returns what is to be said of each."""
    image, other = Image.fromarray(COLOUR), Image.fromarray(COLOUR[::-1])
    image.save(folder / "moving.gif", save_all=True, append_images=[other])
    image.save(folder / "pages.tif", save_all=True, append_images=[other] * 2)
    large = RNG.integers(256, size=(64, 64, 3), dtype=np.uint8)
    for name in ("cut.jpg", "cut.png", "cut.webp"):
        Image.fromarray(large).save(folder / name)
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: len(data) // 2])
    (folder / "empty.png").touch()
    (folder / "text.jpg").write_text("no picture")
    Image.fromarray(GREY.astype(np.float32)).save(folder / "float.tif")
    Image.fromarray(-1 - DEEP.astype(np.int32)).save(folder / "negative.tif")
    image.save(folder / "odd.dds")
    data = bytearray((folder / "odd.dds").read_bytes())
    data[80:84] = bytes(4)  # What its pixels are: nothing that Pillow knows.
    (folder / "odd.dds").write_bytes(data)
    return {
        "moving.gif": "2 frames: only still pictures",
        "pages.tif": "3 frames",
        "cut.jpg": "truncated",
        "cut.png": "truncated",
        "cut.webp": "decoder",
        "empty.png": "empty file",
        "text.jpg": "no image",
        "float.tif": "floating-point pixels",
        "negative.tif": "need 0 to 65535",
        "odd.dds": "broken: Unknown pixel format",
    }


@pytest.mark.parametrize("name", pictures.SAVING)
def test_a_format_keeps_a_picture_or_refuses_it(name, tmp_path):
    suffix = next(s for s, n in Image.registered_extensions().items() if n == name)
    smooth = np.linspace(0, 1, 40 * 30).reshape(40, 30, 1) * [1.0, 0.8, 0.3]
    smooth = np.rint(smooth * 255).astype(np.uint8)
    # Of one level each: where colours are halved, twenty levels are lost.
    checks = np.indices((40, 30)).sum(axis=0)[..., None] % 2 * np.array([9, 0, 90])
    colour = smooth // 2 + checks.astype(np.uint8)
    alpha = np.ascontiguousarray(smooth[::-1, :, 0])
    deep = smooth[..., :1].astype(np.uint16) * 257 ^ np.uint16(3)
    written = 0
    for pixels, clear in [
        *((colour, None), (colour, alpha), (colour[..., :1], None)),
        *((colour[..., :1], alpha), (deep, None)),
    ]:
        picture = pictures.DecodedPicture(pixels, clear, [], {})
        try:
            data = pictures.encode_picture(picture, pixels, suffix)
        except ValueError as error:
            assert f"cannot be written as {suffix}: " in str(error)
            continue
        written += 1
        path = tmp_path / f"a{suffix}"
        path.write_bytes(data)
        again = pictures.read_picture(path)
        assert again.pixels.dtype == pixels.dtype
        error = np.abs(again.pixels.astype(int) - pixels)
        # The quantisation of quality 95 and 100; else nothing is lost.
        assert error.max() <= {"JPEG": 12, "AVIF": 4}.get(name, 0)
        assert (again.alpha is None) == (clear is None)
        if clear is not None:
            np.testing.assert_array_equal(again.alpha, clear)
    assert written >= 2


def test_formats_that_cannot_hold_it(tmp_path, monkeypatch):
    found = read(tmp_path / "a.png", with_alpha(Image.fromarray(COLOUR)))

    def save(*_, **__):
        raise struct.error("too long")

    monkeypatch.setattr(Image.Image, "save", save)
    with pytest.raises(ValueError, match="cannot be written as .png: too long"):
        pictures.encode_picture(found, found.pixels, ".png")


def test_grey_for_models_of_colour_and_the_reverse():
    grey = GREY[..., None]
    (plane,) = pictures.to_planes(grey, 3)
    assert plane.shape == (5, 7, 3) and (plane == grey).all()
    np.testing.assert_array_equal(pictures.from_planes([plane], 1), grey)
    # No colour is lost.
    planes = pictures.to_planes(COLOUR, 1)
    assert [p.shape for p in planes] == [(5, 7, 1)] * 3
    np.testing.assert_array_equal(pictures.from_planes(planes, 3), COLOUR)
    assert pictures.to_planes(COLOUR, None)[0] is COLOUR
    expected = np.asarray(Image.fromarray(COLOUR).convert("L"))[..., None]
    # Pillow has weights of 16 bits and rounds down in between.
    difference = pictures.luma_of(COLOUR).astype(int) - expected
    assert np.abs(difference).max() <= 1


def test_what_a_classifier_is_shown():
    same = pictures.fitted(COLOUR, (5, 7, 3))
    np.testing.assert_array_equal(same, COLOUR.astype(np.float32) / np.float32(255))
    # Antialiased: a fine checkerboard is grey, not one of its colours.
    board = np.indices((64, 96)).sum(axis=0)[..., None] % 2
    for largest, dtype in ((255, np.uint8), (65535, np.uint16)):
        shown = pictures.fitted((board * largest).astype(dtype), (8, 8, 3))
        assert shown.dtype == np.float32 and shown.shape == (8, 8, 3)
        np.testing.assert_allclose(shown, 0.5, atol=0.02)
    # The middle of a wide picture.
    wide = np.zeros((8, 24, 3), np.uint8)
    wide[:, 8:16] = 255
    assert (pictures.fitted(wide, (8, 8, 1)) == 1.0).all()


def test_suffixes_of_pictures_only():
    suffixes = pictures.picture_suffixes()
    assert {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif"} <= suffixes
    assert not {".pdf", ".eps", ".mpg", ".h5", ".txt", ".npy"} & suffixes
