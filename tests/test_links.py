"""Pages point to files that are there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
# Text and target of links and pictures, those in HTML too.
_LINKS = re.compile(r"\[[^\]]*\]\(([^()\s]+)\)|(?:src|href)=\"([^\"]+)\"")


def targets(text):
    """Returns the relative targets in a page, without code and without fragments."""
    text = re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)
    found = [first or second for first, second in _LINKS.findall(text)]
    found = [x.partition("#")[0] for x in found if not re.match(r"[a-z]+:", x)]
    return [x for x in found if x]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links(page):
    found = targets(page.read_text(encoding="utf-8"))
    assert not [x for x in found if not (page.parent / x).exists()]


def test_links_are_found():
    text = '[a](b.md#c) [`d`](e.md) ![f](g.png) <img src="h.png">\n`i[j](k)`\n'
    text += "[l](https://m.org) [n](#o)\n```\n[p](q)\n```\n[r](s.md)"
    assert targets(text) == ["b.md", "e.md", "g.png", "h.png", "s.md"]
