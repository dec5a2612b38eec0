"""The models of the experiments: which there are, and how they come to be."""

import json
from dataclasses import replace
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from test_reproduction import load

from uronet_jax.corruptions import make_degradation
from uronet_jax.defense import DETECTOR_INPUTS
from uronet_jax.models import make_classifier
from uronet_jax.papers.adversarial_noise.models import scanned_models
from uronet_jax.papers.all_models import open_store
from uronet_jax.papers.experiments import EXPERIMENTS
from uronet_jax.papers.kinds import ModelKey
from uronet_jax.progress import StoppedError


def change(field, value):
    """Returns the smoke config with another value of one field of a section."""
    section, name = field.split(".")
    return load(**{section: {name: value}})


def config_of(store, kind, name):
    return store._row(ModelKey("data", kind, name)).config


def test_what_is_compared_is_drawn_alike(tmp_path):
    """Or a difference could be that of two starts, two orders of noises."""
    store = open_store(load("small"), tmp_path)
    alike = {}
    for name, kind in store.kinds.items():
        alike.setdefault(kind.variant_of or name, set()).add(name)
    assert alike["remover"] == {"remover", "dcae"}
    # The usual detector itself has the inputs `image`.
    inputs = set(DETECTOR_INPUTS) - {"image"}
    variants = {"detector", "detector_other", *(f"detector_{x}" for x in inputs)}
    assert alike["detector"] == variants
    names = store.config["universal_trials"]["names"]
    assert alike["remover_trial"] == {f"remover_trial_{name}" for name in names}
    smoke = open_store(load(), tmp_path)
    kinds = ("remover", "dcae", "detector", "detector_other")
    seeds = [config_of(smoke, kind, "GN_1")["seed"] for kind in kinds]
    assert seeds[0] == seeds[1] != seeds[2] == seeds[3]


def test_strengths_are_tried_with_nothing_else_changed(tmp_path):
    config = load("full")
    titles = scanned_models(config, "digits")
    assert list(titles)[:3] == ["GNT 0.1", "GNT 0.3", "GNT 0.5"]
    epsilons = [float(x.split()[-1]) for x in titles if "epsilon" in x]
    section = config["mnist_noise_training"]
    assert epsilons == sorted({section["epsilon"], *section["epsilons"]})
    kinds = open_store(config, tmp_path).kinds
    usual = kinds["digits_ant_1x1"]
    for epsilon in epsilons:
        kind = kinds[titles[f"ANT 1x1, epsilon {epsilon:g}"]]
        noise = kind.sections["noise"]
        assert noise["epsilon"] == epsilon
        noise = noise | {"epsilon": section["epsilon"]}
        assert replace(kind, sections=kind.sections | {"noise": noise}) == usual
    # The same model as in the comparison, whose noise is not tried twice.
    assert titles[f"ANT 1x1, epsilon {section['epsilon']:g}"] == "digits_ant_1x1"
    # Noise of 0.001 has to survive, whatever the other experiments compute in.
    assert config["dtype"] == "bfloat16" and usual.dtype == "float32"


def test_universal_models_of_both_kinds_learn_alike(tmp_path):
    store = open_store(load("small"), tmp_path)
    drawn, stored = (store.kinds[f"remover_{x}"] for x in ("universal", "corruptions"))
    assert stored.model == drawn.model and stored.schedule == drawn.schedule
    assert stored.loss == drawn.loss and drawn.loss["inconsistency"] > 0
    assert (drawn.stored, drawn.clean_share, drawn.clean_entries) == ("", 0.0, 2)
    assert (stored.stored, stored.clean_share) == ("corrupted", 0.1)
    trials = [part.key for part in EXPERIMENTS["universal_trials"].parts(store)]
    assert trials[0] == "undefended"
    assert trials[-2:] == ["skip, self-ensemble", "combined, self-ensemble"]


def test_what_a_model_learned_on_is_in_its_config(tmp_path):
    store = open_store(load(), tmp_path)
    settings = store.config["universal_corruptions"]
    for model, share in (("remover", settings["clean_share"]), ("detector", 0.0)):
        fields = config_of(store, f"{model}_corruptions", "all")["degradation"]
        assert fields["clean_share"] == share
        assert (fields["suite"], fields["noises"]) == ("cifar_c", settings["names"])
        assert (fields["copies"], fields["folder"]) == (settings["copies"], "")
    fields = config_of(store, "remover_attack", "IFGSM")["degradation"]
    assert (fields["folder"], fields["copies"]) == ("attacked/generated", 0)


