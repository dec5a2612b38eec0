"""Attacks that are asked for wrongly, and the one error that says so."""

import importlib
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from uronet_jax.adapters import (
    black_box,
    from_foolbox,
    nnx_classifier,
    pytorch_classifier,
)
from uronet_jax.attacks import (
    ATTACKS,
    AttackStep,
    autoattack,
    balls,
    clipping_aware_rescale,
    misclassification,
    objectives,
)
from uronet_jax.models import make_classifier

KEY = jax.random.key(1)
# The package has a function of this name.
ENSEMBLE = importlib.import_module("uronet_jax.attacks.auto.ensemble")
IMAGES = np.random.default_rng(0).uniform(0.1, 0.9, (4, 4, 4, 3)).astype(np.float32)
LABELS = np.arange(4)


def network(images):
    """Logits of six classes."""
    return images[:, 0, :2].reshape(len(images), -1)


def few(classes):
    return lambda images: network(images)[:, :classes]


def run(name, images=IMAGES, logits_fn=network, labels=LABELS, **changes):
    budget = {} if ATTACKS[name].minimal else {"epsilon": 0.1}
    ATTACKS[name](KEY, images, logits_fn, labels, **budget | changes)


TABLE = np.zeros(3, np.float32)
# Arguments of any attack, and what the message holds.
ARGUMENTS = [
    ({"images": IMAGES * 2}, r"intensities must be in \[0, 1\]: found"),
    ({"images": IMAGES * np.nan}, "replace NaN"),
    ({"images": np.uint8(IMAGES * 255)}, "floating-point.* / 255"),
    ({"images": IMAGES[0]}, "B, H, W, C"),
    ({"images": IMAGES[:0], "labels": LABELS[:0]}, "non-empty batch"),
    ({"images": IMAGES.tolist()}, "an array of NumPy or JAX, not a list"),
    ({"images": network, "logits_fn": IMAGES}, "this order: images and .* are swapped"),
    ({"labels": network, "logits_fn": LABELS}, "this order: labels and .* are swapped"),
    ({"labels": LABELS.astype(np.float32)}, "labels must be integers"),
    ({"labels": np.eye(4, dtype=int)}, r"one per image, shape \[B\]: int32\[4, 4\]"),
    ({"labels": None}, "labels must be integers, one per image"),
    ({"labels": LABELS[:3]}, "one row for each of 3 labels"),
    ({"labels": LABELS + 6}, r"classes 0 to 5: images \[0, 1, 2, 3\] have"),
    # Of many the first five are named.
    (
        {"images": np.tile(IMAGES, (2, 1, 1, 1)), "labels": np.arange(8) + 6},
        r"classes 0 to 5: images \[0, 1, 2, 3, 4\] have \[6, 7, 8, 9, 10\]$",
    ),
    ({"labels": LABELS - 1}, r"classes 0 to 5: images \[0\] have \[-1\]"),
    ({"logits_fn": lambda x: x[:, 0, 0, 0]}, r"logits must have shape \[B, K\]"),
    ({"logits_fn": few(1)}, "logits of at least 2 classes"),
    ({"logits_fn": lambda x: {"logits": x}}, "got dict; of a defence return predict"),
    ({"logits_fn": lambda x: network(x).argmax(-1)}, "comes before the argmax"),
    ({"logits_fn": make_classifier("cnn", 6)}, "not a CNN: flax_logits makes one"),
    ({"logits_fn": "resnet20"}, "must be a function, images -> logits, not a str"),
    ({"logits_fn": lambda x: np.asarray(x)[:, 0, 0]}, "NumPy .*adapters.black_box"),
    ({"logits_fn": lambda x: TABLE[x.argmax(3)[:, 0]]}, r"wrap tables .* jnp.asarray"),
]


@pytest.mark.parametrize("name", ATTACKS)
def test_arguments(name):
    for changes, message in ARGUMENTS:
        with pytest.raises(ValueError, match=message):
            run(name, **changes)
    if not ATTACKS[name].minimal:
        with pytest.raises(ValueError, match="give epsilon, the largest norm of"):
            ATTACKS[name](KEY, IMAGES, network, LABELS)
    least = ATTACKS[name].least_classes
    if least > 2:
        with pytest.raises(ValueError, match=f"needs at least {least} classes"):
            run(name, logits_fn=few(least - 1), labels=LABELS % 2)


