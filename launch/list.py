"""Lists corruptions, attacks, classifiers, pretrained weights and more by name.

  python -m launch.list
  python -m launch.list attacks transformations

These are the names that flags, configs and Python take.
"""

import importlib
import inspect
import re
from collections.abc import Callable, Mapping
from functools import partial

from configs.common import PRESETS
from launch import cli
from uronet_jax.attacks import ATTACKS
from uronet_jax.command import list_configs
from uronet_jax.corruptions import CORRUPTIONS, SUITES
from uronet_jax.models import CLASSIFIERS
from uronet_jax.pretrained import list_pretrained
from uronet_jax.specs import known_name
from uronet_jax.transformations import TRANSFORMATIONS, Transformation


def _first_line(thing: object) -> str:
    return (inspect.getdoc(thing) or "").splitlines()[0]


def _transformation(entry: Transformation) -> str:
    usual = [
        f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in entry.parameters.items()
    ]
    return f"{entry.text} ({','.join(usual)})"


def _classifier(build: Callable) -> str:
    if not isinstance(build, partial):
        return _first_line(build)
    # Its docstring names what is given here in backticks, or not at all.
    bound = inspect.signature(build.func).bind_partial(*build.args, **build.keywords)
    given = {f"`{name}`": str(value) for name, value in bound.arguments.items()}
    parts = re.split(r"(`\w+`)", _first_line(build.func))
    rest = [f"{x.strip('`')}={y}" for x, y in given.items() if x not in parts]
    text = "".join(given.get(part, part) for part in parts)
    return f"{text} ({', '.join(rest)})" if rest else text


def _config(module: object) -> str:
    presets = getattr(module, "PRESETS", PRESETS)
    return f"{_first_line(module)} Presets: {', '.join(presets)}."


# What can be listed -> its names, each with a line.
KINDS: dict[str, Callable[[], Mapping[str, str]]] = {
    "corruptions": lambda: {
        name: entry.text.splitlines()[0] for name, entry in CORRUPTIONS.items()
    },
    "suites": lambda: {name: ", ".join(suite) for name, suite in SUITES.items()},
    "attacks": lambda: {name: entry.about for name, entry in ATTACKS.items()},
    "transformations": lambda: {
        name: _transformation(entry) for name, entry in TRANSFORMATIONS.items()
    },
    "classifiers": lambda: {x: _classifier(y) for x, y in CLASSIFIERS.items()},
    "pretrained": list_pretrained,
    "configs": lambda: {
        name: _config(importlib.import_module(f"configs.{name}"))
        for name in list_configs()
    },
}


def main(argv: list[str]) -> None:
    """Lists what the arguments name, by default everything."""
    kinds = argv[1:] or list(KINDS)
    for kind in kinds:
        known_name("kind", kind, KINDS)
    sections = []
    for kind in kinds:
        entries = KINDS[kind]()
        width = max(map(len, entries), default=0) + 2
        lines = [f"  {name:<{width}}{text}" for name, text in entries.items()]
        sections.append("\n".join([f"{kind} ({len(entries)})", *lines]))
    print("\n\n".join(sections))


if __name__ == "__main__":
    cli.run(main, takes_arguments=True)
