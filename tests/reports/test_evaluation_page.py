"""The page of an evaluation: whole in one file, with the numbers of the JSON."""

import base64
import io
import json
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from uronet_jax.evaluation.examples import ExamplePictures
from uronet_jax.reports import svg
from uronet_jax.reports.evaluation_page import evaluation_page
from uronet_jax.reports.workdir import check_page_path

RNG = np.random.default_rng(0)
ROWS = [
    {
        **{"noise": noise, "severity": severity},
        **{
            name: float(RNG.uniform())
            for name in ("undefended_accuracy", "purified_accuracy", "auroc")
        },
        "psnr_noisy": 20 * float(RNG.uniform()),
    }
    for noise in ("GN", "<IN>")
    for severity in (1, 2, 3)
]
SUMMARY = {
    "num_images": 1000,
    "clean_accuracy": 0.9173,
    "purified_clean_accuracy": 1 / 3,
}
RESULT = {
    "rows": ROWS,
    "summary": SUMMARY,
    "config": {
        "data": {"name": "birds", "split": "test"},
        "classifier": "runs/<mine>",
        "purifier": "median",
    },
    "versions": {"jax": "0.10"},
}
CLEAN, DEGRADED, PURIFIED = RNG.integers(256, size=(3, 2, 8, 6, 1)) / 255
EXAMPLES = ExamplePictures(
    [("GN", 2), ("<IN>", 2)], CLEAN, DEGRADED, PURIFIED, DEGRADED - PURIFIED
)


class Page(HTMLParser):
    """What a page holds: cells, points of charts, pictures, text, what is open."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.points, self.pictures, self.text = [], [], [], ""
        self.tags, self.open = set(), []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.tags.add(tag)
        if tag not in ("meta", "img"):
            self.open.append(tag)
        if tag == "tr":
            self.rows.append({})
        if tag == "td" and "data-name" in found:
            self.rows[-1][found["data-name"]] = found["data-value"]
        if tag == "circle":
            keys = ("data-line", "data-severity", "data-value")
            self.points.append(tuple(found[x] for x in keys))
        if tag == "img":
            kind, _, data = found["src"].partition(",")
            assert kind == "data:image/png;base64"
            with Image.open(io.BytesIO(base64.b64decode(data))) as image:
                self.pictures.append(np.asarray(image))

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def page():
    return Page(evaluation_page(RESULT, EXAMPLES))


def test_numbers_are_those_of_the_json(page):
    assert page.open == []  # Every element is closed.
    rows = [row for row in page.rows if "noise" in row]
    typed = [
        {k: v if k == "noise" else json.loads(v) for k, v in row.items() if v}
        for row in rows
    ]
    assert typed[:-1] == ROWS
    means = {
        name: sum(row[name] for row in ROWS) / len(ROWS)
        for name in ROWS[0]
        if name not in ("noise", "severity")
    }
    assert typed[-1] == {"noise": "mean", **means}
    found = {k: v for row in page.rows if len(row) == 1 for k, v in row.items()}
    assert {name: json.loads(value) for name, value in found.items()} == SUMMARY


def test_charts_hold_every_accuracy(page):
    expected = []
    lines = {
        "classifier alone": ("clean_accuracy", "undefended_accuracy"),
        "behind the purifier": ("purified_clean_accuracy", "purified_accuracy"),
    }
    for noise in ("GN", "<IN>"):
        for name, (clean, column) in lines.items():
            expected.append((name, "0", repr(SUMMARY[clean])))
            expected += [
                (name, str(row["severity"]), repr(row[column]))
                for row in ROWS
                if row["noise"] == noise
            ]
    assert page.points == expected


def test_pictures_are_inside(page):
    noise = 0.5 + (DEGRADED - PURIFIED) / 2
    rows = zip(CLEAN, DEGRADED, PURIFIED, noise, strict=True)
    expected = [255 * image[..., 0] for row in rows for image in row]
    # Rounded to whole levels.
    np.testing.assert_allclose(page.pictures, expected, atol=0.5 + 1e-4)


def test_nothing_is_asked_of_a_network(page):
    text = evaluation_page(RESULT, EXAMPLES)
    assert "http:" not in text and "https:" not in text and "//" not in text
    assert not page.tags & {"link", "iframe", "object", "base", "form", "a"}
    assert "@import" not in text and "url(" not in text
    assert '"jax": "0.10"' in page.text and "runs/<mine>" in page.text


def test_a_bare_classifier_has_a_page_too():
    rows = [{k: row[k] for k in list(row)[:3]} for row in ROWS]
    pictures = EXAMPLES._replace(purified=None, noise=None)
    summary = {"num_images": 5, "clean_accuracy": 0.5}
    page = Page(evaluation_page({**RESULT, "rows": rows, "summary": summary}, pictures))
    assert (len(page.points), len(page.pictures)) == (8, 4)
    assert "purifier" not in page.rows[-1]


@pytest.mark.parametrize("name", ["page.pdf", "page", "."])
def test_a_page_has_the_name_of_one(name, tmp_path):
    with pytest.raises(ValueError, match="is no name of a page: name a file, such"):
        check_page_path(tmp_path / name)


def test_a_chart_draws_where_the_numbers_are():
    line = [(3, 1.0), (1, 0.0), (2, 0.5)]  # As rows may come.
    text = svg.accuracy_chart({"a": line}, width=244, height=144)
    # Axes: 34 and 10 pixels at the sides, 22 above and below.
    assert 'points="34.0,122.0 134.0,72.0 234.0,22.0"' in text
    for wrong in ({}, {"a": [(1, 1.5)]}):
        with pytest.raises(ValueError, match=r"needs accuracies in \[0, 1\]"):
            svg.accuracy_chart(wrong)
