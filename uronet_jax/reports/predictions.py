"""The page of what programs were compiled to, for a card that was not there."""

import collections
from collections.abc import Mapping, Sequence
from typing import Any

from uronet_jax.reports.tables import markdown_table

# Kind of program, the part of its name before the slash -> heading.
_HEADINGS = {
    "train": "Training steps",
    "run": "Training as it is called",
    "large": "Networks on images of 224x224",
    "defence": "The defence, and its evaluation",
    "attack": "Attacks: one pass of the loop, and what is around it",
    "autoattack": "Parts of AutoAttack: one pass of the loop, and what is around it",
    "corruption_32": "Corruptions, 32x32",
    "corruption_64": "Corruptions, 64x64",
    "corruption_224": "Corruptions, 224x224",
    "transformation": "Input transformations",
}
_COLUMNS = {
    "program": "program",
    "batch": "batch",
    "devices": "cards",
    "compile": "compile, s",
    "memory": "memory, GB",
    "flop": "GFLOP",
    "bytes": "moved, GB",
    "floor": "floor, ms",
    "rate": "images/s at most",
    "kernels": "kernels",
    "convolutions": "convolutions",
    "float32": "float32 by mistake",
    "transposes": "transposes (MB)",
    "copies": "copies (MB)",
    "sorts": "sorts",
    "host_loops": "host loops",
    "branches": "branches",
}
_FORMATS = {"memory": ".2f", "bytes": ".2f", "floor": ".3f", "rate": ",.0f"}
_FORMATS |= {"flop": ",.1f", "compile": ".1f"}
# Of the card's memory that is taken for a batch; the rest is for the runtime.
_USABLE = 0.9

_LEGEND = (
    "**Predictions: nothing on this page was measured.** XLA compiled each program "
    "for the card from a description of it, on a machine without one, and the numbers "
    "are read from the compiled program. Batch, memory and all else are of one card. "
    "*Compile* is CPU time of JAX and XLA, without NVIDIA's assembler. *Memory* is "
    "the peak: arguments, results and temporary arrays, without the workspace of "
    "convolutions. *GFLOP* are those of "
    "convolutions and matrix products. *Moved* is what the kernels read and write, "
    "each once. *Floor* is the sum over the kernels of the longest of three times: "
    "FLOP, other arithmetic and bytes, each at the rate of the card. A program takes "
    "longer, for kernels reach no such rates and have to be started; only what stays "
    "in the second-level cache between two kernels can be faster. A loop whose length "
    "depends on the data is counted as one pass; the host looks after each pass of it "
    "whether it goes on (*host loops*; those with a known number of passes are "
    "counted in full and need no look). Where data choose one of several *branches* "
    "the one that moves most is counted. There is no rate where there are such loops "
    "or branches, or where all memory fits the second-level cache: there the floor is "
    "no bound. *Float32 by mistake* are convolutions in "
    "float32 where bfloat16 was meant. XLA has not tuned its kernels, which needs the "
    "card.\n"
)


def render_predictions(content: Mapping[str, Any]) -> str:
    """Returns the page of a file of `launch.compile_gpu`, without its title."""
    rows, config = content["rows"], content["config"]
    rates = config["rates"]
    bfloat16, tf32, exact = (
        f"{rates['products'][name] / 1e12:.0f}" for name in ("bf16", "f32", "f32-exact")
    )
    parts = [
        _LEGEND,
        f"Rates of the {config['kind']}: {bfloat16} TFLOP/s in bfloat16, {tf32} in "
        f"float32 (TF32), {exact} where it has to be exact, "
        f"{rates['operations'] / 1e12:.1f} T other operations/s, "
        f"{rates['bytes'] / 1e12:.2f} TB/s.\n",
        _state(content),
    ]
    kinds: dict[str, list] = collections.defaultdict(list)
    for key, row in rows.items():
        if row["compiles"]:
            kind, _, name = key.rsplit("/", 2)[0].partition("/")
            kinds[kind].append(_line(name, row, config["cache_bytes"]))
    for kind, heading in _HEADINGS.items():
        lines = sorted(kinds[kind], key=lambda x: (x["devices"], x["batch"]))
        if not lines:
            continue
        shown = {
            column: title
            for column, title in _COLUMNS.items()
            if any(line[column] for line in lines)
        }
        formats = {k: v for k, v in _FORMATS.items() if k in shown}
        parts.append(f"## {heading}\n\n{_described(rows, kind)}\n")
        parts.append(markdown_table(lines, shown, formats=formats))
        if kind == "train":
            parts += _fitting(content) + _exchanges(rows) + _scaling(content)
    return "\n".join(parts)


