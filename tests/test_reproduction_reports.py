"""The paper's tables beside ours, on made-up results with known differences."""

import importlib.resources
import json
import re
import statistics

import numpy as np
import pytest

from launch import report
from uronet_jax.reports import claims, figures, paper, reproduction, results
from uronet_jax.reports.layouts import LAYOUTS

NOISES = ("GN", "UN", "SPN", "SN", "IN", "SPKN")
PROVENANCE = {
    "versions": {"jax": "0.10.2"},
    "device": {"platform": "gpu", "kind": "H200", "count": 2, "processes": 1},
    "seconds": 1800.0,
}


def run(experiment, *, preset="full", shift=0.0, seed=0, rows=None, **config):
    """Returns a result whose numbers are the paper's own plus a shift."""
    if rows is None:
        name = LAYOUTS[experiment].published
        rows = [
            {
                **{k: int(v) if v.isdigit() else v or None for k, v in row.items()},
                "value": float(row["value"]) + shift,
            }
            for row in paper.rows(name)
        ]
    return PROVENANCE | {
        "schema": reproduction.SCHEMA,
        "experiment": experiment,
        "rows": rows,
        "config": {"preset": preset, "seed": seed, **config},
    }


def detection(test_attack, value, severity=1, **extra):
    row = {"dataset": "CIFAR-10", "train_noise": "GN", "train_severity": severity}
    row |= {"test_attack": test_attack, "metric": "detection_accuracy", "value": value}
    return row | extra


# Points that the remover of each noise gives back under attack.
GAINS = dict(zip(NOISES, (30, 42, 43, 35, 42, 20), strict=True))


def gains():
    """Returns rows of Figure 6: half as much to gain where attacks are transferred."""
    rows = []
    for classifier in ("ResNet", "Wide-ResNet16-8"):
        for attacked in ("ResNet", "Wide-ResNet16-8"):
            base = {"dataset": "CIFAR-10", "classifier": classifier, "attack": "PGD0"}
            base |= {"attacked_classifier": attacked}
            base |= {"train_noise": None, "train_severity": None}
            rows.append(base | {"metric": "adversarial_accuracy", "value": 5.0})
            for noise, gain in GAINS.items():
                gain = gain if classifier == attacked else gain / 2
                row = base | {"train_noise": noise, "train_severity": 1}
                rows.append(row | {"metric": "accuracy_gain", "value": float(gain)})
                rows.append(row | {"metric": "robust_accuracy", "value": 5.0 + gain})
    return rows


def ablations(drop=20.0, pattern=4.0, grey=60.0):
    """Returns rows of the ablations: each detector on two tests, grey removers."""
    rows = []
    for kind, loss, other in (
        ("detector_other", drop, "vgg16, image"),
        ("detector_image_only", pattern, "wrn10_2, image_only"),
    ):
        for variant, lost in (("wrn10_2, image", 0.0), (other, loss)):
            for test in ("GN", "UN"):
                rows.append(
                    {
                        "ablation": kind,
                        "dataset": "CIFAR-10",
                        "variant": variant,
                        "train_noise": "GN",
                        "train_severity": 1,
                        "test_noise": test,
                        "test_severity": 1,
                        "metric": "detection_accuracy",
                        "value": 99.0 - lost,
                    }
                )
    for noise in ("GN", "UN", "SPN"):
        for variant, value in (("undefended", 20.0), ("remover", 20.0 + grey)):
            rows.append(
                {
                    "ablation": "grey",
                    "dataset": "Fashion-MNIST",
                    "variant": variant,
                    "classifier": "custom 5-layer CNN",
                    "test_noise": noise,
                    "test_severity": 2,
                    "metric": "accuracy",
                    "value": value,
                }
            )
    return rows


def universal(detection=99.9, accuracy=86.0):
    """Returns rows of the universal models on clean images and 18 degradations."""
    base = {"dataset": "CIFAR-10", "model": "skip"}
    clean = base | {"test_noise": "clean", "test_severity": 0}
    alarm = {"classifier": None, "condition": "detection", "metric": "false_alarm_rate"}
    rows = [clean | alarm | {"value": 0.5}]
    tests = [clean]
    for noise in NOISES:
        for severity in (1, 2, 3):
            tests.append(base | {"test_noise": noise, "test_severity": severity})
            found = {"classifier": None, "condition": "detection"}
            found |= {"metric": "detection_accuracy", "value": detection}
            rows.append(tests[-1] | found)
    for test in tests:
        for condition, value in (("noisy", 30.0), ("mitigated", accuracy)):
            row = test | {"classifier": "ResNet", "condition": condition}
            rows.append(row | {"metric": "accuracy", "value": value})
    return rows


