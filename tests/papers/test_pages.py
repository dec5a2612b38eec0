"""The pages of docs, of made-up results, small ones among them, and ours."""

import dataclasses
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from made_up_results import (
    PROVENANCE,
    SPN_1,
    UN_3,
    detection,
    evaluation,
    one_group,
    other_classifier,
    run,
    store,
    universal,
)

from uronet_jax.papers.pages import overview as overview_page
from uronet_jax.papers.pages.all_papers import PAPERS
from uronet_jax.papers.pages.docs import docs_pages, out_of_date, write_pages
from uronet_jax.papers.pages.experiment_page import render_experiment
from uronet_jax.papers.pages.layout import published_rows
from uronet_jax.papers.uronet.readings import (
    comparable_evaluations,
    compare_readings,
    render_readings,
)
from uronet_jax.reports.results import Result
from uronet_jax.transformations import TRANSFORMATIONS

ROOT = Path(__file__).parent.parent.parent
DOCS = ROOT / "docs"
PAGES = [DOCS / "RESULTS.md", DOCS / "ARENA.md"]
PAGES += sorted((DOCS / "results").glob("*.md"))


def overview(tmp_path, **contents):
    """Returns the table of the overview, as lines of cells, and the whole page."""
    store(tmp_path / "results", **contents)
    text = docs_pages(tmp_path / "results", tmp_path)[0][tmp_path / "RESULTS.md"]
    lines = [x.strip("| ").split(" | ") for x in text.splitlines() if x[:1] == "|"]
    heading, _, *rows = [[cell.strip() for cell in line] for line in lines]
    return [dict(zip(heading, row, strict=False)) for row in rows], text


def test_overview_by_hand(tmp_path):
    corrupted = [
        {**row, "test_noise": "fog", "test_severity": 1, "value": value}
        for row, value in zip(universal(), [12.2] * 99, strict=False)
        if row["metric"] == "false_alarm_rate"
    ]
    attacked = [
        {"dataset": "CIFAR-10", "classifier": "ResNet", "attack": "PGD-10"}
        | {"metric": "robust_accuracy", "defence": defence, "value": value}
        for defence, value in (
            ("none", 0.5),
            ("URoNet (SPN-trained remover)", 48.0),
            ("URoNet (SPN-trained remover), white box", 1.5),
        )
    ]
    rows, text = overview(
        tmp_path,
        a=run("universal", rows=universal(accuracy=75.0)),
        b=run("universal_corruptions", rows=corrupted),
        c=run("table11", rows=attacked),
        d=run("table7"),
        e=evaluation(),
    )
    assert rows[0]["defence"] == "none: ResNet-20, all test images"
    # 32.97, 20.48 and 18.19.
    assert (rows[0]["clean"], rows[0]["18 noises"], rows[0]["worst noise"]) == (
        "91.7",
        "23.9",
        "18.2",
    )
    knows, not_ = "PGD, attacker knows it", "PGD, attacker does not know it"
    assert rows[1]["18 noises"] == "30.0" and rows[1][not_] == rows[1][knows] == "0.5"
    # The mean of the best of each line of the paper's Table 7.
    assert rows[2]["18 noises"] == "72.6" and rows[2]["worst noise"] == "40.7"
    assert rows[2].get(not_, "") == ""  # Nobody chose among them under attack.
    assert (rows[3][not_], rows[3][knows]) == ("48.0", "1.5")
    assert (rows[4]["clean"], rows[4]["18 noises"]) == ("75.0", "75.0")
    assert (rows[4][not_], rows[4][knows]) == ("", "")  # Not measured.
    assert (rows[4]["detected"], rows[4]["false alarms"]) == ("99.9", "0.5")
    assert rows[5]["false alarms"] == "12.2" and rows[5]["clean"] == ""
    assert "small" not in "".join(row["images"] for row in rows[:6])
    assert "The goal of 85 % is missed: 75.0 %." in " ".join(text.split())


