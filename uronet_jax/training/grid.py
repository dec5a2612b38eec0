"""Many models that differ only in data and seed, trained by one compiled program.

The rows of a grid, such as the removers of 18 noises, share module, optimizer and step;
what tells them apart is an argument of the step. They run one after another, or on
several devices side by side, one model per device and without communication.
"""

import collections
import contextlib
import dataclasses
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax

from uronet_jax import sharding
from uronet_jax.checkpoints import (
    Checkpoints,
    find_step,
    locked_workdir,
    read_config,
    state_bytes,
)
from uronet_jax.data import evaluation_batches, make_pipeline
from uronet_jax.training import loop
from uronet_jax.training.run import Task, check_same_config
from uronet_jax.training.state import TrainState, initial_state
from uronet_jax.writers import Writer, progress_bar


@dataclasses.dataclass(frozen=True)
class Row:
    """One model of a grid.

    Attributes:
        name: What the progress bar calls it.
        workdir: Folder of its checkpoints and metrics.
        seed: Of initialisation, augmentation and degradations.
        frozen: Returns what the step takes besides state and batch. Called when it is
            the row's turn, so it may read what was trained shortly before. All rows
            must return the same structure, shapes and types.
        config: JSON that is stored with the checkpoints and must be the same when
            the row is resumed.
    """

    name: str
    workdir: Path
    seed: int
    frozen: Callable[[], Any]
    config: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Schedule:
    """How long every row of a grid trains, and what happens on the way.

    Attributes:
        batch_size: Images of a step, all on one device.
        num_steps: Updates in total.
        eval_batch_size: Images of a step of the validation.
        steps_per_dispatch: Updates between two looks at the clock.
        log_every: Interval of the training metrics, in updates.
        checkpoint_every: Interval of the checkpoints; 0 only at the end.
    """

    batch_size: int
    num_steps: int
    eval_batch_size: int
    steps_per_dispatch: int = 10
    log_every: int = 100
    checkpoint_every: int = 0


def row_seed(seed: int, *names: str) -> int:
    """Returns the seed of one row: the same for the same names, another for others."""
    return zlib.crc32("/".join([str(seed), *names]).encode()) % 2**31


def train_grid(
    task: Task,
    rows: Sequence[Row],
    train_source: Any,
    validation_source: Any,
    schedule: Schedule,
    *,
    seed: int = 0,
    devices: Sequence[jax.Device] | None = None,
    pipeline: str = "auto",
    stop: Callable[[], bool] = lambda: False,
    description: str = "grid",
    progress: bool = True,
) -> bool:
    """Trains the rows that are not finished, each from its newest checkpoint.

    Step, validation and initialisation compile once per device, however many rows
    there are. A finished row is validated and on disk before the next one starts
    there. The order of the examples is the same in all rows.

    Args:
        task: What all rows share; its `frozen` is not used.
        rows: One per model, in order.
        train_source: Images to learn from.
        validation_source: Images that each model is judged on at its end.
        schedule: Length and intervals.
        seed: Of the order of the examples and of the validation.
        devices: Where to run; by default all accelerators of this process, or one CPU.
        pipeline: `auto`, `on_device` or `streamed`.
        stop: Asked between dispatches; true saves all models under way and returns.
        description: What the progress bar is called.
        progress: Whether there is a progress bar.

    Returns:
        Whether all rows are finished.

    Raises:
        ValueError: If an argument is out of range, or a folder holds another run.
            Nothing was computed then.
        OSError: If a folder cannot be used.
        loop.DivergedError: If a loss was not finite; names the row.
    """
    loop.validate_schedule(
        num_steps=schedule.num_steps,
        steps_per_dispatch=schedule.steps_per_dispatch,
        log_every=schedule.log_every,
        checkpoint_every=schedule.checkpoint_every,
    )
    if jax.process_count() > 1:
        raise ValueError(
            f"a grid runs in one process, and this is one of {jax.process_count()}: "
            "start it on one machine, whose devices it shares out"
        )
    steps = [finished_steps(row.workdir) for row in rows]
    for row, done in zip(rows, steps, strict=True):
        if done:
            check_same_config(
                read_config(row.workdir, "last"), _stored_config(task, row)
            )
    waiting = collections.deque(
        row for row, done in zip(rows, steps, strict=True) if done < schedule.num_steps
    )
    if not waiting:
        return True
    devices = grid_devices() if devices is None else list(devices)
    bar = progress_bar(
        len(rows) * schedule.num_steps,
        sum(steps),
        description=description,
        shown=progress,
    )
    with contextlib.ExitStack() as stack:
        stack.enter_context(bar)
        initialize = _compile_initial_state(task)
        places = []
        for device in devices[: len(waiting)]:
            place = _Place(
                task, device, train_source, validation_source, schedule, seed, pipeline
            )
            stack.callback(place.feed.close)
            places.append(place)
        running: dict[_Place, Iterator[None]] = {}
        # Models under way release their folders, whatever happens to another one.
        stack.callback(lambda: [training.close() for training in running.values()])
        while running or (waiting and not stop()):
            for place in places:
                if place not in running and waiting and not stop():
                    row = waiting.popleft()
                    state = initialize(jax.random.key(row.seed))
                    running[place] = _train_row(task, row, place, state, stop, bar)
                if place in running and next(running[place], "end") == "end":
                    del running[place]
    return all(finished_steps(row.workdir) == schedule.num_steps for row in rows)


