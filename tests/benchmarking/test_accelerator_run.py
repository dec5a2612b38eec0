"""The prepared run: what comes when, and what is kept when the time is over."""

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
import zipfile

import pytest

from configs.reproduce import get_config
from uronet_jax.benchmarking import accelerator_run, bundle
from uronet_jax.benchmarking.accelerator_run import AcceleratorRun, run_on_accelerator
from uronet_jax.benchmarking.accelerator_stages import (
    Stage,
    card_name,
    preparations,
    timed_stages,
    trainings,
)
from uronet_jax.benchmarking.suite import ROWS
from uronet_jax.checkpoints import Checkpoints, copy_model, find_step, read_variables
from uronet_jax.papers.experiments import EXPERIMENTS
from uronet_jax.training.run import flatten_config
from uronet_jax.writers import PartsWriter

WRITES = """
import pathlib, sys, time
from uronet_jax.progress import StopSignal
path, content, seconds = sys.argv[1:]
stop = StopSignal()
start = time.monotonic()
with open(path + ".begun", "a") as file:
    print(start, file=file)
while time.monotonic() < start + float(seconds):
    time.sleep(0.02)
    if stop():
        time.sleep(0.3)  # Saves.
        pathlib.Path(path + ".saved").touch()
        sys.exit(0)
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
    run, stages = begin(tmp_path), [stage(name, seconds=1.0) for name in "abc"]
    run.run_together(stages, at_once=2)
    assert set(outcomes(run).values()) == {"finished"}
    a, b, c = map(begun, stages)
    assert min(a, b) + 1.0 <= c and abs(a - b) < 1.0


def test_everything_ends_in_time(stage, tmp_path):
    start = time.monotonic()
    run = AcceleratorRun(
        tmp_path / "out", tmp_path / "work", seconds=5.0, grace=1.0, show=lambda _: None
    )
    run.run_alone([stage("slow", seconds=60, limit=0.6), stage("quick")])
    long = [stage("long", seconds=60), stage("longer", seconds=60)]
    run.run_together([*long, stage("next")], at_once=2)
    assert time.monotonic() - start < 5.0
    assert outcomes(run) == {
        "slow": "stopped",
        "quick": "finished",
        "long": "stopped",
        "longer": "stopped",
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


DRIVER = """
import sys
from pathlib import Path
from uronet_jax.progress import StopSignal
from uronet_jax.benchmarking.accelerator_run import AcceleratorRun
from uronet_jax.benchmarking.accelerator_stages import Stage
root = Path(sys.argv[1])
result = root / "a.json"
run = AcceleratorRun(root, root, seconds=90.0, stop=StopSignal())
run.run_together([Stage("a", ("writes", str(result), "", "60"), result)])
"""


@pytest.fixture
def driver(stage, tmp_path):
    """A process that runs a long command, which has begun."""
    stage("writes")
    path = os.pathsep.join([str(tmp_path), os.getcwd()])
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(tmp_path)],
        env=os.environ | {"PYTHONPATH": path},
        start_new_session=True,
        stdout=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 60
        while not (tmp_path / "a.json.begun").exists():
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.05)
        yield process
    finally:
        process.kill()
        process.wait()


def test_ctrl_c_lets_commands_save(driver, tmp_path):
    """The terminal sends it to a whole group; a command must be asked only once."""
    os.killpg(driver.pid, signal.SIGINT)
    assert driver.wait(30) == 0
    assert (tmp_path / "a.json.saved").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells who died")
def test_what_a_killed_run_began_does_not_go_on(driver, stage, tmp_path):
    driver.kill()
    driver.wait()
    deadline = time.monotonic() + 30
    while not (tmp_path / "a.json.saved").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    # The same again does what is left.
    run = AcceleratorRun(tmp_path, tmp_path, seconds=60.0, show=lambda _: None)
    result = tmp_path / "a.json"
    again = ("writes", str(result), '{"finished": true}', "0")
    run.run_together([Stage("a", again, result)])
    assert outcomes(run) == {"a": "finished"}


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
    # What failed before and is finished now has not failed.
    bad.result.write_text('{"finished": true}')
    again = begin(tmp_path)
    again.run_alone([bad])
    assert again.failed == [] and outcomes(again)["bad"] == "finished"


def test_whoever_does_not_stop_is_killed(tmp_path, monkeypatch):
    (tmp_path / "deaf.py").write_text(
        "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(60)"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    folders = tmp_path / "out", tmp_path / "work"
    run = AcceleratorRun(*folders, seconds=1.0, grace=0.5, show=lambda _: None)
    run.run_together([Stage("deaf", ("deaf",), tmp_path / "deaf.json")])
    assert outcomes(run) == {"deaf": "failed: killed"} and run.failed == ["deaf"]


def test_nothing_outlives_an_error(stage, tmp_path):
    run = begin(tmp_path)
    broken = stage("broken", "no JSON", seconds=0.3)
    with pytest.raises(ValueError):
        run.run_together([stage("long", seconds=60), broken])
    assert outcomes(run) == {"long": "stopped"}


@pytest.fixture
def on_a_card(monkeypatch, stage, tmp_path):
    """Runs two small stages where there is an NVIDIA H100."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(accelerator_run, "_device_kind", lambda: "NVIDIA H100 80GB")
    for name in ("JAX_COMPILATION_CACHE_DIR", "XLA_PYTHON_CLIENT_PREALLOCATE"):
        monkeypatch.setenv(name, "")
    made = {"timed": stage("timed"), "trained": stage("trained")}
    monkeypatch.setattr(
        accelerator_run, "timed_stages", lambda *_, **__: [made["timed"]]
    )
    monkeypatch.setattr(
        accelerator_run, "trainings", lambda *_, **__: [made["trained"]]
    )
    monkeypatch.setattr(accelerator_run, "preparations", lambda *_: [])
    monkeypatch.setattr(accelerator_run, "DATA_SETS", ("mnist",))
    for split in ("train", "test"):
        (tmp_path / f"mnist_{split}.npz").write_bytes(b"")
    (tmp_path / "weights.npz").write_bytes(b"weights")
    return made


