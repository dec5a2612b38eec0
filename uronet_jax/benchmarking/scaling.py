"""How long cards take to sum what a training step exchanges, from the rates of links.

Inside a machine of eight cards by a ring over NVLink; between machines each card sums
its eighth with those of the other machines, by a ring over its own network card.
"""

from collections.abc import Mapping
from typing import Any

CARDS_PER_MACHINE = 8
# Bytes a second of one card, in one direction: NVLink 4, and 400 Gbit/s InfiniBand.
NVLINK, NETWORK = 450e9, 50e9
# Seconds of a message in a machine and between machines, for each collective.
NVLINK_LATENCY, NETWORK_LATENCY = 10e-6, 20e-6
COUNTS = (8, 64, 1024)


def sum_seconds(size: float, cards: int, collectives: int = 1) -> float:
    """Returns the time to sum `size` bytes over so many cards.

    Args:
        size: Bytes that each card ends up with.
        cards: How many; from nine on a multiple of eight.
        collectives: In how many parts.
    """
    inside = min(cards, CARDS_PER_MACHINE)
    machines = -(-cards // CARDS_PER_MACHINE)
    seconds = 2 * (inside - 1) / inside * size / NVLINK
    seconds += 2 * (machines - 1) / machines * size / inside / NETWORK
    latency = NVLINK_LATENCY if inside > 1 else 0.0
    # As a tree: its depth is what a message waits for.
    latency += NETWORK_LATENCY * (machines - 1).bit_length()
    return seconds + collectives * latency


def scaling_rows(rows: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns a row for each training step that was compiled for eight cards, JSON.

    `efficiency` is the step's floor over floor and sums one after the other: none of
    the exchange is hidden behind the computation. It is None where a sum is in a loop
    of unknown length.
    """
    found = []
    for key, row in rows.items():
        if not key.startswith("train/") or row["devices"] != CARDS_PER_MACHINE:
            continue
        if not row["compiles"]:
            continue
        size = sum(x["times"] * x["bytes"] for x in row["collectives"])
        parts = sum(x["times"] for x in row["collectives"])
        step = row["floor_seconds"]
        known = not any(x["in_loop"] for x in row["collectives"])
        seconds = {str(n): sum_seconds(size, n, parts) for n in COUNTS}
        found.append(
            {
                "program": key.rsplit("/", 2)[0].removeprefix("train/"),
                "batch": row["batch"],
                "floor_seconds": step,
                "bytes": size,
                "collectives": parts,
                "seconds": seconds,
                "efficiency": {
                    n: step / (step + x) if known else None for n, x in seconds.items()
                },
            }
        )
    return found
