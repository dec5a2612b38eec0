"""The arena's board: what it says, as Markdown and as one HTML file that sorts."""

import json
import os
from collections.abc import Mapping, Sequence, Set
from html import escape
from pathlib import Path
from typing import Any

from uronet_jax.arena.leaderboard import (
    NUMBERS,
    bare_row,
    interval,
    number,
    pareto,
    trade,
    verdict,
)
from uronet_jax.records import write_file
from uronet_jax.reports.evaluation_page import PAGE_SCRIPT, PAGE_STYLE
from uronet_jax.reports.results import Result, origin_line
from uronet_jax.reports.tables import markdown_table, wrap_markdown

_Row = Mapping[str, Any]
# Tables of the page: heading, numbers, and by which of them it is sorted.
_TABLES = (
    (
        "Against what happens by itself",
        (
            *("clean", "noises", "worst_noise", "corruptions", "without_noises"),
            *("noise", "blur", "weather", "digital", "geometry", "lines", "unseen"),
        ),
        "gain",
    ),
    (
        "Against attackers",
        (
            *("clean", "grey_pgd", "grey_autoattack", "white_pgd"),
            *("white_autoattack", "detector_aware", "false_alarms", "eps_star"),
        ),
        "white_autoattack",
    ),
    (
        "What it takes",
        ("clean", "relative_time", "parameters", "training_minutes"),
        "relative_time",
    ),
)
# What explains columns, and which: said where one of them is shown.
_LEGEND = (
    (
        ("gain",),
        "*Cost* is what a defence loses on clean images, *gain* what it wins on the "
        "mean of noises, corruptions that are no noise, and sensor faults, in points "
        "beside the classifier alone.",
    ),
    (("noises",), "*Noises*: the six of URoNet at three severities."),
    (
        ("grey_pgd", "grey_autoattack"),
        "*Grey box*: the attacker knows the classifier of the first row alone.",
    ),
    (
        ("white_pgd",),
        "*White box, PGD*: the attacker knows all, and takes the best of gradients end "
        "to end, averaged over draws where the defence is random, straight through the "
        "purifier, and of the classifier alone.",
    ),
    (("detector_aware",), "*Detector-aware*: right or flagged."),
    (
        ("relative_time",),
        "*Time*: that of an answer over the classifier's alone, in turns.",
    ),
    (
        ("eps_star",),
        "*eps\\**: the median length of Gaussian noise, clipped to the range, up to "
        "the border.",
    ),
)


