"""The paper's tables beside ours, on made-up results with known differences."""

import importlib.resources
import statistics

import pytest
from made_up_results import (
    CLASSIFIERS,
    NOISES,
    ablation_rows,
    detection,
    gains,
    groups,
    one_group,
    run,
    store,
    universal,
)
from PIL import Image

from uronet_jax.papers.experiments import EXPERIMENTS
from uronet_jax.papers.pages.all_papers import PAGE_LAYOUTS, PAPERS
from uronet_jax.papers.pages.docs import docs_pages
from uronet_jax.papers.pages.experiment_page import render_experiment
from uronet_jax.papers.pages.group import distance_from_paper
from uronet_jax.papers.pages.layout import published_rows
from uronet_jax.papers.pages.pictures import group_pictures
from uronet_jax.papers.uronet.page_notes import noise_footnote


def page_of(experiment, **options):
    return render_experiment(one_group(experiment, **options))


@pytest.mark.parametrize("package", [paper.package for paper in PAPERS])
def test_every_published_file_is_whole(package):
    folder = importlib.resources.files(f"uronet_jax.papers.{package}") / "published"
    names = sorted(f.name for f in folder.iterdir() if f.name.endswith(".csv"))
    index = published_rows(f"{package}/sources.csv")
    assert sorted([*(row["file"] for row in index), "sources.csv"]) == names
    for entry in index:
        rows = published_rows(f"{package}/{entry['file']}")
        assert len(rows) == int(entry["rows"]), entry["file"]
        assert None not in rows[0] and all(None not in r.values() for r in rows)
        number = "value" if "value" in rows[0] else "accuracy"
        shares = [row for row in rows if row["metric"] != "eps_star"]
        assert all(0 <= float(row[number]) <= 100 for row in shares)
        keys = [
            tuple(v for k, v in r.items() if k not in (number, "std", "note"))
            for r in rows
        ]
        assert len(set(keys)) == len(keys), entry["file"]
        assert entry["source"] and entry["content"]
        if entry["file"] == "uronet_table07.csv":
            assert "Table 7" in entry["source"]


@pytest.mark.parametrize(
    ("number", "where", "value"),
    [
        (2, {"train_noise": "UN", "train_severity": "3", "test_noise": "IN"}, 61.29),
        (3, {"train_noise": "SPKN", "train_severity": "1", "test_noise": "IN"}, 67.93),
        (
            4,
            {"train_noise": "SN", "train_dataset": "CIFAR-10", "test_noise": "UN"},
            64.2,
        ),
        (5, {"dataset": "CIFAR-100", "train_noise": "UN", "test_attack": "PGD"}, 50.12),
        (6, {"train_attack": "FGSM40", "test_noise": "IN"}, 87.02),
        (7, {"condition": "mitigated", "noise": "GN", "test_severity": "1"}, 75.97),
        (8, {"condition": "noisy", "noise": "SPN", "test_severity": "1"}, 6.64),
        (11, {"defence": "URoNet (SPN-trained remover)", "attack": "PGD-10"}, 64.66),
        (12, {"method": "URoNet", "noise": "UN"}, 69.47),
    ],
)
def test_published_numbers_that_the_text_repeats(number, where, value):
    rows = [
        row
        for row in published_rows(f"uronet/uronet_table{number:02}.csv")
        if all(row[column] == wanted for column, wanted in where.items())
    ]
    assert float(rows[0]["value"]) == value


def test_cells_are_joined_whatever_the_types():
    rows = [
        detection("IFGSM", 50.16, 1.0, num_images=20_000),
        detection("PGD", 50.33, "1"),
        detection("CW", 70),
    ]
    cells = one_group("table5", rows=rows).cells
    assert len(cells) == 72 + 1
    ours = {c["test_attack"]: c for c in cells if c["ours"] is not None}
    assert ours["IFGSM"]["published"] == 50.06
    assert ours["IFGSM"]["difference"] == pytest.approx(0.10)
    assert ours["PGD"]["difference"] == pytest.approx(-0.10)
    assert ours["CW"]["published"] is None and ours["CW"]["difference"] is None
    rows = [{"dataset": "CIFAR-10", "train_attack": "IFGSM40", "test_noise": "GN"}]
    rows[0] |= {"test_severity": 1, "metric": "detection_accuracy", "value": 98.65}
    cells = one_group("table6", rows=rows).cells
    (cell,) = (c for c in cells if c["ours"] is not None)
    # The paper prints FGSM40 where it means the iterative attack.
    assert cell["difference"] == pytest.approx(1.0)


