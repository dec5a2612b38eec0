"""Kills runs at random moments; they must end as if nothing had happened.

  python tests/launch/kill_and_resume.py --what=train --trials=10

A small run on generated images is made once undisturbed: a training, of a classifier
alone or against a noise generator or of a purifier for one, or Tables 2, 6 and 7 and
Figure 4. Every trial makes
the same run, kills it (SIGKILL) one to three times, at a random moment or while a
checkpoint is being written, starts it again each time, and compares what it leaves. Of
a training that is the last state, bit for bit (parameters, batch statistics, optimizer
state, key and step; generators old and new), and the metrics along the way; of tables
the JSON files, all but the seconds, and the images. Exit status 1 if something differs,
or a run was never killed.
"""

import argparse
import glob
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from uronet_jax.attacks.digests import digest

ROOT = Path(__file__).parent.parent.parent
NUM_STEPS = 24
EXPERIMENTS = ("table2", "table6", "table7", "figure4")


class Kind(NamedTuple):
    """A kind of run: its command, how far it is, and what it leaves, by name.

    What goes before it is run once, in the folder `before` beside those of the runs,
    where the command finds it.
    """

    command: tuple[str, ...]
    count: Callable[[Path], int]
    read: Callable[[Path], dict[str, Any]]
    at_a_time: int
    before: tuple[str, ...] = ()


def count_lines(workdir: Path) -> int:
    """Returns how often a training has logged."""
    metrics = workdir / "metrics.jsonl"
    return len(metrics.read_text().splitlines()) if metrics.exists() else 0