def arena_rows(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns a flat row for each defence, fit for tables.

    `name`, `kind`, `status`, `flags`, the `cost` and `gain` of `leaderboard.trade` in
    points, `front`, and the numbers of `NUMBERS`, None where there is none; fractions
    in percent.
    """
    rows = content["rows"]
    bare, front = bare_row(rows), pareto(rows)
    found = []
    for row in rows:
        card = row["card"]
        line = {"name": card["name"], "kind": card["kind"], "status": row["status"]}
        line |= {"flags": row["flags"], "front": card["name"] in front}
        own = trade(row, bare)
        line["cost"], line["gain"] = own and 100 * own[0], own and 100 * own[1]
        for name, place in NUMBERS.items():
            value = number(row, name)
            in_percent = place.unit == "%" and value is not None
            line[name] = 100 * value if in_percent else value
        found.append(line)
    return found


def _sorted(lines: Sequence[_Row], by: str) -> list[_Row]:
    """Returns rows with the best first, those without a number last."""
    better = NUMBERS[by].better if by in NUMBERS else 1

    def key(line):
        value = line[by]
        return value is None, -better * value if value is not None else 0

    return sorted(lines, key=key)


def _text(name: str, row: _Row, line: _Row) -> str:
    """Returns a number with its interval."""
    value = line[name]
    if value is None:
        return "-"
    if name in ("cost", "gain"):
        return f"{round(value, 1) + 0.0:.1f}"  # No minus before zero.
    place = NUMBERS[name]
    if place.unit != "%":
        return format(value, place.unit)
    ends = interval(row, name)
    if ends is None:
        return f"{value:.1f}"
    low, high = (100 * end for end in ends)
    spread = row["cells"][place.cell].get("seed_std") if place.key == "mean" else None
    several = "" if spread is None else f" ± {100 * spread:.1f}"
    return f"{value:.1f}{several} ({low:.0f}-{high:.0f})"


def arena_board(content: Mapping[str, Any], *, heading: str = "##") -> str:
    """Returns what an arena found as Markdown: verdict, tables, flags, failures.

    Args:
        content: What `run_arena` returns.
        heading: Of its sections.
    """
    rows = content["rows"]
    by_name = {row["card"]["name"]: row for row in rows}
    lines = arena_rows(content)
    judged = [line for line in lines if by_name[line["name"]]["cells"]]
    parts, all_shown = [f"{verdict(rows)}{_coverage(content)}\n"], set()
    for title, names, by in _TABLES:
        names = [x for x in names if any(line[x] is not None for line in judged)]
        if not names:
            continue
        chosen = by if by == "gain" or by in names else names[0]
        columns = ["cost", "gain", *names] if by == "gain" else names
        all_shown |= {*columns}
        table = []
        for line in _sorted(judged, chosen):
            mark = "**" if line["front"] else ""
            shown = {"defence": f"{mark}{line['name']}{mark}"}
            shown["defence"] += " †" if line["flags"] else ""
            for name in columns:
                heading_of = NUMBERS[name].heading if name in NUMBERS else name
                shown[heading_of] = _text(name, by_name[line["name"]], line)
            table.append(shown)
        sorted_by = NUMBERS[chosen].heading if chosen in NUMBERS else chosen
        parts.append(f"{heading} {title}\n\nSorted by {sorted_by}.\n")
        parts.append(markdown_table(table, list(table[0])))
    if all_shown:
        parts.append(_legend(all_shown, lines, rows) + "\n")
    parts += _notes(content, heading)
    return "\n".join(filter(None, parts))


def _legend(shown: Set[str], lines: Sequence[_Row], rows: Sequence[_Row]) -> str:
    """Explains what tables show: columns, and marks that are there."""
    texts = []
    if any(line["front"] for line in lines):
        texts.append("Bold: beaten by no other in both cost and gain.")
    texts += [text for names, text in _LEGEND if shown & {*names}]
    several = any("seed_std" in cell for row in rows for cell in row["cells"].values())
    after = ", after ± the deviation between seeds" if several else ""
    texts.append(f"In brackets: the 95 % interval by the images{after}.")
    if any(line["flags"] for line in lines):
        texts.append("A row with † has flags: signs that it looks better than it is.")
    return " ".join(texts)


def _coverage(content: Mapping[str, Any]) -> str:
    """Returns a sentence on the defences of the config that were not judged."""
    wanted = [card["name"] for card in content["config"]["defences"]]
    judged = {row["card"]["name"] for row in content["rows"] if row["cells"]}
    missing = [name for name in wanted if name not in judged]
    if not missing:
        return ""
    names = f"; missing are: {'; '.join(missing)}"
    return (
        f" {len(wanted) - len(missing)} of the config's {len(wanted)} defences were "
        f"judged{names if len(missing) < len(wanted) / 2 else ''}."
    )


def _notes(content: Mapping[str, Any], heading: str) -> list[str]:
    rows, found = content["rows"], []
    flags = [
        f"- {row['card']['name']}: {flag}.\n" for row in rows for flag in row["flags"]
    ]
    errors = [
        f"- {row['card']['name']}, {where}: {error}\n"
        for row in rows
        for where, error in row["errors"].items()
    ]
    errors += [f"- {text}\n" for text in content["refused"]]
    if flags:
        found.append(f"{heading} Flags\n\n{''.join(flags)}")
    if errors:
        found.append(f"{heading} What failed\n\n{''.join(errors)}")
    return found


def arena_title(content: Mapping[str, Any]) -> str:
    """Returns what an arena is of."""
    data = content["config"]["data"]
    return f"{data['name']}, {content['num_images']:,} images"


def arena_text(content: Mapping[str, Any]) -> str:
    """Returns the page of an arena's folder, Markdown."""
    return wrap_markdown(f"# Arena: {arena_title(content)}\n\n{arena_board(content)}")


def trade_points(content: Mapping[str, Any]) -> dict[str, dict[str, list[float]]]:
    """Returns kind of defence -> name -> clean accuracy and gain, in percent.

    Kinds are in one order on all boards, the classifier alone last: above the others.
    """
    found: dict[str, dict[str, list[float]]] = {}
    for line in arena_rows(content):
        if line["gain"] is not None:
            point = [round(line["clean"], 2), round(line["gain"], 2)]
            found.setdefault(line["kind"], {})[line["name"]] = point
    order = sorted(found, key=lambda kind: (kind == "classifier alone", kind))
    return {kind: found[kind] for kind in order}


def render_arenas(results: Sequence[Result], pictures: Mapping[str, str]) -> str:
    """Returns the page of docs.

    Args:
        results: Of the kind `arena`, one or more.
        pictures: Name of a result -> path of its chart.
    """
    parts = [
        "# The arena: what should I put before, or into, my classifier?\n",
        "Defences on the same images and seeds, against everything; your own [joins in "
        "ten lines](howto/arena.md). `uronet arena --config=arena:small "
        "--workdir=runs/arena` makes a board, or goes on with one, cell by cell; it "
        "also writes `arena.html`, a table that sorts by any column. Classifiers that "
        "learned to be robust are [trained with one budget]"
        "(howto/arena.md#5-the-classifiers-of-the-board); minutes are those that the "
        "cards say.\n",
    ]
    for result in results:
        content = result.content
        parts.append(f"## {arena_title(content)}\n")
        origin = origin_line([result]).replace("](", "](results/")
        parts.append(f"{origin}{_effort(content)}\n")
        if result.name in pictures:
            parts.append(f"![Clean accuracy against gain]({pictures[result.name]})\n")
        parts.append(arena_board(content, heading="###"))
    return wrap_markdown("\n".join(parts))


def _effort(content: Mapping[str, Any]) -> str:
    config = content["config"]
    attack = config["attack"]
    suite = config["corruptions"]
    levels = ", ".join(map(str, suite["severities"]))
    return (
        f"Corruptions: {suite['suite']} at severity {levels}, sensor faults at "
        f"{', '.join(map(str, config['unseen']['severities']))}. Attacks within "
        f"{attack['epsilon']:.3g} (L-infinity): {attack['steps']} steps, "
        f"{attack['queries']} queries, {attack['targets']} targets, "
        f"{attack['samples']} draws of random defences; white boxes on the first "
        f"{attack['num_images'] or content['num_images']} images. "
        f"Seeds of degradations: {config['num_seeds']}."
    )


def save_arena(content: Mapping[str, Any], workdir: str | os.PathLike) -> str:
    """Writes arena.md and arena.html beside arena.json; returns the first."""
    text = arena_text(content)
    write_file(Path(workdir) / "arena.md", text.encode())
    write_file(Path(workdir) / "arena.html", arena_html(content).encode())
    return text


def arena_html(content: Mapping[str, Any]) -> str:
    """Returns an arena as a page that needs no other file; its table sorts.

    Cells keep their exact numbers as `data-value`.
    """
    by_name = {row["card"]["name"]: row for row in content["rows"]}
    lines = _sorted(arena_rows(content), "gain")
    names = [x for x in NUMBERS if any(line[x] is not None for line in lines)]
    columns = ("cost", "gain", *names)
    headings = "".join(
        f"<th>{escape(NUMBERS[x].heading if x in NUMBERS else x)}</th>" for x in columns
    )
    body = []
    for line in lines:
        row = by_name[line["name"]]
        cells = "".join(
            f'<td data-name="{x}" data-value="{"" if line[x] is None else line[x]}">'
            f"{escape(_text(x, row, line))}</td>"
            for x in columns
        )
        flags = "; ".join([*row["flags"], *row["errors"].values()])
        name = escape(line["name"]) + (" †" if flags else "")
        body.append(
            f'<tr><td data-value="{escape(line["name"])}" '
            f'title="{escape(_about(row))}">{name}</td>'
            f'<td data-value="{line["status"]}">{line["status"]}</td>{cells}'
            f'<td data-value="{escape(flags)}" class="text">{escape(flags)}</td></tr>'
        )
    about = {x: content[x] for x in ("config", "versions", "device") if x in content}
    settings = json.dumps(about, indent=2, sort_keys=True, default=str)
    heading = f"Arena: {arena_title(content)}"
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{escape(heading)}</title><style>{PAGE_STYLE}"
        "body { max-width: none } td { white-space: nowrap }"
        ".text { text-align: left; min-width: 20em; white-space: normal }"
        f"</style></head>\n<body><h1>{escape(heading)}</h1>"
        f"<p>{escape(verdict(content['rows']) + _coverage(content))}</p>"
        "<p>A click on a heading sorts; a name's tip is its card.</p>"
        '<div class="wide"><table class="sorts"><thead><tr><th>defence</th>'
        f"<th>status</th>{headings}<th>flags and errors</th></tr></thead>"
        f"<tbody>{''.join(body)}</tbody></table></div>"
        f"<h2>Settings</h2><pre>{escape(settings)}</pre>"
        f"<script>{PAGE_SCRIPT}</script></body></html>\n"
    )


def _about(row: _Row) -> str:
    card = row["card"]
    return (
        f"{card['kind']} by {card['authors']}; trained on {card['trained_on']} "
        f"{card['link']}"
    )
