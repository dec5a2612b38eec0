"""Convolution of each channel by itself, fast on CPU and accelerators alike.

XLA's CPU backend computes grouped convolutions and their gradients slowly. Here they
are sums of shifted elementwise products; on other platforms XLA's own form is used.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax

from uronet_jax.models import layers


def _shifted_products(x, kernel, strides, padding):
    rows, columns, _, channels = kernel.shape
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    size = zip(x.shape[1:3], (rows, columns), strict=True)
    out_shape = [(side - taps) // strides + 1 for side, taps in size]
    windows = layers.shifted_windows(x, (rows, columns), out_shape, strides)
    high = jnp.promote_types(x.dtype, jnp.float32)
    taps = kernel.astype(high).reshape(-1, 1, 1, 1, channels)
    products = (window * tap for window, tap in zip(windows, taps, strict=True))
    return sum(products).astype(x.dtype)


def _input_gradient(gradient, kernel, shape, strides, padding):
    """Every `strides`-th pixel sees every `strides`-th element of the kernel.

    So there is one convolution without a stride for each remainder of row and column,
    and what they give is interleaved.
    """
    batch, height, width, channels = shape
    (top, bottom), (left, right) = padding
    # Rows and columns of each of the convolutions.
    sides = (
        -(-(height + top + bottom) // strides),
        -(-(width + left + right) // strides),
    )
    parts = []
    for i, j in np.ndindex(strides, strides):
        taps = kernel[i::strides, j::strides]
        zeros = [
            (count - 1, side - given)
            for count, side, given in zip(
                taps.shape[:2], sides, gradient.shape[1:3], strict=True
            )
        ]
        parts.append(_shifted_products(gradient, taps[::-1, ::-1], 1, zeros))
    if strides > 1:
        rows = [
            jnp.stack(parts[i : i + strides], axis=3)
            for i in range(0, strides**2, strides)
        ]
        parts = [jnp.stack(rows, axis=2)]
    whole = parts[0].reshape(batch, strides * sides[0], strides * sides[1], channels)
    return whole[:, top : top + height, left : left + width]


def _kernel_gradient(x, gradient, kernel_shape, strides, padding):
    """Adds up row by row of each image, so that the sums stay in the cache.

    Several CPU devices gather the batch for that. Rows of all images at once, which
    they could split, take longer: two to three times as long for small images.
    """
    rows, columns, _, channels = kernel_shape
    batch, height, width, _ = gradient.shape
    high = jnp.promote_types(x.dtype, jnp.float32)
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))

    def add(i, sums):
        image, row = i // height, i % height
        seen = lax.dynamic_slice(
            x, (image, strides * row, 0, 0), (1, rows, x.shape[2], channels)
        )
        found = lax.dynamic_slice(gradient, (image, row, 0, 0), (1, 1, width, channels))
        windows = layers.shifted_windows(
            seen.astype(high), (rows, columns), (1, width), strides
        )
        found = found.astype(high)
        return [s + window * found for s, window in zip(sums, windows, strict=True)]

    start = [jnp.zeros((1, 1, width, channels), high)] * (rows * columns)
    sums = lax.fori_loop(0, batch * height, add, start)
    sums = [jnp.sum(s, axis=(0, 1, 2)) for s in sums]
    return jnp.stack(sums).reshape(kernel_shape).astype(x.dtype)


def _grouped_conv(x, kernel, strides, padding):
    return lax.conv_general_dilated(
        x,
        kernel,
        (strides, strides),
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _depthwise_conv(x, kernel, strides, padding):
    return lax.platform_dependent(
        x,
        kernel,
        cpu=lambda *arrays: _shifted_products(*arrays, strides, padding),
        default=lambda *arrays: _grouped_conv(*arrays, strides, padding),
    )


def _forward(x, kernel, strides, padding):
    return _depthwise_conv(x, kernel, strides, padding), (x, kernel)


def _backward(strides, padding, residuals, gradient):
    def products(x, kernel, gradient):
        return (
            _input_gradient(gradient, kernel, x.shape, strides, padding),
            _kernel_gradient(x, gradient, kernel.shape, strides, padding),
        )

    def native(x, kernel, gradient):
        _, vjp = jax.vjp(lambda *xs: _grouped_conv(*xs, strides, padding), x, kernel)
        return vjp(gradient)

    return lax.platform_dependent(*residuals, gradient, cpu=products, default=native)


_depthwise_conv.defvjp(_forward, _backward)


def depthwise_conv(
    x: jax.Array, kernel: jax.Array, *, strides: int = 1, padding: layers.Padding
) -> jax.Array:
    """Convolves each channel with a kernel of its own, zero padded.

    On a CPU it is a sum of shifted products, elsewhere XLA's grouped convolution.

    Args:
        x: `[B, H, W, C]`.
        kernel: `[rows, columns, 1, C]`, same dtype as `x`.
        strides: Step along height and width, at most the kernel's side.
        padding: `((top, bottom), (left, right))` zeros.

    Returns:
        `[B, H', W', C]`. Reverse-mode differentiable; forward-mode differentiation is
        not supported.

    Raises:
        ValueError: If the strides are larger than the kernel.
    """
    rows, columns = kernel.shape[:2]
    if strides > min(rows, columns):
        raise ValueError(
            f"strides {strides} of a kernel of {rows}x{columns}: at most its side"
        )
    return _depthwise_conv(x, kernel, strides, padding)


class DepthwiseConv(nn.Module):
    """Convolution of each channel by itself, without bias, see `depthwise_conv`.

    Attributes:
        size: Kernel side, odd for the usual padding.
        strides: Step along height and width.
        padding: See `layers.find_padding`.
        dtype: Computation type; parameters are float32.
    """

    size: int = 3
    strides: int = 1
    padding: str | int | layers.Padding = "half"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[B, H, W, C]` to `[B, ceil(H / strides), ceil(W / strides), C]`.

        That is with the usual padding, or `same`.
        """
        size = (self.size, self.size)
        kernel = self.param("kernel", layers.relu_init, (*size, 1, x.shape[-1]))
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        padding = layers.find_padding(self.padding, size, self.strides, x.shape[1:3])
        return depthwise_conv(x, kernel, strides=self.strides, padding=padding)
