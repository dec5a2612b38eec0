"""The page of one experiment: its tables and pictures beside the paper's claims."""

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from uronet_jax.papers.pages import pictures
from uronet_jax.papers.pages.all_papers import PAGE_LAYOUTS, paper_of
from uronet_jax.papers.pages.claims import CLAIMS, claims_table, judge_claim
from uronet_jax.papers.pages.comparison import MEASURED
from uronet_jax.papers.pages.group import Group, distance_from_paper
from uronet_jax.papers.pages.layout import Layout, published_rows
from uronet_jax.papers.pages.paper_pages import PaperPages
from uronet_jax.reports.results import origin_line
from uronet_jax.reports.tables import markdown_table


def experiment_title(experiment: str) -> str:
    """Returns what an experiment shows."""
    known = experiment in PAGE_LAYOUTS
    return PAGE_LAYOUTS[experiment].title if known else experiment


def render_experiment(group: Group, groups: Sequence[Group] = ()) -> str:
    """Returns the page of an experiment, one of all `groups`, as Markdown."""
    size = " (small models)" if group.small else ""
    title = f"# {experiment_title(group.experiment)}{size}\n"
    parts = [title, origin_line(group.runs), _summary(group)]
    layout, paper = group.layout, paper_of(group.experiment)
    if paper:
        parts.append(paper.note(group))
    claims = [claim for claim in CLAIMS if claim.experiment == group.experiment]
    if claims:
        parts.append(claims_table([judge_claim(claim, group) for claim in claims]))
    if layout and layout.drawn:
        parts.append(_image(group.name, picture_name(group)))
    if paper:
        parts.append(paper.lead(group, groups))
    tables = _tables(group, paper) if layout else []
    # Below the first, unless these very numbers stand beside ours.
    if layout and layout.reference and not _compares(group, layout.reference):
        tables.insert(1, _reference(layout))
    parts += tables
    rest = [
        cell
        for cell in group.measured()
        if not (layout and (layout.has_place(cell) or cell["metric"] in layout.derived))
    ]
    if rest:
        parts += ["Also measured:\n"] if layout else []
        parts.append(_listing(rest))
    if paper:
        parts.append(paper.end(group, groups))
    return "\n".join(filter(None, parts))


def _tables(group: Group, paper: PaperPages) -> list[str]:
    layout, found = group.layout, []
    drawn = {picture.block: picture.name for picture in pictures.group_pictures(group)}
    for block, cells in pictures.table_blocks(group).items():
        parts = [f"**{block}**\n"]
        if block in drawn:
            parts.append(_image(f"{group.name}, {block}", drawn[block]))
        if layout.written:
            parts.append(_matrix(layout, cells))
        parts.append(_remarks(paper, layout, cells))
        found.append("\n".join(filter(None, parts)))
    return found


def _summary(group: Group) -> str:
    """One sentence on the distance from the paper."""
    layout = group.layout
    if layout is None or not layout.published:
        return ""
    found = distance_from_paper(group)
    text = f"{found['measured']} of {found['published']} published numbers are measured"
    if found["compared"]:
        text += (
            f"; at or above the paper: {found['at_or_above']} of {found['compared']} "
            f"{layout.counted_name}, mean difference {found['mean_difference']:+.2f} "
            "points"
        )
    if found["mean_spread"] is not None:
        text += (
            f"; {found['seeds']} seeds, standard deviation {found['mean_spread']:.2f} "
            f"points on average and {found['max_spread']:.2f} at most"
        )
    return f"{text}.\n"


def picture_name(group: Group) -> str:
    """Returns the file that an experiment drew when it was run."""
    return f"{group.name}.png"


def _image(text: str, name: str) -> str:
    return f"![{text}](../figures/{name})\n"


