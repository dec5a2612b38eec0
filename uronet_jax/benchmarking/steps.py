"""The training steps that are timed, without data pipelines and degradations.

Everything runs on one device, from generated images. A framework that is compared to
(`TrainingPeer`) is handed in, so that nothing here imports it.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from uronet_jax import sharding
from uronet_jax.attacks import clipping_aware_rescale
from uronet_jax.benchmarking import flops
from uronet_jax.benchmarking.base import BenchmarkSizes
from uronet_jax.defense import detector_channels, detector_input
from uronet_jax.models import (
    NoiseGenerator,
    Remover,
    compute_dtype,
    make_classifier,
    make_noise_generator,
    make_remover,
)
from uronet_jax.training.adversarial_noise import adversarial_noise_task
from uronet_jax.training.classifier import classifier_task
from uronet_jax.training.noise_batches import batch_parts
from uronet_jax.training.state import (
    Step,
    TrainState,
    apply_update,
    create_state,
    update_by_labels,
)

Variables = dict[str, Any]
# Name -> NumPy arrays, stacked over batches or of one batch.
Batches = dict[str, np.ndarray]

# Batches that a contestant steps through. More than one: in a loop XLA would move the
# work on a constant batch out of it.
NUM_BATCHES = 4
# Largest difference of two implementations of one function, relative to the largest
# value of the array; float32 sums of 10^5 terms in another order stay below 1e-4.
AGREEMENT = 1e-3

ADAM = optax.adam(1e-3)
SGD = optax.chain(
    optax.add_decayed_weights(5e-4), optax.sgd(0.1, momentum=0.9, nesterov=True)
)


class NoiseWork(NamedTuple):
    """What adversarial noise training does besides training its classifier."""

    generator: NoiseGenerator
    variables: Variables  # Of it.
    epsilon: float
    rate: float  # Of Adam for the generator.
    parts: dict[str, Any]  # See `batch_parts`; each slice has a generator of its own.


class TrainingWork(NamedTuple):
    """A training step that other implementations take too."""

    name: str  # A key of `WORKS`.
    text: str  # What a step does, and what was compared.
    module: nn.Module
    state: TrainState
    step: Step
    # Stacked: `clean` and `degraded` of a remover, else `image` and `label`.
    batches: Batches
    # What all must agree on: a batch of a remover, else float images.
    examples: Any
    flops: int  # Of an image.
    remover: Remover | None = None  # Before the detector.
    frozen: Variables = {}  # Of it.
    noise: NoiseWork | None = None


class TrainingPeer(Protocol):
    """Another implementation, with the same weights; arrays have our layouts.

    A remover learns with `ADAM` on two mean squared errors, a classifier with `SGD` on
    the cross-entropy of uint8 images, after a step of its noise generator where there
    is one, a detector with `ADAM` on that of image and noise pattern.
    """

    name: str

    def steps(self, work: TrainingWork, count: int) -> Callable[[], None]:
        """Returns `run()`: `count` steps over the batches in turn, and their end."""

    def gradients(self, module: Remover, variables: Variables, batch: Batches) -> Any:
        """Returns what `separation_gradients` does, of a remover, in float64."""

    def noise_gradients(self, work: TrainingWork, batch: Batches) -> Any:
        """Returns what `noise_gradients` does, in float32."""

    def logits(self, module: nn.Module, variables: Variables, images: Any) -> Any:
        """Returns logits of float images, in float32, with running statistics."""

    def forward(self, work: TrainingWork, count: int) -> Callable[[], None]:
        """Returns `run()`: logits of `count` batches in turn, with those as well."""

    def library(self, module: nn.Module) -> str:
        """Returns the library, and its version, that has the network of `forward`."""


def remover_work(sizes: BenchmarkSizes) -> TrainingWork:
    """Returns the step of the remover, on images that are degraded already."""
    dtype = compute_dtype(sizes.dtype)
    remover = make_remover("paper", widths=sizes.widths, dtype=dtype)
    rng = np.random.default_rng(0)
    clean = rng.random((NUM_BATCHES, sizes.batch_size, *sizes.image_shape), np.float32)
    noise = 0.1 * rng.standard_normal(clean.shape, np.float32)
    batches = {"clean": clean, "degraded": np.clip(clean + noise, 0.0, 1.0)}
    return TrainingWork(
        "remover",
        f"one training step of the {widths_text(sizes)} remover ({sizes.dtype}, "
        f"batch {sizes.batch_size}): forward, two mean squared errors, backward, "
        "Adam; loss and gradients agree in float64 as stated",
        remover,
        _state(remover, sizes.image_shape, ADAM),
        separation_step(remover),
        batches,
        {name: x[0, :8] for name, x in batches.items()},
        flops.TRAINING_FACTOR * flops.forward_flops(remover, sizes.image_shape),
    )


def classifier_work(sizes: BenchmarkSizes, num_classes: int = 10) -> TrainingWork:
    """Returns the step of the classifier."""
    dtype = compute_dtype(sizes.dtype)
    channels = sizes.image_shape[-1]
    classifier = make_classifier(
        sizes.classifier,
        num_classes,
        mean=(0.5,) * channels,
        std=(0.25,) * channels,
        dtype=dtype,
    )
    shape = (NUM_BATCHES, sizes.batch_size)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (*shape, *sizes.image_shape), np.uint8)
    return TrainingWork(
        "classifier",
        f"one training step of {sizes.classifier} ({sizes.dtype}, batch "
        f"{sizes.batch_size}): forward, cross-entropy, backward, SGD with Nesterov "
        "momentum; logits in evaluation mode agree in float32 as stated",
        classifier,
        _state(classifier, sizes.image_shape, SGD),
        classifier_task(classifier, SGD, image_shape=sizes.image_shape).step,
        {
            "image": images,
            "label": rng.integers(0, num_classes, shape).astype(np.int32),
            "index": np.arange(np.prod(shape), dtype=np.int32).reshape(shape),
        },
        np.float32(images[0, :8]) / 255.0,
        flops.TRAINING_FACTOR * flops.forward_flops(classifier, sizes.image_shape),
    )


def detector_work(sizes: BenchmarkSizes) -> TrainingWork:
    """Returns the step of the detector behind the frozen remover, on pairs."""
    before, half = remover_work(sizes), sizes.batch_size // 2
    height, width, channels = sizes.image_shape
    shape = (height, width, detector_channels(channels))
    detector = make_classifier(sizes.detector, 2, dtype=compute_dtype(sizes.dtype))
    images = np.concatenate(
        [before.batches[name][:, :half] for name in ("clean", "degraded")], axis=1
    )
    labels = np.tile(np.repeat(np.int32([0, 1]), half), (NUM_BATCHES, 1))
    # Nobody looks at the clean picture, so one decoder runs.
    seen = before.module.clone(noise_head=False)

    def step(state: TrainState, frozen: Any, batch: Any):
        separation = before.module.apply(frozen, batch["image"])
        features = detector_input(batch["image"], separation)
        return update_by_labels(state, ADAM, detector, features, batch["label"])

    return TrainingWork(
        "detector",
        f"one training step of the {sizes.detector} detector ({sizes.dtype}) on "
        f"{half} pairs behind the frozen {widths_text(sizes)} remover: both forward, "
        "cross-entropy, backward, Adam; the detector's logits agree in float32 as "
        "stated",
        detector,
        _state(detector, shape, ADAM),
        step,
        {"image": images, "label": labels},
        np.concatenate([images[0, :8]] * 2, axis=-1),
        flops.forward_flops(seen, sizes.image_shape)
        + flops.TRAINING_FACTOR * flops.forward_flops(detector, shape),
        before.module,
        before.state.variables,
    )


def noise_work(sizes: BenchmarkSizes, side: int) -> TrainingWork:
    """Returns a step of adversarial noise training: generator, then classifier.

    At 28 pixels that is the MNIST network, on grey images.
    """
    if side == 28:
        sizes = dataclasses.replace(
            sizes, classifier="cnn_madry", image_shape=(side, side, 1)
        )
    work, shape = classifier_work(sizes), sizes.image_shape
    slices = 2 if sizes.batch_size >= 16 else 1  # Of at least one image.
    epsilon, rate = 0.348 * float(np.sqrt(np.prod(shape))), 1e-4
    shares = {"noise": 0.3, "replay": 0.2, "replay_slices": slices, "degraded": 0.0}
    # Generators are kept from the first step on, and none is trained alone.
    task = adversarial_noise_task(
        work.module,
        SGD,
        image_shape=shape,
        num_steps=2**10,
        epsilon=epsilon,
        rate=rate,
        restart_every=2**5,
        **shares,
    )
    state = task.extend(work.state)
    passes = 2 + flops.TRAINING_FACTOR
    return work._replace(
        name=f"adversarial_noise_{side}",
        text=f"one step of adversarial noise training of {sizes.classifier} "
        f"({sizes.dtype}, batch {sizes.batch_size}, {shape[0]}x{shape[1]}): its noise "
        "generator learns on the whole batch, then the classifier, with half of the "
        f"images noisy by one of {1 + slices} generators; logits, images with "
        "noise and their gradient by the generator agree in float32 as stated",
        state=state,
        step=task.step,
        flops=work.flops // flops.TRAINING_FACTOR * passes,
        noise=NoiseWork(
            make_noise_generator("1x1"),
            {"params": state.generator.params},
            epsilon,
            rate,
            batch_parts(sizes.batch_size, **shares),
        ),
    )


WORKS: Mapping[str, Callable[[BenchmarkSizes], TrainingWork]] = {
    "remover": remover_work,
    "classifier": classifier_work,
    "detector": detector_work,
    "adversarial_noise_32": functools.partial(noise_work, side=32),
    "adversarial_noise_28": functools.partial(noise_work, side=28),
}


def _state(module, image_shape, optimizer) -> TrainState:
    return create_state(module, optimizer, jax.random.key(0), image_shape)


def widths_text(sizes: BenchmarkSizes) -> str:
    """Returns the widths of the remover as one word."""
    return "-".join(map(str, sizes.widths))


def make_runner(
    fetch: Callable[[Any, Any], Any],
    resident: Any,
    inputs: Callable[[int], Any],
    *,
    step: Step,
    state: TrainState,
    frozen: Any,
) -> Callable[[], None]:
    """Returns a function that takes the next steps of a run, and waits for them.

    `inputs(number of the call)` has one input for each of them, and
    `fetch(resident, input)` is its batch.
    """
    mesh, calls = first_device(), itertools.count()
    advance = sharding.compile_steps(step, fetch, mesh)
    # The steps donate their state, and contestants start from the same one.
    state, frozen = sharding.replicate((jax.tree.map(jnp.copy, state), frozen), mesh)

    def run() -> None:
        nonlocal state
        state, metrics = advance(state, frozen, resident, inputs(next(calls)))
        jax.block_until_ready((state, metrics))

    return run


def run_over(
    step: Step, state: TrainState, frozen: Any, batches: Any, count: int
) -> Callable[[], None]:
    """Returns a function that takes `count` steps over stacked batches."""
    mesh = first_device()
    inputs = sharding.replicate(np.arange(count, dtype=np.int32) % NUM_BATCHES, mesh)
    return make_runner(
        lambda resident, i: jax.tree.map(lambda x: x[i], resident),
        sharding.replicate(batches, mesh),
        lambda call: inputs,
        step=step,
        state=state,
        frozen=frozen,
    )


def forward_runner(work: TrainingWork, count: int) -> Callable[[], None]:
    """Returns a function that computes a classifier's logits of `count` batches."""

    @jax.jit
    def forward(variables, images):
        return work.module.apply(variables, jnp.float32(images) / 255.0, train=False)

    variables, batches = sharding.replicate(
        (work.state.variables, [*work.batches["image"]]), first_device()
    )

    def run() -> None:
        logits = [forward(variables, batches[i % NUM_BATCHES]) for i in range(count)]
        jax.block_until_ready(logits)

    return run


