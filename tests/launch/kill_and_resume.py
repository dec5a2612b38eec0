"""Kills training runs at random moments; they must end as if nothing had happened.

  python tests/launch/kill_and_resume.py --trials=10

A small run on generated images is made once undisturbed. Every trial makes the same
run, kills it (SIGKILL) one to three times, at a random step or while a checkpoint is
being written, starts it again each time, and compares the state at the end bit for
bit: parameters, batch statistics, optimizer state, key and step. The validation
metrics along the way must be the same as well. Exit status 1 if one differs.
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
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
from killing import finish, start

NUM_STEPS = 24
COMMAND = [
    *(sys.executable, "-m", "launch.train", "--config=configs/classifier.py:smoke"),
    # Batch statistics, optimizer state, augmentation and order: all must come back.
    *("--config.data.augmentation=flip_crop", "--config.batch_size=8"),
    f"--config.num_steps={NUM_STEPS}",
    *("--config.checkpoint_every=4", "--config.eval_every=8"),
    *("--config.steps_per_dispatch=1", "--config.log_every=1"),
]


def read_metrics(workdir: Path) -> dict:
    """Returns (step, kind) -> values; what was done again counts as it came last."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    return {(record["step"], record["kind"]): record for record in records}


def read_state(workdir: Path) -> dict:
    """Returns the last checkpoint as path -> array."""
    folder = workdir / "checkpoints" / str(NUM_STEPS) / "state"
    handler = ocp.PyTreeCheckpointHandler()
    like = handler.metadata(folder).tree
    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), like)
    state = handler.restore(
        folder, args=ocp.args.PyTreeRestore(item=like, restore_args=as_numpy)
    )
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def kill_somewhere(run: subprocess.Popen, workdir: Path, rng: random.Random) -> str:
    """Kills the run at a random moment; returns where, or "" if it ended before."""
    writing = rng.random() < 0.5
    # Not before the step from which this run goes on.
    metrics = workdir / "metrics.jsonl"
    done = len(metrics.read_text().splitlines()) if metrics.exists() else 0
    step = rng.randrange(1, NUM_STEPS // 2)
    while run.poll() is None:
        lines = metrics.read_text().splitlines() if metrics.exists() else []
        if len(lines) - done >= step and (
            not writing or any((workdir / "checkpoints").glob("*/*-tmp"))
        ):
            time.sleep(rng.uniform(0.0, 0.05))
            run.send_signal(signal.SIGKILL)
            run.wait()
            if run.returncode == 0:
                return ""
            place = "writing a checkpoint" if writing else "training"
            return f"while {place} after step {json.loads(lines[-1])['step']}"
        time.sleep(0.002)
    return ""


def run_trial(trial: int, folder: Path, expected: tuple[dict, dict], seed: int) -> bool:
    """Makes one disturbed run and prints how it went; returns whether it is equal."""
    rng = random.Random(f"{seed}/{trial}")
    workdir = folder / f"trial{trial}"
    kills, began = [], time.perf_counter()
    for _ in range(rng.randint(1, 3)):
        run = start(COMMAND, workdir, folder / "cache")
        kills.append(kill_somewhere(run, workdir, rng))
        if not kills[-1]:
            break
    finish(start(COMMAND, workdir, folder / "cache"), workdir)
    state, metrics = read_state(workdir), read_metrics(workdir)
    differing = [
        name
        for name in sorted(state.keys() | expected[0].keys())
        if name not in state
        or name not in expected[0]
        or state[name].dtype != expected[0][name].dtype
        or not np.array_equal(state[name], expected[0][name])
    ] + [f"metrics {k}" for k in expected[1] if metrics.get(k) != expected[1][k]]
    verdict = f"{len(differing)} differ: {differing[:3]}" if differing else "equal"
    seconds = time.perf_counter() - began
    killed = ", ".join(kill for kill in kills if kill) or "never"
    print(f"trial {trial}: {verdict}; killed {killed}; {seconds:.1f} s", flush=True)
    return not differing


def main() -> int:
    """Runs all trials, as many at a time as there are cores."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        began = time.perf_counter()
        undisturbed = folder / "undisturbed"
        finish(start(COMMAND, undisturbed, folder / "cache"), undisturbed)
        expected = (
            read_state(folder / "undisturbed"),
            read_metrics(folder / "undisturbed"),
        )
        seconds = time.perf_counter() - began
        print(f"undisturbed: {len(expected[0])} arrays; {seconds:.1f} s", flush=True)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            equal = list(
                pool.map(
                    lambda trial: run_trial(trial, folder, expected, arguments.seed),
                    range(1, arguments.trials + 1),
                )
            )
    print(f"{sum(equal)} of {len(equal)} runs ended bit for bit as the undisturbed one")
    return 0 if all(equal) else 1


if __name__ == "__main__":
    sys.exit(main())
