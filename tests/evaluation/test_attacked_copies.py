"""Attacked copies of a data set: what they are of, and runs that stop and resume."""

import dataclasses
import json

import jax
import numpy as np
import optax
import pytest
from flax import linen as nn

from uronet_jax.attacks import ATTACKS, flax_logits
from uronet_jax.corruptions import entry_key
from uronet_jax.data.sources import ArraySource, source_digest
from uronet_jax.data.stored import check_digests
from uronet_jax.evaluation import attacked_copies
from uronet_jax.evaluation.attacked_copies import attack_parts
from uronet_jax.evaluation.threat_models import AttackRun, parse_run
from uronet_jax.loading import LoadedModel
from uronet_jax.progress import Progress, StoppedError

SHAPE = (4, 6, 1)


class Linear(nn.Module):
    """A classifier whose attacks compile fast."""

    @nn.compact
    def __call__(self, x, *, train=False):
        return 5 * nn.Dense(4)(x.reshape(len(x), -1))


@pytest.fixture(scope="module")
def classifier():
    variables = Linear().init(jax.random.key(0), np.zeros((1, *SHAPE), np.float32))
    config = {"model": {"name": "linear"}}
    return LoadedModel("classifier", Linear(), variables, SHAPE, 4, config)


def logits_of(model, images):
    return np.asarray(model.module.apply(model.variables, images))


@pytest.fixture(scope="module")
def sources(classifier):
    """Returns training and validation images; of six the classifier has five right."""
    rng, found = np.random.default_rng(0), {}
    for part, count in (("train", 6), ("validation", 3)):
        # Of all channels the mean, so that attacks need not leave [0, 1].
        images = rng.integers(90, 160, (count, *SHAPE), np.uint8)
        labels = logits_of(classifier, images / np.float32(255)).argmax(-1)
        labels[0] = (labels[0] + 1) % 4
        found[part] = ArraySource("random", part, images, labels, "abcd")
    return found


@pytest.fixture
def make(sources, classifier, mesh, tmp_path):
    def make(text, folder="attacked", stop=lambda: False, **changes):
        given = {"sources": sources, "classifier": classifier, "batch_size": 4}
        given = {**given, "seed": 3, **changes}
        progress = Progress(stop, shown=False)
        return attack_parts(
            tmp_path / folder,
            run=parse_run(text),
            mesh=mesh,
            progress=progress,
            **given,
        )

    return make


def levels(images):
    return images.astype(np.float32) / np.iinfo(images.dtype).max


@pytest.mark.parametrize(
    "text",
    [
        "fgsm_linf:epsilon=0.05",
        "pgd_l2:epsilon=0.3,steps=3,step_size=0.2",
        "apgd_t_linf:epsilon=0.05,steps=3",
        "deepfool_l2:steps=10,overshoot=0.02",
    ],
)
def test_copies_are_what_the_attack_makes(text, make, sources, classifier):
    made, run = make(text), parse_run(text)
    assert list(made) == ["train", "validation"]
    for part, copies in made.items():
        assert copies.dtype == np.uint16
        images, labels = sources[part].arrays()
        clean, attacked = levels(images), levels(copies)
        right = logits_of(classifier, clean).argmax(-1) == labels
        assert right.sum() == len(images) - 1
        moved = (attacked - clean).reshape(len(images), -1)
        assert (np.abs(moved[right]).max(axis=-1) > 1e-3).all()
        before, after = (
            optax.softmax_cross_entropy_with_integer_labels(
                logits_of(classifier, x), labels
            )
            for x in (clean, attacked)
        )
        assert (after[right] > before[right]).all()
        if run.attack.minimal:
            key = entry_key(3, f"attacked/{part}/{run.name}", 1)
            logits_fn = flax_logits(classifier.module, classifier.variables)
            expected = ATTACKS[run.name](
                key, clean, logits_fn, labels, **run.parameters
            )
            # Half a level of 16 bits is the rounding.
            np.testing.assert_allclose(attacked, expected, atol=1e-5)
            assert (logits_of(classifier, attacked).argmax(-1) != labels).all()
            assert not moved[0].any()  # It is wrong already.
        else:
            norm = {"linf": np.inf, "l2": 2}[run.attack.norm]
            sizes = np.linalg.norm(moved, norm, axis=1)
            # 24 pixels, each rounded by half a level of 16 bits; pushed to the end.
            assert sizes.max() <= run.epsilon + 4e-5
            assert sizes.min() > 0.9 * run.epsilon


def test_without_labels_images_are_led_away_from_what_the_classifier_says(make):
    text = "fgsm_linf:epsilon=0.05"
    true, said = (
        make(text, labels, labels=labels)["train"] for labels in ("true", "predictions")
    )
    # Of the first image the label is not what the classifier says.
    assert (true[0] != said[0]).any()
    np.testing.assert_array_equal(true[1:], said[1:])
    with pytest.raises(ValueError, match="labels"):
        make(text, "true", labels="predictions")


def test_what_it_says_is_as_good_as_the_same_labels(make, sources, classifier):
    relabelled = {}
    for part, source in sources.items():
        images, _ = source.arrays()
        said = logits_of(classifier, images / np.float32(255)).argmax(-1)
        relabelled[part] = ArraySource("random", part, images, said, "abcd")
    text = "fgsm_linf:epsilon=0.05"
    expected = make(text, "a", sources=relabelled)
    for part, copies in make(text, "b", labels="predictions").items():
        np.testing.assert_array_equal(copies, expected[part])


