"""Makes RESULTS.md, CORRUPTIONS.md and ATTACKS.md in docs anew from stored results.

python -m launch.report            # after a file in docs/results has changed
python -m launch.report --check    # exits with 1 if a page is out of date

The heat maps of RESULTS.md are drawn into docs/figures. A page is compared word by
word; a picture by the numbers that it was drawn from, which are kept in its metadata.
"""

import os
import sys
from pathlib import Path
from typing import Any

from absl import flags

from launch import cli
from uronet_jax.papers.uronet.pages import reproduction
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
        Path(docs) / "ATTACKS.md": attack_page.render_attacks(
            only("attack_agreement"), contents("benchmark")
        ),
    }


def check_pictures(folder: str | os.PathLike, docs: str | os.PathLike) -> None:
    """Raises FileNotFoundError if `docs` lacks a picture that no JSON can give."""
    for group in results.reproductions(results.load_folder(folder)):
        if group.experiment in reproduction.PICTURES:
            name = reproduction.picture_name(group)
            path = Path(docs) / reproduction.FIGURES / name
            if not path.is_file():
                raise FileNotFoundError(
                    f"no picture at {path}: copy the {group.experiment}.png there that "
                    "launch.reproduce drew beside the JSON"
                )


def missing_pictures(
    folder: str | os.PathLike, docs: str | os.PathLike
) -> dict[Path, reproduction.Picture]:
    """Returns path -> picture that `docs` lacks, or holds of other numbers."""
    groups = results.reproductions(results.load_folder(folder))
    target = Path(docs) / reproduction.FIGURES
    return {
        target / picture.name: picture
        for group in groups
        for picture in reproduction.pictures(group)
        if not reproduction.is_drawn(picture, target)
    }


def out_of_date(folder: str | os.PathLike, docs: str | os.PathLike) -> list[Path]:
    """Returns what in `docs` is not what the results in `folder` give."""
    return [
        *(
            path
            for path, text in pages(folder, docs).items()
            if not path.exists() or path.read_text(encoding="utf-8") != text
        ),
        *missing_pictures(folder, docs),
    ]


def write(folder: str | os.PathLike, docs: str | os.PathLike) -> list[Path]:
    """Writes the pages and missing pictures of the results in `folder`.

    Returns:
        What was written.
    """
    texts = pages(folder, docs)
    for path, text in texts.items():
        path.write_text(text, encoding="utf-8")
    missing = missing_pictures(folder, docs)
    for path, picture in missing.items():
        reproduction.draw(picture, path.parent)
    return [*texts, *missing]


def main(argv: list[str]) -> None:
    """Writes or checks the pages."""
    del argv
    folder, docs = flags.FLAGS.results, flags.FLAGS.docs
    check_pictures(folder, docs)
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
