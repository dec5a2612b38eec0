"""The functions behind the page, without a browser."""

import dataclasses
import importlib.util
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from PIL import Image
from test_configs import save_models

from uronet_jax.corruptions import (
    corrupt,
    degrade,
    entry_key,
    make_degradation,
    suite_degradations,
)
from uronet_jax.data import open_source
from uronet_jax.data.sources import ArraySource
from uronet_jax.demo import studio as studios
from uronet_jax.demo.studio import ATTACKERS, DefenseStudio, Sight
from uronet_jax.evaluation.threat_models import make_run
from uronet_jax.loading import load_defense
from uronet_jax.photos.purify import PhotoModels, load_photo_models


@pytest.fixture(scope="module")
def runs(tmp_path_factory, make_variables):
    return save_models(tmp_path_factory.mktemp("runs"), make_variables)


@pytest.fixture(scope="module")
def studio(runs):
    models = load_photo_models(**runs)
    return DefenseStudio(models, studios.open_images(models, "generated"), seed=3)


@pytest.fixture(scope="module")
def bare():
    """Returns the studio of a transformation, which compiles nothing until it runs."""
    models = load_photo_models("bit_depth:bits=1")
    return DefenseStudio(models, studios.open_images(models, None))


def softmax(logits):
    exponents = np.exp(logits - logits.max())
    return exponents / exponents.sum()


def test_what_is_seen_is_what_the_defence_says(studio, runs):
    image = studio.sample(5)
    pixels = open_source("generated", "test")[5]["image"]
    np.testing.assert_array_equal(image, pixels / np.float32(255))
    assert studio.true_label(5) == "wave_5"
    sight = studio.see(image)
    found = load_defense(**runs, batch_size=1)(image[None])
    alone = load_defense(None, None, runs["classifier"], batch_size=1)(image[None])
    # The same programs; softmax in float32 against NumPy's.
    np.testing.assert_array_equal(sight.clean, found.clean[0])
    np.testing.assert_array_equal(sight.noise, found.noise[0])
    assert sight.probability == found.degraded_probability[0]
    np.testing.assert_allclose(sight.after, softmax(found.logits[0]), rtol=1e-5)
    np.testing.assert_allclose(sight.before, softmax(alone.logits[0]), rtol=1e-5)
    best = int(sight.after.argmax())
    label = f"wave_{best} ({sight.after[best]:.0%})"
    assert studio.label(sight.after) == label
    told = sight._replace(probability=0.75), sight._replace(probability=0.25)
    assert [studio.verdict(x) for x in told] == [
        "degraded (0.750)",
        "not degraded (0.250)",
    ]


def test_images_are_degraded_as_they_are_judged(studio):
    image = studio.sample(0)
    made = studio.corrupt(image, "cifar_c", "contrast", 3)
    key = entry_key(3, "cifar_c/contrast", 3)
    arguments = (key, image[None], "cifar_c/contrast")
    expected = corrupt(*arguments, severity=3, uint8=True)[0] / np.float32(255)
    np.testing.assert_allclose(made, expected, atol=1e-6)  # Rounding of a division.
    sizes = [
        float(np.square(sight.image - image).mean())
        for _, sight in studio.along_severities(image, "uronet", "GN")
    ]
    # The three severities of the paper; 3,072 normal numbers, less where they are cut.
    np.testing.assert_allclose(np.sqrt(sizes), (0.08, 0.12, 0.18), rtol=0.1)


def test_accuracies_are_shares_of_right_labels(studio, monkeypatch):
    # Of untrained models hardly a label is right: those that they give are taken, half.
    given = [int(studio.see(studio.sample(i)).before.argmax()) for i in range(4)]
    labels = np.array([given[0], given[1], given[2] + 1, given[3] + 1]) % 10
    pixels = studio.source.read(np.arange(4))[0]

    source = ArraySource("four", "test", pixels, labels, studio.source.class_names)
    monkeypatch.setattr(studio, "source", source)

    def accuracies(make_worse):
        right = []
        for number, label in enumerate(labels):
            sight = studio.see(make_worse(pixels[number] / np.float32(255), number))
            right.append([x.argmax() == label for x in (sight.before, sight.after)])
        return np.mean(right, axis=0).tolist()

    found = list(studio.accuracies("uronet", "GN", 4))
    assert [len(rows) for _, rows in found] == [0, 1, 2, 3]
    summary, rows = found[-1]
    names = ("clean_accuracy", "purified_clean_accuracy")
    assert [summary[name] for name in names] == accuracies(lambda image, i: image)
    assert summary["clean_accuracy"] == 0.5
    for entry, row in zip(suite_degradations(noises=["GN"]), rows, strict=True):
        mix = make_degradation([(entry.kind, entry.parameter)])

        def noisy(image, number, mix=mix):
            index = np.array([number], np.int32)
            return np.asarray(degrade(jax.random.key(3), image[None], mix, index))[0]

        assert (row["noise"], row["severity"]) == ("GN", entry.severity)
        names = ("undefended_accuracy", "purified_accuracy")
        assert [row[name] for name in names] == accuracies(noisy)


