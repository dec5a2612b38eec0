"""Works through stages in the order of their worth, in given time.

What is timed comes first and runs alone; trainings follow side by side.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from uronet_jax.benchmarking.accelerator_stages import (
    Stage,
    card_name,
    timed_stages,
    trainings,
)
from uronet_jax.checkpoints import copy_model, read_config
from uronet_jax.records import write_json
from uronet_jax.training.run import finished_steps

# Seconds that a command has to write what it has, before it is killed.
GRACE = 20.0
# Trainings at once: while one compiles another one trains.
AT_ONCE = 3
# Data sets that the trainings take.
DATA_SETS = ("cifar10", "mnist")
# Where configs/reproduce.py expects the classifier on clean images.
CLASSIFIER = Path("runs/models/cifar10_resnet20.npz")


class AcceleratorRun:
    """A run under way: what it started, what came of it, and when it has to end."""

    def __init__(
        self,
        out: str | os.PathLike,
        workdir: str | os.PathLike,
        *,
        seconds: float,
        stop: Callable[[], bool] = lambda: False,
        show: Callable[[str], None] = print,
        grace: float = GRACE,
    ):
        """Makes the folders; `seconds` count from here. `stop` ends it earlier."""
        self.out, self.workdir = Path(out), Path(workdir)
        self.logs = self.workdir / "logs"
        for folder in (self.out, self.logs):
            folder.mkdir(parents=True, exist_ok=True)
        self._record = self.out / "accelerator_run.json"
        # Those of earlier runs stay, unless a stage is begun again.
        stored = json.loads(self._record.read_text()) if self._record.exists() else {}
        self.outcomes: dict[str, dict[str, Any]] = stored
        self._start, self._seconds = time.monotonic(), seconds
        self._stop, self._show, self._grace = stop, show, grace

    def left(self) -> float:
        """Returns the seconds before everything must have been stopped."""
        spent = time.monotonic() - self._start
        return self._seconds - self._grace - spent

    def run_alone(self, stages: Sequence[Stage]) -> None:
        """Runs stages one after the other, each in its own time."""
        for stage in stages:
            self._advance([stage], at_once=1, seconds=stage.seconds)

    def run_together(self, stages: Sequence[Stage], at_once: int = AT_ONCE) -> None:
        """Runs stages side by side, the first of them first, to the end of the time."""
        self._advance(stages, at_once=at_once, seconds=float("inf"))

    def _advance(self, stages, *, at_once: int, seconds: float) -> None:
        waiting = list(stages)
        running: dict[Stage, tuple[subprocess.Popen, float]] = {}
        end = time.monotonic() + min(seconds, self.left())
        shown = time.monotonic()
        while waiting or running:
            if self._stop():
                end = self._seconds = 0.0
            while waiting and len(running) < at_once:
                stage = waiting.pop(0)
                if stage.is_finished():
                    self._show(f"{stage.name}: finished before")
                elif time.monotonic() >= end:
                    self._note(stage, "left out: no time", 0.0)
                else:
                    running[stage] = self._begin(stage), time.monotonic()
            for stage, (process, begun) in [*running.items()]:
                if process.poll() is not None:
                    del running[stage]
                    self._end(stage, process.returncode, time.monotonic() - begun)
            if running and time.monotonic() >= end:
                for process, _ in running.values():
                    process.terminate()
                for stage, (process, begun) in running.items():
                    try:
                        process.wait(self._grace)
                    except subprocess.TimeoutExpired:
                        process.kill()
                        process.wait()
                    self._end(stage, None, time.monotonic() - begun)
                running = {}
            if time.monotonic() - shown > 30 and running:
                shown = time.monotonic()
                for stage in running:
                    self._show(f"  {stage.name}: {self._last_line(stage)}")
            time.sleep(0.05)

    def _begin(self, stage: Stage) -> subprocess.Popen:
        self._show(f"{stage.name}: begins, {self.left():.0f} s left")
        log = self.logs / f"{stage.name}.log"
        return _start(stage.command, log, **stage.environment)

    def _end(self, stage: Stage, status: int | None, seconds: float) -> None:
        if stage.is_finished():
            outcome = "finished"
        elif status:
            outcome = f"failed: {self._last_line(stage)}"
        else:
            outcome = "stopped"
        self._note(stage, outcome, seconds)

    def _note(self, stage: Stage, outcome: str, seconds: float) -> None:
        seconds = round(seconds, 1)
        self.outcomes[stage.name] = {"outcome": outcome, "seconds": seconds}
        self._show(f"{stage.name}: {outcome} ({seconds:.0f} s)")
        write_json(self._record, self.outcomes)

    def _last_line(self, stage: Stage) -> str:
        log = self.logs / f"{stage.name}.log"
        text = log.read_bytes()[-2000:].decode(errors="replace")
        lines = [line.strip() for line in re.split(r"[\r\n]+", text) if line.strip()]
        return lines[-1][:200] if lines else "no output"

    @property
    def failed(self) -> list[str]:
        """Names of the stages that failed."""
        return [k for k, x in self.outcomes.items() if "failed" in str(x["outcome"])]

    def collect(self, stages: Sequence[Stage], part_bytes: int) -> None:
        """Puts results, logs and trained models into `out`, as parts of one archive.

        `cat results.tar.xz.* | tar xJ` unpacks them. Models have no optimizers.
        """
        gathered = self.workdir / "gathered"
        shutil.rmtree(gathered, ignore_errors=True)
        shutil.copytree(self.logs, gathered / "logs")
        for stage in stages:
            folder = stage.result.parent
            for path in folder.glob(f"{stage.result.stem}.*"):
                place = gathered / folder.name
                place.mkdir(exist_ok=True)
                shutil.copy(path, place)
            for checkpoints in folder.glob("models/*/*/*/checkpoints"):
                model = checkpoints.parent
                if stage.keeps_models and _is_trained(model):
                    copy_model(
                        model, gathered / folder.name / model.relative_to(folder)
                    )
        with PartsWriter(self.out / "results.tar.xz", part_bytes) as file:
            with tarfile.open(fileobj=file, mode="w|xz") as archive:
                archive.add(gathered, arcname=".")


def run_on_accelerator(
    out: Path,
    packed: Path,
    workdir: Path,
    *,
    seconds: float,
    names: Sequence[str] = ("all",),
    classifier: Path | None = None,
    rehearsal: bool = False,
    part_bytes: int = 2**31,
    stop: Callable[[], bool] = lambda: False,
) -> list[str]:
    """Works through the stages; see `launch.accelerator_run`.

    Args:
        out: Where results go.
        packed: Folder of the packed data sets.
        workdir: Folder of the trainings.
        seconds: When everything has ended.
        names: Stages, or `all`.
        classifier: A `.npz` file, copied to `CLASSIFIER` if there is none.
        rehearsal: Tiny sizes and generated images.
        part_bytes: Size of the parts of the archive.
        stop: Ends everything when it says so.

    Returns:
        The stages that failed.

    Raises:
        ValueError: If a stage is unknown.
        OSError: If the data cannot be prepared.
    """
    data_dir = workdir / "data"
    trained = trainings(workdir, data_dir, rehearsal=rehearsal)
    known = [x.name for x in (*timed_stages(out, "", rehearsal=rehearsal), *trained)]
    chosen = known if list(names) == ["all"] else names
    if unknown := [name for name in chosen if name not in known]:
        raise ValueError(
            f"unknown stage {', '.join(unknown)}: choose all, or some of "
            f"{','.join(known)}"
        )
    run = AcceleratorRun(out, workdir, seconds=seconds, stop=stop)
    if classifier is not None and not CLASSIFIER.exists():
        CLASSIFIER.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(classifier, CLASSIFIER)
    # For the commands: several share the device, and programs of earlier ones.
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", f"{workdir.absolute()}/compiled")
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    preparing = [] if rehearsal else _prepare(packed, data_dir, run.logs)
    timed = timed_stages(out, card_name(_device_kind()), rehearsal=rehearsal)
    run.run_alone([stage for stage in timed if stage.name in chosen])
    for process in preparing:
        if process.wait():
            raise OSError(f"the data could not be prepared: see {run.logs}")
    trained = [stage for stage in trained if stage.name in chosen]
    run.run_together(trained)
    run.collect(trained, part_bytes)
    return run.failed


def _device_kind() -> str:
    """Returns JAX's name of the device, asked in a process that ends at once."""
    command = [sys.executable, "-c", "import jax; print(jax.devices()[0].device_kind)"]
    asked = subprocess.run(command, capture_output=True, text=True, check=True)
    return asked.stdout.strip()


