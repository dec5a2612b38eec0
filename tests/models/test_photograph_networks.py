"""Networks for photographs: published sizes, smallest images, PyTorch's names."""

import functools
import math
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uronet_jax import loading
from uronet_jax.models import (
    CLASSIFIERS,
    KERAS_PREPROCESSING,
    PREPROCESSING,
    imported,
    list_importable,
    make_classifier,
    preprocessing,
    pytorch,
)
from uronet_jax.models.keras_layouts import KERAS_FAMILIES
from uronet_jax.models.pytorch import network_from_pytorch
from uronet_jax.models.pytorch_layouts import FAMILIES

# Parameters with 1,000 classes, and pixels of the smallest image. Of torchvision (its
# `min_size`), but Inception V3 without the second head of 3,326,696, MobileNet of Keras
# without the 21,888 numbers that are not trained, EfficientNet-Lite0 of timm.
PUBLISHED = {
    "resnet18": (11_689_512, 1),
    "resnet34": (21_797_672, 1),
    "resnet50": (25_557_032, 1),
    "resnet101": (44_549_160, 1),
    "resnet152": (60_192_808, 1),
    "alexnet": (61_100_840, 63),
    "vgg11_imagenet": (132_863_336, 32),
    "vgg11_bn_imagenet": (132_868_840, 32),
    "vgg13_imagenet": (133_047_848, 32),
    "vgg13_bn_imagenet": (133_053_736, 32),
    "vgg16_imagenet": (138_357_544, 32),
    "vgg16_bn_imagenet": (138_365_992, 32),
    "vgg19_imagenet": (143_667_240, 32),
    "vgg19_bn_imagenet": (143_678_248, 32),
    "densenet121": (7_978_856, 29),
    "inception_v3": (27_161_264 - 3_326_696, 75),
    "mobilenet_v1": (4_253_864 - 21_888, 32),
    "mobilenet_v2": (3_504_872, 1),
    "efficientnet_lite0": (4_652_008, 1),
}


@functools.cache
def shapes_of(name):
    """Returns the shapes of a network of 1,000 classes; nothing is computed."""
    module = make_classifier(name, 1000)
    images = jax.ShapeDtypeStruct((1, module.smallest, module.smallest, 3), jnp.float32)
    return jax.eval_shape(module.init, jax.random.key(0), images)


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameter_count_and_smallest_image_are_the_published_ones(name):
    parameters, smallest = PUBLISHED[name]
    leaves = jax.tree.leaves(shapes_of(name)["params"])
    assert sum(math.prod(leaf.shape) for leaf in leaves) == parameters
    assert make_classifier(name, 2).smallest == smallest


