"""Image quality: how far two pictures are apart. Pure JAX, one value per image.

A caller can so mask padding and average once.
"""

import jax
import jax.numpy as jnp
import numpy as np

from uronet_jax.batches import check_array

# Peak signal-to-noise ratio of identical images, in dB.
PSNR_CAP = 100.0
# Wang et al.: an 11 x 11 Gaussian window of this standard deviation.
_SIGMA = 1.5
_RADIUS = 5


def psnr(a: jax.Array, b: jax.Array) -> jax.Array:
    """Returns the peak signal-to-noise ratio of each pair of images.

    `10 log10(1 / MSE)`, at most `PSNR_CAP`, so that identical images do not make the
    mean over a data set infinite. An MSE of less than 1e-10 is concerned, far below one
    grey level in one pixel.

    Args:
        a: `[B, H, W, C]`, floating point, intensities in `[0, 1]`.
        b: Same shape.

    Returns:
        float32 `[B]`, in dB. NaN for an image that contains NaN.

    Raises:
        ValueError: If the two are not floating-point batches of one shape.
    """
    a, b = _image_pair(a, b)
    mse = jnp.mean(jnp.square(a - b), axis=(1, 2, 3))
    return -10.0 * jnp.log10(jnp.maximum(mse, 10.0 ** (-PSNR_CAP / 10.0)))


def ssim(a: jax.Array, b: jax.Array) -> jax.Array:
    """Returns the structural similarity of each pair of images.

    Gaussian window of 11 x 11, sigma 1.5; population covariance; constants .01^2 and
    .03^2 (data range 1); mean over the window positions inside the image and over
    channels. Equal to `skimage.metrics.structural_similarity` with
    `gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1`.

    Args:
        a: `[B, H, W, C]`, floating point, intensities in `[0, 1]`; H and W at least 11.
        b: Same shape.

    Returns:
        float32 `[B]`, in `[-1, 1]`, 1 for equal images.

    Raises:
        ValueError: If the two are not floating-point batches of one shape, or are
            smaller than the window.

    Source:
        Wang et al., "Image Quality Assessment: From Error Visibility to Structural
        Similarity", IEEE TIP 13 (2004).
    """
    a, b = _image_pair(a, b)
    size = 2 * _RADIUS + 1
    if min(a.shape[1:3]) < size:
        raise ValueError(f"SSIM needs images of at least {size} x {size}: {a.shape}")
    zero = jnp.zeros_like(a)
    moments = (a, b, zero, zero, zero)
    for axis in (1, 2):
        moments = _pool_moments(moments, axis)
    mean_a, mean_b, var_a, var_b, cov = moments
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    structure = (2 * cov + c2) / (var_a + var_b + c2)
    return jnp.mean(luminance * structure, axis=(1, 2, 3))


def _pool_moments(moments, axis):
    """Pools means, variances and covariance over the window along one axis.

    Law of total variance: mean of the variances plus variance of the means. Unlike
    `E[x^2] - E[x]^2` it loses no digits, which float32 cannot spare in flat areas.
    """
    taps = np.exp(-0.5 * (np.arange(-_RADIUS, _RADIUS + 1) / _SIGMA) ** 2)
    taps = [float(t) for t in taps / taps.sum()]
    valid = moments[0].shape[axis] - 2 * _RADIUS

    # Shifted slices, not a convolution: they fuse, and depthwise ones are slow on CPU.
    def shifts(x):
        return [jax.lax.slice_in_dim(x, i, i + valid, axis=axis) for i in range(11)]

    def pool(terms):
        return sum(t * term for t, term in zip(taps, terms, strict=True))

    a, b, var_a, var_b, cov = map(shifts, moments)
    mean_a, mean_b = pool(a), pool(b)
    da, db = [x - mean_a for x in a], [x - mean_b for x in b]
    return (
        mean_a,
        mean_b,
        pool([v + d * d for v, d in zip(var_a, da, strict=True)]),
        pool([v + d * d for v, d in zip(var_b, db, strict=True)]),
        pool([c + d * e for c, d, e in zip(cov, da, db, strict=True)]),
    )


def _image_pair(a, b):
    for x in (a, b):
        check_array("images", x)
        if x.ndim != 4 or x.size == 0 or not jnp.issubdtype(x.dtype, jnp.floating):
            raise ValueError(
                "need non-empty floating-point images [B, H, W, C] in [0, 1]: "
                f"{x.dtype}{list(x.shape)}"
            )
    if a.shape != b.shape:
        raise ValueError(f"images must have the same shape: {a.shape} and {b.shape}")
    return jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32)
