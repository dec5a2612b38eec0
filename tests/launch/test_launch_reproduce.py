"""The command that reproduces the paper: smoke runs, interruptions, misuse."""

import functools
import json
import shutil

import jax
import numpy as np
import pytest
from check_reproduction import problems
from test_configs import load, save_run, tiny_reconstructor  # noqa: F401

from configs.reproduce import get_config
from uronet_jax import checkpoints
from uronet_jax.loading import load_defense
from uronet_jax.papers import runner
from uronet_jax.papers.adversarial_noise import experiments as noise_experiments
from uronet_jax.papers.all_models import open_store
from uronet_jax.papers.experiments import EXPERIMENTS, check_needs
from uronet_jax.papers.runner import choose_experiments
from uronet_jax.papers.store import Store
from uronet_jax.progress import StoppedError
from uronet_jax.training import run as trainer
from uronet_jax.training.state import initial_state

# The noises that some experiment names, so that all of them run.
FEW = {"suite__noises": ("GN", "UN", "SPN"), "suite__severities": (1, 3)}
NAMES = ("GN_2", "SN_2")
FEWEST = {"suite__noises": ("GN", "SN"), "suite__severities": (2,)}
PRESET = get_config("smoke").to_dict()
TABLES = ("table2", "table7")


def run(config, experiments, workdir, **options):
    options = {"preset": PRESET, "progress": False, **options}
    return runner.run_experiments(config, experiments, workdir, **options)


def read(workdir, name):
    """Returns a result without what differs between equal runs."""
    result = json.loads((workdir / f"{name}.json").read_text())
    for field in ("seconds", "training_seconds", "sessions"):
        result.pop(field)
    return result


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """Returns config and folder of two tables that were trained and measured."""
    config = load("reproduce", **FEWEST, data__other_classifier="")
    workdir = tmp_path_factory.mktemp("smoke")
    assert run(config, TABLES, workdir) == {}
    return config, workdir


def test_results_say_what_they_are(smoke):
    config, workdir = smoke
    assert problems(workdir, [*TABLES, "table3"]) == ["table3 was left out"]
    for name, count in (("table2", 2 * 2), ("table7", 1 + 2 + 2)):
        result = json.loads((workdir / f"{name}.json").read_text())
        assert result["schema"] == "uronet_jax.reproduction"
        assert result["experiment"] == name and result["finished"]
        assert result["missing"] == []
        assert result["config"] == json.loads(json.dumps(config))
        assert {"jax", "uronet_jax"} <= result["versions"].keys()
        assert result["device"]["platform"] == "cpu"
        assert result["seconds"] >= result["training_seconds"] >= 0.0
        (session,) = result["sessions"]
        assert session["parts"] == len(result["parts"])
        assert session["seconds"] == result["seconds"]
        assert session["device"] == result["device"]
        assert result["overridden"] == [
            "data.other_classifier", "suite.noises", "suite.severities"
        ]  # fmt: skip
        assert len(result["rows"]) == count
        assert {row["dataset"] for row in result["rows"]} == {"CIFAR-10"}
        assert {row["num_images"] for row in result["rows"]} == {16}
    models = {
        path.parent.relative_to(workdir / "models").as_posix()
        for path in workdir.glob("models/*/*/*/checkpoints")
    }
    assert models == {
        "generated/cnn/cnn_narrow",
        *(f"generated/{k}/{n}" for k in ("remover", "detector") for n in NAMES),
    }
    # They are those that other commands load.
    parts = ("remover/GN_2", "detector/GN_2", "cnn/cnn_narrow")
    folders = [workdir / "models" / "generated" / part for part in parts]
    defense = load_defense(*folders, batch_size=4)
    assert defense(np.zeros((1, 32, 32, 3), np.uint8)).logits.shape == (1, 10)


class Killed(BaseException):
    """What no code of ours catches, like SIGKILL."""


