"""What the URoNet paper claims, and what our results say of it.

One standard for every claim. A claim says of some numbers that they are above, or
below, their limits. Of a numerical claim the limits are published numbers: it holds
unless one of ours is on the wrong side by more than the margin. Of a qualitative claim
they are other numbers of ours, or a boundary: it holds if each of ours is on the right
side by more than the margin. The margin is twice the standard deviation, over the seeds
where there are several, else of a share of the test images (`rules.margin`). A claim on
an average is judged on the mean of its numbers.

A claim is judged when all cells that it names are measured. If one of them rests on a
noise that is not the paper's (`noises.other_noises`), the claim cannot be compared; of
an average such cells are left out.
"""

import dataclasses
from collections.abc import Callable, Sequence
from statistics import mean
from typing import Literal

from uronet_jax.reports.comparison import Group, Row
from uronet_jax.reports.reproduction import title
from uronet_jax.reports.rules import Finding
from uronet_jax.reports.statements import CLAIMS, OPEN, Claim
from uronet_jax.reports.tables import markdown_table

# The standard above, for the page.
_STANDARD = (
    "One standard for all: a difference counts if it is larger than the margin, which "
    "is twice the standard deviation over the seeds, of one seed that of a share of "
    "the test images. A numerical claim holds unless a difference counts against it, a "
    "qualitative one only if all differences count for it; a claim on an average is "
    "judged on the mean. Claims that rest on a noise which is not the paper's cannot "
    "be compared; of an average such cells are left out. Worst is the number that is "
    "furthest on the wrong side, or nearest to it.\n"
)
# So many findings are all shown.
_FEW = 3

Status = Literal["holds", "fails", "incomparable", "unmeasured"]


@dataclasses.dataclass(frozen=True)
class Judgement:
    """A claim and what our results say of it.

    Attributes:
        claim: The paper's.
        status: Whether it holds, fails, cannot be compared or is not measured yet.
        evidence: Our numbers.
        reason: Why it cannot be compared.
        measured: How many of the cells that it names are measured.
        named: How many cells it names; 0 without a result.
        judged: How many cells it was judged on.
        small: Whether they come from small models or part of a test set, which is no
            verdict on the paper.
        result: Name of the file.
        others: Names of files that could judge it as well and were not used.
    """

    claim: Claim
    status: Status = "unmeasured"
    evidence: str = ""
    reason: str = ""
    measured: int = 0
    named: int = 0
    judged: int = 0
    small: bool = False
    result: str = ""
    others: tuple[str, ...] = ()


def _lead(claim: Claim, finding: Finding) -> float:
    """Returns by how much a number is on the side that the claim says."""
    gap = finding.value - finding.limit
    return round(-gap if claim.below else gap, 2)


def _allows(claim: Claim, finding: Finding) -> bool:
    """The standard: see the head of this module."""
    if claim.kind == "qualitative":
        return _lead(claim, finding) > finding.margin
    return _lead(claim, finding) >= -finding.margin


def _cells(findings: Sequence[Finding]) -> list[Row]:
    """Returns what findings are made of, each cell once."""
    return list({id(cell): cell for f in findings for cell in f.cells}.values())


def _judge_on(claim: Claim, group: Group) -> Judgement:
    findings = claim.rule(group.cells)
    cells = _cells(findings)
    measured = sum(cell["ours"] is not None for cell in cells)
    found = Judgement(
        claim,
        measured=measured,
        named=len(cells),
        small=group.small,
        result=group.name,
    )
    alike = [f for f in findings if not any(map(group.touches, f.cells))]
    if measured < len(cells):
        done = [f for f in alike if f.value is not None]
        so_far = f"so far {_weigh(claim, done)[1]}" if done else ""
        return dataclasses.replace(found, evidence=so_far)
    if alike and (claim.average or len(alike) == len(findings)):
        held, evidence = _weigh(claim, alike)
        return dataclasses.replace(
            found,
            status="holds" if held else "fails",
            evidence=evidence,
            judged=len(_cells(alike)),
        )
    others = dict.fromkeys(noise for cell in cells for noise in group.touches(cell))
    reasons = (f"{noise} ({group.other_noises[noise]})" for noise in others)
    kept = _weigh(claim, alike)[1] if alike else _weigh(claim, findings)[1]
    which = f"without {', '.join(others)}" if alike else "with the noises as they are"
    return dataclasses.replace(
        found,
        status="incomparable",
        evidence=f"{which}: {kept}",
        reason=f"on {', '.join(reasons)}, not the paper's noise",
        judged=len(_cells(alike)),
    )


