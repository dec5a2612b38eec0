"""Weights that are none, or of something else: what is given, and the one error."""

import pickle
import sys

import numpy as np
import pytest

from uronet_jax import array_files, loading


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


NAN, INFINITE = np.full(16, np.nan, np.float32), np.full(16, np.inf, np.float32)
WEIGHTS = [
    (
        resnet(**{"bn1.bias": NAN}),
        "weight 'bn1.bias' holds numbers that are not finite",
    ),
    (resnet(**{"bn1.running_var": INFINITE}), "weight 'bn1.running_var' holds numbers"),
    (
        resnet(**{"layer2.0.conv1.weight": np.ones((32, 16, 5, 5))}),
        r"layer2.0.conv1.weight has shape \(32, 16, 5, 5\), expected \(32, 16, 3, 3\)",
    ),
    (resnet(**{"linear.weight": np.ones((12, 64))}), r"\(12, 64\), expected \(10, 64"),
    (resnet(**{"linear.weight": np.ones((10, 48))}), r"\(10, 48\), expected \(10, 64"),
    (resnet(**{"bn1.bias": np.ones(15)}), r"bn1.bias has shape \(15,\), expected"),
    (resnet(**{"linear.bias": None}), "missing: linear.bias"),
    (resnet(extra=np.ones(3)), "left over: extra"),
    (
        resnet(**{"module.conv1.weight": np.ones((16, 3, 3, 3))}),
        "two weights are called 'conv1.weight'",
    ),
    (families("encoder.weight"), "missing: conv1.weight.*left over: encoder.weight"),
    (families("features.0.weight", "classifier.0.weight"), "VGG or AlexNet"),
    (families("patch_embed.proj.weight", "blocks.0.norm1.weight"), "transformer"),
    (families("conv1.weight", "block1.layer.0.bn1.bias", "fc.bias"), "of RobustBench"),
]


@pytest.mark.parametrize(("weights", "message"), WEIGHTS)
def test_weights(weights, message, tmp_path):
    path = tmp_path / "weights.npz"
    np.savez(path, **weights)
    with pytest.raises(ValueError, match=f"weights.npz.*{message}"):
        loading.load_classifier(path)
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


@pytest.mark.parametrize("name", ["model.h5", "a.bin"])
def test_a_file_of_another_kind(name, tmp_path):
    path = tmp_path / name
    path.write_bytes(pickle.dumps({}))
    message = rf"{name} is a file: expected the folder of a run.*numpy\.savez"
    for load in (loading.load_classifier, loading.load_model, loading.load_purifier):
        with pytest.raises(FileNotFoundError, match=message):
            load(path)
    with pytest.raises(FileNotFoundError, match=message):
        loading.load_initial(path, {})