def first_device() -> jax.sharding.Mesh:
    """Returns the mesh on which everything is measured."""
    return sharding.data_mesh(jax.devices()[:1])


def separation_loss(module: Any, params: Any, batch: Any) -> jax.Array:
    """Returns the remover's loss on images that are degraded already."""
    separation = module.apply({"params": params}, batch["degraded"])
    noise = batch["degraded"] - batch["clean"]
    clean_mse = jnp.mean(jnp.square(separation.clean - batch["clean"]))
    return clean_mse + jnp.mean(jnp.square((separation.noise - noise) / 2))


def separation_step(module: Any) -> Step:
    """Builds the remover's update on images that are degraded already."""

    def step(state: TrainState, frozen: Any, batch: Any):
        del frozen

        def loss_fn(params):
            loss = separation_loss(module, params, batch)
            return loss, (state.batch_stats, {"loss": loss})

        return apply_update(state, ADAM, loss_fn)

    return step


def separation_gradients(module: Any, params: Any, batch: Any) -> tuple[jax.Array, Any]:
    """Returns the loss of a float64 remover and its gradient, computed on the host.

    In float32 rounding decides whether a unit next to zero counts. One of them is
    1.8e-3 of a gradient of equal networks, where the others are within 1e-6. A GPU
    would look for the fastest float64 convolutions first, which takes minutes.
    """
    gradients = jax.value_and_grad(separation_loss, argnums=1)
    params, batch = jax.device_get((params, batch))
    host = jax.local_devices(backend="cpu")[0]
    with jax.enable_x64(True), jax.default_device(host):
        params, batch = jax.tree.map(jnp.float64, (params, batch))
        return jax.jit(gradients, static_argnums=0)(module, params, batch)


