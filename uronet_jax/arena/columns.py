"""What every defence is judged on. A cell is one column of one defence.

A measurement is `(bench, contender, trial) -> values`, fit for JSON. Accuracies are
fractions of all images; `low` and `high` bound them at 95 %, by the images: Wilson's
interval of a share, percentiles of 1,000 bootstrap samples of a mean or a median.
"""

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.tree_util import Partial

from uronet_jax import sharding
from uronet_jax.arena import fairness
from uronet_jax.arena.bench import Bench, Shown
from uronet_jax.arena.contenders import Contender
from uronet_jax.attacks.auto import autoattack
from uronet_jax.attacks.auto.versions import AttackStep
from uronet_jax.corruptions import list_corruptions, suite_degradations
from uronet_jax.defense import DefenseFunction, classifier_function
from uronet_jax.evaluation import corruption_errors, metrics
from uronet_jax.evaluation.attack_judge import AttackJudge
from uronet_jax.evaluation.defense_views import make_attacked
from uronet_jax.evaluation.judge import CorruptionEntry, Entry
from uronet_jax.evaluation.noise_robustness import noise_distances
from uronet_jax.evaluation.threat_models import THREAT_MODELS, AttackRun, make_run
from uronet_jax.progress import Progress

Values = dict[str, Any]

# Corruptions by family: the four of the benchmarks' papers with the validation
# corruptions where they belong, and what only MNIST-C has.
CORRUPTION_FAMILIES = {
    "noise": (*corruption_errors.CATEGORIES["noise"], "speckle_noise"),
    "blur": (*corruption_errors.CATEGORIES["blur"], "gaussian_blur"),
    "weather": (*corruption_errors.CATEGORIES["weather"], "spatter"),
    "digital": (*corruption_errors.CATEGORIES["digital"], "saturate"),
    "geometry": ("shear", "scale", "rotate", "translate"),
    "lines": ("stripe", "dotted_line", "zigzag", "canny_edges"),
}
_BOOTSTRAPS = 1000
_TURNS = 3  # Of timing.


class Trial(NamedTuple):
    """How a defence is judged.

    Attributes:
        config: The fields of `configs/arena.py`.
        progress: Tells to stop.
    """

    config: Mapping[str, Any]
    progress: Progress

    @property
    def seeds(self) -> Sequence[int]:
        """Of the draws of degradations."""
        return [self.config["seed"] + i for i in range(self.config["num_seeds"])]

    @property
    def attack(self) -> Mapping[str, Any]:
        """Budget and effort of attacks."""
        return self.config["attack"]


def right(bench: Bench, contender: Contender, shown: Shown, **options: Any) -> Any:
    """Returns whether a defence gives the labels, bool `[N]`."""
    logits = bench.answers(contender, shown, **options).logits
    return logits.argmax(-1) == bench.labels[: len(logits)]


def share(hits: np.ndarray) -> Values:
    """Returns a share of images with its interval."""
    low, high = metrics.binomial_interval(int(hits.sum()), len(hits))
    return {"accuracy": float(hits.mean()), "low": low, "high": high}


def bootstrap(values: np.ndarray, statistic: Callable = np.mean) -> Values:
    """Returns the interval of a mean over images of their own means, `[N]`."""
    draw = np.random.default_rng(0)
    rows = draw.integers(0, len(values), (_BOOTSTRAPS, len(values)))
    low, high = np.quantile(statistic(values[rows], axis=1), [0.025, 0.975])
    return {"low": float(low), "high": float(high)}


def _clean(bench: Bench, contender: Contender, trial: Trial) -> Values:
    del trial
    answers = bench.answers(contender, bench.shown())
    values = share(answers.logits.argmax(-1) == bench.labels)
    if contender.threshold is not None:
        alarms = share(answers.probability > contender.threshold)
        values["false_alarms"] = alarms.pop("accuracy")
        values |= {f"false_alarms_{name}": x for name, x in alarms.items()}
        values["threshold"] = contender.threshold
    return values


