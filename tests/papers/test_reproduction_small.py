"""Results of small models: what makes one small, and that it stands apart."""

import pytest
from made_up_results import detection, other_classifier, run, store

from uronet_jax.papers.pages import docs_pages, write_pages
from uronet_jax.reports.results import Result


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
    assert "8 hold, 0 do not, 26 are open; 0 were judged at full size" in text


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
