"""The figures of a reproduction: which are drawn, and when again."""

import pytest
from made_up_results import one_group, run, store

from uronet_jax.papers.pages import docs_pages, out_of_date, write_pages
from uronet_jax.papers.uronet.pages.experiment_page import render_experiment


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


def test_pages_without_a_result_are_deleted(tmp_path):
    folder = tmp_path / "results"
    store(folder, a=run("table6"))
    old = folder / "gone.md"
    old.write_text("# Gone\n")
    assert old in out_of_date(folder, tmp_path)
    write_pages(folder, tmp_path)
    assert not old.exists() and not out_of_date(folder, tmp_path)
