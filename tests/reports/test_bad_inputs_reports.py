"""Results that are none and figures of nothing, and the one error that says so."""

import json
import os

import numpy as np
import pytest
from made_up_results import PROVENANCE, evaluation, run
from test_noise_figures import CLEAN, NOISE, NOISY
from test_reports import ROWS as TABLE

from uronet_jax.records import write_json
from uronet_jax.reports import figures, results, tables

FORM = r"odd\.json has an unknown form: expected"
OLD = {"schema": results.REPRODUCTION, "schema_version": 2}
# What is in the file, and what the message holds.
FILES = [
    ("", r"odd\.json is not a JSON file"),
    ("{", r"odd\.json is not a JSON file"),
    ("\0", r"odd\.json is not a JSON file"),
    (None, FORM),
    ([], FORM),
    ("a", r"odd\.json is not a JSON file"),
    ({"rows": []}, FORM),
    ({**evaluation(), "summary": None} | {"schema": "another"}, FORM),
    ({k: v for k, v in evaluation().items() if k != "device"}, FORM),
    *(
        ({**evaluation(), field: wrong}, FORM)
        for field in ("config", "device", "seconds", "rows")
        for wrong in (None, "text")
    ),
    (evaluation(preset="smoke"), r"odd\.json comes from a smoke run"),
    ({**evaluation(), "rows": []}, r"odd\.json, of the kind evaluation, lacks rows: m"),
    (
        {**evaluation(), "rows": [{"noise": "GN"}]},
        "lacks severity of a row, undefended_",
    ),
    (
        {**evaluation(), "summary": {}},
        r"lacks summary.num_images, summary.clean_accura",
    ),
    (
        {**evaluation(), "device": {"count": 1}},
        r"lacks device\.kind: make it anew with",
    ),
    (
        {**evaluation(), "config": {"data": "cifar10"}},
        r"lacks config.classifier, config",
    ),
    (
        {**run("table5"), "rows": ["a"]},
        "of the kind reproduction, lacks metric of a row, value",
    ),
    (OLD, "is of version 2 of the schema .*, expected 1: compute it anew"),
    ({**evaluation(), "finished": False}, "not finished: run the same command again"),
    (evaluation(preset="small"), r"odd\.json is of small models or part of the test"),
]


@pytest.mark.parametrize(("content", "message"), FILES)
def test_files(content, message, tmp_path):
    text = content if isinstance(content, str) else json.dumps(content)
    (tmp_path / "odd.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        results.load_folder(tmp_path)


@pytest.mark.parametrize("version", [0, 2, None])
def test_another_version_of_the_schema(tmp_path, version):
    content = PROVENANCE | {"schema": results.REPRODUCTION, "experiment": "table2"}
    content |= {"rows": [], "overridden": [], "config": {"preset": "full"}}
    content |= {} if version is None else {"schema_version": version}
    path = tmp_path / "old.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError) as error:
        results.load_folder(tmp_path)
    text = str(error.value)
    assert text.startswith(f"{path} is of version {version} of the schema ")
    assert "schema uronet_jax.reproduction, expected 1: compute it anew" in text
    path.write_text(json.dumps(content | {"schema_version": 1}))
    (stored,) = results.load_folder(tmp_path)
    assert stored.kind == "reproduction" and not stored.small


CIRCLE: list = []
CIRCLE.append(CIRCLE)
# What is drawn: function, arguments, and what the message holds.
FIGURES = [
    (figures.noise_samples, (CLEAN, {}), "need 1 to 7 variants: 0"),
    (
        figures.noise_samples,
        (CLEAN, {"a": (NOISY, NOISE[:1])}),
        "noise of 'a' .* like the images",
    ),
    (figures.noise_samples, (CLEAN, {"a": (NOISY, 0 * NOISE)}), "not all zero"),
    (
        figures.noise_samples,
        (CLEAN, {"a": (NOISY, np.nan * NOISE)}),
        "finite and not all zero",
    ),
    (
        figures.noise_samples,
        (CLEAN, {"a": (NOISE - 1, NOISE)}),
        r"'a' needs intensities in \[0, 1\]",
    ),
    (figures.accuracy_over_sigma, ({},), "need 1 to 7 lines and levels: 0"),
    (figures.accuracy_over_sigma, ({"a": ([1, 2], [0.5])},), "sigma for each"),
    (figures.accuracy_over_sigma, ({"a": ([np.nan], [0.5])},), "finite sigma"),
    (figures.accuracy_over_sigma, ({"a": ([1], [50])},), "must be fractions"),
    (figures.corruption_bars, ({},), "need 1 to 7 models: 0"),
    (figures.corruption_bars, ({str(i): {"fog": 1} for i in range(8)},), "models: 8"),
    (figures.corruption_bars, ({"a": {}},), "need a corruption of a"),
    (figures.corruption_bars, ({"a": {"fog": 50}},), "must be fractions"),
    (figures.gallery, ({},), "one or more columns"),
    (
        figures.gallery,
        ({"x": np.zeros((1, 8, 8, 1)), "y": np.zeros((2, 8, 8, 1))},),
        "equal",
    ),
    (figures.gallery, ({"x": np.zeros((8, 8, 3))},), "'x' needs images"),
    (figures.gallery, ({"x": np.zeros((1, 8, 8, 2))},), "1 or 3"),
    (figures.gallery, ({"x": -np.ones((1, 8, 8, 1))},), "; show_noise"),
    (figures.gallery, ({"x": np.full((1, 8, 8, 1), np.nan)},), r"got \[nan"),
    (figures.gallery, ({"x": np.zeros((1, 8, 8, 1))}, ["a", "b"]), "1 rows: 2"),
    (figures.heat_map, ([[1.0, 2.0]], ["row"], ["column"]), "like the labels"),
    (figures.heat_map, ([[np.nan]], ["row"], ["column"]), "one finite value"),
    (figures.difference_map, ([[1.0, 2.0]], [[1.0]], "a", "xy"), "one difference for"),
    (lambda _, x: figures.show_noise(x, 0), (NOISE,), "amplify must be .*: 0"),
    (lambda _, *x: tables.markdown_table(*x), ([], ["noise"]), "0 rows"),
    (lambda _, *x: tables.markdown_table(*x), (TABLE, []), "0 columns"),
    (
        lambda _, *x: tables.markdown_table(*x),
        (TABLE, ["noise", "accuracies"]),
        "accuracies.*in no row",
    ),
    (write_json, ({"a": float("nan")},), "a.png is not written: Out of range float"),
    (write_json, (CIRCLE,), "a.png is not written: Circular reference"),
]


@pytest.mark.parametrize(("function", "arguments", "message"), FIGURES)
def test_figures(function, arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        function(tmp_path / "a.png", *arguments)
    assert not os.listdir(tmp_path)


def test_no_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder of results at .*absent"):
        results.load_folder(tmp_path / "absent")
