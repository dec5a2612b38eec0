"""The judge of defences under attack: attacks them and measures what is left.

Of several attempts of a threat model the best per image counts. So an attacker who
could choose does choose, and a row is the worst case.
"""

import dataclasses
import time
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from uronet_jax import sharding
from uronet_jax.attacks import (
    LOSSES,
    NonFiniteError,
    adaptive,
    balls,
    misclassification,
)
from uronet_jax.batches import check_number
from uronet_jax.defense import DefenseFunction
from uronet_jax.evaluation import metrics
from uronet_jax.evaluation.defense_views import (
    find_blind,
    make_attacked,
    make_measure,
    make_purify,
    prepare_batch,
)
from uronet_jax.evaluation.threat_models import (
    AttackRun,
    Attempt,
    ThreatModel,
    describe_run,
)
from uronet_jax.purifiers import random_stages
from uronet_jax.specs import known_name

# Draws of a random defence over which the best of several attempts is chosen.
_CHOICE_DRAWS = 16
# Memory of an attack over that of a gradient, at most, by `Attack.class_gradients`: a
# row of the benchmark.
ATTACK_MEMORY = {False: 1.5, True: 4.0}


class AttackExamples(NamedTuple):
    """A few images of a row, for figures.

    Attributes:
        index: `[n]`, which of the images.
        clean: `[n, H, W, C]` in `[0, 1]`.
        adversarial: Likewise.
        purified: What the purifier makes of the adversarial ones; None without it.
        right: bool `[n]`, whether the defence still gives the label.
        flagged: bool `[n]`, whether the detector sounds the alarm; all False without.
    """

    index: np.ndarray
    clean: np.ndarray
    adversarial: np.ndarray
    purified: np.ndarray | None
    right: np.ndarray
    flagged: np.ndarray


class Outcome(NamedTuple):
    """What an attempt came to: per batch the images, per image the rest."""

    images: list[jax.Array]
    measured: dict[str, np.ndarray]
    blind: np.ndarray
    seconds: float