def test_arguments_that_are_right():
    module = nn.Sequential([lambda x: x.mean((1, 2)), nn.Dense(6)])
    weights = {"kernel": np.zeros((3, 6)), "bias": np.zeros(6)}
    bound = module.bind({"params": {"layers_1": weights}})
    table = jnp.asarray(TABLE)
    for logits_fn in (bound, lambda x: table[x.argmax(3)[:, 0]]):
        changed = jax.eval_shape(
            lambda x, f=logits_fn: ATTACKS["fgsm_linf"](
                KEY, x, f, LABELS % 4, epsilon=1
            ),
            IMAGES,
        )
        assert jax.tree.leaves(changed)[0].shape == IMAGES.shape


# Values that no attack takes, wherever it has a parameter of the name.
WRONG = {
    "epsilon": [
        (-0.1, "epsilon must be finite and at least 0"),
        (np.nan, "epsilon must be finite"),
        ("big", "epsilon must be a number: 'big'"),
        (np.ones(3), r"epsilon must be a number or shape \[4\]"),
    ],
    "steps": [
        (0, "steps must be an integer of at least 1: 0"),
        (2.5, "steps must be an integer of at least 1: 2.5"),
    ],
    "restarts": [
        (-1, "restarts must be an integer of at least 0: -1"),
        (0.5, "restarts must be an integer"),
    ],
    "samples": [(-1, "samples must be an integer")],
    "index": [
        (np.arange(2), "one integer per image"),
        (np.zeros(4), "one integer per image"),
    ],
    "norm": [("l1", "unknown norm 'l1'")],
    "step_size": [(-1.0, "step_size must be finite and .* 0: -1.0")],
    "rho": [(np.nan, "rho must be finite")],
    "targets": [(0, "targets must be an integer of at least 1: 0")],
    "initial_share": [
        (0.0, r"initial_share, .* in \(0, 1\]: 0.0"),
        (1.5, "initial_share, known when compiling, must be"),
    ],
    "overshoot": [(-0.1, "overshoot must be finite")],
    "candidates": [(1, "candidates must be an integer of at least 2")],
    "initial_epsilon": [(0.0, "initial_epsilon must be finite and above 0")],
    "gamma": [(1.5, "gamma must be finite and at least 0 and at most 1: 1.5")],
    "binary_search_steps": [(0, "binary_search_steps must be an integer")],
    "confidence": [(-1.0, "confidence must be finite")],
    "initial_constant": [(np.nan, "initial_constant must be finite")],
    "alpha_max": [(1.1, "alpha_max must be finite")],
    "eta": [(0.9, "eta must be finite and at least 1")],
    "beta": [(-0.1, "beta must be finite")],
}


# Those of `ARGUMENTS`, and switches, of which any value is true or false.
UNCHECKED = {"key", "images", "loss_fn", "logits_fn", "labels"}
UNCHECKED |= {"random_start", "stop_early", "rescale_schedule", "abort_early"}


@pytest.mark.parametrize("name", ATTACKS)
def test_parameters(name):
    given = inspect.signature(ATTACKS[name].function).parameters
    for parameter in given.keys() - UNCHECKED:
        for value, message in WRONG[parameter]:
            attack = ATTACKS[name]
            if parameter == "norm":
                attack = attack._replace(norm=value)
            usual = {} if attack.minimal else {"epsilon": 0.1}
            with pytest.raises(ValueError, match=message):
                attack(KEY, IMAGES, network, LABELS, **usual | {parameter: value})


def on_loss(name, loss_fn):
    usual = {"steps": 2} if not name.startswith("fgsm") else {}
    ATTACKS[name].on_loss(KEY, IMAGES, loss_fn, epsilon=0.1, **usual)


@pytest.mark.parametrize("name", ATTACKS)
def test_losses(name):
    whole = misclassification(network, LABELS)
    rows = [
        (lambda x: whole(x)[0].mean(), r"one loss per image.*do not average"),
        (lambda x: (whole(x)[0],) * 2, r"success .* must be bool \[4\]: float32"),
    ]
    if ATTACKS[name].minimal or ATTACKS[name].takes_logits:
        rows = [(whole, "choose one that takes")]
    for loss_fn, message in rows:
        with pytest.raises(ValueError, match=message):
            on_loss(name, loss_fn)


def aa(images=IMAGES, logits_fn=network, labels=LABELS, **changes):
    autoattack(KEY, images, logits_fn, labels, **{"epsilon": 0.1} | changes)


