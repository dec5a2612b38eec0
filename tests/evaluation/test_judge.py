"""The judge: known numbers from stand-in networks, one program for all degradations."""

import chex
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from uronet_jax.corruptions import SuiteEntry
from uronet_jax.corruptions.suites import suite_degradations
from uronet_jax.data import corrupted
from uronet_jax.data.sources import ArraySource
from uronet_jax.defense import DefenseFunction
from uronet_jax.evaluation.defense_table import defense_table
from uronet_jax.evaluation.judge import (
    CLEAN_ENTRY,
    CorruptionEntry,
    FunctionEntry,
    Judge,
    StoredEntry,
    detection_metrics,
)
from uronet_jax.evaluation.subject import Subject, choose_gate
from uronet_jax.models import Separation

# Ten dark or bright images; the label of the fourth is wrong.
LEVELS = np.array([26, 51, 77, 102, 115, 140, 153, 179, 204, 230], np.uint8)
IMAGES = np.broadcast_to(LEVELS[:, None, None, None], (10, 8, 8, 1))
LABELS = np.array([0, 0, 0, 1, 0, 1, 1, 1, 1, 1], np.int32)
VARIABLES = {"purifier": {}, "detector": {}, "classifier": {}}
# Amount 0 changes nothing, amount 1 makes every pixel black or white.
HARMLESS = SuiteEntry("IN", 1, "impulse_noise", 0.0)
GAUSSIAN = SuiteEntry("GN", 2, "gaussian_noise", 0.12)


class Dimmer(nn.Module):
    """A remover that halves the image."""

    def __call__(self, images):
        return Separation(images / 2, images / 2)


class Brightness(nn.Module):
    """A detector whose probability is the mean of the image's channel."""

    def __call__(self, x, *, train=False):
        p = x[..., 0].mean(axis=(1, 2))
        return jnp.log(jnp.stack([1 - p, p], axis=-1))


@pytest.fixture(scope="module")
def traces():
    return []


def make_defended(traces, **parts):
    def classify(variables, images):  # Bright images are of class 1.
        traces.append(images.shape)
        mean = images.mean(axis=(1, 2, 3))
        return jnp.stack([0.5 - mean, mean - 0.5], axis=-1)

    return DefenseFunction(classify, **parts)


def make_judge(mesh, batch_size):
    return Judge((IMAGES, LABELS), batch_size=batch_size, mesh=mesh, seed=3)


@pytest.fixture(scope="module")
def defended(traces):
    return make_defended(traces, purifier=Dimmer(), detector=Brightness())


@pytest.fixture(scope="module")
def judge(mesh):
    return make_judge(mesh, 8)


def test_clean_images_are_measured_one_by_one(judge, defended):
    measured = judge.measure(defended, VARIABLES)
    x = LEVELS / 255
    np.testing.assert_array_equal(measured["undefended"], (x > 0.5) == LABELS)
    np.testing.assert_array_equal(measured["purified"], LABELS == 0)  # All dark.
    np.testing.assert_allclose(measured["probability"], x, atol=1e-6)
    np.testing.assert_allclose(measured["psnr_noisy"], 100.0)  # The cap.
    psnr = -20 * np.log10(x / 2)
    np.testing.assert_allclose(measured["psnr_purified"], psnr, rtol=1e-4)
    assert not {"ssim_noisy", "ssim_purified", "mask"} & set(measured)  # 8 < window.


def test_table_of_known_numbers(judge, defended):
    summary, (harmless, gaussian) = defense_table(
        judge, defended, VARIABLES, [HARMLESS, GAUSSIAN], gate=0.65
    )
    psnr = float(np.mean(-20 * np.log10(LEVELS / 255 / 2)))
    # Undefended 9 of 10 are right (not the fourth); purified the 4 of class 0. The
    # gate at 0.65 purifies the last three, all bright: they become wrong.
    assert summary == pytest.approx({
        "num_images": 10, "clean_accuracy": 0.9, "purified_clean_accuracy": 0.4,
        "clean_psnr_purified": psnr, "false_alarm_rate": 0.5, "gate": 0.65,
        "gated_clean_accuracy": 0.6, "gated_clean_share_purified": 0.3,
    })  # fmt: skip
    assert harmless == pytest.approx({
        "noise": "IN", "severity": 1, "kind": "impulse_noise", "parameter": 0.0,
        "undefended_accuracy": 0.9, "purified_accuracy": 0.4, "gated_accuracy": 0.6,
        "detection_accuracy": 0.5, "auroc": 0.5,
        "tpr_at_1_percent_fpr": 0.0, "tpr_at_5_percent_fpr": 0.0,
        "psnr_noisy": 100.0, "psnr_purified": psnr,
    })  # fmt: skip
    assert (gaussian["noise"], gaussian["severity"]) == ("GN", 2)
    # -20 log10(0.12) = 18.4 dB for what is not clipped; clipping only helps.
    assert 18.0 < gaussian["psnr_noisy"] < 19.5


