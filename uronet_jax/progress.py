"""Long work and whoever waits for it: progress bars, and a request to stop."""

import contextlib
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from tqdm import tqdm

# Seconds between two lines of a log file.
_LOG_EVERY = 30.0


class StoppedError(Exception):
    """Somebody asked to stop; everything that was under way is saved."""


class StopSignal:
    """Turns SIGTERM and the first SIGINT into a question that a loop can ask.

    After either, the next SIGINT stops at once. The next SIGTERM does not: who asked
    Linux to be told of a parent's death is told for several of its threads.
    """

    def __init__(self):
        """Installs the handlers; call it in the main thread."""
        self.received: str | None = None
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: object) -> None:
        if self.received:
            if number == signal.SIGINT:  # Do not wait for the checkpoint.
                raise KeyboardInterrupt
            return
        self.received = signal.Signals(number).name
        # Not print: the signal may have come in the middle of one.
        text = f"\n{self.received}: saving and stopping; Ctrl-C to stop at once\n"
        with contextlib.suppress(OSError):
            os.write(2, text.encode())

    def __call__(self) -> bool:
        """Returns whether a signal has come."""
        return self.received is not None


class _Lines(tqdm):
    """A bar for files: whole lines, few of them, nothing is overwritten."""

    def display(self, msg=None, pos=None):
        if msg != "":  # Which clears a bar that does not stay.
            print(self if msg is None else msg, file=self.fp, flush=True)

    def close(self):
        if self.leave and not self.disable and self.n != self.last_print_n:
            self.refresh()
        self.leave = False
        super().close()


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

    In a terminal and in a notebook it moves. In a log file it is a line at the
    beginning, every half minute, and at the end.

    Args:
        total: How many there are, None if that is not known.
        initial: How many are done.
        description: What it is called.
        unit: What is counted.
        shown: Whether there is one.
        leave: Whether it stays when it is full.
    """
    settings = {"total": total, "initial": initial, "desc": description, "unit": unit}
    settings |= {"disable": not shown, "leave": leave, "smoothing": 0.1}
    if sys.stderr.isatty() or type(sys.stderr).__module__.startswith("ipykernel"):
        return tqdm(dynamic_ncols=True, mininterval=0.5, **settings)
    return _Lines(ncols=0, mininterval=_LOG_EVERY, miniters=1, **settings)


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

    def say(self, text: str) -> None:
        """Tells people, where bars are shown, a line."""
        if self.shown:
            print(text)

    def stopping(self) -> None:
        """Raises `StoppedError` if somebody asked to stop."""
        if self.stop():
            raise StoppedError