def test_stored_copies_are_those_of_their_images(tmp_path):
    store, asked = open_store(load(attack={"num_train": 12}), tmp_path), []

    def corrupted(role, part):
        asked.append((role, part))
        return np.zeros((len(store.source(role, part)), 2, 32, 32, 3), np.uint8)

    def attacked(role, part, attack, labels):
        assert labels == "true"
        asked.append((role, part, attack))
        return np.zeros((12, 32, 32, 3), np.uint16)

    store.corrupted, store.attacked = corrupted, attacked
    for kind, name in (("remover_corruptions", "all"), ("detector_attack", "PGD0-40")):
        row = store._row(ModelKey("data", kind, name))
        for pair, part in zip(row.sources(), ("train", "validation"), strict=True):
            images, labels = pair.arrays()
            clean = store.source("data", part).arrays()
            np.testing.assert_array_equal(images, clean[0][: len(pair)])
            np.testing.assert_array_equal(labels, clean[1][: len(pair)])
            whole = kind == "remover_corruptions"
            assert len(pair) == (len(clean[0]) if whole else 12)
            assert pair.copies.shape[: 2 if whole else 1] == (len(pair), 2)[: 1 + whole]
    how = ((), ("PGD0-40",))
    assert asked == [("data", x, *y) for y in how for x in ("train", "validation")]
    assert store._row(ModelKey("data", "remover", "GN_1")).sources is None


@pytest.mark.parametrize("variant", ["dcae", "blend_dcae", "residual"])
def test_the_ablation_needs_a_remover_with_two_heads(variant, tmp_path):
    with pytest.raises(ValueError, match="two heads .* choose from paper, skip, blend"):
        open_store(load(remover={"variant": variant}), tmp_path)


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("remover.variant", "unet", "unknown remover variant 'unet'"),
        ("detector.name", "wrn10_3", "unknown classifier 'wrn10_3'"),
        ("detector.inputs", "noise", "unknown detector input 'noise'"),
        ("ablations.detector", "vgg12", "unknown classifier 'vgg12'"),
        ("remover.num_steps", 0, r"num_steps must be an integer in \[1, .*: 0"),
        ("optimizer.peak_rate", -1.0, r"peak_rate must be .* in \(0, inf\): -1.0"),
        ("suite.noises", ("GX",), "'GX'"),
        ("suite.un_reading", "per_row", "'per_row'"),
        ("evaluation.batch_size", 6, "batch size 6 .* multiple of 4"),
        ("evaluation.num_images", -1, r"num_images must be .*: -1"),
        ("attack.epsilon", 3.0, r"{field} must be a finite number in \[0, 1\]: 3.0"),
        ("attack.steps", 0, "steps must be an integer in .*: 0"),
        ("attack.num_train", -2, r"num_train must be .*: -2"),
        ("second.train_split", "test", "{field} is 'test'"),
        ("universal_trials.names", ("paper",), "{field} must be skip .*paper.*: "),
        ("universal.consistency_weight", -1.0, r"{field} must be .* \[0, inf\): -1"),
        ("zero_shot.severities", (0,), r"{field}.*1, 2, 3, 4, 5.*\(0,\)"),
        ("ablations.noises", ("FOG",), "{field}.*'FOG'"),
        ("grey.classifier", "train:cnn9", "unknown classifier 'cnn9'"),
        ("detector.batch_size", 0, "{field} must be .*: 0"),
        ("training.batch_size", -3, "{field} must be .*: -3"),
        ("remover.noise_weight", float("nan"), "{field} must be"),
        ("universal_corruptions.clean_share", 1.5, r"{field} must be .*\[0, 1\]: 1.5"),
        ("universal_corruptions.copies", 0, r"{field} must be .*\[1, 1000\]: 0"),
        ("universal.mirror", "no", "{field} must be True or .*: 'no'"),
        ("universal.clean_entries", -5, "{field} must be"),
        (
            "noise_training.sigmas",
            (-0.1,),
            r"{field} must be a finite number in \[0.*: -0.1",
        ),
        ("noise_training.speckle_set", (float("nan"),), "{field} must be .*: nan"),
        ("noise_training.sigma_set", (), "{field} is empty: name at least one"),
        ("noise_training.epsilon", 0.0, "noise.epsilon must be .*: 0.0"),
        (
            "noise_training.generator_epsilon",
            0.0,
            r"{field} must .* \(0, inf\): 0.0",
        ),
        ("mnist_noise_training.epsilons", (3.0, 3.0000001), "{field} must differ"),
        ("noise_training.dtype", "float8", "unknown dtype 'float8'"),
        ("mnist_noise_training.epsilons", (-3.0,), "noise.epsilon must be .*: -3.0"),
        ("noise_training.restart_every", 0, "with 0 there is none"),
        ("noise_training.generators", 0, "{field} must be an integer in"),
        ("noise_training.tested_severities", (7,), r"{field} must be some of.*\(7,\)"),
        ("noise_training.tested_sigmas", (-1.0,), "{field} must be .*: -1.0"),
        ("noise_training.suite", "nope", "nope"),
        ("mnist_noise_training.clean_steps", 0, "{field} must be above 0"),
        ("mnist_noise_training.pgd_step_size", -1.0, "attack.step_size must be"),
        ("mnist_noise_training.network", "cnn9", "unknown classifier 'cnn9'"),
        ("data.other_classifier_title", "ResNet", "of data are called 'ResNet'"),
    ],
)
def test_wrong_fields_are_reported(field, value, expected, tmp_path):
    with pytest.raises(ValueError, match=expected.replace("{field}", field)):
        open_store(change(field, value), tmp_path)


