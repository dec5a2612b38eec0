"""Checkpoints on disk: the only module that imports Orbax.

A checkpoint holds the training state, the config of the run and the position in the
data. It is written in the background, to a temporary folder that is renamed when it
is complete, so a run that dies while writing leaves the previous one in place.
"""

import contextlib
import errno
import fcntl
import json
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

_FOLDER = "checkpoints"


def _is_key(x: Any) -> bool:
    return jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)


def _to_storable(state: Any) -> Any:
    """Typed keys become their raw data; everything else stays."""
    return jax.tree.map(lambda x: jax.random.key_data(x) if _is_key(x) else x, state)


def _from_storable(stored: Any, like: Any) -> Any:
    def restore(x, like):
        if not _is_key(like):
            return x
        return jax.random.wrap_key_data(x, impl=jax.random.key_impl(like))

    return jax.tree.map(restore, stored, like)


class Checkpoints:
    """The checkpoints of one run: keeps the best and the last two."""

    def __init__(
        self,
        workdir: str | os.PathLike,
        *,
        best_metric: str = "loss",
        best_mode: str = "min",
    ):
        """Opens (and makes) the checkpoint folder of `workdir`.

        `best_metric` of the validation ranks the checkpoints; `best_mode` is `min` or
        `max`, anything else a ValueError. So is a path that `check_path` refuses.
        """
        if best_mode not in ("min", "max"):
            raise ValueError(f"best_mode must be min or max: {best_mode!r}")
        check_path(workdir)
        self.folder = Path(workdir).absolute() / _FOLDER
        sign = 1.0 if best_mode == "max" else -1.0
        best = policies.BestN(
            n=1,
            get_metric_fn=lambda m: sign * m[best_metric],
            keep_checkpoints_without_metrics=False,
        )
        # Two, so that one damaged on disk is not the only one.
        kept = policies.AnyPreservationPolicy([policies.LatestN(2), best])
        options = ocp.CheckpointManagerOptions(
            preservation_policy=kept,
            best_fn=lambda m: m[best_metric],
            best_mode=best_mode,
            cleanup_tmp_directories=True,
        )
        self._manager = ocp.CheckpointManager(self.folder, options=options)

    def latest_step(self) -> int | None:
        """Returns the step of the newest checkpoint, None where there is none."""
        return self._manager.latest_step()

    def best_step(self) -> int | None:
        """Returns the step of the best checkpoint, None where there is none."""
        return self._manager.best_step()

    def save(
        self, step: int, state: Any, config: dict, data: dict, metrics: dict[str, float]
    ) -> None:
        """Writes a checkpoint in the background; a failed earlier write raises here.

        Args:
            step: Updates applied so far.
            state: Pytree of arrays; typed keys are allowed.
            config: What the run was started with, JSON.
            data: Position in the data, JSON.
            metrics: The latest validation metrics.

        Raises:
            OSError: If a checkpoint could not be written.
        """
        if step in self._manager.all_steps():
            return
        parts = ocp.args.Composite(
            state=ocp.args.StandardSave(_to_storable(state)),
            config=ocp.args.JsonSave(config),
            data=ocp.args.JsonSave(data),
        )
        with self._writing():
            self._manager.save(step, args=parts, metrics=metrics or None)

    def restore(self, state: Any) -> tuple[Any, dict, dict[str, float]]:
        """Reads state (placed like `state`), position and metrics of the newest one.

        Raises:
            ValueError: If the files are damaged or hold another structure.
        """
        step = self.latest_step()
        like = jax.tree.map(ocp.utils.to_shape_dtype_struct, _to_storable(state))
        parts = ocp.args.Composite(
            state=ocp.args.StandardRestore(like), data=ocp.args.JsonRestore()
        )
        with _explained(self.folder / str(step)):
            restored = self._manager.restore(step, args=parts)
        metrics = self._manager.metrics(step) or {}
        return _from_storable(restored.state, state), restored.data, metrics

    def config(self) -> dict:
        """Returns the config stored with the newest checkpoint."""
        return _read_config(self.folder / str(self.latest_step()))

    def wait(self) -> None:
        """Blocks until everything is on disk; raises OSError if that failed."""
        with self._writing():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits for the last write and ends the background threads."""
        self._manager.close()

    @contextlib.contextmanager
    def _writing(self):
        try:
            yield
        except Exception as error:  # Orbax and TensorStore raise many kinds.
            raise OSError(
                f"cannot write a checkpoint to {self.folder} "
                f"(...{_first_line(error)[-100:]}): "
                "mend that, and run the same again to go on from the last one"
            ) from error


def check_path(workdir: str | os.PathLike) -> None:
    """Raises ValueError for a work folder with `[` or a backslash in its path.

    Orbax takes the one for a pattern, TensorStore the other for a slash: checkpoints
    would look written and hold no weights.
    """
    path = Path(workdir).absolute()
    for character in "[\\":
        if character in str(path):
            raise ValueError(
                f"checkpoints can be neither written to nor read from {path}: choose a "
                f"folder whose whole path is without {character}"
            )


def _read_config(step_folder: Path) -> dict:
    with _explained(step_folder):
        return json.loads(
            (step_folder / "config" / "metadata").read_text(encoding="utf-8")
        )


@contextlib.contextmanager
def _explained(folder: Path):
    try:
        yield
    except Exception as error:  # Orbax and TensorStore raise many kinds.
        check_path(folder)
        raise ValueError(
            f"checkpoint {folder} cannot be read ({_first_line(error)[:300]}): it is "
            "damaged, or of another architecture or JAX_DEFAULT_PRNG_IMPL; move that "
            "folder away to go on from an older one"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def find_step(workdir: str | os.PathLike, which: str = "best") -> Path:
    """Returns the folder of a run's checkpoint: `best`, `last`, or a step number.

    Raises:
        FileNotFoundError: If there is no such checkpoint, or a file and no folder.
    """
    folder = Path(workdir).absolute() / _FOLDER
    if Path(workdir).is_file():
        raise FileNotFoundError(
            f"{workdir} is a file: expected the folder of a run, or a classifier's "
            "PyTorch weights as .safetensors, .npz, .pt or .pth, such as "
            "numpy.savez(path, **{name: x.cpu().numpy() for name, x in "
            "state_dict.items()}) writes"
        )
    steps = sorted(int(p.name) for p in folder.glob("*") if p.name.isdigit())
    if not steps:
        raise FileNotFoundError(
            f"no checkpoint under {workdir}: train one there with `uronet train "
            f"--config=PHASE:PRESET --workdir={workdir}`, or "
            "name the folder of another run"
        )
    if which == "last":
        return folder / str(steps[-1])
    if which == "best":
        config = _read_config(folder / str(steps[-1]))
        name, mode = config.get("best_metric", ["loss", "min"])
        measured = ((_read_metrics(folder / str(step)), step) for step in steps)
        ranked = [(found[name], step) for found, step in measured if name in found]
        best = (min if mode == "min" else max)(ranked, default=(None, steps[-1]))
        return folder / str(best[1])
    if not which.isdigit() or int(which) not in steps:
        raise FileNotFoundError(
            f"no checkpoint {which!r} under {workdir}: choose best, last or one of "
            f"{steps}"
        )
    return folder / which


def _read_metrics(step_folder: Path) -> dict[str, float]:
    path = step_folder / "metrics" / "metrics"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def read_config(workdir: str | os.PathLike, which: str = "best") -> dict:
    """Returns the config that a run's checkpoint was written with."""
    return _read_config(find_step(workdir, which))


