"""Signs that an evaluation under attack shows more robustness than there is.

Every check is a function of the rows of `robustness.attack_table`.

Source:
    Carlini et al., "On evaluating adversarial robustness", 2019; Athalye et al.,
    "Obfuscated gradients give a false sense of security", ICML 2018; and the warnings
    of AutoAttack (Croce & Hein, ICML 2020).
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

from uronet_jax.attacks import ATTACKS

# Share of images without gradient from which on a warning is given.
MANY = 0.1
# Threat models, the second of which knows more, and what it should make lower.
_KNOWS_MORE = (
    ("grey_box", "white_box", "robust_accuracy"),
    ("grey_box", "adaptive", "robust_accuracy"),
    ("white_box", "adaptive", "robust_accuracy"),
    ("grey_box", "detector_aware", "robust_or_detected_accuracy"),
    ("white_box", "detector_aware", "robust_or_detected_accuracy"),
)
# Parameters of which more should be stronger.
_EFFORTS = ("steps", "restarts", "targets")

_Row = Mapping[str, Any]


def find_warnings(
    rows: Sequence[_Row], *, complete: bool = True
) -> list[dict[str, Any]]:
    """Looks for signs that rows are misleading.

    Args:
        rows: Of `robustness.attack_table`, in any order.
        complete: Whether all rows are there. Until then the best of several attacks is
            compared with nothing: a better one may follow.

    Returns:
        One mapping per sign: `kind`, a name; `message`, a sentence for people; `where`,
        the fields of the row that it is about, the weaker of two. The kinds are
        `zero_gradients`, `random_without_averaging`, `knowledge_is_weaker` (an
        attacker who knows more achieves less, with the same attack, or with the best of
        all within a budget), `effort_is_weaker` (more steps or
        restarts achieve less, or a single step more than several),
        `gradient_is_weaker` (an attack without gradient achieves more than all that
        follow one) and `sanity` (a budget of all intensities does not break the
        defence).
    """
    proper = [row for row in rows if not row.get("sanity")]
    return [
        *_zero_gradients(proper),
        *_random_without_averaging(proper),
        *_knowledge_is_weaker(proper, complete),
        *_effort_is_weaker(proper),
        *(_gradient_is_weaker(proper) if complete else ()),
        *_insane(row for row in rows if row.get("sanity")),
    ]


def _zero_gradients(rows: Sequence[_Row]) -> Iterator[dict[str, Any]]:
    for row in rows:
        if row["zero_gradients"] > MANY:
            yield _warning(
                "zero_gradients",
                row,
                f"the gradient is zero at {row['zero_gradients']:.0%} of the images "
                f"that {row['attack']} attacks under {row['threat']}: gradient attacks "
                "are blind there, so that this row shows no robustness",
            )


def _random_without_averaging(rows: Sequence[_Row]) -> Iterator[dict[str, Any]]:
    for row in rows:
        if row["randomness"] == "single draw":
            yield _warning(
                "random_without_averaging",
                row,
                f"the defence is random and {row['attack']} under {row['threat']} "
                "follows a single draw: trust a threat model with samples",
            )


def _knowledge_is_weaker(
    rows: Sequence[_Row], complete: bool
) -> Iterator[dict[str, Any]]:
    by_attack: dict[str, dict[str, _Row]] = {}
    for row in rows:
        key = str((row["attack"], row["epsilon"], row["parameters"]))
        by_attack.setdefault(key, {})[row["threat"]] = row
    for less, more, column in _KNOWS_MORE:
        warned = []
        for threats in by_attack.values():
            if not {less, more} <= threats.keys():
                continue
            left, row = threats[less], threats[more]
            if _is_weaker(row, row.get(column), left.get(column)):
                warned.append((left, row))
                yield _warning(
                    "knowledge_is_weaker",
                    row,
                    f"{row['attack']} leaves {_spoken(column)} {row[column]:.1%} under "
                    f"{more} and only {left[column]:.1%} under {less}, which knows "
                    "less: gradients of the defence mislead the attack",
                )
        if not complete:
            continue
        for left, row in _best_of_both(rows, less, more, column):
            told = any(left is a and row is b for a, b in warned)
            if not told and _is_weaker(row, row[column], left[column]):
                yield _warning(
                    "knowledge_is_weaker",
                    row,
                    f"the best attack under {more}, {row['attack']}, leaves "
                    f"{_spoken(column)} {row[column]:.1%}, and the best under {less}, "
                    f"which knows less, {left['attack']}, only {left[column]:.1%}: "
                    f"the attacks under {more} are too weak, or gradients of the "
                    "defence mislead them",
                )


def _best_of_both(
    rows: Sequence[_Row], less: str, more: str, column: str
) -> Iterator[tuple[_Row, _Row]]:
    """Yields for each budget the row that leaves least, of either threat model."""
    by_budget: dict[tuple, dict[str, list[_Row]]] = {}
    for row in rows:
        if row["threat"] in (less, more) and row.get(column) is not None:
            groups = by_budget.setdefault((row["norm"], row["epsilon"]), {})
            groups.setdefault(row["threat"], []).append(row)
    for groups in by_budget.values():
        if len(groups) == 2:
            left, row = (
                min(groups[threat], key=lambda row: row[column])
                for threat in (less, more)
            )
            yield left, row


def _effort_is_weaker(rows: Sequence[_Row]) -> Iterator[dict[str, Any]]:
    for a, b in combinations(rows, 2):
        if any(a[x] != b[x] for x in ("threat", "norm", "epsilon")):
            continue
        less, more, what = _order(a, b)
        if what and _is_weaker(more, more["not_found"], less["not_found"]):
            yield _warning(
                "effort_is_weaker",
                more,
                f"{more['attack']} with {what} reaches its goal under {more['threat']} "
                f"at {1 - more['not_found']:.1%} of the images, {less['attack']} with "
                f"less at {1 - less['not_found']:.1%}: the gradient is misleading, or "
                "the step size is wrong",
            )


def _gradient_is_weaker(rows: Sequence[_Row]) -> Iterator[dict[str, Any]]:
    by_budget: dict[tuple, list[_Row]] = {}
    for row in rows:
        if row["epsilon"] is not None:
            key = (row["threat"], row["norm"], row["epsilon"])
            by_budget.setdefault(key, []).append(row)
    for group in by_budget.values():
        blind = [row for row in group if _is_blind(row)]
        following = [row for row in group if not _is_blind(row)]
        if not (blind and following):
            continue
        best, row = (min(g, key=lambda r: r["not_found"]) for g in (blind, following))
        if _is_weaker(row, row["not_found"], best["not_found"]):
            yield _warning(
                "gradient_is_weaker",
                row,
                f"{best['attack']}, which sees no gradient, reaches its goal under "
                f"{row['threat']} at {1 - best['not_found']:.1%} of the images, "
                f"{row['attack']} at {1 - row['not_found']:.1%}: gradients mislead "
                "attacks on this defence",
            )


def _is_blind(row: _Row) -> bool:
    if "gradient_free" in row:
        return row["gradient_free"]
    attack = ATTACKS.get(row["attack"])  # Of a row that was stored without it.
    return attack is not None and attack.gradient_free


def _is_single_step(row: _Row) -> bool:
    """Returns whether an attack takes one step along one gradient, as FGSM does."""
    parameters = row["parameters"]
    runs = (1 + parameters.get("restarts", 0)) * (parameters.get("targets") or 1)
    return not _is_blind(row) and parameters.get("steps", 1) * runs == 1


def _order(a: _Row, b: _Row) -> tuple[_Row, _Row, str]:
    """Returns which of two rows took less effort, which more, and of what."""
    if a["epsilon"] is not None:
        for less, more in ((a, b), (b, a)):
            several = not _is_blind(more) and more["parameters"].get("steps", 1) > 1
            if several and _is_single_step(less):
                return less, more, f"{more['parameters']['steps']} steps"
    if a["attack"] == b["attack"]:
        for effort in _EFFORTS:
            counts = [row["parameters"].get(effort, 0) for row in (a, b)]
            if counts[0] != counts[1] and _others(a, effort) == _others(b, effort):
                less, more = (a, b) if counts[0] < counts[1] else (b, a)
                return less, more, f"{max(counts)} {effort}"
    return a, b, ""


def _others(row, effort):
    # The step size follows from the number of steps.
    ignored = (effort, "step_size")
    return {k: v for k, v in row["parameters"].items() if k not in ignored}


def _insane(rows: Iterator[_Row]) -> Iterator[dict[str, Any]]:
    for row in rows:
        if row["not_found"] > 0:
            yield _warning(
                "sanity",
                row,
                f"with epsilon {row['epsilon']:g}, which allows any image, "
                f"{row['attack']} under {row['threat']} fails at "
                f"{row['not_found']:.1%} of the images: gradients mislead such attacks "
                "on this defence, whatever their budget",
            )


def _is_weaker(row: _Row, left: float | None, other: float | None) -> bool:
    """Returns whether more is left than by another attack, and not by chance alone."""
    if left is None or other is None:
        return False
    count = row["num_images"]
    return round((left - other) * count) >= max(2, 0.01 * count)


def _spoken(column: str) -> str:
    return "an accuracy of" if column == "robust_accuracy" else "right or flagged"


def _warning(kind: str, row: _Row, message: str) -> dict[str, Any]:
    where = {x: row[x] for x in ("threat", "attack", "epsilon", "parameters")}
    return {"kind": kind, "message": message, "where": where}
