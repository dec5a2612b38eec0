"""The autoencoder of reconstructive training."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uronet_jax.models import (
    RECONSTRUCTOR_VARIANTS,
    compute_dtype,
    make_reconstructor,
)

VARIANTS = sorted(RECONSTRUCTOR_VARIANTS)
# Input and output channels of the convolutions at width 48 for colour, in order; the
# table of the code, and the paper's two a block with half of the filters in the next.
CODE = [
    *((3, 48), (48, 48), (48, 48)),
    *((48, 96), (96, 96), (96, 24)),
    *((24, 192), (192, 192), (192, 192)),
    *((192, 12), (12, 192), (192, 192)),
    *((192, 24), (24, 96), (96, 96)),
    *((96 + 48, 48), (48, 48), (48, 48)),
]
PAPER = [
    *((3, 48), (48, 48), (48, 48)),
    *((48, 24), (24, 24), (24, 24)),
    *((24, 12), (12, 12), (12, 12)),
    *((12, 12), (12, 12), (12, 12)),
    *((12, 24), (24, 24), (24, 24)),
    *((24, 48), (48 + 48, 48), (48, 48)),
]


def uniform(*shape):
    return jnp.asarray(np.random.default_rng(5).uniform(size=shape), jnp.float32)


def shapes_of(module, *shape):
    images = jax.ShapeDtypeStruct(shape, jnp.float32)
    return jax.eval_shape(module.init_with_output, jax.random.key(0), images)


def count(tree):
    return sum(math.prod(x.shape) for x in jax.tree.leaves(tree))


@pytest.mark.parametrize(("variant", "convs"), [("code", CODE), ("paper", PAPER)])
def test_parameters_are_those_of_the_table(variant, convs):
    _, variables = shapes_of(make_reconstructor(variant), 1, 32, 32, 3)
    kernels = sum(9 * i * o for i, o in convs)
    norms = sum(2 * o for _, o in convs)  # Scale and offset; mean and variance.
    head = 9 * 48 * 3 + 3
    assert count(variables["params"]) == kernels + norms + head
    assert count(variables["batch_stats"]) == norms
    # Grey images differ in the first and last layer alone.
    _, grey = shapes_of(make_reconstructor(variant), 1, 32, 32, 1)
    missing = 2 * 9 * 48 * 2 + 2
    assert count(grey["params"]) == kernels + norms + head - missing


def keras(variant, variables, x):
    """The network by Keras' definitions, in [-1, 1], batch norm with its averages."""
    params, stats = variables["params"], variables["batch_stats"]
    numbers = {"Conv": 0, "UpsampleConv": 0, "BatchNorm": 0}

    def take(kind):
        numbers[kind] += 1
        return f"{kind}_{numbers[kind] - 1}"

    def forward(x, kernel, stride):
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            (stride, stride),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )

    def norm(x):
        name = take("BatchNorm")
        mean, var = (stats[name][k][None, None, None] for k in ("mean", "var"))
        scale, bias = (params[name][k][None, None, None] for k in ("scale", "bias"))
        return jax.nn.relu(scale * (x - mean) / jnp.sqrt(var + 1e-3) + bias)

    def conv(x, stride=1):
        return norm(forward(x, params[take("Conv")]["kernel"][::-1, ::-1], stride))

    def up(x):
        kernel = params[take("UpsampleConv")]["kernel"]
        # A transposed convolution is the gradient of a convolution.
        kernel = kernel[::-1, ::-1].swapaxes(2, 3)
        shape = (len(x), 2 * x.shape[1], 2 * x.shape[2], kernel.shape[2])
        like = jax.ShapeDtypeStruct(shape, x.dtype)
        return norm(jax.linear_transpose(lambda y: forward(y, kernel, 2), like)(x)[0])

    full = conv(conv(x))
    half = conv(full, 2)
    x = conv(conv(conv(half)), 2)
    x = conv(conv(conv(x)), 2)
    x = conv(conv(up(x)))
    x = conv(conv(up(x)))
    if variant == "code":
        x = up(jnp.concatenate([x, half], axis=-1))
    else:
        x = jnp.concatenate([up(x), full], axis=-1)
    x = conv(conv(x))
    head = params[take("Conv")]
    assert numbers == {"Conv": 16, "UpsampleConv": 3, "BatchNorm": 18}
    x = forward(x, head["kernel"][::-1, ::-1], 1) + head["bias"][None, None, None]
    return jnp.tanh(x)


