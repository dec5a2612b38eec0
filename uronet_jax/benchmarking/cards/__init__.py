"""Descriptions of cards, from which XLA compiles for one that is not there.

Each `NAME.txtpb` beside this file is a `stream_executor.GpuTargetConfigProto`: facts
that the driver states of the card.
"""

import os
import re
from pathlib import Path
from typing import NamedTuple

import jax

from uronet_jax import sharding
from uronet_jax.batches import check_whole, known_name
from uronet_jax.benchmarking.flops import PEAK_BFLOAT16
from uronet_jax.benchmarking.hlo import Rates

_FOLDER = Path(__file__).parent
CARDS = tuple(sorted(path.stem for path in _FOLDER.glob("*.txtpb")))
# Else the plugin asks the driver, which is missing, for its version.
_UNASKED = "JAX_SKIP_CUDA_CONSTRAINTS_CHECK"


class Card(NamedTuple):
    """A described card.

    Attributes:
        name: A name of `CARDS`.
        kind: As JAX calls it.
        memory_bytes: Of the whole card.
        cache_bytes: Of its second-level cache.
        rates: What it can do at most, as the vendor states it.
        description: The text that XLA takes.
    """

    name: str
    kind: str
    memory_bytes: int
    cache_bytes: int
    rates: Rates
    description: str


def read_card(name: str) -> Card:
    """Returns a card by name; ValueError if there is no description of it."""
    known_name("card", name, CARDS)
    text = (_FOLDER / f"{name}.txtpb").read_text(encoding="utf-8")

    def number(field: str) -> float:
        found = re.search(rf"\b{field}: ([\d.]+)", text)
        if found is None:
            raise ValueError(f"the description of {name} lacks {field}")
        return float(found[1])

    found = re.search(r'device_description_str: "([^"]+)"', text)
    kind = found[1] if found else name
    peak = PEAK_BFLOAT16[kind]
    lanes = number("core_count") * number("fpus_per_core")
    # Every lane multiplies and adds in a cycle.
    operations = 2 * lanes * number("clock_rate_ghz") * 1e9
    rates = Rates(
        {
            **{"bf16": peak, "f16": peak},
            # float32 as JAX computes it by default, in TF32; else in the lanes.
            **{"f32": peak / 2, "f32-exact": operations, "s32": operations},
            # Of a complex one four parts are multiplied and added.
            "c64": peak / 8,
        },
        operations,
        number("memory_bandwidth"),
    )
    memory, cache = int(number("device_memory_size")), int(number("l2_cache_size"))
    return Card(name, kind, memory, cache, rates, text)


def described_mesh(card: Card, count: int) -> jax.sharding.Mesh:
    """Returns a mesh over so many cards that are only described: it can but compile.

    Raises:
        ValueError: If JAX has no CUDA plugin of its version.
    """
    check_whole("number of cards", count, 1, 2**20)
    from jax.experimental import topologies

    os.environ.setdefault(_UNASKED, "1")
    try:
        topology = topologies.get_topology_desc(
            platform="cuda",
            target_config=card.description,
            topology=f"1x{count}x1",
        )
    except RuntimeError as error:
        line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"JAX cannot compile for a GPU here ({line}): install "
            "uronet_jax[gpu-check], which needs Linux and no GPU"
        ) from error
    return sharding.data_mesh(topology.devices)
