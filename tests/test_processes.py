"""Two processes, connected over the loopback, train like one."""

import json
import re
import socket

import chex
import jax
import pytest
from test_configs import load

from launch import train

# Few steps of plain gradient descent: Adam would turn the rounding of a gradient near
# zero into a whole step.
FIELDS = {
    "model.variant": "dcae",
    "model.widths": (2,),
    "data.pipeline": "on_device",
    "data.augmentation": "flip_crop",
    "optimizer.name": "sgd",
    "eval_every": 4,
}


@pytest.mark.long
def test_two_processes_with_two_devices_agree_with_one_with_four(start, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [
        start(
            *("-m", "launch.train", "--config=configs/remover.py:smoke"),
            *(f"--config.{name}={value}" for name, value in FIELDS.items()),
            *(f"--coordinator_address=127.0.0.1:{port}", "--num_processes=2"),
            *(f"--workdir={tmp_path}/two", f"--process_id={number}"),
            JAX_NUM_CPU_DEVICES="2",
        )
        for number in range(2)
    ]
    config = load("remover", **{k.replace(".", "__"): v for k, v in FIELDS.items()})
    assert jax.device_count() == 4
    one = train.train(config, tmp_path / "one")
    outputs = [process.communicate(timeout=300) for process in processes]
    for process, (_, errors) in zip(processes, outputs, strict=True):
        assert process.returncode == 0, errors
    # Only the first one speaks and writes. Gloo greets on standard output, and the
    # greetings of its threads can break into each other's lines or leave empty ones.
    greeting = re.compile(r"\[Gloo\]|peer ranks|^\s*$")
    speech = [
        [line for line in output.splitlines() if not greeting.search(line)]
        for output, _ in outputs
    ]
    assert len(speech[0]) == 1 and speech[1] == []
    assert speech[0][0].startswith("finished remover at step 4: validation clean_mse")
    records = [
        [json.loads(line) for line in path.read_text().splitlines()]
        for path in (tmp_path / name / "metrics.jsonl" for name in ("one", "two"))
    ]
    assert len(records[0]) == len(records[1]) == 3
    for ours, theirs in zip(*records, strict=True):
        assert ours.pop("kind") == theirs.pop("kind")
        assert ours == pytest.approx(theirs, rel=1e-5)
    assert {p.name for p in (tmp_path / "two" / "checkpoints").iterdir()} == {"2", "4"}
    # One process goes on where two stopped: here, at the end.
    two = train.train(config, tmp_path / "two")
    assert two.finished and two.metrics == pytest.approx(one.metrics, rel=1e-5)
    for name in ("params", "opt_state"):
        # Sums over devices in another order: some units in the last place of weights
        # and momenta that are below 2.
        chex.assert_trees_all_close(
            jax.device_get(getattr(one.state, name)),
            jax.device_get(getattr(two.state, name)),
            atol=1e-6,
        )
    assert jax.random.key_data(one.state.key).tolist() == (
        jax.random.key_data(two.state.key).tolist()
    )
