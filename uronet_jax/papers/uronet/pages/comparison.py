"""Runs of `launch.reproduce` put together and laid beside the published numbers.

The results have one row per number, with the columns of the published table. What is
called a cell is one number of a table; of several seeds it holds the mean.
"""

import dataclasses
import fnmatch
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import mean, stdev
from typing import Any

from uronet_jax.papers.machine_settings import without_machine_settings
from uronet_jax.papers.uronet.pages import classifiers, noises
from uronet_jax.papers.uronet.pages.layouts import LAYOUTS, PICTURES, Layout

# Test images of CIFAR-10, CIFAR-100 and Fashion-MNIST alike.
_TEST_IMAGES = 10_000
# True positive rate of a detector at 5 % false alarms, in `[0, 1]`.
_RATE = ("tpr_at_5_percent_fpr", "tpr_at_5_fpr")
# Columns of rows that do not say which number it is.
_NOT_KEYS = {"value", "note", "seed", "num_images", "auroc", "steps", "own", *_RATE}
# Parts of a config in which runs of one experiment may differ.
_NOT_CONFIG = {"seed", "seeds", "data_dir", "workdir"}
# Fields of a config, joined by dots, that make no result small. Classifiers are judged
# by their accuracy on clean images, see `classifiers`.
_HARMLESS = (
    "seed",
    "dtype",
    "data_dir",
    "workdir",
    "pipeline",
    "log_every",
    "steps_per_dispatch",
    "*checkpoint_every",
    "*classifier",
    "*classifier_title",
    "suite.spn_reading",
    "suite.un_reading",
    "evaluation.batch_size",
    "attack.batch_size",
)
# Experiments that are not judged on all test images, whatever their size: pictures of a
# few, and trials that are judged on validation images.
_NO_TEST_SET = (*PICTURES, "universal_trials")
# The paper's label -> what its text and its other half call the same attack.
_SAME = {"FGSM40": "IFGSM40"}
# What `compare` adds to a cell's own columns.
MEASURED = {
    "ours",
    "seeds",
    "spread",
    "published",
    "difference",
    "num_images",
    "steps",
    "own",
    "auroc",
    "true_positive_rate",
}

Row = dict[str, Any]


def is_small(content: Mapping[str, Any]) -> bool:
    """Whether a result comes from small models or part of a test set.

    Args:
        content: JSON of `launch.reproduce`. One that does not say which fields of its
            config were overridden is small, whatever its preset.
    """
    overridden = content.get("overridden")
    if content["config"].get("preset") != "full" or overridden is None:
        return True
    if not all(map(_is_harmless, overridden)):
        return True
    if content["experiment"] in _NO_TEST_SET:
        return False
    counts = (row.get("num_images", _TEST_IMAGES) for row in content["rows"])
    return any(count < _TEST_IMAGES for count in counts)


def _is_harmless(field: str) -> bool:
    return any(fnmatch.fnmatchcase(field, pattern) for pattern in _HARMLESS)


