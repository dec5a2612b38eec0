"""Where numbers go while a run runs: JSON lines and TensorBoard."""

import json
import math
import os
from pathlib import Path
from typing import Any


class Writer:
    """Writes scalars of a run to every place that was asked for.

    After a kill the steps since the last checkpoint are written again: of two lines of
    one step and kind the later counts.
    """

    def __init__(
        self,
        workdir: str | os.PathLike | None = None,
        *,
        tensorboard: bool = False,
        active: bool = True,
    ):
        """Opens the files.

        Args:
            workdir: Folder of the run: `metrics.jsonl` is appended to. Without one
                nothing is written.
            tensorboard: Also write event files to `workdir/tensorboard`; needs the
                `tensorboard` extra (no TensorFlow).
            active: Whether this process writes; of several let only the first.

        Raises:
            ValueError: If TensorBoard is asked for and tensorboardX is missing.
        """
        self._file = self._events = None
        if workdir is None or not active:
            return
        if tensorboard:
            try:
                from tensorboardX import SummaryWriter
            except ImportError as error:
                raise ValueError(
                    "TensorBoard files need tensorboardX: "
                    'pip install "uronet_jax[tensorboard]", or set tensorboard=False'
                ) from error
            self._events = SummaryWriter(str(Path(workdir) / "tensorboard"))
        self._file = open(Path(workdir) / "metrics.jsonl", "a", encoding="utf-8")

    def write(self, step: int, kind: str, values: dict[str, Any]) -> None:
        """Appends one line `{"step", "kind", ...values}`, at once on disk.

        `step` is the number of updates so far, `kind` is `train` or `validation`.
        """
        values = {name: _plain(value) for name, value in values.items()}
        if self._file is not None:
            line = json.dumps({"step": step, "kind": kind, **values}, allow_nan=False)
            self._file.write(line + "\n")
            self._file.flush()
        if self._events is not None:
            for name, value in values.items():
                if isinstance(value, int | float):
                    self._events.add_scalar(f"{kind}/{name}", value, step)
            self._events.flush()

    def close(self) -> None:
        """Closes the files."""
        for handle in (self._file, self._events):
            if handle is not None:
                handle.close()
        self._file = self._events = None


def _plain(value: Any) -> Any:
    if isinstance(value, str | int | bool):
        return value
    value = float(value)
    # JSON has no NaN; a reader must see that the number is missing, not zero.
    return value if math.isfinite(value) else None
