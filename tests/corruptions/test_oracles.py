"""Corruptions against another implementation of ImageNet-C's formulas.

The package has the original formulas, apart from what it documents: other borders of
zoom blur and snow, another elastic transform, unrounded motion blur.
"""

import jax
import numpy as np
import pytest

from uronet_jax.benchmarking.corruptions import photographs
from uronet_jax.corruptions import corrupt

imagecorruptions = pytest.importorskip(
    "imagecorruptions",
    reason="needs imagecorruptions-imaug: pip install uronet_jax[oracles]",
)
pytestmark = pytest.mark.filterwarnings("default")  # Those of the package.

# Corruption -> largest share of values that may differ, by one level. Whole numbers
# can come out just below in float64, or just above in float32.
DETERMINISTIC = {
    "gaussian_blur": 0.002,
    "defocus_blur": 0.04,  # At radius 3 the mean of 29 pixels.
    "brightness": 0.02,
    "contrast": 0.002,
    "saturate": 0.15,  # One channel often becomes 0 or 1.
    "jpeg_compression": 0.0,
}


@pytest.fixture(scope="module")
def images():
    return photographs(2, 64)


@pytest.mark.parametrize("severity", [1, 3, 5])
@pytest.mark.parametrize("name", DETERMINISTIC)
def test_equals_the_package(name, severity, images):
    ours = corrupt(
        jax.random.key(0),
        images.astype(np.float32) / 255,
        f"imagenet_c/{name}",
        severity=severity,
        uint8=True,
    )
    for image, output in zip(images, np.asarray(ours), strict=True):
        expected = imagecorruptions.corrupt(
            image, severity=severity, corruption_name=name
        )
        difference = np.abs(output.astype(int) - expected)
        assert difference.max() <= 1
        assert (difference > 0).mean() <= DETERMINISTIC[name]


@pytest.mark.parametrize(
    "name",
    ["gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise", "glass_blur",
     "fog", "spatter"],
)  # fmt: skip
def test_has_the_moments_of_the_package(name, images):
    """Mean and spread of the change, over draws of both."""
    image, severity, draws = images[0], 3, 24
    np.random.seed(0)  # The package draws from the global generator.
    theirs = [
        imagecorruptions.corrupt(image, severity=severity, corruption_name=name)
        for _ in range(draws)
    ]
    batch = np.broadcast_to(image, (draws, *image.shape)).astype(np.float32) / 255
    ours = corrupt(
        jax.random.key(0), batch, f"imagenet_c/{name}", severity=severity, uint8=True
    )

    def moments(outputs):
        change = np.asarray(outputs, np.float64) - image
        return change.mean(axis=(1, 2, 3)), change.std(axis=(1, 2, 3))

    for a, b in zip(moments(ours), moments(theirs), strict=True):
        # Difference of two means of 24 draws: five standard errors.
        error = np.sqrt((a.var() + b.var()) / draws)
        assert abs(a.mean() - b.mean()) < 5 * error + 0.02 * abs(b.mean()) + 0.1