def step(attack, **parameters):
    aa(version=[AttackStep("a", attack, parameters)])


def rescale(images=IMAGES, noise=IMAGES, epsilon=1.0):
    clipping_aware_rescale(images, noise, epsilon)


def ask(predict):
    jax.eval_shape(black_box(predict)[0], {}, IMAGES)


class ChannelsFirst:
    bounds, data_format = (0, 1), "channels_first"


class OfPyTorch:
    """What tells a module of PyTorch from functions."""

    def state_dict(self):
        return {}

    def __call__(self, images):
        return images


def with_file(path, content):
    path.write_bytes(content)
    return path


LOGITS = jnp.zeros((2, 6))
ROWS = [
    (
        "in levels",
        lambda _: run("pgd_linf", epsilon=8),
        "epsilon 8 allows any image.* are 0.03137$",
    ),
    ("no epsilon", lambda _: run("pgd_l2", epsilon=None), "epsilon must be a number"),
    (
        "steps",
        lambda _: run("fgsm_linf", steps=5),
        "no parameter steps: it takes epsilon$",
    ),
    (
        "alpha",
        lambda _: run("pgd_l2", alpha=5),
        "no parameter alpha: it takes .*step_size",
    ),
    (
        "minimal",
        lambda _: run("deepfool_l2", epsilon=0.1),
        "no parameter epsilon: it takes .*steps",
    ),
    (
        "norm",
        lambda _: run("pgd_linf", norm="l2"),
        "choose the one whose name ends in l2$",
    ),
    (
        "rate",
        lambda _: run("carlini_wagner_l2", step_size=0.0),
        "step_size must be .* and above 0: 0.0",
    ),
    ("PyTorch", lambda _: run("pgd_l2", logits_fn=OfPyTorch()), "pytorch_classifier"),
    # AutoAttack.
    (
        "labels first",
        lambda _: aa(IMAGES, LABELS, network),
        "labels and .* are swapped",
    ),
    ("network first", lambda _: aa(network, IMAGES), "images and .* are swapped"),
    ("levels", lambda _: aa(epsilon=2), "epsilon 2 allows any image"),
    ("negative", lambda _: aa(epsilon=-1.0), "epsilon must be finite and at least 0"),
    ("of each", lambda _: aa(epsilon=np.ones(4)), "epsilon must be a number"),
    ("version", lambda _: aa(version="standart"), "nearest: 'standard'.* plus, rand"),
    (
        "no version",
        lambda _: aa(version="best"),
        "unknown version 'best'.* standard, plus, rand",
    ),
    ("no step", lambda _: aa(version=()), "one or more AttackStep"),
    ("a text", lambda _: aa(version=["apgd-ce"]), "one or more AttackStep"),
    (
        "attack",
        lambda _: step("pgd"),
        "unknown attack of step 'a', 'pgd' .nearest: 'apgd'.: "
        "choose from apgd, fab, square$",
    ),
    (
        "no loss",
        lambda _: step("fab", loss="dlr"),
        r"unknown parameters \['loss'\] of step 'a': fab takes steps",
    ),
    (
        "loss",
        lambda _: step("apgd", loss="mse"),
        "unknown loss of step 'a', 'mse': choose from cross_entropy, margin, dlr",
    ),
    ("no steps", lambda _: step("apgd", steps=0), "steps must be .*1: 0"),
    ("rho", lambda _: step("apgd", rho=2.0), r"rho must be .* \[0, 1\]: 2.0"),
    (
        "draws",
        lambda _: aa(samples=3),
        "fab-t, square cannot attack a random classifier",
    ),
    ("no draws", lambda _: aa(version="rand", samples=0), "give samples"),
    ("l1", lambda _: aa(norm="l1"), "unknown norm 'l1'"),
    ("a capital", lambda _: aa(norm="L2"), "unknown norm 'L2' .nearest: 'l2'"),
    (
        "no batch",
        lambda _: aa(batch_size=0),
        "batch_size must be an integer of at least 1: 0",
    ),
    ("index", lambda _: aa(index=np.arange(3)), "one integer per image"),
    ("0 to 255", lambda _: aa(IMAGES * 255), r"intensities must be in \[0, 1\]"),
    ("few labels", lambda _: aa(labels=LABELS[:3]), "one label per image: 3 for 4"),
    ("halves", lambda _: aa(labels=LABELS + 0.5), "labels must be integers"),
    ("whole floats", lambda _: aa(labels=LABELS + 1.0), "labels must be integers"),
    ("classes", lambda _: aa(labels=LABELS + 6), "labels must be classes 0 to 5"),
    (
        "no logits",
        lambda _: aa(logits_fn=lambda x: x),
        r"logits must have shape \[B, K\]",
    ),
    (
        "few classes",
        lambda _: aa(logits_fn=few(3), labels=LABELS % 2),
        "of apgd-t needs at least 4 classes, .* has 3: .*'few_classes'$",
    ),
    (
        "integers",
        lambda _: aa(logits_fn=lambda x: network(x).astype(int)),
        "logits must be floating point, not int32",
    ),
    # Parts of attacks.
    (
        "a budget",
        lambda _: rescale(epsilon=-1.0),
        "epsilon must be finite and at least 0: -1.0",
    ),
    ("no budget", lambda _: rescale(epsilon=np.nan), "epsilon must be finite"),
    (
        "budgets",
        lambda _: rescale(epsilon=np.ones(3)),
        r"epsilon must be a number or shape \[4\]",
    ),
    ("bright", lambda _: rescale(IMAGES + 1), r"intensities must be in \[0, 1\]"),
    ("uint8", lambda _: rescale(np.uint8(IMAGES)), "need floating-point images"),
    ("one image", lambda _: rescale(IMAGES[0]), r"batch of images \[B, H, W, C\]"),
    (
        "one noise",
        lambda _: rescale(noise=IMAGES[0]),
        r"noise .*, a value for each of images \[4, 4, 4, 3\]",
    ),
    (
        "a noise",
        lambda _: rescale(noise=IMAGES[:1]),
        r"noise .*: float32\[1, 4, 4, 3\]",
    ),
    ("true noise", lambda _: rescale(noise=IMAGES > 1), "noise must be floating point"),
    (
        "whole noise",
        lambda _: rescale(noise=np.ones(IMAGES.shape, int)),
        "noise must be floating point",
    ),
    (
        "a norm",
        lambda _: balls.size(IMAGES, "l1"),
        "unknown norm 'l1': choose from linf, l2$",
    ),
    (
        "a loss",
        lambda _: misclassification(network, LABELS, loss="ce"),
        "unknown loss 'ce'",
    ),
    (
        "DLR",
        lambda _: objectives.dlr(LOGITS[:, :2], LABELS[:2]),
        "DLR needs at least 3 classes.*have 2",
    ),
    (
        "targeted DLR",
        lambda _: objectives.targeted_dlr(LOGITS[:, :3], LABELS[:2], LABELS[:2]),
        "targeted DLR needs at least 4 classes.*have 3",
    ),
    # Models of other libraries.
    ("no bounds", lambda _: from_foolbox(network), "has none: pass a function"),
    ("channels first", lambda _: from_foolbox(ChannelsFirst()), "channels_last"),
    ("no function", lambda _: black_box(None), "predict must be a function"),
    (
        "no rows",
        lambda _: ask(lambda x: x.mean((1, 2, 3))),
        r"\[B, K\], a row for each image: .*\[2, 4, 4, 3\] it returned \[2\]",
    ),
    (
        "one row",
        lambda _: ask(lambda x: np.zeros((1, 5))),
        r"each image.*returned \[1, 5\]",
    ),
    ("no NNX", lambda _: nnx_classifier(make_classifier("cnn", 6)), "not a CNN: of"),
    ("no PyTorch", lambda _: pytorch_classifier(network), "not a function: black_box"),
    # A folder, and files of something else.
    ("a folder", lambda f: aa(path=f), "holds no state of autoattack"),
    (
        "an empty file",
        lambda f: aa(path=with_file(f / "a", b"")),
        "a holds no state of autoattack",
    ),
    (
        "a text",
        lambda f: aa(path=with_file(f / "a", b"x")),
        "holds no state of autoattack",
    ),
]


@pytest.mark.parametrize(("name", "call", "message"), ROWS)
def test_what_is_wrong_is_told(name, call, message, tmp_path, monkeypatch):
    attacked = []
    monkeypatch.setattr(ENSEMBLE, "attack_batch", lambda *args: attacked.append(args))
    with pytest.raises(ValueError, match=message):
        call(tmp_path)
    # AutoAttack refuses before its first attack.
    assert not attacked
