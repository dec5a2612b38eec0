"""Kills the reproduction of two tables twice; the results must be as if undisturbed.

  python tests/kill_and_resume_reproduce.py --trials=3

Tables 2 and 7 of the smoke preset are made once undisturbed. Every trial makes them
again, kills the process (SIGKILL) twice at random moments, in a model or in a table,
starts it again each time, and compares the JSON files at the end: all but the seconds
must be equal. Exit status 1 if one differs.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
EXPERIMENTS = ("table2", "table7")
KILLS = 2
COMMAND = [
    *(sys.executable, "-m", "launch.reproduce", "--config=configs/reproduce.py:smoke"),
    f"--experiment={','.join(EXPERIMENTS)}",
    "--config.suite.noises=('GN','SN','SPN')",
    "--config.suite.severities=(1,2)",
    *("--config.remover.num_steps=6", "--config.remover.checkpoint_every=2"),
    *("--config.detector.num_steps=6", "--config.detector.checkpoint_every=2"),
]


def start(workdir: Path, cache: Path) -> subprocess.Popen:
    """Starts the run where it stands; programs are compiled once for all trials."""
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
            [*COMMAND, f"--workdir={workdir}"],
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


def count_done(workdir: Path) -> int:
    """Returns how far a run is: steps that were logged, and parts that are on disk."""
    done = 0
    for path in workdir.glob("models/*/*/*/metrics.jsonl"):
        done += len(path.read_text().splitlines())
    for name in EXPERIMENTS:
        path = workdir / f"{name}.json"
        if path.exists():
            done += len(json.loads(path.read_text())["parts"])
    return done


def read_results(workdir: Path) -> dict[str, dict]:
    """Returns the results without what differs between equal runs."""
    return {
        name: {
            field: value
            for field, value in json.loads(
                (workdir / f"{name}.json").read_text()
            ).items()
            if field not in ("seconds", "training_seconds", "sessions")
        }
        for name in EXPERIMENTS
    }


def kill_after(run: subprocess.Popen, workdir: Path, target: int, rng) -> str:
    """Kills a run when it is so far; returns where, or "" if it ended before."""
    while run.poll() is None:
        if count_done(workdir) >= target:
            time.sleep(rng.uniform(0.0, 0.1))
            run.send_signal(signal.SIGKILL)
            run.wait()
            in_table = any((workdir / f"{name}.json").exists() for name in EXPERIMENTS)
            place = "a table" if in_table else "a model"
            return f"in {place} at {target}" if run.returncode else ""
        time.sleep(0.005)
    return ""


def run_trial(trial: int, folder: Path, expected: dict, total: int, seed: int) -> bool:
    """Makes one disturbed run and prints how it went; returns whether it is equal."""
    rng = random.Random(f"{seed}/{trial}")
    workdir = folder / f"trial{trial}"
    kills, began = [], time.perf_counter()
    for target in sorted(rng.sample(range(1, total), KILLS)):
        kills.append(kill_after(start(workdir, folder / "cache"), workdir, target, rng))
    finish(start(workdir, folder / "cache"), workdir)
    results = read_results(workdir)
    differing = [name for name in EXPERIMENTS if results[name] != expected[name]]
    verdict = f"{', '.join(differing)} differ" if differing else "equal"
    killed = ", ".join(kill for kill in kills if kill) or "never"
    seconds = time.perf_counter() - began
    print(f"trial {trial}: {verdict}; killed {killed}; {seconds:.1f} s", flush=True)
    return not differing and all(kills)


def main() -> int:
    """Runs all trials, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        began = time.perf_counter()
        undisturbed = folder / "undisturbed"
        finish(start(undisturbed, folder / "cache"), undisturbed)
        expected, total = read_results(undisturbed), count_done(undisturbed)
        seconds = time.perf_counter() - began
        print(f"undisturbed: {total} steps and parts; {seconds:.1f} s", flush=True)
        equal = [
            run_trial(trial, folder, expected, total, arguments.seed)
            for trial in range(1, arguments.trials + 1)
        ]
    print(f"{sum(equal)} of {len(equal)} runs ended with the undisturbed results")
    return 0 if all(equal) else 1


if __name__ == "__main__":
    sys.exit(main())
