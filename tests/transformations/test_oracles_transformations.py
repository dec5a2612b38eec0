"""Input transformations against other implementations."""

import numpy as np
import pytest
from skimage.restoration import denoise_wavelet
from test_wavelet import noisy_patches, wavelet


# That there is no level for small images, which are transformed nevertheless.
@pytest.mark.filterwarnings("ignore:Level value of")
@pytest.mark.parametrize(
    "shape",
    [(32, 32, 3), (34, 41, 1), (61, 64, 3), (130, 129, 3), (1, 1, 3), (7, 1, 2)],
)
def test_wavelets_are_those_of_scikit_image(shape):
    pytest.importorskip("pywt", reason="needs PyWavelets: uronet_jax[oracles]")
    images = noisy_patches((2, *shape))
    for image, ours in zip(images, wavelet(images), strict=True):
        expected = denoise_wavelet(
            image, sigma=0.04, channel_axis=-1, convert2ycbcr=shape[-1] == 3
        )
        # Some rounding errors of float32, of sums that reach a few units.
        np.testing.assert_allclose(ours, np.clip(expected, 0, 1), atol=2e-6)
