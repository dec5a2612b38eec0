"""Copies of a data set in which every image has a corruption of its own."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from uronet_jax import sharding
from uronet_jax.corruptions import entry_key
from uronet_jax.data import evaluation_batches
from uronet_jax.data.corrupted import make_corrupter
from uronet_jax.training.grid import row_seed


def corrupt_mixed(
    images: np.ndarray,
    names: Sequence[str],
    severities: Sequence[int],
    *,
    suite: str,
    copies: int,
    seed: int,
    batch_size: int,
    mesh: jax.sharding.Mesh,
    on_batch: Callable[[], Any] = lambda: None,
) -> np.ndarray:
    """Draws a corruption and a severity for each image, and applies them.

    Args:
        images: uint8 `[N, H, W, C]`.
        names: Corruptions of the suite, equally likely.
        severities: Equally likely.
        suite: Of the corruptions.
        copies: How many times this is done, with other draws.
        seed: Of all draws.
        batch_size: Images of a compiled call.
        mesh: Where to run.
        on_batch: Called before every batch; may raise.

    Returns:
        uint8 `[copies, N, H, W, C]`, truncated to 8 bits like a file.
    """
    result = np.empty((copies, *images.shape), np.uint8)
    rng = np.random.default_rng(row_seed(seed, suite, "mixed"))
    shape = copies, len(images)
    name_of = rng.integers(len(names), size=shape)
    severity_of = rng.integers(len(severities), size=shape)
    for i, name in enumerate(names):
        full = f"{suite}/{name}"
        run = make_corrupter(full, (), mesh)
        for j, severity in enumerate(severities):
            chosen = np.argwhere((name_of == i) & (severity_of == j))
            if not len(chosen):
                continue
            key, level = sharding.replicate(
                (entry_key(seed, f"mixed/{full}", severity), np.int32(severity)), mesh
            )
            some = images[chosen[:, 1]], np.zeros(len(chosen), np.int32)
            found = []
            for batch in evaluation_batches(some, batch_size=batch_size, mesh=mesh):
                on_batch()
                corrupted = np.asarray(run(key, level, batch))
                found.append(corrupted[np.asarray(batch["mask"])])
            result[tuple(chosen.T)] = np.concatenate(found)
    return result
