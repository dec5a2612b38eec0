"""How the certificates of `evaluation.certify` are shown to a person."""

from collections.abc import Mapping
from typing import Any

from uronet_jax.reports.tables import markdown_table


def render_certification(content: Mapping[str, Any]) -> str:
    """Returns JSON of `launch.certify` as Markdown, without a heading."""
    summary, config = content["summary"], content["config"]
    rows = [
        {
            **row,
            "interval": f"{row['accuracy_low']:.1%} to {row['accuracy_high']:.1%}",
        }
        for row in summary["certified"]
    ]
    columns = {
        "radius": "L2 radius",
        "accuracy": "certified accuracy",
        "interval": "95 % interval",
    }
    parts = [
        f"Gaussian noise of sigma {config['sigma']:g}, {config['num_samples']:,} noisy "
        f"copies of each of {summary['num_images']:,} images; a certificate is wrong "
        f"with a probability of at most {config['alpha']:g}.\n",
        f"- accuracy of the smoothed classifier: {summary['accuracy']:.1%}\n"
        f"- no certificate of any class: {summary['abstained']:.1%} of the images\n"
        f"- average certified radius: {summary['average_certified_radius']:.3f}\n",
    ]
    if rows:
        parts.append(markdown_table(rows, columns, formats={"accuracy": ".1%"}))
    return "\n".join(parts)
