"""torchvision's own networks and files of weights beside what is made of them here."""

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from uronet_jax import loading

REASON = "pip install uronet_jax[oracles]"
torch = pytest.importorskip("torch", reason=REASON)
torchvision = pytest.importorskip("torchvision", reason=REASON)

IMAGES = np.random.default_rng(0).random((2, 5, 6, 3), np.float32)
IMAGES = IMAGES.repeat(8, axis=1).repeat(8, axis=2)  # Noise would be averaged away.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def make_network(name):
    """Returns a network with its own random weights and random running statistics."""
    torch.manual_seed(0)
    network = getattr(torchvision.models, name)(num_classes=7)
    with torch.no_grad():
        for part in network.modules():
            if isinstance(part, torch.nn.BatchNorm2d):
                part.running_mean.normal_(0, 0.3)
                part.running_var.uniform_(0.5, 1.5)
                part.weight.uniform_(0.5, 1.0)
                part.bias.normal_(0, 0.2)
        network.fc.weight *= 10  # Or two images would give nearly the same logits.
    return network.eval()


@pytest.fixture(scope="module")
def networks():
    """Returns name -> network, and the logits it gives `IMAGES`."""
    found = {}
    x = (IMAGES - np.float32(MEAN)) / np.float32(STD)
    for name in ("resnet18", "resnet50"):
        network = make_network(name)
        with torch.no_grad():
            logits = network(torch.from_numpy(x.transpose(0, 3, 1, 2))).numpy()
        found[name] = network, logits
    return found


def save_arrays(state, path):
    arrays = {name: value.numpy() for name, value in state.items()}
    if path.suffix == ".npz":
        np.savez(path, **arrays)
    else:
        save_file(arrays, path)


def prefixed(state):
    return {f"module.{name}": value for name, value in state.items()}


# File -> how torch's state is written to it.
WRITERS = {
    "plain.safetensors": save_arrays,
    "plain.npz": save_arrays,
    "plain.pth": torch.save,
    "parallel.pt": lambda state, path: torch.save(prefixed(state), path),
    "checkpoint.pth": lambda state, path: torch.save(
        {"epoch": 3, "state_dict": prefixed(state), "optimizer": {"lr": 0.1}}, path
    ),
    "nested.pt": lambda state, path: torch.save({"model": {"net": state}}, path),
    "old.pt": lambda state, path: torch.save(
        {k: v for k, v in state.items() if "tracked" not in k},
        path,
        _use_new_zipfile_serialization=False,
    ),
}


@pytest.mark.parametrize(
    ("name", "file"),
    [("resnet50", "plain.safetensors"), *(("resnet18", file) for file in WRITERS)],
)
def test_logits_are_torchvisions(name, file, networks, tmp_path):
    network, expected = networks[name]
    WRITERS[file](network.state_dict(), tmp_path / file)
    model = loading.load_classifier(tmp_path / file)
    assert model.config["model"]["name"] == name and model.num_classes == 7
    logits = jax.jit(model.module.apply)(model.variables, IMAGES)
    assert np.abs(expected[0] - expected[1]).max() > 0.2  # The images are told apart.
    np.testing.assert_allclose(logits, expected, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_read(dtype, networks, tmp_path):
    state = networks["resnet18"][0].state_dict()
    low = {k: v.to(dtype) if v.is_floating_point() else v for k, v in state.items()}
    torch.save(low, tmp_path / "low.pt")
    params = loading.load_classifier(tmp_path / "low.pt").variables["params"]
    assert params["Dense_0"]["kernel"].dtype == np.float32
    expected = low["fc.weight"].float().numpy().T
    np.testing.assert_array_equal(params["Dense_0"]["kernel"], expected)


@pytest.mark.parametrize("name", ["resnet34", "resnet101", "resnet152"])
def test_every_depth_is_recognised(name, tmp_path):
    with torch.device("meta"):
        state = getattr(torchvision.models, name)(num_classes=7).state_dict()
    state = {k: np.broadcast_to(np.float32(0), v.shape) for k, v in state.items()}
    assert loading.network_from_pytorch(state).name == name


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("wide_resnet50_2", "nearest is torchvision's resnet50; layer1.0.conv1.weight"),
        ("resnext50_32x4d", r"resnet50; .* \(128, 64, 1, 1\), expected \(64, 64, 1, 1"),
        ("vgg11", "torchvision's VGG or AlexNet"),
        ("mobilenet_v2", "VGG or AlexNet"),
    ],
)
def test_other_networks_of_torchvision_are_named(name, message):
    with torch.device("meta"):
        state = getattr(torchvision.models, name)().state_dict()
    state = {k: np.broadcast_to(np.float32(0), v.shape) for k, v in state.items()}
    with pytest.raises(ValueError, match=message):
        loading.network_from_pytorch(state)


def test_files_that_hold_no_weights_are_rejected(networks, tmp_path):
    network = networks["resnet18"][0]
    path = tmp_path / "a.pt"
    torch.save(network, path)  # A whole module, which would have to be unpickled.
    whole = path.read_bytes()
    for content in (whole, whole[:1000], b"", b"no weights"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="a.pt is damaged, or holds more than wei"):
            loading.load_classifier(path)
    for content in ({"epoch": 3}, [torch.zeros(3)], torch.zeros(3)):
        torch.save(content, path)
        with pytest.raises(ValueError, match=r"a.pt holds no weights .*state_dict\(\)"):
            loading.load_classifier(path)
    state = network.state_dict()
    torch.save({**state, "bn1.bias": torch.full((64,), torch.nan)}, path)
    with pytest.raises(ValueError, match="a.pt: weight 'bn1.bias' holds numbers"):
        loading.load_classifier(path)
