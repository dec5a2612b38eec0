"""Weights that ship: made of runs, read by name, damaged, and what is shipped."""

import json
import re
import shutil
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from safetensors.numpy import load_file
from test_configs import load, save_run, save_untrained

import uronet_jax
from launch.pack_pretrained import read_bits
from uronet_jax import loading, packing, pretrained, sharding
from uronet_jax.corruptions import suite_degradations
from uronet_jax.data.packed import load_packed
from uronet_jax.defense import DefenseFunction, classifier_function
from uronet_jax.evaluation.judge import Judge
from uronet_jax.image_quality import PSNR_CAP
from uronet_jax.photos.purify import load_photo_models
from uronet_jax.rounding import BITS
from uronet_jax.training.experiment import build_experiment
from uronet_jax.training.phases import find_phase

ROOT = Path(__file__).parents[1]
SHAPE = (32, 32, 3)
NAME = "universal-tiny"
CARD = """## Numbers

71.3 % behind a ResNet-8, from docs/results/cifar10_universal.json.

## Limits

Noise alone.

## How to make it again

By hand.
"""
MODELS = {
    "purifier": ("remover", {"variant": "blend_dcae", "widths": (2,), "mirror": True}),
    "detector": ("detector", {"name": "wrn10_1", "inputs": "image"}),
}


def save_models(folder, make_variables, *, dtype="float32", representable=False):
    """Writes two runs that belong together; returns their folders."""
    runs, learned_behind = {}, {}
    for seed, (role, (phase, model)) in enumerate(MODELS.items()):
        config = load(phase) | {"model": model, "dtype": dtype}
        config["resolved"] = learned_behind | {
            **{"image_shape": SHAPE, "num_classes": 10, "clean_mean": 0.5},
            **{"mean": [0.5] * 3, "std": [0.25] * 3},
        }
        found = find_phase(phase)
        shape = found.input_shape(config, SHAPE)
        variables = make_variables(found.build(config), shape, seed)
        if representable:
            variables = jax.tree.map(rounded, variables)
        runs[role] = str(folder / phase)
        save_run(runs[role], 3, variables, config)
        if role == "purifier":
            identity = loading.load_model(runs[role]).identity
            learned_behind = {"purifier": identity}
    return runs


def rounded(x):
    return np.asarray(x, np.float16).astype(np.float32)


@pytest.fixture(scope="module")
def runs(tmp_path_factory, make_variables):
    return save_models(tmp_path_factory.mktemp("runs"), make_variables)


@pytest.fixture(scope="module")
def card(tmp_path_factory):
    path = tmp_path_factory.mktemp("card") / "card.md"
    path.write_text(CARD)
    return path


@pytest.fixture(scope="module")
def packed(runs, card, tmp_path_factory):
    """Returns a folder with an entry."""
    folder = tmp_path_factory.mktemp("entries") / "new"
    about = "Made up."
    packing.pack_pretrained(
        **runs, name=NAME, about=about, card=card, folder=folder, count=16
    )
    return folder


@pytest.fixture
def shipped(packed, tmp_path, monkeypatch):
    """Returns a copy of that folder, from which the package takes its weights."""
    folder = shutil.copytree(packed, tmp_path / "shipped")
    monkeypatch.setattr(pretrained, "PRETRAINED_FOLDER", folder)
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.fixture(scope="module")
def classifier(tmp_path_factory, make_variables):
    return save_untrained("classifier", tmp_path_factory.mktemp("c"), make_variables)


IMAGES = np.random.default_rng(1).integers(256, size=(3, *SHAPE), dtype=np.uint8)


