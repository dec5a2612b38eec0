"""Texts that name something and its parameters, such as `jpeg:quality=75`."""

import difflib
from collections.abc import Collection, Iterable


def nearest_name(name: str, known: Iterable[str]) -> str:
    """Returns ` (nearest: ...)` with what of `known` is like `name`, or nothing."""
    folded = {x.lower(): x for x in known}
    near = difflib.get_close_matches(str(name).lower(), folded)
    return f" (nearest: {', '.join(repr(folded[x]) for x in near)})" if near else ""


def known_name(what: str, name: str, known: Iterable[str]) -> str:
    """Returns `name` if it is one of `known`; else `ValueError` with the nearest."""
    if name not in (names := list(known)):
        raise ValueError(
            f"unknown {what} {name!r}{nearest_name(name, names)}: choose from "
            f"{', '.join(names)}"
        )
    return name


def parse_parameters(
    text: str, what: str, example: str, texts: Collection[str] = ()
) -> tuple[str, dict[str, float | int | str]]:
    """Reads `name` or `name:parameter=number,...`; numbers without a point are whole.

    Args:
        text: What is read.
        what: What it names, for the error.
        example: A right one, for the error.
        texts: Parameters that are no numbers.

    Raises:
        ValueError: If the text has another form.
    """
    name, _, listed = text.partition(":")
    parameters: dict[str, float | int | str] = {}
    for item in filter(None, listed.split(",")):
        key, equals, value = item.partition("=")
        key, value = key.strip(), value.strip()
        if key in texts and key not in parameters and value:
            parameters[key] = value
            continue
        try:
            number = float(value)
        except ValueError:
            equals = ""
        if not equals or key in parameters:
            raise ValueError(
                f"{what} {text!r}: {item!r} is no parameter=number, as in "
                f"{example}, each once"
            )
        parameters[key] = int(value) if value.isdecimal() else number
    return name.strip(), parameters
