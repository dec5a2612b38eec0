"""The files that launch.evaluate, attack and certify write for people."""

import collections
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from uronet_jax.evaluation.attack_run import examples_path
from uronet_jax.evaluation.defense_table import corruption_rows
from uronet_jax.evaluation.examples import ExamplePictures
from uronet_jax.records import write_file, write_json
from uronet_jax.reports import (
    certification,
    defense_table,
    figures,
    robustness,
    suites,
)
from uronet_jax.reports.evaluation_page import evaluation_page

AMPLIFY = 10.0  # Of perturbations, in the figure.


def evaluation_text(result: dict[str, Any]) -> str:
    """Returns what `evaluate_defense` returns, with `config`, as Markdown."""
    config = result["config"]
    parts = [
        f"# Evaluation on {config['data']['name']} ({config['preset']})\n",
        _judged(config),
        defense_table.classes_line(config),
        defense_table.summary_list(result["summary"]),
    ]
    if "corruptions" in result["summary"]:
        parts.append(suites.render_suite(result))
    parts.append(defense_table.defense_rows_table(result["rows"]))
    return "\n".join(filter(None, parts))


def _judged(config: Mapping[str, Any]) -> str:
    """Says which models were judged."""
    roles = ("classifier", "purifier", "detector")
    return f"{'; '.join(f'{x}: {config.get(x) or None}' for x in roles)}.\n"


def save_evaluation(result: dict[str, Any], workdir: str | os.PathLike) -> None:
    """Writes evaluation.json and .md, and of a suite of corruptions accuracy.png."""
    workdir = Path(workdir)
    write_json(workdir / "evaluation.json", result)
    text = evaluation_text(result)
    (workdir / "evaluation.md").write_text(text, encoding="utf-8")
    if "corruptions" in result["summary"]:
        figures.accuracy_heat_map(
            workdir / "accuracy.png",
            corruption_rows(result["rows"], "undefended"),
            "accuracy of the classifier alone, in percent",
        )


def save_evaluation_page(
    result: Mapping[str, Any], examples: ExamplePictures, path: str | os.PathLike
) -> None:
    """Writes the evaluation as one HTML file, see `evaluation_page`."""
    write_file(path, evaluation_page(result, examples).encode())


def check_page_path(path: str | os.PathLike) -> None:
    """Raises ValueError if a path does not name an HTML file."""
    if Path(path).suffix.lower() not in (".html", ".htm") or Path(path).is_dir():
        raise ValueError(f"{path} is no name of a page: name a file, such as page.html")


def save_attack(content: Mapping[str, Any], workdir: str | os.PathLike) -> None:
    """Writes attack.md and, if the config asks for pictures, attack.png."""
    workdir = Path(workdir)
    (workdir / "attack.md").write_text(attack_text(content), encoding="utf-8")
    if content["config"]["num_pictures"]:
        draw_attack(content, workdir)


def attack_text(content: Mapping[str, Any]) -> str:
    """Returns the result as Markdown."""
    config = content["config"]
    return "\n".join(
        [
            f"# Attacks on {config['data']['name']} ({config['preset']})\n",
            _judged(config),
            robustness.LEGEND,
            robustness.render_attack(content),
        ]
    )


def save_certification(content: Mapping[str, Any], workdir: str | os.PathLike) -> None:
    """Writes certification.md."""
    text = certification_text(content)
    (Path(workdir) / "certification.md").write_text(text, encoding="utf-8")


def certification_text(content: Mapping[str, Any]) -> str:
    """Returns the result as Markdown."""
    config = content["config"]
    return "\n".join(
        [
            f"# Certificates on {config['data']['name']} ({config['preset']})\n",
            _judged(config),
            certification.render_certification(content),
        ]
    )


def draw_attack(content: Mapping[str, Any], workdir: Path) -> None:
    """Draws what the best attack did, of those under most threat models."""
    proper = [
        (i, row) for i, row in enumerate(content["rows"]) if not row.get("sanity")
    ]
    counts = collections.Counter(_attack_of(row) for _, row in proper)
    # Minimal attacks go as far as they must: they show most where there is no other.
    _, best = min(
        proper,
        key=lambda numbered: (
            -counts[_attack_of(numbered[1])],
            numbered[1]["epsilon"] is None,
            numbered[1]["robust_accuracy"],
        ),
    )
    budget = robustness.budget(best["epsilon"], best["norm"])
    columns: dict[str, list[np.ndarray]] = {}
    labels: list[str] = []
    for i, row in proper:
        if _attack_of(row) != _attack_of(best):
            continue
        with np.load(examples_path(workdir, i)) as file:
            examples = dict(file)
        for right, flagged in zip(examples["right"], examples["flagged"], strict=True):
            answer = "right" if right else "wrong"
            labels.append(f"{row['threat']}\n{answer}{', flagged' if flagged else ''}")
        perturbation = examples["adversarial"] - examples["clean"]
        pictures = {
            "clean": examples["clean"],
            "adversarial": examples["adversarial"],
            f"perturbation\nx{AMPLIFY:g}": figures.show_noise(perturbation, AMPLIFY),
        }
        if "purified" in examples:
            pictures["purified"] = examples["purified"]
        for heading, images in pictures.items():
            columns.setdefault(heading, []).append(images)
    figures.gallery(
        workdir / "attack.png",
        {heading: np.concatenate(images) for heading, images in columns.items()},
        labels,
        title=f"{best['attack']}, epsilon {budget}",
    )


def _attack_of(row):
    return row["attack"], json.dumps(row["parameters"], sort_keys=True)
