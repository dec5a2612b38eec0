"""What a config can ask for: degraded images, frozen models, initial weights."""

import contextlib
import copy
import dataclasses
import functools
import json
import shutil

import chex
import jax
import numpy as np
import pytest
from test_configs import TINY, load, save_untrained, tiny_reconstructor  # noqa: F401

from launch import train
from uronet_jax import sharding
from uronet_jax.checkpoints import read_config
from uronet_jax.data import open_source, prepare
from uronet_jax.defense import classifier_function, make_defense
from uronet_jax.evaluation.attacked_copies import attack_parts
from uronet_jax.evaluation.threat_models import parse_run
from uronet_jax.loading import load_classifier, load_defense, load_model
from uronet_jax.progress import Progress, StoppedError
from uronet_jax.training import classifier as classifier_phase
from uronet_jax.training import experiment
from uronet_jax.training.experiment import build_experiment, check_config
from uronet_jax.training.phases import PHASES
from uronet_jax.training.state import create_state

pytestmark = pytest.mark.usefixtures("tiny_reconstructor")
# Two steps on 16 images.
FEW = {
    **{"data__train_split": "train[:16]", "data__validation_split": "train[252:]"},
    **{"batch_size": 8, "eval_batch_size": 4, "num_steps": 2, "checkpoint_every": 1},
    **{"steps_per_dispatch": 1, "log_every": 1, "eval_every": 1},
}


def few(phase, preset="smoke", **fields):
    """Returns the config of a short run of the tiny network of a phase."""
    tiny = {} if preset != "smoke" else TINY[phase]
    model = {f"model__{name}": value for name, value in tiny.items()}
    return load(phase, preset, **FEW | model | fields)


def raw(state):
    return jax.device_get(state.replace(key=jax.random.key_data(state.key)))


def stop_after(count):
    """Returns a question that is answered with yes from the `count + 1`th time on."""
    asked = []
    return lambda: asked.append(None) or len(asked) > count


@pytest.fixture
def classifier(tmp_path, make_variables):
    return save_untrained("classifier", tmp_path / "classifier", make_variables)


def test_a_classifier_learns_on_stored_corruptions(tmp_path):
    """They are made once, in the folder of the run; a run that is stopped goes on."""
    fields = {"suite": "cifar_c", "noises": ("contrast",), "severities": (1, 5)}
    fields = {f"degradation__{k}": v for k, v in (fields | {"copies": 2}).items()}
    config = few("classifier", **fields)
    del config["tensorboard"]  # Not needed.
    whole = train.train(config, tmp_path / "whole")
    # 32 copies in batches of 4: the first corruption has at most 7 of these.
    with pytest.raises(StoppedError):
        train.train(config, tmp_path / "parts", stop=stop_after(7))
    path = tmp_path / "parts" / "copies" / "train.json"
    begun = json.loads(path.read_text())
    assert begun["done"] == [[0, 0]] and not begun["finished"]
    resumed = train.train(config, tmp_path / "parts")
    assert json.loads(path.read_text())["done"] == [[0, 0], [0, 1]]
    chex.assert_trees_all_equal(raw(resumed.state), raw(whole.state))
    images, _ = open_source("generated", "train[:16]").arrays()
    for part, count in (("train", (16, 2)), ("validation", (4, 1))):
        copies, other = (
            np.load(tmp_path / x / "copies" / f"{part}.npy") for x in ("whole", "parts")
        )
        np.testing.assert_array_equal(copies, other)
        assert (copies.shape, copies.dtype) == ((*count, 32, 32, 3), np.uint8)
    # Less contrast, each image at one of two severities.
    copies = np.load(path.with_suffix(".npy"))
    share = copies.std(axis=(2, 3, 4)) / images.std(axis=(1, 2, 3))[:, None]
    assert share.max() < 0.9 and share.max() / share.min() > 2
    config["degradation"]["severities"] = (1, 4)
    with pytest.raises(ValueError, match="run with another config.*severities"):
        train.train(config, tmp_path / "parts")
    with pytest.raises(ValueError, match="are kept in the work folder: name one"):
        build_experiment(config, None)


