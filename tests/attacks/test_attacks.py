"""The family of attacks: what holds for every name of `ATTACKS`, on linear networks."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from uronet_jax import sharding
from uronet_jax.attacks import (
    ATTACKS,
    autoattack,
    balls,
    misclassification,
    objectives,
)

BATCH, SHAPE, CLASSES = 8, (4, 4, 3), 5
EPSILON = {"linf": 0.03, "l2": 0.2}
# As few steps as still show what an attack does.
FEW = {
    "ifgsm": {"steps": 5},
    "pgd": {"steps": 5, "restarts": 1},
    "apgd": {"steps": 8},
    "square": {"steps": 30},
    "deepfool": {"steps": 10},
    "ddn": {"steps": 30},
    "carlini": {"steps": 60, "binary_search_steps": 4, "step_size": 0.05},
    "fab": {"steps": 10},
}
BUDGET = [name for name, attack in ATTACKS.items() if not attack.minimal]
TAKES_LOSS = [name for name in BUDGET if not ATTACKS[name].takes_logits]
# Every family once: the norms differ only in `balls`.
ONE_NORM = [
    name
    for name in ATTACKS
    if name.endswith("linf") or name.removesuffix("l2") + "linf" not in ATTACKS
]
ORDER = np.array([5, 0, 7, 2, 4, 1, 6, 3])


def linear(weights, offset, images):
    """Logits of a linear network; the pixels are centred.

    All tests use it, so that an attack is compiled once: what differs between them is
    in the weights, and in the offset, which is one of each image.
    """
    flat = images.reshape(images.shape[0], -1).astype(weights.dtype)
    logits = (flat - jnp.asarray(0.5, flat.dtype)) @ weights
    return logits.astype(jnp.float32) + offset


@pytest.fixture(scope="module")
def problem():
    """Images, a linear network, and labels that are right."""
    rng = np.random.default_rng(0)
    images = rng.uniform(0.1, 0.9, (BATCH, *SHAPE)).astype(np.float32)
    weights = rng.normal(size=(48, CLASSES)).astype(np.float32)
    logits_fn = network(weights)
    labels = np.argmax(logits_fn(images), axis=-1)
    return images, logits_fn, labels


def network(weights, offset=0.0):
    offset = np.broadcast_to(np.float32(offset), (BATCH, CLASSES))
    return Partial(linear, jnp.asarray(weights), jnp.asarray(offset))


def parameters(name, **changes):
    """Few steps, and the budget unless the attack is minimal."""
    few = dict(next((v for k, v in FEW.items() if name.startswith(k)), {}))
    if not ATTACKS[name].minimal:
        few["epsilon"] = EPSILON[ATTACKS[name].norm]
    return few | changes


@functools.cache
def outcome(name):
    """Adversarial images of the problem; made once."""
    images, logits_fn, labels = problem.__wrapped__()
    return np.asarray(
        ATTACKS[name](jax.random.key(1), images, logits_fn, labels, **parameters(name))
    )


@pytest.mark.parametrize("name", ATTACKS)
def test_contract(name, problem):
    images, logits_fn, labels = problem
    attack = ATTACKS[name]
    adversarial = outcome(name)
    assert adversarial.shape == images.shape and adversarial.dtype == np.float32
    assert adversarial.min() >= 0.0 and adversarial.max() <= 1.0
    assert np.abs(adversarial - images).max() > 0.001
    loss = objectives.LOSSES.get(attack.loss, objectives.margin)
    before = np.asarray(loss(logits_fn(images), labels))
    after = np.asarray(loss(logits_fn(adversarial), labels))
    assert (after >= before - 1e-6).all()  # Linear: no step can go the wrong way.
    if not attack.minimal:
        sizes = np.asarray(balls.size(adversarial - images, attack.norm))
        # Rounding of intensities of at most 1.
        assert sizes.max() <= EPSILON[attack.norm] + 2e-7 * np.sqrt(48)


@pytest.mark.parametrize("name", ONE_NORM)
def test_images_do_not_depend_on_the_batch_they_are_in(name, problem):
    images, logits_fn, labels = problem
    few = parameters(name)
    if "index" in _arguments(name):
        few["index"] = jnp.asarray(ORDER)
    # Other neighbours, in another order, on four devices.
    mixed, answers = images[ORDER], np.array(labels)[ORDER]
    mixed[4:] = 1 - mixed[4:]
    answers[4:] = (answers[4:] + 1) % CLASSES
    batch = sharding.split_batch((mixed, answers), sharding.data_mesh())
    run = functools.partial(ATTACKS[name], **few)
    again = np.asarray(jax.jit(run)(jax.random.key(1), batch[0], logits_fn, batch[1]))
    # Sums of 48 products are in another order, which many steps enlarge.
    np.testing.assert_allclose(again[:4], outcome(name)[ORDER[:4]], atol=1e-4)


@pytest.mark.parametrize("name", BUDGET)
def test_no_budget_changes_nothing(name, problem):
    images, logits_fn, labels = problem
    same = ATTACKS[name](
        jax.random.key(1), images, logits_fn, labels, **parameters(name, epsilon=0.0)
    )
    # One rounding of x + (x - x).
    np.testing.assert_allclose(same, images, atol=1e-7)


@pytest.mark.parametrize(
    "name", [n for n in BUDGET if ATTACKS[n].loss == "cross_entropy"]
)
def test_optimum_of_two_classes_is_reached(name, problem):
    images, logits_fn, _ = problem
    weights = np.array(logits_fn.args[0])
    # Only two classes matter, and no image is misclassified, which would stop it.
    weights[:, 2:] = 0
    two = network(weights, [8.0, 0.0, -100.0, -100.0, -100.0])
    labels = np.zeros(BATCH, int)
    norm, epsilon = ATTACKS[name].norm, 0.05
    few = parameters(name, epsilon=epsilon)
    if "step_size" in _arguments(name):
        few |= {"steps": 20, "step_size": 0.5 * epsilon}
    adversarial = ATTACKS[name](jax.random.key(1), images, two, labels, **few)
    w = np.asarray(weights[:, 1] - weights[:, 0])
    gained = np.asarray(adversarial - images).reshape(BATCH, -1) @ w
    best = epsilon * (np.abs(w).sum() if norm == "linf" else np.linalg.norm(w))
    # No pixel is nearer than .1 to the border: the ball lies in the box.
    # Half-way steps of the last iterate: within one percent.
    np.testing.assert_allclose(gained, np.full(BATCH, best), rtol=0.01)


@pytest.mark.parametrize("name", ONE_NORM)
def test_bfloat16_networks_are_attacked_alike(name, problem):
    images, logits_fn, labels = problem

    rounded = network(logits_fn.args[0].astype(jnp.bfloat16))
    attack, few = ATTACKS[name], parameters(name)
    adversarial = attack(jax.random.key(1), images, rounded, labels, **few)
    margins = [
        np.asarray(objectives.margin(logits_fn(x), labels))
        for x in (adversarial, outcome(name))
    ]
    # Sums of 48 products of numbers with 8 bits: logits of some 3 are .03 off.
    sure = np.abs(margins[1]) > 0.05
    np.testing.assert_array_equal(margins[0][sure] > 0, margins[1][sure] > 0)


def _arguments(name):
    import inspect

    return inspect.signature(ATTACKS[name].function).parameters


@pytest.mark.parametrize("name", ATTACKS)
def test_wrong_inputs_are_reported(name, problem):
    images, logits_fn, labels = problem

    def attack(images=images, logits_fn=logits_fn, labels=labels, **changes):
        few = parameters(name, **changes)
        return ATTACKS[name](jax.random.key(1), images, logits_fn, labels, **few)

    for changes, message in (
        ({"images": images * 2}, r"in \[0, 1\]: found"),
        ({"images": np.uint8(images * 255)}, "/ 255"),
        ({"images": images[0]}, "B, H, W, C"),
        ({"labels": labels.astype(np.float32)}, "labels must be integers"),
        ({"labels": labels[:3]}, "one row for each of 3 labels"),
        ({"labels": labels + 5}, r"classes 0 to 4: images \[0, 1, 2, 3, 4\] have"),
        ({"logits_fn": lambda x: x[:, 0, 0, 0]}, r"logits must have shape \[B, K\]"),
    ):
        with pytest.raises(ValueError, match=message):
            attack(**changes)
    if "steps" in _arguments(name):
        with pytest.raises(ValueError, match="steps must be an integer .* 1: 0"):
            attack(steps=0)
    if not ATTACKS[name].minimal:
        with pytest.raises(ValueError, match="epsilon must be finite and at least 0"):
            attack(epsilon=-0.1)
        with pytest.raises(ValueError, match="give epsilon"):
            ATTACKS[name](jax.random.key(1), images, logits_fn, labels)


def test_usual_mistakes_are_told(problem):
    images, logits_fn, labels = problem
    key = jax.random.key(0)
    for name, wrong, expected in (
        ("pgd_linf", {"epsilon": 8}, "epsilon 8 allows any image.* are 0.03137"),
        ("fgsm_linf", {"epsilon": 0.1, "steps": 5}, "no parameter steps: it takes eps"),
        ("pgd_l2", {"epsilon": 0.1, "alpha": 5}, "no parameter alpha: .*step_size"),
        ("deepfool_l2", {"epsilon": 0.1}, "no parameter epsilon: it takes .*steps"),
        ("pgd_linf", {"epsilon": 0.1, "norm": "l2"}, "choose the one whose name ends"),
    ):
        with pytest.raises(ValueError, match=expected):
            ATTACKS[name](key, images, logits_fn, labels, **wrong)
    with pytest.raises(ValueError, match="swapped"):
        ATTACKS["pgd_l2"](key, images, labels, logits_fn, epsilon=3.0)
    with pytest.raises(ValueError, match="swapped"):
        autoattack(key, images, logits_fn, labels, epsilon=0.1)
    with pytest.raises(ValueError, match="epsilon 2 allows any image"):
        autoattack(key, images, labels, logits_fn, epsilon=2)


@pytest.mark.parametrize("name", [n for n, a in ATTACKS.items() if not a.gradient_free])
def test_gradients_that_are_no_numbers_are_reported(name, problem):
    images, logits_fn, labels = problem

    offset = np.zeros((BATCH, 1), np.float32)
    offset[[2, 5]] = np.nan
    broken = network(logits_fn.args[0], offset)
    few = parameters(name)
    with pytest.raises(ValueError, match=r"not finite at 2 images, the first \[2, 5\]"):
        ATTACKS[name](jax.random.key(1), images, broken, labels, **few)


def test_a_scalar_loss_is_reported(problem):
    images, logits_fn, labels = problem
    for name in TAKES_LOSS:
        with pytest.raises(ValueError, match=r"one loss per image.*do not average"):
            ATTACKS[name].on_loss(
                jax.random.key(1),
                images,
                lambda x: misclassification(logits_fn, labels)(x)[0].mean(),
                **parameters(name),
            )


def test_attacks_that_take_logits_refuse_a_loss(problem):
    images, logits_fn, labels = problem
    loss_fn = misclassification(logits_fn, labels)
    for name in set(ATTACKS) - set(TAKES_LOSS):
        with pytest.raises(ValueError, match="choose one that takes"):
            ATTACKS[name].on_loss(jax.random.key(1), images, loss_fn, epsilon=0.1)
    assert {name for name, a in ATTACKS.items() if a.gradient_free} == {
        "square_linf",
        "square_l2",
    }


def test_losses_have_known_values():
    logits = jnp.array([[3.0, 1.0, 0.0, -2.0], [1.0, 2.0, 5.0, 4.0]])
    labels = jnp.array([0, 1])
    np.testing.assert_allclose(objectives.margin(logits, labels), [-2, 3])
    np.testing.assert_allclose(objectives.dlr(logits, labels), [-2 / 3, 3 / 3])
    targets = jnp.array([3, 3])
    np.testing.assert_allclose(
        objectives.targeted_dlr(logits, labels, targets),
        [-5 / (3 - (0 - 2) / 2), 2 / (5 - (2 + 1) / 2)],
    )
    p = np.exp(3) / np.exp([3.0, 1.0, 0.0, -2.0]).sum()
    np.testing.assert_allclose(
        objectives.cross_entropy(logits, labels)[0], -np.log(p), rtol=1e-6
    )
    assert objectives.is_wrong(logits, labels).tolist() == [False, True]
    assert not objectives.is_wrong(logits * jnp.nan, labels).any()
    with pytest.raises(ValueError, match="DLR needs at least 3 classes.*have 2"):
        objectives.dlr(logits[:, :2], labels)
    with pytest.raises(ValueError, match="at least 4 classes"):
        objectives.targeted_dlr(logits[:, :3], labels, labels)
    with pytest.raises(ValueError, match="unknown loss 'ce'"):
        misclassification(lambda x: x, labels, loss="ce")


def test_balls():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(6, 2, 2, 1)).astype(np.float32)
    np.testing.assert_allclose(
        balls.size(x, "l2"), np.linalg.norm(x.reshape(6, -1), axis=1), rtol=1e-6
    )
    radius = np.float32([0.5, 1, 2, 3, 4, 0])
    small = np.asarray(balls.project(x, "l2", balls.expand(radius, x)))
    norms = np.linalg.norm(x.reshape(6, -1), axis=1)
    factor = np.minimum(1, radius / norms)[:, None, None, None]
    np.testing.assert_allclose(small, x * factor, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(balls.project(x, "linf", 0.5), np.clip(x, -0.5, 0.5))
    # Gradients whose squares underflow still have a direction; those of zero have none.
    tiny = x * np.float32(1e-30)
    unit = np.asarray(balls.direction(tiny, "l2"))
    np.testing.assert_allclose(unit, balls.direction(x, "l2"), rtol=1e-4, atol=1e-6)
    assert not np.asarray(balls.direction(0 * x, "l2")).any()
    for norm in balls.NORMS:
        draws = np.asarray(
            balls.uniform_in_ball(jax.random.key(0), jnp.arange(4096), (2, 2, 1), norm)
        )
        sizes = np.asarray(balls.size(draws, norm))
        # P(size <= r) = r^4 in four dimensions, for both norms; 4096 draws: three
        # standard deviations of the share at .8 are .023.
        assert sizes.max() <= 1 + 1e-6
        assert abs((sizes <= 0.8).mean() - 0.8**4) < 0.023
        assert abs(draws.mean()) < 0.03
    with pytest.raises(ValueError, match="unknown norm 'l1': choose from linf, l2"):
        balls.size(x, "l1")


def test_one_program_serves_all_steps_budgets_and_labels(problem):
    images, logits_fn, labels = problem
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def run(logits_fn, images, labels, epsilon, steps):
        return ATTACKS["pgd_linf"](
            jax.random.key(0), images, logits_fn, labels, epsilon=epsilon, steps=steps
        )

    few = run(logits_fn, images, labels, 0.01, 2)
    more = run(logits_fn, images, (labels + 1) % CLASSES, 0.02, 5)
    assert np.abs(few - images).max() < 0.0101 < np.abs(more - images).max()


def test_flax_classifiers_and_foolbox_models(problem):
    from flax import linen as nn

    from uronet_jax.adapters import from_foolbox
    from uronet_jax.attacks import flax_logits

    images, logits_fn, _ = problem
    dense = nn.Sequential([lambda x: x.reshape(x.shape[0], -1), nn.Dense(3)])
    variables = dense.init(jax.random.key(0), images)
    logits = flax_logits(dense, variables)
    chex.assert_trees_all_equal(logits(images), dense.apply(variables, images))
    # The same program serves other variables.
    assert jax.tree.structure(logits) == jax.tree.structure(
        flax_logits(dense, jax.tree.map(lambda x: x + 1, variables))
    )

    class Model:
        bounds = (-1, 3)
        data_format = "channels_last"

        def __call__(self, images):
            return logits_fn((images + 1) / 4)

    theirs = from_foolbox(Model())
    np.testing.assert_allclose(theirs(images), logits_fn(images), atol=1e-5)
    assert jax.tree.structure(theirs) != jax.tree.structure(from_foolbox(Model()))
    with pytest.raises(ValueError, match="has none: pass a function"):
        from_foolbox(lambda x: x)
    Model.data_format = "channels_first"
    with pytest.raises(ValueError, match="channels_last"):
        from_foolbox(Model())
