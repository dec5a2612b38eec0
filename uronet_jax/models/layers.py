"""Building blocks that are fast on CPU and accelerators alike.

XLA's CPU backend computes three gradients slowly: the weight gradient of a plain
convolution (4 to 50 GFLOP/s where matrix products reach 45 to 90), that of a
transposed convolution, and that of a windowed maximum. The layers here are the same
functions with the same weights, written so that those gradients become matrix
products and elementwise operations. On other platforms XLA's own forms are used.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax

from uronet_jax import batches

# Up to here the shifts of rows and columns are copied, above those of one of them.
_FEW_CHANNELS = 8
# Pixels of the gradient that a product sums over, about; see docs/SPEED.md.
_PIXELS = 1024

Padding = tuple[tuple[int, int], tuple[int, int]]


def find_padding(
    padding: str | int | Padding,
    size: tuple[int, int],
    strides: int,
    shape: tuple[int, int],
) -> Padding:
    """Returns the zeros around images, `((top, bottom), (left, right))`.

    Args:
        padding: `half` for half the kernel on every side, as PyTorch has it and at
            every stride; `same` for TensorFlow's, which depends on the size of the
            images and puts the odd zero behind; a number of zeros on every side; or
            the zeros themselves.
        size: Rows and columns of the kernel, odd ones for `half`.
        strides: Step along height and width.
        shape: Height and width of the images.

    Raises:
        ValueError: If there is no padding of that name, or it is `half` and the kernel
            has an even side: the images would grow.
    """
    if padding == "half":
        rows, columns = size
        if not (rows % 2 and columns % 2):
            raise ValueError(
                f"padding 'half' needs a kernel of odd sides, not {rows}x{columns}: "
                "give the zeros, ((top, bottom), (left, right))"
            )
        return (rows // 2, rows // 2), (columns // 2, columns // 2)
    if padding == "same":
        return tuple(lax.padtype_to_pads(shape, size, (strides, strides), "SAME"))
    if isinstance(padding, str):
        batches.known_name("padding", padding, ("half", "same"))
    if isinstance(padding, int):
        return (padding, padding), (padding, padding)
    return padding


def kernel_init(scale: float) -> Callable[..., jax.Array]:
    """Returns flax's truncated-normal `variance_scaling` by fan-in, as it is.

    It draws a matrix and reshapes it, which gives the same numbers: XLA's CPU backend
    compiles a random draw of four dimensions up to ten times as slowly.
    """
    draw = nn.initializers.variance_scaling(scale, "fan_in", "truncated_normal")

    def init(key, shape, dtype=jnp.float32):
        return draw(key, (math.prod(shape[:-1]), shape[-1]), dtype).reshape(shape)

    return init


# Half of a normal input survives a ReLU, hence the 2.
relu_init = kernel_init(2.0)


def _native_conv(x, kernel, strides, padding):
    return lax.conv_general_dilated(
        x,
        kernel,
        (strides, strides),
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _native_kernel_gradient(x, gradient, kernel_shape, strides, padding):
    _, vjp = jax.vjp(
        lambda kernel: _native_conv(x, kernel, strides, padding),
        jnp.zeros(kernel_shape, x.dtype),
    )
    return vjp(gradient)[0]


def shifted_windows(
    x: jax.Array, shape: tuple[int, int], out_shape: tuple[int, int], strides: int
) -> list[jax.Array]:
    """Returns what each element of a kernel sees of images `[B, H, W, C]`.

    Args:
        x: The padded images.
        shape: Rows and columns of the kernel.
        out_shape: Height and width of what the convolution gives.
        strides: Step along height and width.

    Returns:
        Images of `out_shape`, row by row of the kernel.
    """
    height, width = (strides * (side - 1) + 1 for side in out_shape)
    return [
        x[:, i : i + height : strides, j : j + width : strides]
        for i, j in np.ndindex(shape)
    ]


def _copies_input(kernel_shape, strides):
    return strides > 1 or kernel_shape[2] <= _FEW_CHANNELS


def _product_kernel_gradient(x, gradient, kernel_shape, strides, padding):
    """Matrix products of the input with shifted output gradients, or the reverse.

    The shifts are laid side by side in the channels, because wide products run near
    the peak of the machine and narrow ones do not. What is copied for that is the
    output gradient, once per kernel column, or of a few channels (images) once per
    kernel element; of a few input channels, and with a stride, the input is smaller,
    and copied once per kernel element.
    """
    rows, columns, inputs, outputs = kernel_shape
    multiply = partial(
        lax.dot_general,
        dimension_numbers=(((0,), (0,)), ((), ())),
        preferred_element_type=jnp.promote_types(x.dtype, jnp.float32),
    )
    if _copies_input(kernel_shape, strides):
        x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
        shifts = shifted_windows(x, (rows, columns), gradient.shape[1:3], strides)
        return multiply(
            jnp.concatenate(shifts, axis=-1).reshape(-1, rows * columns * inputs),
            gradient.reshape(-1, outputs),
        ).reshape(kernel_shape)
    shifted = _shifted(gradient, 2, columns, padding[1], x.shape[2])
    if outputs <= _FEW_CHANNELS:
        shifted = _shifted(shifted, 1, rows, padding[0], x.shape[1])
        product = multiply(
            x.reshape(-1, inputs), shifted.reshape(-1, rows * columns * outputs)
        )
        return product.reshape(inputs, rows, columns, outputs).transpose(1, 2, 0, 3)
    height = gradient.shape[1]
    shifted = shifted.reshape(-1, columns * outputs)
    x = jnp.pad(x, ((0, 0), padding[0], (0, 0), (0, 0)))
    products = [
        multiply(x[:, i : i + height].reshape(-1, inputs), shifted) for i in range(rows)
    ]
    return jnp.stack(products).reshape(rows, inputs, columns, outputs).swapaxes(1, 2)


def _shifted(gradient, axis, count, padding, size):
    """Lays the gradients that meet one input under each kernel element side by side."""
    widths = [(0, 0)] * gradient.ndim
    widths[axis] = tuple(count - 1 - side for side in padding)
    gradient = jnp.pad(gradient, widths)
    starts = range(count - 1, -1, -1)
    shifts = [lax.slice_in_dim(gradient, i, i + size, axis=axis) for i in starts]
    return jnp.concatenate(shifts, axis=-1)


def _matmul_kernel_gradient(x, gradient, kernel_shape, strides, padding):
    """Sums the products of a few images at a time, whose copies stay in the cache."""
    batch, height, width, _ = gradient.shape
    most = max(1, _PIXELS // (height * width))
    count = max(n for n in range(1, min(batch, most) + 1) if batch % n == 0)

    def add(i, total):
        images = (lax.dynamic_slice_in_dim(y, count * i, count) for y in (x, gradient))
        found = _product_kernel_gradient(*images, kernel_shape, strides, padding)
        return total + found

    start = jnp.zeros(kernel_shape, jnp.promote_types(x.dtype, jnp.float32))
    return lax.fori_loop(0, batch // count, add, start).astype(x.dtype)


def _kernel_gradient(x, gradient, *options):
    """Returns the gradient of `conv(x, kernel)` by the kernel."""
    return lax.platform_dependent(
        x,
        gradient,
        cpu=lambda *arrays: _matmul_kernel_gradient(*arrays, *options),
        default=lambda *arrays: _native_kernel_gradient(*arrays, *options),
    )


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _conv(x: jax.Array, kernel: jax.Array, strides: int, padding: Padding) -> jax.Array:
    return _native_conv(x, kernel, strides, padding)


def _conv_forward(x, kernel, strides, padding):
    return _native_conv(x, kernel, strides, padding), (x, kernel)


def _conv_backward(strides, padding, residuals, gradient):
    x, kernel = residuals
    _, vjp = jax.vjp(lambda x: _native_conv(x, kernel, strides, padding), x)
    found = _kernel_gradient(x, gradient, kernel.shape, strides, padding)
    return vjp(gradient)[0], found


_conv.defvjp(_conv_forward, _conv_backward)


def conv(
    x: jax.Array, kernel: jax.Array, *, strides: int = 1, padding: Padding
) -> jax.Array:
    """Convolves (cross-correlates) a batch with a kernel, zero padded.

    Args:
        x: `[B, H, W, I]`.
        kernel: `[rows, columns, I, O]`, same dtype as `x`.
        strides: Step along height and width.
        padding: `((top, bottom), (left, right))` zeros.

    Returns:
        `[B, H', W', O]`. Reverse-mode differentiable; forward-mode differentiation is
        not supported.
    """
    return _conv(x, kernel, strides, padding)


# Stride and padding of the convolution that an `upsample_conv` transposes.
_UPSAMPLED = 2, ((1, 1), (1, 1))


@jax.custom_vjp
def upsample_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Applies a 3x3 transposed convolution of stride 2.

    The same function as `ConvTranspose2d(3, stride=2, padding=1, output_padding=1)`
    of PyTorch: `out[2i + d - 1] += kernel[d] * x[i]` along each axis.

    Args:
        x: `[B, H, W, I]`.
        kernel: `[3, 3, I, O]`.

    Returns:
        `[B, 2H, 2W, O]`. Reverse-mode differentiable; forward-mode differentiation is
        not supported.
    """
    batch, height, width, _ = x.shape
    shape = (batch, 2 * height, 2 * width, kernel.shape[-1])
    kernel = kernel.swapaxes(2, 3)
    # The gradient by its input of the convolution of stride 2 that it transposes.
    transpose = jax.linear_transpose(
        lambda y: _native_conv(y, kernel, *_UPSAMPLED),
        jax.ShapeDtypeStruct(shape, x.dtype),
    )
    return transpose(x)[0]


