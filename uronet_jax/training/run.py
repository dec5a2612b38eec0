"""Training runs, of one model or of many: initialise or resume, train, save.

A run of one model is split over all devices of its mesh. Many models that differ only
in data and seed (a grid), such as the removers of 18 noises, share one compiled
program; they run one after another, or on several devices side by side, one model per
device and without communication.
"""

import collections
import contextlib
import dataclasses
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax

from uronet_jax import sharding
from uronet_jax.batches import check_whole
from uronet_jax.checkpoints import (
    Checkpoints,
    check_same_shapes,
    find_step,
    locked_workdir,
    read_config,
    state_bytes,
)
from uronet_jax.data import evaluation_batches, make_pipeline
from uronet_jax.data.pipelines import source_bytes
from uronet_jax.progress import progress_bar
from uronet_jax.training import loop
from uronet_jax.training.state import TrainState, compile_initial_state
from uronet_jax.training.task import Task
from uronet_jax.writers import Writer

# Validation images that take more are read anew for every validation.
_MAX_RESIDENT = 2**30


@dataclasses.dataclass(frozen=True)
class Schedule:
    """How long a model trains, and what happens on the way.

    Attributes:
        batch_size: Images of a step, over all devices of the model.
        num_steps: Updates in total.
        eval_batch_size: Images of a step of the validation; 0 is `batch_size`.
        steps_per_dispatch: Updates between two looks at the clock.
        log_every: Interval of the training metrics, in updates.
        eval_every: Interval of the validation, in updates; 0 only at the end.
        checkpoint_every: Interval of the checkpoints; 0 only at the end.
    """

    batch_size: int
    num_steps: int
    eval_batch_size: int = 0
    steps_per_dispatch: int = 10
    log_every: int = 100
    eval_every: int = 0
    checkpoint_every: int = 0

    def check(self) -> None:
        """Raises ValueError, naming the field, unless the numbers make sense."""
        for name in ("num_steps", "steps_per_dispatch", "log_every"):
            check_whole(name, getattr(self, name), 1)
        for name in ("eval_every", "checkpoint_every"):
            check_whole(name, getattr(self, name), 0)


@dataclasses.dataclass(frozen=True)
class FitResult:
    """Where a run stands.

    Attributes:
        state: On the mesh.
        metrics: Latest validation metrics.
        finished: False if the run was stopped before its last step.
    """

    state: TrainState
    metrics: dict[str, float]
    finished: bool


