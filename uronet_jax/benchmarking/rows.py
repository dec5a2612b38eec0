"""Rows on training steps, pipelines and evaluation: `row(run) -> BenchmarkRow`.

Times are compared within a row, in turns.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from uronet_jax import sharding
from uronet_jax.benchmarking import base, flops, steps, timing
from uronet_jax.benchmarking.base import (
    OURS,
    BenchmarkRow,
    BenchmarkRun,
    BenchmarkSizes,
)
from uronet_jax.benchmarking.linen_remover import LinenPeer
from uronet_jax.benchmarking.memory import all_degradations, generated_source
from uronet_jax.corruptions import degrade, suite_degradations
from uronet_jax.data import AUGMENTATIONS, make_pipeline
from uronet_jax.defense import DefenseFunction, classifier_function
from uronet_jax.evaluation.judge import CLEAN_ENTRY, Judge
from uronet_jax.training.pairs import drawn_pairs
from uronet_jax.training.remover import remover_task

MAX_DATA_RATIO = 1.03
# Of the plain step: two thirds for the generator's gradient, and what makes noise.
MAX_NOISE_RATIO = 2.3
# Of the step of adversarial noise training.
MAX_RESCALING_SHARE = 0.05


def ceilings_row(run: BenchmarkRun) -> BenchmarkRow:
    """What the device reaches on one large matrix product and one large copy."""
    side, count = (256, 2) if run.tiny or not base.on_gpu() else (8192, 10)
    # Random numbers: on zeros a card draws less power and is faster.
    keys = jax.random.split(jax.random.key(0))
    a, b = (jax.random.normal(key, (side, side), jnp.bfloat16) for key in keys)
    b = (b / side**0.5).astype(jnp.bfloat16)  # Products stay as large as they are.
    large = jnp.tile(a, (8, 1))

    def repeat(step, x):
        def repeated(x):
            # Each step takes what the last one made, or all but one would be left out.
            return jax.lax.fori_loop(0, count, lambda _, x: step(x), x)

        # Donated, or it would be copied first.
        compiled = jax.jit(repeated, donate_argnums=0)

        def once():
            nonlocal x
            x = jax.block_until_ready(compiled(x))

        return once

    size = large.nbytes
    seconds = timing.interleave(
        {
            "products": repeat(lambda x: x @ b, a + 0),
            "copies": repeat(lambda x: -x, large),
        },
        repeats=run.sizes.repeats,
    )
    best = {name: min(times) / count for name, times in seconds.items()}
    values = {
        "bfloat16 product, TFLOP/s": 2 * side**3 / best["products"] / 1e12,
        "copy, GB/s read and written": 2 * size / best["copies"] / 1e9,
    }
    return base.new_row(
        f"{count} products of {side}x{side} bfloat16 matrices, and as often {size:,} "
        "bytes read and written; the fastest round",
        seconds,
        values=values if base.on_gpu() else {},
    )


def training_row(run: BenchmarkRun, name: str) -> BenchmarkRow:
    """One training step of `steps.WORKS[name]`, against naive linen and the peer."""
    sizes, work = run.sizes, steps.WORKS[name](run.sizes)
    count = sizes.steps_per_sample
    peers = [LinenPeer()] if name == "remover" and sizes.linen_repeats else []
    peers += [] if run.peer is None else [run.peer]
    agreement = {peer.name: steps.peer_agreement(work, peer) for peer in peers}
    ours = steps.run_over(work.step, work.state, work.frozen, work.batches, count)
    seconds = timing.interleave(
        {OURS: ours, **{peer.name: peer.steps(work, count) for peer in peers}},
        repeats=sizes.repeats,
        limits={LinenPeer.name: sizes.linen_repeats},
    )
    return base.new_row(
        work.text,
        seconds,
        [base.comparison(seconds, OURS, p, agreement=x) for p, x in agreement.items()],
        values=throughput(sizes, seconds[OURS], work.flops),
    )


def noise_row(run: BenchmarkRun, side: int) -> BenchmarkRow:
    """A step of adversarial noise training, against a plain one and the peer.

    The clipping-aware rescaling is timed alone too, as a share of the step.
    """
    sizes, work = run.sizes, steps.WORKS[f"adversarial_noise_{side}"](run.sizes)
    count, peer = sizes.steps_per_sample, run.peer
    peers = {}
    if peer is not None:
        peers[peer.name] = functools.partial(steps.peer_agreement, work, peer)
    # Foolbox may be absent where PyTorch is not.
    agreement, notes = base.installed(peers)
    ours = steps.run_over(work.step, work.state, work.frozen, work.batches, count)
    contestants = {
        OURS: ours,
        "plain step": steps.plain_runner(work, count),
        "rescaling": steps.rescaling_runner(work, count),
    }
    contestants |= {name: peer.steps(work, count) for name in agreement}
    seconds = timing.interleave(contestants, repeats=sizes.repeats)
    return base.new_row(
        work.text,
        seconds,
        [
            base.comparison(seconds, OURS, "plain step", MAX_NOISE_RATIO),
            base.comparison(seconds, "rescaling", OURS, MAX_RESCALING_SHARE),
            *(
                base.comparison(seconds, OURS, p, agreement=x)
                for p, x in agreement.items()
            ),
        ],
        values=throughput(sizes, seconds[OURS], work.flops),
        notes=[
            "plain step: the same classifier's, on clean images",
            "rescaling: clipping-aware, once on the whole batch with its gradient and "
            "once on half",
            *notes,
        ],
    )


def throughput(
    sizes: BenchmarkSizes, seconds: Sequence[float], flops_per_image: int
) -> dict[str, float]:
    """Returns ms/step, images/s, TFLOP/s and MFU of training, on a GPU only."""
    if not base.on_gpu():
        return {}
    step = float(np.median(seconds)) / sizes.steps_per_sample
    rate = sizes.batch_size / step
    teraflops = rate * flops_per_image / 1e12
    values = {"ms/step": 1e3 * step, "images/s": rate, "TFLOP/s": teraflops}
    peak = flops.PEAK_BFLOAT16.get(jax.devices()[0].device_kind)
    if peak is not None and sizes.dtype == "bfloat16":
        values["MFU"] = rate * flops_per_image / peak
    return values


def data_row(run: BenchmarkRun) -> BenchmarkRow:
    """The remover's whole step, fed by each pipeline, against one constant batch."""
    sizes, mesh = run.sizes, steps.first_device()
    count, batch_size = sizes.steps_per_sample, sizes.batch_size
    work = steps.remover_work(sizes)
    pairs = drawn_pairs(all_degradations(), AUGMENTATIONS["flip_crop"])
    shape = sizes.image_shape
    step = remover_task(work.module, steps.ADAM, pairs, image_shape=shape).step
    source = generated_source(sizes.train_images, sizes.image_shape)
    images, labels = source.read(np.arange(batch_size))
    index = np.arange(batch_size, dtype=np.int32)
    constant = {"image": images, "label": labels, "index": index}
    constant = sharding.split_batch(constant, mesh)
    nothing = sharding.replicate(np.zeros(count, np.int32), mesh)
    runner = functools.partial(
        steps.make_runner, step=step, state=work.state, frozen=pairs.frozen
    )
    feeds = {
        kind: make_pipeline(source, kind=kind, batch_size=batch_size, seed=0, mesh=mesh)
        for kind in ("on_device", "streamed")
    }
    contestants = {
        "constant batch": runner(lambda batch, _: batch, constant, lambda _: nothing)
    }
    for kind, feed in feeds.items():
        inputs = functools.partial(
            lambda feed, call: feed.inputs(call * count, count), feed
        )
        contestants[kind] = runner(feed.fetch, feed.resident, inputs)
    seconds = timing.interleave(contestants, repeats=sizes.repeats)
    for feed in feeds.values():
        feed.close()
    limits = {"on_device": MAX_DATA_RATIO}
    return base.new_row(
        "training step of the remover with augmentation and degradation (batch "
        f"{batch_size}), fed from {sizes.train_images:,} uint8 images in "
        "memory, against the same step on one constant device batch",
        seconds,
        [base.comparison(seconds, k, "constant batch", limits.get(k)) for k in feeds],
        notes=["the streamed pipeline reads ahead while the others have their turn"],
    )


