"""Stored results, one JSON file each, to one Markdown page.

Published numbers are transcribed facts; `published/sources.csv` names where they come
from: "Treating Adversarial and Natural Noise Equally: Building a Robust Network for
Unified Resilience" (URoNet), anonymous TMLR submission; and RobustBench.
"""

import dataclasses
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from uronet_jax.papers.uronet.pages import (
    claims,
    classifiers,
    comparison,
    noises,
    paper,
    reproduction,
)
from uronet_jax.reports import defense_table as defence
from uronet_jax.reports import robustness, suites
from uronet_jax.reports.tables import markdown_table

BENCHMARK = "uronet_jax.benchmark"
FIDELITY = "uronet_jax.fidelity"
ATTACK_AGREEMENT = "uronet_jax.attack_agreement"
ATTACK = "uronet_jax.attack"
# Value of a file's field `schema` -> kind of result.
_SCHEMAS = {
    BENCHMARK: "benchmark",
    FIDELITY: "fidelity",
    ATTACK_AGREEMENT: "attack_agreement",
    ATTACK: "attack",
    reproduction.SCHEMA: "reproduction",
}

# Kind of result -> the fields by which its files are known.
_KINDS = {
    "benchmark": {"schema", "rows"},
    "fidelity": {"schema", "rows"},
    "attack_agreement": {"schema", "rows"},
    "attack": {"schema", "rows", "warnings", "threshold", "finished"},
    "reproduction": {"schema", "experiment", "rows"},
    "evaluation": {"summary", "rows"},
    "quickstart": {"dataset", "clean_accuracy", "rows"},
}
_PROVENANCE = {"config", "versions", "device", "seconds"}
# Noise that the paper does not define -> the config's field that holds our reading.
_READINGS = {"SPN": "spn_reading", "UN": "un_reading"}
# Beginning of our classifiers' names -> the classifier of the paper.
_FAMILIES = {"resnet": "ResNet", "wrn": "Wide-ResNet16-8"}


@dataclasses.dataclass(frozen=True)
class Result:
    """A stored result.

    Attributes:
        name: Of its file, without the ending.
        kind: A key of `_KINDS`.
        content: The JSON.
    """

    name: str
    kind: str
    content: dict[str, Any]

    @property
    def small(self) -> bool:
        """Whether models or test set are too small to stand beside the papers'."""
        if self.kind == "reproduction":
            return comparison.is_small(self.content)
        config = self.content["config"]
        data = config.get("data", {})
        part = data.get("num_examples", 0) > 0 or "[" in data.get("split", "")
        return config.get("preset") == "small" or part


