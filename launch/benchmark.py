"""Measures training steps, pipelines, evaluation and memory against named peers.

  python -m launch.benchmark --what=remover,data --out=benchmark.json

Every time is given as a ratio to that of a peer that does the same work, in turns, in
the same process. `pip install uronet_jax[benchmark]` brings the peers: PyTorch for the
training steps, imagecorruptions-imaug and corrupt-tta for the corruptions, foolbox and
torchattacks for the attacks. A row that the file holds already is not measured again,
so a run that was cut short goes on with the same command.
"""

import dataclasses
import functools
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import optax
from absl import flags

from launch import benchmark_attack_peers, benchmark_corruption_peers, cli
from uronet_jax import host
from uronet_jax.benchmarking import attacks, corruptions, rows
from uronet_jax.benchmarking.steps import Peer, Settings
from uronet_jax.models import make_classifier
from uronet_jax.records import provenance, write_json
from uronet_jax.reports import results
from uronet_jax.training.state import create_state

# The 19 corruptions; `--what=corruptions` means all four.
CORRUPTION_ROWS = (
    "corruptions_32",
    "corruptions_224",
    "corruptions_memory",
    "corrupted_set",
)
# `--what=attacks` means both.
ATTACK_ROWS = ("attack_pgd", "attack_autoattack")
GROUPS = {"corruptions": CORRUPTION_ROWS, "attacks": ATTACK_ROWS}
NAMES = (*rows.ROWS, *CORRUPTION_ROWS, *ATTACK_ROWS)

_WHAT = flags.DEFINE_list(
    "what", "all", f"all, {', '.join(GROUPS)}, or some of {','.join(NAMES)}."
)
_OUT = flags.DEFINE_string("out", None, "JSON file to write to.", required=True)
_SCALE = flags.DEFINE_enum("scale", "full", ["full", "tiny"], "tiny is for tests.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", None, "Default: 128.")
_DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Computation.")
_REPEATS = flags.DEFINE_integer("repeats", 5, "Rounds of every comparison.")
_STEPS = flags.DEFINE_integer(
    "steps_per_sample", None, "Steps timed as one. Default: 1 on a CPU, else 50."
)
_CLASSIFIER = flags.DEFINE_string(
    "classifier", None, "Default: resnet20 on a CPU, else wrn16_8."
)
_SKIP_LINEN = flags.DEFINE_bool(
    "skip_naive", False, "Leave out the naive linen remover (15 to 26 s a step on CPU)."
)
_SKIP_PEER = flags.DEFINE_bool("skip_peer", False, "Leave PyTorch out.")
_TORCH_COMPILE = flags.DEFINE_enum(
    "torch_compile",
    "auto",
    ["auto", "off", "default", "reduce-overhead", "max-autotune"],
    "How PyTorch compiles; auto is default on a GPU and off on a CPU.",
)
_THREADS = flags.DEFINE_integer(
    "threads", None, "Cores that everybody may use. Default: all. Linux only."
)
_FORCE = flags.DEFINE_bool("force", False, "Measure again what the file holds.")

NO_TORCH = (
    "PyTorch is absent, so there is no comparison with it: "
    "pip install uronet_jax[benchmark]"
)
PEER_LEFT_OUT = "PyTorch was left out by --skip_peer"
# Rows whose work PyTorch does too.
WITH_PEER = ("remover", "classifier", "detector")


def choose_settings(scale: str, platform: str, **given: Any) -> Settings:
    """Returns the sizes for a platform.

    Args:
        scale: `full` or `tiny`.
        platform: JAX's name of the device's kind.
        **given: Fields of `Settings`; None leaves the default.
    """
    sizes: dict[str, Any] = {}
    if platform != "cpu":
        # A step takes milliseconds here: one would measure the clock and the dispatch.
        sizes = {"steps_per_sample": 50, "classifier": "wrn16_8"}
        sizes |= {"eval_images": 10_000, "linen_repeats": 5}
    if scale == "tiny":
        sizes = {
            "batch_size": 4,
            "image_shape": (16, 16, 3),
            "widths": (4, 4),
            "classifier": "resnet8",
            "detector": "wrn10_1",
            "train_images": 64,
            "eval_images": 6,
            "linen_repeats": 1,
            "memory_steps": 1,
        }
    sizes |= {name: value for name, value in given.items() if value is not None}
    return Settings(**sizes)


