"""Windows of images: what a network reaches, and seams."""

import math
import zlib

import jax
import numpy as np
import pytest

from uronet_jax.models import make_remover
from uronet_jax.models.reconstructor import make_reconstructor
from uronet_jax.photos import tiles
from uronet_jax.purifiers import as_purifier, chain, parse_purifier
from uronet_jax.transformations import TRANSFORMATIONS

NETWORKS = {
    "skip": make_remover("skip", widths=(4, 4)),
    "blend_dcae": make_remover("blend_dcae", widths=(4, 4, 4)),
    "code": make_reconstructor("code", width=4),
}


@pytest.fixture(scope="module", params=NETWORKS)
def network(request, make_variables):
    module = NETWORKS[request.param]
    purifier = as_purifier(module)
    return purifier, make_variables(module, (64, 64, 3)), tiles.reach_of(purifier)


def test_reach_is_what_not_a_number_infects(network):
    """Each 3x3 window and each maximum hands a NaN on, whatever the weights are."""
    purifier, variables, reach = network
    size, middle = 24 * reach.multiple, 12 * reach.multiple
    images = np.zeros((reach.multiple, 8, size, 3), np.float32)
    for i, image in enumerate(images):
        image[4, middle + i] = np.nan
    clean = np.asarray(jax.jit(purifier)(variables, images).clean)
    infected = np.isnan(clean).any(axis=(1, 3))
    distances = [np.abs(np.flatnonzero(x) - middle - i) for i, x in enumerate(infected)]
    farthest = max(d.max() for d in distances)
    assert farthest < size / 2 - reach.multiple, "the image is too small to tell"
    assert reach.halo - 2 * reach.multiple < farthest <= reach.halo


def purify_by_tiles(purify, images, tile, reach, dtype=np.float32):
    height, width, channels = images.shape
    window = tiles.window_shape(height, width, tile, reach)
    layout = tiles.TileLayout(height, width, window, reach)
    assembly = tiles.Assembly(layout, channels, dtype)
    for part in layout.cut(images):
        assert part.shape == (*window, channels)
        assembly.add(purify(part[None])[0])
    assert assembly.complete
    return assembly.image, len(layout)


def narrow_tile(reach):
    """Returns a tile whose neighbours overlap by no more than they must."""
    overlap = math.ceil(2 * reach.halo / reach.multiple) * reach.multiple
    return overlap + 3 * reach.multiple