def test_validation_is_not_degraded_by_the_draws_that_were_learned(
    tmp_path, monkeypatch
):
    seeds = {}

    def store(path, source, *args, copies, seed, **fields):
        seeds[path.stem] = seed
        return np.zeros((len(source), copies, *source.image_shape), np.uint8)

    monkeypatch.setattr(experiment, "store_mixed", store)
    fields = {"degradation__suite": "cifar_c", "degradation__copies": 2}
    build_experiment(few("classifier", **fields), None, tmp_path)
    assert len(seeds) == len(set(seeds.values())) == 2
    # What would fail afterwards fails before copies are made.
    seeds.clear()
    with pytest.raises(ValueError, match="batch size 32 is larger than generated"):
        build_experiment(few("classifier", **fields, batch_size=32), None, tmp_path)
    with pytest.raises(ValueError, match=r"whole path is without \["):
        build_experiment(few("classifier", **fields), None, tmp_path / "[a]")
    assert not seeds and not (tmp_path / "[a]").exists()


def test_a_classifier_learns_on_drawn_noise_or_copies_from_a_folder(tmp_path):
    def learn(name, **fields):
        fields = {"degradation__folder": str(tmp_path)} | fields
        return raw(train.train(few("classifier", **fields), tmp_path / name).state)

    clean = {}
    for part, split in (("train", "train[:16]"), ("validation", "train[252:]")):
        with pytest.raises(FileNotFoundError, match=f"no degraded copies at .*{part}"):
            learn("lacking")
        clean[part], _ = open_source("generated", split).arrays()
        np.save(tmp_path / f"{part}.npy", clean[part])
    # Copies that are the images themselves are as good as none, but for rounding.
    undegraded = learn("none", degradation__folder="")
    chex.assert_trees_all_close(learn("same").params, undegraded.params, atol=1e-5)
    # From the same start it learns something else of noise, or other images.
    noise = {"degradation__suite": "uronet", "degradation__noises": ("GN",)}
    noisy = learn("noisy", degradation__folder="", **noise)
    np.save(tmp_path / "train.npy", 257 * np.flip(clean["train"].astype(np.uint16), 2))
    for other in (noisy, learn("mirrored")):
        kernels = (x.params["Conv_0"]["kernel"] for x in (other, undegraded))
        assert np.abs(np.subtract(*kernels)).max() > 1e-4
    model = load_model(tmp_path / "noisy", role="classifier")
    assert model.config["degradation"]["suite"] == "uronet"
    np.save(tmp_path / "train.npy", clean["train"][:8])
    with pytest.raises(ValueError, match=r"uint8 or uint16 \[16, 32, 32, 3\].*\[8, 32"):
        learn("short")


@pytest.fixture(scope="module")
def trained_on_noise():
    """Returns `run(noise, parameters)`: metrics and images of two steps.

    Mixes of as many strengths share a program: they are arguments of a step.
    """
    steps = {}
    update = classifier_phase.update_by_labels

    def look(state, optimizer, module, images, labels):
        state, metrics = update(state, optimizer, module, images, labels)
        return state, metrics | {"images": images}

    def run(noise, parameters):
        fields = {"noises": (noise,), "parameters": parameters, "clean_share": 0.5}
        fields = {f"degradation__{k}": v for k, v in fields.items()}
        source, _, task, _ = build_experiment(few("classifier", **fields), None)
        step = steps.setdefault(len(parameters), jax.jit(task.step))
        images, labels = source.arrays()
        batch = {"image": images, "label": labels, "index": np.arange(len(images))}
        state = create_state(
            task.module, task.optimizer, jax.random.key(0), task.input_shape
        )
        found = []
        for _ in range(2):
            state, metrics = step(state, task.frozen, batch)
            found.append(jax.device_get(metrics))
        assert int(state.step) == 2
        return images / np.float32(255), found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(classifier_phase, "update_by_labels", look)
        yield run