def choose_rows(what: Sequence[str]) -> list[str]:
    """Returns the names of rows; raises ValueError if one is unknown."""
    if list(what) == ["all"]:
        return list(NAMES)
    if len(what) == 1 and what[0] in GROUPS:
        return list(GROUPS[what[0]])
    unknown = [name for name in what if name not in NAMES]
    if unknown or not what:
        raise ValueError(
            f"unknown row {', '.join(unknown)!r}: choose all, "
            f"{', '.join(GROUPS)}, or some of {','.join(NAMES)}"
        )
    return list(what)


def limit_threads(threads: int) -> None:
    """Lets this process run on `threads` cores; call it before JAX starts.

    Raises:
        ValueError: If there are not so many, or the system cannot do it.
    """
    if not hasattr(os, "sched_setaffinity"):
        raise ValueError("--threads needs Linux; leave it out")
    cores = sorted(os.sched_getaffinity(0))
    if not 1 <= threads <= len(cores):
        raise ValueError(f"--threads must be 1 to {len(cores)} here: {threads}")
    os.sched_setaffinity(0, cores[:threads])


def corruption_rows(
    settings: Settings, platform: str, threads: int, *, tiny: bool
) -> dict[str, Callable[..., rows.Row]]:
    """Returns the functions of `CORRUPTION_ROWS`; they import the peers when called."""
    names = ["fog", "contrast"] if tiny else None

    def throughput(side: int, batch_size: int, peer_images: int) -> rows.Row:
        peers, notes = benchmark_corruption_peers.corruption_peers(threads)
        row = corruptions.throughput_row(
            peers,
            side=side,
            batch_size=batch_size,
            peer_images=peer_images,
            repeats=settings.repeats,
            names=names,
        )
        row["notes"] += notes
        return row

    batch = (4, 2) if tiny else (256, 16) if platform == "cpu" else (1024, 256)
    return {
        "corruptions_32": lambda settings, peer: throughput(32, batch[0], 16),
        "corruptions_224": lambda settings, peer: throughput(
            28 if tiny else 224, batch[1], 2
        ),
        "corruptions_memory": lambda settings, peer: corruptions.memory_row(
            batch_size=2 if tiny else 64, side=28 if tiny else 224, names=names
        ),
        "corrupted_set": lambda settings, peer: corruptions.corrupted_set_row(
            4 if tiny else 256 if platform == "cpu" else 10_000
        ),
    }


def attack_rows(
    settings: Settings, platform: str, threads: int, *, tiny: bool
) -> dict[str, Callable[..., rows.Row]]:
    """Returns the functions of `ATTACK_ROWS`; they import the peers when called."""
    # The network of the comparison, whatever the training steps take.
    name = "resnet8" if tiny else "resnet20"

    def problem(count: int) -> attacks.Problem:
        module = make_classifier(name, 10)
        state = create_state(
            module, optax.sgd(0.1), jax.random.key(0), settings.image_shape
        )
        return attacks.make_problem(
            module, state.variables, settings.image_shape, count
        )

    peers = functools.partial(
        benchmark_attack_peers.attack_peers,
        threads=threads,
        batch_size=settings.batch_size,
    )
    count = 8 if tiny else 1_000 if platform == "gpu" else 64
    return {
        "attack_pgd": lambda settings, peer: attacks.pgd_row(
            problem(settings.batch_size), peers, repeats=settings.repeats
        ),
        "attack_autoattack": lambda settings, peer: attacks.autoattack_row(
            problem(count), peers, batch_size=settings.batch_size
        ),
    }


