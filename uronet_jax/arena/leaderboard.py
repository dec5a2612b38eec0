"""The board: numbers of rows, who stands out, and for whom which row is the best."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

Row = Mapping[str, Any]


class Number(NamedTuple):
    """A number of a row.

    Attributes:
        heading: Of its column.
        cell: In which cell it is.
        key: Under which name.
        unit: `%` for a fraction that is shown in percent; else what `format` takes.
        better: 1 if more is better, -1 if less, 0 if neither.
    """

    heading: str
    cell: str
    key: str
    unit: str = "%"
    better: int = 1


NUMBERS: dict[str, Number] = {
    "clean": Number("clean", "clean", "accuracy"),
    "noises": Number("noises", "noises", "mean"),
    "worst_noise": Number("worst noise", "noises", "worst"),
    "corruptions": Number("corruptions", "corruptions", "mean"),
    "without_noises": Number("without noises", "corruptions", "without_noises"),
    "noise": Number("noise", "corruptions", "noise"),
    "blur": Number("blur", "corruptions", "blur"),
    "weather": Number("weather", "corruptions", "weather"),
    "digital": Number("digital", "corruptions", "digital"),
    "geometry": Number("geometry", "corruptions", "geometry"),
    "lines": Number("lines", "corruptions", "lines"),
    "unseen": Number("sensor faults", "unseen", "mean"),
    "grey_pgd": Number("grey box, PGD", "grey_pgd", "accuracy"),
    "grey_autoattack": Number("grey box, AutoAttack", "grey_autoattack", "accuracy"),
    "white_pgd": Number("white box, PGD", "white_pgd", "accuracy"),
    "white_autoattack": Number("white box, AutoAttack", "white_autoattack", "accuracy"),
    "detector_aware": Number("detector-aware", "detector_aware", "accuracy"),
    "false_alarms": Number("false alarms", "clean", "false_alarms", better=-1),
    "eps_star": Number("eps*", "eps_star", "eps_star", ".2f"),
    "relative_time": Number("time", "cost", "relative_time", ".2f", -1),
    "parameters": Number("parameters", "cost", "parameters", ",d", -1),
    "training_minutes": Number("minutes", "cost", "training_minutes", ".1f", -1),
}
# Of which the gain is the mean: what nobody meant, without what some learned twice.
_NATURAL = ("noises", "without_noises", "unseen")
# Families of corruptions that are no noise, as far as a benchmark has them.
_FAMILIES = {
    "blur": "blur",
    "weather": "weather",
    "digital": "digital changes",
    "geometry": "geometry",
    "lines": "lines",
}
# What is asked for -> numbers of which the least counts.
AUDIENCES: dict[str, tuple[str, ...]] = {
    "noise like that of the six": ("noises",),
    "{families}": ("without_noises",),
    "faults of a sensor, which nobody trained on": ("unseen",),
    "attackers who know the classifier alone": ("grey_pgd", "grey_autoattack"),
    "attackers who know the whole defence": ("white_pgd", "white_autoattack"),
    "clean images": ("clean",),
}


def number(row: Row, name: str) -> float | None:
    """Returns a number of a row; None where it was not measured or does not exist."""
    place = NUMBERS[name]
    return row["cells"].get(place.cell, {}).get(place.key)


def interval(row: Row, name: str) -> tuple[float, float] | None:
    """Returns the 95 % interval of a number, None where there is none."""
    place = NUMBERS[name]
    cell = row["cells"].get(place.cell, {})
    usual = place.key in ("accuracy", "mean", "eps_star")
    ends = ("low", "high") if usual else (f"{place.key}_low", f"{place.key}_high")
    if not set(ends) <= cell.keys():
        return None
    return cell[ends[0]], cell[ends[1]]


def bare_row(rows: Sequence[Row]) -> Row | None:
    """Returns the classifier alone, None if it was not judged."""
    found = [row for row in rows if not row["card"]["load"] and row["cells"]]
    return found[0] if found else None


def trade(row: Row, bare: Row | None) -> tuple[float, float] | None:
    """Returns what a defence costs on clean images, and its gain; fractions.

    The gain is the mean over the noises, the corruptions that are no noise, and the
    faults of a sensor, minus that of the classifier alone. None if one is missing.
    """
    names = ("clean", *_NATURAL)
    if bare is None or any(number(x, n) is None for x in (row, bare) for n in names):
        return None
    cost = number(bare, "clean") - number(row, "clean")
    gains = [number(row, name) - number(bare, name) for name in _NATURAL]
    return cost, sum(gains) / len(gains)


def standing(rows: Sequence[Row], name: str) -> str:
    """Returns in a line how the row called `name` stands among the others by gain."""
    bare = bare_row(rows)
    trades = {row["card"]["name"]: trade(row, bare) for row in rows}
    gains = sorted((x[1] for x in trades.values() if x is not None), reverse=True)
    (row,) = [row for row in rows if row["card"]["name"] == name]
    if row["errors"]:
        step, error = next(iter(row["errors"].items()))
        return f"{name}: failed ({step}): {error}"
    if trades[name] is None:
        return f"{name}: judged; no gain without the row of the classifier alone"
    place = gains.index(trades[name][1]) + 1
    return f"{name}: judged, number {place} of {len(gains)} by gain"


def pareto(rows: Sequence[Row]) -> list[str]:
    """Returns the names of the rows that no other beats in both cost and gain.

    From the cheapest on; rows with flags stand aside.
    """
    bare = bare_row(rows)
    sound = [row for row in rows if not row["flags"]]
    trades = {row["card"]["name"]: trade(row, bare) for row in sound}
    points = {name: x for name, x in trades.items() if x is not None}

    def is_beaten(own):
        return any(
            x[0] <= own[0] and x[1] >= own[1] and x != own for x in points.values()
        )

    front = [name for name, own in points.items() if not is_beaten(own)]
    return sorted(front, key=lambda name: points[name])


class Best(NamedTuple):
    """The best row for somebody.

    Attributes:
        name: Of the row.
        value: Its number, a fraction.
        bare: That of the classifier alone; None without.
        tied: Names of the rows that reach into its interval, from the best on.
    """

    name: str
    value: float
    bare: float | None
    tied: list[str]


def best_for(
    rows: Sequence[Row], names: Sequence[str], *, most_cost: float | None = None
) -> Best | None:
    """Returns the row whose least of some numbers is the largest.

    Args:
        rows: Of a board; those with flags stand aside.
        names: Keys of `NUMBERS`.
        most_cost: The largest cost on clean images; None for any.

    Returns:
        The best, None if nobody has the numbers.
    """
    bare = bare_row(rows)

    def least(row):
        values = [number(row, name) for name in names]
        return None if None in values else min(values)

    found = {}
    for row in rows:
        cost = trade(row, bare)
        cheap = most_cost is None or (cost is not None and cost[0] <= most_cost)
        if least(row) is not None and cheap and not row["flags"]:
            found[row["card"]["name"]] = row
    if not found:
        return None

    first, *others = sorted(found, key=lambda x: least(found[x]), reverse=True)
    row, value = found[first], least(found[first])
    weakest = min(names, key=lambda name: number(row, name))
    ends = interval(row, weakest)
    tied = [x for x in others if ends and least(found[x]) >= ends[0]]
    alone = least(bare) if bare is not None else None
    return Best(first, value, alone, tied)


def verdict(rows: Sequence[Row]) -> str:
    """Returns in a paragraph for whom which row is the best, from the numbers."""
    bare = bare_row(rows)
    if bare is None:
        return "The classifier alone was not judged, so nothing can be compared."
    points = {row["card"]["name"]: trade(row, bare) for row in rows}
    front = [
        f"{name} (gain {_points(points[name][1])}, clean {_points(-points[name][0])})"
        for name in pareto(rows)
    ]
    parts = [
        "Beaten by no other in both clean accuracy and mean gain, in points beside the "
        f"classifier alone, of {len(rows)} rows: {_listed(front)}."
    ]
    if any(row["flags"] for row in rows):
        parts.append("Rows with flags stand aside.")
    families = [x for name, x in _FAMILIES.items() if number(bare, name) is not None]
    for text, names in AUDIENCES.items():
        found = best_for(rows, names)
        text = text.format(families=_listed(families))
        if found is None or text == "clean images":
            continue
        if found.bare is not None and found.value <= found.bare:
            parts.append(f"Against {text}, nothing here is better than the classifier.")
            continue
        tied = [x for x in found.tied if x != bare["card"]["name"]]
        also = ""
        if tied:
            more = [f"{len(tied) - 2} more"] if len(tied) > 2 else []
            also = f" ({_listed([*tied[:2], *more])} cannot be told from it)"
        if bare["card"]["name"] in found.tied:
            also = " (which cannot be told from the classifier alone)"
        beside = ""
        if found.bare is not None:
            beside = f" where the classifier alone has {found.bare:.1%}"
        parts.append(f"Against {text}: {found.name}, {found.value:.1%}{beside}{also}.")
    cheap = best_for(rows, _NATURAL, most_cost=0.01)
    if cheap is not None and cheap.name != bare["card"]["name"]:
        parts.append(
            "Who may lose at most a point on clean images takes "
            f"{cheap.name}: its least of noises, other corruptions and sensor faults "
            f"is {cheap.value:.1%} (alone {cheap.bare:.1%})."
        )
    return " ".join(parts)


def _points(share: float) -> str:
    return f"{round(100 * share, 1) + 0.0:+.1f}"


def _listed(texts: Sequence[str]) -> str:
    *most, last = texts or ["none"]
    return f"{', '.join(most)} and {last}" if most else last
