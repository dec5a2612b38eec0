r"""Judges every defence against everything, and makes a board that others can join.

  python -m launch.arena --config=configs/arena.py:small --workdir=runs/arena
  python -m launch.arena add mine.json --config=configs/arena.py:small \
      --workdir=runs/arena

The first judges the defences of the config, the second those of cards, on the same
images and seeds, and puts them on the same board. Writes arena.json, arena.md and
arena.html to the folder, and results/ with a JSON for each defence. Run it again to go
on cell by cell. Exit status 1: a defence failed, see its row.
"""

import sys

import jax
from absl import flags

from launch import cli
from uronet_jax.arena.run import run_arena
from uronet_jax.progress import Progress, StoppedError
from uronet_jax.reports.arena_page import save_arena


def main(argv: list[str]) -> None:
    """Judges what the flags describe."""
    cards = argv[2:] if argv[1:2] == ["add"] else []
    if argv[1:] and not cards:
        raise ValueError(f"expected nothing or `add CARD.json`: {' '.join(argv[1:])}")
    values = flags.FLAGS
    stop = cli.StopSignal()
    try:
        content = run_arena(
            values.config.to_dict(),
            values.workdir,
            data_dir=values.data_dir,
            cards=cards,
            progress=Progress(stop, shown=jax.process_index() == 0),
        )
    except StoppedError:
        print(f"stopped by {stop.received}; saved. Run the same command to go on.")
        return
    failed = [row for row in content["rows"] if row["status"] != "done"]
    if jax.process_index() == 0:
        print(save_arena(content, values.workdir))
    if failed or content["refused"]:
        sys.exit(1)


if __name__ == "__main__":
    cli.define_experiment_flags("arena:PRESET")
    cli.run(main, takes_arguments=True)
