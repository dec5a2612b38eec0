"""Long work and whoever waits for it: progress bars, and a request to stop."""

import sys
from collections.abc import Callable
from typing import Any


class StoppedError(Exception):
    """Somebody asked to stop; everything that was under way is saved."""


def progress_bar(
    total: int | None,
    initial: int = 0,
    *,
    description: str,
    unit: str = "step",
    shown: bool = True,
    leave: bool = True,
) -> Any:
    """Returns a tqdm bar with rate and time left, on standard error.

    Args:
        total: How many there are, None if that is not known.
        initial: How many are done.
        description: What it is called.
        unit: What is counted.
        shown: Whether there is one.
        leave: Whether it stays when it is full.
    """
    from tqdm import tqdm

    return tqdm(
        total=total,
        initial=initial,
        desc=description,
        unit=unit,
        disable=not shown,
        dynamic_ncols=True,
        leave=leave,
        # In a log file a line every few seconds is enough.
        mininterval=0.5 if sys.stderr.isatty() else 10.0,
        smoothing=0.1,
    )


class Progress:
    """Shows how far the work is, and knows whether it shall stop."""

    def __init__(self, stop: Callable[[], bool] = lambda: False, *, shown: bool = True):
        """Takes both.

        Args:
            stop: Asked between pieces of work.
            shown: Whether there are progress bars.
        """
        self.stop, self.shown = stop, shown

    def bar(
        self, total: int | None, description: str, unit: str, *, leave: bool = True
    ) -> Any:
        """Returns a progress bar; see `progress_bar`."""
        return progress_bar(
            total, description=description, unit=unit, shown=self.shown, leave=leave
        )

    def stopping(self) -> None:
        """Raises `StoppedError` if somebody asked to stop."""
        if self.stop():
            raise StoppedError
