"""The command `uronet`, from a wheel and far from the clone.

With URONET_COMMAND, the path of an installed `uronet`, that one is run, as `.ci/run`
does. Else the wheel is built and unpacked, and its package run with the packages that
are installed here; then only some commands are asked for help or called wrongly: each
takes seconds.
"""

import ast
import csv
import importlib
import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import uronet_jax
from launch import list as lists
from uronet_jax import command
from uronet_jax.attacks import ATTACKS
from uronet_jax.corruptions import CORRUPTIONS, SUITES
from uronet_jax.models import CLASSIFIERS
from uronet_jax.pretrained import list_pretrained
from uronet_jax.training.phases import PHASES
from uronet_jax.transformations import TRANSFORMATIONS

ROOT = Path(__file__).resolve().parents[2]


def build(source, folder):
    """Returns the wheel and the sdist of a source tree."""
    pytest.importorskip("hatchling")
    arguments = [sys.executable, "-m", "hatchling", "build", "-d", str(folder)]
    subprocess.run(arguments, cwd=source, check=True, capture_output=True)
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return wheel, sdist


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Returns the wheel and the sdist of this clone."""
    return build(ROOT, tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def uronet(tmp_path_factory, request):
    """Returns `uronet(*arguments, cwd=...) -> (status, output, errors)`."""
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    environment.pop("PYTHONPATH", None)
    executable = [os.environ.get("URONET_COMMAND", "")]
    if not executable[0]:
        site = tmp_path_factory.mktemp("site")
        with zipfile.ZipFile(request.getfixturevalue("built")[0]) as wheel:
            wheel.extractall(site)
        environment["PYTHONPATH"] = str(site)
        executable = [sys.executable, "-m", "uronet_jax"]
    elsewhere = tmp_path_factory.mktemp("elsewhere")

    def uronet(*arguments, cwd=elsewhere):
        done = subprocess.run(
            [*executable, *arguments],
            cwd=cwd,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        return done.returncode, done.stdout, done.stderr

    return uronet


def files_of(folder):
    """Returns the files of a package by their paths in it."""
    paths = [p for p in (ROOT / folder).rglob("*") if p.is_file()]
    return {
        str(p.relative_to(ROOT / folder)) for p in paths if "__pycache__" not in p.parts
    }


def test_wheel_holds_the_package_programs_and_configs_and_nothing_else(built):
    with zipfile.ZipFile(built[0]) as wheel:
        names = set(wheel.namelist())
        info = f"uronet_jax-{uronet_jax.__version__}.dist-info"
        scripts = wheel.read(f"{info}/entry_points.txt").decode()
    assert {name.split("/")[0] for name in names} == {"uronet_jax", info}
    expected = {f"uronet_jax/{name}" for name in files_of("uronet_jax")}
    for folder in ("launch", "configs"):
        expected |= {f"uronet_jax/_programs/{folder}/{x}" for x in files_of(folder)}
    assert {name for name in names if not name.startswith(info)} == expected
    for name in (
        "py.typed",
        "papers/uronet/published/uronet_table02.csv",
        "reports/published/robustbench_cifar10_c.csv",
        "transformations/dictionaries/colour.npy",
        "_programs/configs/remover.py",
    ):
        assert f"uronet_jax/{name}" in expected
    assert "uronet = uronet_jax.command:main" in scripts


def test_sdist_makes_the_same_wheel(built, tmp_path):
    with tarfile.open(built[1]) as sdist:
        sdist.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    wheel, _ = build(source, tmp_path / "dist")
    assert wheel.read_bytes() == built[0].read_bytes()


def test_help_lists_the_commands_and_imports_nothing_slow():
    code = (
        "import sys; from uronet_jax import command; command.main(['--help']); "
        "slow = {'jax', 'numpy', 'absl', 'flax', 'ml_collections'} & set(sys.modules); "
        "assert not slow, slow"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True
    )
    lines = run.stdout.decode().splitlines()
    for name in command.COMMANDS:
        (line,) = (x for x in lines if x.split()[:1] == [name])
        assert line.endswith(".") and len(line.split()) > 4


def test_every_program_is_a_command_or_for_those_who_develop():
    programs = {path.stem for path in (ROOT / "launch").glob("*.py")}
    inside = {"__init__", "cli", "accelerator_run", "attack_agreement", "fidelity"}
    inside |= {"compile_gpu", "pack_pretrained", "sizes"}
    assert set(command.COMMANDS.values()) == programs - inside


def flags_of(tree):
    """Returns the names of the flags that the source of a program defines."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    names = [x for x in calls if getattr(x.func, "attr", "").startswith("DEFINE_")]
    found = {node.args[0].value for node in names}
    if any(getattr(x.func, "attr", "") == "define_experiment_flags" for x in calls):
        found |= {"config", "workdir", "data_dir"}
    return found


