"""The attack command: a smoke run, resumption, and ways to misuse it."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from test_configs import PRESETS, ROLES, load, save_models

from launch import attack
from uronet_jax.attacks import ATTACKS
from uronet_jax.data import open_source
from uronet_jax.evaluation import subject
from uronet_jax.evaluation.attack_judge import AttackJudge
from uronet_jax.evaluation.attack_run import check_attack_config, make_runs
from uronet_jax.evaluation.threat_models import THREAT_MODELS
from uronet_jax.loading import load_defense
from uronet_jax.papers.pages.docs import docs_pages
from uronet_jax.reports import results

# Random networks may well be misleading.
pytestmark = pytest.mark.filterwarnings(
    "ignore::uronet_jax.attacks.MisleadingEvaluation"
)
THREATS = ["grey_box", "white_box", "detector_aware", "adaptive"]


@pytest.fixture(scope="module")
def models(tmp_path_factory, make_variables):
    """Returns the folders of three runs whose networks are tiny and know nothing."""
    return save_models(tmp_path_factory.mktemp("runs"), make_variables)


def without_seconds(rows):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


@pytest.fixture(scope="module")
def whole(models, tmp_path_factory):
    """Returns the folder of a smoke run and what it holds."""
    folder = tmp_path_factory.mktemp("attack")
    result = attack.run(load("attack", **models), folder)
    stored = json.loads((folder / "attack.json").read_text())
    assert stored == json.loads(json.dumps(result)) and stored["finished"]
    return folder, stored


def test_smoke_run(whole, models):
    folder, stored = whole
    assert stored["config"] == json.loads(json.dumps(load("attack", **models)))
    assert {"versions", "device", "models", "warnings"} <= stored.keys()
    assert stored["digests"].keys() == {*ROLES, "images"}
    assert all(row["gradient_free"] is False for row in stored["rows"])
    rows = stored["rows"]
    assert [(r["threat"], "sanity" in r) for r in rows] == [
        *((threat, True) for threat in THREATS[1:]),
        *((threat, False) for threat in THREATS),
    ]
    for row in rows:
        assert row["num_images"] == (4 if "sanity" in row else 6)
        low, high = row["robust_accuracy_low"], row["robust_accuracy_high"]
        assert 0 <= low <= row["robust_accuracy"] <= high <= 1
        assert row["robust_or_detected_accuracy"] >= row["robust_accuracy"]
    # The library gives what the command counted.
    images, labels = open_source("generated", "test[:6]").arrays()
    prediction = load_defense(*models.values())(images)
    right = np.argmax(prediction.logits, axis=-1) == labels
    assert rows[-1]["clean_accuracy"] == pytest.approx(right.mean())
    flagged = prediction.degraded_probability > stored["threshold"]
    assert rows[-1]["false_alarm_rate"] == pytest.approx(flagged.mean())
    text = (folder / "attack.md").read_text()
    assert text.startswith("# Attacks on generated (smoke)")
    assert text.count("\n| ifgsm_linf ") == 4
    assert (folder / "attack.png").stat().st_size > 10_000


def test_a_run_that_died_goes_on_with_the_next_row(
    whole, models, tmp_path, monkeypatch
):
    config = load("attack", **models, sanity=False)
    rows = whole[1]["rows"][3:]
    made = []
    judge_attack = AttackJudge.attack

    def dying(self, threat, *args, **kwargs):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(threat.name)
        return judge_attack(self, threat, *args, **kwargs)

    monkeypatch.setattr(AttackJudge, "attack", dying)
    with pytest.raises(KeyboardInterrupt):
        attack.run(config, tmp_path)
    half = json.loads((tmp_path / "attack.json").read_text())
    assert not half["finished"] and len(half["rows"]) == 2
    made.clear()
    with pytest.raises(ValueError, match=r"steps: \[2\] there, \[3\] now"):
        attack.run(config | {"steps": (3,)}, tmp_path)
    again = attack.run(config, tmp_path)
    assert made == THREATS[2:]
    assert without_seconds(again["rows"]) == without_seconds(rows)
    assert again["seconds"] >= half["seconds"]
    # A finished run is left alone.
    made.clear()
    assert attack.run(config, tmp_path) == json.loads(json.dumps(again))
    assert not made

    (tmp_path / "attack.json").write_text("[]")
    with pytest.raises(ValueError, match="not a result of launch.attack"):
        attack.run(config, tmp_path)


def test_a_run_of_other_weights_is_refused(whole, models, tmp_path, monkeypatch):
    config = load("attack", **models)
    workdir = tmp_path / "attack"
    shutil.copytree(whole[0], workdir)
    stored = whole[1]

    def write(**changes):
        content = {k: v for k, v in (stored | changes).items() if v is not None}
        (workdir / "attack.json").write_text(json.dumps(content))

    load_purifier = subject.load_purifier

    def trained_on(path, *, which):
        model = load_purifier(path, which=which)
        leaves, structure = jax.tree.flatten(model.variables)
        leaves[-1] = np.nextafter(leaves[-1], np.float32(np.inf))
        return dataclasses.replace(model, variables=structure.unflatten(leaves))

    monkeypatch.setattr(subject, "load_purifier", trained_on)
    half = {"finished": False, "rows": stored["rows"][:4]}
    for changes in ({}, half):
        write(**changes)
        other = r"holds rows of others than the purifier in \S+ \(\w+ there, \w+ now\)"
        with pytest.raises(ValueError, match=f"attack.json {other}: choose another --"):
            attack.run(config, workdir)
    # A file of an earlier version can be shown, but not added to.
    write(digests=None)
    (workdir / "attack.md").unlink()
    assert "digests" not in attack.run(config, workdir)
    assert (workdir / "attack.md").exists()
    write(digests=None, **half)
    with pytest.raises(ValueError, match="does not say of which weights its rows are"):
        attack.run(config, workdir)
    monkeypatch.undo()
    write()
    assert attack.run(config, workdir) == stored
    # What is finished can be shown without the models, what is not cannot.
    gone = config | {"purifier": str(workdir / "gone")}
    stored_config = json.loads(json.dumps(gone))
    write(config=stored_config)
    assert attack.run(gone, workdir)["rows"] == stored["rows"]
    write(config=stored_config, **half)
    with pytest.raises(FileNotFoundError):
        attack.run(gone, workdir)


def test_results_get_a_page(whole, tmp_path):
    stored = json.loads(json.dumps(whole[1]))
    stored["config"]["preset"] = "small"
    (tmp_path / "small.json").write_text(json.dumps(stored))
    page = docs_pages(tmp_path, "docs")[0][Path("docs/results/small.md")]
    assert page.startswith("# Under attack: generated (small models)\n")
    assert page.count("\n| ifgsm_linf ") == 4
    stored["finished"] = False
    (tmp_path / "small.json").write_text(json.dumps(stored))
    with pytest.raises(ValueError, match="not finished: run the same command again"):
        results.load_folder(tmp_path)


@pytest.mark.parametrize("preset", PRESETS)
def test_config_is_sound(preset):
    config = load("attack", preset)
    json.dumps(config)
    runs, threats = check_attack_config(config | {"batch_size": 4})
    assert {run.name for run in runs} == set(config["attacks"])
    assert [threat.name for threat in threats] == list(THREAT_MODELS)
    evaluation = load("evaluate", preset)
    for field in (*ROLES, "checkpoint", "seed"):
        assert config[field] == evaluation[field]
    for field in ("name", "split", "validation_split"):
        assert config["data"][field] == evaluation["data"][field]


def test_every_attack_can_be_chosen():
    config = load("attack", attacks=tuple(ATTACKS), steps=(5, 20), restarts=2)
    runs = make_runs(config)
    efforts = {(run.name, run.parameters.get("steps")) for run in runs}
    assert len(efforts) == len(runs)
    assert {run.name for run in runs} == set(ATTACKS)
    assert {("pgd_l2", 5), ("pgd_l2", 20), ("fgsm_linf", None)} <= efforts
    assert ("square_l2", 1000) in efforts and ("apgd_t_l2", 20) in efforts
    for run in runs:
        assert run.takes("steps") or "steps" not in run.parameters
        if run.name == "pgd_l2":
            assert (run.epsilon, run.parameters["restarts"]) == (0.5, 2)
            steps = run.parameters["steps"]
            assert run.all_parameters["step_size"] == pytest.approx(2.5 * 0.5 / steps)
        assert (run.epsilon is None) == run.attack.minimal
