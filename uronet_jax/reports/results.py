"""Stored results: one JSON file each, of every command that measures."""

import dataclasses
import fnmatch
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from uronet_jax.reports.tables import markdown_table

BENCHMARK = "uronet_jax.benchmark"
PREDICTIONS = "uronet_jax.predictions"
FIDELITY = "uronet_jax.fidelity"
ATTACK_AGREEMENT = "uronet_jax.attack_agreement"
ATTACK = "uronet_jax.attack"
ARENA = "uronet_jax.arena"
CERTIFICATION = "uronet_jax.certification"
REPRODUCTION = "uronet_jax.reproduction"
REPRODUCTION_VERSION = 1
# Kind of result -> its files' field `schema`, and the fields by which they are known.
_KINDS = {
    "benchmark": (BENCHMARK, {"rows"}),
    "predictions": (PREDICTIONS, {"rows", "not_compiled_yet", "scaling"}),
    "fidelity": (FIDELITY, {"rows"}),
    "attack_agreement": (ATTACK_AGREEMENT, {"rows"}),
    "attack": (ATTACK, {"rows", "warnings", "threshold", "finished"}),
    "certification": (CERTIFICATION, {"rows", "summary", "finished", "models"}),
    "reproduction": (REPRODUCTION, {"experiment", "rows"}),
    "arena": (ARENA, {"arena", "num_images", "rows", "refused"}),
    "evaluation": (None, {"summary", "rows"}),
    "quickstart": (None, {"dataset", "clean_accuracy", "rows"}),
}
_SUITE_ROW = "noise severity undefended_accuracy"
# What a predicted program that compiles has besides.
_COMPILED = (
    "compile_cpu_seconds memory products_flop bytes floor_seconds kernels convolutions "
    "transposes copies sorts host_loops branches collectives"
)
# Kind -> fields, joined by dots, that its readers need, beside `_EVERYWHERE`; and those
# of each row.
_FIELDS = {
    "benchmark": ("config.threads", "work notes comparisons values limits"),
    "predictions": (
        "config.kind config.memory_bytes config.cache_bytes config.rates",
        "text batch devices dtype steps compiles",
    ),
    "fidelity": (
        "",
        "corruption reference max_difference mean_difference share_differing",
    ),
    "attack_agreement": (
        "config.classifier config.dataset config.num_images config.threads",
        "attack peer deterministic parameters num_images success peer_success "
        "share_differing median_norm peer_median_norm",
    ),
    "attack": (
        "config.data.name",
        "attack threat norm epsilon parameters num_images clean_accuracy "
        "undefended_clean_accuracy undefended_accuracy robust_accuracy "
        "robust_accuracy_low robust_accuracy_high not_found median_linf median_l2",
    ),
    "certification": (
        "config.data.name config.data.every config.purifier config.sigma "
        "config.num_samples summary.num_images summary.accuracy summary.certified "
        "summary.average_certified_radius models.classifier.name",
        "image label predicted radius",
    ),
    "reproduction": ("", "metric value num_images"),
    "arena": (
        "config.data.name config.attack.epsilon config.corruptions.suite",
        "card status cells flags errors",
    ),
    "evaluation": (
        "config.classifier config.data.name config.data.split config.data.num_examples "
        "config.suite.name summary.num_images summary.clean_accuracy",
        _SUITE_ROW,
    ),
    "quickstart": ("config.classifier num_images", _SUITE_ROW),
}
_EVERYWHERE = "device.kind device.count"
_WITH_ROWS = ("certification", "evaluation", "quickstart")  # At least one.
_PROVENANCE = {"config", "versions", "device", "seconds"}
_TYPES = dict.fromkeys(("config", "versions", "device"), dict)
_TYPES |= {"seconds": int | float, "rows": list | dict}

# Test images of CIFAR-10, CIFAR-100, Fashion-MNIST and Tiny ImageNet alike, and where
# there are fewer, of ImageNette.
TEST_IMAGES = 10_000
_FEWER_IMAGES = dict.fromkeys(("table10", "resolutions"), 3_925)
# Fields of a reproduction's config, joined by dots, that make no result small.
_HARMLESS = (
    "seed dtype data_dir workdir pipeline log_every steps_per_dispatch "
    "*checkpoint_every *classifier *classifier_title suite.spn_reading "
    "suite.un_reading evaluation.batch_size attack.batch_size "
    # Which models, and of how many images: the rows say so themselves.
    "*noise_training.models *.eps_star_images *.attacked_images"
).split()
# Experiments that are not judged on all test images, whatever their size: pictures of a
# few, and trials that are judged on validation images.
_PICTURES = ("figure1", "figure2", "figure4", "figure5", "figure5_photographs")
_PICTURES += ("ant_noise",)
_NO_TEST_SET = (*_PICTURES, "universal_trials")


