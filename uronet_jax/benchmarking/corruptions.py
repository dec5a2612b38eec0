"""The 19 corruptions against the packages that people use for them.

The peers take one image at a time; ours a batch. Both go from uint8 images on the host
to uint8 images on the host, with ImageNet-C's parameters.
"""

import functools
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from uronet_jax.benchmarking import memory, timing
from uronet_jax.benchmarking.row import Row, limit, new_row
from uronet_jax.corruptions import corrupt, entry_key, list_corruptions, list_severities

# `peer(image uint8 [H, W, C], corruption, severity) -> image`.
CorruptionPeer = Callable[[np.ndarray, str, int], Any]

SEVERITY = 3
SUITE = "imagenet_c"
ALL = "all 19"
# Total time at most this share of that of the faster peer; by side of the images.
MAX_TOTAL_RATIO = {32: 1 / 15, 224: 1 / 8}
MAX_HOST_GB = 4.0
MAX_SET_SECONDS = 10.0


def photographs(count: int, side: int) -> np.ndarray:
    """Returns generated uint8 `[count, side, side, 3]`: smooth, with some grain."""
    rng = np.random.default_rng(0)
    small = rng.uniform(0, 255, (count, 8, 8, 3))
    position = np.linspace(0, 7, side)
    low = np.minimum(position.astype(int), 6)
    fraction = position - low
    rows = (1 - fraction)[:, None, None] * small[:, low] + fraction[
        :, None, None
    ] * small[:, low + 1]
    images = (1 - fraction)[:, None] * rows[:, :, low] + fraction[:, None] * rows[
        :, :, low + 1
    ]
    return np.uint8(np.clip(images + rng.normal(0, 4, images.shape), 0, 255))


@functools.partial(jax.jit, static_argnames=("suite", "name"))
def _corrupt(key, images, severity, *, suite, name):
    images = images.astype(jnp.float32) / 255.0
    return corrupt(key, images, f"{suite}/{name}", severity=severity, uint8=True)


def run_ours(images: np.ndarray, name: str, severity: int = SEVERITY) -> np.ndarray:
    """Returns the corrupted batch on the host."""
    key = entry_key(0, f"{SUITE}/{name}", severity)
    corrupted = _corrupt(key, images, jnp.int32(severity), suite=SUITE, name=name)
    return np.asarray(corrupted)


def throughput_row(
    peers: Mapping[str, CorruptionPeer],
    *,
    side: int,
    batch_size: int,
    peer_images: int,
    repeats: int,
    names: Sequence[str] | None = None,
) -> Row:
    """Times every corruption at severity 3, per image, in turns with the peers.

    Args:
        peers: Name -> function of one image.
        side: Height and width.
        batch_size: Images that we take at once.
        peer_images: Images that each peer takes in a round.
        repeats: Rounds.
        names: Corruptions. Default: all of ImageNet-C.
    """
    names = list_corruptions(SUITE) if names is None else names
    images = photographs(batch_size, side)
    seconds: dict[str, dict[str, list[float]]] = {}
    for name in names:
        contestants = {"uronet_jax": functools.partial(run_ours, images, name)}
        for peer, function in peers.items():
            contestants[peer] = functools.partial(
                _run_peer, function, images[:peer_images], name
            )
        measured = timing.interleave(contestants, repeats=repeats)
        seconds[name] = {
            who: [
                t / (batch_size if who == "uronet_jax" else peer_images) for t in times
            ]
            for who, times in measured.items()
        }
    comparisons = []
    for name in names:
        for peer in peers:
            comparison = timing.compare(seconds[name], "uronet_jax", peer)
            comparison["subject"] = name
            comparisons.append(comparison | limit(comparison["ratio"], 1.0))
    totals = {
        who: [sum(seconds[name][who][i] for name in names) for i in range(repeats)]
        for who in ("uronet_jax", *peers)
    }
    for peer in peers:
        comparison = timing.compare(totals, "uronet_jax", peer)
        comparison["subject"] = ALL if len(names) == 19 else "all of these"
        bound = MAX_TOTAL_RATIO.get(side)
        if bound is not None:
            comparison |= limit(comparison["ratio"], bound)
        comparisons.append(comparison)
    row = new_row(
        f"one {side}x{side} image through each corruption of {SUITE} at severity "
        f"{SEVERITY}, uint8 on the host to uint8 on the host; ours in batches of "
        f"{batch_size}, a peer one by one as its interface asks",
        notes=[
            "frost: ours cuts from generated textures in memory, the peers read a "
            "photograph from disk at every call",
            "elastic_transform: the peers have no affine part",
        ],
    )
    row["comparisons"] = comparisons
    row["seconds"] = {name: timing.summarise(seconds[name]) for name in names}
    if jax.devices()[0].platform == "gpu":
        row["values"] = {
            f"{name}, images/s": 1 / row["seconds"][name]["uronet_jax"]["median"]
            for name in names
        }
    return row


def _run_peer(function, images, name):
    for image in images:
        function(image, name, SEVERITY)


def corrupted_set_row(
    num_images: int, *, suite: str = "cifar_c", names: Sequence[str] | None = None
) -> Row:
    """Makes a whole CIFAR-10-C: every corruption at every severity, to the host."""
    side = 32
    images = photographs(num_images, side)
    names = list_corruptions(suite) if names is None else names
    severities = list_severities(suite)
    device_images = jax.device_put(images)
    for name in names:  # Compiles.
        key = entry_key(0, f"{suite}/{name}", 1)
        jax.block_until_ready(
            _corrupt(key, device_images, jnp.int32(1), suite=suite, name=name)
        )
    start = time.perf_counter()
    for name in names:
        parts = []
        for severity in severities:
            key = entry_key(0, f"{suite}/{name}", severity)
            parts.append(
                _corrupt(
                    key, device_images, jnp.int32(severity), suite=suite, name=name
                )
            )
            parts[-1].copy_to_host_async()
        parts = [np.asarray(part) for part in parts]
    seconds = time.perf_counter() - start
    row = new_row(
        f"{len(names)} corruptions x {len(severities)} severities of {num_images:,} "
        f"{side}x{side} images as uint8 on the host, without compiling"
    )
    if jax.devices()[0].platform == "gpu":
        row["values"] = {"seconds": seconds}
        if num_images == 10_000:
            row["limits"]["seconds"] = limit(seconds, MAX_SET_SECONDS)
    return row


def memory_row(
    *, batch_size: int, side: int, names: Sequence[str] | None = None
) -> Row:
    """Peak memory of one process that runs every corruption in turn."""
    names = list(list_corruptions(SUITE) if names is None else names)
    row = new_row(
        f"all of {len(names)} corruptions of {SUITE} at severity 5 on {batch_size} "
        f"images of {side}x{side}x3, one after the other in one process: no single one "
        "needs more"
    )
    arguments = {"batch_size": batch_size, "side": side, "names": names}
    row["values"] = memory.run("uronet_jax.benchmarking.corruptions", arguments)
    if jax.devices()[0].platform == "cpu":
        row["limits"]["peak host GB"] = limit(
            row["values"]["peak host GB"], MAX_HOST_GB
        )
    return row


def _measure_memory(batch_size: int, side: int, names: Sequence[str]) -> dict[str, Any]:
    images = photographs(batch_size, side)
    for name in names:
        run_ours(images, name, severity=5)
    return memory.peaks()


if __name__ == "__main__":
    print(json.dumps(_measure_memory(**json.loads(sys.argv[1]))))