def test_an_attack_lowers_the_label_that_its_attacker_sees(studio):
    sight, epsilon = studio.see(studio.sample(2)), 0.5 / 255  # So small, it goes down.
    for knows, seen in zip(ATTACKERS, ("before", "after"), strict=True):
        attacked = studio.attack(sight, "fgsm_linf", epsilon, knows)
        # Of the rounding of image + epsilon.
        assert 0 < np.abs(attacked - sight.image).max() <= epsilon + 1e-6
        before = getattr(sight, seen)
        assert studios.attacked_probabilities(sight, knows) is before
        after = getattr(studio.see(attacked), seen)
        assert after[before.argmax()] < before.max()
    assert "square_linf" not in studio.attacks() and "fab_l2" not in studio.attacks()
    with pytest.raises(ValueError, match="no attack 'fab_l2' .* there are fgsm_linf, "):
        studio.attack(sight, "fab_l2", epsilon, next(iter(ATTACKERS)))


def test_one_who_knows_the_classifier_alone_goes_to_the_end(studio, runs):
    """As in the threat model `grey_box`; else the image would spare the defence."""
    sight, epsilon = studio.see(studio.sample(2)), 8 / 255
    attacked = studio.attack(sight, "ifgsm_linf", epsilon, next(iter(ATTACKERS)))
    alone = load_defense(None, None, runs["classifier"], batch_size=1).logits_fn
    labels = np.array([sight.before.argmax()])
    batch = {
        **{"image": jax.numpy.asarray(sight.image[None]), "label": labels},
        "index": np.zeros(1, np.int32),
    }
    key = jax.random.key(0)  # It starts at the image.
    run = make_run("ifgsm_linf", epsilon=epsilon)
    # Two programs of one network round differently, by a step's sign at most; there
    # are few such pixels.
    end = np.asarray(run.go_to_the_end(key, batch, alone))[0]
    first = np.asarray(run.attack(key, batch["image"], alone, labels, epsilon=epsilon))
    assert (np.abs(attacked - end) > 1e-6).mean() < 0.01
    assert (np.abs(attacked - first[0]) > 1e-6).mean() > 0.1


@pytest.mark.parametrize(
    ("knows", "threat", "label"),
    [("the classifier alone", "grey_box", 4), ("the whole defence", "adaptive", 7)],
)
def test_an_attack_is_that_of_the_judge(knows, threat, label, studio, monkeypatch):
    image, found = studio.sample(0), np.full((1, 32, 32, 3), 0.25)

    class Recorder:
        def __init__(self, defense, variables, batches, *, mesh, threshold, seed):
            assert (defense, variables) == (
                studio._defense.function, studio._defense.variables
            )  # fmt: skip
            (batch,) = batches
            np.testing.assert_array_equal(batch["image"], image[None])
            assert batch["label"].tolist() == [label] and (threshold, seed) == (0.5, 3)

        def attack(self, known, run, *, num_examples):
            assert (known.name, run.name, run.epsilon) == (threat, "pgd_linf", 0.1)
            return None, SimpleNamespace(adversarial=found[:num_examples])

    monkeypatch.setattr(studios, "AttackJudge", Recorder)
    sight = Sight(image, image, image, None, np.eye(10)[4], np.eye(10)[7])
    np.testing.assert_array_equal(
        studio.attack(sight, "pgd_linf", 0.1, knows), found[0]
    )


def test_without_models_there_are_pictures_alone(bare):
    assert (bare.image_shape, bare.can_judge, bare.attacks()) == (
        (32, 32, 3), False, ()
    )  # fmt: skip
    sight = bare.see(bare.sample(0))
    assert set(np.unique(sight.clean)) == {0.0, 1.0}
    assert sight[3:] == (None, None, None)
    assert (bare.label(sight.after), bare.verdict(sight)) == ("", "no detector")
    assert bare.true_label(0) is None
    with pytest.raises(ValueError, match="need a classifier of its images"):
        next(bare.accuracies("uronet", "GN", 4))
    with pytest.raises(ValueError, match="none without a classifier"):
        bare.attack(sight, "fgsm_linf", 0.1, next(iter(ATTACKERS)))


