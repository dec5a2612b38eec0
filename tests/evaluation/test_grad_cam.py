"""Grad-CAM: closed forms, and that it finds the place that matters."""

import functools

import jax
import numpy as np
import pytest
from flax import linen as nn

from uronet_jax.evaluation.grad_cam import grad_cam
from uronet_jax.models import layers, make_classifier
from uronet_jax.reports import figures

SIDE = 16
IMAGES = np.random.default_rng(0).uniform(size=(3, SIDE, SIDE, 3)).astype(np.float32)


class Pooled(nn.Module):
    """The smallest network with known features: 1x1 convolution, mean, dense."""

    @nn.compact
    def __call__(self, images, *, train):
        x = nn.relu(layers.Conv(2, size=1, use_bias=False)(images))
        return nn.Dense(2, use_bias=False)(x.mean(axis=(1, 2)))


# The features of `Pooled` are red and blue; class 0 wants red, class 1 blue and no red.
POOLED = {
    "params": {
        "Conv_0": {
            "kernel": np.array([[1, 0], [0, 0], [0, 1]], np.float32)[None, None]
        },
        "Dense_0": {"kernel": np.array([[1, -1], [0, 2]], np.float32)},
    }
}


def maps_and_features(module, last):
    """Returns a function of variables, images and labels: maps, a layer's output."""

    @jax.jit
    def run(variables, images, labels):
        _, state = module.apply(
            variables, images, capture_intermediates=True, mutable=["intermediates"]
        )
        features = state["intermediates"][last]["__call__"][0]
        return grad_cam(module, variables, images, labels), features

    return run


def coloured_squares():
    """Returns an image with a red, a green and a blue square."""
    images = np.zeros((1, 8, 8, 3), np.float32)
    images[0, :4, :4, 0] = 0.5
    images[0, :4, 4:, 1] = 1.0
    images[0, 4:, 4:, 2] = 1.0
    return images


@pytest.mark.parametrize("label", [0, 1])
def test_closed_form_and_place(label):
    maps = grad_cam(Pooled(), POOLED, coloured_squares(), np.array([label]))
    # Of the class's colour alone: the other square lowers its logit or is not seen.
    expected = np.zeros((1, 8, 8), np.float32)
    place = (slice(None), slice(4), slice(4)) if label == 0 else np.s_[:, 4:, 4:]
    expected[place] = 1.0
    np.testing.assert_array_equal(maps, expected)


def test_default_is_the_most_probable_class_and_nothing_is_zero():
    images = coloured_squares()  # Mean of blue is twice that of red: class 1.
    np.testing.assert_array_equal(
        grad_cam(Pooled(), POOLED, images),
        grad_cam(Pooled(), POOLED, images, np.array([1])),
    )
    black = np.zeros((1, 8, 8, 3), np.float32)
    assert not np.any(grad_cam(Pooled(), POOLED, black))
    assert not np.any(grad_cam(Pooled(), POOLED, images, np.array([2])))


