"""The input transformations against the packages that people use for them.

Ours take a batch, most peers one image at a time. Both go from float images on the host
to float images on the host, with the usual parameters.
"""

import functools
import time
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from uronet_jax.benchmarking import base, timing
from uronet_jax.benchmarking.attacks import with_version
from uronet_jax.benchmarking.base import OURS, BenchmarkRow, BenchmarkRun
from uronet_jax.benchmarking.corruptions import photographs
from uronet_jax.benchmarking.transformation_peers import PEERS, PeerFunction
from uronet_jax.purifiers import make_transformation
from uronet_jax.transformations import TRANSFORMATIONS
from uronet_jax.transformations.quilting import extract_patches

# Of the time of the peer.
MAX_TIME_RATIO = 1.0
# Mean difference of what two make, as a share of the mean change; ties are rounded by
# chance.
MAX_DIFFERENCE = 0.01

_SIDE, _BATCH, _PATCHES = 32, 64, 10_000
# Of a sample: one call of the fast ones takes less than a millisecond.
_LEAST_SECONDS = 0.1


def transformation_peers(
    patches: np.ndarray,
) -> tuple[dict[str, PeerFunction], list[str]]:
    """Returns transformation -> peer, and a note on each package that is absent."""
    peers, notes = {}, {}
    for name, peer in PEERS.items():
        found, absent = base.installed(
            {peer.package: functools.partial(peer.make, patches)}
        )
        if found:
            peers[name] = found[peer.package]
        notes |= dict.fromkeys(absent)
    return peers, list(notes)


def transformations_row(
    run: BenchmarkRun,
    make_peers: Callable[[np.ndarray], tuple[Mapping[str, PeerFunction], list[str]]] = (
        transformation_peers
    ),
) -> BenchmarkRow:
    """Times every transformation, per image, in turns with its peer."""
    batch_size = 4 if run.tiny else 1024 if base.on_gpu() else _BATCH
    images = photographs(batch_size, _SIDE).astype(np.float32) / 255
    patches = extract_patches(photographs(200, _SIDE), 50 if run.tiny else _PATCHES)
    peers, notes = make_peers(patches)
    seconds, comparisons, values = {}, [], {}
    for name in TRANSFORMATIONS:
        ours = {OURS: _host_to_host(name, images, patches)}
        taken = {OURS: batch_size}
        if name in peers:
            peer = with_version(PEERS[name].package)
            taken[peer] = 1 if run.tiny else PEERS[name].images
            ours[peer] = functools.partial(peers[name], images[: taken[peer]])
        calls = {who: 1 if run.tiny else _count_calls(x) for who, x in ours.items()}
        measured = timing.interleave(
            {who: functools.partial(_call, x, calls[who]) for who, x in ours.items()},
            repeats=run.sizes.repeats,
        )
        measured = {
            who: [t / (calls[who] * taken[who]) for t in times]
            for who, times in measured.items()
        }
        seconds[name] = timing.summarise(measured)
        values[f"{name}, images/s"] = 1 / seconds[name][OURS]["median"]
        if name not in peers:
            continue
        agreement = {}
        if PEERS[name].same:
            agreement["agreement"] = difference(
                name, images, ours[OURS](), ours[peer]()
            )
        comparisons.append(
            base.comparison(
                measured, OURS, peer, MAX_TIME_RATIO, subject=name, **agreement
            )
        )
    row = base.new_row(
        f"one {_SIDE}x{_SIDE} image through each transformation, float32 on the host "
        f"to float32 on the host; ours in batches of {batch_size}; agreement is the "
        "mean difference as a share of what the transformation changes",
        comparisons=comparisons,
        values=values if base.on_gpu() else {},
        notes=[
            f"quilting has {len(patches):,} patches",
            *(f"{name}: {PEERS[name].note}" for name in peers if PEERS[name].note),
            *notes,
        ],
    )
    return row | {"seconds": seconds}


def _call(work, count):
    for _ in range(count):
        work()


def _count_calls(work):
    """Returns how many calls are timed as one."""
    work()  # Compiles.
    start = time.perf_counter()
    work()
    return max(1, round(_LEAST_SECONDS / (time.perf_counter() - start)))


def _host_to_host(name, images, patches):
    purifier = make_transformation(name)
    variables = jax.device_put(patches if name == "quilting" else purifier.load())

    @jax.jit
    def purify(variables, images, key, index):
        return purifier(variables, images, key, index).clean

    key = index = None
    if TRANSFORMATIONS[name].random:
        key, index = jax.random.key(0), jnp.arange(len(images))
    return lambda: np.asarray(purify(variables, images, key, index))


def difference(
    name: str, images: np.ndarray, ours: np.ndarray, theirs: np.ndarray
) -> float:
    """Returns how far apart two results are; ValueError if too far."""
    images, ours = images[: len(theirs)], ours[: len(theirs)]
    found = float(np.abs(ours - theirs).mean() / np.abs(ours - images).mean())
    if not found <= MAX_DIFFERENCE:
        raise ValueError(
            f"the peer of {name} makes other images: they differ by {found:.2g} of "
            "what the transformation changes"
        )
    return found