def _upsample_forward(x, kernel):
    return upsample_conv(x, kernel), (x, kernel)


def _upsample_backward(residuals, gradient):
    # It is the transpose of a convolution of stride 2, whose input is `gradient`.
    x, kernel = residuals
    kernel = kernel.swapaxes(2, 3)
    found = _kernel_gradient(gradient, x, kernel.shape, *_UPSAMPLED)
    return _native_conv(gradient, kernel, *_UPSAMPLED), found.swapaxes(2, 3)


upsample_conv.defvjp(_upsample_forward, _upsample_backward)


def _quarters(x):
    """Returns the four pixels of every 2x2 block; drops an odd last row or column."""
    batch, height, width, channels = x.shape
    height, width = height // 2, width // 2
    x = x[:, : 2 * height, : 2 * width]
    blocks = x.reshape(batch, height, 2, width, 2, channels)
    return [blocks[:, :, i, :, j] for i, j in np.ndindex(2, 2)]


def max_pool(x: jax.Array) -> jax.Array:
    """Takes the maximum of every 2x2 block of `[B, H, W, C]`; drops an odd last one."""
    a, b, c, d = _quarters(x)
    return jnp.maximum(jnp.maximum(a, b), jnp.maximum(c, d))


def mean_pool(x: jax.Array) -> jax.Array:
    """Takes the mean of every 2x2 block of `[B, H, W, C]`; drops an odd last one."""
    high = jnp.promote_types(x.dtype, jnp.float32)
    return (sum(y.astype(high) for y in _quarters(x)) / 4).astype(x.dtype)


