"""The command `uronet`: finds a program of `launch` and runs it.

Programs and configs lie beside this package in a clone and in an editable install, and
in its folder `_programs` in a wheel. Wherever they are they import each other as
`launch` and `configs`, in the process of the command alone, so that nothing with such
common names is installed beside other packages.

Only the standard library is imported here: `uronet --help` answers at once.
"""

import ast
import contextlib
import io
import os
import re
import runpy
import select
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from uronet_jax import __version__
from uronet_jax.specs import nearest_name

# Command -> its module in `launch`, the first line of which says what it does.
COMMANDS = {
    "quickstart": "quickstart",
    "prepare": "prepare_data",
    "train": "train",
    "evaluate": "evaluate",
    "attack": "attack",
    "certify": "certify",
    "arena": "arena",
    "purify": "purify",
    "demo": "demo",
    "export": "export",
    "corrupt": "make_corrupted",
    "make_attacked": "make_attacked",
    "learn_dictionary": "learn_dictionary",
    "reproduce": "reproduce",
    "report": "report",
    "benchmark": "benchmark",
    "list": "list",
}


def programs_folder() -> Path:
    """Returns the folder that holds `launch` and `configs`.

    Raises:
        FileNotFoundError: If the package was copied without them.
    """
    package = Path(__file__).resolve().parent
    # A folder `launch` beside an installed package would be somebody else's.
    for folder in (package / "_programs", package.parent):
        if (folder / "launch" / "cli.py").is_file():
            return folder
    raise FileNotFoundError(
        f"no programs in {package / '_programs'}: install uronet_jax again"
    )


def list_configs() -> list[str]:
    """Returns the short names of the configs that come with the package."""
    names = [path.stem for path in (programs_folder() / "configs").glob("*.py")]
    return sorted(set(names) - {"__init__", "common"})


def find_config(text: str, kind: str = "") -> str:
    """Returns `PATH:PRESET` of a config that may be named shortly, `remover:small`.

    Args:
        text: Its name or its file, and a preset.
        kind: The command whose config it must be, or PHASE for what is trained; empty
            for any. A file may hold any, but for those of other commands.

    Raises:
        ValueError: If no config has the name, or it is one of the package that does not
            fit.
    """
    name, colon, preset = text.partition(":")
    known, path = list_configs(), Path(name)
    choices = [kind] if kind in known else known
    if kind == "PHASE":
        choices = [x for x in known if x not in COMMANDS]
    folder = programs_folder() / "configs"
    if name.endswith(".py") and path.stem in known and not path.is_file():
        raise ValueError(
            f"no file {name}: that of the package is named {path.stem}{colon}{preset}"
        )
    short = re.fullmatch(r"\w*", name)
    if not short and path.resolve().parent != folder.resolve():
        return text
    found = name if short else path.stem
    # One's own may lie beside the package's.
    if found not in choices and (short or found in COMMANDS):
        reason = f"no config {found!r}{nearest_name(found, choices)}"
        if found in known:
            reason = f"the config {found!r} is of another command"
        raise ValueError(
            f"{reason}: choose from {', '.join(choices)}; a file of your own is named "
            "FILE.py:PRESET"
        )
    return f"{folder / found}.py{colon}{preset}" if short else text


def expand_home(argument: str) -> str:
    """Expands the `~` of `--workdir=~/runs`, which shells leave alone."""
    name, equals, value = argument.partition("=")
    if equals and name.startswith("-") and re.match(r"~(/|$)", value):
        value = os.path.expanduser(value)
    return name + equals + value


def describe(command: str) -> str:
    """Returns what a command does: its module's text, in words of the command."""
    path = programs_folder() / "launch" / f"{COMMANDS[command]}.py"
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    names = {module: command for command, module in COMMANDS.items()}

    def as_command(found: re.Match[str]) -> str:
        known = names.get(found["module"])
        return f"uronet {known}" if known else found[0]

    text = re.sub(r"(python -m )?launch\.(?P<module>\w+)", as_command, text)
    return re.sub(r"configs/(\w+)\.py", r"\1", text)


@contextlib.contextmanager
def printing() -> Iterator[None]:
    """Lets a program print to whatever its output is.

    Characters that the encoding of a terminal lacks, or names of files that are no
    text, are printed as escapes. Where the reader has gone, as `head` does, the program
    ends without a word and with the status of one that died of it, 141.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        try:
            yield
        finally:
            if sys.stdout:  # None where it was closed before the start.
                sys.stdout.flush()
    except BrokenPipeError:
        broken = unread_outputs()
        if not broken:  # It was another pipe.
            raise
        for output in broken:
            # Python flushes once more at its end, and must find somebody who takes it.
            os.dup2(os.open(os.devnull, os.O_WRONLY), output)
        sys.exit(141)


def unread_outputs() -> list[int]:
    """Returns the numbers of those of stdout and stderr that nobody reads any more."""
    found = []
    for stream in (sys.stdout, sys.stderr):
        try:
            number = stream.fileno()
        except (AttributeError, OSError):  # None, or no file.
            continue
        poll = select.poll()
        poll.register(number, 0)
        if any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0)):
            found.append(number)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs what `arguments` say, by default those of this process.

    Exit statuses are those of `launch.cli`: 2 for a wrong input, 130 after Ctrl-C.
    """
    with printing():
        _main(arguments)


def _main(arguments: Sequence[str] | None) -> None:
    try:
        programs_folder()
    except FileNotFoundError as error:
        _fail(str(error))
    given = sys.argv[1:] if arguments is None else list(arguments)
    name, flags = (given[0], given[1:]) if given else ("", [])
    if name in ("help", "--help", "-h"):
        print(_overview())
    elif name == "--version":
        print(f"uronet_jax {__version__}")
    elif not name:
        print(_overview(), file=sys.stderr)
        sys.exit(2)
    elif name in COMMANDS:
        _run(name, flags)
    else:
        hint = nearest_name(name, COMMANDS)
        _fail(f"unknown command {name!r}{hint}: `uronet --help` lists them")


def _run(name: str, flags: list[str]) -> None:
    sys.path.insert(0, str(programs_folder()))
    # What the flags' help calls the program, and says of it.
    sys.argv = [f"uronet {name}", *("--help" if x == "-h" else x for x in flags)]
    sys.modules["__main__"].__doc__ = f"{describe(name)}\n"
    try:
        runpy.run_module(f"launch.{COMMANDS[name]}", run_name="__main__")
    except KeyboardInterrupt:  # While modules were imported.
        sys.exit(130)


def _overview() -> str:
    width = max(map(len, COMMANDS)) + 2
    lines = [f"  {x:<{width}}{describe(x).splitlines()[0]}" for x in COMMANDS]
    return "\n".join(
        [
            f"uronet {__version__}: protects image classifiers from degraded pictures.",
            "",
            *lines,
            "",
            "uronet COMMAND --help says more and lists the flags.",
        ]
    )


def _fail(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)
