"""The arena: a small run with cheats among the defences, resumption, wrong input."""

import dataclasses
import json
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_configs import load, save_untrained

from launch import arena
from uronet_jax.arena import bench as arena_bench
from uronet_jax.arena import columns, fairness
from uronet_jax.arena.bench import Bench
from uronet_jax.arena.cards import check_names, make_card, read_defence_card
from uronet_jax.arena.contenders import (
    FunctionClassifier,
    FunctionPurifier,
    load_contender,
)
from uronet_jax.arena.run import check_arena, run_arena
from uronet_jax.arena.store import CellStore
from uronet_jax.corruptions import suite_degradations
from uronet_jax.defense import DefenseFunction
from uronet_jax.evaluation.judge import CorruptionEntry
from uronet_jax.papers.pages.docs import docs_pages
from uronet_jax.progress import Progress
from uronet_jax.reports.arena_page import arena_html, arena_text

QUIET = Progress(shown=False)
# The others of the usual columns are compiled for the bare classifier alone.
FEW = ("clean", "fairness", "noises", "grey_pgd", "white_pgd")
# Defences as people write them; KNOWN holds the arena's images and labels.
MODULE = """
import jax, jax.numpy as jnp, numpy as np, pathlib

KNOWN = np.load(pathlib.Path(__file__).parent / "known.npz")
CLEAN, LABELS = KNOWN["clean"].astype(np.float32), KNOWN["labels"]
PLACES = np.eye(10, dtype=np.float32)[LABELS]


def nearest(images):
    gaps = images.reshape(len(images), 1, -1) - CLEAN.reshape(1, len(CLEAN), -1)
    return jnp.exp(-0.1 * (gaps**2).sum(-1)) @ PLACES * 20

def honest():
    return nearest

def masks():
    return lambda images: nearest(jax.lax.stop_gradient(images)) + 0 * images.sum()

def softmax():
    return lambda images: jax.nn.softmax(nearest(images))

def labels():
    return lambda images: nearest(images).argmax(-1)

def shuffles():
    return lambda key, images: jnp.clip(
        images + 0.01 * jax.random.normal(key, images.shape, jnp.float32), 0, 1)

def regenerates():
    # The noise of the six once more, of the key, and takes it away.
    from uronet_jax.corruptions import degrade, make_degradation
    def purify(key, images):
        grey = jnp.full(images.shape, 0.5, jnp.float32)
        level = make_degradation([("gaussian_noise", 0.18)])
        return images - degrade(key, grey, level, jnp.arange(len(images))) + grey
    return purify

def remembers():
    table = {x.tobytes(): y for x, y in zip(KNOWN["noisy"], KNOWN["noisy_labels"])}
    def predict(images):
        return np.array([table.get(x.tobytes(), 0) for x in images])
    return predict

def wavers():
    # Never of class: shards of a batch come in any order, so no seed would fix which.
    draw = np.random.default_rng()
    return lambda images: np.eye(10)[np.zeros(len(images), int)] + draw.random() / 2

def raises():
    def predict(images):
        raise RuntimeError("out of paper")
    return predict

def wide():
    return lambda images: np.zeros((len(images), 11))

def nan():
    return lambda images: np.full((len(images), 10), np.nan)
"""


def fields(name, **load):
    return {
        **{"name": name, "authors": "nobody", "kind": "test", "trained_on": "nothing"},
        **{"training_minutes": None, "parameters": None, "random": False, "link": ""},
        "load": load,
    }


@pytest.fixture(scope="module")
def config(tmp_path_factory, make_variables):
    folder = tmp_path_factory.mktemp("runs")
    classifier = save_untrained("classifier", folder / "c", make_variables)
    return load("arena", classifier=str(classifier), columns=FEW)


