"""The size that a flag says: of the programs that prepare images."""

from collections.abc import Sequence


def parse_size(values: Sequence[str] | None) -> tuple[int, int] | None:
    """Returns what the flag --resize says; ValueError if it is no HEIGHT,WIDTH."""
    if not values:
        return None
    if len(values) != 2 or not all(number.isdecimal() for number in values):
        raise ValueError(f"--resize takes HEIGHT,WIDTH, got {','.join(values)}")
    return int(values[0]), int(values[1])