# Network -> how many weights it has, one of them and its shape (of torchvision, of
# efficientnet_lite_pytorch, of timm), and where that is here.
NAMES = [
    ("resnet18", 102, "layer4.0.downsample.0.weight", (512, 256, 1, 1),
     "ResidualBlock_6/Conv_2/kernel"),
    ("resnet34", 182, "layer3.5.bn2.bias", (256,), "ResidualBlock_12/BatchNorm_1/bias"),
    ("resnet101", 522, "layer3.22.conv2.weight", (256, 256, 3, 3),
     "ResidualBlock_29/Conv_1/kernel"),
    ("resnet152", 777, "layer4.2.bn3.running_mean", (2048,),
     "ResidualBlock_49/BatchNorm_2/mean"),
    ("vgg11_imagenet", 22, "features.18.weight", (512, 512, 3, 3), "Conv_7/kernel"),
    ("vgg11_bn_imagenet", 54, "features.25.bias", (512,), "Conv_7/bias"),
    ("vgg13_imagenet", 26, "features.22.bias", (512,), "Conv_9/bias"),
    ("vgg13_bn_imagenet", 66, "features.32.running_var", (512,), "BatchNorm_9/var"),
    ("resnet50", 267, "layer2.0.downsample.0.weight", (512, 256, 1, 1),
     "ResidualBlock_3/Conv_3/kernel"),
    ("alexnet", 16, "features.10.weight", (256, 256, 3, 3), "Conv_4/kernel"),
    ("vgg16_imagenet", 32, "features.28.bias", (512,), "Conv_12/bias"),
    ("vgg16_bn_imagenet", 84, "features.41.running_var", (512,), "BatchNorm_12/var"),
    ("vgg19_imagenet", 38, "classifier.6.weight", (1000, 4096), "Dense_2/kernel"),
    ("vgg19_bn_imagenet", 102, "features.49.bias", (512,), "Conv_15/bias"),
    ("densenet121", 606, "features.denseblock4.denselayer16.norm1.running_mean", (992,),
     "DenseLayer_57/BatchNorm_0/mean"),
    ("inception_v3", 472, "Mixed_7c.branch3x3dbl_3b.conv.weight", (384, 384, 3, 1),
     "Mixed_7c/branch3x3dbl_3b/Conv_0/kernel"),
    ("mobilenet_v2", 262, "features.17.conv.1.0.weight", (960, 1, 3, 3),
     "InvertedResidual_16/DepthwiseConv_0/kernel"),
    ("mobilenet_v2", 262, "blocks.5.2.conv_pwl.weight", (160, 960, 1, 1),
     "InvertedResidual_15/Conv_1/kernel"),
    ("efficientnet_lite0", 247, "_blocks.14._depthwise_conv.weight", (1152, 1, 5, 5),
     "InvertedResidual_14/DepthwiseConv_0/kernel"),
]  # fmt: skip


def lazy_weights(name, mark):
    """Returns weights without memory that have the names of a layout."""
    layouts = [layout for family in FAMILIES for layout in family.layouts({})]
    tables = [
        imported.layout_tensors(x, pytorch._PYTORCH) for x in layouts if x.name == name
    ]
    table = next(table for table in tables if mark in table)
    shapes = imported.layout_shapes(table, shapes_of(name))
    return {k: np.broadcast_to(np.float32(0), shape) for k, shape in shapes.items()}


@pytest.mark.parametrize(("name", "weights", "mark", "shape", "path"), NAMES)
def test_names_and_shapes_are_those_of_pytorch(name, weights, mark, shape, path):
    given = lazy_weights(name, mark)
    assert len(given) == weights and given[mark].shape == shape
    given[mark] = np.arange(math.prod(shape), dtype=np.float32).reshape(shape)
    network = network_from_pytorch({f"module.{k}": v for k, v in given.items()})
    usual = preprocessing(name)
    assert network.name == name and network.any_size
    assert network.module == make_classifier(name, 1000, mean=usual.mean, std=usual.std)
    like = {"batch_stats": {}, **shapes_of(name)}
    chex.assert_trees_all_equal_shapes(network.variables, like)
    # The mark is where it belongs, all else is zero.
    found = {
        "/".join(key.key for key in keys[1:]): leaf
        for keys, leaf in jax.tree_util.tree_leaves_with_path(network.variables)
        if np.any(leaf)
    }
    assert set(found) == {path}
    # Rows and columns, then inputs, then outputs.
    axes = {4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}[len(shape)]
    np.testing.assert_array_equal(found[path], given[mark].transpose(axes))


def test_second_heads_and_old_names():
    weights = lazy_weights("inception_v3", "fc.bias")
    more = {f"AuxLogits.{x}": np.ones(3, np.float32) for x in ("conv0.bn.bias", "fc.b")}
    assert network_from_pytorch(weights | more).name == "inception_v3"
    weights = lazy_weights("densenet121", "classifier.bias")
    mark = "features.denseblock2.denselayer3.norm2.weight"
    weights[mark] = np.full(128, 3, np.float32)
    old = re.compile(r"(denselayer\d+\.\w+)(\d)\.")
    renamed = {old.sub(r"\1.\2.", name): value for name, value in weights.items()}
    assert mark.replace("norm2", "norm.2") in renamed and mark not in renamed
    params = network_from_pytorch(renamed).variables["params"]
    np.testing.assert_array_equal(params["DenseLayer_8"]["BatchNorm_1"]["scale"], 3)