@pytest.mark.parametrize(
    ("noise", "parameters"),
    [
        ("gaussian_noise", (0.1,)),
        ("gaussian_noise", (0.02, 0.05, 0.1)),
        ("speckle_noise", (0.05, 0.1, 0.2)),
    ],
)
def test_half_of_a_batch_has_noise(noise, parameters, trained_on_noise):
    """GNT, GNT mult and Speckle of the paper on adversarial noise training."""
    clean, steps = trained_on_noise(noise, parameters)
    assert all(np.isfinite(metrics["loss"]) for metrics in steps)
    # Far from black and white nothing is clipped.
    inside = (clean > 0.35) & (clean < 0.65)
    unit = clean if noise == "speckle_noise" else np.ones_like(clean)
    found = []
    for metrics in steps:
        change = (metrics["images"] - clean) / unit
        for image, where in zip(change, inside, strict=True):
            found.append(np.std(image[where]) if np.abs(image).max() > 1e-6 else 0.0)
    noisy = [x for x in found if x]
    # Of 32 images: three standard deviations.
    assert 8 <= len(noisy) <= 24
    # Of hundreds of numbers: a tenth is three standard errors and more.
    nearest = {min(parameters, key=lambda p, x=x: abs(p - x)) for x in noisy}
    assert nearest == set(parameters)
    for x in noisy:
        assert min(abs(x / p - 1) for p in parameters) < 0.15


def test_stylised_copies_are_a_share_of_adversarial_noise_training(tmp_path):
    def learn(name, **fields):
        fields = {
            "degradation__folder": str(tmp_path),
            "noise__restart_steps": 0,
        } | fields
        config = few("adversarial_noise", shares__degraded=0.25, **fields)
        return raw(train.train(config, tmp_path / name).state)

    clean, _ = open_source("generated", "train[:16]").arrays()
    np.save(
        tmp_path / "validation.npy", open_source("generated", "train[252:]").arrays()[0]
    )
    np.save(tmp_path / "train.npy", clean[:, :, ::-1])
    stylised = learn("stylised")
    np.save(tmp_path / "train.npy", clean)
    kernels = (x.params["Conv_0"]["kernel"] for x in (stylised, learn("clean")))
    assert np.abs(np.subtract(*kernels)).max() > 1e-5
    with pytest.raises(ValueError, match="noise.generator: '1x1' there, '3x3' now"):
        learn("clean", noise__generator="3x3")
    np.save(tmp_path / "train.npy", clean[:8])
    with pytest.raises(ValueError, match=r"uint8 or uint16 \[16, 32, 32, 3\].*\[8, 32"):
        learn("short")


def test_the_universal_remover_is_stopped_resumed_and_served(tmp_path, classifier):
    fields = {"classifier": classifier, "degradation__noises": ("GN",)}
    config = few("remover", "universal_smoke", **fields)
    whole = train.train(config, tmp_path / "whole")
    stopped = train.train(config, tmp_path / "parts", stop=stop_after(0))
    assert not stopped.finished and int(stopped.state.step) == 1
    resumed = train.train(config, tmp_path / "parts")
    assert resumed.finished and resumed.metrics == whole.metrics
    chex.assert_trees_all_equal(raw(resumed.state), raw(whole.state))
    lines = (tmp_path / "parts" / "metrics.jsonl").read_text().splitlines()
    assert all(line["inconsistency"] > 0 for line in map(json.loads, lines[::2]))
    learned_of = read_config(tmp_path / "parts")["resolved"]["classifier"]
    assert learned_of == load_model(classifier).identity

    model = load_model(tmp_path / "parts", role="purifier")
    images, _ = open_source("generated", "test[:4]").arrays()
    found = load_defense(tmp_path / "parts", None, classifier, batch_size=4)(images)
    assert model.module.mirror and found.degraded_probability is None
    apply = jax.jit(model.module.clone(mirror=False).apply)
    pixels = images.astype(np.float32) / 255
    one, other = (apply(model.variables, x) for x in (pixels, pixels[:, :, ::-1]))
    expected = (one.clean + other.clean[:, :, ::-1]) / 2
    np.testing.assert_allclose(found.clean, expected, atol=1e-5)
    assert np.abs(found.clean - one.clean).max() > 1e-4
    by_hand = model.module.clone(mirror=True).apply(model.variables, pixels)
    np.testing.assert_allclose(found.clean, by_hand.clean, atol=1e-5)