def test_gate_is_set_on_clean_images(judge, defended):
    # Of ten images the share 0.2 allows two alarms: those above the third highest.
    gate = choose_gate(judge, defended, VARIABLES, 0.2)
    assert gate == pytest.approx(179 / 255)


def test_one_program_serves_every_degradation(judge, defended, traces):
    entries = suite_degradations("uronet")
    assert len(entries) == 18
    summary, rows = defense_table(judge, defended, VARIABLES, entries)
    assert [(r["noise"], r["severity"]) for r in rows] == [e[:2] for e in entries]
    numbers = (v for r in rows for v in r.values() if not isinstance(v, str))
    assert np.isfinite(list(numbers)).all()
    # Stronger noise, lower PSNR; severity 1 of UN is the strongest.
    for noise in {e.noise for e in entries}:
        values = [r["psnr_noisy"] for r in rows if r["noise"] == noise]
        assert values == sorted(values, reverse=noise != "UN")
    assert "gate" not in summary and "gated_accuracy" not in rows[0]
    # Classified twice, degraded and purified, in the one trace of this defence.
    assert len(traces) == 2


def test_results_depend_neither_on_the_batches_nor_on_where_images_lie(mesh, defended):
    source = ArraySource("t", "test", np.ascontiguousarray(IMAGES), LABELS, ("a", "b"))
    expected = make_judge(mesh, 8).measure(defended, VARIABLES, GAUSSIAN)
    small = make_judge(mesh, 4)
    streamed = Judge(source, batch_size=4, mesh=mesh, seed=3, max_resident_bytes=0)
    assert len(streamed) == 10
    for other in (small, streamed):
        for _ in range(2):  # Streams can be read again.
            measured = other.measure(defended, VARIABLES, GAUSSIAN)
            chex.assert_trees_all_close(measured, expected, rtol=1e-5, atol=1e-6)
    pictures = small.pictures(GAUSSIAN, 6)
    np.testing.assert_array_equal(streamed.pictures(GAUSSIAN, 6), pictures)
    assert np.abs(small.pictures(GAUSSIAN, 6, draw=1) - pictures).max() > 0.05


def test_few_images_are_not_filled_up_to_the_batch(mesh, judge, defended):
    subject = Subject(defended, {}, (IMAGES, LABELS), None, mesh, 16)
    for count, size in ((1, 4), (10, 12), (20, 16)):  # On four devices.
        images = np.resize(IMAGES, (count, 8, 8, 1)), np.resize(LABELS, count)
        shapes = [batch["image"].shape for batch in subject.judge(images).batches()]
        assert set(shapes) == {(size, 8, 8, 1)}
    found, expected = (
        any_judge.measure(defended, VARIABLES, GAUSSIAN)
        for any_judge in (subject.judge(subject.test_source, seed=3), judge)
    )
    chex.assert_trees_all_close(found, expected, rtol=1e-5, atol=1e-6)


def test_a_stream_holds_few_images(mesh):
    """While one batch is judged, at most the next one and the last are read."""
    alive = []

    class Source:
        name, split, image_shape = "t", "test", (8, 8, 1)
        class_names, num_classes = ("a", "b"), 2

        def __len__(self):
            return 64

        def read(self, rows):
            alive.append(rows)
            return np.zeros((len(rows), 8, 8, 1), np.uint8), np.zeros(len(rows), int)

    judge = Judge(Source(), batch_size=4, mesh=mesh, max_resident_bytes=0)
    assert not alive  # Nothing is read before it is asked for.
    seen = (len(alive) for _ in judge.degraded(CLEAN_ENTRY))
    assert list(seen) == list(range(1, 17))