def grid_devices() -> list[jax.Device]:
    """Returns the devices that a grid is shared out over.

    Those of a CPU share its cores, so there one of them does all.
    """
    devices = jax.local_devices()
    return devices[:1] if devices[0].platform == "cpu" else devices


def finished_steps(workdir: str | os.PathLike) -> int:
    """Returns the step of the newest checkpoint in a folder, 0 where there is none."""
    try:
        return int(find_step(workdir, "last").name)
    except FileNotFoundError:
        return 0


class _Place:
    """A device with the data and the compiled programs that its rows share."""

    def __init__(
        self, task, device, train_source, validation_source, schedule, seed, pipeline
    ):
        self.schedule = schedule
        self.mesh = sharding.data_mesh([device])
        self.feed = make_pipeline(
            train_source,
            kind=pipeline,
            batch_size=schedule.batch_size,
            seed=seed,
            mesh=self.mesh,
        )
        self.advance = sharding.compile_steps(task.step, self.feed.fetch, self.mesh)
        batches = evaluation_batches(
            validation_source,
            batch_size=min(schedule.eval_batch_size, len(validation_source)),
            mesh=self.mesh,
        )
        key = sharding.replicate(jax.random.key(seed), self.mesh)
        self.evaluate = loop.make_evaluate(
            task.evaluation, list(batches), key, self.mesh
        )


def _compile_initial_state(task: Task) -> Callable[[jax.Array], TrainState]:
    return jax.jit(
        lambda key: initial_state(task.module, task.optimizer, key, task.input_shape),
        # It runs once a row: optimising it would take three times as long to compile.
        compiler_options={"xla_backend_optimization_level": 0},
    )


def _stored_config(task: Task, row: Row) -> dict[str, Any]:
    return {"best_metric": list(task.best_metric), **row.config}


def _train_row(
    task: Task,
    row: Row,
    place: _Place,
    state: TrainState,
    stop: Callable[[], bool],
    bar: Any,
) -> Iterator[None]:
    """Trains a row; pauses whenever the device has something to do.

    While it pauses, rows on other devices get their turn.
    """
    schedule, feed = place.schedule, place.feed
    config = _stored_config(task, row)
    name, mode = task.best_metric
    with contextlib.ExitStack() as stack:
        # Three checkpoints are kept, and the next is written before one of them goes.
        stack.enter_context(
            locked_workdir(row.workdir, needed_bytes=4 * state_bytes(state))
        )
        checkpoints = Checkpoints(row.workdir, best_metric=name, best_mode=mode)
        stack.callback(checkpoints.close)
        state, frozen = sharding.replicate((state, row.frozen()), place.mesh)
        if checkpoints.latest_step() is not None:
            state, position, _ = checkpoints.restore(state)
            feed.check_state(position)
        writer = Writer(row.workdir)
        stack.callback(writer.close)

        def save(step, state, metrics):
            checkpoints.save(step, state, config, feed.state(step), metrics)

        training = loop.Training(
            place.advance,
            state,
            frozen,
            feed,
            num_steps=schedule.num_steps,
            steps_per_dispatch=schedule.steps_per_dispatch,
            log_every=schedule.log_every,
            checkpoint_every=schedule.checkpoint_every,
            evaluate=place.evaluate,
            writer=writer,
            bar=bar,
            stop=stop,
            save=save,
            row=row.name,
        )
        while not training.over:
            training.dispatch()
            yield
            training.settle()
        checkpoints.wait()