def plain_runner(work: TrainingWork, count: int) -> Callable[[], None]:
    """Returns a function that takes plain steps of a noise work's classifier."""
    shape = work.batches["image"].shape[2:]
    step = classifier_task(work.module, SGD, image_shape=shape).step
    return run_over(step, work.state, {}, work.batches, count)


def rescaling_runner(work: TrainingWork, count: int) -> Callable[[], None]:
    """Returns a function that rescales noise as often as the steps of a noise work do.

    In a step that is once with its gradient, and once for the part that is noisy.
    """
    images = jnp.float32(work.batches["image"][0]) / 255.0
    made = jax.random.normal(jax.random.key(0), images.shape)
    epsilon, begin = work.noise.epsilon, work.noise.parts["clean"]

    @jax.jit
    def rescale(images, made):
        shown = functools.partial(clipping_aware_rescale, images, epsilon=epsilon)
        whole, back = jax.vjp(shown, made)
        part = clipping_aware_rescale(images[begin:], made[begin:], epsilon)
        return whole, back(images), part

    def run() -> None:
        for _ in range(count):
            jax.block_until_ready(rescale(images, made))

    return run


def noise_examples(work: TrainingWork) -> Batches:
    """Returns a few images, the `z` of their noise, and a number for each element."""
    images, rng = work.examples, np.random.default_rng(2)
    z, factor = rng.standard_normal((2, *images.shape), np.float32)
    return {"image": images, "z": z, "factor": factor}