@dataclasses.dataclass(frozen=True)
class Result:
    """A stored result: its file's name without ending, a key of `_KINDS`, the JSON."""

    name: str
    kind: str
    content: dict[str, Any]

    @property
    def small(self) -> bool:
        """Whether models or test set are too small to stand beside the papers'.

        A reproduction that does not say which fields of its config were overridden is
        small, whatever its preset.
        """
        config = self.content["config"]
        if self.kind == "reproduction":
            overridden = self.content.get("overridden")
            if config.get("preset") != "full" or overridden is None:
                return True
            if not all(map(_is_harmless, overridden)):
                return True
            experiment = self.content["experiment"]
            if experiment in _NO_TEST_SET:
                return False
            whole = _FEWER_IMAGES.get(experiment, TEST_IMAGES)
            return any(r["num_images"] < whole for r in self.content["rows"])
        data = config.get("data", {})
        part = data.get("num_examples", 0) > 0 or "[" in data.get("split", "")
        if self.kind == "certification":  # The papers take 500 of 10,000 images.
            part = part or data["every"] > 20 or config["num_samples"] < 10_000
        return config.get("preset") == "small" or part

    @property
    def sessions(self) -> Sequence[Mapping[str, Any]]:
        """Stretches in which it was computed: `device`, `versions` and `seconds`."""
        return self.content.get("sessions") or [self.content]

    @property
    def counts(self) -> list[int]:
        """How many images its numbers are of, each count once, in order."""
        content, rows = self.content, self.content["rows"]
        known = [x.get("num_images") for x in (content, content.get("summary", {}))]
        if not isinstance(rows, Mapping):
            known += [row.get("num_images") for row in rows]
        return sorted({count for count in known if count})


def _is_harmless(field: str) -> bool:
    return any(fnmatch.fnmatchcase(field, pattern) for pattern in _HARMLESS)


