"""What a paper brings to the pages, besides its experiments."""

import dataclasses
import importlib.resources
import tomllib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from uronet_jax.papers.pages.group import Group
from uronet_jax.papers.pages.layout import Layout
from uronet_jax.papers.pages.pictures import Picture
from uronet_jax.reports.results import Result

# Experiment -> its first group, full ones first; an empty one without a run.
KnownGroups = Mapping[str, Group]


@dataclasses.dataclass(frozen=True)
class PaperPages:
    """Layouts, claims and published numbers of a paper, and what is said beside them.

    All but the first three may be left out.

    Attributes:
        title: What it is called in a sentence; with a capital, above links and claims.
        package: Its package in `papers`, whose folder `published` holds `claims.toml`
            and the files of published numbers.
        layouts: Experiment -> how its numbers are laid out.
        further: Heading -> experiments whose links stand there, without a number.
        headline: Experiment whose distance from the paper the overview tells, and
            what its numbers are.
        unjudged: What of the paper no claim is about, and why.
        note: Group -> what has to be known of it, above its tables.
        lead: Group, all groups -> what stands before its tables.
        remark: Measured cells of a table -> what stands under it.
        end: Group, all groups -> the end of its page.
        footnote: All groups -> what stands under the claims.
        appendices: All results -> name of one -> what is added to its page.
        kept: All results -> input transformation -> what it leaves of the accuracy on
            clean images, of each of these that says so.
        overview_rows: Lines of the overview's table.
        overview_failures: What goes wrong, in sentences.
        overview_pictures: Its pictures on the overview.
    """

    title: str
    package: str
    layouts: Mapping[str, Layout]
    further: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)
    headline: tuple[str, str] = ("", "")
    unjudged: str = ""
    note: Callable[[Group], str] = lambda group: ""
    lead: Callable[[Group, Sequence[Group]], str] = lambda group, groups: ""
    remark: Callable[[Sequence[Mapping[str, Any]]], str] = lambda cells: ""
    end: Callable[[Group, Sequence[Group]], str] = lambda group, groups: ""
    footnote: Callable[[Sequence[Group]], str] = lambda groups: ""
    appendices: Callable[[Sequence[Result]], Mapping[str, str]] = lambda results: {}
    kept: Callable[[Sequence[Result]], Mapping[str, list[str]]] = lambda results: {}
    overview_rows: Callable[[KnownGroups], list[dict[str, Any]]] = lambda known: []
    overview_failures: Callable[[KnownGroups], list[str]] = lambda known: []
    overview_pictures: Callable[[KnownGroups], list[Picture]] = lambda known: []

    @property
    def heading(self) -> str:
        """Its title, with a capital."""
        return self.title[0].upper() + self.title[1:]

    def claims(self) -> list[dict[str, Any]]:
        """Returns the fields of its claims, in order."""
        folder = importlib.resources.files(f"uronet_jax.papers.{self.package}")
        text = (folder / "published" / "claims.toml").read_text(encoding="utf-8")
        return tomllib.loads(text)["claim"]
