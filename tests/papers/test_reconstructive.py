"""Reconstructive training: its claims on the paper's own numbers, its settings."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
from made_up_results import groups, one_group, run, store

from configs import reproduce
from uronet_jax.evaluation.judge import CLEAN_ENTRY
from uronet_jax.papers import runner
from uronet_jax.papers.all_models import open_store
from uronet_jax.papers.experiments import LackError, check_needs
from uronet_jax.papers.laboratory import Laboratory
from uronet_jax.papers.pages.claims import claims_of, judge_all
from uronet_jax.papers.pages.docs import docs_pages
from uronet_jax.papers.pages.experiment_page import render_experiment
from uronet_jax.papers.pages.layout import published_rows
from uronet_jax.papers.reconstructive import experiments
from uronet_jax.papers.reconstructive.models import (
    attack_runs,
    autoencoders,
    control,
    reconstructive_kinds,
)
from uronet_jax.papers.reconstructive.pages import RECONSTRUCTIVE_PAGES

NETWORKS = {"reconstructive": "VGG19", "reconstructive_transfer": "InceptionV3"}
LEAK = "reconstructive_labels"


def paper_rows(experiment):
    """The paper's numbers as if they were ours."""
    return [
        {"dataset": "CIFAR-10", "classifier": "ResNet", "threat": "grey box"}
        | {name: row[name] for name in ("defence", "attack", "metric")}
        | {"value": float(row["value"])}
        for row in published_rows("reconstructive/reconstructive_tables.csv")
        if row["network"] == NETWORKS[experiment]
    ]


def leak_rows(without_labels=70.0):
    """What the paper believes, for which it has no numbers."""
    (row,) = (
        row
        for row in paper_rows("reconstructive")
        if (row["defence"], row["attack"]) == ("RT (FGSM)", "FGSM")
    )
    return [row, row | {"attack": "FGSM of predictions", "value": without_labels}]


def answers(**rows):
    usual = {x: paper_rows(x) for x in NETWORKS} | {LEAK: leak_rows()}
    known = groups(**{x: run(x, rows=y) for x, y in (usual | rows).items()})
    claims = claims_of(RECONSTRUCTIVE_PAGES)
    return {v.claim.text: v for v in judge_all(known, claims)}


def test_the_papers_numbers_bear_out_its_claims():
    found = answers()
    assert len(found) == 9
    for text, verdict in found.items():
        assert verdict.answer == "yes", text
        assert verdict.measured == verdict.named > 0, text


@pytest.mark.parametrize(
    ("defence", "attack", "value", "text"),
    [
        ("STL", "PGD", 68.2, "reconstructive training on PGD is above"),
        ("STL", "FGSM", 75.3, "reconstructive training on FGSM is above"),
        ("FD", "DeepFool", 66.3, "on DeepFool it is above"),
        ("RT (FGSM)", "FGSM", 72.1, "above the clean baseline on FGSM"),
        ("RT (FGSM)", "PGD", 68.0, "better on PGD than trained on PGD"),
        ("RT (PGD)", "clean", 72.2, "costs accuracy on clean images"),
        ("PD", "PGD", 22.5, "STL is the best"),
    ],
)
def test_claims_can_fail(defence, attack, value, text):
    rows = [
        row | {"value": value}
        if (row["defence"], row["attack"]) == (defence, attack)
        else row
        for row in paper_rows("reconstructive")
    ]
    found = answers(reconstructive=rows)
    (verdict,) = (v for name, v in found.items() if text in name)
    assert verdict.answer == "no"


def test_labels_that_do_not_leak():
    found = answers(**{LEAK: leak_rows(75.2)})
    (verdict,) = (v for text, v in found.items() if "labels leak" in text)
    assert verdict.answer == "no"


