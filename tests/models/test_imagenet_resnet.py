"""torchvision's ResNets: logits by hand, names and files, images of any size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from uronet_jax import loading
from uronet_jax.models import layers, make_classifier
from uronet_jax.models.pytorch import network_from_pytorch

# Blocks of each group, and convolutions in a block, as in torchvision's resnet.py.
NETWORKS = {
    "resnet18": ((2, 2, 2, 2), 2),
    "resnet34": ((3, 4, 6, 3), 2),
    "resnet50": ((3, 4, 6, 3), 3),
}


def weight_shapes(name, classes=5):
    """Returns torchvision's names of all weights and their shapes."""
    counts, convs = NETWORKS[name]
    shapes = {}

    def conv_norm(conv, norm, inputs, outputs, size):
        shapes[f"{conv}.weight"] = (outputs, inputs, size, size)
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{norm}.{part}"] = (outputs,)
        shapes[f"{norm}.num_batches_tracked"] = ()

    conv_norm("conv1", "bn1", 3, 64, 7)
    inputs = 64
    for group, count in enumerate(counts):
        inner = 64 * 2**group
        outputs = inner if convs == 2 else 4 * inner
        sizes = (3, 3) if convs == 2 else (1, 3, 1)
        for block in range(count):
            source, seen = f"layer{group + 1}.{block}.", inputs
            for i, size in enumerate(sizes, 1):
                found = outputs if i == convs else inner
                conv_norm(f"{source}conv{i}", f"{source}bn{i}", seen, found, size)
                seen = found
            if inputs != outputs:
                down = f"{source}downsample."
                conv_norm(f"{down}0", f"{down}1", inputs, outputs, 1)
            inputs = outputs
    return {**shapes, "fc.weight": (classes, inputs), "fc.bias": (classes,)}


def draw_weights(name):
    """Returns weights that keep activations and logits near 1."""
    rng = np.random.default_rng(0)

    def draw(name, shape):
        if len(shape) > 1:
            scale = np.sqrt(2 / np.prod(shape[1:]))
            return rng.standard_normal(shape, np.float32) * np.float32(scale)
        if name.endswith(("var", "weight")):
            return rng.uniform(0.5, 1.0, shape).astype(np.float32)
        if name.endswith("tracked"):
            return np.array(7)
        return rng.normal(0, 0.2, shape).astype(np.float32)

    return {key: draw(key, shape) for key, shape in weight_shapes(name).items()}