class AttackJudge:
    """Attacks a defence and measures what it says to the adversarial images.

    One program per attempt, attack and batch shape; weights, threshold and budgets are
    arguments of it.

    A purifier may be random: attacker and measurement then see different draws.
    """

    def __init__(
        self,
        defense: DefenseFunction,
        variables: dict[str, Any],
        batches: Iterable[dict[str, jax.Array]],
        *,
        mesh: jax.sharding.Mesh,
        threshold: float = 0.5,
        seed: int = 0,
    ):
        """Places variables on the mesh and measures the clean images.

        Args:
            defense: What is attacked; purifier and detector may be absent.
            variables: `classifier`, and `purifier` and `detector` where those are
                given: variables of each.
            batches: Of `data.evaluation_batches`, on the mesh, all of one shape.
            mesh: Where to run.
            threshold: Degraded probability above which an image is flagged; set it on
                clean validation images with `subject.choose_gate`.
            seed: Of the attacks' randomness and the defence's. Image `i` always gets
                the same random starts.

        Raises:
            ValueError: If there is no batch, or the threshold is out of range.
        """
        batches = list(batches)
        if not batches:
            raise ValueError("need at least one batch to evaluate on")
        check_number("threshold", threshold, 0.0, 1.0)
        self._defense = defense
        self._mesh = mesh
        self._threshold = threshold
        keys = jax.random.split(jax.random.key(seed), 4)
        self._frozen, keys = sharding.replicate(
            ({"variables": variables, "threshold": np.float32(threshold)}, keys), mesh
        )
        self._attack_key, self._seen_key, self._choice_key, self._final_key = keys
        prepare = sharding.compile_split(prepare_batch, mesh)
        self._batches = [prepare(batch) for batch in batches]
        # Now: later, on a CPU, what this process keeps for itself would not count.
        self._free_bytes = sharding.free_bytes(mesh)
        self._copy = sharding.compile_replicated(adaptive.unchanged, mesh)
        self._mask = self._fetch([b["mask"] for b in self._batches])
        self._measure = sharding.compile_replicated(make_measure(defense), mesh)
        self._purify = sharding.compile_replicated(make_purify(defense), mesh)
        self._find_blind = sharding.compile_replicated(find_blind, mesh)
        self._blind: dict[tuple, np.ndarray] = {}
        self._gradients: dict[tuple, jax.stages.Compiled] = {}
        self._choose = sharding.compile_split(balls.where, mesh)
        clean = [batch["image"] for batch in self._batches]
        self.clean = self._look(clean, self._final_key)
        self._num_classes = jax.eval_shape(
            defense.classify, self._frozen["variables"]["classifier"], clean[0]
        ).shape[-1]
        own = variables.get("purifier")
        self.random = bool(random_stages(defense.purifier, own, clean[0]))

    @property
    def has_detector(self) -> bool:
        """Whether images can be flagged."""
        return self._defense.detector is not None

    def check_threat(self, threat: ThreatModel) -> None:
        """Raises ValueError unless the defence can be attacked so."""
        targets = ("classifier", "defense")
        known_name(f"target of {threat.name},", threat.target, targets)
        if threat.evades_detector and threat.target == "classifier":
            raise ValueError(f"{threat.name} must know the defence to fool a detector")
        if threat.evades_detector and not self.has_detector:
            raise ValueError(
                f"{threat.name} fools a detector and the defence has none: leave it out"
            )

    def check_run(self, run: AttackRun) -> None:
        """Raises ValueError if the classifier has too few classes for an attack."""
        least = run.attack.least_classes
        if self._num_classes < least:
            raise ValueError(
                f"the loss of {run.name} needs at least {least} classes, the "
                f"classifier has {self._num_classes}: choose an attack that raises "
                "cross_entropy or margin, such as apgd_ce"
            )

    def attack(
        self,
        threat: ThreatModel,
        run: AttackRun,
        *,
        num_batches: int | None = None,
        num_examples: int = 0,
        cache: dict[Attempt, Outcome] | None = None,
    ) -> tuple[dict[str, Any], AttackExamples | None]:
        """Attacks the images under one threat model.

        Args:
            threat: What the attacker knows.
            run: The attack.
            num_batches: How many of the first batches; None for all.
            num_examples: How many images to return; of the first batch, those first
                that the defence has right when clean.
            cache: Outcomes of the attempts so far of this very run, added to. An
                attempt that is in it is not made again.

        Returns:
            A row, see `robustness.attack_table`, and the examples.

        Raises:
            ValueError: If the defence cannot be attacked so.
            NonFiniteError: If a gradient is not finite; with the numbers of the images
                in the data set. It is a `ValueError`.
        """
        self.check_threat(threat)
        self.check_run(run)
        if not threat.suits(run.attack):
            raise ValueError(
                f"{run.name} makes its own loss of the classifier's logits and cannot "
                f"fool the detector too, which is the goal of {threat.name}: choose "
                "another attack, such as apgd_dlr, or another threat model"
            )
        cache = {} if cache is None else cache
        best = None
        attempts = threat.attempts(
            minimal=run.attack.minimal,
            blind=run.attack.gradient_free,
            purifier=self._defense.purifier is not None,
            gated=self._defense.gate is not None,
            random=self.random,
        )
        alone, blind, seconds = {}, None, 0.0
        for attempt in attempts:
            if attempt not in cache:
                cache[attempt] = self._attempt(threat, run, attempt, num_batches)
            outcome = cache[attempt]
            seconds += outcome.seconds
            mask = self._mask[: len(outcome.blind)]
            missed = _share(threat, outcome.measured)[mask] <= 0.5
            alone[attempt.label] = float(missed.mean())
            blind = outcome.blind if blind is None else blind & outcome.blind
            best = outcome if best is None else self._merge(threat, run, best, outcome)
        measured = best.measured
        if self.random:  # Draws by which attempts were chosen would flatter them.
            measured = self._look(best.images, self._final_key)
        randomness = "none"
        if self.random and threat.target != "classifier":
            randomness = "averaged" if threat.samples else "single draw"
        row = {
            **describe_run(threat, run),
            "randomness": randomness,
            "attempts": alone,
            **self._summarise(threat, run, measured, blind),
            "seconds": round(seconds, 2),
        }
        return row, self._examples(best.images, measured, num_examples)

    def _attempt(self, threat, run, attempt, num_batches):
        start = time.perf_counter()
        where = f"{run.name} under {threat.name} ({attempt.label})"
        try:
            blind = self._blindness(run, attempt, len(self._batches[:num_batches]))
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        images = []
        for i, batch in enumerate(self._batches[:num_batches]):
            key = jax.random.fold_in(self._seen_key, i)
            try:
                images.append(self._perturb(run, attempt, batch, key))
            except NonFiniteError as error:
                numbers = self._fetch([batch["index"]])[error.positions]
                raise NonFiniteError(np.unique(numbers), f"{where}: ") from None
            except ValueError as error:
                first = i * batch["mask"].shape[0]
                raise ValueError(
                    f"{where}, in the batch from image {first} on: {error}"
                ) from error
        draws = _CHOICE_DRAWS if self.random else 1
        measured = self._look(images, self._choice_key, draws)
        return Outcome(images, measured, blind, time.perf_counter() - start)

    def _blindness(self, run, attempt, num_batches):
        """Returns where the classifier's loss has no gradient, bool `[N]`.

        That of the detector does not help an attack that cannot change the label.
        """
        attempt = attempt._replace(weight=None, selective=False)
        size = self._batches[0]["mask"].shape[0]
        if run.attack.gradient_free:
            return np.zeros(num_batches * size, bool)
        # First: it says whether there is memory for a batch.
        find = self._compile_gradient(run, attempt)
        known = (attempt, run.attack.loss, num_batches)
        if known not in self._blind:
            found = []
            for i, batch in enumerate(self._batches[:num_batches]):
                key = jax.random.fold_in(self._seen_key, i)
                loss_fn = self._loss_fn(run, attempt, batch, key)
                found.append(find(loss_fn, batch["image"]))
            self._blind[known] = self._fetch(found)
        return self._blind[known]

    def _compile_gradient(self, run, attempt):
        """Returns `find_blind`, compiled for one attempt and loss.

        Raises:
            ValueError: If memory is short for the attack.
        """
        known, batch = (attempt, run.attack.loss), self._batches[0]
        if known not in self._gradients:
            key = jax.random.fold_in(self._seen_key, 0)
            loss_fn = self._loss_fn(run, attempt, batch, key)
            lowered = self._find_blind.lower(loss_fn, batch["image"])
            self._gradients[known] = lowered.compile()
        memory = self._gradients[known].memory_analysis()
        if memory is not None and self._free_bytes is not None:
            # Of several devices both are those of one.
            needed = ATTACK_MEMORY[run.attack.class_gradients]
            needed *= memory.temp_size_in_bytes
            check_memory(len(batch["image"]), needed, self._free_bytes)
        return self._gradients[known]

    def _perturb(self, run, attempt, batch, key):
        """Runs the attack on one batch; not jitted, see `attacks.loop`."""
        images, labels = batch["image"], batch["label"]
        parameters = run.parameters_for(batch)
        if run.attack.takes_logits:
            parameters["epsilon"] = run.epsilon
            if _goes_to_the_end(attempt):
                parameters["stop_early"] = False
        if run.attack.minimal or run.attack.takes_logits:
            if attempt.evades_detector:
                view = self._view(attempt, key, pair=True)
                logits_fn = adaptive.evasion_logits(
                    view, labels, threshold=self._threshold
                )
                labels = jnp.zeros_like(labels)
            else:
                logits_fn = self._view(attempt, key)
            return run.attack(self._attack_key, images, logits_fn, labels, **parameters)
        loss_fn = self._loss_fn(run, attempt, batch, key)
        if attempt.samples and run.takes("samples") and not attempt.evades_detector:
            function = Partial(self._attacked(attempt), self._frozen)
            loss_fn = adaptive.random_misclassification(
                function, labels, loss=run.attack.loss
            )
            parameters["samples"] = attempt.samples
        return run.raise_loss(self._attack_key, batch, loss_fn, **parameters)

    def _loss_fn(self, run, attempt, batch, key):
        """Returns what is raised, `images -> (loss, success)`.

        The margin of an attack that takes no loss function.
        """
        loss, labels = run.attack.loss, batch["label"]
        loss = loss if loss in LOSSES else "margin"
        view = self._view(attempt, key, pair=attempt.evades_detector)
        options = {"threshold": self._threshold, "loss": loss}
        if not attempt.evades_detector:
            loss_fn = misclassification(view, labels, loss=loss)
        elif attempt.selective:
            loss_fn = adaptive.selective_loss(view, labels, **options)
        else:
            weight = attempt.weight
            loss_fn = adaptive.joint_loss(view, labels, weight=weight, **options)
        to_the_end = _goes_to_the_end(attempt)
        return adaptive.without_success(loss_fn) if to_the_end else loss_fn

    def _view(self, attempt, key, pair=False):
        """Returns what is seen: `images -> logits`, or a pair with the detector's."""
        function = self._attacked(attempt, pair)
        if attempt.samples:
            function = Partial(function, self._frozen)
            return adaptive.averaged_logits(function, key, attempt.samples)
        return Partial(function, self._frozen, key)

    def _attacked(self, attempt, pair=False):
        seen = dataclasses.replace(
            self._defense,
            straight_through=attempt.straight_through,
            both_ways=attempt.both_ways,
        )
        return make_attacked(seen, attempt.target, pair)

    def _look(self, images, key, num_draws=1):
        """Measures images, one list entry per batch; means over several draws."""
        draws = []
        for draw in range(num_draws):
            parts = []
            for i, (batch, x) in enumerate(zip(self._batches, images, strict=False)):
                place = jax.random.fold_in(jax.random.fold_in(key, draw), i)
                parts.append(self._measure(self._frozen, place, batch, x))
            parts = jax.device_get(parts)
            finite = np.concatenate([p.pop("finite") for p in parts])
            bad = np.flatnonzero(~finite[self._mask[: len(finite)]])
            if bad.size:
                raise ValueError(
                    f"the logits of {bad.size} images are not finite, the first "
                    f"{bad[:5].tolist()}: a network that overflows cannot be judged"
                )
            draws.append(
                {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
            )
        return {name: np.mean([d[name] for d in draws], axis=0) for name in draws[0]}

    def _merge(self, threat, run, best, other):
        """Returns, image by image, the better of two outcomes."""
        old, new = _score(threat, best.measured), _score(threat, other.measured)
        better = new > old
        if run.attack.minimal:
            norm = run.attack.norm
            better |= (new == old) & (other.measured[norm] < best.measured[norm])
        per_batch = np.split(better, len(best.images))
        images = [
            self._choose(sharding.replicate(choice, self._mesh), b, a)
            for choice, a, b in zip(per_batch, best.images, other.images, strict=True)
        ]
        measured = {
            name: np.where(better, other.measured[name], values)
            for name, values in best.measured.items()
        }
        return Outcome(images, measured, best.blind, best.seconds + other.seconds)

    def _summarise(self, threat, run, measured, blind):
        """Returns the numbers of a row; without a key where nothing is measured."""
        mask = self._mask[: len(blind)]

        def of_real(values):
            return {name: v[: len(blind)][mask] for name, v in values.items()}

        clean, after = of_real(self.clean), of_real(measured)
        standing = _share(threat, clean) == 0
        found = _share(threat, after) == 1
        right_before, right_after = clean["defended"] == 1, after["defended"] == 1
        won = right_before & ~right_after
        counted = standing & found if run.attack.minimal else won
        row = {
            "num_images": len(won),
            "clean_accuracy": float(right_before.mean()),
            "undefended_clean_accuracy": float(clean["undefended"].mean()),
            "undefended_accuracy": float(after["undefended"].mean()),
            **_with_interval("robust_accuracy", right_after),
            "not_found": float((~found).mean()),
            "zero_gradients": _mean(blind[mask][standing], 0.0),
        }
        for norm in balls.NORMS:
            sizes = after[norm][counted]
            row[f"median_{norm}"] = float(np.median(sizes)) if sizes.size else None
        if self.has_detector:
            either = right_after | (after["flagged"] == 1)
            row |= {
                "false_alarm_rate": float(clean["flagged"].mean()),
                "detection_rate": _mean(after["flagged"][won], None),
                **_with_interval("robust_or_detected_accuracy", either),
            }
        return row

    def _examples(self, images, measured, count):
        if not count:
            return None
        batch = self._batches[0]
        size = batch["mask"].shape[0]
        # Right when clean first; padding never.
        order = np.argsort(~(self.clean["defended"][:size] > 0.5), kind="stable")
        index = order[self._mask[:size][order]][:count]
        purified = None
        if self._defense.purifier is not None:
            key = jax.random.fold_in(jax.random.fold_in(self._final_key, 0), 0)
            purified = np.asarray(self._purify(self._frozen, key, images[0]))[index]
        flagged = measured.get("flagged", np.zeros(size))
        return AttackExamples(
            index,
            self._fetch([batch["image"]])[index],
            self._fetch(images[:1])[index],
            purified,
            measured["defended"][index] > 0.5,
            flagged[index] > 0.5,
        )

    def _fetch(self, arrays):
        return np.concatenate([np.asarray(self._copy(x)) for x in arrays])


def check_memory(count: int, needed: float, free: float) -> None:
    """Raises ValueError if an attack on so many images needs more bytes than are free.

    It says how many images fit, as if none needed more with fewer others.
    """
    if needed > free:
        fitting = int(count * free / needed)
        raise ValueError(
            f"attacks on {count} images at a time take about {needed / 1e9:.2g} GB "
            f"and {free / 1e9:.2g} GB are free: "
            + (f"set batch_size to at most {fitting}" if fitting else "too few for one")
        )


def _goes_to_the_end(attempt):
    """Returns whether an image must not stay at its first success.

    An attacker of the classifier alone who stopped at its border would leave the
    defence images that are hardly changed; one of a random defence, a lucky draw.
    """
    return bool(attempt.samples) or attempt.target == "classifier"


def _share(threat, measured):
    """Returns in which share of the draws the goal of a threat model is reached."""
    if threat.target == "classifier":
        return 1.0 - measured["undefended"]
    return measured["evaded"] if threat.evades_detector else 1.0 - measured["defended"]


def _score(threat, measured):
    """Returns what a better image has more of: the goal, then a wrong label."""
    return 2.0 * _share(threat, measured) + (1.0 - measured["defended"])


def _with_interval(name, right):
    """Returns a share of images and its 95 % interval."""
    right, total = int(right.sum()), len(right)
    low, high = metrics.binomial_interval(right, total)
    return {name: right / total, f"{name}_low": low, f"{name}_high": high}


def _mean(values, otherwise):
    return float(values.mean()) if values.size else otherwise
