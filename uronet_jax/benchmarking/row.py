"""A row of a benchmark: what was done, and how it compares; JSON."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from uronet_jax.benchmarking import timing

Row = dict[str, Any]


def new_row(
    work: str,
    seconds: Mapping[str, Sequence[float]] | None = None,
    *,
    pairs: Iterable[tuple[str, str]] = (),
    notes: Sequence[str] = (),
) -> Row:
    """Returns a row.

    Args:
        work: What was done.
        seconds: From `timing.interleave`; None if no time was compared.
        pairs: Subject and peer of each comparison.
        notes: What a reader should know besides.
    """
    seconds = {} if seconds is None else seconds
    return {
        "work": work,
        "comparisons": [timing.compare(seconds, *pair) for pair in pairs],
        "values": {},
        "limits": {},
        "seconds": timing.summarise(seconds),
        "notes": list(notes),
    }


def limit(value: float, at_most: float) -> dict[str, Any]:
    """Returns what this package asks of a value, and whether it is met."""
    return {"at_most": at_most, "met": value <= at_most}
