"""Defence: the gate, inputs from outside, gradients, and loading it from disk."""

import json
import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from uronet_jax import loading
from uronet_jax.checkpoints import Checkpoints
from uronet_jax.defense import (
    DETECTOR_INPUTS,
    Defense,
    DefenseFunction,
    classifier_function,
    detector_channels,
    detector_input,
    make_defense,
    validate_images,
)
from uronet_jax.models import Separation, make_classifier, make_remover
from uronet_jax.training.phases import find_phase

SHAPE = (8, 8, 1)
NOTHING = {"purifier": {}, "detector": {}, "classifier": {}}


class Dimmer(nn.Module):
    """A remover whose clean picture is a quarter as bright."""

    def __call__(self, images):
        return Separation(images / 4, images / 2)


class Brightness(nn.Module):
    """A detector that calls bright images degraded, with the mean as probability."""

    @nn.compact
    def __call__(self, x, *, train=False):
        p = x[..., 0].mean(axis=(1, 2))
        return jnp.log(jnp.stack([1 - p, p], axis=-1))


def show(variables, images):
    """A classifier whose logits are two pixels of what it is shown."""
    return images[:, 0, :2, 0]


def grey(*values):
    return np.stack([np.full(SHAPE, v, np.float32) for v in values])


@pytest.mark.parametrize(
    "gate, purified",
    [
        (None, [True, True, True]),
        (0.5, [False, False, True]),  # At the threshold is not above it.
        (0.2, [False, True, True]),
        (1.0, [False, False, False]),
    ],
)
def test_gate_shows_the_purified_picture_above_its_threshold(gate, purified):
    images = grey(0.125, 0.5, 0.75)
    defend = make_defense(Dimmer(), Brightness(), show, gate=gate)
    prediction = jax.jit(defend)(NOTHING, images)
    shown = np.where(purified, 0.25, 1.0) * images[:, 0, 0, 0]
    # Logarithm and softmax in float32 return the probability to some 1e-7.
    probability = prediction.degraded_probability
    np.testing.assert_allclose(probability, [0.125, 0.5, 0.75], atol=1e-6)
    np.testing.assert_allclose(prediction.logits[:, 0], shown, atol=1e-6)
    np.testing.assert_allclose(prediction.clean, images / 4, atol=1e-6)
    np.testing.assert_allclose(prediction.noise, images / 2, atol=1e-6)


def test_detector_inputs():
    image, clean, noise = (np.full((2, 3, 4, 2), v, np.float32) for v in (1, 2, 3))
    separation = Separation(clean, noise)
    expected = {"image": [1, 1, 3, 3], "clean": [2, 2, 3, 3], "image_only": [1, 1]}
    assert set(expected) == set(DETECTOR_INPUTS)
    for name, channels in expected.items():
        features = detector_input(image, separation, name)
        assert features.shape == (2, 3, 4, len(channels))
        np.testing.assert_array_equal(features[1, 2, 3], channels)
        assert detector_channels(2, name) == len(channels)
    with pytest.raises(ValueError, match="unknown detector input 'noise'.*image_only"):
        detector_input(image, separation, "noise")


# Any number of images, uint8 or float


def test_short_batches_are_padded_and_nothing_shows():
    traces = []

    def classify(variables, images):
        traces.append(images.shape)
        return show(variables, images)

    def make(batch_size):
        options = {"image_shape": SHAPE, "batch_size": batch_size}
        return Defense(Dimmer(), Brightness(), classify, NOTHING, **options)

    pixels = np.random.default_rng(0).integers(1, 255, (7, *SHAPE), dtype=np.uint8)
    defense = make(4)
    prediction = defense(pixels)
    for part in prediction:
        assert isinstance(part, np.ndarray) and len(part) == 7
    np.testing.assert_allclose(prediction.clean, pixels / 255 / 4, atol=1e-6)
    chex.assert_trees_all_equal(defense(pixels[:3]).logits, prediction.logits[:3])
    # uint8 and its float64 form are the same images.
    chex.assert_trees_all_close(defense(pixels / 255), prediction, atol=1e-6)
    assert traces == [(4, *SHAPE)]
    chex.assert_trees_all_close(defense(pixels[:1]).clean, prediction.clean[:1])
    assert traces == [(4, *SHAPE), (1, *SHAPE)]
    chex.assert_trees_all_close(make(16)(pixels), prediction, atol=1e-6)
    for wrong in (0, -1):
        with pytest.raises(ValueError, match=f"batch_size must be .*: {wrong}"):
            make(wrong)


ONE = np.full((2, 4, 5, 3), 0.5)


def changed(value):
    images = ONE.copy()
    images[1, 2, 3, 0] = value
    return images