def test_models_are_those_of_the_runs_in_few_bits(runs, packed):
    models = uronet_jax.load_pretrained(NAME, folder=packed)
    weights = load_file(packed / f"{NAME}.safetensors")
    # Two kernels of more than 10,000 weights, of 3x3 pixels, in 10 bits.
    large = {x.removesuffix(".codes") for x in weights if x.endswith(".codes")}
    sizes = [weights.pop(f"{kernel}.codes").size for kernel in sorted(large)]
    assert sizes == [9 * 32 * 64 * 10 / 8, 9 * 64 * 64 * 10 / 8]
    assert {weights.pop(f"{kernel}.scales").shape for kernel in large} == {(64,)}
    assert {x.dtype for x in weights.values()} == {np.dtype(np.float16)}
    for role, run in runs.items():
        run, model = loading.load_model(run), getattr(models, role)
        found = flatten_dict({role: model.variables}, sep="/")
        for name, given in flatten_dict({role: run.variables}, sep="/").items():
            if name not in large:
                np.testing.assert_array_equal(found[name], rounded(given))
                continue
            # Half a step, of 511 from zero to the largest of a channel; float32.
            step = np.abs(given).max(axis=(0, 1, 2)) / 511
            assert (np.abs(found[name] - given) <= step * 0.5001).all()
        assert model.module == run.module and model.image_shape == SHAPE
        assert (model.role, model.num_classes) == (role, 10)
    # The detector is bound to what the purifier has become.
    loading.check_detector(models.detector, models.purifier)
    with pytest.raises(ValueError, match="learned behind another purifier"):
        loading.check_detector(models.detector, loading.load_model(runs["purifier"]))


def test_how_far_rounding_moves_the_outputs(packed, runs, card, make_variables):
    moved = json.loads((packed / f"{NAME}.json").read_text())["rounding"]
    assert moved["images"] == 32  # Clean and degraded.
    # The remover's kernels are small, float16. Half of the distance of two numbers in
    # it is 2^-11 of them: pictures in [0, 1] move by a small multiple of 255 / 2048.
    assert 0 < moved["grey_levels_mean"] < moved["grey_levels_max"] < 2
    assert 0 < moved["probability_max"] < 0.05
    # Of an error of so many levels, everywhere, and of the mean or less.
    levels = 255 * 10 ** (-moved["psnr"] / 20)
    assert moved["grey_levels_mean"] <= levels < moved["grey_levels_max"]
    exact = save_models(packed.parent / "exact", make_variables, representable=True)
    about = {"about": "", "card": card, "folder": packed.parent / "other", "count": 4}
    about["bits"] = ()  # All in float16.
    same = packing.pack_pretrained(**exact, name="a-b", **about).rounding
    assert (same.pop("images"), same.pop("psnr")) == (8, PSNR_CAP)
    assert set(same.values()) == {0}
    # The picture and its mirror image, without: another picture, and not by rounding.
    alone = packing.pack_pretrained(**exact, name="a-c", mirror=False, **about)
    assert alone.rounding["grey_levels_max"] == 0
    assert not alone.configs["purifier"]["model"]["mirror"]
    found, other = (
        loading.load_pretrained(x, folder=about["folder"]).purifier
        for x in "a-b a-c".split()
    )
    assert found.module == other.module.clone(mirror=True) != other.module


def test_whatever_it_learned_in_it_computes_in_float32(card, tmp_path, make_variables):
    kept = {"dtype": "bfloat16", "representable": True}
    runs = save_models(tmp_path, make_variables, **kept)
    folder = tmp_path / "entries"
    packing.pack_pretrained(
        **runs, name=NAME, about="", card=card, folder=folder, count=4, bits=()
    )
    # Compared with itself in float32, or it would differ by more than rounding.
    moved = pretrained.read_pretrained(NAME, folder).rounding
    assert moved["grey_levels_max"] == 0
    for model in loading.load_pretrained(NAME, folder=folder):
        assert model.module.dtype == jnp.float32
        assert model.config["learned_in"] == "bfloat16"