@dataclasses.dataclass(frozen=True)
class GridRow:
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
        sources: Returns training and validation images of its own, all rows of one
            shape; None takes those of the grid.
    """

    name: str
    workdir: Path
    seed: int
    frozen: Callable[[], Any]
    config: dict[str, Any]
    sources: Callable[[], tuple[Any, Any]] | None = None


def fit(
    task: Task,
    train_source: Any,
    validation_source: Any,
    *,
    batch_size: int,
    num_steps: int,
    seed: int = 0,
    mesh: jax.sharding.Mesh | None = None,
    pipeline: str = "auto",
    workdir: str | os.PathLike | None = None,
    config: dict | None = None,
    tensorboard: bool = False,
    stop: Callable[[], bool] = lambda: False,
    progress: bool = True,
    **intervals: int,
) -> FitResult:
    """Trains one model, from the newest checkpoint in `workdir` if there is one.

    Args:
        task: What is trained.
        train_source: Images to learn from.
        validation_source: Images to choose by; never the test split.
        batch_size: Global, over all devices.
        num_steps: Updates in total.
        seed: Of initialisation, order, augmentation and degradations.
        mesh: Where to run; all devices by default.
        pipeline: `auto`, `on_device` or `streamed`.
        workdir: Folder of checkpoints and metrics; None keeps nothing.
        config: JSON that is stored with the checkpoints and must be the same when
            the run is resumed.
        tensorboard: Also write TensorBoard files.
        stop: Asked between dispatches; true saves and returns.
        progress: Whether there is a progress bar.
        **intervals: The other fields of `Schedule`.

    Returns:
        The trained state and its metrics.

    Raises:
        ValueError: If an argument is out of range, `workdir` holds another run, or the
            task's initial weights have other shapes than its module.
        OSError: If `workdir` cannot be used.
        loop.DivergedError: If the loss was not finite.
    """
    schedule = Schedule(batch_size, num_steps, **intervals)
    schedule.check()
    mesh = sharding.data_mesh() if mesh is None else mesh
    folder: Any = workdir  # Unlike that of a row, it may be None.
    row = GridRow("", folder, seed, lambda: task.frozen, config or {})
    initialize = _compile_initial_state(task)
    place = _Place(task, initialize, mesh, schedule, seed, pipeline)
    with contextlib.ExitStack() as stack:
        stack.callback(place.close)

        def bar(done):
            shown = progress and jax.process_index() == 0
            bar = progress_bar(num_steps, done, description=task.name, shown=shown)
            return stack.enter_context(bar)

        sources = (train_source, validation_source)
        begun = _begun(row, place, sources, bar, stop, tensorboard=tensorboard)
        training = stack.enter_context(begun)
        while not training.over:
            training.dispatch()
            training.settle()
    step = int(training.state.step)
    return FitResult(training.state, training.metrics, finished=step == num_steps)


def train_grid(
    task: Task,
    rows: Sequence[GridRow],
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
        validation_source: Images that each model is judged on.
        schedule: Length and intervals; a batch is on one device.
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
    schedule.check()
    if jax.process_count() > 1:
        raise ValueError(
            f"a grid runs in one process, and this is one of {jax.process_count()}: "
            "start it on one machine, whose devices it shares out"
        )
    steps, waiting = [finished_steps(row.workdir) for row in rows], collections.deque()
    for row, done in zip(rows, steps, strict=True):
        if done:
            stored = read_config(row.workdir, "last")
            check_same_config(stored, _stored_config(task, row))
        if done < schedule.num_steps:
            waiting.append(row)
    if not waiting:
        return True
    devices = grid_devices() if devices is None else list(devices)
    total = len(rows) * schedule.num_steps
    bar = progress_bar(total, sum(steps), description=description, shown=progress)
    with contextlib.ExitStack() as stack:
        stack.enter_context(bar)
        initialize = _compile_initial_state(task)
        places = [
            _Place(task, initialize, sharding.data_mesh([x]), schedule, seed, pipeline)
            for x in devices[: len(waiting)]
        ]
        for place in places:
            stack.callback(place.close)
        running: dict[_Place, Iterator[None]] = {}
        # Models under way release their folders, whatever happens to another one.
        stack.callback(lambda: [training.close() for training in running.values()])
        while running or (waiting and not stop()):
            for place in places:
                if place not in running and waiting and not stop():
                    row = waiting.popleft()
                    sources = (train_source, validation_source)
                    begun = _begun(row, place, sources, lambda done: bar, stop)
                    running[place] = _turns(begun)
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
    """Devices with the data and the compiled programs of models that train there."""

    def __init__(self, task, initialize, mesh, schedule, seed, pipeline):
        self.task, self.initialize = task, initialize
        self.mesh, self.schedule = mesh, schedule
        self._seed, self._kind = seed, pipeline
        self._sources = self.advance = self.feed = None
        self._key = sharding.replicate(jax.random.key(seed), mesh)
        self._judge = sharding.compile_replicated(task.evaluation, mesh)

    def close(self):
        if self.feed is not None:
            self.feed.close()

    def load(self, train_source, validation_source):
        """Brings the data, unless they are there."""
        if self._sources == (train_source, validation_source):
            return
        self.close()
        schedule = self.schedule
        self.feed = make_pipeline(
            train_source,
            kind=self._kind,
            batch_size=schedule.batch_size,
            seed=self._seed,
            mesh=self.mesh,
        )
        if self.advance is None:  # Other data of the same shapes need no other one.
            self.advance = sharding.compile_steps(
                self.task.step, self.feed.fetch, self.mesh
            )
        size = schedule.eval_batch_size or schedule.batch_size
        size = min(size, -(-len(validation_source) // self.mesh.size) * self.mesh.size)
        self._read = functools.partial(
            evaluation_batches, validation_source, batch_size=size, mesh=self.mesh
        )
        fits = source_bytes(validation_source) <= _MAX_RESIDENT
        self._batches = list(self._read()) if fits else None
        self._sources = (train_source, validation_source)

    def evaluate(self, state: TrainState, frozen: Any) -> dict[str, float]:
        # All dispatched before the first is fetched.
        sums = [
            self._judge(state.variables, frozen, self._key, batch)
            for batch in self._batches or self._read()
        ]
        return loop.means(jax.device_get(sums))


def _drawing(task: Task) -> Callable[[jax.Array], TrainState]:
    shape = task.input_shape
    return compile_initial_state(task.module, task.optimizer, shape, task.extend)


def _compile_initial_state(task: Task) -> Callable[[jax.Array], TrainState]:
    draw = _drawing(task)
    if task.initial is None:
        return draw

    def begin(key):
        state = draw(key)
        check_same_shapes(task.initial, state.variables)
        return state.replace(**task.initial)

    return begin


def _stored_config(task: Task, row: GridRow) -> dict[str, Any]:
    return {"best_metric": list(task.best_metric), **row.config}


@contextlib.contextmanager
def _begun(
    row: GridRow,
    place: _Place,
    sources: tuple[Any, Any],
    bar: Callable[[int], Any],
    stop: Callable[[], bool],
    *,
    tensorboard: bool = False,
) -> Iterator[loop.Training]:
    """Holds a model's folder while it trains; begins with its newest checkpoint."""
    task, schedule, config = place.task, place.schedule, _stored_config(place.task, row)
    with contextlib.ExitStack() as stack:
        checkpoints, done = None, 0
        if row.workdir is not None:
            checkpoints = stack.enter_context(_checkpoints(row.workdir, task))
            done = checkpoints.latest_step() or 0
        if done:
            check_same_config(checkpoints.config(), config)
        place.load(*(row.sources() if row.sources else sources))
        state = place.initialize(jax.random.key(row.seed))
        first = jax.process_index() == 0
        writer = Writer(row.workdir, tensorboard=tensorboard, active=first, done=done)
        stack.callback(writer.close)
        state, frozen = sharding.replicate((state, row.frozen()), place.mesh)
        metrics, save, feed = {}, None, place.feed
        if done:
            state, position, metrics = checkpoints.restore(state)
            feed.check_state(position)
        if checkpoints is not None:

            def save(step, state, metrics):
                checkpoints.save(step, state, config, feed.state(step), metrics)

        yield loop.Training(
            place.advance,
            state,
            frozen,
            feed,
            num_steps=schedule.num_steps,
            steps_per_dispatch=schedule.steps_per_dispatch,
            log_every=schedule.log_every,
            eval_every=schedule.eval_every,
            checkpoint_every=schedule.checkpoint_every,
            evaluate=place.evaluate,
            writer=writer,
            bar=bar(done),
            stop=stop,
            save=save,
            metrics=metrics,
            row=row.name,
        )
        if checkpoints is not None:
            checkpoints.wait()


