"""The attacks that AutoAttack is a sequence of, as data, and its versions."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

TARGETED_DLR = "targeted_dlr"
# Parameters of a step, with their values if they are not given.
PARAMETERS: dict[str, dict[str, Any]] = {
    "apgd": {
        "loss": "cross_entropy",
        "steps": 100,
        "restarts": 0,
        "targets": 9,
        "rho": 0.75,
    },
    "fab": {"steps": 100, "restarts": 0, "targets": None},
    "square": {
        "steps": 5000,
        "restarts": 0,
        "initial_share": 0.8,
        "rescale_schedule": False,
    },
}


class AttackStep(NamedTuple):
    """One attack of the ensemble.

    Attributes:
        name: What its row is called.
        attack: `apgd`, `fab` or `square`.
        parameters: Of the attack; what is missing is as in the standard version. All
            take `steps` and `restarts`. `apgd`: `loss`, a key of `LOSSES` or
            `targeted_dlr`, `targets` of the latter (the likeliest wrong classes at the
            clean image, with a run for each), `rho`. `fab`: `targets`, or None for the
            untargeted attack. `square`: `initial_share`, `rescale_schedule`.
    """

    name: str
    attack: str
    parameters: Mapping[str, Any] = {}

    @property
    def all_parameters(self) -> dict[str, Any]:
        """The parameters, usual ones included."""
        return {**PARAMETERS[self.attack], **self.parameters}

    def targets_of_runs(self, wrong_classes: int) -> list[int]:
        """Returns which of the likeliest wrong classes, from 0, each run pursues."""
        parameters = self.all_parameters
        if self.attack == "fab":  # It goes through its runs itself.
            return [0]
        runs = parameters["restarts"] + 1
        if parameters.get("loss") == TARGETED_DLR:
            return list(range(min(parameters["targets"], wrong_classes))) * runs
        return [0] * runs


_APGD_TARGETED = AttackStep("apgd-t", "apgd", {"loss": TARGETED_DLR, "targets": 9})
_FAB_TARGETED = AttackStep("fab-t", "fab", {"targets": 9})
_SQUARE = AttackStep("square", "square")

VERSIONS: dict[str, tuple[AttackStep, ...]] = {
    "standard": (
        AttackStep("apgd-ce", "apgd", {"loss": "cross_entropy"}),
        _APGD_TARGETED,
        _FAB_TARGETED,
        _SQUARE,
    ),
    "plus": (
        AttackStep("apgd-ce", "apgd", {"loss": "cross_entropy", "restarts": 4}),
        AttackStep("apgd-dlr", "apgd", {"loss": "dlr", "restarts": 4}),
        AttackStep("fab", "fab", {"restarts": 4}),
        _SQUARE,
        _APGD_TARGETED,
        _FAB_TARGETED,
    ),
    "rand": (
        AttackStep("apgd-ce", "apgd", {"loss": "cross_entropy"}),
        AttackStep("apgd-dlr", "apgd", {"loss": "dlr"}),
    ),
    "few_classes": (
        AttackStep("apgd-ce", "apgd", {"loss": "cross_entropy"}),
        AttackStep("apgd-margin", "apgd", {"loss": "margin"}),
        AttackStep("fab", "fab"),
        _SQUARE,
    ),
}


def has_gradients(steps: Sequence[AttackStep]) -> bool:
    """Returns whether any of the steps follows gradients."""
    return any(step.attack != "square" for step in steps)