def test_right_images_become_float32():
    for images in (ONE, ONE.astype(np.float16), jnp.asarray(ONE), ONE.tolist()):
        out = validate_images(images)
        assert isinstance(out, np.ndarray) and out.dtype == np.float32
        np.testing.assert_array_equal(out, ONE)
    out = validate_images(np.array([0, 51, 255], np.uint8).reshape(1, 1, 3, 1))
    np.testing.assert_allclose(out.ravel(), [0, 0.2, 1], rtol=1e-6)


# With real networks


@pytest.fixture(scope="module")
def networks(make_variables):
    remover = make_remover("skip", widths=(4,), clean_mean=0.3)
    detector = make_classifier("cnn_narrow", 2)
    classifier = make_classifier("cnn_narrow", 3, mean=(0.3,), std=(0.2,))
    variables = {
        "purifier": make_variables(remover, SHAPE),
        "detector": make_variables(detector, (8, 8, 2), seed=1),
        "classifier": make_variables(classifier, SHAPE, seed=2),
    }
    return remover, detector, classifier, variables


IMAGES = np.random.default_rng(4).uniform(size=(2, *SHAPE)).astype(np.float32)


def test_gradient_runs_through_the_whole_defence(networks):
    remover, detector, classifier, variables = networks
    defend = make_defense(remover, detector, classifier_function(classifier))

    @jax.jit
    @jax.value_and_grad
    def loss(images):
        prediction = defend(variables, images)
        return prediction.logits[:, 0].sum() + prediction.degraded_probability.sum()

    value, gradient = loss(IMAGES)
    assert np.isfinite(value) and np.isfinite(gradient).all()
    assert (np.abs(gradient).max(axis=(1, 2, 3)) > 1e-4).all()
    # A step along the gradient; float32 and kinks of ReLU leave some percent.
    direction = gradient / jnp.linalg.norm(gradient.ravel())
    rise = loss(IMAGES + 0.005 * direction)[0] - loss(IMAGES - 0.005 * direction)[0]
    np.testing.assert_allclose(rise / 0.01, jnp.sum(direction * gradient), rtol=0.1)


RESOLVED = {
    "image_shape": list(SHAPE), "num_classes": 3,
    "mean": [0.3], "std": [0.2], "clean_mean": 0.3,
}  # fmt: skip
# Role -> model.
MODELS = {
    "purifier": {"variant": "skip", "widths": [4]},
    "detector": {"name": "cnn_narrow", "inputs": "image"},
    "classifier": {"name": "cnn_narrow"},
}


@pytest.fixture(scope="module")
def runs(networks, tmp_path_factory):
    """Returns the folders of three runs, as training leaves them."""
    folders = {}
    for role, model in MODELS.items():
        folders[role] = tmp_path_factory.mktemp(role)
        phase = "remover" if role == "purifier" else role
        config = {"phase": phase, "model": model, "dtype": "float32"}
        config["resolved"] = RESOLVED
        store = Checkpoints(folders[role])
        state = {"batch_stats": {}, **networks[3][role], "step": np.int32(7)}
        store.save(7, state, config, {}, {"loss": 1.0})
        store.close()
    return folders


def test_loaded_defence_is_the_one_that_was_saved(networks, runs):
    remover, detector, classifier, variables = networks
    defense = loading.load_defense(**runs, gate=0.4, batch_size=2)
    assert defense.image_shape == SHAPE and defense.batch_size == 2
    defend = make_defense(remover, detector, classifier_function(classifier), gate=0.4)
    expected = jax.jit(defend)(variables, IMAGES)
    chex.assert_trees_all_equal(defense(IMAGES), jax.device_get(expected))
    model = loading.load_classifier(runs["classifier"])
    assert model.num_classes == 3 and model.module == classifier


def test_models_that_do_not_belong_together_are_reported(runs):
    with pytest.raises(ValueError, match="holds a detector, expected a purifier"):
        loading.load_model(runs["detector"], role="purifier")
    with pytest.raises(ValueError, match="holds a purifier, expected a classifier"):
        loading.load_defense(runs["purifier"], runs["detector"], runs["purifier"])
    with pytest.raises(ValueError, match="unknown phase 'denoiser': choose from rem"):
        find_phase("denoiser")
    remover, detector, classifier = (loading.load_model(runs[p]) for p in MODELS)
    loading.check_models_match(remover, None, classifier)
    large = loading.LoadedModel(**{**vars(classifier), "image_shape": (16, 16, 1)})
    with pytest.raises(ValueError, match=r"classifier was.*\[16, 16, 1\].*\[8, 8, 1\]"):
        loading.check_models_match(remover, detector, large)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"resolved": RESOLVED | {"num_classes": 7}}, r"Dense_1/.*\(3,\).*\(7,\)"),
        ({"model": {"name": "cnn"}}, "has shape .* in the checkpoint and"),
    ],
)
def test_a_config_of_another_network_is_reported(change, expected, runs, tmp_path):
    run = shutil.copytree(runs["classifier"], tmp_path / "run")
    (path,) = run.glob("checkpoints/*/config/metadata")
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=expected):
        loading.load_classifier(run)