def read_training(workdir: Path) -> dict[str, Any]:
    """Returns metrics and the arrays of the last checkpoint."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    # What was done again counts as it came last.
    found: dict[str, Any] = {f"{x['kind']} {x['step']}": x for x in records}
    folder = workdir / "checkpoints" / str(NUM_STEPS) / "state"
    handler = ocp.PyTreeCheckpointHandler()
    like = handler.metadata(folder).tree
    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), like)
    state = handler.restore(
        folder, args=ocp.args.PyTreeRestore(item=like, restore_args=as_numpy)
    )
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        leaf = np.asarray(leaf)
        found[jax.tree_util.keystr(path)] = (leaf.dtype, leaf.shape, leaf.tobytes())
    return found


def count_parts(workdir: Path) -> int:
    """Returns how many steps are logged, and images and parts finished."""
    models = workdir.glob("models/*/*/*/metrics.jsonl")
    done = sum(count_lines(path.parent) for path in models)
    for path in workdir.glob("attacked/*/*.json"):
        done += json.loads(path.read_text())["finished"]
    for path in (workdir / f"{name}.json" for name in EXPERIMENTS):
        done += len(json.loads(path.read_text())["parts"]) if path.exists() else 0
    return done


def read_tables(workdir: Path) -> dict[str, Any]:
    """Returns results and images, without what differs between equal runs."""
    found: dict[str, Any] = {}
    for path in [*workdir.glob("*.npz"), *workdir.glob("attacked/*/*.npy")]:
        arrays = np.load(path)
        found[path.name] = digest(dict(arrays) if path.suffix == ".npz" else arrays)
    for name in EXPERIMENTS:
        result = json.loads((workdir / f"{name}.json").read_text())
        for field in ("seconds", "training_seconds", "sessions"):
            result.pop(field)
        found[name] = result
    return found


def training(
    config: str, batch_size: int, *fields: str, before: tuple[str, ...] = ()
) -> Kind:
    """Returns a training by one of the configs, which logs every step."""
    return Kind(
        (
            *("launch.train", f"--config=configs/{config}.py:smoke", *fields),
            # Batch statistics, optimizer state, augmentation, order: all must come back
            "--config.data.augmentation=flip_crop",
            f"--config.batch_size={batch_size}",
            f"--config.num_steps={NUM_STEPS}",
            *("--config.checkpoint_every=4", "--config.eval_every=8"),
            *("--config.steps_per_dispatch=1", "--config.log_every=1"),
        ),
        count_lines,
        read_training,
        at_a_time=os.cpu_count() or 1,
        before=before,
    )


KINDS = {
    "train": training("classifier", 8),
    # Every third step is one of a new generator alone, so checkpoints lie before, at
    # and after restarts. Each slice of a batch needs an image.
    "adversarial_noise": training("adversarial_noise", 16),
    # Its optimizer starts anew in the middle, between two checkpoints.
    "reconstructor": training(
        "reconstructor",
        8,
        *("--config.classifier={before}", "--config.degradation.folder="),
        *("--config.degradation.suite=uronet", "--config.degradation.noises=('GN',)"),
        f"--config.reconstruction.warmup_steps={NUM_STEPS // 2 - 2}",
        before=("launch.train", "--config=configs/classifier.py:smoke"),
    ),
    "reproduce": Kind(
        (
            *("launch.reproduce", "--config=configs/reproduce.py:smoke"),
            f"--experiment={','.join(EXPERIMENTS)}",
            "--config.suite.noises=('GN','SN','SPN')",
            "--config.suite.severities=(1,2)",
            *("--config.remover.num_steps=6", "--config.remover.checkpoint_every=2"),
            *("--config.detector.num_steps=6", "--config.detector.checkpoint_every=2"),
        ),
        count_parts,
        read_tables,
        at_a_time=1,
    ),
}


def start(kind: Kind, workdir: Path) -> subprocess.Popen:
    """Starts a run where it stands; programs are compiled once for all trials."""
    before = workdir.parent / "before"
    command = [x.replace("{before}", str(before)) for x in kind.command]
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(workdir.parent / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    with open(workdir.with_suffix(".log"), "ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", *command, f"--workdir={workdir}"],
            cwd=ROOT,
            env=environment,
            stdout=log,
            stderr=log,
        )


def finish(kind: Kind, workdir: Path) -> dict[str, Any]:
    """Lets a run go on to its end and returns what it leaves."""
    run = start(kind, workdir)
    if run.wait() != 0:
        log = workdir.with_suffix(".log").read_text(errors="replace")
        raise RuntimeError(
            f"the run ended with status {run.returncode}:\n{log[-4000:]}"
        )
    return kind.read(workdir)


def kill_somewhere(kind: Kind, workdir: Path, total: int, rng: random.Random) -> str:
    """Starts a run and kills it; returns where, or "" if it ended before."""
    writing = rng.random() < 0.5
    # Not before the point from which this run goes on.
    target = kind.count(workdir) + rng.randrange(1, total // 2)
    run = start(kind, workdir)
    while run.poll() is None:
        done = kind.count(workdir)
        # Where no checkpoint comes, as when it measures, it is killed soon anyway.
        if done >= target and (
            not writing
            or done >= target + total // 4
            # Not pathlib's, which minds folders that go while it looks.
            or glob.glob(f"{workdir}/**/checkpoints/*/*-tmp", recursive=True)
        ):
            time.sleep(rng.uniform(0.0, 0.05))
            run.send_signal(signal.SIGKILL)
            if run.wait() == 0:
                return ""
            return f"after {done}{', writing a checkpoint' if writing else ''}"
        time.sleep(0.002)
    return ""


def run_trial(
    kind: Kind, workdir: Path, expected: dict[str, Any], total: int, rng: random.Random
) -> bool:
    """Makes one disturbed run and prints how it went; returns whether it is equal."""
    kills, began = [], time.perf_counter()
    for _ in range(rng.randint(1, 3)):
        kills.append(kill_somewhere(kind, workdir, total, rng))
        if not kills[-1]:
            break
    found = finish(kind, workdir)
    differing = [
        name
        for name in sorted(found | expected)
        if name not in found or found[name] != expected.get(name)
    ]
    verdict = f"{len(differing)} differ: {differing[:3]}" if differing else "equal"
    killed = "; ".join(kill for kill in kills if kill) or "never"
    seconds = time.perf_counter() - began
    print(f"{workdir.name}: {verdict}; killed {killed}; {seconds:.1f} s", flush=True)
    return not differing and any(kills)


def main() -> int:
    """Runs all trials."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--what", choices=KINDS, default="train")
    parser.add_argument("--trials", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    kind = KINDS[arguments.what]
    with tempfile.TemporaryDirectory() as folder:
        if kind.before:
            nothing = kind._replace(command=kind.before, read=lambda workdir: {})
            finish(nothing, Path(folder) / "before")
        undisturbed = Path(folder) / "undisturbed"
        expected = finish(kind, undisturbed)
        total = kind.count(undisturbed)
        print(f"undisturbed: {len(expected)} results in {total} steps", flush=True)

        def trial(number):
            rng = random.Random(f"{arguments.seed}/{number}")
            return run_trial(
                kind, Path(folder) / f"trial{number}", expected, total, rng
            )

        with ThreadPoolExecutor(kind.at_a_time) as pool:
            equal = list(pool.map(trial, range(1, arguments.trials + 1)))
    print(f"{sum(equal)} of {len(equal)} runs ended as the undisturbed one")
    return 0 if all(equal) else 1


if __name__ == "__main__":
    sys.exit(main())
