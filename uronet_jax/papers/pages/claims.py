"""What papers claim of their tables, and what our numbers say of it.

The claims are data, `published/claims.toml` of each paper. One names cells of an
experiment and a bound, and it holds if all of its numbers do.
"""

import dataclasses
import fnmatch
import itertools
from collections.abc import Iterable, Mapping, Sequence
from statistics import mean
from typing import Any

from uronet_jax.papers.pages.all_papers import PAGE_LAYOUTS, PAPERS
from uronet_jax.papers.pages.comparison import MEASURED
from uronet_jax.papers.pages.group import Group, place_of
from uronet_jax.papers.pages.paper_pages import PaperPages
from uronet_jax.reports.tables import markdown_table

_Cell = Mapping[str, Any]
_PUBLISHED, _ANY = "published", "*"
_NAMES = ("trained", "tested", "matched")
# Of quantities that are no percentages.
_UNITS = {"eps_star": ""}


@dataclasses.dataclass(frozen=True)
class Claim:
    """Something a paper says of cells of an experiment.

    Attributes:
        experiment: Whose cells it names.
        text: What it says.
        cells: Column -> value, or values, of the cells that it names; in a value `*`
            stands for anything. Beside the table's columns there are `trained` and
            `tested`, such as `UN-3`, and `matched`: whether the remover is that of the
            severity met.
        bound: What each number has to reach: one for all, `published` for the cell's
            own, or column -> its value -> number.
        against: Columns that differ in the cells whose mean is taken off first: their
            value or values, or a mapping from the cell's own. Then a
            number has to be above a bound of 0.
        times: What that mean is multiplied by first.
        below: Whether the numbers have to be below, not above.
        one: Whether one number that holds is enough.
        best: Whether only the highest number counts.
        apart: Whether the numbers have to be within the bound of 0, either way.
        mean: Column by which numbers are averaged first, empty for a mean over all;
            None for each on its own.
        but: Column -> value of cells that are left out.
        named: How many cells it names where no published table has them all. Left out,
            they are counted: without a published table every value that it lists names
            a cell, whether there is one or not, and so do all that fit one with `*`.
    """

    experiment: str
    text: str
    cells: Mapping[str, Any]
    bound: float | str | Mapping[str, Mapping[str, float]] = 0.0
    against: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    times: float = 1.0
    below: bool = False
    one: bool = False
    best: bool = False
    apart: bool = False
    mean: str | None = None
    but: Mapping[str, str] = dataclasses.field(default_factory=dict)
    named: int = 0


# Of all papers.
CLAIMS = tuple(Claim(**claim) for paper in PAPERS for claim in paper.claims())


def claims_of(paper: PaperPages) -> list[Claim]:
    """Returns the claims of a paper."""
    return [claim for claim in CLAIMS if claim.experiment in paper.layouts]


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What our numbers say of a claim.

    Of `numbers` (one for each measured cell, or each mean of them) `held` are on the
    side that it says. The `worst` is furthest on the wrong side, or nearest to it
    (where one number is enough, the best); `seeds` are those of the cell with the
    fewest.
    """

    claim: Claim
    held: int = 0
    numbers: int = 0
    measured: int = 0
    named: int = 0
    worst: str = ""
    seeds: int = 0
    small: bool = False

    @property
    def answer(self) -> str:
        """`yes`, `no`, or `open` while too little is measured to say it.

        The first cell on the wrong side refutes a claim on every cell.
        """
        if self.claim.one and self.held:
            return "yes"
        if self.measured == self.named > 0:
            return "yes" if self.held == self.numbers else "no"
        claim = self.claim
        each = claim.mean is None and not claim.one and not claim.best
        return "no" if each and self.held < self.numbers else "open"


def _fits(value: Any, wanted: Any) -> bool:
    if isinstance(wanted, list):
        return any(_fits(value, x) for x in wanted)
    if isinstance(wanted, str) and _ANY in wanted:
        return fnmatch.fnmatchcase(str(value), wanted)
    return value == wanted


def _all_fit(cell: _Cell, wanted: Mapping[str, Any]) -> bool:
    return all(_fits(cell.get(column), x) for column, x in wanted.items())


def _with_names(cell: _Cell) -> dict[str, Any]:
    """Returns a cell with `_NAMES`."""
    trained = f"{cell.get('train_noise')}-{cell.get('train_severity')}"
    matched = cell.get("test_severity") == cell.get("remover_train_severity")
    return {**cell, "trained": trained, "tested": place_of(cell), "matched": matched}


def _choices(wanted: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns every choice of one value per column of those that are listed."""
    values = [x if isinstance(x, list) else [x] for x in wanted.values()]
    return [dict(zip(wanted, x, strict=True)) for x in itertools.product(*values)]


def _lacking(wanted: Mapping[str, Any], cells: Sequence[_Cell]) -> int:
    """Returns how many cells are named but not there.

    A value with `*` stands for those that fit it anywhere, or for one if none does.
    """
    listed = {
        column: [
            value
            for x in (values if isinstance(values, list) else [values])
            for value in {c.get(column) for c in cells if _fits(c.get(column), x)}
            or {x}
        ]
        for column, values in wanted.items()
    }
    there = {tuple(cell.get(column) for column in wanted) for cell in cells}
    return len({tuple(x.values()) for x in _choices(listed)} - there)


