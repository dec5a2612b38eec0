"""Attacks for the smallest perturbation beside foolbox and torchattacks.

One trained convolutional network, and its twin in PyTorch with the same weights.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.tree_util import Partial

from uronet_jax.adapters import foolbox_model
from uronet_jax.attacks.carlini_wagner import carlini_wagner
from uronet_jax.attacks.ddn import ddn
from uronet_jax.attacks.deepfool import deepfool
from uronet_jax.attacks.fab import fab
from uronet_jax.data import open_source

REASON = "pip install uronet_jax[oracles]"
torch = pytest.importorskip("torch", reason=REASON)
foolbox = pytest.importorskip("foolbox", reason=REASON)
torchattacks = pytest.importorskip("torchattacks", reason=REASON)

torch.set_num_threads(1)  # More make it slower on so small a network.

COUNT, KEY = 60, jax.random.key(0)
CHANNELS = (1, 8, 16)


def logits_of(params, images):
    x = images
    for weights, bias in params[:-1]:
        x = jax.lax.conv_general_dilated(
            x,
            weights,
            (2, 2),
            [(2, 2), (2, 2)],
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        x = jax.nn.relu(x + bias[None, None, None])
    weights, bias = params[-1]
    return x.reshape(x.shape[0], -1) @ weights + bias[None]


def train(images, labels):
    """Returns parameters after 200 steps of Adam."""
    rng = np.random.default_rng(0)
    shapes = [(5, 5, a, b) for a, b in zip(CHANNELS, CHANNELS[1:], strict=False)]
    shapes.append((7 * 7 * CHANNELS[-1], 10))
    params = [
        (
            rng.normal(size=shape, scale=np.sqrt(2 / np.prod(shape[:-1]))).astype("f"),
            np.zeros(shape[-1], np.float32),
        )
        for shape in shapes
    ]
    optimizer = optax.adam(2e-3)

    @jax.jit
    def step(params, state, x, y):
        def loss(params):
            logits = logits_of(params, x)
            return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

        updates, state = optimizer.update(jax.grad(loss)(params), state)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    for _ in range(200):
        batch = rng.integers(len(labels), size=128)
        params, state = step(params, state, images[batch], labels[batch])
    return params


class Twin(torch.nn.Module):
    """The network on `[B, 1, 28, 28]`."""

    def __init__(self, params):
        super().__init__()
        self.weights = [
            torch.from_numpy(np.array(w).transpose(3, 2, 0, 1).copy())
            for w, _ in params[:-1]
        ]
        self.weights.append(torch.from_numpy(np.array(params[-1][0]).T.copy()))
        self.biases = [torch.from_numpy(np.array(b)) for _, b in params]
        # torchattacks asks a parameter for the device.
        self.nothing = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x):
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            x = torch.nn.functional.conv2d(x, weight, bias, stride=2, padding=2).relu()
        flat = x.permute(0, 2, 3, 1).flatten(1)
        return torch.nn.functional.linear(flat, self.weights[-1], self.biases[-1])


@pytest.fixture(scope="module")
def network():
    """Returns the network, its twin, test images and labels, some of them missed."""
    images, labels = open_source("mnist5k", "train").arrays()
    params = train(images.astype(np.float32) / 255, labels)
    logits_fn = Partial(jax.jit(logits_of), params)
    images, labels = open_source("mnist5k", "test").read(np.arange(400))
    images, labels = images.astype(np.float32) / 255, np.asarray(labels)
    right = np.argmax(logits_fn(images), -1) == labels
    assert 0.9 < right.mean() < 1.0
    chosen = np.concatenate([np.flatnonzero(~right)[:3], np.flatnonzero(right)])[:COUNT]
    images, labels = images[chosen], labels[chosen]
    twin = Twin(params).eval()
    ours, theirs = logits_fn(images), twin(to_torch(images)).detach().numpy()
    np.testing.assert_allclose(ours, theirs, atol=1e-4)  # Logits of about 10.
    return logits_fn, twin, images, labels


def to_torch(images):
    return torch.from_numpy(images.transpose(0, 3, 1, 2).copy())


def wrong(network, adversarial):
    logits_fn, _, _, labels = network
    return np.argmax(logits_fn(jnp.asarray(adversarial)), axis=-1) != labels


def norms(network, adversarial, norm):
    flat = (np.asarray(adversarial) - network[2]).reshape(COUNT, -1)
    return np.linalg.norm(flat, np.inf if norm == "linf" else 2, axis=-1)


def run_foolbox(attack, network):
    """Returns the images of a minimal attack on our own JAX network."""
    logits_fn, _, images, labels = network
    raw, _, _ = attack(
        foolbox_model(logits_fn),
        jnp.asarray(images),
        jnp.asarray(labels),
        epsilons=None,
    )
    return np.asarray(raw)


def run_foolbox_torch(attack, network):
    """The same on its twin: thousands of small steps are faster there."""
    _, twin, images, labels = network
    model = foolbox.PyTorchModel(twin, bounds=(0, 1), device="cpu")
    raw, _, _ = attack(
        model,
        to_torch(images),
        torch.from_numpy(labels.astype(np.int64)),
        epsilons=None,
    )
    return raw.numpy().transpose(0, 2, 3, 1)


def run_torchattacks(attack, network):
    _, _, images, labels = network
    result = attack(to_torch(images), torch.from_numpy(labels.astype(np.int64)))
    return result.detach().numpy().transpose(0, 2, 3, 1)


def compare(network, ours, theirs, norm):
    """Returns our norms and theirs; checks what was already wrong and what is now."""
    clean = wrong(network, network[2])
    assert 0 < clean.sum() < COUNT
    np.testing.assert_array_equal(np.asarray(ours)[clean], network[2][clean])
    np.testing.assert_array_equal(wrong(network, ours), wrong(network, theirs))
    return [norms(network, x, norm)[~clean] for x in (ours, theirs)]


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_deepfool(network, norm):
    attack = {
        "l2": foolbox.attacks.L2DeepFoolAttack,
        "linf": foolbox.attacks.LinfDeepFoolAttack,
    }[norm]
    logits_fn, _, images, labels = network
    ours = deepfool(KEY, images, logits_fn, labels, norm=norm)
    ours, theirs = compare(network, ours, run_foolbox(attack(), network), norm)
    # The same steps, but for rounding: differences of 1e-6 were seen.
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)


def test_ddn(network):
    logits_fn, _, images, labels = network
    ours = ddn(KEY, images, logits_fn, labels)
    theirs = run_foolbox(foolbox.attacks.DDNAttack(), network)
    ours, theirs = compare(network, ours, theirs, "l2")
    np.testing.assert_allclose(np.median(ours), np.median(theirs), rtol=0.005)
    # Rounding may decide whether an iterate near the boundary counts: 5 % of the norm.
    np.testing.assert_allclose(ours, theirs, rtol=0.05)


@pytest.mark.parametrize("abort_early", [True, False])
def test_carlini_wagner(network, abort_early):
    logits_fn, _, images, labels = network
    # Steps and constants with which few of them do: black pixels have codes of -7.
    usual = {"binary_search_steps": 4, "steps": 200, "abort_early": abort_early}
    ours = carlini_wagner(
        KEY, images, logits_fn, labels, **usual, step_size=0.03, initial_constant=1.0
    )
    attack = foolbox.attacks.L2CarliniWagnerAttack(
        **usual, stepsize=0.03, initial_const=1.0
    )
    theirs = run_foolbox_torch(attack, network)
    ours, theirs = compare(network, ours, theirs, "l2")
    np.testing.assert_allclose(np.median(ours), np.median(theirs), rtol=0.02)
    # Rounding may choose another constant; and foolbox ends a run for a whole batch.
    assert (np.abs(ours / theirs - 1) < 0.02).mean() > 0.9


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("targets", [None, 1])
def test_fab(network, norm, targets):
    logits_fn, twin, images, labels = network
    ours = fab(KEY, images, logits_fn, labels, norm=norm, steps=40, targets=targets)
    theirs = torchattacks.FAB(
        twin,
        norm={"l2": "L2", "linf": "Linf"}[norm],
        eps=100.0,  # It returns no perturbation that is larger.
        steps=40,
        multi_targeted=targets is not None,
        n_classes=10 if targets is None else targets + 1,
    )
    ours, theirs = compare(network, ours, run_torchattacks(theirs, network), norm)
    np.testing.assert_allclose(np.median(ours), np.median(theirs), rtol=0.005)
    # Differences of 0.3 % were seen.
    np.testing.assert_allclose(ours, theirs, rtol=0.02)
