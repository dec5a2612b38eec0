"""The family of attacks: what holds for every name of `ATTACKS`, on linear networks."""

import contextlib
import functools
import inspect
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attack_helpers import Recorder, norms, waves
from flax import linen as nn
from jax.tree_util import Partial
from numpy.testing import assert_allclose, assert_array_equal

from uronet_jax import sharding
from uronet_jax.adapters import from_foolbox
from uronet_jax.attacks import (
    ATTACKS,
    balls,
    flax_logits,
    loop,
    objectives,
)

BATCH, SHAPE, CLASSES, KEY = 8, (4, 4, 3), 5, jax.random.key(1)
# Every image has its own budget, the first none.
EPSILON = {
    norm: np.linspace(0, largest, BATCH, dtype=np.float32)
    for norm, largest in (("linf", 0.03), ("l2", 0.2))
}
# As few steps as still show what an attack does; of others, ten.
FEW = {
    "ifgsm": {"steps": 5},
    "pgd": {"steps": 5, "restarts": 1},
    "apgd": {"steps": 8},
    "square": {"steps": 30},
    "gaussian": {"steps": 30},
    "uniform": {"steps": 30},
    "ddn": {"steps": 30},
    "carlini": {"steps": 60, "binary_search_steps": 4, "step_size": 0.05},
}
# What goes another way through an attack, under a name of its own.
VARIANTS = {
    "fab_linf targeted": {"steps": 10, "targets": CLASSES - 1, "restarts": 1},
    "apgd_ce_linf restarted": {"steps": 8, "restarts": 1},
}
ALL = [*ATTACKS, *VARIANTS]
MANY_MAXIMA = Partial(waves, 40.0)
BUDGET = [name for name, attack in ATTACKS.items() if not attack.minimal]
TAKES_LOSS = [name for name in BUDGET if not ATTACKS[name].takes_logits]
# Every family once: the norms differ only in `balls`.
ONE_NORM = [
    name for name in ALL if "linf" in name or name[: -len("l2")] + "linf" not in ALL
]


def attack_of(name):
    return ATTACKS[name.split()[0]]


def arguments_of(name):
    return inspect.signature(attack_of(name).function).parameters


# With any loss both of APGD are the same.
RESTARTED = [
    name
    for name in TAKES_LOSS
    if "restarts" in arguments_of(name) and ATTACKS[name].loss != "dlr"
]


def linear(weights, offset, images):
    """Logits of a linear network; the pixels are centred.

    All tests use it, so that an attack is compiled once: what differs between them is
    in the weights, and in the offset, which is one of each image.
    """
    flat = images.reshape(images.shape[0], -1).astype(weights.dtype)
    logits = (flat - jnp.asarray(0.5, flat.dtype)) @ weights
    return logits.astype(jnp.float32) + offset


@functools.cache
def make_problem():
    rng = np.random.default_rng(0)
    images = rng.uniform(0.1, 0.9, (BATCH, *SHAPE)).astype(np.float32)
    weights = rng.normal(size=(48, CLASSES)).astype(np.float32)
    logits_fn = network(weights)
    return images, logits_fn, np.argmax(logits_fn(images), axis=-1)


@pytest.fixture
def problem():
    """Images, a linear network, and labels that are right."""
    return make_problem()


def network(weights, offset=0.0):
    offset = np.broadcast_to(np.float32(offset), (BATCH, CLASSES))
    return Partial(linear, jnp.asarray(weights), jnp.asarray(offset))


def parameters(name, **changes):
    """Few steps, and the budgets unless the attack is minimal."""
    few = {"steps": 10} if "steps" in arguments_of(name) else {}
    few = next((v for k, v in FEW.items() if name.startswith(k)), few)
    few = dict(VARIANTS.get(name, few))
    if not attack_of(name).minimal:
        few["epsilon"] = EPSILON[attack_of(name).norm]
    return few | changes


def run(name, problem, **changes):
    return np.asarray(attack_of(name)(KEY, *problem, **parameters(name, **changes)))


