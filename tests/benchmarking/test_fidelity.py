"""Agreement with the original programs, the page on corruptions, and the gallery."""

import numpy as np
import pytest

from uronet_jax.benchmarking import fidelity
from uronet_jax.corruptions import CORRUPTIONS, SUITES, list_corruptions
from uronet_jax.reports import corruption_gallery, corruption_page

# Corruption -> largest share of values that may differ, by one level. Where the exact
# value is a whole number, the rounding of the original decides about that level.
EXACT = ("contrast", "pixelate", "jpeg_compression", "shot_noise", "spatter")
SHARES = dict.fromkeys(EXACT, 0.0) | {
    "brightness": 0.04,  # Half of the results are whole numbers.
    "saturate": 0.09,
    "defocus_blur": 0.08,  # Mean of five pixels: a fifth are whole numbers.
    "glass_blur": 0.02,
    "motion_blur": 0.003,  # Rounding of ImageMagick.
    "snow": 0.003,
}
OTHERS = 0.002


@pytest.mark.parametrize("name", fidelity.ARCHIVES)
def test_original_outputs_are_reproduced(golden, name):
    rows = list(fidelity.compare_archive(dict(golden(name)), fidelity.ARCHIVES[name]))
    severities = 1 if "224" in name else 5
    # The archives lack impulse noise and frost.
    assert len(rows) == 17 * severities
    for row in rows:
        share = SHARES.get(row["corruption"], OTHERS)
        assert row["share_differing"] <= share and row["max_difference"] <= 1, row
        assert row["mean_difference"] == pytest.approx(row["share_differing"])


def test_a_wrong_output_is_seen(golden):
    arrays = golden("cifar32")
    arrays = {name: arrays[name] for name in ("input", "contrast/2/out")}
    arrays["contrast/2/out"] = arrays["contrast/2/out"].copy()
    arrays["contrast/2/out"][0, 0, 0] ^= 4
    (row,) = fidelity.compare_archive(arrays, "cifar_c")
    assert (row["max_difference"], row["severity"]) == (4, 2)
    assert row["share_differing"] == 1 / 3072


def test_missing_archives_are_reported(tmp_path):
    with pytest.raises(FileNotFoundError, match="cifar32.npz"):
        fidelity.measure_fidelity(tmp_path, tmp_path / "f.json")


def test_page_tells_every_corruption_and_parameter():
    page = corruption_page.render_corruptions(None, [])
    for name, operation in CORRUPTIONS.items():
        assert f"| `{name}` | {operation.formula} | {operation.source} |" in page
    for suite in SUITES:
        for name in list_corruptions(suite):
            assert f"| `{suite}/{name}` |" in page
    assert "scale: 0.04, 0.06, 0.08, 0.09, 0.1 |" in page
    assert "1 to 1.11 (12 values)" in page
    assert "Agreement with" not in page and "Speed against" not in page


def test_page_shows_the_worst_and_the_ratios():
    row = {"reference": "file", "suite": "cifar_c", "corruption": "fog"}
    numbers = {"max_difference": 1, "share_differing": 0.02, "mean_difference": 0.02}
    better = {"max_difference": 0, "share_differing": 0.0, "mean_difference": 0.0}
    comparison = {"subject": "fog", "peer": "theirs", "ratio": 0.1}
    page = corruption_page.render_corruptions(
        {"rows": [row | numbers | {"severity": 1}, row | better | {"severity": 2}]},
        [
            {
                "device": {"kind": "cpu"},
                "config": {"threads": 1},
                "rows": {
                    "corruptions_32": {
                        "work": "one image",
                        "comparisons": [comparison],
                        "notes": ["a note"],
                    },
                    "memory": {"comparisons": [], "notes": []},
                },
            }
        ],
    )
    assert page.count("| `fog` | file |") == 1
    assert "| `fog` | file | 1 | 2.000 | 0.02000 |" in page
    assert "| HD | 1 level in 2.00% | 10.0 |" in page
    assert "| fog | 10.0 |" in page and "- a note" in page
    assert "1 core(s) for everybody" in page


def test_photographs_and_gallery(tmp_path):
    images = corruption_gallery.sample_photographs(32)
    assert images.shape == (2, 32, 32, 3) and images.dtype == np.float32
    assert 0 <= images.min() < 0.1 and 0.9 < images.max() <= 1
    corruption_gallery.draw_corruptions(
        tmp_path / "g.png", images[0], names=["contrast", "brightness"], severities=[5]
    )
    assert (tmp_path / "g.png").stat().st_size > 5_000
    with pytest.raises(ValueError, match="unknown imagenet_c corruption"):
        corruption_gallery.draw_corruptions(
            tmp_path / "h.png", images[0], names=["fogg"]
        )