def _turns(begun: contextlib.AbstractContextManager[loop.Training]) -> Iterator[None]:
    """Trains a row; while it pauses, rows on other devices get their turn."""
    with begun as training:
        while not training.over:
            training.dispatch()
            yield
            training.settle()


@contextlib.contextmanager
def _checkpoints(workdir: str | os.PathLike, task: Task) -> Iterator[Checkpoints]:
    """Holds the folder (in one process) and opens its checkpoints."""
    state = jax.eval_shape(_drawing(task), jax.random.key(0))
    # Three are kept, and the next one is written before one of them goes.
    with locked_workdir(workdir, needed_bytes=4 * state_bytes(state)):
        name, mode = task.best_metric
        checkpoints = Checkpoints(workdir, best_metric=name, best_mode=mode)
        try:
            yield checkpoints
        finally:
            checkpoints.close()


def check_same_config(stored: dict, config: dict) -> None:
    """Raises ValueError that lists the fields in which two configs differ."""
    stored, config = flatten_config(stored), flatten_config(config)
    differing = [
        f"{name}: {stored.get(name, 'absent')!r} there, "
        f"{config.get(name, 'absent')!r} now"
        for name in sorted(stored | config)
        if stored.get(name, "absent") != config.get(name, "absent")
    ]
    if differing:
        raise ValueError(
            "workdir holds a run with another config; choose another --workdir or "
            "restore these fields: " + "; ".join(differing)
        )


def flatten_config(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Returns a config's fields by their names, joined by dots; tuples as lists."""
    if not isinstance(tree, dict):
        return {prefix: list(tree) if isinstance(tree, tuple) else tree}
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= flatten_config(value, f"{prefix}.{name}" if prefix else name)
    return flat