def store(folder, **contents):
    folder.mkdir(exist_ok=True)
    for name, content in contents.items():
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return results.load_folder(folder)


def test_every_published_file_is_whole():
    folder = importlib.resources.files("uronet_jax.reports") / "published"
    names = sorted(f.name for f in folder.iterdir() if f.name.endswith(".csv"))
    index = paper.sources()
    assert sorted([*(row["file"] for row in index), "sources.csv"]) == names
    for entry in index:
        rows = paper.rows(entry["file"])
        assert len(rows) == int(entry["rows"]), entry["file"]
        assert None not in rows[0] and all(None not in r.values() for r in rows)
        number = "value" if "value" in rows[0] else "accuracy"
        assert all(0 <= float(row[number]) <= 100 for row in rows)
        keys = [
            tuple(v for k, v in r.items() if k not in (number, "note")) for r in rows
        ]
        assert len(set(keys)) == len(keys), entry["file"]
        assert entry["source"] and entry["content"]
    assert "Table 7" in paper.source("uronet_table07.csv")


@pytest.mark.parametrize(
    ("name", "where", "value"),
    [
        ("02", {"train_noise": "UN", "train_severity": "3", "test_noise": "IN"}, 61.29),
        (
            "03",
            {"train_noise": "SPKN", "train_severity": "1", "test_noise": "IN"},
            67.93,
        ),
        (
            "04",
            {"train_noise": "SN", "train_dataset": "CIFAR-10", "test_noise": "UN"},
            64.2,
        ),
        (
            "05",
            {"dataset": "CIFAR-100", "train_noise": "UN", "test_attack": "PGD"},
            50.12,
        ),
        ("06", {"train_attack": "FGSM40", "test_noise": "IN"}, 87.02),
        ("07", {"condition": "mitigated", "noise": "GN", "test_severity": "1"}, 75.97),
        ("08", {"condition": "noisy", "noise": "SPN", "test_severity": "1"}, 6.64),
        ("11", {"defence": "URoNet (SPN-trained remover)", "attack": "PGD-10"}, 64.66),
        ("12", {"method": "URoNet", "noise": "UN"}, 69.47),
    ],
)
def test_published_numbers_that_the_text_repeats(name, where, value):
    rows = [
        row
        for row in paper.rows(f"uronet_table{name}.csv")
        if all(row[column] == wanted for column, wanted in where.items())
    ]
    assert float(rows[0]["value"]) == value


def test_cells_are_joined_whatever_the_types():
    rows = [
        detection("IFGSM", 50.16, 1.0, num_images=20_000),
        detection("PGD", 50.33, "1"),
        detection("CW", 70),
    ]
    cells = reproduction.compare("table5", {"a": run("table5", rows=rows)})
    assert len(cells) == 72 + 1
    ours = {c["test_attack"]: c for c in cells if c["ours"] is not None}
    assert ours["IFGSM"]["published"] == 50.06
    assert ours["IFGSM"]["difference"] == pytest.approx(0.10)
    assert ours["PGD"]["difference"] == pytest.approx(-0.10)
    assert ours["CW"]["published"] is None and ours["CW"]["difference"] is None
    rows = [{"dataset": "CIFAR-10", "train_attack": "IFGSM40", "test_noise": "GN"}]
    rows[0] |= {"test_severity": 1, "metric": "detection_accuracy", "value": 98.65}
    cells = reproduction.compare("table6", {"a": run("table6", rows=rows)})
    (cell,) = (c for c in cells if c["ours"] is not None)
    # The paper prints FGSM40 where it means the iterative attack.
    assert cell["difference"] == pytest.approx(1.0)