@pytest.mark.parametrize("purifier", ["gaussian_noise:scale=0.1", "jpeg:quality=50"])
def test_a_detector_learns_behind_a_transformation(purifier, tmp_path, classifier):
    config = few("detector", purifier=purifier, degradation__noises=("GN",))
    result = train.train(config, tmp_path / "detector")
    assert result.finished and np.isfinite(result.metrics["loss"])
    defense = load_defense(purifier, tmp_path / "detector", classifier, batch_size=4)
    images, _ = open_source("generated", "test[:4]").arrays()
    found = defense(images, jax.random.key(0))
    np.testing.assert_allclose(found.clean + found.noise, images / 255, atol=1e-6)
    assert found.degraded_probability.shape == (4,)
    with pytest.raises(ValueError, match="learned behind another purifier.*bit_depth"):
        load_defense("bit_depth", tmp_path / "detector", classifier)


def attack_copies(folder, classifier, splits):
    """Stores attacked copies, as `launch.make_attacked` does."""
    sources = {part: open_source("generated", split) for part, split in splits.items()}
    return attack_parts(
        folder,
        sources,
        load_classifier(classifier),
        parse_run("fgsm_linf:epsilon=0.05"),
        **{"seed": 0, "batch_size": 8, "mesh": sharding.data_mesh()},
        progress=Progress(shown=False),
    )