def _pool_threes(x, combine, strides, padding, fill):
    """Combines three rows, then three columns, at a time."""
    for axis in (1, 2):
        widths = [(0, 0)] * 4
        widths[axis] = (padding, padding)
        padded = jnp.pad(x, widths, constant_values=fill)
        span = padded.shape[axis] - 2
        first, second, third = (
            lax.slice_in_dim(padded, start, start + span, strides, axis)
            for start in range(3)
        )
        x = combine(combine(first, second), third)
    return x


def overlapping_max_pool(x: jax.Array, *, padding: int = 1) -> jax.Array:
    """Takes the maximum of every 3x3 window at stride 2.

    PyTorch's `MaxPool2d(3, stride=2, padding=padding)`, with a padding of 0 or 1:
    `[B, H, W, C]` to `[B, (H - 1) // 2 + padding, (W - 1) // 2 + padding, C]`.
    """
    return _pool_threes(x, jnp.maximum, 2, padding, -jnp.inf)


def overlapping_mean_pool(x: jax.Array, *, border_counts: bool = True) -> jax.Array:
    """Takes the mean of the 3x3 window around every pixel of `[B, H, W, C]`.

    With zeros around the image that count, PyTorch's `AvgPool2d(3, stride=1,
    padding=1)`; if they do not, at the border it is the mean of what is inside, as
    TensorFlow and Keras have it.
    """
    high = jnp.promote_types(x.dtype, jnp.float32)
    sums, counts = _pool_threes(x.astype(high), jnp.add, 1, 1, 0), 9
    if not border_counts:
        inside = jnp.ones((1, *x.shape[1:3], 1), high)
        counts = _pool_threes(inside, jnp.add, 1, 1, 0)
    return (sums / counts).astype(x.dtype)