def _prepare(packed: Path, data_dir: Path, logs: Path) -> list[subprocess.Popen]:
    """Starts to prepare the data sets that are not there."""
    started = []
    for name in DATA_SETS:
        if (data_dir / name).exists():
            continue
        command = ["launch.prepare_data", f"--name={name}", "--from=packed"]
        command += [f"--input={packed}", f"--data_dir={data_dir}"]
        started.append(
            _start(command, logs / f"prepare_{name}.log", JAX_PLATFORMS="cpu")
        )
    return started


def _start(command: Sequence[str], log: Path, **environment: str) -> subprocess.Popen:
    """Starts a module of Python; what it says is appended to a file."""
    with open(log, "ab") as file:
        streams: dict[str, Any] = dict.fromkeys(("stdout", "stderr"), file)
        return subprocess.Popen(
            [sys.executable, "-m", *command],
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            **streams,
        )


def _is_trained(folder: Path) -> bool:
    steps = finished_steps(folder)
    return steps > 0 and steps == read_config(folder, "last")["num_steps"]


class PartsWriter:
    """A file to write that is cut into parts: `NAME.00`, `NAME.01` and so on."""

    def __init__(self, path: str | os.PathLike, part_bytes: int):
        """Removes the parts of an earlier one."""
        self._path, self._part_bytes = Path(path), part_bytes
        for old in self._path.parent.glob(f"{self._path.name}.[0-9][0-9]"):
            old.unlink()
        self._count, self._room = 0, 0
        self._file = None

    def __enter__(self):
        """Returns the file."""
        return self

    def __exit__(self, *_):
        """Closes the last part."""
        if self._file:
            self._file.close()

    def write(self, data: bytes) -> int:
        """Writes bytes, to further parts where one is full."""
        rest = memoryview(data)
        while rest:
            if not self._room:
                if self._file:
                    self._file.close()
                self._file = open(f"{self._path}.{self._count:02d}", "wb")
                self._count, self._room = self._count + 1, self._part_bytes
            taken = rest[: self._room]
            self._file.write(taken)
            self._room -= len(taken)
            rest = rest[len(taken) :]
        return len(data)