def wide_resnet(depth, width, classes):
    """Returns zeros with the names of RobustBench's Wide ResNets."""
    shapes, inputs = {"conv1.weight": (16, 3, 3, 3)}, 16

    def norm(name, channels):
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.{part}"] = (channels,)

    for group, filters in ((1, 16 * width), (2, 32 * width), (3, 64 * width)):
        for block in range((depth - 4) // 6):
            source = f"block{group}.layer.{block}."
            norm(f"{source}bn1", inputs)
            shapes[f"{source}conv1.weight"] = (filters, inputs, 3, 3)
            norm(f"{source}bn2", filters)
            shapes[f"{source}conv2.weight"] = (filters, filters, 3, 3)
            if inputs != filters:
                shapes[f"{source}convShortcut.weight"] = (filters, inputs, 1, 1)
            inputs = filters
    norm("bn1", inputs)
    shapes |= {"fc.weight": (classes, inputs), "fc.bias": (classes,)}
    return {k: np.broadcast_to(np.float32(0), shape) for k, shape in shapes.items()}


@pytest.mark.parametrize(("depth", "width"), [(40, 2), (10, 1), (16, 8)])
def test_wide_resnets_of_any_size_are_recognised(depth, width):
    weights = wide_resnet(depth, width, 7)
    network = network_from_pytorch(weights)
    assert (network.name, network.image_shape) == (f"wrn{depth}_{width}", (32, 32, 3))
    assert not network.any_size
    module = network.module
    assert (module.depth, module.width, module.num_classes) == (depth, width, 7)
    # RobustBench's network of these names does not normalise.
    assert (module.mean, module.std) == ((0.0,) * 3, (1.0,) * 3)


def test_statistics_are_those_given_else_of_the_file_and_part_of_the_identity(tmp_path):
    weights = {
        **wide_resnet(10, 1, 7),
        # A block that RobustBench's network has and does not use.
        "sub_block1.layer.0.conv1.weight": np.zeros((16, 16, 3, 3), np.float32),
    }
    mu, sigma = (np.float32([[[a]], [[b]], [[a]]]) for a, b in ((0.5, 0.25), (0.5, 1)))
    plain, normalising = tmp_path / "plain.npz", tmp_path / "normalising.npz"
    np.savez(plain, **weights)
    np.savez(normalising, **weights, mu=mu, sigma=sigma[None])
    load = loading.load_classifier
    model, own = load(plain), load(normalising)
    assert model.config["model"] == {"name": "wrn10_1"}
    found = {"mean": [0.5, 0.25, 0.5], "std": [0.5, 1.0, 0.5]}
    assert own.config["model"] == {"name": "wrn10_1", **found}
    assert own.module == make_classifier("wrn10_1", 7, **found)
    given = load(normalising, mean=(0.1,), std=[0.2])
    assert (given.module.mean, given.module.std) == ((0.1,), (0.2,))
    assert len({x.identity for x in (model, own, given)}) == 3
    assert load(normalising, mean=[0], std=(1,)).identity == model.identity
    assert loading.initial_statistics(normalising) == found
    with pytest.raises(ValueError, match="plain.npz: mean .of pixels .*: 125.3"):
        load(plain, mean=(125.3, 123.0, 113.9), std=(63.0, 62.1, 66.7))
    np.savez(plain, **weights, mu=mu)
    with pytest.raises(ValueError, match="WRN-10-1 .*left over: mu"):
        load(plain)


@pytest.mark.parametrize(
    ("library", "families", "table"),
    [
        ("pytorch", FAMILIES, PREPROCESSING),
        ("keras", KERAS_FAMILIES, KERAS_PREPROCESSING),
    ],
)
def test_what_can_be_imported_is_listed(library, families, table):
    rows = [row for row in list_importable() if row.library == library]
    names = [name for row in rows for name in row.names]
    assert len(names) == len(set(names)) and set(names) <= set(CLASSIFIERS)
    assert {*names, "mobilenet_v1"} == set(table)
    if library == "pytorch":
        assert set(PUBLISHED) - {"mobilenet_v1"} <= set(names)
        assert {"wrn10_2", "resnet8", "resnet152"} <= set(names)
    for row in rows:
        smallest = {make_classifier(name, 2).smallest for name in row.names}
        assert smallest == {row.smallest}
        for name in row.names:
            found = preprocessing(name, keras=library == "keras")
            assert found == row.preprocessing
    for family in families:  # Every network that has one size has its name.
        made = {layout.name for layout in family.layouts({})}
        assert made <= set(family.names) or not family.any_size
        assert {type(make_classifier(x, 2)) for x in family.names} == {family.network}
    with pytest.raises(ValueError, match="network with weights 'resnet21' .nearest"):
        preprocessing("resnet21")


@functools.cache
def timm_weights(name):
    """Returns weights without memory of a network that timm has with these names."""
    return lazy_weights(name, "blocks.1.0.conv_dw.weight")


def reshaped(weights, changes):
    """Returns weights, some of another shape; None leaves one out."""
    kept = {k: v for k, v in weights.items() if changes.get(k, v) is not None}
    others = {k: np.zeros(v, np.float32) for k, v in changes.items() if v is not None}
    return kept | others


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        # Two networks of timm have these names and shapes, and differ in the padding.
        ("efficientnet_lite0", {}, "timm's efficientnet_lite0, which .*padded differ"),
        # MobileNet-V2 of other widths and heads, and MnasNet.
        ("mobilenet_v2", {"conv_stem.weight": (48, 3, 3, 3)},
         r"nearest is timm's mobilenet_v2; conv_stem.weight has shape \(48, 3, 3, 3\)"),
        ("mobilenet_v2", {"classifier.weight": None, "classifier.fc.weight": (3,)},
         "timm's mobilenet_v2; missing: classifier.weight; left over: classifier.fc.w"),
        ("efficientnet_lite0", {"blocks.1.2.conv_dw.weight": (144, 1, 3, 3)},
         "nearest is timm's efficientnet_lite0; left over: blocks.1.2.conv_dw.weight"),
        # EfficientNet-B0, and MobileNet-V3, which has no second norm.
        ("efficientnet_lite0", {"blocks.0.0.se.conv_reduce.weight": (8, 32, 1, 1)},
         "these are weights of timm's EfficientNet"),
        ("mobilenet_v2", {
            "blocks.0.0.se.conv_reduce.bias": (8,), "conv_head.bias": (1280,),
            **{f"bn2.{x}": None for x in ("weight", "bias", "running_mean",
                                          "running_var")}},
         "nearest is timm's mobilenet_v2; missing: bn2.weight"),
    ],
)  # fmt: skip
def test_networks_of_timm_are_named_where_that_is_sure(name, changes, message):
    with pytest.raises(ValueError, match=message):
        network_from_pytorch(reshaped(timm_weights(name), changes))


def test_statistics_of_inception_undo_those_of_imagenet():
    """torchvision normalises twice: as everywhere, then back and to [-1, 1]."""
    pixels = np.linspace(0, 1, 5)[:, None]
    usual, own = preprocessing("resnet50"), preprocessing("inception_v3")
    mean, std = np.array(usual.mean), np.array(usual.std)
    twice = (pixels - mean) / std * (std / 0.5) + (mean - 0.5) / 0.5
    np.testing.assert_allclose((pixels - own.mean) / own.std, twice, atol=1e-12)
