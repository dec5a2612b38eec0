"""Elastic transform and the affine maps of MNIST-C, against SciPy and scikit-image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage
from skimage.transform import warp

from uronet_jax.corruptions import CORRUPTIONS, geometry

pytestmark = pytest.mark.usefixtures("strict_promotion")
warp_affine = jax.jit(geometry.warp_affine, static_argnums=(3, 4))
warp_elastically = jax.jit(geometry.warp_elastically)


@pytest.fixture(scope="module")
def images():
    noise = np.random.default_rng(0).random((2, 32, 32, 3))
    smooth = ndimage.gaussian_filter(noise, (0, 1, 1, 0))
    smooth -= smooth.min()
    return jnp.asarray(smooth / smooth.max(), jnp.float32)


def elastic_oracle(image, displacements, fields, alpha, sigma):
    """The definition step by step, in float64 with SciPy."""
    height, width, _ = image.shape
    centre, q = np.array([width // 2, height // 2]), min(height, width) // 3
    old = centre + q * np.array([(1, 1), (1, -1), (-1, -1)])
    new = old + displacements
    to_old = np.linalg.solve(np.c_[new, np.ones(3)], old).T
    y, x = np.mgrid[:height, :width].astype(float)
    read_x, read_y = np.einsum("kl,lyx->kyx", to_old, np.stack([x, y, np.ones_like(x)]))
    dx, dy = (
        alpha * ndimage.gaussian_filter(field, sigma, mode="reflect", truncate=3)
        for field in np.moveaxis(fields, -1, 0)
    )

    def read(plane, where, mode):
        return ndimage.map_coordinates(plane, where, order=1, mode=mode)

    planes = [
        read(read(plane, [read_y, read_x], "mirror"), [y + dy, x + dx], "reflect")
        for plane in np.moveaxis(image, -1, 0)
    ]
    return np.stack(planes, -1)


# A filter wider than the image, and anchors that move by more than their distance.
@pytest.mark.parametrize("alpha, sigma, affine", [(300.0, 40.0, 9.0), (5.0, 0.3, 20.0)])
def test_elastic_transform_of_other_shapes(alpha, sigma, affine):
    rng = np.random.default_rng(1)
    image = rng.random((48, 30, 1)).astype(np.float32)
    displacements = rng.uniform(-affine, affine, (3, 2)).astype(np.float32)
    fields = rng.uniform(-1, 1, (48, 30, 2)).astype(np.float32)
    setting = {"alpha": alpha, "sigma": sigma, "affine": affine}
    prepared = geometry.elastic_transform.constants((48, 30, 1), [setting])
    _, rows, columns = (t[0] for t in prepared.stacked)
    drawn = displacements[None], fields[None]
    ours = warp_elastically(image[None], *drawn, alpha, rows, columns)
    expected = elastic_oracle(image, displacements, fields, alpha, sigma)
    # White noise has slopes up to 1 per pixel; coordinates have errors of 1e-5.
    np.testing.assert_allclose(ours[0], expected, atol=1e-3)


def test_elastic_transform_without_strength_changes_nothing(key, images):
    out = geometry.elastic_transform(key, images, alpha=0.0, sigma=0.0, affine=0.0)
    np.testing.assert_array_equal(out, images)


def test_elastic_displacements_have_the_stated_size(key):
    # A ramp shows the displacement of each pixel: here of the field alone.
    ramp = jnp.linspace(0, 1, 32)[None, None, :, None]
    ramp = jnp.broadcast_to(ramp, (80, 32, 32, 1))
    parameters = {"alpha": 4.0, "sigma": 2.0, "affine": 0.0}
    out = geometry.elastic_transform(key, ramp, **parameters)
    moved = 31 * np.asarray(out - ramp)[:, :, 8:-8, 0]
    # The variance of U(-1, 1) is 1/3; filtering divides it by 4 pi sigma^2 and leaves
    # 80 * 512 / (4 pi sigma^2) = 800 independent values: standard errors below 4 %.
    expected = 4.0 / np.sqrt(3 * 4 * np.pi * 2.0**2)
    assert abs(np.std(moved) / expected - 1) < 0.1
    assert abs(np.mean(moved)) < 0.1 * expected


@pytest.mark.parametrize(
    "border, mode",
    [("reflect-101", "mirror"), ("reflect", "reflect"), ("zero", "grid-constant")],
)
def test_sample_bilinear_equals_scipy(border, mode):
    rng = np.random.default_rng(2)
    image = rng.random((2, 7, 5, 2)).astype(np.float32)
    y, x = rng.uniform(-25, 25, (2, 2, 40, 9)).astype(np.float32)
    # Also on the pixels and half-way between them, far outside too.
    y[0], x[0] = np.round(2 * y[0]) / 2, np.round(2 * x[0]) / 2
    ours = jax.jit(geometry.sample_bilinear, static_argnums=3)(image, y, x, border)
    for b, c in np.ndindex(2, 2):
        plane = image[b, ..., c].astype(float)
        expected = ndimage.map_coordinates(plane, [y[b], x[b]], order=1, mode=mode)
        np.testing.assert_allclose(ours[b, ..., c], expected, atol=1e-5)


@pytest.mark.parametrize("shape", [(28, 28, 1), (40, 30, 3)])
@pytest.mark.parametrize("sign", [1, -1])
def test_affine_maps_equal_scikit_image(shape, sign):
    height, width, _ = shape
    image = np.random.default_rng(3).random(shape).astype(np.float32)
    sine, cosine = np.sin(0.4 * sign), np.cos(0.4)
    maps = {
        "rotate": (0.4, [[cosine, -sine], [sine, cosine]]),
        "shear": (0.4, [[1, -sine], [0, cosine]]),
        "scale": (0.7, np.eye(2) / 0.7),
        "translate": (3.0, np.eye(2)),
    }
    centre = np.array([width - 1, height - 1]) / 2
    signs = jnp.asarray([[sign, -sign]], jnp.float32)
    for name, (value, linear) in maps.items():
        offset = 3.0 * np.array([sign, -sign]) if name == "translate" else 0.0
        matrix = np.eye(3)
        matrix[:2, :2] = linear
        matrix[:2, 2] = centre - linear @ centre + offset
        linear, offset = geometry.affine_map(name, jnp.float32(value), signs)
        ours = warp_affine(image[None], linear, offset, tuple(centre), "zero")
        expected = warp(image.astype(float), matrix, order=1, mode="constant")
        np.testing.assert_allclose(ours[0], expected, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("name", ["elastic_transform", "rotate"])
def test_gradient(name, key, images):
    entry = CORRUPTIONS[name]
    images = 0.25 + 0.5 * images  # Nothing is clipped.
    out, transpose = jax.vjp(lambda x: entry(key, x, **entry.example), images)
    weights = jax.random.uniform(key, images.shape)
    # The map is linear in the images, so its derivative is the map itself.
    (gradient,) = transpose(weights)
    expected = np.vdot(weights, out)
    np.testing.assert_allclose(np.vdot(gradient, images), expected, rtol=1e-5)


@pytest.mark.parametrize("name, outcomes", [("rotate", 2), ("translate", 4)])
def test_signs_are_drawn_per_image(name, outcomes, key, images):
    entry = CORRUPTIONS[name]
    same = jnp.broadcast_to(images[0], (32, *images[0].shape))
    out = np.asarray(entry(key, same, **entry.example)).reshape(32, -1)
    different, counts = np.unique(out, axis=0, return_counts=True)
    # Each of four outcomes is missed with probability 4 (3/4)^32 < 1e-3.
    assert len(different) == outcomes
    assert counts.min() >= 2
