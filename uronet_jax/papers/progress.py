"""Long work and whoever waits for it: progress bars, and a request to stop."""

import sys
from collections.abc import Callable
from typing import Any


class StoppedError(Exception):
    """Somebody asked to stop; everything that was under way is saved."""


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
        """Returns a progress bar with rate and time left.

        Args:
            total: How many there are, if that is known.
            description: What it is called.
            unit: What is counted.
            leave: Whether it stays when it is full.
        """
        from tqdm import tqdm

        return tqdm(
            total=total,
            desc=description,
            unit=unit,
            disable=not self.shown,
            dynamic_ncols=True,
            leave=leave,
            # In a log file a line every few seconds is enough.
            mininterval=0.5 if sys.stderr.isatty() else 10.0,
        )

    def stopping(self) -> None:
        """Raises `StoppedError` if somebody asked to stop."""
        if self.stop():
            raise StoppedError