def test_summary_by_hand():
    def rows(first, second):
        return [detection("IFGSM", first), detection("PGD", second)]

    groups = reproduction.group(
        {
            "b": run("table5", rows=rows(50.26, 50.13), seed=1, workdir="elsewhere"),
            "a": run("table5", rows=rows(50.06, 50.13), seed=0),
            "c": run("table5", rows=rows(60.06, 40.43), seed=0, width=16),
        }
    )
    assert [(g.name, list(g.runs)) for g in groups] == [("a", ["a", "b"]), ("c", ["c"])]
    found = reproduction.summarize("table5", groups[0].cells)
    # Means 50.16 and 50.13 against 50.06 and 50.43: +0.10 and -0.30.
    assert found["mean_difference"] == pytest.approx(-0.10)
    assert found["mean_spread"] == pytest.approx(0.5 * 0.2 / 2**0.5)
    assert found["max_spread"] == pytest.approx(0.2 / 2**0.5)
    assert {k: found[k] for k in ("published", "measured", "compared", "seeds")} == {
        "published": 72,
        "measured": 2,
        "compared": 2,
        "seeds": 2,
    }
    assert found["at_or_above"] == 1
    line = reproduction.summary_line(groups[0])
    assert line == (
        "2 of 72 published numbers have a counterpart; ours at or above the paper in 1 "
        "of 2 cells (50.0%), mean difference -0.10 points; 2 seeds, standard deviation "
        "0.07 points on average and 0.14 at most; 2 x H200, 1.00 hours.\n"
    )


def test_seeds_may_stand_in_one_file():
    rows = [detection("PGD", 50.0, seed=0), detection("PGD", 52.0, seed=1)]
    (group,) = reproduction.group({"a": run("table5", rows=rows)})
    (cell,) = (c for c in group.cells if c["ours"] is not None)
    assert (cell["ours"], cell["seeds"]) == (51.0, 2)
    assert cell["spread"] == pytest.approx(statistics.stdev([50, 52]))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([detection("PGD", 50.0), detection("PGD", 50.0)], "a has a number twice"),
        ([detection("PGD", float("nan"))], "a has a number that is not finite"),
        ([{"metric": "x", "value": 1.0}], "a has a row without dataset, train_noise"),
    ],
)
def test_bad_rows_are_named(rows, message):
    with pytest.raises(ValueError, match=message):
        reproduction.group({"a": run("table5", rows=rows)})


def test_undefended_accuracy_is_no_achievement():
    rows = run("table7")["rows"]
    for row in rows:
        row["value"] += 1.0 if row["condition"] == "mitigated" else -9.0
    (group,) = reproduction.group({"a": run("table7", rows=rows)})
    found = reproduction.summarize("table7", group.cells)
    # Two classifiers, six noises, three severities, three removers.
    assert (found["compared"], found["at_or_above"]) == (108, 108)
    assert found["mean_difference"] == pytest.approx(1.0)
    assert "108 of 108 mitigated cells (100.0%)" in reproduction.summary_line(group)


def test_tables_of_a_page(tmp_path):
    page = results.render(
        store(
            tmp_path,
            detect=run("table2", shift=-0.5),
            mitigate=run("table7", shift=1.0),
            attack=run("table11", rows=run("table11", shift=2.0)["rows"][-4:]),
        )
    )
    assert "### detect: Table 2: detection on CIFAR-10, one line per" in page
    lines = page.splitlines()
    (header,) = (x for x in lines if x.startswith("|  | GN-1 | GN-2 |"))
    assert header.count("|") == 20
    # The paper's GN-1 detector: 99.97 on GN-1, 92.90 on UN-3.
    (line,) = (x for x in lines if x.startswith("| GN-1 | 99.47 (-0.50) |"))
    assert "| 92.40 (-0.50) |" in line
    assert "remover 1: ours | remover 1: published | remover 1: difference |" in page
    line = "| GN-1 | 33.97 | 32.97 | +1.00 | 76.97 | 75.97 | +1.00 | 72.92 | 71.92 |"
    assert any(x.startswith(line) for x in lines)
    assert any(x.startswith("| clean | 92.81 | 91.81 | +1.00 | - |") for x in lines)
    # Table 11 keeps the other defences, the paper's numbers alone.
    assert "| FACE (Niu & Yang 2023) | - | 47.60 | - | - | 42.80 | - |" in page
    assert (
        "![mitigate, CIFAR-10, ResNet](figures/mitigate_cifar_10__resnet.png)" in page
    )
    assert "- `detect.json`: 2 x H200 (gpu), 1800 s; jax 0.10.2; preset full" in page
    # Another quantity has no place in the paper's table.
    rows = [detection("PGD", 50.0), detection("PGD", 0.7, metric="auroc")]
    page = results.render(store(tmp_path / "more", a=run("table5", rows=rows)))
    assert "| GN-1 | 50.00 | 50.43 | -0.43 |" in page
    assert "Also measured:" in page and "| auroc | 0.70 |" in page


