"""What every command shares: flags of the machine, clean errors, clean exits."""

import os
import signal
import sys
from collections.abc import Callable

from absl import app, flags

# Cluster managers that `jax.distributed` can ask; each sets its variable only in a
# process that it started itself.
_CLUSTER_SIZES = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "JAX_NUM_PROCESSES")

_COORDINATOR = flags.DEFINE_string(
    "coordinator_address", None, "HOST:PORT of process 0, for several processes."
)
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "Number of processes.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Number of this process.")


def run(main: Callable[[list[str]], None]) -> None:
    """Runs `main`; a wrong input ends it with one line and exit status 2."""
    try:
        app.run(_guarded(main), flags_parser=_parse_flags)
    except KeyboardInterrupt:
        sys.exit(130)


def _fail(error: BaseException) -> None:
    message = error.args[0] if error.args else type(error).__name__
    if isinstance(error, OSError):
        message = str(error)
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


def _parse_flags(argv: list[str]) -> list[str]:
    # An unknown or ill-typed config field is an AttributeError, KeyError, TypeError or
    # ValueError of ml_collections, raised while the flags are parsed.
    try:
        return app.parse_flags_with_usage(argv)
    except (AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        _fail(error)


def _guarded(main: Callable[[list[str]], None]) -> Callable[[list[str]], None]:
    def guarded(argv: list[str]) -> None:
        from uronet_jax.training.loop import DivergedError

        try:
            if len(argv) > 1:
                raise ValueError(f"unexpected arguments: {' '.join(argv[1:])}")
            connect_processes()
            main(argv)
        except (ValueError, OSError, DivergedError) as error:
            if os.environ.get("URONET_TRACEBACK"):
                raise
            _fail(error)

    return guarded


def connect_processes() -> None:
    """Connects the processes of a run: from the flags, else from the cluster manager.

    Raises:
        ValueError: If only some of the three flags are given.
    """
    import jax

    given = [
        flag.value is not None for flag in (_COORDINATOR, _NUM_PROCESSES, _PROCESS_ID)
    ]
    if any(given) and not all(given):
        raise ValueError(
            "give all of --coordinator_address, --num_processes and --process_id, "
            "or none of them"
        )
    if all(given):
        jax.distributed.initialize(
            _COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value
        )
    elif any(int(os.environ.get(name, "1")) > 1 for name in _CLUSTER_SIZES):
        jax.distributed.initialize()


class StopSignal:
    """Turns SIGTERM and the first SIGINT into a question that a loop can ask."""

    def __init__(self):
        """Installs the handlers; call it in the main thread."""
        self.received: str | None = None
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: object) -> None:
        if self.received:  # Asked twice: do not wait for the checkpoint.
            raise KeyboardInterrupt
        self.received = signal.Signals(number).name

    def __call__(self) -> bool:
        """Returns whether a signal has come."""
        return self.received is not None
