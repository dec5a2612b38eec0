"""What the experiments on noise training measure, where the answer is known."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from uronet_jax import sharding
from uronet_jax.data.sources import ArraySource
from uronet_jax.papers.adversarial_noise import experiments
from uronet_jax.papers.adversarial_noise.experiments import _Measured, _severities

WEIGHTS = np.random.default_rng(0).normal(size=(4, 4, 1)).astype(np.float32)
IMAGES = np.random.default_rng(1).integers(110, 146, (8, 4, 4, 1), dtype=np.uint8)


class Half(nn.Module):
    """Tells on which side of a plane through mid-grey an image lies."""

    def __call__(self, images, *, train=False):
        side = jnp.sum((images - 0.5) * WEIGHTS[None], axis=(1, 2, 3))
        return jnp.stack([0 * side, side], axis=-1)


@pytest.fixture
def measured():
    store = SimpleNamespace(
        mesh=sharding.data_mesh(),
        config={"attack": {"batch_size": 12}},  # The last batch is padded.
        progress=SimpleNamespace(stopping=lambda: None),
    )
    found = object.__new__(_Measured)
    found.lab = SimpleNamespace(store=store, seed=0)
    found.model = SimpleNamespace(module=Half(), variables={})
    return found


@pytest.mark.parametrize(
    ("name", "norm", "order"), [("pgd_linf", "linf", 1), ("ddn_l2", "l2", 2)]
)
def test_an_attack_counts_within_its_norm(name, norm, order, measured):
    side = np.sum((IMAGES / 255 - 0.5) * WEIGHTS[None], axis=(1, 2, 3))
    # Distance to the plane; the box is far away.
    distances = np.abs(side) / np.linalg.norm(WEIGHTS.ravel(), order)
    labels = (side > 0).astype(np.int32)
    labels[0] = 1 - labels[0]  # Wrong from the start.
    source = ArraySource("planes", "test", IMAGES, labels, "ab")
    middle = np.sort(distances[1:])[3:5].mean()  # Far from every distance.
    for radius in (0.5 * distances[1:].min(), middle, 2 * distances.max()):
        given = {"epsilon": radius} if norm == "linf" else {}
        right = measured._right_under(name, source, norm, radius, given)
        assert right == pytest.approx(np.mean((distances > radius)[1:]) * 7 / 8)


def test_means_say_at_which_severities_they_are():
    assert _severities("cifar_c", (1, 3, 5)) == {"severities": "1, 3, 5"}
    assert _severities("cifar_c", (1, 2, 3, 4, 5)) == {"severities": "all"}
    assert _severities("mnist_c", (1,)) == {"severities": "all"}


@pytest.mark.parametrize(
    ("suite", "values", "severities", "mean"),
    [
        ("mnist_c", {"identity": 0.0, "fog": 40.0, "stripe": 80.0}, (1,), 60.0),
        # The mean of CIFAR-10-C leaves out four, here the last; of severities too.
        ("cifar_c", {"fog": 40.0, "snow": 80.0, "saturate": 0.0}, (1, 5), 60.3),
    ],
)
def test_strengths_are_chosen_by_validation_images(
    suite, values, severities, mean, monkeypatch
):
    """The images of a part are in its numbers: 5 of validation, 8 of the test."""
    monkeypatch.setattr(
        experiments, "_suite", lambda *args: (suite, tuple(values), severities)
    )
    found = object.__new__(_Measured)
    progress = SimpleNamespace(stopping=lambda: None)
    parts = {"validation": range(5), "test": range(8)}

    def accuracy(entry):
        if entry.noise not in values:
            return 90.0
        return values[entry.noise] + 0.1 * entry.severity * (suite == "cifar_c")

    found.lab = SimpleNamespace(
        store=SimpleNamespace(progress=progress),
        judge=lambda role, part: parts[part],
        accuracies=lambda judge, models, entry: {"": accuracy(entry) + len(judge)},
        row=lambda judge, value, metric, **columns: (
            columns["test"],
            value,
            len(judge),
        ),
    )
    found.role, found.model, found.columns = "digits", None, {}
    assert found.scanned() == [
        ("clean, validation", 95.0, 5),
        ("corruptions, validation", pytest.approx(mean + 5), 5),
        ("clean", 98.0, 8),
        ("corruptions", pytest.approx(mean + 8), 8),
    ]


def test_rows_of_eps_star_keep_what_each_generator_found(measured, monkeypatch):
    usual = {"num_images": 8, "clean_accuracy": 1.0, "infinite": False}
    several = {"eps_star": 3.0, "eps_star_std": 1.0, "eps_stars": [2.0, None, 4.0]}
    several |= {"never_fooled": 0.35, "never_fooled_each": [0.25, 0.5, 0.3]}
    none = {"eps_star": None, "infinite": True, "never_fooled": 0.5}
    found = [
        usual | {"noise": "gaussian", "eps_star": 9.0, "never_fooled": 0.1},
        usual | {"noise": "uniform"} | none,
        usual | {"noise": "learned"} | several,
    ]
    monkeypatch.setattr(experiments, "noise_robustness", lambda *x, **y: found)
    measured.lab.judge = lambda role, count: range(count)
    measured.lab.row = lambda judge, value, metric, **columns: {
        **{"value": value, "metric": metric},
        **columns,
    }
    measured.lab.store.open = lambda *x: SimpleNamespace(image_shape=(4, 4, 1))
    measured.learned = lambda variant, count: []
    measured.section = {"eps_star_images": 8, "generators": 3}
    measured.role, measured.columns = "digits", {}
    rows = [x for x in measured.eps_star() if x.pop("metric") == "eps_star"]
    assert rows == [
        {
            **{"test": "gaussian", "value": 9.0},
            **{"eps_stars": [9.0], "never_fooled": [10.0]},
        },
        {
            **{"test": "uniform", "value": 16.0, "infinite": True},
            **{"eps_stars": [None], "never_fooled": [50.0]},
        },
        {
            **{"test": "learned", "value": 3.0, "std": 1.0},
            **{"eps_stars": [2.0, None, 4.0], "never_fooled": [25.0, 50.0, 30.0]},
        },
    ]


def test_pages_under_attack_and_not_share_all_measurements():
    both = (*experiments._JUDGED, *experiments._ATTACKED)
    assert sorted(both) == sorted(experiments._MEASUREMENTS)