@pytest.fixture(scope="module")
def folder(config, tmp_path_factory):
    """Returns a folder with the module, what it knows, and a card for each function."""
    folder = tmp_path_factory.mktemp("cards")
    bench = Bench(config, folder)
    noisy = [
        bench.shown(entry, config["seed"]).images
        for entry in suite_degradations("uronet", noises=("GN", "SPN"), severities=(3,))
    ]
    np.savez(
        folder / "known.npz",
        clean=bench.shown().images / np.float32(255),
        labels=bench.labels,
        noisy=np.concatenate(noisy),
        noisy_labels=np.tile(bench.labels, 2),
    )
    (folder / "planted.py").write_text(MODULE)
    kinds = dict.fromkeys(("remembers", "wavers", "raises", "wide", "nan"), "black_box")
    kinds |= dict.fromkeys(("honest", "masks", "softmax", "labels"), "function")
    for name, kind in {**kinds, "shuffles": "purify"}.items():
        card = fields(name, **{kind: f"planted:{name}"})
        (folder / f"{name}.json").write_text(json.dumps(card))
    return folder


@pytest.fixture(scope="module")
def board(config, folder, tmp_path_factory):
    """Returns the folder of an arena of all of them, and what it found."""
    workdir = tmp_path_factory.mktemp("arena")
    # Some of them fail.
    assert arena.run(config, workdir, cards=sorted(folder.glob("*.json"))) == 1
    return workdir, json.loads((workdir / "arena.json").read_text())


def row_of(board, name):
    (row,) = (row for row in board[1]["rows"] if row["card"]["name"] == name)
    return row


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("honest", []),
        ("softmax", ["answers with probabilities, which hampers gradients"]),
        ("masks", ["zero gradients at 100% of the images"]),
        ("labels", ["answers with labels alone", "zero gradients at 100%"]),
        ("remembers", ["overfits the seed: 100.0% under", "labels", "a black box"]),
        ("wavers", ["its answers to the same images, with the same key", "black box"]),
        ("shuffles", ["random without declaring it: attacks averaged over its draws"]),
    ],
)
def test_cheats_are_flagged(name, flags, board):
    row = row_of(board, name)
    assert (row["status"], row["errors"]) == ("done", {})
    assert len(row["flags"]) == len(flags), row["flags"]
    for found, expected in zip(row["flags"], flags, strict=True):
        assert expected in found


def test_a_purifier_cannot_draw_the_noise_once_more(config, folder):
    bench = Bench(config, folder)
    seed = config["seed"]
    shown = bench.shown(
        suite_degradations("uronet", noises=("GN",), severities=(3,))[0], seed
    )
    clean = bench.shown().images / np.float32(255)
    card = make_card(fields("A", purify="planted:regenerates"), folder=str(folder))
    contender = load_contender(card, bench.classifier, bench.images, bench.threshold)

    def distance(images):
        return float(np.sqrt(np.mean((images - clean) ** 2)))

    noisy = distance(shown.images)
    # With the key of the noise it would work, but for what was clipped.
    cheat = contender.defense.purifier.function
    assert distance(cheat(jax.random.key(seed), shown.images)) < 0.7 * noisy
    purify = bench._purify(contender, shown.images, seed, len(clean))
    assert distance(purify(0)) > noisy


def test_images_are_judged_batch_by_batch(config, tmp_path, monkeypatch):
    many = config | {"data": config["data"] | {"num_examples": 64, "split": "train"}}
    bench = Bench(many, tmp_path)
    card = make_card(fields("A", purifier="bit_depth"))
    contender = load_contender(card, bench.classifier, bench.images, bench.threshold)
    entry = CorruptionEntry("contrast", 3, "cifar_c")
    assert bench.shown().images.dtype == bench.shown(entry, 1).images.dtype == np.uint8
    counts, as_float = [], arena_bench._as_float

    def counted(images):
        counts.append(len(images))
        return as_float(images)

    monkeypatch.setattr(arena_bench, "_as_float", counted)
    logits = bench.answers(contender, bench.shown(entry, 1)).logits
    assert logits.shape == (64, 10)
    # Of each batch once for the classifier and once for the purifier.
    assert max(counts) == bench.batch_size and sum(counts) == 2 * 64


def test_kept_pictures_are_those_made_anew(config, tmp_path):
    # Two batches, the second of which is filled up.
    many = config | {"data": config["data"] | {"num_examples": 12, "split": "train"}}
    bench = Bench(many, tmp_path)
    card = make_card(fields("A", purifier="resize_pad"))
    contender = load_contender(card, bench.classifier, bench.images, bench.threshold)
    kept = dataclasses.replace(contender, purifier_identity="a")
    shown = bench.shown()
    anew = bench.answers(contender, shown, draw=3).logits
    for _ in range(2):
        np.testing.assert_array_equal(bench.answers(kept, shown, draw=3).logits, anew)
    # All images in one batch; rounding alone depends on its size.
    whole = Bench(many | {"batch_size": 16}, tmp_path)
    found = whole.answers(contender, whole.shown(), draw=3).logits
    np.testing.assert_allclose(found, anew, atol=1e-4)