def test_a_defence_without_detector(networks, runs):
    remover, _, classifier, variables = networks
    defense = loading.load_defense(runs["purifier"], None, runs["classifier"])
    prediction = defense(IMAGES)
    assert prediction.degraded_probability is None
    clean = remover.apply(variables["purifier"], IMAGES).clean
    logits = classifier.apply(variables["classifier"], clean, train=False)
    # Two programs round differently.
    np.testing.assert_allclose(prediction.logits, logits, atol=1e-5)
    bare = make_defense(None, None, show)(NOTHING, IMAGES)
    np.testing.assert_array_equal(bare.clean, IMAGES)
    assert not bare.noise.any()


# Any purifier, by name or as a chain


def test_a_random_purifier_works_in_a_defence(runs):
    spec = "gaussian_noise:scale=0.2"
    defense = loading.load_defense(spec, None, runs["classifier"], batch_size=2)
    with pytest.raises(ValueError, match="gaussian_noise is random: give it a key"):
        defense(IMAGES)
    images = np.concatenate([IMAGES, IMAGES[:1]])
    key = jax.random.key(3)
    found = defense(images, key)
    # Each image draws by its number: another batch size changes nothing.
    again = loading.load_defense(spec, None, runs["classifier"], batch_size=3)
    chex.assert_trees_all_close(found, again(images, key), atol=1e-6)
    assert np.abs(found.clean[0] - found.clean[2]).max() > 0.05  # Of one image.
    other = defense(images, jax.random.key(4))
    assert np.abs(found.clean - other.clean).max() > 0.05
    np.testing.assert_allclose(found.noise, images - found.clean, atol=1e-6)
    logits = defense.random_logits_fn(key, jnp.asarray(images[:2]))
    np.testing.assert_allclose(logits, found.logits[:2], atol=1e-6)


def test_a_chain_of_purifiers_is_one(networks, runs):
    remover, _, _, variables = networks
    spec = f"bit_depth:bits=2+{runs['purifier']}"
    loaded = loading.load_purifier(spec)
    assert loaded.image_shape == SHAPE
    found = loaded.module(loaded.variables, IMAGES)
    coarse = np.rint(IMAGES * 3) / 3
    expected = remover.apply(variables["purifier"], coarse).clean
    np.testing.assert_allclose(found.clean, expected, atol=1e-5)
    np.testing.assert_allclose(found.noise, IMAGES - found.clean, atol=1e-6)
    defense = loading.load_defense(spec, runs["detector"], runs["classifier"])
    assert defense(IMAGES).degraded_probability.shape == (2,)
    with pytest.raises(FileNotFoundError, match="no checkpoint under nowhere/at/all"):
        loading.load_purifier("jpeg+nowhere/at/all")


def test_no_folder_hides_a_transformation(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for spec in ("bit_depth", "bit_depth+jpeg"):
        expected = loading.load_purifier(spec)
        (tmp_path / spec).mkdir()
        assert loading.load_purifier(spec).identity == expected.identity
    with pytest.raises(FileNotFoundError, match="no checkpoint under ./bit_depth"):
        loading.load_purifier("./bit_depth")


def test_data_of_a_transformation_are_variables_of_the_defence(runs, tmp_path):
    path = tmp_path / "patches.npy"
    patches = np.random.default_rng(0).random((4, 5, 5, SHAPE[-1]), np.float32)
    np.save(path, patches)
    spec = f"quilting:patches={path}"
    defense = loading.load_defense(spec, None, runs["classifier"], batch_size=2)
    np.testing.assert_array_equal(defense.variables["purifier"], patches)
    assert set(np.unique(defense(IMAGES).clean)) <= set(np.unique(patches))


def test_straight_through_takes_the_purifier_for_the_identity():
    def gradient(**options):
        defend = DefenseFunction(show, Dimmer(), **options)
        return jax.grad(lambda x: defend(NOTHING, x).logits[:, 0].sum())(IMAGES)

    plain, straight = gradient(), gradient(straight_through=True)
    assert plain[0, 0, 0, 0] == 0.25 and straight[0, 0, 0, 0] == 1.0


def test_equal_defences_share_a_program():
    one, other = (DefenseFunction(show, Dimmer(), Brightness()) for _ in range(2))
    assert one == other and hash(one) == hash(other)
