"""Weights that come with the package: entries of a folder, by name.

An entry is three files. `NAME.safetensors` holds the weights of a purifier and of the
detector behind it (`purifier/params/...`), in few bits, see `rounding`; `NAME.json`
what rebuilds weights and modules, and the checksum; `NAME.md` the card. Nothing is
pickled.

`loading.load_pretrained` makes models of an entry, `packing.pack_pretrained` an entry
of two runs.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from safetensors.numpy import load, save

from uronet_jax.records import write_file, write_json
from uronet_jax.rounding import BITS, RoundedWeights, restore_weights, round_weights
from uronet_jax.specs import nearest_name

PRETRAINED_FOLDER = Path(__file__).parent / "pretrained_weights"
# What commands take where nothing is named.
USUAL_PRETRAINED = "universal-cifar10"
# Of all weights in the folder together: they are in every wheel.
MAX_PRETRAINED_BYTES = 6_000_000

# Its number changes with the fields or with how weights are packed.
_SCHEMA = "uronet_jax.pretrained/2"
_FIELDS = {"about", "bits", "configs", "packed", "rounding", "sha256"}
# With a hyphen, which no transformation has.
_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)+")
_COLLECTIONS = ("params", "batch_stats")
_ANEW = "install uronet_jax again"


class PretrainedEntry(NamedTuple):
    """What the files of an entry hold.

    Attributes:
        about: One line.
        configs: `purifier` and `detector` -> config of the run, as far as it says what
            the model is and how it learned.
        variables: `purifier` and `detector` -> `{"params", "batch_stats"}`, float32.
        rounding: How far rounding the weights moved the outputs, see `packing`.
        card: Markdown.
        bits: Of the weights in the file, see `rounding.BITS`.
    """

    about: str
    configs: dict[str, dict[str, Any]]
    variables: dict[str, dict[str, Any]]
    rounding: dict[str, float]
    card: str
    bits: Sequence[Sequence[int]] = BITS


def list_pretrained(folder: str | os.PathLike | None = None) -> dict[str, str]:
    """Returns the names of the weights that come with the package, each with a line.

    `folder` is another place of entries.
    """
    paths = sorted(Path(folder or PRETRAINED_FOLDER).glob("*.json"))
    return {path.stem: _read_json(path)["about"] for path in paths}


def read_pretrained(
    name: str, folder: str | os.PathLike | None = None
) -> PretrainedEntry:
    """Reads an entry; of the package, unless there is a `folder`.

    Raises:
        ValueError: If the name is unknown, or a file is damaged.
        FileNotFoundError: If a file of the entry is missing.
    """
    known = list_pretrained(folder)
    if name not in known:
        listed = f"there are {', '.join(known)}" if known else "there are none"
        raise ValueError(
            f"no pretrained weights {name!r}{nearest_name(name, known)}: {listed}"
        )
    path = Path(folder or PRETRAINED_FOLDER) / name
    content = _read_json(path.with_suffix(".json"))
    weights = path.with_suffix(".safetensors")
    for file in (weights, path.with_suffix(".md")):
        if not file.is_file():
            raise FileNotFoundError(f"{file} is missing: {_ANEW}")
    data = weights.read_bytes()
    found, expected = hashlib.sha256(data).hexdigest(), content["sha256"]
    if found != expected:
        raise ValueError(
            f"{weights} is damaged: its SHA-256 is {found}, not {expected}: {_ANEW}"
        )
    try:
        tree = restore_weights(RoundedWeights(load(data), content["packed"]))
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"{weights} is damaged or not of its JSON ({error}): {_ANEW}"
        ) from error
    return PretrainedEntry(
        content["about"],
        content["configs"],
        {role: dict.fromkeys(_COLLECTIONS, {}) | tree[role] for role in tree},
        content["rounding"],
        path.with_suffix(".md").read_text(encoding="utf-8"),
        content["bits"],
    )


def write_pretrained(
    name: str, entry: PretrainedEntry, folder: str | os.PathLike | None = None
) -> None:
    """Writes an entry; it is listed once all its files are there.

    Args:
        name: Lower-case words and numbers, joined by hyphens, at least two.
        entry: Its variables are rounded to its bits.
        folder: Where entries lie, by default that of the package. It may be new.

    Raises:
        ValueError: If the name has another form or is taken, a weight cannot be
            rounded, or all entries together would be larger than
            `MAX_PRETRAINED_BYTES`.
    """
    if not is_pretrained_name(name):
        raise ValueError(
            f"name {name!r}: use lower-case words joined by hyphens, such as "
            "universal-cifar10"
        )
    folder = Path(folder or PRETRAINED_FOLDER)
    path = folder / name
    if path.with_suffix(".json").exists():
        raise ValueError(f"{folder} holds {name} already: delete it, or name another")
    rounded = round_weights(entry.variables, entry.bits)
    data = save(rounded.arrays)
    others = [x for x in folder.glob("*.safetensors") if x.stem != name]
    total = len(data) + sum(x.stat().st_size for x in others)
    if total > MAX_PRETRAINED_BYTES:
        raise ValueError(
            f"{name} takes {len(data) / 1e6:.1f} MB, and all in {folder} would take "
            f"{total / 1e6:.1f} of {MAX_PRETRAINED_BYTES / 1e6:.1f} MB: pack a smaller "
            "model"
        )
    content = {
        "schema": _SCHEMA,
        "about": entry.about,
        "configs": entry.configs,
        "sha256": hashlib.sha256(data).hexdigest(),
        "rounding": entry.rounding,
        "bits": [list(pair) for pair in entry.bits],
        "packed": rounded.packed,
    }
    write_file(path.with_suffix(".safetensors"), data)
    write_file(path.with_suffix(".md"), entry.card.encode())
    write_json(path.with_suffix(".json"), content)


def is_pretrained_name(text: str) -> bool:
    """Returns whether a text has the form of an entry's name."""
    return _NAME.fullmatch(text) is not None


def _read_json(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["schema"] == _SCHEMA and content.keys() >= _FIELDS:
            return content
    except (ValueError, TypeError, KeyError):  # ValueError: no JSON, or no UTF-8.
        pass
    raise ValueError(f"{path} is damaged or of another version: {_ANEW}")
