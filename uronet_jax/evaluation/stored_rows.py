"""Results that are written row by row: whether a run may go on with those there are."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from uronet_jax.attacks.digests import digest
from uronet_jax.evaluation.subject import Subject
from uronet_jax.training.run import check_same_config


def read_unfinished(
    path: Path, config: Mapping[str, Any], *, command: str
) -> dict[str, Any]:
    """Returns what an earlier run of the same config has written; {} if there is none.

    Args:
        path: The JSON file.
        config: That of this run.
        command: Whose result it is, such as `launch.attack`.

    Raises:
        ValueError: If it is of another config, or no such result.
    """
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        stored = content["config"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is not a result of {command}: move it away, or choose another "
            "--workdir"
        ) from error
    check_same_config(stored, config)
    return content


def subject_digests(subject: Subject) -> dict[str, str]:
    """Returns the digests of the models, by role, and of the images."""
    digests = {role: digest(model.variables) for role, model in subject.models.items()}
    return digests | {"images": digest(subject.test_source.arrays())}


def check_same_models(
    path: Path,
    content: Mapping[str, Any],
    digests: Mapping[str, str],
    config: Mapping[str, Any],
) -> None:
    """Raises ValueError if stored rows are of other weights or other images.

    Args:
        path: Of the file, for the message.
        content: What it holds.
        digests: Those of this run.
        config: Which names the models.
    """
    stored = content.get("digests")
    if stored is None:  # A file of an earlier version.
        if content.get("finished"):
            return
        raise ValueError(
            f"{path} does not say of which weights its rows are, so no rows can be "
            "added: move it away, or choose another --workdir"
        )
    places = {"images": config["data"]["name"]}
    changed = [
        f"the {name} in {places.get(name) or config[name]} ({stored.get(name)} there, "
        f"{now} now)"
        for name, now in digests.items()
        # An earlier version did not store that of the images.
        if stored.get(name, now if name == "images" else None) != now
    ]
    if changed:
        raise ValueError(
            f"{path} holds rows of others than {', '.join(changed)}: choose another "
            "--workdir, move the file away, or put the old ones back"
        )
