"""APGD: its iterates beside the definition, optima, restarts, success, contracts."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attack_helpers import Recorder, norms, waves
from jax.tree_util import Partial
from numpy.testing import assert_allclose, assert_array_equal

from uronet_jax.attacks import objectives, pgd
from uronet_jax.attacks.adaptive import without_success
from uronet_jax.attacks.apgd import apgd, apgd_targeted

BATCH, SHAPE = 8, (3, 3, 2)
KEY = jax.random.key(3)
# The package has a function of this name.
apgd_module = importlib.import_module("uronet_jax.attacks.apgd")
EPSILON = {"linf": 0.25, "l2": 0.6}


@pytest.fixture(scope="module")
def loss():
    speed = np.random.default_rng(1).uniform(5, 25, (1, 18))
    return Partial(waves, speed.astype(np.float32))


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).random((BATCH, *SHAPE)).astype(np.float32)


def starts(norm, run=0):
    """The contract of the draws: the key, the run, then the image's number."""
    directions = []
    for i in range(BATCH):
        key = jax.random.fold_in(jax.random.fold_in(KEY, run), i)
        if norm == "linf":
            draw = jax.random.uniform(key, (18,), minval=-1.0, maxval=1.0)
            directions.append(draw / np.abs(draw).max())
        else:
            draw = jax.random.normal(key, (18,))
            directions.append(draw / np.linalg.norm(draw))
    return np.array(directions, np.float64)


def numpy_apgd(images, speed, norm, epsilon, steps, rho=0.75):
    """The definition in float64, image by image; returns all iterates, the best."""
    origins = images.reshape(BATCH, -1).astype(np.float64)
    speed = np.asarray(speed[0], np.float64)
    iterates, bests = np.zeros((steps + 1, BATCH, 18)), np.zeros((BATCH, 18))
    for b, (origin, start) in enumerate(zip(origins, starts(norm), strict=True)):

        def project(point, origin=origin):
            move = point - origin
            if norm == "linf":
                move = np.clip(move, -epsilon, epsilon)
            else:
                move = move * min(1, epsilon / np.linalg.norm(move))
            return np.clip(origin + move, 0, 1)

        def evaluate(x):
            return np.sin(x * speed).sum(), speed * np.cos(x * speed)

        x = np.clip(origin + epsilon * start, 0, 1)
        value, gradient = evaluate(x)
        best, best_value, best_gradient = x, value, gradient
        before, eta = x, 2 * epsilon
        period = max(int(0.22 * steps), 1)
        last_check, values = 0, [value]
        best_then, reduced = value, True
        iterates[0, b] = x
        for k in range(1, steps + 1):
            if norm == "linf":
                direction = np.sign(gradient)
            else:
                direction = gradient / np.linalg.norm(gradient)
            z = project(x + eta * direction)
            a = 1.0 if k == 1 else 0.75
            x, before = project(x + a * (z - x) + (1 - a) * (x - before)), x
            iterates[k, b] = x
            value, gradient = evaluate(x)
            values.append(value)
            if value > best_value:
                best, best_value, best_gradient = x, value, gradient
            if k == last_check + period:
                recent = values[last_check:]
                rises = sum(np.diff(recent) > 0)
                stuck = not reduced and best_value <= best_then
                reduced = rises <= rho * period or stuck
                if reduced:
                    eta, x, gradient = eta / 2, best, best_gradient
                last_check, best_then = k, best_value
                fewer = period - max(int(0.03 * steps), 1)
                period = max(fewer, max(int(0.06 * steps), 1))
        bests[b] = best
    return iterates, bests


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_every_iterate_is_that_of_the_definition(norm, loss, images):
    if norm == "l2":  # Where a step turns the gradient, rounding grows with each step.
        loss = Partial(waves, loss.args[0] / 3)
    recorder, epsilon = Recorder(loss), EPSILON[norm]
    for steps in (1, 7, 100):
        found = apgd(KEY, images, recorder, epsilon=epsilon, norm=norm, steps=steps)
        expected, best = numpy_apgd(images, loss.args[0], norm, epsilon, steps)
        iterates = recorder.calls().reshape(expected.shape)
        # float32; a wrong checkpoint moves an image by more than a hundredth.
        assert_allclose(iterates, expected, atol=1e-5)
        assert_allclose(found, best.reshape(images.shape), atol=1e-5)


