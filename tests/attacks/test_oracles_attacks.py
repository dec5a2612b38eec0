"""Attacks beside foolbox and torchattacks, on trained networks and their twins."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from attack_helpers import norms
from jax.tree_util import Partial
from numpy.testing import assert_allclose, assert_array_equal

from uronet_jax.adapters import foolbox_model, from_foolbox
from uronet_jax.attacks import (
    additive_gaussian_noise,
    additive_uniform_noise,
    apgd,
    apgd_targeted,
    autoattack,
    carlini_wagner,
    clipping_aware_rescale,
    ddn,
    deepfool,
    fab,
    fgsm,
    ifgsm,
    misclassification,
    pgd,
    square,
)
from uronet_jax.attacks.adaptive import without_success
from uronet_jax.attacks.auto.versions import VERSIONS
from uronet_jax.data import open_source
from uronet_jax.defense import Defense, classifier_function
from uronet_jax.models import make_classifier, make_remover

REASON = "pip install uronet_jax[oracles]"
torch = pytest.importorskip("torch", reason=REASON)
foolbox = pytest.importorskip("foolbox", reason=REASON)
torchattacks = pytest.importorskip("torchattacks", reason=REASON)

KEY = jax.random.key(0)
NAMES = {"linf": "Linf", "l2": "L2"}
# Half of the images withstand a strong attack, so that a weaker one would show.
EPSILON = {"linf": 0.06, "l2": 0.9}
every_norm = pytest.mark.parametrize("norm", NAMES)


class Problem(NamedTuple):
    """A network, its twin in PyTorch, images and labels."""

    logits_fn: Any
    twin: Any
    images: np.ndarray
    labels: np.ndarray

    def wrong(self, images):
        return np.argmax(self.logits_fn(jnp.asarray(images)), axis=-1) != self.labels

    def take(self, rows):
        return self._replace(images=self.images[rows], labels=self.labels[rows])

    def run(self, attack, **parameters):
        return attack(KEY, self.images, self.logits_fn, self.labels, **parameters)

    def raise_loss(self, attack, loss, **parameters):
        loss_fn = misclassification(self.logits_fn, self.labels, loss=loss)
        return attack(KEY, self.images, loss_fn, **parameters)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Several threads are many times slower on products as small as these."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def forward(params, images):
    """Strided convolutions and dense layers; the last has no ReLU."""
    x = images
    for layer, (weights, bias) in enumerate(params, 1):
        if weights.ndim == 4:
            x = jax.lax.conv_general_dilated(
                x,
                weights,
                (2, 2),
                [(2, 2), (2, 2)],
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )
        elif x.ndim == 4:
            x = x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1) @ weights
        else:
            x = x @ weights
        x = x + bias if layer == len(params) else jax.nn.relu(x + bias)
    return x


def train(shapes, images, labels, steps, rate):
    """Returns the parameters that Adam finds."""
    rng = np.random.default_rng(0)
    params = tuple(
        (
            rng.normal(0, np.sqrt(2 / np.prod(shape[:-1])), shape).astype(np.float32),
            np.zeros((1,) * (len(shape) - 1) + shape[-1:], np.float32),
        )
        for shape in shapes
    )
    optimizer = optax.adam(rate)

    @jax.jit
    def step(params, state, x, y):
        def loss(params):
            logits = forward(params, x)
            return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

        updates, state = optimizer.update(jax.grad(loss)(params), state)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    for _ in range(steps):
        batch = rng.integers(len(labels), size=128)
        params, state = step(params, state, images[batch], labels[batch])
    return params


def twin_of(params):
    layers = []
    for weights, bias in jax.tree.map(np.asarray, params):
        if weights.ndim == 4:
            size, _, *channels = weights.shape
            layer = torch.nn.Conv2d(*channels, size, stride=2, padding=2)
            weights = weights.transpose(3, 2, 0, 1)
        else:
            layers.append(torch.nn.Flatten())
            layer, weights = torch.nn.Linear(*weights.shape), weights.T
        layer.weight.data = torch.tensor(weights.copy())
        layer.bias.data = torch.tensor(bias.ravel())
        layers += [layer, torch.nn.ReLU()]
    return torch.nn.Sequential(*layers[:-1]).eval()


def trained(*shapes, steps=300, rate=1e-3):
    """A network, and 400 images that it is nearly always right on."""
    images, labels = open_source("mnist5k", "train").arrays()
    params = train(shapes, images.astype(np.float32) / 255, labels, steps, rate)
    images, labels = open_source("mnist5k", "test").read(np.arange(400))
    images, labels = images.astype(np.float32) / 255, np.asarray(labels)
    # Not compiled as a whole, its sums are in the order of the attacks' programs.
    logits_fn, twin = Partial(forward, params), twin_of(params)
    theirs = twin(to_torch(images)).detach().numpy()
    assert_allclose(logits_fn(images), theirs, atol=1e-4)  # About 10.
    problem = Problem(logits_fn, twin, images, labels)
    assert 0 < problem.wrong(images).mean() < 0.1
    return problem


@pytest.fixture(scope="module")
def network():
    """A perceptron, and 200 images that it is right on."""
    problem = trained((784, 64), (64, 10))
    return problem.take(np.flatnonzero(~problem.wrong(problem.images))[:200])


@pytest.fixture(scope="module")
def fewer():
    """A smaller one, and 96 images that it is right on."""
    problem = trained((784, 48), (48, 10))
    return problem.take(np.flatnonzero(~problem.wrong(problem.images))[:96])


@pytest.fixture(scope="module")
def missed():
    """A convolutional network, and 60 images, of which it misses three."""
    shapes = (5, 5, 1, 8), (5, 5, 8, 16), (7 * 7 * 16, 10)
    problem = trained(*shapes, steps=200, rate=2e-3)
    wrong = problem.wrong(problem.images)
    rows = np.concatenate([np.flatnonzero(wrong)[:3], np.flatnonzero(~wrong)])
    return problem.take(rows[:60])


def to_torch(images):
    # PyTorch's images are [B, C, H, W]; with one channel that is a reshape.
    return torch.tensor(images.reshape(-1, 1, 28, 28))


def last_iterate(problem):
    """A loss function that does not tell success: the peers go on to the end."""
    return without_success(misclassification(problem.logits_fn, problem.labels))


def run_foolbox(attack, problem, epsilon=None):
    """Returns what foolbox finds on our network."""
    _, clipped, _ = attack(
        foolbox_model(problem.logits_fn),
        jnp.asarray(problem.images),
        jnp.asarray(problem.labels),
        epsilons=epsilon,
    )
    return np.asarray(clipped)


def run_foolbox_torch(attack, problem):
    """The same on its twin: thousands of small steps are faster there."""
    model = foolbox.PyTorchModel(problem.twin, bounds=(0, 1), device="cpu")
    labels = torch.tensor(problem.labels.astype(np.int64))
    found, _, _ = attack(model, to_torch(problem.images), labels, epsilons=None)
    return found.numpy().reshape(problem.images.shape)


def run_torch(attack, problem, **parameters):
    """Returns what an attack of torchattacks, or that of a name, finds on the twin."""
    if isinstance(attack, str):
        attack = getattr(torchattacks, attack)(problem.twin, **parameters)
    labels = torch.tensor(problem.labels.astype(np.int64))
    adversarial = attack(to_torch(problem.images), labels)
    return adversarial.detach().numpy().reshape(problem.images.shape)


def check_same_images(problem, ours, theirs):
    """Success sets are equal; images too, but where a sign is one of 0."""
    success, expected = problem.wrong(ours), problem.wrong(theirs)
    assert 0.05 < expected.mean() < 0.95, "too weak or too strong to compare"
    assert (success == expected).all()
    # Gradients of a dead unit are 0 in one sum and 1e-9 in another: sign(0) = 0.
    assert (np.abs(np.asarray(ours) - theirs) > 1e-4).mean() < 0.01


def check_same_share(problem, ours, theirs, *, differ):
    """The share of robust images is the same within the error of a share."""
    robust = ours if ours.dtype == bool else ~problem.wrong(ours)
    others = ~problem.wrong(theirs)
    rate, expected = robust.mean(), others.mean()
    assert 0.1 < expected < 0.9, "too weak or too strong to compare"
    # Three standard deviations of the difference of two shares.
    error = np.sqrt(2 * expected * (1 - expected) / len(others))
    assert abs(rate - expected) < 3 * error
    # The images are the same: only those near the edge of what is found may differ.
    assert (robust != others).mean() <= differ


def check_same_norms(problem, ours, theirs, norm, *, median, each):
    """What was already wrong and what is now is the same; norms nearly so."""
    clean = problem.wrong(problem.images)
    assert 0 < clean.sum() < len(clean)
    assert_array_equal(np.asarray(ours)[clean], problem.images[clean])
    assert_array_equal(problem.wrong(ours), problem.wrong(theirs))
    ours, theirs = (norms(x - problem.images, norm)[~clean] for x in (ours, theirs))
    assert_allclose(np.median(ours), np.median(theirs), rtol=median)
    rtol, share = each
    assert (np.abs(ours / theirs - 1) <= rtol).mean() >= share


@pytest.mark.parametrize(
    ("attack", "norm", "epsilon", "steps", "foolboxs", "torchs"),
    [
        (fgsm, "linf", 0.05, 0, "FGSM", "FGSM"),
        (fgsm, "l2", 0.8, 0, "L2FastGradientAttack", None),
        (ifgsm, "linf", 0.04, 10, "LinfBasicIterativeAttack", "BIM"),
        (pgd, "linf", 0.04, 20, "LinfPGD", "PGD"),
        (pgd, "l2", 0.6, 20, "L2PGD", "PGDL2"),
    ],
)
def test_the_same_steps(attack, norm, epsilon, steps, foolboxs, torchs, network):
    ours, theirs, others = {}, {}, {}
    if steps:
        size = 2 * epsilon / steps
        ours = {"step_size": size, "steps": steps}
        theirs = {"abs_stepsize": size, "steps": steps, "random_start": False}
        others = {"alpha": size, "steps": steps}
    if attack is pgd:
        ours["random_start"] = others["random_start"] = False
    budget = {"epsilon": epsilon, "norm": norm}
    found = attack(KEY, network.images, last_iterate(network), **budget, **ours)
    theirs = getattr(foolbox.attacks, foolboxs)(**theirs)
    check_same_images(network, found, run_foolbox(theirs, network, epsilon))
    if torchs:
        theirs = run_torch(torchs, network, eps=epsilon, **others)
        check_same_images(network, found, theirs)


def test_pgd_with_random_start(network):
    usual = {"epsilon": 0.04, "step_size": 0.008, "steps": 20}
    first = network.raise_loss(pgd, "cross_entropy", **usual)
    last = pgd(KEY, network.images, last_iterate(network), **usual)
    theirs = run_torch("PGD", network, eps=0.04, alpha=0.008, steps=20)
    # Two starts: near the edge chance decides, but not about the share.
    check_same_share(network, last, theirs, differ=1.0)
    # The first success counts, so that none is lost.
    assert network.wrong(first).mean() >= network.wrong(last).mean()


@every_norm
@pytest.mark.parametrize(("loss", "name"), [("cross_entropy", "ce"), ("dlr", "dlr")])
def test_apgd(norm, loss, name, fewer):
    budget = {"epsilon": EPSILON[norm], "norm": norm}
    found = fewer.raise_loss(apgd, loss, **budget, steps=20)
    budget = {"eps": EPSILON[norm], "norm": NAMES[norm]}
    theirs = run_torch("APGD", fewer, **budget, steps=20, loss=name)
    check_same_share(fewer, found, theirs, differ=0.04)


@every_norm
def test_targeted_apgd(norm, fewer):
    logits_fn, _, images, labels = fewer
    step = VERSIONS["standard"][1]._replace(
        parameters={"loss": "targeted_dlr", "targets": 3, "steps": 20}
    )
    budget = {"epsilon": EPSILON[norm], "norm": norm}
    result = autoattack(KEY, images, logits_fn, labels, version=[step], **budget)
    # It pursues all but one of the number of classes that it is told.
    theirs = {"eps": EPSILON[norm], "norm": NAMES[norm], "n_classes": 4}
    theirs = run_torch("APGDT", fewer, steps=20, **theirs)
    check_same_share(fewer, result.robust, theirs, differ=0.04)
    found = fewer.run(apgd_targeted, steps=20, targets=3, **budget)
    check_same_share(fewer, found, theirs, differ=0.04)


@every_norm
@pytest.mark.parametrize("rescale", [False, True])
def test_square(norm, rescale, fewer):
    # A random search needs more room to succeed as often.
    epsilon = 2 * EPSILON[norm]
    ours = {"epsilon": epsilon, "norm": norm, "rescale_schedule": rescale}
    found = fewer.raise_loss(square, "margin", steps=150, **ours)
    theirs = {"eps": epsilon, "norm": NAMES[norm], "resc_schedule": rescale}
    theirs = run_torch("Square", fewer, n_queries=150, **theirs)
    # Both draw at random: near the edge chance decides.
    check_same_share(fewer, found, theirs, differ=0.15)


def test_clipping_aware_rescale():
    from foolbox.external import clipping_aware_rescaling as theirs

    rng = np.random.default_rng(0)
    uniform = rng.random((8, 28, 28, 1))
    black = np.where(rng.random(uniform.shape) < 0.8, 0.0, uniform)
    noise = rng.normal(size=uniform.shape)
    for images in (uniform, black, np.round(uniform)):
        for epsilon in (0.1, 4.0, 9.7, 12.0, 100.0):
            arrays = torch.tensor(images), torch.tensor(noise)
            scale = theirs.l2_clipping_aware_rescaling(*arrays, epsilon).numpy()
            expected = np.clip(images + scale * noise, 0.0, 1.0)
            found = clipping_aware_rescale(*np.float32([images, noise]), epsilon)
            # Theirs in float64, ours in float32.
            assert_allclose(found, expected, atol=2e-6)


NOISES = {
    "Gaussian": (additive_gaussian_noise, jax.random.normal),
    "Uniform": (
        additive_uniform_noise,
        functools.partial(jax.random.uniform, minval=-1.0, maxval=1.0),
    ),
}
# Norms at which half of the images resist noise, drawn once and ten times.
NOISE_NORMS = {1: 8.0, 10: 6.0}


def noise_of_foolbox(name, steps):
    if steps == 1:
        name = f"L2ClippingAwareAdditive{name}NoiseAttack"
        return getattr(foolbox.attacks, name)
    name = f"L2ClippingAwareRepeatedAdditive{name}NoiseAttack"
    return functools.partial(getattr(foolbox.attacks, name), repeats=steps)


def run_noise(attack, problem, epsilon):
    with jax.numpy_rank_promotion("allow"):  # They multiply a matrix by a vector.
        return run_foolbox(attack, problem, epsilon)


@pytest.mark.parametrize("steps", NOISE_NORMS)
@pytest.mark.parametrize("name", NOISES)
def test_the_same_noise(name, steps, missed):
    ours, draw = NOISES[name]
    attack, drawn = noise_of_foolbox(name, steps)(), []

    def sample(images):
        drawn.append(None)
        key = jax.random.fold_in(KEY, len(drawn))
        keys = [jax.random.fold_in(key, i) for i in range(len(images))]
        noise = jnp.stack([draw(key, (784,)) for key in keys])
        return type(images)(noise.reshape(images.shape))

    attack.sample_noise = sample
    epsilon = NOISE_NORMS[steps]
    found = np.asarray(missed.raise_loss(ours, "margin", epsilon=epsilon, steps=steps))
    expected = run_noise(attack, missed, epsilon)
    assert 1 <= len(drawn) <= steps
    # Of those without success foolbox returns the last noise of one, and no noise of
    # several; and it adds noise once to whatever is wrong without.
    clean = missed.wrong(missed.images)
    success = missed.wrong(found)
    assert 0.1 < success.mean() < 0.9, "too weak or too strong to compare"
    assert_array_equal(success[~clean], missed.wrong(expected)[~clean])
    same = success & ~clean if steps > 1 else ~clean
    assert_allclose(found[same], expected[same], atol=2e-6)
    assert_array_equal(found[clean], missed.images[clean])


@pytest.mark.parametrize("steps", NOISE_NORMS)
@pytest.mark.parametrize("name", NOISES)
def test_noise_succeeds_as_often(name, steps, network):
    usual = {"epsilon": NOISE_NORMS[steps], "steps": steps}
    found = network.raise_loss(NOISES[name][0], "margin", **usual)
    theirs = noise_of_foolbox(name, steps)()
    theirs = run_noise(theirs, network, NOISE_NORMS[steps])
    # Both draw at random: near the edge chance decides.
    check_same_share(network, found, theirs, differ=0.25)


@every_norm
def test_standard_autoattack(norm, fewer):
    logits_fn, twin, images, labels = fewer
    few = {"apgd": 20, "fab": 10, "square": 100}
    steps = []
    for step in VERSIONS["standard"]:
        targets = {"targets": 3} if "targets" in step.parameters else {}
        parameters = {**step.parameters, "steps": few[step.attack], **targets}
        steps.append(step._replace(parameters=parameters))
    result = autoattack(
        KEY, images, logits_fn, labels, epsilon=EPSILON[norm], norm=norm, version=steps
    )
    theirs = torchattacks.AutoAttack(twin, norm=NAMES[norm], eps=EPSILON[norm], seed=0)
    # Its own numbers of steps are others than those of the paper.
    for attack in theirs._autoattack.attacks:
        attack.steps = 10 if attack.attack == "FAB" else 20
        attack.n_queries = 100
        attack.n_target_classes = 3
    check_same_share(fewer, result.robust, run_torch(theirs, fewer), differ=0.04)


@every_norm
def test_deepfool(norm, missed):
    attack = getattr(foolbox.attacks, f"{norm.capitalize()}DeepFoolAttack")()
    ours, theirs = missed.run(deepfool, norm=norm), run_foolbox(attack, missed)
    # The same steps, but for rounding: differences of 1e-6 were seen.
    check_same_norms(missed, ours, theirs, norm, median=1e-4, each=(1e-4, 1))


def test_ddn(missed):
    ours = missed.run(ddn)
    theirs = run_foolbox(foolbox.attacks.DDNAttack(), missed)
    # Rounding may decide whether an iterate near the boundary counts: 5 % of the norm.
    check_same_norms(missed, ours, theirs, "l2", median=0.005, each=(0.05, 1))


@pytest.mark.parametrize("abort_early", [True, False])
def test_carlini_wagner(abort_early, missed):
    # Steps and constants with which few of them do: black pixels have codes of -7.
    usual = {"binary_search_steps": 4, "steps": 200, "abort_early": abort_early}
    ours = missed.run(carlini_wagner, **usual, step_size=0.03, initial_constant=1.0)
    theirs = foolbox.attacks.L2CarliniWagnerAttack
    theirs = theirs(**usual, stepsize=0.03, initial_const=1.0)
    theirs = run_foolbox_torch(theirs, missed)
    # Rounding may choose another constant; and foolbox ends a run for a whole batch.
    check_same_norms(missed, ours, theirs, "l2", median=0.02, each=(0.02, 0.9))


@every_norm
@pytest.mark.parametrize("targets", [None, 1])
def test_fab(norm, targets, missed):
    ours = missed.run(fab, norm=norm, steps=40, targets=targets)
    theirs = run_torch(
        "FAB",
        missed,
        norm=NAMES[norm],
        eps=100.0,  # It returns no perturbation that is larger.
        steps=40,
        multi_targeted=targets is not None,
        n_classes=10 if targets is None else targets + 1,
    )
    # Differences of 0.3 % were seen.
    check_same_norms(missed, ours, theirs, norm, median=0.005, each=(0.02, 1))


def test_foolbox_attacks_a_whole_defence_and_ours_its_model():
    key = jax.random.key(4)
    remover = make_remover("paper", widths=(4,))
    detector, classifier = (make_classifier("cnn_narrow", n) for n in (2, 10))
    images = jax.random.uniform(key, (6, 16, 16, 3))
    variables = {
        "purifier": remover.init(key, images),
        "detector": detector.init(key, jnp.concatenate([images, images], axis=-1)),
        "classifier": classifier.init(key, images),
    }
    parts = remover, detector, classifier_function(classifier)
    defense = Defense(*parts, variables, image_shape=images.shape[1:])
    labels = jnp.argmax(defense.logits_fn(images), axis=-1)
    assert_allclose(defense.logits_fn(images), defense(images).logits, atol=1e-6)
    model = foolbox_model(defense.logits_fn)
    usual = {"epsilon": 0.1, "step_size": 0.02, "steps": 5, "random_start": False}
    theirs = foolbox.attacks.LinfPGD(abs_stepsize=0.02, steps=5, random_start=False)
    adversarial = np.asarray(theirs.run(model, images, labels, epsilon=0.1))
    # Our attack on the model that foolbox has, with bounds of its own.
    usual_format = {"bounds": (0, 255), "data_format": "channels_last"}
    wide = foolbox.models.JAXModel(lambda x: defense.logits_fn(x / 255), **usual_format)
    for logits_fn in (defense.logits_fn, from_foolbox(wide)):
        loss_fn = without_success(misclassification(logits_fn, labels))
        reached = np.asarray(loss_fn(pgd(KEY, images, loss_fn, **usual)))
        assert (reached > loss_fn(images)).all()
        # Signs of gradients near zero are chance, and few: the losses are the same.
        expected = loss_fn(jnp.asarray(adversarial))
        assert_allclose(reached, expected, rtol=0.02)


def test_models_over_pytorch_are_refused():
    model = foolbox.models.PyTorchModel(
        torch.nn.Sequential(torch.nn.Flatten()).eval(), bounds=(0, 1)
    )
    with pytest.raises(ValueError, match="JAX cannot differentiate a PyTorchModel"):
        from_foolbox(model)
