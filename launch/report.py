"""Makes docs/RESULTS.md anew from the stored results.

  python -m launch.report            # after a file in docs/results has changed
  python -m launch.report --check    # exits with 1 if the page is out of date
"""

import sys
from pathlib import Path

from absl import flags

from launch import cli
from uronet_jax.reports import results

_RESULTS = flags.DEFINE_string("results", "docs/results", "Folder of JSON files.")
_OUT = flags.DEFINE_string("out", "docs/RESULTS.md", "Page to write.")
_CHECK = flags.DEFINE_bool("check", False, "Write nothing; exit with 1 if it is old.")


def main(argv: list[str]) -> None:
    """Writes or checks the page."""
    del argv
    page = Path(_OUT.value)
    text = results.render(results.load_folder(_RESULTS.value))
    if not _CHECK.value:
        page.write_text(text, encoding="utf-8")
        print(f"wrote {page}")
    elif not page.exists() or page.read_text(encoding="utf-8") != text:
        print(
            f"{page} is out of date: run python -m launch.report "
            f"--results={_RESULTS.value} --out={page}",
            file=sys.stderr,
        )
        sys.exit(1)


if __name__ == "__main__":
    cli.run(main)
