"""Adversarial noise training: the classifier learns the noise that hurts it most.

A generator learns noise of a fixed L2 norm against the classifier; the classifier
learns clean images, this noise, and the noise of earlier generators.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from uronet_jax import sharding
from uronet_jax.attacks import clipping_aware_rescale
from uronet_jax.batches import check_number, check_whole
from uronet_jax.models import NoiseGenerator, learned_noise, make_noise_generator
from uronet_jax.training.noise_batches import batch_blocks, batch_parts, compose_batch
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
    cycle = restart_every + restart_steps
    training = _Training(
        classifier,
        optimizer,
        clean_pairs() if pairs is None else pairs,
        make_noise_generator(generator),
        image_shape,
        epsilon=epsilon,
        rate=rate,
        restart_rate=restart_rate,
        cycle=cycle,
        alone=restart_steps,
        kept=-(-num_steps // cycle) if restart_every else 0,
        shares=(noise, replay, replay_slices, degraded),
    )
    step = training.joint
    if restart_steps:
        kinds = (training.joint, training.restart)
        step = sharding.Alternating(kinds, lambda i: (i % cycle < restart_steps) * 1)
    return Task(
        "adversarial noise",
        classifier,
        image_shape,
        optimizer,
        step,
        training.evaluate,
        ("accuracy", "max"),
        training.pairs.frozen,
        extend=training.extend,
    )


@dataclasses.dataclass(frozen=True, eq=False)
class _Training:
    """What the steps know besides their arguments, see `adversarial_noise_task`.

    Of every `cycle` steps the first `alone` are of a new generator; `kept` of them have
    a place among the snapshots.
    """

    classifier: nn.Module
    optimizer: optax.GradientTransformation
    pairs: Pairs
    network: NoiseGenerator
    image_shape: Shape
    epsilon: float
    rate: float
    restart_rate: float
    cycle: int
    alone: int
    kept: int
    shares: tuple[float, float, int, float]  # Of `batch_parts`.

    def extend(self, state: TrainState) -> AdversarialNoiseState:
        """Adds the first generator and places for those that are kept."""
        first = self._draw_generator(state.key, 0)
        empty = jax.tree.map(lambda x: jnp.zeros((self.kept, *x.shape)), first.params)
        fields = {name: getattr(state, name) for name in TrainState.__annotations__}
        noises = {"generator": first, "opponent": first.params, "snapshots": empty}
        return AdversarialNoiseState(**fields, **noises)

    def restart(self, state: AdversarialNoiseState, frozen: Any, batch: Batch):
        """A step of a new generator alone."""
        pair_key, noise_key, *_ = _keys(state)
        clean, _ = self.pairs.train(pair_key, frozen, batch)
        number, position = state.step // self.cycle, state.step % self.cycle
        fresh = self._draw_generator(state.key, number)
        state = state.replace(generator=_where(position == 0, fresh, state.generator))
        learned, values = self._learn(state, noise_key, clean, batch, self.restart_rate)
        state = state.replace(step=state.step + 1, generator=learned)
        return state, decision_sums(values) | _named(values)

    def joint(self, state: AdversarialNoiseState, frozen: Any, batch: Batch):
        """A step of the generator, then one of the classifier."""
        pair_key, noise_key, batch_key, replay_key = _keys(state)
        clean, degraded_images = self.pairs.train(pair_key, frozen, batch)
        if self.kept:
            state = self._keep(state, state.step % self.cycle == self.alone)
        learned, values = self._learn(state, noise_key, clean, batch, self.rate)
        state = state.replace(generator=learned, opponent=learned.params)
        parts = batch_parts(len(clean) // batch_blocks(len(clean)), *self.shares)
        replayed = [
            self._snapshot(state, replay_key, i) for i in range(len(parts["replay"]))
        ]
        shown = compose_batch(
            *(clean, degraded_images, batch["index"], parts),
            [state.generator.params, *replayed],
            functools.partial(self._noise, batch_key),
            self.epsilon,
        )
        state, metrics = update_by_labels(
            state, self.optimizer, self.classifier, shown, batch["label"]
        )
        return state, metrics | _named(values)

    def evaluate(
        self, variables: Any, frozen: Any, key: jax.Array, batch: Batch
    ) -> Metrics:
        """Judges clean images, and them with noise of the opponent."""
        clean, _ = self.pairs.validation(key, frozen, batch)
        noise = self._noise(key, variables["opponent"], batch["index"])
        model = {name: variables[name] for name in ("params", "batch_stats")}
        noisy = clipping_aware_rescale(clean, noise, self.epsilon)
        on_clean, on_noise = (
            decisions(self.classifier.apply(model, images, train=False), batch["label"])
            for images in (clean, noisy)
        )
        found = jax.tree.map(lambda a, b: (a + b) / 2, on_clean, on_noise)
        found["clean_accuracy"] = on_clean["accuracy"]
        found["noise_accuracy"] = on_noise["accuracy"]
        return masked_sums(found, batch["mask"])

    def _draw_generator(self, key: jax.Array, number: int | jax.Array):
        # Of a stream that no step draws from.
        key = jax.random.fold_in(jax.random.fold_in(key, 2**31 - 1), number)
        z = self.network.draw(key, jnp.arange(1), self.image_shape)
        return start_generator(self.network.init(key, z)["params"])

    def _learn(self, state, key, images, batch, rate):
        model = {"params": state.params, "batch_stats": state.batch_stats}
        classify = functools.partial(self.classifier.apply, model, train=False)
        return raise_loss(
            *(state.generator, self.network, classify, key, images, batch),
            epsilon=self.epsilon,
            rate=rate,
        )

    def _keep(self, state, begins):
        """Keeps the generator where a cycle begins, which then learns anew."""
        number = state.step // self.cycle
        snapshots = jax.tree.map(
            lambda s, p: s.at[number].set(jnp.where(begins, p, s[number])),
            state.snapshots,
            state.generator.params,
        )
        if self.alone:
            anew = start_generator(state.generator.params)
            state = state.replace(generator=_where(begins, anew, state.generator))
        return state.replace(snapshots=snapshots)

    def _snapshot(self, state, key, number):
        """Returns one of the generators that were kept, drawn for a slice."""
        latest = state.step // self.cycle
        slice_key = jax.random.fold_in(key, number)
        drawn = jax.random.randint(slice_key, (), 0, latest + 1, jnp.int32)
        old = jax.tree.map(lambda s: s[drawn], state.snapshots)
        # In the first cycle there is no earlier one.
        return _where(latest > 0, old, state.generator.params)

    def _noise(self, key, params, index):
        return learned_noise(self.network, params, key, index, self.image_shape)


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
    check_noise_norm(config["noise"]["epsilon"], given["image_shape"], "noise.epsilon")
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
        check_whole(f"noise.{name}", noise[name], 0)
    size = config["batch_size"]
    parts = batch_parts(size // batch_blocks(size) if size > 0 else 0, **shares)
    degradation = config.get("degradation") or {}
    if degradation.get("clean_share"):
        raise ValueError(
            f"degradation.clean_share ({degradation['clean_share']}) would make fewer "
            "images degraded than shares.degraded says: set it to 0; what the shares "
            "leave over is clean"
        )
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
    fields=(
        *("model.name", "noise.generator", "noise.epsilon", "noise.rate"),
        *("noise.restart_every", "noise.restart_steps", "noise.restart_rate"),
        *("shares.noise", "shares.replay", "shares.replay_slices", "shares.degraded"),
    ),
)
