"""Input transformations that stand before a classifier as a defence.

A transformation maps float images `[B, H, W, C]` in `[0, 1]` to images of the same
shape: pure, jittable, differentiable (where its own gradient is zero, straight
through). `purifiers.make_transformation(name)` puts one wherever a remover can stand.
"""

from uronet_jax.transformations import (
    compression,
    feature_distillation,
    median,
    noise,
    pixel_deflection,
    quantisation,
    quilting,
    resizing,
    sparse_layer,
    total_variation,
    wavelet,
)
from uronet_jax.transformations.transformation import Transformation

TRANSFORMATIONS: dict[str, Transformation] = {
    "jpeg": compression.JPEG,
    "bit_depth": quantisation.BIT_DEPTH,
    "median": median.MEDIAN,
    "total_variation": total_variation.TOTAL_VARIATION,
    "total_variation_art": total_variation.TOTAL_VARIATION_ART,
    "feature_distillation": feature_distillation.FEATURE_DISTILLATION,
    "resize_pad": resizing.RESIZE_PAD,
    "wavelet": wavelet.WAVELET,
    "pixel_deflection": pixel_deflection.PIXEL_DEFLECTION,
    "sparse_layer": sparse_layer.SPARSE_LAYER,
    "quilting": quilting.QUILTING,
    "gaussian_noise": noise.GAUSSIAN_NOISE,
}

__all__ = ["TRANSFORMATIONS", "Transformation"]
