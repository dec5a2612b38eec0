"""Threat models and the runs of attacks as data.

A threat model says what the attacker knows. It becomes one or more *attempts*, runs of
the same attack that see the defence in different ways.
"""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from uronet_jax.attacks import ATTACKS, Attack, loop, misclassification
from uronet_jax.attacks.adaptive import without_success
from uronet_jax.specs import known_name, parse_parameters


class Attempt(NamedTuple):
    """One run of an attack: what it sees of the defence, and what it wants.

    Attributes:
        target: `classifier` or `defense`: what the gradient goes through.
        weight: Of the detector in the loss; None leaves the detector alone.
        selective: Whether classifier and detector are fooled in turn instead.
        straight_through: Whether the gradient takes the purifier for the identity.
        both_ways: Whether, at a gate, it is that of both ways and not of the one taken.
        samples: 0, or over how many draws of a random defence it is averaged.
    """

    target: str = "defense"
    weight: float | None = None
    selective: bool = False
    straight_through: bool = False
    both_ways: bool = False
    samples: int = 0

    @property
    def evades_detector(self) -> bool:
        """Whether it also works on the detector."""
        return self.weight is not None or self.selective

    @property
    def label(self) -> str:
        """What it differs in from an attack on the defence as it is."""
        parts = [] if self.target == "defense" else [self.target]
        if self.weight is not None:
            parts.append(f"detector weight {self.weight:g}")
        for name in ("selective", "straight_through", "both_ways"):
            if getattr(self, name):
                parts.append(name.replace("_", " "))
        if self.samples:
            parts.append(f"{self.samples} samples")
        return ", ".join(parts) or "end to end"


class ThreatModel(NamedTuple):
    """What an attacker knows and tries.

    Attributes:
        name: For rows.
        target: `classifier` (the attacker does not know that there is a defence) or
            `defense`.
        detector_weights: The detector is fooled too, with these weights of it; see
            `adaptive.joint_loss`.
        selective: It is fooled too, by `adaptive.selective_loss`.
        straight_through: Tries also the gradient that takes the purifier for the
            identity, at a gate that of both ways, and the attack on the classifier
            alone.
        samples: Draws that a gradient is averaged over where the defence is random.
    """

    name: str
    target: str = "defense"
    detector_weights: tuple[float, ...] = ()
    selective: bool = False
    straight_through: bool = False
    samples: int = 0

    @property
    def evades_detector(self) -> bool:
        """Whether only what the detector misses is a success."""
        return bool(self.detector_weights) or self.selective

    def suits(self, attack: Attack) -> bool:
        """Returns whether an attack can pursue the goal.

        One that takes logits makes its own loss of the classifier, which has no place
        for a detector.
        """
        return not (self.evades_detector and attack.takes_logits)

    def attempts(
        self, *, minimal: bool, blind: bool, purifier: bool, gated: bool, random: bool
    ) -> tuple[Attempt, ...]:
        """Returns the runs of an attack that it takes.

        Args:
            minimal: Whether the attack is a minimal one, which takes no loss function.
            blind: Whether it looks at no gradient, so that none can be replaced.
            purifier: Whether the defence has a purifier.
            gated: Whether it has a gate.
            random: Whether it is random.
        """
        samples = self.samples if random else 0
        if self.target == "classifier":
            return (Attempt("classifier"),)
        if self.evades_detector and minimal:
            return (Attempt(selective=True, samples=samples),)
        if self.evades_detector:
            return (
                *(Attempt(weight=w, samples=samples) for w in self.detector_weights),
                *([Attempt(selective=True, samples=samples)] if self.selective else []),
            )
        found = [Attempt()]
        if samples:
            found.append(Attempt(samples=samples))
        if self.straight_through and purifier and not blind:
            found.append(Attempt(straight_through=True, samples=samples))
        if self.straight_through and gated and not blind:
            found.append(Attempt(both_ways=True, samples=samples))
        if self.straight_through and purifier:
            # What fools the classifier alone may fool it behind the defence too.
            found.append(Attempt("classifier"))
        return tuple(found)


THREAT_MODELS: dict[str, ThreatModel] = {
    threat.name: threat
    for threat in (
        ThreatModel("grey_box", "classifier"),
        ThreatModel("white_box"),
        ThreatModel(
            "detector_aware", detector_weights=(0.1, 1.0, 10.0), selective=True
        ),
        ThreatModel("adaptive", straight_through=True, samples=16),
    )
}


