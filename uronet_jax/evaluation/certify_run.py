"""Certificates of a defence: from a config to rows and shares, written on the way.

A run that was stopped goes on behind the last row, with the same config and models.
"""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from uronet_jax.batches import check_listed, check_number, check_whole
from uronet_jax.checkpoints import locked_workdir
from uronet_jax.evaluation.certify import Smoothing, certify, summarize_certificates
from uronet_jax.evaluation.stored_rows import (
    check_same_models,
    read_unfinished,
    subject_digests,
)
from uronet_jax.evaluation.subject import Subject, check_subject, load_subject
from uronet_jax.records import provenance, write_json

# Value of the field `schema` of certification.json.
CERTIFICATION_SCHEMA = "uronet_jax.certification"
# Seconds between two writings of the file.
_WRITE_EVERY = 10.0


def check_certify_config(config: Mapping[str, Any]) -> Smoothing:
    """Checks every field that can be checked without files.

    Args:
        config: The fields of `configs/certify.py`.

    Returns:
        How the defence is smoothed.

    Raises:
        ValueError: If a field is missing or out of range.
    """
    check_subject(config, None)
    check_whole("samples_at_once", config["samples_at_once"], 1)
    if not isinstance(config["clip"], bool):
        raise ValueError(f"clip must be True or False: {config['clip']!r}")
    check_listed("radii", config["radii"])
    for radius in config["radii"]:
        check_number("each of radii", radius, 0.0)
    names = ("sigma", "num_selection", "num_samples", "alpha")
    return Smoothing(**{name: config[name] for name in names})


def run_certification(
    config: dict[str, Any], workdir: str | os.PathLike, *, data_dir: str | None = None
) -> dict[str, Any]:
    """Certifies what `config` names and writes certification.json to `workdir`.

    Args:
        config: The fields of `configs/certify.py`.
        workdir: Folder to write to; a run that stopped there goes on.
        data_dir: Folder of the prepared data sets.

    Returns:
        What certification.json holds: `rows` of `certify`, `summary` of
        `summarize_certificates`, `finished`, models with their digests, and the
        provenance.

    Raises:
        ValueError: If a field is wrong, models and data do not belong together, or
            `workdir` holds a run with another config or of other weights.
        OSError: If data or models are missing or `workdir` cannot be used.
    """
    smoothing = check_certify_config(config)
    workdir = Path(workdir)
    path = workdir / "certification.json"
    with locked_workdir(workdir):
        content = read_unfinished(path, config, command="launch.certify")
        finished = content.get("finished", False)
        try:
            subject = load_subject(config, data_dir)
        except FileNotFoundError:
            if not finished:
                raise
        else:
            digests = subject_digests(subject)
            if content:
                check_same_models(path, content, digests, config)
        if not finished:
            content = _certify(config, subject, smoothing, digests, path, content)
    return content


def _certify(
    config: dict[str, Any],
    subject: Subject,
    smoothing: Smoothing,
    digests: Mapping[str, str],
    path: Path,
    content: Mapping[str, Any],
) -> dict[str, Any]:
    """Makes the rows that are missing, and writes them now and then."""
    start, before = time.perf_counter(), content.get("seconds", 0.0)
    written = start

    def write(rows, finished):
        result = {
            "schema": CERTIFICATION_SCHEMA,
            "finished": finished,
            "summary": summarize_certificates(rows, config["radii"]),
            "rows": rows,
            "models": subject.describe(),
            "digests": digests,
            **provenance(config, seconds=before + time.perf_counter() - start),
        }
        if jax.process_index() == 0:
            write_json(path, result)
        return result

    def keep(rows):
        nonlocal written
        if time.perf_counter() - written > _WRITE_EVERY:
            write(rows, finished=False)
            written = time.perf_counter()

    rows = certify(
        subject.defense,
        subject.variables,
        subject.test_source,
        smoothing,
        mesh=subject.mesh,
        batch_size=subject.batch_size,
        samples_at_once=config["samples_at_once"],
        clip=config["clip"],
        seed=config["seed"],
        rows=tuple(content.get("rows", ())),
        on_rows=keep,
        progress=jax.process_index() == 0,
    )
    return write(rows, finished=True)
