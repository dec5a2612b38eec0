"""docs/CLASSIFIERS.md: rows by hand."""

from uronet_jax.models import list_importable, preprocessing
from uronet_jax.reports.classifier_page import render_classifiers


def test_rows():
    networks, images = render_classifiers().split("## Their images")
    rows = [line for line in networks.splitlines() if line.startswith("| ")]
    assert len(rows) == 2 + len(list_importable())
    inceptions = [row for row in rows if "`inception_v3`" in row]
    assert all(row.endswith("| 75 | 299 |") for row in inceptions)
    assert "torchvision, timm;" in inceptions[0] and "| Keras, `ker" in inceptions[1]
    inceptions = [row for row in images.splitlines() if "`inception_v3`" in row]
    assert all("| 0.5 | 0.5 | 342, bilinear; 299x299 |" in row for row in inceptions)
    assert ["(Keras) |" in row for row in inceptions] == [False, True]
    (vgg,) = (row for row in images.splitlines() if "`vgg16_imagenet` (Keras)" in row)
    # Of 0 to 255: 123.68, 116.779, 103.939, and no deviation.
    assert "| 0.485, 0.458, 0.4076 | 0.003922 | 256, bilinear; 224x224 |" in vgg
    (small,) = (row for row in images.splitlines() if "`resnet20`" in row)
    assert "`resnet110` | 0.485, 0.456, 0.406 | 0.229, 0.224, 0.225 | 32x32" in small
    (lite,) = (row for row in images.splitlines() if "`efficientnet_lite0`" in row)
    assert "| 0.498 | 0.502 | 256, bicubic; 224x224 |" in lite
    # 127 and 128 of 255, not their rounded numbers.
    assert preprocessing("efficientnet_lite0").std[0] == 128 / 255