def test_parts_and_seeds_have_random_starts_of_their_own(make, sources):
    text = "pgd_linf:epsilon=0.1,steps=1,step_size=0.0001"
    same = {part: sources["validation"] for part in ("train", "validation")}
    one, other = (make(text, f"{x}", seed=x, sources=same) for x in (3, 4))
    assert (one["train"] != one["validation"]).any()
    assert (one["train"] != other["train"]).any()


def test_it_goes_on_where_it_was_stopped_or_killed(make, tmp_path, monkeypatch):
    text = "pgd_linf:epsilon=0.1,steps=2,step_size=0.05"
    whole = make(text, "whole")
    asked = iter([False, True])
    with pytest.raises(StoppedError):
        make(text, "stopped", lambda: next(asked))
    sidecar = tmp_path / "stopped" / "train.json"
    assert json.loads(sidecar.read_text())["done"] == [4]
    with pytest.raises(ValueError, match="train.npy is not finished: run the command"):
        check_digests(sidecar.with_suffix(".npy"), {})
    for folder, error in (("stopped", None), ("killed", KeyboardInterrupt)):
        if error:
            monkeypatch.setattr(attacked_copies, "_SAVE_EVERY", 0.0)
            original, calls = AttackRun.go_to_the_end, iter(range(1))

            def dying(*arguments, calls=calls, original=original):
                if next(calls, None) is None:
                    raise KeyboardInterrupt
                return original(*arguments)

            monkeypatch.setattr(AttackRun, "go_to_the_end", dying)
            with pytest.raises(error):
                make(text, folder)
            monkeypatch.setattr(AttackRun, "go_to_the_end", original)
        resumed = make(text, folder)
        for part in whole:
            np.testing.assert_array_equal(resumed[part], whole[part])
    # What is there is not made anew.
    monkeypatch.setattr(AttackRun, "go_to_the_end", None)
    np.testing.assert_array_equal(make(text, "whole")["train"], whole["train"])
    # And is not taken for something else.
    with pytest.raises(
        ValueError, match="'epsilon': 0.1.*'epsilon': 0.2.*another fold"
    ):
        make(text.replace("0.1", "0.2"), "whole")


def test_copies_say_what_they_are_of(make, sources, classifier, tmp_path):
    make("fgsm_linf:epsilon=0.05")
    path = tmp_path / "attacked" / "train.npy"
    digests = {
        "classifier": classifier.identity,
        "images": source_digest(sources["train"]),
    }
    made_with = check_digests(path, digests | {"purifier": "no part of it"})
    assert made_with["digests"] == digests
    assert (made_with["attack"], made_with["epsilon"]) == ("fgsm_linf", 0.05)
    assert made_with["images"] == ["random", "train", 6] and made_with["seed"] == 3
    heavier = jax.tree.map(lambda x: 2 * x, classifier.variables)
    other = dataclasses.replace(classifier, variables=heavier)
    for name, value in (
        ("classifier", other.identity),
        ("images", source_digest(sources["validation"])),
    ):
        with pytest.raises(ValueError, match=f"not made of what .*: {name} .* there"):
            check_digests(path, digests | {name: value})
    with pytest.raises(ValueError, match="made with other weights or settings"):
        make("fgsm_linf:epsilon=0.05", classifier=other)
    sidecar = path.with_suffix(".json")
    for text in ("[]", "{", '{"finished": true, "made_with": [1]}'):
        sidecar.write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match=r"\.json is damaged: make"):
            check_digests(path, digests)
    # What does not say of what it is must be finished all the same.
    sidecar.write_text('{"finished": false, "made_with": {}}', encoding="utf-8")
    with pytest.raises(ValueError, match="is not finished"):
        check_digests(path, digests)
    # Copies of somebody else say nothing.
    path.with_suffix(".json").unlink()
    assert check_digests(path, digests) is None


@pytest.mark.parametrize(
    ("text", "changes", "message"),
    [
        ("fgsm", {}, "unknown attack 'fgsm'"),
        ("fgsm_linf", {}, "fgsm_linf needs epsilon"),
        ("fgsm_linf:epsilon=-1", {}, "epsilon"),
        (
            "fgsm_linf:0.1",
            {},
            "attack .*'0.1' is no parameter=number, as in fgsm_linf:",
        ),
        ("fgsm_linf:epsilon=0.1,norm=2", {}, "has no parameter norm"),
        ("pgd_linf:epsilon=0.1,step=2", {}, "has no parameter step"),
        ("fgsm_linf:epsilon=0.1", {"batch_size": 6}, "batch size 6 .* multiple of 4"),
        (
            "fgsm_linf:epsilon=0.1",
            {"image_shape": (4, 6, 3)},
            r"\[4, 6, 3\], random has",
        ),
        ("fgsm_linf:epsilon=0.1", {"num_classes": 3}, "made for 3 classes.* has 4"),
        ("apgd_t_linf:epsilon=0.1", {"classes": "abc"}, "needs at least 4 classes"),
    ],
)
def test_what_cannot_be_attacked_is_reported(
    text, changes, message, make, classifier, sources, tmp_path
):
    changes = dict(changes)
    if "classes" in changes:
        images, labels = sources["train"].arrays()
        few = ArraySource("random", "train", images, labels % 3, changes.pop("classes"))
        changes["sources"] = {"train": few}
        changes["classifier"] = dataclasses.replace(classifier, num_classes=3)
    fields = {k: changes.pop(k) for k in ("image_shape", "num_classes") if k in changes}
    if fields:
        changes["classifier"] = dataclasses.replace(classifier, **fields)
    with pytest.raises(ValueError, match=message):
        make(text, **changes)
    assert not (tmp_path / "attacked").exists()
