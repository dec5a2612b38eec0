"""The page of results: what is on it, and what may not be."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from launch import report
from uronet_jax.papers.uronet.pages import claims, paper, reproduction
from uronet_jax.reports import results, suites
from uronet_jax.reports.results import Result

ROOT = Path(__file__).parent.parent.parent
PROVENANCE = {
    "versions": {"uronet_jax": "0.1.0", "jax": "0.10.2"},
    "device": {"platform": "cpu", "kind": "cpu", "count": 1, "processes": 1},
    "seconds": 12.3,
}
TABLE_2 = "uronet_table02.csv"
SPN_1, UN_3 = 0.2048, 0.1819  # Published for ResNet, severities 1 and 3.


def evaluation(spn=SPN_1, un=UN_3, *, preset="full", **suite):
    suite = {"spn_reading": "per_pixel", "un_reading": "per_element"} | suite
    return PROVENANCE | {
        "config": {
            "preset": preset,
            "seed": 1,
            "classifier": "runs/full/classifier",
            "remover": "",
            "data": {"name": "cifar10", "split": "test", "num_examples": 0},
            "suite": {"name": "uronet", **suite},
        },
        "models": {"classifier": {"name": "resnet20"}},
        "summary": {"num_images": 10_000, "clean_accuracy": 0.9173},
        "rows": [
            {"noise": "GN", "severity": 1, "undefended_accuracy": 0.3297},
            {"noise": "SPN", "severity": 1, "undefended_accuracy": spn},
            {"noise": "UN", "severity": 3, "undefended_accuracy": un},
        ],
    }


def benchmark():
    comparison = {
        "subject": "uronet_jax",
        "peer": "PyTorch 2.13",
        "ratio": 0.875,
        "ratio_min": 0.8,
        "ratio_max": 0.9,
        "rounds": 5,
        "agreement": 1.2e-6,
    }
    limited = comparison | {"at_most": 0.5, "met": False}
    memory = {"at_most": 4.0, "met": True}
    row = {"work": "a step", "values": {}, "limits": {}, "notes": []}
    seconds = {"seconds": {"uronet_jax": {"median": 77.7777}}}
    return PROVENANCE | {
        "schema": results.BENCHMARK,
        "config": {"batch_size": 128, "widths": [64, 128, 256], "peer": None},
        "rows": {
            "remover": row | seconds | {"comparisons": [comparison]},
            "data": row | seconds | {"comparisons": [limited], "notes": ["in memory"]},
            "memory": row
            | {"values": {"peak host GB": 2.5}, "limits": {"peak host GB": memory}}
            | {"comparisons": []},
        },
    }


def quickstart():
    row = {"noise": "GN", "severity": 1, "undefended_accuracy": 0.125}
    summary = {"dataset": "mnist5k", "num_images": 1000, "clean_accuracy": 0.97}
    return PROVENANCE | {"config": {"seed": 0}, "rows": [row]} | summary


def store(folder, **contents):
    for name, content in contents.items():
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return results.load_folder(folder)


def test_published_numbers():
    rows = results.published_raw()
    assert len(rows) == 2 * (1 + 18)
    assert all("Table 7" in row["source"] for row in rows)
    values = {(r["classifier"], r["noise"], r["severity"]): r["accuracy"] for r in rows}
    assert values["ResNet", "clean", 0] == 0.9181
    assert values["ResNet", "UN", 3] == UN_3
    assert values["Wide-ResNet16-8", "SPKN", 3] == 0.26


def test_readings_are_compared_with_the_paper(tmp_path):
    stored = store(
        tmp_path,
        a=evaluation(spn=SPN_1 + 0.10, un=UN_3 - 0.30),
        b=evaluation(spn=SPN_1 - 0.02, un=UN_3 - 0.30, spn_reading="per_channel"),
        c=evaluation(spn=SPN_1 + 0.10, un=UN_3 + 0.05, un_reading="per_pixel"),
    )
    rows = results.compare_with_published(stored, "ResNet")
    # One line per reading, not one per file.
    assert [(row["noise"], row["reading"]) for row in rows] == [
        ("clean", None),
        ("GN", None),
        ("UN", "per_element"),
        ("UN", "per_pixel"),
        ("SPN", "per_channel"),
        ("SPN", "per_pixel"),
    ]
    assert rows[-1]["difference"] == pytest.approx(0.10)
    page = results.render(stored)
    assert "SPN: `per_channel` (2.00) is nearest, before `per_pixel` (10.00)." in page
    assert "UN: `per_pixel` (5.00) is nearest, before `per_element` (30.00)." in page
    assert "The noises without a reading (GN) differ by 0.00." in page
    assert "| SPN | 1 | per_pixel | 30.48 | 20.48 | +10.00 |" in page
    # A ResNet is not compared with the paper's Wide ResNet.
    assert "Wide-ResNet16-8" not in page


def test_one_reading_is_not_called_the_nearest(tmp_path):
    page = results.render(store(tmp_path, a=evaluation(spn=SPN_1 + 0.01)))
    assert "SPN: only `per_pixel` (1.00) was measured." in page
    assert "nearest" not in page


def test_small_results_stand_apart_from_published_numbers(tmp_path):
    small = evaluation(preset="small")
    stored = store(tmp_path, small_models=small, quick=quickstart())
    page = results.render(stored)
    assert "published" not in page.replace("not comparable with published numbers", "")
    assert "### small_models: cifar10 (small models)" in page
    with pytest.raises(ValueError, match=r"models\.json is of small.*small_models"):
        store(tmp_path, models=small)


def test_the_page_names_origin_and_is_the_same_every_time(tmp_path):
    contents = {"x": evaluation(), "quick": quickstart(), "speed": benchmark()}
    stored = store(tmp_path, **contents)
    assert [r.kind for r in stored] == ["quickstart", "benchmark", "evaluation"]
    page = results.render(stored)
    assert page == results.render(results.load_folder(tmp_path))
    for name in contents:
        line = next(x for x in page.splitlines() if x.startswith(f"- `{name}.json`: "))
        assert "1 x cpu (cpu), 12 s; uronet_jax 0.1.0, jax 0.10.2; " in line
    assert "seed 1" in page and "suite.spn_reading per_pixel" in page


def test_benchmark_shows_ratios_and_limits_but_no_absolute_times():
    text = results.render_benchmark(benchmark())
    assert (
        "| remover | uronet_jax | PyTorch 2.13 | 0.875 | 0.800 to 0.900 | 5 | 1.2e-06 "
        in text
    )
    assert "| 0.50 | **no** |" in text
    assert "| memory | peak host GB | 2.5 | 4.00 | yes |" in text
    assert "- data: a step; in memory." in text
    assert "77" not in text


@pytest.mark.parametrize(
    "content",
    [
        [],
        {"rows": []},
        {**evaluation(), "summary": None} | {"schema": "another"},
        {k: v for k, v in evaluation().items() if k != "device"},
    ],
)
def test_unknown_files_are_named(tmp_path, content):
    with pytest.raises(ValueError, match=r"odd\.json has an unknown form"):
        store(tmp_path, odd=content)


def test_broken_and_smoke_files_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"s\.json comes from a smoke run"):
        store(tmp_path, s=evaluation(preset="smoke"))
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(ValueError, match=r"broken\.json is not a JSON file"):
        results.load_folder(tmp_path)
    with pytest.raises(FileNotFoundError, match="no folder"):
        results.load_folder(tmp_path / "absent")


def reproduced(**suite):
    """Returns Table 2 as published."""
    return PROVENANCE | {
        "schema": reproduction.SCHEMA,
        "schema_version": reproduction.SCHEMA_VERSION,
        "experiment": "table2",
        "overridden": [],
        "rows": [row | {"value": float(row["value"])} for row in paper.rows(TABLE_2)],
        "config": {"preset": "full", "seed": 0, "suite": suite},
    }


@pytest.mark.parametrize("version", [0, 2, None])
def test_another_version_of_the_schema_is_named(tmp_path, version):
    content = reproduced() | {"schema_version": version}
    if version is None:
        del content["schema_version"]
    with pytest.raises(ValueError) as error:
        store(tmp_path, old=content)
    text = str(error.value)
    assert text.startswith(f"{tmp_path / 'old.json'} is of version {version} of the ")
    assert "schema uronet_jax.reproduction, expected 1: compute it anew" in text
    # Nor is its form looked at, which another version may have changed.
    with pytest.raises(ValueError, match="is of version 2 of the schema"):
        store(tmp_path, old={"schema": reproduction.SCHEMA, "schema_version": 2})
    assert store(tmp_path, old=reproduced())[0].kind == "reproduction"


def test_evaluations_tell_which_noises_are_the_papers(tmp_path):
    readings = {"spn_reading": "per_pixel", "un_reading": "per_element"}

    def other_noises(evaluated, **suite):
        stored = store(tmp_path, a=evaluated, b=reproduced(**suite))
        (group,) = results.reproductions(stored)
        return dict(group.other_noises)

    told = {
        "UN-3": "reading `per_element`: undefended ResNet 53.19 against 18.19 %; no "
        "other reading was measured"
    }
    assert other_noises(evaluation(un=UN_3 + 0.35), **readings) == told
    page = results.render(results.load_folder(tmp_path))
    assert "**Cannot be compared (4, and four tables):** Our UN-3 is not " in page
    assert not other_noises(evaluation(un=UN_3 + 0.09), **readings)
    # Another reading, another classifier, or a part of the test set tell nothing.
    far = evaluation(un=UN_3 + 0.35)
    assert not other_noises(far, **readings | {"un_reading": "per_pixel"})
    far["models"]["classifier"]["name"] = "vgg16"
    assert not other_noises(far, **readings)
    far = evaluation(un=UN_3 + 0.35)
    far["summary"]["clean_accuracy"] -= 0.06
    assert not other_noises(far, **readings)
    # What they do not speak of stays.
    judged = claims.judge(results.reproductions(results.load_folder(tmp_path)))
    assert [j.status for j in judged[:4]] == ["holds"] * 4


def suite_evaluation(*, num_examples=0, **suite):
    rows = [
        {"noise": name, "severity": s, "undefended_accuracy": 0.9 - s / 100}
        for name in ("fog", "spatter")
        for s in (1, 2)
    ]
    content = evaluation(**{"name": "cifar_c", "folder": "", "frost_dir": ""} | suite)
    content["config"]["data"]["num_examples"] = num_examples
    figures = {"clean_accuracy": 0.9173, "mean_accuracy": 0.885}
    content["summary"]["corruptions"] = {"undefended": figures}
    return content | {"rows": rows}


def test_suites_stand_beside_published_numbers(tmp_path):
    page = results.render(store(tmp_path, a=suite_evaluation()))
    assert "### a: cifar10, cifar_c (full models)" in page
    # RobustBench's plain WRN-28-10 at severities 1 and 2 of fog; it has no spatter.
    fog = suites.published_cifar10_c()["fog"]
    published = 100 * (fog[1] + fog[2]) / 2
    assert f"| fog | 89.00 | 88.00 | 88.50 | {published:.2f} |" in page
    assert "| spatter | 89.00 | 88.00 | 88.50 |  |" in page
    assert "mean over all corruptions and severities: 88.50%" in page
    assert "not the benchmark's" not in page
    content = suite_evaluation()
    content["rows"][0]["textures"] = "procedural"
    assert "not the benchmark's" in suites.render(content)


def test_the_published_table_is_whole():
    table = suites.published_cifar10_c()
    assert len(table) == 15 and all(len(column) == 5 for column in table.values())
    mean = np.mean([list(column.values()) for column in table.values()])
    assert 100 * mean == pytest.approx(73.46, abs=0.005)  # As the leaderboard says.


def test_part_of_a_test_set_is_called_small(tmp_path):
    with pytest.raises(ValueError, match=r"a\.json is of small models or part of the"):
        store(tmp_path, a=suite_evaluation(num_examples=2000))
    (tmp_path / "a.json").unlink()
    stored = store(tmp_path, a_small=suite_evaluation(num_examples=10_000))
    page = results.render(stored)
    assert "mean (small: 10,000 images)" in page


def test_no_results():
    assert "No result is stored yet" in results.render([])
    assert not Result("x", "quickstart", quickstart()).small


def test_check_tells_an_old_page(tmp_path):
    folder = tmp_path / "results"
    folder.mkdir()
    stored = store(folder, a=evaluation())
    names = ("RESULTS.md", "CORRUPTIONS.md", "ATTACKS.md")
    pages = [tmp_path / name for name in names]
    assert report.out_of_date(folder, tmp_path) == pages
    assert report.write(folder, tmp_path) == pages
    assert not report.out_of_date(folder, tmp_path)
    assert pages[0].read_text(encoding="utf-8") == results.render(stored)
    store(folder, b=evaluation(un=0.5))
    assert report.out_of_date(folder, tmp_path) == pages[:1]


def test_check_command_fails_on_an_old_page(tmp_path):
    command = [sys.executable, "-m", "launch.report", "--check"]
    command += [f"--results={tmp_path}", f"--docs={tmp_path}"]
    old = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert old.returncode == 1 and "out of date" in old.stderr
