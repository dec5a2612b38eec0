"""What cannot be judged, and the one error that says so, before any work."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from test_configs import load
from test_corruption_errors import ROBUSTBENCH

from uronet_jax import sharding
from uronet_jax.defense import (
    DefenseFunction,
    detector_input,
    make_defense,
    validate_images,
)
from uronet_jax.evaluation import corruption_errors, metrics
from uronet_jax.evaluation.attack_run import check_attack_config
from uronet_jax.evaluation.grad_cam import grad_cam
from uronet_jax.evaluation.judge import Judge
from uronet_jax.evaluation.subject import check_subject
from uronet_jax.evaluation.threat_models import make_run
from uronet_jax.models import Separation, make_classifier

IMAGES, LABELS = np.zeros((4, 8, 8, 3), np.uint8), np.arange(4)
FLOATS = np.full((2, 4, 5, 3), 0.5)


def judge(images=IMAGES, labels=LABELS, batch_size=4, **changes):
    mesh = sharding.data_mesh()
    Judge((images, labels), batch_size=batch_size, mesh=mesh, **changes)


def summary(*rows, **changes):
    given = {"clean_accuracy": 0.9} | changes
    corruption_errors.summarize(rows or ROBUSTBENCH, **given)


def without(**cells):
    """Rows of all corruptions but for some of them."""
    return [r for r in ROBUSTBENCH if any(r[k] != v for k, v in cells.items())]


def first(**changes):
    return {**ROBUSTBENCH[0], **changes}


def attacks(**fields):
    check_attack_config(load("attack", **fields))


def evaluation(**fields):
    check_subject(load("evaluate", **fields), "gate_false_alarms")


class Grey(nn.Module):
    """What a detector or purifier could be."""

    def __call__(self, images, *, train=False):
        return images


class Dimmer(nn.Module):
    """A remover that takes integers too."""

    def __call__(self, images):
        return Separation(images / 4, images / 2)


class Brightness(nn.Module):
    """A detector that takes any number of channels."""

    def __call__(self, images, *, train=False):
        p = images[..., 0].mean(axis=(1, 2))
        return jnp.stack([1 - p, p], axis=-1)


def classify(variables, images):
    return images.mean(axis=(1, 2))


GREY = Grey()


def defence(purifier=GREY, detector=GREY, classify=classify, **changes):
    return DefenseFunction(classify, purifier, detector, **changes)


def bare(variables, images=FLOATS):
    make_defense(None, None, classify)(variables, images)


def whole(images):
    variables = {"purifier": {}, "detector": {}, "classifier": {}}
    make_defense(Dimmer(), Brightness(), classify)(variables, images)


def changed(value):
    images = FLOATS.copy()
    images[1, 0, 0, 0] = value
    return images


def show(images):
    validate_images(images, (4, 5, 3))


def attend(labels):
    module = make_classifier("cnn", 3)
    grad_cam(module, {}, np.float32(FLOATS), labels)


NETWORK = make_classifier("cnn", 3)
PAIR = Separation(FLOATS, FLOATS)
ROWS = [
    # Images and labels that are judged.
    ("none", lambda: judge(IMAGES[:0], LABELS[:0]), r"at least 1, .*\[0, 8, 8, 3\]"),
    ("few labels", lambda: judge(labels=LABELS[:3]), r"as many labels .*\[3\]"),
    ("one-hot", lambda: judge(labels=np.eye(4, dtype=int)), r"labels \[N\]: .*\[4, 4"),
    ("halves", lambda: judge(labels=LABELS / 2), "labels must be integers from 0 on"),
    ("negative", lambda: judge(labels=LABELS - 1), "integers from 0 on: int64 from -1"),
    ("0 to 255", lambda: judge(IMAGES + 200.0), "divide 0..255 images by 255"),
    ("NaN", lambda: judge(IMAGES * np.nan), "replace NaN"),
    ("a list", lambda: judge(IMAGES.tolist()), "images must be an array"),
    ("no channels", lambda: judge(IMAGES[..., 0]), r"need images \[N, H, W, C\]"),
    ("devices", lambda: judge(batch_size=6), "size 6 .* multiple of 4"),
    ("a seed", lambda: judge(seed=-1), "seed must be an integer in .*: -1"),
    ("half a seed", lambda: judge(seed=0.5), "seed must be an integer in .*: 0.5"),
    # Images that a defence is shown.
    (
        "one image",
        lambda: show(FLOATS[0]),
        r"\[N, H, W, C\], got \[4, 5, 3\]: add a batch axis with images\[None\]",
    ),
    ("no images", lambda: show(FLOATS[:0]), "got 0 images"),
    ("another size", lambda: show(FLOATS[:, :3]), r"\[3, 5, 3\].*made for \[4, 5, 3\]"),
    (
        "no channel",
        lambda: show(np.zeros((2, 28, 28))),
        r"got \[2, 28, 28\]: add a channel axis",
    ),
    ("a row", lambda: show(np.zeros(4)), r"got \[4\]$"),
    (
        "turned",
        lambda: show(FLOATS.transpose(0, 2, 1, 3)),
        r"have shape \[5, 4, 3\].*made for \[4, 5, 3\]",
    ),
    (
        "int32",
        lambda: show(FLOATS.astype(np.int32)),
        r"uint8 in 0..255 or float in \[0, 1\], got int32",
    ),
    ("bool", lambda: show(FLOATS.astype(bool)), "got bool"),
    ("text", lambda: show(FLOATS.astype(str)), "got <U"),
    ("a NaN", lambda: show(changed(np.nan)), r"images \[1\] hold NaN or infinity"),
    ("infinite", lambda: show(changed(np.inf)), r"images \[1\] hold NaN or infinity"),
    ("levels", lambda: show(changed(200.0)), r"got \[0.5, 200\]: divide by 255"),
    ("bright", lambda: show(changed(1.01)), r"got \[0.5, 1.01\]: clip or rescale"),
    ("dark", lambda: show(changed(-3.0)), r"got \[-3, 0.5\]: clip or rescale"),
    ("uint8", lambda: bare({"classifier": 1}, np.uint8(FLOATS)), r"got uint8\[2, 4"),
    ("uint8 of all", lambda: whole(np.uint8(FLOATS)), r"got uint8\[2, 4, 5, 3\]: conv"),
    (
        "a list",
        lambda: bare({"classifier": 1}, FLOATS.tolist()),
        "images must be an array of NumPy",
    ),
    (
        "no variables",
        lambda: bare(None),
        "variables must be a dict of classifier and, where",
    ),
    ("others", lambda: bare({"params": 1}), "variables must be a dict of classifier"),
    # Parts that do not suit each other.
    ("no purifier", lambda: defence(None), "give a purifier"),
    (
        "no detector",
        lambda: defence(detector=None, gate=0.5),
        "a gate asks the detector",
    ),
    (
        "a gate",
        lambda: defence(gate=-0.1),
        r"gate \(or None\) must be .* in \[0, 1\]: -0.1",
    ),
    (
        "a high gate",
        lambda: defence(gate=1.5),
        r"gate \(or None\) must be .* in \[0, 1\]: 1.5",
    ),
    ("a gate?", lambda: defence(gate="0.5"), "gate .* finite number .*: '0.5'"),
    (
        "inputs",
        lambda: defence(inputs="imge"),
        "unknown detector input 'imge' .nearest: 'image'",
    ),
    (
        "input",
        lambda: detector_input(FLOATS, PAIR, "noise"),
        "unknown detector input 'noise'.*image_only",
    ),
    ("a module", lambda: defence(classify=NETWORK), "not a CNN: .*classifier_function"),
    ("nobody", lambda: defence(classify=None), "classify must be a function"),
    # Metrics.
    (
        "NaN score",
        lambda: metrics.auroc([0, np.nan], [1]),
        "scores_negative contains 1 NaN",
    ),
    (
        "no score",
        lambda: metrics.auroc([0], []),
        "scores_positive must be a non-empty list",
    ),
    (
        "a table",
        lambda: metrics.auroc([[0]], [1]),
        r"scores_negative must be .*: \(1, 1\)",
    ),
    (
        "NaN",
        lambda: metrics.tpr_at_fpr([0], [np.nan], 0.05),
        "scores_positive contains 1 NaN",
    ),
    (
        "all NaN",
        lambda: metrics.threshold_at_fpr([np.nan], 0.05),
        "scores_negative contains 1 NaN",
    ),
    (
        "percent",
        lambda: metrics.threshold_at_fpr([0], 5),
        r"fpr must be a finite number in \[0, 1\]: 5",
    ),
    (
        "3 of 2",
        lambda: metrics.binomial_interval(3, 2),
        "need 0 <= successes <= count and count >= 1: 3, 2",
    ),
    (
        "0 of 0",
        lambda: metrics.binomial_interval(0, 0),
        "need 0 <= successes <= count and count >= 1: 0, 0",
    ),
    (
        "95",
        lambda: metrics.binomial_interval(1, 2, 95),
        r"level must be a finite number in \(0, 1\): 95",
    ),
    ("a gap", lambda: summary(*ROBUSTBENCH[:-1]), "no jpeg_compression at severity 5"),
    ("no fog", lambda: summary(*without(corruption="fog"), alexnet=True), "no fog$"),
    (
        "no severity",
        lambda: summary(*without(severity=4), alexnet=True),
        "no gaussian_noise at severity 4; shot",
    ),
    (
        "twice",
        lambda: summary(*ROBUSTBENCH, first()),
        "gaussian_noise at severity 1 is there twice",
    ),
    (
        "nothing",
        lambda: corruption_errors.summarize([], clean_accuracy=0.9),
        "at least one row",
    ),
    (
        "percents",
        lambda: summary(clean_accuracy=94.78),
        r"clean_accuracy, a fraction, must be .* in \[0, 1\]: 94.78",
    ),
    (
        "NaN cell",
        lambda: summary(first(accuracy=np.nan)),
        r"accuracy of gaussian_noise at 1, a fraction, must be .* in \[0, 1\]: nan",
    ),
    (
        "a percent",
        lambda: summary(first(accuracy=77.8)),
        r"accuracy of gaussian_noise at 1, a fraction, must be .* in \[0, 1\]: 77.8",
    ),
    # Where a network looks.
    ("2 of 3", lambda: attend(LABELS[:1]), "one integer label for each of 2 images"),
    (
        "float",
        lambda: attend(FLOATS[:, 0, 0, 0]),
        "one integer label for each of 2 images",
    ),
    (
        "whole floats",
        lambda: attend(np.array([0.0, 1.0])),
        "one integer label for each of 2 images",
    ),
    (
        "nested",
        lambda: attend(LABELS[None, :2]),
        "one integer label for each of 2 images",
    ),
    # Attacks.
    (
        "an attack",
        lambda: make_run("pgd_lnf", epsilon=1),
        "unknown attack 'pgd_lnf' .nearest: 'pgd_linf'.*: choose from fgsm_linf",
    ),
    (
        "no attack",
        lambda: make_run("pgd"),
        "unknown attack 'pgd' .*: choose from fgsm_linf",
    ),
    ("no epsilon", lambda: make_run("pgd_linf"), "pgd_linf needs epsilon"),
    (
        "epsilon",
        lambda: make_run("pgd_linf", epsilon=-1.0),
        "epsilon must be finite and at least 0: -1.0",
    ),
    (
        "steps",
        lambda: make_run("fgsm_linf", steps=2),
        "fgsm_linf has no parameter steps",
    ),
    (
        "a word",
        lambda: attacks(attacks="pgd_linf"),
        "attacks must be a tuple of one or more .*: 'pgd_linf'",
    ),
    (
        "one",
        lambda: attacks(steps=10),
        "steps must be a tuple of one or more different entries: 10",
    ),
    (
        "no step",
        lambda: attacks(steps=(0,)),
        r"steps must be an integer in \[1, .*: 0$",
    ),
    (
        "a threat",
        lambda: attacks(threats=("whitebox",)),
        "unknown threat model 'whitebox' .nearest: 'white_box'",
    ),
    ("in levels", lambda: attacks(epsilon__linf=8.0), "8 of 255 levels are 0.03137"),
    (
        "no epsilon",
        lambda: attacks(epsilon__linf=0.0),
        r"epsilon.linf must be a finite number in \(0, inf\): 0.0",
    ),
    (
        "fractions",
        lambda: attacks(epsilon__linf="8/255"),
        r"epsilon.linf must be a finite number in \(0, inf\): '8/255'",
    ),
    (
        "pictures",
        lambda: attacks(num_pictures=1.5),
        r"num_pictures must be an integer in \[0, .*: 1.5",
    ),
    ("a seed", lambda: attacks(seed=-1), r"seed must be an integer in \[0, .*: -1"),
    (
        "images",
        lambda: evaluation(data__num_examples=-1),
        r"data.num_examples must be an integer in \[0, .*: -1",
    ),
    (
        "half",
        lambda: evaluation(data__num_examples=0.5),
        r"data.num_examples must be an integer in \[0, .*: 0.5",
    ),
    (
        "alarms",
        lambda: evaluation(gate_false_alarms="5%"),
        r"gate_false_alarms, a share of images, must be .* in \[0, 1\): '5%'",
    ),
    (
        "all alarms",
        lambda: evaluation(gate_false_alarms=1.0),
        r"gate_false_alarms, a share of images, must be .* in \[0, 1\): 1.0$",
    ),
    (
        "the newest",
        lambda: evaluation(checkpoint="newest"),
        "unknown checkpoint 'newest' .*: choose from best, last",
    ),
]


@pytest.mark.parametrize(("name", "call", "message"), ROWS)
def test_what_is_wrong_is_told(name, call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_network_without_places():
    class Flat(nn.Module):
        @nn.compact
        def __call__(self, images, *, train):
            return nn.Dense(2)(images.reshape(images.shape[0], -1))

    images = np.float32(FLOATS)
    variables = jax.eval_shape(
        lambda: Flat().init(jax.random.key(0), images, train=False)
    )
    with pytest.raises(ValueError, match="Flat has no layer with height and width"):
        grad_cam(Flat(), variables, images)
