"""The pages of docs: the overview and the readings on made-up results, and ours."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from made_up_results import (
    PROVENANCE,
    SPN_1,
    UN_3,
    detection,
    evaluation,
    run,
    store,
    universal,
)

from uronet_jax.papers.pages import docs_pages
from uronet_jax.papers.uronet.pages.paper import published_rows
from uronet_jax.papers.uronet.pages.readings import (
    comparable_evaluations,
    compare_readings,
    render_readings,
)

ROOT = Path(__file__).parent.parent.parent
DOCS = ROOT / "docs"
PAGES = [DOCS / "RESULTS.md", *sorted((DOCS / "results").glob("*.md"))]


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
    assert (rows[2][not_], rows[2][knows]) == ("48.0", "1.5")
    assert (rows[3]["clean"], rows[3]["18 noises"]) == ("75.0", "75.0")
    assert (rows[3][not_], rows[3][knows]) == ("", "")  # Not measured.
    assert (rows[3]["detected"], rows[3]["false alarms"]) == ("99.9", "0.5")
    assert rows[4]["false alarms"] == "12.2" and rows[4]["clean"] == ""
    assert "small" not in "".join(row["images"] for row in rows[:5])
    assert "The goal of 85 % on average is missed: 75.0 %." in " ".join(text.split())


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


@pytest.mark.parametrize(("epsilon", "suffix"), [(8 / 255, ""), (0.1, " (within 0.1)")])
def test_overview_of_a_whole_defence(tmp_path, epsilon, suffix):
    content = evaluation(preset="small", models={"remover": {}})
    content["config"] |= {"remover": "r", "detector": "d"}
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
    other = attack(content["config"] | {"remover": "other"}, epsilon)
    rows, _ = overview(tmp_path, a_small=content, b_small=other)
    assert knows not in rows[0]


def test_no_results(tmp_path):
    store(tmp_path / "results")
    pages, pictures = docs_pages(tmp_path / "results", tmp_path)
    assert "No result is stored yet" in pages[tmp_path / "RESULTS.md"]
    assert len(pages) == 3 and not pictures


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
        for r in published_rows("uronet_table07.csv")
        if r["condition"] != "mitigated"
    }
    assert len(values) == 2 * (1 + 18) and values["ResNet", "", ""] == 91.81
    assert values["ResNet", "UN", "3"] == UN_3
    assert values["Wide-ResNet16-8", "SPKN", "3"] == 26.0


def test_check_command_fails_on_an_old_page(tmp_path):
    store(tmp_path / "results", a=run("table5", rows=[detection("PGD", 50.0)]))

    command = [sys.executable, "-m", "launch.report", "--check"]
    command += [f"--results={tmp_path / 'results'}", f"--docs={tmp_path}"]
    old = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert old.returncode == 1 and "out of date" in old.stderr


def test_our_overview_is_one_screen():
    lines = PAGES[0].read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 60
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
    together = "".join(path.read_text(encoding="utf-8") for path in PAGES)
    elsewhere = {"attack_agreement", "corruption_fidelity"}  # ATTACKS, CORRUPTIONS.
    for path in (DOCS / "results").glob("*.json"):
        assert path.stem in elsewhere or f"({path.name})" in together