def test_page():
    rows = [x | {"value": x["value"] + 1} for x in paper_rows("reconstructive")]
    white = [row | {"threat": "white box", "value": 0.5} for row in rows[:2]]
    quality = [rows[4] | {"metric": "psnr", "value": 31.25}]
    known = {"reconstructive": config()["reconstructive"]}
    rows += white + quality
    page = render_experiment(one_group("reconstructive", rows=rows, **known))
    lines = page.splitlines()
    for block in ("grey box", "white box"):
        assert f"**CIFAR-10, ResNet: accuracy, {block}**" in lines
    assert "**CIFAR-10, ResNet: PSNR in dB of what the classifier sees**" in lines
    assert "|  | clean | FGSM | PGD | DeepFool |" in lines
    ours = lines.index("| RT (FGSM) | 67.50 | 76.20 | 71.90 | 68.70 |")
    theirs = lines.index("| RT (FGSM) | 66.5 | 75.2 | 70.9 | 67.7 |")
    assert ours < theirs < lines.index("**CIFAR-10, ResNet: accuracy, white box**")
    assert "only the order of the defences can be compared" in " ".join(page.split())
    assert "Also measured" not in page
    # An attack without gradients is named if it was made on white boxes.
    assert "the attack on the classifier alone. Of fewer" in page
    known["reconstructive"]["further_white_box"] = ["Sq=square_linf:epsilon=0.01"]
    for threat, named in (("grey box", False), ("white box", True)):
        rows.append(rows[0] | {"threat": threat, "attack": "Sq"})
        page = render_experiment(one_group("reconstructive", rows=rows, **known))
        assert ("alone; *Sq* looks at no gradient. Of fewer" in page) == named


def test_page_of_the_perturbations():
    base = {"dataset": "CIFAR-10", "classifier": "ResNet", "defence": "RT (PGD)"}
    base |= {"threat": "grey box", "metric": "mean_absolute_change"}
    rows = [
        base | {"attack": "PGD, attacked", "value": 2.0},
        base | {"attack": "PGD, reconstructed", "value": 14.5},
    ]
    page = render_experiment(one_group("reconstructive_figure1", rows=rows))
    assert "mean distance from the original, in levels of 255" in page
    assert "| RT (PGD) | 2.00 | 14.50 |" in page


def test_transformations_tell_what_they_leave_of_clean_images(tmp_path):
    rows = paper_rows("reconstructive")
    chosen = {"transformations": ["PD=pixel_deflection"]}
    result = run("reconstructive", rows=rows)
    result["config"] = {**result["config"], "reconstructive": chosen}
    store(tmp_path / "results", a=result)
    pages, _ = docs_pages(tmp_path / "results", tmp_path)
    page = pages[tmp_path / "TRANSFORMATIONS.md"]
    (line,) = (x for x in page.splitlines() if x.startswith("| `pixel_deflection` |"))
    assert "| 62.2 of 72.2 (CIFAR-10) |" in line
    assert "accuracy on clean images it leaves" in page


def test_links_tell_data_sets_apart(tmp_path):
    rows = paper_rows("reconstructive")
    other = [row | {"dataset": "Tiny ImageNet"} for row in rows]
    settings = {"reconstructive": {"transformations": []}}
    results = {
        name: run("reconstructive", rows=x, data=name, **settings)
        for name, x in (("a", rows), ("b", other))
    }
    store(tmp_path / "results", **results)
    pages, _ = docs_pages(tmp_path / "results", tmp_path)
    text = pages[tmp_path / "RESULTS.md"]
    for name, title in (("a", "CIFAR-10"), ("b", "Tiny ImageNet")):
        assert f"and input transformations: {title}, ResNet](results/{name}.md)" in text


def config(**changes):
    found = reproduce.get_config("smoke").to_dict()
    found["reconstructive"] |= changes
    return found


def test_attacks_have_the_papers_parameters():
    runs = attack_runs(reproduce.get_config("full").to_dict())
    assert [run.name for run in runs.values()] == [
        *("fgsm_linf", "pgd_linf", "deepfool_l2"),
    ]
    assert runs["FGSM"].epsilon == runs["PGD"].epsilon == 0.01
    expected = {"steps": 10, "step_size": 0.004}
    assert {x: runs["PGD"].all_parameters[x] for x in expected} == expected
    expected = {"steps": 50, "overshoot": 0.02}
    assert {x: runs["DeepFool"].all_parameters[x] for x in expected} == expected
    keys = autoencoders(reproduce.get_config("full").to_dict())
    assert list(keys)[:2] == ["RT (FGSM)", "RT (PGD)"] and len(keys) == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learned": ("CW",)}, "learned must be some of reconstructive.attacks"),
        ({"attacks": ("FGSM",)}, "attacks must hold title=text"),
        ({"attacks": ("FGSM=fgsm_linf",)}, "fgsm_linf needs epsilon"),
        ({"attacks": ("A=blur:epsilon=1",)}, "unknown attack 'blur'"),
        ({"transformations": ("A=jpeg", "A=median")}, "each title once"),
        ({"transformations": ("A=blur",)}, "unknown transformation 'blur'"),
        (
            {"transformations": ("A=jpeg:quality=0",)},
            r"quality must be .* \[1, 100\]: 0",
        ),
        ({"clean_share": 1.5}, r"clean_share must be a finite number in \[0, 1\]: 1.5"),
        ({"num_test": -1}, r"num_test must be an integer in \[0, .*: -1"),
        ({"patches": -1}, r"patches must be an integer in \[0, .*: -1"),
        ({"attacks": ("PGD0=fgsm_linf:epsilon=1",)}, "'PGD0' is no title"),
        ({"transformations": ("none=jpeg",)}, "'none' is no title"),
        ({"transformations": ("a/b=jpeg",)}, "'a/b' is no title"),
        ({"no_white_box": ("STL",)}, "no_white_box must be quilting or some of"),
    ],
)
def test_wrong_settings(changes, message):
    with pytest.raises(ValueError, match=message):
        reconstructive_kinds(config(**changes))


