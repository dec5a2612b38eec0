"""Attacks that look for the smallest perturbation, on linear classifiers mostly.

There the answer is known: the distance to the nearest hyperplane, or, where the box is
in the way, the solution of a linear or quadratic programme.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attack_helpers import norms
from jax.tree_util import Partial
from numpy.testing import assert_allclose, assert_array_equal
from scipy import optimize

from uronet_jax.attacks import balls
from uronet_jax.attacks.carlini_wagner import carlini_wagner
from uronet_jax.attacks.ddn import ddn
from uronet_jax.attacks.deepfool import deepfool, nearest_boundary
from uronet_jax.attacks.fab import fab, to_hyperplane
from uronet_jax.attacks.objectives import likeliest

SHAPE, CLASSES, COUNT = (4, 4, 2), 5, 8
SIZE = 32
WRONG = 3  # The image whose label is wrong from the start.

# Carlini-Wagner with a step that fits distances of 0.05 to 0.5.
FEW = {"steps": 100, "initial_constant": 0.01}
TARGETED = {"steps": 10, "targets": 4, "restarts": 1}
# Last by how much an attack may miss the smallest norm, relative: DDN is in a ball that
# breathes by 5 %, Adam oscillates about its minimum, FAB overshoots by 5 % and goes
# back by 10 %. DeepFool's is tested exactly below.
ATTACKS = {
    "deepfool_l2": (deepfool, "l2", {}, 0.03),
    "deepfool_linf": (deepfool, "linf", {"norm": "linf"}, 0.03),
    "ddn": (ddn, "l2", {"initial_epsilon": 0.2}, 0.05),
    "carlini_wagner": (carlini_wagner, "l2", FEW, 0.05),
    "fab_l2": (fab, "l2", {"norm": "l2", "steps": 30}, 0.01),
    "fab_linf": (fab, "linf", {"steps": 30}, 0.01),
    "fab_targeted": (fab, "linf", TARGETED, 0.01),
}
every_attack = pytest.mark.parametrize("name", ATTACKS)


def linear(weights, bias, images):
    return images.reshape(images.shape[0], -1) @ weights + bias[None]


def classifier(weights, bias):
    return Partial(linear, jnp.asarray(weights), jnp.asarray(bias))


@pytest.fixture(scope="module")
def problem():
    """Returns images, labels, weights and bias: margins of both signs of the box."""
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(SIZE, CLASSES)).astype(np.float32)
    bias = rng.normal(size=CLASSES).astype(np.float32) / 4
    images = rng.uniform(0.35, 0.65, (COUNT, *SHAPE)).astype(np.float32)
    labels = (images.reshape(COUNT, -1) @ weights + bias).argmax(axis=-1)
    labels[WRONG] = (labels[WRONG] + 1) % CLASSES
    return images, labels.astype(np.int32), weights, bias


def run(name, images, logits_fn, labels, key=None, **changes):
    function, _, parameters, _ = ATTACKS[name]
    key = jax.random.key(0) if key is None else key
    return function(key, images, logits_fn, labels, **{**parameters, **changes})


def distances(images, labels, weights, bias, norm):
    """Returns the distance of each image to the nearest hyperplane, without a box."""
    logits = images.reshape(len(images), -1).astype(np.float64) @ weights + bias
    result = []
    for row, label in zip(logits, labels, strict=True):
        normals = np.delete(weights - weights[:, [label]], label, axis=1)
        gaps = np.delete(row[label] - row, label)
        dual = np.linalg.norm(normals, 1 if norm == "linf" else 2, axis=0)
        result.append((gaps / dual).min())
    return np.array(result)


def is_wrong(images, labels, weights, bias):
    logits = np.asarray(images).reshape(len(images), -1) @ weights + bias
    return logits.argmax(axis=-1) != labels


@every_attack
def test_reaches_the_nearest_hyperplane(name, problem):
    images, labels, weights, bias = problem
    if name == "ddn":  # Only of two classes does cross-entropy point to the nearest.
        bias = np.where(np.arange(CLASSES) < 2, bias, -100).astype(np.float32)
        labels = (images.reshape(COUNT, -1) @ weights + bias).argmax(axis=-1)
        labels[WRONG] = 1 - labels[WRONG]
    _, norm, _, excess = ATTACKS[name]
    result = run(name, images, classifier(weights, bias), labels)
    right = np.arange(COUNT) != WRONG
    assert is_wrong(result, labels, weights, bias).all()
    assert_array_equal(result[WRONG], images[WRONG])

    smallest = distances(images, labels, weights, bias, norm)[right]
    found = norms(np.asarray(result) - images, norm)[right]
    # Rounding: float32 images of about 0.5, distances of 0.01 and more.
    assert (found >= smallest * (1 - 1e-4)).all()
    assert (found <= smallest * (1 + excess)).all(), found / smallest


@pytest.mark.parametrize("norm", balls.NORMS)
def test_deepfool_takes_the_documented_step(norm, problem):
    images, labels, weights, bias = problem
    result = run(f"deepfool_{norm}", images, classifier(weights, bias), labels)
    found = norms(np.asarray(result) - images, norm)
    expected = 1.02 * (distances(images, labels, weights, bias, norm) + 1e-4)
    expected[WRONG] = 0.0
    # One step: what is left is the rounding of images in float32, 32 values of 3e-8.
    assert_allclose(found, expected, atol=4e-7)


@every_attack
def test_stays_in_a_box_that_is_in_the_way(name, problem):
    _, _, weights, bias = problem
    rng = np.random.default_rng(1)
    images = rng.choice([0.0, 0.02, 0.5, 0.98, 1.0], (COUNT, *SHAPE))
    images = images.astype(np.float32)
    labels = (images.reshape(COUNT, -1) @ weights + bias).argmax(axis=-1)
    norm = ATTACKS[name][1]
    result = np.asarray(run(name, images, classifier(weights, bias), labels))
    assert result.min() >= 0.0 and result.max() <= 1.0
    changed = (result != images).any(axis=(1, 2, 3))
    # Nothing is returned that does not misclassify.
    assert_array_equal(changed, is_wrong(result, labels, weights, bias))
    if not name.startswith("fab"):
        return
    assert changed.all()

    def distance(image, y, k):
        normal = weights[:, k] - weights[:, y]
        return solve(norm, image, normal, normal @ image + bias[k] - bias[y])

    smallest = [
        norms([distance(image, y, k) for k in range(CLASSES) if k != y], norm).min()
        for image, y in zip(images.reshape(COUNT, -1), labels, strict=True)
    ]
    smallest = np.array(smallest)
    assert (smallest > 1.05 * distances(images, labels, weights, bias, norm)).any()
    found = norms(result - images, norm)
    assert (found >= smallest * (1 - 1e-4)).all()
    # FAB overshoots by 5 % and goes back by 10 %: it ends a little above.
    assert (found <= smallest * 1.02).all(), found / smallest


def solve(norm, point, normal, value):
    """Returns argmin |d| with value + <normal, d> = 0 and point + d in the box."""
    n = len(point)
    point, normal = point.astype(np.float64), normal.astype(np.float64)
    bounds = list(zip(-point, 1 - point, strict=True))
    if norm == "linf":
        # Variables: d and the bound of its absolute values.
        ones = np.ones((n, 1))
        result = optimize.linprog(
            np.r_[np.zeros(n), 1.0],
            A_ub=np.block([[np.eye(n), -ones], [-np.eye(n), -ones]]),
            b_ub=np.zeros(2 * n),
            A_eq=np.r_[normal, 0.0][None],
            b_eq=[-value],
            bounds=[*bounds, (0, None)],
        )
        assert result.success
        return result.x[:n]

    def gain(t):
        return normal @ np.clip(-t * np.sign(value) * normal, -point, 1 - point)

    # The multiplier of the only constraint that is not a bound.
    t = optimize.brentq(lambda t: value + gain(t), 0.0, 1e6, xtol=1e-14, rtol=1e-14)
    return np.clip(-t * np.sign(value) * normal, -point, 1 - point)


@pytest.fixture(scope="module")
def planes():
    """Returns points, normals and values; with ends of the box and zero normals."""
    rng = np.random.default_rng(2)
    points = rng.choice([0.0, 0.1, 0.5, 0.97, 1.0], (40, SIZE))
    points[20:] = rng.uniform(size=(20, SIZE))
    normals = rng.normal(size=(40, SIZE)) * rng.choice([0.0, 0.01, 1.0], (40, SIZE))
    normals *= 10.0 ** rng.uniform(-12, 3, (40, 1))
    points, normals = points.astype(np.float32), normals.astype(np.float32)
    far = np.where(normals > 0, points, 1 - points)
    near = np.where(normals > 0, 1 - points, points)
    reach = np.abs(normals) * np.stack([far, near])
    sign = rng.choice([0, 1], 40)
    # How much of what the box allows is needed: from little to nearly all.
    share = rng.choice([1e-3, 0.2, 0.7, 0.95], 40)
    value = share * reach.sum(axis=-1)[sign, np.arange(40)] * (1 - 2 * sign)
    return points, normals, value.astype(np.float32)


def project(norm, points, normals, values):
    images, normals = (x.reshape(-1, *SHAPE) for x in (points, normals))
    moves = jax.jit(to_hyperplane, static_argnums=3)(images, normals, values, norm)
    return np.asarray(moves, np.float64).reshape(points.shape)


@pytest.mark.parametrize("norm", balls.NORMS)
def test_to_hyperplane_is_the_solution(norm, planes):
    points, normals, values = planes
    moves = project(norm, *planes)
    assert (points + moves >= -1e-7).all() and (points + moves <= 1 + 1e-7).all()
    # Reached to the rounding of 32 terms in float32.
    scale = np.abs(normals).sum(axis=-1)
    assert_allclose((values + (moves * normals).sum(axis=-1)) / scale, 0.0, atol=1e-6)
    scale = np.abs(normals).max(axis=-1)[:, None]
    scaled = (points, normals / scale, values / scale[:, 0])
    expected = np.stack([solve(norm, *x) for x in zip(*scaled, strict=True)])
    # The solver's own tolerance is 1e-7.
    assert_allclose(norms(moves, norm), norms(expected, norm), rtol=1e-5, atol=1e-6)
    if norm == "l2":  # In Linf several perturbations have the smallest norm.
        assert_allclose(moves, expected, atol=1e-5)


@pytest.mark.parametrize("norm", balls.NORMS)
def test_to_hyperplane_outside_the_box_goes_as_near_as_it_can(norm, planes):
    points, normals, _ = planes
    values = np.abs(normals).sum(axis=-1) * 2
    corner = np.where(normals > 0, 0.0, 1.0) - points
    corner = np.where(normals == 0, 0.0, corner)
    # Both are differences of the same float32 numbers.
    assert_allclose(project(norm, points, normals, values), corner, atol=1e-7)
    assert_array_equal(project(norm, points, 0 * normals, values), 0.0)
    assert_array_equal(project(norm, points, normals, 0 * values), 0.0)


@pytest.mark.parametrize(("norm", "classes"), [("l2", 24), ("linf", 24), ("l2", 125)])
def test_nearest_boundary_of_many_classes(norm, classes):
    """More classes than are looked at in one go, not a multiple; and with a loop."""
    rng = np.random.default_rng(3)
    weights = rng.normal(size=(SIZE, classes)).astype(np.float32)
    bias, rows = np.zeros(classes, np.float32), np.arange(COUNT)
    images = rng.uniform(size=(COUNT, *SHAPE)).astype(np.float32)
    labels = rng.integers(0, classes, COUNT)

    @jax.jit
    def nearest(images, labels):
        logits, pull = jax.vjp(classifier(weights, bias), images)
        rivals = likeliest(logits, labels, classes - 1)
        return rivals, nearest_boundary(pull, logits, labels, rivals, norm)

    rivals, boundary = nearest(images, labels)
    logits = images.reshape(COUNT, -1) @ weights
    differences = logits - logits[rows, labels][:, None]
    normals = weights.T[None] - weights.T[labels][:, None]
    dual = np.linalg.norm(normals, 1 if norm == "linf" else 2, axis=-1)
    with np.errstate(invalid="ignore"):
        ratios = np.abs(differences) / dual
    ratios[rows, labels] = np.inf
    best = ratios.argmin(axis=-1)
    order = [[k for k in np.argsort(-logits[i]) if k != labels[i]] for i in rows]
    assert_array_equal(rivals, order)
    # Sums of 32 products in float32; a distance may be next to nothing.
    assert_allclose(boundary.distance, ratios[rows, best], rtol=1e-4, atol=1e-6)
    assert_allclose(boundary.difference, differences[rows, best], rtol=1e-4, atol=1e-5)
    gradient = boundary.gradient.reshape(COUNT, -1)
    assert_allclose(gradient, normals[rows, best], atol=1e-6)
    assert boundary.finite.all()


def bowl(radius, images):
    """Two classes: the second outside of an L2 ball; no gradient at its centre."""
    squares = jnp.square(images - 0.5).reshape(images.shape[0], -1).sum(axis=-1)
    return jnp.stack([jnp.full_like(squares, radius**2), squares], axis=-1)


@pytest.mark.parametrize("name", ["ddn", "fab_l2"])
def test_random_directions_leave_a_point_without_gradient(name):
    radius = 0.3
    images = np.full((COUNT, *SHAPE), 0.5, np.float32)
    labels = np.zeros(COUNT, np.int32)
    attack = functools.partial(run, name, images, Partial(bowl, radius), labels)
    restarts = {}
    if name == "fab_l2":
        assert_array_equal(attack(), images)
        restarts = {"restarts": 1}
    result = np.asarray(attack(**restarts))
    # Of equal images each goes its own way; as far as `ATTACKS` explains.
    found = norms(result - images, "l2")
    assert (found > radius).all() and (found < radius * (1 + ATTACKS[name][-1])).all()
    assert len(np.unique(result[:, 0, 0, 0])) == COUNT
    # The number of an image decides about its direction.
    index = np.array([4, 5, 6, 7, 0, 1, 2, 3])
    again = np.asarray(attack(**restarts, index=index))
    assert_array_equal(again, result[index])
    other = np.asarray(attack(**restarts, key=jax.random.key(1)))
    assert (np.abs(other - result).max(axis=(1, 2, 3)) > 1e-3).all()


@every_attack
def test_no_gradient_no_change(name, problem):
    images, labels, weights, bias = problem
    flat = classifier(0 * weights, np.eye(CLASSES, dtype=np.float32)[0])
    labels = np.zeros_like(labels)
    assert_array_equal(run(name, images, flat, labels), images)


def test_fab_stops_within_epsilon(problem):
    images, labels, weights, bias = problem
    logits_fn = classifier(weights, bias)
    smallest = distances(images, labels, weights, bias, "linf")
    # Reached by the first step already, which overshoots by 5 %; or never.
    epsilon = np.where(np.arange(COUNT) < 5, 1.2, 0.9) * np.abs(smallest)
    result = run("fab_linf", images, logits_fn, labels, epsilon=epsilon)
    found = norms(np.asarray(result) - images, "linf") / smallest
    done = np.arange(COUNT) < 5
    done[WRONG] = False
    assert_allclose(found[done], 1.05, rtol=1e-4)  # Rounding of images.
    assert (found[5:] < 1.01).all()


def test_carlini_wagner_keeps_its_confidence(problem):
    images, labels, weights, bias = problem
    logits_fn = classifier(weights, bias)
    result = run("carlini_wagner", images, logits_fn, labels, confidence=0.5)
    logits = np.asarray(result).reshape(COUNT, -1) @ weights + bias
    right = logits[np.arange(COUNT), labels]
    logits[np.arange(COUNT), labels] = -np.inf
    gaps = logits.max(axis=-1) - right
    # The smallest perturbation is that which just has it; Adam leaves a little.
    assert (gaps > 0.5 - 1e-5).all() and (gaps[np.arange(COUNT) != WRONG] < 0.7).all()
