"""What adversarial noise training brings to the pages."""

from typing import Any

from uronet_jax.papers.adversarial_noise.layouts import ADVERSARIAL_NOISE_LAYOUTS
from uronet_jax.papers.pages.group import Group
from uronet_jax.papers.pages.overview_rows import OVERVIEW_SEVERITIES, overview_row
from uronet_jax.papers.pages.paper_pages import KnownGroups, PaperPages

_MODELS = (
    "GNT learns Gaussian noise of the sigma named (mult: of several), Speckle speckle "
    "noise, ANT the noise of a generator that is trained against it. "
)
_JUDGED = _MODELS + (
    "*Corruptions* is the mean over {corruptions}; *without noises* leaves out "
    "{noises}. Of several sigmas charts and the claims that say so take the best on "
    "the test images, as the paper does: an upper bound for GNT.\n"
)
_ATTACKED = _MODELS + (
    "*eps\\** is the median norm of noise of a kind at the border that a search along "
    "it meets, not necessarily the nearest (L2, images in [0, 1]). *Infinite* means "
    "that half of the images or more were never fooled; the number of elements of an "
    "image stands for that in the claims, as in the paper's code. *Learned* is noise "
    "of generators trained afterwards, their mean and standard deviation, without "
    "those for which it is infinite, and infinite if it is for all: an attacker that "
    "fails does not raise the number. *PGD* and *DDN* are "
    "as small as in the paper, 0.001 (L-inf) and 0.00031 times the root of the number "
    "of elements (L2), a quarter of a grey level and less: they say nothing about "
    "attacks of a usual size.\n"
)
_NOTES = {
    "ant_cifar10": _JUDGED.format(
        corruptions="the first 15 of CIFAR-10-C{severities}",
        noises="Gaussian, shot and impulse noise",
    ),
    "ant_mnist": _JUDGED.format(
        corruptions="MNIST-C's 15, and *16 with identity*, as in the tables of that "
        "paper, over clean images too",
        noises="shot and impulse noise",
    )
    + "The first chart is as the paper's Figure 2: over the sigma of training; what "
    "has several or none is a level.\n",
    "ant_cifar10_attacks": _ATTACKED,
    "ant_mnist_attacks": _ATTACKED,
    "ant_mnist_scan": "*Corruptions* is the mean over MNIST-C's 15, *validation* that "
    "over the same ones of training images that are held out. Whoever chooses by "
    "these knows the corruptions. *Epsilon* is the L2 norm of the learned noise; "
    "9.7 is the paper's 135 at 224x224x3, by the root of the elements.\n",
    "ant_defences": "*18 noises* is the mean over those of the universal remover, "
    "*19 corruptions* over all of CIFAR-10-C{severities}.\n",
}
# Title in the overview -> model of `ant_defences`.
_OVERVIEW = {
    "none: ResNet-20, the images of the three below": "none",
    "the universal remover": "remover",
    "ResNet-20 trained against learned noise (ANT)": "ANT 1x1",
    "both: that remover before that classifier": "remover + ANT 1x1",
}
# What is told among the failures where it costs so many points.
_HARM = 3.0


def _note(group: Group) -> str:
    return _NOTES.get(group.experiment, "").replace("{severities}", _severities(group))


def _severities(group: Group) -> str:
    """Returns what the means over corruptions are over, as their rows say."""
    found = {cell["severities"] for cell in group.measured() if cell["severities"]}
    return f" (severities: {'; '.join(sorted(found))})" if found else ""


def _overview_rows(known: KnownGroups) -> list[dict[str, Any]]:
    group, rows = known["ant_defences"], _trained_classifier(known["ant_cifar10"])
    for title, model in _OVERVIEW.items():
        cells = {x["test"]: x for x in group.measured(model=model)}
        found = {test: x["ours"] for test, x in cells.items()}
        # A mean over other severities has no place beside those of the overview.
        if cells.get("19 corruptions", {}).get("severities") != OVERVIEW_SEVERITIES:
            found.pop("19 corruptions", None)
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


def _trained_classifier(group: Group) -> list[dict[str, Any]]:
    """Returns the line of the classifier at full size, at all severities."""
    if not group.runs or group.small:
        return []
    plain, ours = (_by_test(group, model) for model in ("Vanilla", "ANT 1x1"))
    if not {"clean", "19 corruptions"} <= plain.keys() & ours.keys():
        return []
    title = (
        "ResNet-20 trained against learned noise (ANT); corruptions at severities 1 to "
        f"5, where none has {plain['19 corruptions']:.1f}"
    )
    clean, corruptions = ours["clean"], ours["19 corruptions"]
    return [overview_row(title, group.runs, clean=clean, corruptions=corruptions)]


def _by_test(group: Group, model: str) -> dict[str, float]:
    return {x["test"]: x["ours"] for x in group.measured(model=model)}


def _overview_failures(known: KnownGroups) -> list[str]:
    """Returns what a classifier pays that learned noise, and where it helps least."""
    group, others = known["ant_cifar10"], known["ant_defences"]
    plain, ours = (_by_test(group, model) for model in ("Vanilla", "ANT 1x1"))
    change = {test: ours[test] - plain[test] for test in plain.keys() & ours.keys()}
    if change.get("clean", 0) >= 0:
        return []
    text = (
        f"Trained against learned noise a classifier loses {-change['clean']:.1f} "
        "points on clean images"
    )
    harm = sorted((x, y) for x, y in change.items() if y < -_HARM)
    if harm:
        text += f", and on {', '.join(f'{x} {-y:.1f}' for x, y in harm)}"
    text += f"{group.mark}."
    plain, ours = (_by_test(others, model) for model in ("none", "ANT 1x1"))
    if "worst noise" in plain and "worst noise" in ours:
        text += (
            f" The worst of the 18 noises leaves it {ours['worst noise']:.1f} %, after "
            f"{plain['worst noise']:.1f}{others.mark}."
        )
    return [text]


ADVERSARIAL_NOISE_PAGES = PaperPages(
    title="adversarial noise training",
    package="adversarial_noise",
    layouts=ADVERSARIAL_NOISE_LAYOUTS,
    unjudged="Table 1's other networks, stylized images, top-5 accuracy and mCE, and "
    "what stands in the appendix alone (not run here)",
    note=_note,
    overview_rows=_overview_rows,
    overview_failures=_overview_failures,
)
