"""A run that is stopped or killed goes on as if nothing had happened."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def start(tmp_path):
    """Returns a function that starts a long training run in `tmp_path / "run"`."""
    runs = []

    def start():
        run = subprocess.Popen(
            [
                *(sys.executable, "-m", "launch.train"),
                *("--config=configs/classifier.py:smoke", f"--workdir={tmp_path}/run"),
                *("--config.model.name=cnn_narrow", "--config.num_steps=100000"),
                *("--config.eval_every=0", "--config.checkpoint_every=0"),
            ],
            cwd=ROOT,
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "JAX_PLATFORMS": "cpu",
                "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache"),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        runs.append(run)
        return run

    yield start
    for run in runs:
        run.kill()
        run.communicate()


def metrics_after(run, path, step):
    """Waits for a line of metrics of a later step and returns all lines."""
    while run.poll() is None:
        lines = path.read_text().splitlines() if path.exists() else []
        records = [json.loads(line) for line in lines]
        if records and records[-1]["step"] > step:
            return records
        time.sleep(0.05)
    raise AssertionError(run.communicate()[1])


def test_sigterm_saves_and_the_next_run_goes_on(start, tmp_path):
    path, last = tmp_path / "run" / "metrics.jsonl", 0
    for number in (signal.SIGTERM, signal.SIGINT):
        run = start()
        records = metrics_after(run, path, last)
        # It went on from the saved step: nothing was done twice.
        assert [r["step"] for r in records] == list(range(2, len(records) * 2 + 1, 2))
        run.send_signal(number)
        output, errors = run.communicate(timeout=60)
        assert run.returncode == 0, errors
        name = signal.Signals(number).name
        match = re.fullmatch(
            rf"stopped by {name} at step (\d+) of 100000; saved. Run the same command "
            "to resume.\n",
            output,
        )
        assert match, output
        last = int(match[1])
        assert (tmp_path / "run" / "checkpoints" / str(last)).is_dir()
        assert records[-1]["step"] <= last
        last = max(last, json.loads(path.read_text().splitlines()[-1])["step"])


def test_killed_runs_end_bit_for_bit_as_undisturbed_ones():
    trials = 10 if os.environ.get("URONET_LONG_TESTS") else 2
    script = ROOT / "tests" / "launch" / "kill_and_resume.py"
    done = subprocess.run(
        [sys.executable, script, "--what=train", f"--trials={trials}"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    # A run that was never killed proves nothing.
    assert done.stdout.count(": equal; killed after ") == trials
