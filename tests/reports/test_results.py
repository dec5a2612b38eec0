"""Stored results: what is one, what may not be, and the pages of single ones."""

import re

import pytest
from made_up_results import PROVENANCE, evaluation, store

from uronet_jax.reports import results, suites
from uronet_jax.reports.result_pages import render_result
from uronet_jax.reports.results import Result, origin_line
from uronet_jax.reports.tables import wrap_markdown


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
        "config": {"batch_size": 128, "threads": 2, "peer": None},
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
    config = {"seed": 0, "classifier": "resnet8"}
    return PROVENANCE | {"config": config, "rows": [row]} | summary


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


def suite_evaluation(*, num_examples=0):
    rows = [
        {"noise": name, "severity": s, "undefended_accuracy": 0.9 - s / 100}
        for name in ("fog", "spatter")
        for s in (1, 2)
    ]
    content = evaluation(name="cifar_c")
    content["config"]["data"]["num_examples"] = num_examples
    figures = {"clean_accuracy": 0.9173, "mean_accuracy": 0.885}
    content["summary"]["corruptions"] = {"undefended": figures}
    return content | {"rows": rows}


def test_suites_stand_beside_published_numbers(tmp_path):
    page = render_result(*store(tmp_path, a=suite_evaluation()))
    assert page.startswith("# Evaluation: cifar10, cifar_c (full models)\n")
    # RobustBench's plain WRN-28-10 at severities 1 and 2 of fog; it has no spatter.
    fog = suites.published_cifar10_c()["fog"]
    published = 100 * (fog[1] + fog[2]) / 2
    assert f"| fog | 89.00 | 88.00 | 88.50 | {published:.2f} |" in page
    assert "| spatter | 89.00 | 88.00 | 88.50 |  |" in page
    assert "mean over all corruptions and severities: 88.50%" in page
    assert "not the benchmark's" not in page
    content = suite_evaluation()
    content["rows"][0]["textures"] = "procedural"
    assert "not the benchmark's" in suites.render_suite(content)


def test_pages_say_that_right_is_one_of_more_classes(tmp_path):
    content = suite_evaluation()
    content["config"]["data"]["labels"] = [0, 217]
    page = render_result(*store(tmp_path, a=content))
    assert "cifar10 has 2 of the classifier's classes; right is the class that" in page
    (tmp_path / "a.json").unlink()
    page = render_result(*store(tmp_path, a=suite_evaluation()))
    assert "classifier's classes" not in page and "\n\n\n" not in page


def test_part_of_a_test_set_is_called_small(tmp_path):
    with pytest.raises(ValueError, match=r"a\.json is of small models or part of the"):
        store(tmp_path, a=suite_evaluation(num_examples=2000))
    (tmp_path / "a.json").unlink()
    with pytest.raises(ValueError, match=r"models\.json is of small.*small_models"):
        store(tmp_path, models=evaluation(preset="small"))
    (tmp_path / "models.json").unlink()
    (stored,) = store(tmp_path, a_small=suite_evaluation(num_examples=10_000))
    assert stored.small
    page = render_result(stored)
    assert "mean (small: 10,000 images)" in page and "**Small: an indication" in page
    assert not Result("x", "quickstart", quickstart()).small


def test_pages_name_their_origin(tmp_path):
    one = evaluation() | {"seconds": 12.3}
    stored = store(tmp_path, x=one, quick=quickstart(), speed=benchmark())
    assert [r.kind for r in stored] == ["quickstart", "benchmark", "evaluation"]
    assert origin_line(stored[2:]) == (
        "2 x H200, 12 s, seed 1, 10,000 images. "
        "Config and versions: [x.json](x.json).\n"
    )
    for result in stored:
        page = render_result(result)
        assert page.startswith("# ") and f"[{result.name}.json]" in page
    assert "| GN | 1 | 32.97% |" in page
    both = [stored[2], Result("y", "evaluation", evaluation(preset="small"))]
    assert origin_line(both).startswith("**Small: an indication")


def test_pages_have_no_long_lines():
    text = "word " * 60 + "\n- " + "item " * 60 + "\n\n| " + "cell " * 60 + "|\n"
    lines = wrap_markdown(text).splitlines()
    assert all(len(line) <= 110 or line.startswith("|") for line in lines)
    assert lines[3].startswith("- item") and lines[4].startswith("  item")
    assert re.sub(r"\s+", " ", "".join(f"{x} " for x in lines)).split() == text.split()
    assert wrap_markdown(wrap_markdown(text)) == wrap_markdown(text)
    heading = f"# {'Word ' * 40}word\n"  # A second line would be no heading.
    assert wrap_markdown(heading) == heading