def test_the_remover_is_trained_here_or_named():
    trained, named, left_out = (
        experiments._defences(SimpleNamespace(config=config(remover=remover)))
        for remover in ("", "jpeg", "none")
    )
    reconstructive_kinds(config(remover="none"))
    assert trained.pop("URoNet remover").kind == "remover_universal"
    assert named.pop("URoNet remover") == "jpeg" and trained == named
    assert left_out == named


def test_quilting_can_be_left_out():
    usual, left_out = (
        experiments._defences(SimpleNamespace(config=config(patches=patches)))
        for patches in (100, 0)
    )
    assert usual.pop("quilting") == "quilting" and usual == left_out
    reconstructive_kinds(config(patches=0, no_white_box=("quilting",)))


def test_a_missing_remover_is_what_the_experiments_with_it_lack(tmp_path):
    store = open_store(config(remover="runs/nowhere"), tmp_path)
    for name in ("reconstructive", "reconstructive_transfer"):
        with pytest.raises(LackError, match=f"{name} lacks the URoNet.*runs/nowhere"):
            check_needs(store, name)
    for name in ("reconstructive_figure1", "table2"):
        assert check_needs(store, name) == {}


def test_a_result_knows_the_weights_of_the_remover_that_is_named(tmp_path):
    path = tmp_path / "patches.npy"
    named = config(remover=f"quilting:patches={path}")

    def begin(patches):
        np.save(path, np.full((2, 5, 5, 3), patches, np.float32))
        return open_store(named, tmp_path)

    store = begin(0.25)
    made = {"classifiers": {}, "purifiers": runner._purifiers(store, "reconstructive")}
    assert list(made["purifiers"]) == ["URoNet remover"]
    lab = Laboratory(store)
    placed = lab.purifier(named["reconstructive"]["remover"])
    assert placed is lab.purifier(named["reconstructive"]["remover"])
    other = begin(0.75)
    for begun in (made, {"classifiers": {}}):  # A result of before does not say.
        runner._check_weights(store, "reconstructive", {}, begun)
    with pytest.raises(ValueError, match=r"measured with other weights of quilting:pa"):
        runner._check_weights(other, "reconstructive", {}, made)
    # What does not show it, and where none is named.
    assert runner._purifiers(other, "reconstructive_figure1") == {}
    assert runner._purifiers(open_store(config(), tmp_path), "reconstructive") == {}


def test_autoencoders_that_are_compared_differ_in_one_thing():
    kinds = reconstructive_kinds(config())
    plain = kinds["reconstructor"]
    assert plain.clean_share == 0.0
    assert plain.sections["reconstruction"]["labels"] == "true"
    assert kinds["reconstructor_clean"].clean_share == 0.25
    changed = dataclasses.replace(plain, attack_labels="predictions")
    assert kinds["reconstructor_predictions"] == changed
    # They start alike and see the same images.
    assert {kind.variant_of for kind in kinds.values()} == {"reconstructor"}


def test_without_a_share_no_autoencoder_sees_clean_images():
    assert list(autoencoders(config())) == ["RT (FGSM)", "RT (FGSM), a quarter clean"]
    assert list(autoencoders(config(clean_share=0.0))) == ["RT (FGSM)"]


