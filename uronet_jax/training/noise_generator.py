"""A noise generator learns the noise that hurts a classifier most."""

import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from uronet_jax import sharding
from uronet_jax.attacks import clipping_aware_rescale
from uronet_jax.batches import check_number, check_whole
from uronet_jax.data.pipelines import make_pipeline
from uronet_jax.models import NoiseGenerator, learned_noise, make_noise_generator
from uronet_jax.progress import Progress
from uronet_jax.training.state import Batch, Metrics, decisions, to_float
from uronet_jax.training.task import Shape

# Steps between two looks at the clock.
_DISPATCH = 10
_adam = optax.scale_by_adam()


class GeneratorState(NamedTuple):
    """A generator that learns.

    Attributes:
        params: Its parameters.
        opt: State of Adam.
    """

    params: Any
    opt: Any


def start_generator(params: Any) -> GeneratorState:
    """Returns a generator with a fresh optimizer."""
    return GeneratorState(params, _adam.init(params))


def raise_loss(
    state: GeneratorState,
    network: NoiseGenerator,
    classify: Callable[[jax.Array], jax.Array],
    key: jax.Array,
    images: jax.Array,
    batch: Batch,
    *,
    epsilon: float,
    rate: float,
) -> tuple[GeneratorState, Metrics]:
    """Takes one step of Adam, on all images, to raise the mean cross-entropy.

    Args:
        state: The generator so far.
        network: Its module.
        classify: `images -> logits`; the classifier does not change.
        key: Of the noise.
        images: `[B, H, W, C]` in `[0, 1]`.
        batch: Their `label` and `index`.
        epsilon: L2 norm of the noise after clipping.
        rate: Learning rate.

    Returns:
        The generator, and `decisions` on the images with noise of the one before.
    """

    def loss_fn(params):
        noise = learned_noise(network, params, key, batch["index"], images.shape[1:])
        logits = classify(clipping_aware_rescale(images, noise, epsilon))
        values = decisions(logits, batch["label"])
        return -values["loss"].mean(), values

    grads, values = jax.grad(loss_fn, has_aux=True)(state.params)
    updates, opt = _adam.update(grads, state.opt)
    params = jax.tree.map(lambda p, u: p - rate * u, state.params, updates)
    return GeneratorState(params, opt), values


def train_noise_generators(
    classify: Callable[[Any, jax.Array], jax.Array],
    variables: Any,
    source: Any,
    *,
    epsilon: float,
    seeds: Sequence[int],
    variant: str = "1x1",
    num_steps: int = 1000,
    batch_size: int = 128,
    rate: float = 5e-4,
    mesh: jax.sharding.Mesh | None = None,
    progress: Progress | None = None,
) -> list[Any]:
    """Trains noise generators against a classifier that stays as it is.

    Args:
        classify: `(variables, images) -> logits`, any defence or network.
        variables: Its variables.
        source: Images to learn from; never the test split.
        epsilon: L2 norm of the noise after clipping.
        seeds: One for each generator: of its start and its noise. The first is that of
            the order of the images, which all share.
        variant: A key of `NOISE_GENERATORS`.
        num_steps: Steps of Adam.
        batch_size: Over all devices.
        rate: Adam's learning rate.
        mesh: Where to run; all devices by default.
        progress: Where it shows how far it is, and is told to stop.

    Returns:
        The parameters of each; see `learned_noise`.

    Raises:
        ValueError: If the variant is unknown, images cannot have such noise, there are
            fewer than a batch, or a number is out of range.
        FloatingPointError: If a loss was not finite.
        StoppedError: If it was told to stop; nothing is kept.
    """
    mesh = sharding.data_mesh() if mesh is None else mesh
    network = make_noise_generator(variant)
    check_noise_norm(epsilon, tuple(source.image_shape))
    check_whole("num_steps", num_steps, 1)
    check_number("rate", rate, 0.0)

    def step(state, frozen, batch):
        generator, key, count = state
        generator, values = raise_loss(
            generator,
            network,
            functools.partial(classify, frozen),
            jax.random.fold_in(key, count),
            to_float(batch["image"]),
            batch,
            epsilon=epsilon,
            rate=rate,
        )
        return (generator, key, count + 1), decision_sums(values)

    def begin(seed):
        init_key, key = jax.random.split(jax.random.key(seed))
        z = network.draw(key, jnp.arange(1), source.image_shape)
        generator = start_generator(network.init(init_key, z)["params"])
        return generator, key, jnp.zeros((), jnp.int32)

    feed = make_pipeline(source, batch_size=batch_size, seed=seeds[0], mesh=mesh)
    progress, total = progress or Progress(shown=False), len(seeds) * num_steps
    with (
        contextlib.closing(feed),
        progress.bar(total, "noise generators", "step", leave=False) as bar,
    ):
        advance = sharding.compile_steps(step, feed.fetch, mesh)
        variables, found = sharding.replicate(variables, mesh), []
        for seed in seeds:
            state, losses = sharding.replicate(begin(seed), mesh), []
            for start in range(0, num_steps, _DISPATCH):
                progress.stopping()
                size = min(_DISPATCH, num_steps - start)
                inputs = feed.inputs(start, size)
                state, metrics = advance(state, variables, feed.resident, inputs)
                losses.append(metrics["loss"])
                # The device is busy with this dispatch meanwhile.
                jax.block_until_ready(losses[-2:-1])
                bar.update(size)
            if not np.isfinite(np.concatenate(jax.device_get(losses))).all():
                raise FloatingPointError(
                    "the loss of a noise generator is not finite: lower its rate "
                    f"({rate:g}), or look at the classifier"
                )
            found.append(jax.device_get(state[0].params))
    return found


def decision_sums(values: Metrics) -> Metrics:
    """Returns sums of per-image decisions, as a step reports them."""
    count = jnp.asarray(values["loss"].size, jnp.float32)
    sums = {"loss": values["loss"].sum(), "correct": values["accuracy"].sum()}
    return sums | {"count": count}


def check_noise_norm(epsilon: Any, shape: Shape, name: str = "epsilon") -> None:
    """Raises ValueError unless a perturbation of that norm is possible.

    Args:
        epsilon: The norm.
        shape: `(H, W, C)` of the images.
        name: Of the field that has it.
    """
    height, width, channels = shape
    size = f"{height}x{width}x{channels}"
    what = f"{name}, at most the L2 norm from black to white of images {size},"
    check_number(what, epsilon, high=(height * width * channels) ** 0.5, above=0.0)