def test_the_card_says_data_recipe_and_what_was_written(packed):
    text = (packed / f"{NAME}.md").read_text()
    assert text.startswith(f"# {NAME}\n\nMade up.\n") and text.endswith(CARD)
    assert f'load_defense("{NAME}", "{NAME}", ' in text
    config = load("remover")
    rows = dict(re.findall(r"^\| ([\w.]+) \| (.+?) \|", text, re.MULTILINE))
    assert rows["data.name"] == "generated"
    assert rows["data.train_split"] == config["data"]["train_split"]
    assert rows["model.variant"] == "blend_dcae" and rows["model.mirror"] == "true"
    assert rows["num_steps"] == "4" and "degradation.suite" in rows
    weights = load_file(packed / f"{NAME}.safetensors")
    count = sum(x.size for name, x in weights.items() if name.startswith("purifier/"))
    assert rows["weights"] == str(count)
    assert rows["learned_in"] == "float32" and "degradation.folder" not in rows
    # No paths of the machine that it learned on.
    fields = packing._config(config | {"degradation": {"folder": "/home/me/attacked"}})
    assert fields["degradation"] == {"folder": "attacked"}
    assert not {"purifier", "classifier", "initial"} & fields.keys()


def test_a_defence_by_name(shipped, classifier, runs):
    assert uronet_jax.list_pretrained() == {NAME: "Made up."}
    models = uronet_jax.load_pretrained(NAME)
    defense = uronet_jax.load_defense(NAME, NAME, classifier, batch_size=3)
    loaded = loading.load_classifier(classifier)
    function = DefenseFunction(
        classifier_function(loaded.module),
        models.purifier.module,
        models.detector.module,
    )
    variables = {role: model.variables for role, model in models._asdict().items()}
    variables["classifier"] = loaded.variables
    expected = jax.jit(function)(variables, np.float32(IMAGES) / 255)
    # Division and compilation in one program or two.
    chex.assert_trees_all_close(defense(IMAGES), jax.device_get(expected), atol=1e-5)
    photos = load_photo_models(NAME, NAME)
    assert photos.purifier.identity == models.purifier.identity
    assert photos.detector.identity == models.detector.identity
    chained = loading.load_purifier(f"bit_depth:bits=2+{NAME}")
    assert chained.image_shape == SHAPE and len(chained.variables) == 2
    with pytest.raises(ValueError, match="learned behind another purifier"):
        uronet_jax.load_defense(f"bit_depth+{NAME}", NAME, classifier)
    # A folder of that name goes first.
    shutil.copytree(runs["purifier"], NAME)
    found = loading.load_purifier(NAME)
    assert found.identity == loading.load_model(runs["purifier"]).identity


def test_training_starts_from_pretrained_weights(shipped, runs, monkeypatch):
    models = uronet_jax.load_pretrained(NAME)
    read, loaded = loading.read_pretrained, []
    monkeypatch.setattr(
        loading, "read_pretrained", lambda *given: loaded.append(1) or read(*given)
    )
    for role, (phase, model) in MODELS.items():
        fields = {f"model__{name}": value for name, value in model.items()}
        config = load(phase, initial=NAME, **fields)
        if role == "detector":
            config["purifier"] = NAME
        loaded.clear()
        built = build_experiment(config, None)
        assert len(loaded) == (2 if role == "detector" else 1)  # And its purifier.
        given = getattr(models, role)
        chex.assert_trees_all_equal(built.task.initial, given.variables)
        resolved = given.config["resolved"]
        for name in ("mean", "std", "clean_mean"):
            assert built.config["resolved"][name] == resolved[name]
    other = load("remover", initial=NAME, model__variant="dcae", model__widths=(4,))
    with pytest.raises(
        ValueError, match=f"^{NAME} does not fit the model: params/.*sh"
    ):
        build_experiment(other, None)
    with pytest.raises(ValueError, match="purifier and detector, and a classifier is"):
        build_experiment(load("classifier", initial=NAME), None)
    with pytest.raises(FileNotFoundError, match=f"'universal-tny'.*nearest: '{NAME}'"):
        build_experiment(load("remover", initial="universal-tny"), None)


