"""Meshes, placement and compilation: the only module that knows devices.

Every step of this package is data parallel: one mesh axis named `data`, the batch
split along it, everything else replicated. XLA inserts the collectives, so a step
is written as if there were one device, and batch statistics are those of the global
batch.
"""

import dataclasses
import numbers
import operator
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from uronet_jax import host

DATA_AXIS = "data"


def data_mesh(devices: Sequence[jax.Device] | None = None) -> jax.sharding.Mesh:
    """Returns a one-axis mesh over `devices`, by default all devices of all hosts."""
    devices = jax.devices() if devices is None else list(devices)
    axis_types = (jax.sharding.AxisType.Auto,)
    return jax.make_mesh((len(devices),), (DATA_AXIS,), axis_types, devices=devices)


def batch_sharding(
    mesh: jax.sharding.Mesh, axis: int = 0
) -> jax.sharding.NamedSharding:
    """Returns the sharding that splits array axis number `axis` over the mesh."""
    return jax.NamedSharding(mesh, jax.P(*[None] * axis, DATA_AXIS))


def replicated_sharding(mesh: jax.sharding.Mesh) -> jax.sharding.NamedSharding:
    """Returns the sharding that puts a full copy on every device of `mesh`."""
    return jax.NamedSharding(mesh, jax.P())


def replicate(tree: Any, mesh: jax.sharding.Mesh) -> Any:
    """Places a full copy of `tree` on every device of `mesh`.

    With several processes every process must pass the same values.
    """
    sharding = replicated_sharding(mesh)

    def place(x):
        # Neither typed keys nor device_put can go to the devices of other processes.
        if isinstance(x, jax.Array) and jax.dtypes.issubdtype(
            x.dtype, jax.dtypes.prng_key
        ):
            data = place(jax.random.key_data(x))
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(x))
        x = np.asarray(x)
        return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

    return jax.tree.map(place, tree)


def split_batch(batch: Any, mesh: jax.sharding.Mesh, axis: int = 0) -> Any:
    """Splits this process's part of a batch over its devices, along `axis`."""
    sharding = batch_sharding(mesh, axis)
    return jax.tree.map(
        lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), batch
    )


def check_batch_size(batch_size: int, mesh: jax.sharding.Mesh) -> None:
    """Raises ValueError unless the devices of `mesh` divide `batch_size`."""
    whole = isinstance(batch_size, numbers.Integral)
    if not whole or batch_size < 1 or batch_size % mesh.size:
        raise ValueError(
            f"batch size {batch_size!r} cannot be split evenly over {mesh.size} "
            f"devices: use a positive multiple of {mesh.size}"
        )


def free_bytes(mesh: jax.sharding.Mesh) -> int | None:
    """Returns memory that is free on each device of `mesh`; None if it is not known.

    On a CPU that is the machine's; its devices share it.
    """
    device = mesh.local_devices[0]
    if device.platform == "cpu":
        free = host.available_bytes()
        return None if free is None else free // len(mesh.local_devices)
    stats = device.memory_stats() or {}
    if "bytes_limit" not in stats:
        return None
    return stats["bytes_limit"] - stats["bytes_in_use"]


def compile_replicated(
    function: Callable, mesh: jax.sharding.Mesh, *, donate_argnums: Sequence[int] = ()
) -> Callable:
    """Compiles `function` for `mesh`, with every result replicated.

    Arguments keep the placement they come with: place them with `replicate` or
    `split_batch` first, or the first two calls compile twice.
    """
    whole = replicated_sharding(mesh)
    return jax.jit(function, out_shardings=whole, donate_argnums=tuple(donate_argnums))


def compile_split(function: Callable, mesh: jax.sharding.Mesh) -> Callable:
    """Compiles `function` for `mesh`, with axis 0 of every result split over it."""
    return jax.jit(function, out_shardings=batch_sharding(mesh))


def constrain_batch(batch: Any, mesh: jax.sharding.Mesh) -> Any:
    """Inside jit: asks XLA to split axis 0 of every array of `batch` over the mesh."""
    return jax.lax.with_sharding_constraint(batch, batch_sharding(mesh))