def _weigh(claim: Claim, findings: Sequence[Finding]) -> tuple[bool, str]:
    """Returns whether a claim holds for measured findings, and their numbers."""
    if claim.average:
        by_name: dict[str, list[float]] = {}
        for finding in findings:
            by_name.setdefault(finding.name, []).append(finding.value)
        means = {name: mean(values) for name, values in by_name.items()}
        worst = (max if claim.below else min)(means, key=means.__getitem__)
        whole = Finding(
            "",
            mean(f.value for f in findings),
            mean(f.limit for f in findings),
            mean(f.margin for f in findings),
            (),
            findings[0].signed,
        )
        return _allows(claim, whole), (
            f"{_text(whole)} on average over {len(findings)} {claim.things}, worst "
            f"{worst} {means[worst]:+.2f} points"
        )
    held = [_allows(claim, finding) for finding in findings]
    if len(findings) <= _FEW:
        texts = (f"{finding.name} {_text(finding)}" for finding in findings)
        return all(held), ", ".join(texts)
    worst = min(findings, key=lambda finding: _lead(claim, finding))
    return all(held), (
        f"{sum(held)} of {len(held)} {claim.things}, worst {worst.name} {_text(worst)}"
    )


def _text(finding: Finding) -> str:
    if finding.signed:
        return f"{round(finding.value, 2) + 0.0:+.2f} points"  # No signed zero.
    return f"{finding.value:.2f} %"


def _of_one_setting(groups: Sequence[Group]) -> list[Group]:
    """Returns, full before small, those of the setting with most experiments."""
    about = {claim.experiment for claim in CLAIMS}
    kept = []
    for small in (False, True):
        sized = [g for g in groups if g.small is small and g.experiment in about]
        counts: dict[str, set[str]] = {}
        for group in sized:
            counts.setdefault(group.setting, set()).add(group.experiment)
        main = max(counts, key=lambda setting: len(counts[setting]), default=None)
        kept += [group for group in sized if group.setting == main]
    return kept


def judge(groups: Sequence[Group]) -> list[Judgement]:
    """Judges every claim by the first results that can tell, full before small.

    Args:
        groups: From `comparison.group`. Of the full ones and of the small ones, those
            of one suite, preset and evaluation are used: of that with most experiments.
    """
    judgements = []
    for claim in CLAIMS:
        found = [
            _judge_on(claim, group)
            for group in _of_one_setting(groups)
            if group.experiment == claim.experiment
        ]
        able = [j for j in found if j.status != "unmeasured"]
        first = next(iter(able or found), Judgement(claim))
        others = tuple(
            j.result for j in able if j is not first and j.small is first.small
        )
        judgements.append(dataclasses.replace(first, others=others))
    return judgements


def verdict(groups: Sequence[Group]) -> str:
    """Returns which claims hold, as a Markdown list of at most five lines.

    Args:
        groups: From `comparison.group`.
    """
    judgements = judge(groups)
    if not any(j.measured for j in judgements):
        return "- The paper's tables: nothing measured yet.\n"

    def having(status, small=False):
        return [j for j in judgements if (j.status, j.small) == (status, small)]

    confirmed, refuted = having("holds"), having("fails")
    aside = having("incomparable") + having("incomparable", small=True)
    in_line, out_of_line = having("holds", small=True), having("fails", small=True)
    missing = having("unmeasured") + having("unmeasured", small=True)
    lines = [
        f"**Confirmed ({len(confirmed)} of {len(CLAIMS)} published claims):** "
        f"{_by_kind(confirmed, _claimed)}",
        f"**Not confirmed ({len(refuted)}):** {_by_kind(refuted, _sentence)}",
        f"**Cannot be compared ({len(aside)}, and four tables):** {_aside(aside)}",
    ]
    if in_line or out_of_line:
        lines.append(
            "**Small models, an indication and no verdict on the paper:** in line with "
            f"{len(in_line)} (small): {_by_kind(in_line, _claimed)}; not in line with "
            f"{len(out_of_line)} (small): {_by_kind(out_of_line, _sentence)}"
        )
    if missing:
        lines.append(f"**Not measured yet ({len(missing)}):** {_missing(missing)}")
    return "".join(f"- {line}.\n" for line in lines)


