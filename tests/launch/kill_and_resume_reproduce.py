"""Kills the reproduction of tables twice; the results must be as if undisturbed.

  python tests/launch/kill_and_resume_reproduce.py --trials=3

Tables 2, 6 and 7 and Figure 4 of the smoke preset are made once undisturbed. Every
trial makes them again, kills the process (SIGKILL) twice at random moments, starts it
again each time, and compares the JSON files and the images at the end: all but the
seconds must be equal. Exit status 1 if one differs.
"""

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from killing import finish, start

from uronet_jax.attacks.digests import digest

EXPERIMENTS = ("table2", "table6", "table7", "figure4")
KILLS = 2
COMMAND = [
    *(sys.executable, "-m", "launch.reproduce", "--config=configs/reproduce.py:smoke"),
    f"--experiment={','.join(EXPERIMENTS)}",
    "--config.suite.noises=('GN','SN','SPN')",
    "--config.suite.severities=(1,2)",
    *("--config.remover.num_steps=6", "--config.remover.checkpoint_every=2"),
    *("--config.detector.num_steps=6", "--config.detector.checkpoint_every=2"),
]


def count_done(workdir: Path) -> int:
    """Returns how far a run is: logged steps, attacked images and parts on disk."""
    done = len(list(workdir.glob("attacked/*/[!.]*.npz")))
    for path in workdir.glob("models/*/*/*/metrics.jsonl"):
        done += len(path.read_text().splitlines())
    for name in EXPERIMENTS:
        path = workdir / f"{name}.json"
        if path.exists():
            done += len(json.loads(path.read_text())["parts"])
    return done


def read_results(workdir: Path) -> dict[str, dict]:
    """Returns the results without what differs between equal runs."""
    arrays = {
        path.relative_to(workdir).as_posix(): digest(dict(np.load(path)))
        for path in sorted(workdir.glob("**/*.npz"))
    }
    return {"images": arrays} | {
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
            return f"at {target}" if run.returncode else ""
        time.sleep(0.005)
    return ""


def run_trial(trial: int, folder: Path, expected: dict, total: int, seed: int) -> bool:
    """Makes one disturbed run and prints how it went; returns whether it is equal."""
    rng = random.Random(f"{seed}/{trial}")
    workdir = folder / f"trial{trial}"
    kills, began = [], time.perf_counter()
    for target in sorted(rng.sample(range(1, total), KILLS)):
        kills.append(
            kill_after(start(COMMAND, workdir, folder / "cache"), workdir, target, rng)
        )
    finish(start(COMMAND, workdir, folder / "cache"), workdir)
    results = read_results(workdir)
    differing = [name for name in expected if results[name] != expected[name]]
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
        finish(start(COMMAND, undisturbed, folder / "cache"), undisturbed)
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
