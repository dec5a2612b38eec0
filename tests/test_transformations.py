"""One contract for every input transformation, and known values of each."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from uronet_jax.corruptions import degrade, make_degradation
from uronet_jax.models import Separation
from uronet_jax.purifiers import (
    TransformationPurifier,
    chain,
    make_transformation,
    parse_purifier,
)
from uronet_jax.transformations import TRANSFORMATIONS
from uronet_jax.transformations.quilting import extract_patches

IMAGES = np.random.default_rng(0).uniform(0.1, 0.9, (3, 32, 32, 3)).astype(np.float32)


@pytest.mark.parametrize("name", sorted(TRANSFORMATIONS))
def test_contract(name, key, tmp_path):
    entry = TRANSFORMATIONS[name]
    files = {}
    if "patches" in entry.parameters:
        files["patches"] = str(tmp_path / "patches.npy")
        np.save(files["patches"], extract_patches(IMAGES[::-1, ::-1], 50))
    purifier = make_transformation(name, **files)
    assert purifier == make_transformation(name)  # Files make no other program.
    variables = purifier.load()
    assert (variables is None) == (entry.load is None)
    index = jnp.arange(3)

    @jax.jit
    def purify(variables, images, index):
        return purifier(variables, images, key, index)

    clean, noise = purify(variables, IMAGES, index)
    assert clean.shape == IMAGES.shape and clean.dtype == np.float32
    assert clean.min() >= 0.0 and clean.max() <= 1.0
    np.testing.assert_allclose(noise, IMAGES - clean, atol=1e-6)
    assert np.abs(noise).max() > 0.01  # It does something.
    half = jax.eval_shape(purify, variables, IMAGES.astype(jnp.bfloat16), index)
    assert half.clean.dtype == jnp.bfloat16
    # An image does not depend on its neighbours, and draws by its number.
    alone = purify(variables, IMAGES[1:2], index[1:2]).clean
    np.testing.assert_allclose(alone, clean[1:2], atol=1e-6)
    slope = jax.jit(jax.grad(lambda x: purify(variables, x, index).clean.sum()))
    gradient = slope(IMAGES)
    assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0
    if entry.gradient == "straight-through":
        # Half of it where a result was clipped at 0 or 1.
        assert set(np.unique(gradient)) <= {0.5, 1.0} and np.mean(gradient) > 0.99
    assert entry.text and entry.source
    assert set(entry.ranges) == set(entry.parameters) - set(entry.files)
    assert (entry.load is None) == (not entry.files)
    for parameter in entry.files:
        with pytest.raises(ValueError, match=f"{parameter} must be the path"):
            make_transformation(name, **{parameter: 3})
        with pytest.raises(FileNotFoundError, match="at nowhere"):
            make_transformation(name, **{parameter: "nowhere"}).load()
    if entry.load is not None:
        with pytest.raises(ValueError, match=f"{name} has variables: give it"):
            purifier(None, IMAGES)


@pytest.mark.parametrize(
    "name",
    ("gaussian_noise", "resize_pad", "total_variation", "pixel_deflection"),
)
def test_a_key_draws_the_same_where_jax_enable_x64_is_set(name, key):
    images, index = IMAGES[:1, :12, :10], np.arange(1, dtype=np.int32)

    def purify():
        run = jax.jit(lambda x, i: make_transformation(name)(None, x, key, i).clean)
        return np.asarray(run(images, index))

    expected = purify()
    with jax.enable_x64(True):
        found = purify()
    assert found.dtype == np.float32
    # Sums may be rounded otherwise; another draw differs by 0.01 and more.
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_bit_depth_keeps_its_levels(key):
    clean = make_transformation("bit_depth", bits=1)(None, IMAGES).clean
    np.testing.assert_array_equal(clean, IMAGES > 0.5)


def test_jpeg_is_that_of_pillow():
    levels = np.rint(IMAGES * 255).astype(np.uint8)
    jpeg = make_transformation("jpeg", quality=40)
    clean = jpeg(None, levels / np.float32(255)).clean
    for image, found in zip(levels, clean, strict=True):
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=40)
        expected = np.asarray(Image.open(file))
        np.testing.assert_array_equal(np.rint(255 * found), expected)


@pytest.mark.parametrize("shape", [(1, 1, 3), (7, 5, 3), (9, 9, 1), (1, 20, 3)])
def test_jpeg_of_any_size(shape):
    levels = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    found = make_transformation("jpeg")(None, levels[None] / np.float32(255)).clean
    file = io.BytesIO()
    Image.fromarray(levels if shape[-1] == 3 else levels[..., 0]).save(
        file, "JPEG", quality=75
    )
    expected = np.asarray(Image.open(file)).reshape(shape)
    np.testing.assert_array_equal(np.rint(255 * found[0]), expected)


def test_gaussian_noise_has_its_deviation(key):
    grey = jnp.full((8, 32, 32, 3), 0.5)
    noise = make_transformation("gaussian_noise", scale=0.05)(None, grey, key).noise
    # 24,576 draws: the deviation is known to .45 %, of which this is four.
    assert float(noise.std()) == pytest.approx(0.05, rel=0.02)


def test_purifiers_are_read_from_text():
    jpeg = TransformationPurifier("jpeg", (("quality", 60),))
    assert parse_purifier("jpeg:quality=60") == jpeg
    assert parse_purifier("bit_depth") == make_transformation("bit_depth")


def test_a_chain_of_one_is_that_one(key):
    one = make_transformation("bit_depth")
    assert chain(one) is one
    noisy = make_transformation("gaussian_noise")
    both = chain(noisy, noisy)([None, None], IMAGES, key)
    # Its stages draw differently: the deviations add up as independent ones do.
    assert float(both.noise.std()) == pytest.approx(0.1 * np.sqrt(2), rel=0.05)


def test_a_stage_may_leave_the_range_of_intensities():
    def brighter(variables, images, key=None, index=None):
        return Separation(images + 0.2, jnp.full_like(images, -0.2))

    both = chain(brighter, make_transformation("bit_depth"))
    clean = both((None, None), IMAGES).clean
    assert clean.max() > 1.0
    traced = jax.jit(lambda x: both((None, None), x).clean)(IMAGES)
    np.testing.assert_allclose(traced, clean, atol=1e-6)


def test_a_random_purifier_does_not_draw_the_noise_of_the_degradation_again(key):
    grey, index = jnp.full((4, 32, 32, 3), 0.5), jnp.arange(4)
    noisy = degrade(key, grey, make_degradation([("gaussian_noise", 0.1)]), index)
    added = make_transformation("gaussian_noise")(None, noisy, key, index).noise
    # 12,288 draws: the correlation of independent ones deviates by .009.
    assert abs(np.corrcoef((noisy - grey).ravel(), added.ravel())[0, 1]) < 0.05