@pytest.mark.parametrize("variant", VARIANTS)
def test_it_is_the_mirror_image_of_keras(variant, make_variables):
    module = make_reconstructor(variant, width=4)
    variables = make_variables(module, (16, 24, 3))
    images = uniform(2, 16, 24, 3)
    found = jax.jit(module.apply)(variables, images)
    mirrored = 2 * images[:, ::-1, ::-1] - 1
    expected = jax.jit(keras, static_argnums=0)(variant, variables, mirrored)
    expected = (expected[:, ::-1, ::-1] + 1) / 2
    assert expected.std() > 0.05
    # Nineteen float32 layers.
    np.testing.assert_allclose(found.clean, expected, atol=2e-5)
    np.testing.assert_array_equal(found.noise, images - found.clean)


@pytest.mark.parametrize("variant", VARIANTS)
def test_odd_sizes_are_mirrored_and_cropped_without_a_shift(variant, make_variables):
    module = make_reconstructor(variant, width=4)
    variables = make_variables(module, (16, 16, 1))
    images, apply = uniform(3, 13, 10, 1), jax.jit(module.apply)
    found = apply(variables, images).clean
    assert found.shape == images.shape and found.dtype == jnp.float32
    assert 0.0 <= found.min() < found.max() <= 1.0
    padded = jnp.pad(images, ((0, 0), (1, 2), (3, 3), (0, 0)), mode="reflect")
    whole = apply(variables, padded).clean[:, 1:14, 3:13]
    # Two programs.
    np.testing.assert_allclose(found, whole, atol=1e-5)
    # Each image on its own.
    other = apply(variables, images.at[1:].set(0.5)).clean
    np.testing.assert_allclose(other[0], found[0], atol=1e-6)
    low = make_reconstructor(variant, width=4, dtype=compute_dtype("bfloat16"))
    dtypes = {x.dtype for x in jax.tree.leaves(shapes_of(low, 2, 9, 10, 3))}
    assert dtypes == {jnp.dtype(jnp.float32)}
    rough = jax.jit(low.apply)(variables, images).clean
    # Three decimals a number, nineteen layers.
    assert 1e-6 < np.abs(rough - found).max() < 0.1


def test_training_looks_at_the_batch_and_moves_the_averages(make_variables):
    module = make_reconstructor("paper", width=4)
    variables = make_variables(module, (8, 8, 1))
    images = uniform(4, 8, 8, 1)
    kernel = variables["params"]["Conv_0"]["kernel"]
    features = jax.lax.conv_general_dilated(
        2 * images - 1,
        kernel,
        (1, 1),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    found, mutated = jax.jit(
        lambda: module.apply(variables, images, train=True, mutable=["batch_stats"])
    )()
    old, new = (x["batch_stats"]["BatchNorm_0"]["mean"] for x in (variables, mutated))
    # Keras' momentum.
    expected = 0.99 * old + 0.01 * features.mean(axis=(0, 1, 2))
    np.testing.assert_allclose(new, expected, rtol=1e-4, atol=1e-6)
    judged = jax.jit(module.apply)(variables, images)
    assert np.abs(found.clean - judged.clean).max() > 0.01


def test_a_fresh_one_starts_around_the_mean_pixel(key):
    module = make_reconstructor(width=4, clean_mean=0.1)
    bias = jax.jit(module.init)(key, uniform(2, 8, 8, 1))["params"]["Conv_15"]["bias"]
    np.testing.assert_allclose((np.tanh(bias) + 1) / 2, 0.1, rtol=1e-6)