def evaluation_row(run: BenchmarkRun) -> BenchmarkRow:
    """Compilations, and speed, of judging clean images and every degradation."""
    sizes, mesh = run.sizes, steps.first_device()
    classifier, detector = steps.classifier_work(sizes), steps.detector_work(sizes)
    source = generated_source(sizes.eval_images, sizes.image_shape)
    judge = Judge(source, batch_size=sizes.batch_size, mesh=mesh)
    defense = DefenseFunction(
        classifier_function(classifier.module), detector.remover, detector.module
    )
    variables = {
        "purifier": detector.frozen,
        "classifier": classifier.state.variables,
        "detector": detector.state.variables,
    }
    measure = functools.partial(
        judge.measure, defense, sharding.replicate(variables, mesh)
    )
    entries = [CLEAN_ENTRY, *suite_degradations("uronet")]
    compiled: list[str] = []

    def listen(event: str, *_: Any, **__: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        measure(entries[0])
        # Besides the judge, this compiled the small programs that place its numbers.
        compiled.clear()
        for entry in entries[1:]:
            measure(entry)
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    seconds = timing.interleave(
        {"judge": lambda: measure(entries[-1])}, repeats=sizes.repeats
    )
    values = {"compilations of the judge": 1 + len(compiled)}
    if base.on_gpu():
        values["images/s"] = sizes.eval_images / float(np.median(seconds["judge"]))
    return base.new_row(
        f"clean images and {len(entries) - 1} degradations through classifier, remover "
        f"and detector ({sizes.eval_images:,} images each)",
        seconds,
        values=values,
        at_most={"compilations of the judge": 1},
    )


def degradation_row(run: BenchmarkRun) -> BenchmarkRow:
    """Degrading a batch with all noises mixed, against the remover's step."""
    sizes, work = run.sizes, steps.remover_work(run.sizes)

    def degrade_step(state, frozen, batch):
        degraded = degrade(jax.random.fold_in(state.key, state.step), batch, frozen)
        return state.replace(step=state.step + 1), {"sum": degraded.sum()}

    state, clean = work.state.replace(params={}, opt_state=()), work.batches["clean"]
    runs = {
        "mixed degradation": (degrade_step, state, all_degradations(), clean),
        "remover step": (work.step, work.state, {}, work.batches),
    }
    seconds = timing.interleave(
        {k: steps.run_over(*run, sizes.steps_per_sample) for k, run in runs.items()},
        repeats=sizes.repeats,
    )
    return base.new_row(
        f"degrading a batch of {sizes.batch_size} images, each with one of the 18 "
        "entries of the suite, against one training step of the remover",
        seconds,
        [base.comparison(seconds, "mixed degradation", "remover step")],
    )
