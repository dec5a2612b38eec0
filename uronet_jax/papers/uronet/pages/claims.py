"""What the URoNet paper claims, and what our results say of it.

One standard for every claim. A claim says of some numbers that they are above, or
below, their limits. Of a numerical claim the limits are published numbers: it holds if
none of ours is on the wrong side by more than the margin of the test images. Of a
qualitative claim they are other numbers of ours, or a boundary: it holds if each of
ours is on the right side by more than that margin. Several seeds may widen it
(`rules.margin`): a claim that would hold, or fail, only without what they add is
undecided. The margin of the images is twice the standard deviation of a share of them;
that of several seeds at least the half-width of a 95 % interval of their mean. A claim
on an average is judged on the mean of its numbers, with the mean of their margins: of
seeds that is cautious, as trainings of several noises differ independently.

A claim is judged when all cells that it names are measured; one on each of them fails
with the first that fails, unless it says that detectors miss something. If a cell rests
on a noise that is not the paper's (`noises.other_noises`), on other data, or at full
size on a classifier that is not known to be the paper's (`classifiers.doubt`), the
claim cannot be compared; of an average such cells are left out. That detectors miss
something is said of those only that find their own noise in Table 2 of the same models.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from statistics import mean
from typing import Literal, NamedTuple

from uronet_jax.papers.machine_settings import without_machine_settings
from uronet_jax.papers.uronet.pages import rules
from uronet_jax.papers.uronet.pages.comparison import Group, Row
from uronet_jax.papers.uronet.pages.noises import SAME_CLASSIFIER
from uronet_jax.papers.uronet.pages.reproduction import title
from uronet_jax.papers.uronet.pages.rules import Finding
from uronet_jax.papers.uronet.pages.statements import CLAIMS, OPEN, Claim
from uronet_jax.reports.tables import markdown_table

# The standard above, for the page.
_STANDARD = (
    "One standard for all. The margin of the images is twice the standard deviation of "
    "a share of the test images; with several seeds the whole margin is that or the "
    "half-width of a 95 % interval of their mean (Student's t), whichever is larger. A "
    "numerical claim holds if no difference counts against it by more than the margin "
    "of the images, a qualitative one if all differences count for it by more than "
    "that; else it fails, also while other cells are not measured (claims on an "
    "average, and that detectors miss something, wait for them). If what the seeds "
    "add to the margin could turn that round, it is undecided, which confirms nothing. "
    "A claim on an average is judged on the mean, with the mean of the margins. "
    "Claims that rest on a noise or on data which are not the paper's, or at full size "
    "on a classifier whose accuracy on clean images is not measured or further than "
    f"{SAME_CLASSIFIER:g} points from the published one, cannot be compared; of an "
    "average such cells are left out. Claims that detectors miss something count only "
    f"detectors that find their own noise in {rules.FINDS:g} % at least. Worst is the "
    "number that is furthest on the wrong side, or nearest to it.\n"
)
# So many findings are all shown.
_FEW = 3

Status = Literal["holds", "fails", "undecided", "incomparable", "unmeasured"]


@dataclasses.dataclass(frozen=True)
class Judgement:
    """A claim and what our results say of it.

    Attributes:
        claim: The paper's.
        status: Whether it holds, fails, is undecided, cannot be compared or is not
            measured yet.
        evidence: Our numbers.
        reason: Why it cannot be compared or decided, or what speaks against small
            models.
        brief: What keeps it from being compared, in a few words.
        measured: How many of the cells that it names are measured.
        named: How many cells it names; 0 without a result.
        judged: How many cells it was judged on.
        seeds: Of the cell with the fewest.
        small: Whether they come from small models or part of a test set, which is no
            verdict on the paper.
        result: Name of the file.
        others: Names of files that could judge it as well and were not used.
    """

    claim: Claim
    status: Status = "unmeasured"
    evidence: str = ""
    reason: str = ""
    brief: str = ""
    measured: int = 0
    named: int = 0
    judged: int = 0
    seeds: int = 0
    small: bool = False
    result: str = ""
    others: tuple[str, ...] = ()


def _lead(claim: Claim, finding: Finding) -> float:
    """Returns by how much a number is on the side that the claim says."""
    gap = finding.value - finding.limit
    return round(-gap if claim.below else gap, 2)


def _decide(claim: Claim, finding: Finding) -> Status:
    """The standard: see the head of this module."""
    lead, images = _lead(claim, finding), finding.image_margin
    seeds = finding.margin - images  # How much further they may move it.
    if claim.kind == "qualitative":
        held, failed = lead > images + seeds, lead <= images - seeds
    else:
        held, failed = lead >= -images + seeds, lead < -images - seeds
    return "holds" if held else "fails" if failed else "undecided"


def _cells(findings: Sequence[Finding]) -> list[Row]:
    """Returns what findings are made of, each cell once."""
    return list({id(cell): cell for f in findings for cell in f.cells}.values())


def _models(group: Group) -> str:
    """What the detectors of a result are made with."""
    names = ("data", "remover", "detector", "optimizer", "augmentation")
    config = {name: dict(group.config.get(name) or {}) for name in names[:3]}
    for name in ("classifier", "other_classifier"):  # Detectors do not know them.
        config["data"].pop(name, None)
        config["data"].pop(f"{name}_title", None)
    config |= {name: group.config.get(name) for name in names[3:]}
    return json.dumps(without_machine_settings(config), sort_keys=True)


def _own_detection(group: Group, groups: Sequence[Group]) -> dict[str, float]:
    """Returns trained noise -> its detection, of Table 2 of the same detectors."""
    for other in groups:
        if other.experiment == "table2" and (
            (other.small, other.setting, _models(other))
            == (group.small, group.setting, _models(group))
        ):
            return rules.own_detection(other.cells)
    return {}


def _judge_on(claim: Claim, group: Group, groups: Sequence[Group]) -> Judgement:
    findings = claim.rule(group.cells)
    cells = _cells(findings)
    measured = [cell for cell in cells if cell["ours"] is not None]
    found = Judgement(
        claim,
        measured=len(measured),
        named=len(cells),
        seeds=min((cell["seeds"] for cell in measured), default=0),
        small=group.small,
        result=group.name,
    )
    alike = [f for f in findings if all(map(group.is_comparable, f.cells))]
    if len(measured) < len(cells):
        done = [f for f in alike if f.value is not None]
        if not done:
            return found
        status, evidence = _weigh(claim, done)
        found = dataclasses.replace(
            found, evidence=f"so far {evidence}{_weaker(measured)}"
        )
        if status == "fails" and not claim.average and not claim.misses:
            # Of all its cells it says it, and of some it is wrong.
            judged = _cells(done)
            return dataclasses.replace(
                found,
                status="fails",
                reason=_other(group, judged).reason,
                judged=len(judged),
            )
        return found
    aside = ""
    if claim.misses:
        own = _own_detection(group, groups)
        if not all(rules.trained(cell) in own for cell in cells):
            return dataclasses.replace(
                found,
                status="incomparable",
                evidence=_weigh(claim, findings)[1] + _weaker(cells),
                reason="no Table 2 of the same models says whether its detectors find "
                "their own noise",
                brief="no Table 2 says whether its detectors find their own noise",
            )
        blind = [n for n in map(rules.trained, cells) if own[n] < rules.FINDS]
        blind = list(dict.fromkeys(blind))
        findings, alike = (
            [f for f in x if all(rules.trained(c) not in blind for c in f.cells)]
            for x in (findings, alike)
        )
        if not findings:
            return dataclasses.replace(
                found,
                status="incomparable",
                reason=f"none of its detectors ({', '.join(blind)}) finds its own "
                "noise",
                brief="none of its detectors finds its own noise",
            )
        if blind:
            aside = f"without {', '.join(blind)}, which miss their own noise: "
    if alike and (claim.average or len(alike) == len(findings)):
        status, evidence = _weigh(claim, alike)
        reasons = [_disagreement(claim, alike)] if status == "undecided" else []
        reasons += filter(None, [_other(group, _cells(alike)).reason])
        return dataclasses.replace(
            found,
            status=status,
            evidence=aside + evidence + _weaker(cells),
            reason="; ".join(reasons),
            judged=len(_cells(alike)),
        )
    other = _other(group, cells)
    kept = _weigh(claim, alike or findings)[1]
    which = f"without {', '.join(other.barring)}" if alike else "with all as they are"
    return dataclasses.replace(
        found,
        status="incomparable",
        evidence=f"{aside}{which}: {kept}{_weaker(cells)}",
        reason=other.reason,
        brief=other.brief,
        judged=len(_cells(alike)),
    )


class _Other(NamedTuple):
    """What is not the paper's.

    Attributes:
        barring: What of it keeps cells from being compared.
        reason: A text on all doubts.
        brief: What bars them, without numbers.
    """

    barring: list[str]
    reason: str
    brief: str


def _other(group: Group, cells: Sequence[Row]) -> _Other:
    """Returns what cells rest on that is not the paper's."""

    def union(of: Callable[[Row], Mapping[str, str]]) -> dict[str, str]:
        return {name: why for cell in cells for name, why in of(cell).items()}

    def told(found: Mapping[str, str]) -> str:
        return ", ".join(f"{name} ({why})" for name, why in found.items())

    noises = {n: group.other_noises[n] for c in cells for n in group.touches(c)}
    doubtful, data = union(group.doubtful), union(group.other_data)
    kinds = [
        (found, text)
        for found, text in (
            (noises, "not the paper's noise"),
            (doubtful, "not known to be the paper's classifier"),
            (data, "not the paper's data"),
        )
        if found
    ]
    barring = [*noises, *data] if group.small else [*noises, *doubtful, *data]
    return _Other(
        barring,
        "; ".join(f"on {told(found)}, {text}" for found, text in kinds),
        "; ".join(
            f"our {', '.join(found)} {'is' if len(found) == 1 else 'are'} {text}"
            for found, text in kinds
            if set(found) & set(barring)
        ),
    )


