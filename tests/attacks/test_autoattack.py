"""AutoAttack: what still stands, closed forms, batching, resuming, warnings."""

import importlib
import json
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from numpy.testing import assert_allclose, assert_array_equal

from uronet_jax import sharding
from uronet_jax.attacks import AttackStep, MisleadingEvaluation, autoattack, loop
from uronet_jax.attacks.auto import batch as autoattack_batch
from uronet_jax.attacks.auto.versions import VERSIONS

COUNT, SHAPE, CLASSES, BATCH = 34, (5, 5, 1), 6, 16
KEY = jax.random.key(3)
# The package has a function of this name.
module = importlib.import_module("uronet_jax.attacks.auto.ensemble")
EPSILON = 0.03
# Short ones: a second of each would be compilation all the same.
SHORT = (
    AttackStep("apgd-ce", "apgd", {"steps": 5}),
    AttackStep("apgd-t", "apgd", {"loss": "targeted_dlr", "targets": 3, "steps": 9}),
    AttackStep("fab-t", "fab", {"targets": 3, "steps": 5}),
    AttackStep("square", "square", {"steps": 20}),
)
GRADIENT = SHORT[:2]


def network(weights, images):
    flat = images.reshape(images.shape[0], -1)
    first, second = weights
    return jnp.tanh((flat - 0.5) @ first) @ second


@pytest.fixture(scope="module")
def problem():
    """A network, images it is mostly right on, and their labels."""
    rng = np.random.default_rng(0)
    weights = (rng.normal(size=(25, 16)) / 3, rng.normal(size=(16, CLASSES)))
    logits_fn = Partial(network, tuple(w.astype(np.float32) for w in weights))
    images = rng.random((COUNT, *SHAPE)).astype(np.float32)
    labels = np.array(logits_fn(images).argmax(axis=1))
    labels[[3, 20]] = (labels[[3, 20]] + 1) % CLASSES
    return images, labels, logits_fn


def run(problem, *, version=SHORT, **changes):
    usual = {"epsilon": EPSILON, "batch_size": BATCH}
    images, labels, logits_fn = problem
    options = usual | changes
    return autoattack(KEY, images, logits_fn, labels, version=version, **options)


@pytest.fixture(scope="module")
def usual(problem):
    return run(problem)


def check_equal(result, other):
    assert_array_equal(result.robust, other.robust)
    assert_array_equal(result.images, other.images)
    assert without_seconds(result.log) == without_seconds(other.log)


def without_seconds(log):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in log]


def test_the_images_are_what_the_flags_and_the_log_say(problem, usual):
    images, labels, logits_fn = problem
    found, robust, log, doubts = usual
    right = np.asarray(logits_fn(images).argmax(axis=1)) == labels
    assert not robust[[3, 20]].any() and 0 < robust.sum() < COUNT - 2
    # Wrong after the attack exactly where the flag says so.
    assert_array_equal(logits_fn(found).argmax(axis=1) == labels, robust)
    assert found.dtype == np.float32 and found.min() >= 0 and found.max() <= 1
    # One rounding of x + r - x.
    assert np.abs(found - images).max() <= EPSILON + 1e-6
    untouched = robust | ~right
    assert_array_equal(found[untouched], images[untouched])
    names = [row["attack"] for row in log]
    assert names == ["clean", "apgd-ce", "apgd-t", "fab-t", "square"]
    assert log[0]["attacked"] == 0 and log[0]["robust"] == right.sum()
    for before, row in zip(log, log[1:], strict=False):
        assert row["attacked"] == before["robust"] >= row["robust"]
        assert row["robust_accuracy"] == row["robust"] / COUNT
        assert (row["norm"], row["epsilon"]) == ("linf", EPSILON)
    assert log[-1]["robust"] == robust.sum()
    assert all(row["seconds"] > 0 for row in log if row["attacked"])
    assert doubts == []


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_linear_network_is_as_robust_as_its_margins(norm):
    rng = np.random.default_rng(5)
    weights = rng.normal(size=(25, CLASSES)).astype(np.float32)
    # Far from the borders of the box.
    images = rng.uniform(0.4, 0.6, (COUNT, *SHAPE)).astype(np.float32)

    def linear(weights, images):
        return (images.reshape(images.shape[0], -1) - 0.5) @ weights

    logits = np.asarray(linear(weights, images))
    labels = logits.argmax(axis=1)
    differences = weights[:, labels][:, :, None] - weights[:, None, :]
    order = 1 if norm == "linf" else 2
    dual = np.linalg.norm(differences, order, axis=0)
    margins = logits[np.arange(COUNT), labels][:, None] - logits
    with np.errstate(invalid="ignore"):
        distance = np.nanmin(margins / dual, axis=1)  # 0 / 0 at the label.
    epsilon = float(np.median(distance)) * 1.01
    problem = images, labels, Partial(linear, weights)
    steps = [AttackStep("apgd-t", "apgd", {"loss": "targeted_dlr"})]
    budget = {"epsilon": epsilon, "norm": norm}
    result = run(problem, version=steps, batch_size=COUNT, **budget)
    # In L2 the last steps leave half a percent of the way.
    clear = np.abs(distance / epsilon - 1) > (1e-3 if norm == "linf" else 5e-3)
    assert clear.mean() > 0.9
    assert_array_equal(result.robust[clear], distance[clear] > epsilon)