def test_any_function_of_the_images_is_an_entry(judge, defended):
    def darker(key, images, level, index):
        return images * level

    measured = judge.measure(defended, VARIABLES, FunctionEntry("dark", 1, darker, 0.5))
    np.testing.assert_array_equal(measured["undefended"], LABELS == 0)


def test_rows_hold_only_what_can_be_measured(mesh):
    judge = make_judge(mesh, 12)
    summary, (row,) = defense_table(judge, make_defended([]), VARIABLES, [HARMLESS])
    assert summary == {"num_images": 10, "clean_accuracy": pytest.approx(0.9)}
    assert set(row) == {
        "noise", "severity", "kind", "parameter", "undefended_accuracy", "psnr_noisy"
    }  # fmt: skip
    purified = make_defended([], purifier=Dimmer())
    _, (row,) = defense_table(judge, purified, VARIABLES, [HARMLESS])
    assert row["purified_accuracy"] == 0.4 and "detection_accuracy" not in row


def test_detection_metrics_by_hand():
    clean = np.array([0.1, 0.5, 0.6, 0.2])  # 1/2 is not an alarm: 3 of 4 right.
    degraded = np.array([0.9, 0.4, 0.6, 0.7, 0.3])  # 3 of 5 right.
    assert detection_metrics(clean, degraded) == pytest.approx(
        {
            "detection_accuracy": (3 / 4 + 3 / 5) / 2,
            # Of 20 pairs: .9 and .7 win 4, .6 wins 3 and ties 1, .4 and .3 win 2.
            "auroc": (4 + 4 + 3.5 + 2 + 2) / 20,
            # No false alarm among four: above .6 lie .9 and .7.
            "tpr_at_1_percent_fpr": 2 / 5,
            "tpr_at_5_percent_fpr": 2 / 5,
        }
    )


# Suites: images large enough for the spatial corruptions.
TEXTURES = np.random.default_rng(0).integers(60, 200, (6, 28, 28, 1), np.uint8)


@pytest.fixture(scope="module")
def bare():
    def classify(variables, images):
        mean = images.mean(axis=(1, 2, 3))
        return jnp.stack([0.55 - mean, mean - 0.55], axis=-1)

    return DefenseFunction(classify)


@pytest.fixture(scope="module")
def suite_judge(mesh):
    return Judge((TEXTURES, np.zeros(6, np.int32)), batch_size=4, mesh=mesh, seed=5)


def test_made_and_stored_images_of_a_suite_are_judged_alike(
    suite_judge, bare, tmp_path
):
    source = ArraySource("t", "test", TEXTURES, np.zeros(6, np.int32), ("a", "b"))
    corrupted.write(
        source, tmp_path, suite="cifar_c", names=["brightness"], seed=5, progress=False
    )
    made, stored = [], []
    for severity in (1, 5):
        images, _ = corrupted.load_stored(tmp_path, "brightness", severity)
        made.append(CorruptionEntry("brightness", severity, "cifar_c"))
        stored.append(StoredEntry("brightness", severity, images))
    _, rows = defense_table(suite_judge, bare, VARIABLES, made)
    _, stored_rows = defense_table(suite_judge, bare, VARIABLES, stored)
    assert [row.pop("suite") for row in rows] == ["cifar_c"] * 2
    for row, other in zip(rows, stored_rows, strict=True):
        assert row == pytest.approx(other)
    # Their mean is 1/2. Only 0.3 more makes them bright: of class 1, and all wrong.
    assert rows[0]["undefended_accuracy"] > rows[1]["undefended_accuracy"] == 0.0
    # PSNR of a shift by 0.3, of which truncation and clipping take a little.
    assert rows[1]["psnr_noisy"] == pytest.approx(-20 * np.log10(0.3), abs=0.3)


def test_changes_of_a_corruption_reach_it(suite_judge, bare):
    entry = CorruptionEntry("brightness", 1, "cifar_c", {"amount": 0.0})
    measured = suite_judge.measure(bare, VARIABLES, entry)
    assert measured["psnr_noisy"].min() > 99  # The cap.


def test_stored_images_must_fit(suite_judge, bare):
    for images in (TEXTURES[:5], TEXTURES.astype(np.float32)):
        entry = StoredEntry("fog", 1, images)
        with pytest.raises(ValueError, match=r"fog 1 must be .*\[6, 28, 28, 1\]"):
            suite_judge.measure(bare, VARIABLES, entry)
