"""Wavelet denoising: details that noise could have made are taken away.

It is scikit-image's `denoise_wavelet` of float32 images with a given deviation: soft
BayesShrink, Haar wavelets, in YCbCr if there are three channels; then clipped.
"""

import jax
import jax.numpy as jnp
import numpy as np

from uronet_jax.transformations.transformation import Transformation

# Red, green and blue -> luma and the differences of blue and red (ITU-R BT.601), scaled
# to bytes. The offsets are left out: details do not depend on them.
_YCBCR = np.array(
    [[65.481, 128.553, 24.966], [-37.797, -74.203, 112.0], [112.0, -93.786, -18.214]]
)
_RGB = np.linalg.inv(_YCBCR)


def denoise_wavelets(images: jax.Array, *, sigma: float) -> jax.Array:
    """Removes noise of standard deviation `sigma` by shrinking Haar coefficients.

    Coefficients `d` of each image, channel, level and direction go towards 0 by
    `sigma^2 / sqrt(mean(d^2) - sigma^2)`. Levels are three fewer than fit in the
    shorter side, at least one.

    Args:
        images: `[B, H, W, C]`, float, in `[0, 1]`.
        sigma: Of the noise in each channel of `images`.

    Returns:
        Images of the same shape and type, in `[0, 1]`.

    Source:
        S. G. Chang, B. Yu, M. Vetterli, "Adaptive Wavelet Thresholding for Image
        Denoising and Compression", IEEE Transactions on Image Processing 9, 2000.
    """
    _, height, width, channels = images.shape
    levels = max(min(height, width).bit_length() - 4, 1)
    planes = [images[..., i].astype(jnp.float32) for i in range(channels)]
    if channels == 3:
        # Deviations of sums of independent noise.
        deviations = sigma * np.linalg.norm(_YCBCR, axis=1)
        removed = [
            _removed(plane, float(deviation) ** 2, levels, _spread(plane))
            for plane, deviation in zip(_mix(_YCBCR, planes), deviations, strict=True)
        ]
        removed = _mix(_RGB, removed)
    else:
        removed = [_removed(plane, sigma**2, levels, 1.0) for plane in planes]
    removed = jnp.stack(removed, axis=-1).astype(images.dtype)
    return jnp.clip(images - removed, 0.0, 1.0)


def _mix(matrix, planes):
    return [
        sum(float(weight) * plane for weight, plane in zip(row, planes, strict=True))
        for row in matrix
    ]


def _spread(plane):
    """Range of each image, to which scikit-image stretches a channel of YCbCr."""
    spread = jnp.ptp(plane, axis=(1, 2), keepdims=True)
    # Without a gradient: where it matters all is removed, whatever it is.
    return jax.lax.stop_gradient(jnp.maximum(spread, 1e-6))


def _removed(plane, variance, levels, spread):
    """Returns what shrinking takes away from a channel `[B, H, W]`."""
    if not levels:
        return jnp.zeros_like(plane)
    _, height, width = plane.shape
    padded = plane
    if height % 2 or width % 2:  # Each level repeats the last pixel of an odd side.
        odd = ((0, 0), (0, height % 2), (0, width % 2))
        padded = jnp.pad(plane, odd, mode="edge")
    coarse, *details = _haar(*(padded[:, i::2, j::2] for i in (0, 1) for j in (0, 1)))
    small = [_small_part(detail, variance, spread) for detail in details]
    a, b, c, d = _haar(_removed(coarse, variance, levels - 1, spread), *small)
    rows = [jnp.stack(pair, axis=-1) for pair in ((a, b), (c, d))]
    whole = jnp.stack(rows, axis=2).reshape(padded.shape)
    return whole[:, :height, :width]


def _small_part(details, variance, spread):
    """Returns details without what is left of them above the threshold."""
    signal = jnp.mean(details**2, axis=(1, 2), keepdims=True) - variance
    # The smallest signal is scikit-image's, in units of the spread.
    least = jnp.finfo(jnp.float32).eps * spread**2
    threshold = variance / jnp.sqrt(jnp.maximum(signal, least))
    return jnp.clip(details, -threshold, threshold)


def _haar(a, b, c, d):
    """Four pixels -> mean and details across, down and both; its own inverse."""
    plus, minus, low_plus, low_minus = a + b, a - b, c + d, c - d
    return (
        0.5 * (plus + low_plus),
        0.5 * (minus + low_minus),
        0.5 * (plus - low_plus),
        0.5 * (minus - low_minus),
    )


WAVELET = Transformation(
    denoise_wavelets,
    {"sigma": 0.04},
    {"sigma": (0.0, 1.0)},
    "noise of deviation sigma removed by soft BayesShrink of Haar wavelets",
    "Chang et al., 2000; Prakash et al., CVPR 2018",
)