def test_the_control_learns_on_attacks_made_without_labels(tmp_path):
    store, asked = open_store(config(), tmp_path), []

    def attacked(*where, labels):
        asked.append((*where, labels))
        return np.zeros((len(store.source(*where[:2])), 32, 32, 3), np.uint16)

    store.attacked = attacked
    rows = [
        store._row(key)
        for key in (autoencoders(store.config)["RT (FGSM)"], control("FGSM"))
    ]
    for row, labels in zip(rows, ("true", "predictions"), strict=True):
        row.sources()
        parts = ("train", "validation")
        assert asked[-2:] == [("data", part, "FGSM", labels) for part in parts]
    plain, led = (row.config for row in rows)
    assert led["seed"] == plain["seed"]
    assert led["attack"] == plain["attack"] | {"labels": "predictions"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"warmup_steps": 3}, "goes on beyond the end of the run"),
        ({"variant": "deep"}, "unknown reconstructor variant 'deep'"),
        ({"width": 3}, "width must be a multiple of 4"),
    ],
)
def test_wrong_networks_are_told_before_any_work(changes, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        open_store(config(**changes), tmp_path)


class Lab:
    """Grey images: attacks add .1, purifiers take half of it off; it records calls."""

    def __init__(self, store):
        self.store, self.asked = store, []

    def judge(self, role, count):
        assert (role, count) == ("data", 16)
        return Pictures()

    def classifier(self, role, title):
        return f"{title} itself"

    def attacked(self, role, attack, title, labels="true"):
        return attack, title, labels

    def accuracies(self, judge, classifiers, entry, purifier):
        self.asked.append((classifiers, entry, purifier))
        return dict.fromkeys(classifiers, 50.0)

    def purified(self, judge, purifier, entry):
        clean = judge.pictures(CLEAN_ENTRY, 4)
        return clean + (judge.pictures(entry, 4) - clean) / 2

    def row(self, judge, value, metric, **columns):
        return columns["attack"], metric, pytest.approx(value, abs=1e-3)


class Pictures:
    def __len__(self):
        return 4

    def pictures(self, entry, count):
        return np.full((count, 12, 12, 3), 0.5 if entry is CLEAN_ENTRY else 0.6)


@pytest.fixture
def made_up():
    return SimpleNamespace(
        config=config(),
        dataset=lambda role: "CIFAR-10",
        classifier_keys=lambda role: (),
        first_title=lambda role: "ResNet",
        progress=SimpleNamespace(stopping=lambda: None),
    )


def test_leaking_labels_are_looked_for_in_one_attack(made_up, monkeypatch):
    monkeypatch.setattr(experiments, "_purifier", lambda lab, what: what)
    parts, lab = experiments._leak(made_up), Lab(made_up)
    assert [part.key for part in parts] == [
        *("none, grey box", "RT (FGSM), grey box"),
        "RT (FGSM of predictions), grey box",
    ]
    assert [part.models for part in parts[1:]] == [
        (autoencoders(made_up.config)["RT (FGSM)"],),
        (control("FGSM"),),
    ]
    attacks = {row[0] for row in parts[0].rows(lab)}
    assert attacks == {"clean", "FGSM", "FGSM of predictions"}
    shown = [entry for _, entry, _ in lab.asked[1:]]
    assert shown == [("FGSM", "ResNet", x) for x in ("true", "predictions")]


def test_grey_box_rows(made_up, monkeypatch):
    store = made_up
    monkeypatch.setattr(experiments, "_purifier", lambda lab, what: what)
    lab = Lab(store)
    rows = experiments._grey_box(store, "ResNet", "JPEG", "jpeg").rows(lab)
    assert [x[1:] for x in lab.asked] == [
        (CLEAN_ENTRY, "jpeg"),
        (("FGSM", "ResNet", "true"), "jpeg"),
        (("DeepFool", "ResNet", "true"), "jpeg"),
    ]
    assert {tuple(x[0].items()) for x in lab.asked} == {(("ResNet", "ResNet itself"),)}
    assert ("FGSM", "accuracy", 50.0) in rows
    # Half of .1 is left: 20 log10(1 / .05).
    assert ("FGSM", "psnr", 26.0206) in rows
    # Without a defence clean images are what they are, and attacked ones .1 away.
    bare = experiments._grey_box(store, "ResNet", "none", None).rows(lab)
    assert [x[:2] for x in bare if x[0] == "clean"] == [("clean", "accuracy")]
    assert ("FGSM", "psnr", 20.0) in bare