class AttackRun(NamedTuple):
    """An attack with its parameters.

    Attributes:
        name: For rows.
        attack: From `ATTACKS`, or another.
        epsilon: Largest norm of the perturbation; None for a minimal attack.
        parameters: Those that differ from the attack's usual ones.
    """

    name: str
    attack: Attack
    epsilon: float | None = None
    parameters: Mapping[str, Any] = {}

    @property
    def all_parameters(self) -> dict[str, Any]:
        """The parameters besides `epsilon`, usual ones included."""
        steps = inspect.signature(self.attack.function).parameters.get("steps")
        known = steps is not None and steps.default is not steps.empty
        parameters = {
            **({"steps": steps.default} if known else {}),
            **self.attack.defaults,
            **self.parameters,
        }
        step = self.attack.relative_step
        if step is not None and "step_size" not in parameters:
            parameters["step_size"] = step * self.epsilon / parameters["steps"]
        return parameters

    def parameters_for(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the parameters, with the number of each image of a batch."""
        own = {"index": batch["index"]} if self.takes("index") else {}
        return {**self.parameters, **own}

    def raise_loss(
        self, key: Any, batch: Mapping[str, Any], loss_fn: Any, **parameters: Any
    ) -> Any:
        """Runs an attack that raises a loss on a batch.

        Args:
            key: Typed PRNG key.
            batch: Float `image` `[B, H, W, C]` and `index` `[B]`.
            loss_fn: See `attacks.objectives`.
            **parameters: Those that differ from the run's.
        """
        own = {**self.parameters_for(batch), **parameters}
        return self.attack.on_loss(
            key, batch["image"], loss_fn, epsilon=self.epsilon, **own
        )

    def go_to_the_end(self, key: Any, batch: Mapping[str, Any], logits_fn: Any) -> Any:
        """Runs the attack on a classifier; no image stays at its first success.

        For those who look at the images behind a defence that the attacker does not
        know. A minimal attack has its own end.

        Args:
            key: Typed PRNG key.
            batch: Float `image` `[B, H, W, C]`, `label` and `index` `[B]`.
            logits_fn: `images -> [B, K]`.
        """
        labels = batch["label"]
        if not (self.attack.minimal or self.attack.takes_logits):
            loss_fn = misclassification(logits_fn, labels, loss=self.attack.loss)
            return self.raise_loss(key, batch, without_success(loss_fn))
        own = self.parameters_for(batch)
        if self.attack.takes_logits:
            own |= {"epsilon": self.epsilon, "stop_early": False}
        return self.attack(key, batch["image"], logits_fn, labels, **own)

    def takes(self, name: str) -> bool:
        """Returns whether the attack has a parameter of this name."""
        return name in inspect.signature(self.attack.function).parameters


def make_run(
    name: str, *, epsilon: float | None = None, **parameters: Any
) -> AttackRun:
    """Returns an attack of `ATTACKS` with its parameters.

    Args:
        name: A key of `ATTACKS`.
        epsilon: Largest norm of the perturbation; not used by minimal attacks.
        **parameters: Those that differ from the usual ones.

    Raises:
        ValueError: If the attack or a parameter is unknown, or epsilon is missing or
            negative.
    """
    if name == "autoattack":
        raise ValueError(
            f"autoattack is a function of its own, choose from {', '.join(ATTACKS)}"
        )
    known_name("attack", name, ATTACKS)
    run = AttackRun(name, ATTACKS[name], None, parameters)
    # The norm is in the name; the others belong to the evaluation.
    fixed = ("norm", "index", "samples", "key", "images", "labels")
    unknown = [p for p in parameters if p in fixed or not run.takes(p)]
    if unknown:
        raise ValueError(f"{name} has no parameter {', '.join(unknown)}")
    if run.attack.minimal:
        return run
    if epsilon is None:
        raise ValueError(f"{name} needs epsilon, the largest norm of its perturbations")
    loop.check_budget(epsilon, run.attack.norm)
    return run._replace(epsilon=float(epsilon))


def parse_run(text: str) -> AttackRun:
    """Reads an attack, such as `pgd_linf:epsilon=0.01,step_size=0.004,steps=10`.

    Raises:
        ValueError: If the text has another form, or see `make_run`.
    """
    name, parameters = parse_parameters(text, "attack", "fgsm_linf:epsilon=0.01")
    return make_run(name, **parameters)


def make_plan(
    runs: Sequence[AttackRun], threats: Sequence[ThreatModel]
) -> list[tuple[AttackRun, ThreatModel]]:
    """Returns which attacks are made under which threat models, attack by attack.

    All under all, but for those that do not suit each other: an attack that takes
    logits (`apgd_t`) under a threat model that fools a detector.

    Raises:
        ValueError: If an attack suits none of the threat models.
    """
    for run in runs:
        if not any(threat.suits(run.attack) for threat in threats):
            raise ValueError(
                f"{run.name} makes its own loss of the classifier's logits and cannot "
                "fool a detector too: add a threat model that asks for a wrong label "
                f"alone to {', '.join(t.name for t in threats)}, or leave it out"
            )
    return [(run, t) for run in runs for t in threats if t.suits(run.attack)]


def describe_run(threat: ThreatModel, run: AttackRun) -> dict[str, Any]:
    """Returns the fields by which a row is known."""
    return {
        "threat": threat.name,
        "attack": run.name,
        "norm": run.attack.norm,
        "epsilon": run.epsilon,
        "parameters": run.all_parameters,
        "gradient_free": run.attack.gradient_free,
    }