def _weaker(cells: Sequence[Row]) -> str:
    """Says which attacks had fewer steps than the paper's."""
    found = dict.fromkeys(filter(None, map(rules.weaker_steps, cells)))
    return "".join(
        f", under attacks of {ours} steps (the paper's: {theirs})"
        for ours, theirs in found
    )


def _disagreement(claim: Claim, findings: Sequence[Finding]) -> str:
    """Says why a claim is undecided."""
    if claim.average:
        whole = _average(findings)
    else:
        whole = max(findings, key=lambda f: f.margin - f.image_margin)
    return (
        f"the seeds differ: a margin of {whole.margin:.2f} points, of the images alone "
        f"{whole.image_margin:.2f}"
    )


def _average(findings: Sequence[Finding]) -> Finding:
    return Finding(
        "",
        mean(f.value for f in findings),
        mean(f.limit for f in findings),
        mean(f.image_margin for f in findings),
        mean(f.margin for f in findings),
        (),
        findings[0].signed,
    )


def _weigh(claim: Claim, findings: Sequence[Finding]) -> tuple[Status, str]:
    """Returns what measured findings say of a claim, and their numbers."""
    if claim.average:
        by_name: dict[str, list[float]] = {}
        for finding in findings:
            by_name.setdefault(finding.name, []).append(finding.value)
        means = {name: mean(values) for name, values in by_name.items()}
        worst = (max if claim.below else min)(means, key=means.__getitem__)
        whole = _average(findings)
        return _decide(claim, whole), (
            f"{_text(whole)} on average over {len(findings)} {claim.things}, worst "
            f"{worst} {means[worst]:+.2f} points"
        )
    decisions = [_decide(claim, finding) for finding in findings]
    status = next((s for s in ("fails", "undecided") if s in decisions), "holds")
    if len(findings) <= _FEW:
        texts = (f"{finding.name} {_text(finding)}" for finding in findings)
        return status, ", ".join(texts)
    worst = min(findings, key=lambda finding: _lead(claim, finding))
    return status, (
        f"{decisions.count('holds')} of {len(decisions)} {claim.things}, worst "
        f"{worst.name} {_text(worst)}"
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
            _judge_on(claim, group, groups)
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
    """Returns which claims hold, as a Markdown list of at most eight lines.

    Args:
        groups: From `comparison.group`.
    """
    judgements = judge(groups)
    if not any(j.measured for j in judgements):
        return "- The paper's tables: nothing measured yet.\n"

    def having(status, small=False):
        return [j for j in judgements if (j.status, j.small) == (status, small)]

    confirmed, refuted = having("holds"), having("fails")
    undecided, open_ = having("undecided"), having("undecided", small=True)
    aside = having("incomparable") + having("incomparable", small=True)
    in_line, out_of_line = having("holds", small=True), having("fails", small=True)
    missing = having("unmeasured") + having("unmeasured", small=True)
    lines = [
        f"**Confirmed ({len(confirmed)} of {len(CLAIMS)} published claims):** "
        f"{_by_place(confirmed, _sentence)}",
        f"**Not confirmed ({len(refuted)}):** {_by_place(refuted, _sentence)}",
        f"**Undecided, for the seeds differ too much ({len(undecided)}):** "
        f"{_by_place(undecided)}",
        f"**Cannot be compared ({len(aside)}, and four tables):** {_aside(aside)}",
    ]
    if in_line or out_of_line or open_:
        lines += [
            "**Small models, an indication and no verdict on the paper, in line with "
            f"{len(in_line)} (small):** {_by_place(in_line, _sentence)}",
            f"**Small models, not in line with {len(out_of_line)} (small):** "
            f"{_by_place(out_of_line, _sentence)}"
            + (f"; undecided (small): {_by_place(open_)}" if open_ else ""),
        ]
    if missing:
        lines.append(f"**Not measured yet ({len(missing)}):** {_missing(missing)}")
    lines.append(f"**To be read with it:** {_conditions(groups, judgements)}")
    return "".join(f"- {line}.\n" for line in lines)


def _conditions(groups: Sequence[Group], judgements: Sequence[Judgement]) -> str:
    """Says how open noises were read, and which margins do not know the training."""
    texts = [
        f"{noise} was read as {' and '.join(f'`{x}`' for x in used)}"
        for noise, field in (("UN", "un_reading"), ("SPN", "spn_reading"))
        if (
            used := dict.fromkeys(
                x
                for group in _of_one_setting(groups)
                if (x := (group.config.get("suite") or {}).get(field))
            )
        )
    ]
    if any(j.small for j in judgements):
        texts.append(
            "small are networks, trainings or test sets smaller than the paper's"
        )
    decided = [j for j in judgements if j.status in ("holds", "fails", "undecided")]
    single = sum(j.seeds == 1 for j in decided)
    if single:
        texts.append(
            f"{single} of the {len(decided)} claims that are judged rest on one seed, "
            "and the variance of training is not in their margins"
        )
    return "; ".join(texts) or "nothing is judged yet"


def _claim(judgement: Judgement) -> str:
    return judgement.claim.text


def _sentence(judgement: Judgement) -> str:
    who = "small" if judgement.small else "ours"
    return f"{judgement.claim.text} - {who}: {judgement.evidence}"


def _by_place(
    judgements: Sequence[Judgement], text: Callable[[Judgement], str] = _claim
) -> str:
    """Lists claims by where the paper makes them; reasons stand in the table below."""
    places: dict[str, list[str]] = {}
    for judgement in judgements:
        places.setdefault(_place(judgement), []).append(text(judgement))
    texts = (f"*{place}:* {'; '.join(found)}" for place, found in places.items())
    return ". ".join(texts) or "none"


def _aside(judgements: Sequence[Judgement]) -> str:
    by_reason: dict[str, list[Judgement]] = {}
    for judgement in judgements:
        by_reason.setdefault(judgement.brief, []).append(judgement)
    texts = [
        f"{reason[:1].upper()}{reason[1:]}, which bars {_by_place(js)}"
        for reason, js in by_reason.items()
    ]
    return ". ".join([*texts, *OPEN])


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
        "undecided": "undecided",
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
        return "; ".join(filter(None, (j.reason, j.evidence))) or None

    def result(j):
        if not j.result:
            return None
        others = ", ".join(f"`{name}`" for name in j.others)
        return f"`{j.result}`, not {others}" if others else f"`{j.result}`"

    judgements = judge(groups)
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
        for j in judgements
    ]
    headings = {
        "table": "source",
        "kind": "kind",
        "claim": "the paper says",
        "holds": "holds here",
        "evidence": "our numbers",
        "cells": "cells that count",
        "result": "result",
    }
    used = {group.name for group in _of_one_setting(groups)}
    about = {claim.experiment for claim in CLAIMS}
    unused = [g.name for g in groups if g.experiment in about and g.name not in used]
    text = markdown_table(rows, headings, missing="") + "\n" + _STANDARD
    single = dict.fromkeys(j.result for j in judgements if j.seeds == 1)
    if single:
        names = ", ".join(f"`{name}`" for name in single)
        text += (
            f"\nOne seed only: {names}. The variance of training is not in the margins "
            "of what rests on them.\n"
        )
    if unused:
        names = ", ".join(f"`{name}`" for name in unused)
        text += f"\nNot judged on {names}: of another suite, preset or evaluation.\n"
    return text