def test_programs_of_few_contenders_are_kept(config, folder):
    few = Bench(config, folder)
    card = make_card(fields("A", function="planted:honest"), folder=str(folder))
    contender = load_contender(card, few.classifier, few.images, few.threshold)
    for _ in range(12):
        own = FunctionClassifier(
            lambda images: images.sum((1, 2)) @ jnp.ones((3, 10)), 10
        )
        defense = DefenseFunction(own)
        few.answers(dataclasses.replace(contender, defense=defense), few.shown())
    assert arena_bench._compile_classify.cache_info().currsize <= 8


def test_batches_of_a_drawing_purifier_differ():
    purifier = FunctionPurifier(lambda key, x: x + jax.random.normal(key, x.shape))
    images, key = jax.numpy.zeros((2, 4, 4, 1)), jax.random.key(0)
    one, other = (
        purifier(None, images, key, jax.numpy.arange(2) + start).clean
        for start in (0, 2)
    )
    assert not np.array_equal(one, other)


def test_changed_files_beside_a_card_make_another_defence(tmp_path, config):
    (tmp_path / "weighted.py").write_text("def load(): return lambda key, x: x")
    (tmp_path / "weights.npy").write_bytes(b"1")
    card = make_card(fields("A", purify="weighted:load"), folder=str(tmp_path))
    bench = Bench(config, tmp_path)

    def identity():
        parts = bench.classifier, bench.images, bench.threshold
        return load_contender(card, *parts).identity

    first = identity()
    (tmp_path / "arena").mkdir()
    assert identity() == first
    (tmp_path / "weights.npy").write_bytes(b"2")
    assert identity() != first


def test_the_honest_one_is_judged_by_hand(board, folder):
    cells = row_of(board, "honest")["cells"]
    # It knows all images by heart; an attack within 8/255 moves none to another.
    assert cells["clean"]["accuracy"] == cells["grey_pgd"]["accuracy"] == 1.0
    assert cells["clean"]["low"] < 0.7 < 0.999 < cells["clean"]["high"]
    assert cells["white_pgd"]["zero_gradients"] == 0.0
    assert cells["noises"]["by_entry"] == {"GN 3": 1.0, "SPN 3": 1.0}
    # The logarithm of a softmax is the logits, but for a constant and what rounding
    # leaves of probabilities that are nearly equal, as under SPN.
    other = row_of(board, "softmax")["cells"]
    assert other["noises"]["by_entry"]["GN 3"] == 1.0
    for name in ("remembers", "wavers"):
        assert row_of(board, name)["cells"]["white_pgd"]["attack"] == "square_linf"


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("raises", "RuntimeError: out of paper"),
        ("wide", r"of 8 images a defence must return logits \[8, 10\] or whole labels"),
        ("nan", "the defence answers NaN or infinity"),
    ],
)
def test_what_fails_has_an_error_and_the_others_go_on(name, error, board):
    row = row_of(board, name)
    assert (row["status"], row["cells"]) == ("failed", {})
    assert re.search(error, row["errors"]["load"])
    assert len(board[1]["rows"]) == 10


def test_tracebacks_are_kept(board, config, tmp_path, monkeypatch):
    text = row_of(board, "raises")["errors"]["load"]
    path = "cells/raises/load.traceback.txt"
    assert re.search(rf"paper \(planted.py, line \d+; traceback: {path}\)$", text)
    kept = (board[0] / "cells" / "raises" / "load.traceback.txt").read_text()
    assert re.search(r'planted.py", line \d+, in predict', kept)
    assert kept.endswith("RuntimeError: out of paper\n")

    def measure(*_):
        raise KeyError("gone")

    column = columns.ARENA_COLUMNS["clean"]._replace(measure=measure)
    monkeypatch.setitem(columns.ARENA_COLUMNS, "clean", column)
    few = config | {"columns": ("clean",), "only": ("None",)}
    (row,) = run_arena(few, tmp_path, progress=QUIET)["rows"]
    path = "cells/none/clean.traceback.txt"
    assert row["errors"] == {"clean": f"KeyError: 'gone' (traceback: {path})"}
    assert "in measure" in (tmp_path / path).read_text()