def adaptive_mean_pool(x: jax.Array, size: int) -> jax.Array:
    """Makes `[B, H, W, C]` `[B, size, size, C]`, as PyTorch's `AdaptiveAvgPool2d`.

    Along each axis it is the mean of the pixels that a part of `size` parts touches.
    """
    dtype, high = x.dtype, jnp.promote_types(x.dtype, jnp.float32)
    for axis, indices in ((1, "bhwc,ih->biwc"), (2, "bhwc,iw->bhic")):
        side = x.shape[axis]
        if side == size:
            continue
        weights = np.zeros((size, side))
        for i in range(size):
            part = slice(i * side // size, -(-(i + 1) * side // size))
            weights[i, part] = 1 / (part.stop - part.start)
        weights = jnp.asarray(weights, high)
        x = jnp.einsum(
            indices, x.astype(high), weights, precision=lax.Precision.HIGHEST
        )
    return x.astype(dtype)


def pad_to_multiple(images: jax.Array, multiple: int) -> tuple[jax.Array, tuple]:
    """Mirrors images `[B, H, W, C]` up to multiples in height and width.

    Also returns the index that undoes it; ValueError if a side is too short for it.
    """
    padding, crop = [(0, 0)], [slice(None)]
    for size in images.shape[1:3]:
        missing = -size % multiple
        before, after = missing // 2, missing - missing // 2
        if after >= size:
            raise ValueError(
                f"images of {images.shape[1]}x{images.shape[2]} pixels are too small: "
                f"{size} cannot be mirrored up to a multiple of {multiple}"
            )
        padding.append((before, after))
        crop.append(slice(before, before + size))
    padded = jnp.pad(images, [*padding, (0, 0)], mode="reflect")
    return padded, tuple(crop)


class Conv(nn.Module):
    """Convolution, usually zero padded symmetrically by half the kernel size.

    Unlike `"SAME"` the padding stays symmetric at stride 2, as in PyTorch, so that
    weights can be exchanged.

    Attributes:
        features: Output channels.
        size: Kernel side, or rows and columns; odd for the usual padding.
        strides: Step along height and width.
        padding: See `find_padding`.
        use_bias: Whether a bias is added.
        dtype: Computation type; parameters are float32.
        kernel_init: Initialiser of the kernel.
        bias_init: Initialiser of the bias.
    """

    features: int
    size: int | tuple[int, int] = 3
    strides: int = 1
    padding: str | int | Padding = "half"
    use_bias: bool = True
    dtype: Any = jnp.float32
    kernel_init: Callable = relu_init
    bias_init: Callable = nn.initializers.zeros_init()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[B, H, W, I]` to `[B, ceil(H / strides), ceil(W / strides), O]`.

        That is with the usual padding, or `same`.
        """
        size = self.size if isinstance(self.size, tuple) else (self.size, self.size)
        shape = (*size, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape)
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        padding = find_padding(self.padding, size, self.strides, x.shape[1:3])
        x = conv(x, kernel, strides=self.strides, padding=padding)
        if self.use_bias:
            bias = self.param("bias", self.bias_init, (self.features,))
            x = x + bias.astype(self.dtype)[None, None, None]
        return x


class UpsampleConv(nn.Module):
    """Transposed 3x3 convolution of stride 2, see `upsample_conv`.

    Attributes:
        features: Output channels.
        use_bias: Whether a bias is added.
        dtype: Computation type; parameters are float32.
    """

    features: int
    use_bias: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[B, H, W, I]` to `[B, 2H, 2W, O]`."""
        # An output pixel sees a quarter of the kernel on average, hence 4 * 2.
        shape = (3, 3, x.shape[-1], self.features)
        kernel = self.param("kernel", kernel_init(8.0), shape)
        x = upsample_conv(x.astype(self.dtype), kernel.astype(self.dtype))
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros_init(), (self.features,))
            x = x + bias.astype(self.dtype)[None, None, None]
        return x


def batch_norm(
    x: jax.Array, *, train: bool, dtype: Any, epsilon: float = 1e-5
) -> jax.Array:
    """Applies batch norm as PyTorch has it; in a compact method, a layer of its own."""
    return nn.BatchNorm(not train, momentum=0.9, epsilon=epsilon, dtype=dtype)(x)


class Classifier(nn.Module, kw_only=True):
    """What the classifiers share: a normalisation of the pixels and a dense head.

    Attributes:
        num_classes: Size of the logits.
        mean: Pixel mean that is subtracted first, one value or one per channel.
        std: Pixel deviation that is divided by, likewise.
        dtype: Computation type; parameters and logits are float32.
        smallest: Of a class: pixels that the images must have along each side.
    """

    num_classes: int
    mean: Sequence[float] = (0.0,)
    std: Sequence[float] = (1.0,)
    dtype: Any = jnp.float32
    smallest: ClassVar[int] = 1

    def normalized(self, images: jax.Array) -> jax.Array:
        """Checks images `[B, H, W, C]` in `[0, 1]` and normalises them."""
        check_float_images(images, self.smallest)
        return normalize(images, self.mean, self.std, self.dtype)

    def logits(self, x: jax.Array) -> jax.Array:
        """Returns float32 `[B, num_classes]` of the mean over the pixels of `x`."""
        return nn.Dense(self.num_classes)(x.mean(axis=(1, 2), dtype=jnp.float32))


def check_statistics(mean: Sequence[float], std: Sequence[float]) -> None:
    """Raises ValueError unless these could be of pixels in `[0, 1]`."""
    for name, values, low in (("mean", mean, 0.0), ("std", std, 1e-6)):
        if np.ndim(values) != 1:
            raise ValueError(
                f"{name} must hold one value, or one per channel: {values!r}"
            )
        for value in np.asarray(values).tolist():
            batches.check_number(f"{name} (of pixels in [0, 1])", value, low, 1.0)


def normalize(
    images: jax.Array, mean: Sequence[float], std: Sequence[float], dtype: Any
) -> jax.Array:
    """Returns `(images - mean) / std`, `[B, H, W, C]`, in `dtype`.

    Raises:
        ValueError: If a statistic has neither one value nor one per channel.
    """
    channels = images.shape[-1]
    for name, values in (("mean", mean), ("std", std)):
        if len(values) not in (1, channels):
            raise ValueError(
                f"{name} has {len(values)} values for images with {channels} channels: "
                "give one value, or one per channel; grey images for a network of "
                "colour ones are repeated, numpy.repeat(images, 3, axis=-1)"
            )
    # Computed in float32: subtracting in bfloat16 would lose the low bits of a pixel.
    mean = jnp.broadcast_to(jnp.asarray(mean, jnp.float32), (channels,))
    std = jnp.broadcast_to(jnp.asarray(std, jnp.float32), (channels,))
    images = images.astype(jnp.float32)
    return ((images - mean[None, None, None]) / std[None, None, None]).astype(dtype)


def check_float_images(images: jax.Array, min_size: int = 1) -> None:
    """Raises ValueError unless these are `[B, H, W, C]`, float and not too small."""
    batches.check_array("images", images)
    if images.ndim != 4 or not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(
            "need a batch of images [B, H, W, C] of a floating type with values in "
            f"[0, 1], got {images.dtype}{list(images.shape)}: "
            "convert uint8 images with images / 255"
        )
    batches.check_channels_last(images)
    if 0 in images.shape:
        raise ValueError(f"need at least one image, got shape {list(images.shape)}")
    if min(images.shape[1:3]) < min_size:
        raise ValueError(
            f"images of {images.shape[1]}x{images.shape[2]} pixels are too small for "
            f"this network: need at least {min_size}x{min_size}"
        )
