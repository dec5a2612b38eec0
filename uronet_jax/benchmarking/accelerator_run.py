"""Works through stages in the order of their worth, in given time.

What is timed comes first and runs alone; trainings follow side by side.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from uronet_jax.benchmarking.accelerator_stages import (
    DATA_SETS,
    Stage,
    card_name,
    preparations,
    timed_stages,
    trainings,
)
from uronet_jax.benchmarking.bundle import packed_files
from uronet_jax.checkpoints import copy_model, read_config
from uronet_jax.records import write_json
from uronet_jax.training.run import finished_steps
from uronet_jax.writers import PartsWriter

# Seconds that commands have to write what they have before they are killed, and that
# the archive takes.
GRACE, ARCHIVE_SECONDS = 20.0, 10.0
# Trainings at once: while one compiles another one trains.
AT_ONCE = 3
# As `python -m`, and asked to stop as soon as this process has died (Linux's
# PR_SET_PDEATHSIG): else what a killed run had begun would go on beside the next one.
_RUN_MODULE = """
import ctypes, runpy, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)
del sys.argv[0]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""
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
        """Makes the folders; `seconds` count from here, and `stop` ends them earlier.

        `grace` is how long commands have to end by themselves, within the seconds.
        """
        self.out, self.workdir = Path(out), Path(workdir)
        self.logs = self.workdir / "logs"
        for folder in (self.out, self.logs):
            folder.mkdir(parents=True, exist_ok=True)
        self.failed: list[str] = []  # Stages of this run.
        self._record = self.out / "accelerator_run.json"
        # Those of earlier runs stay, unless a stage is begun again.
        stored = (
            json.loads(self._record.read_text(encoding="utf-8"))
            if self._record.exists()
            else {}
        )
        self.outcomes: dict[str, dict[str, Any]] = stored
        self._end = time.monotonic() + seconds - grace
        self._stop, self._show, self._grace = stop, show, grace

    def run_alone(self, stages: Sequence[Stage]) -> None:
        """Runs stages one after the other, each in its own time."""
        for stage in stages:
            self._advance([stage], at_once=1, seconds=stage.seconds)

    def run_together(self, stages: Sequence[Stage], at_once: int = AT_ONCE) -> None:
        """Runs stages side by side, the first of them first, to the end of the time."""
        self._advance(stages, at_once=at_once, seconds=float("inf"))

    def _advance(
        self, stages: Sequence[Stage], *, at_once: int, seconds: float
    ) -> None:
        waiting, shown = list(stages), time.monotonic()
        running: dict[Stage, tuple[subprocess.Popen, float]] = {}
        end = min(self._end, time.monotonic() + seconds)
        try:
            while waiting or running:
                if self._stop():
                    end = self._end = 0.0
                while waiting and len(running) < at_once:
                    stage = waiting.pop(0)
                    if stage.is_finished():
                        self._note(stage, "finished", None)
                    elif time.monotonic() >= end:
                        self._note(stage, "left out: no time", None)
                    else:
                        running[stage] = self._begin(stage), time.monotonic()
                for stage, (process, begun) in [*running.items()]:
                    if process.poll() is not None:
                        del running[stage]
                        self._close(stage, process.returncode, begun, asked=False)
                if running and time.monotonic() >= end:
                    self._interrupt(running)
                if time.monotonic() - shown > 30:
                    shown = time.monotonic()
                    for stage in running:
                        self._show(f"  {stage.name}: {self._last_line(stage)}")
                time.sleep(0.05)
        finally:  # Nobody else ends them.
            self._interrupt(running)

    def _begin(self, stage: Stage) -> subprocess.Popen:
        left = self._end - time.monotonic()
        self._show(f"{stage.name}: begins, {left:.0f} s left")
        with open(self.logs / f"{stage.name}.log", "ab") as log:
            streams: dict[str, Any] = dict.fromkeys(("stdout", "stderr"), log)
            return subprocess.Popen(
                [sys.executable, "-c", _RUN_MODULE, *stage.command],
                env={**os.environ, **stage.environment},
                stdin=subprocess.DEVNULL,
                # Ctrl-C is for this process, which asks each of them once.
                start_new_session=True,
                **streams,
            )

    def _interrupt(self, running: dict[Stage, tuple[subprocess.Popen, float]]) -> None:
        """Asks all to stop, kills those that do not in time, and empties the dict."""
        for process, _ in running.values():
            process.terminate()
        end = time.monotonic() + self._grace
        while running:
            stage, (process, begun) = running.popitem()
            try:
                process.wait(max(0.0, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            self._close(stage, process.returncode, begun, asked=True)

    def _close(self, stage: Stage, status: int, begun: float, *, asked: bool) -> None:
        if stage.is_finished():
            outcome = "finished"
        elif status == 0 or (asked and status == -signal.SIGTERM):
            outcome = "stopped"
        elif status == -signal.SIGKILL:
            outcome = "failed: killed"
        else:
            outcome = f"failed: {self._last_line(stage)}"
        self._note(stage, outcome, time.monotonic() - begun)

    def _note(self, stage: Stage, outcome: str, seconds: float | None) -> None:
        before = self.outcomes.get(stage.name, {})
        if seconds is None and outcome == before.get("outcome"):
            self._show(f"{stage.name}: {outcome} before")
            return
        if outcome.startswith("failed"):
            self.failed.append(stage.name)
        seconds = round(seconds or 0.0, 1)
        self.outcomes[stage.name] = {"outcome": outcome, "seconds": seconds}
        self._show(f"{stage.name}: {outcome} ({seconds:.0f} s)")
        write_json(self._record, self.outcomes)

    def _last_line(self, stage: Stage) -> str:
        log = self.logs / f"{stage.name}.log"
        text = log.read_bytes()[-2000:].decode(errors="replace")
        lines = [line.strip() for line in re.split(r"[\r\n]+", text) if line.strip()]
        return lines[-1][:200] if lines else "no output"

    def collect(self, stages: Sequence[Stage], part_bytes: int) -> None:
        """Puts everything worth keeping into `out`, as parts of one archive.

        That is what is in `out`, and results, logs and trained models of `stages`.
        `cat results.tar.* | tar x` unpacks them. Models have no optimizers; those that
        are not trained to the end stay behind.
        """
        gathered = self.workdir / "gathered"
        shutil.rmtree(gathered, ignore_errors=True)
        shutil.copytree(self.logs, gathered / "logs")
        for path in self.out.glob("*.json"):
            shutil.copy(path, gathered)
        for stage in stages:
            folder = stage.result.parent
            for path in sorted(folder.glob("*.*")):
                if path.suffix not in (".json", ".npz", ".png"):
                    continue
                place = gathered / folder.name
                place.mkdir(exist_ok=True)
                shutil.copy(path, place)
            for checkpoints in folder.glob("models/*/*/*/checkpoints"):
                model = checkpoints.parent
                place = gathered / folder.name / model.relative_to(folder)
                try:
                    if stage.keeps_models and _is_trained(model):
                        copy_model(model, place)
                except (OSError, ValueError) as error:  # The others are not lost.
                    self._show(f"{model} is left out: {error}")
        # Not compressed: weights are noise, and time is short.
        with PartsWriter(self.out / "results.tar", part_bytes) as file:
            with tarfile.open(fileobj=file, mode="w|") as archive:
                archive.add(gathered, arcname=".")


def _is_trained(folder: Path) -> bool:
    steps = finished_steps(folder)
    return steps > 0 and steps == read_config(folder, "last")["num_steps"]


def run_on_accelerator(
    out: Path,
    workdir: Path,
    *,
    seconds: float,
    packed: Path | None = None,
    names: Sequence[str] = ("all",),
    classifier: Path | None = None,
    rehearsal: bool = False,
    part_bytes: int = 2**31,
    stop: Callable[[], bool] = lambda: False,
) -> list[str]:
    """Works through the stages; see `launch.accelerator_run`.

    Args:
        out: Where results go; those of a rehearsal into a folder of their own there.
        workdir: Folder of the trainings, likewise.
        seconds: When everything has ended.
        packed: Folder of the packed data sets.
        names: Stages, or `all`.
        classifier: A `.npz` file of the classifier on clean images, copied to
            `CLASSIFIER`.
        rehearsal: Tiny sizes and generated images.
        part_bytes: Size of the parts of the archive.
        stop: Ends everything when it says so.

    Returns:
        The stages that failed.

    Raises:
        ValueError: If a stage is unknown, the time too short, or what the stages need
            is not there; before anything is done.
        FileNotFoundError: If a file of the packed data sets is missing; likewise.
    """
    start = time.monotonic()
    if rehearsal:
        out, workdir = out / "rehearsal", workdir / "rehearsal"
    data_dir = workdir / "data"
    trained = trainings(workdir, data_dir, rehearsal=rehearsal)
    known = [x.name for x in (*timed_stages(out, "", rehearsal=rehearsal), *trained)]
    chosen = known if list(names) == ["all"] else names
    if unknown := [name for name in chosen if name not in known]:
        raise ValueError(
            f"unknown stage {', '.join(unknown)}: choose all, or some of "
            f"{','.join(known)}"
        )
    needs_data = not rehearsal and any(x.name in chosen for x in trained)
    if needs_data and packed is None:
        raise ValueError(
            "the trainings need --packed, the folder of the packed data sets"
        )
    for name in DATA_SETS if needs_data else ():
        packed_files(packed, name)
    _check_classifier(classifier, needed=needs_data)
    overhead = GRACE + ARCHIVE_SECONDS
    if seconds <= overhead:
        raise ValueError(
            f"the time must be above {overhead:g} s, which ending takes: {seconds:g} s"
        )
    kind = _device_kind()
    if kind == "cpu" and not rehearsal:
        raise ValueError("JAX sees no accelerator here: use --rehearsal on a CPU")
    if needs_data and classifier is not None and not CLASSIFIER.exists():
        CLASSIFIER.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(classifier, CLASSIFIER)
    # For the commands: several share the device, and programs of earlier ones.
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", f"{workdir.absolute()}/compiled")
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    left = seconds - ARCHIVE_SECONDS - (time.monotonic() - start)
    run = AcceleratorRun(out, workdir, seconds=left, stop=stop)
    try:
        # First: beside what is timed it would take its cores.
        run.run_together(preparations(packed, data_dir) if needs_data else [])
        timed = timed_stages(out, card_name(kind), rehearsal=rehearsal)
        run.run_alone([stage for stage in timed if stage.name in chosen])
        run.run_together([stage for stage in trained if stage.name in chosen])
    finally:
        run.collect(trained, part_bytes)
    return run.failed


def _check_classifier(classifier: Path | None, *, needed: bool) -> None:
    """Raises ValueError if there is none, or another one than that given."""
    if classifier is not None and not classifier.is_file():
        raise ValueError(f"no classifier at {classifier}")
    if not needed:
        return
    if classifier is None and not CLASSIFIER.exists():
        raise ValueError(
            f"the trainings need the classifier on clean images, {CLASSIFIER}: name "
            "a .npz file by --classifier"
        )
    if classifier is not None and CLASSIFIER.exists():
        if classifier.read_bytes() != CLASSIFIER.read_bytes():
            raise ValueError(
                f"{CLASSIFIER} is there and is not {classifier}: move one of them away"
            )


def _device_kind() -> str:
    """Returns JAX's name of the device, asked in a process that ends at once.

    Raises:
        ValueError: If JAX does not start, or not within a minute.
    """
    command = [sys.executable, "-c", "import jax; print(jax.devices()[0].device_kind)"]
    try:
        asked = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except subprocess.TimeoutExpired as error:
        raise ValueError("JAX did not find its devices within a minute") from error
    if asked.returncode:
        line = (asked.stderr.strip().splitlines() or ["it says nothing"])[-1]
        raise ValueError(f"JAX does not start here: {line}")
    return asked.stdout.strip()
