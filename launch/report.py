"""Makes RESULTS.md, CORRUPTIONS.md and ATTACKS.md in docs anew from stored results.

python -m launch.report            # after a file in docs/results has changed
python -m launch.report --check    # exits with 1 if a page is out of date
"""

import os
import sys
from pathlib import Path
from typing import Any

from absl import flags

from launch import cli
from uronet_jax.reports import attack_page, corruption_page, results


def pages(folder: str | os.PathLike, docs: str | os.PathLike) -> dict[Path, str]:
    """Returns path -> text of the pages that the results in `folder` give."""
    stored = results.load_folder(folder)

    def contents(kind: str) -> list[dict[str, Any]]:
        return [result.content for result in stored if result.kind == kind]

    def only(kind: str) -> dict[str, Any] | None:
        found = contents(kind)
        if len(found) > 1:
            raise ValueError(f"{folder} holds {len(found)} of {kind}: keep one")
        return found[0] if found else None

    return {
        Path(docs) / "RESULTS.md": results.render(stored),
        Path(docs) / "CORRUPTIONS.md": corruption_page.render(
            only("fidelity"), contents("benchmark")
        ),
        Path(docs) / "ATTACKS.md": attack_page.render(
            only("attack_agreement"), contents("benchmark")
        ),
    }


def out_of_date(folder: str | os.PathLike, docs: str | os.PathLike) -> list[Path]:
    """Returns the pages in `docs` that are not what the results in `folder` give."""
    return [
        path
        for path, text in pages(folder, docs).items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]


def write(folder: str | os.PathLike, docs: str | os.PathLike) -> list[Path]:
    """Writes the pages of the results in `folder` and returns their paths."""
    texts = pages(folder, docs)
    for path, text in texts.items():
        path.write_text(text, encoding="utf-8")
    return list(texts)


def main(argv: list[str]) -> None:
    """Writes or checks the pages."""
    del argv
    folder, docs = flags.FLAGS.results, flags.FLAGS.docs
    if not flags.FLAGS.check:
        print("wrote " + ", ".join(map(str, write(folder, docs))))
        return
    old = out_of_date(folder, docs)
    if old:
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
