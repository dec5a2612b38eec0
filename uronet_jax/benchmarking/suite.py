"""The rows of the benchmark by name, and the file that they are written to."""

import dataclasses
import functools
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from uronet_jax import host
from uronet_jax.batches import check_whole
from uronet_jax.benchmarking import (
    attacks,
    base,
    convolutions,
    corruptions,
    large_images,
    memory,
    rows,
    serving,
    steps,
    transformations,
)
from uronet_jax.benchmarking.base import BenchmarkRow, BenchmarkRun, BenchmarkSizes
from uronet_jax.benchmarking.torch_peer import TorchPeer
from uronet_jax.records import provenance, write_json
from uronet_jax.reports import results

RowFunctions = dict[str, Callable[[BenchmarkRun], BenchmarkRow]]

# Rows that have one name together.
GROUPS: dict[str, RowFunctions] = {
    "large_images": {
        name: functools.partial(large_images.large_images_row, name=name)
        for name in large_images.NETWORKS
    },
    "adversarial_noise": {
        "adversarial_noise_32": functools.partial(rows.noise_row, side=32),
        "adversarial_noise_28": functools.partial(rows.noise_row, side=28),
    },
    "corruptions": {
        "corruptions_32": functools.partial(corruptions.throughput_row, side=32),
        "corruptions_224": functools.partial(corruptions.throughput_row, side=224),
        "corruptions_memory": memory.corruption_memory_row,
        "corrupted_set": corruptions.corrupted_set_row,
    },
    "attacks": {
        "attack_pgd": attacks.pgd_row,
        "attack_autoattack": attacks.autoattack_row,
    },
    "transformations": {"transformations_32": transformations.transformations_row},
    "convolutions": {
        f"convolutions_{name}": functools.partial(
            convolutions.convolutions_row, name=name
        )
        for name in ("remover", "classifier")
    },
}
ROWS: RowFunctions = {
    "remover": functools.partial(rows.training_row, name="remover"),
    "data": rows.data_row,
    "evaluation": rows.evaluation_row,
    "memory": memory.training_memory_row,
    "evaluation_memory": memory.evaluation_memory_row,
    "remover_memory": memory.remover_memory_row,
    "attack_memory": memory.attack_memory_row,
    "classifier": functools.partial(rows.training_row, name="classifier"),
    "detector": functools.partial(rows.training_row, name="detector"),
    "degradation": rows.degradation_row,
    "serving": serving.serving_row,
    "ceilings": rows.ceilings_row,
    **GROUPS["large_images"],
    **GROUPS["adversarial_noise"],
    **GROUPS["corruptions"],
    **GROUPS["attacks"],
    **GROUPS["transformations"],
    **GROUPS["convolutions"],
}

# Rows in which PyTorch is the peer of `BenchmarkRun`.
_BESIDE_PYTORCH = {
    *(*steps.WORKS, "serving", *GROUPS["convolutions"], *GROUPS["large_images"])
}
PEER_LEFT_OUT = "PyTorch was left out by --skip_peer"
_TINY = {
    "batch_size": 4,
    "image_shape": (16, 16, 3),
    "widths": (4,),
    "classifier": "resnet8",
    "detector": "wrn10_1",
    "train_images": 64,
    "eval_images": 6,
    "linen_repeats": 1,
    "memory_steps": 1,
}
# A step takes milliseconds here: one would measure the clock and the dispatch.
_ACCELERATOR = {
    "steps_per_sample": 50,
    "classifier": "wrn16_8",
    "eval_images": 10_000,
    "linen_repeats": 5,
}


def choose_sizes(platform: str, *, tiny: bool = False, **given: Any) -> BenchmarkSizes:
    """Returns the sizes for JAX's `platform`, with the fields that are not None."""
    sizes = _TINY if tiny else {} if platform == "cpu" else _ACCELERATOR
    given = {name: value for name, value in given.items() if value is not None}
    return BenchmarkSizes(**(sizes | given))


