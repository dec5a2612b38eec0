"""Certificates: closed forms, independent oracles, and an attack that must fail."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from scipy import stats

from uronet_jax import sharding
from uronet_jax.attacks import pgd
from uronet_jax.defense import DefenseFunction
from uronet_jax.evaluation.certify import (
    Smoothing,
    certified_radius,
    certify,
    predicted_class,
    probability_bound,
    summarize_certificates,
)
from uronet_jax.models import Separation

SHAPE = (4, 4, 1)


def scores(variables, images):
    """Two classes on both sides of a hyperplane: `w x + b` against 0."""
    odds = images.reshape(len(images), -1) @ variables["w"] + variables["b"]
    return jnp.stack([odds, jnp.zeros_like(odds)], axis=-1)


def run(classify, variables, images, labels, smoothing, *, mesh, **options):
    options = {"batch_size": 4, "samples_at_once": 100} | options
    variables = sharding.replicate({"classifier": variables, "purifier": {}}, mesh)
    purifier = options.pop("purifier", None)
    defense = DefenseFunction(classify, purifier)
    return certify(
        defense, variables, (images, labels), smoothing, mesh=mesh, **options
    )


@pytest.fixture(scope="module")
def plane():
    """Eight black and white images at distances of 0.05 to 0.75 from a hyperplane.

    Half of their noise would be lost if it were clipped.
    """
    rng = np.random.default_rng(0)
    images = rng.integers(0, 2, (8, *SHAPE)).astype(np.float32)
    w = rng.normal(size=16).astype(np.float32)
    w /= np.linalg.norm(w)
    return images, w


def test_a_linear_classifier_has_its_distance_as_radius(plane, mesh):
    images, w = plane
    smoothing = Smoothing(sigma=0.5, num_samples=4_000)
    exact = np.linspace(0.05, 0.75, 8)
    for image, distance in zip(images, exact, strict=True):
        # Its smoothed version is the classifier itself.
        variables = {"w": w, "b": np.float32(distance - image.ravel() @ w)}
        (row,) = run(
            scores,
            variables,
            image[None],
            np.array([0]),
            smoothing,
            mesh=mesh,
            samples_at_once=1000,
        )
        share = stats.norm.cdf(distance / 0.5)
        # alpha is 3.1 standard errors of the share, which itself is within 4.
        lowest = share - 7.5 * np.sqrt(share * (1 - share) / 4_000)
        assert row["radius"] < distance
        if lowest > 0.5:
            assert row["predicted"] == 0 == row["prediction"]
            assert row["radius"] > 0.5 * stats.norm.ppf(lowest)


def in_range(variables, images):
    del variables
    inside = jnp.all((images >= 0.0) & (images <= 1.0), axis=(1, 2, 3))
    return jnp.stack([inside, ~inside], axis=-1).astype(jnp.float32)


@pytest.mark.parametrize("clip", [False, True])
def test_the_defence_gets_clipped_copies_where_it_asks_for_them(plane, mesh, clip):
    images, _ = plane
    labels = np.zeros(8, int)
    smoothing = Smoothing(0.5, num_selection=10, num_samples=100)
    rows = run(in_range, {}, images, labels, smoothing, mesh=mesh, clip=clip)
    # Of 16 black and white pixels none leaves the range once in 2^16 copies.
    assert {row["prediction"] for row in rows} == {0 if clip else 1}
    if clip:
        assert {row["successes"] for row in rows} == {100}


@pytest.mark.parametrize(
    ("successes", "trials"), [(0, 10), (1, 10), (7, 10), (10, 10), (9_871, 10_000)]
)
@pytest.mark.parametrize("alpha", [0.001, 0.05])
def test_the_bound_is_that_of_scipys_exact_interval(successes, trials, alpha):
    interval = stats.binomtest(successes, trials).proportion_ci(1 - 2 * alpha, "exact")
    assert probability_bound(successes, trials, alpha) == pytest.approx(
        interval.low, rel=1e-9
    )


def test_counts_give_the_radius_of_the_papers_formula():
    # All of 10,000 copies agree: p^n = alpha.
    found = certified_radius(10_000, 10_000, sigma=0.25, alpha=0.001)
    expected = 0.25 * stats.norm.ppf(0.001 ** (1 / 10_000))
    assert found == pytest.approx(expected, rel=1e-9)
    assert found == pytest.approx(0.8, abs=2e-3)
    found = certified_radius(900, 1000, sigma=1.0, alpha=0.001)
    bound = stats.beta.ppf(0.001, 900, 101)
    assert found == pytest.approx(stats.norm.ppf(bound), rel=1e-9)
    # 1,000 fair coins: above 549 heads their share could not be one half any more.
    assert certified_radius(549, 1000, sigma=1.0, alpha=0.001) is None
    assert certified_radius(550, 1000, sigma=1.0, alpha=0.001) > 0


@pytest.mark.parametrize("counts", [(60, 40), (66, 34), (70, 30), (30, 4, 66), (5, 5)])
def test_predictions_are_scipys_binomial_test(counts):
    first, second = sorted(counts)[-1], sorted(counts)[-2]
    pvalue = stats.binomtest(first, first + second).pvalue
    expected = int(np.argmax(counts)) if pvalue <= 0.001 else None
    assert predicted_class(np.array(counts), 0.001) == expected


def test_a_classifier_that_guesses_gets_no_certificate(plane, mesh):
    images, w = plane
    # Every image on the plane: its noise alone decides.
    images = np.full_like(images, 0.5)
    variables = {"w": w, "b": np.float32(-0.5 * w.sum())}
    labels = np.zeros(8, int)
    rows = run(scores, variables, images, labels, Smoothing(0.25), mesh=mesh)
    assert {(r["predicted"], r["prediction"], r["radius"]) for r in rows} == {
        (None, None, 0.0)
    }
    # 4 standard deviations of 10,000 fair coins.
    assert all(abs(r["successes"] - 5_000) < 200 for r in rows)
    assert summarize_certificates(rows, (0.0,))["abstained"] == 1.0


def test_rows_do_not_depend_on_batches_devices_or_interruptions(plane, mesh):
    images, w = plane
    variables = {"w": w, "b": np.float32(0.1 - images[0].ravel() @ w)}
    given = scores, variables, images[:7], np.arange(7) % 2, Smoothing(0.5, 10, 130)
    whole = run(*given, mesh=mesh, batch_size=4, samples_at_once=50, seed=3)
    assert [row["image"] for row in whole] == list(range(7))
    assert len({row["successes"] for row in whole}) > 3
    one = sharding.data_mesh(jax.devices()[:1])
    assert run(*given, mesh=one, batch_size=3, samples_at_once=7, seed=3) == whole
    parts = []
    again = run(
        *given, mesh=one, batch_size=3, samples_at_once=7, seed=3, rows=whole[:2],
        on_rows=lambda rows: parts.append(len(rows)),
    )  # fmt: skip
    assert again == whole and parts == [5, 7]
    other = run(*given, mesh=one, batch_size=3, samples_at_once=7, seed=4)
    assert other != whole


class Coin(nn.Module):
    """A network that draws, as any Flax module, for a whole batch."""

    @nn.compact
    def __call__(self, images):
        key = self.make_rng("defense")
        return images * jax.random.bernoulli(key, 0.5)


def coins(variables, images, key=None, index=None):
    """A purifier that draws for each image: black or white."""
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(index)
    white = jax.vmap(lambda k: jax.random.bernoulli(k, 0.3))(keys)
    clean = jnp.broadcast_to(white[:, None, None, None], images.shape)
    return Separation(clean.astype(jnp.float32), images)


def test_a_random_purifier_draws_for_every_copy(plane, mesh):
    variables = {"w": np.ones(16, np.float32), "b": np.float32(-0.5)}
    images, labels = plane[0][:4], np.zeros(4, int)
    rows = run(
        *(scores, variables, images, labels, Smoothing(0.5, 100, 2_000)),
        mesh=mesh,
        purifier=coins,
    )
    # 70 % are black, class 1: five standard deviations of 2,000 draws.
    assert all(abs(r["successes"] - 1_400) < 103 for r in rows)
    assert len({r["successes"] for r in rows}) > 1


def hidden(variables, images):
    x = jnp.tanh(images.reshape(len(images), -1) @ variables["in"])
    return x @ variables["out"]


def test_no_attack_within_its_radius_changes_a_certified_answer(mesh, key):
    """A trained network, attacked through its noise by gradients."""
    rng = np.random.default_rng(0)
    labels = np.arange(64) % 2
    means = rng.uniform(0.35, 0.65, (2, *SHAPE))
    images = np.clip(means[labels] + 0.15 * rng.normal(size=(64, *SHAPE)), 0, 1)
    images = images.astype(np.float32)
    weights = {
        "in": rng.normal(size=(16, 8)).astype(np.float32),
        "out": rng.normal(size=(8, 2)).astype(np.float32),
    }
    sigma = 0.25
    noise = sigma * jax.random.normal(key, (100, 1, *SHAPE))

    def loss(weights, images, labels):
        logits = jax.vmap(lambda x: hidden(weights, images + x))(noise)
        chances = nn.softmax(logits).mean(axis=0)
        return -jnp.log(jnp.take_along_axis(chances, labels[:, None], axis=1)[:, 0])

    optimizer = optax.adam(0.05)

    @jax.jit
    def update(weights, state):
        grads = jax.grad(lambda w: loss(w, images, labels).mean())(weights)
        changes, state = optimizer.update(grads, state)
        return optax.apply_updates(weights, changes), state

    state = optimizer.init(weights)
    for _ in range(40):
        weights, state = update(weights, state)
    part = slice(0, 16)
    images, labels = images[part], labels[part]
    smoothing = Smoothing(sigma, num_samples=2_000)
    say = functools.partial(run, hidden, weights, mesh=mesh)
    rows = say(images=images, labels=labels, smoothing=smoothing)
    radii = np.array([row["radius"] for row in rows])
    said = np.array([-1 if r["predicted"] is None else r["predicted"] for r in rows])
    sure = said >= 0
    assert sure.sum() >= 10 and (said == labels)[sure].mean() > 0.7

    def attacked(scale):
        epsilon = jnp.asarray(np.maximum(scale * radii, 1e-3), jnp.float32)
        return pgd(
            *(key, images, lambda x: loss(weights, x, np.maximum(said, 0))),
            epsilon=epsilon,
            step_size=epsilon / 4,
            steps=10,
            norm="l2",
        )

    def moved(scale):
        after = say(
            images=np.asarray(attacked(scale)), labels=labels, smoothing=smoothing
        )
        # By PREDICT: wrong with probability alpha, 0.016 for all 16 images together.
        return [
            row["prediction"] not in (None, before)
            for row, before in zip(after, said, strict=True)
            if before >= 0
        ]

    assert not any(moved(1.0))
    assert any(moved(4.0))  # The attack is one.


def test_the_summary_by_hand():
    def row(label, predicted, radius, prediction):
        return {
            **{"label": label, "predicted": predicted},
            **{"radius": radius, "prediction": prediction},
        }

    rows = [row(0, 0, 0.5, 0), row(1, 1, 0.25, 1), row(1, 0, 0.75, 0)]
    rows += [row(0, None, 0.0, 0)]
    found = summarize_certificates(rows, (0.0, 0.25, 0.3, 0.6))
    assert [x["accuracy"] for x in found["certified"]] == [0.5, 0.5, 0.25, 0.0]
    assert found["average_certified_radius"] == pytest.approx(0.75 / 4)
    assert (found["accuracy"], found["abstained"]) == (0.75, 0.25)
    with pytest.raises(ValueError, match="at least one row"):
        summarize_certificates([], (0.0,))
    with pytest.raises(ValueError, match="each of radii must"):
        summarize_certificates(rows, (-0.1,))


def broken(variables, images):
    return jnp.where(images[:, 0, 0] < 0, jnp.nan, jnp.ones((1, 2)))


def smaller(variables, images, key=None, index=None):
    return Separation(images[:, ::2], images[:, ::2])


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"smoothing": {"sigma": 0.0}}, r"sigma must be a finite number in \(0"),
        ({"smoothing": {"sigma": -1.0}}, r"sigma must .*: -1.0"),
        ({"smoothing": {"num_samples": 0}}, r"num_samples must be an integer in \[1"),
        ({"smoothing": {"num_selection": 0}}, "num_selection must be an integer"),
        ({"smoothing": {"alpha": 0.0}}, r"alpha must be .* in \(0, 1\): 0.0"),
        ({"smoothing": {"alpha": 1.0}}, r"alpha must be .* in \(0, 1\): 1.0"),
        ({"images": np.zeros((0, *SHAPE), np.float32)}, "at least 1"),
        ({"images": np.full((4, *SHAPE), 2.0, np.float32)}, r"must be in \[0, 1\]"),
        ({"labels": np.array([0, 1, 2, 0])}, "2 classes, so labels must be 0 to 1: f"),
        ({"labels": np.array([0, 1, -1, 0])}, "labels must be integers from 0 on"),
        ({"classify": broken}, r"not finite, in 4 images, the first \[0, 1, 2, 3\]"),
        ({"purifier": smaller}, r"makes \[400, 2, 4, 1\] of images \[400, 4, 4, 1\]"),
        ({"purifier": Coin()}, "draws once for a batch"),
        ({"batch_size": 6}, "cannot be split evenly over 4"),
        ({"samples_at_once": 0}, "samples_at_once must be an integer"),
    ],
)
def test_wrong_inputs_are_named(change, expected, mesh):
    variables = {"w": np.ones(16, np.float32), "b": np.float32(0.0)}
    given = {
        "classify": scores,
        "images": np.full((4, *SHAPE), 0.5, np.float32),
        "labels": np.zeros(len(change.get("images", "four")), int),
    }
    settings = {"sigma": 0.5, "num_selection": 10, "num_samples": 10}
    change = dict(change)
    settings |= change.pop("smoothing", {})
    with pytest.raises(ValueError, match=expected):
        run(
            variables=variables,
            smoothing=Smoothing(**settings),
            mesh=mesh,
            **given | change,
        )


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((11, 10, 0.1), r"successes must be an integer in \[0, 10\]: 11"),
        ((0, 0, 0.1), "trials must be an integer"),
        ((1, 2, 1.5), "alpha must be a finite number"),
    ],
)
def test_impossible_counts_are_named(arguments, expected):
    with pytest.raises(ValueError, match=expected):
        probability_bound(*arguments)