def test_killed_runs_end_with_the_results_of_an_undisturbed_one(
    smoke, tmp_path, monkeypatch
):
    """Dies in the middle of a model, then of a table."""
    config, workdir = smoke

    def die_at(number, module, name):
        original, calls = getattr(module, name), []

        def dying(*args, **kwargs):
            calls.append(name)
            if len(calls) == number:
                raise Killed
            return original(*args, **kwargs)

        monkeypatch.setattr(module, name, dying)

    # Two steps and two checkpoints each: this is after the first of the second model.
    die_at(4, checkpoints.Checkpoints, "save")
    with pytest.raises(Killed):
        run(config, TABLES, tmp_path)
    monkeypatch.undo()
    folder = tmp_path / "models" / "generated" / "remover"
    assert [trainer.finished_steps(folder / name) for name in NAMES] == [2, 1]
    die_at(1, runner, "write_json")
    with pytest.raises(Killed):
        run(config, TABLES, tmp_path)
    monkeypatch.undo()
    written, write = [], runner.write_json

    def spy(path, value):
        written.append(path.name)
        write(path, value)

    monkeypatch.setattr(runner, "write_json", spy)
    run(config, TABLES, tmp_path)
    assert written.count("table2.json") == 2 and written.count("table7.json") == 3
    for name in TABLES:
        assert read(tmp_path, name) == read(workdir, name)


def test_what_is_finished_is_left_alone_unless_forced(smoke, monkeypatch):
    config, workdir = smoke

    def files():
        found = sorted(p for p in workdir.rglob("*") if p.is_file())
        return {p: p.stat().st_mtime_ns for p in found}

    before, results = files(), [read(workdir, name) for name in TABLES]
    monkeypatch.setattr(trainer, "make_pipeline", None)  # Nothing is trained.
    run(config, TABLES, workdir)
    assert files() == before
    run(config, ["table2"], workdir, force=True)
    changed = {p.name for p, time in files().items() if before.get(p) != time}
    assert changed == {"table2.json"}
    assert [read(workdir, name) for name in TABLES] == results


def test_fields_that_a_result_does_not_depend_on_may_change(smoke, monkeypatch):
    config, workdir = smoke
    other = json.loads(json.dumps(config)) | {"log_every": 1, "pipeline": "streamed"}
    other["universal"]["num_steps"] = 5
    monkeypatch.setattr(trainer, "make_pipeline", None)  # Nothing is trained.
    assert run(other, TABLES, workdir) == {}
    other["detector"]["num_steps"] = 5
    with pytest.raises(ValueError, match=r"table2.json: .*detector.num_steps: 2 there"):
        run(other, ["table2"], workdir)
    # Without a result the models are looked at, before anything is trained.
    path, away = workdir / "table2.json", workdir / "away.json"
    path.rename(away)
    with pytest.raises(ValueError, match=r"detector/GN_2: .* num_steps: 2 there, 5"):
        run(other, ["table2"], workdir)
    away.rename(path)


def test_a_picture_that_is_missing_is_drawn(untrained, tmp_path):
    config = load("reproduce", **FEW)
    run(config, ["figure4"], tmp_path)
    picture = tmp_path / "figure4.png"
    picture.unlink()
    before = read(tmp_path, "figure4")
    run(config, ["figure4"], tmp_path)
    assert picture.exists() and read(tmp_path, "figure4") == before
    # Without its arrays it is not finished.
    (tmp_path / "figure4.npz").unlink()
    run(config, ["figure4"], tmp_path)
    assert (tmp_path / "figure4.npz").exists() and read(tmp_path, "figure4") == before


def test_results_of_other_weights_are_left_alone(smoke, monkeypatch):
    config, workdir = smoke
    result = read(workdir, "table7")
    assert result["classifiers"] == {
        "data": {"ResNet": "models/generated/cnn/cnn_narrow"}
    }
    monkeypatch.setattr(Store, "_identity", lambda *args: "another digest")
    with pytest.raises(ValueError, match="table7.json was measured with other weights"):
        run(config, ["table7"], workdir)
    assert read(workdir, "table7") == result
    run(config, ["table2"], workdir)  # It has no classifier.


