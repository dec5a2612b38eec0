"""Runs that are killed and started again, for the scripts that do so."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def start(command: Sequence[str], workdir: Path, cache: Path) -> subprocess.Popen:
    """Starts a run where it stands; programs are compiled once for all trials."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    with open(workdir.with_suffix(".log"), "ab") as log:
        return subprocess.Popen(
            [*command, f"--workdir={workdir}"],
            cwd=ROOT,
            env=environment,
            stdout=log,
            stderr=log,
        )


def finish(run: subprocess.Popen, workdir: Path) -> None:
    """Waits for the end of a run; raises RuntimeError unless it succeeded."""
    if run.wait() != 0:
        log = workdir.with_suffix(".log").read_text(errors="replace")
        raise RuntimeError(
            f"the run ended with status {run.returncode}:\n{log[-4000:]}"
        )
