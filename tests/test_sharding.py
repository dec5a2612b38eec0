"""Sharding: placement on four devices, batch sizes, both forms of a run of steps."""

import types

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uronet_jax import sharding


def test_mesh_holds_all_devices_or_the_given_ones(mesh):
    assert mesh.size == len(jax.devices()) == 4
    assert mesh.axis_names == (sharding.DATA_AXIS,)
    assert sharding.data_mesh(jax.devices()[1:3]).devices.tolist() == jax.devices()[1:3]


def test_replicate_puts_a_copy_on_every_device(mesh):
    tree = {"key": jax.random.key(3), "a": np.arange(6.0).reshape(2, 3), "b": 5}
    placed = sharding.replicate(tree, mesh)
    for x in jax.tree.leaves(placed):
        assert x.sharding.is_fully_replicated and len(x.sharding.device_set) == 4
    np.testing.assert_array_equal(placed["a"], tree["a"])
    assert int(placed["b"]) == 5
    chex.assert_trees_all_equal(
        jax.random.key_data(placed["key"]), jax.random.key_data(tree["key"])
    )


@pytest.mark.parametrize("axis", [0, 1])
def test_split_batch_gives_each_device_its_rows(mesh, axis):
    x = np.arange(64).reshape(8, 8)
    placed = sharding.split_batch({"x": x}, mesh, axis)["x"]
    np.testing.assert_array_equal(placed, x)
    parts = np.split(x, 4, axis)
    for shard in placed.addressable_shards:
        number = mesh.devices.tolist().index(shard.device)
        np.testing.assert_array_equal(shard.data, parts[number])


def test_constraint_splits_inside_jit_and_results_are_replicated(mesh):
    constrain = jax.jit(lambda x: sharding.constrain_batch({"x": x}, mesh))
    split = constrain(jnp.ones((8, 2)))["x"].sharding
    assert split.is_equivalent_to(sharding.batch_sharding(mesh), 2)
    x = sharding.split_batch(np.arange(8.0), mesh)
    doubled = sharding.compile_replicated(lambda x: 2 * x, mesh)(x)
    assert doubled.sharding.is_fully_replicated
    np.testing.assert_array_equal(doubled, 2 * np.arange(8.0))


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_steps_run_in_order_and_compile_once(mesh, platform, monkeypatch):
    """On CPU a compiled step in a loop, elsewhere a scan: the same results."""
    replicated = sharding.replicated_sharding(mesh)
    device = types.SimpleNamespace(platform=platform)
    monkeypatch.setattr(sharding, "replicated_sharding", lambda mesh: replicated)
    stand_in = types.SimpleNamespace(devices=np.array([device]))
    traces = []

    def step(state, frozen, batch):
        traces.append(None)
        state = frozen * state + batch.sum()
        return state, {"loss": state, "count": batch.sum()}

    def fetch(resident, rows):
        return resident[rows]

    advance = sharding.compile_steps(step, fetch, stand_in)
    given = np.float32(1.0), np.float32(3.0), np.arange(10.0, dtype=np.float32)
    state, frozen, resident = sharding.replicate(given, mesh)
    inputs = np.array([[0, 1], [2, 3], [4, 5]])
    expected, losses = 1.0, []
    for _ in range(2):
        placed = sharding.replicate(inputs, mesh)
        state, metrics = advance(state, frozen, resident, placed)
        for rows in inputs:
            expected = 3.0 * expected + rows.sum()
            losses.append(expected)
        np.testing.assert_array_equal(metrics["loss"], losses[-3:])
        np.testing.assert_array_equal(metrics["count"], inputs.sum(axis=1))
    assert float(state) == expected
    assert len(traces) == 1


def test_one_process_decides_alone():
    assert sharding.any_process(True) and not sharding.any_process(False)
