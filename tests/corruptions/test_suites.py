"""The family of corruptions: what holds for every entry of `CORRUPTIONS`, and suites.

A new entry is tested here without another line, with the parameters of a suite that has
it, else with those of its example.
"""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uronet_jax import corruptions, sharding
from uronet_jax.corruptions import (
    CORRUPTIONS,
    SUITES,
    corrupt,
    list_corruptions,
    list_severities,
)

NOISES = [entry.function for entry in SUITES["uronet"].values()]

ORDER = np.array([2, 0, 3, 1])


def settings_of(name):
    for suite in ("cifar_c", *SUITES):
        for entry in SUITES[suite].values():
            if entry.function == name:
                return entry.settings
    return (CORRUPTIONS[name].example,)


@pytest.fixture(scope="module")
def images():
    """Four smooth colour pictures with some grain, no two alike, not square."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:28, :36] / 31
    waves = [np.sin(6 * (a * y + b * x) + c) for a, b, c in rng.uniform(0, 1, (12, 3))]
    images = np.stack(waves).reshape(4, 3, 28, 36).transpose(0, 2, 3, 1) * 0.3 + 0.5
    images += rng.uniform(-0.05, 0.05, images.shape)
    return np.clip(images, 0, 1).astype(np.float32)


def test_suites_name_corruptions_and_their_parameters():
    for suite in SUITES:
        for corruption in SUITES[suite].values():
            entry = CORRUPTIONS[corruption.function]
            assert len(corruption.settings) == len(list_severities(suite))
            for setting in corruption.settings:
                assert entry.example.keys() <= setting.keys()
                assert entry.split(setting) == (setting, {})


def test_suites_have_the_published_corruptions():
    for suite in ("cifar_c", "tiny_c", "imagenet_c"):
        names = list_corruptions(suite)
        assert len(names) == 19 and len(list_severities(suite)) == 5
        assert names[:3] == ("gaussian_noise", "shot_noise", "impulse_noise")
        assert names[14] == "jpeg_compression"
        extra = {"speckle_noise", "gaussian_blur", "spatter", "saturate"}
        assert set(names[15:]) == extra
    assert len(list_corruptions("mnist_c")) == 16


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_contract(name, images):
    entry, settings = CORRUPTIONS[name], settings_of(name)
    key, index, last = jax.random.key(0), np.arange(4), len(settings) - 1
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def run(images, choice, index):
        with jax.numpy_dtype_promotion("strict"):
            return entry.run(key, images, settings, choice, index)

    def run_split(choice, order):
        batch = images[order], index[order]
        split, split_index = sharding.split_batch(batch, sharding.data_mesh())
        return np.asarray(run(split, jnp.int32(choice), split_index))

    outputs = [run_split(choice, index) for choice in range(last + 1)]
    for out in outputs:
        assert out.shape == images.shape and out.dtype == images.dtype
        assert np.isfinite(out).all() and out.min() >= 0 and out.max() <= 1
        changed = np.abs(out - images) > 1e-3
        assert not changed.any() if name == "identity" else changed.mean() > 0.005
    for (i, out), (j, other) in itertools.combinations(enumerate(outputs), 2):
        # These two of motion blur differ in weights of exp(-18) and less.
        if (name, i, j) != ("motion_blur", 2, 3):
            assert np.abs(out - other).max() > 1e-3
    # Every image has randomness of its own, which moves with its index.
    np.testing.assert_array_equal(run_split(last, ORDER), outputs[-1][ORDER])
    # On one device, with a severity that is known beforehand, as uint8: float32 sums in
    # another order can move a value across a grey level, but not by more.
    static = np.asarray(entry.run(key, images, settings, last, uint8=True))
    assert static.dtype == np.uint8
    truncated = np.asarray(corruptions.truncate(outputs[-1])).astype(int)
    difference = np.abs(static.astype(int) - truncated)
    assert difference.max() <= 1 and (difference > 0).mean() < 0.01
    # In a batch of another size.
    alone = entry.run(key, images[3:], settings, last, index[3:], uint8=True)
    np.testing.assert_array_equal(alone[0], static[3])
    half = jax.eval_shape(
        lambda x: entry.run(key, x, settings, 0), images.astype(jnp.bfloat16)
    )
    assert half.dtype == jnp.bfloat16 and half.shape == images.shape


@pytest.mark.parametrize("name", [*NOISES, "contrast", "saturate", "pixelate"])
def test_half_precision_stays_in_range(name, images, key):
    half = corrupt(key, images.astype(jnp.bfloat16), name, **CORRUPTIONS[name].example)
    assert half.dtype == jnp.bfloat16 and half.min() >= 0 and half.max() <= 1


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_key_draws_the_same_where_jax_enable_x64_is_set(name, images):
    # JAX draws other numbers where 64 bits are the default and no type is named.
    settings = settings_of(name)[0]
    with jax.enable_x64(True):
        traced = jax.make_jaxpr(
            lambda key, images: corrupt(key, images, name, **settings)
        )(jax.random.key(0), images)
    assert "bit_width=64" not in str(traced)
    assert [x.dtype for x in traced.out_avals] == [np.float32]


@pytest.mark.parametrize("name", ("shot_noise", "rotate", "dead_columns"))
def test_values_are_the_same_where_jax_enable_x64_is_set(name, images, key):
    settings = settings_of(name)[-1]

    def run():
        run = jax.jit(lambda x: corrupt(key, x, name, **settings))
        return np.asarray(run(images[:1]))

    expected = run()
    with jax.enable_x64(True):
        found = run()
    # Sums may be rounded otherwise; another draw would move values by 0.01 and more.
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_images_and_keys_differ_if_it_is_random(name, images):
    same = np.broadcast_to(images[:1], images.shape)
    run, settings = CORRUPTIONS[name].run, settings_of(name)
    # Several keys, as some corruptions draw nothing but a sign.
    outputs = [
        np.asarray(run(jax.random.key(i), same, settings, -1, np.arange(4), uint8=True))
        for i in range(4)
    ]
    is_random = CORRUPTIONS[name].is_random
    assert any(len({x.tobytes() for x in out}) > 1 for out in outputs) == is_random
    assert (len({out.tobytes() for out in outputs}) > 1) == is_random


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_entry_is_called_by_name_and_tells_its_parameters(name, images):
    entry, key = CORRUPTIONS[name], jax.random.key(0)
    direct = np.asarray(entry(key, images, **entry.example))
    assert direct.dtype == np.float32 and 0 <= direct.min() and direct.max() <= 1
    # Fused multiply-adds round differently under jit.
    by_name = corrupt(key, images, name, **entry.example)
    np.testing.assert_allclose(by_name, direct, atol=1e-6)
    assert entry.formula and entry.source
    for parameter in (*entry.example, *entry.defaults, *entry.options):
        assert f"    {parameter}: " in entry.__doc__
    with pytest.raises(ValueError, match="no parameter 'colour'"):
        entry(key, images, **entry.example, colour=1.0)
    if entry.example:
        for call in (entry, lambda *batch: corrupt(*batch, name)):
            with pytest.raises(ValueError, match=f"give {', '.join(entry.example)}"):
                call(key, images)


def test_changes_of_a_suite_are_applied(images):
    key = jax.random.key(0)
    for name, function, change in (
        ("cifar_c/contrast", "contrast", {"factor": 0.5}),
        ("uronet/UN", "uniform_noise", {"half_width": 0.5, "positive": True}),
    ):
        chex.assert_trees_all_close(
            corrupt(key, images, name, severity=1, **change),
            CORRUPTIONS[function](key, images, **change),
            atol=1e-6,  # Fused multiply-adds round differently under jit.
        )


def test_severity_may_be_traced(images):
    key = jax.random.key(0)
    traced = jax.jit(lambda s: corrupt(key, images, "cifar_c/contrast", severity=s))
    for severity, known in ((-3, 1), (2, 2), (9, 5)):  # It is clamped.
        expected = corrupt(key, images, "cifar_c/contrast", severity=known)
        np.testing.assert_allclose(traced(severity), expected, atol=1e-6)
    with pytest.raises(ValueError, match="integer scalar"):
        traced(1.5)


def test_parameters_that_are_equal_but_not_alike_are_told_apart(images):
    key = jax.random.key(0)
    corrupt(key, images, "motion_blur", radius=1, sigma=1.0)
    for radius in (1.0, True):
        with pytest.raises(ValueError, match="radius must be an integer"):
            corrupt(key, images, "motion_blur", radius=radius, sigma=1.0)
    with pytest.raises(ValueError, match="sigma must be known when compiling"):
        jax.jit(lambda s: corrupt(key, images, "gaussian_blur", sigma=s))(1.0)


def test_quantize_truncates_and_can_pass_gradients():
    levels = np.arange(256, dtype=np.float32)
    exact = levels / 255
    for more in (0.0, 0.9):
        raised = np.minimum(exact + np.float32(more / 255), 1)
        np.testing.assert_array_equal(corruptions.truncate(raised), levels)
    quantized = corruptions.quantize(exact + 0.4 / 255)
    np.testing.assert_allclose(quantized, exact, atol=1e-7)

    def total(x, straight_through):
        return corruptions.quantize(x, straight_through=straight_through).sum()

    gradient = jax.grad(total)(exact[100:110], True)
    np.testing.assert_allclose(gradient, np.ones(10), rtol=1e-6)
    assert not np.asarray(jax.grad(total)(exact[100:110], False)).any()


def test_keys_of_a_set_differ_by_name_severity_and_seed():
    entries = (
        (0, "cifar_c/fog", 1),
        (0, "cifar_c/fog", 2),
        (0, "cifar_c/snow", 1),
        (0, "tiny_c/fog", 1),
        (1, "cifar_c/fog", 1),
    )
    keys = [jax.random.key_data(corruptions.entry_key(*entry)) for entry in entries]
    assert len({tuple(np.asarray(key)) for key in keys}) == 5
