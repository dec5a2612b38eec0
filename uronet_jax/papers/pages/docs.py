"""The pages of docs, made of the stored results: one by one, and the overview."""

import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from uronet_jax.papers.pages.all_papers import PAPERS, paper_of, papers_run
from uronet_jax.papers.pages.claims import claims_of, claims_table, judge_all
from uronet_jax.papers.pages.comparison import group_runs
from uronet_jax.papers.pages.experiment_page import (
    experiment_title,
    picture_name,
    render_experiment,
)
from uronet_jax.papers.pages.group import Group
from uronet_jax.papers.pages.overview import overview_pictures, render_overview
from uronet_jax.papers.pages.paper_pages import PaperPages
from uronet_jax.papers.pages.pictures import (
    ChartPicture,
    Picture,
    TransformationPicture,
    group_pictures,
)
from uronet_jax.reports import (
    arena_page,
    attack_page,
    certification,
    classifier_page,
    corruption_page,
    transformation_page,
)
from uronet_jax.reports.result_pages import render_result
from uronet_jax.reports.results import Result, load_folder
from uronet_jax.reports.tables import wrap_markdown
from uronet_jax.transformations import TRANSFORMATIONS

_FIGURES = "figures"
# Kinds of results that have a page of their own -> the heading above the links.
_PAGES = {
    "evaluation": "Evaluations",
    "attack": "Evaluations",
    "quickstart": "Evaluations",
    "benchmark": "Benchmarks, predictions",
    "predictions": "Benchmarks, predictions",
}


def _claims_page(groups: Sequence[Group]) -> str:
    return (
        "# The papers' claims\n\nA claim names numbers of a table; they hold or not. "
        "It is open while too little is measured to say it. *Small* is an "
        "indication, no verdict on a paper. *Worst* is the number that is furthest "
        "on the wrong side, or nearest to it. Each page of an experiment has the "
        "claims on it.\n\n"
        + "\n".join(_claims_of_paper(paper, groups) for paper in papers_run(groups))
    )


def _claims_of_paper(paper: PaperPages, groups: Sequence[Group]) -> str:
    run = {group.experiment for group in groups}
    lacking = ", ".join(f"`{name}`" for name in paper.layouts if name not in run)
    lacking = f" Without any number yet: {lacking}." if lacking else ""
    parts = [
        f"## {paper.heading}\n",
        claims_table(judge_all(groups, claims_of(paper))),
        paper.footnote(groups),
        f"Not judged: {paper.unjudged}.{lacking}\n",
    ]
    return "\n".join(filter(None, parts))


def docs_pages(
    folder: str | os.PathLike, docs: str | os.PathLike
) -> tuple[dict[Path, str], dict[Path, Picture]]:
    """Returns path -> text of the pages, and path -> picture.

    The pages of single results lie in `docs/results`, where `folder` usually is.

    Raises:
        FileNotFoundError: If `docs` lacks a picture that no JSON can give.
    """
    results, docs = load_folder(folder), Path(docs)
    certified = [result for result in results if result.kind == "certification"]
    groups = group_runs(results)

    def contents(kind: str) -> list[dict[str, Any]]:
        return [result.content for result in results if result.kind == kind]

    def only(kind: str) -> dict[str, Any] | None:
        found = contents(kind)
        if len(found) > 1:
            raise ValueError(f"{folder} holds {len(found)} of {kind}: keep one")
        return found[0] if found else None

    single = {group.name: render_experiment(group, groups) for group in groups}
    single |= {x.name: render_result(x) for x in results if x.kind in _PAGES}
    for paper in PAPERS:
        for name, text in paper.appendices(results).items():
            single[name] += f"\n{text}"
    if papers_run(groups):
        single["claims"] = _claims_page(groups)
    back = "\n[All results](../RESULTS.md)\n"
    pages = {
        docs / "results" / f"{name}.md": wrap_markdown(text + back)
        for name, text in single.items()
    }
    pages |= {
        docs / "RESULTS.md": wrap_markdown(
            render_overview(results, groups, _links(results, groups))
        ),
        docs / "CORRUPTIONS.md": corruption_page.render_corruptions(
            only("fidelity"), contents("benchmark")
        ),
        docs / "TRANSFORMATIONS.md": transformation_page.render_transformations(
            contents("benchmark"), _kept(results)
        ),
        docs / "CLASSIFIERS.md": classifier_page.render_classifiers(),
        docs / "ATTACKS.md": attack_page.render_attacks(
            only("attack_agreement"), contents("benchmark")
        ),
        docs / "CERTIFICATION.md": wrap_markdown(
            certification.render_certificates(certified)
        ),
    }
    arenas = [result for result in results if result.kind == "arena"]
    trades = {x.name: _trade_picture(x) for x in arenas}
    trades = {name: picture for name, picture in trades.items() if picture.data}
    if arenas:
        shown = {name: f"{_FIGURES}/{x.name}" for name, x in trades.items()}
        pages[docs / "ARENA.md"] = arena_page.render_arenas(arenas, shown)
    figures = docs / _FIGURES
    for group in groups:
        path = figures / picture_name(group)
        if group.layout and group.layout.drawn and not path.is_file():
            raise FileNotFoundError(
                f"no picture at {path}: copy the {group.experiment}.png there that "
                "launch.reproduce drew beside the JSON"
            )
    drawn = [x for group in groups for x in group_pictures(group)]
    drawn += [*overview_pictures(groups), *trades.values()]
    if curves := certification.certified_curves(certified):
        title = "Certified accuracy on CIFAR-10"
        drawn.append(ChartPicture(certification.CURVES, "", title, "radii", curves))
    usual = {name: dict(x.parameters) for name, x in TRANSFORMATIONS.items()}
    gallery = TransformationPicture("transformations.png", "", "", usual)
    pictures = {docs / gallery.name: gallery}
    return pages, pictures | {figures / picture.name: picture for picture in drawn}


