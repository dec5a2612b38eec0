"""Makes the pages of docs anew from stored results.

python -m launch.report            # after a file in docs/results has changed
python -m launch.report --check    # exits with 1 if a page is out of date

A page is compared word by word; a picture by the numbers that it was drawn from, which
are kept in its metadata.
"""

import sys

from absl import flags

from launch import cli
from uronet_jax.papers.pages.docs import out_of_date, write_pages


def main(argv: list[str]) -> None:
    """Writes or checks the pages."""
    del argv
    folder, docs = flags.FLAGS.results, flags.FLAGS.docs
    if not flags.FLAGS.check:
        written = write_pages(folder, docs)
        print(f"wrote {', '.join(map(str, written)) or 'nothing: all is up to date'}")
    elif old := out_of_date(folder, docs):
        print(
            f"{', '.join(map(str, old))} out of date: run python -m launch.report "
            f"--results={folder} --docs={docs}",
            file=sys.stderr,
        )
        sys.exit(1)


if __name__ == "__main__":
    flags.DEFINE_string("results", "docs/results", "Folder of JSON files.")
    flags.DEFINE_string("docs", "docs", "Folder of the pages.")
    flags.DEFINE_bool("check", False, "Write nothing; exit with 1 if it is old.")
    cli.run(main)