def read_result(path: str | os.PathLike) -> Result:
    """Reads one result, of any size and finished or not.

    Raises:
        ValueError: If it is none, of another version of the schema, or lacks a field.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not a JSON file: {error}") from error
    fields = content if isinstance(content, dict) else {}
    found = fields.get("schema"), fields.get("schema_version")
    if found[0] == REPRODUCTION and found[1] != REPRODUCTION_VERSION:
        raise ValueError(
            f"{path} is of version {found[1]} of the schema {REPRODUCTION}, expected "
            f"{REPRODUCTION_VERSION}: compute it anew with launch.reproduce, or "
            "read it with the release that wrote it"
        )
    kinds = [
        kind
        for kind, (schema, own) in _KINDS.items()
        if found[0] == schema and own | _PROVENANCE <= fields.keys()
    ]
    if not kinds or not all(isinstance(fields[x], t) for x, t in _TYPES.items()):
        raise ValueError(
            f"{path} has an unknown form: expected evaluation.json of launch.evaluate, "
            "attack.json of launch.attack, certification.json of launch.certify, "
            "report.json of launch.quickstart or the file of launch.benchmark, "
            "launch.compile_gpu, launch.fidelity, launch.reproduce or launch.arena, "
            "with "
            f"{', '.join(sorted(_PROVENANCE))}"
        )
    if lacking := _lacking(content, kinds[0]):
        raise ValueError(
            f"{path}, of the kind {kinds[0]}, lacks {', '.join(lacking)}: make it anew "
            "with the command that wrote it"
        )
    return Result(path.stem, kinds[0], content)


def _lacking(content: Mapping[str, Any], kind: str) -> list[str]:
    """Returns what of `_FIELDS` a result has not."""
    fields, columns = _FIELDS[kind]
    rows = content["rows"]
    rows = list(rows.values() if isinstance(rows, Mapping) else rows)
    needed = f"{_EVERYWHERE} {fields}".split()
    lacking = [field for field in needed if not _has(content, field.split("."))]
    lacking += [
        f"{column} of a row"
        for column in columns.split()
        if not all(_has(row, [column]) for row in rows)
    ]
    compiled = [row for row in rows if kind == "predictions" and row.get("compiles")]
    lacking += [
        f"{column} of a row that compiles"
        for column in _COMPILED.split()
        if not all(_has(row, [column]) for row in compiled)
    ]
    return lacking if rows or kind not in _WITH_ROWS else [*lacking, "rows"]


def _has(fields: Any, path: Sequence[str]) -> bool:
    for name in path:
        if not isinstance(fields, Mapping) or name not in fields:
            return False
        fields = fields[name]
    return True


def load_result(path: str | os.PathLike) -> Result:
    """Reads one result that may be published.

    Raises:
        ValueError: See `read_result`; or if it comes from a smoke run or an unfinished
            one, or is small without saying so in its name.
    """
    path, result = Path(path), read_result(path)
    content = result.content
    if content["config"].get("preset") == "smoke":
        raise ValueError(f"{path} comes from a smoke run, which shows nothing")
    if not content.get("finished", True):
        raise ValueError(
            f"{path} comes from a run that has not finished: run the same command again"
        )
    if result.small and "small" not in result.name:
        raise ValueError(
            f"{path} is of small models or part of the test set: its name must say "
            f"so, for example small_{path.name}"
        )
    return result


def load_folder(folder: str | os.PathLike) -> list[Result]:
    """Reads every JSON file of a folder, in the order of their names."""
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"no folder of results at {folder}")
    return [load_result(path) for path in sorted(Path(folder).glob("*.json"))]


def origin_line(results: Sequence[Result]) -> str:
    """Returns where numbers come from, in one sentence with links to the files."""
    sessions = [session for result in results for session in result.sessions]
    devices = dict.fromkeys(
        f"{x['device']['count']} x {x['device']['kind']}" for x in sessions
    )
    configs = [result.content["config"] for result in results]
    seeds = dict.fromkeys(str(c["seed"]) for c in configs if c.get("seed") is not None)
    counts = sorted({count for result in results for count in result.counts})
    seconds = sum(session["seconds"] for session in sessions)
    parts = []
    if any(result.small for result in results):
        parts.append("**Small: an indication, not comparable with published numbers.**")
    parts.append(f"{', '.join(devices)}, {_duration(seconds)}")
    if seeds:
        parts[-1] += f", seed {' and '.join(seeds)}"
    if counts:
        ends = dict.fromkeys((counts[0], counts[-1]))
        parts[-1] += f", {' to '.join(f'{count:,}' for count in ends)} images"
    links = ", ".join(f"[{result.name}.json]({result.name}.json)" for result in results)
    notes = dict.fromkeys(x.content["note"] for x in results if "note" in x.content)
    return (
        " ".join([f"{' '.join(parts)}. Config and versions: {links}.", *notes]) + "\n"
    )


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 3600:.2f} h" if seconds >= 3600 else f"{seconds / 60:.0f} min"


def render_benchmark(content: Mapping[str, Any]) -> str:
    """Returns a benchmark's ratios and values, without absolute times."""
    comparisons, values, lines = [], [], []
    for name, row in sorted(content["rows"].items()):
        lines.append(f"- {name}: {'; '.join([row['work'], *row['notes']])}.\n")
        for ratio in row["comparisons"]:
            low, high = ratio["ratio_min"], ratio["ratio_max"]
            line = {"row": name, **ratio, "range": f"{low:.3f} to {high:.3f}"}
            if ratio.get("agreement") is not None:
                line["agreement"] = f"{ratio['agreement']:.1e}"
            comparisons.append(line | {"met": _yes_or_no(ratio.get("met"))})
        for quantity, value in row["values"].items():
            limit = row["limits"].get(quantity, {})
            line = {"row": name, "quantity": quantity, "value": value}
            line |= {"at_most": limit.get("at_most")}
            values.append(line | {"met": _yes_or_no(limit.get("met"))})
    parts = ["".join(lines)]
    limits = {"at_most": "at most", "met": "met"}
    if comparisons:
        headings = {"row": "row", "subject": "time of", "peer": "against"}
        names = ("ratio", "range", "rounds", "agreement")
        headings |= {name: name for name in names} | limits
        parts += [
            "Ratio: time of the first divided by the time of the second, in the same "
            "round; below 1 is faster. At most: what this project asks of itself. "
            "Agreement: largest relative difference of what the two compute.\n",
            _table(comparisons, headings, {"ratio": ".3f", "at_most": ".2f"}),
        ]
    if values:
        headings = {"row": "row", "quantity": "quantity", "value": "value"}
        parts.append(_table(values, {**headings, **limits}, {"value": ".4g"}))
    return "\n".join(parts)


def _table(rows, headings, formats) -> str:
    """Drops the columns in which no row has anything."""
    headings = {
        column: heading
        for column, heading in headings.items()
        if any(row.get(column) is not None for row in rows)
    }
    formats = {column: spec for column, spec in formats.items() if column in headings}
    return markdown_table(rows, headings, formats=formats, missing="")


def _yes_or_no(met: bool | None) -> str | None:
    return None if met is None else "yes" if met else "**no**"