@pytest.mark.parametrize(
    ("name", "last", "side"),
    # VGG halves four times: of 16 pixels one place would be left.
    [
        ("resnet8", "BasicBlock_2", 16),
        ("wrn10_1", "BatchNorm_0", 16),
        ("vgg11", "BatchNorm_7", 32),
    ],
)
def test_mean_and_dense_give_class_activation_maps(name, last, side, make_variables):
    """There the gradient is the dense layer's weight (CAM, Zhou et al., CVPR 2016)."""
    module = make_classifier(name, 4, mean=(0.5,), std=(0.25,))
    variables = make_variables(module, (side, side, 3))
    images = np.kron(IMAGES, np.ones((1, side // SIDE, side // SIDE, 1), np.float32))
    labels = np.array([0, 1, 3])
    maps, features = maps_and_features(module, last)(variables, images, labels)
    kernel = np.asarray(variables["params"]["Dense_0"]["kernel"])[:, labels]
    cam = np.einsum("bhwk,kb->bhw", np.maximum(features, 0.0), kernel)
    cam = jax.image.resize(np.maximum(cam, 0.0), images.shape[:3], "bilinear")
    highest = np.max(cam, axis=(1, 2), keepdims=True)
    assert np.sum(highest > 0) >= 1
    expected = cam / np.where(highest > 0, highest, 1.0)
    # Two orders of summation in float32.
    np.testing.assert_allclose(maps, expected, atol=1e-5)


@pytest.fixture(scope="module")
def cnn(make_variables):
    """Returns the CNN's variables, `maps(images, labels)` and its last features."""
    module = make_classifier("cnn_narrow", 4)
    variables = make_variables(module, (SIDE, SIDE, 3), seed=3)
    run = functools.partial(maps_and_features(module, "Conv_2"), variables)
    return jax.tree.map(np.asarray, variables["params"]), run


def test_pools_and_hidden_layers(cnn):
    """The CNN has neither a mean nor one dense layer: its head is written out here."""
    params, run = cnn
    labels = np.array([2, 0, 1])
    maps, features = run(IMAGES, labels)
    features = np.maximum(features, 0.0)
    weights = np.zeros((3, 1, 1, features.shape[-1]), np.float32)
    for b, label in enumerate(labels):
        # Backwards from the logit: dense, rectified, dense, and the pools.
        blocks = features[b].reshape(2, 2, 2, 2, -1).swapaxes(1, 2).reshape(2, 2, 4, -1)
        pooled = blocks.max(axis=2)
        first, second = params["Dense_0"], params["Dense_1"]
        hidden = pooled.reshape(-1) @ first["kernel"] + first["bias"]
        slope = first["kernel"] @ (second["kernel"][:, label] * (hidden > 0))
        # Each maximum passes its slope on once, so positions need not be told apart.
        weights[b] = slope.reshape(4, -1).sum(axis=0) / 16
    cam = np.maximum((weights * features).sum(axis=-1), 0.0)
    cam = np.asarray(jax.image.resize(cam, IMAGES.shape[:3], "bilinear"))
    assert cam.max(axis=(1, 2)).min() > 0
    # Two orders of summation in float32.
    np.testing.assert_allclose(
        maps, cam / cam.max(axis=(1, 2), keepdims=True), atol=1e-5
    )


def test_maps_belong_to_their_images(cnn):
    _, run = cnn
    labels = np.array([2, 0, 1])
    maps, _ = run(IMAGES, labels)
    assert maps.shape == IMAGES.shape[:3] and maps.dtype == np.float32
    # Another place in the batch may round differently.
    turned, _ = run(IMAGES[::-1], labels[::-1])
    np.testing.assert_allclose(turned, maps[::-1], atol=1e-5)
    others, _ = run(np.concatenate([IMAGES[:1], 1 - IMAGES[1:]]), labels)
    np.testing.assert_allclose(others[0], maps[0], atol=1e-5)
    assert np.abs(others[1] - maps[1]).max() > 0.1


def test_figure(tmp_path):
    maps = np.zeros((1, 8, 8), np.float32)
    maps[0, 2:4, 2:4] = 1.0
    shown = figures.attention_overlay(coloured_squares(), maps)
    assert shown.shape == (1, 8, 8, 3) and 0 <= shown.min() and shown.max() <= 1
    # Where the map is zero the picture is only darker.
    np.testing.assert_allclose(shown[0, 6, 6] / shown[0, 6, 6].max(), [0, 0, 1])
    assert np.abs(shown[0, 2, 2] - shown[0, 0, 0]).max() > 0.3
    pair = (coloured_squares(), maps)
    figures.attention_gallery(tmp_path / "a.png", {"clean": pair, "purified": pair})
    assert (tmp_path / "a.png").stat().st_size > 1000
    with pytest.raises(ValueError, match="maps"):
        figures.attention_overlay(coloured_squares(), maps[:, :4])
    with pytest.raises(ValueError, match="maps"):
        figures.attention_overlay(coloured_squares(), maps + 1)
