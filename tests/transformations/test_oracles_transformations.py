"""Transformations beside the programs that their papers used, where installed."""

import jax
import numpy as np
import pytest
from scipy import ndimage
from skimage.restoration import denoise_wavelet
from test_wavelet import noisy_patches, wavelet

from uronet_jax.purifiers import make_transformation
from uronet_jax.transformations import TRANSFORMATIONS
from uronet_jax.transformations.total_variation import descend_art_objective

REASON = "needs pip install -e '.[oracles]'"


@pytest.mark.parametrize("channels", [1, 3])
def test_sparse_layer_is_that_of_sporco(channels):
    cbpdn = pytest.importorskip("sporco.admm.cbpdn", reason=REASON)
    signal = pytest.importorskip("sporco.signal", reason=REASON)
    # Smooth, with edges and some noise, as images are.
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:20, :23] / 20
    scenes = 0.4 + 0.3 * np.sin(5 * x) * (y > 0.5) + 0.05 * rng.random((2, 20, 23))
    images = np.stack([scenes * tint for tint in (1.0, 0.7, 0.8)[:channels]], -1)
    images = images.astype(np.float32)
    layer = make_transformation("sparse_layer", weight=0.05)
    variables = layer.load()
    (filters,) = (x for x in variables if x.shape[-1] == channels)
    options = {"Verbose": False, "MaxMainIter": 200, "RelStopTol": 5e-3}
    options = cbpdn.ConvBPDN.Options({**options, "AuxVarObj": False})
    # SPORCO takes [P, P, M] and [P, P, C, M].
    dictionary = np.ascontiguousarray(np.moveaxis(filters, 0, -1).squeeze())
    for image, found in zip(images, layer(variables, images).clean, strict=True):
        low, high = signal.tikhonov_filter(image.squeeze(), 5, 16)
        solver = cbpdn.ConvBPDN(dictionary, high, 0.05, options)
        solver.solve()
        assert 10 < solver.k < 100  # From there on we keep the penalty.
        expected = (low + solver.reconstruct().squeeze()).reshape(image.shape)
        assert np.abs(expected - low.reshape(image.shape)).max() > 0.05
        # 60 iterations in float32, whose sums have another order.
        expected = np.clip(expected / expected.max(), 0, 1)
        np.testing.assert_allclose(found, expected, atol=5e-5)


# That there is no level for small images, which are transformed nevertheless.
@pytest.mark.filterwarnings("ignore:Level value of")
@pytest.mark.parametrize(
    "shape",
    [(32, 32, 3), (34, 41, 1), (61, 64, 3), (130, 129, 3), (1, 1, 3), (7, 1, 2)],
)
def test_wavelets_are_those_of_scikit_image(shape):
    pytest.importorskip("pywt", reason=REASON)
    images = noisy_patches((2, *shape))
    for image, ours in zip(images, wavelet(images), strict=True):
        expected = denoise_wavelet(
            image, sigma=0.04, channel_axis=-1, convert2ycbcr=shape[-1] == 3
        )
        # Some rounding errors of float32, of sums that reach a few units.
        np.testing.assert_allclose(ours, np.clip(expected, 0, 1), atol=2e-6)


def make_images(*shape):
    noise = np.random.default_rng(7).normal(size=shape)
    images = ndimage.gaussian_filter(noise, (0, 2, 2, 0)) * 2 + 0.5
    return images.clip(0, 1).astype(np.float32)


def test_median_is_that_of_art():
    preprocessor = pytest.importorskip("art.defences.preprocessor", reason=REASON)
    images = make_images(2, 12, 9, 3)
    expected, _ = preprocessor.SpatialSmoothing()(images)
    np.testing.assert_array_equal(TRANSFORMATIONS["median"](images), expected)


def test_total_variation_is_nearly_that_of_art():
    preprocessor = pytest.importorskip("art.defences.preprocessor", reason=REASON)
    images = make_images(4, 32, 32, 3)
    kept = np.random.default_rng(8).uniform(size=images.shape) < 0.3
    entry = TRANSFORMATIONS["total_variation_art"]
    settings = {x: entry.parameters[x] for x in ("weight", "iterations")}
    found = jax.jit(lambda x, k: descend_art_objective(x, k, **settings))(images, kept)
    art = preprocessor.TotalVarMin()
    assert (art.prob, art.lamb) == tuple(
        entry.parameters[x] for x in ("keep_rate", "weight")
    )
    for x, k, own in zip(images, kept, found, strict=True):
        expected = art._minimize(x, k.astype(int))
        move = np.sqrt(np.mean((expected - x) ** 2))
        # Two searches for one minimum, both ended early: as far, and nearly there.
        assert np.sqrt(np.mean((own - x) ** 2)) == pytest.approx(move, rel=0.1)
        assert np.sqrt(np.mean((own - expected) ** 2)) < 0.15 * move
        for c in range(3):
            planes = (x[..., c], k[..., c].astype(int), 2, 0.5)
            ours, theirs = (
                art._loss_func(np.asarray(y[..., c], np.float64).ravel(), *planes)
                for y in (own, expected)
            )
            assert ours <= 1.01 * theirs
