"""Floating-point operations of a network, counted from its layers."""

import math

import jax
import jax.numpy as jnp
from flax import linen as nn

from uronet_jax.models import layers
from uronet_jax.models.depthwise import DepthwiseConv

# Dense bfloat16 operations per second by `device_kind`, as the vendor states them.
PEAK_BFLOAT16 = {
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H200": 989e12,
}

# The backward pass takes one product for the input and one for the weights where the
# forward pass takes one.
TRAINING_FACTOR = 3


def forward_flops(module: nn.Module, image_shape: tuple[int, int, int]) -> int:
    """Counts multiplications and additions of one image's forward pass.

    Convolutions of all kinds and dense layers as they are defined: what padding,
    normalisation, activations, or another form of the same layer cost does not count,
    so that the number is the same for every implementation. `module` takes images
    `[B, H, W, C]`, `image_shape` is `(H, W, C)`.
    """
    total = 0

    def count(call, args, kwargs, context):
        nonlocal total
        output, layer = call(*args, **kwargs), context.module
        if context.method_name == "__call__":
            if isinstance(layer, layers.Conv):
                total += 2 * layer.size**2 * args[0].shape[-1] * math.prod(output.shape)
            elif isinstance(layer, DepthwiseConv):
                total += 2 * layer.size**2 * math.prod(output.shape)
            elif isinstance(layer, layers.UpsampleConv):
                # Each input pixel meets the whole 3x3 kernel.
                total += 2 * 9 * layer.features * math.prod(args[0].shape)
            elif isinstance(layer, nn.Dense):
                total += 2 * args[0].shape[-1] * math.prod(output.shape)
        return output

    with nn.intercept_methods(count):
        jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, *image_shape)))
    return total
