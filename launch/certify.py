r"""Certifies radii within which no perturbation changes what a smoothed defence says.

  python -m launch.certify --config=configs/certify.py:small \
      --workdir=runs/small/certification

Writes certification.json (a row for each image, shares, config, versions, device,
seconds) now and then and at the end, and certification.md. Run it again to go on where
it stopped, with the same config and the same models.
"""

import os
from typing import Any

import jax
from absl import flags

from launch import cli
from uronet_jax.evaluation.certify_run import run_certification
from uronet_jax.reports.workdir import certification_text, save_certification


def run(
    config: dict[str, Any], workdir: str | os.PathLike, *, data_dir: str | None = None
) -> dict[str, Any]:
    """Certifies what `config` names, writes it to `workdir` and returns it."""
    content = run_certification(config, workdir, data_dir=data_dir)
    if jax.process_index() == 0:
        save_certification(content, workdir)
    return content


def main(argv: list[str]) -> None:
    """Certifies what the flags describe."""
    del argv
    values = flags.FLAGS
    result = run(values.config.to_dict(), values.workdir, data_dir=values.data_dir)
    if jax.process_index() == 0:
        print(certification_text(result))
        print(f"wrote certification.json and certification.md to {values.workdir}")


if __name__ == "__main__":
    cli.define_experiment_flags("certify:PRESET")
    cli.run(main)
