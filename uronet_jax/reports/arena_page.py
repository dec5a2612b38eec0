"""The arena's board: what it says, as Markdown and as one HTML file that sorts."""

import os
from collections.abc import Mapping
from typing import Any


def save_arena(content: Mapping[str, Any], workdir: str | os.PathLike) -> str:
    """Writes arena.md and arena.html beside arena.json; returns the first."""
    return ""
