"""Timing in turns: on a machine whose speed drifts, only ratios of neighbours hold."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from uronet_jax.batches import check_whole


def interleave(
    contestants: Mapping[str, Callable[[], Any]],
    *,
    repeats: int,
    limits: Mapping[str, int] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Returns the seconds of contestants in turns, after one run of each unmeasured.

    A slow one sits out after the number of rounds that `limits` has for its name.
    """
    check_whole("repeats", repeats, 1)
    for run in contestants.values():
        run()  # Compiles and fills caches.
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(repeats):
        for name, run in contestants.items():
            if turn < (limits or {}).get(name, repeats):
                start = clock()
                run()
                seconds[name].append(clock() - start)
    return seconds


def time_ratio(
    seconds: Mapping[str, Sequence[float]], subject: str, peer: str
) -> dict[str, Any]:
    """Returns the time of `subject` over that of `peer` in the same rounds."""
    # A contestant that sat out has fewer rounds; the others' later ones do not count.
    pairs = zip(seconds[subject], seconds[peer], strict=False)
    ratios = [ours / theirs for ours, theirs in pairs]
    return {
        "subject": subject,
        "peer": peer,
        "ratio": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "rounds": len(ratios),
    }


def summarise(seconds: Mapping[str, Sequence[float]]) -> dict[str, dict[str, float]]:
    """Returns median, minimum and maximum of each contestant's seconds."""
    return {
        name: {"median": statistics.median(x), "min": min(x), "max": max(x)}
        for name, x in seconds.items()
    }
