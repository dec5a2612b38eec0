"""A row of a benchmark: what was done, and how it compares; JSON."""

import dataclasses
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from uronet_jax.batches import check_whole
from uronet_jax.benchmarking import timing
from uronet_jax.models import compute_dtype, make_classifier
from uronet_jax.reports import results

# `work` (what was done), `comparisons`, `values`, `limits` that this package sets
# itself, `seconds` and `notes`.
BenchmarkRow = dict[str, Any]

OURS = "uronet_jax"


@dataclasses.dataclass(frozen=True)
class BenchmarkSizes:
    """Sizes of the benchmark; they are stored with its rows."""

    batch_size: int = 128  # Of the detector: half as many pairs.
    dtype: str = "float32"  # Or `bfloat16`.
    repeats: int = 5
    steps_per_sample: int = 1  # Training steps that are timed as one.
    # Height and width equal, multiples of `2 ** len(widths)`.
    image_shape: tuple[int, int, int] = (32, 32, 3)
    widths: tuple[int, ...] = (64, 128, 256)  # Of the remover.
    classifier: str = "resnet20"
    detector: str = "wrn10_2"
    train_images: int = 50_000
    eval_images: int = 256
    linen_repeats: int = 2  # Rounds of the naive linen remover; 0 leaves it out.
    memory_steps: int = 3

    def __post_init__(self):
        """Raises ValueError if a number is out of range or a name unknown."""
        for name in ("batch_size", "repeats", "steps_per_sample", "eval_images"):
            check_whole(name, getattr(self, name), 1)
        if self.batch_size % 2 or self.batch_size > self.train_images:
            raise ValueError(
                f"batch_size must be even and at most {self.train_images}, the size "
                f"of the generated training set: {self.batch_size}"
            )
        for name in (self.classifier, self.detector):
            make_classifier(name, 2, dtype=compute_dtype(self.dtype))


class BenchmarkRun(NamedTuple):
    """What every function of a row is called with."""

    sizes: BenchmarkSizes
    peer: Any = None  # A `steps.TrainingPeer`.
    tiny: bool = False  # Whether the work is that of a test.


def new_row(
    work: str,
    seconds: Mapping[str, Sequence[float]] | None = None,
    comparisons: Iterable[dict[str, Any]] = (),
    *,
    values: Mapping[str, float] | None = None,
    at_most: Mapping[str, float] | None = None,
    notes: Sequence[str] = (),
) -> BenchmarkRow:
    """Returns a row of times, `comparison`s, and values with limits for some."""
    values = dict(values or {})
    return {
        "work": work,
        "comparisons": list(comparisons),
        "values": values,
        "limits": {k: limit(values[k], most) for k, most in (at_most or {}).items()},
        "seconds": timing.summarise(seconds or {}),
        "notes": list(notes),
    }


def comparison(
    seconds: Mapping[str, Sequence[float]],
    subject: str,
    peer: str,
    at_most: float | None = None,
    /,
    **fields: Any,
) -> dict[str, Any]:
    """Returns `timing.time_ratio` with its limit, if there is one, and other fields."""
    ratio = timing.time_ratio(seconds, subject, peer) | fields
    return ratio if at_most is None else ratio | limit(ratio["ratio"], at_most)


def limit(value: float, at_most: float) -> dict[str, Any]:
    """Returns what this package asks of a value, and whether it is met."""
    return {"at_most": at_most, "met": value <= at_most}


def installed(makers: Mapping[str, Callable[[], Any]]) -> tuple[dict, list[str]]:
    """Makes the peers whose packages are there, and a note on each that is absent."""
    peers, notes = {}, []
    for name, make in makers.items():
        try:
            peers[name] = make()
        except ImportError as error:
            notes.append(
                f"{name} is absent ({error}): pip install uronet_jax[benchmark]"
            )
    return peers, notes


def on_gpu() -> bool:
    """Returns whether JAX runs on a GPU; absolute times are stated of GPUs only."""
    return jax.devices()[0].platform == "gpu"


def stored_content(path: str | os.PathLike, kind: str) -> dict[str, Any] | None:
    """Returns what a file of results of that kind holds, None if there is none."""
    if not os.path.exists(path):
        return None
    stored = results.load_result(path)
    if stored.kind != kind:
        raise ValueError(f"{path} holds another result: choose another --out")
    return stored.content
