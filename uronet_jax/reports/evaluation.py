"""The files that `launch.evaluate` writes."""

import os
from pathlib import Path
from typing import Any

from uronet_jax.evaluation.defense_table import corruption_rows
from uronet_jax.records import write_json
from uronet_jax.reports import defense_table, figures, suites


def render_evaluation(result: dict[str, Any]) -> str:
    """Returns an evaluation as Markdown.

    Args:
        result: What `evaluation.defense_table.evaluate_defense` returns, with `config`.
    """
    config = result["config"]
    parts = [
        f"# Evaluation on {config['data']['name']} ({config['preset']})\n",
        defense_table.summary_list(result["summary"]),
    ]
    if "corruptions" in result["summary"]:
        parts.append(suites.render(result))
    return "\n".join([*parts, defense_table.rows_table(result["rows"])])


def save_evaluation(result: dict[str, Any], workdir: str | os.PathLike) -> None:
    """Writes evaluation.json and .md, and of a suite of corruptions accuracy.png."""
    workdir = Path(workdir)
    write_json(workdir / "evaluation.json", result)
    text = render_evaluation(result)
    (workdir / "evaluation.md").write_text(text, encoding="utf-8")
    if "corruptions" in result["summary"]:
        figures.accuracy_heat_map(
            workdir / "accuracy.png",
            corruption_rows(result["rows"], "undefended"),
            "accuracy of the classifier alone, in percent",
        )