def test_a_whole_run(on_a_card, tmp_path):
    options = {"seconds": 60.0, "packed": tmp_path}
    options["classifier"] = tmp_path / "weights.npz"
    folders = tmp_path / "out", tmp_path / "work"
    assert run_on_accelerator(*folders, **options) == []
    assert accelerator_run.CLASSIFIER.read_bytes() == b"weights"
    stored = json.loads((tmp_path / "out" / "accelerator_run.json").read_text())
    assert {name: x["outcome"] for name, x in stored.items()} == {
        "timed": "finished",
        "trained": "finished",
    }
    with tarfile.open(tmp_path / "out" / "results.tar.0000") as archive:
        assert "./results/trained.json" in archive.getnames()
    # A rehearsal has folders of its own, and needs no data.
    run_on_accelerator(*folders, seconds=60.0, rehearsal=True)
    assert (tmp_path / "out" / "rehearsal" / "accelerator_run.json").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"names": ["timed", "no"]}, "unknown stage no: choose all, or .*trained"),
        ({"packed": None}, "the trainings need --packed"),
        ({"packed": bundle.Path("no")}, "no lacks mnist_train.npz"),
        ({"classifier": None}, "need the classifier on clean images"),
        ({"classifier": "absent.npz"}, "no classifier at absent.npz"),
        ({"seconds": 30.0}, "the time must be above 30 s"),
    ],
)
def test_wrong_input_comes_first(on_a_card, tmp_path, changes, message):
    options = {"seconds": 60.0, "packed": tmp_path}
    options |= {"classifier": tmp_path / "weights.npz", **changes}
    if options["classifier"]:
        options["classifier"] = bundle.Path(options["classifier"])
    with pytest.raises((ValueError, OSError), match=message):
        run_on_accelerator(tmp_path / "out", tmp_path / "work", **options)
    assert not (tmp_path / "out").exists() and not accelerator_run.CLASSIFIER.exists()


