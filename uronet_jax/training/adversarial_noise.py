"""Adversarial noise training: the classifier learns the noise that hurts it most.

A generator learns noise of a fixed L2 norm against the classifier; the classifier
learns clean images, this noise, and the noise of earlier generators.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from uronet_jax import sharding
from uronet_jax.attacks import clipping_aware_rescale
from uronet_jax.batches import check_number, check_whole
from uronet_jax.models import learned_noise, make_noise_generator
from uronet_jax.training.noise_generator import (
    GeneratorState,
    check_noise_norm,
    decision_sums,
    raise_loss,
    start_generator,
)
from uronet_jax.training.pairs import Pairs, clean_pairs
from uronet_jax.training.state import (
    Batch,
    Metrics,
    TrainState,
    decisions,
    masked_sums,
    update_by_labels,
)
from uronet_jax.training.task import (
    Config,
    Phase,
    Shape,
    Task,
    build_classifier,
)


@flax.struct.dataclass
class AdversarialNoiseState(TrainState):
    """State of a classifier and of the generator that works against it.

    Attributes:
        generator: The current one.
        opponent: Parameters of the one that the classifier learned from last.
        snapshots: Parameters of earlier ones, `[restarts, ...]`, filled one by one.
    """

    generator: GeneratorState
    opponent: Any
    snapshots: Any

    @property
    def variables(self) -> dict[str, Any]:
        """What the validation takes: those of the classifier and its opponent.

        That one is trained, where a new generator may only have begun.
        """
        return {**super().variables, "opponent": self.opponent}


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
    the mean of `clean_accuracy` and `noise_accuracy`: under the generator that the
    classifier learned from last, so each checkpoint has an opponent of its own.

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

    Raises:
        ValueError: If images cannot have noise of that norm, the generator is unknown,
            or restarts and replay do not fit each other; when it steps, if the shares
            do not fit the batch.
    """
    check_noise_norm(epsilon, image_shape)
    _check_restarts(num_steps, restart_every, restart_steps, replay)
    pairs = clean_pairs() if pairs is None else pairs
    network = make_noise_generator(generator)
    cycle = restart_every + restart_steps
    kept = -(-num_steps // cycle) if restart_every else 0

    def draw_generator(key: jax.Array, number: int | jax.Array) -> GeneratorState:
        # Of a stream that no step draws from.
        key = jax.random.fold_in(jax.random.fold_in(key, 2**31 - 1), number)
        z = network.draw(key, jnp.arange(1), image_shape)
        return start_generator(network.init(key, z)["params"])

    def extend(state: TrainState) -> AdversarialNoiseState:
        first = draw_generator(state.key, 0)
        empty = jax.tree.map(lambda x: jnp.zeros((kept, *x.shape)), first.params)
        fields = {name: getattr(state, name) for name in TrainState.__annotations__}
        noises = {"generator": first, "opponent": first.params, "snapshots": empty}
        return AdversarialNoiseState(**fields, **noises)

    def learn(state, key, images, batch, rate):
        model = {"params": state.params, "batch_stats": state.batch_stats}
        classify = functools.partial(classifier.apply, model, train=False)
        return raise_loss(
            *(state.generator, network, classify, key, images, batch),
            epsilon=epsilon,
            rate=rate,
        )

    def restart(state: AdversarialNoiseState, frozen: Any, batch: Batch):
        """A step of a new generator alone."""
        pair_key, noise_key, *_ = _keys(state)
        clean, _ = pairs.train(pair_key, frozen, batch)
        number, position = state.step // cycle, state.step % cycle
        fresh = draw_generator(state.key, number)
        state = state.replace(generator=_where(position == 0, fresh, state.generator))
        learned, values = learn(state, noise_key, clean, batch, restart_rate)
        state = state.replace(step=state.step + 1, generator=learned)
        return state, decision_sums(values) | _named(values)

    def joint(state: AdversarialNoiseState, frozen: Any, batch: Batch):
        """A step of the generator, then one of the classifier."""
        pair_key, noise_key, batch_key, replay_key = _keys(state)
        clean, degraded_images = pairs.train(pair_key, frozen, batch)
        if kept:
            begins = state.step % cycle == restart_steps
            state = keep(state, begins)
        learned, values = learn(state, noise_key, clean, batch, rate)
        state = state.replace(generator=learned, opponent=learned.params)
        shown = compose(state, batch_key, replay_key, clean, degraded_images, batch)
        state, metrics = update_by_labels(
            state, optimizer, classifier, shown, batch["label"]
        )
        return state, metrics | _named(values)

    def keep(state, begins):
        """Keeps the generator where a cycle begins, which then learns anew."""
        number = state.step // cycle
        snapshots = jax.tree.map(
            lambda s, p: s.at[number].set(jnp.where(begins, p, s[number])),
            state.snapshots,
            state.generator.params,
        )
        if restart_steps:
            anew = start_generator(state.generator.params)
            state = state.replace(generator=_where(begins, anew, state.generator))
        return state.replace(snapshots=snapshots)

    def compose(state, key, replay_key, clean, degraded_images, batch):
        """Returns what the classifier is shown, in the order of the batch."""
        blocks = batch_blocks(len(clean))
        block = len(clean) // blocks
        parts = batch_parts(block, noise, replay, replay_slices, degraded)
        generators = [(parts["noise"], state.generator.params)]
        for i, size in enumerate(parts["replay"]):
            latest = state.step // cycle
            slice_key = jax.random.fold_in(replay_key, i)
            drawn = jax.random.randint(slice_key, (), 0, latest + 1, jnp.int32)
            old = jax.tree.map(lambda s, i=drawn: s[i], state.snapshots)
            # In the first cycle there is no earlier one.
            generators.append((size, _where(latest > 0, old, state.generator.params)))
        begin = parts["clean"] + parts["degraded"]
        images = [
            _part(clean, blocks, 0, parts["clean"]),
            _part(degraded_images, blocks, parts["clean"], begin),
        ]
        noisy, made = _part(clean, blocks, begin, block), []
        for size, params in generators:
            index = _part(batch["index"], blocks, begin, begin + size)
            if size:
                made.append(learned_noise(network, params, key, index, image_shape))
            begin += size
        if made:
            pattern = _joined(made, blocks)
            images.append(clipping_aware_rescale(noisy, pattern, epsilon))
        return _joined(images, blocks)

    def evaluate(variables: Any, frozen: Any, key: jax.Array, batch: Batch) -> Metrics:
        clean, _ = pairs.validation(key, frozen, batch)
        params, index = variables["opponent"], batch["index"]
        noise = learned_noise(network, params, key, index, image_shape)
        model = {name: variables[name] for name in ("params", "batch_stats")}
        noisy = clipping_aware_rescale(clean, noise, epsilon)
        on_clean, on_noise = (
            decisions(classifier.apply(model, images, train=False), batch["label"])
            for images in (clean, noisy)
        )
        found = jax.tree.map(lambda a, b: (a + b) / 2, on_clean, on_noise)
        found["clean_accuracy"] = on_clean["accuracy"]
        found["noise_accuracy"] = on_noise["accuracy"]
        return masked_sums(found, batch["mask"])

    step = joint
    if restart_steps:
        kinds = (joint, restart)
        step = sharding.Alternating(kinds, lambda i: (i % cycle < restart_steps) * 1)
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


def batch_blocks(batch_size: int) -> int:
    """Returns into how many equal blocks a batch is divided, each with all its parts.

    Where the devices divide the number of blocks no image has to move, as those of a
    batch of one block do. A block has 100 images at least, or rounding would change the
    shares; it does not depend on the number of devices.
    """
    return max(
        n
        for n in range(1, batch_size + 1)
        if n == 1 or (batch_size % n == 0 and batch_size >= 100 * n)
    )


def _part(x: jax.Array, blocks: int, begin: int, end: int) -> jax.Array:
    """Returns `x[begin:end]` of each block, one after the other."""
    x = x.reshape(blocks, -1, *x.shape[1:])[:, begin:end]
    return x.reshape(-1, *x.shape[2:])


def _joined(parts: Sequence[jax.Array], blocks: int) -> jax.Array:
    """Returns the batch of which `_part` gave these."""
    parts = [x.reshape(blocks, -1, *x.shape[1:]) for x in parts]
    x = jnp.concatenate(parts, axis=1)
    return x.reshape(-1, *x.shape[2:])


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
            f"shares.noise ({noise:g}), .replay ({replay:g}) and .degraded "
            f"({degraded:g}) add up to {sum(shares.values()):g}: at most 1, what is "
            "left over is clean"
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
                f"{share:g} of a batch of {batch_size} is no image: of shares.noise "
                f"({noise:g}), .replay ({replay:g} in {replay_slices}) and .degraded "
                f"({degraded:g}) take larger ones or 0, or larger batches"
            )
    clean, degraded, noise, *replay = ends[0], *counts
    replay = [part for part in replay if part]
    return {"clean": clean, "degraded": degraded, "noise": noise, "replay": replay}


