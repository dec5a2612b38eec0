"""Distances along noise: by hand, beside the search written out in NumPy, and eps*."""

import functools
import json
from unittest import mock

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from uronet_jax import sharding
from uronet_jax.attacks.loop import iterate
from uronet_jax.evaluation import noise_robustness as module
from uronet_jax.evaluation.judge import Judge
from uronet_jax.evaluation.noise_robustness import (
    NOISE_DIRECTIONS,
    eps_star_text,
    gaussian_direction,
    learned_direction,
    noise_distances,
    noise_robustness,
    uniform_direction,
)
from uronet_jax.models import learned_noise
from uronet_jax.models.noise_generator import NoiseGenerator

SIDE = 8
# Grey images of these levels, ten, so that the last batch is padded.
LEVELS = np.array([26, 51, 77, 102, 115, 140, 153, 179, 204, 250], np.uint8)
IMAGES = np.broadcast_to(LEVELS[:, None, None, None], (10, SIDE, SIDE, 1))
GREY = LEVELS / 255
# Sums over 64 pixels, those of brightness and length, are known to 64 * 6e-8 of their
# value, and lengths are at most SIDE.
ROUNDING = 64 * 6e-8 * SIDE
ZEROS = np.zeros(10, np.int32)


def make_judge(images=IMAGES, labels=ZEROS, batch_size=4, devices=4):
    mesh = sharding.data_mesh(jax.devices()[:devices])
    return Judge((images, labels), batch_size=batch_size, mesh=mesh)


@pytest.fixture(scope="module")
def judge():
    return make_judge()


def brighter(key, index, shape):
    """At length 1 every pixel is 1 / SIDE: brightness grows by radius / SIDE."""
    return jnp.full((len(index), *shape), 7.0)


def by_brightness(variables, images):
    """Says 1 from `low` to `high`, and 0 elsewhere."""
    mean = images.mean(axis=(1, 2, 3))
    inside = jnp.minimum(mean - variables["low"], variables["high"] - mean)
    return jnp.stack([jnp.zeros_like(inside), inside], axis=-1)


def band(low, high=2.0):
    return {"low": np.float32(low), "high": np.float32(high)}


def test_distances_in_closed_form(judge):
    # Nothing is clipped on the way to brightness 0.9, and the classifier is linear. The
    # last image is wrong as it is.
    expected = np.maximum(SIDE * (0.9 - GREY), 0.0)
    found = noise_distances(judge, by_brightness, band(0.9), brighter)
    # Forty halvings of a radius below 8 leave 2e-11, less than float32 can tell.
    np.testing.assert_allclose(found, expected, rtol=0, atol=ROUNDING)
    assert found[-1] == 0 and found.dtype == np.float64


@pytest.mark.parametrize("steps", [1, 6, 12])
def test_few_steps_leave_a_known_remainder(judge, steps):
    border = SIDE * (0.9 - GREY[:-1])
    radii = 1.8 ** np.arange(11)
    coarse = radii[np.searchsorted(radii, border)]
    found = noise_distances(judge, by_brightness, band(0.9), brighter, steps=steps)[:-1]
    # The first wrong radius and 0 enclose the border before the second step, which
    # halves what is between, as each one after it. The border is never undercut.
    clipped = SIDE * (1 - GREY[:-1])
    if steps == 1:
        np.testing.assert_allclose(found, np.minimum(coarse, clipped), rtol=1e-5)
    assert np.all(found >= border - ROUNDING)
    assert np.all(found <= border + coarse / 2 ** (steps - 1) + ROUNDING)


def test_nothing_fools(judge):
    found = noise_distances(judge, by_brightness, band(1.5), brighter)
    np.testing.assert_array_equal(found, np.inf)
    # White images cannot become brighter.
    white = make_judge(np.full((4, SIDE, SIDE, 1), 255, np.uint8), ZEROS[:4])
    found = noise_distances(white, by_brightness, band(-1.0, 0.999), brighter)
    np.testing.assert_array_equal(found, np.inf)


def test_what_the_coarse_search_steps_over_is_not_found():
    # The brightness of a black image is tried at 0, 1 / 8, 1.8 / 8, ...: of two bands
    # of one width, the one between the tries is missed.
    black = make_judge(np.zeros((4, SIDE, SIDE, 1), np.uint8), ZEROS[:4])
    missed = noise_distances(black, by_brightness, band(0.15, 0.2), brighter)
    np.testing.assert_array_equal(missed, np.inf)
    hit = noise_distances(black, by_brightness, band(0.1, 0.15), brighter)
    np.testing.assert_allclose(hit, SIDE * 0.1, atol=ROUNDING)