def test_pretrained_weights_bring_their_detector(shipped):
    assert loading.detector_for(NAME, None) == NAME
    assert loading.detector_for(NAME, "runs/other") == "runs/other"
    for purifier, detector in ((NAME, ""), (None, None), ("median:size=3", None)):
        assert loading.detector_for(purifier, detector) is None
    assert loading.usual_models(None, NAME) == (NAME, NAME)
    usual = pretrained.USUAL_PRETRAINED
    assert loading.usual_models(None, "") == (usual, None)
    assert loading.usual_models("median:size=3", None) == ("median:size=3", None)
    with pytest.raises(ValueError, match="runs/d without a purifier: name the pur"):
        loading.usual_models(None, "runs/d")
    Path(NAME).mkdir()  # A run of that name, which goes first, has none of its own.
    assert loading.detector_for(NAME, None) is None


def test_unknown_names(shipped, tmp_path):
    with pytest.raises(
        ValueError,
        match=f"no pretrained weights 'universal-tny' .nearest: '{NAME}'.: there",
    ):
        uronet_jax.load_pretrained("universal-tny")
    with pytest.raises(ValueError, match="weights 'a-b': there are none"):
        uronet_jax.load_pretrained("a-b", folder=tmp_path / "nothing")
    for load_it in (loading.load_purifier, loading.load_detector):
        with pytest.raises(
            FileNotFoundError,
            match=f"no folder 'universal-tny', .*nearest: '{NAME}'.: `uronet list",
        ):
            load_it("universal-tny")
    with pytest.raises(ValueError, match=f"'universal_tiny' .nearest: '{NAME}'.: it"):
        loading.load_purifier("universal_tiny")


def test_damaged_entries(shipped):
    weights, content = (shipped / f"{NAME}.{x}" for x in ("safetensors", "json"))
    data, text = weights.read_bytes(), content.read_text()
    weights.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(ValueError, match="safetensors is damaged: its SHA-256 is"):
        uronet_jax.load_pretrained(NAME)
    weights.unlink()
    with pytest.raises(FileNotFoundError, match="safetensors is missing: install"):
        uronet_jax.load_pretrained(NAME)
    weights.write_bytes(data)
    fields = json.loads(text)
    fields["configs"]["purifier"]["model"]["widths"] = [3]
    content.write_text(json.dumps(fields))
    with pytest.raises(ValueError, match=f"{NAME} is of another version: params/"):
        uronet_jax.load_pretrained(NAME)
    fields = json.loads(text)
    kernel = next(iter(fields["packed"]))
    bits, *shape = fields["packed"][kernel]
    for wrong in ({kernel: [bits, *shape, 2]}, {kernel: bits}, {"other": [8, 1]}):
        content.write_text(json.dumps(fields | {"packed": wrong}))
        with pytest.raises(ValueError, match="damaged or not of its JSON .*install"):
            uronet_jax.load_pretrained(NAME)
    older = json.dumps(fields | {"schema": "uronet_jax.pretrained"})
    lacking = json.dumps({x: fields[x] for x in fields if x != "sha256"})
    for wrong in (text[:-9], "[]", "{}", older, lacking):
        content.write_text(wrong)
        with pytest.raises(ValueError, match="json is damaged or of another version"):
            uronet_jax.list_pretrained()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "tiny"}, "name 'tiny': use lower-case words joined by hyphens"),
        ({"name": "../a-b"}, "joined by hyphens"),
        ({}, f"holds {NAME} already"),
        ({"card": "## Numbers\n\n## Limits\n"}, "lacks the section `## How to make"),
        (
            {"card": CARD.replace("docs/results/", "")},
            "numbers must name the JSON that they are from",
        ),
        ({"bits": [(5, 1)], "name": "a-b"}, r"bits must be an integer in \[2, 16\]: 1"),
        ({"limit": 1000, "name": "a-b"}, r"a-b takes 0\.\d MB, and all in .* 0.0 MB"),
        ({"purifier": "detector"}, "holds a detector, expected a purifier"),
    ],
)
def test_what_cannot_be_packed(change, message, runs, card, shipped, monkeypatch):
    if "card" in change:
        card = shipped.parent / "card.md"
        card.write_text(change["card"])
    monkeypatch.setattr(
        pretrained,
        "MAX_PRETRAINED_BYTES",
        change.get("limit", pretrained.MAX_PRETRAINED_BYTES),
    )
    before = sorted(shipped.iterdir())
    with pytest.raises(ValueError, match=message):
        packing.pack_pretrained(
            runs[change.get("purifier", "purifier")],
            runs["detector"],
            change.get("name", NAME),
            **{"about": "", "card": card, "count": 4},
            bits=change.get("bits", BITS),
        )
    assert sorted(shipped.iterdir()) == before