def optimum(images, weights, norm, epsilon):
    """The point of ball and box at which a linear loss is highest."""
    if norm == "linf":
        return np.clip(images + epsilon * np.sign(weights), 0, 1)
    # Pixels at the border of the box stay there; the others follow the gradient.
    low, high = np.zeros((BATCH, 1, 1, 1)), np.full((BATCH, 1, 1, 1), 1e3)
    for _ in range(60):
        middle = (low + high) / 2
        near = norms(np.clip(images + middle * weights, 0, 1) - images, norm) < epsilon
        near = near.reshape(low.shape)
        low, high = np.where(near, middle, low), np.where(near, high, middle)
    return np.clip(images + low * weights, 0, 1)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_linear_loss_reaches_its_optimum(norm, images):
    weights = np.random.default_rng(2).normal(size=(1, *SHAPE)).astype(np.float32)
    best = optimum(images.astype(np.float64), weights, norm, EPSILON[norm])
    assert ((best == 0) | (best == 1)).mean() > 0.1, "the box is to matter"

    def linear(images):
        return jnp.sum(images * weights, axis=(1, 2, 3))

    found = apgd(KEY, images, linear, epsilon=EPSILON[norm], norm=norm)
    reached, possible = (
        np.sum((x - images) * weights, axis=(1, 2, 3)) for x in (found, best)
    )
    # In L2 the last steps are 2 epsilon / 2^8 long: they leave half a percent.
    share = 1 - 1e-5 if norm == "linf" else 0.995
    assert (reached >= share * possible).all() and (reached <= possible + 1e-5).all()


@pytest.mark.parametrize("percent", [22, 6, 3])
def test_checkpoints_are_rounded_as_in_the_paper(percent):
    steps = np.arange(1, 3000)
    expected = [max(int(percent / 100 * n), 1) for n in steps.tolist()]
    assert apgd_module._hundredths(steps, percent).tolist() == expected


def test_restarts_draw_other_starts(loss, images):
    recorder = Recorder(loss)
    apgd(KEY, images, recorder, epsilon=0.25, steps=7, restarts=2)
    iterates = recorder.calls().reshape(3 * 8, BATCH, -1)
    origin = images.reshape(BATCH, -1)
    for run in range(3):
        start = np.clip(origin + 0.25 * starts("linf", run), 0, 1)
        assert_allclose(iterates[8 * run], start, atol=1e-6)


@pytest.mark.parametrize("restarts", [0, 1])
def test_without_early_stop_the_last_iterate_with_success_counts(
    restarts, loss, images
):
    goal = np.asarray(loss(apgd(KEY, images, loss, epsilon=0.25, steps=7))) - 1.5
    goal[:2] = 99.0  # Out of reach.

    def with_goal(images):
        value = loss(images)
        return value, value > goal

    recorder = Recorder(with_goal)
    usual = {"epsilon": 0.25, "steps": 7, "restarts": restarts}
    found = np.asarray(apgd(KEY, images, recorder, stop_early=False, **usual))
    iterates = recorder.calls()
    success = np.asarray(jax.vmap(with_goal)(iterates)[1])
    assert success.any(axis=0).tolist() == [False] * 2 + [True] * (BATCH - 2)
    in_first_run = success[:8].any(axis=0)
    for b in range(BATCH):
        places = np.flatnonzero(success[:8, b] if in_first_run[b] else success[:, b])
        if places.size:
            place = places[-1]
        else:
            place = np.argmax(jax.vmap(loss)(iterates)[:, b])
        assert_array_equal(found[b], iterates[place, b])