# No multiples of anything; one is shorter than a tile.
@pytest.mark.parametrize("height, width", [(211, 189), (161, 305), (47, 331)])
def test_tiles_give_what_the_whole_image_gives(network, height, width):
    purifier, variables, reach = network
    tile = narrow_tile(reach)
    tiles.check_tile(tile, reach)
    rng = np.random.default_rng(0)
    image = rng.uniform(size=(height, width, 3)).astype(np.float32)
    run = jax.jit(lambda x: purifier(variables, x).clean)
    found, count = purify_by_tiles(lambda x: np.asarray(run(x)), image, tile, reach)
    whole = image
    if height < tile:  # Then it is mirrored up to the tile, which the network is shown.
        before = (tile - height) // 2
        padding = [(before, tile - height - before), (0, 0), (0, 0)]
        whole = np.pad(image, padding, mode="reflect")
    expected = np.asarray(run(whole[None]))[0]
    if height < tile:
        expected = expected[before : before + height]
    assert count > 1
    # Sums of float32 in another order; a seam of one grey level were 4e-3.
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_a_halo_that_is_too_small_shows(network):
    """So that the test above can fail."""
    purifier, variables, reach = network
    image = np.random.default_rng(0).uniform(size=(211, 189, 3)).astype(np.float32)
    run = jax.jit(lambda x: purifier(variables, x).clean)
    small = reach._replace(halo=reach.halo // 4)
    tile = narrow_tile(small)
    found, _ = purify_by_tiles(lambda x: np.asarray(run(x)), image, tile, small)
    assert np.abs(found - np.asarray(run(image[None]))[0]).max() > 2e-4


SIZES = [(1, 1), (1, 50), (2, 3), (16, 16), (33, 129), (64, 64), (101, 65), (193, 257)]


@pytest.mark.parametrize(
    "reach",
    [
        tiles.Reach(4, 10),
        tiles.Reach(8, 12, 8),
        tiles.Reach(16, 8, 9, centred=False),
        tiles.Reach(1, 0),
    ],
)
def test_what_is_cut_fits_together_again(reach):
    rng = np.random.default_rng(0)
    tiles.check_tile(64, reach)
    for shape in SIZES:
        for dtype in (np.uint8, np.uint16):
            image = rng.integers(np.iinfo(dtype).max, size=(*shape, 2), dtype=dtype)
            largest = np.float32(np.iinfo(dtype).max)
            found, count = purify_by_tiles(lambda x, n=largest: x / n, image, 64, reach)
            assert found.shape == image.shape
            # Weights sum to one and intensities are divided, both in float32.
            np.testing.assert_allclose(found, image / largest, atol=3e-7)
            assert (count == 1) == (max(shape) <= 64)
            levels, _ = purify_by_tiles(lambda x: x, found, 64, reach, dtype)
            np.testing.assert_array_equal(levels, image)


def test_one_tile_fades_into_the_next():
    """Tiles that know nothing of each other leave a slope, not a step."""
    reach, image = tiles.Reach(8, 8, 16), np.zeros((40, 300, 1), np.float32)
    number = iter(range(99))
    found, count = purify_by_tiles(
        lambda x: np.full_like(x, next(number) % 2), image, 64, reach
    )
    assert count > 4
    steps = np.abs(np.diff(found[:, :, 0], axis=1))
    # A sixteenth for each pixel of the ramp.
    assert 0.9 / 16 < steps.max() < 1.01 / 16
    np.testing.assert_array_equal(found[0], found[-1])


def test_windows_have_few_shapes():
    rng, reach = np.random.default_rng(0), tiles.Reach(8, 43)
    sizes = np.exp(rng.uniform(0, 8, size=(2000, 2))).astype(int).tolist()
    windows = [tiles.window_shape(*size, 512, reach) for size in sizes]
    squares = {(s, s) for s in tiles.WINDOW_SIDES if s <= 256}
    assert set(windows) == squares | {(a, b) for a in (384, 512) for b in (384, 512)}
    for (height, width), window in zip(sizes, windows, strict=True):
        # No larger than it must be, but for the smallest.
        if window in squares - {(16, 16)}:
            assert window[0] / 1.6 < max(height, width) <= window[0]
    assert tiles.window_shape(375, 500, 512, reach) == (384, 512)
    # Tiles of three quarters could not overlap enough.
    assert tiles.window_shape(80, 100, 112, reach) == (112, 112)
    # What models were trained on stays as it is.
    assert tiles.window_shape(28, 28, 512, reach, (28, 28, 1)) == (28, 28)
    assert tiles.window_shape(28, 27, 512, reach, (28, 28, 1)) == (32, 32)
    assert tiles.window_shape(600, 700, 512, reach, (600, 700, 3)) == (600, 700)


def test_small_images_are_mirrored():
    layout = tiles.TileLayout(1, 3, (4, 8), tiles.Reach(4, 4))
    (window,) = layout.cut(np.arange(3)[None, :, None])
    np.testing.assert_array_equal(window[0, :, 0], [2, 1, 0, 1, 2, 1, 0, 1])
    assert (window == window[:1]).all()


def test_reach_of_a_chain_and_of_others():
    remover = as_purifier(make_remover("skip"))
    assert tiles.reach_of(remover) == tiles.Reach(8, 43)
    both = chain(parse_purifier("median:size=5"), remover)
    assert tiles.reach_of(both) == tiles.Reach(16, 59, centred=False)
    assert tiles.works_by_tiles(both)
    assert not tiles.works_by_tiles(chain(remover, parse_purifier("resize_pad")))


LOCAL = ["jpeg", "bit_depth", "median", "feature_distillation", "gaussian_noise"]


def test_which_transformations_work_by_tiles():
    assert LOCAL == [
        x for x in TRANSFORMATIONS if tiles.works_by_tiles(parse_purifier(x))
    ]


@pytest.mark.parametrize("name", LOCAL)
def test_tiles_of_a_transformation_give_what_the_whole_image_gives(name):
    purifier = parse_purifier("median:size=9" if name == "median" else name)
    rng, reach = np.random.default_rng(0), tiles.reach_of(purifier)
    # Blocks of JPEG begin where those of the whole image do.
    image = (0.2 * rng.uniform(size=(96, 480, 3))).astype(np.float32)
    image[:, 400:] += 0.8
    random = TRANSFORMATIONS[name].random
    key = jax.random.key(0) if random else None

    @jax.jit
    def run(images, index):
        return purifier(None, images, key, index if random else None).clean

    def purify(images):
        number = zlib.crc32(images.tobytes()) & 0x7FFFFFFF
        return np.asarray(run(images, np.array([number])))

    found, count = purify_by_tiles(purify, image, 96, reach)
    assert count > 5
    if not random:
        # Sums of float32; nothing is a rounding step of these apart.
        np.testing.assert_allclose(found, purify(image[None])[0], atol=2e-5)
        return
    # As strong in every column, overlaps too; clipped nowhere that counts.
    flat = np.full_like(image, 0.5) + 1e-6 * image
    noise, _ = purify_by_tiles(purify, flat, 96, reach)
    spread = (noise - 0.5).std(axis=(0, 2))
    # Of 288 draws: five standard deviations.
    np.testing.assert_allclose(spread, 0.1, atol=0.1 * 5 / np.sqrt(2 * 288))


def test_a_mirroring_remover_by_tiles(make_variables):
    """It pads its mirror image on the other side: an odd lack is shared otherwise."""
    module = make_remover("blend_dcae", widths=(4, 4), mirror=True)
    purifier, reach = as_purifier(module), tiles.reach_of(as_purifier(module))
    run, variables = jax.jit(purifier), make_variables(module, (16, 16, 3))
    image = np.random.default_rng(0).uniform(size=(83, 101, 3)).astype(np.float32)

    def purify(x):
        return np.asarray(run(variables, x).clean)

    found, count = purify_by_tiles(purify, image, narrow_tile(reach), reach)
    padded = np.pad(image, [(0, 1), (1, 2), (0, 0)], mode="reflect")
    expected = purify(padded[None])[0, :-1, 1:-2]
    assert count > 9
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_the_smallest_tile():
    tiles.check_tile(96, tiles.Reach(8, 43))  # Any other: test_bad_inputs_photos.
