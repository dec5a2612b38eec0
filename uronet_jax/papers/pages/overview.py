"""The page that people see first: which defence helps against what, from the results.

Every number is taken from a stored result; a cell stays empty where nothing was
measured. Full results go before small ones.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from uronet_jax.papers.pages.all_papers import PAPERS, papers_run
from uronet_jax.papers.pages.claims import claims_of, judge_all
from uronet_jax.papers.pages.group import Group, compared_cells, distance_from_paper
from uronet_jax.papers.pages.overview_rows import (
    OVERVIEW_HEADINGS,
    OVERVIEW_SEVERITIES,
    at_overview_severities,
    mean_of_noisy,
    overview_row,
)
from uronet_jax.papers.pages.paper_pages import KnownGroups, PaperPages
from uronet_jax.papers.pages.pictures import Picture
from uronet_jax.reports.results import Result
from uronet_jax.reports.tables import markdown_table

_EPSILON = 8 / 255


def _by_experiment(groups: Sequence[Group]) -> KnownGroups:
    known = {group.experiment: group for group in reversed(groups)}
    return defaultdict(lambda: Group("", (), []), known)


def _percent(result: Result, column: str) -> dict[str, float]:
    return {
        f"{row['noise']}-{row['severity']}": 100.0 * row[column]
        for row in result.content["rows"]
        if column in row
    }


def _network(result: Result) -> str:
    models, config = result.content.get("models", {}), result.content["config"]
    return models.get("classifier", {}).get("name") or config.get("classifier", "")


def _undefended(results: Sequence[Result]) -> list[dict[str, Any]]:
    """The same ResNet-20 on all test images."""
    whole = [
        x
        for x in sorted(results, key=lambda x: len(x.content["rows"]))
        if x.kind == "evaluation" and not x.small and _network(x) == "resnet20"
    ]
    by_suite = {x.content["config"]["suite"]["name"]: x for x in whole}
    if "uronet" not in by_suite:
        return []
    noises, other = by_suite["uronet"], by_suite.get("cifar_c")
    corruptions = _percent(other, "undefended_accuracy") if other else {}
    chosen = at_overview_severities(corruptions)
    return [
        overview_row(
            "none: ResNet-20, all test images",
            [noises],
            clean=100.0 * noises.content["summary"]["clean_accuracy"],
            noises=_percent(noises, "undefended_accuracy"),
            corruptions=mean_of_noisy(chosen),
        )
    ]


def _pgd(results: Sequence[Result], of: Result) -> tuple[list[Result], dict[str, Any]]:
    """Returns the attack on a result's models, and threat -> its PGD within Linf."""
    models = ("classifier", "detector", "checkpoint", "classifier_steps")
    models += ("remover_steps",)

    def made(result):
        config = result.content["config"]
        data = config.get("data") or {}
        # Before purifiers there were removers alone; a quickstart names its data set.
        purifier = config.get("purifier", config.get("remover"))
        data_set = config.get("dataset", data.get("name"))
        return [*map(config.get, models), purifier, data_set]

    found = [x for x in results if x.kind == "attack" and made(x) == made(of)]
    return found, {
        row["threat"]: row
        for x in found
        for row in x.content["rows"]
        if row["attack"] == "pgd_linf" and not row.get("sanity")
    }


