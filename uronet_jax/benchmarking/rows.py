"""What is measured: one function per row, each with the peers it is compared to.

Everything runs on one device. Times are compared within a row, in turns; a framework
that is compared to (`Peer`) is handed in, so that nothing here imports it.
"""

import dataclasses
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from uronet_jax import sharding
from uronet_jax.benchmarking import flops, timing
from uronet_jax.benchmarking.linen_remover import LinenRemover, linen_params
from uronet_jax.benchmarking.memory import generated_source
from uronet_jax.corruptions import degrade, make_degradation, suite_degradations
from uronet_jax.data import AUGMENTATIONS, evaluation_batches, make_pipeline
from uronet_jax.defense import (
    classifier_function,
    detector_channels,
    detector_input,
)
from uronet_jax.evaluation import protocols
from uronet_jax.models import (
    CLASSIFIERS,
    Remover,
    compute_dtype,
    make_classifier,
    make_remover,
)
from uronet_jax.training.classifier import make_classifier_step
from uronet_jax.training.remover import make_remover_step
from uronet_jax.training.state import Step, TrainState, apply_update, create_state

Row = dict[str, Any]
Variables = dict[str, Any]
Batches = dict[str, np.ndarray]

# Batches that a contestant steps through. More than one: in a loop XLA would move the
# work on a constant batch out of it.
NUM_BATCHES = 4
# Largest difference of two implementations of one function, relative to the largest
# value of the array; float32 sums of 10^5 terms in another order stay below 1e-4.
AGREEMENT = 1e-3
# Limits that this package sets itself.
MAX_DATA_RATIO = 1.03
MAX_HOST_BYTES = 4_000_000_000

_MEAN, _STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
_SGD = {"learning_rate": 0.1, "momentum": 0.9, "weight_decay": 5e-4}
_RATE = 1e-3  # Of Adam, for remover and detector.


