"""How the rows of `evaluation.defense_table.defense_table` are shown to a person."""

from collections.abc import Mapping, Sequence
from typing import Any

from uronet_jax.reports.tables import labelled_list, markdown_table

# Column of a row -> heading and number format; likewise of the summary.
DEFENSE_COLUMNS = {
    "noise": ("noise", ""),
    "severity": ("severity", "d"),
    "undefended_accuracy": ("undefended", ".2%"),
    "purified_accuracy": ("purified", ".2%"),
    "gated_accuracy": ("gated", ".2%"),
    "detection_accuracy": ("detection", ".2%"),
    "auroc": ("AUROC", ".4f"),
    "tpr_at_1_percent_fpr": ("TPR at 1 % FPR", ".2%"),
    "tpr_at_5_percent_fpr": ("TPR at 5 % FPR", ".2%"),
    "psnr_noisy": ("PSNR noisy", ".1f"),
    "psnr_purified": ("PSNR purified", ".1f"),
    "ssim_noisy": ("SSIM noisy", ".3f"),
    "ssim_purified": ("SSIM purified", ".3f"),
}

DEFENSE_SUMMARY = {
    "num_images": ("test images", "d"),
    "clean_accuracy": ("accuracy on clean images", ".2%"),
    "purified_clean_accuracy": ("accuracy on purified clean images", ".2%"),
    "gated_clean_accuracy": ("accuracy on gated clean images", ".2%"),
    "gate": ("gate, degraded probability", ".4f"),
    "gated_clean_share_purified": ("clean images that the gate purifies", ".2%"),
    "false_alarm_rate": ("clean images called degraded", ".2%"),
    "clean_psnr_purified": ("PSNR of purified clean images, dB", ".1f"),
}


def defense_rows_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns the rows as a Markdown table, with their mean as the last line."""
    columns = {
        c: heading for c, (heading, _) in DEFENSE_COLUMNS.items() if c in rows[0]
    }
    return markdown_table(
        [*rows, mean_row(rows)],
        columns,
        formats={c: DEFENSE_COLUMNS[c][1] for c in columns if DEFENSE_COLUMNS[c][1]},
        missing="",
    )


def mean_row(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns the means of the columns that all rows have, called `mean`."""
    shown = [c for c in DEFENSE_COLUMNS if c in rows[0]]
    measured = [c for c in shown if c not in ("noise", "severity")]
    mean = {c: sum(row[c] for row in rows) / len(rows) for c in measured}
    return {"noise": "mean", **mean}


def classes_line(config: Mapping[str, Any]) -> str:
    """Says of a data set of other classes than the classifier's what counts as right.

    `config` is that of an evaluation or attack; "" where the classes are the same.
    """
    data = config["data"]
    if not data.get("labels"):
        return ""
    return (
        f"{data['name']} has {len(data['labels'])} of the classifier's classes; right "
        "is the class that it finds likeliest of all it knows.\n"
    )


def summary_list(summary: Mapping[str, Any]) -> str:
    """Returns the clean images' numbers as a Markdown list."""
    return labelled_list(summary, DEFENSE_SUMMARY)