def _trade_picture(result: Result) -> ChartPicture:
    title = f"Arena: {arena_page.arena_title(result.content)}"
    points = arena_page.trade_points(result.content)
    return ChartPicture(f"{result.name}.png", "", title, "trade", points)


def _kept(results: Sequence[Result]) -> dict[str, list[str]]:
    """Returns transformation -> what it leaves, of the results of all papers."""
    kept = defaultdict(list)
    for paper in PAPERS:
        for name, texts in paper.kept(results).items():
            kept[name] += texts
    return kept


def _links(results: Sequence[Result], groups: Sequence[Group]) -> dict[str, list[str]]:
    """Returns heading -> links to the pages of single results."""

    def link(name, text):
        return f"[{text}](results/{name}.md)"

    found: dict[str, list[str]] = {}
    sets: dict[tuple[str, str], set[str]] = {}
    for group in groups:
        sets.setdefault(_heading(group.experiment), set()).add(_measured_on(group))
    for group in groups:
        heading, text = _heading(group.experiment)
        if len(sets[heading, text]) > 1:
            text += f": {_measured_on(group)}"
        found.setdefault(heading, []).append(link(group.name, text))
    for kind, heading in _PAGES.items():
        for result in results:
            if result.kind == kind:
                found.setdefault(heading, []).append(link(result.name, result.name))
    if any(result.kind == "arena" for result in results):
        found.setdefault("Evaluations", []).append("[arena](ARENA.md)")
    return found


def _measured_on(group: Group) -> str:
    """What the rows call the data sets, and the classifiers, of a group."""
    found = []
    for column in ("dataset", "train_dataset", "classifier"):
        names = {cell.get(column) for cell in group.measured()}
        found.append(" and ".join(sorted(filter(None, names))))
    return ", ".join(filter(None, found))


def _heading(experiment: str) -> tuple[str, str]:
    """The heading above an experiment's links, and their text."""
    paper, text = paper_of(experiment), experiment.replace("_", " ")
    if paper is None:
        return "Other experiments", text
    for heading, experiments in paper.further.items():
        if experiment in experiments:
            return heading, text
    return paper.heading, experiment_title(experiment).partition(":")[0]


def out_of_date(folder: str | os.PathLike, docs: str | os.PathLike) -> list[Path]:
    """Returns what in `docs` is not what the results in `folder` give."""
    pages, pictures = docs_pages(folder, docs)
    old = [
        path
        for path, text in pages.items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]
    old += [path for path in (Path(docs) / "results").glob("*.md") if path not in pages]
    return old + [p for p, x in pictures.items() if not x.is_drawn(p.parent)]


def write_pages(folder: str | os.PathLike, docs: str | os.PathLike) -> list[Path]:
    """Writes what is out of date, deletes pages without a result, returns the paths."""
    pages, pictures = docs_pages(folder, docs)
    old = out_of_date(folder, docs)
    for path in old:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path in pages:
            path.write_text(pages[path], encoding="utf-8")
        elif path in pictures:
            pictures[path].draw(path.parent)
        else:
            path.unlink()
    return old