def test_small_results_stand_apart_and_say_so(tmp_path):
    with pytest.raises(ValueError, match=r"a\.json is of small models"):
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
    page = results.render(stored)
    assert "## The paper's experiments\n" not in page
    _, section = page.split("## The paper's experiments with small models: no verdict")
    for line in section.splitlines():
        if "published" in line or "at or above" in line:
            assert "small" in line or "counterpart" in line, line
    verdict = "\n".join(page.splitlines()[:10])
    assert "Confirmed" not in verdict and "Not confirmed" not in verdict
    assert "**Hold for small models, which is no verdict (6):**" in verdict
    assert "small lowest 98.39 %" in verdict and ": ours" not in verdict
    assert "small models: yes" in page


def test_the_papers_own_numbers_bear_out_its_claims():
    everything = {
        name: run(name)
        for name, layout in LAYOUTS.items()
        if layout.published and name != "figure6"  # Its table is not whole.
    }
    everything["figure6"] = run("figure6", rows=gains())
    everything["ablations"] = run("ablations", rows=ablations())
    judged = claims.judge(reproduction.group(everything))
    assert all(j.holds is not None and not j.small for j in judged)
    (wrong,) = (j for j in judged if not j.holds)
    # As counted by hand in the paper's Table 7.
    assert wrong.evidence == "17 of 36 cases"
    for judgement in judged:
        # "98.39 % at least" is our lowest number if the numbers are the paper's.
        limit = re.search(r"\(([\d.]+ %) at (?:least|most)\)", judgement.claim.text)
        assert limit is None or limit[1] in judgement.evidence


def test_claims_can_fail_and_full_results_go_first():
    bad = run("table2", shift=-1.0)
    groups = reproduction.group({"a": bad, "b_small": run("table2", preset="small")})
    judged = [j for j in claims.judge(groups) if j.claim.experiment == "table2"]
    assert {j.result for j in judged} == {"a"}
    assert [j.holds for j in judged] == [False, False, True, True]
    rows = run("table12")["rows"]
    for row in rows:
        row["value"] -= 10 if row["method"] == "URoNet" else 0
    (judgement,) = (
        j
        for j in claims.judge(reproduction.group({"a": run("table12", rows=rows)}))
        if j.claim.experiment == "table12"
    )
    # The smallest margin of the paper is 15.48 points, on ResNet and UN.
    assert (judgement.holds, judgement.evidence) == (False, "+5.48 points at least")


def test_noises_that_are_not_the_papers_cannot_be_compared():
    rows = run("table7")["rows"]
    for row in rows:
        if row["noise"] == "UN" and row["test_severity"] == 3:
            row["value"] += 30.0
        elif row["condition"] == "mitigated":
            row["value"] -= 2.0
    groups = reproduction.group({"a": run("table7", rows=rows)})
    assert claims.other_noises(groups) == ["UN-3 (undefended 48.19 against 18.19 %)"]
    verdict = claims.verdict(groups)
    # 2 classifiers x 3 removers of UN-3 are left out of the mean.
    assert "-2.00 points on average over 102 comparable cells" in verdict
    assert "**Cannot be compared (3):** UN-3 (undefended" in verdict
    assert "**Not measured yet (10):** Table 2; Table 3; Table 4; " in verdict


def test_nothing_measured(tmp_path):
    page = results.render([])
    assert "nothing measured yet" in "\n".join(page.splitlines()[:10])
    assert "Claims of the paper" not in page
    groups = reproduction.group({"a": run("table5", rows=[detection("PGD", 50.0)])})
    assert "nothing measured yet" in claims.verdict(groups)


