"""Reports on defences side by side: what was judged, on what, and how it did."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from uronet_jax.reports.results import Result, load_folder, read_result

# Column -> heading. Numbers of columns that end in `accuracy` are fractions.
REPORT_COLUMNS = {
    "report": "report",
    "data": "data",
    "suite": "suite",
    "severities": "severities",
    "num_images": "images",
    "classifier": "classifier",
    "purifier": "purifier",
    "clean_accuracy": "clean",
    "purified_clean_accuracy": "clean, purified",
    "gated_clean_accuracy": "clean, gated",
    "undefended_accuracy": "noisy",
    "purified_accuracy": "noisy, purified",
    "gated_accuracy": "noisy, gated",
    "worst_accuracy": "worst, purified",
    "detection_accuracy": "detected",
}
_KINDS = ("evaluation", "quickstart")


def compare_reports(reports: Sequence[Result]) -> list[dict[str, Any]]:
    """Returns a row for each report, of `REPORT_COLUMNS` that it has.

    Accuracies are means over the rows of a report, `worst_accuracy` the least of them,
    as fractions in `[0, 1]`.

    Args:
        reports: Of `read_reports` or `published_reports`.
    """
    return [_compare(report) for report in reports]


def _compare(report: Result) -> dict[str, Any]:
    content, config = report.content, report.content["config"]
    rows, summary = content["rows"], content.get("summary", content)
    if report.kind == "quickstart":
        about = {"data": content["dataset"], "suite": "uronet"}
        purifier = "its own"
    else:
        about = {"data": config["data"]["name"], "suite": config["suite"]["name"]}
        # A report of an earlier version calls it a remover.
        purifier = config.get("purifier") or config.get("remover") or "none"
    levels = sorted({row["severity"] for row in rows})
    line = {
        "report": report.name,
        **about,
        "severities": ", ".join(map(str, levels)),
        "classifier": config["classifier"],
        "purifier": purifier,
    }
    line |= {k: summary[k] for k in REPORT_COLUMNS if k in summary}
    for column in REPORT_COLUMNS.keys() & rows[0].keys() - line.keys():
        line[column] = float(np.mean([row[column] for row in rows]))
    if "purified_accuracy" in rows[0]:
        line["worst_accuracy"] = min(row["purified_accuracy"] for row in rows)
    return line


def read_reports(paths: Sequence[str | os.PathLike]) -> list[Result]:
    """Reads reports of `launch.evaluate` or the quickstart, named by their paths.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If a file is something else.
    """
    found = []
    for path in map(Path, paths):
        report = read_result(path)
        if report.kind not in _KINDS:
            raise ValueError(
                f"{path} is no report on a defence, it is of the kind {report.kind}: "
                "name evaluation.json of `uronet evaluate`, or report.json of `uronet "
                "quickstart`"
            )
        found.append(dataclasses.replace(report, name=str(path.with_suffix(""))))
    return found


def published_reports(folder: str | os.PathLike) -> list[Result]:
    """Returns the results in a folder that are reports on a purifier, if there is one.

    A wheel has no such folder.
    """
    found = load_folder(folder) if Path(folder).is_dir() else []
    found = [report for report in found if report.kind in _KINDS]
    return [x for x in found if "purified_accuracy" in x.content["rows"][0]]
