"""The host process: settings that make XLA's CPU backend faster, cores, memory."""

import ctypes
import os
import platform
from pathlib import Path

# From <malloc.h>.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -2, -3, -8


def keep_freed_memory() -> bool:
    """Tells glibc to keep large freed blocks instead of giving them to the kernel.

    XLA's CPU backend allocates its temporaries anew in every call. By default glibc
    maps each block of more than some megabytes from the kernel, which zeroes every
    page again; keeping them makes convolutional training steps 1.3 to 1.9 times as
    fast. Threads share one arena for that, for in those of their own large blocks are
    mapped all the same. The process then keeps its peak memory until it ends. Commands
    call this at their start, before JAX starts its threads; a library user may.
    Returns whether the settings were made: only with glibc, and where no environment
    variable `MALLOC_*_` says otherwise.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    if any(name.startswith("MALLOC_") and name.endswith("_") for name in os.environ):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    largest = 2**31 - 1  # mallopt takes an int.
    return bool(
        mallopt(_M_MMAP_THRESHOLD, largest)
        and mallopt(_M_TRIM_THRESHOLD, largest)
        and mallopt(_M_TOP_PAD, 256 * 2**20)
        and mallopt(_M_ARENA_MAX, 1)
    )


def num_threads() -> int:
    """Returns how many cores the process may run on; XLA uses all of them."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def available_bytes() -> int | None:
    """Returns memory that processes can still take; None where that is not known.

    In a container that is what its own limit leaves (Linux, version 2 of cgroups).
    """
    path = Path("/proc/meminfo")  # Of Linux.
    if not path.exists():
        return None
    lines = path.read_text(encoding="utf-8").splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    free = 1024 * int(fields["MemAvailable"].split()[0])
    limit, used = (Path("/sys/fs/cgroup") / f"memory.{x}" for x in ("max", "current"))
    if limit.exists() and (most := limit.read_text("utf-8").strip()) != "max":
        free = min(free, int(most) - int(used.read_text("utf-8")))
    return free