def _by_kind(judgements: Sequence[Judgement], text: Callable[[Judgement], str]) -> str:
    texts = []
    for kind in ("qualitative", "numerical"):
        found = [text(j) for j in judgements if j.claim.kind == kind]
        if found:
            texts.append(f"*{kind}* {'; '.join(found)}")
    return "; ".join(texts) or "none"


def _claimed(judgement: Judgement) -> str:
    return judgement.claim.text


def _sentence(judgement: Judgement) -> str:
    who = "small" if judgement.small else "ours"
    return f"{judgement.claim.text}: {who} {judgement.evidence}"


def _aside(judgements: Sequence[Judgement]) -> str:
    by_reason: dict[str, list[str]] = {}
    for judgement in judgements:
        place = f"{_place(judgement)}, {judgement.claim.text}"
        by_reason.setdefault(judgement.reason, []).append(place)
    texts = [f"{reason}: {'; '.join(t)}" for reason, t in by_reason.items()]
    return "; ".join([*texts, *OPEN])


def _missing(judgements: Sequence[Judgement]) -> str:
    places: dict[str, str] = {}
    for j in judgements:
        count = f" ({j.measured} of {j.named} cells)" if j.measured else ""
        places[_place(j)] = max(places.get(_place(j), ""), count, key=len)
    return "; ".join(f"{place}{count}" for place, count in places.items())


def _place(judgement: Judgement) -> str:
    """Returns where the paper says it."""
    return title(judgement.claim.experiment).partition(":")[0]


def table(groups: Sequence[Group]) -> str:
    """Returns every claim with our numbers as a Markdown table, and its standard."""
    texts = {
        "holds": "yes",
        "fails": "**no**",
        "incomparable": "cannot be compared",
        "unmeasured": "not measured yet",
    }

    def answer(j):
        text = texts[j.status]
        return f"small models: {text}" if j.small and j.status != "unmeasured" else text

    def count(j):
        if j.status == "unmeasured":
            return f"{j.measured} of {j.named} measured" if j.named else None
        return f"{j.judged} of {j.named}"

    def evidence(j):
        return f"{j.reason}; {j.evidence}" if j.reason else j.evidence or None

    def result(j):
        if not j.result:
            return None
        others = ", ".join(f"`{name}`" for name in j.others)
        return f"`{j.result}`, not {others}" if others else f"`{j.result}`"

    rows = [
        {
            "table": _place(j),
            "kind": j.claim.kind,
            "claim": j.claim.text,
            "holds": answer(j),
            "evidence": evidence(j),
            "cells": count(j),
            "result": result(j),
        }
        for j in judge(groups)
    ]
    headings = {
        "table": "source",
        "kind": "kind",
        "claim": "the paper says",
        "holds": "holds here",
        "evidence": "our numbers",
        "cells": "judged on cells",
        "result": "result",
    }
    used = {group.name for group in _of_one_setting(groups)}
    about = {claim.experiment for claim in CLAIMS}
    unused = [g.name for g in groups if g.experiment in about and g.name not in used]
    text = markdown_table(rows, headings, missing="") + "\n" + _STANDARD
    if unused:
        names = ", ".join(f"`{name}`" for name in unused)
        text += f"\nNot judged on {names}: of another suite, preset or evaluation.\n"
    return text