@functools.cache
def outcome(name):
    """Adversarial images of the problem; made once."""
    return run(name, make_problem())


@pytest.mark.parametrize("name", ALL)
def test_contract(name, problem):
    images, logits_fn, labels = problem
    attack = attack_of(name)
    assert attack.about and attack.source
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
        assert (sizes <= EPSILON[attack.norm] + 2e-7 * np.sqrt(48)).all()
        # Without a budget nothing changes, but for one rounding of x + (x - x).
        assert_allclose(adversarial[0], images[0], atol=1e-7)


@pytest.mark.parametrize("name", ALL)
def test_an_image_and_its_index_decide_not_its_neighbours(name, problem):
    images, logits_fn, labels = problem
    assert_array_equal(run(name, problem), outcome(name))
    # As many images, so that no program is compiled again; one of them twice.
    chosen = np.array([6, 1, 1, 3, 0, 7, 2, 5])
    some, changes = (images[chosen], logits_fn, labels[chosen]), {}
    if not attack_of(name).minimal:
        changes["epsilon"] = EPSILON[attack_of(name).norm][chosen]
    if "index" in arguments_of(name):
        if not attack_of(name).minimal:  # They have random starts.
            assert np.abs(run(name, some, **changes) - outcome(name)[chosen]).max() > 0
        changes["index"] = chosen
    # Products of matrices may be summed in another order at another row.
    again = run(name, some, **changes)
    assert_allclose(again, outcome(name)[chosen], atol=1e-6)


@pytest.mark.parametrize("name", ONE_NORM)
def test_inside_jit_on_four_devices_it_is_the_same(name, problem):
    images, logits_fn, labels = problem
    few, order = parameters(name), np.array([5, 0, 7, 2, 4, 1, 6, 3])
    traced = {n: few.pop(n) for n in ("steps", "epsilon") if n in few}
    if "index" in arguments_of(name):
        traced["index"] = order
    if "epsilon" in traced:
        traced["epsilon"] = traced["epsilon"][order]
    # Other neighbours, in another order.
    mixed, answers = images[order], np.array(labels)[order]
    mixed[4:] = 1 - mixed[4:]
    answers[4:] = (answers[4:] + 1) % CLASSES

    @jax.jit
    def attack(images, logits_fn, labels, traced):
        return attack_of(name)(KEY, images, logits_fn, labels, **few, **traced)

    batch = sharding.split_batch((mixed, answers), sharding.data_mesh())
    again = attack(batch[0], logits_fn, batch[1], traced)
    assert len(again.sharding.device_set) == 4
    # Sums of 48 products are in another order, which many steps enlarge.
    assert_allclose(again[:4], outcome(name)[order[:4]], atol=1e-4)


@pytest.mark.parametrize("name", ALL)
def test_one_program_serves_all_steps_budgets_weights_and_labels(name, problem):
    images, logits_fn, labels = problem
    outcome(name)
    before, changes = loop._one._cache_size(), parameters(name)
    other = network(2 * logits_fn.args[0], np.eye(CLASSES)[0])
    for parameter, factor in (("steps", 2), ("epsilon", np.float32(0.5))):
        if parameter in changes:
            changes[parameter] = changes[parameter] * factor
    run(name, (images[::-1], other, (labels + 1) % CLASSES), **changes)
    assert loop._one._cache_size() == before


