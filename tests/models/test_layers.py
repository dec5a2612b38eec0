"""Layers: the same functions as XLA's own, in values and in gradients."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from uronet_jax import sharding
from uronet_jax.models import depthwise, layers

DIMENSIONS = ("NHWC", "HWIO", "NHWC")
# float32 sums of up to a few hundred terms of order 1, in another order.
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def values_and_gradients(function, x, kernel):
    out = jax.eval_shape(function, x, kernel)
    cotangent = normal(2, *out.shape)

    @jax.jit
    def run(x, kernel):
        out, vjp = jax.vjp(function, x, kernel)
        return out, *vjp(cotangent)

    return run(x, kernel)


# Up to 8 input channels, and with strides, the weight gradient copies the input, else
# the output gradient, of up to 8 channels once per row as well: all must agree with
# XLA's, for every kernel and padding.
@pytest.mark.parametrize(("inputs", "outputs"), [(1, 9), (8, 9), (9, 9), (9, 8)])
@pytest.mark.parametrize(
    "size, padding, strides",
    [
        ((1, 1), ((0, 0), (0, 0)), 1),
        ((2, 2), ((0, 1), (0, 1)), 1),
        ((3, 3), ((1, 1), (1, 1)), 1),
        ((5, 3), ((2, 1), (0, 2)), 1),
        ((3, 3), ((1, 1), (1, 1)), 2),
        ((5, 3), ((2, 1), (0, 2)), 3),
    ],
)
def test_conv_equals_xla(size, padding, strides, inputs, outputs, monkeypatch):
    # The four images are summed in two parts or four, as many would be.
    monkeypatch.setattr(layers, "_PIXELS", 20 if strides > 1 else 60)
    conv = partial(layers.conv, padding=padding, strides=strides)
    reference = partial(
        jax.lax.conv_general_dilated,
        window_strides=(strides, strides), padding=padding,
        dimension_numbers=DIMENSIONS,
    )  # fmt: skip
    x, kernel = normal(0, 4, 7, 6, inputs), normal(1, *size, inputs, outputs)
    result, expected = (values_and_gradients(f, x, kernel) for f in (conv, reference))
    chex.assert_trees_all_close(result, expected, **CLOSE)


def test_strided_module_is_padded_symmetrically():
    x, kernel = normal(0, 2, 8, 6, 3), normal(1, 3, 3, 3, 4)
    module = layers.Conv(4, strides=2, use_bias=False)
    out = module.apply({"params": {"kernel": kernel}}, x)
    assert out.shape == (2, 4, 3, 4)
    # Output pixel (1, 2) stands over rows 1..3 and columns 3..5.
    expected = np.einsum("bijc,ijco->bo", x[:, 1:4, 3:6], kernel)
    np.testing.assert_allclose(out[:, 1, 2], expected, **CLOSE)
    # "SAME" would put the first window at row and column 0.
    expected = np.einsum("bijc,ijco->bo", x[:, :2, :2], kernel[1:, 1:])
    np.testing.assert_allclose(out[:, 0, 0], expected, **CLOSE)


def test_bfloat16_computes_low_and_keeps_float32_gradients():
    x, kernel = normal(0, 2, 7, 6, 9), normal(1, 3, 3, 9, 4)
    module = layers.Conv(4, dtype=jnp.bfloat16)
    params = {"kernel": kernel, "bias": jnp.zeros(4)}

    @partial(jax.jit, static_argnums=1)
    @partial(jax.grad, has_aux=True)
    def gradient(params, module):
        out = module.apply({"params": params}, x)
        return jnp.sum(jnp.sin(out.astype(jnp.float32))), out

    gradients, out = gradient(params, module)
    expected, _ = gradient(params, layers.Conv(4))
    assert out.dtype == jnp.bfloat16
    assert gradients["kernel"].dtype == jnp.float32
    # bfloat16 has 8 bits; errors of a sine's argument of order 10 show as 5 %.
    error = jnp.linalg.norm(gradients["kernel"] - expected["kernel"])
    assert error < 0.1 * jnp.linalg.norm(expected["kernel"])


@pytest.mark.parametrize("inputs", [3, 9])
def test_upsample_conv_is_the_transposed_convolution(inputs):
    x, kernel = normal(0, 2, 3, 5, inputs), normal(1, 3, 3, inputs, 4)

    def reference(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel[::-1, ::-1], (1, 1), ((1, 2), (1, 2)),
            lhs_dilation=(2, 2), dimension_numbers=DIMENSIONS,
        )  # fmt: skip

    result = values_and_gradients(layers.upsample_conv, x, kernel)
    expected = values_and_gradients(reference, x, kernel)
    chex.assert_trees_all_close(result, expected, **CLOSE)
    # Independent of XLA: the definition, out[2i + d - 1] += kernel[d] x[i].
    scattered = np.zeros((2, 8, 12, 4))  # Index 0 stands for -1.
    for i, j, d, e in np.ndindex(3, 5, 3, 3):
        scattered[:, 2 * i + d, 2 * j + e] += np.asarray(x[:, i, j] @ kernel[d, e])
    np.testing.assert_allclose(result[0], scattered[:, 1:7, 1:11], **CLOSE)


@pytest.mark.parametrize("shape", [(6, 4), (7, 5)])
def test_max_pool_equals_flax(shape):
    x = normal(0, 2, *shape, 3)

    def pooled(pool):
        return jax.jit(jax.value_and_grad(lambda x: jnp.sum(pool(x) ** 2)))(x)

    chex.assert_trees_all_close(
        pooled(layers.max_pool), pooled(lambda x: nn.max_pool(x, (2, 2), (2, 2)))
    )
    chex.assert_trees_all_equal(layers.max_pool(x), nn.max_pool(x, (2, 2), (2, 2)))


def test_other_pools_equal_flax_and_the_definition():
    x, around = normal(0, 2, 9, 6, 3), ((1, 1), (1, 1))

    @jax.jit
    def run(x):
        pairs = [
            (layers.mean_pool(x), nn.avg_pool(x, (2, 2), (2, 2))),
            (layers.overlapping_mean_pool(x), nn.avg_pool(x, (3, 3), (1, 1), around)),
            (
                layers.overlapping_mean_pool(x, border_counts=False),
                nn.avg_pool(x, (3, 3), (1, 1), around, count_include_pad=False),
            ),
        ]
        for padding, sides in ((0, "VALID"), (1, around)):
            found = layers.overlapping_max_pool(x, padding=padding)
            pairs.append((found, nn.max_pool(x, (3, 3), (2, 2), sides)))
        return pairs, layers.adaptive_mean_pool(x, 4)

    pairs, adaptive = run(x)
    # Rows 0-2, 2-4, 4-6 and 6-8; columns 0-1, 1-2, 3-4 and 4-5: they overlap.
    rows, columns = ((0, 3), (2, 5), (4, 7), (6, 9)), ((0, 2), (1, 3), (3, 5), (4, 6))
    x = np.asarray(x)
    means = [[x[:, a:b, c:d].mean((1, 2)) for c, d in columns] for a, b in rows]
    for found, expected in [*pairs, (adaptive, np.moveaxis(means, 2, 0))]:
        np.testing.assert_allclose(found, expected, **CLOSE)


def test_adaptive_pool_repeats_pixels_of_small_images_and_leaves_its_own_size():
    x = normal(0, 1, 2, 4, 3)
    expected = jnp.asarray(np.asarray(x)[:, [0, 0, 1, 1]])
    np.testing.assert_allclose(layers.adaptive_mean_pool(x, 4), expected, **CLOSE)
    assert layers.adaptive_mean_pool(expected, 4) is expected


@pytest.mark.parametrize(
    ("padding", "strides", "expected"),
    [
        # Of a kernel of 5 rows and 3 columns on 8 rows and 7 columns.
        ("half", 2, ((2, 2), (1, 1))),
        ("same", 1, ((2, 2), (1, 1))),
        ("same", 2, ((1, 2), (1, 1))),  # Four rows see 11, of which the last is behind.
        (0, 2, ((0, 0), (0, 0))),
        (2, 1, ((2, 2), (2, 2))),
        (((0, 1), (2, 0)), 2, ((0, 1), (2, 0))),
    ],
)
def test_paddings(padding, strides, expected):
    assert layers.find_padding(padding, (5, 3), strides, (8, 7)) == expected
    conv = layers.Conv(4, (5, 3), strides, padding, use_bias=False)
    x, kernel = normal(0, 1, 8, 7, 2), normal(1, 5, 3, 2, 4)
    found = conv.apply({"params": {"kernel": kernel}}, x)
    reference = layers.conv(x, kernel, strides=strides, padding=expected)
    np.testing.assert_array_equal(found, reference)


# A stride with rows left over behind the last window, and paddings of PyTorch, of
# TensorFlow and of Keras.
@pytest.mark.parametrize(
    ("size", "padding", "strides"),
    [
        (3, ((1, 1), (1, 1)), 1),
        (3, ((0, 1), (0, 1)), 2),
        (5, ((2, 2), (2, 2)), 2),
        (5, ((1, 2), (2, 1)), 3),
    ],
)
def test_depthwise_conv_equals_xla(size, padding, strides):
    conv = partial(depthwise.depthwise_conv, padding=padding, strides=strides)
    reference = partial(
        jax.lax.conv_general_dilated,
        window_strides=(strides, strides), padding=padding,
        dimension_numbers=DIMENSIONS, feature_group_count=6,
    )  # fmt: skip
    x, kernel = normal(0, 2, 8, 7, 6), normal(1, size, size, 1, 6)
    result, expected = (values_and_gradients(f, x, kernel) for f in (conv, reference))
    chex.assert_trees_all_close(result, expected, **CLOSE)


def test_depthwise_conv_in_bfloat16_adds_in_float32():
    x = jnp.ones((1, 3, 3, 1), jnp.bfloat16)
    kernel = jnp.full((3, 3, 1, 1), 1 / 256, jnp.bfloat16).at[0, 0].set(1)
    out = depthwise.depthwise_conv(x, kernel, padding=((0, 0), (0, 0)))
    # Added one by one in bfloat16, each 1/256 would be rounded away.
    assert out.dtype == jnp.bfloat16 and out.item() == 1 + 8 / 256


def test_depthwise_conv_on_four_devices_equals_one():
    x, kernel = normal(0, 4, 5, 4, 3), normal(1, 3, 3, 1, 3)
    conv = partial(depthwise.depthwise_conv, padding=((1, 1), (1, 1)))
    expected = values_and_gradients(conv, x, kernel)
    split = jax.device_put(x, jax.NamedSharding(sharding.data_mesh(), jax.P("data")))
    result = values_and_gradients(conv, split, kernel)
    assert len(result[0].sharding.device_set) == 4
    chex.assert_trees_all_close(*map(jax.device_get, (result, expected)), **CLOSE)


def test_pools_in_bfloat16_add_in_float32():
    # Added one by one in bfloat16, each 1/128 after the first would be rounded away.
    x = jnp.full((1, 3, 3, 1), 1 / 128, jnp.bfloat16).at[0, 0, 0].set(2)
    pools = (
        (layers.mean_pool(x), (2 + 3 / 128) / 4),
        (layers.overlapping_mean_pool(x)[:, 1:2, 1:2], (2 + 8 / 128) / 9),
        (layers.adaptive_mean_pool(x, 1), (2 + 8 / 128) / 9),
    )
    for found, exact in pools:
        assert found.dtype == jnp.bfloat16 and found.item() == jnp.bfloat16(exact)


@pytest.mark.parametrize(("platform", "groups"), [("cpu", False), ("cuda", True)])
def test_only_accelerators_convolve_in_groups(platform, groups):
    x = jax.ShapeDtypeStruct((1, 4, 4, 3), jnp.float32)
    kernel = jax.ShapeDtypeStruct((3, 3, 1, 3), jnp.float32)

    def run(x, kernel):
        padding = ((1, 1), (1, 1))
        return depthwise.depthwise_conv(x, kernel, padding=padding).sum()

    run = jax.jit(jax.grad(run, argnums=(0, 1)))
    text = jax.export.export(run, platforms=[platform])(x, kernel).mlir_module()
    assert ("stablehlo.convolution" in text) == groups


def test_normalize():
    images = normal(0, 2, 3, 4, 3)
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    expected = (np.asarray(images) - np.array(mean)) / np.array(std)
    out = layers.normalize(images, mean, std, jnp.float32)
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6)
    out = layers.normalize(images, (0.5,), (2.0,), jnp.bfloat16)
    assert out.dtype == jnp.bfloat16
    expected = (np.asarray(images) - 0.5) / 2
    np.testing.assert_allclose(np.asarray(out, np.float32), expected, rtol=0.01)


def test_initial_kernels_have_the_scale_of_their_fan_in(key):
    kernel = layers.kernel_init(2.0)(key, (3, 3, 16, 32))
    assert kernel.shape == (3, 3, 16, 32) and kernel.dtype == jnp.float32
    # 4,608 draws: the standard deviation is known to 1 %.
    np.testing.assert_allclose(kernel.std(), np.sqrt(2 / (9 * 16)), rtol=0.05)
