"""A defence in a server: one call of `Defense`, against the same in PyTorch."""

import jax
import numpy as np

from uronet_jax.benchmarking import base, steps, timing
from uronet_jax.benchmarking.base import OURS, BenchmarkRow, BenchmarkRun
from uronet_jax.defense import Defense, classifier_function

SERVED_BATCHES = (1, 16, 256)
_TINY_BATCHES = (1, 3)
# Images in calls that are timed as one: one call alone would measure the clock.
_IMAGES_PER_SAMPLE = 64


def serving_row(run: BenchmarkRun) -> BenchmarkRow:
    """Latency of one call at a time, and throughput, at a few batch sizes.

    From uint8 pixels in the host's memory to all fields of `Prediction` there. Both
    sides compute in full float32, or in the dtype of the sizes.
    """
    sizes, peer = run.sizes, run.peer
    batches = _TINY_BATCHES if run.tiny else SERVED_BATCHES
    calls = {x: 1 if run.tiny else max(1, _IMAGES_PER_SAMPLE // x) for x in batches}
    with jax.default_matmul_precision("highest"):
        classifier, detector = steps.classifier_work(sizes), steps.detector_work(sizes)
        parts = {
            "purifier": (detector.remover, detector.frozen),
            "detector": (detector.module, detector.state.variables),
            "classifier": (classifier.module, classifier.state.variables),
        }
        rng = np.random.default_rng(0)
        shape = (max(batches), *sizes.image_shape)
        images = rng.integers(0, 256, shape, np.uint8)
        contestants, agreement = {}, {}
        for batch in batches:
            pixels = images[:batch]
            defend = Defense(
                detector.remover,
                detector.module,
                classifier_function(classifier.module),
                {role: variables for role, (_, variables) in parts.items()},
                image_shape=sizes.image_shape,
                batch_size=batch,
            )
            servers = {OURS: defend}
            if peer is not None:
                servers[peer.name] = theirs = peer.defense(parts)
                found = defend(pixels)._asdict(), theirs(pixels)
                # In bfloat16 each layer rounds otherwise.
                exact = sizes.dtype == "float32"
                agreement[batch] = steps.agree(*found) if exact else None
            for name, server in servers.items():
                repeated = _repeated(server, pixels, calls[batch])
                contestants[f"{name}, batch {batch}"] = repeated
        seconds = timing.interleave(contestants, repeats=sizes.repeats)
    values = {}
    for batch in batches if base.on_gpu() else ():
        call = float(np.median(seconds[f"{OURS}, batch {batch}"])) / calls[batch]
        values[f"batch {batch}: ms"] = 1e3 * call
        values[f"batch {batch}: images/s"] = batch / call
    return base.new_row(
        f"one call after another of the defence, {steps.widths_text(sizes)} remover "
        f"(variant paper), {sizes.detector} detector and {sizes.classifier} "
        f"({sizes.dtype}, no TF32), from uint8 pixels to logits, probability, picture "
        "and noise pattern in memory; the ratio of latencies is that of throughputs "
        "turned round",
        seconds,
        [
            base.comparison(
                seconds,
                f"{OURS}, batch {batch}",
                f"{peer.name}, batch {batch}",
                agreement=difference,
            )
            for batch, difference in agreement.items()
        ],
        values=values,
    )


def _repeated(serve, pixels, calls):
    def run():
        for _ in range(calls):
            serve(pixels)

    return run