def _keys(state: TrainState) -> jax.Array:
    return jax.random.split(jax.random.fold_in(state.key, state.step), 4)


def _where(condition: jax.Array, a: Any, b: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), a, b)


def _named(values: Metrics) -> Metrics:
    """Returns the metrics of a generator's batch."""
    sums = decision_sums(values)
    return {f"noise_{name}": sums[name] for name in ("loss", "correct")}


def _fields(config: Config) -> dict[str, Any]:
    return {**config["noise"], **config["shares"]}


def _make_task(config: Config, models: Mapping[str, Any], **given: Any) -> Task:
    del models
    return adversarial_noise_task(
        build_classifier(config),
        num_steps=config["num_steps"],
        **_fields(config),
        **given,
    )


def _check(config: Config) -> None:
    noise, shares = config["noise"], config["shares"]
    make_noise_generator(noise["generator"])
    check_number("noise.epsilon", noise["epsilon"], 1e-6)  # The data bound it.
    for name in ("rate", "restart_rate"):
        check_number(f"noise.{name}", noise[name], 0.0)
    for name in ("restart_every", "restart_steps"):
        check_whole(f"noise.{name}", noise[name], 0, 2**31 - 1)
    size = config["batch_size"]
    parts = batch_parts(size // batch_blocks(size) if size > 0 else 0, **shares)
    degradation = config.get("degradation") or {}
    named = [x for x in ("suite", "folder", "noises") if degradation.get(x)]
    if named and not parts["degraded"]:
        raise ValueError(
            f"degradation.{named[0]} ({degradation[named[0]]}) is shown to nobody "
            "while shares.degraded is 0: set the share, or leave the degradation out"
        )
    if parts["degraded"] and not named:
        raise ValueError(
            f"shares.degraded ({shares['degraded']:g}) shows degraded images, and "
            "there are none: set degradation.suite or, for stylised copies, "
            "degradation.folder"
        )
    restarts = noise["restart_every"], noise["restart_steps"]
    _check_restarts(config["num_steps"], *restarts, shares["replay"])


def _check_restarts(num_steps: int, every: int, steps: int, replay: float) -> None:
    if steps and not every:
        raise ValueError(
            f"noise.restart_steps ({steps}) trains a new generator at every restart, "
            "and with 0 there is none: set noise.restart_every"
        )
    if replay and not every:
        raise ValueError(
            f"shares.replay ({replay:g}) shows noise of earlier generators, which are "
            "kept at restarts: set noise.restart_every, or the share to 0"
        )
    if num_steps <= steps:
        raise ValueError(
            f"num_steps ({num_steps}) ends before the classifier's first update: the "
            f"first generator learns for noise.restart_steps ({steps}) alone"
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
