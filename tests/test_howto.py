"""What the how-tos tell people to type works: Python is run, commands are read."""

import ast
import importlib
import inspect
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from absl import app, flags
from flax import linen as nn
from flax import nnx
from PIL import Image
from test_configs import load, save_models, save_untrained

# Defines the flags of every command, which stay.
from launch import cli  # noqa: F401
from uronet_jax import adapters, command, quickstart
from uronet_jax.arena.run import run_arena
from uronet_jax.models import make_classifier, make_remover
from uronet_jax.pretrained import PRETRAINED_FOLDER, list_pretrained
from uronet_jax.training import experiment
from uronet_jax.training.phases import PHASES

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
HOWTO = ROOT / "docs" / "howto"
PAGES = sorted(HOWTO.glob("*.md"))
GUIDE = ROOT / "docs" / "GUIDE.md"
CARDS = [PRETRAINED_FOLDER / f"{name}.md" for name in list_pretrained()]
IMAGES = np.random.default_rng(0).uniform(size=(4, 32, 32, 3)).astype(np.float32)


def blocks(path, language):
    text = path.read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def commands(path):
    """Returns the arguments of every `uronet` of a page."""
    lines = "\n".join(blocks(path, "bash")).replace("\\\n", " ").splitlines()
    lines = [line for line in lines if line.startswith("uronet ")]
    return [shlex.split(line, comments=True)[1:] for line in lines]


@pytest.fixture
def read(monkeypatch):
    """Returns `read(arguments) -> values of the flags`; nothing is started."""
    values = {}

    def stop(main, flags_parser):
        rest = flags_parser(command.sys.argv)
        values.update(flags.FLAGS.flag_values_dict(), rest=rest[1:])

    monkeypatch.setattr(app, "run", stop)

    def read(arguments):
        values.clear()
        known = set(flags.FLAGS)
        try:
            command.main(arguments)
        finally:
            for name in set(flags.FLAGS) - known:
                delattr(flags.FLAGS, name)
        return dict(values)

    return read


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:'launch.[a-z_]+' found:RuntimeWarning")  # By tests.
@pytest.mark.parametrize("page", [README, *PAGES, GUIDE, *CARDS], ids=lambda x: x.stem)
def test_commands(page, read, monkeypatch):
    monkeypatch.setattr(command.sys, "argv", [])
    monkeypatch.setattr(command.sys, "path", [*command.sys.path])
    monkeypatch.setattr(command.sys.modules["__main__"], "__doc__", "")
    lines = commands(page)
    assert len(lines) > 2 or page == README
    made = set()
    for words in lines:
        values = read(words)
        if words[0] in ("train", "evaluate", "attack", "reproduce"):
            config = values["config"].to_dict()
        if words[0] == "train":
            assert config["phase"] in PHASES
            experiment.check_config(config)
        if words[0] == "attack":
            assert config["detector"] or "detector_aware" not in config["threats"]
        # Runs that a command names were made by one before it.
        named = re.findall(
            r"--(?:config\.)?(?:purifier|detector|classifier)=(runs/\S+)",
            " ".join(words),
        )
        assert set(named) <= made, words
        made |= {values[name] for name in ("workdir", "out") if values.get(name)}


def student(tmp_path, make_variables, monkeypatch):
    """The networks of the quickstart, untrained."""

    def train(settings):
        classifier, detector = (make_classifier("cnn_narrow", n) for n in (10, 2))
        remover = make_remover("skip", widths=(2, 2))
        parts = {"classifier": classifier, "detector": detector, "purifier": remover}
        shapes = {"detector": (28, 28, 2)}
        variables = {
            role: make_variables(module, shapes.get(role, (28, 28, 1)))
            for role, module in parts.items()
        }
        return quickstart.QuickstartModels(classifier, remover, detector, variables)

    monkeypatch.setattr(quickstart, "train", train)
    return {}


class Small(nn.Module):
    """A linen classifier."""

    @nn.compact
    def __call__(self, images):
        return nn.Dense(10)(images.reshape(len(images), -1))


class SmallNNX(nnx.Module):
    def __init__(self):
        self.last = nnx.Linear(3, 10, rngs=nnx.Rngs(0))

    def __call__(self, images):
        return self.last(images.mean((1, 2)))


def engineer(tmp_path, make_variables, monkeypatch):
    """Classifiers of several kinds, and runs where the page makes them."""
    runs = save_models(tmp_path / "made", make_variables)
    (tmp_path / "runs/mine").mkdir(parents=True)
    for role, name in (("purifier", "remover"), ("detector", "detector")):
        Path(runs[role]).rename(tmp_path / "runs/mine" / name)
    Image.new("RGB", (40, 30), (80, 9, 200)).save(tmp_path / "photo.png")
    module = Small()
    return {
        "linen_module": module,
        "linen_variables": make_variables(module, (32, 32, 3)),
        "nnx_module": SmallNNX(),
        "predict": lambda images: images.mean((1, 2)) @ np.ones((3, 10)),
        "paths": [tmp_path / "photo.png"] * 4,
        "labels": np.arange(4),
    }