def _described(rows: Mapping[str, Any], kind: str) -> str:
    """Returns what programs do: a sentence for all, or a list of names and texts."""
    texts = {}
    for key, row in rows.items():
        if _is(key, kind):
            texts[key.rsplit("/", 2)[0].partition("/")[2]] = row["text"]
    if len(set(texts.values())) == 1:
        (text,) = set(texts.values())
        return f"{text[:1].upper()}{text[1:]}."
    return "\n".join(f"- {name}: {text}" for name, text in texts.items())


def _is(key: str, kind: str) -> bool:
    return key.startswith(f"{kind}/")


def _state(content: Mapping[str, Any]) -> str:
    rows = content["rows"]
    failed = {key: row for key, row in rows.items() if not row["compiles"]}
    text = f"{len(rows) - len(failed)} of {len(rows)} programs compile"
    if not failed:
        text += ", all that were tried"
    lines = [f"{text}.\n"]
    lines += [f"- `{key}` does not: {row['reason']}" for key, row in failed.items()]
    lines += [""] if failed else []
    other = [key for key, row in rows.items() if row.get("without_triton")]
    if other:
        names = ", ".join(f"`{key}`" for key in other)
        lines.append(
            "With matrix products of cuBLAS, as XLA's own would be tuned on the card "
            f"and do not compile untuned: {names}.\n"
        )
    if content["not_compiled_yet"]:
        lines += [_left(content), ""]
    return "\n".join(lines)


def _left(content: Mapping[str, Any]) -> str:
    """What was not tried yet, kinds of which nothing was tried as one."""
    left: dict[tuple[str, str], list[str]] = collections.defaultdict(list)
    for key in content["not_compiled_yet"]:
        name, _, cards = key.rsplit("/", 2)
        left[(name.partition("/")[0], cards)].append(key)
    texts = []
    for (kind, cards), keys in left.items():
        whole = not any(
            _is(key, kind) and key.endswith(f"/{cards}") for key in content["rows"]
        )
        named = f"all {len(keys)} of `{kind}/*/{cards}`"
        texts.append(named if whole else ", ".join(f"`{key}`" for key in keys))
    count = len(content["not_compiled_yet"])
    return f"Not tried yet ({count}): {'; '.join(texts)}."


def peak_bytes(row: Mapping[str, Any]) -> int:
    """Returns the memory that a row's program takes: what is there at once."""
    memory = row["memory"]
    arrays = memory["arguments"] + memory["results"] - memory["shared"]
    return arrays + memory["temporary"]


def float32_convolutions(row: Mapping[str, Any]) -> int:
    """Returns how many convolutions are in float32 where bfloat16 was meant."""
    if row["dtype"] != "bfloat16":
        return 0
    return sum(n for name, n in row["convolutions"].items() if " f32" in name)


def _line(name: str, row: Mapping[str, Any], cache_bytes: int) -> dict[str, Any]:
    found = row["convolutions"]
    count: Any = collections.Counter()
    for kind, number in found.items():
        detail, dtype = kind.split(" ")
        count[f"{_SHORT.get(detail, 'forward')} {dtype}"] += number
    names = ", ".join(f"{number} {kind}" for kind, number in count.items())

    images = row["batch"] * row["steps"]
    cached = peak_bytes(row) <= cache_bytes
    bound = not (row["host_loops"] or row["branches"] or cached)

    def counted(field):
        number, size = row[field]["count"], row[field]["bytes"]
        return f"{number} ({size / 1e6:,.0f})" if number else ""

    return {
        "program": name,
        "batch": row["batch"],
        "devices": row["devices"],
        "compile": row["compile_cpu_seconds"],
        "memory": peak_bytes(row) / 1e9,
        "flop": row["products_flop"] / 1e9,
        "bytes": row["bytes"] / 1e9,
        "floor": row["floor_seconds"] * 1e3,
        "rate": images / row["floor_seconds"] if bound else None,
        "kernels": row["kernels"],
        "convolutions": names,
        "float32": float32_convolutions(row),
        "transposes": counted("transposes"),
        "copies": counted("copies"),
        "sorts": row["sorts"],
        "host_loops": row["host_loops"],
        "branches": row["branches"],
    }


# Whose gradient a convolution computes.
_SHORT = {"BackwardInput": "by input", "BackwardFilter": "by kernel"}