def test_a_load_that_is_the_defence_itself(config, tmp_path):
    (tmp_path / "itself.py").write_text("def load(key, images):\n    return images\n")
    path = tmp_path / "itself.json"
    path.write_text(json.dumps(fields("itself", purify="itself:load")))
    content = run_arena(config, tmp_path / "arena", cards=[path], progress=QUIET)
    (row,) = content["rows"]
    assert "itself:load must take no arguments" in row["errors"]["load"]


def test_pages_show_flags_and_errors(board):
    text, page = arena_text(board[1]), arena_html(board[1])
    for shown in (text, page):
        assert "overfits the seed" in shown and "out of paper" in shown
    assert "| honest |" in text and "| masks † |" in text
    assert '<td data-name="clean" data-value="100.0">' in page


def test_the_page_of_docs(board, tmp_path):
    config = board[1]["config"] | {"preset": "small"}
    (tmp_path / "results").mkdir()
    path = tmp_path / "results" / "small_arena.json"
    path.write_text(json.dumps(board[1] | {"config": config}))
    pages, pictures = docs_pages(tmp_path / "results", tmp_path)
    text = pages[tmp_path / "ARENA.md"]
    assert "**Small: an indication" in text and "| masks † |" in text
    assert "(results/small_arena.json)" in text
    # No bare classifier is on this board, nothing to compare with.
    assert "nothing can be compared" in text
    assert tmp_path / "figures" / "small_arena.png" not in pictures


