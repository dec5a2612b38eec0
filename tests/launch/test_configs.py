"""Every config builds, and every wrong field is reported before data are read."""

import importlib
import json
import math

import chex
import jax
import numpy as np
import pytest

from uronet_jax import checkpoints
from uronet_jax.corruptions import NOISES
from uronet_jax.evaluation import defense_table
from uronet_jax.models.reconstructor import RECONSTRUCTOR_VARIANTS, AutoencoderLayout
from uronet_jax.training import adversarial_noise, experiment
from uronet_jax.training.phases import PHASES as KNOWN
from uronet_jax.training.phases import find_phase
from uronet_jax.training.state import initial_state

PHASES = (
    *("remover", "detector", "classifier"),
    *("adversarial_noise", "adversarial_training", "reconstructor"),
)
PRESETS = ("full", "small", "smoke")
# What the models of each phase are in a defence.
ROLES = {"purifier": "remover", "detector": "detector", "classifier": "classifier"}


def load(name, preset="smoke", **fields):
    """Returns a config as plain dicts, with `a__b=1` for --config.a.b=1."""
    config = importlib.import_module(f"configs.{name}").get_config(preset)
    config.lock()
    with config.ignore_type():
        config.update_from_flattened_dict(
            {field.replace("__", "."): value for field, value in fields.items()}
        )
    return config.to_dict()


# The fastest networks there are.
TINY = {
    "remover": {"variant": "dcae", "widths": (2,)},
    "detector": {"name": "cnn_narrow", "inputs": "image"},
    "classifier": {"name": "cnn_narrow"},
    "adversarial_noise": {"name": "cnn_narrow"},
    "reconstructor": {"variant": "tiny", "width": 4},
}


