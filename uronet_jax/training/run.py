"""One training run: initialise or resume, train, keep checkpoints."""

import contextlib
import dataclasses
import os
from collections.abc import Callable
from typing import Any

import jax
import optax
from flax import linen as nn

from uronet_jax import sharding
from uronet_jax.checkpoints import Checkpoints, locked_workdir, state_bytes
from uronet_jax.data import evaluation_batches, make_pipeline
from uronet_jax.training import loop
from uronet_jax.training.state import (
    Evaluation,
    Step,
    TrainState,
    create_state,
    initial_state,
)
from uronet_jax.writers import Writer, progress_bar


@dataclasses.dataclass(frozen=True)
class Task:
    """What a phase hands to `fit`: a model, how it learns and how it is judged.

    Attributes:
        name: `remover`, `detector` or `classifier`.
        module: The module that is trained.
        input_shape: `(H, W, C)` of its input.
        optimizer: Its optimizer.
        step: The phase's update.
        evaluation: The phase's validation.
        best_metric: Name of the metric that ranks checkpoints, and `min` or `max`.
        frozen: What step and evaluation take besides state and batch.
    """

    name: str
    module: nn.Module
    input_shape: tuple[int, int, int]
    optimizer: optax.GradientTransformation
    step: Step
    evaluation: Evaluation
    best_metric: tuple[str, str]
    frozen: Any = dataclasses.field(default_factory=dict)


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
    eval_batch_size: int | None = None,
    steps_per_dispatch: int = 10,
    log_every: int = 100,
    eval_every: int = 0,
    checkpoint_every: int = 0,
    workdir: str | os.PathLike | None = None,
    config: dict | None = None,
    tensorboard: bool = False,
    stop: Callable[[], bool] = lambda: False,
    progress: bool = True,
) -> FitResult:
    """Trains a phase, from the newest checkpoint in `workdir` if there is one.

    Args:
        task: What is trained.
        train_source: Images to learn from.
        validation_source: Images to choose by; never the test split.
        batch_size: Global, over all devices.
        num_steps: Updates in total.
        seed: Of initialisation, order, augmentation and degradations.
        mesh: Where to run; all devices by default.
        pipeline: `auto`, `on_device` or `streamed`.
        eval_batch_size: Global; `batch_size` by default.
        steps_per_dispatch: Updates between two looks at the clock.
        log_every: Interval of the training metrics, in updates.
        eval_every: Interval of the validation, in updates; 0 only at the end.
        checkpoint_every: Interval of the checkpoints; 0 only at the end.
        workdir: Folder of checkpoints and metrics; None keeps nothing.
        config: JSON that is stored with the checkpoints and must be the same when
            the run is resumed.
        tensorboard: Also write TensorBoard files.
        stop: Asked between dispatches; true saves and returns.
        progress: Whether there is a progress bar.

    Returns:
        The trained state and its metrics.

    Raises:
        ValueError: If an argument is out of range, or `workdir` holds another run.
        OSError: If `workdir` cannot be used.
        loop.DivergedError: If the loss was not finite.
    """
    loop.validate_schedule(
        num_steps=num_steps,
        steps_per_dispatch=steps_per_dispatch,
        log_every=log_every,
        eval_every=eval_every,
        checkpoint_every=checkpoint_every,
    )
    mesh = sharding.data_mesh() if mesh is None else mesh
    key = jax.random.key(seed)
    config = {"best_metric": list(task.best_metric), **(config or {})}
    with contextlib.ExitStack() as stack:
        checkpoints, resumes = None, False
        if workdir is not None:
            checkpoints = stack.enter_context(_checkpoints(workdir, task, key))
            resumes = checkpoints.latest_step() is not None
            if resumes:
                check_same_config(checkpoints.config(), config)
        feed = make_pipeline(
            train_source, kind=pipeline, batch_size=batch_size, seed=seed, mesh=mesh
        )
        stack.callback(feed.close)
        state = create_state(task.module, task.optimizer, key, task.input_shape)
        state, frozen = sharding.replicate((state, task.frozen), mesh)
        metrics: dict[str, float] = {}
        save = None
        if checkpoints is not None:
            if resumes:
                state, position, metrics = checkpoints.restore(state)
                feed.check_state(position)

            def save(step, state, metrics):
                checkpoints.save(step, state, config, feed.state(step), metrics)

        writer = Writer(
            workdir, tensorboard=tensorboard, active=jax.process_index() == 0
        )
        stack.callback(writer.close)
        batches = evaluation_batches(
            validation_source, batch_size=eval_batch_size or batch_size, mesh=mesh
        )
        evaluate = loop.make_evaluate(
            task.evaluation, list(batches), jax.random.key(seed), mesh
        )
        bar = progress_bar(
            num_steps,
            int(state.step),
            description=task.name,
            shown=progress and jax.process_index() == 0,
        )
        stack.enter_context(bar)
        training = loop.Training(
            sharding.compile_steps(task.step, feed.fetch, mesh),
            state,
            frozen,
            feed,
            num_steps=num_steps,
            steps_per_dispatch=steps_per_dispatch,
            log_every=log_every,
            checkpoint_every=checkpoint_every,
            evaluate=evaluate,
            writer=writer,
            bar=bar,
            stop=stop,
            save=save,
            eval_every=eval_every,
            metrics=metrics,
        )
        while not training.over:
            training.dispatch()
            training.settle()
        if checkpoints is not None:
            checkpoints.wait()
        state = training.state
        finished = int(state.step) == num_steps
        return FitResult(state, training.metrics, finished=finished)


@contextlib.contextmanager
def _checkpoints(workdir: str | os.PathLike, task: Task, key: jax.Array):
    """Holds the folder (in one process) and opens its checkpoints."""
    state = jax.eval_shape(
        lambda: initial_state(task.module, task.optimizer, key, task.input_shape)
    )
    # Three are kept, and the next one is written before one of them goes.
    needed = 4 * state_bytes(state)
    with locked_workdir(workdir, needed_bytes=needed):
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
