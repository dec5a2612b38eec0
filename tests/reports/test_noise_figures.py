"""Figures of noise: samples with histograms, accuracy over sigma, bars."""

import numpy as np
import pytest

from uronet_jax.reports import figures

RNG = np.random.default_rng(0)
BLUE, RED, GREEN = (0, 114, 178), (213, 94, 0), (0, 158, 115)
CLEAN = RNG.uniform(size=(2, 8, 8, 3))
NOISE = 0.1 * RNG.normal(size=CLEAN.shape)
NOISY = np.clip(CLEAN + NOISE, 0, 1)


def read_png(path):
    """Returns pixels, after a look whether anything is cut off."""
    image = pytest.importorskip("matplotlib.image")
    picture = np.round(image.imread(path)[..., :3] * 255).astype(int)
    frame = (picture[:6], picture[-6:], picture[:, :6], picture[:, -6:])
    assert all(np.all(side == 255) for side in frame)
    return picture


def count(picture, colour):
    return np.sum(np.abs(picture - colour).max(axis=-1) <= 1)


def light(colour):
    """As the histograms are, over white."""
    return np.round(0.6 * np.array(colour) + 0.4 * 255)


@pytest.mark.parametrize("variants", [1, 3])
@pytest.mark.parametrize("channels", [1, 3])
def test_noise_samples(variants, channels, tmp_path):
    # The same norm, but of two values: its histogram is two narrow columns.
    sign = np.where(NOISE < 0, -0.1, 0.1)
    noises = dict(
        zip(("drawn", "two values", "again"), (NOISE, sign, NOISE), strict=True)
    )
    given = {
        name: (NOISY[..., :channels], noise[..., :channels])
        for name, noise in list(noises.items())[:variants]
    }
    path = tmp_path / "noise.png"
    figures.noise_samples(
        path, CLEAN[..., :channels], given, "A title wider than one variant of noise"
    )
    picture = read_png(path)
    areas = [count(picture, light(colour)) for colour in (BLUE, RED, GREEN)]
    assert all(areas[:variants]) and not any(areas[variants:])
    if variants == 3:
        assert areas[1] < areas[0] / 2


@pytest.mark.parametrize("title", ["", "A title much wider than the figure " * 3])
def test_accuracy_over_sigma(title, tmp_path):
    path = tmp_path / "new" / "sigma.png"
    lines = {
        "vanilla": ([0.4, 0.1, 0.2], [0.2, 0.9, 0.6]),
        "trained": ([0.1, 0.2], [0.9, np.nan]),
    }
    figures.accuracy_over_sigma(path, lines, title, levels={"a level": 0.5})
    picture = read_png(path)
    rows, columns = np.nonzero(np.abs(picture - BLUE).max(axis=-1) <= 1)
    # Sorted by sigma the line falls from the top left, but for what lies over it.
    width = columns[np.argmax(rows)] - columns.min()
    assert width > 300 and rows.max() - rows[columns == columns.min()].max() > 200
    assert len(set(columns)) > 0.9 * width
    assert count(picture, RED) > 20 and count(picture, GREEN) > 100


def test_corruption_bars(tmp_path):
    path = tmp_path / "bars.png"
    models = {
        "one": {"fog": 0.8, "jpeg_compression": 0.8},
        "two": {"fog": 0.8, "zoom_blur": 0.0},
    }
    figures.corruption_bars(path, models, "Title")
    picture = read_png(path)
    # Two bars of one colour, one of the other, and an entry of the legend each.
    blue, red = count(picture, BLUE), count(picture, RED)
    entry = 2 * red - blue
    assert red > 5000 and 0 < entry < red / 3