def test_corruptions_of_other_severities_are_no_part_of_the_mean(tmp_path):
    row = {"dataset": "CIFAR-10", "classifier": "ResNet", "model": "blend_dcae"}
    row |= {"condition": "mitigated", "metric": "accuracy", "test_noise": "fog"}
    values = {1: 90.0, 2: 10.0, 3: 70.0, 4: 20.0, 5: 50.0}
    corrupted = [row | {"test_severity": s, "value": x} for s, x in values.items()]
    rows, text = overview(tmp_path, b=run("universal_corruptions", rows=corrupted))
    assert "severities 1, 3, 5" in " ".join(text.split())
    assert rows[0]["19 corruptions"] == "70.0"


def test_a_small_remover_says_nothing_of_one_at_full_size(tmp_path):
    row = {"dataset": "CIFAR-10", "classifier": "ResNet", "model": "blend_dcae"}
    row |= {"test_noise": "fog", "test_severity": 1, "metric": "accuracy"}
    conditions = {"noisy": 90.0, "mitigated": 88.0}
    rows = [row | {"condition": x, "value": v} for x, v in conditions.items()]
    found = {"metric": "detection_accuracy", "condition": "detection", "value": 50.0}
    unseen = [*rows, row | found]
    for number, (size, name) in enumerate((("full", "z"), ("small", "z_small"))):
        folder = tmp_path / str(number)
        folder.mkdir()
        stored = {name: run("zero_shot", rows=unseen, preset=size)}
        full = run("universal", rows=universal(accuracy=75.0))
        rows, text = overview(folder, a=full, **stored)
        (ours,) = (x for x in rows if "one universal" in x["defence"])
        flat = " ".join(text.split())
        assert ours.get("unseen", "") == ("88.0" if size == "full" else "")
        assert ("What a small one never saw" in flat) == (size == "small")
    # Lines of both sizes, and none of both.
    stored |= {
        "a_small": run("universal", rows=universal(accuracy=60.0), preset="small")
    }
    (tmp_path / "both").mkdir()
    rows, _ = overview(tmp_path / "both", a=full, **stored)
    rows = [row for row in rows if "one universal" in row["defence"]]
    assert [row["18 noises"] for row in rows] == ["75.0", "60.0"]
    assert [row.get("unseen", "") for row in rows] == ["", "88.0"]
    assert ["small" in row["images"] for row in rows] == [False, True]


def attack(config, epsilon):
    row = {"attack": "pgd_linf", "norm": "linf", "epsilon": epsilon, "num_images": 100}
    row |= {"undefended_accuracy": 0.02, "parameters": {"steps": 20}}
    row |= {"clean_accuracy": 0.5, "undefended_clean_accuracy": 0.6}
    row |= {"robust_accuracy_low": 0.0, "robust_accuracy_high": 0.2, "not_found": 0.0}
    row |= {"median_linf": 0.03, "median_l2": 1.0}
    robust = {"grey_box": 0.13, "adaptive": 0.01, "detector_aware": 0.03}
    rows = [
        row | {"threat": threat, "robust_accuracy": value}
        for threat, value in robust.items()
    ]
    rows[2]["robust_or_detected_accuracy"] = 0.04
    return PROVENANCE | {
        "schema": "uronet_jax.attack",
        "config": config | {"preset": "small"},
        "rows": rows,
        "warnings": [],
        "threshold": 0.5,
        "finished": True,
    }


