"""Defences under attack: every number by hand, threats, warnings, batches, devices."""

import functools
import json
import sys
import warnings
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.tree_util import Partial

from uronet_jax import host, sharding
from uronet_jax.attacks import (
    Attack,
    MisleadingEvaluation,
    NonFiniteError,
    adaptive,
    apgd,
    fgsm,
    loop,
)
from uronet_jax.attacks.deepfool import deepfool
from uronet_jax.data import evaluation_batches
from uronet_jax.defense import make_defense
from uronet_jax.evaluation import misleading, robustness
from uronet_jax.evaluation.attack_judge import AttackJudge, check_memory
from uronet_jax.evaluation.threat_models import (
    THREAT_MODELS,
    AttackRun,
    ThreatModel,
    make_run,
)
from uronet_jax.models import Separation
from uronet_jax.purifiers import make_transformation
from uronet_jax.reports import robustness as report

# Ten grey images. The classifier looks at the left half, which is bright for class 1,
# the detector at the right half, which is bright for degraded. The fourth label is
# wrong; every second image is flagged at 0.5.
LEFT = np.array([0.15, 0.3, 0.42, 0.45, 0.48, 0.52, 0.55, 0.58, 0.7, 0.85])
RIGHT = np.array([0.2, 0.55] * 5)
LABELS = np.array([0, 0, 0, 1, 0, 1, 1, 1, 1, 1], np.int32)
IMAGES = np.stack([LEFT] * 2 + [RIGHT] * 2, axis=-1)[:, None, :, None]
IMAGES = np.broadcast_to(IMAGES, (10, 4, 4, 1)).astype(np.float32)
VARIABLES = {"purifier": {}, "detector": {}, "classifier": {}}
# A budget that moves a half by 0.065 makes three right answers wrong (those at most
# 0.05 from 0.5), and can calm the detector everywhere.
EPSILON = 0.065
STANDING, FOOLED = [0, 1, 2, 7, 8, 9], [4, 5, 6]


