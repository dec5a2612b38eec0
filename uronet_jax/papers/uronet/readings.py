"""Undefended classifiers on the paper's noises, over the readings that it leaves open.

The paper defines neither its uniform nor its salt-and-pepper noise.
"""

from collections.abc import Iterable, Sequence
from statistics import mean
from typing import Any

from uronet_jax.papers.pages.layout import published_rows
from uronet_jax.reports.results import Result
from uronet_jax.reports.tables import markdown_table

# Noise that the paper does not define -> the config's field that holds our reading.
_READINGS = {"SPN": "spn_reading", "UN": "un_reading"}
# Beginning of our classifiers' names -> the classifier of the paper.
_FAMILIES = {"resnet": "ResNet", "wrn": "Wide-ResNet16-8"}


def comparable_evaluations(results: Iterable[Result]) -> list[list[Result]]:
    """Returns full evaluations of the paper's noises on CIFAR-10, by classifier."""
    groups: dict[tuple, list[Result]] = {}
    for result in results:
        config = result.content["config"]
        if result.kind != "evaluation" or result.small or not _family(result):
            continue
        if (config["data"]["name"], config["suite"]["name"]) == ("cifar10", "uronet"):
            key = (config["classifier"], config["data"]["split"], config["seed"])
            groups.setdefault(key, []).append(result)
    return list(groups.values())


def _family(result: Result) -> str | None:
    name = result.content.get("models", {}).get("classifier", {}).get("name", "")
    return next((f for x, f in _FAMILIES.items() if name.startswith(x)), None)


def compare_readings(evaluations: Sequence[Result]) -> list[dict[str, Any]]:
    """Lays undefended accuracies beside those of URoNet's Table 7, in percent.

    The evaluations are of one classifier and may differ in their readings of SPN and
    UN; what several measured alike is averaged. `reading` is None where none is open.
    """
    published = {
        (row["noise"] or "clean", int(row["test_severity"] or 0)): float(row["value"])
        for row in published_rows("uronet/uronet_table07.csv")
        if row["classifier"] == _family(evaluations[0])
        and row["condition"] != "mitigated"
    }
    measured: dict[tuple, list[float]] = {}
    for result in evaluations:
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
        row = {"noise": noise, "severity": severity, "reading": reading}
        row["ours"] = 100.0 * mean(measured[noise, severity, reading])
        row["published"] = published[noise, severity]
        rows.append(row | {"difference": row["ours"] - row["published"]})
    return rows


def render_readings(evaluations: Sequence[Result]) -> str:
    """Returns the comparison as Markdown, and how near the readings are."""
    rows = compare_readings(evaluations)
    headings = {name: name for name in ("noise", "severity", "reading", "ours")}
    headings |= {"published": f"published, {_family(evaluations[0])}"}
    headings |= {"difference": "difference"}
    table = markdown_table(rows, headings, formats={"difference": "+.2f"}, missing="")
    distances: dict[tuple, list[float]] = {}
    for row in rows:
        if row["noise"] != "clean":
            name = f"{row['noise']} `{row['reading']}`" if row["reading"] else "others"
            distances.setdefault(name, []).append(abs(row["difference"]))
    nearest = sorted((mean(found), name) for name, found in distances.items())
    listed = ", ".join(f"{name} {points:.2f}" for points, name in nearest)
    used = ", ".join(f"[{x.name}]({x.name}.md)" for x in evaluations)
    return (
        "## Beside the published numbers\n\nThe paper defines neither SPN nor UN: each "
        f"reading that was measured has a line. From {used}.\n\n{table}\nMean absolute "
        f"difference from the paper, in points: {listed}.\n"
    )


def readings_by_name(results: Iterable[Result]) -> dict[str, str]:
    """Returns name of an evaluation -> the comparison that belongs on its page."""
    found = comparable_evaluations(results)
    return {evaluations[0].name: render_readings(evaluations) for evaluations in found}
