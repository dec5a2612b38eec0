"""An evaluation as one HTML file: charts, pictures, a table that sorts. No network."""

import base64
import io
import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from PIL import Image

from uronet_jax.evaluation.examples import ExamplePictures
from uronet_jax.reports.defense_table import (
    DEFENSE_COLUMNS,
    DEFENSE_SUMMARY,
    mean_row,
)
from uronet_jax.reports.figures import show_noise
from uronet_jax.reports.svg import accuracy_chart, chart_legend

# Column -> how a line of the charts is called.
_LINES = {
    "undefended_accuracy": "classifier alone",
    "purified_accuracy": "behind the purifier",
    "gated_accuracy": "behind the gate",
}
_CLEAN = {
    "undefended_accuracy": "clean_accuracy",
    "purified_accuracy": "purified_clean_accuracy",
    "gated_accuracy": "gated_clean_accuracy",
}
PAGE_STYLE = """
:root { color-scheme: light dark }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2em auto;
  padding: 0 1em }
h2 { margin-top: 2em }
.row { display: flex; flex-wrap: wrap; gap: 12px }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: 3px 10px; text-align: right; border-bottom: 1px solid #8885 }
th:first-child, td:first-child { text-align: left }
.sorts th { cursor: pointer; vertical-align: bottom }
.sorts th[aria-sort=ascending]::after { content: " \\25b4" }
.sorts th[aria-sort=descending]::after { content: " \\25be" }
tfoot td { font-weight: bold }
.wide { overflow-x: auto }
.gallery td { text-align: left; border: 0; padding: 3px 6px }
.gallery img { width: 112px; image-rendering: pixelated; display: block }
pre { overflow-x: auto; background: #8881; padding: 1em }
"""
# A click on a heading sorts by its column, a second one the other way round.
PAGE_SCRIPT = """
for (const table of document.querySelectorAll("table.sorts")) {
  const headings = [...table.querySelectorAll("th")];
  headings.forEach((heading, column) => heading.onclick = () => {
    const up = heading.ariaSort !== "ascending";
    headings.forEach(other => other.ariaSort = "none");
    heading.ariaSort = up ? "ascending" : "descending";
    const value = row => row.cells[column].dataset.value;
    const compare = (a, b) => isNaN(value(a)) || isNaN(value(b))
      ? value(a).localeCompare(value(b)) : value(a) - value(b);
    const rows = [...table.tBodies[0].rows].sort(compare);
    table.tBodies[0].append(...(up ? rows : rows.reverse()));
  });
}
"""


def evaluation_page(
    result: Mapping[str, Any], examples: ExamplePictures | None = None
) -> str:
    """Returns an evaluation as a page that needs no other file.

    Cells of the table keep their exact numbers as `data-value`.

    Args:
        result: What `launch.evaluate` writes as JSON.
        examples: Its pictures; None for none.
    """
    config = result["config"]
    data = config["data"]
    heading = f"Evaluation on {data['name']}, {data['split']}"
    roles = ("classifier", "purifier", "detector")
    judged = "".join(
        f"<li>{role}: <code>{escape(str(config.get(role) or 'none'))}</code></li>"
        for role in roles
    )
    about = {
        name: result[name]
        for name in ("config", "models", "versions", "device", "seconds")
        if name in result
    }
    settings = json.dumps(about, indent=2, sort_keys=True, default=str)
    gallery = (
        "<h2>Pictures</h2><p>The first images, one for each noise at its middle "
        f"severity.</p>{_gallery(examples)}"
        if examples
        else ""
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{escape(heading)}</title><style>{PAGE_STYLE}</style></head>\n<body>"
        f"<h1>{escape(heading)}</h1><ul>{judged}</ul>"
        f"<h2>Clean images</h2>{_summary(result['summary'])}"
        f"<h2>Accuracy along the severities</h2>"
        f"{noise_charts(result['rows'], result['summary'])}"
        f"{gallery}"
        "<h2>All degradations</h2><p>A click on a heading sorts.</p>"
        f"{_table(result['rows'])}"
        f"<h2>Settings</h2><pre>{escape(settings)}</pre>"
        f"<script>{PAGE_SCRIPT}</script></body></html>\n"
    )


def _summary(summary: Mapping[str, Any]) -> str:
    lines = "".join(
        f'<tr><td>{escape(text)}</td><td data-name="{name}" '
        f'data-value="{summary[name]!r}">{format(summary[name], spec)}</td></tr>'
        for name, (text, spec) in DEFENSE_SUMMARY.items()
        if name in summary
    )
    return f"<table>{lines}</table>"


def noise_charts(
    rows: Sequence[Mapping[str, Any]], summary: Mapping[str, Any], **size: int
) -> str:
    """Returns a chart for each noise as HTML; clean images are severity 0.

    Args:
        rows: Of `evaluation.defense_table`, at least one.
        summary: Likewise.
        **size: `width` and `height` of a chart, see `accuracy_chart`.
    """
    lines = {c: text for c, text in _LINES.items() if c in rows[0]}
    noises = dict.fromkeys(row["noise"] for row in rows)
    charts = []
    for noise in noises:
        points = {
            text: [
                (0, summary[_CLEAN[column]]),
                *((x["severity"], x[column]) for x in rows if x["noise"] == noise),
            ]
            for column, text in lines.items()
        }
        charts.append(accuracy_chart(points, title=noise, **size))
    legend = chart_legend(list(lines.values()))
    return f'<p>{legend}</p><div class="row">{"".join(charts)}</div>'


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    columns = {c: text for c, text in DEFENSE_COLUMNS.items() if c in rows[0]}

    def line(row):
        return "".join(
            f'<td data-name="{name}" data-value="{escape(str(row.get(name, "")))}">'
            f"{escape(format(row[name], spec)) if name in row else ''}</td>"
            for name, (_, spec) in columns.items()
        )

    headings = "".join(f"<th>{escape(text)}</th>" for text, _ in columns.values())
    body = "".join(f"<tr>{line(row)}</tr>" for row in rows)
    return (
        f'<div class="wide"><table class="sorts"><thead><tr>{headings}</tr></thead>'
        f"<tbody>{body}</tbody><tfoot><tr>{line(mean_row(rows))}</tr></tfoot>"
        "</table></div>"
    )


def _gallery(examples: ExamplePictures) -> str:
    columns = {"clean": examples.clean, "degraded": examples.degraded}
    if examples.purified is not None:
        columns["purified"] = examples.purified
        columns["noise pattern"] = show_noise(examples.noise)
    lines = [
        f"<td>{escape(noise)} {severity}</td>"
        + "".join(f"<td>{_picture(x[i], name)}</td>" for name, x in columns.items())
        for i, (noise, severity) in enumerate(examples.entries)
    ]
    headings = "".join(f"<td>{name}</td>" for name in ("", *columns))
    body = "".join(f"<tr>{line}</tr>" for line in (headings, *lines))
    return f'<table class="gallery">{body}</table>'


def _picture(image: np.ndarray, name: str) -> str:
    pixels = np.rint(255 * np.clip(image, 0, 1)).astype(np.uint8)
    data = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(
        data, "PNG"
    )
    text = base64.b64encode(data.getvalue()).decode()
    return f'<img alt="{escape(name)}" src="data:image/png;base64,{text}">'
