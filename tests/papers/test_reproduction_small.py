"""Results of small models: what makes one small, and that it stands apart."""

import pytest
from made_up_results import detection, other_classifier, run, store

from launch import report
from uronet_jax.papers.uronet.pages import comparison
from uronet_jax.reports import results


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
    verdict = page.splitlines()[:10]
    # Small models hold 8 claims of Tables 2 and 5, and confirm none. That detectors
    # miss attacks counts, as Table 2 has the same detectors.
    assert verdict[2] == "- **Confirmed (0 of 30 published claims):** none."
    assert verdict[3] == "- **Not confirmed (0):** none."
    assert verdict[4] == "- **Undecided, for the seeds differ too much (0):** none."
    assert verdict[5].startswith("- **Cannot be compared (0, and four tables):**")
    assert verdict[6].startswith(
        "- **Small models, an indication and no verdict on the paper, in line with 8 "
        "(small):** *Table 2:* a detector"
    )
    assert verdict[7] == "- **Small models, not in line with 0 (small):** none."
    assert "ours: " not in "".join(verdict)
    assert page.count("| small models: yes |") == 8 and "| yes |" not in page


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
def test_a_changed_preset_is_small(tmp_path, overridden, small):
    content = run("table5", overridden=overridden)
    assert comparison.is_small(content) is small
    content = run("figure4", rows=[], overridden=overridden)
    assert comparison.is_small(content) is small
    if small:
        with pytest.raises(ValueError, match="its name must say so"):
            store(tmp_path, a=run("table5", overridden=overridden))


def test_a_result_that_hides_its_changes_is_small():
    content = run("table5")
    del content["overridden"]
    assert comparison.is_small(content)
    assert comparison.is_small(run("table5", preset="small"))
    # Judged on validation images, of which there are fewer.
    rows = [{"metric": "accuracy", "value": 1.0, "num_images": 5000}]
    assert not comparison.is_small(run("universal_trials", rows=rows))
    assert comparison.is_small(run("universal", rows=rows))


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
    report.write(folder, tmp_path)
    page = (tmp_path / "RESULTS.md").read_text()
    assert "### a_small: Table 7" in page and "| yes |" not in page
