"""Compiles programs for a described card, one by one, and writes what they are like."""

import fnmatch
import importlib.metadata
import json
import os
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from uronet_jax.benchmarking import base, hlo, scaling
from uronet_jax.benchmarking.cards import Card, described_mesh, read_card
from uronet_jax.benchmarking.gpu_programs import GpuProgram, list_programs
from uronet_jax.progress import Progress
from uronet_jax.records import provenance, write_json
from uronet_jax.reports import results
from uronet_jax.specs import nearest_name

PLUGIN = "jax-cuda13-plugin"
# Of the reason why a program does not compile.
_REASON = 240
# Numbers of a sum that are metrics, a flag, a largest value.
_FEW = 64
# XLA's own kernels for matrix products have a size of tiles that is tuned on the card;
# without one, the usual size does not suit all of them.
_NO_TRITON = {"xla_gpu_enable_triton_gemm": False}


def choose_programs(
    programs: Sequence[GpuProgram], only: Sequence[str]
) -> list[GpuProgram]:
    """Returns the programs whose name or key a pattern fits; all for no pattern.

    Raises:
        ValueError: If a pattern fits nothing.
    """
    for pattern in only:
        if not any(_fits(x.key, pattern) for x in programs):
            names = dict.fromkeys(program.name for program in programs)
            kinds = dict.fromkeys(name.partition("/")[0] for name in names)
            raise ValueError(
                f"no program is called {pattern!r}{nearest_name(pattern, names)}: "
                f"choose from {', '.join(f'{kind}/*' for kind in kinds)}, where * is "
                "any text"
            )
    return [x for x in programs if not only or any(_fits(x.key, p) for p in only)]


def _fits(key: str, pattern: str) -> bool:
    name = key.rsplit("/", 2)[0]
    return any(fnmatch.fnmatchcase(text, pattern) for text in (key, name))


def compile_row(program: GpuProgram, card: Card) -> dict[str, Any]:
    """Compiles a program for cards, and returns its row, JSON.

    A program that does not compile has a row that says why. One that compiles only with
    the matrix products of cuBLAS has the reason in the field `without_triton`.
    """
    row = {
        "text": program.text,
        "batch": program.batch,
        "devices": program.devices,
        "dtype": program.dtype,
        "steps": program.steps,
    }
    mesh = described_mesh(card, program.devices)
    start = time.process_time()
    try:
        function, arguments = program.make(mesh)
        lowered = function.lower(*arguments)
        try:
            compiled = lowered.compile()
        except jax.errors.JaxRuntimeError as error:
            compiled = lowered.compile(compiler_options=_NO_TRITON)
            row["without_triton"] = _reason(error)
    # Whatever it is: the row is for it, and the other programs are to be compiled too.
    except Exception as error:
        return {**row, "compiles": False, "reason": _reason(error)}
    seconds = time.process_time() - start
    memory = compiled.memory_analysis()
    found = hlo.summarise_program(hlo.read_program(compiled.as_text()), card.rates)
    row |= {
        "compiles": True,
        "compile_cpu_seconds": round(seconds, 1),
        "memory": {
            "arguments": memory.argument_size_in_bytes,
            "results": memory.output_size_in_bytes,
            # Results that lie where arguments were.
            "shared": memory.alias_size_in_bytes,
            "temporary": memory.temp_size_in_bytes,
        },
        **found,
    }
    if program.trains:
        state = arguments[0]
        row["parameters"] = _count(state.params)
        row["statistics"] = _count(state.batch_stats)
        row["unexpected_exchanges"] = unexpected_exchanges(row)
    return row


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:_REASON]


def _count(tree: Any) -> int:
    return sum(x.size for x in jax.tree.leaves(tree))