def _over(bench, contender, trial, entries: Sequence[Entry]) -> tuple[Values, Any]:
    """Returns means over degradations, and per degradation and image the share."""
    hits, seeds = [], []
    for seed in trial.seeds:
        found = []
        for entry in entries:
            trial.progress.stopping()
            shown = bench.shown(entry, seed)
            found.append(right(bench, contender, shown, draw=seed))
        hits.append(found)
        seeds.append(float(np.mean(found)))
    per_image = np.mean(hits, axis=0)  # [entries, N]
    by_entry = {
        f"{entry.noise} {entry.severity}": float(x.mean())
        for entry, x in zip(entries, per_image, strict=True)
    }
    values = {"mean": float(per_image.mean()), **bootstrap(per_image.mean(0))}
    values |= {"by_entry": by_entry, "seeds": seeds}
    if len(seeds) > 1:
        values["seed_std"] = float(np.std(seeds, ddof=1))
    return values, per_image


def _noises(bench: Bench, contender: Contender, trial: Trial) -> Values:
    entries = suite_degradations("uronet", **_some(trial, "noises"))
    values, _ = _over(bench, contender, trial, entries)
    worst = min(values["by_entry"], key=values["by_entry"].get)
    return values | {"worst": values["by_entry"][worst], "worst_noise": worst}


def _some(trial: Trial, field: str) -> dict[str, Any]:
    section = trial.config[field]
    return {
        "noises": section["names"] or None,
        "severities": section["severities"] or None,
    }


def _suite(trial: Trial, field: str) -> list[Entry]:
    section = trial.config[field]
    suite = section["suite"]
    return [
        CorruptionEntry(name, severity, suite)
        for name in section["names"] or list_corruptions(suite)
        if name != "identity"
        for severity in section["severities"]
    ]


def _corruptions(bench: Bench, contender: Contender, trial: Trial) -> Values:
    entries = _suite(trial, "corruptions")
    values, per_image = _over(bench, contender, trial, entries)
    families = {
        family: [i for i, entry in enumerate(entries) if entry.noise in names]
        for family, names in CORRUPTION_FAMILIES.items()
    }
    for family, rows in families.items():
        if rows:
            values[family] = float(per_image[rows].mean())
    others = [i for i in range(len(entries)) if i not in families["noise"]]
    if others:
        without = per_image[others].mean(0)
        values["without_noises"] = float(without.mean())
        ends = bootstrap(without)
        values |= {f"without_noises_{name}": x for name, x in ends.items()}
    return values


def _unseen(bench: Bench, contender: Contender, trial: Trial) -> Values:
    values, _ = _over(bench, contender, trial, _suite(trial, "unseen"))
    return values


def grey_runs(trial: Trial, names: Sequence[str]) -> list[AttackRun]:
    """Returns the attacks on the classifier alone, with the arena's budget."""
    attack, runs = trial.attack, []
    for name in names:
        usual = make_run(name, epsilon=1.0)
        own: dict[str, Any] = {"epsilon": attack["epsilon"]}
        if usual.takes("steps"):
            blind = usual.attack.gradient_free
            own["steps"] = attack["queries"] if blind else attack["steps"]
        if usual.takes("targets"):
            own["targets"] = attack["targets"]
        runs.append(make_run(name, **own))
    return runs


def _grey(names: Sequence[str]) -> Callable[..., Values]:
    def measure(bench: Bench, contender: Contender, trial: Trial) -> Values:
        each = {}
        for run in grey_runs(trial, names):
            shown = bench.attacked(run, trial.progress)
            each[run.name] = right(bench, contender, shown, draw=trial.seeds[0])
        standing = np.all(list(each.values()), axis=0)
        few = standing[: trial.attack["num_images"] or None]
        return share(standing) | {
            "attacks": {name: float(x.mean()) for name, x in each.items()},
            # Of those that white boxes attack.
            "accuracy_of_attacked": float(few.mean()),
        }

    return measure