def test_reconstructive_training_on_attacked_copies(
    tmp_path, classifier, make_variables
):
    """From copies to a purifier that is stopped, resumed, served, and stood behind."""
    copies, splits = tmp_path / "copies", {"train": "train[:16]"}
    splits |= {"validation": "train[252:]"}
    made = attack_copies(copies, classifier, splits)
    fields = {"classifier": classifier, "degradation__folder": str(copies)}
    fields["reconstruction__warmup_steps"] = 1

    def config(**changes):
        return few("reconstructor", **fields | changes)

    whole = train.train(config(), tmp_path / "whole")
    stopped = train.train(config(), tmp_path / "parts", stop=stop_after(0))
    assert not stopped.finished and int(stopped.state.step) == 1
    resumed = train.train(config(), tmp_path / "parts")
    assert resumed.finished and resumed.metrics == whole.metrics
    chex.assert_trees_all_equal(raw(resumed.state), raw(whole.state))
    resolved = read_config(tmp_path / "parts")["resolved"]
    assert resolved["classifier"] == load_model(classifier).identity
    assert resolved["copies"]["train"]["attack"] == "fgsm_linf"
    # What is learned from are the copies.
    images, _ = open_source("generated", "train[:16]").arrays()
    source = build_experiment(config(), None, tmp_path / "whole").train_source
    np.testing.assert_array_equal(source.read_degraded(np.arange(16)), made["train"])
    distance = np.abs(made["train"] / 65535 - images / 255)
    assert 0.04 < distance.max() <= 0.05 + 1e-5  # 16 bits.

    model = load_model(tmp_path / "parts", role="purifier")
    pixels = open_source("generated", "test[:4]").arrays()[0].astype(np.float32) / 255
    defense = load_defense(tmp_path / "parts", None, classifier, batch_size=4)
    found = defense(pixels)
    # With running averages, which batch norm kept.
    assert model.variables["batch_stats"]
    expected = model.module.apply(model.variables, pixels, train=False).clean
    np.testing.assert_allclose(found.clean, expected, atol=1e-5)
    alone = defense(pixels[:1])
    np.testing.assert_allclose(alone.clean, found.clean[:1], atol=1e-6)
    by_hand = make_defense(
        model.module, None, classifier_function(load_model(classifier).module)
    )
    variables = {"purifier": model.variables}
    variables["classifier"] = load_model(classifier).variables
    logits = by_hand(variables, pixels).logits
    np.testing.assert_allclose(found.logits, logits, atol=1e-4)
    chained = load_defense(f"bit_depth:bits=3+{tmp_path / 'parts'}", None, classifier)
    assert np.abs(chained(pixels).clean - found.clean).max() > 1e-4

    behind = few("detector", purifier=str(tmp_path / "parts"))
    behind["degradation"]["noises"] = ("GN",)
    detector = train.train(behind, tmp_path / "detector")
    assert detector.finished and np.isfinite(detector.metrics["loss"])
    gated = load_defense(
        tmp_path / "parts", tmp_path / "detector", classifier, gate=0.5, batch_size=4
    )
    assert gated(pixels).degraded_probability.shape == (4,)

    # Copies of another classifier, of other images, of nobody, or unfinished.
    other = save_untrained(
        "classifier", tmp_path / "other", functools.partial(make_variables, seed=1)
    )
    with pytest.raises(ValueError, match="train.npy was not made .*: classifier "):
        build_experiment(config(classifier=other), None, tmp_path / "new")
    with pytest.raises(ValueError, match="train.npy was not made .*: images .* there"):
        build_experiment(config(data__train_split="train[16:32]"), None)
    sidecar = copies / "train.json"
    text = sidecar.read_text()
    sidecar.write_text(text.replace('"finished": true', '"finished": false'))
    with pytest.raises(ValueError, match="train.npy is not finished"):
        build_experiment(config(), None)
    # Exchanged since the run began.
    sidecar.write_text(text.replace('"epsilon": 0.05', '"epsilon": 0.06'))
    with pytest.raises(
        ValueError, match="are of different attacks, of training .*0.06"
    ):
        build_experiment(config(), None, tmp_path / "parts")
    other = copies / "validation.json"
    text = other.read_text()
    other.write_text(text.replace('"epsilon": 0.05', '"epsilon": 0.06'))
    with pytest.raises(ValueError, match="epsilon: 0.05 there, 0.06 now"):
        train.train(config(), tmp_path / "parts")
    sidecar.unlink()
    build_experiment(config(), None)
    few_classes = dataclasses.replace(load_classifier(classifier), num_classes=7)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(experiment._LOADERS, "classifier", lambda spec: few_classes)
        with pytest.raises(ValueError, match="knows 7 classes and generated has 10"):
            build_experiment(config(), None)


@pytest.mark.parametrize("phase", PHASES)
def test_a_field_that_is_missing_is_told_before_any_work_or_not_needed(phase):
    whole, optional = load(phase), set()
    sections = {x: fields for x, fields in whole.items() if isinstance(fields, dict)}
    names = [*whole, *(f"{x}.{y}" for x, fields in sections.items() for y in fields)]
    for name in names:
        section, _, field = name.rpartition(".")
        config = copy.deepcopy(whole)
        del (config[section] if section else config)[field]
        with contextlib.suppress(ValueError):  # A KeyError would be of the program.
            check_config(config)
            optional.add(name)
    assert "tensorboard" in optional and "data.pipeline" not in optional


def test_a_folder_names_the_data_and_its_splits(tmp_path, monkeypatch):
    monkeypatch.setattr(
        prepare, "prepare_once", lambda path, **options: (f"{path}_set", ["told"])
    )
    found, notes = experiment.data_of_folder("birds", tmp_path)
    told = ["told", "learns on train[:90%], is validated on train[90%:]"]
    assert notes == told and found == {
        "name": "birds_set",
        "train_split": "train[:90%]",
        "validation_split": "train[90%:]",
    }
    splits = {"train_split": "train[:3]", "validation_split": "train[3:]"}
    found = experiment.data_of_folder("birds", **splits)
    assert found == ({"name": "birds_set", **splits}, ["told"])
    for split in splits:
        with pytest.raises(ValueError, match="give both data.train_split and data.val"):
            experiment.data_of_folder("birds", **{split: splits[split]})


