"""Metrics of detectors against scikit-learn and closed forms."""

import numpy as np
import pytest

from uronet_jax.evaluation import metrics


def test_auroc_equals_scikit_learn():
    sklearn_metrics = pytest.importorskip("sklearn.metrics")
    generator = np.random.default_rng(0)
    # Rounded, so that there are ties.
    negative = generator.normal(0, 1, 500).round(1)
    positive = generator.normal(1, 1, 300).round(1)
    labels = np.repeat([0, 1], [500, 300])
    expected = sklearn_metrics.roc_auc_score(labels, np.r_[negative, positive])
    assert metrics.auroc(negative, positive) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("negative", "positive", "expected"),
    [
        ([0, 1], [2, 3], 1.0),
        ([2, 3], [0, 1], 0.0),
        ([1, 1], [1], 0.5),
        ([0, 1, 2], [1], 0.5),
        ([0, 1], [1, 1, 0], (0.75 + 0.75 + 0.25) / 3),
    ],
)
def test_auroc_by_hand(negative, positive, expected):
    assert metrics.auroc(negative, positive) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("negative", "fpr", "threshold"),
    [
        (range(100), 0.05, 94),  # 95 .. 99 are flagged.
        (range(100), 0.29, 70),  # 0.29 * 100 < 29 in floating point.
        (range(100), 0.0, 99),
        (range(100), 1.0, -np.inf),
        ([0, 1, 1, 1], 0.5, 1),  # Ties: any lower threshold flags three of four.
        ([0, 1, 2], 0.3, 2),  # A third of a false positive is none.
    ],
)
def test_threshold_at_fpr(negative, fpr, threshold):
    assert metrics.threshold_at_fpr(negative, fpr) == threshold
    assert np.mean(np.asarray(negative) > threshold) <= fpr


def test_tpr_at_fpr():
    negative = np.arange(100)
    assert metrics.tpr_at_fpr(negative, [0, 94, 94.5, 200], 0.05) == 0.5
    assert metrics.tpr_at_fpr(negative, [-np.inf, 1], 1.0) == 1.0
    # At any rate, ranking positives like negatives detects as many.
    assert metrics.tpr_at_fpr(negative, negative, 0.05) == 0.05


@pytest.mark.parametrize(
    ("successes", "count", "expected"),
    [
        # Newcombe, Statistics in Medicine 17 (1998), table I, method 3.
        (81, 263, (0.2553, 0.3662)),
        (15, 148, (0.0624, 0.1605)),
        (0, 20, (0.0, 0.1611)),
        (1, 29, (0.0061, 0.1718)),
        (29, 29, (0.8830, 1.0)),
    ],
)
def test_binomial_interval_equals_published_values(successes, count, expected):
    interval = metrics.binomial_interval(successes, count)
    np.testing.assert_allclose(interval, expected, atol=5e-5)  # Four printed digits.


def test_binomial_interval_of_none_and_of_all():
    assert metrics.binomial_interval(0, 200)[0] == 0.0
    assert metrics.binomial_interval(200, 200)[1] == 1.0


def test_wider_level_gives_wider_interval():
    low, high = metrics.binomial_interval(5, 10, level=0.5)
    wide_low, wide_high = metrics.binomial_interval(5, 10, level=0.99)
    assert wide_low < low < 0.5 < high < wide_high
