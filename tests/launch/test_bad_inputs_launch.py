"""Configs with a wrong field, and the one error, before data or models are read."""

import pytest
from test_configs import PHASES, load

from launch import attack
from uronet_jax.evaluation import subject
from uronet_jax.training import experiment

# Phase, field, value -> what the message must hold besides the value.
WRONG = [
    ("remover", "phase", "removr", "remover, detector, classifier"),
    ("remover", "phase", "detector", "configs/detector.py"),
    ("remover", "dtype", "float16", "float32, bfloat16"),
    ("remover", "model__variant", "unet", "residual, skip, skip_dcae"),
    (
        "remover",
        "model__widths",
        (8, 0),
        r"each of widths must be an integer in \[1, 2147483647\]: 0",
    ),
    ("classifier", "model__name", "resnet21", "resnet20"),
    ("detector", "model__name", "wrn10_3", "wrn10_2"),
    ("detector", "model__inputs", "noise", "image_only"),
    ("remover", "optimizer__name", "adamw", "nearest: 'adam'.*adam, sgd"),
    ("remover", "optimizer__schedule", "linear", "choose from constant, cosine"),
    (
        "remover",
        "optimizer__peak_rate",
        -1.0,
        r"peak_rate must be a finite number in \(0, inf\): -1.0",
    ),
    ("remover", "optimizer__warmup_steps", 5, r"num_steps \(4\)"),
    ("remover", "degradation__suite", "uronett", "uronet"),
    ("remover", "degradation__noises", ("GX",), "GN, UN, SPN"),
    ("remover", "degradation__severities", (0,), r"integer in \[1, 3\]"),
    ("remover", "degradation__severities", (4,), r"integer in \[1, 3\]"),
    ("detector", "degradation__severities", (1.0,), r"integer in \[1, 3\]"),
    ("remover", "degradation__spn_reading", "per_row", "per_pixel, per_channel"),
    ("remover", "degradation__un_reading", "per_row", "per_element"),
    (
        "remover",
        "degradation__clean_entries",
        -1,
        r"clean_entries must be an integer in \[0, 1000\]: -1",
    ),
    ("remover", "degradation__suite", "cifar_c", "takes too long .*degradation.copies"),
    (
        "detector",
        "degradation__clean_entries",
        1,
        "learn that clean images are degraded: set it to 0",
    ),
    ("remover", "degradation__copies", 3, "clean_entries .* beside copies set it to 0"),
    ("remover", "model__mirror", "no", "mirror must be True or False"),
    ("remover", "seed", -1, r"seed must be an integer in \[0, 2147483647\]: -1"),
    (
        "remover",
        "degradation__suite",
        "",
        "learns on degraded images: set degradation.suite",
    ),
    (
        "detector",
        "degradation__suite",
        "",
        "learns on degraded images: set degradation.suite",
    ),
    (
        "remover",
        "degradation__copies",
        -1,
        r"degradation.copies must be an integer in \[0, 1000\]: -1",
    ),
    ("remover", "degradation__clean_share", 1.5, r"clean_share must be .*\[0, 1\]"),
    (
        *("classifier", "degradation__noises", ("gaussian_noise",)),
        r"^degradation.noises \('gaussian_noise',\) are of no suite: name it in "
        "degradation.suite, or how strong they are in degradation.parameters$",
    ),
    (
        "classifier",
        "degradation__parameters",
        (0.1,),
        "name these and leave degradation.suite empty",
    ),
    (
        "remover",
        "degradation__parameters",
        (0.1,),
        "name these and leave degradation.suite empty",
    ),
    (
        "adversarial_noise",
        "noise__epsilon",
        0.0,
        r"noise.epsilon must be .* in \[1e-06, inf\): 0.0",
    ),
    (
        "adversarial_noise",
        "noise__epsilon",
        -1.0,
        r"noise.epsilon must be .* in \[1e-06, inf\): -1.0",
    ),
    ("adversarial_noise", "degradation__folder", "stylised", "shown to nobody"),
    ("adversarial_noise", "degradation__clean_share", 0.1, "than shares.degraded says"),
    ("detector", "degradation__folder", "a", r"suite \('uronet'\) is .* leave one of"),
    ("reconstructor", "degradation__suite", "cifar_c", "folder .* holds copies: leave"),
    ("reconstructor", "degradation__severities", (2,), "folder .* holds copies: leave"),
    (
        "adversarial_noise",
        "noise__restart_steps",
        4,
        "before the classifier's first update",
    ),
    ("adversarial_noise", "noise__generator", "5x5", "1x1, 3x3"),
    ("adversarial_noise", "noise__restart_every", 0, "set noise.restart_every"),
    (
        "adversarial_noise",
        "noise__rate",
        -1.0,
        r"noise.rate must be a finite number in \[0, inf\): -1.0",
    ),
    ("adversarial_noise", "shares__noise", 0.9, "add up to 1.1: at most 1"),
    ("adversarial_noise", "shares__replay", 0.05, "0.025 of a batch of 16 is no image"),
    (
        "adversarial_noise",
        "shares__replay_slices",
        0,
        r"replay_slices must be an integer in \[1, 1000\]: 0",
    ),
    (
        "adversarial_noise",
        "shares__degraded",
        0.1,
        "set degradation.suite or, .*degradation.folder",
    ),
    ("adversarial_noise", "model__name", "resnet21", "resnet20"),
    (
        "adversarial_training",
        "attack__epsilon",
        -1.0,
        r"attack.epsilon must be a finite number in \[0, 1\]: -1.0",
    ),
    (
        "adversarial_training",
        "attack__epsilon",
        8.0,
        r"attack.epsilon must be a finite number in \[0, 1\]: 8.0",
    ),
    (
        "adversarial_training",
        "attack__steps",
        0,
        r"attack.steps must be an integer in \[1, 1000\]: 0",
    ),
    ("adversarial_training", "attack__norm", "l1", "linf, l2"),
    (
        "remover",
        "loss__clean_mse",
        -1.0,
        r"loss.clean_mse must be a finite number in \[0, inf\): -1.0",
    ),
    ("remover", "loss__inconsistency", 0.1, "set config.classifier"),
    ("detector", "purifier", "", "set config.purifier"),
    (
        "reconstructor",
        "classifier",
        "",
        "asks a frozen classifier: set config.classifier",
    ),
    ("reconstructor", "model__variant", "unet", "code, paper"),
    (
        "reconstructor",
        "model__width",
        6,
        "width must be a multiple of 4 from 4 on.*: 6",
    ),
    ("reconstructor", "reconstruction__warmup_steps", 5, "num_steps is 4"),
    (
        "reconstructor",
        "reconstruction__warmup_steps",
        -1,
        r"warmup_steps must be an integer in \[0, 2147483647\]: -1",
    ),
    (
        "reconstructor",
        "reconstruction__class_weight",
        -0.5,
        r"class_weight must be a finite number in \[0, inf\): -0.5",
    ),
    ("reconstructor", "reconstruction__labels", "guessed", "true, predictions"),
    (
        "reconstructor",
        "degradation__folder",
        "",
        "learns on degraded images: set degradation.suite",
    ),
    ("reconstructor", "optimizer__warmup_steps", 3, r"num_steps \(2\)"),
    ("remover", "data__augmentation", "mixup", "flip_crop"),
    ("remover", "data__pipeline", "grain", "auto, on_device, streamed"),
    ("remover", "data__train_split", "test", "split off a part of train"),
    ("remover", "data__validation_split", "test[:50%]", "split off a part of train"),
    # Four devices.
    ("remover", "batch_size", 18, "batch size 18 .*multiple of 4"),
    ("remover", "eval_batch_size", 0, "batch size 0 .*multiple of 4"),
    (
        "remover",
        "num_steps",
        0,
        r"num_steps must be an integer in \[1, 2147483647\]: 0",
    ),
    (
        "remover",
        "steps_per_dispatch",
        0,
        r"steps_per_dispatch must be an integer in \[1, 2147483647\]: 0",
    ),
    (
        "remover",
        "log_every",
        -1,
        r"log_every must be an integer in \[1, 2147483647\]: -1",
    ),
    (
        "remover",
        "eval_every",
        -2,
        r"eval_every must be an integer in \[0, 2147483647\]: -2",
    ),
    (
        "remover",
        "checkpoint_every",
        -3,
        r"checkpoint_every must be an integer in \[0, 2147483647\]: -3",
    ),
    (
        "remover",
        "num_steps",
        4.5,
        r"num_steps must be an integer in \[1, 2147483647\]: 4.5",
    ),
    ("remover", "batch_size", 16.0, "size 16.0 cannot .* multiple of 4"),
    ("remover", "data__train_split", None, "has no split None"),
    ("remover", "model__widths", 8, "one or more whole numbers: 8"),
    (
        "remover",
        "optimizer__peak_rate",
        "0.1",
        r"peak_rate must be a finite number in \(0, inf\): '0.1'",
    ),
    (
        "remover",
        "optimizer__clip_norm",
        float("nan"),
        r"clip_norm must be a finite number in \[0, inf\): nan",
    ),
    (
        "classifier",
        "optimizer__momentum",
        2.0,
        r"momentum must be a finite number in \[0, 1\]: 2.0",
    ),
    (
        "classifier",
        "optimizer__weight_decay",
        float("nan"),
        r"weight_decay must be a finite number in \[0, inf\): nan",
    ),
    ("remover", "degradation__noises", "GN", r"noises must be several, .*\('GN',\)"),
    ("remover", "degradation__severities", 1, r"severities must be several, .*\(1,\)"),
    ("remover", "degradation__suite", "cifar-c", "nearest: 'cifar_c'"),
]