def noise_gradients(work: TrainingWork, batch: Batches) -> Any:
    """Returns images with noise, and the generator's gradient of `factor` times them.

    Without the classifier: where one of its million units is next to zero, rounding
    decides whether it counts, and gradients of equal networks differ by a percent.
    """
    noise = work.noise

    def weighted(params, batch):
        made = noise.generator.apply({"params": params}, batch["z"])
        shown = clipping_aware_rescale(batch["image"], made, noise.epsilon)
        return (batch["factor"] * shown).sum(), shown

    with jax.default_matmul_precision("highest"):
        gradients = jax.jit(jax.grad(weighted, has_aux=True))
        return gradients(noise.variables["params"], batch)[::-1]


def peer_agreement(work: TrainingWork, peer: TrainingPeer) -> float:
    """Returns how far a peer's loss and gradients, or logits, are from ours."""
    params = work.state.params
    if isinstance(work.module, Remover):
        module = work.module.clone(dtype=jnp.float64)
        ours = separation_gradients(module, params, work.examples)
        theirs = peer.gradients(module, work.state.variables, work.examples)
        return agree(ours, theirs)
    module = work.module.clone(dtype=jnp.float32)
    # Fresh running statistics, 0 and 1, would hide one that is not used. Small: were
    # every unit pushed below zero, all logits would be equal, and agree.
    rng = np.random.default_rng(1)
    stats = jax.tree.map(
        lambda x: np.asarray(x + 0.1 * rng.uniform(-1, 1, x.shape), np.float32),
        work.state.batch_stats,
    )
    variables = {"params": params, "batch_stats": stats}
    with jax.default_matmul_precision("highest"):
        logits = jax.jit(lambda v, x: module.apply(v, x, train=False))
        ours = logits(variables, work.examples)
    found = agree(ours, peer.logits(module, variables, work.examples))
    if work.noise is not None:
        batch = noise_examples(work)
        theirs = peer.noise_gradients(work, batch)
        found = max(found, agree(noise_gradients(work, batch), theirs))
    return found


def agree(ours: Any, theirs: Any) -> float:
    """Returns the largest difference of two trees, relative to each array's largest.

    Raises:
        ValueError: If it is above `AGREEMENT`.
    """
    differences = jax.tree.map(
        lambda a, b: float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-12)),
        jax.device_get(ours),
        jax.device_get(theirs),
    )
    # np.max, unlike max, does not lose a NaN.
    difference = float(np.max(jax.tree.leaves(differences)))
    if not difference <= AGREEMENT:
        raise ValueError(
            "the peer computes another function: relative difference "
            f"{difference:.2g}, at most {AGREEMENT:g} is rounding"
        )
    return difference
