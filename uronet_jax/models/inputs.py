"""What images the networks expect that have published weights."""

from functools import partial
from typing import NamedTuple

# The statistics that networks of PyTorch are usually normalised with.
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_HALF = (0.5, 0.5, 0.5)


class Preprocessing(NamedTuple):
    """How images were made for the published weights of a network.

    Its module subtracts and divides by itself, given `mean` and `std`, and takes colour
    images in the range `[0, 1]`. What is left to do to a picture is to make its shorter
    side `resize` pixels long and to cut out the middle.

    Attributes:
        mean: What is subtracted from red, green and blue in `[0, 1]`.
        std: What they are then divided by.
        crop: Height and width of the middle that is cut out, in pixels.
        resize: Length of the shorter side before that; None if images come so small.
        interpolation: How a picture is resized, as Pillow calls it; None likewise.
        source: Where this is written.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    crop: int
    resize: int | None
    interpolation: str | None
    source: str


TORCHVISION = Preprocessing(
    *(IMAGENET_MEAN, IMAGENET_STD, 224, 256, "bilinear"),
    "torchvision, `IMAGENET1K_V1` (`V2` resizes to 232)",
)
_KERAS = partial(Preprocessing, _HALF, _HALF)
# torchvision's weights bring `transform_input`, which undoes ImageNet's statistics.
INCEPTION = _KERAS(299, 342, "bilinear", "torchvision, with `transform_input`")
MOBILENET_V1 = _KERAS(224, 256, "bilinear", "Keras; resizing as in TF-Slim")
KERAS_INCEPTION = _KERAS(299, 342, "bilinear", "Keras; resizing as in TF-Slim")
KERAS_DENSENET = TORCHVISION._replace(source="Keras; resizing as for PyTorch")
# Of red, green and blue in 0 to 255, which Caffe subtracted without dividing.
_CAFFE_MEAN = (123.68, 116.779, 103.939)
KERAS_VGG = Preprocessing(
    *(tuple(x / 255 for x in _CAFFE_MEAN), (1 / 255,) * 3, 224, 256, "bilinear"),
    "Keras; resizing as for Caffe",
)
EFFICIENTNET_LITE = Preprocessing(
    *((127 / 255,) * 3, (128 / 255,) * 3, 224, 256, "bicubic"),
    "tensorflow/tpu, `efficientnet_lite_builder.py`",
)
CIFAR_RESNET = Preprocessing(
    *(IMAGENET_MEAN, IMAGENET_STD, 32, None, None), "akamaster/pytorch_resnet_cifar10"
)
# As its `WideResNet` is; those of its networks that normalise have `mu` and `sigma`.
WIDE_RESNET = Preprocessing(
    *((0.0,) * 3, (1.0,) * 3, 32, None, None), "RobustBench, without `mu` and `sigma`"
)