@pytest.mark.parametrize(
    ("epsilon", "suffix", "field"),
    [(8 / 255, "", "purifier"), (0.1, " (within 0.1)", "remover")],
)
def test_overview_of_a_whole_defence(tmp_path, epsilon, suffix, field):
    content = evaluation(preset="small", models={field: {}})
    content["config"] |= {field: "r", "detector": "d"}
    row = content["rows"][0]
    content["rows"] = [row | {"severity": number} for number in range(18)]
    content["summary"] |= {"purified_clean_accuracy": 0.5, "false_alarm_rate": 0.04}
    for row in content["rows"]:
        row |= {"purified_accuracy": 0.4, "detection_accuracy": 0.99}
    rows, text = overview(
        tmp_path, a_small=content, b_small=attack(content["config"], epsilon)
    )
    none, remover = rows[:2]
    assert none["defence"] == "none: resnet20, cifar10"
    assert none["images"] == "100 to 10,000, small"
    knows, not_ = "PGD, attacker knows it", "PGD, attacker does not know it"
    assert none[not_] == none[knows] == f"2.0{suffix}"
    assert (remover[not_], remover[knows]) == (f"13.0{suffix}", f"1.0{suffix}")
    assert (remover["clean"], remover["18 noises"]) == ("50.0", "40.0")
    assert (remover["detected"], remover["false alarms"]) == ("99.0", "4.0")
    broken = "3 % stay right, and 4 % right or flagged" in " ".join(text.split())
    assert broken == (suffix == "")
    # An attack on other models says nothing of these.
    other = attack(content["config"] | {field: "other"}, epsilon)
    rows, _ = overview(tmp_path, a_small=content, b_small=other)
    assert knows not in rows[0]
    # Part of the noises, or another suite, is no mean over 18; a chain has its name.
    stages = [{"name": "jpeg"}, {"variant": "skip"}]
    content |= {"models": {field: {"chain": stages}}, "rows": content["rows"][:3]}
    rows, _ = overview(tmp_path, a_small=content)
    assert rows[1]["defence"].startswith("jpeg + remover: ")
    assert "18 noises" not in rows[1]


@pytest.mark.parametrize(("preset", "size"), [("full", ""), ("small", ", small")])
def test_an_attack_is_called_small_if_it_is(preset, size, tmp_path):
    content = attack(evaluation()["config"], 8 / 255)
    content["config"]["preset"] = preset
    _, text = overview(tmp_path, a_small=content)
    assert f"it fools the detector too (100 images{size})." in " ".join(text.split())


def test_one_claim_is_no_plural(monkeypatch):
    found = [
        SimpleNamespace(answer=answer, measured=measured, small=False)
        for answer, measured in (("yes", 1), ("no", 0), ("open", 0))
    ]
    monkeypatch.setattr(overview_page, "judge_all", lambda groups, claims: found)
    group = one_group("table6", preset="small")
    line = overview_page._claims_line(PAPERS[0], [group])
    assert line.endswith("1 holds, 1 does not, 1 is open; 1 was judged at full size.")


def test_no_results(tmp_path):
    store(tmp_path / "results")
    pages, pictures = docs_pages(tmp_path / "results", tmp_path)
    assert "No result is stored yet" in pages[tmp_path / "RESULTS.md"]
    assert len(pages) == 6
    assert list(pictures) == [tmp_path / "transformations.png"]


def test_readings_are_compared_with_the_paper(tmp_path):
    stored = store(
        tmp_path,
        a=evaluation(spn=SPN_1 + 10, un=UN_3 - 15),
        b=evaluation(spn=SPN_1 - 2, un=UN_3 - 15, spn_reading="per_channel"),
        c=evaluation(spn=SPN_1 + 10, un=UN_3 + 5, un_reading="per_pixel"),
        d_small=evaluation(preset="small"),
    )
    (found,) = comparable_evaluations(stored)
    assert [x.name for x in found] == ["a", "b", "c"]
    rows = compare_readings(found)
    # One line per reading, not one per file.
    assert [(row["noise"], row["reading"]) for row in rows] == [
        ("clean", None),
        ("GN", None),
        ("UN", "per_element"),
        ("UN", "per_pixel"),
        ("SPN", "per_channel"),
        ("SPN", "per_pixel"),
    ]
    assert rows[-1]["difference"] == pytest.approx(10)
    page = render_readings(found)
    assert (
        "in points: others 0.00, SPN `per_channel` 2.00, UN `per_pixel` 5.00, SPN "
        "`per_pixel` 10.00, UN `per_element` 15.00.\n"
    ) in page
    assert "| SPN | 1 | per_pixel | 30.48 | 20.48 | +10.00 |" in page
    # A ResNet is not compared with the paper's Wide ResNet.
    assert "Wide-ResNet16-8" not in page
    values = {
        (r["classifier"], r["noise"], r["test_severity"]): float(r["value"])
        for r in published_rows("uronet/uronet_table07.csv")
        if r["condition"] != "mitigated"
    }
    assert len(values) == 2 * (1 + 18) and values["ResNet", "", ""] == 91.81
    assert values["ResNet", "UN", "3"] == UN_3
    assert values["Wide-ResNet16-8", "SPKN", "3"] == 26.0


