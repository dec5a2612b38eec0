"""Models and weights that are none, or of something else, and the one error."""

import json
import pickle
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from uronet_jax import array_files, loading
from uronet_jax.models import (
    ImageNetVGG,
    Reconstructor,
    Remover,
    compute_dtype,
    layers,
    make_classifier,
    make_reconstructor,
    make_remover,
)
from uronet_jax.models.depthwise import DepthwiseConv


def resnet(**changes):
    """Weights of a small CIFAR ResNet in PyTorch's names, some of them changed."""
    weights = {}

    def conv_norm(prefix, number, inputs, outputs):
        weights[f"{prefix}conv{number}.weight"] = np.ones((outputs, inputs, 3, 3))
        for name in ("weight", "bias", "running_mean", "running_var"):
            weights[f"{prefix}bn{number}.{name}"] = np.ones(outputs)

    conv_norm("", 1, 3, 16)
    for layer, inputs, outputs in ((1, 16, 16), (2, 16, 32), (3, 32, 64)):
        conv_norm(f"layer{layer}.0.", 1, inputs, outputs)
        conv_norm(f"layer{layer}.0.", 2, outputs, outputs)
    weights |= {"linear.weight": np.ones((10, 64)), "linear.bias": np.ones(10)}
    weights = {k: np.float32(v) for k, v in weights.items()}
    for name, value in changes.items():
        if value is None:
            del weights[name]
        else:
            weights[name] = value
    return weights


def families(*names):
    return {name: np.ones(3, np.float32) for name in names}


def deeper():
    """Weights of a ResNet whose first layer has a block more than the others."""
    weights = resnet()
    more = {k.replace("layer1.0", "layer1.1"): v for k, v in weights.items()}
    return weights | more


# Of what most rows are, up to some of them.
NEAREST = "The nearest is resnet8 for CIFAR-10 .*; "
NAN, INFINITE = np.full(16, np.nan, np.float32), np.full(16, np.inf, np.float32)
WEIGHTS = [
    (
        resnet(**{"bn1.bias": NAN}),
        "weight 'bn1.bias' holds numbers that are not finite",
    ),
    (
        resnet(**{"bn1.running_var": INFINITE}),
        "weight 'bn1.running_var' holds numbers that are not finite",
    ),
    (
        resnet(**{"layer2.0.conv1.weight": np.ones((32, 16, 5, 5))}),
        r"layer2.0.conv1.weight has shape \(32, 16, 5, 5\), expected \(32, 16, 3, 3\)",
    ),
    (
        resnet(**{"linear.weight": np.ones((12, 64))}),
        r"linear.weight has shape \(12, 64\), expected \(10, 64\)",
    ),
    (
        resnet(**{"linear.weight": np.ones((10, 48))}),
        r"linear.weight has shape \(10, 48\), expected \(10, 64\)",
    ),
    (
        resnet(**{"bn1.bias": np.ones(15)}),
        r"bn1.bias has shape \(15,\), expected \(16,\)",
    ),
    (resnet(**{"linear.bias": None}), "missing: linear.bias"),
    (resnet(**{"conv1.weight": None}), r"missing: conv1.weight\. "),
    (resnet(**{"linear.weight": None}), NEAREST + r"missing: linear.weight\. "),
    (resnet(**{"layer2.0.bn2.running_var": None}), "missing: layer2.0.bn2.running_var"),
    (resnet(**{"fc.weight": np.zeros((3, 64))}), NEAREST + r"left over: fc.weight\. "),
    (
        resnet(**{"layer2.0.shortcut.0.weight": np.ones(3)}),
        "left over: layer2.0.shortcut.0.weight",
    ),
    (
        resnet(**{"conv1.weight": np.zeros((16, 3))}),
        NEAREST + r"conv1.weight has shape \(16, 3\), expected \(16, 3, 3, 3\)",
    ),
    (
        resnet(**{"linear.weight": np.zeros(3)}),
        NEAREST + r"linear.weight has shape \(3,\)",
    ),
    (
        resnet(**{"conv1.weight": np.zeros((64, 3, 3, 3))}),
        NEAREST + r"conv1.weight .*expected \(16, 3, 3, 3\)",
    ),
    (deeper(), "is resnet14 for .*missing: layer2.1.conv1.weight, .* and 17 more"),
    (
        {"conv1.weight": np.array(["a"])},
        "'conv1.weight' is of <U1, expected real numbers",
    ),
    ({"conv1.weight": np.ones(3, complex)}, "is of complex128, expected real numbers"),
    (resnet(extra=np.ones(3)), "left over: extra"),
    (
        resnet(**{"module.conv1.weight": np.ones((16, 3, 3, 3))}),
        "two weights are called 'conv1.weight'",
    ),
    (families("encoder.weight"), "missing: conv1.weight.*left over: encoder.weight"),
    (
        families("features.0.weight", "classifier.1.weight"),
        r"torchvision's alexnet; missing: features.0.bias, .*features.0.weight has "
        r"shape \(3,\), expected \(64, 3, 11, 11\)",
    ),
    (families("features.0.weight", "pre_logits.fc1.weight"), "timm's VGG, whose"),
    (
        families("conv_stem.weight", "blocks.0.0.se.bias", "bn2.weight"),
        "of timm's EfficientNet",
    ),
    (
        resnet(mu=np.full(3, 0.5), sigma=np.zeros(3)),
        r"std .of pixels in \[0, 1\]. must be a finite number in .*: 0.0",
    ),
    (
        resnet(mu=np.full(2, 0.5), sigma=np.ones(2)),
        "mean has 2 values for images with 3 channels",
    ),
    (
        resnet(**{"AuxLogits.fc.weight": np.ones((10, 3))}),
        NEAREST + "left over: AuxLogits.fc.weight",
    ),
    (families("patch_embed.proj.weight", "blocks.0.norm1.weight"), "transformer"),
    (
        families("conv1.weight", "block1.layer.0.bn1.bias", "fc.bias"),
        r"The nearest is WRN-10-1 \(RobustBench, AugMix\); missing: ",
    ),
]