def researcher(tmp_path, make_variables, monkeypatch):
    """The networks of the quickstart, untrained; see `shrink`."""
    return student(tmp_path, make_variables, monkeypatch)


def shrink(names):
    """Leaves few images, which the classifier is right on, and few steps."""
    images = names["images"] = names["images"][:4]
    names["labels"] = np.argmax(names["logits_fn"](images), axis=-1)
    names["steps"] = 2


# The page shows one.
@pytest.mark.filterwarnings("ignore::uronet_jax.attacks.MisleadingEvaluation")
@pytest.mark.parametrize("prepare", [student, engineer, researcher])
def test_python(prepare, tmp_path, make_variables, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = prepare(tmp_path, make_variables, monkeypatch)
    for block in blocks(HOWTO / f"{prepare.__name__}.md", "python"):
        if "torch_module" not in block:
            exec(compile(block, prepare.__name__, "exec"), names)
        if "epsilon, steps =" in block:
            shrink(names)
    if prepare is researcher:  # As the page says of it.
        found = {
            row["threat"]: row["robust_accuracy"]
            for row in names["rows"]
            if row["attack"] == "pgd_linf" and not row.get("sanity")
        }
        assert found["white_box"] > found["adaptive"]
        assert {x["kind"] for x in names["warnings"]} >= {"sanity", "zero_gradients"}


def test_a_defence_joins_the_arena(tmp_path, make_variables):
    """The function and the card of the page, as they stand there."""
    page = HOWTO / "arena.md"
    for name, language in (("mine.py", "python"), ("mine.json", "json")):
        (block,) = blocks(page, language)
        (tmp_path / name).write_text(block)
    # Ten lines and what stands around them.
    assert len((tmp_path / "mine.py").read_text().split("def load")[1].split("\n")) < 11
    folder = save_untrained("classifier", tmp_path / "classifier", make_variables)
    columns = ("clean", "fairness", "noises")
    config = load("arena", classifier=str(folder), columns=columns)
    content = run_arena(config, tmp_path / "arena", cards=[tmp_path / "mine.json"])
    (row,) = content["rows"]
    assert (row["status"], row["flags"]) == ("done", [])
    assert row["card"]["name"] == "Binomial blur" and set(row["cells"]) == set(columns)


@pytest.mark.parametrize("page", [README, GUIDE], ids=lambda x: x.stem)
def test_imports(page):
    for block in blocks(page, "python"):
        names, tree = {}, ast.parse(block)
        tree.body = [x for x in tree.body if isinstance(x, ast.Import | ast.ImportFrom)]
        exec(compile(tree, page.name, "exec"), names)
        package = names.get("uronet_jax")
        for name in re.findall(r"uronet_jax\.(\w+)\(", block):
            assert name in package.__all__


ROOMS = ("attacks", "corruptions", "data", "models", "transformations")


def test_the_reference_has_every_public_name():
    pages = (ROOT / "docs" / "api").glob("*.md")
    shown = " ".join(path.read_text(encoding="utf-8") for path in pages)
    for room in ("uronet_jax", *(f"uronet_jax.{room}" for room in ROOMS)):
        room = importlib.import_module(room)
        if f"automodule:: {room.__name__}\n" in shown:
            continue
        for name in room.__all__:
            thing = getattr(room, name)
            if inspect.isclass(thing) or inspect.isfunction(thing):
                assert re.search(rf"\.{name}\b", shown), f"{room.__name__}.{name}"


def test_pytorch():
    torch = pytest.importorskip("torch")
    pooled = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    names = {"adapters": adapters, "torch_module": pooled}
    (block,) = (x for x in blocks(HOWTO / "engineer.md", "python") if "torch_m" in x)
    exec(block, names)
    found = names["classify"](names["weights"], IMAGES)
    mean, std = (np.asarray(names["statistics"][key]) for key in ("mean", "std"))
    # The means of normalized images, in float32.
    np.testing.assert_allclose(found, (IMAGES.mean((1, 2)) - mean) / std, atol=1e-5)
    # The guide's block with the pretrained weights.
    pooled = torch.nn.Sequential(*pooled, torch.nn.Linear(3, 10))
    names = {"torch_module": pooled, "images": IMAGES}
    (block,) = (x for x in blocks(GUIDE, "python") if "torch_module" in x)
    exec(block, names)
    *_, last = block.strip().splitlines()
    assert eval(last, names).shape == (4, 10)
