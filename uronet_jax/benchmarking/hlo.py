"""Reads a compiled program: what its kernels compute, move and exchange.

A program that XLA compiled for a GPU says in its text (`compiled.as_text()`) which
kernels run, on arrays of which shapes. From that alone follow the operations of
convolutions and matrix products, the bytes that each kernel reads and writes, and what
the cards send each other.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

_INSTRUCTION = re.compile(r"\s+(?P<root>ROOT )?%?(?P<name>[\w.\-]+) = ")
_COMPUTATION = re.compile(r"(?P<entry>ENTRY )?%?(?P<name>[\w.\-]+) \(.*\{$")
_ARRAY = re.compile(r"\b([a-z]+\d*[a-z0-9]*)\[([\d,]*)\]")
_CALLED = re.compile(
    r"\b(calls|body|condition|to_apply|true_computation|false_computation)="
    r"%?([\w.\-]+)"
)
_BRANCHES = re.compile(r"\bbranch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_LABELS = re.compile(r"\bdim_labels=(\w+)_(\w+)->(\w+)")
_CONTRACTED = re.compile(r"\blhs_contracting_dims=\{([\d,]*)\}")
_CONTRACTED_JSON = re.compile(r'"lhs_contracting_dimensions":\[([^\]]*)\]')
_EXACT = re.compile(r'operand_precision(=\{|":\[")highest', re.IGNORECASE)
_TARGET = re.compile(r'\bcustom_call_target="([^"]+)"')
_CONVOLUTIONS = re.compile(r"cudnn\$conv(\w+)")

# They start no kernel.
_FREE = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all"),
    *("partition-id", "replica-id", "opt-barrier", "add-dependency", "domain"),
}
COLLECTIVES = (
    *("all-reduce", "all-gather", "reduce-scatter", "collective-permute"),
    *("all-to-all", "collective-broadcast", "ragged-all-to-all"),
)
# In a kernel these compute nothing: they say where a number comes from.
_MOVES = {
    *_FREE,
    *("broadcast", "reshape", "transpose", "slice", "dynamic-slice", "iota", "copy"),
    *("dynamic-update-slice", "concatenate", "pad", "reverse", "gather", "fusion"),
    *("convolution", "dot", "custom-call", "reduce", "reduce-window", "scatter"),
}
# Of a whole array they read a part.
_PARTS = {"slice", "dynamic-slice", "gather"}


class Array(NamedTuple):
    """Type and shape of an array."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> float:
        """What it takes; XLA keeps a truth value in a byte."""
        bits = re.search(r"\d+", self.dtype)
        width = {"pred": 8, "c64": 64, "c128": 128, "token": 0}.get(self.dtype)
        if width is None:
            width = int(bits[0]) if bits else 0
        return self.size * width / 8


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a program."""

    name: str
    opcode: str
    outputs: tuple[Array, ...]
    operands: tuple[str, ...]
    attributes: str
    is_root: bool

    @property
    def bytes(self) -> float:
        """Bytes of its result."""
        return sum(array.bytes for array in self.outputs)

    @property
    def calls(self) -> dict[str, str]:
        """Role -> name of another computation."""
        return dict(_CALLED.findall(self.attributes))

    @property
    def target(self) -> str:
        """Which function of a library a custom call is of."""
        found = _TARGET.search(self.attributes)
        return found[1] if found else ""


class Computation(NamedTuple):
    """A list of instructions, by name, in the order in which they are written."""

    name: str
    instructions: dict[str, Instruction]


class Module(NamedTuple):
    """A whole program."""

    computations: dict[str, Computation]
    entry: str


class Kernel(NamedTuple):
    """A kernel, or a call of a library, that runs `times` times.

    Attributes:
        name: Of its instruction.
        kind: `fusion`, `convolution`, `product`, `copy`, `sort` or another opcode; a
            custom call of no known kind is its target.
        times: How often it runs, a loop of unknown length counted once.
        products: Multiplications and additions of convolutions and matrix products.
        dtype: Of their operands, else empty; `f32-exact` are not computed in TF32.
        operations: Other arithmetic, one for each element of each result.
        bytes: Read and written.
        transposed: Bytes of what it transposes.
        detail: Of a convolution what it computes: `Forward`, `BackwardFilter`, ...
    """

    name: str
    kind: str
    times: int
    products: float
    dtype: str
    operations: float
    bytes: float
    transposed: float
    detail: str = ""


class Exchange(NamedTuple):
    """A collective that runs `times` times.

    `in_loop` says whether it is in a loop of unknown length, counted once.
    """

    kind: str
    arrays: tuple[Array, ...]
    times: int
    in_loop: bool
    source: str

    @property
    def bytes(self) -> float:
        """What one card ends up with."""
        return sum(array.bytes for array in self.arrays)


class Program(NamedTuple):
    """What runs: kernels and exchanges, and loops whose end the host has to look at."""

    kernels: tuple[Kernel, ...]
    exchanges: tuple[Exchange, ...]
    host_loops: int
    branches: int


def parse_module(text: str) -> Module:
    """Parses the text of a compiled program.

    Raises:
        ValueError: If it has no entry computation, or a line that cannot be read.
    """
    computations: dict[str, Computation] = {}
    entry, current = "", None
    for line in text.splitlines():
        if current is None:
            found = _COMPUTATION.match(line)
            if found:
                current = Computation(found["name"], {})
                computations[current.name] = current
                entry = current.name if found["entry"] else entry
        elif line.startswith("}"):
            current = None
        elif line.strip():
            instruction = _parse_instruction(line)
            current.instructions[instruction.name] = instruction
    if not entry:
        raise ValueError("the text is no compiled program: it has no line `ENTRY`")
    return Module(computations, entry)


def _parse_instruction(line: str) -> Instruction:
    begin = _INSTRUCTION.match(line)
    if begin is None:
        raise ValueError(f"a line of the program cannot be read: {line[:200]!r}")
    rest = line[begin.end() :]
    end = _closing(rest, 0) if rest.startswith("(") else rest.index(" ")
    written, rest = rest[:end], rest[end:].lstrip()
    opcode, _, _ = rest.partition("(")
    last = _closing(rest, len(opcode))
    return Instruction(
        begin["name"],
        opcode,
        arrays_of(written),
        tuple(re.findall(r"%([\w.\-]+)", rest[len(opcode) : last])),
        rest[last:],
        bool(begin["root"]),
    )


def _closing(text: str, start: int) -> int:
    """Returns the place behind the parenthesis that closes the one at `start`."""
    depth = 0
    for found in re.compile(r"[()]").finditer(text, start):
        depth += 1 if found[0] == "(" else -1
        if not depth:
            return found.end()
    raise ValueError(f"a parenthesis of the program is not closed: {text[:200]!r}")


def arrays_of(text: str) -> tuple[Array, ...]:
    """Returns the arrays of a written type: one, or those of a tuple."""
    return tuple(
        Array(dtype, tuple(int(n) for n in shape.split(",") if n))
        for dtype, shape in _ARRAY.findall(text)
    )


def read_program(text: str) -> Program:
    """Returns what runs when the program of a text does, loops unrolled by their count.

    Of a conditional the branch that moves most is taken.
    """
    module = parse_module(text)
    kernels, exchanges, counts = [], [], collections.Counter()
    for found in _run(module, module.entry, 1, False, counts):
        (kernels if isinstance(found, Kernel) else exchanges).append(found)
    return Program(
        tuple(kernels), tuple(exchanges), counts["host loops"], counts["branches"]
    )


def _run(
    module: Module, name: str, times: int, in_loop: bool, counts: Any
) -> Iterator[Kernel | Exchange]:
    computation = module.computations[name]
    for step in computation.instructions.values():
        code = step.opcode
        if code in _FREE or code.endswith(("-done", "-update")):
            continue
        base, calls = code.removesuffix("-start"), step.calls
        if code == "while":
            trips = _TRIPS.search(step.attributes)
            if trips is None:
                counts["host loops"] += 1
            inner = times * int(trips[1]) if trips else times
            unknown = in_loop or trips is None
            # A loop of known length is counted by the host, without its condition.
            for part in ("body",) if trips else ("condition", "body"):
                yield from _run(module, calls[part], inner, unknown, counts)
        elif code == "conditional":
            counts["branches"] += 1
            yield from _dearest_branch(module, step, times, in_loop, counts)
        elif base in COLLECTIVES:
            yield Exchange(base, _exchanged_arrays(step), times, in_loop, _source(step))
        elif code in ("call", "async-start"):
            inner = calls.get("to_apply") or calls["calls"]
            yield from _run(module, inner, times, in_loop, counts)
        else:
            yield _kernel(module, computation, step, times)


def _dearest_branch(module, step, times, in_loop, counts):
    listed = _BRANCHES.search(step.attributes)
    names = re.findall(r"%?([\w.\-]+)", listed[1]) if listed else []
    names += [name for role, name in step.calls.items() if role.endswith("computation")]
    branches = []
    for name in names:
        inner: Any = collections.Counter()
        found = list(_run(module, name, times, in_loop, inner))
        moved = sum(x.times * x.bytes for x in found)
        branches.append((moved, len(branches), found, inner))
    _, _, found, inner = max(branches)
    counts.update(inner)
    yield from found


def _exchanged_arrays(step: Instruction) -> tuple[Array, ...]:
    """Returns the results of a collective.

    What starts one has a tuple of operands, results and, for some kinds, a context;
    only the start of a sum has results alone.
    """
    if step.opcode.endswith("-start") and step.opcode != "all-reduce-start":
        count = len(step.operands)
        return step.outputs[count : 2 * count]
    return step.outputs


def _source(step: Instruction) -> str:
    """Returns where in the program a step comes from."""
    found = re.search(r'op_name="([^"]*)"', step.attributes)
    return found[1] if found else ""


def _kernel(module, computation, step, times) -> Kernel:
    def operand(index):
        return computation.instructions[step.operands[index]].outputs[0]

    inner = _fused(module, step)
    parts = inner.instructions.values() if inner else (step,)
    owner = inner or computation
    kind, dtype, products, detail = step.opcode, "", 0.0, ""
    for part in parts:
        found = _products(owner, part)
        if found is not None:
            kind, products = found[0], products + found[1]
            dtype, detail = found[2], found[3]
    if any(part.opcode == "sort" for part in parts):
        kind = "sort"
    if kind == "custom-call":
        kind = step.target or kind
    transposed = sum(x.bytes for x in parts if x.opcode == "transpose")
    operations = sum(_operations(owner, part) for part in parts)
    if inner is not None:
        moved = _bytes_of_fusion(computation, step, inner)
    elif kind in _PARTS:
        moved = 2 * step.bytes
    elif kind == "dynamic-update-slice":
        moved = 2 * operand(1).bytes
    else:
        moved = step.bytes + sum(
            computation.instructions[name].bytes for name in set(step.operands)
        )
    return Kernel(
        *(step.name, kind, times, products, dtype, operations, moved, transposed),
        detail,
    )


def _fused(module: Module, step: Instruction) -> Computation | None:
    name = step.calls.get("calls")
    return module.computations[name] if step.opcode == "fusion" and name else None


def _products(
    computation: Computation, step: Instruction
) -> tuple[str, float, str, str] | None:
    """Returns kind, operations, type and detail of a convolution or product."""

    def arrays(index):
        return computation.instructions[step.operands[index]].outputs[0]

    found = _CONVOLUTIONS.search(step.target)
    if found or step.opcode == "convolution":
        detail = found[1] if found else "Forward"
        labels = _LABELS.search(step.attributes)
        if labels is None:
            raise ValueError(f"a convolution without dim_labels: {step.name}")
        result, one, other = step.outputs[0], arrays(0), arrays(1)
        # (the output of the convolution that this is, or is the gradient of; its
        # kernel)
        roles = {"BackwardInput": (one, other), "BackwardFilter": (other, result)}
        output, kernel = roles.get(detail, (result, other))
        features = kernel.shape[labels[2].index("o")]
        count = 2.0 * output.size * kernel.size / features
        return "convolution", count, _precision(step, one), detail
    if step.opcode == "dot" or "gemm" in step.target or "$lt$matmul" in step.target:
        listed = _CONTRACTED.search(step.attributes)
        listed = listed or _CONTRACTED_JSON.search(step.attributes)
        if listed is None:
            return None
        shape = arrays(0).shape
        contracted = [shape[int(n)] for n in re.findall(r"\d+", listed[1])]
        count = 2.0 * step.outputs[0].size * math.prod(contracted)
        return "product", count, _precision(step, arrays(0)), ""
    return None


def _precision(step: Instruction, operand: Array) -> str:
    exact = operand.dtype == "f32" and _EXACT.search(step.attributes)
    return "f32-exact" if exact else operand.dtype


def _operations(computation: Computation, step: Instruction) -> float:
    if step.opcode in ("reduce", "reduce-window"):
        return float(computation.instructions[step.operands[0]].outputs[0].size)
    if step.opcode in _MOVES or step.opcode in ("while", "conditional", "call"):
        return 0.0
    return float(sum(array.size for array in step.outputs))


def _bytes_of_fusion(
    caller: Computation, step: Instruction, inner: Computation
) -> float:
    """Bytes that a fusion reads and writes.

    Where it looks at a slice of an array, or writes one into it, only that counts, also
    where the array is first given another shape.
    """
    users: dict[str, list[Instruction]] = collections.defaultdict(list)
    for part in inner.instructions.values():
        for name in part.operands:
            users[name].append(part)

    def uses(name: str) -> Iterator[tuple[str, Instruction]]:
        for user in users[name]:
            if user.opcode == "bitcast" and not user.is_root:
                yield from uses(user.name)
            else:
                yield name, user

    def made(part: Instruction) -> Instruction:
        while part.opcode == "bitcast":
            part = inner.instructions[part.operands[0]]
        return part

    moved = 0.0
    for part in inner.instructions.values():
        if part.opcode != "parameter":
            continue
        whole, used = part.bytes, 0.0
        for name, user in uses(part.name):
            if user.opcode in _PARTS and user.operands[0] == name:
                used += user.bytes
            elif _writes_into(user, name):
                continue
            else:
                used += whole
        moved += min(whole, used)
    root = next(x for x in inner.instructions.values() if x.is_root)
    written = [root]
    if root.opcode == "tuple":
        written = [inner.instructions[name] for name in root.operands]
    for part in written:
        source = made(part)
        if source.opcode == "dynamic-update-slice":
            moved += inner.instructions[source.operands[1]].bytes
        else:
            moved += part.bytes
    return moved


def _writes_into(user: Instruction, name: str) -> bool:
    return user.opcode == "dynamic-update-slice" and user.operands[0] == name


@dataclasses.dataclass(frozen=True)
class Rates:
    """What a card can do in a second.

    Attributes:
        products: Type -> operations of convolutions and matrix products.
        operations: Other arithmetic, of 32 bits, a multiplication with an addition
            counted as two.
        bytes: Of its memory.
    """

    products: Mapping[str, float]
    operations: float
    bytes: float

    def seconds(self, kernel: Kernel) -> float:
        """Returns the least time of one run of a kernel.

        Raises:
            ValueError: If it multiplies numbers of a type whose rate is not known.
        """
        products = 0.0
        if kernel.products:
            if kernel.dtype not in self.products:
                raise ValueError(
                    f"{kernel.name} multiplies {kernel.dtype}, whose rate is not "
                    f"known; known are {', '.join(self.products)}: add it to the card"
                )
            products = kernel.products / self.products[kernel.dtype]
        return max(
            products, kernel.operations / self.operations, kernel.bytes / self.bytes
        )


def summarise_program(program: Program, rates: Rates) -> dict[str, Any]:
    """Returns the numbers of a row, JSON; of one card, for one run of the program."""
    kernels = program.kernels

    def total(function, chosen: Sequence[Kernel] = kernels) -> float:
        return float(sum(kernel.times * function(kernel) for kernel in chosen))

    def of_kind(kind: str) -> list[Kernel]:
        return [kernel for kernel in kernels if kernel.kind == kind]

    def counted(chosen: Sequence[Kernel]) -> dict[str, float]:
        count = sum(kernel.times for kernel in chosen)
        return {"count": count, "bytes": total(lambda x: x.bytes, chosen)}

    convolutions: Any = collections.Counter()
    for kernel in of_kind("convolution"):
        convolutions[f"{kernel.detail} {kernel.dtype}"] += kernel.times
    # Calls of libraries that are neither convolutions nor products.
    others = {x.kind: 0 for x in kernels if "$" in x.kind or x.kind.startswith("cu")}
    for kernel in kernels:
        if kernel.kind in others:
            others[kernel.kind] += kernel.times
    transposing = [kernel for kernel in kernels if kernel.transposed]
    return {
        "kernels": sum(kernel.times for kernel in kernels),
        "products_flop": total(lambda x: x.products),
        "other_operations": total(lambda x: x.operations),
        "bytes": total(lambda x: x.bytes),
        "floor_seconds": total(rates.seconds),
        "convolutions": dict(sorted(convolutions.items())),
        "products": sum(kernel.times for kernel in of_kind("product")),
        "transposes": {
            "count": sum(kernel.times for kernel in transposing),
            "bytes": total(lambda x: x.transposed),
        },
        "copies": counted(of_kind("copy")),
        "sorts": sum(k.times for k in kernels if "sort" in k.kind.lower()),
        "library_calls": others,
        "host_loops": program.host_loops,
        "branches": program.branches,
        "collectives": _exchanged(program.exchanges),
    }


def _exchanged(exchanges: Sequence[Exchange]) -> list[dict[str, Any]]:
    """Returns the collectives, equal ones together, the largest first."""
    grouped: Any = collections.Counter()
    for x in exchanges:
        arrays = ", ".join(f"{a.dtype}{list(a.shape)}" for a in x.arrays)
        where = re.sub(r"^jit\(\w+\)/", "", x.source)
        grouped[(x.kind, arrays, x.bytes, x.in_loop, where)] += x.times
    names = ("kind", "arrays", "bytes", "in_loop", "source")
    rows = [dict(zip(names, x, strict=True)) | {"times": n} for x, n in grouped.items()]
    return sorted(rows, key=lambda row: (-row["bytes"], row["source"]))