def test_another_classifier_is_not_replaced(on_a_card, tmp_path):
    accelerator_run.CLASSIFIER.parent.mkdir(parents=True)
    accelerator_run.CLASSIFIER.write_bytes(b"others")
    options = {"packed": tmp_path, "classifier": tmp_path / "weights.npz"}
    with pytest.raises(ValueError, match="is there and is not"):
        run_on_accelerator(tmp_path, tmp_path, seconds=60.0, **options)


def test_a_cpu_only_rehearses(on_a_card, tmp_path, monkeypatch):
    monkeypatch.setattr(accelerator_run, "_device_kind", lambda: "cpu")
    with pytest.raises(ValueError, match="no accelerator here: use --rehearsal"):
        run_on_accelerator(tmp_path, tmp_path, seconds=60.0, names=["timed"])


def test_archive_is_cut_into_parts_and_whole_again(stage, tmp_path):
    run, stages = begin(tmp_path), [stage("a"), stage("b")]
    run.run_alone(stages)
    run.collect(stages, part_bytes=1000)
    parts = sorted(run.out.glob("results.tar.*"))
    assert len(parts) > 2
    assert {len(part.read_bytes()) for part in parts[:-1]} == {1000}
    joined = io.BytesIO(b"".join(part.read_bytes() for part in parts))
    with tarfile.open(fileobj=joined) as archive:
        names = {x.removeprefix("./") for x in archive.getnames()}
    assert {"results/a.json", "results/b.json", "logs/a.log"} <= names
    assert "accelerator_run.json" in names


def test_parts_stay_until_the_next_are_complete(tmp_path):
    path = tmp_path / "x"

    def write(*pieces):
        with PartsWriter(path, 3) as file:
            for piece in pieces:
                file.write(piece)

    write(b"abcd", b"efgh")
    assert [x.read_bytes() for x in sorted(tmp_path.iterdir())] == [
        b"abc",
        b"def",
        b"gh",
    ]
    with pytest.raises(TypeError):
        write(b"XYZW", None)
    assert [x.read_bytes() for x in sorted(tmp_path.iterdir())] == [
        b"abc",
        b"def",
        b"gh",
    ]
    write(b"0")
    assert [x.name for x in tmp_path.iterdir()] == ["x.0000"]
    with pytest.raises(ValueError, match="bytes of a part must be .*: 0"):
        PartsWriter(path, 0)


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

    # The parameters once instead of twice.
    assert size("copy") < 0.75 * size("run")


@pytest.mark.parametrize("rehearsal", [False, True])
def test_stages_are_commands_of_ours(tmp_path, rehearsal):
    stages = timed_stages(tmp_path, "h100", rehearsal=rehearsal)
    stages += trainings(tmp_path, tmp_path / "data", rehearsal=rehearsal)
    stages += preparations(tmp_path, tmp_path / "data")
    assert len({stage.name for stage in stages}) == len(stages)
    assert len({stage.result for stage in stages}) == len(stages)
    preset = flatten_config(get_config("smoke" if rehearsal else "full").to_dict())
    for stage in stages:
        given = dict(
            x.removeprefix("--").split("=", 1) for x in stage.command[1:] if "=" in x
        )
        if stage.command[0] == "launch.benchmark":
            assert set(given["what"].split(",")) == set(stage.rows) <= ROWS.keys()
            assert given["out"] == str(stage.result)
        elif stage.command[0] == "launch.reproduce":
            experiments = given["experiment"].split(",")
            assert set(experiments) <= EXPERIMENTS.keys()
            assert stage.result.stem == experiments[-1]
            assert str(stage.result.parent) == given["workdir"]
            fields = {x.removeprefix("config.") for x in given if "config." in x}
            assert fields <= preset.keys()
        else:
            assert stage.command[0] == "launch.prepare_data" and not stage.is_finished()


@pytest.mark.parametrize(
    ("kind", "name"),
    [("NVIDIA H100 80GB HBM3", "h100"), ("NVIDIA A100-SXM4-40GB", "a100")]
    + [("cpu", "cpu"), ("TPU v5", "tpu_v5")],
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