SHARED = "data.{}_split '.*' and data.{}_split '.*' share images: ".format


@pytest.mark.parametrize(
    ("field", "value", "kind", "expected"),
    [
        ("remover.batch_size", 49, "remover", "data.train_split has 48 images"),
        ("attack.num_train", 7, "remover_attack", "attack.num_train has 7 images"),
        ("data.validation_split", "train[40:]", "dcae", SHARED("train", "validation")),
        ("data.test_split", "train[47:50]", "remover", SHARED("train", "test")),
        ("data.test_split", "train[250:]", "remover", SHARED("validation", "test")),
    ],
)
def test_data_that_do_not_suffice_are_reported_before_any_training(
    field, value, kind, expected, tmp_path, monkeypatch
):
    monkeypatch.setattr("uronet_jax.training.run.train_grid", None)
    store = open_store(change(field, value), tmp_path)
    with pytest.raises(ValueError, match=expected):
        store.check([ModelKey("data", kind, "GN_1")])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("noise_training.epsilon", 100.0),
        ("noise_training.epsilons", (5.0, 100.0)),
        ("noise_training.generator_epsilon", 100.0),
        ("mnist_noise_training.generator_epsilon", 100.0),
    ],
)
def test_noise_larger_than_images_allow_is_reported_before_any_training(
    field, value, tmp_path, monkeypatch
):
    monkeypatch.setattr("uronet_jax.training.run.train_grid", None)
    store = open_store(change(field, value), tmp_path)
    for name in ("ant_cifar10_attacks", "ant_mnist_scan"):
        parts = EXPERIMENTS[name].parts(store)
        keys = [key for part in parts for key in part.models]
        if field.startswith("mnist") == ("mnist" in name):
            shape = store.open(keys[0].role, "train").image_shape
            norm = f"{np.sqrt(np.prod(shape)):g}"
            expected = rf"{field}, at most .* in \(0, {norm}\]: 100.0"
            with pytest.raises(ValueError, match=f"^{expected}"):
                store.check(keys)
        else:
            store.check(keys)


def test_models_are_those_of_the_weights_they_rest_on(tmp_path, make_variables):
    """Another file at the same place is another classifier."""
    weights = make_variables(make_classifier("cnn_narrow", 10), (32, 32, 3))

    def configs(weights):
        changes = {"classifier": "a.npz"}
        held = {"consistency_weight": 0.1}
        store = open_store(load(data=changes, universal=held), tmp_path)
        model = SimpleNamespace(variables=weights)
        store.load_classifier = lambda role, title: model
        kinds = ("remover_attack", "remover_universal", "remover")
        return [config_of(store, kind, "GN_1") for kind in kinds]

    first = configs(weights)
    assert first == configs(weights)
    second = configs(jax.tree.map(lambda x: x + 1, weights))
    same = [a == b for a, b in zip(first, second, strict=True)]
    assert same == [False, False, True]


def test_what_only_the_machine_needs_orphans_no_model(tmp_path):
    changes = {"evaluation": {"batch_size": 4}, "attack": {"batch_size": 4}}
    changes |= {"remover": {"checkpoint_every": 2}}
    other = open_store(load(**changes) | {"steps_per_dispatch": 2}, tmp_path)
    for kind in ("remover", "remover_attack"):
        usual = config_of(open_store(load(), tmp_path), kind, "GN_1")
        assert config_of(other, kind, "GN_1") == usual
    for experiment in EXPERIMENTS.values():
        assert experiment.depends_on(load(**changes)) == experiment.depends_on(load())