def one_corner(key, index, shape):
    """The first pixel is white soon; the others follow at a thousandth of its pace."""
    noise = jnp.full((len(index), *shape), 1e-3)
    return noise.at[:, 0, 0].set(1.0)


@pytest.mark.parametrize(("radius", "found"), [(380, True), (700, True), (730, False)])
def test_the_search_reaches_twice_its_last_radius(radius, found):
    black = make_judge(np.zeros((4, SIDE, SIDE, 1), np.uint8), ZEROS[:4])
    others = 1e-3 * radius / np.sqrt(1 + 63e-6)  # The direction has length 1.
    border = band((1 + 63 * others) / 64)
    distances = noise_distances(black, by_brightness, border, one_corner)
    # 2 * 1.8^10 is 714.
    expected = np.sqrt(1 + 63 * others**2) if found else np.inf
    np.testing.assert_allclose(distances, expected, rtol=1e-5)


# A classifier that bends: along a ray it is right and wrong several times. Colour.
RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (21, 4, 4, 3), np.uint8)
BENT = {
    "first": (1.5 * RNG.normal(size=(48, 12))).astype(np.float32),
    "second": RNG.normal(size=(12, 3)).astype(np.float32),
}


def bent(variables, images, tanh=jnp.tanh):
    hidden = tanh((images.reshape(len(images), -1) - 0.5) @ variables["first"])
    return hidden @ variables["second"]


def search(image, label, noise):
    """The search of one image, in float64, word for word. None: never fooled."""
    direction = noise / np.linalg.norm(noise)

    def move(eta):
        return np.clip(image + eta * direction, 0, 1)

    def right(eta):
        return bent(BENT, move(eta)[None], np.tanh).argmax() == label

    eta = 0.0
    for b in range(11):
        if right(eta):
            eta = 1.8**b
    half, found = eta / 2, np.inf
    for _ in range(40):
        if right(eta):
            eta += half
        else:
            found = np.linalg.norm(move(eta) - image)
            eta -= half
        half /= 2
    return found


@pytest.fixture(scope="module")
def bent_labels():
    labels = bent(BENT, COLOUR / 255, np.tanh).argmax(axis=-1).astype(np.int32)
    labels[:2] = (labels[:2] + 1) % 3  # Wrong as they are.
    return labels


@pytest.fixture(scope="module")
def bent_distances(bent_labels):
    judge = make_judge(COLOUR, bent_labels, batch_size=8)
    return noise_distances(judge, bent, BENT, seed=5)


def test_distances_are_those_of_the_search_written_out(bent_labels, bent_distances):
    key = jax.random.fold_in(jax.random.key(5), 0)
    noise = np.asarray(gaussian_direction(key, jnp.arange(21), (4, 4, 3)), np.float64)
    images = COLOUR.astype(np.float64) / 255
    expected = [search(*of) for of in zip(images, bent_labels, noise, strict=True)]
    # float32 knows logits and pixels to about 1e-6.
    np.testing.assert_allclose(bent_distances, expected, rtol=1e-4, atol=1e-5)
    # All cases occur, and most distances are clipped ones: those of noise on images
    # that are black or white in places.
    assert expected[:2] == [0, 0] and np.isinf(expected).any()
    assert np.isfinite(expected).sum() > 10


@pytest.mark.parametrize(("batch_size", "devices"), [(4, 4), (7, 1), (21, 1), (24, 2)])
def test_results_depend_neither_on_batches_nor_on_devices(
    batch_size, devices, bent_labels, bent_distances
):
    judge = make_judge(COLOUR, bent_labels, batch_size, devices)
    found = noise_distances(judge, bent, BENT, seed=5)
    np.testing.assert_allclose(found, bent_distances, rtol=1e-5, atol=1e-6)


def test_a_loop_inside_the_program_finds_the_same(
    monkeypatch, bent_labels, bent_distances
):
    """As on accelerators."""

    def inside(step, config, constants, state, steps):
        run = functools.partial(iterate, step, config)
        return jax.jit(run)(constants, state, np.int32(steps))

    monkeypatch.setattr(module, "iterate", inside)
    judge = make_judge(COLOUR, bent_labels, 8)
    found = noise_distances(judge, bent, BENT, seed=5)
    np.testing.assert_allclose(found, bent_distances, rtol=1e-5, atol=1e-6)


def traced_once(function):
    chex.clear_trace_counter()  # It counts by function, over all tests.
    return chex.assert_max_traces(function, n=1)


