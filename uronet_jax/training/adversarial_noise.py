"""Adversarial noise training: the classifier learns the noise that hurts it most.

A generator learns noise of a fixed L2 norm against the classifier; the classifier
learns clean images, this noise, and the noise of earlier generators.
"""

import functools
from collections.abc import Mapping
from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from uronet_jax import sharding
from uronet_jax.attacks.rescaling import clipping_aware_rescale
from uronet_jax.batches import check_number, check_whole
from uronet_jax.data.pipelines import make_pipeline
from uronet_jax.models.noise_generator import NoiseGenerator, make_noise_generator
from uronet_jax.progress import Progress
from uronet_jax.training.pairs import Pairs, clean_pairs
from uronet_jax.training.state import (
    Batch,
    Metrics,
    TrainState,
    decisions,
    masked_sums,
    to_float,
    update_by_labels,
)
from uronet_jax.training.task import (
    Config,
    Phase,
    Shape,
    Task,
    build_classifier,
)

# Parts of a batch that are not clean; what is left over is.
SHARES = ("noise", "replay", "degraded")
_adam = optax.scale_by_adam()


@flax.struct.dataclass
class AdversarialNoiseState(TrainState):
    """State of a classifier and of the generator that works against it.

    Attributes:
        generator: Parameters of the current generator.
        generator_opt: Its optimizer's state.
        snapshots: Parameters of earlier ones, `[restarts, ...]`, filled one by one.
    """

    generator: Any
    generator_opt: Any
    snapshots: Any

    @property
    def variables(self) -> dict[str, Any]:
        """What the validation takes: those of the classifier and `generator`."""
        return {**super().variables, "generator": self.generator}


def learned_noise(
    generator: NoiseGenerator, params: Any, key: jax.Array, index: jax.Array, shape
) -> jax.Array:
    """Returns noise `[B, *shape]`, of any norm, by key and index `[B]` of the image."""
    return generator.apply({"params": params}, generator.draw(key, index, shape))


def _raise_loss(classify, generator, epsilon, rate, params, opt, key, images, batch):
    """Takes one step of a generator; returns it and what the classifier says.

    It is trained on all images of the batch, and the classifier does not change.
    """
    labels, index = batch["label"], batch["index"]

    def loss_fn(params):
        noise = learned_noise(generator, params, key, index, images.shape[1:])
        logits = classify(clipping_aware_rescale(images, noise, epsilon))
        values = decisions(logits, labels)
        return -values["loss"].mean(), values

    grads, values = jax.grad(loss_fn, has_aux=True)(params)
    updates, opt = _adam.update(grads, opt)
    params = jax.tree.map(lambda p, u: p - rate * u, params, updates)
    return params, opt, values


