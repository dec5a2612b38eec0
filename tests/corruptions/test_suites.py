"""The family of corruptions: what holds for every name of every suite."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uronet_jax import corruptions, sharding
from uronet_jax.corruptions import (
    CORRUPTIONS,
    OPERATIONS,
    SUITES,
    corrupt,
    list_corruptions,
    list_severities,
)

COMMON = 15
NAMES = {
    **{name: f"cifar_c/{name}" for name in SUITES["cifar_c"]},
    **{
        name: f"mnist_c/{name}"
        for name in SUITES["mnist_c"]
        if name not in SUITES["cifar_c"]
    },
    "uniform_noise": "uronet/UN",
    "salt_and_pepper_noise": "uronet/SPN",
}
ORDER = np.array([2, 0, 3, 1])


@pytest.fixture(scope="module")
def images():
    """Four smooth colour pictures with some grain, no two alike."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:32, :32] / 31
    waves = [np.sin(6 * (a * y + b * x) + c) for a, b, c in rng.uniform(0, 1, (12, 3))]
    images = np.stack(waves).reshape(4, 3, 32, 32).transpose(0, 2, 3, 1) * 0.3 + 0.5
    images += rng.uniform(-0.05, 0.05, images.shape)
    return np.clip(images, 0, 1).astype(np.float32)


def test_names_are_those_of_the_functions():
    assert set(NAMES) == set(CORRUPTIONS) == set(OPERATIONS)
    for suite in SUITES:
        for corruption in SUITES[suite].values():
            assert corruption.function in CORRUPTIONS
            assert len(corruption.settings) == len(list_severities(suite))


def test_suites_have_the_published_corruptions():
    for suite in ("cifar_c", "tiny_c", "imagenet_c"):
        names = list_corruptions(suite)
        assert len(names) == 19 and len(list_severities(suite)) == 5
        assert names[:3] == ("gaussian_noise", "shot_noise", "impulse_noise")
        assert names[COMMON - 1] == "jpeg_compression"
        assert set(names[COMMON:]) == {
            "speckle_noise", "gaussian_blur", "spatter", "saturate"
        }  # fmt: skip
    assert len(list_corruptions("mnist_c")) == 16


@pytest.mark.parametrize("name", NAMES)
def test_contract(name, images):
    suite_name = NAMES[name]
    severities = list_severities(suite_name.split("/")[0])
    key = jax.random.key(0)
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def run(images, severity, index):
        with jax.numpy_dtype_promotion("strict"):
            return corrupt(key, images, suite_name, severity=severity, index=index)

    mesh = sharding.data_mesh()
    index = np.arange(4)
    outputs = []
    for severity in severities:
        batch = sharding.split_batch((images, index), mesh)
        out = np.asarray(run(batch[0], jnp.int32(severity), batch[1]))
        assert out.shape == images.shape and out.dtype == images.dtype
        assert np.isfinite(out).all() and out.min() >= 0 and out.max() <= 1
        outputs.append(out)
    if name != "identity":
        changes = [np.abs(out - images).mean() for out in outputs]
        # Severities 3 and 4 of motion blur differ in weights of exp(-18) and less.
        assert min(changes) > 0 and len(set(changes)) >= max(1, len(severities) - 1)
    # Every image has randomness of its own, which moves with its index.
    batch = sharding.split_batch((images[ORDER], index[ORDER]), mesh)
    again = run(batch[0], jnp.int32(severities[-1]), batch[1])
    chex.assert_trees_all_equal(np.asarray(again), outputs[-1][ORDER])
    # On one device, with a severity that is known beforehand, as uint8: float32 sums in
    # another order can move a value across a grey level, but not by more.
    static = np.asarray(
        corrupt(key, images, suite_name, severity=severities[-1], uint8=True)
    )
    assert static.dtype == np.uint8
    truncated = np.asarray(corruptions.truncate(outputs[-1])).astype(int)
    difference = np.abs(static.astype(int) - truncated)
    assert difference.max() <= 1 and (difference > 0).mean() < 0.01


RANDOM = [
    name
    for name in NAMES
    if name
    not in (
        "identity", "defocus_blur", "zoom_blur", "gaussian_blur", "brightness",
        "contrast", "saturate", "pixelate", "jpeg_compression", "stripe", "canny_edges",
        "scale",
    )
]  # fmt: skip


