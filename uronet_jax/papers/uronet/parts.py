"""What an experiment consists of, and what several of them measure alike.

A part names the models it needs and returns rows when they are trained. A row is one
number, in percent unless its metric says otherwise, under the column names of the
published table.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from uronet_jax.corruptions import SuiteEntry
from uronet_jax.evaluation.judge import Entry, Judge, detection_metrics
from uronet_jax.loading import LoadedModel
from uronet_jax.papers.laboratory import Laboratory, TidyRow
from uronet_jax.papers.machine_settings import without_machine_settings
from uronet_jax.papers.store import Store
from uronet_jax.papers.uronet.kinds import ModelKey

# Published label of an attack on test images -> the attack.
TEST_ATTACKS = {"IFGSM": "IFGSM", "PGD": "PGD0"}
# Columns of images that nothing was done to.
CLEAN: TidyRow = {"test_noise": "clean", "test_severity": 0}
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
    """A piece of an experiment that is computed, and kept, as a whole.

    Attributes:
        key: Its name within the experiment.
        models: What must be trained before.
        rows: Computes it.
        group: Which of the experiment's needs it has.
    """

    key: str
    models: tuple[ModelKey, ...]
    rows: Callable[[Laboratory], list[TidyRow]]
    group: str = "data"


class PaperExperiment(NamedTuple):
    """What can be asked for by name.

    Attributes:
        summary: One line for people.
        needs: Group of parts -> what they need, such as `data.train` (images) or
            `data.classifier`. Groups whose needs are not met are left out; without
            any group the experiment cannot run.
        parts: Lists them. Nothing is computed.
        settings: Fields and sections of the config that its numbers depend on, besides
            those of `COMMON_SETTINGS` and of the data sets of its needs.
    """

    summary: str
    needs: Mapping[str, tuple[str, ...]]
    parts: Callable[[Store], list[Part]]
    settings: tuple[str, ...] = ()

    def depends_on(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the part of a config that the numbers depend on.

        What only suits the machine is left out.
        """
        names = {*COMMON_SETTINGS, *self.roles, *self.settings}
        found = {name: config[name] for name in names if name in config}
        return without_machine_settings(found)

    @property
    def roles(self) -> set[str]:
        """Sections of the config that name its data sets."""
        return {need.partition(".")[0] for x in self.needs.values() for need in x}


def dataset_title(lab: Laboratory, role: str) -> str:
    """Returns what rows call a data set."""
    return lab.store.config[role]["title"]


def detection_rows(
    lab: Laboratory,
    judge: Judge,
    remover: LoadedModel,
    detector: LoadedModel,
    tests: Iterable[tuple[TidyRow, Entry]],
    *,
    auroc: bool = True,
) -> Iterator[TidyRow]:
    """Yields the detection accuracy on as many clean as degraded images.

    Args:
        lab: Where it is measured.
        judge: Of the images.
        remover: The detector's remover.
        detector: What tells clean from degraded images.
        tests: Columns of a row, and the degradation.
        auroc: Whether a row also has the area under the ROC curve, and the share of
            degraded images that is found at 5 % false alarms.
    """
    clean = lab.probabilities(judge, remover, detector)
    for columns, entry in tests:
        degraded = lab.probabilities(judge, remover, detector, entry)
        found = detection_metrics(clean, degraded)
        row = lab.row(
            judge,
            100.0 * found["detection_accuracy"],
            **columns,
            metric="detection_accuracy",
        )
        further = ("auroc", "tpr_at_5_percent_fpr") if auroc else ()
        yield row | {name: found[name] for name in further}


def noise_tests(entries: Sequence[SuiteEntry]) -> Iterator[tuple[TidyRow, SuiteEntry]]:
    """Yields the columns that name a degradation, and the degradation."""
    for entry in entries:
        columns = {"test_noise": entry.noise, "test_severity": entry.severity}
        yield columns, entry


def defence_models(
    role: str, kind: str, name: str, remover: str = "remover"
) -> tuple[ModelKey, ModelKey]:
    """Returns a detector behind the remover it needs, in order of training.

    Args:
        role: Section of the config that names the data set.
        kind: Kind of the detector.
        name: Of both, within their kinds.
        remover: Kind of the remover.
    """
    return (ModelKey(role, remover, name), ModelKey(role, kind, name))