@pytest.mark.parametrize(("phase", "field", "value", "expected"), WRONG)
def test_training(phase, field, value, expected, monkeypatch):
    monkeypatch.setattr(experiment, "open_source", None)
    config = load(phase, **{field: value})
    with pytest.raises(ValueError, match=expected) as caught:
        experiment.build_experiment(config, None)
    shown = value[-1] if isinstance(value, tuple) else value
    unnamed = ("loss__inconsistency", "degradation__copies")
    assert field in unnamed or str(shown) in str(caught.value)


@pytest.mark.parametrize(
    ("phase", "fields", "expected"),
    [
        ("detector", {"clip": False}, "for a purifier .* smoothed: False in phase 'de"),
        ("remover", {"clip": 0}, "degradation.clip must be True, or False .*: 0 in"),
        ("remover", {"clip": False, "copies": 2, "clean_entries": 0}, "that is drawn"),
    ],
)
def test_noise_that_is_not_clipped(phase, fields, expected):
    config = load(phase)
    config["degradation"] |= fields
    with pytest.raises(ValueError, match=expected):
        experiment.check_config(config)


@pytest.mark.parametrize(
    ("phase", "removed", "missing"),
    [
        *(("remover", x, x) for x in ("seed", "batch_size", "initial", "loss")),
        *(("remover", x, x) for x in ("data.validation_split", "degradation.folder")),
        ("remover", "data", "data.name"),
        ("remover", "optimizer", "optimizer.peak_rate"),
        ("remover", "optimizer.peak_rate", "optimizer.peak_rate"),
        ("detector", "model.inputs", "model.inputs"),
        ("adversarial_noise", "shares.noise", "shares.noise"),
        ("adversarial_training", "attack", "attack.norm"),
        ("reconstructor", "reconstruction.labels", "reconstruction.labels"),
    ],
)
def test_a_field_that_is_missing(phase, removed, missing):
    config = load(phase)
    section, _, field = removed.rpartition(".")
    del (config[section] if section else config)[field]
    message = f"config has no field '{missing}', .*: start from configs/{phase}.py"
    with pytest.raises(ValueError, match=message):
        experiment.build_experiment(config, None)


