"""What reconstructive training brings to the pages."""

from collections.abc import Sequence

from uronet_jax.papers.pages.group import Group
from uronet_jax.papers.pages.paper_pages import PaperPages
from uronet_jax.papers.reconstructive.layouts import RECONSTRUCTIVE_LAYOUTS
from uronet_jax.papers.reconstructive.models import (
    QUILTING_TITLE,
    transformations,
    white_box_runs,
)
from uronet_jax.reports.results import Result

_DEFENCES = (
    "*RT* is the autoencoder of reconstructive training, with what it learned on in "
    "brackets. PD: pixel deflection, RRP: random resize and padding, FD: feature "
    "distillation, STL: sparse transformation layer, TVM: total variation "
    "minimisation; see [the input transformations](../TRANSFORMATIONS.md). "
)
_THREATS = (
    "*Grey box*: the attacker knows the classifier alone, as in the paper. *White "
    "box*: he knows the defence too, and for each image the best of his ways counts: "
    "through the defence, with the gradient past it (BPDA), averaged over its draws "
    "(EOT) where it is random, or the attack on the classifier alone{blind}. Of fewer "
    "images, see the JSON.\n"
)
_LABELS = (
    "*RT* is the autoencoder of reconstructive training, with the attack it learned on "
    "in brackets. *Of predictions*: the attack is led away from what the classifier "
    "says of the clean image, so it carries no label. Only where images carry their "
    "labels, and autoencoders read them, is accuracy lower without.\n"
)


def _note(group: Group) -> str:
    if group.experiment == "reconstructive_figure1":
        return ""
    if group.experiment == "reconstructive_labels":
        return _LABELS
    blind = "".join(f"; *{title}* looks at no gradient" for title in _blind(group))
    return _DEFENCES + _THREATS.replace("{blind}", blind)


def _blind(group: Group) -> list[str]:
    """Returns the attacks on white boxes that look at no gradient."""
    made = {cell["attack"] for cell in group.measured(threat="white box")}
    return [
        title
        for title, run in (white_box_runs(group.config) if made else {}).items()
        if title in made and run.attack.gradient_free
    ]


def _kept(results: Sequence[Result]) -> dict[str, list[str]]:
    """Returns name -> what is left of the accuracy on clean images."""
    found: dict[str, list[str]] = {}
    for result in results:
        if result.content.get("experiment") != "reconstructive":
            continue
        rows = [
            row
            for row in result.content["rows"]
            if (row["attack"], row["metric"]) == ("clean", "accuracy")
            and row["threat"] == "grey box"
        ]
        value = {row["defence"]: row["value"] for row in rows}
        if "none" not in value:
            continue
        made = transformations(result.content["config"])
        for title, name in (made | {QUILTING_TITLE: QUILTING_TITLE}).items():
            if title in value:
                small = ", small" if result.small else ""
                found.setdefault(name, []).append(
                    f"{value[title]:.1f} of {value['none']:.1f} "
                    f"({rows[0]['dataset']}{small})"
                )
    return found


RECONSTRUCTIVE_PAGES = PaperPages(
    title="reconstructive training",
    package="reconstructive",
    layouts=RECONSTRUCTIVE_LAYOUTS,
    unjudged="what Figures 2 and 3 show in pictures alone, and how much is lost before "
    "another classifier",
    note=_note,
    kept=_kept,
)
