"""The models of the experiments: which there are, and how they come to be."""

import json

import jax
import numpy as np
import pytest
from test_reproduction import load

from uronet_jax.corruptions import make_degradation
from uronet_jax.defense import DETECTOR_INPUTS
from uronet_jax.models import make_classifier
from uronet_jax.papers.laboratory import Placed
from uronet_jax.papers.progress import StoppedError
from uronet_jax.papers.store import Zoo
from uronet_jax.papers.uronet.experiments import EXPERIMENTS
from uronet_jax.papers.uronet.kinds import ModelKey


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
    names = zoo.config["universal_trials"]["names"]
    assert alike["remover_trial"] == {f"remover_trial_{name}" for name in names}
    smoke = Zoo(load(), tmp_path)
    rows = [
        smoke._row(ModelKey("data", kind, "GN_1"))
        for kind in ("remover", "dcae", "detector", "detector_other")
    ]
    assert rows[0].seed == rows[1].seed != rows[2].seed == rows[3].seed


def test_universal_models_of_both_kinds_learn_alike(tmp_path):
    zoo = Zoo(load("small"), tmp_path)
    drawn, stored = (zoo.kinds[f"remover_{x}"] for x in ("universal", "corruptions"))
    assert stored.model == drawn.model and stored.schedule == drawn.schedule
    assert stored.consistency_weight == drawn.consistency_weight > 0
    assert (drawn.stored, drawn.clean_share, drawn.clean_entries) == ("", 0.0, 2)
    assert (stored.stored, stored.clean_share) == ("corrupted", 0.1)
    trials = [part.key for part in EXPERIMENTS["universal_trials"].parts(zoo)]
    assert trials[0] == "undefended"
    assert trials[-2:] == ["skip, self-ensemble", "combined, self-ensemble"]


def test_what_a_remover_learned_on_is_in_its_config(tmp_path):
    zoo = Zoo(load(), tmp_path)
    config = zoo._row(ModelKey("data", "remover_corruptions", "all")).config
    assert config["clean_share"] == zoo.config["universal_corruptions"]["clean_share"]
    # Absent where it does nothing, so that older models of other kinds stay good.
    detector = zoo._row(ModelKey("data", "detector_corruptions", "all")).config
    assert "clean_share" not in detector
    task = zoo._shared_task("data", "remover_corruptions", "")
    assert task.frozen.keys() == {"train", "validation"}


@pytest.mark.parametrize("variant", ["dcae", "blend_dcae", "residual"])
def test_the_ablation_needs_a_remover_with_two_heads(variant, tmp_path):
    with pytest.raises(ValueError, match="two heads .* choose from paper, skip, blend"):
        Zoo(load(remover={"variant": variant}), tmp_path)


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
        (
            {"attack": {"epsilon": 3.0}},
            r"attack.epsilon must be a finite number in \[0, 1\]: 3.0",
        ),
        ({"attack": {"steps": 0}}, "steps must be an integer in .*: 0"),
        ({"attack": {"num_train": -2}}, "num_train cannot be negative"),
        ({"second": {"train_split": "test"}}, "second.train_split is 'test'"),
        (
            {"universal_trials": {"names": ("paper",)}},
            "names must be skip and some of .*paper.*: ",
        ),
        (
            {"universal": {"consistency_weight": -1.0}},
            r"universal.consistency_weight must be .* \[0, inf\]: -1",
        ),
        (
            {"zero_shot": {"severities": (0,)}},
            r"zero_shot.severities.*1, 2, 3, 4, 5.*\(0,\)",
        ),
        ({"ablations": {"noises": ("FOG",)}}, "ablations.noises.*'FOG'"),
        ({"grey": {"classifier": "train:cnn9"}}, "unknown classifier 'cnn9'"),
        ({"detector": {"batch_size": 0}}, "detector.batch_size must be .*: 0"),
        ({"training": {"batch_size": -3}}, "training.batch_size must be .*: -3"),
        ({"remover": {"noise_weight": float("nan")}}, "remover.noise_weight must be"),
        (
            {"universal_corruptions": {"clean_share": 1.5}},
            r"universal_corruptions.clean_share must be .*\[0, 1\]: 1.5",
        ),
        ({"universal": {"mirror": "no"}}, "universal.mirror must be True or .*: 'no'"),
        ({"universal": {"clean_entries": -5}}, "universal.clean_entries must be"),
        ({"data": {"other_classifier_title": "ResNet"}}, "of data are called 'ResNet'"),
    ],
)
def test_wrong_fields_are_reported(sections, expected, tmp_path):
    with pytest.raises(ValueError, match=expected):
        Zoo(load(**sections), tmp_path)


@pytest.mark.parametrize(
    ("sections", "kind", "expected"),
    [
        ({"remover": {"batch_size": 49}}, "remover", "data.train_split has 48 images"),
        ({"attack": {"num_train": 7}}, "remover_attack", "attack.num_train has 7 im"),
        (
            {"data": {"validation_split": "train[40:]"}},
            "remover",
            r"data.train_split 'train\[:48\]' and data.validation_split .* share",
        ),
        (
            {"data": {"test_split": "train[47:50]"}},
            "remover",
            "train_split .* and data.test_split .* share images",
        ),
        (
            {"data": {"test_split": "train[250:]"}},
            "remover",
            "validation_split .* and data.test_split .* share images",
        ),
    ],
)
def test_data_that_do_not_suffice_are_reported_before_any_training(
    sections, kind, expected, tmp_path, monkeypatch
):
    monkeypatch.setattr("uronet_jax.training.grid.train_grid", None)
    zoo = Zoo(load(**sections), tmp_path)
    with pytest.raises(ValueError, match=expected):
        zoo.check([ModelKey("data", kind, "GN_1")])


def test_models_are_those_of_the_weights_they_rest_on(tmp_path, make_variables):
    """Another file at the same place is another classifier."""
    module = make_classifier("cnn_narrow", 10)
    weights = make_variables(module, (32, 32, 3))
    model = Placed(module, weights)

    def configs():
        zoo = Zoo(load(data={"classifier": "a.npz"}), tmp_path)
        zoo.load_classifier = lambda role, title: model
        return [
            zoo._row(ModelKey("data", *rest)).config
            for rest in (("remover_attack", "IFGSM"), ("remover", "GN_1"))
        ]

    first = configs()
    assert first == configs()
    model = Placed(module, jax.tree.map(lambda x: x + 1, weights))
    second = configs()
    assert first[0] != second[0] and first[1] == second[1]


def test_what_only_the_machine_needs_orphans_no_model(tmp_path):
    changes = {"evaluation": {"batch_size": 4}, "attack": {"batch_size": 4}}
    changes |= {"remover": {"checkpoint_every": 2}}
    for kind in ("remover", "remover_attack"):
        key = ModelKey("data", kind, "GN_1")
        usual = Zoo(load(), tmp_path)._row(key).config
        other = Zoo(load(**changes) | {"steps_per_dispatch": 2}, tmp_path)
        assert other._row(key).config == usual
    config = load()
    for experiment in EXPERIMENTS.values():
        before = experiment.depends_on(config)
        assert experiment.depends_on(load(**changes)) == before


def test_models_are_trained_once_behind_their_removers(tmp_path, monkeypatch):
    zoo = Zoo(load(), tmp_path)
    trained, configs = [], {}
    monkeypatch.setattr(
        "uronet_jax.papers.store.read_config",
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
    assert again.config | {"seed": first.seed} == first.config