def test_it_goes_on_cell_by_cell(board, config, folder, monkeypatch, tmp_path):
    workdir = tmp_path / "arena"
    shutil.copytree(board[0], workdir)
    cell = workdir / "cells" / "honest" / "noises.json"
    whole = cell.read_text()
    cell.write_text(whole[: len(whole) // 2])
    measured = []

    def counted(name, column):
        def measure(*given):
            measured.append(name)
            return column.measure(*given)

        return column._replace(measure=measure)

    for name, column in columns.ARENA_COLUMNS.items():
        monkeypatch.setitem(columns.ARENA_COLUMNS, name, counted(name, column))
    content = run_arena(config, workdir, cards=[folder / "honest.json"], progress=QUIET)
    assert measured == ["noises"]
    assert content["notes"] == [f"{cell} is damaged: measured anew"]
    strip = {"seconds": 0, "made_of": 0}
    assert {**json.loads(cell.read_text()), **strip} == {**json.loads(whole), **strip}
    # The board still has those that were judged before.
    assert len(content["rows"]) == 10
    # Settings that only some cells depend on.
    measured.clear()
    other = {**config, "noises": {**config["noises"], "names": ("GN",)}}
    content = run_arena(other, workdir, cards=[folder / "honest.json"], progress=QUIET)
    assert measured == ["fairness", "noises"]
    assert len(content["rows"]) == 1 and len(content["refused"]) == 9
    assert "of other settings than this arena" in content["refused"][0]


def test_results_of_other_images_are_refused(board, config, folder, tmp_path):
    workdir = tmp_path / "arena"
    shutil.copytree(board[0] / "results", workdir / "results")
    changes = {"masks": {"arena": board[1]["arena"] | {"images": "0"}}, "labels": {}}
    changes |= {"softmax": {"seconds": None}, "shuffles": {"errors": {"load": 1}}}
    changes |= {"raises": {"cells": {"clean": 0.9}}, "wide": {"flags": None}}
    for name, change in changes.items():
        path = workdir / "results" / f"{name}.json"
        row = json.loads(path.read_text())
        row |= change
        path.write_text(json.dumps(row) if change else "no JSON")
    (tmp_path / "taken.json").write_text(json.dumps(fields("honest", purifier="jpeg")))
    with pytest.raises(ValueError, match="another defence called 'honest', by nobody"):
        run_arena(config, workdir, cards=[tmp_path / "taken.json"], progress=QUIET)
    content = run_arena(config, workdir, cards=[folder / "nan.json"], progress=QUIET)
    assert len(content["rows"]) == 4
    for found, expected in zip(
        content["refused"],
        [
            "labels.json is no result of the arena",
            "masks.json is of other images than this arena",
            "raises.json is no result of the arena: of another type: clean",
            "shuffles.json is no result of the arena: of another type: 1",
            "softmax.json is no result of the arena: of another type: seconds",
            "wide.json is no result of the arena: of another type: flags",
        ],
        strict=True,
    ):
        assert found.startswith(expected)


def test_a_whole_board_stands_behind_results_of_its_names(
    board, config, folder, tmp_path
):
    stored = json.loads((board[0] / "arena.json").read_text())
    results = tmp_path / "results"
    results.mkdir()
    (results / "a_board.json").write_text(json.dumps(stored))
    content = run_arena(config, tmp_path, cards=[folder / "nan.json"], progress=QUIET)
    assert content["refused"] == []
    rows = {row["card"]["name"]: row for row in content["rows"]}
    assert len(rows) == len(content["rows"]) == 10
    assert rows["honest"]["cells"] == row_of(board, "honest")["cells"]
    # It was judged here, and not taken from the board.
    assert rows["nan"]["seconds"] == 0.0 and content["rows"][0] == rows["nan"]
    other = stored | {"arena": stored["arena"] | {"classifier": "0"}}
    (results / "a_board.json").write_text(json.dumps(other))
    content = run_arena(config, tmp_path, cards=[folder / "nan.json"], progress=QUIET)
    assert len(content["rows"]) == 1
    assert "a_board.json is of other classifier" in content["refused"][0]


def test_flags_of_others_follow_from_their_numbers(board, config, folder, tmp_path):
    workdir = tmp_path / "arena"
    shutil.copytree(board[0] / "results", workdir / "results")
    expected = {}
    for name in ("remembers", "wavers", "masks"):
        path = workdir / "results" / f"{name}.json"
        row = json.loads(path.read_text())
        expected[name] = row["flags"][:1]
        row["flags"], row["cells"]["fairness"]["flags"] = [], []
        path.write_text(json.dumps(row))
    path = workdir / "results" / "shuffles.json"
    row = json.loads(path.read_text())
    row["cells"]["fairness"]["seed_z"] = "none"
    path.write_text(json.dumps(row))
    content = run_arena(config, workdir, cards=[folder / "nan.json"], progress=QUIET)
    flags = {row["card"]["name"]: row["flags"] for row in content["rows"]}
    assert {name: flags[name] for name in expected} == expected
    assert [x.split(":")[0] for x in content["refused"]] == [
        "shuffles.json is no result of the arena"
    ]


def test_a_usual_arena_has_every_column(config, tmp_path):
    usual = load("arena", classifier=config["classifier"])
    content = run_arena(usual | {"only": ("None",)}, tmp_path, progress=QUIET)
    (row,) = content["rows"]
    assert row["status"] == "done" and row["flags"] == []
    assert list(row["cells"]) == sorted(columns.ARENA_COLUMNS)
    assert row["cells"]["detector_aware"] == {}
    assert row["cells"]["cost"]["relative_time"] > 0
    auto = row["cells"]["white_autoattack"]
    assert list(auto["attacks"]) == ["apgd-ce", "apgd-t", "clean", "square"]
    assert auto["accuracy"] <= row["cells"]["clean"]["accuracy"] + 0.5


def test_masked_gradients_by_hand():
    white = {"accuracy": 0.5, "zero_gradients": 0.0, "num_images": 100}
    own = white | {"attempts": {"end to end": 0.9, "classifier": 0.5}}
    assert fairness.masked_gradients({"white_pgd": own}) == [
        "masks gradients: PGD along its own leaves 90.0% unbroken, along those of the "
        "classifier alone 50.0%"
    ]
    own = white | {"attempts": {"end to end": 0.5, "classifier": 0.51}}
    grey = {"accuracy_of_attacked": 0.4}
    (flag,) = fairness.masked_gradients({"white_pgd": own, "grey_pgd": grey})
    assert "PGD that knows it leaves 50.0%, PGD on the classifier alone 40.0%" in flag
    auto = {"attacks": {"clean": 1, "apgd-ce": 0.5, "square": 0.4}, "num_images": 100}
    (flag,) = fairness.masked_gradients({"white_autoattack": auto})
    assert "Square, which sees none, broke 10 of 100 images" in flag
    auto["attacks"]["square"] = 0.49
    assert fairness.masked_gradients({"white_autoattack": auto}) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": None}, "name of the card must be a text: None"),
        ({"name": "?!"}, "name of the card must have a letter"),
        ({"name": "_"}, "name of the card must have a letter"),
        ({"link": ...}, "lacks link: a card has name, authors"),
        ({"autors": "me"}, r"has unknown fields 'autors' \(nearest: 'authors'\)"),
        ({"random": "no"}, "random of the card must be true or false: 'no'"),
        ({"training_minutes": -1}, "training_minutes of the card must be"),
        ({"parameters": 1.5}, "parameters of the card must be"),
        ({"load": []}, "load of the card must be a mapping of purifier"),
        ({"load": {"purifer": "jpeg"}}, r"unknown field 'purifer' \(nearest: 'purifie"),
        ({"load": {"purifier": 3}}, "load.purifier of the card, what `load_purifier`"),
        ({"load": {"function": "a"}}, "must be module:function: 'a'"),
        ({"load": {"function": "a:b", "purifier": "jpeg"}}, "leave out purifier"),
        ({"load": {"purify": "a:b", "purifier": "jpeg"}}, "a purifier and purify"),
        ({"load": {"detector": "x"}}, "a detector stands behind a purifier"),
        ({"load": {"purifier": "jpeg", "gated": True}}, "a gate asks a detector"),
    ],
)
def test_wrong_cards_are_refused(change, message):
    card = {k: v for k, v in (fields("A") | change).items() if v is not ...}
    with pytest.raises(ValueError, match=message):
        make_card(card)