def _attack_judge(bench: Bench, contender: Contender, trial: Trial) -> AttackJudge:
    attack = trial.attack
    count, size = attack["num_images"] or None, attack["batch_size"]
    judge = bench.judge(trial.config["seed"], count, size)
    return AttackJudge(
        contender.defense,
        contender.variables,
        judge.batches(),
        mesh=bench.mesh,
        threshold=0.5 if contender.threshold is None else contender.threshold,
        seed=trial.config["seed"],
    )


_KEPT = (
    *("attack", "threat", "parameters", "attempts", "randomness", "zero_gradients"),
    *("not_found", "median_linf", "num_images"),
)


def _white_pgd(bench: Bench, contender: Contender, trial: Trial) -> Values:
    attack = trial.attack
    samples = attack["samples"]
    threat = THREAT_MODELS["adaptive"]._replace(samples=samples)
    if contender.black_box:
        # No gradient to follow.
        threat = THREAT_MODELS["white_box"]
        (run,) = grey_runs(trial, ("square_linf",))
    else:
        (run,) = grey_runs(trial, ("pgd_linf",))
    row, _ = _attack_judge(bench, contender, trial).attack(threat, run)
    values = {name: row[f"robust_{name}"] for name in ("accuracy",)}
    values |= {x: row[f"robust_accuracy_{x}"] for x in ("low", "high")}
    return values | {name: row[name] for name in _KEPT}


def auto_steps(trial: Trial, *, random: bool, black_box: bool) -> list[AttackStep]:
    """Returns the sequence of AutoAttack with the arena's effort."""
    attack = trial.attack
    steps = {"steps": attack["steps"]}
    square = AttackStep("square", "square", {"steps": attack["queries"]})
    if black_box:
        return [square]
    found = [AttackStep("apgd-ce", "apgd", {"loss": "cross_entropy", **steps})]
    if random:
        return [*found, AttackStep("apgd-dlr", "apgd", {"loss": "dlr", **steps})]
    targets = {"targets": attack["targets"], **steps}
    found.append(AttackStep("apgd-t", "apgd", {"loss": "targeted_dlr", **targets}))
    if attack["fab"]:
        found.append(AttackStep("fab-t", "fab", targets))
    return [*found, square]


