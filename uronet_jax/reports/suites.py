"""Results over a suite: corruption by severity, beside published numbers."""

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from uronet_jax.reports.tables import labelled_list, markdown_table, read_published

# What `evaluation.corruption_errors.summarize` gives -> text and format.
_FIGURES = {
    "clean_accuracy": ("accuracy on clean images", ".2%"),
    "mean_accuracy": ("mean over all corruptions and severities", ".2%"),
    "common_mean_accuracy": ("mean over the 15 common corruptions", ".2%"),
    "mean_corruption_error": (
        "mean error over the 15 (mCE as on CIFAR-10-C, not normalised)",
        ".2%",
    ),
    "common_mean_accuracy_without_noises": (
        "mean over the 12 of them that are not noise",
        ".2%",
    ),
    "alexnet_mce": ("mCE relative to AlexNet, as on ImageNet-C", ".1f"),
    "alexnet_relative_mce": ("relative mCE, likewise", ".1f"),
}
_SHOWN = {
    "undefended": "the classifier alone",
    "purified": "the classifier behind the remover",
}


def published_cifar10_c() -> dict[str, dict[int, float]]:
    """Returns corruption -> severity -> accuracy in `[0, 1]` of a plain WRN-28-10.

    Source: RobustBench (Croce et al., NeurIPS 2021), the entry "Standard".
    """
    table: dict[str, dict[int, float]] = {}
    for row in read_published("uronet_jax.reports", "robustbench_cifar10_c.csv"):
        column = table.setdefault(row["corruption"], {})
        column[int(row["severity"])] = float(row["accuracy"]) / 100.0
    return table


def render_suite(content: Mapping[str, Any]) -> str:
    """Returns an evaluation over a suite of corruptions as Markdown."""
    suite, data = content["config"]["suite"], content["config"]["data"]
    published = {}
    if (data["name"], suite["name"]) == ("cifar10", "cifar_c"):
        published = published_cifar10_c()
    count = content["summary"]["num_images"]
    part = data["num_examples"] or "[" in data["split"]
    reduced = f"small: {count:,} images" if part else ""
    parts = []
    for column, who in _SHOWN.items():
        if f"{column}_accuracy" in content["rows"][0]:
            parts += [
                f"Accuracy of {who}, in percent{f' ({reduced})' if reduced else ''}:\n",
                _table(content["rows"], f"{column}_accuracy", published, reduced),
                labelled_list(content["summary"]["corruptions"][column], _FIGURES),
            ]
    if any(row.get("textures") == "procedural" for row in content["rows"]):
        parts.append(
            "Frost was cut from generated textures: it is not the benchmark's, nor are "
            "means that contain it.\n"
        )
    return "\n".join(parts)


def _table(
    rows: Sequence[Mapping[str, Any]],
    column: str,
    published: Mapping[str, Mapping[int, float]],
    reduced: str,
) -> str:
    severities = sorted({row["severity"] for row in rows})
    table: dict[str, dict[str, Any]] = {}
    for row in rows:
        line = table.setdefault(row["noise"], {"corruption": row["noise"]})
        line[str(row["severity"])] = 100.0 * row[column]
    for name, line in table.items():
        line["mean"] = mean(line[str(s)] for s in severities)
        if name in published:
            line["published"] = 100.0 * mean(published[name][s] for s in severities)
    headings = {"corruption": "corruption", **{str(s): str(s) for s in severities}}
    headings["mean"] = f"mean ({reduced})" if reduced else "mean"
    if any("published" in line for line in table.values()):
        headings["published"] = "mean of RobustBench's plain WRN-28-10"
    return markdown_table(list(table.values()), headings, missing="")