@pytest.mark.parametrize(
    "name",
    [n for n, a in ATTACKS.items() if a.loss == "cross_entropy"],
)
def test_optimum_of_two_classes_is_reached(name, problem):
    images, logits_fn, _ = problem
    weights = np.array(logits_fn.args[0])
    # Only two classes matter, and no image is misclassified, which would stop it.
    weights[:, 2:] = 0
    two = network(weights, [8.0, 0.0, -100.0, -100.0, -100.0])
    labels = np.zeros(BATCH, int)
    norm, epsilon = ATTACKS[name].norm, np.full(BATCH, 0.05, np.float32)
    few = {"epsilon": epsilon}
    if "step_size" in arguments_of(name):
        few |= {"steps": 20, "step_size": 0.5 * epsilon}
    adversarial = run(name, (images, two, labels), **few)
    w = np.asarray(weights[:, 1] - weights[:, 0])
    gained = (adversarial - images).reshape(BATCH, -1) @ w
    best = epsilon * (np.abs(w).sum() if norm == "linf" else np.linalg.norm(w))
    # No pixel is nearer than .1 to the border: the ball lies in the box.
    # Half-way steps of the last iterate: within one percent.
    assert_allclose(gained, best, rtol=0.01)


@pytest.mark.parametrize("name", ONE_NORM)
def test_bfloat16_networks_are_attacked_alike(name, problem):
    images, logits_fn, labels = problem
    rounded = network(logits_fn.args[0].astype(jnp.bfloat16))
    adversarial = run(name, (images, rounded, labels))
    margins = [
        np.asarray(objectives.margin(logits_fn(x), labels))
        for x in (adversarial, outcome(name))
    ]
    # Sums of 48 products of numbers with 8 bits: logits of some 3 are .03 off. So one
    # may stop at a success that to the other is none.
    assert (margins[0] > -0.05)[margins[1] > 0.05].all()
    assert (margins[0] < 0.05)[margins[1] < -0.05].all()


@pytest.mark.parametrize("name", RESTARTED)
def test_restarts_are_never_weaker(name, problem):
    def reached(restarts):
        epsilon = 10 * EPSILON[ATTACKS[name].norm]
        found = ATTACKS[name].on_loss(
            KEY, problem[0], MANY_MAXIMA, epsilon=epsilon, steps=4, restarts=restarts
        )
        return np.asarray(MANY_MAXIMA(found))

    losses = [reached(restarts) for restarts in (0, 1, 4)]
    # Other restarts are another program, whose rounding of 1e-7 grows by the 40 of the
    # waves in each of three steps; other maxima are some whole numbers away.
    rounding = 40**3 * 1e-7
    for fewer, more in itertools.pairwise(losses):
        assert (fewer <= more + rounding).all()
    assert (losses[0] < losses[2] - 1).any()


@pytest.mark.parametrize("name", RESTARTED)
def test_an_image_stays_at_its_first_success(name, problem):
    # In one norm with a restart, and without one in the other.
    images, usual = problem[0], parameters(name, restarts=int("linf" in name))
    recorder = Recorder(lambda goal, x: (MANY_MAXIMA(x), MANY_MAXIMA(x) > goal))

    def attack(goal):
        loss_fn = Partial(recorder, np.float32(goal))
        found = ATTACKS[name].on_loss(KEY, images, loss_fn, **usual)
        return np.asarray(found), recorder.calls()

    iterates = attack(np.full(BATCH, np.inf))[1]
    goal = np.median(jax.vmap(MANY_MAXIMA)(iterates), axis=0) - 0.01
    goal[:2] = 99.0  # Out of reach.
    found, iterates = attack(goal)
    success = np.asarray(jax.vmap(MANY_MAXIMA)(iterates)) > goal
    assert success.any(axis=0).tolist() == [False] * 2 + [True] * (BATCH - 2)
    for b in range(2, BATCH):
        first = np.argmax(success[:, b])
        assert_array_equal(found[b], iterates[first, b])
    # The batch ends when nothing is left to do.
    assert len(attack(np.full(BATCH, -np.inf))[1]) == 1


@pytest.mark.parametrize("name", [n for n in ATTACKS if "targets" in arguments_of(n)])
def test_targets_are_as_many_as_there_are_classes(name, problem):
    few = run(name, problem, targets=CLASSES - 1)
    assert_array_equal(run(name, problem, targets=CLASSES), few)