def read_variables(
    workdir: str | os.PathLike, like: Any, which: str = "best"
) -> dict[str, Any]:
    """Reads the model of a checkpoint, without the optimizer, as NumPy arrays.

    Args:
        workdir: Folder of the run.
        like: `{"params", "batch_stats"}` with the expected shapes and types.
        which: See `find_step`.

    Raises:
        FileNotFoundError: If there is no checkpoint.
        ValueError: If it is damaged or of another architecture; names the first
            parameter that differs.
    """
    folder = find_step(workdir, which)
    with _explained(folder):
        reader = ocp.PyTreeCheckpointHandler()
        stored = reader.metadata(folder / "state").tree
    try:
        check_same_shapes(stored, like)
    except ValueError as error:
        raise ValueError(f"{folder} holds another model: {error}") from error
    with _explained(folder):
        wanted = {name: stored[name] for name in ("params", "batch_stats")}
        as_numpy = ocp.RestoreArgs(restore_type=np.ndarray)
        args = ocp.args.PyTreeRestore(
            item=wanted,
            restore_args=jax.tree.map(lambda _: as_numpy, wanted),
            partial_restore=True,
        )
        return reader.restore(folder / "state", args=args)


def copy_model(
    workdir: str | os.PathLike, to: str | os.PathLike, which: str = "last"
) -> None:
    """Copies a checkpoint without the optimizer: a third of its size.

    The copy is loaded like the run itself, but cannot be trained further. Raises what
    `find_step` does, and ValueError if the checkpoint is damaged.
    """
    folder = find_step(workdir, which)
    with _explained(folder):
        stored = ocp.PyTreeCheckpointHandler().metadata(folder / "state").tree
    variables = {name: stored[name] for name in ("params", "batch_stats")}
    variables = read_variables(workdir, variables, folder.name)
    config = _read_config(folder)
    copy = Checkpoints(to)
    copy.save(int(folder.name), variables, config, data={}, metrics={})
    copy.wait()
    copy.close()


