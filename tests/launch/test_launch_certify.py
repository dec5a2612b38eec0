"""The certify command: a smoke run, resumption, its page, and ways to misuse it."""

import json
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest
from test_configs import load, save_models

from launch import certify
from uronet_jax.evaluation import certify_run
from uronet_jax.evaluation.certify import summarize_certificates
from uronet_jax.papers.pages.docs import docs_pages
from uronet_jax.reports import certification, figures, results


@pytest.fixture(scope="module")
def fields(tmp_path_factory, make_variables):
    """Returns the fields that name two tiny networks that know nothing."""
    models = save_models(tmp_path_factory.mktemp("runs"), make_variables)
    return {name: models[name] for name in ("classifier", "purifier")}


@pytest.fixture(scope="module")
def whole(fields, tmp_path_factory):
    folder = tmp_path_factory.mktemp("certified")
    return folder, certify.run(load("certify", **fields), folder)


def test_smoke_run(whole):
    folder, content = whole
    stored = json.loads((folder / "certification.json").read_text())
    assert stored == json.loads(json.dumps(content)) and stored["finished"]
    assert [row["image"] for row in stored["rows"]] == list(range(8))
    assert stored["digests"].keys() == {"classifier", "purifier", "images"}
    summary, config = stored["summary"], stored["config"]
    assert summary["num_images"] == 8
    assert [x["radius"] for x in summary["certified"]] == config["radii"]
    text = (folder / "certification.md").read_text()
    assert text.startswith("# Certificates on generated (smoke)")
    assert "sigma 0.25, 30 noisy copies of each of 8 images" in text


def test_a_run_that_died_goes_on_with_the_next_row(
    whole, fields, tmp_path, monkeypatch
):
    config = load("certify", **fields)
    monkeypatch.setattr(certify_run, "_WRITE_EVERY", -1.0)
    made, make = [], certify_run.certify

    def dying(*given, on_rows, **options):
        def keep(rows):
            on_rows(rows)
            raise KeyboardInterrupt

        made.append(len(options["rows"]))
        return make(*given, on_rows=keep if len(made) == 1 else on_rows, **options)

    monkeypatch.setattr(certify_run, "certify", dying)
    with pytest.raises(KeyboardInterrupt):
        certify.run(config, tmp_path)
    half = json.loads((tmp_path / "certification.json").read_text())
    assert not half["finished"] and half["rows"] == whole[1]["rows"][:4]
    with pytest.raises(ValueError, match=r"sigma: 0.25 there, 0.5 now"):
        certify.run(config | {"sigma": 0.5}, tmp_path)
    again = certify.run(config, tmp_path)
    assert made == [0, 4] and again["rows"] == whole[1]["rows"]
    # A finished run is left alone.
    certify.run(config, tmp_path)
    assert made == [0, 4]


def test_every_so_manyth_image_of_the_split(whole, fields, tmp_path):
    some = {"data__every": 2, "data__num_examples": 3}
    rows = certify.run(load("certify", **fields, **some), tmp_path)["rows"]
    labels = [row["label"] for row in whole[1]["rows"]]
    assert [row["label"] for row in rows] == labels[:6:2]
    with pytest.raises(ValueError, match=r"num_examples is 999, .* every 2th: 0 takes"):
        config = load("certify", **fields, data__every=2, data__num_examples=999)
        certify.run(config, tmp_path / "too_many")


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("sigma", 0.0, r"sigma must be a finite number in \(0, inf\): 0.0"),
        ("num_samples", 0, "num_samples must be an integer"),
        ("alpha", 1.0, r"alpha must be a finite number in \(0, 1\): 1.0"),
        ("radii", 0.5, "radii must be several"),
        ("radii", (-0.5,), "each of radii must be"),
        ("samples_at_once", 0, "samples_at_once must be an integer"),
        ("clip", "no", "clip must be True or False: 'no'"),
        ("batch_size", 3, "batch size 3 cannot be split evenly"),
        ("data__every", 0, "data.every must be an integer"),
        ("classifier", "", "name a classifier"),
        ("checkpoint", "first", "unknown checkpoint 'first'"),
    ],
)
def test_wrong_fields_are_named_before_any_work(field, value, expected, tmp_path):
    with pytest.raises(ValueError, match=expected):
        certify.run(load("certify", **{field: value}), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def publish(content, folder, name, **changes):
    """Writes a result as if it were of 500 images of CIFAR-10 and 10,000 copies."""
    config = load("certify", "full") | changes
    content = content | {"config": {**config, "classifier": "resnet20"}}
    (folder / f"{name}.json").write_text(json.dumps(content))


def test_the_page_shows_ours_beside_the_published(whole, tmp_path):
    content = json.loads(json.dumps(whole[1]))
    row = content["rows"][0] | {"label": 1}
    content["rows"] = [row | {"predicted": 1, "radius": r} for r in (0.3, 0.6)]
    content["rows"].append(row | {"predicted": 0, "radius": 0.7})
    radii = (0.25, 0.5, 0.75)
    content["summary"] = summarize_certificates(content["rows"], radii)
    publish(content, tmp_path, "certified_025")
    content["summary"] = summarize_certificates(content["rows"][1:2], radii)
    publish(content, tmp_path, "certified_050", sigma=0.5)
    found = results.load_folder(tmp_path)
    assert not any(result.small for result in found)
    page = docs_pages(tmp_path, "docs")[0][Path("docs/CERTIFICATION.md")]
    lines = [line for line in page.splitlines() if line.startswith("|")]
    assert any("| 0.25 | 10,000 | 0.0 | 66.7 | 33.3 | 0.0 |" in line for line in lines)
    assert any("| best |  |  | 100.0 | 100.0 | 0.0 |" in line for line in lines)
    published = "full access | best |  |  | 56.0 | 41.0 | 28.0 |"
    assert any(published in line for line in lines)
    curves = certification.certified_curves(found)
    radii, shares = curves["lines"]["cnn_narrow behind a remover of 2, sigma 0.25"]
    np.testing.assert_allclose(radii[:3], (0.0, 0.02, 0.04))
    # It ends where nothing is certified any more.
    assert shares[:16] == [2 / 3] * 16 and shares[16] == 1 / 3 and shares[-1] == 0.0
    figures.accuracy_over_radius(tmp_path / "curve.png", **curves)
    assert (tmp_path / "curve.png").stat().st_size > 10_000
    assert "wrong with a probability of at most 0.1 % an image." in " ".join(
        page.split()
    )
    # Another alpha, and what all of so many copies certify with it.
    for name in ("certified_025", "certified_050"):
        publish(content, tmp_path, name, alpha=0.05)
    other = " ".join(
        certification.render_certificates(results.load_folder(tmp_path)).split()
    )
    assert "wrong with a probability of at most 5 % an image." in other
    most = NormalDist().inv_cdf(0.05 ** (1 / 1000))
    assert f"1,000 at most {most:.2f} sigma" in other
    publish(content, tmp_path, "certified_025")
    with pytest.raises(
        ValueError, match="several alphas: certified_025 has 0.001, cert"
    ):
        docs_pages(tmp_path, "docs")
    # Fewer copies, or fewer images than the papers have, are small.
    for name, changes in {
        "copies": {"num_samples": 1_000},
        "images": {"data": load("certify", "full")["data"] | {"every": 40}},
    }.items():
        publish(content, tmp_path, name, **changes)
        with pytest.raises(ValueError, match="its name must say so"):
            results.load_result(tmp_path / f"{name}.json")
