"""The one training loop. It knows steps, data and time, and nothing of losses."""

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from uronet_jax import sharding
from uronet_jax.training.state import Evaluation, Metrics, Step, TrainState
from uronet_jax.writers import Writer, progress_bar


class DivergedError(RuntimeError):
    """A loss or a validation was not finite. Earlier checkpoints are untouched."""


def _diverged(what: str) -> DivergedError:
    return DivergedError(
        f"{what}: lower the learning rate, or look at the data; the last good "
        "checkpoint is untouched"
    )


def make_evaluate(
    evaluation: Evaluation,
    frozen: Any,
    batches: list[dict[str, jax.Array]],
    key: jax.Array,
    mesh: jax.sharding.Mesh,
) -> Callable[[TrainState], dict[str, float]]:
    """Turns a phase's evaluation into `evaluate(state) -> means`.

    Args:
        evaluation: `(variables, frozen, key, batch) -> sums` with `count`.
        frozen: What the evaluation takes, on the mesh.
        batches: Padded batches on the mesh, all of one shape.
        key: Fixed, so that every evaluation sees the same degradations.
        mesh: Where to run.

    Returns:
        The function. It compiles once.
    """
    compiled = sharding.compile_replicated(evaluation, mesh)

    def evaluate(state: TrainState) -> dict[str, float]:
        # All dispatched before the first is fetched.
        sums = [compiled(state.variables, frozen, key, batch) for batch in batches]
        return means(jax.device_get(sums))

    return evaluate


def means(sums: list[Metrics]) -> dict[str, float]:
    """Adds up metric sums and divides once by their `count`."""
    total = {k: float(np.sum([np.sum(m[k]) for m in sums])) for k in sums[0]}
    count = total.pop("count")
    return {name: value / count for name, value in total.items()}


def train(
    step: Step,
    state: TrainState,
    frozen: Any,
    pipeline: Any,
    mesh: jax.sharding.Mesh,
    *,
    num_steps: int,
    evaluate: Callable[[TrainState], dict[str, float]] | None = None,
    save: Callable[[int, TrainState, dict[str, float]], None] | None = None,
    metrics: dict[str, float] | None = None,
    writer: Writer | None = None,
    stop: Callable[[], bool] = lambda: False,
    steps_per_dispatch: int = 10,
    log_every: int = 100,
    eval_every: int = 0,
    checkpoint_every: int = 0,
    description: str = "training",
    progress: bool = True,
) -> tuple[TrainState, dict[str, float]]:
    """Runs a phase from where `state` is to `num_steps`.

    Logging, evaluation and checkpoints happen at multiples of their intervals and at
    the end, rounded up to the next multiple of `steps_per_dispatch`.

    Args:
        step: The phase's update, not jitted.
        state: On the mesh. It is donated: use the one that is returned.
        frozen: What the step takes besides state and batch, on the mesh.
        pipeline: A training pipeline of `uronet_jax.data`.
        mesh: Where to run.
        num_steps: Updates in total, counted from step 0.
        evaluate: `state -> validation metrics`.
        save: `(step, state, metrics)`; the metrics are empty where the state was
            not evaluated.
        metrics: Latest validation metrics of a resumed run.
        writer: Where metrics go.
        stop: Asked between dispatches; true saves and returns.
        steps_per_dispatch: Updates between two looks at the clock.
        log_every: Interval of the training metrics, in updates.
        eval_every: Interval of `evaluate`; 0 only at the end.
        checkpoint_every: Interval of `save`; 0 only at the end.
        description: What the progress bar says.
        progress: Whether there is a progress bar.

    Returns:
        The state and the latest validation metrics. `int(state.step) < num_steps`
        if `stop` asked for it.

    Raises:
        DivergedError: If a loss or a validation was not finite; nothing is saved
            from then on.
    """
    advance = sharding.compile_steps(step, pipeline.fetch, mesh)
    writer = writer or Writer()
    metrics = dict(metrics or {})
    done, evaluated = int(state.step), -1
    waiting: list[tuple[int, Metrics]] = []  # Dispatched, not yet fetched.
    unlogged: list[Metrics] = []

    def collect(keep: int) -> None:
        while len(waiting) > keep:
            start, values = waiting.pop(0)
            values = jax.device_get(values)
            finite = np.isfinite(values["loss"])
            if not finite.all():
                step_number = start + int(np.argmin(finite)) + 1
                raise _diverged(f"loss is not finite at step {step_number}")
            unlogged.append(values)
            bar.update(len(finite))

    def due(interval: int) -> bool:
        if done == num_steps:
            return True
        return interval > 0 and done // interval > previous // interval

    with progress_bar(num_steps, done, description=description, shown=progress) as bar:
        while done < num_steps:
            previous = done
            # On a grid, so that a resumed run makes the same dispatches.
            count = steps_per_dispatch - done % steps_per_dispatch
            count = min(count, num_steps - done)
            inputs = pipeline.inputs(done, count)
            state, values = advance(state, frozen, pipeline.resident, inputs)
            waiting.append((done, values))
            done += count
            # The device is busy with this dispatch while the previous is fetched.
            collect(keep=1)
            stopping = sharding.any_process(stop())
            if due(log_every) or stopping:
                collect(keep=0)
                logged = means(unlogged)
                unlogged.clear()
                writer.write(done, "train", logged)
                bar.set_postfix(loss=f"{logged['loss']:.4g}", refresh=False)
            if evaluate is not None and due(eval_every):
                metrics, evaluated = evaluate(state), done
                writer.write(done, "validation", metrics)
                # A loss says nothing of the update that follows it.
                if not all(map(math.isfinite, metrics.values())):
                    collect(keep=0)  # Where a loss tells, it names the step.
                    raise _diverged(f"validation is not finite at step {done}")
            if save is not None and (due(checkpoint_every) or stopping):
                collect(keep=0)
                # Only metrics of this very state may rank it among the checkpoints.
                save(done, state, metrics if evaluated == done else {})
            if stopping:
                break
    return state, metrics


def validate_schedule(
    *, num_steps: int, steps_per_dispatch: int, **intervals: int
) -> None:
    """Raises ValueError, naming the field, unless the numbers of steps make sense."""
    for name, value in {
        "num_steps": num_steps,
        "steps_per_dispatch": steps_per_dispatch,
        "log_every": intervals.pop("log_every", 1),
    }.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1: {value}")
    for name, value in intervals.items():
        if value < 0 or not math.isfinite(value):
            raise ValueError(f"{name} cannot be negative: {value}")