def test_summary_by_hand():
    def rows(first, second):
        return [detection("IFGSM", first), detection("PGD", second)]

    found = groups(
        b=run("table5", rows=rows(50.26, 50.13), seed=1, workdir="elsewhere"),
        a=run("table5", rows=rows(50.06, 50.13), seed=0),
        c=run("table5", rows=rows(60.06, 40.43), seed=0, remover={"width": 16}),
    )
    assert [[x.name for x in g.runs] for g in found] == [["a", "b"], ["c"]]
    distance = distance_from_paper(found[0])
    # Means 50.16 and 50.13 against 50.06 and 50.43: +0.10 and -0.30.
    assert distance == {
        "published": 72,
        "measured": 2,
        "compared": 2,
        "at_or_above": 1,
        "mean_difference": pytest.approx(-0.10),
        "seeds": 2,
        "mean_spread": pytest.approx(0.5 * 0.2 / 2**0.5),
        "max_spread": pytest.approx(0.2 / 2**0.5),
    }
    page = render_experiment(found[0])
    assert (
        "2 of 72 published numbers are measured; at or above the paper: 1 of 2 cells, "
        "mean difference -0.10 points; 2 seeds, standard deviation 0.07 points on "
        "average and 0.14 at most.\n"
    ) in page
    assert "2 x H200, 1.00 h, seed 0 and 1, 10,000 images. Config and ver" in page


def test_seeds_may_stand_in_one_file():
    rows = [detection("PGD", 50.0, seed=0), detection("PGD", 52.0, seed=1)]
    (cell,) = one_group("table5", rows=rows).measured()
    assert (cell["ours"], cell["seeds"]) == (51.0, 2)
    assert cell["spread"] == pytest.approx(statistics.stdev([50, 52]))


def test_one_seed_in_two_files_is_an_error():
    rows = [detection("PGD", 50.0)]
    both = {"a": run("table5", rows=rows), "b": run("table5", rows=rows, workdir="x")}
    with pytest.raises(ValueError, match="a and b hold the same number of the same"):
        groups(**both)
    with pytest.raises(ValueError, match="same seed, 3: .* keep one of the two"):
        groups(
            a=run("table5", rows=[detection("PGD", 50.0, seed=3)]),
            b=run("table5", rows=[detection("PGD", 50.1, seed=3)], seed=1),
        )
    # Two halves of one table are no repetition.
    both["b"] = run("table5", rows=[detection("PGD", 50.0, 2)])
    (group,) = groups(**both)
    assert {c["seeds"] for c in group.cells} == {0, 1}
    # A file of the same name with other weights is another network.
    weights = [{"classifiers": {"data": {"ResNet": digest}}} for digest in "12"]
    runs = (run("table7", seed=seed) | weights[seed] for seed in (0, 1))
    assert len(groups(**dict(zip("ab", runs, strict=True)))) == 2


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
        one_group("table5", rows=rows)


def test_undefended_accuracy_is_no_achievement():
    shifts = {"mitigated": 1.0, "noisy": -9.0, "clean": 0.0}
    rows = run("table7")["rows"]
    for row in rows:
        row["value"] += shifts[row["condition"]]
    found = distance_from_paper(one_group("table7", rows=rows))
    # Two classifiers, six noises, three severities, three removers.
    assert (found["compared"], found["at_or_above"]) == (108, 108)
    assert found["mean_difference"] == pytest.approx(1.0)
    assert "108 of 108 mitigated cells" in page_of("table7", rows=rows)