def choose_rows(what: Sequence[str]) -> list[str]:
    """Returns the names of rows; raises ValueError if one is unknown."""
    groups = {"all": ROWS, **GROUPS}
    if len(what) == 1 and what[0] in groups:
        return list(groups[what[0]])
    unknown = [name for name in what if name not in ROWS]
    if unknown or not what:
        raise ValueError(
            f"unknown row {', '.join(unknown)!r}: choose all, "
            f"{', '.join(GROUPS)}, or some of {','.join(ROWS)}"
        )
    return list(what)


def limit_threads(threads: int) -> None:
    """Lets this process run on `threads` cores; call it before JAX starts."""
    if not hasattr(os, "sched_setaffinity"):
        raise ValueError("--threads needs Linux; leave it out")
    cores = sorted(os.sched_getaffinity(0))
    check_whole("--threads", threads, 1, len(cores))
    os.sched_setaffinity(0, cores[:threads])


def measure_rows(
    names: Sequence[str],
    run: BenchmarkRun,
    path: str | os.PathLike,
    *,
    note: str = "",
    extra: Mapping[str, Any] | None = None,
    force: bool = False,
    functions: RowFunctions = ROWS,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Any]:
    """Measures rows, writes the file after each, and returns its content.

    Rows that the file holds already are kept, unless `force`. `note` says why there is
    no peer, and `extra` is stored with the config.
    """
    config = dataclasses.asdict(run.sizes) | {"seed": 0, "threads": host.num_threads()}
    config |= dict(extra or {})
    config["peer"] = None if run.peer is None else run.peer.name
    # As it will be read back: tuples are lists.
    origin = json.loads(json.dumps(provenance(config, seconds=0.0)))
    result = base.stored_content(path, "benchmark")
    if result is None:
        result = {"schema": results.BENCHMARK, "rows": {}, **origin}
    differing = [
        f"{part} {name}: {result[part].get(name)} there, {now} now"
        for part in ("config", "versions", "device")
        for name, now in origin[part].items()
        if result[part].get(name) != now
    ]
    if differing:
        raise ValueError(
            f"{path} was measured otherwise; choose another --out: "
            + "; ".join(differing)
        )
    for name in names:
        if name in result["rows"] and not force:
            print(f"{name}: measured before", file=sys.stderr)
            continue
        start = clock()
        row = functions[name](run)
        if run.peer is None and name in _BESIDE_PYTORCH:
            row["notes"].append(note)
        wall = clock() - start
        result["rows"][name] = row | {"wall_seconds": round(wall, 1)}
        walls = [row["wall_seconds"] for row in result["rows"].values()]
        result["seconds"] = round(sum(walls), 1)
        write_json(path, result)
        print(f"{name}: {wall:.0f} s", file=sys.stderr)
    return result


def run_benchmark(
    what: Sequence[str],
    path: str | os.PathLike,
    *,
    scale: str = "full",
    threads: int | None = None,
    skip_peer: bool = False,
    compile_mode: str = "auto",
    force: bool = False,
    **sizes: Any,
) -> dict[str, Any]:
    """Measures rows beside the peers that are installed, see `launch.benchmark`.

    `sizes` are fields of `BenchmarkSizes`; None leaves the default.
    """
    names = choose_rows(what)
    if threads is not None:
        limit_threads(threads)
    platform, tiny = jax.devices()[0].platform, scale == "tiny"
    chosen = choose_sizes(platform, tiny=tiny, **sizes)
    peers, notes = {}, [PEER_LEFT_OUT]
    if not skip_peer and set(names) & _BESIDE_PYTORCH:
        make = functools.partial(
            TorchPeer,
            platform=platform,
            dtype=chosen.dtype,
            threads=host.num_threads(),
            compile_mode=compile_mode,
        )
        peers, notes = base.installed({"PyTorch": make})
    peer = peers.get("PyTorch")
    extra = {
        "scale": scale,
        # A command made the settings before anything was allocated; this asks for them.
        "keeps_freed_memory": host.keep_freed_memory(),
        **(peer.settings if peer is not None else {}),
    }
    run, note = BenchmarkRun(chosen, peer, tiny), "".join(notes)
    return measure_rows(names, run, path, note=note, extra=extra, force=force)
