"""The pages of single results: evaluations, attacks, the quickstart, benchmarks."""

from uronet_jax.reports import robustness, suites
from uronet_jax.reports.defense_table import defense_rows_table, summary_list
from uronet_jax.reports.results import Result, origin_line, render_benchmark

_LEGEND = (
    "*Undefended* is the classifier on the degraded images, *purified* on what the "
    "remover makes of them, *gated* on purified images where the detector is surer "
    "than a threshold set on clean validation images. *Detection* is the accuracy at "
    "probability 1/2 on as many clean as degraded images; TPR at x % FPR is the share "
    "of degraded images found when x % of the clean ones are called degraded. PSNR in "
    "dB.\n"
)


def result_title(result: Result) -> str:
    """Returns what a result is of, in a few words."""
    content, config = result.content, result.content["config"]
    if result.kind == "quickstart":
        return f"Quickstart on {content['dataset']}"
    if result.kind == "benchmark":
        return f"Benchmark on {content['device']['kind']}"
    what = "Under attack" if result.kind == "attack" else "Evaluation"
    title = f"{what}: {config['data']['name']}"
    if result.kind == "evaluation" and config["suite"]["name"] != "uronet":
        title += f", {config['suite']['name']}"
    preset = config.get("preset", "")
    return f"{title} ({preset} models)" if preset else title


def render_result(result: Result) -> str:
    """Returns the page of an evaluation, an attack, a quickstart or a benchmark."""
    content = result.content
    parts = [f"# {result_title(result)}\n", origin_line([result])]
    if result.kind == "attack":
        parts += [robustness.render_attack(content), robustness.LEGEND]
    elif result.kind == "benchmark":
        parts.append(render_benchmark(content))
    elif result.kind == "quickstart":
        parts += [summary_list(content), defense_rows_table(content["rows"]), _LEGEND]
    elif content["config"]["suite"]["name"] == "uronet":
        parts.append(summary_list(content["summary"]))
        parts += [defense_rows_table(content["rows"]), _LEGEND]
    else:
        parts += [summary_list(content["summary"]), suites.render_suite(content)]
    return "\n".join(parts)
