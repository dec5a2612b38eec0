"""What tells models from each other, and what those of one kind share."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

from uronet_jax.corruptions import SuiteEntry
from uronet_jax.training.phases import find_phase
from uronet_jax.training.run import Schedule

# Sections of the config that name a data set.
ROLES = ("data", "second", "grey", "digits", "tiny", "imagenette")
# Fields of such a section that name its classifiers.
CLASSIFIER_FIELDS = ("classifier", "other_classifier", "third_classifier")


class ModelKey(NamedTuple):
    """Which model."""

    role: str  # Section of the config that names its data set.
    kind: str  # A key of `Store.kinds`.
    name: str  # `GN_1` and the like, `all`, an attack, or the name of a classifier.


@dataclasses.dataclass(frozen=True)
class Kind:
    """Models that one compiled program trains: they differ in data and seed."""

    phase: str  # A key of `training.phases.PHASES`.
    model: Mapping[str, Any]  # The section `model` of its config.
    schedule: Schedule
    optimizer: Mapping[str, Any]  # Arguments of `make_optimizer`.
    purifier: str = ""  # Kind of the purifier that a detector stands behind.
    # Name -> weight, of a purifier.
    loss: Mapping[str, float] = dataclasses.field(default_factory=dict)
    asks_classifier: bool = False  # Whether it learns from the first, frozen one.
    clean_entries: int = 0  # How often a mix of all degradations holds the clean image.
    stored: str = ""  # `attacked` or `corrupted` if it learns on such images from disk.
    # From what attacked ones are led away, see `attacked_copies.LED_FROM`.
    attack_labels: str = "true"
    # Share of clean images among these; where they are drawn, see `clean_entries`.
    clean_share: float = 0.0
    # What its seeds are named after, if not itself: models that are compared start
    # alike and see the same crops and degradations.
    variant_of: str = ""
    # Whose weights it starts from: `classifier`, the first of the data set, a kind, or
    # `file`, that which the config names behind `tune:`, under a new last layer.
    initial: str = ""
    dtype: str = ""  # Of its computation, if not that of the config.
    # Further sections of its config.
    sections: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    # Field of the config, and an L2 norm that its images must allow.
    norms: tuple[tuple[str, float], ...] = ()

    @property
    def role(self) -> str:
        """What its models are in a defence."""
        return find_phase(self.phase).role


def entry_name(entry: SuiteEntry) -> str:
    """Returns `GN_1` and the like."""
    return f"{entry.noise}_{entry.severity}"