def test_models_are_trained_once_behind_their_removers(tmp_path, monkeypatch):
    store = open_store(load(), tmp_path)
    trained, configs = [], {}
    monkeypatch.setattr(
        "uronet_jax.papers.store.read_config",
        lambda folder, which: json.loads(json.dumps(configs[folder])),
    )

    def train(task, rows, *sources_and_schedule, **options):
        trained.append([str(row.workdir.relative_to(tmp_path)) for row in rows])
        for row in rows:
            (row.workdir / "checkpoints" / "2" / "state").mkdir(parents=True)
            configs[row.workdir] = row.config | {"best_metric": ["loss", "min"]}
        return True

    monkeypatch.setattr("uronet_jax.training.run.train_grid", train)
    # The task of a detector holds its purifier, which nobody trained here.
    monkeypatch.setattr(store, "_task", lambda key: None)
    wanted = [ModelKey("data", "detector", name) for name in ("GN_1", "GN_2")]
    wanted += [ModelKey("data", "cnn", "cnn_narrow"), *wanted]
    store.ensure(wanted)
    assert trained == [
        [f"models/generated/{name}" for name in names]
        for names in (
            ["cnn/cnn_narrow"],
            ["remover/GN_1", "remover/GN_2"],
            ["detector/GN_1", "detector/GN_2"],
        )
    ]
    store.ensure(wanted)
    assert len(trained) == 3
    # Sets of one name share their models, whatever they are called in the config.
    store.ensure([ModelKey("second", "detector", "GN_1")])
    assert len(trained) == 3
    monkeypatch.setattr("uronet_jax.training.run.train_grid", lambda *_, **__: False)
    with pytest.raises(StoppedError):
        store.ensure([ModelKey("data", "dcae", "GN_1")])
    # What is there and finished is looked at too.
    other = open_store(load(remover={"widths": (8, 8)}), tmp_path)
    with pytest.raises(ValueError, match=r"GN_1: .*model.widths: \[4, 4\] there, \[8"):
        other.ensure([ModelKey("data", "detector", "GN_1")])


def test_rows_of_a_grid_differ_in_nothing_but_data_and_seed(tmp_path):
    store = open_store(load(), tmp_path)
    keys = ("remover", "GN_1"), ("remover", "UN_3"), ("remover_universal", "all")
    first, second, mixed = (store._row(ModelKey("data", *key)) for key in keys)
    differing = {k for k in first.config if first.config[k] != second.config[k]}
    assert differing == {"name", "seed", "degradation"}
    chosen = make_degradation([("uniform_noise", 0.1)])
    jax.tree.map(np.testing.assert_array_equal, second.frozen()["degradation"], chosen)
    # All 18, and the clean image as often as the config says.
    assert mixed.frozen()["degradation"].kind.shape == (20,)
    again = config_of(open_store(load() | {"seed": 1}, tmp_path), "remover", "GN_1")
    assert again["seed"] != first.config["seed"]
    assert again | {"seed": first.config["seed"]} == first.config


def test_a_given_network_is_tuned_under_a_new_last_layer(
    tmp_path, make_variables, monkeypatch
):
    network = make_classifier("cnn_narrow", 7)
    weights = make_variables(network, (32, 32, 3))
    statistics = {"mean": [0.25] * 3, "std": [0.5] * 3, "clean_mean": [0.25] * 3}
    given = SimpleNamespace(
        module=network,
        variables=weights,
        config={"model": {"name": "cnn_narrow"}, "resolved": statistics},
    )
    monkeypatch.setattr("uronet_jax.papers.store.load_classifier", lambda path: given)
    store = open_store(load(tiny={"classifier": "tune:imagenet"}), tmp_path)
    key, *_ = store.classifier_keys("tiny")
    assert key == ModelKey("tiny", "tuned", "imagenet")
    config, task = store._config(key), store._task(key)
    assert config["model"] == {"name": "cnn_narrow"} and config["new_head"]
    # Other statistics would make another function of the weights.
    assert config["resolved"]["mean"] == statistics["mean"]
    start, head = task.initial["params"], "Dense_1"
    for layer in start.keys() - {head}:
        jax.tree.map(
            np.testing.assert_array_equal, start[layer], weights["params"][layer]
        )
    assert start[head]["kernel"].shape[-1] == 10
    # Of other weights it is another model.
    given.variables = jax.tree.map(lambda x: x + 1, weights)
    assert store._config(key)["initial"] != config["initial"]