def make_peer(**options: Any) -> tuple[Peer | None, str]:
    """Returns PyTorch, or None and the reason why it is not there.

    Args:
        **options: Of `benchmark_peers.TorchPeer`.

    Raises:
        ValueError: If PyTorch is installed and cannot use the device.
    """
    try:
        from launch import benchmark_peers
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        return None, NO_TORCH
    return benchmark_peers.TorchPeer(**options), ""


def measure(
    names: Sequence[str],
    settings: Settings,
    path: str | os.PathLike,
    *,
    peer: Peer | None = None,
    note: str = "",
    extra: Mapping[str, Any] | None = None,
    force: bool = False,
    functions: Mapping[str, Callable[..., rows.Row]] = rows.ROWS,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Any]:
    """Measures rows and writes the file after each.

    Args:
        names: Which rows, keys of `functions`.
        settings: Sizes.
        path: JSON file; rows that it holds already are kept.
        peer: Another framework.
        note: Why there is none, for the rows that would have been compared.
        extra: JSON that is stored with the config.
        force: Measure rows again that the file holds.
        functions: Name -> function of a row.
        clock: Seconds, for the wall time.

    Returns:
        The file's content.

    Raises:
        ValueError: If the file is no benchmark, or was measured with other settings,
            versions or on another device.
    """
    config = dataclasses.asdict(settings) | {"seed": 0} | dict(extra or {})
    config["peer"] = None if peer is None else peer.name
    # As it will be read back: tuples are lists.
    origin = json.loads(json.dumps(provenance(config, seconds=0.0)))
    seconds = origin.pop("seconds")
    result = {"schema": results.BENCHMARK, "rows": {}, "seconds": seconds, **origin}
    path = Path(path)
    if path.exists():
        stored = results.load_result(path)
        if stored.kind != "benchmark":
            raise ValueError(f"{path} holds another result: choose another --out")
        result = stored.content
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
        row = functions[name](settings, peer)
        if peer is None and name in WITH_PEER:
            row["notes"].append(note)
        wall = clock() - start
        result["rows"][name] = row | {"wall_seconds": round(wall, 1)}
        result["seconds"] = round(
            sum(row["wall_seconds"] for row in result["rows"].values()), 1
        )
        write_json(path, result)
        print(f"{name}: {wall:.0f} s", file=sys.stderr)
    return result


def main(argv: list[str]) -> None:
    """Measures what the flags describe."""
    del argv
    names = choose_rows(_WHAT.value)
    if _THREADS.value is not None:
        limit_threads(_THREADS.value)
    platform = jax.devices()[0].platform
    settings = choose_settings(
        _SCALE.value,
        platform,
        batch_size=_BATCH_SIZE.value,
        dtype=_DTYPE.value,
        repeats=_REPEATS.value,
        steps_per_sample=_STEPS.value,
        classifier=_CLASSIFIER.value,
        linen_repeats=0 if _SKIP_LINEN.value else None,
    )
    threads, tiny = host.num_threads(), _SCALE.value == "tiny"
    peer, note = None, PEER_LEFT_OUT
    if not _SKIP_PEER.value and set(names) & set(WITH_PEER):
        peer, note = make_peer(
            platform=platform,
            dtype=settings.dtype,
            threads=threads,
            compile_mode=_TORCH_COMPILE.value,
        )
    extra = {
        "scale": _SCALE.value,
        "threads": threads,
        # Made by `cli.run` before anything was allocated; asked again for its answer.
        "keeps_freed_memory": host.keep_freed_memory(),
        **(peer.settings if peer is not None else {}),
    }
    result = measure(
        names,
        settings,
        _OUT.value,
        peer=peer,
        note=note,
        extra=extra,
        force=_FORCE.value,
        functions={
            **rows.ROWS,
            **corruption_rows(settings, platform, threads, tiny=tiny),
            **attack_rows(settings, platform, threads, tiny=tiny),
        },
    )
    print(results.render_benchmark(result))
    print(f"wrote {_OUT.value}")


if __name__ == "__main__":
    cli.run(main)
