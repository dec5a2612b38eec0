"""Reports on defences side by side."""

import json

import pytest
from made_up_results import PROVENANCE

from uronet_jax.reports import side_by_side

CONFIG = {
    **{"preset": "full", "seed": 0, "classifier": "runs/c", "purifier": "median"},
    "data": {"name": "birds", "split": "test", "num_examples": 0},
    "suite": {"name": "cifar_c"},
}
KNOWN = {
    **{"data": "birds", "suite": "cifar_c", "severities": "1, 2", "num_images": 7},
    **{"classifier": "runs/c", "clean_accuracy": 0.9, "undefended_accuracy": 0.2},
}


def report(purified=(), gated=(), **config):
    rows = [{"noise": "fog", "severity": i, "undefended_accuracy": 0.2} for i in (2, 1)]
    for name, values in {"purified": purified, "gated": gated}.items():
        for row, accuracy in zip(rows, values, strict=False):
            row[f"{name}_accuracy"] = accuracy
    summary = {"num_images": 7, "clean_accuracy": 0.9}
    summary |= {"gated_clean_accuracy": 0.8} if gated else {}
    return PROVENANCE | {"rows": rows, "summary": summary, "config": CONFIG | config}


@pytest.fixture
def folder(tmp_path):
    quick = {"dataset": "mnist5k", **report((0.5, 0.5))}
    quick |= quick.pop("summary")
    quick["config"] = {"classifier": "resnet8"}
    for name, content in {
        "a": report((0.5, 0.75), (0.25, 0.5)),
        "b": report(purifier=""),
        "quick": quick,
        "c": {"rows": [{"what": "else"}]},
    }.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    (tmp_path / "d.json").write_text("no JSON")
    return tmp_path


def test_a_row_says_what_was_judged_and_how_it_did(folder):
    paths = [folder / f"{name}.json" for name in ("quick", "b", "a")]
    rows = side_by_side.compare_reports(side_by_side.read_reports(paths))
    names = [str(path.with_suffix("")) for path in paths]
    assert [row.pop("report") for row in rows] == names
    quick, bare, gated = rows
    assert bare == KNOWN | {"purifier": "none"}
    assert gated == KNOWN | {
        **{"purifier": "median", "purified_accuracy": 0.625, "worst_accuracy": 0.5},
        **{"gated_clean_accuracy": 0.8, "gated_accuracy": 0.375},
    }
    assert (quick["data"], quick["suite"]) == ("mnist5k", "uronet")
    assert quick["worst_accuracy"] == 0.5


def test_of_a_folder_those_on_a_purifier_are_taken(folder):
    for name in ("c", "d"):
        with pytest.raises(
            ValueError, match=f"{name}.json (has an unknown|is not a J)"
        ):
            side_by_side.read_reports([folder / f"{name}.json"])
        (folder / f"{name}.json").unlink()
    found = side_by_side.published_reports(folder)
    assert [x.name for x in found] == ["a", "quick"]
    assert side_by_side.published_reports(folder / "none") == []
    with pytest.raises(FileNotFoundError):
        side_by_side.read_reports([folder / "e.json"])
    other = PROVENANCE | {"rows": {}, "schema": "uronet_jax.benchmark"}
    other["config"] = {"threads": 1}
    (folder / "speed.json").write_text(json.dumps(other))
    with pytest.raises(ValueError, match="no report on a defence, .* kind benchmark"):
        side_by_side.read_reports([folder / "speed.json"])
