"""The state of a training run and the update that all phases share."""

from collections.abc import Callable
from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from uronet_jax.data.pipelines import Batch

Metrics = dict[str, jax.Array]
# loss_fn(params) -> (mean loss, (batch_stats, metrics))
_LossFn = Callable[[Any], tuple[jax.Array, tuple[Any, Metrics]]]
# (key, images, index) -> images
Augment = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


@flax.struct.dataclass
class TrainState:
    """Everything a run must save to resume exactly. Arrays only.

    Attributes:
        step: Scalar int32, number of steps taken so far.
        key: Root PRNG key. Never advanced; per-step keys are folded from it.
        params: Parameters that are trained, float32.
        batch_stats: Batch-norm averages, an empty dict for a model without any.
        opt_state: Optimizer state.
    """

    step: jax.Array
    key: jax.Array
    params: Any
    batch_stats: Any
    opt_state: optax.OptState

    @property
    def variables(self) -> dict[str, Any]:
        """What `module.apply` takes."""
        return {"params": self.params, "batch_stats": self.batch_stats}


def initial_state(
    module: nn.Module,
    optimizer: optax.GradientTransformation,
    key: jax.Array,
    image_shape: tuple[int, int, int],
) -> TrainState:
    """Initialises a model and its optimizer. Pure; `compile_initial_state` compiles it.

    The module takes images `[B, *image_shape]`. One half of the typed key initialises
    it, the other is the root key of the run.
    """
    init_key, run_key = jax.random.split(key)
    variables = module.init(init_key, jnp.zeros((1, *image_shape)))
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        key=run_key,
        params=variables["params"],
        batch_stats=variables.get("batch_stats", {}),
        opt_state=optimizer.init(variables["params"]),
    )


def compile_initial_state(
    module: nn.Module,
    optimizer: optax.GradientTransformation,
    image_shape: tuple[int, int, int],
    extend: Callable[[TrainState], TrainState] = lambda state: state,
) -> Callable[[jax.Array], TrainState]:
    """Returns `initial_state`, then `extend`, as a compiled function of the key."""
    return jax.jit(
        lambda key: extend(initial_state(module, optimizer, key, image_shape)),
        # It runs once a model: optimising it would take three times as long to compile.
        compiler_options={"xla_backend_optimization_level": 0},
    )


def create_state(
    module: nn.Module,
    optimizer: optax.GradientTransformation,
    key: jax.Array,
    image_shape: tuple[int, int, int],
) -> TrainState:
    """Initialises a model and its optimizer; see `initial_state`."""
    return compile_initial_state(module, optimizer, image_shape)(key)


def apply_update(
    state: TrainState, optimizer: optax.GradientTransformation, loss_fn: _LossFn
) -> tuple[TrainState, Metrics]:
    """Takes one step of the optimizer, which made `state.opt_state`, on `loss_fn`.

    Returns the state after it and the metrics, sums over the global batch.
    """
    grads, (batch_stats, metrics) = jax.grad(loss_fn, has_aux=True)(state.params)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    state = state.replace(
        step=state.step + 1,
        params=optax.apply_updates(state.params, updates),
        batch_stats=batch_stats,
        opt_state=opt_state,
    )
    return state, metrics


def decisions(logits: jax.Array, labels: jax.Array) -> Metrics:
    """Returns what logits `[B, classes]` are worth, given integer labels `[B]`.

    That is `loss`, the cross-entropy, and `accuracy`, 0 or 1, both float32 `[B]`.
    """
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    correct = jnp.argmax(logits, axis=-1) == labels
    return {"loss": loss, "accuracy": correct.astype(jnp.float32)}


def update_by_labels(
    state: TrainState,
    optimizer: optax.GradientTransformation,
    network: nn.Module,
    images: jax.Array,
    labels: jax.Array,
) -> tuple[TrainState, Metrics]:
    """Takes one optimizer step on the mean cross-entropy; see `apply_update`.

    The network looks at images `[B, H, W, C]` with integer labels `[B]`; the metrics
    are `loss`, `correct` and `count`.
    """

    def loss_fn(params):
        logits, mutated = network.apply(
            {"params": params, "batch_stats": state.batch_stats},
            images,
            train=True,
            mutable=["batch_stats"],
        )
        values = decisions(logits, labels)
        metrics = {
            "loss": values["loss"].sum(),
            "correct": values["accuracy"].sum(),
            "count": jnp.asarray(labels.size, jnp.float32),
        }
        return values["loss"].mean(), (mutated.get("batch_stats", {}), metrics)

    return apply_update(state, optimizer, loss_fn)


# step(state, frozen, batch) -> (state, metrics)
Step = Callable[[TrainState, Any, Batch], tuple[TrainState, Metrics]]
# evaluate(variables, frozen, key, batch) -> metrics
Evaluation = Callable[[Any, Any, jax.Array, Batch], Metrics]


def masked_sums(values: Metrics, mask: jax.Array) -> Metrics:
    """Sums per-image values `[B]` over the images that `mask` keeps; adds `count`."""
    sums = {
        name: jnp.sum(jnp.where(mask, x, 0.0), dtype=jnp.float32)
        for name, x in values.items()
    }
    return sums | {"count": mask.sum(dtype=jnp.float32)}


def to_float(images: jax.Array) -> jax.Array:
    """Converts unsigned integers of 8 or 16 bits to float32 in `[0, 1]`."""
    return images.astype(jnp.float32) / jnp.iinfo(images.dtype).max
