"""Makes docs/RESULTS.md anew from the stored results.

python -m launch.report            # after a file in docs/results has changed
python -m launch.report --check    # exits with 1 if the page is out of date
"""

import os
import sys
from pathlib import Path

from absl import flags

from launch import cli
from uronet_jax.reports import results


def is_current(folder: str | os.PathLike, page: str | os.PathLike) -> bool:
    """Returns whether `page` is what the results in `folder` give."""
    text = results.render(results.load_folder(folder))
    return Path(page).exists() and Path(page).read_text(encoding="utf-8") == text


def write(folder: str | os.PathLike, page: str | os.PathLike) -> None:
    """Writes the page of the results in `folder`."""
    text = results.render(results.load_folder(folder))
    Path(page).write_text(text, encoding="utf-8")


def main(argv: list[str]) -> None:
    """Writes or checks the page."""
    del argv
    folder, page = flags.FLAGS.results, flags.FLAGS.out
    if not flags.FLAGS.check:
        write(folder, page)
        print(f"wrote {page}")
    elif not is_current(folder, page):
        print(
            f"{page} is out of date: run python -m launch.report --results={folder} "
            f"--out={page}",
            file=sys.stderr,
        )
        sys.exit(1)


if __name__ == "__main__":
    flags.DEFINE_string("results", "docs/results", "Folder of JSON files.")
    flags.DEFINE_string("out", "docs/RESULTS.md", "Page to write.")
    flags.DEFINE_bool("check", False, "Write nothing; exit with 1 if it is old.")
    cli.run(main)