def test_the_program(runs, card, tmp_path, start):
    folders = [f"--{role}={run}" for role, run in runs.items()]
    process = start(
        *("-m", "launch.pack_pretrained", *folders, f"--card={card}", "--images=4"),
        "--bits=100:9,3000:4",
        *(f"--name={NAME}", "--about=Made up.", f"--out={tmp_path}"),
    )
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    assert output.splitlines()[0] == "rounding: images 8"
    assert output.endswith(f"wrote {NAME} to {tmp_path}\n")
    assert pretrained.list_pretrained(tmp_path) == {NAME: "Made up."}
    entry = json.loads((tmp_path / f"{NAME}.json").read_text())
    assert entry["bits"] == [[100, 9], [3000, 4]]
    assert {bits for bits, *_ in entry["packed"].values()} == {9, 4}


@pytest.mark.parametrize("text", ["100", "100:", "a:8", "100:8:4", "-1:8"])
def test_bits_that_are_no_pair(text):
    with pytest.raises(ValueError, match=f"--bits '{text}': write SIZE:BITS"):
        read_bits(text)


def test_what_ships():
    """Every entry loads, has its card, and all are small enough for a wheel."""
    folder = pretrained.PRETRAINED_FOLDER
    files = {path.name for path in folder.iterdir()}
    names = pretrained.list_pretrained()
    assert pretrained.USUAL_PRETRAINED in names
    kinds = ("safetensors", "json", "md")
    assert files == {"README.md", *(f"{x}.{kind}" for x in names for kind in kinds)}
    weights = [path.stat().st_size for path in folder.glob("*.safetensors")]
    assert sum(weights) <= pretrained.MAX_PRETRAINED_BYTES == 6_000_000
    for name in names:
        models = uronet_jax.load_pretrained(name)
        loading.check_detector(models.detector, models.purifier)
        text = (folder / f"{name}.md").read_text(encoding="utf-8")
        results = re.findall(r"docs/results/\w+\.json", text)
        assert results and all((ROOT / path).is_file() for path in results)


@pytest.mark.parametrize("name", sorted(uronet_jax.list_pretrained()))
def test_shipped_weights_clean_a_smooth_picture(name):
    """Without any data: noise is found and most of it removed."""
    models = uronet_jax.load_pretrained(name)
    height, width, channels = models.purifier.image_shape
    y, x = np.mgrid[:height, :width] / np.float32(height)
    clean = np.stack(
        [0.5 + 0.3 * np.sin(3 * x + 2 * y + c) for c in range(channels)], 2
    )
    images = np.float32([clean, clean])
    images[1] += np.random.default_rng(0).normal(0, 0.15, clean.shape)
    defense = loading.assemble_defense(*models, None, batch_size=2)
    found = defense(np.clip(images, 0, 1))
    errors = np.square(found.clean - clean).mean(axis=(1, 2, 3))
    assert np.isfinite(found.clean).all() and np.isfinite(found.noise).all()
    # Of a variance of 0.0225 less than an eighth is left, and clean pictures stay
    # nearly so: the grey weights never saw one without black.
    assert errors[1] < 0.0028 and errors[0] < 0.0025
    assert found.degraded_probability[0] < 0.5 < found.degraded_probability[1]