def test_one_program_serves_all_noises_images_and_weights(bent_labels):
    classify = traced_once(bent)
    weights = jax.tree.map(np.negative, BENT)
    for count, variables in ((21, BENT), (6, weights)):
        judge = make_judge(COLOUR[:count], bent_labels[:count], 8)
        for direction in (gaussian_direction, uniform_direction, brighter):
            for steps in (1, 40):
                found = noise_distances(
                    judge, classify, variables, direction, steps=steps
                )
                assert found.shape == (count,)


def test_directions_are_each_image_s_own(key):
    index, shape = jnp.array([3, 700, 3]), (16, 16, 3)
    for name, low, deviation in (
        ("gaussian", -np.inf, 1.0),
        ("uniform", -1.0, 3**-0.5),
    ):
        noise = np.asarray(NOISE_DIRECTIONS[name](key, index, shape))
        assert noise.shape == (3, *shape) and noise.min() >= low
        np.testing.assert_array_equal(noise[0], noise[2])
        assert np.abs(np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1]) < 0.15
        # Of 768 numbers: four standard errors are 0.11 and less of both.
        np.testing.assert_allclose(noise.std(axis=(1, 2, 3)), deviation, rtol=0.11)
        np.testing.assert_allclose(noise.mean(axis=(1, 2, 3)), 0, atol=0.15)


@pytest.mark.parametrize("name", NOISE_DIRECTIONS)
def test_a_key_draws_the_same_where_jax_enable_x64_is_set(name, key):
    def draw():
        return np.asarray(
            NOISE_DIRECTIONS[name](key, np.arange(2, dtype=np.int32), (3,))
        )

    expected = draw()
    with jax.enable_x64(True):
        found = draw()
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)


DRAW = NoiseGenerator.draw


@pytest.mark.parametrize("window", [1, 3])
def test_learned_noise(window, make_variables, bent_labels):
    generator = NoiseGenerator(window)
    several = [
        make_variables(generator, (4, 4, 3), seed)["params"] for seed in range(3)
    ]
    judge = make_judge(COLOUR, bent_labels, 8)
    classify = traced_once(bent)
    noises = {
        "gaussian": gaussian_direction,
        "learned": [learned_direction(generator, params) for params in several],
    }
    with mock.patch.object(NoiseGenerator, "draw", autospec=True) as drawn:
        drawn.side_effect = DRAW
        gaussian, row = noise_robustness(judge, classify, BENT, noises, seed=5)
    assert drawn.call_count == 1  # One program for all parameters.

    def draw(params, key, index, shape):
        return learned_noise(generator, params, key, index, shape)

    medians = [
        np.median(
            noise_distances(judge, classify, BENT, Partial(draw, p), seed=5, draw=i)
        )
        for i, p in enumerate(several)
    ]
    assert len(set(medians)) == 3
    assert row["eps_stars"] == pytest.approx(medians, rel=1e-5)
    assert row["eps_star"] == pytest.approx(np.mean(medians), rel=1e-5)
    assert row["eps_star_std"] == pytest.approx(np.std(medians, ddof=1), rel=1e-3)
    assert row["noise"] == "learned" and not row["infinite"]
    assert "eps_stars" not in gaussian
    expected = f"{row['eps_star']:.1f} ± {row['eps_star_std']:.1f}"
    assert eps_star_text(row) == expected


def test_a_direction_of_a_sequence_has_its_own_draws(bent_labels, bent_distances):
    judge = make_judge(COLOUR, bent_labels, 8)
    noises = {"twice": [gaussian_direction] * 2}
    (row,) = noise_robustness(judge, bent, BENT, noises, seed=5)
    first, second = row["eps_stars"]
    assert first == pytest.approx(np.median(bent_distances), rel=1e-5)
    assert second != pytest.approx(first, rel=1e-3)


def test_rows_by_hand(judge):
    noises = {"brighter": brighter}
    (row,) = noise_robustness(judge, by_brightness, band(0.9), noises)
    expected = np.median(np.maximum(SIDE * (0.9 - GREY), 0.0))
    assert row == {
        "noise": "brighter",
        "num_images": 10,
        "clean_accuracy": 0.9,
        "eps_star": pytest.approx(expected, abs=ROUNDING),
        "infinite": False,
        "never_fooled": 0.0,
    }
    assert eps_star_text(row, ".2f") == f"{expected:.2f}"


def darker(key, index, shape):
    return -brighter(key, index, shape)