def judged_of(experiment, rows):
    groups = reproduction.group({"a": run(experiment, rows=rows)})
    found = [j for j in claims.judge(groups) if j.claim.experiment == experiment]
    return [(j.holds, j.evidence) for j in found]


def test_claim_of_table_11():
    rows = [r for r in run("table11", shift=1.0)["rows"] if r["classifier"] == "ResNet"]
    ours = [r for r in rows if r["defence"].startswith("URoNet")]
    # Our own undefended row has no published counterpart.
    ours += [r | {"defence": "none", "value": 99.0} for r in ours]
    assert judged_of("table11", ours) == [(True, "IFGSM 55.59 %, PGD-10 65.66 %")]
    ours[0]["value"] = 51.0  # Below the 51.47 of AdaIAD.
    assert judged_of("table11", ours) == [(False, "IFGSM 51.00 %, PGD-10 65.66 %")]


def test_claims_of_figure_6():
    # SPN: own 43, transferred 21.5, on average 32.25.
    assert judged_of("figure6", gains()) == [
        (True, "+30.00 own, +15.00 transferred"),
        (True, "SPN +32.25 points on average"),
    ]
    rows = gains()
    for row in rows:
        if row["metric"] == "accuracy_gain" and row["train_noise"] == "UN":
            row["value"] += 4.0
    _, (holds, evidence) = judged_of("figure6", rows)
    assert not holds and evidence == "SPN +32.25 points on average, UN +35.50"


def test_claims_of_the_ablations():
    assert judged_of("ablations", ablations()) == [
        (True, "20.00 points less"),
        (True, "4.00 points less on average"),
        (True, "GN +60.00, UN +60.00, SPN +60.00"),
    ]
    found = judged_of("ablations", ablations(drop=-1.0, pattern=2.0, grey=49.0))
    # UN needs 50 points.
    assert [holds for holds, _ in found] == [False, False, False]


def test_figure_6_and_ablations_as_tables(tmp_path):
    page = results.render(
        store(
            tmp_path,
            six=run("figure6", rows=gains()),
            three=run("ablations", rows=ablations()),
        )
    )
    assert "|  | PGD0 on ResNet | PGD0 on Wide-ResNet16-8 |" in page
    # Published for a remover of GN and a ResNet: 58.70 own, 27.41 transferred.
    assert "| GN | 30.00 (-28.70) | 15.00 (-12.41) |" in page
    lines = [line.split(" | ")[0] for line in page.splitlines()]
    start = lines.index("| accuracy when attacked")
    assert lines[start : start + 7] == [
        "| accuracy when attacked",
        *(f"| {noise}" for noise in NOISES),
    ]
    assert "| accuracy when attacked | 5.00 | 5.00 |" in page
    assert "robust_accuracy" not in page
    assert "| GN-1, vgg16, image | 79.00 | 79.00 |" in page
    groups = results.reproductions(results.load_folder(tmp_path))
    six = next(g for g in groups if g.experiment == "figure6")
    # Two published numbers do not make a map of differences.
    assert all(p.differences is None for p in reproduction.pictures(six))
    line = "| UN-2 | 20.00 | 80.00 |"
    assert line in page and "custom 5-layer CNN: two heads" in page


def test_universal_models_beside_single_ones(tmp_path):
    stored = store(
        tmp_path,
        a=run("universal", rows=universal()),
        b=run("table2", shift=-1.0),
        c=run("table7", shift=1.0),
        d_small=run("table2", preset="small"),
    )
    page = results.render(stored)
    # The paper's best detector is that of UN-2, its mean 99.34 and lowest 89.09.
    header = (
        "| degradation | detection: universal | detection: our UN-2 | detection: the "
        "paper's UN-2 | ResNet: universal | ResNet: our best single | ResNet: the "
        "paper's best |"
    )
    assert header in page
    # GN-1 behind the best of three removers: 75.97.
    assert "| GN-1 | 99.90 | 98.98 | 99.98 | 86.00 | 76.97 | 75.97 |" in page
    assert "| mean | 99.90 | 98.34 | 99.34 | 86.00 | 73.59 | 72.59 |" in page
    assert "| lowest | 99.90 | 88.09 | 89.09 | 86.00 | 41.72 | 40.72 |" in page
    assert (
        "mean detection at least 99.5 %, is 99.90 % (met); lowest detection at least "
        "99 %, is 99.90 % (met); mean accuracy of ResNet at least 85 %, is 86.00 % "
        "(met)."
    ) in page
    assert "| clean | 0 | detection | false_alarm_rate | 0.50 |" in page
    assert "| clean | - | 30.00 | 86.00 |" in page
    (group,) = reproduction.group({"a": run("universal", rows=universal(99.4, 84.0))})
    assert reproduction.render(group).count("**missed**") == 2