def is_small(content):
    return Result("a", "reproduction", content).small


def test_small_results_say_so(tmp_path):
    with pytest.raises(
        ValueError, match=r"a\.json is of small .* its name must say so"
    ):
        store(tmp_path, a=run("table5", preset="small"))
    (tmp_path / "a.json").unlink()
    few = [detection("PGD", 50.0, num_images=2000)]
    stored = store(
        tmp_path,
        a_small=run("table5", preset="small"),
        b_small=run("table5", rows=few),
        c_small=run("table2", preset="small"),
    )
    assert all(r.small for r in stored)
    pages = {
        path.name: text for path, text in docs_pages(tmp_path, tmp_path)[0].items()
    }
    for name in ("a_small.md", "b_small.md", "c_small.md"):
        assert "**Small: an indication, not comparable" in pages[name]
        assert pages[name].splitlines()[0].endswith("(small models)")
    # Small models hold 8 claims of Tables 2 and 5, and the page says that they are.
    assert pages["claims.md"].count("| yes (small) |") == 8
    assert "| yes |" not in pages["claims.md"]
    text = " ".join(pages["RESULTS.md"].split())
    assert "8 hold, 0 do not, 28 are open; 0 were judged at full size" in text


@pytest.mark.parametrize(
    ("overridden", "small"),
    [
        ([], False),
        (["data.classifier", "data.other_classifier_title", "seed", "dtype"], False),
        (["remover.checkpoint_every", "pipeline", "evaluation.batch_size"], False),
        (["suite.un_reading", "attack.batch_size", "data_dir"], False),
        (["remover.num_steps"], True),
        (["seed", "evaluation.num_images"], True),
        (["remover.batch_size"], True),
        (["data.train_split"], True),
        (["suite.severities"], True),
        (["detector.name"], True),
        (["data.name"], True),
        (["grey.title"], True),
    ],
)
def test_a_changed_preset_is_small(overridden, small):
    assert is_small(run("table5", overridden=overridden)) is small
    assert is_small(run("figure4", rows=[], overridden=overridden)) is small


def test_a_result_that_hides_its_changes_is_small():
    content = run("table5")
    del content["overridden"]
    assert is_small(content)
    # Judged on validation images, of which there are fewer.
    rows = [{"metric": "accuracy", "value": 1.0, "num_images": 5000}]
    assert not is_small(run("universal_trials", rows=rows))
    assert is_small(run("universal", rows=rows))


@pytest.mark.parametrize(
    "keep",
    [
        lambda row: row["classifier"] == "ResNet-8",
        lambda row: row["condition"] == "noisy",
        lambda row: row["condition"] == "mitigated",
        lambda row: row["noise"] == "UN" and row["remover_train_severity"] == 2,
        lambda row: row["condition"] == "clean",
    ],
)
def test_any_small_table_7_gives_a_page(tmp_path, keep):
    rows = list(filter(keep, other_classifier(run("table7", shift=20.0)["rows"])))
    folder = tmp_path / "results"
    store(folder, a_small=run("table7", preset="small", rows=rows))
    write_pages(folder, tmp_path)
    page = (folder / "a_small.md").read_text()
    assert page.startswith("# Table 7") and "| yes |" not in page