@dataclasses.dataclass(frozen=True)
class Alternating:
    """A step that is now of one kind, now of another, all of one signature.

    Attributes:
        kinds: Steps `(state, frozen, batch) -> (state, metrics)`.
        choose: Number of the step, from 0 on, an int or traced -> which kind it is.
    """

    kinds: tuple[Callable, ...]
    choose: Callable[[Any], Any]

    def __call__(self, state, frozen, batch):
        """Takes the step that it is the turn of; `state.step` is its number."""
        kind = self.choose(state.step)
        return jax.lax.switch(kind, self.kinds, state, frozen, batch)


def compile_steps(
    step: Callable, fetch: Callable, mesh: jax.sharding.Mesh
) -> Callable[[Any, Any, Any, Any], tuple[Any, Any]]:
    """Compiles several steps of `step(state, frozen, batch)` into one call.

    On accelerators the steps are one `lax.scan`, so a call costs one dispatch. XLA's
    CPU backend runs convolutions inside a loop at about a third of their speed, so
    there the same single compiled step is called once for every batch.

    Args:
        step: `(state, frozen, batch) -> (state, metrics)`, not jitted. On a CPU each
            kind of `Alternating` is a program of its own: convolutions are as slow in a
            branch as in a loop.
        fetch: `(resident, input) -> batch`, runs inside jit.
        mesh: Where to run.

    Returns:
        `advance(state, frozen, resident, inputs) -> (state, metrics)`. The leaves of
        `inputs` have a leading axis over steps, and so have those of `metrics`. The
        state is donated: do not use it after the call.
    """

    def fetching(step):
        return lambda state, frozen, resident, inputs: step(
            state, frozen, fetch(resident, inputs)
        )

    one = fetching(step)
    if mesh.devices.flat[0].platform == "cpu":
        alternating = isinstance(step, Alternating)
        compiled = [
            compile_replicated(fetching(kind), mesh, donate_argnums=(0,))
            for kind in (step.kinds if alternating else (step,))
        ]

        def advance(state, frozen, resident, inputs):
            metrics = []
            start = int(state.step) if alternating else 0
            for i in range(jax.tree.leaves(inputs)[0].shape[0]):
                kind = step.choose(start + i) if alternating else 0
                # Iterating an array that spans processes would go through the host.
                x = jax.tree.map(operator.itemgetter(i), inputs)
                state, m = compiled[kind](state, frozen, resident, x)
                metrics.append(m)
            return state, {k: jnp.stack([m[k] for m in metrics]) for k in metrics[0]}

        return advance

    def scan(state, frozen, resident, inputs):
        return jax.lax.scan(lambda s, x: one(s, frozen, resident, x), state, inputs)

    return compile_replicated(scan, mesh, donate_argnums=(0,))


def explain_failure(error: Exception) -> str | None:
    """Returns what the machine lacks, a line for the user, if that made `error`.

    That is a device that `JAX_PLATFORMS` asks for, or memory.
    """
    text = str(error).partition("\n")[0]
    asked = os.environ.get("JAX_PLATFORMS", "")
    if text.startswith("Unable to initialize backend") or (
        # What JAX says of `cuda` where only that for CPUs is installed.
        isinstance(error, AssertionError) and not text and asked and _no_device()
    ):
        return (
            f"JAX finds no device, and JAX_PLATFORMS is {asked!r} "
            f"({text or 'unknown here'}): leave it out, or install JAX for it"
        )
    if isinstance(error, MemoryError) or text.startswith("RESOURCE_EXHAUSTED"):
        return (
            f"not enough memory ({text}): choose a smaller batch size or smaller "
            "images, or free the memory that other programs hold"
        )
    return None


def _no_device() -> bool:
    try:
        return not jax.devices()
    except AssertionError:
        return True


def any_process(flag: bool) -> bool:
    """Returns whether `flag` is true in any process; every process must call it."""
    if jax.process_count() == 1:
        return flag
    from jax.experimental import multihost_utils

    return bool(multihost_utils.process_allgather(np.asarray(flag)).any())
