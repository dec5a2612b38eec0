"""Networks on images of 224x224 against the same in PyTorch: `row(run)`.

The peers of classifiers are networks of PyTorch's libraries, with our weights.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

from uronet_jax.benchmarking import base, flops, rows, steps, timing
from uronet_jax.benchmarking.base import (
    OURS,
    BenchmarkRow,
    BenchmarkRun,
    BenchmarkSizes,
)

SIDE, NUM_CLASSES = 224, 1000
# Images in a batch on a CPU, if those of the sizes are more.
CPU_BATCH = 16
# For tests.
_TINY_SIDE, _TINY_CLASSES = 32, 2
_TINY_NETWORKS = {"resnet50": "resnet18"}


class LargeImages(NamedTuple):
    """A network that is timed.

    Attributes:
        classifier: Its name, `None` for the remover of the sizes.
        at_most: The limit of its times as ratios to PyTorch's.
    """

    classifier: str | None
    at_most: float


NETWORKS: Mapping[str, LargeImages] = {
    "resnet50_224": LargeImages("resnet50", 1.2),
    "remover_224": LargeImages(None, 1.2),
    "efficientnet_lite0_224": LargeImages("efficientnet_lite0", 1.5),
}


def large_sizes(run: BenchmarkRun, network: LargeImages) -> BenchmarkSizes:
    """Returns the sizes of a run for a network."""
    given, side = run.sizes, _TINY_SIDE if run.tiny else SIDE
    few = given.batch_size if base.on_gpu() else min(given.batch_size, CPU_BATCH)
    classifier = network.classifier or given.classifier
    if run.tiny:
        classifier = _TINY_NETWORKS.get(classifier, classifier)
    changes: dict[str, Any] = {"image_shape": (side, side, 3), "batch_size": few}
    return dataclasses.replace(given, classifier=classifier, **changes)


def large_images_row(run: BenchmarkRun, name: str) -> BenchmarkRow:
    """A training step, and of a classifier also a forward pass, against the peer's."""
    network, peer = NETWORKS[name], run.peer
    sizes = large_sizes(run, network)
    if network.classifier is None:
        work = steps.remover_work(sizes)
    else:
        classes = _TINY_CLASSES if run.tiny else NUM_CLASSES
        work = steps.classifier_work(sizes, classes)
    # One is enough to tell networks apart, and a remover compares in float64.
    work = work._replace(examples=jax.tree.map(lambda x: x[:1], work.examples))
    agreements, notes = {}, []
    if peer is not None:

        def agree():
            return steps.peer_agreement(work, peer)

        agreements, notes = base.installed({f"the peer of {name}": agree})
    count = sizes.steps_per_sample
    run_steps = steps.run_over(work.step, work.state, work.frozen, work.batches, count)
    contestants = {f"{OURS}, step": run_steps}
    if agreements:
        contestants[f"{peer.name}, step"] = peer.steps(work, count)
    if network.classifier is not None:
        contestants[f"{OURS}, forward"] = steps.forward_runner(work, count)
        if agreements:
            contestants[f"{peer.name}, forward"] = peer.forward(work, count)
            notes.append(f"the peer's network: {peer.library(work.module)}")
    seconds = timing.interleave(contestants, repeats=sizes.repeats)
    parts = [who.removeprefix(f"{OURS}, ") for who in seconds if who.startswith(OURS)]
    values = {}
    for part in parts:
        factor = 1 if part == "step" else flops.TRAINING_FACTOR
        found = rows.throughput(sizes, seconds[f"{OURS}, {part}"], work.flops // factor)
        values |= {f"{part}: {key}": value for key, value in found.items()}
    height, width, _ = sizes.image_shape
    return base.new_row(
        f"on images of {height}x{width}, {work.text}"
        + ("; forward: logits of a batch in evaluation mode" if parts[1:] else ""),
        seconds,
        [
            base.comparison(
                *(seconds, f"{OURS}, {part}", f"{peer.name}, {part}", network.at_most),
                agreement=agreement,
            )
            for agreement in agreements.values()
            for part in parts
        ],
        values=values,
        notes=notes,
    )