def test_wrong_files_and_names_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no card at .*: name a JSON file"):
        read_defence_card(tmp_path / "none.json")
    (tmp_path / "half.json").write_text('{"name": ')
    with pytest.raises(ValueError, match="half.json is no JSON"):
        read_defence_card(tmp_path / "half.json")
    one, other = (make_card(fields(name)) for name in ("A b", "a B"))
    with pytest.raises(ValueError, match="two defences are called 'a B' and 'A b'"):
        check_names([one, other])
    with pytest.raises(ValueError, match="needs one defence or more"):
        check_names([])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"columns": ("claen",)}, r"unknown column 'claen' \(nearest: 'clean'\)"),
        ({"num_seeds": 0}, "num_seeds must be"),
        ({"false_alarms": 1.0}, "false_alarms must be"),
        ({"data__validation_split": "test"}, "thresholds must not be set on test"),
        ({"corruptions__names": ("fogg",)}, "fogg"),
        ({"unseen__severities": (9,)}, "severity"),
        ({"attack__epsilon": -1.0}, "epsilon"),
        ({"attack__samples": 0}, "attack.samples must be"),
        ({"batch_size": 3}, "batch size 3 cannot be split"),
    ],
)
def test_wrong_fields_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        check_arena(load("arena", **change))


def test_several_processes_are_refused(config, tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(ValueError, match="run by one process.* 2 are connected"):
        run_arena(config, tmp_path / "none", progress=QUIET)
    assert not (tmp_path / "none").exists()


def test_a_cell_of_other_weights_is_not_used(tmp_path):
    store, card = CellStore(tmp_path), make_card(fields("A"))
    cell = {"status": "done", "values": {}, "seconds": 0.0, "made_of": {"defence": 1}}
    store.write(card, "clean", cell)
    assert store.read(card, "clean", {"defence": 1})["status"] == "done"
    assert store.read(card, "clean", {"defence": 2}) is None
    assert store.notes[0].endswith("clean.json is of other defence: measured anew")
    store.write(card, "clean", cell | {"status": "failed"})
    assert store.read(card, "clean", {"defence": 1}) is None


def test_bootstrap_interval_by_hand():
    values = np.tile([0.0, 1.0], 50)
    ends = columns.bootstrap(values)
    # The mean of 100 such has a deviation of 0.05; 1.96 of them on either side.
    np.testing.assert_allclose([ends["low"], ends["high"]], [0.4, 0.6], atol=0.02)
    assert columns.bootstrap(np.ones(5)) == {"low": 1.0, "high": 1.0}