def load(path: str | os.PathLike) -> Result:
    """Reads one result.

    Args:
        path: A JSON file of `launch.evaluate`, `launch.attack`, `launch.quickstart`,
            `launch.benchmark`, `launch.fidelity` or `launch.reproduce`.

    Raises:
        ValueError: If it is none of these or of another version of the schema, if it
            comes from a smoke run or from one that has not finished, or if its models
            or test set are small and its name does not say so.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not a JSON file: {error}") from error
    fields = content.keys() if isinstance(content, dict) else set()
    if "schema" in fields and content["schema"] == reproduction.SCHEMA:
        _check_version(path, content)
    kinds = [kind for kind, own in _KINDS.items() if own | _PROVENANCE <= fields]
    if "schema" in fields:
        kinds = [k for k in [_SCHEMAS.get(content["schema"])] if k in kinds]
    if not kinds:
        raise ValueError(
            f"{path} has an unknown form: expected evaluation.json of launch.evaluate, "
            "attack.json of launch.attack, "
            "report.json of launch.quickstart or the file of launch.benchmark, "
            "launch.fidelity or launch.reproduce, with "
            f"{', '.join(sorted(_PROVENANCE))}"
        )
    result = Result(path.stem, kinds[0], content)
    preset = content["config"].get("preset")
    if preset == "smoke":
        raise ValueError(f"{path} comes from a smoke run, which shows nothing")
    if not content.get("finished", True):
        raise ValueError(
            f"{path} comes from a run that has not finished: run the same command again"
        )
    if result.small and "small" not in result.name:
        raise ValueError(
            f"{path} is of small models or part of the test set: its name must say "
            "so, for example "
            f"small_{path.name}"
        )
    return result


def _check_version(path: Path, content: Mapping[str, Any]) -> None:
    found, expected = content.get("schema_version"), reproduction.SCHEMA_VERSION
    if found != expected:
        raise ValueError(
            f"{path} is of version {found} of the schema {reproduction.SCHEMA}, "
            f"expected {expected}: compute it anew with launch.reproduce, or read it "
            "with the release that wrote it"
        )


def load_folder(folder: str | os.PathLike) -> list[Result]:
    """Reads every JSON file of a folder, in the order of their names.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: See `load`.
    """
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"no folder of results at {folder}")
    return [load(path) for path in sorted(Path(folder).glob("*.json"))]


def published_raw() -> list[dict[str, Any]]:
    """Returns the undefended accuracies of URoNet's Table 7 (CIFAR-10).

    Returns:
        Rows with `classifier`, `noise` and `severity` ("clean" and 0 for clean
        images), `accuracy` in `[0, 1]` and `source`.
    """
    name = "uronet_table07.csv"
    return [
        {
            "classifier": row["classifier"],
            "noise": row["noise"] or "clean",
            "severity": int(row["test_severity"] or 0),
            "accuracy": float(row["value"]) / 100.0,
            "source": paper.source(name),
        }
        for row in paper.rows(name)
        if row["condition"] != "mitigated"
    ]


def render(results: Sequence[Result]) -> str:
    """Returns the page. The same results give the same text."""
    groups = reproductions(results)
    parts = [
        "# Results\n",
        claims.verdict(groups),
        "Generated from the files in `docs/results` by `python -m launch.report`; do "
        "not edit. Accuracies are of all images that are named, each degraded by one "
        "draw with the stated seed.\n",
        "Noises: GN Gaussian, UN uniform, SPN salt-and-pepper, SN shot, IN impulse, "
        "SPKN speckle; clean stands for none. *Undefended* is the classifier on the "
        "degraded images, *purified* on what the remover makes of them, *gated* on "
        "purified images where the detector is surer than a threshold set on clean "
        "validation images. *Detection* is the accuracy of the detector at probability "
        "1/2 on as many clean as degraded images; TPR at x % FPR is the share of "
        "degraded images found when x % of the clean ones are called degraded. PSNR in "
        "dB.\n",
    ]
    evaluations = [r for r in results if r.kind == "evaluation"]
    comparisons = _comparisons(evaluations)
    sections = {
        "Claims of the paper": [claims.table(groups)] if groups else [],
        "Experiments without a result": [reproduction.not_run(groups)]
        if groups
        else [],
        "The paper's experiments": [
            _reproduction(g, groups) for g in groups if not g.small
        ],
        "The paper's experiments with small models: no verdict on the paper": [
            _reproduction(g, groups) for g in groups if g.small
        ],
        "Undefended classifiers beside the published numbers": comparisons,
        "Evaluations": [_evaluation(r) for r in evaluations if not r.small],
        "Small evaluations: not comparable with published numbers": [
            _evaluation(r) for r in evaluations if r.small
        ],
        "Attacks": _attacks([r for r in results if r.kind == "attack"]),
        "Quickstart": [_quickstart(r) for r in results if r.kind == "quickstart"],
        "Benchmarks": [_benchmark(r) for r in results if r.kind == "benchmark"],
    }
    for heading, texts in sections.items():
        if texts:
            parts += [f"## {heading}\n", *texts]
    if not results:
        parts.append("No result is stored yet.\n")
    return "\n".join(parts)


def reproductions(results: Sequence[Result]) -> list[comparison.Group]:
    """Returns the runs of `launch.reproduce` among results, grouped by experiment.

    Full evaluations help to tell which noises are the paper's.
    """
    return comparison.group(
        {r.name: r.content for r in results if r.kind == "reproduction"},
        [x for r in results if _is_comparable(r) for x in _undefended(r)],
    )


def _undefended(result: Result) -> list[noises.Undefended]:
    """Returns the accuracies of an evaluation whose classifier the paper has."""
    name = result.content.get("models", {}).get("classifier", {}).get("name", "")
    return [
        noises.Undefended(
            "CIFAR-10",
            family,
            f"{row['noise']}-{row['severity']}" if row["severity"] else noises.CLEAN,
            noises.readings(result.content["config"]),
            100.0 * row["ours"],
            100.0 * row["published"],
            result.name,
            classifiers.Origin(result.content["config"]["classifier"], ""),
        )
        for start, family in _FAMILIES.items()
        if name.startswith(start)
        for row in compare_with_published([result], family)
    ]


def _is_comparable(result: Result) -> bool:
    """Whether it is a full evaluation of the paper's noises on CIFAR-10."""
    if result.kind != "evaluation" or result.small:
        return False
    config = result.content["config"]
    return (config["data"]["name"], config["suite"]["name"]) == ("cifar10", "uronet")