def test_results_do_not_depend_on_batches_or_on_the_mesh(problem):
    images, labels, logits_fn = problem
    order = np.random.default_rng(0).permutation(COUNT)
    turned = run(
        (images[order], labels[order], logits_fn),
        version=SHORT[:1],
        batch_size=64,
        index=order,
        place=lambda x: sharding.split_batch(x, sharding.data_mesh()),
    )
    plain = run(problem, version=SHORT[:1])
    assert_array_equal(turned.robust, plain.robust[order])
    # Matrix products of another size are rounded otherwise.
    assert_allclose(turned.images, plain.images[order], atol=1e-5)


def test_other_weights_and_images_compile_nothing(problem):
    images, labels, logits_fn = problem
    programs = (loop._one, autoattack_batch._classify_jit, autoattack_batch._verify)
    run(problem)
    before = [program._cache_size() for program in programs]
    weights = jax.tree.map(lambda w: w * 1.1, logits_fn.args[0])
    other = (images[::-1], labels[::-1], Partial(network, weights))
    # Again batches of 16 alone; the number of steps is no other program.
    longer = SHORT[0]._replace(parameters={"steps": 7})
    run(other, version=(longer, *SHORT[1:]), epsilon=0.03)
    assert [program._cache_size() for program in programs] == before


def record_runs(monkeypatch):
    """Replaces the attack on a batch by one that finds nothing; returns its calls."""
    calls = []

    def nothing(task, step, key, rows, targets):
        calls.append((step.name, rows.copy(), targets[rows].copy(), key))
        return task.images[rows], np.zeros(len(rows), bool)

    monkeypatch.setattr(module, "attack_batch", nothing)
    return calls


PLUS = {"apgd-ce": 5, "apgd-dlr": 5, "fab": 1, "square": 1, "apgd-t": 5, "fab-t": 1}
STANDARD = {"apgd-ce": 1, "apgd-t": 5, "fab-t": 1, "square": 1}
RUNS = {"standard": STANDARD, "plus": PLUS}


@pytest.mark.parametrize("version", RUNS)
def test_versions_make_their_runs_in_order(version, problem, monkeypatch):
    calls, runs = record_runs(monkeypatch), RUNS[version]
    result = run(problem, version=version, batch_size=64)
    names = [name for name, *_ in calls]
    assert names == [name for name, count in runs.items() for _ in range(count)]
    assert [row["attack"] for row in result.log] == ["clean", *runs]
    # Every run has draws of its own.
    keys = {tuple(jax.random.key_data(key).tolist()) for *_, key in calls}
    assert len(keys) == len(calls)
    # The targets are the wrong classes, the likeliest first.
    images, labels, logits_fn = problem
    logits = np.asarray(logits_fn(images))
    targets = np.stack([t for name, _, t, _ in calls if name == "apgd-t"], axis=1)
    rows = next(rows for name, rows, *_ in calls if name == "apgd-t")
    for row, chosen in zip(rows, targets, strict=True):
        ranked = np.argsort(-logits[row])
        assert chosen.tolist() == [k for k in ranked if k != labels[row]][:9]


def test_the_parameters_of_the_versions_are_those_of_the_original():
    apgd = {"steps": 100, "restarts": 4, "targets": 9, "rho": 0.75}
    square = {"steps": 5000, "restarts": 0, "initial_share": 0.8}
    square["rescale_schedule"] = False
    assert {step.name: step.all_parameters for step in VERSIONS["plus"]} == {
        "apgd-ce": apgd | {"loss": "cross_entropy"},
        "apgd-dlr": apgd | {"loss": "dlr"},
        "fab": {"steps": 100, "restarts": 4, "targets": None},
        "square": square,
        "apgd-t": apgd | {"loss": "targeted_dlr", "restarts": 0},
        "fab-t": {"steps": 100, "restarts": 0, "targets": 9},
    }


class Killed(Exception):
    pass