def test_a_section_that_is_none():
    config = {**load("remover"), "optimizer": "adam"}
    with pytest.raises(ValueError, match="config.optimizer must hold fields, .*'adam'"):
        experiment.build_experiment(config, None)


def test_a_key_error_of_the_program_is_no_missing_field(monkeypatch):
    monkeypatch.setattr(experiment, "make_pairs", lambda config: {}["of the program"])
    with pytest.raises(KeyError, match="of the program"):
        experiment.check_config(load("remover"))


@pytest.mark.parametrize(
    ("section", "field", "message"),
    [
        ("optimizer", "warmup_step", "field of optimizer .*nearest: 'warmup_steps'"),
        ("optimizer", "num_steps", "unknown field of optimizer 'num_steps'"),
        ("loss", "clean_mae", "unknown loss 'clean_mae' .nearest: 'clean_mse'"),
    ],
)
def test_a_field_that_is_unknown(section, field, message):
    """The command line refuses one at once, see `test_command`."""
    config = load("remover")
    config[section][field] = 1
    with pytest.raises(ValueError, match=message):
        experiment.build_experiment(config, None)


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
def test_data(fields, expected, tmp_path):
    config = load("remover", **{f"data__{k}": v for k, v in fields.items()})
    with pytest.raises((ValueError, FileNotFoundError), match=expected):
        experiment.build_experiment(config, str(tmp_path / "nowhere"))


