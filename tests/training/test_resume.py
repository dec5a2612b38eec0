"""A run that is stopped goes on; of killed ones see tests/launch/kill_and_resume.py."""

import json
import re
import signal
import time


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
        run = start(
            *("-m", "launch.train", "--config=configs/classifier.py:smoke"),
            *(f"--workdir={path.parent}", "--config.model.name=cnn_narrow"),
            *("--config.num_steps=100000", "--config.eval_every=0"),
            "--config.checkpoint_every=0",
        )
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
        assert (path.parent / "checkpoints" / str(last)).is_dir()
        assert records[-1]["step"] <= last
        last = max(last, json.loads(path.read_text().splitlines()[-1])["step"])