def test_noises_that_are_not_the_papers_have_a_footnote():
    def footnote(points, classifiers=("ResNet", "Wide-ResNet16-8")):
        rows = run("table7")["rows"]
        for row in rows:
            place = row["noise"], row["test_severity"], row["condition"]
            if place == ("UN", 3, "noisy") and row["classifier"] in classifiers:
                row["value"] += points
        return noise_footnote(groups(a=run("table7", rows=rows)))

    assert "UN-3 (undefended ResNet: 48.2 % here, 18.2 % there)" in footnote(30.0)
    assert footnote(-10.1) and not footnote(10.0) and not footnote(0.0)
    # One classifier of two may be another network: both must tell.
    assert not footnote(30.0, ["ResNet"])
    # It stands on the pages of other experiments too.
    other = [row | {"value": 99.0} for row in run("table7")["rows"]]
    both = groups(a=run("table2"), b=run("table7", rows=other))
    assert "Not the paper's noise" in render_experiment(both[0], both)
    assert "Not the paper's noise" not in render_experiment(both[0], both[:1])


def test_tables_of_a_page():
    page = page_of("table2", shift=-0.5)
    assert page.startswith("# Table 2: detection on CIFAR-10, one line per")
    # Eighteen columns are a picture only; its numbers are those of the table.
    assert "(-0.50)" not in page and "![a, CIFAR-10](../figures/a_cifar_10.png)" in page
    (picture,) = group_pictures(one_group("table2", shift=-0.5))
    assert picture.rows[0] == "GN-1" and len(picture.columns) == 18
    # The paper's GN-1 detector: 99.97 on GN-1, 92.90 on UN-3.
    assert picture.values[0][0] == pytest.approx(99.47)
    assert picture.values[0][5] == pytest.approx(92.40)
    assert picture.differences[0][5] == pytest.approx(-0.5)

    lines = page_of("table7", shift=1.0).splitlines()
    assert "|  | undefended | remover 1 | remover 2 | remover 3 |" in lines
    line = "| GN-1 | 33.97 (+1.00) | 76.97 (+1.00) | 72.92 (+1.00) |"
    assert any(x.startswith(line) for x in lines)
    assert "| clean | 92.81 (+1.00) | - | - | - |" in lines
    assert "![a, CIFAR-10, ResNet](../figures/a_cifar_10__resnet.png)" in lines
    # Table 11 keeps the other defences, the paper's numbers alone.
    page = page_of("table11", rows=run("table11", shift=2.0)["rows"][-4:])
    assert "| FACE (Niu & Yang 2023) | *47.60* | *42.80* |" in page
    # Another quantity has no place in the paper's table.
    rows = [detection("PGD", 50.0), detection("PGD", 0.7, metric="auroc")]
    page = page_of("table5", rows=rows)
    assert "| GN-1 | 50.00 (-0.43) |" in page
    assert "Also measured:" in page and "| auroc | 0.70 |" in page


def test_sessions_are_added_up():
    def session(seconds, count=1):
        device = {"platform": "gpu", "kind": "H200", "count": count, "processes": 1}
        return {"seconds": seconds, "device": device, "versions": {}}

    content = run("table6") | {"seconds": 99.0}  # Of the last one, as older programs.
    content["sessions"] = [session(2400.0, count=2), session(1200.0)]
    found = groups(a=content, b=run("table6", seed=1))
    page = render_experiment(found[0])
    assert "2 x H200, 1 x H200, 1.50 h, seed 0 and 1, 10,000 images. Config" in page


def test_steps_of_attacks_are_named_where_they_differ():
    def page(experiment, steps):
        rows = [{**row, "steps": steps(row)} for row in run(experiment)["rows"]]
        return page_of(experiment, rows=rows)

    text = "Steps of the attack: {}, not the paper's, for {}."
    assert text.format(10, "IFGSM, PGD") in page("table5", lambda row: 10)
    assert "Steps of the attack" not in page("table5", lambda row: 40)
    found = page("table6", lambda row: 10)
    assert text.format(10, "IFGSM40, PGD40") in found
    assert text.format(10, "IFGSM40, PGD20") in found
    # 20 is what PGD20 says, and not what PGD40 does.
    found = page("table6", lambda row: 20 if row["train_attack"] == "PGD20" else 40)
    assert "Steps of the attack" not in found
    found = page("table6", lambda row: 20 if row["train_attack"] == "PGD40" else 40)
    assert found.count("Steps of the attack: 20, not the paper's, for PGD40.") == 1
    assert "Steps of the attack: 40, not the paper's, for PGD20." in found
    # The ten of PGD-10 may be restarts.
    assert "Steps of the attack" not in page("table11", lambda row: 40)


