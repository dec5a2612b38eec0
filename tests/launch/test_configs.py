"""Every config builds, and every wrong field is reported before data are read."""

import importlib
import json

import pytest

from uronet_jax import checkpoints
from uronet_jax.evaluation import defense_table
from uronet_jax.models.reconstructor import RECONSTRUCTOR_VARIANTS, AutoencoderLayout
from uronet_jax.training import experiment
from uronet_jax.training.phases import PHASES as KNOWN
from uronet_jax.training.phases import find_phase

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


def save_untrained(phase, folder, make_variables):
    """Writes the run of a tiny network that knows nothing; returns its folder."""
    shape = (32, 32, 3)
    resolved = {"image_shape": shape, "num_classes": 10, "clean_mean": 0.5}
    config = {
        **{"phase": phase, "model": TINY[phase], "dtype": "float32"},
        "resolved": resolved | {"mean": [0.5] * 3, "std": [0.25] * 3},
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


@pytest.mark.parametrize(
    ("phase", "preset"),
    [(x, y) for x in PHASES for y in PRESETS] + [("remover", x) for x in UNIVERSAL],
)
def test_training_config_is_sound(phase, preset):
    config = load(phase, preset)
    size = UNIVERSAL.get(preset, preset)
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
    if size == "smoke":  # Needs no data and four steps.
        assert (data["name"], config["num_steps"]) == ("generated", 4)


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


@pytest.mark.parametrize("name", [*PHASES, "evaluate"])
def test_unknown_preset_is_rejected(name):
    for preset in ("tiny", "universal_tiny"):
        with pytest.raises(ValueError, match="tiny': choose from full, small, smoke"):
            load(name, preset)


# Phase, field, value -> what the message must hold besides the value.
WRONG = [
    ("remover", "phase", "removr", "remover, detector, classifier"),
    ("remover", "phase", "detector", "configs/detector.py"),
    ("remover", "dtype", "float16", "float32, bfloat16"),
    ("remover", "model__variant", "unet", "residual, skip, skip_dcae"),
    ("remover", "model__widths", (8, 0), "positive"),
    ("classifier", "model__name", "resnet21", "resnet20"),
    ("detector", "model__name", "wrn10_3", "wrn10_2"),
    ("detector", "model__inputs", "noise", "image_only"),
    ("remover", "optimizer__name", "adamw", "'adam', 'sgd'"),
    ("remover", "optimizer__schedule", "linear", "'cosine'"),
    ("remover", "optimizer__peak_rate", -1.0, "peak_rate must be positive"),
    ("remover", "optimizer__warmup_steps", 5, r"num_steps \(4\)"),
    ("remover", "degradation__suite", "uronett", "uronet"),
    ("remover", "degradation__noises", ("GX",), "GN, UN, SPN"),
    ("remover", "degradation__severities", (0,), r"integer in \(1, 2, 3\)"),
    ("remover", "degradation__severities", (4,), r"integer in \(1, 2, 3\)"),
    ("detector", "degradation__severities", (1.0,), r"integer in \(1, 2, 3\)"),
    ("remover", "degradation__spn_reading", "per_row", "per_pixel, per_channel"),
    ("remover", "degradation__un_reading", "per_row", "per_element"),
    ("remover", "degradation__clean_entries", -1, "clean_entries"),
    ("remover", "degradation__suite", "cifar_c", "takes too long .*ation.copies"),
    ("detector", "degradation__clean_entries", 1, "learn that clean images are degr"),
    ("remover", "degradation__copies", 3, "clean_entries .* beside copies set it to 0"),
    ("remover", "model__mirror", "no", "mirror must be True or False"),
    ("remover", "seed", -1, "seed must be an integer"),
    ("remover", "degradation__suite", "", "learns on degraded images: set degrad"),
    ("detector", "degradation__suite", "", "learns on degraded images: set degrad"),
    ("remover", "degradation__copies", -1, "degradation.copies must be an integer"),
    ("remover", "degradation__clean_share", 1.5, r"clean_share must be .*\[0, 1\]"),
    ("classifier", "degradation__noises", ("gaussian_noise",), "parameters"),
    ("classifier", "degradation__parameters", (0.1,), "name these and leave"),
    ("remover", "degradation__parameters", (0.1,), "name these and leave"),
    ("adversarial_noise", "noise__epsilon", 0.0, "noise.epsilon must be"),
    ("adversarial_noise", "noise__epsilon", -1.0, "noise.epsilon must be"),
    ("adversarial_noise", "degradation__folder", "stylised", "shown to nobody"),
    ("adversarial_noise", "noise__restart_steps", 4, "before the classifier's first"),
    ("adversarial_noise", "noise__generator", "5x5", "1x1, 3x3"),
    ("adversarial_noise", "noise__restart_every", 0, "set noise.restart_every"),
    ("adversarial_noise", "noise__rate", -1.0, "noise.rate must be"),
    ("adversarial_noise", "shares__noise", 0.9, "add up to 1.1: at most 1"),
    ("adversarial_noise", "shares__replay", 0.05, "0.025 of a batch of 16 is no imag"),
    ("adversarial_noise", "shares__replay_slices", 0, "replay_slices must be"),
    ("adversarial_noise", "shares__degraded", 0.1, "set degradation.suite or"),
    ("adversarial_noise", "model__name", "resnet21", "resnet20"),
    ("adversarial_training", "attack__epsilon", -1.0, "attack.epsilon must be"),
    ("adversarial_training", "attack__epsilon", 8.0, "attack.epsilon must be"),
    ("adversarial_training", "attack__steps", 0, "attack.steps must be"),
    ("adversarial_training", "attack__norm", "l1", "linf, l2"),
    ("remover", "loss__clean_mse", -1.0, "loss.clean_mse must be"),
    ("remover", "loss__inconsistency", 0.1, "set config.classifier"),
    ("detector", "purifier", "", "set config.purifier"),
    ("reconstructor", "classifier", "", "asks a frozen classifier: set config.class"),
    ("reconstructor", "model__variant", "unet", "code, paper"),
    ("reconstructor", "model__width", 6, "multiple of 4"),
    ("reconstructor", "reconstruction__warmup_steps", 5, "num_steps is 4"),
    ("reconstructor", "reconstruction__warmup_steps", -1, "warmup_steps must be"),
    ("reconstructor", "reconstruction__class_weight", -0.5, "class_weight must be"),
    ("reconstructor", "reconstruction__labels", "guessed", "true, predictions"),
    ("reconstructor", "degradation__folder", "", "learns on degraded images: set"),
    ("reconstructor", "optimizer__warmup_steps", 3, r"num_steps \(2\)"),
    ("remover", "data__augmentation", "mixup", "flip_crop"),
    ("remover", "data__pipeline", "grain", "auto, on_device or streamed"),
    ("remover", "data__train_split", "test", "split off a part of train"),
    ("remover", "data__validation_split", "test[:50%]", "split off a part of train"),
    # Four devices.
    ("remover", "batch_size", 18, "multiple of 4"),
    ("remover", "eval_batch_size", 0, "multiple of 4"),
    ("remover", "num_steps", 0, "num_steps"),
    ("remover", "steps_per_dispatch", 0, "steps_per_dispatch"),
    ("remover", "log_every", -1, "log_every"),
    ("remover", "eval_every", -2, "eval_every"),
    ("remover", "checkpoint_every", -3, "checkpoint_every"),
]


@pytest.mark.parametrize(("phase", "field", "value", "expected"), WRONG)
def test_wrong_field_is_reported_before_data_are_read(
    phase, field, value, expected, monkeypatch
):
    monkeypatch.setattr(experiment, "open_source", None)
    config = load(phase, **{field: value})
    with pytest.raises(ValueError, match=expected) as caught:
        experiment.build_experiment(config, None)
    shown = value[-1] if isinstance(value, tuple) else value
    unnamed = ("loss__inconsistency", "degradation__copies")
    assert field in unnamed or str(shown) in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"name": "cifar11"}, r"'cifar11'.*Built in: mnist5k.*uronet prepare"),
        ({"train_split": "training"}, "no split 'training': it has test, train"),
        ({"train_split": "train[:9999]"}, "goes beyond the 256 images"),
        ({"validation_split": "train[256:]"}, "holds no image"),
        ({"validation_split": "train[191:]"}, "data.train_split .* share images"),
    ],
)
def test_wrong_data_are_reported(fields, expected, tmp_path):
    config = load("remover", **{f"data__{k}": v for k, v in fields.items()})
    with pytest.raises((ValueError, FileNotFoundError), match=expected):
        experiment.build_experiment(config, str(tmp_path / "nowhere"))


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