def _white_autoattack(bench: Bench, contender: Contender, trial: Trial) -> Values:
    attack, count = trial.attack, trial.attack["num_images"] or None
    images = bench.images[:count].astype(np.float32) / 255.0
    frozen = {"variables": bench.place(contender)}
    attacked = make_attacked(contender.defense)
    if contender.random:
        logits_fn = Partial(attacked, frozen)
    else:
        logits_fn = Partial(attacked, frozen, jax.random.key(0))
    even = -(-len(images) // bench.mesh.size) * bench.mesh.size
    result = autoattack(
        jax.random.key(trial.config["seed"]),
        images,
        logits_fn,
        bench.labels[:count],
        epsilon=attack["epsilon"],
        version=auto_steps(
            trial, random=contender.random, black_box=contender.black_box
        ),
        batch_size=min(attack["batch_size"], even),
        samples=attack["samples"] if contender.random else 0,
        place=functools.partial(sharding.split_batch, mesh=bench.mesh),
    )
    log = {row["attack"]: row["robust_accuracy"] for row in result.log}
    return share(result.robust) | {
        "attacks": log,
        "num_images": len(images),
        "warnings": list(result.warnings),
    }


def _detector_aware(bench: Bench, contender: Contender, trial: Trial) -> Values:
    if contender.threshold is None:
        return {}
    (run,) = grey_runs(trial, ("pgd_linf",))
    threat = THREAT_MODELS["detector_aware"]
    row, _ = _attack_judge(bench, contender, trial).attack(threat, run)
    values = {"accuracy": row["robust_or_detected_accuracy"]}
    for name in ("low", "high"):
        values[name] = row[f"robust_or_detected_accuracy_{name}"]
    return values | {name: row[name] for name in _KEPT}


@dataclasses.dataclass(frozen=True)
class _OneDraw:
    """`(variables, images) -> logits`; of a random defence, one draw."""

    defense: DefenseFunction

    def __call__(self, variables, images):
        return self.defense.answer(variables, images, jax.random.key(0)).logits


def _eps_star(bench: Bench, contender: Contender, trial: Trial) -> Values:
    section = trial.config["eps_star"]
    distances = noise_distances(
        bench.judge(trial.config["seed"], section["num_images"] or None),
        _OneDraw(contender.defense),
        bench.place(contender),
        seed=trial.config["seed"],
        steps=section["steps"],
    )
    never = float(np.isinf(distances).mean())
    # An image that is never fooled is farther than all others, in the median too.
    largest = math.sqrt(math.prod(bench.images.shape[1:]))
    finite = np.minimum(distances, largest)
    median = float(np.median(finite))
    values = {"infinite": median >= largest, "never_fooled": never}
    values |= {"eps_star": median, "num_images": len(distances)}
    return values | bootstrap(finite, np.median)


def _cost(bench: Bench, contender: Contender, trial: Trial) -> Values:
    """Returns size, and the time beside that of the classifier alone, in turns."""
    del trial
    clean = bench.shown()
    alone = dataclasses.replace(
        contender,
        defense=DefenseFunction(classifier_function(bench.classifier.module)),
        variables={"classifier": bench.classifier.variables},
        identity=bench.classifier.identity,
    )
    # No picture is taken from those that are kept.
    pair = dataclasses.replace(contender, purifier_identity=None), alone
    ratios = []
    for turn in range(1 + _TURNS):
        seconds = []
        for each in pair:
            bench.place(each)
            start = time.perf_counter()
            bench.answers(each, clean)
            seconds.append(time.perf_counter() - start)
        if turn:  # The first one compiles.
            ratios.append(seconds[0] / seconds[1])
    return {
        "relative_time": float(np.median(ratios)),
        "parameters": contender.parameters,
        "training_minutes": contender.card.training_minutes,
    }


def _fairness(bench: Bench, contender: Contender, trial: Trial) -> Values:
    return fairness.look(bench, contender, trial.config, trial.progress)


class Column(NamedTuple):
    """A cell's measurement.

    Attributes:
        text: What it measures.
        measure: `(bench, contender, trial) -> values`.
        fields: Of the config, on which its values depend.
        version: Of the measurement; cells of another one are measured anew.
        timed: Whether its values depend on the device.
    """

    text: str
    measure: Callable[[Bench, Contender, Trial], Values]
    fields: tuple[str, ...] = ()
    version: int = 0
    timed: bool = False


ARENA_COLUMNS: dict[str, Column] = {
    "clean": Column("clean images, false alarms", _clean, ("false_alarms",)),
    "fairness": Column("signs of cheating", _fairness, ("fairness", "noises")),
    "cost": Column("speed and size", _cost, version=2, timed=True),
    "noises": Column("the six noises of URoNet", _noises, ("noises", "num_seeds")),
    "corruptions": Column(
        "a benchmark's corruptions", _corruptions, ("corruptions", "num_seeds")
    ),
    "unseen": Column("faults of a sensor", _unseen, ("unseen", "num_seeds")),
    "grey_pgd": Column(
        "PGD on the classifier alone", _grey(("pgd_linf",)), ("attack",)
    ),
    "grey_autoattack": Column(
        "AutoAttack's APGD and Square on the classifier alone",
        _grey(("apgd_ce_linf", "apgd_t_linf", "square_linf")),
        ("attack",),
    ),
    "eps_star": Column("distance to the border along noise", _eps_star, ("eps_star",)),
    "white_pgd": Column("adaptive PGD on the defence", _white_pgd, ("attack",)),
    "white_autoattack": Column(
        "AutoAttack on the defence", _white_autoattack, ("attack",)
    ),
    "detector_aware": Column(
        "PGD on the defence and its detector", _detector_aware, ("attack",)
    ),
}
