"""Spatter against the original's files, OpenCV and its own definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage
from skimage.filters import gaussian

from uronet_jax.corruptions import operation, spatter
from uronet_jax.corruptions.suites import SUITES

CIFAR = SUITES["cifar_c"]["spatter"].settings
RELIEF = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]])
splash = jax.jit(spatter.splash)


def constants(shape, setting):
    prepared = spatter.spatter.constants(shape, [setting])
    return jax.tree.map(lambda v: v[0], prepared.stacked)


def film_of(levels):
    """`water_film` of uint8 `[B, H, W]`, as `[B, H, W]`."""
    padded = np.pad(levels, ((0, 0), (1, 1), (1, 1)), "edge").transpose(1, 2, 0)
    film = jax.jit(spatter.water_film)(padded.astype(np.float32))
    return np.asarray(film).transpose(2, 0, 1)


@pytest.fixture(scope="module")
def layers():
    """Drops as the suites make them, an empty layer, a full one and one of noise."""
    rng = np.random.default_rng(1)
    levels = rng.integers(0, 256, (20, 33, 40)).astype(np.uint8)
    for i, sigma in enumerate(np.linspace(0.6, 4.0, 17)):
        smooth = gaussian(rng.normal(0.64, 0.3, (33, 40)), sigma)
        levels[i] = 255 * np.where(smooth < 0.68, 0, smooth.clip(0, 1))
    levels[17], levels[18] = 0, 200
    return levels


def test_original_outputs(originals):
    for setting, image, draws, expected in originals("spatter"):
        # Twice, to share a program with the other tests.
        images = np.float32([image / 255, image / 255])
        layers, values = draws["draw0"].repeat(2, 0), constants(image.shape, setting)
        spattered = splash(images, layers, values)
        result = operation.truncate(jnp.clip(spattered[0], 0.0, 1.0))
        difference = np.abs(np.int32(result) - expected)
        # All are equal where this was written. Elsewhere float32 may round one value
        # of a layer otherwise, which can move an edge.
        assert np.mean(difference > 0) < 0.01, difference.max()


def test_film_equals_opencv(layers):
    cv2 = pytest.importorskip("cv2")
    for levels, film in zip(layers, film_of(layers), strict=True):
        edges = cv2.Canny(levels, 50, 150)
        distance = cv2.distanceTransform(255 - edges, cv2.DIST_L2, 5)
        distance = cv2.blur(np.minimum(distance, 20), (3, 3)).astype(np.uint8)
        relief = cv2.filter2D(cv2.equalizeHist(distance), cv2.CV_8U, RELIEF)
        expected = levels * cv2.blur(relief, (3, 3)).astype(np.float32)
        np.testing.assert_array_equal(film, expected)


def slow_edges(levels):
    """Canny's edges pixel by pixel."""
    levels = levels.astype(int)
    sobel = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    right = ndimage.correlate(levels, sobel, mode="nearest")
    down = ndimage.correlate(levels, sobel.T, mode="nearest")
    size = np.pad(abs(right) + abs(down), 1)
    peak = np.zeros(levels.shape, bool)
    for y, x in np.ndindex(*levels.shape):
        dx, dy = int(right[y, x]), int(down[y, x])
        slope = abs(dy) / max(abs(dx), 1e-9)
        before = after = 1
        if slope < np.tan(np.pi / 8):
            step, after = (0, 1), 0
        elif slope > np.tan(3 * np.pi / 8):
            step, after = (1, 0), 0
        else:
            step = (1, 1) if dx * dy >= 0 else (1, -1)
        here = np.array([y + 1, x + 1])
        first, second = size[tuple(here - step)], size[tuple(here + step)]
        peak[y, x] = size[tuple(here)] >= max(first + before, second + after)
    size = size[1:-1, 1:-1]
    label, _ = ndimage.label(peak & (size > 50), np.ones((3, 3)))
    return np.isin(label, np.unique(label[peak & (size > 150)]))


