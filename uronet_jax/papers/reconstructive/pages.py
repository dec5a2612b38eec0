"""What reconstructive training brings to the pages."""

from uronet_jax.papers.pages.group import Group
from uronet_jax.papers.pages.paper_pages import PaperPages
from uronet_jax.papers.reconstructive.layouts import RECONSTRUCTIVE_LAYOUTS

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
    "(EOT) where it is random, or the attack on the classifier alone; *Square* looks "
    "at no gradient. Of fewer images, see the JSON.\n"
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
    return _DEFENCES + _THREATS


RECONSTRUCTIVE_PAGES = PaperPages(
    title="reconstructive training",
    package="reconstructive",
    layouts=RECONSTRUCTIVE_LAYOUTS,
    unjudged="what Figures 2 and 3 show in pictures alone, and how much is lost before "
    "another classifier",
    note=_note,
)
