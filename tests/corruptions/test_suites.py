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


@pytest.mark.parametrize(
    ("name", "severity", "message"),
    [
        ("fog", 1, "<suite>/<corruption>"),
        ("fogg", None, "nearest: 'fog'"),
        ("cifar_c/fogg", 1, "nearest: 'fog'"),
        ("cifar/fog", 1, "nearest: 'cifar_c'"),
        ("uronet/SKN", 1, "nearest: 'SPKN'.*known: GN, UN, SPN, SN, IN, SPKN"),
        ("uronet/GN", 4, r"\(1, 2, 3\): 4"),
        ("cifar_c/fog", 0, r"\(1, 2, 3, 4, 5\): 0"),
        ("cifar_c/fog", 6, r"\(1, 2, 3, 4, 5\): 6"),
        ("cifar_c/fog", 3.0, r"integer in .*: 3\.0"),
        ("cifar_c/fog", True, "integer in .*: True"),
        ("cifar_c/fog", None, "integer in .*: None"),
    ],
)
def test_unknown_names_and_severities_are_rejected(name, severity, message, images):
    with pytest.raises(ValueError, match=message):
        corrupt(jax.random.key(0), images, name, severity=severity)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_bad_images_are_rejected(name):
    entry, key = CORRUPTIONS[name], jax.random.key(0)
    black = np.zeros((2, 32, 32, 3), np.float32)
    cases = [
        (black.astype(np.uint8), None, "/ 255"),
        (black + np.float32(1.5), None, r"in \[0, 1\]: found 1\.5"),
        (black - np.float32(0.5), None, r"found -0\.5"),
        (black + np.float32(np.nan), None, "NaN"),
        (black[0], None, "B, H, W, C"),
        (black[:0], None, "non-empty"),
        (black, np.arange(3), "one integer per image"),
        (black, np.zeros(2), "one integer per image"),
    ]
    if entry.smallest_side > 1:
        cases.append((black[:, :27], None, "at least 28 pixels .*27x32"))
    for images, index, message in cases:
        with pytest.raises(ValueError, match=message):
            entry(key, images, index=index, **entry.example)


@pytest.mark.parametrize(
    "name", ["saturate", "jpeg_compression", "spatter", "snow", "frost"]
)
def test_images_of_other_than_1_or_3_channels_are_rejected(name):
    entry = CORRUPTIONS[name]
    for channels in (2, 4):
        images = np.zeros((1, 32, 32, channels))
        with pytest.raises(ValueError, match=f"1 or 3 channels: {channels}"):
            entry(jax.random.key(0), images, **entry.example)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("gaussian_noise", {"scale": -0.1}, "scale"),
        ("gaussian_noise", {"scale": float("nan")}, "scale"),
        ("gaussian_noise", {"scale": np.full((2,), 0.1)}, "scale"),
        ("speckle_noise", {"scale": float("inf")}, "scale"),
        ("uniform_noise", {"half_width": -0.1}, "half_width"),
        ("uniform_noise", {"contrast": 2.0}, "contrast"),
        ("salt_and_pepper_noise", {"amount": 1.1}, "amount"),
        ("impulse_noise", {"amount": -0.1}, "amount"),
        ("shot_noise", {"rate": 0.0}, "rate"),
        ("gaussian_blur", {"sigma": -1.0}, "sigma"),
        ("gaussian_blur", {"sigma": np.nan}, "sigma"),
        ("defocus_blur", {"radius": 0.0}, "radius"),
        ("defocus_blur", {"radius": 32.0}, "radius"),
        ("defocus_blur", {"alias_blur": 0.0}, "alias_blur"),
        ("glass_blur", {"max_delta": 0}, "max_delta"),
        ("glass_blur", {"max_delta": 16}, "max_delta"),
        ("glass_blur", {"iterations": 1.5}, "iterations"),
        ("glass_blur", {"move_probability": 1.1}, "move_probability"),
        ("motion_blur", {"radius": 2.5}, "radius"),
        ("motion_blur", {"radius": -1}, "radius"),
        ("motion_blur", {"sigma": 0.0}, "sigma"),
        ("zoom_blur", {"factors": (1.0, 0.9)}, "factor"),
        ("brightness", {"amount": 1.5}, "amount"),
        ("fog", {"amount": -1.0}, "amount"),
        ("fog", {"decay": 0.0}, "decay"),
        ("snow", {"scale": -1.0}, "scale"),
        ("snow", {"zoom": 0.9}, "zoom"),
        ("snow", {"radius": -1}, "radius"),
        ("snow", {"sigma": 0.0}, "sigma"),
        ("snow", {"blend": 1.1}, "blend"),
        ("snow", {"loc": float("nan")}, "loc"),
        ("frost", {"frost_weight": -1.0}, "frost_weight"),
        ("spatter", {"liquid": "oil"}, "'water' or 'mud'"),
        ("spatter", {"scale": -0.1}, "scale"),
        ("spatter", {"sigma": float("nan")}, "sigma"),
        ("spatter", {"threshold": -1.0}, "threshold"),
        ("spatter", {"strength": -1.0}, "strength"),
        ("spatter", {"loc": float("inf")}, "loc"),
        ("contrast", {"factor": -0.1}, r"factor must be finite and in \[0"),
        ("contrast", {"factor": np.nan}, "factor must be finite"),
        ("saturate", {"factor": np.inf}, "factor must be finite"),
        ("saturate", {"offset": 2.0}, r"offset .* \[-1.0, 1.0\]: \[2"),
        ("pixelate", {"factor": 1.1}, r"factor must be finite and in \[0.0, 1.0\]"),
        ("pixelate", {"factor": 0.03}, "0.03 leaves no pixel of a side of 32"),
        ("jpeg_compression", {"quality": 0}, "quality must be an integer in"),
        ("jpeg_compression", {"quality": 101}, "quality must be an integer in"),
        ("jpeg_compression", {"quality": 50.5}, "quality must be an integer .*: 50.5"),
        ("jpeg_compression", {"fidelity": "good"}, "must be exact or fast: 'good'"),
        ("elastic_transform", {"alpha": -1.0}, "alpha"),
        ("elastic_transform", {"sigma": -0.1}, "sigma"),
        ("elastic_transform", {"affine": float("nan")}, "affine"),
        ("shear", {"shear": 1.6}, "shear"),
        ("rotate", {"angle": -0.1}, "angle"),
        ("scale", {"factor": 0.0}, "factor"),
        ("translate", {"distance": float("inf")}, "distance"),
        ("canny_edges", {"sigma": -1.0}, "sigma"),
        ("banding", {"amplitude": -0.1}, "amplitude"),
        ("dead_columns", {"count": 2.0}, "count must be an integer"),
        ("dead_columns", {"count": 33}, r"count must be an integer in \[0, 32\]: 33"),
    ],
)
def test_bad_parameters_are_rejected(name, change, message):
    entry = CORRUPTIONS[name]
    images = np.full((2, 32, 32, 3), 0.5, np.float32)
    with pytest.raises(ValueError, match=message):
        entry(jax.random.key(0), images, **{**entry.example, **change})


def test_changes_of_a_suite_are_checked_and_applied(images):
    key = jax.random.key(0)
    for change, message in (
        ({"sigma": 1.0}, "no parameter 'sigma'.*factor"),
        ({"index2": 1.0}, "no parameter 'index2'"),
        ({"factor": -1.0}, r"in \["),
    ):
        with pytest.raises(ValueError, match=message):
            corrupt(key, images, "cifar_c/contrast", severity=1, **change)
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
