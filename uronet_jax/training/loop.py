"""The one training loop. It knows steps, data and time, and nothing of losses."""

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


class Training:
    """A model on its way to the last step, one dispatch after another.

    Call `dispatch` and `settle` in turns until it is `over`. Between the two the device
    computes, and the host is free for other models. Logging, evaluation and checkpoints
    happen at multiples of their intervals and at the end, rounded up to the next
    multiple of `steps_per_dispatch`.

    Attributes:
        state: After the latest dispatch.
        metrics: Latest validation metrics.
        over: Whether the last step was taken, or `stop` asked for an end.
    """

    def __init__(
        self,
        advance: Callable[[Any, Any, Any, Any], tuple[Any, Any]],
        state: TrainState,
        frozen: Any,
        pipeline: Any,
        *,
        num_steps: int,
        steps_per_dispatch: int,
        log_every: int,
        checkpoint_every: int,
        evaluate: Callable[[TrainState, Any], dict[str, float]],
        writer: Writer,
        bar: Any,
        stop: Callable[[], bool],
        save: Callable[[int, TrainState, dict[str, float]], None] | None = None,
        eval_every: int = 0,
        metrics: dict[str, float] | None = None,
        row: str = "",
    ):
        """Starts from where `state` is; computes nothing.

        Args:
            advance: The phase's update, from `sharding.compile_steps`.
            state: On the mesh. It is donated: use the attribute afterwards.
            frozen: What the step takes besides state and batch, on the mesh.
            pipeline: A training pipeline of `uronet_jax.data`.
            num_steps: Updates in total, counted from step 0.
            steps_per_dispatch: Updates between two looks at the clock.
            log_every: Interval of the training metrics, in updates.
            checkpoint_every: Interval of `save`; 0 only at the end.
            evaluate: `(state, frozen) -> validation metrics`.
            writer: Where metrics go.
            bar: Progress bar that counts the updates.
            stop: Asked at every dispatch; true saves and ends the training.
            save: `(step, state, metrics)`; the metrics are empty where the state was
                not evaluated.
            eval_every: Interval of `evaluate`; 0 only at the end.
            metrics: Latest validation metrics of a resumed run.
            row: What progress bar and errors call the model, where it is one of many.
        """
        self.state = state
        self.metrics = dict(metrics or {})
        self._advance, self._frozen, self._pipeline = advance, frozen, pipeline
        self._num_steps, self._steps_per_dispatch = num_steps, steps_per_dispatch
        self._writer, self._bar, self._row = writer, bar, row
        self._evaluate, self._save, self._stop = evaluate, save, stop
        self._log_every, self._eval_every = log_every, eval_every
        self._checkpoint_every = checkpoint_every
        self._done = self._previous = int(state.step)
        self._waiting: list[tuple[int, Metrics]] = []  # Dispatched, not yet fetched.
        self._unlogged: list[Metrics] = []
        self.over = self._done >= num_steps

    def dispatch(self) -> None:
        """Starts the next updates, without waiting for them."""
        done = self._previous = self._done
        # On a grid, so that a resumed run makes the same dispatches.
        count = self._steps_per_dispatch - done % self._steps_per_dispatch
        count = min(count, self._num_steps - done)
        inputs = self._pipeline.inputs(done, count)
        self.state, values = self._advance(
            self.state, self._frozen, self._pipeline.resident, inputs
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
        stopping = sharding.any_process(self._stop())
        if self._due(self._log_every) or stopping:
            self._log()
        evaluated = self._due(self._eval_every)
        if evaluated:
            self.metrics = self._evaluate(self.state, self._frozen)
            self._writer.write(done, "validation", self.metrics)
            # A loss says nothing of the update that follows it.
            if not all(map(math.isfinite, self.metrics.values())):
                self._collect(keep=0)  # Where a loss tells, it names the step.
                raise self._diverged(f"validation is not finite at step {done}")
        if self._save is not None and (self._due(self._checkpoint_every) or stopping):
            self._collect(keep=0)  # Nothing is saved after a loss that is no number.
            # Only metrics of this very state may rank it among the checkpoints.
            self._save(done, self.state, self.metrics if evaluated else {})
        self.over = stopping or done == self._num_steps

    def _due(self, interval: int) -> bool:
        if self._done == self._num_steps:
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
            self._bar.update(len(finite))

    def _log(self) -> None:
        self._collect(keep=0)
        logged = means(self._unlogged)
        self._unlogged.clear()
        self._writer.write(self._done, "train", logged)
        shown = {"row": self._row} if self._row else {}
        shown["loss"] = f"{logged['loss']:.4g}"
        self._bar.set_postfix(shown, refresh=False)

    def _diverged(self, what: str) -> DivergedError:
        where = f"{self._row}: " if self._row else ""
        return DivergedError(
            f"{where}{what}: lower the learning rate, or look at the data; the last "
            "good checkpoint is untouched"
        )
