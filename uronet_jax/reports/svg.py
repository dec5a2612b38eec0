"""Line charts as SVG, for pages: no file, no script, readable in light and dark."""

import itertools
from collections.abc import Mapping, Sequence
from html import escape

from uronet_jax.reports.figures import LINE_COLOURS

# So that lines that lie on each other are both seen.
_DASHES = ("none", "none", "4 4", "2 4")
_COLOURS = LINE_COLOURS[: len(_DASHES)]
_LEFT, _RIGHT, _TOP, _BOTTOM = 34, 10, 22, 22  # Pixels around the axes.


def accuracy_chart(
    lines: Mapping[str, Sequence[tuple[float, float]]],
    *,
    title: str = "",
    width: int = 220,
    height: int = 150,
) -> str:
    """Returns an SVG element of lines over severities.

    Args:
        lines: Name -> points `(severity, accuracy)`, the accuracy a fraction in
            `[0, 1]`, in any order. The first four lines have colours of their own;
            points keep their exact numbers as `data-value`.
        title: Above the axes.
        width: In pixels.
        height: In pixels.

    Raises:
        ValueError: If there is no point, or an accuracy is not in `[0, 1]`.
    """
    lines = {name: sorted(line) for name, line in lines.items()}
    points = [point for line in lines.values() for point in line]
    if not points or any(not 0 <= y <= 1 for _, y in points):
        raise ValueError(f"a chart needs accuracies in [0, 1]: {dict(lines)}")
    ticks = sorted({x for x, _ in points})
    low, span = ticks[0], max(ticks[-1] - ticks[0], 1)

    def across(x):
        return round(_LEFT + (x - low) / span * (width - _LEFT - _RIGHT), 1)

    def up(y):
        return round(height - _BOTTOM - y * (height - _TOP - _BOTTOM), 1)

    parts = [
        f'<svg class="chart" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" font-size="10" fill="currentColor" role="img">'
        f'<text x="{_LEFT}" y="13" font-size="11" font-weight="bold">{escape(title)}'
        "</text>"
    ]
    for level in (0, 0.5, 1):
        parts.append(
            f'<line x1="{_LEFT}" x2="{width - _RIGHT}" y1="{up(level)}" '
            f'y2="{up(level)}" stroke="currentColor" stroke-opacity="0.2"/>'
            f'<text x="{_LEFT - 5}" y="{up(level) + 3}" text-anchor="end">'
            f"{level:.0%}</text>"
        )
    for x in ticks:
        parts.append(
            f'<text x="{across(x)}" y="{height - 8}" text-anchor="middle">{x:g}</text>'
        )
    styles = itertools.cycle(zip(_COLOURS, _DASHES, strict=True))
    for (name, line), (colour, dashes) in zip(lines.items(), styles, strict=False):
        path = " ".join(f"{across(x)},{up(y)}" for x, y in line)
        parts.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" '
            f'stroke-width="2" stroke-dasharray="{dashes}"/>'
        )
        for x, y in line:
            parts.append(
                f'<circle cx="{across(x)}" cy="{up(y)}" r="3" fill="{colour}" '
                f'data-line="{escape(name)}" data-severity="{x:g}" data-value="{y!r}">'
                f"<title>{escape(name)}, severity {x:g}: {y:.2%}</title></circle>"
            )
    return "".join([*parts, "</svg>"])


def chart_legend(names: Sequence[str]) -> str:
    """Returns which colour is which line, as HTML."""
    colours = itertools.cycle(_COLOURS)
    return " ".join(
        '<span style="white-space:nowrap"><svg width="14" height="10" '
        'style="display:inline-block">'
        f'<rect width="14" height="10" fill="{colour}"/></svg> {escape(name)}</span>'
        for name, colour in zip(names, colours, strict=False)
    )
