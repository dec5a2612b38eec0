"""Gradient attacks beside foolbox and torchattacks, on one trained network."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.tree_util import Partial

from uronet_jax.adapters import foolbox_model, from_foolbox
from uronet_jax.attacks import fgsm as our_fgsm
from uronet_jax.attacks import ifgsm as our_ifgsm
from uronet_jax.attacks import misclassification, pgd
from uronet_jax.attacks.adaptive import without_success
from uronet_jax.data import open_source
from uronet_jax.defense import Defense, classifier_function
from uronet_jax.models import make_classifier, make_remover

REASON = "pip install uronet_jax[oracles]"
pytest.importorskip("torch", reason=REASON)
foolbox = pytest.importorskip("foolbox", reason=REASON)
torchattacks = pytest.importorskip("torchattacks", reason=REASON)

COUNT, KEY = 200, jax.random.key(0)


def perceptron(params, images):
    x = images.reshape(images.shape[0], -1)
    for weights, bias in params[:-1]:
        x = jax.nn.relu(x @ weights + bias[None])
    weights, bias = params[-1]
    return x @ weights + bias[None]


@pytest.fixture(scope="module")
def network():
    """A trained perceptron, its twin in PyTorch, and test images it is right on."""
    import torch

    images, labels = open_source("mnist5k", "train").arrays()
    images = images.astype(np.float32) / 255
    rng = np.random.default_rng(0)
    sizes = (784, 64, 10)
    params = [
        (
            rng.normal(size=(a, b)).astype(np.float32) * np.float32(np.sqrt(2 / a)),
            np.zeros(b, np.float32),
        )
        for a, b in zip(sizes, sizes[1:], strict=False)
    ]
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
        torch.nn.Linear(784, 64),
        torch.nn.ReLU(),
        torch.nn.Linear(64, 10),
    )
    for layer, (weights, bias) in zip((twin[1], twin[3]), params, strict=True):
        layer.weight.data = torch.tensor(np.asarray(weights).T.copy())
        layer.bias.data = torch.tensor(np.asarray(bias))
    twin.eval()
    images, labels = open_source("mnist5k", "test").read(np.arange(2 * COUNT))
    images, labels = images.astype(np.float32) / 255, np.asarray(labels)
    right = np.argmax(perceptron(params, images), -1) == labels
    assert right.mean() > 0.9
    images, labels = images[right][:COUNT], labels[right][:COUNT]
    return Partial(perceptron, params), twin, images, labels


def wrong(network, adversarial):
    logits_fn, _, _, labels = network
    return np.argmax(logits_fn(jnp.asarray(adversarial)), axis=-1) != labels


def last_iterate(network):
    """A loss function that does not tell success: the peers go on to the end."""
    logits_fn, _, _, labels = network
    both = misclassification(logits_fn, labels)
    return lambda images: both(images)[0]


def run_foolbox(attack, network, epsilon):
    logits_fn, _, images, labels = network
    model = foolbox_model(logits_fn)
    _, clipped, _ = attack(
        model, jnp.asarray(images), jnp.asarray(labels), epsilons=epsilon
    )
    return np.asarray(clipped)


def run_torch(attack, network):
    import torch

    _, _, images, labels = network
    # PyTorch's images are [B, C, H, W]; with one channel that is a reshape.
    flat = torch.tensor(images.reshape(-1, 1, 28, 28))
    adversarial = attack(flat, torch.tensor(labels.astype(np.int64)))
    return adversarial.detach().numpy().reshape(images.shape)


def check_same(network, ours, theirs, *, share=0.0):
    """Success sets are equal but for ties; images too, but where a sign is one of 0."""
    success, expected = wrong(network, ours), wrong(network, theirs)
    assert 0.05 < expected.mean() < 0.95, "too weak or too strong to compare"
    assert (success != expected).mean() <= share
    # Gradients of a dead unit are 0 in one sum and 1e-9 in another: sign(0) = 0.
    assert (np.abs(np.asarray(ours) - theirs) > 1e-4).mean() < 0.01


def test_fgsm(network):
    _, twin, images, _ = network
    for norm, epsilon, theirs in (
        ("linf", 0.05, foolbox.attacks.FGSM()),
        ("l2", 0.8, foolbox.attacks.L2FastGradientAttack()),
    ):
        ours = our_fgsm(KEY, images, last_iterate(network), epsilon=epsilon, norm=norm)
        check_same(network, ours, run_foolbox(theirs, network, epsilon))
    ours = our_fgsm(KEY, images, last_iterate(network), epsilon=0.05)
    check_same(network, ours, run_torch(torchattacks.FGSM(twin, eps=0.05), network))


def test_ifgsm(network):
    _, twin, images, _ = network
    usual = {"epsilon": 0.04, "step_size": 0.008, "steps": 10}
    ours = our_ifgsm(KEY, images, last_iterate(network), **usual)
    theirs = foolbox.attacks.LinfBasicIterativeAttack(
        abs_stepsize=0.008, steps=10, random_start=False
    )
    check_same(network, ours, run_foolbox(theirs, network, 0.04))
    theirs = torchattacks.BIM(twin, eps=0.04, alpha=0.008, steps=10)
    check_same(network, ours, run_torch(theirs, network))


def test_pgd_without_random_start(network):
    _, twin, images, _ = network
    for norm, epsilon, foolboxs, torchs in (
        ("linf", 0.04, foolbox.attacks.LinfPGD, torchattacks.PGD),
        ("l2", 0.6, foolbox.attacks.L2PGD, torchattacks.PGDL2),
    ):
        step = epsilon / 10
        ours = pgd(
            KEY,
            images,
            last_iterate(network),
            epsilon=epsilon,
            step_size=step,
            steps=20,
            norm=norm,
            random_start=False,
        )
        theirs = foolboxs(abs_stepsize=step, steps=20, random_start=False)
        check_same(network, ours, run_foolbox(theirs, network, epsilon))
        theirs = torchs(twin, eps=epsilon, alpha=step, steps=20, random_start=False)
        check_same(network, ours, run_torch(theirs, network))


def test_pgd_with_random_start(network):
    logits_fn, twin, images, labels = network
    usual = {"epsilon": 0.04, "step_size": 0.008, "steps": 20}
    first = pgd(KEY, images, misclassification(logits_fn, labels), **usual)
    last = pgd(KEY, images, last_iterate(network), **usual)
    theirs = run_torch(torchattacks.PGD(twin, eps=0.04, alpha=0.008, steps=20), network)
    rate, expected = wrong(network, last).mean(), wrong(network, theirs).mean()
    # Two starts: three standard deviations of a share of COUNT images.
    assert abs(rate - expected) < 3 * np.sqrt(2 * expected * (1 - expected) / COUNT)
    # The first success counts, so that none is lost.
    assert wrong(network, first).mean() >= rate


def test_foolbox_attacks_a_whole_defence_and_ours_its_model():
    shape, key = (16, 16, 3), jax.random.key(4)
    remover, detector = (
        make_remover("paper", widths=(4,)),
        make_classifier("cnn_narrow", 2),
    )
    classifier = make_classifier("cnn_narrow", 10)
    images = jax.random.uniform(key, (6, *shape))
    pairs = jnp.concatenate([images, images], axis=-1)
    variables = {
        "remover": remover.init(key, images),
        "detector": detector.init(key, pairs),
        "classifier": classifier.init(key, images),
    }
    defense = Defense(
        remover, detector, classifier_function(classifier), variables, image_shape=shape
    )
    labels = jnp.argmax(defense.logits_fn(images), axis=-1)
    np.testing.assert_allclose(
        defense.logits_fn(images), defense(images).logits, atol=1e-6
    )
    model = foolbox_model(defense.logits_fn)
    usual = {"epsilon": 0.1, "step_size": 0.02, "steps": 5, "random_start": False}
    theirs = foolbox.attacks.LinfPGD(abs_stepsize=0.02, steps=5, random_start=False)
    adversarial = np.asarray(theirs.run(model, images, labels, epsilon=0.1))
    # Our attack on the model that foolbox has, with bounds of its own.
    wide = foolbox.models.JAXModel(
        lambda x: defense.logits_fn(x / 255),
        bounds=(0, 255),
        data_format="channels_last",
    )
    losses = {}
    for name, logits_fn in (("ours", defense.logits_fn), ("its", from_foolbox(wide))):
        loss_fn = without_success(misclassification(logits_fn, labels))
        found = pgd(KEY, images, loss_fn, **usual)
        losses[name] = np.asarray(loss_fn(found))
        assert (losses[name] > loss_fn(images)).all()
        losses["theirs"] = np.asarray(loss_fn(jnp.asarray(adversarial)))
        # Signs of gradients near zero are chance, and few: the losses are the same.
        np.testing.assert_allclose(losses[name], losses["theirs"], rtol=0.02)


def test_models_over_pytorch_are_refused():
    import torch

    model = foolbox.models.PyTorchModel(
        torch.nn.Sequential(torch.nn.Flatten()).eval(), bounds=(0, 1)
    )
    with pytest.raises(ValueError, match="JAX cannot differentiate a PyTorchModel"):
        from_foolbox(model)