def _reproduction(group: comparison.Group, groups: Sequence[comparison.Group]) -> str:
    size = " (small models)" if group.small else ""
    return "\n".join(
        [
            f"### {group.name}: {reproduction.title(group.experiment)}{size}\n",
            _origin(
                [
                    Result(name, "reproduction", reproduction.in_short(run))
                    for name, run in group.runs.items()
                ]
            ),
            reproduction.render(group, groups),
        ]
    )


def _evaluation(result: Result) -> str:
    content, config = result.content, result.content["config"]
    size = config.get("preset", "")
    name = config["suite"]["name"]
    paper = name == "uronet"
    body = defence.rows_table(content["rows"]) if paper else suites.render(content)
    return "\n".join(
        [
            f"### {result.name}: {config['data']['name']}"
            f"{'' if paper else f', {name}'} ({size} models)\n",
            _origin([result]),
            defence.summary_list(content["summary"]),
            body,
        ]
    )


def _attacks(found: Sequence[Result]) -> list[str]:
    if not found:
        return []
    return [robustness.LEGEND, *map(_attack, found)]


def _attack(result: Result) -> str:
    content, config = result.content, result.content["config"]
    return "\n".join(
        [
            f"### {result.name}: {config['data']['name']} "
            f"({config.get('preset', '')} models)\n",
            _origin([result]),
            robustness.render(content),
        ]
    )


def _quickstart(result: Result) -> str:
    return "\n".join(
        [
            f"### {result.name}: {result.content['dataset']}\n",
            _origin([result]),
            defence.summary_list(result.content),
            defence.rows_table(result.content["rows"]),
        ]
    )


def _comparisons(evaluations: Iterable[Result]) -> list[str]:
    """Compares every full classifier of CIFAR-10, over the readings of the noises."""
    groups: dict[tuple, list[Result]] = {}
    for result in filter(_is_comparable, evaluations):
        config = result.content["config"]
        data = config["data"]
        key = (config["classifier"], data["split"], data["num_examples"])
        groups.setdefault((*key, config["seed"]), []).append(result)
    return [_comparison(group) for group in groups.values()]


def _comparison(group: Sequence[Result]) -> str:
    content = group[0].content
    name = content.get("models", {}).get("classifier", {}).get("name", "")
    families = [f for start, f in _FAMILIES.items() if name.startswith(start)]
    parts = [
        f"### {name or content['config']['classifier']}\n",
        "SPN and UN are not defined in the paper: each reading that was measured has a "
        "line. Accuracies in percent, differences in points.\n",
        _origin(group),
    ]
    for family in families or _FAMILIES.values():
        rows = compare_with_published(group, family)
        parts += [
            markdown_table(
                [
                    {
                        **row,
                        **{
                            column: 100.0 * row[column]
                            for column in ("ours", "published", "difference")
                        },
                    }
                    for row in rows
                ],
                {
                    "noise": "noise",
                    "severity": "severity",
                    "reading": "reading",
                    "ours": "ours",
                    "published": f"published, {family}",
                    "difference": "difference",
                },
                formats={"difference": "+.2f"},
                missing="",
            ),
            reading_verdict(rows, family),
        ]
    return "\n".join(parts)


def compare_with_published(
    group: Sequence[Result], classifier: str
) -> list[dict[str, Any]]:
    """Lays undefended accuracies beside those of URoNet's Table 7.

    Args:
        group: Evaluations of one classifier on the same images, which may differ in
            their readings of SPN and UN.
        classifier: One of the paper's.

    Returns:
        Rows with `noise`, `severity`, `reading` (None where the paper leaves none
        open), `ours`, `published` and their `difference`, fractions in `[0, 1]`. What
        several evaluations measured alike is averaged.
    """
    published = {
        (row["noise"], row["severity"]): row["accuracy"]
        for row in published_raw()
        if row["classifier"] == classifier
    }
    measured: dict[tuple, list[float]] = {}
    for result in group:
        suite, summary = result.content["config"]["suite"], result.content["summary"]
        measured.setdefault(("clean", 0, None), []).append(summary["clean_accuracy"])
        for row in result.content["rows"]:
            reading = suite.get(_READINGS.get(row["noise"], ""))
            key = (row["noise"], row["severity"], reading)
            measured.setdefault(key, []).append(row["undefended_accuracy"])
    noises = list(dict.fromkeys(noise for noise, _ in published))
    rows = []
    for noise, severity, reading in sorted(
        measured, key=lambda key: (noises.index(key[0]), key[2] or "", key[1])
    ):
        ours = mean(measured[noise, severity, reading])
        theirs = published[noise, severity]
        rows.append(
            {
                "noise": noise,
                "severity": severity,
                "reading": reading,
                "ours": ours,
                "published": theirs,
                "difference": ours - theirs,
            }
        )
    return rows