def _evaluated(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Whole defences of `launch.evaluate` and the quickstart, and PGD on them."""
    rows = []
    for result in results:
        content = result.content
        summary = content.get("summary", content)
        # Parts of test sets, on the cards of the weights that ship.
        if "_pretrained" in result.name or "purified_clean_accuracy" not in summary:
            continue
        if (content["config"].get("suite") or {}).get("noises"):
            continue  # Of some noises alone, on a page of its own.
        attacks, pgd = _pgd(results, result)

        def under(threat, column, pgd=pgd):
            if threat not in pgd:
                return None
            text = f"{100.0 * pgd[threat][column]:.1f}"
            other = abs(pgd[threat]["epsilon"] - _EPSILON) > 1 / 255
            return f"{text} (within {pgd[threat]['epsilon']:g})" if other else text

        # Whoever attacks the bare classifier knows all there is.
        alone = under("grey_box", "undefended_accuracy")
        alarms = summary.get("false_alarm_rate")
        behind = {
            "unaware": under("grey_box", "robust_accuracy"),
            "aware": under("adaptive", "robust_accuracy"),
            "found": mean_of_noisy(_percent(result, "detection_accuracy")),
            "alarms": None if alarms is None else 100.0 * alarms,
        }
        data = content.get("dataset") or content["config"]["data"]["name"]
        suite = content["config"].get("suite") or {"name": "uronet"}
        purifier = _purifier_name(result)
        for name, column, clean, more in (
            ("none", "undefended", "", {"unaware": alone, "aware": alone}),
            (purifier, "purified", "purified_", behind),
            (f"{purifier} behind a gate", "gated", "gated_", {}),
        ):
            if f"{clean}clean_accuracy" in summary:
                row = overview_row(
                    f"{name}: {_network(result)}, {data}",
                    [result, *(attacks if more else ())],
                    clean=100.0 * summary[f"{clean}clean_accuracy"],
                    **_of_suite(suite["name"], _percent(result, f"{column}_accuracy")),
                    **more,
                )
                rows.append(row)
    return rows


def _purifier_name(result: Result) -> str:
    """Returns `remover`, or what stands in its place."""
    models = result.content.get("models", {})
    model = models.get("purifier", models.get("remover")) or {}
    stages = model.get("chain", [model])
    return " + ".join(stage.get("name", "remover") for stage in stages)


def _of_suite(suite: str, values: Mapping[str, float]) -> dict[str, Any]:
    """Returns accuracies under the column that they belong to, if they are complete."""
    chosen = at_overview_severities(values)
    if suite == "uronet" and len(values) == 18:
        return {"noises": values}
    if suite == "cifar_c" and len(chosen) == 19 * len(OVERVIEW_SEVERITIES.split(", ")):
        return {"corruptions": mean_of_noisy(chosen)}
    return {}


def _failures(results: Sequence[Result], groups: Sequence[Group]) -> list[str]:
    """Returns what goes wrong, in sentences with the results' numbers."""
    known, found = _by_experiment(groups), []
    for result in results:
        aware = _pgd([result], result)[1].get("detector_aware")
        if aware and abs(aware["epsilon"] - _EPSILON) < 1e-3:
            found.append(
                "Attackers who know the defence break it. Under PGD within 8/255 "
                f"{100 * aware['robust_accuracy']:.0f} % stay right, and "
                f"{100 * aware['robust_or_detected_accuracy']:.0f} % right or flagged "
                f"if it fools the detector too ({aware['num_images']} images"
                f"{', small' if result.small else ''})."
            )
    for paper in PAPERS:
        found += paper.overview_failures(known)
    claims = [_claims_line(paper, groups) for paper in papers_run(groups)]
    if claims:
        found.append("[Claims](results/claims.md). " + " ".join(claims))
    return found


def _claims_line(paper: PaperPages, groups: Sequence[Group]) -> str:
    verdicts, known = judge_all(groups, claims_of(paper)), _by_experiment(groups)
    answers = Counter(verdict.answer for verdict in verdicts)
    full = sum(v.measured > 0 and not v.small for v in verdicts)
    text = (
        f"Of the {len(verdicts)} of {paper.title} "
        f"{_counted(answers['yes'], 'holds', 'hold')}, "
        f"{_counted(answers['no'], 'does', 'do')} not, "
        f"{_counted(answers['open'], 'is', 'are')} open; "
        f"{_counted(full, 'was', 'were')} judged at full size."
    )
    experiment, what = paper.headline
    if compared_cells(known[experiment]):
        distance = distance_from_paper(known[experiment])["mean_difference"]
        text += f" {what} are {distance:+.1f} points from its numbers"
        text += f"{known[experiment].mark}."
    return text


def _counted(count: int, one: str, several: str) -> str:
    return f"{count} {one if count == 1 else several}"


def overview_pictures(groups: Sequence[Group]) -> list[Picture]:
    """Returns the pictures of the overview that are drawn from results."""
    known = _by_experiment(groups)
    return [picture for paper in PAPERS for picture in paper.overview_pictures(known)]


def render_overview(
    results: Sequence[Result],
    groups: Sequence[Group],
    links: Mapping[str, Sequence[str]],
) -> str:
    """Returns the first page; `links` are heading -> links to the other pages."""
    rows = _undefended(results)
    for small in (False, True):  # Lines of the same models.
        known = _by_experiment([x for x in groups if x.small == small])
        rows += [row for paper in PAPERS for row in paper.overview_rows(known)]
    rows += _evaluated(results)
    parts = [
        "# Results\n\nA remover in front of an unchanged classifier undoes most of the "
        "noise that it was trained on, and a detector finds it. It does not protect "
        "against what it never saw, nor against attackers who know it.\n"
    ]
    if not rows and not links:
        return parts[0] + "\nNo result is stored yet.\n"
    if rows:
        headings = {
            k: v
            for k, v in OVERVIEW_HEADINGS.items()
            if any(row.get(k) for row in rows)
        }
        parts += [
            "## Which defence helps against what\n",
            markdown_table(rows, headings, missing=""),
            "Accuracy in percent, one seed; an empty cell was not measured. *18 noises*"
            f" and *19 corruptions* (CIFAR-10-C, severities {OVERVIEW_SEVERITIES}) are "
            "means. "
            "*Unseen*: blur, JPEG, fog, contrast, banding, dead columns. *PGD* is "
            "within 0.03 or 8/255 unless said otherwise. *Detected* is accuracy on as "
            "many clean as degraded images. *Small* is an indication: small models or "
            "part of the test set.\n",
        ]
    if pictures := [f"figures/{x.name}" for x in overview_pictures(groups)]:
        beside = ["gallery.png", *pictures[1:]]
        parts += [
            f"![Accuracy under noise]({pictures[0]})",
            " ".join(f'<img src="{x}" width="40%">' for x in beside) + "\n",
        ]
    if failures := _failures(results, groups):
        parts.append("## Known failures\n")
        parts.append("".join(f"- {text}\n" for text in failures))
    parts.append("## All pages\n")
    lines = [{"": k, "pages": " · ".join(v)} for k, v in links.items()]
    parts += [markdown_table(lines, ["", "pages"])] if lines else []
    parts.append(
        "Made by `python -m launch.report` from the JSON files in `docs/results`, "
        "each with config, versions, device and time. See also "
        "[corruptions](CORRUPTIONS.md) and [attacks](ATTACKS.md) one by one.\n"
    )
    return "\n".join(parts)