@pytest.mark.parametrize("name", ALL)
def test_losses_and_gradients_that_are_no_numbers_are_reported(name, problem):
    images, logits_fn, labels = problem
    offset = np.zeros((BATCH, 1), np.float32)
    offset[[2, 5]] = np.nan
    broken = network(logits_fn.args[0], offset)
    with pytest.raises(ValueError, match=r"not finite at 2 images, the first \[2, 5\]"):
        run(name, (images, broken, labels))


@pytest.mark.parametrize("name", ATTACKS)
def test_only_gradient_free_attacks_take_no_gradient(name, problem):
    images, logits_fn, labels = problem

    class Differentiated(Exception):
        pass

    @jax.custom_jvp
    def guarded(images):
        return logits_fn(images)

    @guarded.defjvp
    def _(primals, tangents):
        raise Differentiated

    def attack(images):
        return ATTACKS[name](KEY, images, guarded, labels, **parameters(name))

    free = ATTACKS[name].gradient_free
    with contextlib.nullcontext() if free else pytest.raises(Differentiated):
        jax.eval_shape(attack, images)


def test_losses_have_known_values():
    logits = jnp.array([[3.0, 1.0, 0.0, -2.0], [1.0, 2.0, 5.0, 4.0]])
    labels = jnp.array([0, 1])
    assert_allclose(objectives.margin(logits, labels), [-2, 3])
    assert_allclose(objectives.dlr(logits, labels), [-2 / 3, 3 / 3])
    targets = jnp.array([3, 3])
    found = objectives.targeted_dlr(logits, labels, targets)
    assert_allclose(found, [-5 / (3 - (0 - 2) / 2), 2 / (5 - (2 + 1) / 2)])
    p = np.exp(3) / np.exp([3.0, 1.0, 0.0, -2.0]).sum()
    assert_allclose(objectives.cross_entropy(logits, labels)[0], -np.log(p), rtol=1e-6)
    assert objectives.is_wrong(logits, labels).tolist() == [False, True]
    assert not objectives.is_wrong(logits * jnp.nan, labels).any()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_start_is_the_same_where_jax_enable_x64_is_set(norm):
    def draw(key):
        return balls.draw_uniform(key, np.arange(2), (3, 3, 1), norm)

    with jax.enable_x64(True):
        traced = jax.make_jaxpr(draw)(jax.random.key(0))
    assert "random_bits[" in str(traced) and "bit_width=64" not in str(traced)


def test_balls():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(6, 2, 2, 1)).astype(np.float32)
    assert_allclose(balls.size(x, "l2"), norms(x, "l2"), rtol=1e-6)
    radius = np.float32([0.5, 1, 2, 3, 4, 0])
    small = np.asarray(balls.project(x, "l2", balls.expand(radius, x)))
    factor = np.minimum(1, radius / norms(x, "l2"))[:, None, None, None]
    assert_allclose(small, x * factor, rtol=1e-5, atol=1e-7)
    assert_array_equal(balls.project(x, "linf", 0.5), np.clip(x, -0.5, 0.5))
    # Gradients whose squares underflow still have a direction; those of zero have none.
    tiny = x * np.float32(1e-30)
    unit = np.asarray(balls.direction(tiny, "l2"))
    assert_allclose(unit, balls.direction(x, "l2"), rtol=1e-4, atol=1e-6)
    assert not np.asarray(balls.direction(0 * x, "l2")).any()
    for norm in balls.NORMS:
        draws = balls.draw_uniform(jax.random.key(0), jnp.arange(4096), (2, 2, 1), norm)
        sizes = np.asarray(balls.size(draws, norm))
        # P(size <= r) = r^4 in four dimensions, for both norms; 4096 draws: three
        # standard deviations of the share at .8 are .023.
        assert sizes.max() <= 1 + 1e-6
        assert abs((sizes <= 0.8).mean() - 0.8**4) < 0.023
        assert abs(draws.mean()) < 0.03


def test_flax_classifiers_and_foolbox_models(problem):
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
    assert_allclose(theirs(images), logits_fn(images), atol=1e-5)
    assert jax.tree.structure(theirs) != jax.tree.structure(from_foolbox(Model()))