def check_same_shapes(stored: Any, like: Any) -> None:
    """Raises ValueError that names the first three weights whose shapes differ."""

    def shapes(tree):
        tree = {name: tree.get(name, {}) for name in ("params", "batch_stats")}
        return {
            jax.tree_util.keystr(path, simple=True, separator="/"): tuple(x.shape)
            for path, x in jax.tree_util.tree_leaves_with_path(tree)
        }

    stored, like = shapes(stored), shapes(like)
    differing = [
        f"{name} has shape {stored.get(name)} in the checkpoint and {like.get(name)} "
        "in the model"
        for name in sorted(stored | like)
        if stored.get(name) != like.get(name)
    ]
    if differing:
        more = f"; and {len(differing) - 3} more" if len(differing) > 3 else ""
        raise ValueError("; ".join(differing[:3]) + more)


@contextlib.contextmanager
def locked_workdir(workdir: str | os.PathLike, *, needed_bytes: int = 0):
    """Makes a run's folder and holds it, so that no second run writes into it.

    Of several processes of one run only the first does so. OSError if the folder cannot
    be written, has fewer than `needed_bytes` left, or another run has it.
    """
    if jax.process_index() != 0:
        yield
        return
    workdir = Path(workdir)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        lock = open(workdir / ".lock", "a+")
    except OSError as error:
        raise OSError(
            f"cannot write to workdir {workdir} ({error.strerror}): "
            "choose a folder that you may write to"
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OSError(
                f"another run is using workdir {workdir}: wait for it, stop it, or "
                "choose another --workdir"
            ) from error
        except OSError as error:  # A file system without locks, as some clusters have.
            if error.errno not in (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK):
                raise
            warnings.warn(
                f"{workdir} cannot be locked ({error.strerror}): see to it that no "
                "second run writes into it",
                stacklevel=3,
            )
        free = shutil.disk_usage(workdir).free
        if free < needed_bytes:
            raise OSError(
                f"workdir {workdir} has {free / 1e6:.0f} MB free and the checkpoints "
                f"need {needed_bytes / 1e6:.0f} MB: free some space or choose another"
            )
        yield  # The lock goes with the file, also when the process is killed.


def state_bytes(state: Any) -> int:
    """Returns how many bytes one checkpoint of `state` takes, uncompressed."""
    return sum(
        x.size * jnp.dtype(x.dtype).itemsize
        for x in jax.tree.leaves(jax.eval_shape(_to_storable, state))
    )
