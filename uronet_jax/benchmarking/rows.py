"""What is measured: one function per row, `row(settings, peer) -> Row`.

Times are compared within a row, in turns. A row is JSON: `work` (what was done),
`comparisons` (see `timing.compare`; `agreement` says how far the two compute the
same), `values`, `limits` that this package sets itself, `seconds` and `notes`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import optax
from flax import linen as nn

from uronet_jax import sharding
from uronet_jax.benchmarking import flops, memory, steps, timing
from uronet_jax.benchmarking.linen_remover import LinenRemover, linen_params
from uronet_jax.benchmarking.memory import generated_source
from uronet_jax.benchmarking.row import Row, limit, new_row
from uronet_jax.benchmarking.steps import Peer, Settings
from uronet_jax.corruptions import (
    Degradation,
    degrade,
    make_degradation,
    suite_degradations,
)
from uronet_jax.data import AUGMENTATIONS, evaluation_batches, make_pipeline
from uronet_jax.defense import classifier_function, detector_channels
from uronet_jax.evaluation import protocols
from uronet_jax.models import Remover, compute_dtype, make_classifier, make_remover
from uronet_jax.training.classifier import make_classifier_step
from uronet_jax.training.pairs import drawn_pairs
from uronet_jax.training.remover import make_remover_step
from uronet_jax.training.state import TrainState, create_state

OURS, LINEN = "uronet_jax", "naive linen"
MAX_DATA_RATIO = 1.03
MAX_HOST_GB = 4.0

_ADAM = optax.adam(1e-3)
_SGD = optax.chain(
    optax.add_decayed_weights(5e-4), optax.sgd(0.1, momentum=0.9, nesterov=True)
)


def remover_row(settings: Settings, peer: Peer | None) -> Row:
    """One training step of the remover, against naive linen and the peer."""
    remover, count = _remover(settings), settings.steps_per_sample
    batches = steps.separation_batches(settings)
    few = {name: x[0, :8] for name, x in batches.items()}
    state = _state(remover, settings.image_shape)
    step = steps.separation_step(remover, _ADAM)
    contestants = {OURS: steps.run_over(step, state, {}, batches, count)}
    loss, gradients = steps.separation_gradients(remover, state.params, few)
    agreement = {}
    if settings.linen_repeats:
        linen = LinenRemover(settings.widths, compute_dtype(settings.dtype))
        params = linen_params(state.params)
        agreement[LINEN] = steps.agree(
            (loss, linen_params(gradients)),
            steps.separation_gradients(linen, params, few),
        )
        contestants[LINEN] = steps.run_over(
            steps.separation_step(linen, _ADAM),
            state.replace(params=params, opt_state=_ADAM.init(params)),
            {},
            batches,
            count,
        )
    if peer is not None:
        agreement[peer.name] = steps.agree(
            (loss, gradients), peer.remover_gradients(remover, state.variables, few)
        )
        contestants[peer.name] = peer.remover_steps(
            remover, state.variables, batches, count
        )
    return _training_row(
        f"one training step of the {_widths(settings)} remover ({settings.dtype}, "
        f"batch {settings.batch_size}): forward, two mean squared errors, backward, "
        "Adam; loss and gradients agree in float32 as stated",
        settings,
        contestants,
        agreement,
        flops.TRAINING_FACTOR * flops.forward_flops(remover, settings.image_shape),
    )


def classifier_row(settings: Settings, peer: Peer | None) -> Row:
    """One training step of the classifier, against the peer."""
    classifier, count = _classifier(settings), settings.steps_per_sample
    batches = steps.labelled_batches(settings)
    state = _state(classifier, settings.image_shape, _SGD)
    step = make_classifier_step(classifier, _SGD, AUGMENTATIONS["none"])
    contestants = {OURS: steps.run_over(step, state, {}, batches, count)}
    agreement = {}
    if peer is not None:
        images = np.float32(batches["image"][0, :8]) / 255.0
        agreement[peer.name] = steps.logit_agreement(classifier, state, images, peer)
        contestants[peer.name] = peer.classifier_steps(
            classifier, state.variables, batches, count
        )
    return _training_row(
        f"one training step of {settings.classifier} ({settings.dtype}, batch "
        f"{settings.batch_size}): forward, cross-entropy, backward, SGD with Nesterov "
        "momentum; logits in evaluation mode agree in float32 as stated",
        settings,
        contestants,
        agreement,
        flops.TRAINING_FACTOR * flops.forward_flops(classifier, settings.image_shape),
    )


def detector_row(settings: Settings, peer: Peer | None) -> Row:
    """One training step of the detector behind the frozen remover, on pairs."""
    remover, count = _remover(settings), settings.steps_per_sample
    detector, shape = _detector(settings)
    batches = steps.pair_batches(settings)
    state = _state(detector, shape)
    frozen = _state(remover, settings.image_shape).variables
    step = steps.pair_step(detector, remover, _ADAM)
    contestants = {OURS: steps.run_over(step, state, frozen, batches, count)}
    agreement = {}
    if peer is not None:
        images = np.concatenate([batches["image"][0, :8]] * 2, axis=-1)
        agreement[peer.name] = steps.logit_agreement(detector, state, images, peer)
        contestants[peer.name] = peer.detector_steps(
            detector, state.variables, remover, frozen, batches, count
        )
    # Nobody looks at the clean picture, so one decoder runs.
    per_image = flops.forward_flops(
        remover.clone(noise_head=False), settings.image_shape
    ) + flops.TRAINING_FACTOR * flops.forward_flops(detector, shape)
    return _training_row(
        f"one training step of the {settings.detector} detector ({settings.dtype}) on "
        f"{settings.batch_size // 2} pairs behind the frozen {_widths(settings)} "
        "remover: both forward, cross-entropy, backward, Adam; the detector's logits "
        "agree in float32 as stated",
        settings,
        contestants,
        agreement,
        per_image,
    )


def data_row(settings: Settings, peer: Peer | None) -> Row:
    """The remover's whole step, fed by each pipeline, against one constant batch."""
    del peer
    mesh, count = steps.one_device(), settings.steps_per_sample
    remover = _remover(settings)
    source = generated_source(settings.train_images, settings.image_shape)
    images, labels = source.read(np.arange(settings.batch_size))
    index = np.arange(settings.batch_size, dtype=np.int32)
    constant = sharding.split_batch(
        {"image": images, "label": labels, "index": index}, mesh
    )
    feeds = {
        kind: make_pipeline(
            source, kind=kind, batch_size=settings.batch_size, seed=0, mesh=mesh
        )
        for kind in ("on_device", "streamed")
    }

    pairs = drawn_pairs(_all_degradations(), AUGMENTATIONS["flip_crop"])

    def runner(fetch, resident, inputs):
        return steps.Runner(
            make_remover_step(remover, _ADAM, pairs),
            fetch,
            _state(remover, settings.image_shape),
            pairs.frozen,
            resident,
            inputs,
        )

    nothing = sharding.replicate(np.zeros(count, np.int32), mesh)
    contestants = {
        "constant batch": runner(lambda batch, x: batch, constant, lambda call: nothing)
    }
    for kind, feed in feeds.items():
        contestants[kind] = runner(
            feed.fetch,
            feed.resident,
            lambda call, feed=feed: feed.inputs(call * count, count),
        )
    seconds = timing.interleave(contestants, repeats=settings.repeats)
    for feed in feeds.values():
        feed.close()
    row = new_row(
        "training step of the remover with augmentation and degradation (batch "
        f"{settings.batch_size}), fed from {settings.train_images:,} uint8 images in "
        "memory, against the same step on one constant device batch",
        seconds,
        pairs=[(kind, "constant batch") for kind in feeds],
        notes=["the streamed pipeline reads ahead while the others have their turn"],
    )
    row["comparisons"][0] |= limit(row["comparisons"][0]["ratio"], MAX_DATA_RATIO)
    return row


