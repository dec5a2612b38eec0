"""Brightness, fog, snow and frost against the original's files and definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from skimage import color

from uronet_jax.corruptions import CORRUPTIONS, frost, operation, weather
from uronet_jax.corruptions.suites import SUITES
from uronet_jax.data.frost import load_frost, load_suite_frost, shrink

CIFAR = SUITES["cifar_c"]
brighten = jax.jit(weather.brighten)
add_fog = jax.jit(weather.add_fog)
add_snow = jax.jit(weather.add_snow)
plasma = jax.jit(weather.plasma)
cover = jax.jit(frost.cover)


def constants(name, shape, setting):
    prepared = CORRUPTIONS[name].constants(shape, [setting])
    return jax.tree.map(lambda v: v[0], prepared.stacked)


def levels_of(corrupted):
    return np.int32(operation.truncate(jnp.clip(corrupted[0], 0.0, 1.0)))


def test_brightness_gives_the_original_outputs(originals):
    for setting, image, _, expected in originals("brightness"):
        batch = np.float32(image / 255)[None]
        result = levels_of(brighten(batch, np.float32(setting["amount"])))
        # Where the exact result is a whole number, rounding in float64 makes some of
        # the original's values a little smaller, which truncation turns into 1 level.
        quarter_levels = round(setting["amount"] * 4 * 255)
        value = np.maximum(image.max(axis=-1, keepdims=True).astype(int), 1)
        raised = np.minimum(4 * value + quarter_levels, 4 * 255)
        whole = image * raised % (4 * value) == 0
        difference = result - expected
        assert np.all(difference[~whole] == 0)
        assert difference.min() >= 0 and difference.max() <= 1
        assert np.mean(difference) < 0.04


def test_fog_gives_the_original_outputs(originals):
    for setting, image, draws, expected in originals("fog"):
        images, amount = np.float32(image / 255)[None], np.float32(setting["amount"])
        result = levels_of(add_fog(images, draws["plasma"], amount))
        assert abs(result - expected).max() <= 1
        # Whole numbers up to float32 rounding: under 0.04 % here.
        assert np.mean(result != expected) < 1e-3


def test_snow_gives_the_original_outputs(originals):
    for setting, image, draws, expected in originals("snow"):
        images = np.float32(image / 255)[None]
        values = constants("snow", image.shape, setting)
        result = levels_of(add_snow(images, draws["draw0"], draws["draw1"], values))
        # ImageMagick rounds the weights of its blur: up to 0.22 % differ here.
        assert abs(result - expected).max() <= 1
        assert np.mean(result != expected) < 3e-3


def test_plasma_gives_the_original_map(golden):
    arrays = golden("plasma")
    draws = arrays["size32_decay2.0/draws"]
    wibble = 100 / 2.0 ** np.arange(5)
    uniform = draws / np.repeat(wibble, 3 * 4 ** np.arange(5))
    # Twice, to share a program with the next test.
    result = plasma(np.float32([uniform, uniform]), np.float32(wibble**2))[0]
    np.testing.assert_allclose(result, arrays["size32_decay2.0/map"], atol=1e-6)


def slow_plasma(uniform, amplitudes):
    """The diamond-square algorithm cell by cell."""
    size = 2 ** len(amplitudes)
    grid = np.zeros((size, size))
    draws = iter(uniform)
    for level, amplitude in enumerate(amplitudes):
        step = size >> level
        half = step // 2
        square = (-half, -half), (-half, half), (half, -half), (half, half)
        diamond = (-half, 0), (half, 0), (0, -half), (0, half)
        for top, left, corners in (
            (half, half, square),
            (0, half, diamond),
            (half, 0, diamond),
        ):
            for y in range(top, size, step):
                for x in range(left, size, step):
                    near = [grid[(y + a) % size, (x + b) % size] for a, b in corners]
                    grid[y, x] = np.mean(near) + amplitude * next(draws)
    grid -= grid.min()
    return grid / grid.max()


def test_plasma_is_the_diamond_square_algorithm():
    uniform = np.random.default_rng(0).uniform(-1, 1, (2, 32 * 32 - 1))
    amplitudes = 2.5 ** -np.arange(5.0)
    result = plasma(np.float32(uniform), np.float32(amplitudes))
    for draws, clouds in zip(uniform, result, strict=True):
        np.testing.assert_allclose(clouds, slow_plasma(draws, amplitudes), atol=1e-6)


def test_brightness_raises_the_value_of_hsv(images):
    images = images.copy()
    images[0, 0, :4] = [[0, 0, 0], [1, 1, 1], [0.5, 0.5, 0.5], [0.9, 0, 0]]
    hsv = color.rgb2hsv(images)
    hsv[..., 2] = np.clip(hsv[..., 2] + 0.2, 0, 1)
    result = brighten(images, np.float32(0.2))
    np.testing.assert_allclose(result, color.hsv2rgb(hsv), atol=1e-6)
    grey = images[..., :1]
    expected = np.minimum(grey + np.float32(0.2), 1.0)
    np.testing.assert_allclose(brighten(grey, np.float32(0.2)), expected, atol=1e-7)


def test_fog_is_as_defined_and_leaves_black_black_without_fog(images):
    clouds = np.random.default_rng(1).uniform(size=(2, 32, 32)).astype(np.float32)
    result = add_fog(0.8 * images, clouds, np.float32(1.5))
    for image, cloud, foggy in zip(0.8 * images, clouds, result, strict=True):
        expected = (image + 1.5 * cloud[..., None]) * image.max() / (image.max() + 1.5)
        np.testing.assert_allclose(foggy, expected, atol=1e-6)
    black = add_fog(np.zeros_like(images), clouds, np.float32(0.0))
    np.testing.assert_array_equal(black, 0.0)


def slow_snow(image, layer, angle, setting):
    """Snow as defined, with SciPy's zoom and a blur pixel by pixel."""
    side, factor = len(layer), setting["zoom"]
    crop = int(np.ceil(side / factor))
    inner = slice((side - crop) // 2, (side + crop) // 2)
    flakes = ndimage.zoom(layer[inner, inner], factor, order=1)
    trim = (len(flakes) - side) // 2
    flakes = flakes[trim : trim + side, trim : trim + side]
    flakes = np.where(flakes < setting["threshold"], 0, flakes).clip(0, 1)
    flakes = np.floor(255 * flakes)
    step = np.arange(2 * setting["radius"] + 1)
    weights = np.exp(-(step**2) / (2 * setting["sigma"] ** 2))
    y, x = np.mgrid[:side, :side]
    blurred = np.zeros((side, side))
    for i, weight in zip(step, weights / weights.sum(), strict=True):
        down = int(np.ceil(i * np.sin(np.deg2rad(angle)) - 0.5))
        right = int(np.ceil(i * np.cos(np.deg2rad(angle)) - 0.5))
        rows, columns = (y + down).clip(0, side - 1), (x + right).clip(0, side - 1)
        blurred += weight * flakes[rows, columns]
    flakes = np.floor(blurred)[..., None] / 255
    grey = image @ [0.299, 0.587, 0.114] if image.shape[-1] == 3 else image[..., 0]
    pale = np.maximum(image, 1.5 * grey[..., None] + 0.5)
    paler = setting["blend"] * image + (1 - setting["blend"]) * pale
    return paler + flakes + flakes[::-1, ::-1]


@pytest.mark.parametrize("channels", [1, 3])
def test_snow_is_as_defined(images, channels):
    rng = np.random.default_rng(2)
    images = images[..., :channels]
    setting = CIFAR["snow"].settings[2]
    layer = rng.normal(setting["loc"], setting["scale"], (2, 32, 32))
    angles = rng.uniform(-135, -45, 2)
    values = constants("snow", (32, 32, channels), setting)
    result = add_snow(images, np.float32(layer), np.float32(angles), values)
    for arguments in zip(images, layer, angles, result, strict=True):
        expected = slow_snow(*arguments[:3], setting)
        difference = np.abs(arguments[3] - expected)
        # Truncation in float32 may take a few flakes one level lower or higher.
        assert difference.max() < 1.1 / 255 and np.mean(difference > 1e-4) < 0.01


@pytest.mark.parametrize("name", ["brightness", "fog", "snow", "frost"])
def test_gradients_are_those_of_the_result(name, images):
    rng = np.random.default_rng(3)
    images = 0.1 + 0.4 * images
    images[:, 5, 5, 0] = 0.7  # One maximum, whatever the step.
    values = constants(name, (32, 32, 3), CIFAR[name].settings[0])
    layer = rng.uniform(size=(2, 32, 32)).astype(np.float32)
    angles = np.float32([-100.0, -60.0])
    corners = np.arange(2), np.zeros((2, 2), int)
    function = {
        "brightness": lambda x: brighten(x, values),
        "fog": lambda x: add_fog(x, layer, values[0]),
        "snow": lambda x: add_snow(x, layer, angles, values),
        "frost": lambda x: cover(x, values, images, *corners),
    }[name]
    direction = rng.normal(size=images.shape).astype(np.float32)
    ahead, behind = (function(images + step * direction) for step in (1e-3, -1e-3))
    _, slope = jax.jvp(function, (images,), (direction,))
    # 1e-3: rounding of the difference. Few pixels change their brightest
    # channel within the step.
    error = np.abs((ahead - behind) / 2e-3 - slope)
    assert np.mean(error > 1e-3) < 0.02
    assert np.abs(slope).mean() > 0.1


def test_frost_is_a_crop_of_its_texture(key, images):
    pictures = np.random.default_rng(4).uniform(size=(3, 40, 50, 3)).astype(np.float32)
    weights = np.float32([0.9, 0.4])
    picture, corner = np.array([2, 0]), np.array([[7, 12], [0, 18]])
    for channels in (3, 1):
        result = cover(images[..., :channels], weights, pictures, picture, corner)
        for i, (y, x) in enumerate(corner):
            ice = pictures[picture[i], y : y + 32, x : x + 32]
            if channels == 1:
                ice = ice @ np.float32([[0.299], [0.587], [0.114]])
            expected = 0.9 * images[i, ..., :channels] + 0.4 * ice
            np.testing.assert_allclose(result[i], expected, atol=1e-6)


def test_frost_uses_every_texture_and_stays_inside_it(key):
    # Every pixel of a texture tells which texture, row and column it is from.
    sizes = ((32, 33), (40, 32), (36, 50))
    pictures = []
    for number, (height, width) in enumerate(sizes, 1):
        rows, columns = np.mgrid[:height, :width] / 64
        pictures.append(np.stack([rows, columns, 0 * rows + number / 4], axis=-1))
    textures = frost.stack_textures(pictures, "a test")
    black = np.zeros((64, 32, 32, 3), np.float32)
    parameters = {"image_weight": 0.0, "frost_weight": 1.0, "textures": textures}
    result = np.asarray(frost.frost(key, black, **parameters))
    corners = np.rint(result[:, 0, 0] * np.array([64, 64, 4])).astype(int)
    ends = np.rint(result[:, -1, -1] * np.array([64, 64, 4])).astype(int)
    np.testing.assert_array_equal(ends - corners, [[31, 31, 0]] * 64)
    assert set(corners[:, 2]) == {1, 2, 3}
    for number, (height, width) in enumerate(sizes, 1):
        row, column, _ = corners[corners[:, 2] == number].T
        # As in the original, the last corner is left out if there is another.
        assert set(row) <= set(range(max(height - 32, 1)))
        assert set(column) <= set(range(max(width - 32, 1)))
        assert len(set(column)) > 5 or width < 40


def test_procedural_frost_is_reproducible_and_looks_like_ice(key, images):
    frost.procedural_frost.cache_clear()
    textures = frost.procedural_frost(0, (96, 80), 2)
    frost.procedural_frost.cache_clear()
    again = frost.procedural_frost(0, (96, 80), 2)
    np.testing.assert_array_equal(textures.images, again.images)
    assert textures.images.shape == (2, 96, 80, 3)
    assert np.abs(textures.images[0] - textures.images[1]).mean() > 0.05
    red, green, blue = np.moveaxis(textures.images, -1, 0)
    assert np.all((red < green) & (green < blue))
    assert textures.images.std() > 0.1 and 0.3 < textures.images.mean() < 0.7
    # Opposite borders continue each other.
    seam = np.abs(textures.images[:, 0] - textures.images[:, -1]).mean()
    inside = np.abs(np.diff(textures.images, axis=1)).mean()
    assert seam < 2 * inside


def test_load_frost_reads_the_first_five_photographs(tmp_path):
    rng = np.random.default_rng(5)
    names = [f"frost{i}.png" for i in (1, 2, 3)] + [f"frost{i}.jpg" for i in (4, 5, 6)]
    pictures = [rng.integers(0, 256, (50 + i, 60, 3), np.uint8) for i in range(6)]
    for name, picture in zip(names, pictures, strict=True):
        Image.fromarray(picture).save(tmp_path / name)
    textures = load_frost(tmp_path)
    assert textures.sizes.tolist() == [[50 + i, 60] for i in range(5)]
    for i in range(3):  # PNG is lossless.
        crop = textures.images[i, : 50 + i, :60]
        np.testing.assert_array_equal(crop, np.float32(pictures[i]) / np.float32(255))
    # At one fifth, the centre of a pixel is that of every fifth one.
    small = load_suite_frost(tmp_path, "cifar_c")
    np.testing.assert_allclose(
        small.images[0, :10, :12] * 255, pictures[0][2::5, 2::5], atol=1e-4
    )


@pytest.mark.parametrize("scale", [0.2, 0.3, 1.0])
def test_photographs_shrink_as_opencv_does_it(scale):
    cv2 = pytest.importorskip("cv2")
    picture = np.random.default_rng(6).integers(0, 256, (123, 205, 3), np.uint8)
    expected = cv2.resize(picture, (0, 0), fx=scale, fy=scale)
    result = shrink(picture, scale)
    assert result.shape == expected.shape
    # OpenCV has weights of 11 bits.
    assert np.abs(result.astype(int) - expected).max() <= 1


def test_fog_takes_the_size_of_its_map(key):
    images = np.zeros((1, 28, 40, 1), np.float32)
    prepare = weather.fog.constants
    setting = {"amount": 1.0, "decay": 2.0}
    for size, levels in ((None, 6), (64, 6), (256, 8)):
        _, amplitudes = prepare((28, 40, 1), [{**setting, "map_size": size}]).stacked
        np.testing.assert_allclose(amplitudes, [0.25 ** np.arange(levels)], rtol=1e-6)
    for size in (32, 100, 0):
        with pytest.raises(ValueError, match=f"map_size must be .*{size}"):
            weather.fog(key, images, **setting, map_size=size)
    with pytest.raises(ValueError, match="same at all severities"):
        prepare((28, 40, 1), [setting, {**setting, "map_size": 64}])
