"""How attacks go through a batch on a CPU: in slices, on a mesh, compiled once."""

import pickle

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from numpy.testing import assert_allclose, assert_array_equal

from uronet_jax import sharding
from uronet_jax.attacks import (
    ATTACKS,
    flax_logits,
    loop,
    misclassification,
    pgd,
)
from uronet_jax.attacks.adaptive import without_success
from uronet_jax.attacks.objectives import take, targeted_misclassification

COUNT = 96
KEY = jax.random.key(0)
DENSE = nn.Sequential([lambda x: x.reshape(len(x), -1), nn.Dense(5)])


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(0)
    images = rng.random((COUNT, 2, 2, 3)).astype(np.float32)
    logits_fn = flax_logits(DENSE, DENSE.init(KEY, images))
    return images, rng.integers(0, 5, COUNT), logits_fn


@pytest.fixture
def seen(monkeypatch):
    """How many images take how many steps together."""
    seen, inner = [], loop._steps

    def spy(step, config, constants, state, steps):
        seen.append((len(state.active), int(steps)))
        return inner(step, config, constants, state, steps)

    monkeypatch.setattr(loop, "_steps", spy)
    return seen


@pytest.mark.parametrize(
    ("name", "stops"),
    [
        ("pgd_linf", True),
        ("pgd_linf", False),
        ("apgd_ce_linf", True),
        ("apgd_ce_linf", False),
        ("apgd_t_linf", True),
    ],
)
def test_slices_change_nothing(name, stops, problem, seen):
    images, labels, logits_fn = problem
    attack, runs = ATTACKS[name], 1
    budgets = np.linspace(0, 0.3, COUNT, dtype=np.float32)
    usual = {"steps": 4, "restarts": 1, "epsilon": budgets}
    if attack.takes_logits:
        runs = usual["targets"] = 2

    def run(logits_fn):
        if stops:
            return attack(KEY, images, logits_fn, labels, **usual)
        loss_fn = without_success(misclassification(logits_fn, labels))
        return attack.on_loss(KEY, images, loss_fn, **usual)

    # Nobody knows whether a plain function looks at each image alone.
    sliced, whole = run(logits_fn), run(lambda x: logits_fn(x))
    # Two runs of four steps and one more.
    assert seen == runs * [(32, 2 * 5)] * 3 + runs * [(COUNT, 2 * 5)]
    # Products of 32 and of 96 rows may add in another order.
    assert_allclose(sliced, whole, atol=1e-6)
    distance = np.abs(sliced - images).max(axis=(1, 2, 3))
    assert (distance <= budgets + 1e-6).all() and distance.max() > 0.1


def test_vmap_over_budgets(problem):
    images, labels, logits_fn = problem
    images, labels = images[:4], labels[:4]

    def run(epsilon):
        usual = {"epsilon": epsilon, "steps": 3, "targets": 2}
        return ATTACKS["apgd_t_linf"](KEY, images, logits_fn, labels, **usual)

    together = jax.vmap(run)(jnp.asarray([0.05, 0.2]))
    for epsilon, found in zip((0.05, 0.2), together, strict=True):
        assert_allclose(found, run(epsilon), atol=1e-6)


def test_an_uneven_batch_stays_whole(problem, monkeypatch):
    images, labels, logits_fn = problem
    monkeypatch.setattr(loop, "_take", None)  # Not called.
    loss_fn = misclassification(logits_fn, labels[:40])
    pgd(KEY, images[:40], loss_fn, epsilon=0.1, step_size=0.1, steps=1)


@pytest.mark.parametrize("devices", [1, 4])
def test_one_step_is_compiled_wherever_the_images_are(devices, problem, seen):
    images, labels, logits_fn = problem
    mesh = sharding.data_mesh(jax.devices()[:devices])
    batch = sharding.split_batch((images, labels), mesh)
    # Between them: scalars in the state, and states within states.
    for name, usual in (
        ("apgd_t_l2", {"epsilon": 0.0, "steps": 3, "targets": 2}),
        ("carlini_wagner_l2", {"binary_search_steps": 1, "steps": 3}),
    ):
        seen.clear()
        before = loop._one._cache_size()
        found = ATTACKS[name](KEY, batch[0], logits_fn, batch[1], **usual)
        assert loop._one._cache_size() == before + 1, name
        assert found.sharding.device_set == set(mesh.devices.flat)
        # What is split over devices is not sliced as well.
        sliced = devices == 1 and name == "apgd_t_l2"
        assert {count for count, _ in seen} == ({32} if sliced else {COUNT})


def test_broken_images_are_named_by_their_place_in_the_batch(problem):
    images, labels, _ = problem
    images = images.copy()
    broken = flax_logits(_Broken(), {})
    images[70] = 0.0
    loss_fn = misclassification(broken, np.zeros_like(labels))
    message = r"not finite at 1 images, the first \[70\]"
    with pytest.raises(loop.NonFiniteError, match=message) as caught:
        pgd(KEY, images, loss_fn, epsilon=0.0, step_size=0.0, steps=2)
    assert caught.value.positions == [70]
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_what_cannot_be_split_is_not(problem):
    _, labels, logits_fn = problem
    rows = slice(3, 5)
    loss_fn = targeted_misclassification(logits_fn, labels, (labels + 1) % 5)
    part = take(loss_fn, rows)
    assert_array_equal(part.labels, labels[rows])
    assert_array_equal(part.targets, (labels[rows] + 1) % 5)
    plain = misclassification(lambda images: logits_fn(images), labels)
    assert take(plain, rows) is None
    assert take(without_success(plain), rows) is None
    # Of a random classifier all parts would get the same draw.
    random = flax_logits(DENSE, {}, rngs={"noise": 0})
    assert take(misclassification(random, labels), rows) is None
    part = take(misclassification(_PerImage(np.arange(len(labels))), labels), rows)
    assert_array_equal(part.logits_fn.shift, [3, 4])


@flax.struct.dataclass
class _PerImage:
    """A classifier with something of its own for each image."""

    shift: np.ndarray

    def __call__(self, images):
        return jnp.stack([images.mean(axis=(1, 2, 3)), self.shift], axis=-1)

    def take(self, rows):
        return self.replace(shift=self.shift[rows])


class _Broken(nn.Module):
    """Its logits are no numbers for black images."""

    def __call__(self, images):
        mean = images.mean(axis=(1, 2, 3))
        return jnp.stack([jnp.where(mean == 0, jnp.nan, mean), -mean], axis=-1)