@pytest.mark.parametrize("attack", [apgd, pgd])
def test_a_random_loss_is_averaged_and_succeeds_in_most_draws(attack, images):
    half = images * 0.5
    often = np.arange(BATCH) % 2 == 0
    usual = {"epsilon": 0.2, "steps": 7}
    start = np.clip(half + 0.2 * starts("linf").reshape(half.shape), 0, 1)
    if attack is pgd:
        usual, start = usual | {"step_size": 0.05, "random_start": False}, half

    def loss_fn(key, images):
        # The slope is 1 in the mean; of one draw it is negative in 37 of 100.
        noise = jax.random.normal(key, images.shape)
        value = jnp.sum((1 + 3 * noise) * (images - half), axis=(1, 2, 3))
        # Success in 9 or in 1 of 10 draws, which also depends on the image's row.
        return value, (noise[:, 0, 0, 0] > 1.28) ^ often

    def gained(samples):
        found = attack(KEY, half, loss_fn, samples=samples, **usual)
        at_start = np.abs(found - start).max(axis=(1, 2, 3)) < 1e-6
        return (found - half).mean(axis=(1, 2, 3))[~often].mean(), at_start

    many, stopped = gained(64)
    assert_array_equal(stopped, often)
    # Signs of means of 64 draws are right in all but four in a thousand.
    assert 0.17 < many <= 0.2 + 1e-6
    assert gained(1)[0] < 0.15


CLASSES, FEW = 5, {"epsilon": 0.06, "steps": 5}
# The likeliest classes are those that an attack changes least.
SLOPE, OFFSET = np.array([0.2, 0.2, 1, 2, 2]), np.float32([2, 2, 0, -2, -2])


def network(weights, images):
    flat = images.reshape(images.shape[0], -1) - 0.5
    return jnp.sin(3 * flat) @ weights + OFFSET[None, : weights.shape[1]]


@pytest.fixture(scope="module")
def classified(images):
    """A network, and labels: the last two images are wrong."""
    rng = np.random.default_rng(11)
    weights = rng.normal(size=(18, CLASSES)) * SLOPE
    logits_fn = Partial(network, weights.astype(np.float32))
    ranked = np.argsort(-np.asarray(logits_fn(images)), axis=1)
    labels = np.where(np.arange(BATCH) < 6, ranked[:, 0], ranked[:, 1])
    return logits_fn, labels, ranked


@pytest.mark.parametrize("stop_early", [True, False])
def test_targeted_is_the_first_success_or_the_highest_margin(
    stop_early, images, classified
):
    logits_fn, labels, ranked = classified
    usual = {"targets": 3, "stop_early": stop_early, **FEW}
    found = np.asarray(apgd_targeted(KEY, images, logits_fn, labels, **usual))
    # One APGD after the other, as the definition has them, after the image itself.
    wrong = [[k for k in row if k != y] for row, y in zip(ranked, labels, strict=True)]
    candidates = [images]
    for number, targets in enumerate(np.array(wrong).T[:3]):
        loss_fn = objectives.targeted_misclassification(logits_fn, labels, targets)
        loss_fn = loss_fn if stop_early else without_success(loss_fn)
        key = jax.random.fold_in(KEY, number)
        candidates.append(np.asarray(apgd(key, images, loss_fn, **FEW)))
    logits = [logits_fn(x) for x in candidates]
    margins = [np.asarray(objectives.margin(x, labels)) for x in logits]
    success = [np.asarray(objectives.is_wrong(x, labels)) for x in logits]
    chosen = np.argmax(margins, axis=0)
    if stop_early:
        first = np.argmax(success, axis=0)
        chosen = np.where(np.any(success, axis=0), first, chosen)
        # A later target is the first that succeeds, or the best of those that fail.
        late = np.any(success, axis=0)[chosen == 2]
        assert late.any() and not late.all() and set(chosen) == {0, 1, 2}
    else:
        assert (chosen > 0).all()
    for b in range(BATCH):
        # The same program, with a budget per image.
        assert_allclose(found[b], candidates[chosen[b]][b], atol=1e-6)
