"""Windows of images: what a network reaches, and seams."""

import jax
import numpy as np
import pytest

from uronet_jax.models import make_remover
from uronet_jax.models.reconstructor import make_reconstructor
from uronet_jax.photos import tiles
from uronet_jax.purifiers import as_purifier

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
    window = tiles.window_shape(height, width, tile)
    layout = tiles.TileLayout(height, width, window, reach)
    assembly = tiles.Assembly(layout, channels, dtype)
    for part in layout.cut(images):
        assert part.shape == (*window, channels)
        assembly.add(purify(part[None])[0])
    assert assembly.complete
    return assembly.image, len(layout)


# No multiples of anything; one is shorter than a tile.
@pytest.mark.parametrize("height, width", [(211, 189), (161, 305), (97, 331)])
def test_tiles_give_what_the_whole_image_gives(network, height, width):
    purifier, variables, reach = network
    tile = 20 * reach.multiple
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
