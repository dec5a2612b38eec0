"""Published numbers of URoNet: `published/*.csv`, transcribed facts.

`published/sources.csv` names for every file its rows, its content and its source; in
the others `value` is in percent or points, and `note` says what is an interpretation.
"""

from functools import cache

from uronet_jax.reports.tables import read_published

_PACKAGE = "uronet_jax.papers.uronet"


@cache
def published_rows(name: str) -> tuple[dict[str, str], ...]:
    """Returns the rows of a file such as `uronet_table02.csv`, every field as text."""
    return tuple(read_published(_PACKAGE, name))
