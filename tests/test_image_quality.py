"""PSNR and SSIM against scikit-image and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uronet_jax import image_quality

ssim = jax.jit(image_quality.ssim)


@pytest.fixture(scope="module")
def pair():
    generator = np.random.default_rng(0)
    a = generator.uniform(size=(4, 20, 24, 3)).astype(np.float32)
    b = np.clip(a + generator.normal(0, 0.1, a.shape), 0, 1).astype(np.float32)
    # Flat and bright, where single-precision variances lose their digits.
    a[1] = 0.9
    b[1] = a[1] + generator.normal(0, 0.01, a[1].shape)
    a[2], b[2] = 1.0, 1.0
    b[3] = 1.0 - a[3]
    return a, b


def test_ssim_equals_scikit_image(pair):
    skimage_metrics = pytest.importorskip("skimage.metrics")
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    expected = [
        skimage_metrics.structural_similarity(
            *np.float64(images), channel_axis=-1, data_range=1.0, **options
        )
        for images in zip(*pair, strict=True)
    ]
    with jax.numpy_dtype_promotion("strict"):
        got = ssim(*pair)
    # Float32 against float64; the textbook formula E[x^2] - E[x]^2 misses by 6e-6.
    np.testing.assert_allclose(got, expected, atol=2e-6)
    assert got[2] == 1.0 and got[3] < 0.0


def test_ssim_needs_one_window(pair):
    a, b = (x[:1, :11, :11, :1] for x in pair)
    assert jax.eval_shape(image_quality.ssim, a, b).shape == (1,)


def test_psnr_equals_scikit_image(pair):
    skimage_metrics = pytest.importorskip("skimage.metrics")
    got = image_quality.psnr(*pair)
    for i in (0, 1, 3):
        x, y = np.float64([pair[0][i], pair[1][i]])
        expected = skimage_metrics.peak_signal_noise_ratio(x, y, data_range=1.0)
        np.testing.assert_allclose(got[i], expected, rtol=1e-5)  # float32
    assert got[2] == pytest.approx(image_quality.PSNR_CAP, rel=1e-6)


def test_psnr_known_value_and_cap():
    black = jnp.zeros((1, 64, 64, 3))
    np.testing.assert_allclose(image_quality.psnr(black, black + 0.1), 20.0, rtol=1e-5)
    # One grey level in one channel of one pixel stays below the cap.
    changed = black.at[0, 0, 0, 0].set(1 / 255)
    assert image_quality.psnr(black, changed) < image_quality.PSNR_CAP


@pytest.mark.parametrize("metric", (image_quality.psnr, ssim))
def test_a_broken_image_leaves_the_others_alone(metric, pair):
    a, b = pair
    nan = a.copy()
    nan[0, 0, 0, 0] = np.nan
    assert list(np.isnan(metric(nan, b))) == [True, False, False, False]
