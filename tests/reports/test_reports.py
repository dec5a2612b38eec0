"""Tables, JSON files and figures."""

import json
import os
import sys
from unittest import mock

import jax.numpy as jnp
import numpy as np
import pytest

from uronet_jax.records import write_json
from uronet_jax.reports import figures, tables

ROWS = [
    {"noise": "GN", "severity": 1, "accuracy": 0.90125, "note": "a|b\nc"},
    {"noise": "UN", "severity": 2, "accuracy": np.float32(0.5), "note": None},
    {"noise": "SN", "severity": np.int64(3), "accuracy": float("nan")},
]


def test_markdown_table():
    text = tables.markdown_table(
        ROWS,
        {"noise": "Noise", "severity": "s", "accuracy": "Accuracy", "note": "Note"},
        formats={"accuracy": ".1%"},
    )
    assert text == (
        "| Noise | s | Accuracy | Note |\n"
        "| :--- | ---: | ---: | :--- |\n"
        "| GN | 1 | 90.1% | a\\|b c |\n"
        "| UN | 2 | 50.0% | - |\n"
        "| SN | 3 | - | - |\n"
    )


def test_markdown_table_default_numbers():
    text = tables.markdown_table([{"x": 0.126, "y": 10, "z": True}], ["z", "y", "x"])
    assert text.splitlines()[1:] == ["| :--- | ---: | ---: |", "| True | 10 | 0.13 |"]


def test_json_is_sorted_and_plain(tmp_path):
    path = tmp_path / "new" / "result.json"
    value = {"b": np.float64(0.5), "a": jnp.arange(2), "c": (None, "µ")}
    write_json(path, value)
    first = path.read_bytes()
    assert json.loads(first) == {"a": [0, 1], "b": 0.5, "c": [None, "µ"]}
    write_json(path, dict(reversed(value.items())))
    assert path.read_bytes() == first and first.endswith(b"}\n")
    assert os.listdir(path.parent) == ["result.json"]


@pytest.mark.parametrize(
    ("value", "error"),
    [(float("nan"), ValueError), (object(), TypeError), (2, KeyboardInterrupt)],
)
def test_failed_write_keeps_the_old_file(value, error, tmp_path, monkeypatch):
    path = tmp_path / "result.json"
    write_json(path, {"a": 1})
    # What cannot be written fails before the old file is touched.
    monkeypatch.setattr(os, "replace", mock.Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(error):
        write_json(path, {"a": value})
    assert json.loads(path.read_text()) == {"a": 1}
    assert os.listdir(tmp_path) == ["result.json"]


def test_show_noise():
    noise = np.array([-1.0, -0.2, 0.0, 0.2, 1.0])
    np.testing.assert_allclose(figures.show_noise(noise), [0, 0.4, 0.5, 0.6, 1])
    np.testing.assert_allclose(figures.show_noise(noise, 3), [0, 0.2, 0.5, 0.8, 1])


def read_png(path):
    image = pytest.importorskip("matplotlib.image")
    return np.round(image.imread(path)[..., :3] * 255).astype(np.uint8)


def test_gallery_shows_every_pixel_as_a_crisp_block(tmp_path):
    images = np.random.default_rng(0).uniform(size=(2, 8, 6, 3)).astype(np.float32)
    path = tmp_path / "new" / "gallery.png"
    columns = {"colour": images, "grey, with\na long heading": images[..., :1]}
    figures.gallery(path, columns, ["first", "second"], title="Title", cell_inches=0.6)
    picture = read_png(path)
    # 0.6 inches at 160 dpi are 96 pixels: 16 per image pixel.
    blocks = np.kron(images, np.ones((1, 16, 16, 1)))
    for block in (*blocks, *np.repeat(blocks[..., :1], 3, axis=-1)):
        # Find the block by its top left corner, then compare all of it.
        corner = np.all(np.abs(picture - block[0, 0] * 255) <= 1, axis=-1)
        height, width = block.shape[:2]
        assert any(
            picture[y : y + height, x : x + width].shape == block.shape
            # Matplotlib truncates or rounds to one grey level.
            and np.abs(picture[y : y + height, x : x + width] - block * 255).max() <= 1
            for y, x in np.argwhere(corner)
        )


@pytest.mark.parametrize("title", ("", "A title much wider than the figure below it"))
def test_nothing_is_cut_off(title, tmp_path):
    figures.gallery(tmp_path / "0.png", {"x": np.zeros((1, 8, 8, 1))}, title=title)
    figures.heat_map(tmp_path / "1.png", [[1.0]], ["a long row label"], ["x"], title)
    for i in range(2):
        picture = read_png(tmp_path / f"{i}.png")
        frame = (picture[:8], picture[-8:], picture[:, :8], picture[:, -8:])
        assert all(np.all(side == 255) for side in frame)
        assert not np.all(picture == 255)


@pytest.mark.parametrize(
    ("differences", "palette", "shades", "grey"),
    [
        (None, "YlGnBu", (0.0, 0.5, 1.0), 0.02),
        # Beyond the full difference: the last colour; -5 of 10: a quarter of the way.
        ([[20.0, -5.0], [np.nan, np.nan]], "RdBu", (1.0, 0.25), 0.04),
    ],
)
def test_colours_follow_the_numbers(differences, palette, shades, grey, tmp_path):
    path, values = tmp_path / "map.png", [[0.0, 100.0], [50.0, np.nan]]
    labels = ["GN", "UN"], ["clean", "1"], "Accuracy"
    if differences is None:
        figures.heat_map(path, values, *labels, description="d")
    else:
        figures.difference_map(path, values, differences, *labels, description="d")
    picture = read_png(path)
    colormaps = pytest.importorskip("matplotlib").colormaps
    for shade in shades:
        colour = colormaps[palette](shade, bytes=True)[:3]
        assert np.all(picture == colour, axis=-1).mean() > 0.02
    # Cells without a number or a difference.
    assert np.all(np.abs(picture - 229.5) < 1, axis=-1).mean() > grey
    assert figures.description_of(path) == "d"
    assert figures.description_of(tmp_path / "absent.png") is None


def test_figures_leave_pyplot_alone(tmp_path):
    before = "matplotlib.pyplot" in sys.modules
    figures.gallery(tmp_path / "a.png", {"x": np.zeros((1, 8, 8, 1))})
    assert ("matplotlib.pyplot" in sys.modules) == before
