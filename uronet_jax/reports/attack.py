"""The files that `launch.attack` writes besides attack.json."""

import collections
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from uronet_jax.evaluation.attack_run import examples_path
from uronet_jax.reports import figures, robustness

AMPLIFY = 10.0  # Of perturbations, in the figure.


def save_attack(content: Mapping[str, Any], workdir: str | os.PathLike) -> None:
    """Writes attack.md and, if the config asks for pictures, attack.png."""
    workdir = Path(workdir)
    (workdir / "attack.md").write_text(render_attack(content), encoding="utf-8")
    if content["config"]["num_pictures"]:
        draw_attack(content, workdir)


def render_attack(content: Mapping[str, Any]) -> str:
    """Returns the result as Markdown."""
    config = content["config"]
    return "\n".join(
        [
            f"# Attacks on {config['data']['name']} ({config['preset']})\n",
            robustness.LEGEND,
            robustness.render(content),
        ]
    )


def draw_attack(content: Mapping[str, Any], workdir: Path) -> None:
    """Draws attack.png: what the most successful attack did under each threat model.

    Of the attacks that there are under most threat models.

    Args:
        content: What attack.json holds.
        workdir: With the examples of every row.
    """
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
