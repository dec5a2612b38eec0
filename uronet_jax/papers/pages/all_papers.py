"""The papers whose experiments have pages, in order."""

from collections.abc import Iterable

from uronet_jax.papers.adversarial_noise.pages import ADVERSARIAL_NOISE_PAGES
from uronet_jax.papers.pages.group import Group
from uronet_jax.papers.pages.layout import Layout
from uronet_jax.papers.pages.paper_pages import PaperPages
from uronet_jax.papers.reconstructive.pages import RECONSTRUCTIVE_PAGES
from uronet_jax.papers.uronet.pages import URONET_PAGES

PAPERS: tuple[PaperPages, ...] = (
    URONET_PAGES,
    ADVERSARIAL_NOISE_PAGES,
    RECONSTRUCTIVE_PAGES,
)
# Of all experiments.
PAGE_LAYOUTS: dict[str, Layout] = {
    name: layout for paper in PAPERS for name, layout in paper.layouts.items()
}


def papers_run(groups: Iterable[Group]) -> list[PaperPages]:
    """Returns the papers of which an experiment was run."""
    run = {group.experiment for group in groups}
    return [paper for paper in PAPERS if run & paper.layouts.keys()]


def paper_of(experiment: str) -> PaperPages | None:
    """Returns the paper that an experiment belongs to, None for an unknown one."""
    return next((paper for paper in PAPERS if experiment in paper.layouts), None)
