"""Blurs: against independent code, and their own claims."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage, stats
from skimage.filters import gaussian

from uronet_jax.corruptions import CORRUPTIONS, blur, filters, operation
from uronet_jax.corruptions.suites import SUITES

motion_of = jax.jit(filters.blur_along_line)
LINEAR = ["gaussian_blur", "defocus_blur", "zoom_blur"]
BLURS = [*LINEAR, "glass_blur", "motion_blur"]


def settings_of(name, suite="cifar_c"):
    return SUITES[suite][name].settings


def run(name, images, choice=2, *, suite="cifar_c"):
    settings = settings_of(name, suite)
    return CORRUPTIONS[name].run(jax.random.key(0), images, settings, choice)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(1).random((2, 32, 32, 3), np.float32)


@pytest.fixture(scope="module")
def oblong():
    """Returns grey images that are not square."""
    return np.random.default_rng(2).random((2, 28, 36, 1), np.float32)


@pytest.mark.parametrize("choice", range(5))
def test_gaussian_blur_equals_scikit_image(images, choice):
    sigma = settings_of("gaussian_blur")[choice]["sigma"]
    expected = [gaussian(x, sigma, channel_axis=-1) for x in np.asarray(images)]
    output = run("gaussian_blur", images, choice)
    np.testing.assert_allclose(output, expected, atol=2e-6)


@pytest.mark.parametrize("border", ["nearest", "reflect"])
@pytest.mark.parametrize("sigma", [0.0, 0.05, 0.7, 3.0, 40.0])  # Reach: up to 160.
@pytest.mark.parametrize("truncate", [3.0, 4.0])
def test_gaussian_matrix_equals_scipy(border, sigma, truncate):
    signal = np.random.default_rng(0).random(28)
    matrix = filters.gaussian_matrix(28, sigma, truncate=truncate, border=border)
    options = {"mode": border, "truncate": truncate}
    expected = ndimage.gaussian_filter(signal, sigma, **options)  # A copy at 0.
    np.testing.assert_allclose(matrix @ signal, expected, atol=1e-12)


def test_filter_along_both_axes(oblong):
    rng = np.random.default_rng(0)
    rows, columns = rng.normal(size=(28, 28)), rng.normal(size=(36, 36))
    expected = np.einsum("yi,xj,bijc->byxc", rows, columns, np.asarray(oblong))
    output = filters.filter_rows_columns(oblong, rows, columns)
    np.testing.assert_allclose(output, expected, atol=1e-3)  # Values up to 70.


def test_disk_kernel_has_the_published_values():
    for radius, alias_blur, middle, beside, diagonal, atol in (
        (0.3, 0.4, 0.84497, 0.03713, 0.00163, 5e-6),
        (0.4, 0.5, 0.61935, 0.08382, 0.01134, 5e-6),
        (0.5, 0.6, 0.44521, 0.11101, 0.02768, 5e-6),
        (1.5, 0.1, 1 / 9, 1 / 9, 1 / 9, 1e-12),
    ):
        kernel = blur.disk_kernel(radius, alias_blur)
        corner = kernel[len(kernel) // 2 :, len(kernel) // 2 :][:2, :2]
        expected = [[middle, beside], [beside, diagonal]]
        np.testing.assert_allclose(corner, expected, atol=atol)
    assert blur.disk_kernel(10.0, 0.5).shape == (21, 21)
    np.testing.assert_allclose(blur.disk_kernel(10.0, 0.5).sum(), 1.010786, atol=1e-6)


@pytest.mark.parametrize("suite", ["cifar_c", "imagenet_c"])
def test_defocus_blur_equals_a_correlation(oblong, suite):
    for choice, setting in enumerate(settings_of("defocus_blur", suite)):
        kernel = blur.disk_kernel(**setting)[None, :, :, None]
        expected = ndimage.correlate(np.asarray(oblong, float), kernel, mode="mirror")
        output = run("defocus_blur", oblong, choice, suite=suite)
        np.testing.assert_allclose(output, expected.clip(0, 1), atol=2e-6)


@pytest.mark.parametrize("size", [28, 32, 64, 224])
def test_clipped_zoom_equals_scipy(size):
    factors = {4.0, 2.25, 1.75, 3.0, float(size)}
    for suite in ("cifar_c", "imagenet_c"):
        factors.update(*(s["factors"] for s in settings_of("zoom_blur", suite)))
    signal = np.random.default_rng(0).random(size)
    for factor in factors:
        crop = int(np.ceil(size / factor))
        top = (size - crop) // 2
        zoomed = ndimage.zoom(signal[top : top + crop], factor, order=1)
        trim = (len(zoomed) - size) // 2
        output = filters.clipped_zoom_matrix(size, factor) @ signal
        np.testing.assert_allclose(output, zoomed[trim : trim + size], atol=1e-12)


def test_zoom_blur_is_the_mean_of_the_zooms(oblong):
    for choice, setting in enumerate(settings_of("zoom_blur")):
        total = np.asarray(oblong, float)
        for factor in setting["factors"]:
            rows = filters.clipped_zoom_matrix(28, factor)
            columns = filters.clipped_zoom_matrix(36, factor)
            total = total + np.einsum("yi,xj,bijc->byxc", rows, columns, oblong)
        expected = total / (len(setting["factors"]) + 1)
        output = run("zoom_blur", oblong, choice)
        np.testing.assert_allclose(output, expected, atol=2e-6)


def test_zoom_blur_of_an_accelerator_is_the_same(oblong, monkeypatch):
    settings = settings_of("zoom_blur")
    constants = blur.zoom_blur.constants(oblong.shape[1:], settings).stacked

    @jax.jit
    def zoom(choice):
        chosen = jax.tree.map(lambda x: jnp.asarray(x)[choice], constants)
        return blur.zoom_blur.apply(None, oblong, chosen, (), None)

    forms = []

    def elsewhere(*arguments, cpu, default):
        forms.append(default)
        return default(*arguments)

    monkeypatch.setattr(jax.lax, "platform_dependent", elsewhere)
    for choice in (0, 4):  # With the fewest factors and with the most.
        expected = run("zoom_blur", oblong, choice)
        # The same sums, of up to 12 terms, in another order.
        np.testing.assert_allclose(zoom(choice), expected, atol=2e-6)
    assert len(forms) == 1


def test_motion_blur_equals_the_formula():
    height, width = 28, 36
    angles = np.linspace(-135, 225, 256)  # With -90, 0, 90 and 180, nearly.
    levels = np.random.default_rng(0).integers(0, 256, (256, height, width, 1))
    weights = filters.motion_weights(15, 12.0, taps=41)
    expected = np.zeros(levels.shape)
    rows, columns = np.arange(height)[:, None], np.arange(width)[None]
    for i, weight in enumerate(weights[:31]):
        right = np.ceil(i * np.cos(np.deg2rad(angles)) - 0.5).astype(int)
        down = np.ceil(i * np.sin(np.deg2rad(angles)) - 0.5).astype(int)
        for image, (dy, dx) in enumerate(zip(down, right, strict=True)):
            y, x = (rows + dy).clip(0, height - 1), (columns + dx).clip(0, width - 1)
            expected[image] += weight * levels[image, y, x]
    assert not weights[31:].any()
    output = motion_of(*map(np.float32, (levels, angles, weights)), 31)
    # A sum that is a whole number but for rounding may go either way.
    either = (output == np.floor(expected)) | (output == np.floor(expected + 2e-4))
    # float32 may see a direction that is a tie between two pixels otherwise.
    assert np.mean(np.all(either, axis=(1, 2, 3))) > 0.99


@pytest.mark.parametrize("swap", [False, True])
def test_glass_blur_equals_a_scan(swap):
    rng = np.random.default_rng(3)
    height, width, delta, iterations = 29, 31, 3, 2
    levels = rng.integers(0, 256, (2, height, width, 3))
    offsets = np.zeros((iterations, 2, 2, height, width), int)  # (scan, image, axis)
    inside = np.s_[delta + 1 : height - delta + 1, delta + 1 : width - delta + 1]
    drawn = offsets[:, :, :, *inside]
    drawn[:] = rng.integers(-delta, delta, drawn.shape)
    expected = levels.copy()
    for scan in offsets:
        for x, (down, right) in zip(expected, scan, strict=True):
            for h in range(height - delta, delta, -1):
                for w in range(width - delta, delta, -1):
                    there = h + down[h, w], w + right[h, w]
                    here, other = x[h, w].copy(), x[there].copy()
                    x[h, w] = other
                    if swap:
                        x[there] = here
    flat = offsets[:, :, 0] * width + offsets[:, :, 1]
    flat = jnp.asarray(flat.reshape(iterations, 2, -1), jnp.int32)
    same = np.eye(height), np.eye(width)
    moved = jax.jit(
        lambda x: blur.frosted_glass(x, *same, lambda i: flat[i], iterations, swap=swap)
    )
    output = operation.truncate(moved(levels.astype(np.float32) / 255))
    np.testing.assert_array_equal(output, expected)


@pytest.mark.parametrize("probability", [1.0, 0.5])
def test_displacements_are_uniform(key, probability):
    side, delta = 36, 2
    draw = jax.jit(blur.draw_displacements, static_argnums=(2, 3))
    moves = draw(key, np.arange(64), side, side, delta, probability)
    moves = np.asarray(moves).reshape(64, side, side)
    inside = moves[:, delta + 1 : side - delta + 1, delta + 1 : side - delta + 1]
    assert np.count_nonzero(moves) == np.count_nonzero(inside)
    values, counts = np.unique(inside, return_counts=True)
    offsets = np.arange(-delta, delta)
    assert set(values) == set((side * offsets[:, None] + offsets).ravel())
    expected = np.full(16, probability * inside.size / 16)
    expected[values == 0] += (1 - probability) * inside.size
    assert stats.chisquare(counts, expected).pvalue > 1e-3
    neighbours = inside[:, :, 1:].ravel(), inside[:, :, :-1].ravel()
    assert abs(np.corrcoef(*neighbours)[0, 1]) < 0.02


def test_mnist_glass_swaps():
    images = np.float32(np.arange(28 * 28).reshape(1, 28, 28, 1) % 256 / 255)
    (setting,) = settings_of("glass_blur", "mnist_c")
    output = blur.glass_blur(jax.random.key(0), images, **{**setting, "sigma": 0.0})
    before, after = np.round(images * 255), np.round(np.asarray(output) * 255)
    # Without blur it is a permutation of the pixels.
    np.testing.assert_array_equal(np.sort(after, axis=None), np.sort(before, axis=None))
    # At each of two scans a pixel moves with probability 3/8 on its own account.
    assert 0.3 < np.mean(after != before) < 0.9


@pytest.mark.parametrize("suite", ["cifar_c", "imagenet_c"])
def test_motion_blur_keeps_constant_images(suite):
    grey = np.arange(256, dtype=np.float32)[:, None, None, None]
    levels = np.broadcast_to(grey, (256, 28, 36, 1))
    angles = np.linspace(-135, 45, 256, dtype=np.float32)
    for setting in settings_of("motion_blur", suite):
        weights = filters.motion_weights(**setting, taps=41).astype(np.float32)
        output = motion_of(levels, angles, weights, 2 * setting["radius"] + 1)
        np.testing.assert_array_equal(output, levels)


@pytest.mark.parametrize("name", BLURS)
def test_constant_images_and_severities(images, name):
    constant = np.zeros(images.shape, np.float32)
    constant[1] = 77 / 255
    programs = operation._apply._cache_size()
    for choice in range(5):
        np.testing.assert_allclose(run(name, constant, choice), constant, atol=1e-6)
        output = run(name, images, jnp.asarray(choice))
        assert choice != 2 or output.std() < images.std()  # It is a blur.
    assert operation._apply._cache_size() <= programs + 1


@pytest.mark.parametrize("name", LINEAR)
def test_gradient_of_linear_blurs(oblong, name):
    weights = np.random.default_rng(3).normal(size=oblong.shape).astype(np.float32)
    gradient = jax.jit(jax.grad(lambda x: jnp.vdot(run(name, x), weights)))(oblong)
    expected = np.vdot(run(name, oblong), weights)
    np.testing.assert_allclose(np.vdot(gradient, oblong), expected, atol=1e-3)


def glass_total(images, **options):
    matrices = [filters.gaussian_matrix(n, 0.7) for n in images.shape[1:3]]
    position = jnp.arange(images[0].size)
    shift = jnp.broadcast_to(-(position > 0).astype(jnp.int32), (2, position.size))
    return blur.frosted_glass(images, *matrices, lambda i: shift, 2, **options).sum()


def motion_total(images, **options):
    line = jnp.asarray([-30.0, 10.0]), filters.motion_weights(3, 2.0, 9), 7
    levels = operation.grey_levels(images, **options)
    return filters.blur_along_line(levels, *line, **options).sum() / 255


@pytest.mark.parametrize("total", [glass_total, motion_total])
def test_gradient_of_truncating_blurs(oblong, total):
    gradient = jax.jit(jax.grad(total), static_argnames="straight_through")
    assert not np.any(gradient(oblong, straight_through=False))
    passed = np.asarray(gradient(oblong, straight_through=True))
    # All outputs are means of pixels: each passes on a gradient of 1.
    np.testing.assert_allclose(passed.sum(), oblong.size, rtol=1e-4)
    assert passed.min() >= 0 and passed.max() > 1


@pytest.mark.parametrize(("height", "width"), [(96, 64), (200, 130), (33, 250)])
def test_bands_do_what_the_whole_matrices_do(height, width):
    image = np.random.default_rng(0).random((1, height, width, 1), np.float32)
    sigmas = (0.5, 1.7)
    rows, columns = (
        np.stack([filters.gaussian_matrix(n, s) for s in sigmas])
        for n in (height, width)
    )
    bands = filters.band(rows), filters.band(columns)
    # Reach 7: blocks of 32 from 46 samples, if there are at least 92.
    assert [band.ndim for band in bands] == [3 + (n >= 92) for n in (height, width)]
    for i in range(2):
        expected = rows[i] @ image[0, ..., 0] @ columns[i].T
        output = filters.filter_rows_columns(image, *(band[i] for band in bands))
        np.testing.assert_allclose(output[0, ..., 0], expected, atol=2e-6)