def judge_claim(claim: Claim, group: Group) -> Verdict:
    """Judges a claim by the cells of a group of its experiment."""
    cells = [_with_names(cell) for cell in group.cells]
    layout = PAGE_LAYOUTS[claim.experiment]
    # Classifiers that the paper has not count only where its table has no cells.
    of_paper = bool(layout.published) and not claim.named
    named = [
        cell
        for cell in cells
        if _all_fit(cell, claim.cells)
        and not (claim.but and _all_fit(cell, claim.but))
        and (cell["published"] is not None or not of_paper)
    ]
    lacking = 0 if layout.published else _lacking(claim.cells, cells)
    aside = {*MEASURED, *_NAMES, *claim.against}

    def rest(cell):
        return frozenset((k, v) for k, v in cell.items() if k not in aside)

    beside: dict[frozenset, list[_Cell]] = {}
    for cell in cells:
        beside.setdefault(rest(cell), []).append(cell)

    def taken_off(cell) -> float | None:
        if not claim.against:
            return 0.0
        wanted = {
            column: x[cell[column]] if isinstance(x, Mapping) else x
            for column, x in claim.against.items()
        }
        near = [other for other in beside[rest(cell)] if other is not cell]
        others = [other["ours"] for other in near if _all_fit(other, wanted)]
        if not others or None in others:
            return None
        if not layout.published:
            for choice in _choices(wanted):
                if not any(_all_fit(other, choice) for other in near):
                    return None
        return claim.times * mean(others)

    def bound_of(cell) -> float:
        if isinstance(claim.bound, Mapping):
            ((column, bounds),) = claim.bound.items()
            return bounds[cell[column]]
        return cell["published"] if claim.bound == _PUBLISHED else claim.bound

    def name_of(cell) -> str:
        if claim.mean is not None:
            return cell[claim.mean] if claim.mean else "mean"
        return ", ".join(dict.fromkeys((layout.row(cell), layout.column(cell))))

    # Of a claim on each cell every cell is a number, else cells of one name share it.
    numbers: dict[tuple, list[tuple[float, float]]] = {}
    counted = []
    for cell in named:
        off = taken_off(cell)
        if cell["ours"] is not None and off is not None:
            found = cell["ours"] - off, bound_of(cell)
            one = len(counted) if claim.mean is None else None
            numbers.setdefault((name_of(cell), one), []).append(found)
            counted.append(cell)
    means = {
        name: [mean(column) for column in zip(*pairs, strict=True)]
        for name, pairs in numbers.items()
    }
    if claim.best and means:
        highest = max(means, key=means.__getitem__)
        means = {highest: means[highest]}

    def lead_of(number, bound) -> float:
        if claim.apart:
            return round(bound - abs(number), 2)
        return round(bound - number if claim.below else number - bound, 2)

    leads = {name: lead_of(*pair) for name, pair in means.items()}
    strict = bool(claim.against) and claim.bound == 0.0
    worst = ""
    if leads:
        worst_of = (max if claim.one else min)(leads, key=leads.__getitem__)
        (name, _), (value, bound) = worst_of, means[worst_of]
        metric = claim.cells.get("metric")
        value = round(value, 2) + 0.0  # No signed zero.
        if claim.against or metric == "accuracy_gain":
            worst = f"{name}: {value:+.2f}{_UNITS.get(metric, ' points')}"
        else:
            worst = f"{name}: {value:.2f}{_UNITS.get(metric, ' %')}"
        if not isinstance(claim.bound, int | float):
            worst += f", asked {bound:.2f}"
    return Verdict(
        claim,
        held=sum(lead > 0 if strict else lead >= 0 for lead in leads.values()),
        numbers=len(leads),
        measured=len(counted),
        named=claim.named or len(named) + lacking,
        worst=worst,
        seeds=min((cell["seeds"] for cell in counted), default=0),
        small=group.small,
    )


def judge_all(
    groups: Sequence[Group], claims: Iterable[Claim] = CLAIMS
) -> list[Verdict]:
    """Judges claims by the first group that measured something."""
    verdicts = []
    for claim in claims:
        own = [group for group in groups if group.experiment == claim.experiment]
        found = [judge_claim(claim, group) for group in own]
        found.sort(key=lambda verdict: verdict.measured == 0)
        verdicts.append(found[0] if found else Verdict(claim))
    return verdicts


def claims_table(verdicts: Sequence[Verdict]) -> str:
    """Returns verdicts as a Markdown table."""
    rows = [
        {
            "source": PAGE_LAYOUTS[v.claim.experiment].title.partition(":")[0],
            "text": v.claim.text,
            "answer": (f"**{v.answer}**" if v.answer == "no" else v.answer)
            + (" (small)" if v.small and v.measured else ""),
            "held": f"{v.held} of {v.numbers}" if v.numbers else None,
            "measured": f"{v.measured} of {v.named}" if v.named else None,
            "seeds": v.seeds or None,
            "worst": v.worst or None,
        }
        for v in verdicts
    ]
    sources = {row["source"] for row in rows}
    headings = {
        **({"source": "source"} if len(sources) > 1 else {}),
        "text": "the paper says",
        "answer": "here",
        "held": "numbers that hold",
        "measured": "cells measured",
        "seeds": "seeds",
        "worst": "worst",
    }
    return markdown_table(rows, headings, missing="")
