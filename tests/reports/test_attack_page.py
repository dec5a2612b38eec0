"""The page on attacks, and the comparison that fills it."""

import inspect
import json

import numpy as np
import pytest

from uronet_jax.attacks import ATTACKS
from uronet_jax.benchmarking import agreement as command
from uronet_jax.loading import LoadedModel
from uronet_jax.reports import attack_page

ROW = {
    "attack": "pgd_linf",
    "peer": "theirs 1.0",
    "norm": "linf",
    "minimal": False,
    "deterministic": True,
    "parameters": {"epsilon": 1 / 255, "steps": 20},
    "num_images": 32,
    "success": 0.75,
    "peer_success": 0.5,
    "share_differing": 0.25,
    "median_norm": 0.0039,
    "peer_median_norm": None,
    "time_ratio": 0.5,
}
CONFIG = {"classifier": "resnet20", "dataset": "cifar10"}
CONFIG |= {"num_images": 32, "threads": 1}


def test_page_tells_every_attack():
    page = attack_page.render_attacks(None, [])
    for name in ATTACKS:
        assert f"| `{name}` |" in page
    assert "steps 40, step_size 2.5 epsilon / steps" in page
    assert "## Agreement" not in page and "## Speed" not in page


def test_page_shows_agreement_and_speed():
    ratios = {"ratio": 0.25, "ratio_min": 0.2, "ratio_max": 0.3}
    row = {"comparisons": [{"peer": "theirs 1.0", **ratios}]}
    page = attack_page.render_attacks(
        {"config": CONFIG, "rows": [ROW]},
        [{"device": {"kind": "cpu"}, "rows": {"attack_pgd": row, "data": {}}}],
    )
    assert "| `pgd_linf` | theirs 1.0 | epsilon 0.003922, steps 20 | 32 |" in page
    assert "| 75.0% | 50.0% | 25.0% | 0.0039 | - | 0.50 |" in page
    assert "on 1 CPU thread;" in page
    assert "| cpu | theirs 1.0 | 0.25 | 0.20 to 0.30 |" in page


def test_pairs_name_attacks_and_their_parameters():
    names = [(pair.attack, pair.peer) for pair in command.PAIRS]
    assert len(set(names)) == len(names)
    compared = {pair.attack for pair in command.PAIRS}
    both = (*"fgsm ifgsm pgd apgd_ce apgd_dlr apgd_t square deepfool fab".split(),)
    assert compared >= {f"{name}_{norm}" for name in both for norm in ("linf", "l2")}
    assert compared >= {"ddn_l2", "carlini_wagner_l2"}
    assert compared >= {"gaussian_noise_l2", "uniform_noise_l2"}
    assert compared - ATTACKS.keys() == {"autoattack_linf", "autoattack_l2"}
    for pair in command.PAIRS:
        if pair.attack.startswith("autoattack"):
            continue
        attack = ATTACKS[pair.attack]
        known = inspect.signature(attack.function).parameters.keys()
        assert pair.parameters.keys() <= known
        assert ("epsilon" in pair.parameters) != attack.minimal


def test_measured_pairs_are_not_measured_again(tmp_path, monkeypatch):
    measured = []

    def compare(pair, model, images, labels):
        measured.append(pair.attack)
        if len(measured) == 2:
            raise KeyboardInterrupt
        return ROW | {"attack": pair.attack, "peer": f"{pair.peer} 1.0"}

    monkeypatch.setattr(command, "compare_pair", compare)
    path, config = tmp_path / "agreement.json", CONFIG | {"seed": 0}
    pairs = command.PAIRS[:3]
    arguments = (None, None, None, path)
    with pytest.raises(KeyboardInterrupt):
        command.measure_pairs(pairs, *arguments, config)
    assert len(json.loads(path.read_text())["rows"]) == 1
    content = command.measure_pairs(pairs, *arguments, config)
    assert measured == [pairs[i].attack for i in (0, 1, 1, 2)]
    assert [row["attack"] for row in content["rows"]] == [p.attack for p in pairs]
    again = command.measure_pairs(pairs, *arguments, config)
    assert again == json.loads(path.read_text())
    with pytest.raises(ValueError, match="holds another result"):
        command.measure_pairs(pairs, *arguments, CONFIG | {"seed": 1})


def test_images_that_are_right_are_chosen(monkeypatch):
    class Module:
        @staticmethod
        def apply(variables, images, train):
            return np.eye(4)[np.round(images[:, 0, 0, 0] * 3).astype(int)]

    class Source:
        image_shape = (2, 2, 1)
        # The brightness of an image is its class; every second one is labelled wrong.
        classes = np.array([0, 1, 2, 3, 2, 1, 0, 3])
        labels = np.array([0, 0, 2, 0, 2, 0, 0, 0])

        def __len__(self):
            return 8

        def read(self, indices):
            images = np.ones((8, 2, 2, 1)) * self.classes[:, None, None, None] * 85
            return np.uint8(images)[indices], self.labels[indices]

    monkeypatch.setattr(command, "open_source", lambda *a, **k: Source())
    model = LoadedModel("classifier", Module, {}, (2, 2, 1), 4, {})
    images, labels = command.right_images(model, "small", None, 3)
    assert labels.tolist() == [0, 2, 2] and images.dtype == np.float32
    np.testing.assert_allclose(images[:, 0, 0, 0] * 3, [0, 2, 2], atol=1e-6)
    with pytest.raises(ValueError, match="num_images must be .* 4\\]: 5"):
        command.right_images(model, "small", None, 5)
    Source.labels = 3 - Source.classes
    with pytest.raises(ValueError, match="fewer than half"):
        command.right_images(model, "small", None, 3)
    Source.image_shape = (2, 2, 3)
    with pytest.raises(ValueError, match=r"\[2, 2, 3\], the classifier was made"):
        command.right_images(model, "small", None, 3)