def uneven(key, index, shape):
    """Brighter, and more so in the upper half of an image."""
    upper = jnp.arange(shape[0])[None, :, None, None] < shape[0] // 2
    return brighter(key, index, shape) * jnp.where(upper, 2.0, 1.0)


def test_an_infinite_median_is_said(judge):
    # Nothing that becomes darker is bright: all but the last image stay right.
    noises = {"one": darker, "single": [brighter], "all": [darker] * 2}
    rows = noise_robustness(judge, by_brightness, band(0.9), noises)
    one, single, none = json.loads(json.dumps(rows, allow_nan=False))
    assert one["eps_star"] is None and one["infinite"] and one["never_fooled"] == 0.9
    assert single["eps_star_std"] is None and "±" not in eps_star_text(single)
    assert none["infinite"] and none["eps_stars"] == [None, None]
    assert none["eps_star"] is none["eps_star_std"] is None
    assert eps_star_text(one) == eps_star_text(none) == "infinite"


def test_a_direction_that_fools_nothing_does_not_raise_the_number(judge):
    noises = {"without": [brighter, uneven], "with": [brighter, uneven, darker]}
    rows = noise_robustness(judge, by_brightness, band(0.9), noises)
    less, more = json.loads(json.dumps(rows, allow_nan=False))
    assert more["eps_stars"] == [*less["eps_stars"], None]
    assert not more["infinite"]
    for name in ("eps_star", "eps_star_std"):
        assert more[name] == less[name] > 0
    # What no candidate fooled, of each, in the order of the directions.
    assert more["never_fooled_each"] == [*less["never_fooled_each"], 0.9]
    assert more["never_fooled"] == pytest.approx(np.mean(more["never_fooled_each"]))
    assert eps_star_text(more) == f"{eps_star_text(less)} (1 of 3 infinite)"
    # A single one that is finite has no deviation.
    (row,) = noise_robustness(
        judge, by_brightness, band(0.9), {"both": [darker, brighter]}
    )
    assert row["eps_star"] == less["eps_stars"][0] and row["eps_star_std"] is None


def never(*args):
    raise AssertionError("work was begun")


class Unhashable:
    __hash__ = None

    def __call__(self, variables, images):
        never()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"direction": "gaussian"}, "choose from NOISE_DIRECTIONS"),
        ({"classify": Unhashable()}, "hashable"),
        ({"classify": 3}, "hashable function"),
        ({"steps": 0}, "steps must be an integer"),
        ({"seed": -1}, "seed must be an integer"),
        ({"draw": 0.5}, "draw must be an integer"),
    ],
)
def test_wrong_arguments_come_before_any_work(changes, message, judge):
    arguments = {"classify": never, "variables": {}, "direction": never} | changes
    with pytest.raises(ValueError, match=message):
        noise_distances(judge, **arguments)


@pytest.mark.parametrize(
    ("noises", "message"),
    [
        ({}, "none for any"),
        ({"a": never, "b": []}, r"none for \['b'\]"),
        ({"a": never, "b": [never, 3]}, "must be a function"),
    ],
)
def test_wrong_noises_come_before_any_work(noises, message, judge):
    with pytest.raises(ValueError, match=message):
        noise_robustness(judge, never, {}, noises)


def test_wrong_shapes_are_named(judge):
    def flat(key, index, shape):
        return jnp.zeros((len(index), 3))

    with pytest.raises(ValueError, match=r"noise \[4, 8, 8, 1\] .*float32\[4, 3\]"):
        noise_distances(judge, by_brightness, band(0.9), flat)
    for logits in (lambda v, x: x.mean(axis=(1, 2, 3)), lambda v, x: x[:1, 0, :, 0]):
        with pytest.raises(ValueError, match=r"must return logits \[4, classes\]"):
            noise_distances(judge, logits, {}, brighter)


def test_what_is_not_finite_is_an_error(judge):
    def overflow(variables, images):
        logits = by_brightness(variables, images)
        return jnp.where(images[:, 0, 0] > 0.95, jnp.nan, logits)

    # The last image; and the others, when they have become as bright.
    with pytest.raises(ValueError, match="of 10 images are not finite"):
        noise_distances(judge, overflow, band(1.5), brighter)
    with pytest.raises(ValueError, match=r"of 1 images .* the first \[9\]"):
        noise_distances(judge, overflow, band(1.5), darker)

    def broken(key, index, shape):
        noise = brighter(key, index, shape)
        return jnp.where(index[:, None, None, None] == 2, jnp.nan, noise)

    with pytest.raises(ValueError, match=r"of 1 images .* the first \[2\]"):
        noise_distances(judge, by_brightness, band(0.9), broken)