def test_a_killed_run_goes_on_where_it_was(problem, usual, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_SAVE_EVERY", -1.0)
    path = tmp_path / "folder" / "state.npz"
    attack, calls = module.attack_batch, []

    def counted(task, step, key, rows, targets):
        calls.append((step.name, rows.tolist()))
        if len(calls) in stops:
            raise Killed
        return attack(task, step, key, rows, targets)

    def log(row):
        if row["attack"] == "apgd-t":
            raise Killed

    monkeypatch.setattr(module, "attack_batch", counted)
    stops = ()
    check_equal(run(problem), usual)
    whole = list(calls)
    calls.clear()
    stops = (2, 6)  # In the first attack, and between runs of the second.
    for _ in stops:
        with pytest.raises(Killed):
            run(problem, path=path)
    spent = json.loads(np.load(path)["header"].item())["seconds"]
    assert spent > 0
    with pytest.raises(Killed):
        run(problem, path=path, log=log)
    stops, rows = (), []
    result = run(problem, path=path, log=rows.append)
    check_equal(result, usual)
    assert rows == result.log[3:]
    assert result.log[2]["seconds"] > spent
    # Nothing that was done was done again.
    assert calls[:1] + calls[2:5] + calls[6:] == whole
    check_equal(run(problem, path=path), usual)
    assert len(calls) == len(whole) + 2
    assert [p.name for p in path.parent.iterdir()] == ["state.npz"]


def test_a_file_of_another_run_is_refused(problem, tmp_path, monkeypatch):
    record_runs(monkeypatch)
    images, labels, logits_fn = problem
    path = tmp_path / "state.npz"
    run(problem, path=path)
    twice = Partial(network, jax.tree.map(lambda w: w * 2, logits_fn.args[0]))
    short = {"norm": "l2", "version": GRADIENT}
    for other, changes, message in (
        (problem, {"epsilon": 0.04}, r"epsilon \(0.03 in the file, 0.04 now\)"),
        (problem, short, "arguments: norm .*; steps .*; give the same"),
        ((images * 0.5, labels, logits_fn), {}, "arguments: images"),
        ((images, labels, twice), {}, "arguments: classifier"),
    ):
        with pytest.raises(ValueError, match=message):
            run(other, path=path, **changes)
    # Weights inside a function do not show, what it says does.
    path.unlink()
    run((images, labels, lambda x: logits_fn(x)), path=path)
    with pytest.raises(ValueError, match="begun with another classifier"):
        run((images, labels, lambda x: -logits_fn(x)), path=path)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(ValueError, match="holds no state of autoattack"):
        run(problem, path=path)


def test_progress_goes_to_standard_error(problem, capsys, monkeypatch):
    record_runs(monkeypatch)
    run(problem, progress=True, version=GRADIENT)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 + 3 * 2
    first = "apgd-ce run 1 of 1: 16 images to go, robust accuracy 94"
    assert lines[0].startswith(first)
    assert lines[-1].startswith("apgd-t run 3 of 3: 0 images to go")


def noisy(strength, key, images):
    weights = jax.random.normal(jax.random.key(1), (25, CLASSES))
    flat = images.reshape(images.shape[0], -1) - 0.5
    return flat @ weights + strength * jax.random.normal(key, (1, CLASSES))


def test_a_random_classifier_is_judged_by_most_of_its_draws(problem):
    images = problem[0]
    sure = Partial(noisy, 0.0)
    labels = np.asarray(sure(KEY, images).argmax(axis=1))
    steps = {"version": SHORT[:1], "samples": 5, "epsilon": 0.01, "batch_size": COUNT}
    result = run((images, labels, Partial(noisy, 0.3)), **steps)
    assert 0 < result.robust.sum() < COUNT
    assert result.warnings == []
    with pytest.warns(MisleadingEvaluation, match="same logits with every key"):
        exact = run((images, labels, sure), **steps)
    # Not random, it is attacked as well as by the attack without draws.
    plain = run((images, labels, Partial(noisy, 0.0, KEY)), **steps | {"samples": 0})
    assert_array_equal(exact.robust, plain.robust)
    # Images that are robust without noise mostly are with a little.
    assert (exact.robust == result.robust).mean() > 0.8


def broken_network(weights, limit, images):
    """The gradient is no number where the first pixel is darker than a limit."""
    root = jnp.sqrt(jnp.maximum(images[:, 0, 0, 0] - limit, 0.0))
    return network(weights, images) + root[:, None]


def test_gradients_that_are_no_numbers_name_the_images_of_the_caller(problem):
    images, labels, logits_fn = problem
    broken = Partial(broken_network, logits_fn.args[0], 0.1)
    images = np.clip(images, 0.2, 1.0)
    images[[20, 31, 33], 0, 0, 0] = 0.05
    labels = np.array(broken(images).argmax(axis=1))
    # Those that are wrong are not attacked, so that all others stand elsewhere in the
    # batches: the second holds 31, 32, 33 and is filled up with a copy of the first.
    wrong = [*range(14), 20]
    labels[wrong] = (labels[wrong] + 1) % CLASSES
    message = r"^apgd-ce: .* at 2 images, the first \[31, 33\]"
    with pytest.raises(loop.NonFiniteError, match=message) as caught:
        run((images, labels, broken), version=SHORT[:1], index=np.arange(COUNT) + 100)
    assert caught.value.positions == [31, 33]


def test_misleading_classifiers_are_warned_of(problem, monkeypatch):
    record_runs(monkeypatch)
    images, labels, logits_fn = problem

    def doubts(logits_fn, version=GRADIENT):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            result = run((images, labels, logits_fn), version=version, batch_size=COUNT)
        assert all(w.category is MisleadingEvaluation for w in caught)
        assert [str(w.message) for w in caught] == result.warnings
        return " | ".join(result.warnings)

    assert doubts(logits_fn) == ""
    found = doubts(lambda x: jax.nn.softmax(logits_fn(x)))
    assert found.startswith("the logits are probabilities")
    found = doubts(lambda x: jax.nn.one_hot(logits_fn(x).argmax(axis=1), CLASSES))
    assert "whole numbers" in found and "gradient of cross_entropy is zero" in found
    # A square attack needs none.
    assert "gradient of" not in doubts(lambda x: jnp.round(3 * logits_fn(x)), SHORT[3:])
    rng = np.random.default_rng(0)
    assert "two calls of the classifier disagree" in doubts(
        lambda x: logits_fn(x) + rng.normal(size=(1, CLASSES)).astype(np.float32)
    )

    def flat(images):  # Most gradients are cut off.
        logits = logits_fn(images)
        cut = jax.lax.stop_gradient(logits)
        return jnp.where(images[:, 0, 0] < 0.8, cut, logits)

    assert "gradient of cross_entropy is zero at" in doubts(flat)


def test_square_after_blind_attacks_warns(problem):
    # The gradient leads the wrong way.
    masked = (*problem[:2], Partial(masked_network, problem[2]))
    steps = SHORT[0], AttackStep("square", "square", {"steps": 60})
    with pytest.warns(MisleadingEvaluation, match="square broke .* hide its gradients"):
        result = run(masked, version=steps, epsilon=0.1)
    assert result.log[-1]["robust"] < result.log[1]["robust"]
    assert len(result.warnings) == 1


def masked_network(logits_fn, images):
    logits = logits_fn(images)
    return jax.lax.stop_gradient(2 * logits) - logits


@pytest.mark.parametrize("classes", [2, 3])
def test_few_classes(classes, problem, monkeypatch):
    """A linear classifier, whose distance to the border is known."""
    images, _, _ = problem
    plane = np.random.default_rng(1).normal(size=(25, classes)).astype(np.float32)

    def linear(x):
        return (x.reshape(len(x), -1) - 0.5) @ plane

    logits = np.asarray(linear(images))
    labels = logits.argmax(axis=1)
    for step in VERSIONS["few_classes"]:
        assert step.parameters.get("loss") in (None, "cross_entropy", "margin")
    short = [
        step._replace(parameters={**step.parameters, "steps": 10})
        for step in VERSIONS["few_classes"]
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MisleadingEvaluation)
        found = run((images, labels, linear), version=short)
    # How far the border is in L-inf, where the box is not met: the difference of two
    # logits by the L1 norm of the difference of their weights.
    right = np.arange(len(labels))
    distance = np.full(len(labels), np.inf)
    for k in range(classes):
        gap = logits[right, labels] - logits[:, k]
        size = np.abs(plane[:, labels] - plane[:, [k]]).sum(axis=0)
        closer = np.divide(gap, size, out=np.full_like(gap, np.inf), where=size > 0)
        distance = np.minimum(distance, closer)
    # Inside the box no image is farther from the border than without it.
    assert not (found.robust & (distance < 0.9 * EPSILON) & _inside(images)).any()
    assert found.robust[distance > EPSILON].all()
    assert [row["attack"] for row in found.log[1:]] == [x.name for x in short]


def _inside(images):
    """Images that no step within the budget takes out of the box."""
    flat = images.reshape(len(images), -1)
    return (flat.min(axis=1) > EPSILON) & (flat.max(axis=1) < 1 - EPSILON)