@pytest.mark.parametrize(("weights", "message"), WEIGHTS)
def test_weights(weights, message, tmp_path):
    path = tmp_path / "weights.npz"
    np.savez(path, **weights)
    with pytest.raises(ValueError, match=f"weights.npz: .*{message}"):
        loading.load_classifier(path)
    if all(np.asarray(x).dtype.kind == "f" for x in weights.values()):
        other = tmp_path / "weights.safetensors"
        save_file({k: np.asarray(v) for k, v in weights.items()}, other)
        with pytest.raises(ValueError, match=f"weights.safetensors: .*{message}"):
            loading.load_classifier(other)
    like = {"params": {"Dense_0": {"bias": np.ones(10)}}, "batch_stats": {}}
    with pytest.raises(ValueError, match="weights.npz"):
        loading.load_initial(path, like)


class Objects:
    """What a pickle could be asked to make."""


CONTENTS = [
    (b"", "archive"),
    (b"no archive", "archive"),
    (pickle.dumps({"a": 1}), "archive"),
    (b"PK\x03\x04 and then nothing", "archive"),
]


@pytest.mark.parametrize(("content", "kind"), CONTENTS)
def test_no_archive(content, kind, tmp_path):
    path = tmp_path / "weights.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError) as error:
        array_files.read_archive(path)
    assert f"weights.npz is damaged or no {kind}" in str(error.value)
    with pytest.raises(ValueError) as refused:
        loading.load_classifier(path)
    for text in (str(error.value), str(refused.value)):
        assert "allow_pickle" not in text and "pickled" not in text


def test_damaged_compression(tmp_path):
    path = tmp_path / "weights.npz"
    np.savez_compressed(path, a=np.arange(10_000) % 97)
    content = bytearray(path.read_bytes())
    content[200:260] = bytes(60)
    path.write_bytes(content)
    with pytest.raises(ValueError, match="weights.npz is damaged or no archive"):
        array_files.read_archive(path)