def _fitting(content: Mapping[str, Any]) -> list[str]:
    """How many images fit, from the memory of two batches."""
    found: dict[str, dict[int, int]] = collections.defaultdict(dict)
    for key, row in content["rows"].items():
        if _is(key, "train") and row["compiles"] and row["devices"] == 1:
            name = key.rsplit("/", 2)[0].removeprefix("train/")
            found[name][row["batch"]] = peak_bytes(row)
    lines = []
    for name, sizes in found.items():
        if len(sizes) < 2:
            continue
        small, large = min(sizes), max(sizes)
        each = (sizes[large] - sizes[small]) / (large - small)
        left = _USABLE * content["config"]["memory_bytes"] - sizes[small]
        lines.append(
            {
                "program": name,
                "each": each / 1e6,
                "fixed": (sizes[small] - small * each) / 1e9,
                "fits": int(small + left / each),
            }
        )
    if not lines:
        return []
    columns = {"program": "step", "each": "MB an image", "fixed": "GB besides"}
    columns["fits"] = "largest batch"
    return [
        f"What fits in {_USABLE:.0%} of the card's memory, by the line through the two "
        "batches above; an upper bound, for the workspace of convolutions is not in "
        "it:\n",
        markdown_table(lines, columns, formats={"each": ".3f", "fits": ",d"}),
    ]


def _exchanges(rows: Mapping[str, Any]) -> list[str]:
    lines, unexpected = [], []
    for key, row in rows.items():
        if not row["compiles"] or row["devices"] == 1 or not row["collectives"]:
            continue
        others = [f"{x['kind']} of {x['arrays']}" for x in row["collectives"]]
        found = row.get("unexpected_exchanges", list(dict.fromkeys(others)))
        name = key.rsplit("/", 2)[0]
        kinds: Any = collections.Counter()
        for x in row["collectives"]:
            kinds[x["kind"]] += x["times"]
        size = sum(x["times"] * x["bytes"] for x in row["collectives"])
        lines.append(
            {
                "program": name,
                "batch": row["batch"],
                "cards": row["devices"],
                "collectives": ", ".join(f"{n} {kind}" for kind, n in kinds.items()),
                "bytes": size / 1e6,
                "parameters": row.get("parameters"),
                "unexpected": len(found),
            }
        )
        unexpected += [f"- {name}: {text}" for text in found]
    if not lines:
        return []
    columns = {"program": "program", "batch": "batch", "cards": "cards"}
    columns |= {
        "collectives": "collectives",
        "bytes": "MB a call",
        "parameters": "parameters",
    }
    columns["unexpected"] = "unexpected"
    formats = {"bytes": ".3f", "parameters": ",d"}
    parts = [
        "What several cards exchange; programs that are not here exchange nothing. "
        "Expected are, in training, sums of gradients, of batch statistics and of a "
        "few numbers; anything else is named below.\n",
        markdown_table(lines, columns, formats=formats),
    ]
    if unexpected:
        parts.append("\n".join([*dict.fromkeys(unexpected), ""]))
    return parts


def _scaling(content: Mapping[str, Any]) -> list[str]:
    lines: Sequence[Mapping[str, Any]] = content["scaling"]
    if not lines:
        return []
    counts = sorted(lines[0]["seconds"], key=int)
    shown, formats = [], {"floor": ".3f", "megabytes": ".2f"}
    columns = {"program": "step", "batch": "images a card", "floor": "floor, ms"}
    columns |= {"megabytes": "MB", "collectives": "sums"}
    for n in counts:
        columns |= {f"ms{n}": f"sums, ms, {n} cards", f"share{n}": f"efficiency, {n}"}
        formats |= {f"ms{n}": ".3f", f"share{n}": ".0%"}
    for line in lines:
        shown.append(
            {
                "program": line["program"],
                "batch": line["batch"],
                "floor": line["floor_seconds"] * 1e3,
                "megabytes": line["bytes"] / 1e6,
                "collectives": line["collectives"],
                **{f"ms{n}": line["seconds"][n] * 1e3 for n in counts},
                **{f"share{n}": line["efficiency"][n] for n in counts},
            }
        )
    return [
        "Scaling, predicted, with the same number of images on each card. Assumed: "
        "machines of 8 cards; a ring over NVLink, 450 GB/s of a card in each direction "
        "and 10 microseconds a collective; between machines a ring of each card's "
        "eighth over 50 GB/s (400 Gbit/s a card), and 20 microseconds for each level "
        "of a tree; nothing hidden behind the computation, which takes its floor and "
        "no longer. Where a sum is in a loop of unknown length, which is counted as "
        "one pass, there is no efficiency.\n",
        markdown_table(shown, columns, formats=formats),
    ]
