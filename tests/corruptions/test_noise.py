"""The statistics of each noise, mixes of them, and the suite of the paper."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy import stats

from uronet_jax import corruptions, sharding
from uronet_jax.corruptions import CORRUPTIONS, NOISES, noise

# A parameter in the middle of the range, for each entry of NOISES.
PARAMETERS = {name: 0.25 for name in NOISES} | {"shot_noise": 20.0}
traces = []


@jax.jit
def degrade(key, images, degradation, index):
    traces.append(images.shape)
    return corruptions.degrade(key, images, degradation, index)


@pytest.fixture(scope="module")
def images():
    # Textured, away from 0 and 1 so that every change shows.
    return jax.random.uniform(jax.random.key(1), (8, 16, 16, 3), minval=0.3, maxval=0.7)


@pytest.fixture(scope="module")
def grey():
    return jnp.full((64, 16, 16, 3), 0.5)


def test_one_program_serves_every_noise_and_severity(key, images):
    traces.clear()
    for name, (function, settings) in corruptions.SUITES["uronet"].items():
        chex.clear_trace_counter()

        @jax.jit
        @chex.assert_max_traces(n=1)
        def run(parameters, function=CORRUPTIONS[function]):
            return function(key, images, **parameters)

        changes = []
        for entry in corruptions.suite_degradations(noises=[name]):
            severity, fixed = entry.severity, corruptions.make_degradation([entry[2:]])
            with jax.numpy_dtype_promotion("strict"):
                corrupted = corruptions.corrupt(
                    key, images, f"uronet/{name}", severity=severity
                )
                traced = run(dict(settings[severity - 1]))
            degraded = degrade(key, images, fixed, jnp.arange(8))
            # Fused multiply-adds round differently under jit.
            chex.assert_trees_all_close(traced, corrupted, atol=1e-6)
            chex.assert_trees_all_close(degraded, corrupted, atol=1e-6)
            changes.append(float(jnp.mean(jnp.abs(corrupted - images))))
        # The published UN runs from its strongest to its weakest level.
        assert changes == sorted(changes, reverse=name == "UN")
        assert len(set(changes)) == 3 and min(changes) > 0.0
    assert len(traces) <= 1  # None if an earlier test has compiled it.


@pytest.mark.parametrize("name", NOISES)
def test_result_depends_on_the_global_index_only(name, key, images):
    fixed = corruptions.make_degradation([(name, PARAMETERS[name])])
    whole = np.asarray(degrade(key, images, fixed, jnp.arange(8)))
    for part in (jnp.array([3, 0, 7, 5, 1, 2, 6, 4]), jnp.arange(4, 8)):
        out = degrade(key, images[part], fixed, part)
        np.testing.assert_array_equal(out, whole[part])
    batch = sharding.split_batch((images, np.arange(8)), sharding.data_mesh())
    spread = degrade(key, batch[0], fixed, batch[1])
    np.testing.assert_array_equal(np.asarray(spread), whole)


def test_images_and_keys_get_different_noise(key, grey):
    uniform = np.asarray(noise.uniform_draw(key, grey.shape))
    assert len(np.unique(uniform[:, 0, 0, 0])) == len(grey)
    other = np.asarray(noise.uniform_draw(jax.random.key(7), grey.shape))
    # Correlation of n = 49,152 independent pairs: standard deviation 1 / sqrt(n).
    for a, b in ((uniform, other), (uniform, np.roll(uniform, 1, axis=0))):
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 5 / np.sqrt(a.size)


def test_gaussian_noise_is_normal_and_independent_over_channels(key, grey):
    out = noise.gaussian_noise(key, grey, scale=0.08)  # Never clips at 0.5.
    z = (np.asarray(out, np.float64) - 0.5) / 0.08
    # Kolmogorov-Smirnov distance: 1.95 / sqrt(n) is exceeded in 0.1 % of all seeds.
    assert stats.kstest(z.ravel(), "norm").statistic < 1.95 / np.sqrt(z.size)
    # Float32 tails count: kurtosis 3 has standard deviation sqrt(24 / n).
    assert abs(stats.kurtosis(z.ravel())) < 5 * np.sqrt(24 / z.size)
    correlation = np.corrcoef(z.reshape(-1, 3).T) - np.eye(3)
    assert np.abs(correlation).max() < 5 / np.sqrt(z.size / 3)


def test_extreme_uniforms_give_finite_symmetric_normals():
    ends = jnp.array([0.0, 1 - 2.0**-23]).reshape(2, 1, 1, 1)
    low, high = NOISES["gaussian_noise"](ends, jnp.zeros_like(ends), 1.0).ravel()
    np.testing.assert_allclose([low, high], stats.norm.ppf([2**-24, 1 - 2**-24]), 1e-3)


@pytest.mark.parametrize(
    ("options", "low", "high", "centre"),
    [
        ({}, -0.3, 0.3, 0.4),
        ({"shared_channels": True}, -0.3, 0.3, 0.4),
        ({"positive": True}, 0.0, 0.3, 0.4),
        ({"contrast": 0.3}, -0.3, 0.3, 0.35 + 0.3 * 0.4),
    ],
)
def test_uniform_noise_readings(options, low, high, centre, key, grey):
    out = noise.uniform_noise(key, grey - 0.1, half_width=0.3, **options)
    added = np.asarray(out, np.float64) - centre
    independent = added if "shared_channels" not in options else added[..., 0]
    distance = stats.kstest(independent.ravel(), "uniform", (low, high - low)).statistic
    # Exceeded in 0.1 % of all seeds.
    assert distance < 1.95 / np.sqrt(independent.size)
    assert np.all(np.ptp(added, axis=-1) == 0) == ("shared_channels" in options)


@pytest.mark.parametrize(
    ("function", "per_channel"),
    [("impulse_noise", True), ("salt_and_pepper_noise", False)],
)
@pytest.mark.parametrize("amount", (0.09, 0.5))
def test_replaced_fraction(function, per_channel, amount, key, grey):
    out = np.asarray(CORRUPTIONS[function](key, grey, amount=amount))
    if not per_channel:
        assert np.all(out == out[..., :1])
        out = out[..., 0]
    n = out.size
    for value in (0.0, 1.0):
        # Five binomial standard deviations.
        bound = 5 * np.sqrt(amount / 2 * (1 - amount / 2) / n)
        assert abs(np.mean(out == value) - amount / 2) < bound
    assert set(np.unique(out)) == {0.0, 0.5, 1.0}
    if per_channel:
        # All three channels of a pixel are hit with probability amount ** 3.
        together = np.mean(np.all(out != 0.5, axis=-1))
        assert abs(together - amount**3) < 5 * np.sqrt(amount**3 / (n / 3))


def test_replacing_none_or_all(key, grey):
    for amount, values in ((0.0, {0.5}), (1.0, {0.0, 1.0})):
        out = noise.impulse_noise(key, grey, amount=amount)
        assert set(np.unique(out)) == values


def test_speckle_noise_scales_with_the_intensity(key, grey):
    levels = np.repeat([0.0, 0.2, 0.4, 0.5], 16).reshape(-1, 1, 1, 1)
    images = jnp.asarray(levels * np.ones(grey.shape), jnp.float32)
    out = np.asarray(noise.speckle_noise(key, images, scale=0.15))
    assert np.all(out[:16] == 0.0)
    # Standard deviation of an estimated standard deviation s: s / sqrt(2 n).
    for level, part in ((0.2, out[16:32]), (0.4, out[32:48]), (0.5, out[48:])):
        bound = 5 / np.sqrt(2 * part.size)
        np.testing.assert_allclose(part.std(), 0.15 * level, rtol=bound)


@jax.jit
def search_to_the_end(uniform, mean):
    """What accelerators do, without a look at whether all searches have ended."""
    steps = noise._poisson_steps(jnp.max(mean))
    return noise._search_poisson(steps, uniform, mean, unroll=16, stops_early=False)


# The means on both sides of each branch, the published rates, and very large ones.
@pytest.mark.parametrize(
    "mean",
    (0.0, 0.01, 0.5, 3.0, 9.99, 10.0, 10.01, 10.99, 12.0, 25.0, 60.0, 500.0, 1e4),
)
def test_poisson_quantile_inverts_the_distribution_function(mean):
    uniform = np.random.default_rng(0).integers(0, 2**23, 2**16) * 2.0**-23
    uniform[:3] = 0.0, 2.0**-23, 1 - 2.0**-23
    quantile = jax.jit(noise.poisson_quantile)
    means = jnp.full(uniform.shape, mean, jnp.float32)
    argument = jnp.asarray(uniform, jnp.float32)
    count = np.asarray(quantile(argument, means, jnp.float32(mean)), np.float64)
    longer = quantile(argument, means, jnp.float32(2e4))
    np.testing.assert_array_equal(longer, count)
    np.testing.assert_array_equal(search_to_the_end(argument, means), count)
    exact = float(means[0])
    assert np.all(count == np.floor(count)) and count.min() >= 0
    # cdf(count - 1) < u <= cdf(count), but for u within float32 error of a step.
    assert np.all(stats.poisson.cdf(count - 1, exact) < uniform + 1e-6)
    assert np.all(stats.poisson.cdf(count, exact) > uniform - 1e-6)


@pytest.mark.parametrize("rate", (3.0, 500.0))
def test_shot_noise_has_poisson_moments(rate, key, grey):
    out = np.asarray(noise.shot_noise(key, grey * 0.2, rate=rate), np.float64)
    np.testing.assert_allclose(out * rate, np.round(out * rate), atol=1e-4)
    # At intensity 0.1 the clip at 1 is never reached. Standard deviations: of the mean
    # sqrt(v / n); of the variance v sqrt((2 + 1 / mean count) / n).
    variance, n = 0.1 / rate, out.size
    assert abs(out.mean() - 0.1) < 5 * np.sqrt(variance / n)
    bound = 5 * variance * np.sqrt((2 + 10 / rate) / n)
    assert abs(out.var() - variance) < bound
    black = noise.shot_noise(key, jnp.zeros_like(grey), rate=rate)
    assert np.all(np.asarray(black) == 0.0)


@pytest.mark.parametrize("name", ("gaussian_noise", "uniform_noise", "speckle_noise"))
def test_gradients_match_finite_differences(name, key, images):
    uniform = noise.uniform_draw(key, images.shape)

    def noisy(images, parameter):
        return NOISES[name](uniform, images, parameter)  # Unclipped.

    # float32: central differences carry an error of about 1e-3.
    check_grads(noisy, (images, 0.1), order=1, modes=("rev",), atol=2e-2, rtol=2e-2)


def test_gradient_passes_where_the_result_depends_on_the_image(key, images):
    def gradient(function, **parameters):
        return jax.grad(lambda x: function(key, x, **parameters).sum())(images)

    kept = noise.impulse_noise(key, images, amount=0.25) == images
    replaced = gradient(noise.impulse_noise, amount=0.25)
    np.testing.assert_array_equal(replaced, kept.astype(jnp.float32))
    assert np.all(np.asarray(gradient(noise.shot_noise, rate=20.0)) == 0.0)


def test_gradient_through_a_mix_is_finite(key, images, mix):
    loss = jax.jit(jax.grad(lambda x: corruptions.degrade(key, x, mix).sum()))
    chex.assert_tree_all_finite(loss(images))


@pytest.fixture(scope="module")
def mix():
    return corruptions.make_degradation(list(PARAMETERS.items()))


@pytest.fixture(scope="module")
def entries(mix):
    choose = jax.jit(corruptions.choose_entries)
    return np.asarray(choose(jax.random.key(0), mix, jnp.arange(11_000)))


def test_entries_of_a_mix_are_equally_likely(entries):
    # Exceeded by chi-square with 10 degrees of freedom in 0.02 % of all seeds.
    assert stats.chisquare(np.bincount(entries, minlength=len(NOISES))).statistic < 34


def test_each_image_of_a_mix_gets_its_own_noise(key, grey, mix, entries):
    index = 100 + jnp.arange(64)
    out = degrade(key, grey, mix, index)
    uniform = noise.uniform_draw(key, grey.shape, index)
    for i, name in enumerate(NOISES):
        chosen = entries[100:164] == i
        assert chosen.any()
        alone = jnp.clip(NOISES[name](uniform, grey, PARAMETERS[name]), 0.0, 1.0)
        # Fused multiply-adds round differently under jit.
        chex.assert_trees_all_close(out[chosen], alone[chosen], atol=1e-6)
    chex.assert_trees_all_equal(degrade(key, grey, mix, index[::-1]), out[::-1])


def test_each_image_draws_a_strength_of_one_noise(key, grey):
    strengths = (0.05, 0.2, 0.6)
    one = corruptions.make_degradation([("gaussian_noise", x) for x in strengths])
    assert (one.kind.shape, one.parameter.shape) == ((), (3,))
    index = 100 + jnp.arange(64)
    chosen = corruptions.choose_entries(key, one, index)
    several = corruptions.Degradation(jnp.repeat(one.kind, 3), one.parameter)
    chex.assert_trees_all_equal(chosen, corruptions.choose_entries(key, several, index))
    out = degrade(key, grey, one, index)
    for i, scale in enumerate(strengths):
        alone = corruptions.gaussian_noise(key, grey, scale=scale, index=index)
        assert (chosen == i).any()
        # Fused multiply-adds round differently under jit.
        chex.assert_trees_all_close(out[chosen == i], alone[chosen == i], atol=1e-6)


def test_uronet_suite_matches_the_table():
    table = {
        "GN": (0.08, 0.12, 0.18),
        "UN": (0.5, 0.3, 0.1),
        "SPN": (0.1, 0.3, 0.5),
        "SN": (60, 25, 12),
        "IN": (0.03, 0.06, 0.09),
        "SPKN": (0.15, 0.2, 0.35),
    }
    entries = corruptions.suite_degradations()
    assert [e[:2] for e in entries] == [(n, s) for n in table for s in (1, 2, 3)]
    assert [e.parameter for e in entries] == [p for n in table for p in table[n]]
    assert corruptions.make_degradation([e[2:] for e in entries]).kind.shape == (18,)


@pytest.mark.parametrize(
    ("reading", "noise_name", "options"),
    [
        ({"spn_reading": "per_channel"}, "SPN", {"per_channel": True}),
        ({"un_reading": "per_pixel"}, "UN", {"shared_channels": True}),
        ({"un_reading": "positive"}, "UN", {"positive": True}),
        ({"un_reading": "low_contrast"}, "UN", {"contrast": 0.3}),
    ],
)
def test_readings_select_the_matching_kind(reading, noise_name, options, key, images):
    (entry,) = corruptions.suite_degradations(
        noises=[noise_name], severities=[1], **reading
    )
    chex.assert_trees_all_close(
        degrade(key, images, corruptions.make_degradation([entry[2:]]), jnp.arange(8)),
        corruptions.corrupt(key, images, f"uronet/{noise_name}", severity=1, **options),
        atol=1e-6,  # Fused multiply-adds round differently under jit.
    )