def slow_distances(edges):
    """Lengths of the shortest paths of straight, diagonal and knight's steps."""
    grid = np.stack(np.mgrid[: edges.shape[0], : edges.shape[1]], axis=-1)
    offset = abs(grid[:, :, None] - np.argwhere(edges)[None, None])
    short, long = offset.min(-1), offset.max(-1)
    length = np.where(
        long >= 2 * short,
        long - 2 * short + 2.1969 * short,
        1.4 * (2 * short - long) + 2.1969 * (long - short),
    )
    return length.min(-1, initial=20.0)


def slow_film(levels, distance):
    """What OpenCV does after the distance transform, from its description."""
    low = ndimage.uniform_filter(distance.astype(float), 3, mode="mirror")
    low = np.floor(low + 1e-6).astype(int)
    total = np.cumsum(np.bincount(low.ravel(), minlength=21))
    first = total[total > 0][0]
    if first < low.size:
        low = np.rint((total - first) * (255 / (low.size - first)))[low]
    relief = ndimage.correlate(low, RELIEF, mode="mirror").clip(0, 255)
    ones = np.ones((3, 3))
    return levels * np.rint(ndimage.correlate(relief, ones, mode="mirror") / 9)


def test_every_step_of_the_film_is_as_defined(layers):
    padded = np.pad(layers, ((0, 0), (1, 1), (1, 1)), "edge").transpose(1, 2, 0)
    edges = jax.jit(spatter.edges)(padded.astype(np.float32))
    distances = jax.jit(spatter.edge_distances)(edges)
    assert edges[..., 17:19].sum() == 0 and edges[..., :17].any((0, 1)).all()
    films = film_of(layers)
    for i, levels in enumerate(layers):
        np.testing.assert_array_equal(edges[..., i], slow_edges(levels))
        expected = slow_distances(np.asarray(edges[..., i]))
        # Sums of at most 20 steps in float32.
        np.testing.assert_allclose(distances[..., i], expected, atol=1e-5)
        film = slow_film(levels.astype(int), np.asarray(distances[..., i]))
        np.testing.assert_array_equal(films[i], film)


def test_mud_covers_as_defined(images):
    setting = CIFAR[4]
    layer = np.random.default_rng(2).normal(0.65, 0.1, (2, 32, 32))
    spattered = splash(images, np.float32(layer), constants((32, 32, 3), setting))
    for image, drops, result in zip(images, layer, spattered, strict=True):
        smooth = gaussian(drops, setting["sigma"]) > setting["threshold"]
        mud = gaussian(smooth.astype(float), setting["strength"])
        mud = np.where(mud < 0.8, 0.0, mud)[..., None]
        assert 0.02 < np.mean(mud > 0) < 0.9
        expected = (1 - mud) * image + mud * np.array([63, 42, 20]) / 255
        np.testing.assert_allclose(result, expected, atol=1e-5)


@pytest.mark.parametrize("liquid, grey", [("water", 219.163), ("mud", 63.0)])
def test_grey_images_get_grey_drops(liquid, grey):
    setting = {**CIFAR[0], "liquid": liquid, "threshold": 0.6}
    colour = constants((32, 32, 1), setting)["colour"]
    np.testing.assert_allclose(colour, [grey / 255], rtol=1e-6)


def test_gradient_passes_where_nothing_covers(images):
    layer = np.random.default_rng(2).normal(0.65, 0.1, (2, 32, 32)).astype(np.float32)

    def gradient(setting):
        values = constants((32, 32, 3), setting)
        return jax.jit(jax.grad(lambda x: splash(x, layer, values).sum()))(images)

    np.testing.assert_array_equal(gradient(CIFAR[0]), 1.0)
    mud = gradient(CIFAR[4])
    assert mud.min() < 0.2 and mud.max() == 1.0
    black = np.zeros_like(images)
    covered = splash(black, layer, constants((32, 32, 3), CIFAR[4]))[..., :1]
    np.testing.assert_allclose(mud[..., :1], 1 - covered * 255 / 63, atol=1e-6)


def test_an_image_without_a_drop_stays_as_it_is(images):
    for setting in (CIFAR[0], CIFAR[4]):
        values = constants((32, 32, 3), {**setting, "threshold": 2.0})
        result = splash(images, np.full((2, 32, 32), 0.9, np.float32), values)
        np.testing.assert_array_equal(result, images)
