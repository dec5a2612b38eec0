"""The models of the experiments: which there are, and how they come to be."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from test_reproduction import load

from uronet_jax.corruptions import make_degradation
from uronet_jax.defense import DETECTOR_INPUTS
from uronet_jax.evaluation.kinds import ModelKey
from uronet_jax.evaluation.progress import StoppedError
from uronet_jax.evaluation.zoo import Zoo


def test_what_is_compared_is_drawn_alike(tmp_path):
    """Or a difference could be that of two starts, two orders of noises."""
    zoo = Zoo(load("small"), tmp_path)
    drawn_as = {kind: x.variant_of or kind for kind, x in zoo.kinds.items()}
    alike = {}
    for kind, shared in drawn_as.items():
        alike.setdefault(shared, set()).add(kind)
    assert alike["remover"] == {"remover", "dcae"}
    # The usual detector itself has the inputs `image`.
    inputs = set(DETECTOR_INPUTS) - {"image"}
    variants = {"detector", "detector_other", *(f"detector_{x}" for x in inputs)}
    assert alike["detector"] == variants
    assert len(alike["remover_trial"]) == 6
    smoke = Zoo(load(), tmp_path)
    rows = [
        smoke._row(ModelKey("data", kind, "GN_1"))
        for kind in ("remover", "dcae", "detector", "detector_other")
    ]
    assert rows[0].seed == rows[1].seed != rows[2].seed == rows[3].seed


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ({"remover": {"variant": "unet"}}, "unknown remover variant 'unet'"),
        ({"detector": {"name": "wrn10_3"}}, "unknown classifier 'wrn10_3'"),
        ({"detector": {"inputs": "noise"}}, "unknown detector input 'noise'"),
        ({"ablations": {"detector": "vgg12"}}, "unknown classifier 'vgg12'"),
        ({"remover": {"num_steps": 0}}, "num_steps must be at least 1: 0"),
        ({"optimizer": {"peak_rate": -1.0}}, "peak_rate must be positive"),
        ({"suite": {"noises": ("GX",)}}, "'GX'"),
        ({"suite": {"un_reading": "per_row"}}, "'per_row'"),
        ({"evaluation": {"batch_size": 6}}, "batch size 6 .* multiple of 4"),
        ({"evaluation": {"num_images": -1}}, "num_images cannot be negative"),
        ({"attack": {"epsilon": 3.0}}, r"epsilon must be finite and in \[0.*: 3.0"),
        ({"attack": {"steps": 0}}, "steps must be an integer in .*: 0"),
        ({"attack": {"num_train": -2}}, "num_train cannot be negative"),
        ({"second": {"train_split": "test"}}, "second.train_split is 'test'"),
        (
            {"universal_trials": {"names": ("paper",)}},
            "names must be skip and some of .*paper.*: ",
        ),
        (
            {"universal": {"consistency_weight": -1.0}},
            "universal.consistency_weight must be .* at least 0: -1",
        ),
        (
            {"zero_shot": {"severities": (0,)}},
            r"zero_shot.severities.*1, 2, 3, 4, 5.*\(0,\)",
        ),
        ({"ablations": {"noises": ("FOG",)}}, "ablations.noises.*'FOG'"),
        ({"grey": {"classifier": "train:cnn9"}}, "unknown classifier 'cnn9'"),
        ({"data": {"other_classifier_title": "ResNet"}}, "of data are called 'ResNet'"),
    ],
)
def test_wrong_fields_are_reported(sections, expected, tmp_path):
    with pytest.raises(ValueError, match=expected):
        Zoo(load(**sections), tmp_path)


def test_models_are_trained_once_behind_their_removers(tmp_path, monkeypatch):
    zoo = Zoo(load(), tmp_path)
    trained, configs = [], {}
    monkeypatch.setattr(
        "uronet_jax.evaluation.zoo.read_config",
        lambda folder, which: json.loads(json.dumps(configs[folder])),
    )

    def train(task, rows, *sources_and_schedule, **options):
        trained.append([row.workdir.relative_to(tmp_path / "models") for row in rows])
        for row in rows:
            (row.workdir / "checkpoints" / "2" / "state").mkdir(parents=True)
            configs[row.workdir] = row.config | {"best_metric": ["loss", "min"]}
        return True

    monkeypatch.setattr("uronet_jax.training.grid.train_grid", train)
    wanted = [ModelKey("data", "detector", name) for name in ("GN_1", "GN_2")]
    wanted += [ModelKey("data", "cnn", "cnn_narrow"), *wanted]
    zoo.ensure(wanted)
    names = [[path.as_posix() for path in paths] for paths in trained]
    assert names == [
        ["generated/cnn/cnn_narrow"],
        ["generated/remover/GN_1", "generated/remover/GN_2"],
        ["generated/detector/GN_1", "generated/detector/GN_2"],
    ]
    zoo.ensure(wanted)
    assert len(trained) == 3
    # Sets of one name share their models, whatever they are called in the config.
    zoo.ensure([ModelKey("second", "detector", "GN_1")])
    assert len(trained) == 3
    monkeypatch.setattr(
        "uronet_jax.training.grid.train_grid", lambda *args, **kwargs: False
    )
    with pytest.raises(StoppedError):
        zoo.ensure([ModelKey("data", "dcae", "GN_1")])
    # What is there and finished is looked at too.
    other = Zoo(load(remover={"widths": (8, 8)}), tmp_path)
    with pytest.raises(ValueError, match=r"GN_1: .*model.widths: \[4, 4\] there, \[8"):
        other.ensure([ModelKey("data", "detector", "GN_1")])


def test_rows_of_a_grid_differ_in_nothing_but_data_and_seed(tmp_path):
    zoo = Zoo(load(), tmp_path)
    first, second = (
        zoo._row(ModelKey("data", "remover", name)) for name in ("GN_1", "UN_3")
    )
    differing = {k for k in first.config if first.config[k] != second.config[k]}
    assert differing == {"name", "seed", "degradation"}
    chosen = make_degradation([("uniform_noise", 0.1)])
    jax.tree.map(np.testing.assert_array_equal, second.frozen()["degradation"], chosen)
    mixed = zoo._row(ModelKey("data", "remover_universal", "all"))
    # All 18, and the clean image as often as the config says.
    assert mixed.frozen()["degradation"].kind.shape == (20,)
    other = Zoo(load() | {"seed": 1}, tmp_path)
    again = other._row(ModelKey("data", "remover", "GN_1"))
    assert again.seed != first.seed
    assert dataclasses.replace(again, seed=first.seed).name == first.name