def classify(variables, images):
    left = images[:, :, : images.shape[2] // 2]
    mean = 10 * (left.mean(axis=(1, 2, 3)) - 0.5)
    return jnp.stack([-mean, mean], axis=-1)


class Identity(nn.Module):
    def __call__(self, images):
        return Separation(images, jnp.zeros_like(images))


class Rounding(nn.Module):
    """Hides the gradient and changes no answer: 0.5 stays between two levels."""

    def __call__(self, images):
        return Separation(jnp.round(5 * images) / 5, jnp.zeros_like(images))


class Constant(nn.Module):
    def __call__(self, images):
        return Separation(jnp.full_like(images, 0.8), images - 0.8)


class Shaking(nn.Module):
    """Shifts every image by less than what attacks leave or take."""

    def __call__(self, images):
        shape = (images.shape[0], 1, 1, 1)
        shift = jax.random.uniform(self.make_rng("defense"), shape) / 50 - 0.01
        return Separation(images + shift, jnp.zeros_like(images))


class Detector(nn.Module):
    def __call__(self, features, *, train=False):
        p = features[:, :, 2:, 0].mean(axis=(1, 2))
        return jnp.log(jnp.stack([1 - p, p], axis=-1))


IDENTITY = Identity()


@functools.cache
def make_judge(
    purifier=IDENTITY, classify=classify, batch_size=10, devices=1, scale=1, **kwargs
):
    mesh = sharding.data_mesh(jax.devices()[:devices])
    images = IMAGES.repeat(scale, axis=1).repeat(scale, axis=2)
    batches = evaluation_batches((images, LABELS), batch_size=batch_size, mesh=mesh)
    # Transformations stand alone: no detector was ever trained behind them.
    detector = Detector() if isinstance(purifier, nn.Module) else None
    defense = make_defense(purifier, detector, classify, gate=kwargs.pop("gate", None))
    return AttackJudge(defense, VARIABLES, batches, mesh=mesh, **kwargs)


FGSM = make_run("fgsm_linf", epsilon=EPSILON)


def table(judge, *threats, runs=(FGSM,), **kwargs):
    """Returns rows by threat, and the warnings, which must also have been issued."""
    threats = [THREAT_MODELS.get(threat, threat) for threat in threats]
    with warnings.catch_warnings(record=True) as issued:
        warnings.simplefilter("always")
        rows, signs = robustness.attack_table(judge, runs, threats, **kwargs)
    assert {str(w.message) for w in issued} == {sign["message"] for sign in signs}
    assert all(w.category is MisleadingEvaluation for w in issued)
    json.dumps(rows, allow_nan=False)
    return {row["threat"]: row for row in rows}, signs


def test_every_number_by_hand():
    rows, signs = table(make_judge(), *THREAT_MODELS)
    known = {
        "attack": "fgsm_linf",
        "norm": "linf",
        "epsilon": EPSILON,
        "parameters": {},
        "gradient_free": False,
        "randomness": "none",
        "num_images": 10,
        "clean_accuracy": 0.9,
        "undefended_clean_accuracy": 0.9,
        "undefended_accuracy": 0.6,
        "robust_accuracy": 0.6,
        # Wilson's interval of 6 of 10.
        "robust_accuracy_low": pytest.approx(0.3127, abs=5e-5),
        "robust_accuracy_high": pytest.approx(0.8318, abs=5e-5),
        "not_found": pytest.approx(0.6),
        "zero_gradients": 0.0,
        "median_linf": pytest.approx(EPSILON, rel=1e-5),
        # The left half alone, 8 pixels, is moved.
        "median_l2": pytest.approx(EPSILON * 8**0.5, rel=1e-5),
        "false_alarm_rate": 0.5,
        # Of the images that are fooled the middle one is flagged; that of the wrong
        # label too.
        "detection_rate": pytest.approx(1 / 3),
        "robust_or_detected_accuracy": 0.8,
        "robust_or_detected_accuracy_low": pytest.approx(0.4902, abs=5e-5),
        "robust_or_detected_accuracy_high": pytest.approx(0.9433, abs=5e-5),
    }
    for threat, label in (("grey_box", "classifier"), ("white_box", "end to end")):
        row = rows[threat]
        assert row.pop("seconds") > 0
        alone = {label: pytest.approx(0.6)}
        assert row == known | {"threat": threat, "attempts": alone}
    # Straight through an identity is nothing new.
    assert rows["adaptive"]["attempts"] == {
        "end to end": pytest.approx(0.6),
        "straight through": pytest.approx(0.6),
        "classifier": pytest.approx(0.6),
    }
    # Both halves are moved, and no wrong answer is flagged any more.
    aware = rows["detector_aware"]
    assert (aware["robust_accuracy"], aware["detection_rate"]) == (0.6, 0.0)
    assert aware["robust_or_detected_accuracy"] == 0.6
    assert aware["median_l2"] == pytest.approx(EPSILON * 4, rel=1e-5)
    # One step along the classifier's gradient alone leaves the second of them flagged,
    # and moves the half of the image that was wrong before.
    assert aware["attempts"] == {
        "detector weight 0.1": pytest.approx(0.6),
        "detector weight 1": pytest.approx(0.6),
        "detector weight 10": pytest.approx(0.6),
        "selective": pytest.approx(0.7),
    }
    assert not signs
    text = report.attack_rows_table(list(rows.values()))
    assert (
        "| fgsm_linf | white_box | 0.065 | 1 | 60.0% | 60.0% | 31.3% to 83.2%" in text
    )


def test_a_constant_purifier_decides_alone():
    rows, signs = table(make_judge(Constant()), "grey_box", "white_box")
    # 0.8 is class 1, the label of six images; the attack never changes it.
    assert rows["white_box"]["robust_accuracy"] == 0.6
    assert rows["white_box"]["clean_accuracy"] == 0.6
    assert rows["white_box"]["undefended_accuracy"] == 0.9  # Nothing was moved.
    assert rows["white_box"]["median_linf"] is None
    assert rows["white_box"]["detection_rate"] is None
    assert rows["grey_box"]["undefended_accuracy"] == 0.6
    assert rows["grey_box"]["not_found"] == pytest.approx(0.6)
    assert [sign["kind"] for sign in signs] == ["zero_gradients"]


def test_hidden_gradients_are_found_out():
    judge = make_judge(Rounding())
    rows, signs = table(judge, "grey_box", "white_box", "adaptive", sanity=True)
    assert rows["white_box"]["robust_accuracy"] == 0.9
    assert rows["white_box"]["zero_gradients"] == 1.0
    assert rows["grey_box"]["robust_accuracy"] == 0.6
    assert rows["adaptive"]["robust_accuracy"] == 0.6
    assert rows["adaptive"]["zero_gradients"] == 0.0
    assert rows["adaptive"]["attempts"] == {
        "end to end": pytest.approx(0.9),
        "straight through": pytest.approx(0.6),
        "classifier": pytest.approx(0.6),
    }
    found = {(sign["kind"], sign["where"]["threat"]) for sign in signs}
    assert found == {
        ("zero_gradients", "white_box"),
        ("knowledge_is_weaker", "white_box"),
        ("sanity", "white_box"),
    }


def test_a_gate_is_attacked_on_both_ways():
    # The gate rounds images 1, 3, 5, 7 and 9, whose gradient is then zero: of the three
    # that can be fooled, 4 and 6 go through.
    judge = make_judge(Rounding(), gate=0.5)
    rows, _ = table(judge, "white_box", "adaptive")
    assert rows["white_box"]["robust_accuracy"] == 0.7
    assert rows["adaptive"]["attempts"] == {
        "end to end": pytest.approx(0.7),
        "straight through": pytest.approx(0.6),
        "both ways": pytest.approx(0.6),
        "classifier": pytest.approx(0.6),
    }
    # Of nine images that are right, four are blind: 1, 5, 7 and 9.
    assert rows["white_box"]["zero_gradients"] == pytest.approx(4 / 9)


@pytest.mark.parametrize(
    ("purifier", "threat", "attempts"),
    [
        (Shaking(), ThreatModel("averaged", samples=3), ["end to end", "3 samples"]),
        (
            make_transformation("gaussian_noise", scale=0.01),
            THREAT_MODELS["adaptive"]._replace(samples=2),
            ["end to end", "2 samples", "straight through, 2 samples", "classifier"],
        ),
    ],
)
def test_random_defences_are_averaged_and_named(purifier, threat, attempts):
    judge = make_judge(purifier)
    assert judge.random and not make_judge().random
    rows, signs = table(judge, "grey_box", "white_box", threat)
    assert {t: r["randomness"] for t, r in rows.items()} == {
        "grey_box": "none",
        "white_box": "single draw",
        threat.name: "averaged",
    }
    assert list(rows[threat.name]["attempts"]) == attempts
    assert [sign["kind"] for sign in signs] == ["random_without_averaging"]
    assert ("detection_rate" in rows["white_box"]) is isinstance(purifier, Shaking)
    for name in ("grey_box", threat.name):
        assert rows[name]["robust_accuracy"] == 0.6
    # Who follows one draw may stop where only that draw is fooled.
    assert rows["white_box"]["robust_accuracy"] >= 0.6


def test_an_averaging_attack_sees_new_draws_at_every_step():
    pgd = make_run("pgd_linf", epsilon=EPSILON, steps=3, random_start=False)
    threat = ThreatModel("averaged", samples=3)
    rows, _ = table(make_judge(Shaking()), threat, runs=(pgd,))
    assert rows["averaged"]["robust_accuracy"] == 0.6


def test_transformations_are_attacked_straight_through():
    jpeg = make_transformation("jpeg", quality=75)
    judge = make_judge(jpeg, scale=8)  # The codec needs 28 pixels.
    rows, signs = table(judge, "adaptive")
    assert not judge.random and not signs
    row = rows["adaptive"]
    assert (row["randomness"], row["zero_gradients"]) == ("none", 0.0)
    assert (row["robust_accuracy"], row["undefended_accuracy"]) == (0.6, 0.6)
    # Through the codec, whose rounding is passed over, past all of it, and without it.
    ways = ("end to end", "straight through", "classifier")
    assert row["attempts"] == {x: pytest.approx(0.6) for x in ways}


def test_selective_attack_takes_one_after_the_other():
    run = make_run("ifgsm_linf", epsilon=EPSILON, steps=10, step_size=0.02)
    rows, _ = table(make_judge(), ThreatModel("one", selective=True), runs=(run,))
    assert rows["one"]["not_found"] == pytest.approx(0.6)
    assert rows["one"]["robust_or_detected_accuracy"] == 0.6


def test_minimal_attacks_have_known_distances():
    attack = Attack(functools.partial(deepfool, norm="l2"), "l2", minimal=True)
    runs = (AttackRun("deepfool_l2", attack),)
    rows, signs = table(make_judge(), "white_box", "detector_aware", runs=runs)
    row = rows["white_box"]
    assert row["epsilon"] is None and row["robust_accuracy"] == 0.0
    # Distances of the nine right images: the middle one is 0.08, on 8 pixels. DeepFool
    # goes 2 % and 1e-4 farther.
    assert row["median_l2"] == pytest.approx(0.08 * 8**0.5 * 1.02, abs=2e-4)
    # To a wrong label without an alarm: nothing more at even images; odd ones must
    # change the other half by 0.05 as well, which DeepFool's steps may overdo.
    aware = rows["detector_aware"]
    assert aware["not_found"] == 0.0 and aware["robust_or_detected_accuracy"] == 0.0
    both = np.where(RIGHT > 0.5, 0.05, 0.0)
    least = np.sqrt(8 * ((LEFT - 0.5) ** 2 + both**2))
    least[3] = 0.05 * 8**0.5  # Wrong already, but flagged.
    assert np.median(least) <= aware["median_l2"] < 1.1 * np.median(least)
    assert not signs


def classify_four(variables, images):
    """Two more classes that no image is near to."""
    logits = classify(variables, images)
    return jnp.concatenate([logits, jnp.full_like(logits, -20.0)], axis=-1)


def test_targeted_attacks_are_made_where_they_can_be():
    run = make_run("apgd_t_linf", epsilon=EPSILON, steps=3, targets=3)
    judge = make_judge(classify=classify_four)
    handed = []
    options = {"runs": (run, FGSM), "on_row": lambda row, _: handed.append(row)}
    rows, signs = table(judge, *THREAT_MODELS, **options)
    # Only FGSM has the row of the detector, which comes last.
    targeted = ["grey_box", "white_box", "adaptive"]
    assert list(rows) == [*targeted, "detector_aware"]
    assert rows["detector_aware"]["attack"] == "fgsm_linf"
    assert [row["threat"] for row in handed[:3]] == targeted
    for row in handed[:3]:
        assert row["attack"] == "apgd_t_linf"
        assert row["parameters"] == {"steps": 3, "targets": 3}
        assert (row["robust_accuracy"], row["undefended_accuracy"]) == (0.6, 0.6)
        assert row["median_linf"] <= EPSILON * (1 + 1e-5)
        assert row["zero_gradients"] == 0.0
    ways = ["end to end", "straight through", "classifier"]
    assert list(handed[2]["attempts"]) == ways
    assert not signs
    aware = THREAT_MODELS["detector_aware"]
    with pytest.raises(ValueError, match="apgd_t_linf .* cannot fool the detector too"):
        judge.attack(aware, run)
    with pytest.raises(ValueError, match="cannot fool a detector too: add .* detector"):
        table(judge, "detector_aware", runs=(FGSM, run))
    with pytest.raises(ValueError, match="apgd_t_linf needs at least 4 .* has 2"):
        table(make_judge(), "grey_box", runs=(FGSM, run), on_row=pytest.fail)


def test_an_attack_that_takes_logits_goes_on_where_others_do():
    calls = []

    def recorded(key, images, logits_fn, labels, *, epsilon, stop_early=True):
        calls.append((epsilon, stop_early))
        assert logits_fn(images).shape == (10, 2)
        return images

    run = AttackRun("mine", Attack(recorded, "linf", takes_logits=True), 0.25)
    averaged = ThreatModel("averaged", samples=3)
    table(make_judge(Shaking()), "grey_box", "white_box", averaged, runs=(run,))
    # The border of the classifier, that of one draw, and that of some draws; what the
    # averaging attacker does end to end is known.
    assert calls == [(0.25, False), (0.25, True), (0.25, False)]


def test_every_warning_is_issued_once(monkeypatch):
    signs = [
        {"kind": "knowledge_is_weaker", "where": {"threat": "adaptive"}, "message": m}
        for m in ("weaker than one", "weaker than another", "weaker than the best")
    ]

    def find(rows, *, complete):
        return signs[: 2 + complete] if rows else []

    monkeypatch.setattr(robustness, "find_warnings", find)
    with warnings.catch_warnings(record=True) as issued:
        warnings.simplefilter("always")
        threats = [THREAT_MODELS[name] for name in ("grey_box", "white_box")]
        robustness.attack_table(make_judge(), (FGSM,), threats)
    assert [str(w.message) for w in issued] == [sign["message"] for sign in signs]


def test_steps_of_any_attack_are_in_its_row():
    # Rows tell by them how much effort an attack was.
    for steps, defaults in ((100, {}), (7, {"steps": 7})):
        attack = Attack(apgd, "linf", loss="margin", defaults=defaults)
        assert AttackRun("mine", attack, 0.1).all_parameters == {"steps": steps}
    assert AttackRun("mine", Attack(fgsm, "linf"), 0.1).all_parameters == {}


def test_a_bare_classifier_needs_no_defence():
    rows, _ = table(make_judge(None), "white_box", "adaptive")
    assert rows["adaptive"]["attempts"] == {"end to end": pytest.approx(0.6)}
    assert not {"detection_rate", "false_alarm_rate"} & rows["white_box"].keys()
    with pytest.raises(ValueError, match="detector_aware fools a detector.*has none"):
        table(make_judge(None), "detector_aware")


def test_batches_and_devices_change_nothing():
    # The random starts of PGD go with the image, wherever it is.
    pgd = make_run("pgd_linf", epsilon=EPSILON, steps=3)
    threat = ThreatModel("weighed", detector_weights=(1.0,))
    for run, changes in (
        (pgd, {"batch_size": 4}),
        (FGSM, {"batch_size": 12, "devices": 4}),
    ):
        found = []
        for judge in (make_judge(), make_judge(**changes)):
            (row,) = table(judge, threat, runs=(run,))[0].values()
            assert row.pop("parameters") == run.all_parameters
            assert row.pop("attempts") == {"detector weight 1": row["not_found"]}
            row.pop("seconds")
            found.append({k: v for k, v in row.items() if not isinstance(v, str)})
        assert found[1]["num_images"] == 10
        # Sums of a few pixels may be in another order.
        assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_one_program_serves_batches_and_weights():
    def count(batch_size, weights):
        traces = []

        def counted(variables, images):
            traces.append(images.shape)
            return classify(variables, images)

        judge = make_judge(batch_size=batch_size, classify=counted)
        table(judge, ThreatModel("weighed", detector_weights=weights))
        return len(traces)

    # Checks before the attack, which compute nothing, are traced for every batch.
    few, many = count(10, (1.0,)), count(4, (0.5, 1.0, 2.0))
    assert many - few <= 3 * 3 - 1


def test_rows_are_handed_over_and_not_made_again():
    handed = []

    def attack(**kwargs):
        handed.clear()
        kwargs["on_row"] = lambda *given: handed.append(given)
        return table(make_judge(), "grey_box", "white_box", **kwargs)[0]

    rows = attack(num_examples=4)
    assert [row for row, _ in handed] == list(rows.values())
    examples = handed[1][1]
    # Those right when clean come first: the fourth is not.
    np.testing.assert_array_equal(examples.index, [0, 1, 2, 4])
    np.testing.assert_array_equal(examples.clean, IMAGES[[0, 1, 2, 4]])
    np.testing.assert_array_equal(examples.right, [True, True, True, False])
    np.testing.assert_array_equal(examples.flagged, [False, True, False, False])
    np.testing.assert_array_equal(examples.purified, examples.adversarial)
    moved = np.abs(examples.adversarial - examples.clean).max(axis=(1, 2, 3))
    np.testing.assert_allclose(moved, EPSILON, rtol=1e-5)
    again = attack(rows=json.loads(json.dumps(list(rows.values())[:1])))
    assert [row["threat"] for row, _ in handed] == ["white_box"]
    assert again["grey_box"] == rows["grey_box"]


def test_sanity_rows_are_of_the_first_batch():
    rows = []
    options = {"sanity": True, "on_row": lambda row, _: rows.append(row)}
    table(make_judge(batch_size=4), "grey_box", "white_box", **options)
    check = rows[0]
    assert (check["sanity"], check["epsilon"], check["num_images"]) == (True, 1.0, 4)
    # Steps of 0.02 from the image itself: 18 for the first, of the 50 allowed.
    assert (check["threat"], check["not_found"]) == ("white_box", 0.0)
    assert len(rows) == 3 and "sanity" not in rows[1]


def row(attack="pgd_linf", robust_accuracy=0.2, threat="white_box", **fields):
    usual = {"parameters": {"steps": 40, "step_size": 0.1}, "norm": "linf"}
    usual |= {"epsilon": 0.1, "num_images": 200, "randomness": "none"}
    usual |= {"not_found": 0.2, "zero_gradients": 0.0}
    what = {"threat": threat, "attack": attack, "robust_accuracy": robust_accuracy}
    return what | usual | fields


def pgd_row(steps, **parameters):
    return row(parameters={"steps": steps, **parameters})


def caught(share, threat="grey_box", **fields):
    return row(threat=threat, **fields) | {"robust_or_detected_accuracy": share}


best = functools.partial(row, "apgd_linf")
PGD, GREY, WORSE = row(robust_accuracy=0.3), row(threat="grey_box"), row(not_found=0.3)
ONE_STEP, SQUARE = row("fgsm_linf", parameters={}), row("square_linf")
AWARE = caught(0.4, threat="detector_aware")
KNOWLEDGE, EFFORT, GRADIENT = (
    f"{sign}_is_weaker" for sign in ("knowledge", "effort", "gradient")
)
MANY = {"num_images": 1000}


@pytest.mark.parametrize(
    ("kinds", "rows"),
    [
        ("", [row(zero_gradients=0.1)]),
        ("zero_gradients", [row(zero_gradients=0.11)]),
        ("", [row(randomness="averaged")]),
        ("random_without_averaging", [row(randomness="single draw")]),
        # One image of 200 is chance, and so are two of 1,000.
        ("", [GREY, row(robust_accuracy=0.205)]),
        (KNOWLEDGE, [GREY, row(robust_accuracy=0.21)]),
        ("", [GREY | MANY, row(robust_accuracy=0.202) | MANY]),
        ("", [GREY, row(robust_accuracy=0.3, epsilon=0.01)]),
        # The best attacks are compared, whichever they are, within a budget.
        (KNOWLEDGE, [GREY, best(0.3)]),
        ("", [GREY, row("x", 0.3, norm="l2")]),
        ("", [GREY, best(0.3, "grey_box"), row("ifgsm_linf", 0.205), best(0.3)]),
        (KNOWLEDGE, [caught(0.3, attack="apgd_t_linf"), caught(0.5), AWARE]),
        # One for the attack that is weaker, one for the best; one if it is the best.
        (f"{KNOWLEDGE} {KNOWLEDGE}", [GREY, best(0.25, "grey_box"), PGD, best(0.25)]),
        (KNOWLEDGE, [GREY, best(0.4, "grey_box"), PGD, best(0.4)]),
        (KNOWLEDGE, [caught(0.3), AWARE]),
        (EFFORT, [pgd_row(10, step_size=0.4), WORSE]),
        ("", [pgd_row(10) | {"not_found": 0.3}, row(not_found=0.2)]),
        (EFFORT, [pgd_row(40, restarts=4) | {"not_found": 0.3}, pgd_row(40)]),
        ("", [pgd_row(10, rho=1), WORSE]),
        (EFFORT, [ONE_STEP, WORSE]),
        ("", [ONE_STEP | {"threat": "grey_box"}, WORSE]),
        # Few queries without gradient say nothing about steps.
        ("", [ONE_STEP, SQUARE]),
        ("", [ONE_STEP, row("square_linf", not_found=0.3)]),
        (GRADIENT, [SQUARE, WORSE]),
        # The row says whether an attack follows gradients; its name is a name.
        (GRADIENT, [row("mine", gradient_free=True), WORSE]),
        ("", [row("square_linf", gradient_free=False), WORSE]),
        ("", [row("squares"), WORSE]),
        # One step is one step, of whatever attack; but not if there are many.
        (EFFORT, [row("mine", parameters={"rho": 1}), WORSE]),
        (EFFORT, [row("pgd", parameters={"steps": 1}), WORSE]),
        ("", [row("apgd", parameters={"steps": 1, "restarts": 5}), WORSE]),
        ("", [row("apgd", parameters={"steps": 1, "targets": 9}), WORSE]),
        ("", [SQUARE, row("apgd_ce_linf"), row("apgd_dlr_linf", not_found=0.3)]),
        ("", [row(sanity=True, not_found=0.0)]),
        ("sanity", [row(sanity=True, not_found=0.01)]),
    ],
)
def test_signs_of_a_misleading_evaluation(kinds, rows):
    found = misleading.find_warnings(rows)
    assert [sign["kind"] for sign in found] == kinds.split()
    assert [s["kind"] for s in misleading.find_warnings(rows[::-1])] == kinds.split()
    early = misleading.find_warnings(rows, complete=False)
    assert all(sign in found for sign in early)
    for sign in found:
        assert sign.keys() == {"kind", "message", "where"}
        assert sign["where"]["threat"] == rows[-1]["threat"]


def test_the_best_attacks_are_not_compared_before_all_are_there():
    for rows in ([GREY, row("fgsm_linf", 0.3)], [SQUARE, WORSE]):
        assert len(misleading.find_warnings(rows)) == 1
        assert not misleading.find_warnings(rows, complete=False)


# The loss functions of `attacks.adaptive`.


def defend(scale, images):
    """Classifier and detector of the judge, with logits that a scale saturates."""
    p = images[:, :, 2:].mean(axis=(1, 2, 3)) - 0.5
    return classify({}, images), scale * jnp.stack([-p, p], axis=-1)


def defend_by_probability(scale, images):
    logits, detector = defend(scale, images)
    return logits, jax.nn.softmax(detector)[:, 1]


def numpy_losses(scale=4.0):
    """Cross-entropy and log P(clean) of the images, in float64."""
    z = 20 * (LEFT - 0.5) * np.where(LABELS == 1, 1, -1)
    return np.log1p(np.exp(-z)), -np.log1p(np.exp(2 * scale * (RIGHT - 0.5)))


def evaluate(loss_fn):
    return jax.jit(loop.evaluate)(loss_fn, jnp.asarray(IMAGES))


@pytest.mark.parametrize("function", [defend, defend_by_probability])
def test_joint_loss_is_the_weighted_sum(function):
    cross_entropy, log_clean = numpy_losses()
    loss_fn = adaptive.joint_loss(Partial(function, 4.0), LABELS, weight=3.0)
    result = evaluate(loss_fn)
    # Ten roundings of numbers of a few units.
    np.testing.assert_allclose(result.loss, cross_entropy + 3 * log_clean, rtol=2e-5)
    np.testing.assert_array_equal(result.success, (np.arange(10) == 3) & (RIGHT < 0.5))
    low = adaptive.joint_loss(
        Partial(function, 4.0), LABELS, weight=3.0, threshold=0.99
    )
    np.testing.assert_array_equal(evaluate(low).success, np.arange(10) == 3)


def test_detectors_that_are_sure_still_have_a_gradient():
    loss_fn = adaptive.joint_loss(Partial(defend, 1e4), LABELS, weight=1.0)
    gradient = np.asarray(evaluate(loss_fn).gradient)[RIGHT > 0.5, :, 2:]
    # d log P(clean) / d pixel: twice the scale over 8 pixels.
    np.testing.assert_allclose(gradient, -2e4 / 8, rtol=1e-5)


def test_selective_loss_follows_one_at_a_time():
    cross_entropy, log_clean = numpy_losses()
    result = evaluate(adaptive.selective_loss(Partial(defend, 4.0), LABELS))
    wrong = np.arange(10) == 3
    margin = -20 * np.abs(LEFT - 0.5)
    np.testing.assert_allclose(
        result.loss, np.where(wrong, 1 / (1 - log_clean), margin), rtol=2e-5
    )
    gradient = np.asarray(result.gradient)
    assert (gradient[~wrong][:, :, 2:] == 0).all()
    assert (gradient[wrong][:, :, :2] == 0).all()
    # Cross-entropy falls by its slope, 1 - P(label), times 20 over 8 pixels.
    slope = (1 - np.exp(-cross_entropy)) * 20 / 8 * np.where(LABELS == 1, -1, 1)
    expected = np.broadcast_to(slope[:, None, None, None], (10, 4, 2, 1))
    np.testing.assert_allclose(gradient[~wrong][:, :, :2], expected[~wrong], rtol=1e-3)


def test_evasion_logits_say_whether_the_defence_holds():
    logits_fn = adaptive.evasion_logits(Partial(defend, 4.0), LABELS, threshold=0.6)
    logits = np.asarray(logits_fn(jnp.asarray(IMAGES)))
    margin = 20 * np.abs(LEFT - 0.5) * np.where(np.arange(10) == 3, -1, 1)
    alarm = 8 * (RIGHT - 0.5) - np.log(0.6 / 0.4)
    np.testing.assert_allclose(logits[:, 0], np.maximum(margin, alarm), atol=1e-5)
    assert (logits[:, 1] == 0).all()


def test_bpda_has_the_value_of_one_and_the_gradient_of_another():
    x = jnp.linspace(0.0, 1.0, 7)
    value, gradient = jax.value_and_grad(lambda x: adaptive.bpda(jnp.round)(x).sum())(x)
    assert value == jnp.round(x).sum() and (gradient == 1).all()
    steep = adaptive.bpda(jnp.round, lambda x: x**2)
    np.testing.assert_array_equal(jax.grad(lambda x: steep(x).sum())(x), 2 * x)


def test_draws_are_averaged():
    def noisy(key, images):
        shift = jax.random.normal(key, (images.shape[0], 2))
        return classify({}, images) + shift

    key = jax.random.key(3)
    averaged = adaptive.averaged_logits(noisy, key, 4)
    draws = [noisy(k, IMAGES) for k in jax.random.split(key, 4)]
    # Sums of four numbers in another order.
    np.testing.assert_allclose(averaged(IMAGES), np.mean(draws, axis=0), atol=1e-5)
    loss_fn = adaptive.random_misclassification(noisy, LABELS, loss="margin")
    loss_fn.check(IMAGES)
    logits = np.asarray(noisy(key, IMAGES))
    sign = np.where(LABELS == 1, 1, -1)
    margin = sign * (logits[:, 0] - logits[:, 1])
    np.testing.assert_allclose(loss_fn(key, IMAGES), margin, rtol=1e-6)


def joint_loss(labels=LABELS, **options):
    return adaptive.joint_loss(Partial(defend, 1.0), labels, **options)


def selective_loss(function=defend, **options):
    return adaptive.selective_loss(function, LABELS, **options)


def three_logits(images):
    return classify({}, images), jnp.zeros((len(images), 3))


WEIGHED = ThreatModel("x", "classifier", (1.0,))


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: joint_loss(weight=-1.0), "weight must be .*-1.0"),
        (lambda: selective_loss(threshold=2.0), "threshold must be .*2.0"),
        (lambda: joint_loss(weight=1.0, loss="hinge"), "unknown loss 'hinge'"),
        (
            lambda: adaptive.averaged_logits(classify, jax.random.key(0), 0),
            "samples must be .*0",
        ),
        (
            lambda: selective_loss(three_logits)(IMAGES),
            r"\[10\] probabilities or \[10, 2\] logits: \[10, 3\]",
        ),
        (
            lambda: joint_loss(LABELS + 1, weight=1.0).check(IMAGES),
            "labels must be classes 0 to 1",
        ),
        (lambda: make_judge(gate=1.5), r"gate .or None. must be .*1.5"),
        (lambda: make_judge(threshold=-0.5), "threshold must be .*-0.5"),
        (lambda: make_judge(None, gate=0.5), "a gate asks the detector"),
        (
            lambda: table(make_judge(), ThreatModel("x", "remover")),
            "unknown target of x, 'remover': choose from classifier, defense",
        ),
        (lambda: table(make_judge(), WEIGHED), "x must know the defence"),
    ],
)
def test_wrong_input_is_reported(make, expected):
    with pytest.raises(ValueError, match=expected):
        make()