def test_training_starts_from_a_run_or_from_a_file(
    tmp_path, classifier, models_dir, make_variables
):
    # The rate of the first step of a warm-up is zero.
    initial = str(tmp_path / "initial")
    shutil.copytree(classifier, initial)
    fields = {"initial": initial, "num_steps": 1, "optimizer__warmup_steps": 1}
    train.train(few("classifier", **fields), tmp_path / "run")
    shutil.rmtree(initial)  # Whoever resumes does not need it.
    assert train.train(few("classifier", **fields), tmp_path / "run").finished
    given, saved = (load_model(x) for x in (classifier, tmp_path / "run"))
    chex.assert_trees_all_equal(saved.variables["params"], given.variables["params"])
    # The same function of the pixels: behind the statistics it was trained with.
    for name in ("mean", "std"):
        found, expected = (x.config["resolved"][name] for x in (saved, given))
        assert list(found) == list(expected), name
    remover = save_untrained("remover", tmp_path / "remover", make_variables)
    with pytest.raises(ValueError, match="not fit the model: params/.* shape .*more$"):
        build_experiment(few("classifier", initial=remover), None)

    path = f"{models_dir}/cifar10_resnet20.npz"
    fields = {"initial": path, "model__name": "resnet20"}
    task = build_experiment(few("classifier", **fields), None).task
    with np.load(path) as file:
        bias = file["linear.bias" if "linear.bias" in file else "fc.bias"]
    np.testing.assert_array_equal(task.initial["params"]["Dense_0"]["bias"], bias)
    assert task.module.mean == load_classifier(path).module.mean
    with pytest.raises(ValueError, match="20.npz does not fit the model: .*shape"):
        build_experiment(few("classifier", initial=path, model__name="resnet8"), None)


def test_training_starts_from_weights_of_other_classes(
    tmp_path, make_variables, capsys
):
    """With `new_head` all is taken but the last layer, which is drawn by the seed."""
    path = save_untrained("classifier", tmp_path / "a", make_variables, num_classes=4)
    expected = r"shape \(4,\).*and \(10,\) in.*only the last layer differs.*=True"
    with pytest.raises(ValueError, match=expected):
        build_experiment(few("classifier", initial=path), None)

    def begin(path, **fields):
        config = few("classifier", initial=path, new_head=True, **fields)
        return build_experiment(config, None).task.initial

    given, found, other = (load_model(path).variables, begin(path), begin(path, seed=1))
    told = f"the last layer is drawn, all others are those of {path}\n"
    assert capsys.readouterr().out == 2 * told
    head = found["params"]["Dense_1"]["kernel"]
    assert head.shape == (given["params"]["Dense_1"]["kernel"].shape[0], 10)
    # Of LeCun's scale; some hundred values.
    assert head.std() == pytest.approx(len(head) ** -0.5, rel=0.2)
    assert np.abs(head - other["params"]["Dense_1"]["kernel"]).max() > 0.01
    assert not found["params"]["Dense_1"]["bias"].any()
    for each in (found, given):
        del each["params"]["Dense_1"]
    chex.assert_trees_all_equal(found, given)
    # Also where the classes are as many, and not if another layer differs.
    path = save_untrained("classifier", tmp_path / "b", make_variables)
    before = load_model(path).variables["params"]["Dense_1"]["kernel"]
    assert np.abs(begin(path)["params"]["Dense_1"]["kernel"] - before).max() > 0.01
    with pytest.raises(ValueError, match="not fit the model: batch_stats/.*more$"):
        begin(path, model__name="resnet8")
    for phase, initial in (("classifier", ""), ("remover", path)):
        with pytest.raises(ValueError, match="new_head draws the last layer of a clas"):
            check_config(few(phase, new_head=True, initial=initial))