def reading_verdict(rows: Sequence[Mapping[str, Any]], classifier: str) -> str:
    """Says which readings are nearest to the published numbers.

    Args:
        rows: From `compare_with_published`.
        classifier: The paper's classifier that they were compared with.

    Returns:
        One sentence per noise whose reading is open, and one on the other noises.
    """

    def distance(noises: Iterable[str], reading: str | None) -> float:
        return 100.0 * mean(
            abs(row["difference"])
            for row in rows
            if row["noise"] in noises and row["reading"] == reading
        )

    sentences = []
    for noise in _READINGS:
        readings = {row["reading"] for row in rows if row["noise"] == noise}
        distances = sorted(
            (distance([noise], reading), reading) for reading in readings
        )
        listed = [f"`{reading}` ({points:.2f})" for points, reading in distances]
        if len(listed) == 1:
            sentences.append(f"{noise}: only {listed[0]} was measured.")
        elif listed:
            sentences.append(
                f"{noise}: {listed[0]} is nearest, before {', '.join(listed[1:])}."
            )
    defined = {row["noise"] for row in rows} - {*_READINGS, "clean"}
    if defined:
        sentences.append(
            f"The noises without a reading ({', '.join(sorted(defined))}) differ by "
            f"{distance(defined, None):.2f}."
        )
    return (
        f"Mean absolute difference from the published {classifier}, in points. "
        + " ".join(sentences)
        + "\n"
    )


def _benchmark(result: Result) -> str:
    return "\n".join(
        [
            f"### {result.name}: {result.content['device']['kind']}\n",
            _origin([result]),
            render_benchmark(result.content),
        ]
    )


def render_benchmark(content: Mapping[str, Any]) -> str:
    """Returns a benchmark's ratios and values as Markdown, without absolute times.

    Args:
        content: JSON of `launch.benchmark`.
    """
    comparisons, values, lines = [], [], []
    for name, row in sorted(content["rows"].items()):
        lines.append(f"- {name}: {'; '.join([row['work'], *row['notes']])}.\n")
        for ratio in row["comparisons"]:
            low, high = ratio["ratio_min"], ratio["ratio_max"]
            agreement = ratio.get("agreement")
            comparisons.append(
                {
                    "row": name,
                    **ratio,
                    "range": f"{low:.3f} to {high:.3f}",
                    "agreement": None if agreement is None else f"{agreement:.1e}",
                    "met": _yes_or_no(ratio.get("met")),
                }
            )
        for quantity, value in row["values"].items():
            limit = row["limits"].get(quantity, {})
            values.append(
                {
                    "row": name,
                    "quantity": quantity,
                    "value": value,
                    "at_most": limit.get("at_most"),
                    "met": _yes_or_no(limit.get("met")),
                }
            )
    parts = ["".join(lines)]
    limits = {"at_most": "at most", "met": "met"}
    if comparisons:
        parts += [
            "Ratio: time of the first divided by the time of the second, in the same "
            "round; below 1 is faster. At most: what this project asks of itself. "
            "Agreement: largest relative difference of what "
            "the two compute.\n",
            _table(
                comparisons,
                {
                    "row": "row",
                    "subject": "time of",
                    "peer": "against",
                    "ratio": "ratio",
                    "range": "range",
                    "rounds": "rounds",
                    "agreement": "agreement",
                    **limits,
                },
                {"ratio": ".3f", "at_most": ".2f"},
            ),
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


def _origin(group: Sequence[Result]) -> str:
    """Says where numbers come from, one line per file."""
    lines = []
    for result in group:
        content, sessions = result.content, comparison.sessions(result.content)
        devices = dict.fromkeys(
            f"{x['device']['count']} x {x['device']['kind']} "
            f"({x['device']['platform']})"
            for x in sessions
        )
        versions = dict.fromkeys(_fields(x["versions"]) for x in sessions)
        lines.append(
            f"- `{result.name}.json`: {', '.join(devices)}, "
            f"{sum(x['seconds'] for x in sessions):.0f} s; "
            f"{', then '.join(versions)}; {_fields(content['config'])}\n"
        )
    return "".join(lines)


def _fields(tree: Mapping[str, Any], prefix: str = "") -> str:
    """Returns nested fields as `a 1, b.c 2`."""
    parts = []
    for name, value in tree.items():
        if isinstance(value, Mapping):
            parts.append(_fields(value, f"{prefix}{name}."))
        elif value not in ("", None):
            if isinstance(value, list | tuple):
                value = "-".join(map(str, value))
            parts.append(f"{prefix}{name} {value}")
    return ", ".join(parts)
