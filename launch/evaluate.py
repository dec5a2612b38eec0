r"""Judges a defence on clean test images and on every degradation of a suite.

  python -m launch.evaluate --config=configs/evaluate.py:small \
      --workdir=runs/small/evaluation

Writes evaluation.json (rows, config, versions, device, seconds) and evaluation.md, and
over a suite of corruptions accuracy.png. With --html=FILE also one page with charts,
pictures and a table that sorts, which needs no network.
"""

import os
import time
from typing import Any

import jax
from absl import flags

from launch import cli
from uronet_jax.checkpoints import locked_workdir
from uronet_jax.evaluation.defense_table import evaluate_defense
from uronet_jax.records import provenance
from uronet_jax.reports.workdir import (
    check_page_path,
    evaluation_text,
    save_evaluation,
    save_evaluation_page,
)


def run(
    config: dict[str, Any],
    workdir: str | os.PathLike,
    *,
    data_dir: str | None = None,
    html: str | os.PathLike | None = None,
) -> dict[str, Any]:
    """Judges what `config` names, writes the result to `workdir` and returns it.

    `html` is a file to write a page to.
    """
    start = time.perf_counter()
    if html:
        check_page_path(html)
    with locked_workdir(workdir):
        result, examples = evaluate_defense(config, data_dir, examples=bool(html))
        result |= provenance(config, seconds=time.perf_counter() - start)
        if jax.process_index() == 0:
            save_evaluation(result, workdir)
            if html:
                save_evaluation_page(result, examples, html)
    return result


def main(argv: list[str]) -> None:
    """Evaluates what the flags describe."""
    del argv
    values = flags.FLAGS
    result = run(
        values.config.to_dict(),
        values.workdir,
        data_dir=values.data_dir,
        html=values.html,
    )
    if jax.process_index() == 0:
        print(evaluation_text(result))
        print(f"wrote evaluation.json and evaluation.md to {values.workdir}")
        if values.html:
            print(f"wrote {values.html}")


if __name__ == "__main__":
    cli.define_experiment_flags("evaluate:PRESET")
    flags.DEFINE_string("html", None, "File to write a page to, such as page.html.")
    cli.run(main)