@dataclasses.dataclass(frozen=True)
class Settings:
    """Sizes of the benchmark.

    Attributes:
        batch_size: Images in a training step (of the detector: half as many pairs).
        dtype: Computation type, `float32` or `bfloat16`.
        repeats: Rounds of every comparison.
        steps_per_sample: Training steps that are timed as one.
        image_shape: `(H, W, C)`; H and W multiples of `2 ** len(widths)`.
        widths: Of the remover.
        classifier: A key of `CLASSIFIERS`.
        detector: Likewise.
        train_images: Images of the generated training set.
        eval_images: Images that are judged.
        linen_repeats: Rounds in which the naive linen remover takes part; 0 for none.
        memory_steps: Training steps of the memory measurement.
    """

    batch_size: int = 128
    dtype: str = "float32"
    repeats: int = 5
    steps_per_sample: int = 1
    image_shape: tuple[int, int, int] = (32, 32, 3)
    widths: tuple[int, ...] = (64, 128, 256)
    classifier: str = "resnet20"
    detector: str = "wrn10_2"
    train_images: int = 50_000
    eval_images: int = 256
    linen_repeats: int = 2
    memory_steps: int = 3

    def __post_init__(self):
        """Raises ValueError if a number is out of range or a name unknown."""
        for name in ("batch_size", "repeats", "steps_per_sample", "eval_images"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1: {getattr(self, name)}")
        if self.batch_size % 2 or self.batch_size > self.train_images:
            raise ValueError(
                f"batch_size must be even and at most {self.train_images}, the size "
                f"of the generated training set: {self.batch_size}"
            )
        for name in ("classifier", "detector"):
            if getattr(self, name) not in CLASSIFIERS:
                raise ValueError(
                    f"unknown {name} {getattr(self, name)!r}: choose from "
                    f"{', '.join(sorted(CLASSIFIERS))}"
                )
        compute_dtype(self.dtype)


class Peer(Protocol):
    """Another framework that does the same work with the same weights.

    `run = peer.*_steps(...)` runs `count` steps over the batches, of which it takes
    one after the other, and waits for their end. Losses and optimizers are those of
    the row. Arrays have this package's layouts.
    """

    name: str

    def remover_steps(
        self, remover: Remover, variables: Variables, batches: Batches, count: int
    ) -> Callable[[], None]:
        """Adam on the two mean squared errors; batches of `clean` and `degraded`."""
        ...

    def classifier_steps(
        self, classifier: nn.Module, variables: Variables, batches: Batches, count: int
    ) -> Callable[[], None]:
        """SGD with Nesterov momentum and L2 on the cross-entropy; uint8 `image`."""
        ...

    def detector_steps(
        self,
        detector: nn.Module,
        variables: Variables,
        remover: Remover,
        remover_variables: Variables,
        batches: Batches,
        count: int,
    ) -> Callable[[], None]:
        """Adam on the cross-entropy of image and noise pattern; float `image`."""
        ...

    def remover_gradients(
        self, remover: Remover, variables: Variables, batch: Batches
    ) -> tuple[float, Any]:
        """Returns the loss of a batch and its gradient, in float32."""
        ...

    def logits(
        self, classifier: nn.Module, variables: Variables, images: np.ndarray
    ) -> np.ndarray:
        """Returns logits of float images, in float32, with running statistics."""
        ...


def remover_row(settings: Settings, peer: Peer | None) -> Row:
    """One training step of the remover: forward, two MSE, backward, Adam."""
    remover = _remover(settings)
    batches = _separation_batches(settings)
    state = _initial_state(remover, optax.adam(_RATE), settings.image_shape)
    contestants = {
        "uronet_jax": _jax_steps(
            _separation_step(remover, optax.adam(_RATE)),
            state,
            {},
            batches,
            settings.steps_per_sample,
        )
    }
    few = {name: x[0, : min(8, settings.batch_size)] for name, x in batches.items()}
    loss, gradients = _separation_gradients(remover, state.params, few)
    agreement = {}
    if settings.linen_repeats:
        linen = LinenRemover(settings.widths, compute_dtype(settings.dtype))
        params = linen_params(state.params)
        agreement["naive linen"] = _agreement(
            (loss, linen_params(gradients)), _separation_gradients(linen, params, few)
        )
        contestants["naive linen"] = _jax_steps(
            _separation_step(linen, optax.adam(_RATE)),
            state.replace(params=params, opt_state=optax.adam(_RATE).init(params)),
            {},
            batches,
            settings.steps_per_sample,
        )
    if peer is not None:
        agreement[peer.name] = _agreement(
            (loss, gradients), peer.remover_gradients(remover, state.variables, few)
        )
        contestants[peer.name] = peer.remover_steps(
            remover, state.variables, batches, settings.steps_per_sample
        )
    seconds = timing.interleave(
        contestants,
        repeats=settings.repeats,
        limits={"naive linen": settings.linen_repeats},
    )
    per_image = flops.TRAINING_FACTOR * flops.forward_flops(
        remover, settings.image_shape
    )
    return _row(
        f"one training step of the {'-'.join(map(str, settings.widths))} remover "
        f"({settings.dtype}, batch {settings.batch_size}): forward, two mean squared "
        "errors, backward, Adam; agreement is that of loss and gradients in float32",
        seconds,
        peers=[name for name in contestants if name != "uronet_jax"],
        agreement=agreement,
        throughput=_throughput(settings, seconds["uronet_jax"], per_image),
    )


def classifier_row(settings: Settings, peer: Peer | None) -> Row:
    """One training step of the classifier: forward, cross-entropy, backward, SGD."""
    classifier = _classifier(settings.classifier, 10, settings)
    optimizer = optax.chain(
        optax.add_decayed_weights(_SGD["weight_decay"]),
        optax.sgd(_SGD["learning_rate"], _SGD["momentum"], nesterov=True),
    )
    batches = _labelled_batches(settings)
    state = _initial_state(classifier, optimizer, settings.image_shape)
    contestants = {
        "uronet_jax": _jax_steps(
            make_classifier_step(classifier, optimizer, AUGMENTATIONS["none"]),
            state,
            {},
            batches,
            settings.steps_per_sample,
        )
    }
    agreement = {}
    if peer is not None:
        images = batches["image"][0, :8].astype(np.float32) / 255.0
        agreement[peer.name] = _logit_agreement(classifier, state, images, peer)
        contestants[peer.name] = peer.classifier_steps(
            classifier, state.variables, batches, settings.steps_per_sample
        )
    seconds = timing.interleave(contestants, repeats=settings.repeats)
    per_image = flops.TRAINING_FACTOR * flops.forward_flops(
        classifier, settings.image_shape
    )
    return _row(
        f"one training step of {settings.classifier} ({settings.dtype}, batch "
        f"{settings.batch_size}): forward, cross-entropy, backward, SGD with Nesterov "
        "momentum; agreement is that of logits in evaluation mode in float32",
        seconds,
        peers=[] if peer is None else [peer.name],
        agreement=agreement,
        throughput=_throughput(settings, seconds["uronet_jax"], per_image),
    )


def detector_row(settings: Settings, peer: Peer | None) -> Row:
    """One training step of the detector behind the frozen remover, on pairs."""
    remover, optimizer = _remover(settings), optax.adam(_RATE)
    detector = _classifier(settings.detector, 2, settings, normalised=False)
    height, width, channels = settings.image_shape
    input_shape = (height, width, detector_channels(channels))
    state = _initial_state(detector, optimizer, input_shape)
    frozen = _initial_state(remover, optimizer, settings.image_shape).variables
    pairs = _separation_batches(settings)
    half = settings.batch_size // 2
    batches = {
        "image": np.concatenate(
            [pairs["clean"][:, :half], pairs["degraded"][:, :half]], axis=1
        ),
        "label": np.tile(np.repeat(np.int32([0, 1]), half), (NUM_BATCHES, 1)),
    }
    contestants = {
        "uronet_jax": _jax_steps(
            _pair_step(detector, remover, optimizer),
            state,
            frozen,
            batches,
            settings.steps_per_sample,
        )
    }
    agreement = {}
    if peer is not None:
        images = np.concatenate([batches["image"][0, :4]] * 2, axis=-1)
        agreement[peer.name] = _logit_agreement(detector, state, images, peer)
        contestants[peer.name] = peer.detector_steps(
            detector,
            state.variables,
            remover,
            frozen,
            batches,
            settings.steps_per_sample,
        )
    seconds = timing.interleave(contestants, repeats=settings.repeats)
    # Nobody looks at the clean picture, so one decoder runs.
    per_image = flops.forward_flops(
        remover.clone(noise_head=False), settings.image_shape
    ) + flops.TRAINING_FACTOR * flops.forward_flops(detector, input_shape)
    return _row(
        f"one training step of the {settings.detector} detector ({settings.dtype}) on "
        f"{half} pairs behind the frozen "
        f"{'-'.join(map(str, settings.widths))} remover: both forward, cross-entropy, "
        "backward, Adam; agreement is that of the detector's logits in float32",
        seconds,
        peers=[] if peer is None else [peer.name],
        agreement=agreement,
        throughput=_throughput(settings, seconds["uronet_jax"], per_image),
    )


def data_row(settings: Settings, peer: Peer | None) -> Row:
    """The remover's step fed by each pipeline against one constant device batch."""
    del peer
    mesh, count = _one_device(), settings.steps_per_sample
    remover = _remover(settings)
    step = make_remover_step(remover, optax.adam(_RATE), AUGMENTATIONS["flip_crop"])
    frozen = {"degradation": _mixed_degradation()}
    source = generated_source(settings.train_images, settings.image_shape)
    images, labels = source.read(np.arange(settings.batch_size))
    constant = sharding.split_batch(
        {
            "image": images,
            "label": labels,
            "index": np.arange(settings.batch_size, dtype=np.int32),
        },
        mesh,
    )
    feeds = {
        kind: make_pipeline(
            source, kind=kind, batch_size=settings.batch_size, seed=0, mesh=mesh
        )
        for kind in ("on_device", "streamed")
    }

    def runner(fetch, resident, inputs):
        state = _initial_state(remover, optax.adam(_RATE), settings.image_shape)
        return _Runner(step, fetch, state, frozen, resident, inputs)

    steps = sharding.replicate(np.zeros(count, np.int32), mesh)
    contestants = {
        "constant batch": runner(
            lambda resident, x: resident, constant, lambda start: steps
        )
    }
    for kind, feed in feeds.items():
        contestants[kind] = runner(
            feed.fetch,
            feed.resident,
            # Bound now, not when it is called.
            lambda start, feed=feed: feed.inputs(start * count, count),
        )
    seconds = timing.interleave(contestants, repeats=settings.repeats)
    for feed in feeds.values():
        feed.close()
    row = _row(
        f"training step of the remover with augmentation and degradation (batch "
        f"{settings.batch_size}), fed from {settings.train_images:,} uint8 images in "
        "memory, against the same step on one constant device batch",
        seconds,
        peers=[],
        notes=["the streamed pipeline reads ahead while the others have their turn"],
    )
    row["comparisons"] = [
        timing.compare(seconds, kind, "constant batch") for kind in feeds
    ]
    on_device = row["comparisons"][0]
    on_device |= _limit(on_device["ratio"], MAX_DATA_RATIO)
    return row


def evaluation_row(settings: Settings, peer: Peer | None) -> Row:
    """Compilations and speed of judging clean images and every degradation."""
    del peer
    mesh = _one_device()
    remover = _remover(settings)
    classifier = _classifier(settings.classifier, 10, settings)
    detector = _classifier(settings.detector, 2, settings, normalised=False)
    height, width, channels = settings.image_shape
    shapes = {
        "remover": (remover, settings.image_shape),
        "classifier": (classifier, settings.image_shape),
        "detector": (detector, (height, width, detector_channels(channels))),
    }
    source = generated_source(settings.eval_images, settings.image_shape)
    judge = protocols.Judge(
        classifier_function(classifier),
        {
            name: _initial_state(module, optax.identity(), shape).variables
            for name, (module, shape) in shapes.items()
        },
        list(
            evaluation_batches(source, batch_size=settings.batch_size, mesh=mesh),
        ),
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
        first = len(compiled)
        for entry in entries[1:]:
            judge.measure(entry)
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    # Besides the judge itself, the first degradation compiles what places its numbers.
    repeated = len(compiled) - first
    seconds = timing.interleave(
        {"judge": lambda: judge.measure(entries[-1])}, repeats=settings.repeats
    )
    row = _row(
        f"clean images and {len(entries) - 1} degradations through classifier, remover "
        f"and detector ({settings.eval_images} images each)",
        seconds,
        peers=[],
    )
    row["values"]["compilations of the judge"] = 1 + repeated
    row["limits"]["compilations of the judge"] = _limit(1 + repeated, 1)
    if _is_gpu():
        row["values"]["images/s"] = settings.eval_images / np.median(seconds["judge"])
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
    root = str(Path(__file__).parents[2])
    child = subprocess.run(
        [
            sys.executable,
            "-m",
            "uronet_jax.benchmarking.memory",
            json.dumps(arguments),
        ],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")]),
            # This process may hold most of the device's memory already.
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    if child.returncode:
        raise RuntimeError(f"the memory measurement failed:\n{child.stderr[-2000:]}")
    peaks = json.loads(child.stdout.splitlines()[-1])
    row = _row(
        f"training of the {'-'.join(map(str, settings.widths))} remover (batch "
        f"{settings.batch_size}), {settings.train_images:,} images resident, in a "
        f"process of its own: {settings.memory_steps} steps and a validation",
        {},
        peers=[],
    )
    row["values"]["peak host GB"] = peaks["peak_host_bytes"] / 1e9
    if "peak_device_bytes" in peaks:
        row["values"]["peak device GB"] = peaks["peak_device_bytes"] / 1e9
    else:
        row["limits"]["peak host GB"] = _limit(
            row["values"]["peak host GB"], MAX_HOST_BYTES / 1e9
        )
    return row


def corruptions_row(settings: Settings, peer: Peer | None) -> Row:
    """Degrading a batch with all noises mixed, against the remover's step."""
    del peer
    remover = _remover(settings)
    batches = _separation_batches(settings)

    def degrade_step(state, frozen, batch):
        degraded = degrade(jax.random.fold_in(state.key, state.step), batch, frozen)
        return state.replace(step=state.step + 1), {"sum": degraded.sum()}

    state = _initial_state(remover, optax.adam(_RATE), settings.image_shape)
    counter = state.replace(params={}, opt_state=())
    count = settings.steps_per_sample
    seconds = timing.interleave(
        {
            "mixed degradation": _jax_steps(
                degrade_step, counter, _mixed_degradation(), batches["clean"], count
            ),
            "remover step": _jax_steps(
                _separation_step(remover, optax.adam(_RATE)), state, {}, batches, count
            ),
        },
        repeats=settings.repeats,
    )
    row = _row(
        f"degrading a batch of {settings.batch_size} images, each with one of the 18 "
        "entries of the suite, against one training step of the remover",
        seconds,
        peers=[],
    )
    row["comparisons"] = [timing.compare(seconds, "mixed degradation", "remover step")]
    return row


ROWS: dict[str, Callable[[Settings, Peer | None], Row]] = {
    "remover": remover_row,
    "data": data_row,
    "evaluation": evaluation_row,
    "memory": memory_row,
    "classifier": classifier_row,
    "detector": detector_row,
    "corruptions": corruptions_row,
}


class _Runner:
    """Runs the next steps of a training run at every call, and waits for them."""

    def __init__(self, step: Step, fetch, state, frozen, resident, inputs):
        mesh = _one_device()
        self._advance = sharding.compile_steps(step, fetch, mesh)
        # A copy: the state is donated, and contestants start from the same one.
        self._state, self._frozen = sharding.replicate(
            (jax.tree.map(jnp.copy, state), frozen), mesh
        )
        self._resident, self._inputs = resident, inputs
        self._calls = itertools.count()

    def __call__(self) -> None:
        self._state, metrics = self._advance(
            self._state, self._frozen, self._resident, self._inputs(next(self._calls))
        )
        jax.block_until_ready((self._state, metrics))


def _jax_steps(step: Step, state, frozen, batches, count: int) -> Callable[[], None]:
    """Returns a function that runs `count` steps over stacked batches."""
    mesh = _one_device()
    resident = sharding.replicate(batches, mesh)
    inputs = sharding.replicate(np.arange(count, dtype=np.int32) % NUM_BATCHES, mesh)
    return _Runner(
        step,
        lambda resident, i: jax.tree.map(lambda x: x[i], resident),
        state,
        frozen,
        resident,
        lambda start: inputs,
    )


def _separation_loss(module: nn.Module, params: Any, batch: Any) -> jax.Array:
    separation = module.apply({"params": params}, batch["degraded"])
    noise = batch["degraded"] - batch["clean"]
    clean_mse = jnp.mean(jnp.square(separation.clean - batch["clean"]))
    return clean_mse + jnp.mean(jnp.square((separation.noise - noise) / 2))


def _separation_step(
    module: nn.Module, optimizer: optax.GradientTransformation
) -> Step:
    """The remover's update on images that are degraded already."""

    def step(state: TrainState, frozen: Any, batch: Any):
        def loss_fn(params):
            loss = _separation_loss(module, params, batch)
            return loss, (state.batch_stats, {"loss": loss})

        return apply_update(state, optimizer, loss_fn)

    return step


def _separation_gradients(module: nn.Module, params: Any, batch: Any):
    with jax.default_matmul_precision("highest"):
        return jax.jit(
            jax.value_and_grad(
                lambda params: _separation_loss(
                    module.clone(dtype=jnp.float32), params, batch
                )
            )
        )(params)


def _pair_step(
    detector: nn.Module, remover: Remover, optimizer: optax.GradientTransformation
) -> Step:
    """The detector's update on pairs that are degraded already."""

    def step(state: TrainState, frozen: Any, batch: Any):
        separation = remover.apply(frozen, batch["image"])
        features = detector_input(batch["image"], separation)

        def loss_fn(params):
            logits, mutated = detector.apply(
                {"params": params, "batch_stats": state.batch_stats},
                features,
                train=True,
                mutable=["batch_stats"],
            )
            loss = optax.softmax_cross_entropy_with_integer_labels(
                logits, batch["label"]
            ).mean()
            return loss, (mutated["batch_stats"], {"loss": loss})

        return apply_update(state, optimizer, loss_fn)

    return step


def _logit_agreement(
    module: nn.Module, state: TrainState, images: np.ndarray, peer: Peer
) -> float:
    # Fresh running statistics, 0 and 1, would hide one that is not used.
    rng = np.random.default_rng(1)
    stats = jax.tree.map(
        lambda x: rng.uniform(0.5, 1.5, x.shape).astype(np.float32), state.batch_stats
    )
    variables = {"params": state.params, "batch_stats": stats}
    module = module.clone(dtype=jnp.float32)
    with jax.default_matmul_precision("highest"):
        ours = jax.jit(lambda v, x: module.apply(v, x, train=False))(variables, images)
    return _agreement(ours, peer.logits(module, variables, images))


def _agreement(ours: Any, theirs: Any) -> float:
    """Returns the largest relative difference; raises ValueError if it is large."""
    difference = max(
        jax.tree.leaves(
            jax.tree.map(
                lambda a, b: float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-12)),
                jax.device_get(ours),
                jax.device_get(theirs),
            )
        )
    )
    if not difference <= AGREEMENT:
        raise ValueError(
            f"the peer computes another function (relative difference {difference:.2g}, "
            f"at most {AGREEMENT:g} is rounding): their times cannot be compared"
        )
    return difference


def _row(
    work: str,
    seconds: dict[str, list[float]],
    *,
    peers: Sequence[str],
    agreement: dict[str, float] | None = None,
    throughput: dict[str, float] | None = None,
    notes: Sequence[str] = (),
) -> Row:
    comparisons = [timing.compare(seconds, "uronet_jax", name) for name in peers]
    for comparison in comparisons:
        comparison["agreement"] = (agreement or {})[comparison["peer"]]
    return {
        "work": work,
        "comparisons": comparisons,
        "values": dict(throughput or {}),
        "limits": {},
        "seconds": timing.summarise(seconds),
        "notes": list(notes),
    }


def _limit(value: float, at_most: float) -> dict[str, Any]:
    return {"at_most": at_most, "met": value <= at_most}


def _throughput(
    settings: Settings, seconds: Sequence[float], flops_per_image: int
) -> dict[str, float]:
    """Returns images/s, TFLOP/s and MFU, on a GPU only."""
    if not _is_gpu():
        return {}
    images = settings.batch_size * settings.steps_per_sample
    rate = images / float(np.median(seconds))
    values = {"images/s": rate, "TFLOP/s": rate * flops_per_image / 1e12}
    peak = flops.PEAK_BFLOAT16.get(jax.devices()[0].device_kind)
    if peak is not None and settings.dtype == "bfloat16":
        values["MFU"] = rate * flops_per_image / peak
    return values


def _is_gpu() -> bool:
    return jax.devices()[0].platform == "gpu"


def _one_device() -> jax.sharding.Mesh:
    return sharding.data_mesh(jax.devices()[:1])


def _remover(settings: Settings) -> Remover:
    return make_remover(
        "paper", widths=settings.widths, dtype=compute_dtype(settings.dtype)
    )


def _classifier(
    name: str, num_classes: int, settings: Settings, *, normalised: bool = True
) -> nn.Module:
    statistics = {"mean": _MEAN, "std": _STD} if normalised else {}
    return make_classifier(
        name, num_classes, dtype=compute_dtype(settings.dtype), **statistics
    )


def _initial_state(module, optimizer, image_shape) -> TrainState:
    return create_state(module, optimizer, jax.random.key(0), tuple(image_shape))


def _mixed_degradation():
    return make_degradation([(e.kind, e.parameter) for e in suite_degradations()])


def _separation_batches(settings: Settings) -> Batches:
    rng = np.random.default_rng(0)
    shape = (NUM_BATCHES, settings.batch_size, *settings.image_shape)
    clean = rng.random(shape, np.float32)
    noise = 0.1 * rng.standard_normal(shape, np.float32)
    return {"clean": clean, "degraded": np.clip(clean + noise, 0.0, 1.0)}


def _labelled_batches(settings: Settings) -> Batches:
    source = generated_source(NUM_BATCHES * settings.batch_size, settings.image_shape)
    images, labels = source.arrays()
    shape = (NUM_BATCHES, settings.batch_size)
    return {
        "image": images.reshape(*shape, *settings.image_shape),
        "label": labels.reshape(shape),
        "index": np.arange(images.shape[0], dtype=np.int32).reshape(shape),
    }