def test_a_part_that_is_there_is_not_measured_again(smoke, tmp_path):
    config, workdir = smoke
    shutil.copytree(workdir, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "table7.json"
    result = json.loads(path.read_text())
    # As if a run had been stopped after two of three parts, the first of them marked.
    # Of 16 images none is 77 percent.
    result["rows"] = [row | {"value": 77.0} for row in result["rows"][:4]]
    result["parts"] = result["parts"][:2]
    result["finished"] = False
    result["rows"][0]["value"], result["rows"][1]["value"] = np.nan, 100.5
    path.write_text(json.dumps(result))
    found = problems(tmp_path, ["table7"])
    assert found[0] == "table7 is not finished, it lacks []"
    assert "a value that is not finite: {" in found[1]
    assert len(found) == 3 and "a value outside [0.0, 100.0]: {" in found[2]
    result["rows"][0]["value"] = result["rows"][1]["value"] = 77.0
    path.write_text(json.dumps(result))
    run(config, ["table7"], tmp_path)
    rows, expected = read(tmp_path, "table7")["rows"], read(workdir, "table7")["rows"]
    assert [row["value"] for row in rows[:4]] == [77.0] * 4
    assert rows[4:] == expected[4:]
    assert read(tmp_path, "table7")["finished"]
    # Both are told, with what each did.
    sessions = json.loads(path.read_text())["sessions"]
    assert [session["parts"] for session in sessions] == [3, 1]


def test_a_signal_stops_between_parts(smoke, tmp_path):
    config, workdir = smoke
    shutil.copytree(workdir, tmp_path, dirs_exist_ok=True)
    (tmp_path / "table2.json").unlink()
    path = tmp_path / "table2.json"
    with pytest.raises(StoppedError):
        run(config, ["table2"], tmp_path, stop=path.exists)
    result = read(tmp_path, "table2")
    assert len(result["parts"]) == 1 and not result["finished"]
    run(config, ["table2"], tmp_path)
    assert read(tmp_path, "table2") == read(workdir, "table2")


@pytest.fixture
def untrained(monkeypatch, make_variables):
    """Makes every model one of random weights, which takes no time."""

    def check(task, row, source, size):
        """Traces a step: that finds what does not fit together."""
        begin = functools.partial(initial_state, task.module, task.optimizer)
        state = jax.eval_shape(
            lambda key: task.extend(begin(key, task.input_shape)), jax.random.key(0)
        )
        source = row.sources()[0] if row.sources else source
        index = np.arange(size)
        batch = dict(zip(("image", "label"), source.read(index), strict=True))
        if row.sources:
            batch["degraded"] = source.read_degraded(index)
        batch["index"] = index.astype(np.int32)
        after, sums = jax.eval_shape(task.step, state, row.frozen(), batch)
        assert jax.tree.structure(after) == jax.tree.structure(state)
        assert {"loss", "count"} <= sums.keys()

    def write(task, rows, train_source, validation_source, schedule, **options):
        kind = rows[0].config["kind"]
        if kind not in ("cnn", "remover", "detector"):  # The other tests train these.
            check(task, rows[0], train_source, schedule.batch_size)
        variables = make_variables(task.module, task.input_shape)
        for row in rows:
            if trainer.finished_steps(row.workdir) != schedule.num_steps:
                save_run(row.workdir, schedule.num_steps, variables, row.config)
        return True

    monkeypatch.setattr(trainer, "train_grid", write)


# Of each suite, for whom all take long to compile.
SOME = {
    "cifar_c": ["gaussian_noise", "contrast", "speckle_noise", "saturate"],
    "mnist_c": ["identity", "brightness", "impulse_noise"],
}


# The code of others on other data or before another classifier, or what takes long with
# more models. `.ci/run` runs all, and checks what they leave as it is checked here, see
# check_reproduction.py.
ALIKE = {
    *("table3", "table8", "table10", "table11", "figure5_photographs"),
    *("ablations", "universal_trials"),
    *("ant_cifar10_attacks", "ant_mnist_attacks", "ant_mnist_scan"),
    "reconstructive_transfer",
}


@pytest.mark.usefixtures("tiny_reconstructor")
def test_every_experiment_runs(untrained, tmp_path, monkeypatch):
    monkeypatch.setattr(noise_experiments, "list_corruptions", SOME.get)
    # Both classifiers of one architecture: half as much to compile.
    narrow = {f"{x}__other_classifier": "train:cnn_narrow" for x in ("data", "second")}
    few = {"noise_training__models": ("ANT 1x1",)}
    few["mnist_noise_training__models"] = ("PGD training",)
    # Every attack is compiled anew for every defence. One attack, quilting, which is
    # random, a transformation that is not and an autoencoder make each kind of program
    # once; `.ci/run` has the preset's own: two attacks, a second random transformation,
    # the URoNet remover, and two autoencoders of the paper's size.
    few["reconstructive__attacks"] = ("FGSM=fgsm_linf:epsilon=0.01",)
    few["reconstructive__transformations"] = ("bits=bit_depth",)
    few["reconstructive__no_white_box"] = ("bits",)
    few["reconstructive__clean_share"] = 0.0
    few["reconstructive__variant"] = "tiny"
    few["reconstructive__remover"] = "none"
    few["resolutions__severity"] = 1
    config = load("reproduce", **FEW, **narrow, **few)
    chosen = [name for name in choose_experiments("all") if name not in ALIKE]
    assert len(chosen) == len(EXPERIMENTS) - len(ALIKE)
    assert run(config, chosen, tmp_path) == {}
    assert problems(tmp_path, chosen) == []
    drawn = {path.stem for path in tmp_path.glob("*.png")}
    assert drawn == {
        *("figure1", "figure2", "figure4", "figure5", "ant_noise"),
        "reconstructive_figure1",
    }
    _check_noise_training(tmp_path)
    noise = {row["noise"]: row["value"] for row in read(tmp_path, "figure1")["rows"]}
    # U(-0.1, 0.1) is 0.05 away on average, a normal of deviation 0.08 is 0.064; after
    # two of the steps of 0.01 an attack is 0.02 away, but where an image is black.
    assert noise["UN"] == pytest.approx(0.05, abs=0.003)
    assert noise["GN"] == pytest.approx(0.064, abs=0.004)
    assert 0.01 < noise["IFGSM"] <= 0.0205
    shown, images = (dict(np.load(tmp_path / f"figure{x}.npz")) for x in (1, 2))
    expected = np.clip(0.5 + 10 * (images["GN_1"] - images["clean"]) / 2, 0, 1)
    np.testing.assert_allclose(shown["GN_1"], expected, atol=1e-6)
    where = ("classifier", "attacked_classifier", "attack", "train_noise")
    found = {"adversarial_accuracy": {}, "robust_accuracy": {}, "accuracy_gain": {}}
    for row in read(tmp_path, "figure6")["rows"]:
        found[row["metric"]][tuple(row.get(c) for c in where)] = row["value"]
    attacked, robust, gains = found.values()
    attacked = {key[:3]: value for key, value in attacked.items()}
    assert gains
    for key, gain in gains.items():
        assert gain == pytest.approx(robust[key] - attacked[key[:3]])


def _check_noise_training(workdir):
    """What the rows on classifiers that learned noise say of one another."""
    found = {
        (row["model"], row["test"], row["metric"]): row["value"]
        for row in read(workdir, "ant_cifar10")["rows"]
    }
    assert {model for model, *_ in found} == {"Vanilla", "ANT 1x1"}

    def accuracy(test):
        return found["ANT 1x1", test, "accuracy"]

    for test, names in (
        ("4 corruptions", SOME["cifar_c"]),
        ("corruptions", ["gaussian_noise", "contrast"]),
        ("corruptions without noises", ["contrast"]),
    ):
        values = [accuracy(name) for name in names]
        assert accuracy(test) == pytest.approx(np.mean(values)), test
    rows = read(workdir, "ant_mnist")["rows"]
    assert {row["model"] for row in rows} == {"Vanilla", "PGD training"}
    found = {row["test"]: row["value"] for row in rows if row["model"] == "Vanilla"}
    two = [found["brightness"], found["impulse_noise"]]
    assert found["corruptions"] == pytest.approx(np.mean(two))
    assert found["3 with identity"] == pytest.approx(np.mean([*two, found["clean"]]))
    noisy = dict(np.load(workdir / "ant_noise.npz"))
    distance = noisy["learned, 3x3"] - noisy["clean"]
    # In float32, of 3072 numbers.
    expected = get_config("smoke").noise_training.generator_epsilon
    np.testing.assert_allclose(
        np.linalg.norm(distance.reshape(len(distance), -1), axis=1), expected, rtol=1e-5
    )


def test_what_lacks_data_is_left_out_of_all_and_said(smoke, tmp_path):
    config, workdir = smoke
    config = json.loads(json.dumps(config))
    config["second"]["name"] = "cifar100"
    nowhere = str(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="table3 lacks the training images of"):
        run(config, ["table2", "table3"], tmp_path / "new", data_dir=nowhere)
    assert not (tmp_path / "new").exists()
    some = {"data_dir": nowhere, "skip_missing": True}
    left_out = run(config, ["figure4", "table3"], tmp_path / "new", **some)
    assert list(left_out) == ["table3"]
    assert (tmp_path / "new" / "figure4.json").exists()
    # A classifier that is named is no data that may be missing.
    named = config | {"data": config["data"] | {"classifier": "runs/none.npz"}}
    with pytest.raises(FileNotFoundError, match="runs/none.npz.*data.classifier to"):
        run(named, ["figure4", "table7"], tmp_path / "third", **some)
    assert not (tmp_path / "third").exists()
    # When the data come, the other half is added and nothing is measured again.
    store = open_store(config, tmp_path, data_dir=nowhere)
    lacks = check_needs(store, "table5")
    assert lacks["second"].what == "the training images of CIFAR-100 (train[:48])"


def test_a_folder_of_another_config_or_schema_is_left_alone(smoke, tmp_path):
    config, workdir = smoke
    shutil.copytree(workdir, tmp_path, dirs_exist_ok=True)
    before = {*tmp_path.rglob("*")} - {tmp_path / ".lock"}
    other = json.loads(json.dumps(config)) | {"seed": 3}
    other["remover"]["widths"] = [8, 8]
    with pytest.raises(
        ValueError, match=r"remover.widths: \[4, 4\] there, \[8, 8\] now; seed: 0 there"
    ):
        run(other, TABLES, tmp_path)
    with checkpoints.locked_workdir(tmp_path):
        with pytest.raises(OSError, match="another run is using workdir"):
            run(config, TABLES, tmp_path)
    path = tmp_path / "table2.json"
    result = json.loads(path.read_text())
    path.write_text(json.dumps(result | {"schema_version": 0}))
    with pytest.raises(ValueError, match="version 0, this program writes .* version 1"):
        run(config, TABLES, tmp_path)
    path.write_text("{")
    with pytest.raises(ValueError, match="table2.json is no result.*move it away"):
        run(config, TABLES, tmp_path)
    path.write_text(json.dumps(result | {"config": other}))
    with pytest.raises(ValueError, match="seed: 3 there, 0 now"):
        run(config, TABLES, tmp_path)
    assert {*tmp_path.rglob("*")} - {tmp_path / ".lock"} == before


def test_experiments_are_chosen_by_name():
    assert choose_experiments("all") == list(EXPERIMENTS)
    assert choose_experiments("table7, table2,table7") == ["table7", "table2"]
    for wrong in ("table1", "", "table2,all"):
        with pytest.raises(ValueError, match="unknown experiment.*table2: detection"):
            choose_experiments(wrong)


def test_the_command_reports_one_line(start, tmp_path):
    process = start(
        *("-m", "launch.reproduce", f"--workdir={tmp_path}/new"),
        *("--config=configs/reproduce.py:smoke", "--experiment=table1"),
    )
    output, errors = process.communicate()
    assert (process.returncode, output) == (2, "")
    assert errors.startswith("error: unknown experiment 'table1' (nearest: ")
    assert "): choose all" in errors
    assert errors.count("\n") == 1 and not (tmp_path / "new").exists()