def test_purify_from_the_package(uronet, tmp_path):
    for i, size in enumerate(((5, 7), (40, 30), (16, 16))):
        Image.new("RGB", size, (80, 9, 200)).save(tmp_path / f"{i}.png")
    options = ("--out=clean", "--purifier=bit_depth:bits=1")
    status, output, errors = uronet("purify", "*.png", *options, cwd=tmp_path)
    assert status == 0, errors
    assert "purified 3 pictures, 0 failed" in output
    assert errors.count("compiling") == 1 and "\r" not in errors
    for i in range(3):
        with Image.open(tmp_path / f"clean/{i}.png") as image:
            assert image.getcolors() == [(image.width * image.height, (0, 0, 255))]


def test_purify_takes_weights_of_the_package(uronet, tmp_path):
    noise = np.random.default_rng(0).normal(128, 40, (32, 32, 3)).clip(0, 255)
    Image.fromarray(noise.astype(np.uint8)).save(tmp_path / "one.png")
    status, _, errors = uronet("purify", "one.png", "--out=clean", cwd=tmp_path)
    assert status == 0, errors
    with open(tmp_path / "clean" / "verdicts.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["verdict"], row["error"]) == ("degraded", "")


HELPED = ("train", "purify", "list")
if os.environ.get("URONET_COMMAND"):
    HELPED = tuple(command.COMMANDS)


@pytest.mark.parametrize("name", HELPED)
def test_help_of_a_command(name, uronet):
    status, output, errors = uronet(name, "--help")
    assert (status, errors) == (0, "")
    path = ROOT / "launch" / f"{command.COMMANDS[name]}.py"
    tree = ast.parse(path.read_text(encoding="utf-8"))
    shown = set(re.findall(r"^  --(?:\[no\])?(\w+):", output, re.MULTILINE))
    assert shown == flags_of(tree)
    assert output.startswith(f"{ast.get_docstring(tree).splitlines()[0]}\n")
    assert re.search(rf"^ *uronet {name} ", output, re.MULTILINE)
    assert "launch." not in output and "_programs" not in output


def test_training_and_judging_far_from_the_clone(uronet, tmp_path):
    status, output, errors = uronet(
        *("train", "--config=classifier:smoke", "--workdir=runs/classifier"),
        *("--config.model.name=cnn_narrow", "--config.num_steps=3"),
        cwd=tmp_path,
    )
    assert status == 0, errors
    assert output.startswith("finished classifier at step 3: validation accuracy")
    # A config of one's own, that builds on one of the package.
    (tmp_path / "mine.py").write_text(
        "from configs import evaluate\n\n\n"
        "def get_config(preset):\n"
        "    config = evaluate.get_config(preset)\n"
        "    config.classifier = 'runs/classifier'\n"
        "    config.suite.noises = ('GN',)\n"
        "    return config\n"
    )
    judge = ("evaluate", "--config.detector=", "--workdir=judged")
    purifier = "--config.purifier=jpeg:quality=75"
    status, output, errors = uronet(
        *(judge[0], "--config", "mine.py:smoke", *judge[1:], purifier), cwd=tmp_path
    )
    assert status == 0, errors
    assert "wrote evaluation.json and evaluation.md to judged" in output
    result = json.loads((tmp_path / "judged" / "evaluation.json").read_text())
    assert result["config"]["suite"]["noises"] == ["GN"]
    assert result["config"]["classifier"] == "runs/classifier"
    rows = [(row["noise"], row["severity"]) for row in result["rows"]]
    assert rows == [("GN", severity) for severity in (1, 2, 3)]
    # Python keeps mine.py compiled beside it, but where PYTHONDONTWRITEBYTECODE is set.
    found = {path.name for path in tmp_path.iterdir()} - {"__pycache__"}
    assert found == {"runs", "mine.py", "judged"}


CONFIGS = (
    "adversarial_noise, adversarial_training, classifier, detector, reconstructor, "
    "remover"
)
FLAGS = "(--help lists the flags)"


WRONG = [
    (
        ["trian"],
        "unknown command 'trian' (nearest: 'train'): `uronet --help` lists them",
    ),
    (["--verbose"], "unknown command '--verbose': `uronet --help` lists them"),
    (
        ["train", "--config=remver:smoke", "--workdir=x"],
        "flag --config=remver:smoke: no config 'remver' (nearest: 'remover'): "
        f"choose from {CONFIGS}; a file of your own is named FILE.py:PRESET {FLAGS}",
    ),
    (
        ["train", "--config=PHASE:PRESET", "--workdir=x"],
        f"flag --config=PHASE:PRESET: no config 'PHASE': choose from {CONFIGS}; a file "
        f"of your own is named FILE.py:PRESET {FLAGS}",
    ),
    (
        ["train", "--config=remover:PRESET", "--workdir=x"],
        "unknown preset 'PRESET': choose from full, small, smoke, universal, "
        "universal_small, universal_smoke, smoothing, smoothing_small, "
        f"smoothing_smoke {FLAGS}",
    ),
    (
        ["arena", "--config=remover:small", "--workdir=x"],
        "flag --config=remover:small: the config 'remover' is of another command: "
        f"choose from arena; a file of your own is named FILE.py:PRESET {FLAGS}",
    ),
    (
        ["train", "--config", "remover:smke", "--workdir=x"],
        "unknown preset 'smke' (nearest: 'smoke'): choose from full, small, "
        "smoke, universal, universal_small, universal_smoke, smoothing, "
        f"smoothing_small, smoothing_smoke {FLAGS}",
    ),
    (
        ["train", "--config=configs/remover.py:smoke", "--workdir=x"],
        "flag --config=configs/remover.py:smoke: no file configs/remover.py: that "
        f"of the package is named remover:smoke {FLAGS}",
    ),
    (
        ["train", "--config=remover:smoke", "--config.num_stps=3", "--workdir=x"],
        "unknown config field 'num_stps': Did you mean \"num_steps\" instead of "
        '"num_stps"?',
    ),
    (["quickstart", "now"], "unexpected arguments: now"),
    (["purify", "photos"], f"--out is missing {FLAGS}"),
    (
        ["list", "atacks"],
        "unknown kind 'atacks' (nearest: 'attacks'): choose from "
        f"{', '.join(lists.KINDS)}",
    ),
]


@pytest.mark.parametrize(
    ("arguments", "expected"), WRONG if os.environ.get("URONET_COMMAND") else WRONG[::3]
)
def test_wrong_input_is_reported_in_one_line(arguments, expected, uronet):
    assert uronet(*arguments) == (2, "", f"error: {expected}\n")


def test_without_a_command_all_are_listed(uronet):
    status, output, errors = uronet()
    assert (status, output) == (2, "") and errors == uronet("--help")[1]
    assert uronet("--version") == (0, f"uronet_jax {uronet_jax.__version__}\n", "")


def names_of(text):
    """Returns what a printed list names, kind by kind."""
    sections = [section.splitlines() for section in text.split("\n\n")]
    for first, *entries in sections:
        assert first.endswith(f" ({len(entries)})")
    return {x[0].split()[0]: [y.split()[0] for y in x[1:]] for x in sections}


def test_list_names_every_entry(uronet):
    status, output, errors = uronet("list")
    assert (status, errors) == (0, "")
    found = names_of(output)
    assert {kind: set(names) for kind, names in found.items()} == {
        "corruptions": set(CORRUPTIONS),
        "suites": set(SUITES),
        "attacks": set(ATTACKS),
        "transformations": set(TRANSFORMATIONS),
        "classifiers": set(CLASSIFIERS),
        "pretrained": set(list_pretrained()),
        "configs": {*PHASES, "evaluate", "attack", "arena", "certify", "reproduce"},
    }
    some = names_of(uronet("list", "suites", "attacks")[1])
    assert some == {kind: found[kind] for kind in ("suites", "attacks")}


def test_the_list_of_classifiers_tells_them_apart():
    lines = lists.KINDS["classifiers"]()
    assert lines["resnet20"].startswith("ResNet-20 for small images")
    assert lines["resnet50"].startswith("ResNet-50 for photographs")
    assert lines["wrn16_8"] == "Wide ResNet 16-8 for small images."
    assert lines["cnn_narrow"] == f"{lines['cnn']} (width=8)"
    assert len(set(lines.values())) == len(lines) and "`" not in "".join(lines.values())


@pytest.mark.parametrize("name", command.list_configs())
def test_the_presets_that_are_listed_are_all_there_are(name):
    module = importlib.import_module(f"configs.{name}")
    listed = lists.KINDS["configs"]()[name].partition("Presets: ")[2]
    presets = listed.rstrip(".").split(", ")
    for preset in presets:
        assert module.get_config(preset).preset in ("full", "small", "smoke")
    with pytest.raises(ValueError, match=f"choose from {', '.join(presets)}$"):
        module.get_config("none")


def test_a_clone_finds_its_own_programs(tmp_path):
    assert command.programs_folder() == ROOT
    assert command.find_config("remover:small") == f"{ROOT}/configs/remover.py:small"
    assert command.find_config("mine/own.py:a:b") == "mine/own.py:a:b"
    with pytest.raises(ValueError, match="no config ''"):
        command.find_config(":small")
    own = f"{ROOT}/configs/remover.py:small"
    assert command.find_config(own, "PHASE") == own
    for text in (f"{ROOT}/configs/attack.py:small", "remover:small"):
        with pytest.raises(ValueError, match="another command: choose from arena;"):
            command.find_config(text, "arena")
    # A file of somebody else may have any name.
    (tmp_path / "remover.py").touch()
    for mine in (f"{tmp_path}/remover.py:a", f"{ROOT}/configs/mine.py:a"):
        assert command.find_config(mine, "arena") == mine


def test_a_package_without_programs_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "__file__", str(tmp_path / "uronet_jax/command.py"))
    with pytest.raises(SystemExit, match="^2$"):
        command.main(["--help"])
    assert re.fullmatch(
        "error: no programs in .*_programs: install .* again\n", capsys.readouterr().err
    )
