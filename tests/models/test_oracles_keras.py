"""Keras' own networks and files of weights beside what is made of them here."""

import io
import os
import sys
import zipfile

import jax
import numpy as np
import pytest

from uronet_jax import loading
from uronet_jax.models import preprocessing

REASON = "pip install uronet_jax[oracles]"
torch = pytest.importorskip("torch", reason=REASON)
h5py = pytest.importorskip("h5py", reason=REASON)
os.environ["KERAS_BACKEND"] = "torch"  # It compiles nothing.
keras = pytest.importorskip("keras", reason=REASON)

pytestmark = [
    # Of Keras with torch.
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy"),
]
# Up to 120 layers in float32, logits of order 1; those of two images differ by 100
# times this and more.
CLOSE = {"rtol": 0, "atol": 1e-4}
# Name here -> Keras' name, module of its preprocessing, and height and width of images:
# small, but no multiples of strides; VGG's layers behind it are of one size, 2x2 parts.
NETWORKS = {
    "vgg16_imagenet": ("VGG16", "vgg16", (64, 64)),
    "vgg19_imagenet": ("VGG19", "vgg19", (64, 64)),
    "mobilenet_v1": ("MobileNet", "mobilenet", (43, 36)),
    "densenet121": ("DenseNet121", "densenet", (43, 36)),
    "inception_v3": ("InceptionV3", "inception_v3", (91, 107)),
}


def numbers(shape, seed=0):
    return np.random.default_rng(seed).random(shape, np.float32)


def forget_names(path):
    """Removes the names of the layers from a file of Keras 3."""
    member, kept, content = "model.weights.h5", {}, path
    if path.suffix == ".keras":
        with zipfile.ZipFile(path) as archive:
            kept = {name: archive.read(name) for name in archive.namelist()}
        content = io.BytesIO(kept.pop(member))
    with h5py.File(content, "r+") as file:
        for group in file["layers"].values():
            del group["vars"].attrs["name"]
    if kept:
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in (*kept.items(), (member, content.getvalue())):
                archive.writestr(name, data)


@pytest.fixture(scope="module", params=NETWORKS)
def network(request):
    """Returns our name, a network of Keras, images in [0, 1], logits, and a store."""
    name, module, (height, width) = NETWORKS[request.param]
    keras.utils.set_random_seed(0)
    made = getattr(keras.applications, name)(
        weights=None,
        input_shape=(height, width, 3),
        classes=7,
        classifier_activation=None,
    )
    images = numbers((2, -(-height // 8), -(-width // 8), 3))
    images = images.repeat(8, axis=1).repeat(8, axis=2)[:, :height, :width]
    prepare = getattr(keras.applications, module).preprocess_input
    x = prepare(255 * images)

    def apply(training=False):
        with torch.no_grad():
            return made(x, training=training).detach().cpu().numpy()

    # Running averages are about those of the images, or a random network would hardly
    # tell them apart.
    draw = np.random.default_rng(1)
    norms = [y for y in made.layers if isinstance(y, keras.layers.BatchNormalization)]
    for norm in norms:
        norm.momentum = 0.0
        if norm.scale:
            norm.gamma.assign(draw.uniform(0.5, 1, norm.gamma.shape))
        norm.beta.assign(draw.normal(0, 0.2, norm.beta.shape))
    if norms:
        apply(training=True)
    for norm in norms:  # Not so small that rounding grows from layer to layer.
        var = np.array(norm.moving_variance)
        norm.moving_variance.assign(1.5 * var + 0.2 * var.mean())
    for layer in made.layers:
        if isinstance(layer, keras.layers.Conv2D) and layer.use_bias:
            layer.bias.assign(draw.normal(0, 0.1, layer.bias.shape))
    *_, head = (y for y in made.layers if hasattr(y, "kernel"))
    logits = apply()
    scale = 1 / np.abs(logits).max()
    head.kernel.assign(head.kernel * scale)
    head.bias.assign(draw.normal(0, 0.1, head.bias.shape))
    logits = apply()
    assert np.abs(logits[0] - logits[1]).max() > 0.01
    return request.param, made, images, logits, {}


@pytest.mark.parametrize("ending", ["h5", "weights.h5", "keras"])
def test_logits_are_those_of_keras(ending, network, tmp_path):
    name, made, images, expected, found = network
    path = tmp_path / f"network.{ending}"
    (made.save_weights if "weights" in ending else made.save)(path)
    model = loading.load_classifier(path)
    path.unlink()
    assert model.config["model"]["name"] == name and model.num_classes == 7
    assert model.any_size == ("vgg" not in name)
    usual = preprocessing(name, keras=True)
    assert (model.module.mean, model.module.std) == (usual.mean, usual.std)
    if ending == "h5":
        logits = jax.jit(model.module.apply)(model.variables, images)
        np.testing.assert_allclose(logits, expected, **CLOSE)
    # The other files hold the same.
    first = found.setdefault("variables", model.variables)
    jax.tree.map(np.testing.assert_array_equal, model.variables, first)


def test_files_that_hold_no_network_are_rejected(tmp_path, monkeypatch):
    made = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="other")])
    path = tmp_path / "a.h5"
    made.save(path)
    with pytest.raises(ValueError, match="a.h5: .*is Keras' .*left over: other/0"):
        loading.load_classifier(path)
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"no weights"):
        for other in (path, tmp_path / "a.keras"):
            other.write_bytes(content)
            with pytest.raises(ValueError, match=r"damaged or no file of Keras' wei"):
                loading.load_classifier(other)
    for ending in ("weights.h5", "keras"):  # As before Keras wrote names.
        nameless = tmp_path / f"nameless.{ending}"
        (made.save_weights if "weights" in ending else made.save)(nameless)
        forget_names(nameless)
        with pytest.raises(ValueError, match=f"nameless.{ending} names no layers"):
            loading.load_classifier(nameless)
    with h5py.File(path, "w") as file:
        file["numbers"] = np.ones(3)
    with pytest.raises(ValueError, match="a.h5 holds no layers with weights as Keras"):
        loading.load_classifier(path)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ValueError, match=r"h5py is needed .*pip install .*\[keras\]"):
        loading.load_classifier(path)


def test_a_network_without_its_top_is_named(tmp_path):
    made = keras.applications.MobileNet(
        weights=None, include_top=False, input_shape=(32, 32, 3)
    )
    made.save_weights(tmp_path / "notop.weights.h5")
    with pytest.raises(ValueError, match=r"without its top, conv_preds, .*include_top"):
        loading.load_classifier(tmp_path / "notop.weights.h5")
