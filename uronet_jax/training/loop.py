"""The one training loop. It knows steps, data and time, and nothing of losses."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from uronet_jax import sharding
from uronet_jax.training.state import Metrics, TrainState
from uronet_jax.writers import Writer


class DivergedError(RuntimeError):
    """A loss or a validation was not finite. Earlier checkpoints are untouched."""


def means(sums: list[Metrics]) -> dict[str, float]:
    """Adds up metric sums and divides once by their `count`."""
    total = {k: float(np.sum([np.sum(m[k]) for m in sums])) for k in sums[0]}
    count = total.pop("count")
    return {name: value / count for name, value in total.items()}


@dataclasses.dataclass(eq=False)
class Training:
    """A model on its way to the last step, one dispatch after another.

    Call `dispatch` and `settle` in turns until it is `over`. Between the two the device
    computes, and the host is free for other models. Logging, evaluation and checkpoints
    happen at multiples of their intervals and at the end, rounded up to the next
    multiple of `steps_per_dispatch`.
    """

    # The phase's update, from `sharding.compile_steps`.
    advance: Callable[[Any, Any, Any, Any], tuple[Any, Any]]
    state: (
        TrainState  # After the latest dispatch, on the mesh; what is given is donated.
    )
    frozen: Any  # What the step takes besides state and batch, on the mesh.
    pipeline: Any  # A training pipeline of `uronet_jax.data`.
    _: dataclasses.KW_ONLY
    num_steps: int  # Updates in total, counted from step 0.
    steps_per_dispatch: int  # Updates between two looks at the clock.
    log_every: int  # Interval of the training metrics, in updates.
    checkpoint_every: int  # Interval of `save`; 0 only at the end.
    evaluate: Callable[[TrainState, Any], dict[str, float]]  # Of state and `frozen`.
    writer: Writer
    bar: Any  # Progress bar that counts the updates.
    stop: Callable[[], bool]  # Asked at every dispatch; true saves and ends.
    # Of step, state and metrics; these are empty where the state was not evaluated.
    save: Callable[[int, TrainState, dict[str, float]], None] | None = None
    eval_every: int = 0  # Interval of `evaluate`; 0 only at the end.
    # Latest of the validation, to begin with those of a resumed run.
    metrics: dict[str, float] = dataclasses.field(default_factory=dict)
    row: str = ""  # What bar and errors call the model, where it is one of many.
    over: bool = dataclasses.field(init=False)  # At the last step, or by `stop`.

    def __post_init__(self):
        """Starts from where `state` is; computes nothing."""
        self._done = self._previous = int(self.state.step)
        self._waiting: list[tuple[int, Metrics]] = []  # Dispatched, not yet fetched.
        self._unlogged: list[Metrics] = []
        self.over = self._done >= self.num_steps

    def dispatch(self) -> None:
        """Starts the next updates, without waiting for them."""
        done = self._previous = self._done
        # On a grid, so that a resumed run makes the same dispatches.
        count = self.steps_per_dispatch - done % self.steps_per_dispatch
        count = min(count, self.num_steps - done)
        inputs = self.pipeline.inputs(done, count)
        self.state, values = self.advance(
            self.state, self.frozen, self.pipeline.resident, inputs
        )
        self._waiting.append((done, values))
        self._done += count

    def settle(self) -> None:
        """Fetches what the dispatch before gave; logs, evaluates and saves if due.

        Raises:
            DivergedError: If a loss or a validation was not finite; nothing is saved
                from then on.
        """
        done = self._done
        # The device is busy with this dispatch while the previous is fetched.
        self._collect(keep=1)
        stopping = sharding.any_process(self.stop())
        if self._due(self.log_every) or stopping:
            self._log()
        evaluated = self._due(self.eval_every)
        if evaluated:
            self.metrics = self.evaluate(self.state, self.frozen)
            self.writer.write(done, "validation", self.metrics)
            # A loss says nothing of the update that follows it.
            if not all(map(math.isfinite, self.metrics.values())):
                self._collect(keep=0)  # Where a loss tells, it names the step.
                raise self._diverged(f"validation is not finite at step {done}")
        if self.save is not None and (self._due(self.checkpoint_every) or stopping):
            self._collect(keep=0)  # Nothing is saved after a loss that is no number.
            # Only metrics of this very state may rank it among the checkpoints.
            self.save(done, self.state, self.metrics if evaluated else {})
        self.over = stopping or done == self.num_steps

    def _due(self, interval: int) -> bool:
        if self._done == self.num_steps:
            return True
        return interval > 0 and self._done // interval > self._previous // interval

    def _collect(self, *, keep: int) -> None:
        """Fetches the metrics of all dispatches but the latest `keep`."""
        while len(self._waiting) > keep:
            start, values = self._waiting.pop(0)
            values = jax.device_get(values)
            finite = np.isfinite(values["loss"])
            if not finite.all():
                step = start + int(np.argmin(finite)) + 1
                raise self._diverged(f"loss is not finite at step {step}")
            self._unlogged.append(values)
            self.bar.update(len(finite))

    def _log(self) -> None:
        self._collect(keep=0)
        logged = means(self._unlogged)
        self._unlogged.clear()
        self.writer.write(self._done, "train", logged)
        shown = {"row": self.row} if self.row else {}
        shown["loss"] = f"{logged['loss']:.4g}"
        self.bar.set_postfix(shown, refresh=False)

    def _diverged(self, what: str) -> DivergedError:
        where = f"{self.row}: " if self.row else ""
        return DivergedError(
            f"{where}{what}: lower the learning rate, or look at the data; the last "
            "good checkpoint is untouched"
        )
