"""Attacks a defence under every threat model and says what is left of it.

python -m launch.attack --config=configs/attack.py:small --workdir=runs/small/attack

Writes attack.json (rows, warnings, config, versions, device, seconds) after every row,
and attack.md and attack.png at the end. Run it again to go on where it stopped, with
the same config and the same models.
"""

import os
from typing import Any

import jax
from absl import flags

from launch import cli
from uronet_jax.evaluation.attack_run import run_attacks
from uronet_jax.reports.workdir import attack_text, save_attack


def run(
    config: dict[str, Any], workdir: str | os.PathLike, *, data_dir: str | None = None
) -> dict[str, Any]:
    """Attacks what `config` names, writes the result to `workdir` and returns it."""
    content = run_attacks(config, workdir, data_dir=data_dir)
    if jax.process_index() == 0:
        save_attack(content, workdir)
    return content


def main(argv: list[str]) -> None:
    """Attacks what the flags describe."""
    del argv
    values = flags.FLAGS
    result = run(values.config.to_dict(), values.workdir, data_dir=values.data_dir)
    if jax.process_index() == 0:
        print(attack_text(result))
        print(f"wrote attack.json and attack.md to {values.workdir}")


if __name__ == "__main__":
    cli.define_experiment_flags("attack:PRESET")
    cli.run(main)
