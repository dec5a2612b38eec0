"""The ablations of section 3.3: pairs of cells that differ in one thing.

The published numbers are differences of such pairs, and mostly the least or the largest
of many; `beside_published` lays ours beside them.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import mean
from typing import Any

from uronet_jax.papers.uronet.pages import paper
from uronet_jax.papers.uronet.pages.layouts import LAYOUTS
from uronet_jax.reports.tables import markdown_table

FILE = "uronet_ablations.csv"

Cell = dict[str, Any]
# Where a pair was measured -> the cell of the paper's own, and the changed one.
Pairs = dict[tuple[str, str], tuple[Cell, Cell]]


def detector_pairs(cells: Iterable[Cell], ablation: str) -> Pairs:
    """Pairs the usual detector with a changed one behind the same remover.

    Args:
        cells: Of `comparison.compare`; their `own` says which detector is which.
        ablation: Such as `detector_other`.

    Returns:
        Trained on and tested on, such as `("GN-1", "UN-1")` -> the measured cells of
        the usual detector and of the changed one.
    """
    found: dict[tuple[str, str], dict[bool, Cell]] = {}
    for cell in cells:
        if cell["ablation"] != ablation or cell["ours"] is None or cell["own"] is None:
            continue
        place = (
            f"{cell['train_noise']}-{cell['train_severity']}",
            f"{cell['test_noise']}-{cell['test_severity']}",
        )
        found.setdefault(place, {})[cell["own"]] = cell
    return {k: (v[True], v[False]) for k, v in found.items() if len(v) == 2}


def remover_pairs(cells: Iterable[Cell], ablation: str, without: str) -> Pairs:
    """Pairs the accuracy behind the remover with that of another variant.

    Args:
        cells: Of `comparison.compare`.
        ablation: `dcae` or `grey`.
        without: The other variant, such as `undefended`.

    Returns:
        Classifier and degradation -> the measured cells behind the remover and of the
        other variant.
    """
    found: dict[tuple[str, str], dict[str, Cell]] = {}
    for cell in cells:
        if cell["ablation"] == ablation and cell["ours"] is not None:
            test = f"{cell['test_noise']}-{cell['test_severity']}"
            found.setdefault((cell["classifier"], test), {})[cell["variant"]] = cell
    return {
        k: (v["remover"], v[without])
        for k, v in found.items()
        if "remover" in v and without in v
    }


def _gaps(pairs: Pairs) -> dict[tuple[str, str], float]:
    return {k: own["ours"] - other["ours"] for k, (own, other) in pairs.items()}


def _drop(cells, row):
    test = f"{row['test_noise']}-{row['test_severity']}"
    found = _gaps(detector_pairs(cells, row["ablation"]))
    return found.get((f"{row['train_noise']}-1", test))


def _mean_drop(summary: Callable) -> Callable:
    def compute(cells, row):
        by_training: dict[str, list[float]] = {}
        found = _gaps(detector_pairs(cells, row["ablation"]))
        for (trained, _), gap in found.items():
            by_training.setdefault(trained, []).append(gap)
        return summary(map(mean, by_training.values())) if by_training else None

    return compute


def _least_gain(without: str) -> Callable:
    def compute(cells, row):
        gaps = _gaps(remover_pairs(cells, row["ablation"], without))
        noise = row["test_noise"]
        kept = [
            gap
            for (_, test), gap in gaps.items()
            if not noise or test.partition("-")[0] == noise
        ]
        return min(kept, default=None)

    return compute


def _clean(cells, row):
    found = (
        cell["ours"]
        for cell in cells
        if cell["ablation"] == row["ablation"]
        and cell["ours"] is not None
        and cell["variant"] == "undefended"
        and cell["test_noise"] in ("", "clean")
    )
    return next(found, None)


# Ablation and published quantity -> ours of the cells of its data set.
_OURS: Mapping[tuple[str, str], Callable[[Sequence[Cell], Cell], float | None]] = {
    ("detector_other", "detection_accuracy_drop"): _drop,
    ("detector_image_only", "least_detection_accuracy_drop"): _mean_drop(min),
    ("detector_image_only", "largest_detection_accuracy_drop"): _mean_drop(max),
    ("dcae", "least_accuracy_gain"): _least_gain("dcae"),
    ("grey", "least_accuracy_gain"): _least_gain("undefended"),
    ("grey", "clean_accuracy"): _clean,
}
# What has to be measured before ours can stand there, by ablation and data set.
_NEEDS = {
    ("detector_other", "CIFAR-100"): "both detectors of CIFAR-100",
    ("detector_other", "CIFAR-10"): "both detectors of GN-1 on UN-1",
    ("detector_image_only", ""): "detectors with and without the noise pattern",
    ("dcae", "CIFAR-10"): "removers with one head and with two",
    ("grey", "Fashion-MNIST"): "grey removers and the grey classifier",
}
_NEEDS_CLEAN = "the grey classifier on clean images"


def beside_published(cells: Sequence[Cell]) -> list[Cell]:
    """Lays our numbers beside the published ones.

    Args:
        cells: Of the experiment `ablations`.

    Returns:
        The rows of the published file with `published`, `ours` and `difference` (None
        where not measured) and `needs` (what is missing; empty if nothing is).
    """
    rows = []
    for row in paper.rows(FILE):
        kept = [c for c in cells if row["dataset"] in ("", c["dataset"])]
        ours = _OURS[row["ablation"], row["metric"]](kept, row)
        needs = _NEEDS[row["ablation"], row["dataset"]]
        if row["metric"] == "clean_accuracy":
            needs = _NEEDS_CLEAN
        published = float(row["value"])
        rows.append(
            {
                **row,
                "published": published,
                "ours": ours,
                "difference": None if ours is None else ours - published,
                "needs": "" if ours is not None else needs,
            }
        )
    return rows


def render(cells: Sequence[Cell], *, small: bool) -> str:
    """Returns section 3.3's numbers beside ours as Markdown.

    Args:
        cells: Of the experiment `ablations`.
        small: Whether they come from small models.
    """
    block = LAYOUTS["ablations"].block
    rows = [
        {
            **row,
            "what": block(row),
            "quantity": row["metric"].replace("_", " "),
            "place": _place(row),
            "needs": row["needs"] and f"published only: needs {row['needs']}",
        }
        for row in beside_published(cells)
    ]
    return (
        "**What section 3.3 says in its text**\n\nIn points, the clean accuracy in "
        "percent. Where no noise is named, ours are the least and largest over "
        "training noises (of the mean over all tests) or over classifiers and "
        "noises.\n\n"
        + markdown_table(
            rows,
            {
                "what": "ablation",
                "dataset": "data set",
                "quantity": "quantity",
                "place": "noise",
                "ours": "ours, small" if small else "ours",
                "published": "published",
                "difference": "difference",
                "needs": "",
            },
            formats={"difference": "+.2f"},
        )
    )


def _place(row: Cell) -> str:
    test = "-".join(row[c] for c in ("test_noise", "test_severity") if row[c])
    return f"{row['train_noise']}-1 on {test}" if row["train_noise"] else test
