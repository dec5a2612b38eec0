"""The pages of single results: evaluations, attacks, the quickstart, benchmarks."""

from uronet_jax.reports import robustness, suites
from uronet_jax.reports.defense_table import (
    classes_line,
    defense_rows_table,
    summary_list,
)
from uronet_jax.reports.predictions import render_predictions
from uronet_jax.reports.results import Result, origin_line, render_benchmark

_LEGEND = (
    "*Undefended* is the classifier on the degraded images, *purified* on what the "
    "remover makes of them, *gated* on purified images where the detector is surer "
    "than a threshold set on clean validation images. *Detection* is the accuracy at "
    "probability 1/2 on as many clean as degraded images; TPR at x % FPR is the share "
    "of degraded images found when x % of the clean ones are called degraded. PSNR in "
    "dB.\n"
)


def render_result(result: Result) -> str:
    """Returns the page of a result that has one of its own."""
    content, config = result.content, result.content["config"]
    if result.kind == "quickstart":
        title = f"Quickstart on {content['dataset']}"
        parts = [summary_list(content), defense_rows_table(content["rows"]), _LEGEND]
    elif result.kind == "benchmark":
        title = f"Benchmark on {content['device']['kind']}"
        parts = [render_benchmark(content)]
    elif result.kind == "predictions":
        title = f"Predictions for {config['kind']}"
        parts = [render_predictions(content)]
    elif result.kind == "attack":
        title = f"Under attack: {config['data']['name']}"
        rows = robustness.render_attack(content)
        parts = [classes_line(config), rows, robustness.LEGEND]
    else:
        title = f"Evaluation: {config['data']['name']}"
        parts = [classes_line(config), summary_list(content["summary"])]
        if config["suite"]["name"] == "uronet":
            parts += [defense_rows_table(content["rows"]), _LEGEND]
        else:
            title += f", {config['suite']['name']}"
            parts.append(suites.render_suite(content))
    if result.kind in ("evaluation", "attack") and config.get("preset"):
        title += f" ({config['preset']} models)"
    return "\n".join(filter(None, [f"# {title}\n", origin_line([result]), *parts]))
