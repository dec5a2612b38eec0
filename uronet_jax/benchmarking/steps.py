"""The training steps that are timed, without data pipelines and degradations.

Everything runs on one device, from generated images. A framework that is compared to
(`Peer`) is handed in, so that nothing here imports it.
"""

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from uronet_jax import sharding
from uronet_jax.benchmarking.memory import generated_source
from uronet_jax.defense import detector_input
from uronet_jax.models import CLASSIFIERS, Remover, compute_dtype
from uronet_jax.training.state import Step, TrainState, apply_update

Variables = dict[str, Any]
# Name -> NumPy arrays, stacked over batches or of one batch.
Batches = dict[str, np.ndarray]

# Batches that a contestant steps through. More than one: in a loop XLA would move the
# work on a constant batch out of it.
NUM_BATCHES = 4
# Largest difference of two implementations of one function, relative to the largest
# value of the array; float32 sums of 10^5 terms in another order stay below 1e-4.
AGREEMENT = 1e-3


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


class Runner:
    """Takes the next steps of a training run at every call, and waits for them."""

    def __init__(
        self,
        step: Step,
        fetch: Callable[[Any, Any], Any],
        state: TrainState,
        frozen: Any,
        resident: Any,
        inputs: Callable[[int], Any],
    ):
        """Compiles nothing yet.

        Args:
            step: `(state, frozen, batch) -> (state, metrics)`.
            fetch: `(resident, input) -> batch`, runs inside jit.
            state: Where the run starts. It is copied.
            frozen: What the step takes besides.
            resident: What `fetch` takes, on the device.
            inputs: Number of the call -> inputs of its steps.
        """
        mesh = one_device()
        self._advance = sharding.compile_steps(step, fetch, mesh)
        # The steps donate their state, and contestants start from the same one.
        self._state, self._frozen = sharding.replicate(
            (jax.tree.map(jnp.copy, state), frozen), mesh
        )
        self._resident, self._inputs = resident, inputs
        self._calls = itertools.count()

    def __call__(self) -> None:
        """Takes the steps."""
        self._state, metrics = self._advance(
            self._state, self._frozen, self._resident, self._inputs(next(self._calls))
        )
        jax.block_until_ready((self._state, metrics))


def run_over(
    step: Step, state: TrainState, frozen: Any, batches: Any, count: int
) -> Runner:
    """Returns a function that takes `count` steps over stacked batches."""
    mesh = one_device()
    inputs = sharding.replicate(np.arange(count, dtype=np.int32) % NUM_BATCHES, mesh)
    return Runner(
        step,
        lambda resident, i: jax.tree.map(lambda x: x[i], resident),
        state,
        frozen,
        sharding.replicate(batches, mesh),
        lambda call: inputs,
    )


def one_device() -> jax.sharding.Mesh:
    """Returns the mesh on which everything is measured."""
    return sharding.data_mesh(jax.devices()[:1])


def separation_loss(module: nn.Module, params: Any, batch: Any) -> jax.Array:
    """Returns the remover's loss on images that are degraded already."""
    separation = module.apply({"params": params}, batch["degraded"])
    noise = batch["degraded"] - batch["clean"]
    clean_mse = jnp.mean(jnp.square(separation.clean - batch["clean"]))
    return clean_mse + jnp.mean(jnp.square((separation.noise - noise) / 2))


def separation_step(module: nn.Module, optimizer: optax.GradientTransformation) -> Step:
    """Builds the remover's update on images that are degraded already."""

    def step(state: TrainState, frozen: Any, batch: Any):
        del frozen

        def loss_fn(params):
            loss = separation_loss(module, params, batch)
            return loss, (state.batch_stats, {"loss": loss})

        return apply_update(state, optimizer, loss_fn)

    return step


def pair_step(
    detector: nn.Module, remover: Remover, optimizer: optax.GradientTransformation
) -> Step:
    """Builds the detector's update on pairs that are degraded already."""

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


def separation_gradients(
    module: nn.Module, params: Any, batch: Any
) -> tuple[jax.Array, Any]:
    """Returns the remover's loss and its gradient, in full float32."""
    module = module.clone(dtype=jnp.float32)
    with jax.default_matmul_precision("highest"):
        return jax.jit(jax.value_and_grad(lambda p: separation_loss(module, p, batch)))(
            params
        )


def logit_agreement(
    module: nn.Module, state: TrainState, images: np.ndarray, peer: Peer
) -> float:
    """Returns the largest relative difference of a classifier's logits, see `agree`."""
    # Fresh running statistics, 0 and 1, would hide one that is not used. Small: were
    # every unit pushed below zero, all logits would be equal, and agree.
    rng = np.random.default_rng(1)
    stats = jax.tree.map(
        lambda x: np.asarray(x + 0.1 * rng.uniform(-1, 1, x.shape), np.float32),
        state.batch_stats,
    )
    variables = {"params": state.params, "batch_stats": stats}
    module = module.clone(dtype=jnp.float32)
    with jax.default_matmul_precision("highest"):
        ours = jax.jit(lambda v, x: module.apply(v, x, train=False))(variables, images)
    return agree(ours, peer.logits(module, variables, images))


def agree(ours: Any, theirs: Any) -> float:
    """Compares what two implementations of one function gave.

    Args:
        ours: Tree of arrays.
        theirs: Likewise.

    Returns:
        The largest difference, relative to the largest value of its array.

    Raises:
        ValueError: If it is more than rounding explains.
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


def separation_batches(settings: Settings) -> Batches:
    """Returns random `clean` and `degraded` images, float32 `[batches, B, H, W, C]`."""
    rng = np.random.default_rng(0)
    shape = (NUM_BATCHES, settings.batch_size, *settings.image_shape)
    clean = rng.random(shape, np.float32)
    noise = 0.1 * rng.standard_normal(shape, np.float32)
    return {"clean": clean, "degraded": np.clip(clean + noise, 0.0, 1.0)}


def pair_batches(settings: Settings) -> Batches:
    """Returns `image` and `label`: half of a batch clean (0), half degraded (1)."""
    pairs, half = separation_batches(settings), settings.batch_size // 2
    images = [pairs[name][:, :half] for name in ("clean", "degraded")]
    labels = np.repeat(np.int32([0, 1]), half)
    return {
        "image": np.concatenate(images, axis=1),
        "label": np.tile(labels, (NUM_BATCHES, 1)),
    }


def labelled_batches(settings: Settings) -> Batches:
    """Returns random uint8 `image`, `label` and `index`."""
    source = generated_source(NUM_BATCHES * settings.batch_size, settings.image_shape)
    images, labels = source.arrays()
    shape = (NUM_BATCHES, settings.batch_size)
    return {
        "image": images.reshape(*shape, *settings.image_shape),
        "label": labels.reshape(shape),
        "index": np.arange(len(images), dtype=np.int32).reshape(shape),
    }