def adversarial_noise_task(
    classifier: nn.Module,
    optimizer: optax.GradientTransformation,
    pairs: Pairs | None = None,
    *,
    image_shape: Shape,
    num_steps: int,
    epsilon: float,
    generator: str = "1x1",
    rate: float = 1e-4,
    restart_every: int = 0,
    restart_steps: int = 0,
    restart_rate: float = 5e-4,
    noise: float = 0.3,
    replay: float = 0.2,
    replay_slices: int = 2,
    degraded: float = 0.0,
) -> Task:
    """Returns the task of adversarial noise training (Rusak et al., section 4.2).

    A step first updates the generator to raise the cross-entropy of the whole clean
    batch, shown to the classifier in evaluation mode; then it updates the classifier on
    a batch of which shares are clean, noisy by the current generator, noisy by earlier
    ones, and degraded by `pairs`. Every `restart_every` updates, the first included, a
    new generator is trained for `restart_steps` steps against the classifier as it is.

    The metrics are `loss` and `correct` of what the classifier was shown, and
    `noise_loss` and `noise_correct` of the generator's batch; where only the generator
    learns they are the same. The validation's `accuracy`, which ranks checkpoints, is
    the mean of `clean_accuracy` and `noise_accuracy`, under the current generator.

    Args:
        classifier: The module that is trained.
        optimizer: Its optimizer.
        pairs: Where the images come from; by default clean and not augmented.
        image_shape: `(H, W, C)`.
        num_steps: Of the run, those of restarts among them.
        epsilon: L2 norm of the noise after clipping, in units of the intensities.
        generator: A key of `NOISE_GENERATORS`.
        rate: Adam's learning rate for the generator.
        restart_every: Updates of the classifier between restarts; 0 trains one
            generator all along.
        restart_steps: Steps of a new generator alone; 0 goes on with the one there is.
        restart_rate: Adam's learning rate in these.
        noise: Share of the batch with the current generator's noise.
        replay: Share with noise of snapshots, which are kept at every restart. With
            `noise=0` all noise is of a generator drawn from all.
        replay_slices: Slices of that share, each of one snapshot. Until there is more
            than one snapshot they have the current generator's noise.
        degraded: Share of `pairs`' degraded images, such as stylised ones.
    """
    pairs = clean_pairs() if pairs is None else pairs
    network = make_noise_generator(generator)
    margin = network.window - 1
    z_shape = (1, image_shape[0] + margin, image_shape[1] + margin, image_shape[2])
    cycle = restart_every + restart_steps
    count = max(-(-num_steps // cycle), 1) if restart_every else 0

    def extend(state: TrainState) -> AdversarialNoiseState:
        fresh = draw_generator(state.key, -1)
        kept = jax.tree.map(lambda x: jnp.zeros((count, *x.shape), x.dtype), fresh)
        own = {name: getattr(state, name) for name in TrainState.__dataclass_fields__}
        return AdversarialNoiseState(**own, **_started(fresh), snapshots=kept)

    def draw_generator(key, number):
        # Of a stream that no step draws from.
        key = jax.random.fold_in(jax.random.fold_in(key, 2**31 - 1), number + 1)
        return network.init(key, jnp.zeros(z_shape))["params"]

    def raise_loss(state, rate, key, images, batch):
        classify = functools.partial(
            classifier.apply, TrainState.variables.fget(state), train=False
        )
        return _raise_loss(
            classify,
            network,
            epsilon,
            rate,
            state.generator,
            state.generator_opt,
            key,
            images,
            batch,
        )

    def keys_of(state):
        return jax.random.split(jax.random.fold_in(state.key, state.step), 4)

    def restart(state: AdversarialNoiseState, frozen: Any, batch: Batch):
        """A step of a new generator alone."""
        pair_key, noise_key, *_ = keys_of(state)
        clean, _ = pairs.train(pair_key, frozen, batch)
        number, position = state.step // cycle, state.step % cycle
        state = _where(
            position == 0, _started(draw_generator(state.key, number)), state
        )
        params, opt, values = raise_loss(state, restart_rate, noise_key, clean, batch)
        state = state.replace(step=state.step + 1, generator=params, generator_opt=opt)
        metrics = _metrics(values)
        return state, metrics | {f"noise_{k}": metrics[k] for k in ("loss", "correct")}

    def joint(state: AdversarialNoiseState, frozen: Any, batch: Batch):
        """A step of the generator, then one of the classifier."""
        pair_key, noise_key, learn_key, replay_key = keys_of(state)
        clean, shown = pairs.train(pair_key, frozen, batch)
        if count:
            number, position = state.step // cycle, state.step % cycle
            begins = position == restart_steps
            if restart_steps:
                state = _where(begins, _started(state.generator), state)
            kept = jax.tree.map(
                lambda s, g: s.at[number].set(jnp.where(begins, g, s[number])),
                state.snapshots,
                state.generator,
            )
            state = state.replace(snapshots=kept)
        params, opt, values = raise_loss(state, rate, noise_key, clean, batch)
        state = state.replace(generator=params, generator_opt=opt)

        parts = batch_parts(clean.shape[0], noise, replay, replay_slices, degraded)
        begin = parts["clean"] + parts["degraded"]
        generators = [(parts["noise"], params)]
        for i, size in enumerate(parts["replay"]):
            drawn = jax.random.randint(
                jax.random.fold_in(replay_key, i), (), 0, number + 1
            )
            old = jax.tree.map(lambda s, d=drawn: s[d], state.snapshots)
            old = jax.tree.map(
                lambda o, p, n=number: jnp.where(n == 0, p, o), old, params
            )
            generators.append((size, old))
        z = network.draw(learn_key, batch["index"][begin:], image_shape)
        made = []
        for size, weights in generators:
            if size:
                made.append(network.apply({"params": weights}, z[:size]))
                z = z[size:]
        images = [clean[: parts["clean"]], shown[parts["clean"] : begin]]
        if made:
            made = jax.lax.stop_gradient(jnp.concatenate(made))
            images.append(clipping_aware_rescale(clean[begin:], made, epsilon))
        state, metrics = update_by_labels(
            state, optimizer, classifier, jnp.concatenate(images), batch["label"]
        )
        learned = _metrics(values)
        return state, metrics | {f"noise_{k}": learned[k] for k in ("loss", "correct")}

    def evaluate(variables: Any, frozen: Any, key: jax.Array, batch: Batch) -> Metrics:
        clean, _ = pairs.validation(key, frozen, batch)
        noise = learned_noise(
            network, variables["generator"], key, batch["index"], image_shape
        )
        model = {name: variables[name] for name in ("params", "batch_stats")}
        on_clean, on_noise = (
            decisions(classifier.apply(model, images, train=False), batch["label"])
            for images in (clean, clipping_aware_rescale(clean, noise, epsilon))
        )
        found = jax.tree.map(lambda a, b: (a + b) / 2, on_clean, on_noise)
        found["clean_accuracy"] = on_clean["accuracy"]
        found["noise_accuracy"] = on_noise["accuracy"]
        return masked_sums(found, batch["mask"])

    step = joint
    if restart_steps:
        step = sharding.Alternating(
            (joint, restart), lambda step: (step % cycle < restart_steps) * 1
        )
    return Task(
        "adversarial noise",
        classifier,
        image_shape,
        optimizer,
        step,
        evaluate,
        ("accuracy", "max"),
        pairs.frozen,
        extend=extend,
    )


def batch_parts(
    batch_size: int, noise: float, replay: float, replay_slices: int, degraded: float
) -> dict[str, Any]:
    """Returns how many images of a batch are what: `clean`, `degraded`, `noise`.

    `replay` is a list, a number for each slice. Numbers are rounded from shares.

    Raises:
        ValueError: If shares are negative or add up to more than one, or one that is
            not 0 has no image in the batch.
    """
    shares = {"noise": noise, "replay": replay, "degraded": degraded}
    for name, share in shares.items():
        check_number(f"shares.{name}", share, 0.0, 1.0)
    if sum(shares.values()) > 1 + 1e-9:
        raise ValueError(
            f"shares.noise, .replay and .degraded add up to {sum(shares.values()):g}: "
            "at most 1, what is left over is clean"
        )
    check_whole("shares.replay_slices", replay_slices, 1, 1000)
    # Ends of the parts are rounded, so that they fill the batch.
    sizes = [degraded, noise, *[replay / replay_slices] * replay_slices]
    ends = [1.0 - sum(sizes)]
    for size in sizes:
        ends.append(ends[-1] + size)
    ends = [round(batch_size * end) for end in ends]
    counts = [b - a for a, b in zip(ends, ends[1:], strict=False)]
    for share, part in zip(sizes, counts, strict=True):
        if share and not part:
            raise ValueError(
                f"a share of {share:g} of a batch of {batch_size} is no image: take "
                "larger batches, larger shares or fewer slices"
            )
    clean, degraded, noise, *replay = ends[0], *counts
    replay = [part for part in replay if part]
    return {"clean": clean, "degraded": degraded, "noise": noise, "replay": replay}


def train_noise_generator(
    classify: Any,
    variables: Any,
    source: Any,
    *,
    epsilon: float,
    variant: str = "1x1",
    num_steps: int = 1000,
    batch_size: int = 128,
    rate: float = 5e-4,
    seed: int = 0,
    mesh: jax.sharding.Mesh | None = None,
    progress: Progress | None = None,
) -> Any:
    """Trains a noise generator against a classifier that stays as it is.

    Args:
        classify: `(variables, images) -> logits`, any defence or network.
        variables: Its variables.
        source: Images to learn from; never the test split.
        epsilon: L2 norm of the noise after clipping.
        variant: A key of `NOISE_GENERATORS`.
        num_steps: Steps of Adam.
        batch_size: Over all devices.
        rate: Adam's learning rate.
        seed: Of the generator, its noise and the order of images.
        mesh: Where to run; all devices by default.
        progress: Where it shows how far it is, and is told to stop.

    Returns:
        The generator's parameters; see `learned_noise`.
    """
    mesh = sharding.data_mesh() if mesh is None else mesh
    network = make_noise_generator(variant)
    _check_epsilon(epsilon, tuple(source.image_shape))
    key = jax.random.key(seed)
    init_key, draw_key = jax.random.split(key)
    z = network.draw(draw_key, jnp.arange(1), source.image_shape)
    started = _started(network.init(init_key, z)["params"])
    state = {**started, "step": jnp.zeros((), jnp.int32)}

    def step(state, frozen, batch):
        params, opt, values = _raise_loss(
            functools.partial(classify, frozen),
            network,
            epsilon,
            rate,
            state["generator"],
            state["generator_opt"],
            jax.random.fold_in(draw_key, state["step"]),
            to_float(batch["image"]),
            batch,
        )
        state = {"generator": params, "generator_opt": opt, "step": state["step"] + 1}
        return state, _metrics(values)

    feed = make_pipeline(source, batch_size=batch_size, seed=seed, mesh=mesh)
    advance = sharding.compile_steps(step, feed.fetch, mesh)
    state, variables = sharding.replicate((state, variables), mesh)
    progress = progress or Progress(shown=False)
    with progress.bar(num_steps, "noise generator", "step", leave=False) as bar:
        for start in range(0, num_steps, 10):
            progress.stopping()
            size = min(10, num_steps - start)
            state, metrics = advance(
                state, variables, feed.resident, feed.inputs(start, size)
            )
            loss = float(metrics["loss"][-1] / metrics["count"][-1])
            bar.set_postfix(loss=f"{loss:.3g}", refresh=False)
            bar.update(size)
    feed.close()
    return jax.device_get(state["generator"])


def _started(params: Any) -> dict[str, Any]:
    """Returns a generator with a fresh optimizer, as fields of the state."""
    return {"generator": params, "generator_opt": _adam.init(params)}


def _where(condition, fields, state):
    """Returns the state, with these fields where the condition holds."""
    chosen = {
        name: jax.tree.map(
            lambda a, b: jnp.where(condition, a, b), value, getattr(state, name)
        )
        for name, value in fields.items()
    }
    return state.replace(**chosen)


def _metrics(values: Metrics) -> Metrics:
    """Returns sums of per-image decisions, as a step reports them."""
    count = jnp.asarray(values["loss"].size, jnp.float32)
    sums = {"loss": values["loss"].sum(), "correct": values["accuracy"].sum()}
    return sums | {"count": count}


def _check_epsilon(epsilon: Any, shape: Shape) -> None:
    """Raises ValueError unless a perturbation of that norm is possible."""
    check_number("epsilon", epsilon, 0.0)
    height, width, channels = shape
    largest = (height * width * channels) ** 0.5
    if not 0 < epsilon <= largest:
        raise ValueError(
            f"epsilon must be above 0 and at most {largest:.4g}, the L2 norm from "
            f"black to white of images {height}x{width}x{channels}: {epsilon}"
        )


def _fields(config: Config) -> dict[str, Any]:
    return {**config["noise"], **config["shares"]}


def _make_task(config: Config, models: Mapping[str, Any], **given: Any) -> Task:
    del models
    _check_epsilon(config["noise"]["epsilon"], given["image_shape"])
    return adversarial_noise_task(
        build_classifier(config),
        num_steps=config["num_steps"],
        **_fields(config),
        **given,
    )


def _check(config: Config) -> None:
    noise, shares = config["noise"], config["shares"]
    make_noise_generator(noise["generator"])
    _check_epsilon(noise["epsilon"], (2**10, 2**10, 4))  # The data decide later.
    for name in ("rate", "restart_rate"):
        check_number(f"noise.{name}", noise[name], 0.0)
    for name in ("restart_every", "restart_steps"):
        check_whole(f"noise.{name}", noise[name], 0, 2**31 - 1)
    parts = batch_parts(config["batch_size"], **shares)
    if not noise["restart_every"]:
        if noise["restart_steps"]:
            raise ValueError(
                "noise.restart_steps trains a new generator at every restart, and "
                "there is none: set noise.restart_every"
            )
        if parts["replay"]:
            raise ValueError(
                "shares.replay shows noise of earlier generators, which are kept at "
                "restarts: set noise.restart_every, or the share to 0"
            )


def _updates(config: Config) -> int:
    noise, steps = config["noise"], config["num_steps"]
    cycle = noise["restart_every"] + noise["restart_steps"]
    if not cycle:
        return steps
    whole, rest = divmod(steps, cycle)
    return whole * noise["restart_every"] + max(rest - noise["restart_steps"], 0)


ADVERSARIAL_NOISE_PHASE = Phase(
    "classifier",
    build_classifier,
    _make_task,
    check=_check,
    degrades=False,
    updates=_updates,
)