def _matrix(layout: Layout, cells: Sequence[Mapping[str, Any]]) -> str:
    lines = pictures.table_lines(layout, cells, context=layout.context)
    columns = dict.fromkeys(column for line in lines.values() for column in line)
    if len(columns) > layout.widest:
        return ""  # A picture only: the numbers stand in its cells.

    def text(cell):
        if cell is None or cell["ours"] is None and cell["published"] is None:
            return None
        if cell["ours"] is None:
            return f"*{cell['published']:.2f}*"
        if cell["infinite"]:
            return "infinite"
        if cell["difference"] is None:
            return _with_infinite(_plain_number(layout, cell), cell["each"] or ())
        # No signed zero.
        return f"{cell['ours']:.2f} ({round(cell['difference'], 2) + 0.0:+.2f})"

    rows = [
        {"": row, **{column: text(line.get(column)) for column in columns}}
        for row, line in lines.items()
    ]
    legend = ""
    if not layout.published and any(cell["spread"] is not None for cell in cells):
        legend = "Means over seeds ± their standard deviation; the rest is of one.\n\n"
    if any(cell["difference"] is not None for cell in cells):
        legend = "In brackets ours less published"
        legend += ", in italics published only.\n\n" if layout.context else ".\n\n"
    return legend + markdown_table(rows, ["", *columns])


def _plain_number(layout: Layout, cell: Mapping[str, Any]) -> Any:
    if not layout.published and cell["spread"] is not None:
        return f"{cell['ours']:.2f} ± {cell['spread']:.2f}"
    if cell["std"] is not None:
        return f"{cell['ours']:.2f} ± {cell['std']:.2f}"
    return f"{cell['ours']:.2f}" if layout.published else cell["ours"]


def _with_infinite(number: Any, each: Sequence[float | None]) -> Any:
    """Returns a mean, and for how many directions of noise it is infinite."""
    count = sum(x is None for x in each)
    if not count:
        return number
    text = number if isinstance(number, str) else f"{number:.2f}"
    return f"{text} ({count} of {len(each)} infinite)"


def _compares(group: Group, published: str) -> bool:
    """Whether numbers of a file of published ones stand beside ours."""
    compared = any(cell["difference"] is not None for cell in group.cells)
    return compared and group.layout.published == published


def _reference(layout: Layout) -> str:
    """The paper's own table, of what is not measured here."""
    lines: dict[str, dict[str, str]] = {}
    for row in filter(layout.reference_cells, published_rows(layout.reference)):
        if not layout.has_place(row):
            continue
        text = f"{row['value']} ± {row['std']}" if row.get("std") else row["value"]
        text = f"({text})" if row["note"].startswith("bracketed") else text
        lines.setdefault(layout.reference_row(row), {})[layout.column(row)] = text
    columns = dict.fromkeys(column for line in lines.values() for column in line)
    rows = [{"": name, **line} for name, line in lines.items()]
    return f"{layout.reference_note}\n\n{markdown_table(rows, ['', *columns])}"


def _remarks(
    paper: PaperPages, layout: Layout, cells: Sequence[Mapping[str, Any]]
) -> str:
    """What stands under a table: of the paper's kind, and the ranking of detectors."""
    cells = [cell for cell in cells if cell["ours"] is not None]
    remarks = [paper.remark(cells)]
    ranked = [cell for cell in cells if cell["auroc"] is not None]
    if ranked:
        worst = min(ranked, key=lambda cell: cell["auroc"])
        text = (
            f"AUROC: mean {mean(cell['auroc'] for cell in ranked):.4f}, lowest "
            f"{worst['auroc']:.4f} ({layout.row(worst)}, {layout.column(worst)})"
        )
        found = [cell["true_positive_rate"] for cell in ranked]
        if rates := [rate for rate in found if rate is not None]:
            text += "; true positive rate at 5 % false alarms: mean "
            text += f"{100.0 * mean(rates):.2f} %"
        remarks.append(f"{text}.")
    return " ".join(filter(None, remarks)) + "\n" if any(remarks) else ""


def _listing(cells: Sequence[Mapping[str, Any]]) -> str:
    """Numbers without published ones: every column in which something is."""
    columns = dict.fromkeys(c for cell in cells for c in cell if c not in MEASURED)
    used = [column for column in columns if any(cell.get(column) for cell in cells)]
    headings = {**{column: column for column in used}, "ours": "ours"}
    if any(cell["spread"] is not None for cell in cells):
        headings["spread"] = "deviation over seeds"
    return markdown_table(cells, headings, missing="")
