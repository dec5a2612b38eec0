r"""Judges every defence against everything, and makes a board that others can join.

  python -m launch.arena --config=configs/arena.py:small --workdir=runs/arena
  python -m launch.arena add mine.json --config=configs/arena.py:small \
      --workdir=runs/arena

The first judges the defences of the config, the second those of cards, on the same
images and seeds, and puts them on the same board. Writes arena.json, arena.md and
arena.html to the folder, and results/ with a JSON for each defence. Run it again to go
on cell by cell. Exit status 1: a defence failed, see its row, or a result was refused.
`"--config.only=('None','JPEG')"` judges some. docs/howto/arena.md has all of a card.
"""

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from absl import flags

from launch import cli
from uronet_jax.arena.cards import read_defence_card
from uronet_jax.arena.leaderboard import standing
from uronet_jax.arena.run import run_arena
from uronet_jax.arena.store import DONE
from uronet_jax.progress import Progress, StoppedError, StopSignal
from uronet_jax.reports.arena_page import save_arena


def run(
    config: dict[str, Any],
    workdir: str | os.PathLike,
    *,
    data_dir: str | None = None,
    cards: Sequence[str] = (),
    stop: Callable[[], bool] = lambda: False,
) -> int:
    """Judges what `config` or `cards` name, and prints and writes the board.

    Returns:
        The exit status: 1 if a defence failed or a result was refused, else 0.
    """
    content = run_arena(
        config, workdir, data_dir=data_dir, cards=cards, progress=Progress(stop)
    )
    print(save_arena(content, workdir))
    print(f"wrote arena.json, arena.md, arena.html and results/ to {workdir}")
    for path in cards:
        print(standing(content["rows"], read_defence_card(path).name))
    failed = [row for row in content["rows"] if row["status"] != DONE]
    return int(bool(failed or content["refused"]))


def main(argv: list[str]) -> None:
    """Judges what the flags describe."""
    cards = argv[2:] if argv[1:2] == ["add"] else []
    if argv[1:] and not cards:
        given = " ".join(argv[1:])
        raise ValueError(f"expected nothing or `add CARD.json`, a card's file: {given}")
    values, stop = flags.FLAGS, StopSignal()
    options = {"data_dir": values.data_dir, "cards": cards, "stop": stop}
    try:
        status = run(values.config.to_dict(), values.workdir, **options)
    except StoppedError:
        print(f"stopped by {stop.received}; saved. Run the same command to go on.")
        return
    sys.exit(status)


if __name__ == "__main__":
    cli.define_experiment_flags("arena:PRESET")
    cli.run(main, takes_arguments=True)
