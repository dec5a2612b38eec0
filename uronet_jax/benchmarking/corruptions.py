"""The 19 corruptions against the packages that people use for them.

The peers take one image at a time; ours a batch. Both go from uint8 images on the host
to uint8 images on the host, with ImageNet-C's parameters.
"""

import functools
import importlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from uronet_jax.benchmarking import base, timing
from uronet_jax.benchmarking.base import OURS, BenchmarkRow, BenchmarkRun
from uronet_jax.corruptions import corrupt, entry_key, list_corruptions, list_severities
from uronet_jax.host import num_threads

# `peer(image uint8 [H, W, C], corruption, severity) -> image`.
CorruptionPeer = Callable[[np.ndarray, str, int], Any]

# Distribution -> module.
PACKAGES = {"imagecorruptions-imaug": "imagecorruptions", "corrupt-tta": "corrupt_tta"}

SEVERITY = 3
SUITE = "imagenet_c"
# Total time at most this share of that of the faster peer; by side of the images.
MAX_TOTAL_RATIO = {32: 1 / 15, 224: 1 / 8}
MAX_SET_SECONDS = 10.0


def photographs(count: int, side: int) -> np.ndarray:
    """Returns generated uint8 `[count, side, side, 3]`: smooth, with some grain."""
    rng = np.random.default_rng(0)
    small = rng.uniform(0, 255, (count, 8, 8, 3))
    # Linear interpolation, rows then columns.
    distance = np.abs(np.linspace(0, 7, side)[:, None] - np.arange(8))
    weights = np.maximum(1 - distance, 0)
    images = np.einsum("ai,nijc->najc", weights, small)
    images = np.einsum("bj,najc->nabc", weights, images)
    return np.uint8(np.clip(images + rng.normal(0, 4, images.shape), 0, 255))


@functools.partial(jax.jit, static_argnames="name")
def _corrupt(key, images, severity, *, name):
    images = images.astype(jnp.float32) / 255.0
    return corrupt(key, images, name, severity=severity, uint8=True)


def corrupt_photographs(
    images: Any, name: str, severity: int = SEVERITY, *, suite: str = SUITE
) -> jax.Array:
    """Returns the corrupted uint8 batch, on the device; it may still be computed."""
    name = f"{suite}/{name}"
    key = entry_key(0, name, severity)
    return _corrupt(key, images, jnp.int32(severity), name=name)


def corruption_peers() -> tuple[dict[str, CorruptionPeer], list[str]]:
    """Returns distribution -> function of one image, and a note on each absent one."""

    def make(module):
        corrupt = importlib.import_module(module).corrupt
        return lambda image, name, severity: corrupt(
            image, severity=severity, corruption_name=name
        )

    makers = {name: functools.partial(make, x) for name, x in PACKAGES.items()}
    peers, notes = base.installed(makers)
    if peers:  # Both build on OpenCV.
        import cv2

        cv2.setNumThreads(num_threads())
    return peers, notes


def corruption_names(run: BenchmarkRun) -> list[str]:
    """Returns the corruptions that are measured."""
    return ["fog", "contrast"] if run.tiny else list(list_corruptions(SUITE))


def throughput_row(
    run: BenchmarkRun, side: int, peers: Mapping[str, CorruptionPeer] | None = None
) -> BenchmarkRow:
    """Times every corruption, per image, in turns with the peers that are there."""
    peers, notes = corruption_peers() if peers is None else (peers, [])
    names, repeats = corruption_names(run), run.sizes.repeats
    batch_size, peer_images = (256, 16) if side == 32 else (16, 2)
    if base.on_gpu():
        batch_size = 1024 if side == 32 else 256
    if run.tiny:
        batch_size, peer_images = 4, 1
    images = photographs(batch_size, side)
    taken = {OURS: batch_size, **dict.fromkeys(peers, peer_images)}

    def work(who, name):
        if who == OURS:
            np.asarray(corrupt_photographs(images, name))
        else:
            for image in images[:peer_images]:
                peers[who](image, name, SEVERITY)

    seconds: dict[str, dict[str, list[float]]] = {}
    for name in names:
        measured = timing.interleave(
            {who: functools.partial(work, who, name) for who in taken}, repeats=repeats
        )
        seconds[name] = {
            who: [t / taken[who] for t in times] for who, times in measured.items()
        }
    totals = {
        who: [sum(seconds[name][who][i] for name in names) for i in range(repeats)]
        for who in taken
    }
    total = "all 19" if len(names) == 19 else "all of these"
    compared = [(seconds[name], name, 1.0) for name in names]
    compared.append((totals, total, MAX_TOTAL_RATIO.get(side)))
    summary = {name: timing.summarise(seconds[name]) for name in names}
    rates = {f"{name}, images/s": 1 / summary[name][OURS]["median"] for name in names}
    row = base.new_row(
        f"one {side}x{side} image through each corruption of {SUITE} at severity "
        f"{SEVERITY}, uint8 on the host to uint8 on the host; ours in batches of "
        f"{batch_size}, a peer one by one as its interface asks",
        comparisons=[
            base.comparison(times, OURS, peer, at_most, subject=subject)
            for times, subject, at_most in compared
            for peer in peers
        ],
        values=rates if base.on_gpu() else {},
        notes=[
            "frost: ours cuts from generated textures in memory, the peers read a "
            "photograph from disk at every call",
            "elastic_transform: the peers have no affine part",
            *notes,
        ],
    )
    return row | {"seconds": summary}


def corrupted_set_row(
    run: BenchmarkRun, *, suite: str = "cifar_c", names: Sequence[str] | None = None
) -> BenchmarkRow:
    """Makes a whole CIFAR-10-C: every corruption at every severity, to the host."""
    num_images = 4 if run.tiny else 10_000 if base.on_gpu() else 256
    images = jax.device_put(photographs(num_images, 32))
    names = list_corruptions(suite) if names is None else names
    severities = list_severities(suite)
    for name in names:  # Compiles.
        jax.block_until_ready(corrupt_photographs(images, name, 1, suite=suite))
    start = time.perf_counter()
    for name in names:
        parts = []
        for severity in severities:
            parts.append(corrupt_photographs(images, name, severity, suite=suite))
            parts[-1].copy_to_host_async()
        parts = [np.asarray(part) for part in parts]
    seconds = time.perf_counter() - start
    return base.new_row(
        f"{len(names)} corruptions x {len(severities)} severities of {num_images:,} "
        "32x32 images as uint8 on the host, without compiling",
        values={"seconds": seconds} if base.on_gpu() else {},
        at_most={"seconds": MAX_SET_SECONDS} if num_images == 10_000 else {},
    )
