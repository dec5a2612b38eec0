"""Copies of a data set in which every image has a corruption of its own."""

import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from uronet_jax import sharding
from uronet_jax.corruptions import entry_key
from uronet_jax.data.corrupted import make_corrupter
from uronet_jax.data.pipelines import evaluation_batches
from uronet_jax.data.sources import Source, Subset
from uronet_jax.data.stored import StoredArray
from uronet_jax.seeds import named_seed


def store_mixed(
    path: str | os.PathLike,
    source: Source,
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
    """Draws a corruption and a severity for each image, and keeps the result on disk.

    Args:
        path: The `.npy` file; one that was begun is continued.
        source: The clean images.
        names: Corruptions of the suite, equally likely.
        severities: Equally likely.
        suite: Of the corruptions.
        copies: How many times this is done, with other draws.
        seed: Of all draws.
        batch_size: Images of a compiled call.
        mesh: Where to run.
        on_batch: Called before every batch; may raise.

    Returns:
        uint8 `[N, copies, H, W, C]`, memory-mapped, truncated to 8 bits like a file.

    Raises:
        ValueError: If the file was made with other settings.
        OSError: If it cannot be written.
    """
    images = [source.name, source.split, len(source)]
    made_with = {"suite": suite, "names": names, "severities": severities}
    made_with |= {"copies": copies, "seed": seed, "images": images}
    shape = (len(source), copies, *source.image_shape)
    stored = StoredArray(path, shape, np.uint8, made_with)
    rng = np.random.default_rng(named_seed(seed, suite, "mixed"))
    drawn = (copies, len(source))
    name_of = rng.integers(len(names), size=drawn)
    severity_of = rng.integers(len(severities), size=drawn)
    blocks = list(np.ndindex(len(names), len(severities)))
    for i, j in blocks:
        if [i, j] in stored.done:
            continue
        copy, rows = np.nonzero((name_of == i) & (severity_of == j))
        if len(rows):
            full, severity = f"{suite}/{names[i]}", severities[j]
            entry = entry_key(seed, f"mixed/{full}", severity), np.int32(severity)
            key, level = sharding.replicate(entry, mesh)
            run = make_corrupter(full, (), mesh)
            chosen = Subset(source, rows)
            for batch in evaluation_batches(chosen, batch_size=batch_size, mesh=mesh):
                on_batch()
                mask = np.asarray(batch["mask"])
                some = np.asarray(batch["index"])[mask]
                corrupted = np.asarray(run(key, level, batch))[mask]
                stored.array[rows[some], copy[some]] = corrupted
        stored.mark([i, j], finished=(i, j) == blocks[-1])
    return stored.array