def test_ranking_of_detectors_stands_under_the_table():
    rates = {"tpr_at_5_percent_fpr": 0.9}
    rows = [
        detection("IFGSM", 50.0, auroc=0.9, **rates),
        detection("PGD", 99.0, auroc=0.95, **rates),
        detection("PGD", 60.0, severity=2, auroc=0.7, tpr_at_5_percent_fpr=0.3),
    ]
    text = "\nAUROC: mean 0.8500, lowest 0.7000 (GN-2, PGD)"
    rate = "; true positive rate at 5 % false alarms: mean 70.00 %.\n"
    assert text + rate in page_of("table5", rows=rows)
    for row in rows:
        del row["tpr_at_5_percent_fpr"]
    assert f"{text}.\n" in page_of("table5", rows=rows)
    assert "AUROC" not in page_of("table5")


def test_figure_6_and_ablations_as_tables():
    page = page_of("figure6", rows=gains())
    lines = page.splitlines()
    attacks = ("IFGSM", "PGD0", "PGD10")
    names = [f"{attack} on {name}" for name in CLASSIFIERS for attack in attacks]
    assert lines.count(f"|  | {' | '.join(names)} |") == 2
    # Published for a remover of GN and a ResNet: 58.70 own, 27.41 transferred.
    line = "| GN | 60.00 | 60.00 (+1.30) | 60.00 | 30.00 | 30.00 (+2.59) | 30.00 |"
    assert line in lines
    firsts = [line.split(" | ")[0] for line in lines]
    start = firsts.index("| accuracy when attacked")
    assert firsts[start + 1 : start + 7] == [f"| {noise}" for noise in NOISES]
    assert "| accuracy when attacked | 5.00 | 5.00 |" in page
    assert "robust_accuracy" not in page
    # Two published numbers do not make a map of differences.
    pictures = group_pictures(one_group("figure6", rows=gains()))
    assert all(picture.differences is None for picture in pictures)

    three = one_group("ablations", rows=ablation_rows())
    page = render_experiment(three)
    assert "| UN-2 | 20.00 | 80.00 |" in page
    assert "custom 5-layer CNN: two heads" in page
    picture = group_pictures(three)[0]
    assert picture.values[picture.rows.index("GN-1, vgg16, image")] == [74.0] * 18


def mitigated(shift=0.0):
    """Returns rows of Table 7 that do not tell which network it was."""
    rows = run("table7", shift=shift)["rows"]
    return [row for row in rows if row["condition"] == "mitigated"]


def universal_page(rows=None, **others):
    found = groups(u=run("universal", rows=rows or universal()), **others)
    (group,) = (x for x in found if x.name == "u")
    return render_experiment(group, found)


def test_universal_models_beside_single_ones():
    page = universal_page(
        b=run("table2", shift=-1.0),
        c=run("table7", rows=mitigated(1.0)),
        d_small=run("table2", preset="small"),
    )
    assert (
        "|  | detection: universal | detection: best single | detection: the paper's "
        "best | ResNet: undefended | ResNet: universal | ResNet: best single | ResNet: "
        "the paper's best |"
    ) in page
    # GN-1 behind the best of three removers: 75.97.
    assert "| GN-1 | 99.90 | 98.98 | 99.98 | 30.00 | 86.00 | 76.97 | 75.97 |" in page
    # The paper's best detector is that of UN-2, its mean 99.34 and lowest 89.09.
    line = "| **mean** | 99.90 | 98.34 | 99.34 | 30.00 | 86.00 | 73.59 | 72.59 |"
    assert line in page
    line = "| **lowest** | 99.90 | 88.09 | 89.09 | 30.00 | 86.00 | 41.72 | 40.72 |"
    assert line in page and "(`b`, `c`)" in page
    assert (
        "mean detection at least 99.5 %, is 99.90 % (met); lowest detection at least "
        "99 %, is 99.90 % (met); mean accuracy of ResNet at least 85 %, is 86.00 % "
        "(met)."
    ) in page
    assert "| clean | 0 | detection | false_alarm_rate | 0.50 |" in page
    assert "ResNet: 30.0 to 86.0 % on average, 30.0 to 86.0 % on clean images" in page
    assert universal_page(universal(99.4, 84.0)).count("**missed**") == 2


