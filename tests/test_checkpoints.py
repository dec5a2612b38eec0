"""Checkpoints: what is kept, what comes back, and what damaged ones say."""

import collections
import errno
import fcntl
import json
import os
import re
import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from uronet_jax import checkpoints, sharding
from uronet_jax.checkpoints import Checkpoints
from uronet_jax.training.state import TrainState

OPTIMIZER = optax.adam(1e-3)
LOSSES = {1: 3.0, 2: 1.0, 3: 2.0, 4: 5.0, 5: 4.0}
CONFIG = {"phase": "remover", "best_metric": ["loss", "min"], "widths": [4, 8]}


def make_state(step, features=3):
    params = {"Dense_0": {"kernel": jnp.full((2, features), 0.1 * step)}}
    return TrainState(
        step=jnp.asarray(step, jnp.int32),
        key=jax.random.key(step),
        params=params,
        batch_stats={"Norm_0": {"mean": jnp.full((3,), -1.0 * step)}},
        opt_state=OPTIMIZER.init(params),
    )


def raw(state):
    return jax.device_get(state.replace(key=jax.random.key_data(state.key)))


def save(store, step, metrics):
    store.save(step, make_state(step), CONFIG, {"step": step}, metrics)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Returns the folder of a run that saved five times."""
    folder = tmp_path_factory.mktemp("saved")
    store = Checkpoints(folder)
    for step, loss in LOSSES.items():
        save(store, step, {"loss": loss, "psnr": 10.0})
    store.close()
    return folder


@pytest.fixture
def workdir(saved, tmp_path):
    """Returns a copy of that folder, to be damaged."""
    return shutil.copytree(saved, tmp_path / "run")


def steps_in(workdir):
    return sorted(int(p.name) for p in (workdir / "checkpoints").iterdir())


def test_best_and_last_two_are_kept(saved):
    assert steps_in(saved) == [2, 4, 5]
    store = Checkpoints(saved)
    assert (store.best_step(), store.latest_step()) == (2, 5)
    assert store.config() == CONFIG
    store.close()
    text = (saved / "checkpoints" / "5" / "config" / "metadata").read_text()
    assert json.loads(text) == CONFIG  # Plain JSON.


def test_highest_can_be_best_and_unjudged_states_do_not_compete(tmp_path):
    store = Checkpoints(tmp_path, best_metric="accuracy", best_mode="max")
    config = {"best_metric": ["accuracy", "max"]}
    for step, accuracy in enumerate([0.5, 0.9, 0.7, None, 0.8, None, None], 1):
        metrics = {} if accuracy is None else {"accuracy": accuracy}
        store.save(step, make_state(step), config, {}, metrics)
    assert store.best_step() == 2
    store.close()
    assert steps_in(tmp_path) == [2, 6, 7]
    with pytest.raises(ValueError, match="min or max: 'lowest'"):
        Checkpoints(tmp_path, best_mode="lowest")
    assert checkpoints.find_step(tmp_path).name == "2"
    assert checkpoints.find_step(tmp_path, "last").name == "7"


def test_without_any_metrics_the_last_is_the_best(tmp_path):
    store = Checkpoints(tmp_path)
    save(store, 3, {})
    assert store.best_step() is None
    store.close()
    assert checkpoints.find_step(tmp_path).name == "3"


def test_what_was_saved_comes_back(saved):
    mesh = sharding.data_mesh()
    like = sharding.replicate(make_state(0), mesh)
    store = Checkpoints(saved)
    state, data, metrics = store.restore(like)
    store.close()
    chex.assert_trees_all_equal(raw(state), raw(make_state(5)))
    assert jax.dtypes.issubdtype(state.key.dtype, jax.dtypes.prng_key)
    assert data == {"step": 5} and metrics == {"loss": 4.0, "psnr": 10.0}
    for x in jax.tree.leaves(state):  # Or the next step would compile again.
        assert x.sharding.is_equivalent_to(sharding.replicated_sharding(mesh), x.ndim)


def test_saving_a_step_again_changes_nothing(workdir):
    store = Checkpoints(workdir)
    store.save(5, make_state(1), {}, {}, {"loss": 0.0})
    store.close()
    assert checkpoints.read_config(workdir, "last") == CONFIG


@pytest.mark.parametrize("which, step", [("best", 2), ("last", 5), ("4", 4)])
def test_variables_of_one_checkpoint(saved, which, step):
    assert checkpoints.find_step(saved, which).name == str(step)
    like = make_state(0).variables
    read = checkpoints.read_variables(saved, like, which)
    assert all(isinstance(x, np.ndarray) for x in jax.tree.leaves(read))
    chex.assert_trees_all_equal(read, jax.device_get(make_state(step).variables))


def test_unknown_checkpoints_are_reported(saved, tmp_path):
    for which in ("3", "first", "-1"):
        with pytest.raises(FileNotFoundError, match=r"choose best, last.*\[2, 4, 5\]"):
            checkpoints.find_step(saved, which)
    with pytest.raises(FileNotFoundError, match="no checkpoint under.*uronet train"):
        checkpoints.find_step(tmp_path)


def test_half_written_checkpoint_is_ignored(workdir):
    folder = workdir / "checkpoints" / "6.orbax-checkpoint-tmp"
    shutil.copytree(workdir / "checkpoints" / "5", folder)
    assert checkpoints.find_step(workdir, "last").name == "5"
    store = Checkpoints(workdir)
    assert store.latest_step() == 5
    state, _, _ = store.restore(make_state(0))
    store.close()
    assert int(state.step) == 5


# Orbax reads arrays at the same time and, when one fails, leaves the others to end in
# noise on closed event loops. Hence a single array where reading is to fail.
def single_array(value, features=3):
    kernel = jnp.full((2, features), value, jnp.float32)
    return {"params": {"kernel": kernel}, "batch_stats": {}}


@pytest.fixture
def single(tmp_path):
    """Returns the folder of a run whose checkpoints 4 and 5 hold one array."""
    store = Checkpoints(tmp_path / "single")
    for step in (4, 5):
        store.save(step, single_array(step), CONFIG, {"step": step}, {"loss": 1.0})
    store.close()
    return tmp_path / "single"


def restore_single(workdir, features=3):
    store = Checkpoints(workdir)
    try:
        return store.restore(single_array(0, features))[0]
    finally:
        store.close()


@pytest.mark.parametrize("part", ["data", "metadata"])
def test_truncated_checkpoint_is_reported(single, part):
    folder = single / "checkpoints" / "5"
    files = {
        "data": [p for p in folder.glob("state/**/d/*") if p.is_file()],
        "metadata": [folder / "state" / "_METADATA"],
    }[part]
    assert files
    chex.assert_trees_all_equal(restore_single(single), single_array(5))
    for path in files:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    message = "checkpoints/5 cannot be read.*damaged.*move that folder"
    with pytest.raises(ValueError, match=message):
        checkpoints.read_variables(single, single_array(0), "last")
    with pytest.raises(ValueError, match=message):
        restore_single(single)
    shutil.rmtree(folder)  # What the message advises.
    chex.assert_trees_all_equal(restore_single(single), single_array(4))


def test_truncated_config_and_another_architecture_are_reported(single):
    with pytest.raises(ValueError, match="damaged, or of another architecture"):
        restore_single(single, features=4)
    path = single / "checkpoints" / "5" / "config" / "metadata"
    path.write_text(path.read_text()[:9])
    with pytest.raises(ValueError, match="checkpoints/5 cannot be read.*damaged"):
        checkpoints.read_config(single, "last")


FIRST = make_state(0)


@pytest.mark.parametrize(
    "like, message",
    [
        (
            {"params": make_state(0, features=4).params},
            r"params/Dense_0/kernel has shape \(2, 3\) in the checkpoint and \(2, 4\)",
        ),
        (
            {"batch_stats": {}},
            r"batch_stats/Norm_0/mean has shape \(3,\) in the checkpoint and None",
        ),
        (
            {"params": {**FIRST.params, "Dense_1": jnp.zeros(1)}},
            "params/Dense_1 has shape None in the checkpoint",
        ),
    ],
)
def test_another_architecture_is_reported(saved, like, message):
    with pytest.raises(
        ValueError, match=f"checkpoints/2 holds another model: {message}"
    ):
        checkpoints.read_variables(saved, FIRST.variables | like)


# The folder of a run


def test_a_folder_is_for_one_run_at_a_time_and_must_be_one(tmp_path):
    for _ in range(2):  # The lock is free again.
        with checkpoints.locked_workdir(tmp_path / "run"):
            with pytest.raises(OSError, match="another run is using workdir"):
                with checkpoints.locked_workdir(tmp_path / "run"):
                    pass
    (tmp_path / "file").write_text("in the way")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(OSError, match="cannot write to workdir.*choose a folder"):
            with checkpoints.locked_workdir(path):
                pass


def test_a_file_system_without_locks_is_used_with_a_warning(tmp_path, monkeypatch):
    def flock(file, operation):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.warns(UserWarning, match="cannot be locked .Function not implemented"):
        with checkpoints.locked_workdir(tmp_path):
            pass


@pytest.mark.parametrize("name", ["runs [old]", "runs\\old"])
def test_folders_in_which_weights_would_be_lost_are_refused(tmp_path, name):
    character = re.escape(name.strip("runsold] "))
    message = f"can be neither written to nor read from .*without {character}$"
    with pytest.raises(ValueError, match=message):
        Checkpoints(tmp_path / name / "run")
    assert not (tmp_path / name).exists()
    # A run that was moved there.
    step = tmp_path / name / "checkpoints" / "1"
    step.mkdir(parents=True)
    with pytest.raises(ValueError, match=message):
        checkpoints.read_variables(tmp_path / name, {}, "1")


def test_full_disk_is_reported_before_any_work(tmp_path, monkeypatch):
    usage = collections.namedtuple("usage", "total used free")(10**9, 10**9, 2_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(OSError, match="2 MB free and the checkpoints need 3 MB"):
        with checkpoints.locked_workdir(tmp_path, needed_bytes=3_000_000):
            pass
    with checkpoints.locked_workdir(tmp_path, needed_bytes=2_000_000):
        pass


def test_size_of_a_checkpoint():
    # Kernel and its two Adam moments, statistics, step, Adam's count, key.
    expected = 3 * 6 * 4 + 3 * 4 + 4 + 4 + 8
    assert checkpoints.state_bytes(make_state(0)) == expected
    shapes = jax.eval_shape(lambda: make_state(0))
    assert checkpoints.state_bytes(shapes) == expected
