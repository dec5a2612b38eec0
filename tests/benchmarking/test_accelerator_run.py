"""The prepared run: what comes when, and what is kept when the time is over."""

import io
import json
import tarfile
import time
import zipfile

import pytest

from uronet_jax.benchmarking import bundle
from uronet_jax.benchmarking.accelerator_run import AcceleratorRun, PartsWriter
from uronet_jax.benchmarking.accelerator_stages import (
    Stage,
    card_name,
    timed_stages,
    trainings,
)
from uronet_jax.checkpoints import Checkpoints, copy_model, find_step, read_variables

WRITES = """
import json, pathlib, signal, sys, time
path, content, seconds = sys.argv[1:]
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
with open(path + ".begun", "a") as file:
    print(time.monotonic(), file=file)
time.sleep(float(seconds))
pathlib.Path(path).write_text(content)
"""


@pytest.fixture
def stage(tmp_path, monkeypatch):
    """Returns `stage(name, ...)`: a command that writes something after some time."""
    (tmp_path / "writes.py").write_text(WRITES)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def make(name, content='{"finished": true}', seconds=0, rows=(), limit=60.0):
        result = tmp_path / "results" / f"{name}.json"
        result.parent.mkdir(exist_ok=True)
        command = ("writes", str(result), content, str(seconds))
        return Stage(name, command, result, rows, seconds=limit)

    return make


def begin(tmp_path, seconds=60.0):
    folders = tmp_path / "out", tmp_path / "work"
    return AcceleratorRun(*folders, seconds=seconds, show=lambda _: None)


def begun(stage):
    return float(stage.result.with_suffix(".json.begun").read_text())


def outcomes(run):
    stored = json.loads((run.out / "accelerator_run.json").read_text())
    assert stored == run.outcomes
    return {name: x["outcome"] for name, x in stored.items()}


def test_what_is_timed_runs_alone_and_in_order(stage, tmp_path):
    run, stages = begin(tmp_path), [stage("a", seconds=0.3), stage("b")]
    run.run_alone(stages)
    assert outcomes(run) == {"a": "finished", "b": "finished"}
    a, b = map(begun, stages)
    assert b > a + 0.3
    # The same again does nothing anew, and knows what came of them.
    times = [begun(stage) for stage in stages]
    again = begin(tmp_path)
    again.run_alone(stages)
    assert again.outcomes == run.outcomes
    assert [begun(stage) for stage in stages] == times


def test_trainings_run_side_by_side(stage, tmp_path):
    run, stages = begin(tmp_path), [stage(name, seconds=0.5) for name in "abc"]
    run.run_together(stages, at_once=2)
    assert set(outcomes(run).values()) == {"finished"}
    a, b, c = map(begun, stages)
    assert b < a + 0.5 <= c


def test_everything_ends_in_time(stage, tmp_path):
    start = time.monotonic()
    run = AcceleratorRun(
        tmp_path / "out", tmp_path / "work", seconds=3.0, grace=1.0, show=lambda _: None
    )
    run.run_alone([stage("slow", seconds=60, limit=0.6), stage("quick")])
    run.run_together([stage("long", seconds=60), stage("next")], at_once=1)
    assert time.monotonic() - start < 3.0
    assert outcomes(run) == {
        "slow": "stopped",
        "quick": "finished",
        "long": "stopped",
        "next": "left out: no time",
    }
    assert run.failed == []


def test_who_is_asked_to_stop_stops_what_runs(stage, tmp_path):
    asked = iter([False] * 5 + [True] * 99)
    folders = tmp_path / "out", tmp_path / "work"
    run = AcceleratorRun(
        *folders, seconds=60.0, stop=lambda: next(asked), show=lambda _: None
    )
    run.run_together([stage("a", seconds=60), stage("b")], at_once=1)
    assert outcomes(run) == {"a": "stopped", "b": "left out: no time"}


def test_a_failure_is_told_and_stops_nothing(stage, tmp_path):
    run = begin(tmp_path)
    bad = Stage("bad", ("no_such_module",), tmp_path / "bad.json")
    rows = stage("rows", '{"rows": {"a": 1}}', rows=("a", "b"))
    run.run_alone([bad, rows, stage("good")])
    found = outcomes(run)
    assert "No module named no_such_module" in found["bad"]
    # A benchmark without all of its rows goes on the next time.
    assert found["rows"] == "stopped" and found["good"] == "finished"
    assert run.failed == ["bad"]