def test_pictures_of_images_are_copied_not_drawn(tmp_path):
    rows = [
        {"dataset": "CIFAR-10", "noise": "GN", "severity": 1, "num_images": 5}
        | {"metric": "mean_absolute_noise", "value": 0.06}
    ]
    stored = store(tmp_path / "results", patterns=run("figure1", rows=rows))
    assert not stored[0].small  # Five images are what the figure shows.
    page = results.render(stored)
    assert "![patterns](figures/patterns.png)" in page
    with pytest.raises(
        FileNotFoundError, match=r"patterns\.png: copy the figure1\.png"
    ):
        report.check_pictures(tmp_path / "results", tmp_path)
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "patterns.png").touch()
    report.check_pictures(tmp_path / "results", tmp_path)


def test_experiments_without_published_numbers_are_listed(tmp_path):
    rows = [
        {"corruption": "fog", "severity": 3, "metric": "detection_accuracy", "value": v}
        for v in (70.0,)
    ]
    rows.append(rows[0] | {"corruption": "blur", "model": None, "value": 80})
    page = results.render(
        store(tmp_path, a_small=run("other", preset="small", rows=rows))
    )
    assert "### a_small: other (small models)" in page
    assert "| corruption | severity | metric | ours, small |" in page
    assert "| blur | 3 | detection_accuracy | 80.00 |" in page


def test_pictures_follow_the_numbers(tmp_path):
    folder = tmp_path / "results"
    few = run("table4", shift=-1.0)
    store(folder, a=few)
    drawn = [
        tmp_path / "figures" / f"a_{name}.png"
        for name in ("cifar_10_to_cifar_100", "cifar_100_to_cifar_10")
    ]
    assert report.write(folder, tmp_path)[3:] == drawn
    assert not report.out_of_date(folder, tmp_path)
    text = (tmp_path / "RESULTS.md").read_text()
    assert all(f"](figures/{path.name})" in text for path in drawn)
    before = [path.stat().st_mtime_ns for path in drawn]
    few["rows"][0]["value"] += 0.5
    store(folder, a=few)
    assert report.out_of_date(folder, tmp_path) == [tmp_path / "RESULTS.md", drawn[0]]
    assert report.write(folder, tmp_path)[3:] == drawn[:1]
    assert drawn[1].stat().st_mtime_ns == before[1]
    drawn[1].unlink()
    assert report.out_of_date(folder, tmp_path) == drawn[1:]


def test_difference_map_colours_follow_the_differences(tmp_path):
    image = pytest.importorskip("matplotlib.image")
    colormaps = pytest.importorskip("matplotlib").colormaps
    path = tmp_path / "map.png"
    values, nan = [[90.0, 50.0], [70.0, float("nan")]], float("nan")
    figures.difference_map(
        path, values, [[20.0, -5.0], [nan, nan]], "ab", "xy", "T", description="d"
    )
    picture = np.round(image.imread(path)[..., :3] * 255).astype(np.uint8)
    # Beyond the full difference: the last colour; -5 of 10: a quarter of the way.
    for shade in (1.0, 0.25):
        colour = colormaps["RdBu"](shade, bytes=True)[:3]
        assert np.all(picture == colour, axis=-1).mean() > 0.02
    assert np.all(np.abs(picture - 229.5) < 1, axis=-1).mean() > 0.04  # Two grey cells.
    assert figures.description_of(path) == "d"
    assert figures.description_of(tmp_path / "absent.png") is None
    with pytest.raises(ValueError, match="one difference for each"):
        figures.difference_map(path, values, [[1.0]], "ab", "xy")
    with pytest.raises(ValueError, match="above 0"):
        figures.difference_map(path, values, values, "ab", "xy", full=0)