def unexpected_exchanges(row: Mapping[str, Any]) -> list[str]:
    """Returns what the cards of a training exchange besides what they have to.

    In each step they have to sum gradients, batch statistics (a batch norm has two sums
    in each direction), and a few numbers such as metrics. Any other collective than a
    sum, a sum of more numbers than that, and one in a loop of unknown length is
    unexpected.
    """
    found, left = [], row["steps"] * (row["parameters"] + 4 * row["statistics"])
    for x in row["collectives"]:
        arrays, text = hlo.arrays_of(x["arrays"].replace(" ", "")), x["arrays"]
        size = x["times"] * sum(array.size for array in arrays)
        small = size <= _FEW * x["times"]
        if x["kind"] != "all-reduce":
            found.append(f"{x['kind']} of {text}: {x['source']}")
        elif x["in_loop"]:
            found.append(f"{x['kind']} of {text} in a loop: {x['source']}")
        elif not small and size > left:
            found.append(f"{x['kind']} of {text}, more than gradients: {x['source']}")
        elif not small:
            left -= size
    return found


def compile_programs(
    path: str | os.PathLike,
    configs: Mapping[str, Any],
    *,
    card: str,
    devices: Sequence[int],
    only: Sequence[str] = (),
    force: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Compiles programs for a card and writes the file after each; returns it.

    Rows that the file holds already are kept, unless `force`; what did not compile is
    tried again.

    Args:
        path: JSON file.
        configs: See `gpu_programs.list_programs`.
        card: A name of `cards.CARDS`.
        devices: Numbers of cards.
        only: Patterns of programs; none are all.
        force: Compile anew.
        progress: Shows the bar, and says when to stop.

    Raises:
        ValueError: If a name is unknown, JAX has no CUDA plugin, or the file is of
            another card, other numbers of cards or other versions; before anything is
            compiled.
        StoppedError: If it was told to stop.
    """
    progress, described = progress or Progress(), read_card(card)
    programs = list_programs(configs, devices)
    chosen = choose_programs(programs, only)
    described_mesh(described, max(devices))
    config = {
        "card": card,
        "kind": described.kind,
        "memory_bytes": described.memory_bytes,
        "cache_bytes": described.cache_bytes,
        "devices": list(devices),
        "rates": {
            "products": dict(described.rates.products),
            "operations": described.rates.operations,
            "bytes": described.rates.bytes,
        },
    }
    origin = json.loads(json.dumps(provenance(config, seconds=0.0)))
    origin["versions"][PLUGIN] = importlib.metadata.version(PLUGIN)
    result = base.stored_content(path, "predictions")
    if result is None:
        result = {"schema": results.PREDICTIONS, "rows": {}, **origin}
    differing = [
        f"{part}: {result[part]} there, {origin[part]} now"
        for part in ("config", "versions")
        if result[part] != origin[part]
    ]
    if differing:
        raise ValueError(
            f"{path} was compiled otherwise; choose another --out: "
            + "; ".join(differing)
        )
    rows = result["rows"]
    with progress.bar(len(chosen), f"for {card}", "program") as bar:
        for program in chosen:
            progress.stopping()
            bar.set_postfix_str(program.key)
            if force or not rows.get(program.key, {}).get("compiles"):
                start = time.perf_counter()
                rows[program.key] = compile_row(program, described)
                jax.clear_caches()
                result["seconds"] += round(time.perf_counter() - start, 1)
                result["not_compiled_yet"] = [
                    x.key for x in programs if x.key not in rows
                ]
                result["scaling"] = scaling.scaling_rows(rows)
                write_json(path, result)
            bar.update()
    return result


def summary_lines(result: Mapping[str, Any], only: Sequence[str] = ()) -> list[str]:
    """Returns a line for each row, for people."""
    lines = []
    for key, row in result["rows"].items():
        if only and not any(_fits(key, pattern) for pattern in only):
            continue
        if not row["compiles"]:
            lines.append(f"{key}: does not compile, {row['reason']}")
            continue
        megabytes = row["bytes"] / 1e6
        lines.append(
            f"{key}: compiles; {row['floor_seconds'] * 1e3:.3g} ms at least, "
            f"{megabytes:,.0f} MB moved, {row['products_flop'] / 1e9:,.0f} GFLOP"
        )
    return lines


def parse_devices(texts: Sequence[str]) -> list[int]:
    """Returns numbers of cards, each once, sorted; ValueError if one is none."""
    for text in texts:
        if not re.fullmatch(r"[1-9]\d{0,4}", text):
            raise ValueError(f"--devices must be whole numbers from 1 on: {text!r}")
    return sorted({int(text) for text in texts})
