"""Cards: what a defence is, who made it and how it is loaded, as JSON."""

import dataclasses
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from uronet_jax.batches import check_number, check_whole
from uronet_jax.specs import nearest_name

# How a defence is loaded: field of `load` -> what it names.
LOADS = {
    "purifier": "what `load_purifier` reads",
    "detector": "what `load_detector` reads, behind the purifier",
    "gated": "whether only images that the detector flags are purified",
    "classifier": "what `load_classifier` reads, in place of the arena's own",
    "purify": "module:function that returns `(key, images) -> images` of JAX",
    "function": "module:function that returns `images -> logits` or labels, of JAX",
    "black_box": "the same of NumPy or anything else; no attack sees its gradient",
}
# A defence is made by one of these, or by a purifier and a classifier together.
_WHOLE = ("function", "black_box")


@dataclasses.dataclass(frozen=True)
class DefenceCard:
    """What the arena knows of a defence before it judges it.

    Attributes:
        name: What its row is called; another one for each defence.
        authors: Who made it.
        kind: What it is, such as `input transformation`.
        trained_on: What it learned on; `nothing` for what learns nothing.
        training_minutes: On the device that the authors say; None if unknown.
        parameters: How many numbers were learned; None has them counted where they are
            known.
        random: Whether two answers to an image may differ.
        link: Where more is told.
        load: How to load it, fields of `LOADS`; empty for the classifier alone.
        folder: Where its modules of Python lie; that of the card's file.
    """

    name: str
    authors: str
    kind: str
    trained_on: str
    training_minutes: float | None
    parameters: int | None
    random: bool
    link: str
    load: Mapping[str, Any]
    folder: str = ""

    @property
    def slug(self) -> str:
        """The name as that of a file."""
        return re.sub(r"\W+", "_", self.name.lower()).strip("_")

    def describe(self) -> dict[str, Any]:
        """Returns the fields of the JSON."""
        return {name: getattr(self, name) for name in CARD_FIELDS}


CARD_FIELDS = tuple(
    f.name for f in dataclasses.fields(DefenceCard) if f.name != "folder"
)
_TEXTS = ("name", "authors", "kind", "trained_on", "link")


def make_card(fields: Any, where: str = "the card", folder: str = "") -> DefenceCard:
    """Returns a card of its fields.

    Args:
        fields: Mapping with every field of `CARD_FIELDS` and no other.
        where: What errors call it.
        folder: Where its modules of Python lie.

    Raises:
        ValueError: If a field is missing, unknown or of another kind.
    """
    if not isinstance(fields, Mapping):
        raise ValueError(f"{where} must be a mapping of {', '.join(CARD_FIELDS)}")
    lacking = [name for name in CARD_FIELDS if name not in fields]
    unknown = [name for name in fields if name not in CARD_FIELDS]
    if lacking or unknown:
        hints = [f"{name!r}{nearest_name(name, CARD_FIELDS)}" for name in unknown]
        parts = [f"lacks {', '.join(lacking)}"] if lacking else []
        parts += [f"has unknown fields {', '.join(hints)}"] if unknown else []
        raise ValueError(
            f"{where} {' and '.join(parts)}: a card has {', '.join(CARD_FIELDS)}"
        )
    for name in _TEXTS:
        if not isinstance(fields[name], str):
            raise ValueError(f"{name} of {where} must be a text: {fields[name]!r}")
    if not re.search(r"[^\W_]", fields["name"]):
        raise ValueError(f"name of {where} must have a letter: {fields['name']!r}")
    minutes, count = fields["training_minutes"], fields["parameters"]
    if minutes is not None:
        check_number(f"training_minutes of {where}", minutes, 0.0)
    if count is not None:
        check_whole(f"parameters of {where}", count, 0)
    if not isinstance(fields["random"], bool):
        raise ValueError(
            f"random of {where} must be true or false: {fields['random']!r}"
        )
    _check_load(fields["load"], where)
    return DefenceCard(**{name: fields[name] for name in CARD_FIELDS}, folder=folder)


def _check_load(load: Any, where: str) -> None:
    if not isinstance(load, Mapping):
        raise ValueError(f"load of {where} must be a mapping of {', '.join(LOADS)}")
    for name, value in load.items():
        if name not in LOADS:
            raise ValueError(
                f"load of {where} has an unknown field {name!r}"
                f"{nearest_name(name, LOADS)}: choose from {', '.join(LOADS)}"
            )
        kind = bool if name == "gated" else str
        if not isinstance(value, kind) or value == "":
            raise ValueError(
                f"load.{name} of {where}, {LOADS[name]}, must be a "
                f"{'true or false' if kind is bool else 'text'}: {value!r}"
            )
        if name in (*_WHOLE, "purify") and not re.fullmatch(r"[\w.]+:\w+", value):
            raise ValueError(
                f"load.{name} of {where} must be module:function: {value!r}"
            )
    whole = [name for name in _WHOLE if name in load]
    if whole and len(load) > 1:
        raise ValueError(
            f"load of {where}: {whole[0]} is a whole defence, leave out "
            f"{', '.join(name for name in load if name != whole[0])}"
        )
    if {"purifier", "purify"} <= load.keys():
        raise ValueError(f"load of {where} has a purifier and purify: give one")
    if "detector" in load and "purifier" not in load:
        raise ValueError(f"load of {where}: a detector stands behind a purifier")
    if load.get("gated") and "detector" not in load:
        raise ValueError(f"load of {where}: a gate asks a detector, name one")


def read_defence_card(path: str | os.PathLike) -> DefenceCard:
    """Reads a card from a file.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is no JSON, or see `make_card`.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no card at {path}: name a JSON file")
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    return make_card(fields, str(path), str(path.resolve().parent))


def check_names(cards: Sequence[DefenceCard]) -> None:
    """Raises ValueError if two cards have one name, or none is there."""
    if not cards:
        raise ValueError("the arena needs one defence or more")
    known: dict[str, str] = {}
    for card in cards:
        if card.slug in known:
            raise ValueError(
                f"two defences are called {card.name!r}"
                + (
                    f" and {known[card.slug]!r}"
                    if known[card.slug] != card.name
                    else ""
                )
                + ": give each another name"
            )
        known[card.slug] = card.name
