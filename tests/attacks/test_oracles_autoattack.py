"""APGD, Square and AutoAttack beside torchattacks, on one trained network."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.tree_util import Partial

from uronet_jax.attacks import autoattack, misclassification
from uronet_jax.attacks.apgd import apgd, apgd_targeted
from uronet_jax.attacks.auto.versions import VERSIONS
from uronet_jax.attacks.square import square
from uronet_jax.data import open_source

REASON = "pip install uronet_jax[oracles]"
torch = pytest.importorskip("torch", reason=REASON)
torchattacks = pytest.importorskip("torchattacks", reason=REASON)

COUNT, KEY = 96, jax.random.key(0)
NAMES = {"linf": "Linf", "l2": "L2"}
# Half of the images withstand a strong attack, so that a weaker one would show.
EPSILON = {"linf": 0.06, "l2": 0.9}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Several threads are many times slower on products as small as these."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def perceptron(params, images):
    first, second = params
    x = jax.nn.relu(images.reshape(images.shape[0], -1) @ first[0] + first[1])
    return x @ second[0] + second[1]


@pytest.fixture(scope="module")
def network():
    """A trained perceptron, its twin in PyTorch, and test images it is right on."""
    images, labels = open_source("mnist5k", "train").arrays()
    images = images.astype(np.float32) / 255
    rng = np.random.default_rng(0)
    params = tuple(
        (
            rng.normal(0, np.sqrt(2 / a), (a, b)).astype(np.float32),
            np.zeros((1, b), np.float32),
        )
        for a, b in ((784, 48), (48, 10))
    )
    optimizer = optax.adam(1e-3)

    @jax.jit
    def step(params, state, x, y):
        def loss(params):
            logits = perceptron(params, x)
            return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

        updates, state = optimizer.update(jax.grad(loss)(params), state)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    for _ in range(300):
        batch = rng.integers(len(labels), size=128)
        params, state = step(params, state, images[batch], labels[batch])
    twin = torch.nn.Sequential(
        torch.nn.Flatten(),
        torch.nn.Linear(784, 48),
        torch.nn.ReLU(),
        torch.nn.Linear(48, 10),
    )
    for layer, (weights, bias) in zip((twin[1], twin[3]), params, strict=True):
        layer.weight.data = torch.tensor(np.array(weights).T.copy())
        layer.bias.data = torch.tensor(np.array(bias)[0])
    twin.eval()
    images, labels = open_source("mnist5k", "test").read(np.arange(2 * COUNT))
    images, labels = images.astype(np.float32) / 255, np.asarray(labels)
    right = np.argmax(perceptron(params, images), -1) == labels
    images, labels = images[right][:COUNT], labels[right][:COUNT]
    assert len(labels) == COUNT
    return Partial(perceptron, params), twin, images, labels


def robust(network, adversarial):
    logits_fn, _, _, labels = network
    return np.argmax(logits_fn(jnp.asarray(adversarial)), axis=-1) == labels


def run_torch(attack, network):
    _, _, images, labels = network
    # PyTorch's images are [B, C, H, W]; with one channel that is a reshape.
    flat = torch.tensor(images.reshape(-1, 1, 28, 28))
    adversarial = attack(flat, torch.tensor(labels.astype(np.int64)))
    return robust(network, adversarial.detach().numpy().reshape(images.shape))


def check_same(ours, theirs, *, differ):
    """The share of robust images is the same within the error of a share."""
    rate, expected = ours.mean(), theirs.mean()
    assert 0.1 < expected < 0.9, "too weak or too strong to compare"
    # Three standard deviations of the difference of two shares of COUNT images.
    assert abs(rate - expected) < 3 * np.sqrt(2 * expected * (1 - expected) / COUNT)
    # The images are the same: only those near the edge of what is found may differ.
    assert (ours != theirs).mean() <= differ


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_apgd(norm, network):
    logits_fn, twin, images, labels = network
    usual = {"epsilon": EPSILON[norm], "norm": norm, "steps": 20}
    for loss, theirs in (("cross_entropy", "ce"), ("dlr", "dlr")):
        found = apgd(
            KEY, images, misclassification(logits_fn, labels, loss=loss), **usual
        )
        theirs = torchattacks.APGD(
            twin, norm=NAMES[norm], eps=EPSILON[norm], steps=20, loss=theirs
        )
        check_same(robust(network, found), run_torch(theirs, network), differ=0.04)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_targeted_apgd(norm, network):
    logits_fn, twin, images, labels = network
    step = VERSIONS["standard"][1]._replace(
        parameters={"loss": "targeted_dlr", "targets": 3, "steps": 20}
    )
    result = autoattack(
        KEY, images, labels, logits_fn, epsilon=EPSILON[norm], norm=norm, version=[step]
    )
    # It pursues all but one of the number of classes that it is told.
    theirs = torchattacks.APGDT(
        twin, norm=NAMES[norm], eps=EPSILON[norm], steps=20, n_classes=4
    )
    expected = run_torch(theirs, network)
    check_same(result.robust, expected, differ=0.04)
    found = apgd_targeted(
        KEY,
        images,
        logits_fn,
        labels,
        epsilon=EPSILON[norm],
        norm=norm,
        steps=20,
        targets=3,
    )
    check_same(robust(network, found), expected, differ=0.04)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_square(norm, network):
    logits_fn, twin, images, labels = network
    # A random search needs more room to succeed as often.
    epsilon = 2 * EPSILON[norm]
    for rescale in (False, True):
        found = square(
            KEY,
            images,
            misclassification(logits_fn, labels, loss="margin"),
            epsilon=epsilon,
            norm=norm,
            steps=150,
            rescale_schedule=rescale,
        )
        theirs = torchattacks.Square(
            twin, norm=NAMES[norm], eps=epsilon, n_queries=150, resc_schedule=rescale
        )
        # Both draw at random: near the edge chance decides.
        check_same(robust(network, found), run_torch(theirs, network), differ=0.15)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_standard_autoattack(norm, network):
    logits_fn, twin, images, labels = network
    few = {"apgd": 20, "fab": 10, "square": 100}
    steps = []
    for step in VERSIONS["standard"]:
        parameters = {**step.parameters, "steps": few[step.attack]}
        if "targets" in parameters:
            parameters["targets"] = 3
        steps.append(step._replace(parameters=parameters))
    result = autoattack(
        KEY, images, labels, logits_fn, epsilon=EPSILON[norm], norm=norm, version=steps
    )
    theirs = torchattacks.AutoAttack(twin, norm=NAMES[norm], eps=EPSILON[norm], seed=0)
    # Its own numbers of steps are others than those of the paper.
    for attack in theirs._autoattack.attacks:
        attack.steps = 10 if attack.attack == "FAB" else 20
        attack.n_queries = 100
        attack.n_target_classes = 3
    check_same(result.robust, run_torch(theirs, network), differ=0.04)