def sessions(content: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Returns the stretches in which a result was computed.

    Args:
        content: Any result. Those of one stretch do not list it.

    Returns:
        Mappings with `device`, `versions`, `seconds` and, of `launch.reproduce`,
        `training_seconds`.
    """
    return content.get("sessions") or [content]


def cost(contents: Iterable[Mapping[str, Any]]) -> tuple[str, float]:
    """Returns the devices of some results and the sum of their seconds."""
    devices, seconds = [], 0.0
    for session in (x for content in contents for x in sessions(content)):
        device = session["device"]
        devices.append(f"{device['count']} x {device['kind']}")
        seconds += session["seconds"]
    return ", ".join(dict.fromkeys(devices)), seconds


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs of one experiment that differ in their seeds at most.

    Attributes:
        name: Of the first run's file.
        experiment: What was run.
        small: See `is_small`.
        runs: File name -> JSON.
        cells: See `compare`.
        other_noises: Noise and severity that are not the paper's -> the numbers that
            tell, see `noises.other_noises`.
        other_classifiers: Data set and classifier that are not known to be the
            paper's -> why, see `classifiers.doubt`.
    """

    name: str
    experiment: str
    small: bool
    runs: dict[str, Mapping[str, Any]]
    cells: list[Row]
    other_noises: Mapping[str, str] = dataclasses.field(default_factory=dict)
    other_classifiers: Mapping[classifiers.Network, str] = dataclasses.field(
        default_factory=dict
    )

    @property
    def config(self) -> Mapping[str, Any]:
        """Of the first run."""
        return next(iter(self.runs.values()))["config"]

    @property
    def setting(self) -> str:
        """Suite, preset and evaluation: results of several settings are not mixed."""
        evaluation = {**(self.config.get("evaluation") or {}), "batch_size": None}
        suite, preset = self.config.get("suite"), self.config.get("preset")
        return json.dumps([suite, preset, evaluation], sort_keys=True)

    def touches(self, cell: Row) -> list[str]:
        """Returns the noises that a number rests on and that are not the paper's."""
        return sorted(noises.rests_on(cell) & self.other_noises.keys())

    def doubtful(self, cell: Row) -> dict[str, str]:
        """Returns the classifiers of a number that may not be the paper's -> why."""
        rests_on = classifiers.rests_on(cell, self.config)
        return {
            network[1]: self.other_classifiers[network]
            for network in sorted(rests_on & self.other_classifiers.keys())
        }

    def other_data(self, cell: Row) -> dict[str, str]:
        """Returns titles of the paper's data sets -> what stands in for them."""
        return classifiers.other_data(cell, self.config)

    def is_comparable(self, cell: Row) -> bool:
        """Whether a number rests on the paper's noises, classifiers and data alone.

        Classifiers of small results may be others: those are an indication only.
        """
        return not (
            self.touches(cell)
            or self.other_data(cell)
            or (self.doubtful(cell) and not self.small)
        )


def group(
    contents: Mapping[str, Mapping[str, Any]],
    undefended: Iterable[noises.Undefended] = (),
) -> list[Group]:
    """Puts runs together that differ in their seeds at most.

    Args:
        contents: Name of the file -> JSON of `launch.reproduce`.
        undefended: Further accuracies that tell whether noises are the paper's.

    Returns:
        In the order of `LAYOUTS`, then of their names; full before small.

    Raises:
        ValueError: See `compare`.
    """
    groups: dict[tuple, dict[str, Mapping[str, Any]]] = {}
    for name in sorted(contents):
        content = contents[name]
        config = without_machine_settings(content["config"])
        config = {k: v for k, v in config.items() if k not in _NOT_CONFIG}
        # Seeds of other weights under the same name are no seeds of one thing.
        rests_on = [config, content.get("classifiers")]
        key = (
            content["experiment"],
            is_small(content),
            json.dumps(rests_on, sort_keys=True),
        )
        groups.setdefault(key, {})[name] = content
    order = list(LAYOUTS)

    def place(item):
        (experiment, small, _), runs = item
        known = order.index(experiment) if experiment in order else len(order)
        return known, experiment, small, min(runs)

    found = [
        Group(min(runs), experiment, small, runs, compare(experiment, runs))
        for (experiment, small, _), runs in sorted(groups.items(), key=place)
    ]
    measured = [x for one in found for x in _undefended(one)]
    undefended = list(undefended)
    others = noises.other_noises([*measured, *undefended])
    clean = [(one.small, x) for one in found for x in _clean(one)]
    clean += [(False, x) for x in undefended if x.noise == noises.CLEAN]
    return [
        dataclasses.replace(
            one,
            other_noises=others.get(noises.readings(one.config), {}),
            other_classifiers=_other_classifiers(one, clean),
        )
        for one in found
    ]


def _undefended(found: Group) -> list[noises.Undefended]:
    """Returns what Tables 7 and 8 say of the paper's classifiers without defence."""
    if found.experiment not in ("table7", "table8"):
        return []
    return [
        noises.Undefended(
            cell["dataset"],
            cell["classifier"],
            LAYOUTS[found.experiment].row(cell),
            noises.readings(found.config),
            cell["ours"],
            cell["published"],
            found.name,
        )
        for cell in found.cells
        if cell["difference"] is not None
        and cell["condition"] != "mitigated"
        and not found.other_data(cell)
    ]


def _clean(found: Group) -> list[noises.Undefended]:
    """Returns the accuracies of the paper's classifiers on clean test images."""
    if found.experiment in _NO_TEST_SET:
        return []
    published = classifiers.published()
    return [
        noises.Undefended(
            *network,
            noises.CLEAN,
            noises.readings(found.config),
            cell["ours"],
            published[network],
            found.name,
            classifiers.origin(next(iter(found.runs.values())), network),
        )
        for cell in found.cells
        if cell["ours"] is not None and classifiers.is_clean(cell)
        for network in [(cell["dataset"], cell["classifier"])]
        if network in published and not found.other_data(cell)
    ]


def _other_classifiers(
    found: Group, clean: Iterable[tuple[bool, noises.Undefended]]
) -> dict[classifiers.Network, str]:
    """Returns the classifiers of a group that are not known to be the paper's -> why.

    Args:
        found: What rests on them.
        clean: Whether a result is small, and an accuracy that it has. A full group
            takes only those of full ones.
    """
    networks = dict.fromkeys(
        network
        for cell in found.cells
        if cell["ours"] is not None
        for network in sorted(classifiers.rests_on(cell, found.config))
    )
    doubts = {}
    for network in networks:
        origin = classifiers.origin(next(iter(found.runs.values())), network)
        measured = [
            x
            for small, x in clean
            if (x.dataset, x.classifier) == network
            and origin.is_same(classifiers.Origin(*x.network))
            and (found.small or not small)
        ]
        # Nothing is asked of a small result that was not measured.
        if measured or not found.small:
            doubts[network] = classifiers.doubt(network, measured)
    return {network: why for network, why in doubts.items() if why}


def compare(experiment: str, runs: Mapping[str, Mapping[str, Any]]) -> list[Row]:
    """Lays the numbers of one experiment beside the published ones.

    Args:
        experiment: A key of `LAYOUTS`, or one without published numbers.
        runs: File name -> JSON, of runs that differ in their seeds.

    Returns:
        One row per cell: its columns as texts, empty where they do not apply, `ours`
        (mean over the seeds, None if not measured), `seeds`, `spread` (their standard
        deviation, None for one seed), `published` and `difference` (None where there
        is none). Published cells first, in their order. Besides, None where it does
        not apply: `num_images` (the fewest of a seed), `steps` of the attack, `own`
        (whether an ablation's detector is the usual one), `auroc` and
        `true_positive_rate` at 5 % false alarms (means, in `[0, 1]`).

    Raises:
        ValueError: If a number is there twice, in one run or in two of one seed, or
            is not finite, or if a row lacks a column.
    """
    layout = LAYOUTS.get(experiment)
    theirs = layout.published_rows() if layout else []
    columns = [c for c in theirs[0] if c not in _NOT_KEYS] if theirs else None
    cells: dict[tuple, Row] = {}
    for row in theirs:
        key = _key(row, columns)
        cells[tuple(sorted(key.items()))] = {**key, "published": float(row["value"])}
    measured: dict[tuple, list[Row]] = {}
    origins: dict[tuple, str] = {}
    for name, content in runs.items():
        config = content["config"]
        for row in content["rows"]:
            _check_columns(name, row, columns or (), layout)
            key = _key(row, columns or [c for c in row if c not in _NOT_KEYS])
            place = tuple(sorted(key.items()))
            seed = row.get("seed", config.get("seed"))
            other = origins.setdefault((place, seed), name)
            if seed in [x["seed"] for x in measured.get(place, ())]:
                raise ValueError(_twice(name, other, seed, key))
            if not math.isfinite(row["value"]):
                raise ValueError(f"{name} has a number that is not finite: {key}")
            cells.setdefault(place, key)
            own = _is_own(row, config)
            measured.setdefault(place, []).append({**row, "seed": seed, "own": own})
    return [{**cell, **_joined(cell, measured.get(k, []))} for k, cell in cells.items()]


def _twice(name: str, other: str, seed: Any, key: Row) -> str:
    if name == other:
        return f"{name} has a number twice: {key}"
    return (
        f"{other} and {name} hold the same number of the same seed, {seed}: {key}. "
        "Seeds are counted, so keep one of the two files"
    )


def _is_own(row: Row, config: Mapping[str, Any]) -> bool | None:
    """Whether a detector is the usual one; None for rows of other things.

    Rows that do not say it name the detector as their variant.
    """
    if "own" in row:
        return row["own"]
    detector = config.get("detector")
    if not str(row.get("ablation", "")).startswith("detector_") or not detector:
        return None
    return row["variant"] == f"{detector['name']}, {detector['inputs']}"


def _joined(cell: Row, rows: Sequence[Row]) -> Row:
    """Returns what `compare` says of a cell that was measured with some seeds."""
    values = [float(row["value"]) for row in rows]
    ours, published = mean(values) if values else None, cell.get("published")
    both = ours is not None and published is not None

    def average(*names: str) -> float | None:
        found = [row[name] for row in rows for name in names if name in row]
        return mean(found) if found else None

    return {
        "ours": ours,
        "seeds": len(values),
        "spread": stdev(values) if len(values) > 1 else None,
        "published": published,
        "difference": ours - published if both else None,
        "num_images": min(
            (row.get("num_images", _TEST_IMAGES) for row in rows), default=None
        ),
        "steps": rows[0].get("steps") if rows else None,
        "own": rows[0]["own"] if rows else None,
        "auroc": average("auroc"),
        "true_positive_rate": average(*_RATE),
    }


def _check_columns(
    name: str, row: Mapping[str, Any], columns: Sequence[str], layout: Layout | None
) -> None:
    lacking = [column for column in columns if column not in row]
    if not lacking and layout is not None:
        key = _key(row, list(row))
        try:
            for label in (layout.block, layout.row, layout.column):
                label(key)
        except KeyError as error:
            lacking = list(error.args)
    if lacking:
        raise ValueError(f"{name} has a row without {', '.join(lacking)}: {row}")


def _key(row: Mapping[str, Any], columns: Sequence[str]) -> dict[str, str]:
    """Returns the columns as texts: 1, 1.0 and "1" are the same."""

    def text(value):
        if value is None:
            return ""
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        return _SAME.get(str(value), str(value))

    return {column: text(row.get(column)) for column in columns}


def counted(found: Group) -> list[Row]:
    """Returns the cells that are measured against the paper's achievement.

    Those are published, the paper's own work, measured here, and rest on the paper's
    noises, classifiers and data.
    """
    layout = LAYOUTS[found.experiment]
    return [
        cell
        for cell in found.cells
        if cell["difference"] is not None
        and layout.counted(cell)
        and found.is_comparable(cell)
    ]


def summarize(found: Group) -> dict[str, Any]:
    """Returns how far the numbers of an experiment are from the published ones.

    Args:
        found: Of an experiment in `LAYOUTS`.

    Returns:
        `published` and `measured`, numbers of published cells and of those that we
        have too; `compared`, those of `counted`; `other_noises`, those left out
        because a noise is not the paper's, and `other_models`, those left out because
        a classifier or the data are not; `at_or_above`, how many of the compared are
        not below the paper when rounded to two decimals; `mean_difference` of
        these, in points (None without any); `seeds`, the largest number of runs of a
        cell; `mean_spread` and `max_spread` of the cells with several, in points
        (None without any).
    """
    is_counted = LAYOUTS[found.experiment].counted
    published = [cell for cell in found.cells if cell["published"] is not None]
    measured = [cell for cell in published if cell["ours"] is not None]
    differences = [cell["difference"] for cell in counted(found)]
    achieved = list(filter(is_counted, measured))
    noisy = sum(bool(found.touches(cell)) for cell in achieved)
    spreads = [cell["spread"] for cell in found.cells if cell["spread"] is not None]
    return {
        "published": len(published),
        "measured": len(measured),
        "compared": len(differences),
        "other_noises": noisy,
        "other_models": len(achieved) - noisy - len(differences),
        "at_or_above": sum(round(d, 2) >= 0 for d in differences),
        "mean_difference": mean(differences) if differences else None,
        "seeds": max(cell["seeds"] for cell in found.cells),
        "mean_spread": mean(spreads) if spreads else None,
        "max_spread": max(spreads, default=None),
    }
