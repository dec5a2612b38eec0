"""What every command shares: flags of the machine, clean errors, clean exits."""

import os
import re
import sys
from collections.abc import Callable
from typing import NoReturn

from absl import app, flags, logging
from ml_collections import config_flags

from uronet_jax.command import expand_home, find_config, printing, unread_outputs
from uronet_jax.host import keep_freed_memory

# Cluster managers that `jax.distributed` can ask; each sets its variable only in a
# process that it started itself.
_CLUSTER_SIZES = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")

# So that --help lists the flags of this module with those of the command.
flags.disclaim_key_flags()

_COORDINATOR = flags.DEFINE_string(
    "coordinator_address", None, "HOST:PORT of process 0, for several processes."
)
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "Number of processes.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Number of this process.")


def define_experiment_flags(configs: str) -> None:
    """Defines --config (`configs` says which), --workdir and --data_dir."""
    names = f"{configs}, see `uronet list configs`; or a file's path, FILE.py:PRESET."
    config_flags.DEFINE_config_file("config", None, names)
    parser = flags.FLAGS["config"].parser
    load, kind = parser.parse, configs.partition(":")[0]
    parser.parse = lambda text: load(find_config(text, kind))
    flags.DEFINE_string("workdir", None, "Folder to write to.")
    folder = "Folder of the prepared data sets. Default: $URONET_DATA_DIR, else "
    flags.DEFINE_string("data_dir", None, folder + "~/tensorflow_datasets.")
    flags.mark_flags_as_required(["config", "workdir"])


def run(main: Callable[[list[str]], None], *, takes_arguments: bool = False) -> None:
    """Runs `main`; a wrong input ends it with one line and exit status 2.

    Arguments that are no flags are wrong, unless `main` takes them.
    """
    keep_freed_memory()
    with printing():
        try:
            app.run(_guarded(main, takes_arguments), flags_parser=_parse_flags)
        except KeyboardInterrupt:
            if sys.stdout:
                sys.stdout.flush()
            # Not sys.exit: XLA may still be computing and would crash while Python
            # ends.
            os._exit(130)


def _fail(message: str) -> NoReturn:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)


def _parse_flags(argv: list[str]) -> list[str]:
    try:
        rest = flags.FLAGS([expand_home(argument) for argument in argv])
        if "config" in flags.FLAGS:
            flags.FLAGS["config"].value.to_dict()  # Raises if it could not be loaded.
        return rest
    except SystemExit:  # Of --help, which absl ends as if it were a failure.
        sys.exit(0)
    # What ml_collections raises for a field that does not exist.
    except (AttributeError, KeyError) as error:
        # Some arrive quoted twice.
        text = str(error.args[0]).replace("\\n", "\n").replace("\\'", "'")
        field = [text, *re.findall(r"'(\w+)'", text)][-1]
        _, _, hint = text.strip("'").partition("\n")
        hint = hint or "see the file given by --config"
        _fail(f"unknown config field {field!r}: {hint}")
    except (flags.Error, TypeError, ValueError, OSError) as error:
        if isinstance(error, BrokenPipeError) and unread_outputs():
            raise
        # Where the config file itself fails, the last line says why.
        reason = str(error).strip().splitlines()[-1].strip()
        reason = re.sub(r".*Flag (--\w+) must have a value.*", r"\1 is missing", reason)
        _fail(f"{re.sub(r'^[A-Za-z]*Error: ', '', reason)} (--help lists the flags)")


def _guarded(
    main: Callable[[list[str]], None], takes_arguments: bool
) -> Callable[[list[str]], None]:
    def guarded(argv: list[str]) -> None:
        from uronet_jax.sharding import explain_failure
        from uronet_jax.training.loop import DivergedError

        # absl shows every library's progress messages unless told otherwise.
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.WARNING)
            # Orbax and TFDS also raise every error that they log, with tracebacks.
            logging.get_absl_logger().setLevel("CRITICAL")
        try:
            if len(argv) > 1 and not takes_arguments:
                raise ValueError(f"unexpected arguments: {' '.join(argv[1:])}")
            connect_processes()
            main(argv)
        except (ValueError, OSError, DivergedError) as error:
            unread = isinstance(error, BrokenPipeError) and unread_outputs()
            if unread or os.environ.get("URONET_TRACEBACK"):
                raise
            _fail(str(error))
        except (RuntimeError, AssertionError, MemoryError) as error:
            reason = explain_failure(error)
            if reason is None or os.environ.get("URONET_TRACEBACK"):
                raise
            _fail(reason)

    return guarded


def connect_processes() -> None:
    """Connects the processes of a run: from the flags, else the cluster manager."""
    import jax

    values = [flag.value for flag in (_COORDINATOR, _NUM_PROCESSES, _PROCESS_ID)]
    given = [value is not None for value in values]
    if any(given) and not all(given):
        raise ValueError(
            "give all of --coordinator_address, --num_processes and --process_id, "
            "or none of them"
        )
    if all(given):
        jax.distributed.initialize(*values)
    elif any(int(os.environ.get(name, "1")) > 1 for name in _CLUSTER_SIZES):
        jax.distributed.initialize()