def numpy_logits(name, weights, x):
    """The forward pass in float64, of `[B, C, H, W]`."""
    counts, convs = NETWORKS[name]
    weights = {name: np.float64(value) for name, value in weights.items()}

    def windows(x, size, stride, fill):
        half = size // 2
        padding = ((0, 0), (0, 0), (half, half), (half, half))
        x = np.pad(x, padding, constant_values=fill)
        x = np.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(2, 3))
        return x[:, :, ::stride, ::stride]

    def conv_norm(x, conv, norm, stride=1):
        kernel = weights[f"{conv}.weight"]
        x = windows(x, kernel.shape[-1], stride, 0.0)
        x = np.einsum("bchwij,ocij->bohw", x, kernel, optimize=True)
        mean, var, scale, bias = (
            weights[f"{norm}.{part}"][:, None, None]
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / np.sqrt(var + 1e-5) * scale + bias

    x = np.maximum(conv_norm(x, "conv1", "bn1", 2), 0)
    x = windows(x, 3, 2, -np.inf).max(axis=(-1, -2))
    for group, count in enumerate(counts):
        for block in range(count):
            source = f"layer{group + 1}.{block}."
            stride = 2 if group > 0 and block == 0 else 1
            y = x
            for i in range(1, convs + 1):
                # The first 3x3 convolution strides.
                step = stride if i == convs - 1 else 1
                y = conv_norm(y, f"{source}conv{i}", f"{source}bn{i}", step)
                y = np.maximum(y, 0) if i < convs else y
            if f"{source}downsample.0.weight" in weights:
                down = f"{source}downsample."
                x = conv_norm(x, f"{down}0", f"{down}1", stride)
            x = np.maximum(x + y, 0)
    return x.mean(axis=(2, 3)) @ weights["fc.weight"].T + weights["fc.bias"]


IMAGES = np.random.default_rng(1).random((2, 37, 20, 3), np.float32)  # An odd side.
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Returns weights of ResNet-18 and a file of them, with a prefix."""
    weights = draw_weights("resnet18")
    path = tmp_path_factory.mktemp("weights") / "resnet18.safetensors"
    save_file({f"model.module.{k}": v for k, v in weights.items()}, path)
    return weights, path


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_logits_are_those_of_the_network_by_hand(name):
    weights = draw_weights(name)
    network = network_from_pytorch(weights, mean=MEAN, std=STD)
    assert (network.name, network.module.num_classes) == (name, 5)
    found = jax.jit(network.module.apply)(network.variables, IMAGES)
    x = ((IMAGES - MEAN) / STD).transpose(0, 3, 1, 2)
    expected = numpy_logits(name, weights, x)
    assert np.abs(expected[0] - expected[1]).max() > 1  # The images are told apart.
    # Fifty float32 layers against float64.
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def test_a_defence_takes_images_of_any_size(files):
    weights, path = files
    model = loading.load_classifier(path)
    assert (model.image_shape, model.any_size) == ((224, 224, 3), True)
    assert model.config == {"model": {"name": "resnet18"}}
    assert model.takes((64, 48, 3)) and not model.takes((224, 224, 1))
    defense = loading.load_defense("bit_depth:bits=5", None, path, batch_size=2)
    coarse = np.rint(IMAGES * 31) / 31
    for images, shown in ((IMAGES, coarse), (IMAGES[:, :20], coarse[:, :20])):
        expected = numpy_logits(
            "resnet18", weights, ((shown - MEAN) / STD).transpose(0, 3, 1, 2)
        )
        np.testing.assert_allclose(defense(images).logits, expected, atol=1e-3)
    with pytest.raises(
        ValueError, match=r"shape \[37, 20, 1\].*made for \[any, any, 3"
    ):
        defense(IMAGES[..., :1])


def test_models_of_one_size_go_before_a_classifier_of_any(files):
    anything = loading.load_classifier(files[1])

    def model(*shape):
        return loading.LoadedModel("purifier", None, None, shape, None, {})

    loading.check_models_match(anything, model(64, 64, 3), None, model(64, 64, 3))
    for others in ((model(64, 64, 1),), (model(64, 64, 3), model(32, 32, 3))):
        with pytest.raises(ValueError, match="choose models of one data set"):
            loading.check_models_match(anything, *others)


def test_a_classifier_of_any_size_has_a_smallest_one():
    network = make_classifier("inception_v3", 2)
    shape = (299, 299, 3)
    model = loading.LoadedModel("classifier", network, None, shape, 2, {}, True)
    assert model.takes((75, 80, 3)) and not model.takes((80, 74, 3))
    remover = loading.LoadedModel("purifier", None, None, (32, 32, 3), None, {})
    message = (
        "the classifier was made for images of 75x75 pixels or more, of 3 channels and "
        r"the purifier for images of shape \[32, 32, 3\]"
    )
    with pytest.raises(ValueError, match=message):
        loading.check_models_match(model, remover)


def test_training_starts_from_the_weights(files):
    weights, path = files
    module = make_classifier("resnet18", 5)
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    like = jax.eval_shape(module.init, jax.random.key(0), images)
    variables = loading.load_initial(path, like)
    kernel = variables["params"]["ResidualBlock_2"]["Conv_2"]["kernel"]
    np.testing.assert_array_equal(
        kernel[0, 0], weights["layer2.0.downsample.0.weight"][:, :, 0, 0].T
    )
    module = make_classifier("resnet18", 7)
    like = jax.eval_shape(module.init, jax.random.key(0), images)
    with pytest.raises(ValueError, match=r"Dense_0/bias has shape \(5,\).*and \(7,\)"):
        loading.load_initial(path, like)


def lazily(name, **changes):
    """Returns weights without memory, some of them changed or left out."""
    shapes = {**weight_shapes(name), **changes}
    return {k: np.broadcast_to(np.float32(0), v) for k, v in shapes.items() if v != 0}


@pytest.mark.parametrize("name", NETWORKS)
def test_names_and_shapes_are_recognised(name):
    for weights in (
        lazily(name),
        {k: v for k, v in lazily(name).items() if not k.endswith("tracked")},
        {f"state_dict.net.{k}": v for k, v in lazily(name).items()},
    ):
        assert network_from_pytorch(weights).name == name


WIDE = {f"layer1.{i}.conv2.weight": (128, 128, 3, 3) for i in range(3)}


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (
            lazily("resnet50", **{"layer3.2.conv1.weight": 0, "layer4.0.bn1.bias": 0}),
            "torchvision's resnet50; missing: layer3.2.conv1.weight, layer4.0.bn1.bias",
        ),
        (
            lazily("resnet50", **WIDE),
            r"resnet50; layer1.0.conv2.weight has shape \(128, 128, 3, 3\), expected "
            r"\(64, 64, 3, 3\), layer1.1",
        ),
        (
            {k.replace("fc.", "linear."): v for k, v in lazily("resnet34").items()},
            "resnet34; missing: fc.weight, fc.bias; left over: linear.weight, linear.b",
        ),
        (
            lazily("resnet18", **{"conv1.weight": (64, 3, 3, 3)}),
            r"resnet18; conv1.weight has .*\(64, 3, 3, 3\), expected \(64, 3, 7, 7\)",
        ),
        (lazily("resnet18", **{"se.bias": (3,)}), "resnet18; left over: se.bias"),
    ],
)
def test_a_wrong_file_names_the_nearest_network_and_what_differs(weights, message):
    with pytest.raises(ValueError, match=f"The nearest is .*{message}"):
        network_from_pytorch(weights)


def test_overlapping_max_pool():
    x = np.random.default_rng(2).normal(size=(2, 7, 4, 3)).astype(np.float32) - 5
    found, vjp = jax.vjp(layers.overlapping_max_pool, x)
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
    view = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    expected = view[:, ::2, ::2].max(axis=(-1, -2))
    assert expected.shape == (2, 4, 2, 3)
    np.testing.assert_array_equal(found, expected)
    # All of a window's gradient goes to its maximum, once for each window.
    times = (x[:, :, :, None] == expected.reshape(2, 1, 1, 8, 3)).sum(axis=3)
    np.testing.assert_array_equal(vjp(jnp.ones_like(found))[0], times)
