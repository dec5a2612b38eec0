"""What adversarial noise training brings to the pages."""

from typing import Any

from uronet_jax.papers.adversarial_noise.layouts import ADVERSARIAL_NOISE_LAYOUTS
from uronet_jax.papers.pages.group import Group
from uronet_jax.papers.pages.overview_rows import overview_row
from uronet_jax.papers.pages.paper_pages import KnownGroups, PaperPages

_COMPARISON = (
    "GNT learns Gaussian noise of the sigma named (mult: of several), Speckle speckle "
    "noise, ANT the noise of a generator that is trained against it. *Corruptions* is "
    "the mean over {corruptions}; *without noises* leaves out {noises}. "
    "*eps\\** is the median norm of the least noise of a kind that fools the network "
    "(L2, images in [0, 1]); *learned* is noise of generators trained afterwards, with "
    "their standard deviation. No number stands where most images are never fooled.\n"
)
_NOTES = {
    "ant_cifar10": _COMPARISON.format(
        corruptions="the first 15 of CIFAR-10-C, at all severities",
        noises="Gaussian, shot and impulse noise",
    ),
    "ant_mnist": _COMPARISON.format(
        corruptions="MNIST-C's 15 and clean images", noises="shot and impulse noise"
    ),
    "ant_defences": "*18 noises* is the mean over those of the universal remover, "
    "*19 corruptions* over all of CIFAR-10-C.\n",
}
# Title in the overview -> model of `ant_defences`.
_OVERVIEW = {
    "ResNet-20 trained against learned noise (ANT)": "ANT 1x1",
    "the universal remover before it": "remover + ANT 1x1",
}


def _note(group: Group) -> str:
    return _NOTES.get(group.experiment, "")


def _overview_rows(known: KnownGroups) -> list[dict[str, Any]]:
    group, rows = known["ant_defences"], []
    for title, model in _OVERVIEW.items():
        found = {x["test"]: x["ours"] for x in group.measured(model=model)}
        if found:
            row = overview_row(
                title,
                group.runs,
                clean=found.get("clean"),
                noises=found.get("18 noises"),
                worst=found.get("worst noise"),
                corruptions=found.get("19 corruptions"),
            )
            rows.append(row)
    return rows


ADVERSARIAL_NOISE_PAGES = PaperPages(
    title="adversarial noise training",
    package="adversarial_noise",
    layouts=ADVERSARIAL_NOISE_LAYOUTS,
    unjudged="Table 1's other networks, stylized images, top-5 accuracy and mCE, and "
    "what stands in the appendix alone (not run here)",
    note=_note,
    overview_rows=_overview_rows,
)