@pytest.fixture(scope="module")
def tiny_reconstructor():
    """The paper's with one block for three: a third of the layers to compile."""
    layout = AutoencoderLayout(((1, 1, 1),), ((1, 1, 1),), skip_halved=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(RECONSTRUCTOR_VARIANTS, "tiny", layout)
        yield


def save_run(folder, step, variables, config):
    """Writes a run that ended with some variables."""
    store = checkpoints.Checkpoints(folder)
    store.save(step, {"batch_stats": {}, **variables}, config, {}, {})
    store.close()


def save_untrained(phase, folder, make_variables, shape=(32, 32, 3), num_classes=10):
    """Writes the run of a tiny network that knows nothing; returns its folder."""
    resolved = {"image_shape": shape, "num_classes": num_classes, "clean_mean": 0.5}
    config = {
        **{"phase": phase, "model": TINY[phase], "dtype": "float32"},
        "resolved": resolved | {"mean": [0.5] * shape[2], "std": [0.25] * shape[2]},
    }
    found = find_phase(phase)
    variables = make_variables(found.build(config), found.input_shape(config, shape))
    save_run(folder, 1, variables, config)
    return str(folder)


def save_models(folder, make_variables):
    """Writes such a run for each role of a defence; returns their folders."""
    return {
        role: save_untrained(phase, folder / phase, make_variables)
        for role, phase in ROLES.items()
    }


UNIVERSAL = {
    "universal": "full",
    "universal_small": "small",
    "universal_smoke": "smoke",
}
SMOOTHING = {x.replace("universal", "smoothing"): y for x, y in UNIVERSAL.items()}
IMAGENET = {"imagenet": "full", "imagenet_smoke": "smoke"}


@pytest.mark.parametrize(
    ("phase", "preset"),
    [(x, y) for x in PHASES for y in PRESETS]
    + [("remover", x) for x in (*UNIVERSAL, *SMOOTHING)]
    + [(x, y) for x in ("classifier", "adversarial_noise") for y in IMAGENET],
)
def test_training_config_is_sound(phase, preset):
    config = load(phase, preset)
    size = (UNIVERSAL | SMOOTHING | IMAGENET).get(preset, preset)
    assert (config["phase"], config["preset"]) == (phase, size)
    experiment.check_config(config)
    json.dumps(config)  # It is stored with the checkpoints.
    # What chooses the checkpoint was not learned from: no slices overlap.
    data = config["data"]
    learned, judged = data["train_split"], data["validation_split"]
    first, last = learned.removeprefix("train[:"), judged.removeprefix("train[")
    assert int(first.rstrip("]")) <= int(last.split(":")[0])
    # The best checkpoint must be one that was judged.
    assert 0 < config["eval_every"] <= config["num_steps"]
    assert config["checkpoint_every"] % config["eval_every"] == 0
    if preset in UNIVERSAL:
        assert config["model"]["mirror"] and config["loss"]["inconsistency"] > 0
        assert config["classifier"] == f"runs/{size}/classifier"
    if preset in SMOOTHING:
        judged = load("certify", size)
        assert config["degradation"]["clip"] is judged["clip"]
        degradation = experiment.build_degradation(config["degradation"])
        # It is float32.
        assert degradation.parameter == np.float32(judged["sigma"])
    if size == "smoke":  # Needs no data and four steps.
        generated = "generated_224" if preset in IMAGENET else "generated"
        assert (data["name"], config["num_steps"]) == (generated, 4)


def test_photographs_learn_adversarial_noise_of_the_papers_size(monkeypatch):
    """The smoke run without compiling it: four images of 224x224, ResNet-50."""
    full = load("adversarial_noise", "imagenet")
    shape = (224, 224, 3)
    # 0.35 an element.
    assert full["noise"]["epsilon"] / math.sqrt(math.prod(shape)) == pytest.approx(
        0.348, abs=5e-4
    )
    assert full["initial"].endswith(".safetensors")
    cycle = full["noise"]["restart_every"] + full["noise"]["restart_steps"]
    assert full["num_steps"] == 120 * cycle
    source, _, task, _ = experiment.build_experiment(
        load("adversarial_noise", "imagenet_smoke"), None
    )
    assert source.image_shape == shape and len(source) == 12
    images, labels = source.read(np.arange(4))
    batch = {"image": images, "label": labels, "index": np.arange(4, dtype=np.int32)}

    def begin():
        state = initial_state(task.module, task.optimizer, jax.random.key(0), shape)
        return task.extend(state)

    def update(state, optimizer, classifier, images, labels):
        # Traced as for any classifier, which takes longest.
        assert images.shape == (4, *shape) and labels.shape == (4,)
        return state, {}

    monkeypatch.setattr(adversarial_noise, "update_by_labels", update)
    state = jax.eval_shape(begin)
    assert state.params["Dense_0"]["kernel"].shape == (2048, 10)
    after, metrics = jax.eval_shape(task.step.kinds[0], state, task.frozen, batch)
    chex.assert_trees_all_equal_shapes_and_dtypes(after, state)
    assert metrics["noise_loss"].shape == ()


@pytest.mark.parametrize("preset", PRESETS)
def test_evaluation_config_is_sound(preset):
    config = load("evaluate", preset)
    json.dumps(config)
    defense_table.check_suite(config["suite"], config["data"])
    entries = defense_table.make_entries(config["suite"], None)
    assert len({(e.noise, e.severity) for e in entries}) == 18
    assert config["data"]["split"] == "test"
    # The gate is set on images that no model learned from.
    first = load("remover", preset)["data"]["train_split"].removeprefix("train[:")
    gate = config["data"]["validation_split"].removeprefix("train[")
    assert int(first.rstrip("]")) <= int(gate.split(":")[0])
    for role, phase in ROLES.items():
        assert config[role] == f"runs/{preset}/{phase}"
    assert load("detector", preset)["purifier"] == config["purifier"]
    assert (config["data"]["name"] == "generated") == (preset == "smoke")


def test_phases_are_known_by_name():
    """Each has a config of its name, which `test_launch` trains and loads."""
    assert tuple(KNOWN) == PHASES
    assert all(KNOWN[phase].role == role for role, phase in ROLES.items())
    assert {KNOWN[phase].role for phase in PHASES[3:5]} == {"classifier"}
    assert KNOWN["reconstructor"].role == "purifier"
    with pytest.raises(ValueError, match="unknown phase 'gan': choose from remover, d"):
        find_phase("gan")


@pytest.mark.parametrize(
    ("noise", "parameter", "expected"),
    [
        ("gaussian_noise", -0.1, "scale must be finite and in [0.0, inf]: -0.1"),
        ("gaussian_noise", math.nan, "scale must be finite and in [0.0, inf]: nan"),
        ("gn", 0.1, f"unknown noise 'gn': choose from {', '.join(NOISES)}"),
    ],
)
def test_wrong_strengths_are_reported_by_their_field(noise, parameter, expected):
    fields = {"noises": (noise,), "parameters": (parameter,)}
    config = load("classifier", **{f"degradation__{k}": v for k, v in fields.items()})
    start = f"degradation.noises ('{noise}',) do not take degradation.parameters "
    with pytest.raises(ValueError) as caught:
        experiment.check_config(config)
    assert str(caught.value) == f"{start}({parameter},): {expected}"


def test_noise_larger_than_the_images_allow_is_reported(monkeypatch):
    monkeypatch.setattr(experiment, "load_initial", None)
    config = load("adversarial_noise", noise__epsilon=55.5, initial="nowhere")
    monkeypatch.setattr(experiment, "initial_statistics", lambda *given: {})
    expected = r"^noise.epsilon, .* 32x32x3, must .* \(0, 55.4256\]: 55.5$"
    with pytest.raises(ValueError, match=expected):
        experiment.build_experiment(config, None)


def test_large_sets_are_sampled_evenly_for_their_statistics():
    class Source:
        image_shape = (2, 2, 1)

        def __len__(self):
            return 1000

        def read(self, rows):
            self.rows = rows
            return rows.reshape(-1, 1, 1, 1).astype("uint8"), rows

    source = Source()
    assert len(experiment.sample_images(source)) == 1000
    assert len(experiment.sample_images(source, max_bytes=40)) == 10
    assert source.rows[0] == 0 and source.rows[-1] == 999
    assert set(source.rows[1:] - source.rows[:-1]) == {111}