def evaluation_row(settings: Settings, peer: Peer | None) -> Row:
    """Compilations, and speed, of judging clean images and every degradation."""
    del peer
    mesh = steps.one_device()
    detector, shape = _detector(settings)
    remover, classifier = _remover(settings), _classifier(settings)
    source = generated_source(settings.eval_images, settings.image_shape)
    judge = protocols.Judge(
        classifier_function(classifier),
        {
            "remover": _state(remover, settings.image_shape).variables,
            "classifier": _state(classifier, settings.image_shape).variables,
            "detector": _state(detector, shape).variables,
        },
        list(evaluation_batches(source, batch_size=settings.batch_size, mesh=mesh)),
        mesh=mesh,
        remover=remover,
        detector=detector,
    )
    entries = [protocols.CLEAN, *suite_degradations("uronet")]
    compiled: list[str] = []

    def listen(event: str, duration: float, **details: Any) -> None:
        del duration
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(str(details.get("fun_name")))

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        judge.measure(entries[0])
        # Besides the judge, this compiled the small programs that place its numbers.
        compiled.clear()
        for entry in entries[1:]:
            judge.measure(entry)
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    seconds = timing.interleave(
        {"judge": lambda: judge.measure(entries[-1])}, repeats=settings.repeats
    )
    row = new_row(
        f"clean images and {len(entries) - 1} degradations through classifier, remover "
        f"and detector ({settings.eval_images:,} images each)",
        seconds,
    )
    compilations = 1 + len(compiled)
    row["values"]["compilations of the judge"] = compilations
    row["limits"]["compilations of the judge"] = limit(compilations, 1)
    if _is_gpu():
        median = row["seconds"]["judge"]["median"]
        row["values"]["images/s"] = settings.eval_images / median
    return row