def test_archive_is_cut_into_parts_and_whole_again(stage, tmp_path):
    run, stages = begin(tmp_path), [stage("a"), stage("b")]
    run.run_alone(stages)
    run.collect(stages, part_bytes=100)
    parts = sorted(run.out.glob("results.tar.xz.*"))
    assert [len(part.read_bytes()) for part in parts[:-1]] == [100] * (len(parts) - 1)
    joined = io.BytesIO(b"".join(part.read_bytes() for part in parts))
    with tarfile.open(fileobj=joined, mode="r:xz") as archive:
        names = {x.removeprefix("./") for x in archive.getnames()}
    assert {"results/a.json", "results/b.json", "logs/a.log"} <= names
    with PartsWriter(run.out / "results.tar.xz", 100) as file:
        file.write(b"x")  # Removes those of before.
    assert [x.name for x in run.out.glob("results.tar.xz.*")] == ["results.tar.xz.00"]


def test_a_model_is_copied_without_its_optimizer(tmp_path, make_variables):
    from uronet_jax.models import make_classifier

    variables = make_variables(make_classifier("cnn_narrow", 2), (8, 8, 3))
    state = {"opt_state": variables["params"], "batch_stats": {}, **variables}
    checkpoints = Checkpoints(tmp_path / "run")
    checkpoints.save(7, state, {"phase": "classifier"}, {}, {"loss": 1.0})
    checkpoints.close()
    copy_model(tmp_path / "run", tmp_path / "copy")
    assert find_step(tmp_path / "copy", "last").name == "7"
    found = read_variables(tmp_path / "copy", {"batch_stats": {}, **variables})
    assert found.keys() == {"params", "batch_stats"}
    kernel = found["params"]["Dense_0"]["kernel"]
    assert (kernel == variables["params"]["Dense_0"]["kernel"]).all()

    def size(run):
        return sum(x.stat().st_size for x in (tmp_path / run).rglob("d/*"))

    assert size("copy") < 0.75 * size("run")


@pytest.mark.parametrize("rehearsal", [False, True])
def test_stages_are_commands_of_ours(tmp_path, rehearsal):
    stages = timed_stages(tmp_path, "h100", rehearsal=rehearsal)
    stages += trainings(tmp_path, tmp_path / "data", rehearsal=rehearsal)
    assert len({stage.name for stage in stages}) == len(stages)
    assert len({stage.result for stage in stages}) == len(stages)
    assert {stage.command[0] for stage in stages} == {
        "launch.benchmark",
        "launch.reproduce",
    }


@pytest.mark.parametrize(
    ("kind", "name"),
    [("NVIDIA H100 80GB HBM3", "h100"), ("NVIDIA A100-SXM4-40GB", "a100")]
    + [("cpu", "cpu"), ("TPU v5", "tpu v5")],
)
def test_card_name(kind, name):
    assert card_name(kind) == name


def test_bundle_has_packages_data_and_classifier(tmp_path, monkeypatch):
    data = tmp_path / "packed"
    data.mkdir()
    for split in ("train", "test"):
        (data / f"mnist_{split}.npz").write_bytes(bytes(range(256)))
    classifier = tmp_path / "classifier.npz"
    classifier.write_bytes(b"weights")
    calls = []

    def pip(command, **_):
        calls.append(command[3:])
        if "wheel" in command:
            folder = command[command.index("--wheel-dir") + 1]
            bundle.Path(folder).mkdir()
            zipfile.ZipFile(f"{folder}/promise-2.3-py3-none-any.whl", "w").close()
        else:
            site = bundle.Path(command[command.index("--target") + 1])
            site.mkdir()
            (site / "grain.py").write_text("")
        return type("Done", (), {"returncode": 0})

    monkeypatch.setattr(bundle.subprocess, "run", pip)
    options = {"names": ("mnist",), "classifier": classifier, "part_bytes": 200}
    parts = bundle.write_bundle(tmp_path / "bundle", data, **options)
    assert len(parts) > 1
    joined = io.BytesIO(b"".join(part.read_bytes() for part in parts))
    with tarfile.open(fileobj=joined, mode="r:xz") as archive:
        names = set(archive.getnames())
    assert {"site/grain.py", "data/mnist_test.npz", "models/classifier.npz"} <= names
    # In the versions of this environment, for another Python.
    assert any(x.startswith("grain==") for x in calls[1])
    assert "--python-version=3.12" in calls[1] and calls[1][-2].endswith(".whl")
    (data / "mnist_test.npz").unlink()
    with pytest.raises(FileNotFoundError, match="lacks mnist_test.npz of mnist"):
        bundle.write_bundle(tmp_path / "bundle", data, **options)