def test_pictures_of_images_are_copied_not_drawn(tmp_path):
    rows = [
        {"dataset": "CIFAR-10", "noise": "GN", "severity": 1, "num_images": 5}
        | {"metric": "mean_absolute_noise", "value": 0.06}
    ]
    folder = tmp_path / "results"
    stored = store(folder, patterns=run("figure1", rows=rows))
    assert not stored[0].small  # Five images are what the figure shows.
    figure5 = [
        {**rows[0], "metric": "attention_shift", "images": images, "value": 0.1}
        for images in ("clean", "noisy", "purified")
    ]
    page = render_experiment(one_group("figure5", rows=figure5))
    assert "![a](../figures/a.png)" in page
    assert "| attention shift, clean | attention shift, noisy |" in page
    with pytest.raises(
        FileNotFoundError, match=r"patterns\.png: copy the figure1\.png"
    ):
        docs_pages(folder, tmp_path)
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "patterns.png").touch()
    pages, _ = docs_pages(folder, tmp_path)
    assert "![patterns](../figures/patterns.png)" in pages[folder / "patterns.md"]


def test_pictures_follow_the_numbers(tmp_path):
    folder = tmp_path / "results"
    few = run("table4", shift=-1.0)
    store(folder, a=few)
    drawn = [
        tmp_path / "figures" / f"a_{name}.png"
        for name in ("cifar_10_to_cifar_100", "cifar_100_to_cifar_10")
    ]
    assert write_pages(folder, tmp_path)[-2:] == drawn
    assert not out_of_date(folder, tmp_path)
    text = (folder / "a.md").read_text()
    assert all(f"](../figures/{path.name})" in text for path in drawn)
    before = [path.stat().st_mtime_ns for path in drawn]
    few["rows"][0]["value"] += 0.5
    store(folder, a=few)
    old = [folder / "a.md", drawn[0]]
    assert set(out_of_date(folder, tmp_path)) == set(old)
    assert write_pages(folder, tmp_path)[-1:] == drawn[:1]
    assert drawn[1].stat().st_mtime_ns == before[1]
    drawn[1].unlink()
    assert out_of_date(folder, tmp_path) == drawn[1:]


def test_the_picture_of_transformations_follows_their_parameters(tmp_path, monkeypatch):
    store(tmp_path / "results")
    picture = tmp_path / "transformations.png"
    assert picture in write_pages(tmp_path / "results", tmp_path)
    assert not out_of_date(tmp_path / "results", tmp_path)
    other = dataclasses.replace(TRANSFORMATIONS["jpeg"], parameters={"quality": 60})
    monkeypatch.setitem(TRANSFORMATIONS, "jpeg", other)
    assert picture in out_of_date(tmp_path / "results", tmp_path)


def test_pages_without_a_result_are_deleted(tmp_path):
    folder = tmp_path / "results"
    store(folder, a=run("table6"))
    old = folder / "gone.md"
    old.write_text("# Gone\n")
    assert old in out_of_date(folder, tmp_path)
    write_pages(folder, tmp_path)
    assert not old.exists() and not out_of_date(folder, tmp_path)


def test_check_command_fails_on_an_old_page(tmp_path):
    store(tmp_path / "results", a=run("table5", rows=[detection("PGD", 50.0)]))

    command = [sys.executable, "-m", "launch.report", "--check"]
    command += [f"--results={tmp_path / 'results'}", f"--docs={tmp_path}"]
    old = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert old.returncode == 1 and "out of date" in old.stderr


def test_our_overview_is_one_screen():
    lines = PAGES[0].read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 64
    assert all(len(line) <= 200 for line in lines if not line.startswith("|"))


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_links_of_our_pages_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#]+)\)|src=\"([^\"]+)\"", text)
    assert links
    for link in map("".join, links):
        assert (page.parent / link).exists(), link
    lines = [x for x in text.splitlines() if not x.startswith(("|", "!"))]
    assert all(len(line) <= 200 for line in lines)


def test_every_result_of_ours_is_on_a_page():
    pages = [*DOCS.glob("*.md"), *PAGES]  # Boards and certificates have pages above.
    together = "".join(path.read_text(encoding="utf-8") for path in pages)
    elsewhere = {"attack_agreement", "corruption_fidelity"}  # ATTACKS, CORRUPTIONS.
    for path in (DOCS / "results").glob("*.json"):
        assert path.stem in elsewhere or f"{path.name})" in together
