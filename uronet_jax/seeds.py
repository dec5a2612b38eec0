"""Seeds that follow from names."""

import zlib


def named_seed(seed: int, *names: str) -> int:
    """Returns a seed: the same for the same names, another for others."""
    return zlib.crc32("/".join([str(seed), *names]).encode()) % 2**31
