"""What an experiment consists of, and what several of them measure alike.

A part names the models it needs and returns rows when they are trained. A row is one
number, in percent unless its metric says otherwise, under the column names of the
published table.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from uronet_jax.corruptions import SuiteEntry
from uronet_jax.evaluation.judge import Entry, Judge, detection_metrics
from uronet_jax.loading import LoadedModel
from uronet_jax.papers.kinds import ModelKey
from uronet_jax.papers.laboratory import Laboratory, TidyRow
from uronet_jax.papers.machine_settings import without_machine_settings
from uronet_jax.papers.store import Store

# Published label of an attack on test images -> the attack.
TEST_ATTACKS = {"IFGSM": "IFGSM", "PGD": "PGD0"}
# Of every experiment.
COMMON_SETTINGS = (
    "preset",
    "seed",
    "dtype",
    "augmentation",
    "suite",
    "evaluation",
    "optimizer",
)


class Part(NamedTuple):
    """A piece of an experiment that is computed, and kept, as a whole."""

    key: str  # Its name within the experiment.
    models: tuple[ModelKey, ...]  # Trained before; purifiers of detectors go without.
    rows: Callable[[Laboratory], list[TidyRow]]  # Computes it.
    group: str = "data"  # Which of the experiment's needs it has.


class PaperExperiment(NamedTuple):
    """What can be asked for by name.

    Groups of parts whose needs are not met are left out; without any group the
    experiment cannot run.
    """

    summary: str  # One line for people.
    # Group -> what it needs, such as `data.train` (images) or `data.classifier`.
    needs: Mapping[str, tuple[str, ...]]
    parts: Callable[[Store], list[Part]]  # Lists them. Nothing is computed.
    # Fields and sections of the config that its numbers depend on, besides those of
    # `COMMON_SETTINGS` and of the data sets of its needs.
    settings: tuple[str, ...] = ()
    # The purifiers that a config names: title -> what `load_purifier` reads.
    purifiers: Callable[[Mapping[str, Any]], Mapping[str, str]] = lambda config: {}

    def depends_on(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Returns what of a config the numbers depend on, not the machine alone."""
        names = {*COMMON_SETTINGS, *self.roles, *self.settings}
        found = {name: config[name] for name in names if name in config}
        return without_machine_settings(found)

    @property
    def roles(self) -> set[str]:
        """Sections of the config that name its data sets."""
        return {need.partition(".")[0] for x in self.needs.values() for need in x}


def needs_of(*roles: str, classifier: bool = True) -> dict[str, tuple[str, ...]]:
    """Returns that a group of parts for each role needs its images and classifier."""
    parts = ("train", "test", *(("classifier",) if classifier else ()))
    return {role: tuple(f"{role}.{part}" for part in parts) for role in roles}


def trained_on(entry: SuiteEntry) -> TidyRow:
    """Returns the columns that name the degradation a model was trained on."""
    return {"train_noise": entry.noise, "train_severity": entry.severity}


def tested_on(entry: Entry) -> TidyRow:
    """Returns the columns that name the degradation of the images."""
    return {"test_noise": entry.noise, "test_severity": entry.severity}


def noise_tests(entries: Iterable[Entry]) -> list[tuple[TidyRow, Entry]]:
    """Returns, as `detection_rows` wants them, degradations that name themselves."""
    return [(tested_on(entry), entry) for entry in entries]


def detection_rows(
    lab: Laboratory,
    judge: Judge,
    detector: ModelKey,
    tests: Iterable[tuple[TidyRow, Entry]],
    *,
    further: Sequence[str] = ("auroc", "tpr_at_5_percent_fpr"),
    **columns: Any,
) -> list[TidyRow]:
    """Returns the detection accuracy on as many clean as degraded images.

    A test is the columns of its row and the degradation; `further` is what else of
    `detection_metrics` a row has, as a share. The detector stands behind its purifier.
    """
    models = lab.model(*lab.store.purifier(detector)), lab.model(*detector)
    clean, rows = lab.probabilities(judge, *models), []
    for own, entry in tests:
        found = detection_metrics(clean, lab.probabilities(judge, *models, entry))
        accuracy = 100.0 * found["detection_accuracy"]
        own = own | {name: found[name] for name in further}
        rows.append(lab.row(judge, accuracy, "detection_accuracy", **columns, **own))
    return rows


def accuracy_rows(
    lab: Laboratory,
    judge: Judge,
    classifiers: Mapping[str, LoadedModel],
    shown: Iterable[tuple[TidyRow, Entry, LoadedModel | None]],
    *,
    metric: str = "accuracy",
    mirror: bool = False,
    **columns: Any,
) -> list[TidyRow]:
    """Returns the accuracy of every classifier on what it is shown.

    That is the columns of its row, the degradation, and the purifier or None. With
    `mirror` purifiers see mirror images too.
    """
    found = [
        (own, lab.accuracies(judge, classifiers, entry, purifier, mirror=mirror))
        for own, entry, purifier in shown
    ]
    return [
        lab.row(judge, values[title], metric, classifier=title, **columns, **own)
        for title in classifiers
        for own, values in found
    ]
