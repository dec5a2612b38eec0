"""Checks what `launch.reproduce --experiment=all` left in its folder.

python tests/launch/check_reproduction.py runs/smoke/reproduction
"""

import json
import math
import sys
from collections.abc import Iterable
from pathlib import Path

from uronet_jax.papers.experiments import EXPERIMENTS
from uronet_jax.papers.pages.all_papers import PAGE_LAYOUTS

# Metric -> what its values lie between.
BOUNDS = {"accuracy": (0.0, 100.0), "never_fooled": (0.0, math.inf)}


def problems(folder: Path, experiments: Iterable[str] = EXPERIMENTS) -> list[str]:
    """Returns what is wrong; every experiment must be there, whole and finite."""
    found = []
    for name in experiments:
        path = folder / f"{name}.json"
        if not path.exists():
            found.append(f"{name} was left out")
            continue
        result = json.loads(path.read_text(encoding="utf-8"))
        if not result["finished"] or result["missing"]:
            found.append(f"{name} is not finished, it lacks {result['missing']}")
        if sum(count for _, count in result["parts"]) != len(result["rows"]):
            found.append(f"{name} does not have the rows of its parts")
        if not result["rows"] or not all(count for _, count in result["parts"]):
            found.append(f"{name} has a part without rows")
        for row in result["rows"]:
            if not math.isfinite(row["value"]):
                found.append(f"{name} has a value that is not finite: {row}")
            low, high = BOUNDS.get(row["metric"], (-math.inf, math.inf))
            if row["value"] < low or row["value"] > high:
                found.append(f"{name} has a value outside [{low}, {high}]: {row}")
        picture = path.with_suffix(".png")
        drawn = picture.exists() and picture.stat().st_size > 3_000
        if PAGE_LAYOUTS[name].drawn and not drawn:
            found.append(f"{picture.name} is missing or empty")
    return found


if __name__ == "__main__":
    found = problems(Path(sys.argv[1]))
    print("\n".join(found) or f"all {len(EXPERIMENTS)} experiments are whole")
    sys.exit(bool(found))
