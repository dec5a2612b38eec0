"""Averages over corruptions: known values, gaps, and their heat map."""

from statistics import mean

import numpy as np
import pytest

from uronet_jax import corruptions
from uronet_jax.evaluation import corruption_errors as ce
from uronet_jax.reports import figures
from uronet_jax.reports.suites import published_cifar10_c

# Of a plain WRN-28-10 on CIFAR-10-C.
ROBUSTBENCH = [
    {"corruption": name, "severity": severity, "accuracy": accuracy}
    for name, column in published_cifar10_c().items()
    for severity, accuracy in column.items()
]


def make_rows(accuracy, names=ce.COMMON, severities=ce.SEVERITIES):
    return [
        {"corruption": name, "severity": s, "accuracy": accuracy(name, s)}
        for name in names
        for s in severities
    ]


def test_the_common_corruptions_are_those_of_every_common_suite():
    validation = {"speckle_noise", "gaussian_blur", "spatter", "saturate"}
    assert len(ce.COMMON) == 15
    for suite in ("cifar_c", "tiny_c", "imagenet_c"):
        names = corruptions.list_corruptions(suite)
        assert set(names) - validation == set(ce.COMMON)
        assert corruptions.list_severities(suite) == ce.SEVERITIES
    assert ce.ALEXNET_ERRORS.keys() == set(ce.COMMON)


def test_robustbench_average_is_reproduced():
    summary = ce.summarize(ROBUSTBENCH, clean_accuracy=0.9478)
    # RobustBench prints 73.46.
    assert round(100 * summary["common_mean_accuracy"], 2) == 73.46
    assert round(100 * summary["mean_accuracy"], 2) == 73.46
    assert round(100 * summary["mean_corruption_error"], 2) == 26.54
    # By hand from the file: means over five severities.
    assert summary["accuracy_by_corruption"]["glass_blur"] == pytest.approx(0.51)
    noise = mean([0.47026, 0.5878, 0.553])
    assert summary["accuracy_by_category"]["noise"] == pytest.approx(noise)
    assert summary["common_mean_accuracy_without_noises"] == pytest.approx(
        (15 * summary["common_mean_accuracy"] - 3 * noise) / 12
    )
    assert summary["num_corruptions"] == 15 and len(ROBUSTBENCH) == 75
    assert summary["severities"] == [1, 2, 3, 4, 5]
    assert not any("alexnet" in key for key in summary)


def test_alexnet_has_100():
    # Only sums over severities count: spread the errors over them.
    rows = make_rows(lambda name, s: 1 - ce.ALEXNET_ERRORS[name] * (1 + 0.02 * (s - 3)))
    summary = ce.summarize(
        rows, clean_accuracy=1 - ce.ALEXNET_CLEAN_ERROR, alexnet=True
    )
    assert summary["alexnet_mce"] == pytest.approx(100)
    assert summary["alexnet_relative_mce"] == pytest.approx(100)
    # The 15 published errors average to 0.789.
    assert summary["mean_corruption_error"] == pytest.approx(0.789, abs=1e-4)


def test_relative_mce_is_of_what_corruptions_add():
    rows = make_rows(lambda name, s: 0.6)
    summary = ce.summarize(rows, clean_accuracy=0.6, alexnet=True)
    assert summary["alexnet_relative_mce"] == pytest.approx(0)
    half = make_rows(lambda name, s: 1 - ce.ALEXNET_ERRORS[name] / 2)
    summary = ce.summarize(half, clean_accuracy=0.6, alexnet=True)
    assert summary["alexnet_mce"] == pytest.approx(50)


def test_further_corruptions_count_in_the_overall_mean_only():
    extra = make_rows(lambda name, s: 0.0, names=["saturate"])
    summary = ce.summarize(ROBUSTBENCH + extra, clean_accuracy=0.9)
    assert summary["num_corruptions"] == 16
    assert summary["mean_accuracy"] == pytest.approx(
        15 / 16 * summary["common_mean_accuracy"]
    )
    assert round(100 * summary["common_mean_accuracy"], 2) == 73.46


def test_mnist_c_is_averaged_over_its_own_corruptions():
    names = corruptions.list_corruptions("mnist_c")
    rows = make_rows(lambda name, s: 1.0 if name == "identity" else 0.2, names, (1,))
    summary = ce.summarize(rows, clean_accuracy=1.0)
    assert summary["mean_accuracy"] == pytest.approx((1 + 0.2 * 15) / 16)
    assert summary["severities"] == [1]
    # It lacks most of the common corruptions: nothing may be called by that name.
    assert not any("common" in key or "category" in key for key in summary)


@pytest.mark.parametrize("gap", [{"corruption": "fog"}, {"severity": 4}])
def test_gaps_leave_the_mean(gap):
    rows = [row for row in ROBUSTBENCH if any(row[k] != v for k, v in gap.items())]
    summary = ce.summarize(rows, clean_accuracy=0.9)
    assert not any("common" in key or "error" in key for key in summary)
    assert "mean_accuracy" in summary


def test_accuracy_heat_map(tmp_path, monkeypatch):
    figures.accuracy_heat_map(tmp_path / "map.png", ROBUSTBENCH, "CIFAR-10-C")
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")

    drawn = []
    monkeypatch.setattr(
        figures, "heat_map", lambda *args, **kw: drawn.append((args, kw))
    )
    figures.accuracy_heat_map("a.png", ROBUSTBENCH[:7], "Title")
    (path, values, rows, columns, title), limits = drawn[0]
    assert (path, title) == ("a.png", "Title")
    assert rows == ["gaussian_noise", "shot_noise"]
    assert columns == [f"severity {s}" for s in range(1, 6)]
    expected = [[77.78, 57.88, 39.19, 32.61, 27.67], [85.04, 75.73] + 3 * [np.nan]]
    np.testing.assert_allclose(values, expected)
    assert limits == {"low": 0.0, "high": 100.0}