def memory_row(settings: Settings, peer: Peer | None) -> Row:
    """Peak memory of training the remover on a resident data set."""
    del peer
    arguments = {
        "widths": settings.widths,
        "batch_size": settings.batch_size,
        "dtype": settings.dtype,
        "image_shape": settings.image_shape,
        "num_images": settings.train_images,
        "num_steps": settings.memory_steps,
    }
    row = new_row(
        f"training of the {_widths(settings)} remover (batch {settings.batch_size}), "
        f"{settings.train_images:,} images resident, in a process of its own: "
        f"{settings.memory_steps} steps and a validation",
        {},
    )
    row["values"] = memory.run("uronet_jax.benchmarking.memory", arguments)
    if not _is_gpu():
        row["limits"]["peak host GB"] = limit(
            row["values"]["peak host GB"], MAX_HOST_GB
        )
    return row


def degradation_row(settings: Settings, peer: Peer | None) -> Row:
    """Degrading a batch with all noises mixed, against the remover's step."""
    del peer
    remover, count = _remover(settings), settings.steps_per_sample
    batches = steps.separation_batches(settings)

    def degrade_step(state, frozen, batch):
        degraded = degrade(jax.random.fold_in(state.key, state.step), batch, frozen)
        return state.replace(step=state.step + 1), {"sum": degraded.sum()}

    state = _state(remover, settings.image_shape)
    contestants = {
        "mixed degradation": steps.run_over(
            degrade_step,
            state.replace(params={}, opt_state=()),
            _all_degradations(),
            batches["clean"],
            count,
        ),
        "remover step": steps.run_over(
            steps.separation_step(remover, _ADAM), state, {}, batches, count
        ),
    }
    return new_row(
        f"degrading a batch of {settings.batch_size} images, each with one of the 18 "
        "entries of the suite, against one training step of the remover",
        timing.interleave(contestants, repeats=settings.repeats),
        pairs=[("mixed degradation", "remover step")],
    )


ROWS: dict[str, Callable[[Settings, Peer | None], Row]] = {
    "remover": remover_row,
    "data": data_row,
    "evaluation": evaluation_row,
    "memory": memory_row,
    "classifier": classifier_row,
    "detector": detector_row,
    "degradation": degradation_row,
}


def _training_row(
    work: str,
    settings: Settings,
    contestants: Mapping[str, Callable[[], Any]],
    agreement: Mapping[str, float],
    flops_per_image: int,
) -> Row:
    seconds = timing.interleave(
        contestants,
        repeats=settings.repeats,
        limits={LINEN: settings.linen_repeats},
    )
    row = new_row(work, seconds, pairs=[(OURS, name) for name in agreement])
    for comparison in row["comparisons"]:
        comparison["agreement"] = agreement[comparison["peer"]]
    row["values"] = _throughput(settings, seconds[OURS], flops_per_image)
    return row


def _throughput(
    settings: Settings, seconds: Sequence[float], flops_per_image: int
) -> dict[str, float]:
    """Returns time, images/s, TFLOP/s and MFU, on a GPU only."""
    if not _is_gpu():
        return {}
    step = float(np.median(seconds)) / settings.steps_per_sample
    rate = settings.batch_size / step
    values = {
        "ms/step": 1e3 * step,
        "images/s": rate,
        "TFLOP/s": rate * flops_per_image / 1e12,
    }
    peak = flops.PEAK_BFLOAT16.get(jax.devices()[0].device_kind)
    if peak is not None and settings.dtype == "bfloat16":
        values["MFU"] = rate * flops_per_image / peak
    return values


def _is_gpu() -> bool:
    return jax.devices()[0].platform == "gpu"


def _widths(settings: Settings) -> str:
    return "-".join(map(str, settings.widths))


def _remover(settings: Settings) -> Remover:
    return make_remover(
        "paper", widths=settings.widths, dtype=compute_dtype(settings.dtype)
    )


def _classifier(settings: Settings) -> nn.Module:
    return make_classifier(
        settings.classifier,
        10,
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        dtype=compute_dtype(settings.dtype),
    )


def _detector(settings: Settings) -> tuple[nn.Module, tuple[int, int, int]]:
    """Returns the detector and the shape of its input."""
    height, width, channels = settings.image_shape
    detector = make_classifier(
        settings.detector, 2, dtype=compute_dtype(settings.dtype)
    )
    return detector, (height, width, detector_channels(channels))


def _state(
    module: nn.Module,
    image_shape: tuple[int, int, int],
    optimizer: optax.GradientTransformation = _ADAM,
) -> TrainState:
    return create_state(module, optimizer, jax.random.key(0), image_shape)


def _all_degradations() -> Degradation:
    return make_degradation([(e.kind, e.parameter) for e in suite_degradations()])