def test_uploads_are_brought_to_the_size_of_the_models(bare, tmp_path):
    # What is cut off is white; bicubic sampling reaches 4 pixels across the edge.
    pixels = np.full((64, 128), 255, np.uint8)
    pixels[:, 26:102] = 51
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    image = bare.upload(tmp_path / "wide.png")
    assert (image.shape, image.dtype) == ((32, 32, 3), np.float32)
    np.testing.assert_allclose(image, 0.2, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "limit", "expected"),
    [
        ("text.png", None, "text.png: no image"),
        ("empty.jpg", None, "empty.jpg: empty file"),
        ("real.png", ("MAX_UPLOAD_BYTES", 2**5), "real.png: 0 MiB are more than 0: m"),
        ("real.png", ("MAX_UPLOAD_PIXELS", 99), "20x5 pixels are more than 0 million"),
    ],
)
def test_wrong_uploads_are_refused(name, limit, expected, bare, tmp_path, monkeypatch):
    Image.new("RGB", (20, 5)).save(tmp_path / "real.png")
    (tmp_path / "text.png").write_text("a poem")
    (tmp_path / "empty.jpg").touch()
    if limit:
        monkeypatch.setattr(studios, *limit)
    with pytest.raises(ValueError, match=expected):
        bare.upload(tmp_path / name)


def test_wrong_settings_are_refused(bare, runs):
    source = open_source("generated", "test")
    with pytest.raises(ValueError, match="threshold, a probability, must be .*: 2.0"):
        DefenseStudio(bare.models, source, threshold=2.0)
    with pytest.raises(ValueError, match="class names are of a classifier"):
        DefenseStudio(bare.models, source, class_names=("a",))
    with pytest.raises(ValueError, match="image 64 of generated: there are 0 to 63"):
        bare.sample(64)
    with pytest.raises(ValueError, match="nearest: 'fog'"):
        bare.corrupt(bare.sample(0), "cifar_c", "fogg", 1)
    with pytest.raises(ValueError, match="integer in"):
        bare.corrupt(bare.sample(0), "uronet", "GN", 4)


def test_classes_of_another_data_set_are_not_those_of_the_classifier(runs):
    models = load_photo_models(**runs)
    source = studios.open_images(models, "generated")
    assert DefenseStudio(models, source).class_names == source.class_names
    models.classifier.config["data"] = {"name": "cifar10"}
    studio = DefenseStudio(models, source)
    assert (studio.class_names, studio.can_judge) == ((), False)
    assert studio.label(np.array([0.1, 0.9])) == "class 1 (90%)"


def test_the_data_are_by_default_those_that_were_learned(bare, tmp_path, capsys):
    def learned(*names, **more):
        models = [
            name
            and dataclasses.replace(
                bare.models.purifier, config={"data": {"name": name}} | more
            )
            for name in names
        ]
        return PhotoModels(*models)

    def opened(*names):
        return studios.open_images(learned(*names), None).name

    assert studios.open_images(bare.models, None).name == "generated"
    assert opened("generated_grey") == "generated_grey"
    assert opened("generated", None, "generated_grey") == "generated_grey"
    # Pretrained weights may be of a set that nobody prepared here; a run's was.
    pretrained = learned("never_prepared", learned_in="float32")
    assert studios.open_images(pretrained, None).name == "generated"
    told = capsys.readouterr().err
    assert told == "never_prepared is not prepared here: generated images\n"
    for models, folder in ((learned("never_prepared"), None), (pretrained, tmp_path)):
        with pytest.raises((FileNotFoundError, ValueError), match="never_prepared"):
            studios.open_images(models, None, data_dir=folder)
    # With a classifier nobody else's will do: its labels would be of other classes.
    mute = dataclasses.replace(bare.models.purifier, config={})
    models = dataclasses.replace(learned("generated"), classifier=mute)
    with pytest.raises(ValueError, match="does not say what images .* name a data set"):
        studios.open_images(models, None)
    assert studios.open_images(models, "generated", "train").split == "train"


def test_pixels_are_enlarged_by_whole_numbers():
    image = np.zeros((2, 3, 1), np.float32)
    image[1, 2], image[0, 0] = 0.6, 1.5
    shown = studios.enlarge(image, 5)
    assert (shown.shape, shown.dtype) == ((6, 9, 3), np.uint8)
    assert (shown[3:, 6:] == 153).all() and (shown[:3, :3] == 255).all()
    assert shown.sum() == 9 * 3 * (153 + 255)
    assert studios.enlarge(shown / 255, 5).shape == (6, 9, 3)


def test_the_page_needs_gradio_and_says_so(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r'pip install "uronet_jax\[demo\]"$'):
        studios.check_gradio()