@pytest.mark.parametrize("name", RANDOM)
def test_images_and_keys_differ(name, images):
    same = np.broadcast_to(images[:1], images.shape)
    severity = list_severities(NAMES[name].split("/")[0])[-1]
    # Several keys, as some corruptions draw nothing but a sign.
    outputs = [
        np.asarray(
            corrupt(jax.random.key(i), same, NAMES[name], severity=severity, uint8=True)
        )
        for i in range(4)
    ]
    assert any(len({image.tobytes() for image in out}) > 1 for out in outputs)
    assert len({out.tobytes() for out in outputs}) > 1


@pytest.mark.parametrize(
    ("name", "severity", "message"),
    [
        ("fog", 1, "<suite>/<corruption>"),
        ("cifar_c/fogg", 1, "nearest: 'fog'"),
        ("cifar/fog", 1, "nearest: 'cifar_c'"),
        ("uronet/SKN", 1, "nearest: 'SPKN'.*known: GN, UN, SPN, SN, IN, SPKN"),
        ("uronet/GN", 4, r"\(1, 2, 3\): 4"),
        ("cifar_c/fog", 0, r"\(1, 2, 3, 4, 5\): 0"),
        ("cifar_c/fog", 6, r"\(1, 2, 3, 4, 5\): 6"),
        ("cifar_c/fog", 3.0, r"integer in .*: 3\.0"),
        ("cifar_c/fog", True, "integer in .*: True"),
    ],
)
def test_unknown_names_and_severities_are_rejected(name, severity, message, images):
    with pytest.raises(ValueError, match=message):
        corrupt(jax.random.key(0), images, name, severity=severity)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((1, 32, 32, 3), np.uint8), "/ 255"),
        (np.full((1, 32, 32, 3), 1.5, np.float32), r"in \[0, 1\]: found 1\.5"),
        (np.full((1, 32, 32, 3), -0.5, np.float32), r"found -0\.5"),
        (np.full((1, 32, 32, 3), np.nan, np.float32), "NaN"),
        (np.zeros((32, 32, 3), np.float32), "B, H, W, C"),
        (np.zeros((0, 32, 32, 3), np.float32), "non-empty"),
        (np.zeros((1, 27, 32, 3), np.float32), "at least 28 .*27x32"),
    ],
)
def test_bad_images_are_rejected(images, message):
    with pytest.raises(ValueError, match=message):
        corrupt(jax.random.key(0), images, "cifar_c/fog", severity=1)


def test_changes_are_checked_and_applied(images):
    key = jax.random.key(0)
    with pytest.raises(ValueError, match="no parameter 'sigma'.*factor"):
        corrupt(key, images, "cifar_c/contrast", severity=1, sigma=1.0)
    with pytest.raises(ValueError, match="no parameter 'index2'"):
        corrupt(key, images, "cifar_c/contrast", severity=1, index2=1.0)
    with pytest.raises(ValueError, match=r"in \["):
        corrupt(key, images, "cifar_c/contrast", severity=1, factor=-1.0)
    changed = corrupt(key, images, "cifar_c/contrast", severity=1, factor=0.5)
    chex.assert_trees_all_close(
        changed,
        corruptions.CORRUPTIONS["contrast"](key, images, factor=0.5),
        atol=1e-6,  # Fused multiply-adds round differently under jit.
    )


def test_quantize_truncates_and_can_pass_gradients():
    levels = np.arange(256, dtype=np.float32)
    exact = levels / 255
    np.testing.assert_array_equal(corruptions.truncate(exact), levels)
    np.testing.assert_array_equal(
        corruptions.truncate(np.minimum(exact + 0.9 / 255, 1)), levels
    )
    np.testing.assert_allclose(
        corruptions.quantize(exact + 0.4 / 255), exact, atol=1e-7
    )

    def total(x, straight_through):
        return corruptions.quantize(x, straight_through=straight_through).sum()

    gradient = jax.grad(total)(exact[100:110], True)
    np.testing.assert_allclose(gradient, np.ones(10), rtol=1e-6)
    assert not np.asarray(jax.grad(total)(exact[100:110], False)).any()


def test_keys_of_a_set_differ_by_name_severity_and_seed():
    keys = {
        tuple(np.asarray(jax.random.key_data(corruptions.entry_key(*arguments))))
        for arguments in (
            (0, "cifar_c/fog", 1),
            (0, "cifar_c/fog", 2),
            (0, "cifar_c/snow", 1),
            (0, "tiny_c/fog", 1),
            (1, "cifar_c/fog", 1),
        )
    }
    assert len(keys) == 5
