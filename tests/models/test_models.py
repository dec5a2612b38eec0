"""Models: one contract for all classifiers, published sizes, remover, PyTorch."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from uronet_jax import loading
from uronet_jax.data import packed
from uronet_jax.models import (
    CLASSIFIERS,
    REMOVER_VARIANTS,
    compute_dtype,
    make_classifier,
    make_remover,
)
from uronet_jax.models.pytorch import network_from_pytorch


def uniform(*shape):
    return jnp.asarray(np.random.default_rng(5).uniform(size=shape), jnp.float32)


def shapes_of(module, *shape):
    """Returns the shapes of output and variables; nothing is computed."""
    images = jax.ShapeDtypeStruct(shape, jnp.float32)
    return jax.eval_shape(module.init_with_output, jax.random.key(0), images)


def count(params):
    return sum(math.prod(x.shape) for x in jax.tree.leaves(params))


# The smallest images of each, and some that are taller and wider.
@pytest.mark.parametrize(
    ("batch", "taller", "wider", "channels", "dtype"),
    [(2, 0, 0, 3, "float32"), (3, 20, 17, 1, "bfloat16")],
)
@pytest.mark.parametrize("name", sorted(CLASSIFIERS))
def test_classifier_contract(name, batch, taller, wider, channels, dtype):
    module = make_classifier(name, 7, dtype=compute_dtype(dtype))
    side = module.smallest
    logits, variables = shapes_of(module, batch, side + taller, side + wider, channels)
    assert logits.shape == (batch, 7) and logits.dtype == jnp.float32
    assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
    assert set(variables) <= {"params", "batch_stats"}


# Sizes with 10 classes, from the papers and the usual PyTorch code: Wide ResNets
# 36.5 M, 11.0 M and 2.2 M; CIFAR ResNets 0.27 to 1.7 M; VGG with batch norm less its
# 4,224 and 2,752 convolution biases, which batch norm makes useless.
PUBLISHED = {
    "wrn28_10": 36_479_194,
    "wrn16_8": 10_961_370,
    "wrn40_2": 2_243_546,
    "resnet20": 269_722,
    "resnet32": 464_154,
    "resnet44": 658_586,
    "resnet56": 853_018,
    "resnet110": 1_727_962,
    "vgg16": 14_728_266 - 4_224,
    "vgg11": 9_231_114 - 2_752,
}


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_parameter_count_is_the_published_one(name):
    _, variables = shapes_of(make_classifier(name, 10), 1, 32, 32, 3)
    assert count(variables["params"]) == PUBLISHED[name]


def test_paper_remover_has_two_decoders():
    _, variables = shapes_of(make_remover("paper"), 1, 32, 32, 3)
    convs = [(3, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256)]
    encoder = sum(9 * i * o + o for i, o in convs)
    convs = [(256, 256), (256, 256), (256, 128), (128, 128), (128, 64), (64, 64)]
    decoder = sum(9 * i * o + o for i, o in [*convs, (64, 3)])
    assert count(variables["params"]) == encoder + 2 * decoder


@pytest.mark.parametrize("name", ["cnn_narrow", "resnet8", "wrn10_1"])
def test_classifier_sees_each_image_alone_and_normalises(name, make_variables):
    mean, std = np.float32([0.4, 0.5, 0.6]), np.float32([0.2, 0.3, 0.4])
    module = make_classifier(name, 5, mean=mean, std=std)
    plain = make_classifier(name, 5)
    variables = make_variables(module, (16, 12, 3))
    images = uniform(3, 16, 12, 3)
    normalised = (np.asarray(images) - mean) / std

    @jax.jit
    def run(images, normalised):
        logits = module.apply(variables, images)
        swapped = module.apply(variables, images[::-1].at[0].set(0.0))
        return logits, swapped, plain.apply(variables, normalised)

    logits, swapped, of_normalised = run(images, normalised)
    assert np.ptp(logits, axis=0).max() > 0.01  # The images are told apart.
    # A dozen float32 layers, compiled together, round differently.
    np.testing.assert_allclose(swapped[1:], logits[::-1][1:], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(of_normalised, logits, rtol=1e-4, atol=1e-4)


def test_training_mode_moves_the_batch_statistics(make_variables):
    module = make_classifier("resnet8", 5)
    variables = make_variables(module, (8, 8, 1))
    images = uniform(4, 8, 8, 1)
    kernel = variables["params"]["Conv_0"]["kernel"]
    features = jax.lax.conv_general_dilated(
        images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    _, mutated = jax.jit(
        lambda: module.apply(variables, images, train=True, mutable=["batch_stats"])
    )()
    old, new = (x["batch_stats"]["BatchNorm_0"]["mean"] for x in (variables, mutated))
    # Momentum 0.9, over batch, height and width.
    expected = 0.9 * old + 0.1 * features.mean(axis=(0, 1, 2))
    np.testing.assert_allclose(new, expected, rtol=1e-4, atol=1e-6)


def test_the_network_of_madry_takes_images_as_they_are():
    """Or its convolutions would pad black images with grey."""
    images = uniform(2, 8, 8, 1)
    for name in ("cnn_madry", "cnn_narrow"):
        plain = make_classifier(name, 3)
        variables = plain.init(jax.random.key(0), images)
        other = make_classifier(name, 3, mean=(0.13,), std=(0.31,))
        same = jnp.array_equal(
            plain.apply(variables, images), other.apply(variables, images)
        )
        assert same == (name == "cnn_madry")


# Remover


@pytest.mark.parametrize("variant", sorted(REMOVER_VARIANTS))
def test_remover_contract(variant, make_variables):
    module = make_remover(variant, widths=(4, 8))
    images = uniform(2, 13, 10, 1)
    separation = jax.jit(module.apply)(make_variables(module, (13, 10, 1)), images)
    for part in separation:
        assert part.shape == images.shape and part.dtype == jnp.float32
        assert float(part.std()) > 1e-3
    clean, noise = separation
    assert 0.0 <= clean.min() and clean.max() <= 1.0
    assert -1.0 < noise.min() < 0.0 < noise.max() < 1.0
    if variant.endswith("dcae"):
        np.testing.assert_allclose(noise, images - clean, atol=1e-6)
    low = make_remover(variant, widths=(4,), dtype=jnp.bfloat16)
    dtypes = {x.dtype for x in jax.tree.leaves(shapes_of(low, 2, 5, 6, 3))}
    assert dtypes == {jnp.dtype(jnp.float32)}


def test_remover_mirrors_and_crops_without_a_shift(make_variables):
    module = make_remover("skip", widths=(4, 8))
    variables = make_variables(module, (13, 10, 1))
    images = uniform(2, 13, 10, 1)
    # To 16 x 12: 1 above and 2 below, 1 on either side.
    mirrored = np.pad(images, ((0, 0), (1, 2), (1, 1), (0, 0)), mode="reflect")
    small, large = jax.jit(
        lambda: (module.apply(variables, images), module.apply(variables, mirrored))
    )()
    cropped = jax.tree.map(lambda x: x[:, 1:14, 1:11], large)
    chex.assert_trees_all_close(small, cropped, atol=1e-5)


def test_fresh_remover_starts_at_the_mean_pixel_and_no_noise(key):
    module = make_remover("paper", widths=(4,), clean_mean=0.08)
    images = uniform(4, 8, 8, 1)
    separation, variables = jax.jit(module.init_with_output)(key, images)
    # The random last kernel spreads the pixels around the bias, mostly upwards.
    np.testing.assert_allclose(separation.clean.mean(), 0.08, atol=0.1)
    np.testing.assert_allclose(separation.noise.mean(), 0.0, atol=0.2)
    bias = variables["params"]["clean_decoder"]["Conv_1"]["bias"]
    np.testing.assert_allclose(bias, np.log(0.08 / 0.92), rtol=1e-6)
    assert variables["params"]["noise_decoder"]["Conv_1"]["bias"] == 0.0


def answering(module, variables, images, outputs=None):
    """Returns clean pictures of a decoder that outputs its start, or some constants."""
    variables = jax.tree.map(lambda x: x, variables)
    last = variables["params"]["clean_decoder"]["Conv_1"]
    last["kernel"] = jnp.zeros_like(last["kernel"])
    if outputs is not None:
        outputs = np.array(outputs)
        last["bias"] = jnp.asarray(np.log(outputs / (1 - outputs)), jnp.float32)
    return module.apply(variables, images).clean


def test_residual_head_adds_to_the_image(key):
    module = make_remover("residual", widths=(4,), clean_mean=0.08)
    images = uniform(4, 8, 8, 1)
    separation, variables = jax.jit(module.init_with_output)(key, images)
    # It starts at nothing to add, whatever the mean pixel is.
    assert variables["params"]["clean_decoder"]["Conv_1"]["bias"] == 0.0
    unchanged = answering(module, variables, images)
    np.testing.assert_allclose(unchanged, images, atol=1e-6)
    # The sigmoid is at 0.6: a fifth more, but nothing above white.
    brighter = answering(module, variables, images, [0.6])
    np.testing.assert_allclose(brighter, np.minimum(images + 0.2, 1), atol=1e-6)
    assert np.ptp(separation.clean - images) > 0.01


def test_blending_head_keeps_a_share_of_the_image(key):
    module = make_remover("blend", widths=(4,), clean_mean=0.08)
    images = np.asarray(uniform(4, 8, 8, 3))
    separation, variables = jax.jit(module.init_with_output)(key, images)
    # It starts with most of the image and a little of the mean pixel.
    start = answering(module, variables, images)
    np.testing.assert_allclose(start, 0.88 * images + 0.12 * 0.08, atol=1e-6)
    # First how much of each colour is kept, then what is put in its place.
    kept, picture = np.array([0.1, 0.25, 0.7]), np.array([0.6, 0.2, 0.5])
    blended = answering(module, variables, images, [*kept, *picture])
    expected = kept * images + (1 - kept) * picture
    np.testing.assert_allclose(blended, expected, atol=1e-6)
    assert np.ptp(separation.clean - start) > 0.01
    # With one head the noise pattern is what was removed.
    alone = make_remover("blend_dcae", widths=(4,), clean_mean=0.08)
    one = {"params": {k: v for k, v in variables["params"].items() if "noise" not in k}}
    found = alone.apply(one, images)
    np.testing.assert_allclose(found.clean, separation.clean, atol=1e-6)
    np.testing.assert_allclose(found.noise, images - found.clean, atol=1e-6)


@pytest.mark.parametrize("variant", ["paper", "residual", "blend"])
def test_self_ensemble_is_the_mean_over_mirror_images(variant, make_variables):
    module = make_remover(variant, widths=(4, 8))
    variables = make_variables(module, (13, 10, 1))
    images = uniform(2, 13, 10, 1)
    both = module.clone(mirror=True)

    @jax.jit
    def see(images):
        return module.apply(variables, images), both.apply(variables, images)

    (once, twice), (other, again) = see(images), see(images[:, :, ::-1])
    for part in range(2):
        expected = (once[part] + other[part][:, :, ::-1]) / 2
        np.testing.assert_allclose(twice[part], expected, atol=1e-6)
        assert np.abs(twice[part] - once[part]).max() > 1e-3
        # It makes no difference any more which of the two is shown.
        np.testing.assert_allclose(again[part][:, :, ::-1], twice[part], atol=1e-6)


# Weights from PyTorch


def pytorch_resnet(depth, classes=3):
    """Returns random weights of a CIFAR ResNet in PyTorch's names and layout."""
    rng = np.random.default_rng(0)
    weights = {}

    def conv_norm(prefix, number, inputs, outputs):
        shape = (outputs, inputs, 3, 3)
        weights[f"{prefix}conv{number}.weight"] = rng.normal(size=shape) * 0.2
        norm = f"{prefix}bn{number}"
        weights[f"{norm}.weight"] = rng.uniform(0.5, 1.5, outputs)
        weights[f"{norm}.bias"] = rng.normal(size=outputs) * 0.2
        weights[f"{norm}.running_mean"] = rng.normal(size=outputs) * 0.2
        weights[f"{norm}.running_var"] = rng.uniform(0.5, 1.5, outputs)
        weights[f"{norm}.num_batches_tracked"] = np.array(7)

    conv_norm("", 1, 3, 16)
    inputs = 16
    for layer, outputs in enumerate((16, 32, 64), 1):
        for block in range((depth - 2) // 6):
            prefix = f"layer{layer}.{block}."
            conv_norm(prefix, 1, inputs, outputs)
            conv_norm(prefix, 2, outputs, outputs)
            inputs = outputs
    weights["linear.weight"] = rng.normal(size=(classes, 64))
    weights["linear.bias"] = rng.normal(size=classes)
    return {f"module.{k}": np.float32(v) for k, v in weights.items()}


def numpy_resnet(weights, x):
    """Forward pass of `pytorch_resnet` in NumPy, float64, `[B, C, H, W]`."""
    weights = {k.removeprefix("module."): np.float64(v) for k, v in weights.items()}

    def conv_norm(x, conv, norm, stride=1):
        height, width = x.shape[2] // stride, x.shape[3] // stride
        padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
        kernel = weights[f"{conv}.weight"]
        out = np.zeros((len(x), len(kernel), height, width))
        for i, j in np.ndindex(height, width):
            window = padded[:, :, i * stride :, j * stride :][:, :, :3, :3]
            out[:, :, i, j] = np.einsum("bcij,ocij->bo", window, kernel)
        mean, var, scale, bias = (
            weights[f"{norm}.{name}"][:, None, None]
            for name in ("running_mean", "running_var", "weight", "bias")
        )
        return (out - mean) / np.sqrt(var + 1e-5) * scale + bias

    x = np.maximum(conv_norm(x, "conv1", "bn1"), 0)
    for layer, features in enumerate((16, 32, 64), 1):
        for block in range(sum(k.startswith(f"layer{layer}.") for k in weights) // 12):
            prefix = f"layer{layer}.{block}."
            stride = 2 if layer > 1 and block == 0 else 1
            y = conv_norm(x, f"{prefix}conv1", f"{prefix}bn1", stride)
            y = conv_norm(np.maximum(y, 0), f"{prefix}conv2", f"{prefix}bn2")
            extra = (features - x.shape[1]) // 2
            shortcut = x[:, :, ::stride, ::stride]
            x = np.pad(shortcut, ((0, 0), (extra, extra), (0, 0), (0, 0))) + y
            x = np.maximum(x, 0)
    return x.mean(axis=(2, 3)) @ weights["linear.weight"].T + weights["linear.bias"]


@pytest.mark.parametrize("kind", ["npz", "safetensors"])
def test_pytorch_weights_give_pytorchs_logits(kind, tmp_path):
    weights = pytorch_resnet(depth=14)
    path = save_weights(weights, tmp_path / f"resnet.{kind}")
    model = loading.load_classifier(path)
    assert model.module.depth == 14 and model.num_classes == 3
    assert model.image_shape == (32, 32, 3)
    images = uniform(2, 8, 8, 3)
    logits = jax.jit(model.module.apply)(model.variables, images)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    x = ((np.asarray(images) - mean) / std).transpose(0, 3, 1, 2)
    # 14 float32 layers whose logits are of order 10.
    np.testing.assert_allclose(logits, numpy_resnet(weights, x), rtol=1e-3, atol=1e-3)


def save_weights(weights, path):
    if path.suffix == ".npz":
        np.savez(path, **weights)
    else:
        save_file({k: np.asarray(v) for k, v in weights.items()}, path)
    return path


def test_both_files_of_weights_are_one_model(tmp_path):
    weights = pytorch_resnet(depth=8)
    kinds = ("npz", "safetensors")
    paths = [save_weights(weights, tmp_path / f"resnet.{kind}") for kind in kinds]
    one, other = map(loading.load_classifier, paths)
    assert one.identity == other.identity and one.module == other.module
    initial = [loading.load_initial(path, one.variables) for path in paths]
    chex.assert_trees_all_equal(one.variables, other.variables, *initial)
    statistics = [loading.initial_statistics(path) for path in paths]
    assert statistics[0] == statistics[1]


def test_a_file_that_a_training_starts_from_is_read_once(tmp_path, monkeypatch):
    path = save_weights(pytorch_resnet(depth=8), tmp_path / "resnet.npz")
    model = loading.initial_model(path, "classifier")
    monkeypatch.setattr(loading, "read_pytorch", None)
    found = loading.load_initial(path, model.variables, model=model)
    chex.assert_trees_all_equal(found, model.variables)
    mean = loading.initial_statistics(path, model)["mean"]
    assert mean == [0.485, 0.456, 0.406]


def test_bfloat16_weights_are_read(tmp_path):
    weights = {k: jnp.bfloat16(v) for k, v in pytorch_resnet(depth=8).items()}
    path = save_weights(jax.device_get(weights), tmp_path / "resnet.safetensors")
    variables = loading.load_classifier(path).variables
    bias = variables["params"]["Dense_0"]["bias"]
    assert bias.dtype == np.float32
    np.testing.assert_array_equal(bias, weights["module.linear.bias"])


def test_pytorch_blocks_are_taken_in_order_of_their_numbers():
    weights = pytorch_resnet(depth=68)  # Eleven blocks a layer: "10" sorts before "2".
    network = network_from_pytorch(weights)
    params = network.variables["params"]
    assert network.name == "resnet68" and network.module.depth == 68
    expected = weights["module.layer1.10.conv1.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(params["BasicBlock_10"]["Conv_0"]["kernel"], expected)


def test_published_resnet20_reaches_its_accuracy(models_dir, data_dir):
    model = loading.load_classifier(f"{models_dir}/cifar10_resnet20.npz")
    arrays, *_ = packed.load_packed("cifar10", data_dir, splits=["test"])
    images, labels = (x[:500] for x in arrays["test"])
    images = images.astype(np.float32) / 255.0
    logits = jax.jit(model.module.apply)(model.variables, images)
    # 91.73 % of all 10,000; the standard deviation over 500 is 1.2 %.
    assert np.mean(np.argmax(logits, axis=-1) == labels) >= 0.90