def test_a_batch_that_memory_is_short_for_is_refused(monkeypatch):
    with pytest.raises(
        ValueError, match=r"10 images .* 3 GB and 1.5 GB .* batch_size to at most 5"
    ):
        check_memory(10, 3e9, 15e8)
    with pytest.raises(ValueError, match="too few for one"):
        check_memory(10, 3e9, 1e8)
    check_memory(10, 3e9, 3e9)
    monkeypatch.setattr(sharding, "free_bytes", lambda mesh: 10)
    judge = make_judge.__wrapped__()
    with pytest.raises(
        ValueError, match=r"fgsm_linf under white_box .*: attacks on 10 images"
    ):
        table(judge, "white_box")


def test_free_memory_is_that_of_the_machine_or_the_device():
    four = sharding.data_mesh(jax.devices()[:4])
    if sys.platform == "linux":
        free = host.available_bytes()
        assert 0 < free < 2**50
        # Other processes take and give meanwhile.
        assert sharding.free_bytes(four) == pytest.approx(free / 4, rel=0.2)
    assert sharding.free_bytes(mesh_of(memory_stats=dict)) is None
    stats = {"bytes_limit": 100, "bytes_in_use": 30}
    assert sharding.free_bytes(mesh_of(memory_stats=lambda: stats)) == 70


def mesh_of(**fields):
    device = SimpleNamespace(platform="gpu", **fields)
    return SimpleNamespace(local_devices=[device])


def test_errors_say_where_they_were():
    def overflowing(variables, images):
        dark = images.mean(axis=(1, 2, 3), keepdims=True)[:, :, 0, 0] < 0.3
        return jnp.where(dark, jnp.inf, classify(variables, images))

    with pytest.raises(ValueError, match=r"logits of \d images are not finite.*\[\d"):
        make_judge(batch_size=4, classify=overflowing)

    def broken(variables, images):
        # The gradient is no number where the left half is bright.
        root = jnp.sqrt(jnp.maximum(0.65 - images[:, :, :2].mean(axis=(1, 2, 3)), 0))
        return classify(variables, images) + root[:, None]

    judge = make_judge(batch_size=4, classify=broken)
    # The last batch is filled up with copies of the image 8.
    with pytest.raises(
        NonFiniteError,
        match=r"fgsm_linf under white_box \(end to end\): .* at 2 images, the first "
        r"\[8, 9\]",
    ) as caught:
        table(judge, "white_box")
    assert caught.value.positions == [8, 9]