def measure_again(result, data_dir, mesh, classify, weights):
    """Judges the weights of a result of one noise as `uronet evaluate` did."""
    config, (row,) = result["config"], result["rows"]
    count, data = config["data"]["num_examples"], config["data"]["name"]
    arrays, _, _ = load_packed(data, data_dir, splits=["test"])
    models = uronet_jax.load_pretrained(config["purifier"])
    variables = {role: x.variables for role, x in models._asdict().items()}
    judge = Judge(
        tuple(x[:count] for x in arrays["test"]),
        **{"batch_size": count, "mesh": mesh, "seed": config["seed"]},
    )
    noise = {"noises": [row["noise"]], "severities": [row["severity"]]}
    return judge.measure(
        DefenseFunction(classify, *(x.module for x in models)),
        sharding.replicate(variables | {"classifier": weights}, mesh),
        suite_degradations("uronet", **noise)[0],
    )


def told(result, path, pattern):
    """Returns the numbers on the card, as text, before the name of their JSON."""
    (row,) = result["rows"]
    card = pretrained.PRETRAINED_FOLDER / f"{result['config']['purifier']}.md"
    text = " ".join(card.read_text(encoding="utf-8").split())
    noise = f"{row['noise']}-{row['severity']}"
    (found,) = re.findall(rf"{noise}, {pattern} \({path}\)", text)
    return [float(x) for x in found]


def check_pictures(row, measured):
    # The mean is of some hundred thousand values and hardly rounds otherwise on another
    # machine; other weights move it by more than the hundredth it is told to.
    assert abs(measured["psnr_purified"].mean() - row["psnr_purified"]) < 0.005
    found = (measured["probability"] > 0.5).mean()
    # Nearly all, and the detection accuracy is of clean images too.
    assert found >= 2 * row["detection_accuracy"] - 1 - 0.01


def test_the_file_gives_the_number_of_the_card(data_dir, models_dir, mesh):
    """Of 100 test images of CIFAR-10 under one noise."""
    path = "docs/results/cifar10_small_pretrained_check.json"
    result = json.loads((ROOT / path).read_text(encoding="utf-8"))
    (row,) = result["rows"]
    numbers = r"(\d+) % are right undefended and (\d+) % purified"
    columns = ("undefended_accuracy", "purified_accuracy")
    assert told(result, path, numbers) == [round(100 * row[x]) for x in columns]
    classifier = loading.load_classifier(Path(models_dir) / "cifar10_resnet20.npz")
    classify = classifier_function(classifier.module)
    measured = measure_again(result, data_dir, mesh, classify, classifier.variables)
    # An answer may differ: sums round otherwise on another machine.
    for column, found in zip(columns, ("undefended", "purified"), strict=True):
        assert abs(measured[found].mean() - row[column]) <= 1.5 / len(measured[found])
    check_pictures(row, measured)


def test_the_grey_file_gives_the_number_of_the_card(data_dir, mesh):
    """Of 100 test images of MNIST under one noise; the classifier does not ship."""
    path = "docs/results/mnist_small_pretrained_check.json"
    result = json.loads((ROOT / path).read_text(encoding="utf-8"))
    (row,) = result["rows"]
    columns = ("psnr_noisy", "psnr_purified")
    numbers = r"the PSNR is ([\d.]+) dB, and ([\d.]+) dB purified"
    assert told(result, path, numbers) == [round(row[x], 1) for x in columns]

    def say_nothing(_, images):
        return images.mean((1, 2))

    check_pictures(row, measure_again(result, data_dir, mesh, say_nothing, None))