def test_settings_are_not_mixed():
    one = {"suite": {"un_reading": "per_element"}}
    others = {"b": run("table2", **one), "c": run("table7", rows=mitigated(), **one)}
    page = universal_page(**others)
    assert "best single |" not in page and "the paper's best |" not in page


def test_single_removers_before_another_network_are_not_compared():
    alike = universal_page(b=run("table7", rows=mitigated()))
    # Undefended it is right in 30 % there, here in others.
    other = universal_page(b=run("table7"))
    assert "ResNet: best single |" in alike
    assert "ResNet: best single |" not in other
    assert "ResNet: the paper's best |" in other


@pytest.mark.parametrize("experiment", ["universal_corruptions", "zero_shot"])
def test_other_pages_of_universal_models_say_what_they_are(experiment):
    config = {
        "universal": {
            "widths": [24, 48],
            "num_steps": 2000,
            "batch_size": 64,
            "variant": "blend",
            "consistency_weight": 0.001,
            "mirror": True,
        },
        "remover": {"variant": "skip", "widths": [16], "num_steps": 800}
        | {"batch_size": 64},
    }
    page = page_of(experiment, rows=universal(), **config)
    assert (
        "widths 24, 48 (theirs 16); num steps 2,000 (theirs 800); variant blend "
        "(theirs skip); consistency weight 0.001; mirror True. It is held to the "
        "answers of the classifier that it is judged with."
    ) in page
    trained_on_them = "Trained on the very corruptions that it is judged"
    assert (trained_on_them in page) == (experiment == "universal_corruptions")
    config["universal"] |= {"consistency_weight": 0.0, "mirror": False}
    page = page_of(experiment, rows=universal(), **config)
    assert "It is held to" not in page and "mirror" not in page


def test_trials_are_compared_with_each_other_only():
    page = page_of("universal_trials", rows=[])
    assert "the variants compare with each other only" in page


def test_experiments_without_published_numbers_are_listed():
    row = {"corruption": "fog", "severity": 3, "metric": "detection_accuracy"}
    rows = [row | {"value": 70.0}]
    rows.append(row | {"corruption": "blur", "model": None, "value": 80})
    page = page_of("other", preset="small", rows=rows)
    assert page.startswith("# other (small models)")
    assert "| corruption | severity | metric | ours |" in page
    assert "| blur | 3 | detection_accuracy | 80.00 |" in page


def test_experiments_without_a_result_are_named(tmp_path):
    assert PAGE_LAYOUTS.keys() == EXPERIMENTS.keys()
    figures = [x for x in EXPERIMENTS if x.startswith("figure")]
    lacking = {"universal_corruptions", "ant_noise", "reconstructive_figure1", *figures}
    store(tmp_path, **{x: run(x, rows=[]) for x in EXPERIMENTS if x not in lacking})
    pages, _ = docs_pages(tmp_path, tmp_path)
    page = " ".join(pages[tmp_path / "results" / "claims.md"].split())
    assert (
        "Without any number yet: `figure1`, `figure2`, `figure4`, `figure5`, " in page
    )
    assert "`universal_corruptions`. ## Adversarial noise training" in page


def test_links_of_one_name_say_of_what_they_are(tmp_path):
    seen = {"images": "noisy", "noise": "GN", "severity": 1, "metric": "change"}
    (tmp_path / "figures").mkdir()
    for name, dataset in {"figure5": "CIFAR-10", "figure5_photographs": "B"}.items():
        row = seen | {"dataset": dataset, "value": 0.1}
        store(tmp_path, **{name: run(name, rows=[row])})
        Image.new("RGB", (4, 4)).save(tmp_path / "figures" / f"{name}.png")
    pages, _ = docs_pages(tmp_path, tmp_path)
    links = "[Figure 5: CIFAR-10](results/figure5.md) · "
    links += "[Figure 5: B](results/figure5_photographs.md) |"
    assert links in pages[tmp_path / "RESULTS.md"]
