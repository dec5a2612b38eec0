"""Metrics of detectors and shares, NumPy on plain lists of scores."""

import math
import statistics

import numpy as np

from uronet_jax.batches import check_number


def auroc(scores_negative: np.ndarray, scores_positive: np.ndarray) -> float:
    """Returns the area under the ROC curve, in `[0, 1]`; 0.5 is chance.

    The probability that a positive example scores higher than a negative one; a tie
    counts one half.

    Args:
        scores_negative: `[N]`, finite or infinite scores of clean examples.
        scores_positive: `[M]`, scores of degraded examples; higher = more suspicious.

    Raises:
        ValueError: If a list is empty, not one-dimensional, or contains NaN.
    """
    negative = np.sort(_scores(scores_negative, "scores_negative"))
    positive = _scores(scores_positive, "scores_positive")
    below = np.searchsorted(negative, positive, side="left")
    not_above = np.searchsorted(negative, positive, side="right")
    return float(np.mean(below + not_above) / (2 * negative.size))


def threshold_at_fpr(scores_negative: np.ndarray, fpr: float) -> float:
    """Returns the lowest threshold that keeps the false-positive rate.

    An example is flagged if its score is *strictly above* the threshold. Of `N`
    negatives, at most `floor(fpr * N)` are flagged; ties can make it fewer, never more.
    The threshold is one of the scores, or minus infinity if all may be flagged.

    Args:
        scores_negative: `[N]`, scores of clean examples.
        fpr: Allowed fraction of flagged negatives, in `[0, 1]`.

    Raises:
        ValueError: As `auroc`, or if `fpr` is out of range.
    """
    check_number("fpr", fpr, 0.0, 1.0)
    negative = np.sort(_scores(scores_negative, "scores_negative"))[::-1]
    # 0.29 * 100 is 28.999999999999996 in floating point.
    allowed = math.floor(fpr * negative.size + 1e-9)
    return float(negative[allowed]) if allowed < negative.size else -math.inf


def tpr_at_fpr(
    scores_negative: np.ndarray, scores_positive: np.ndarray, fpr: float
) -> float:
    """Returns the fraction of positives flagged at `threshold_at_fpr`.

    Args and errors are those of `auroc` and `threshold_at_fpr`.
    """
    threshold = threshold_at_fpr(scores_negative, fpr)
    positive = _scores(scores_positive, "scores_positive")
    # Every score lies above minus infinity, a score of minus infinity too.
    return float(np.mean((positive > threshold) | (threshold == -math.inf)))


def binomial_interval(
    successes: int, count: int, level: float = 0.95
) -> tuple[float, float]:
    """Returns lower and upper Wilson score bounds of a success rate, in `[0, 1]`.

    Args:
        successes: Number of successes, `0 .. count`.
        count: Number of independent trials, 1 or more.
        level: Coverage, in `(0, 1)`.

    Raises:
        ValueError: If the counts or the level are out of range.

    Source:
        Wilson, "Probable Inference, the Law of Succession, and Statistical
        Inference", JASA 22 (1927).
    """
    if not (count >= 1 and 0 <= successes <= count):
        raise ValueError(
            f"need 0 <= successes <= count and count >= 1: {successes}, {count}"
        )
    check_number("level", level, above=0.0, below=1.0)
    z = statistics.NormalDist().inv_cdf(0.5 + level / 2)
    rate = successes / count
    centre = rate + z * z / (2 * count)
    half = z * math.sqrt(rate * (1 - rate) / count + (z / (2 * count)) ** 2)
    scale = 1 + z * z / count
    # Both ends are exact where rounding would leave them beside 0 and 1.
    low = 0.0 if successes == 0 else (centre - half) / scale
    return low, 1.0 if successes == count else (centre + half) / scale


def _scores(scores, name):
    scores = np.asarray(scores, np.float64)
    if scores.ndim != 1 or scores.size == 0:
        raise ValueError(f"{name} must be a non-empty list of numbers: {scores.shape}")
    if np.isnan(scores).any():
        raise ValueError(f"{name} contains {np.isnan(scores).sum()} NaN")
    return scores