@pytest.mark.parametrize("name", [*PHASES, "evaluate"])
def test_presets(name):
    for preset, near in (
        ("tiny", ""),
        ("universal_tiny", "( .nearest: 'universal.*)?"),
        ("smok", " .nearest: 'smoke'.*"),
    ):
        message = f"unknown preset '{preset}'{near}: choose from full, small, smoke"
        with pytest.raises(ValueError, match=message):
            load(name, preset)


# Fields of an attack, and what the message holds.
ATTACK = [
    (
        {"attacks": ("pgd",)},
        "unknown attack 'pgd' .nearest: 'pgd_l2'.: choose from fgsm_linf",
    ),
    ({"attacks": ()}, "attacks must be a tuple of one or more different entries"),
    ({"threats": ("black_box",)}, "unknown threat model 'black_box'.*grey_box"),
    ({"threats": ("grey_box",) * 2}, "threats must be .* different entries"),
    (
        {"epsilon__linf": 0.0},
        r"epsilon.linf must be a finite number in \(0, inf\): 0.0",
    ),
    (
        {"epsilon__l2": float("inf")},
        r"epsilon.l2 must be a finite number in \(0, inf\): inf",
    ),
    ({"steps": (0,)}, r"steps must be an integer in \[1, 2147483647\]: 0"),
    ({"steps": (2.5,)}, r"steps must be an integer in \[1, 2147483647\]: 2.5"),
    ({"restarts": -1}, r"restarts must be an integer in \[0, 2147483647\]: -1"),
    ({"queries": 0}, r"queries must be an integer in \[1, 2147483647\]: 0"),
    (
        {"attacks": ("apgd_t_l2",), "threats": ("detector_aware",)},
        "apgd_t_l2 .* cannot fool a detector too: add .* to detector_aware",
    ),
    ({"num_pictures": -1}, r"num_pictures must be an integer in \[0, 2147483647\]: -1"),
    ({"batch_size": 6}, "batch size 6 .* multiple of 4"),
    (
        {"false_alarms": 1.0},
        r"^false_alarms, a share of images, must be .* in \[0, 1\): 1.0$",
    ),
    ({"attacks": ("autoattack",)}, "autoattack is a function of its own"),
    ({"false_alarms": 1.5}, r"false_alarms, a share.*\[0, 1\): 1.5"),
    ({"checkpoint": "first"}, "unknown checkpoint 'first': choose from best, last"),
    (
        {"data__num_examples": -2},
        r"data.num_examples must be an integer in \[0, 2147483647\]: -2",
    ),
    ({"data__validation_split": "test"}, "threshold must not be set on test"),
    ({"classifier": ""}, "name a classifier"),
    ({"purifier": ""}, "name a purifier too"),
    ({"detector": ""}, "detector_aware needs a detector"),
    (
        {"detector": "", "threats": ("white_box",), "gated": True},
        "gated needs a detector",
    ),
    ({"classifier": "nowhere"}, "no checkpoint under nowhere"),
]


@pytest.mark.parametrize(("fields", "expected"), ATTACK)
def test_attack(fields, expected, tmp_path, monkeypatch):
    monkeypatch.setattr(subject, "open_source", None)
    with pytest.raises((ValueError, FileNotFoundError), match=expected):
        attack.run(load("attack", **fields), tmp_path / "new")
    assert not (tmp_path / "new" / "attack.json").exists()
