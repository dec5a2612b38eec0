"""How the rows of `evaluation.robustness.attack_table` are shown to a person."""

from collections.abc import Mapping, Sequence
from typing import Any

from uronet_jax.reports.tables import markdown_table

# Column -> heading and number format.
_COLUMNS = {
    "attack": ("attack", ""),
    "threat": ("threat model", ""),
    "budget": ("epsilon", ""),
    "effort": ("steps", ""),
    "undefended_accuracy": ("classifier alone", ".1%"),
    "robust_accuracy": ("defence", ".1%"),
    "interval": ("95 % interval", ""),
    "detection_rate": ("detected", ".1%"),
    "robust_or_detected_accuracy": ("right or flagged", ".1%"),
    "not_found": ("goal not reached", ".1%"),
    "median_linf": ("median Linf", ".4f"),
    "median_l2": ("median L2", ".3f"),
}

LEGEND = (
    "*Grey box* attacks the classifier alone, *white box* remover and classifier end "
    "to end, *detector aware* also fools the detector, *adaptive* is per image the "
    "worst of the white box and of gradients that go straight through the remover (and "
    "are averaged where the defence is random). *Classifier alone* and *defence* are "
    "accuracies on the same adversarial images, *detected* is the share of flagged "
    "images among those that the defence had right and has wrong now, *right or "
    "flagged* is what a user is left with who throws flagged images away. *Goal not "
    "reached* is where the attacker failed by the measure of the threat model: of "
    "grey box a wrong label of the classifier alone, of detector aware one that is not "
    "flagged. Medians are of the successful perturbations. A minimal attack has no "
    "epsilon: it goes as far as it must. Targeted APGD (`apgd_t`) has no row under "
    "detector aware: its loss needs four classes.\n"
)


def render_attack(content: Mapping[str, Any]) -> str:
    """Returns JSON of `launch.attack` as Markdown, without a heading."""
    rows = content["rows"]
    proper = [row for row in rows if not row.get("sanity")]
    sanity = [row for row in rows if row.get("sanity")]
    parts = [_clean_list(content, (proper or sanity)[0])] if rows else []
    if proper:
        parts.append(attack_rows_table(proper))
    if sanity:
        parts.append(_sanity_list(sanity))
    parts.append(warnings_list(content["warnings"]))
    return "\n".join(parts)


def attack_rows_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns the rows as a Markdown table, attack by attack."""
    shown = [
        {
            **row,
            "budget": budget(row["epsilon"], row["norm"]),
            "effort": _effort(row["parameters"]),
            "interval": f"{row['robust_accuracy_low']:.1%} to "
            f"{row['robust_accuracy_high']:.1%}",
        }
        for row in rows
    ]
    # The detector's columns are absent without one.
    columns = {c: h for c, (h, _) in _COLUMNS.items() if c in shown[0]}
    formats = {c: _COLUMNS[c][1] for c in columns if _COLUMNS[c][1]}
    return markdown_table(shown, columns, formats=formats)


def warnings_list(warnings: Sequence[Mapping[str, Any]]) -> str:
    """Returns what makes the rows doubtful as a Markdown list, or says that none is."""
    if not warnings:
        return (
            "No sign of a misleading evaluation was found, as far as these rows can "
            "show one.\n"
        )
    lines = [f"- {warning['kind']}: {warning['message']}\n" for warning in warnings]
    return "**Signs of a misleading evaluation:**\n\n" + "".join(lines)


def budget(epsilon: float | None, norm: str = "linf") -> str:
    """Returns a budget as people write it: `8/255`, `0.5`, or `minimal` for None."""
    if epsilon is None:
        return "minimal"
    if norm != "linf":
        return f"{epsilon:g}"
    levels = 255 * epsilon
    whole = abs(levels - round(levels)) < 1e-6 and 0 < levels < 255
    return f"{round(levels)}/255" if whole else f"{epsilon:g}"


def _clean_list(content, row):
    lines = [
        f"- test images: {row['num_images']:,}\n",
        "- accuracy on clean images: classifier alone "
        f"{row['undefended_clean_accuracy']:.1%}, "
        f"defence {row['clean_accuracy']:.1%}\n",
    ]
    if "false_alarm_rate" in row:
        lines.append(
            f"- clean images flagged: {row['false_alarm_rate']:.1%}, at a degraded "
            f"probability above {content['threshold']:.4g}\n"
        )
    return "".join(lines)


def _sanity_list(rows):
    lines = [
        f"{row['threat']} {row['not_found']:.1%} of {row['num_images']}" for row in rows
    ]
    return (
        f"With epsilon {rows[0]['epsilon']:g}, which allows any image, the goal is not "
        f"reached: {', '.join(lines)}.\n"
    )


def _effort(parameters):
    steps = str(parameters.get("steps", 1))
    if parameters.get("targets"):
        steps += f" x {parameters['targets']} targets"
    restarts = parameters.get("restarts", 0)
    return f"{steps}, {restarts} restarts" if restarts else steps
