"""Input transformations that stand before a classifier as a defence.

A transformation maps float images `[B, H, W, C]` in `[0, 1]` to images of the same
shape: pure, jittable, differentiable (where its own gradient is zero, straight
through). `purifiers.make_transformation(name)` puts one wherever a remover can stand.
"""

from uronet_jax.transformations import (
    compression,
    noise,
    pixel_deflection,
    quantisation,
    quilting,
    sparse_layer,
    wavelet,
)
from uronet_jax.transformations.transformation import Transformation

TRANSFORMATIONS: dict[str, Transformation] = {
    "jpeg": compression.JPEG,
    "bit_depth": quantisation.BIT_DEPTH,
    "gaussian_noise": noise.GAUSSIAN_NOISE,
    "wavelet": wavelet.WAVELET,
    "pixel_deflection": pixel_deflection.PIXEL_DEFLECTION,
    "quilting": quilting.QUILTING,
    "sparse_layer": sparse_layer.SPARSE_LAYER,
}

__all__ = ["TRANSFORMATIONS", "Transformation"]