def test_objects_are_never_unpickled(tmp_path):
    objects = np.array([Objects()], dtype=object)
    np.savez(tmp_path / "objects.npz", weights=objects)
    np.save(tmp_path / "objects.npy", objects)
    np.savez(tmp_path / "archive.npz", a=np.ones(3))
    (tmp_path / "archive.npz").rename(tmp_path / "archive.npy")
    with pytest.raises(ValueError, match=r"objects.npz .*without objects$"):
        array_files.read_archive(tmp_path / "objects.npz")
    for name in ("objects.npy", "archive.npy"):
        with pytest.raises(
            ValueError, match=rf"{name} is damaged or no array \(.npy\)"
        ):
            array_files.map_array(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        array_files.map_array(tmp_path / "absent.npy")


@pytest.mark.parametrize("kind", ["pt", "pth"])
def test_a_file_of_pytorch_needs_torch(kind, tmp_path, monkeypatch):
    path = tmp_path / f"weights.{kind}"
    path.write_bytes(b"")
    monkeypatch.setitem(sys.modules, "torch", None)
    message = rf"weights.{kind} is a file of PyTorch.*install torch.*numpy\.savez"
    with pytest.raises(ValueError, match=message):
        loading.load_classifier(path)
    with pytest.raises(ValueError, match=message):
        loading.load_initial(path, {})
    with pytest.raises(FileNotFoundError, match="no classifier weights at"):
        loading.load_classifier(tmp_path / f"absent.{kind}")


@pytest.mark.parametrize("name", ["model.onnx", "a.bin"])
def test_a_file_of_another_kind(name, tmp_path):
    path = tmp_path / name
    path.write_bytes(pickle.dumps({}))
    message = rf"{name} is a file: expected the folder of a run.*numpy\.savez"
    for load in (loading.load_classifier, loading.load_model, loading.load_purifier):
        with pytest.raises(FileNotFoundError, match=message):
            load(path)
    with pytest.raises(FileNotFoundError, match=message):
        loading.load_initial(path, {})


@pytest.mark.parametrize("kind", ["npz", "safetensors"])
def test_files_without_weights(kind, tmp_path):
    path = tmp_path / f"resnet.{kind}"
    write = {"npz": np.savez, "safetensors": lambda p, a: save_file({"a": a}, p)}[kind]
    write(path, np.zeros(1000))
    whole = path.read_bytes()
    np.save(tmp_path / "array.npy", np.zeros(3))
    contents = [whole[:-200], whole[:5], b"", b"no weights", b"x" * 100]
    contents += [pickle.dumps({}), (tmp_path / "array.npy").read_bytes()]
    message = f"resnet.{kind} is damaged or no file of weights: copy it anew"
    for content in contents:
        path.write_bytes(content)
        for load in (loading.load_classifier, lambda p: loading.load_initial(p, {})):
            with pytest.raises(ValueError, match=message):
                load(path)
    with pytest.raises(FileNotFoundError, match="no classifier weights at"):
        loading.load_classifier(tmp_path / f"absent.{kind}")


def show(module, *shape, dtype=np.float32):
    """Shows a module images of a shape; nothing is computed."""
    jax.eval_shape(module.init, jax.random.key(0), np.zeros(shape, dtype))


def normalise(mean, std):
    layers.normalize(jnp.zeros((2, 4, 4, 3)), mean, std, jnp.float32)


def run_folder(folder, config):
    path = folder / "checkpoints/1/config/metadata"
    path.parent.mkdir(parents=True)
    path.write_text(config)
    return folder


MODULES = {x: make_classifier(x, 2) for x in ("cnn", "resnet8", "vgg11", "wrn10_1")}
MODULES["remover"] = make_remover("skip")
OF_255 = {"mean": (125.3, 123.0, 113.9), "std": (63.0, 62.1, 66.7)}
ROWS = [
    *(
        row
        for name, module in MODULES.items()
        for row in (
            (
                f"uint8, {name}",
                lambda _, m=module: show(m, 1, 16, 16, 3, dtype=np.uint8),
                "got uint8.*images / 255",
            ),
            (
                f"one image, {name}",
                lambda _, m=module: show(m, 16, 16, 3),
                r"\[B, H, W, C\].*float32\[16, 16, 3\]",
            ),
            (
                f"no image, {name}",
                lambda _, m=module: show(m, 0, 16, 16, 3),
                "at least one image",
            ),
            (
                f"NCHW, {name}",
                lambda _, m=module: show(m, 1, 3, 16, 16),
                r"looks like \[B, C, H, W\]",
            ),
        )
    ),
    *(
        (
            f"small, {name}",
            lambda _, n=name, size=size: show(make_classifier(n, 2), 1, 16, size, 1),
            f"16x{size} pixels are too small",
        )
        for name, size in (("cnn", 7), ("cnn_madry", 3), ("vgg11", 15), ("vgg16", 15))
    ),
    *(
        (
            f"small, {name}",
            lambda _, n=name, size=size: show(make_classifier(n, 2), 1, 80, size, 3),
            f"80x{size} pixels are too small .* at least {size + 1}x{size + 1}",
        )
        for name, size in (
            *(("alexnet", 62), ("densenet121", 28), ("inception_v3", 74)),
            *(("mobilenet_v1", 31), ("vgg16_imagenet", 31), ("vgg19_bn_imagenet", 31)),
        )
    ),
    *(
        (
            f"grey, {name}",
            lambda _, n=name: show(
                make_classifier(n, 2, mean=(0.4, 0.5, 0.6)), 1, 80, 80, 1
            ),
            "mean has 3 values for images with 1 channels.*grey images .* repeated",
        )
        for name in ("alexnet", "inception_v3", "mobilenet_v2")
    ),
    (
        "a depth",
        lambda _: show(ImageNetVGG(num_classes=2, depth=17), 1, 32, 32, 3),
        "depth must be one of 11, 13, 16, 19: 17",
    ),
    (
        "a padding of XLA",
        lambda _: show(layers.Conv(2, padding="SAME"), 1, 8, 8, 3),
        "unknown padding 'SAME'.*: choose from half, same",
    ),
    (
        "half of two",
        lambda _: show(layers.Conv(2, (3, 2)), 1, 8, 8, 3),
        "padding 'half' needs a kernel of odd sides, not 3x2: give the zeros",
    ),
    (
        "wide steps",
        lambda _: show(DepthwiseConv(3, strides=4), 1, 8, 8, 3),
        "strides 4 of a kernel of 3x3: at most its side",
    ),
    (
        "small",
        lambda _: show(make_remover("skip"), 1, 16, 2, 1),
        "16x2 pixels are too small: 2 cannot be mirrored up to a multiple of 8",
    ),
    (
        "narrow",
        lambda _: show(Reconstructor(), 1, 16, 3, 3),
        "16x3 pixels are too small: 3 cannot be mirrored up to a multiple of 8",
    ),
    ("axes", lambda _: show(Reconstructor(), 16, 16, 3), r"\[B, H, W, C\]"),
    ("none", lambda _: show(Reconstructor(), 0, 16, 16, 3), "at least one image"),
    (
        "a list",
        lambda _: make_remover("skip").init(jax.random.key(0), [[0.5]]),
        "not a list",
    ),
    # Names and numbers.
    (
        "a classifier",
        lambda _: make_classifier("resnet21", 10),
        "unknown classifier 'resnet21' .nearest: .*'resnet20'",
    ),
    (
        "a hyphen",
        lambda _: make_classifier("resnet-20", 10),
        "unknown classifier 'resnet-20' .nearest: 'resnet20'",
    ),
    (
        "one class",
        lambda _: make_classifier("cnn", 1),
        r"num_classes must be an integer in \[2, 2147483647\]: 1$",
    ),
    (
        "classes",
        lambda _: make_classifier("cnn", "10"),
        r"num_classes must be an integer in \[2, .*: '10'",
    ),
    (
        "half",
        lambda _: make_classifier("cnn", 10.0),
        r"num_classes must be an integer in \[2, .*: 10.0",
    ),
    (
        "of 255",
        lambda _: make_classifier("cnn", 2, **OF_255),
        r"mean .* must be a finite number in \[0, 1\]: 125.3",
    ),
    (
        "no std",
        lambda _: make_classifier("cnn", 2, std=(0.0,)),
        r"std .* must be a finite number in \[1e-06, 1\]: 0.0",
    ),
    (
        "NaN",
        lambda _: make_classifier("cnn", 2, mean=(np.nan,)),
        r"mean .* must be a finite number in \[0, 1\]: nan",
    ),
    (
        "a mean",
        lambda _: make_classifier("cnn", 2, mean=0.5),
        "mean must hold one value, or one per channel: 0.5",
    ),
    (
        "two means",
        lambda _: show(make_classifier("cnn", 2, mean=(0.1, 0.2)), 1, 8, 8, 3),
        "mean has 2 values for images with 3 channels",
    ),
    (
        "means",
        lambda _: normalise((0.1, 0.2), (1.0,)),
        "mean has 2 values for images with 3 channels",
    ),
    (
        "stds",
        lambda _: normalise((0.1,), (1.0,) * 4),
        "std has 4 values for images with 3 channels",
    ),
    (
        "no mean",
        lambda _: normalise((), (1.0,)),
        "mean has 0 values for images with 3 channels",
    ),
    ("a type", lambda _: compute_dtype("float16"), "unknown dtype 'float16'.*bfloat16"),
    (
        "a remover",
        lambda _: make_remover("unet"),
        "unknown remover variant 'unet'.*dcae, paper",
    ),
    (
        "no widths",
        lambda _: make_remover("skip", widths=()),
        r"widths must hold one or more whole numbers: \(\)",
    ),
    (
        "a width",
        lambda _: make_remover("skip", widths=8),
        "widths must hold one or more whole numbers: 8",
    ),
    (
        "no width",
        lambda _: make_remover("skip", widths=(8, 0)),
        r"each of widths must be an integer in \[1, .*: 0$",
    ),
    (
        "halves",
        lambda _: make_remover("skip", widths=(8.5,)),
        r"each of widths must be an integer in \[1, .*: 8.5",
    ),
    (
        "black",
        lambda _: show(make_remover("skip", clean_mean=0.0), 1, 8, 8, 1),
        r"clean_mean, the mean pixel .* in \(0, 1\): 0.0",
    ),
    (
        "a head",
        lambda _: show(Remover(clean_head="mask"), 1, 8, 8, 1),
        "clean head 'mask': choose from picture, residual",
    ),
    (
        "a reconstructor",
        lambda _: make_reconstructor("unet"),
        "unknown reconstructor variant 'unet': choose from code, paper",
    ),
    (
        "width 6",
        lambda _: make_reconstructor(width=6),
        "width must be a multiple of 4 from 4 on, .*: 6",
    ),
    (
        "width 0",
        lambda _: make_reconstructor(width=0),
        "width must be a multiple of 4 from 4 on, .*: 0",
    ),
    (
        "width 8.0",
        lambda _: make_reconstructor(width=8.0),
        "width must be a multiple of 4 from 4 on, .*: 8.0",
    ),
    (
        "white",
        lambda _: make_reconstructor(clean_mean=1.0),
        r"clean_mean, the mean pixel of .*, must be .* in \(0, 1\): 1.0",
    ),
    # Runs.
    (
        "a broken run",
        lambda f: loading.load_model(run_folder(f, "{")),
        "checkpoints/1 cannot be read",
    ),
    (
        "no run",
        lambda f: loading.load_model(run_folder(f, json.dumps({"a": 1}))),
        "is no run of `uronet train`: its config lacks phase",
    ),
    (
        "no one",
        lambda _: loading.load_defense(None, None, None),
        "a defence needs a classifier",
    ),
]


@pytest.mark.parametrize(("name", "call", "message"), ROWS)
def test_what_is_wrong_is_told(name, call, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        call(tmp_path)


def test_a_run_that_is_not_there(tmp_path):
    message = "no checkpoint under .*x: train one there with `uronet train"
    with pytest.raises(FileNotFoundError, match=message):
        loading.load_classifier(tmp_path / "x")
