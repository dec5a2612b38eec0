"""An evaluation under attack: from a config to a table, written row by row.

A run that was stopped goes on behind the last row, with the same config and models.
"""

import dataclasses
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from uronet_jax.batches import check_number, check_whole
from uronet_jax.checkpoints import locked_workdir
from uronet_jax.evaluation import misleading
from uronet_jax.evaluation.attack_judge import AttackJudge
from uronet_jax.evaluation.robustness import attack_table
from uronet_jax.evaluation.stored_rows import (
    check_same_models,
    read_unfinished,
    subject_digests,
)
from uronet_jax.evaluation.subject import check_subject, load_subject
from uronet_jax.evaluation.threat_models import (
    THREAT_MODELS,
    AttackRun,
    ThreatModel,
    make_plan,
    make_run,
)
from uronet_jax.records import naming, provenance, write_json
from uronet_jax.specs import known_name

# Value of the field `schema` of attack.json.
ATTACK_SCHEMA = "uronet_jax.attack"


def check_attack_config(
    config: Mapping[str, Any],
) -> tuple[list[AttackRun], list[ThreatModel]]:
    """Checks every field that can be checked without files.

    Args:
        config: The fields of `configs/attack.py`.

    Returns:
        The attacks, and the threat models.

    Raises:
        ValueError: If a field names something unknown, is missing or out of range.
    """
    check_subject(config, "false_alarms")
    for field in ("attacks", "threats", "steps"):
        entries = config[field]
        listed = isinstance(entries, list | tuple)
        if not listed or not entries or len(set(entries)) < len(entries):
            raise ValueError(
                f"{field} must be a tuple of one or more different entries: {entries!r}"
            )
    threats = [
        THREAT_MODELS[known_name("threat model", name, THREAT_MODELS)]
        for name in config["threats"]
    ]
    if not config["detector"]:
        asks = [threat.name for threat in threats if threat.evades_detector]
        asks += ["gated"] if config["gated"] else []
        if asks:
            raise ValueError(
                f"{asks[0]} needs a detector: name one, or leave it out (fields "
                f"threats, now {','.join(config['threats'])}, and gated)"
            )
    check_whole("num_pictures", config["num_pictures"], 0)
    for norm, epsilon in config["epsilon"].items():
        check_number(f"epsilon.{norm}", epsilon, above=0.0)
    for field, low in (("steps", 1), ("restarts", 0), ("queries", 1)):
        for value in config[field] if field == "steps" else (config[field],):
            check_whole(field, value, low)
    runs = make_runs(config)
    make_plan(runs, threats)
    return runs, threats


def make_runs(config: Mapping[str, Any]) -> list[AttackRun]:
    """Returns the attacks with their parameters, one for each number of steps.

    Raises:
        ValueError: If an attack is unknown.
    """
    runs = []
    for name in config["attacks"]:
        usual = make_run(name, epsilon=1.0)
        if usual.attack.minimal:
            runs.append(usual)
            continue
        changes: dict[str, Any] = {"epsilon": config["epsilon"][usual.attack.norm]}
        if usual.takes("restarts") and config["restarts"]:
            changes["restarts"] = config["restarts"]
        counts: Sequence[int] = ()
        if usual.takes("steps"):
            blind = usual.attack.gradient_free
            counts = (config["queries"],) if blind else config["steps"]
        efforts = [{"steps": count} for count in counts] or [{}]
        runs += [make_run(name, **changes, **effort) for effort in efforts]
    return runs


def run_attacks(
    config: dict[str, Any], workdir: str | os.PathLike, *, data_dir: str | None = None
) -> dict[str, Any]:
    """Attacks what `config` names and writes attack.json to `workdir`.

    Args:
        config: The fields of `configs/attack.py`.
        workdir: Folder to write to; a run that stopped there goes on.
        data_dir: Folder of the prepared data sets.

    Returns:
        What attack.json holds.

    Raises:
        ValueError: If a field is wrong, models and data do not belong together, or
            `workdir` holds a run with another config or of other weights.
        OSError: If data or models are missing or `workdir` cannot be used.
    """
    runs, threats = check_attack_config(config)
    workdir = Path(workdir)
    with locked_workdir(workdir):
        content = read_unfinished(
            workdir / "attack.json", config, command="launch.attack"
        )
        finished = content.get("finished", False)
        try:
            subject = load_subject(config, data_dir)
        except FileNotFoundError:
            if not finished:
                raise
        else:
            _check_classes(runs, subject)
            digests = subject_digests(subject)
            if content:
                check_same_models(workdir / "attack.json", content, digests, config)
        if not finished:
            content = _attack(config, subject, digests, runs, threats, workdir, content)
    return content


def _check_classes(runs, subject):
    """Raises ValueError if a loss needs more classes than there are."""
    classes = subject.models["classifier"].num_classes
    for run in runs:
        least = run.attack.least_classes
        if classes < least:
            raise ValueError(
                f"{run.name} needs at least {least} classes, the classifier has "
                f"{classes}: leave it out of attacks"
            )


def _attack(config, subject, digests, runs, threats, workdir, content):
    """Makes the rows that are missing, and writes after each."""
    start, before = time.perf_counter(), content.get("seconds", 0.0)
    threshold = subject.threshold(config["false_alarms"])
    gate = threshold if config["gated"] else None
    judge = AttackJudge(
        dataclasses.replace(subject.defense, gate=gate),
        subject.variables,
        subject.judge(subject.test_source).batches(),
        mesh=subject.mesh,
        threshold=0.5 if threshold is None else threshold,
        seed=config["seed"],
    )
    rows = list(content.get("rows", []))

    def write(finished):
        result = {
            "schema": ATTACK_SCHEMA,
            "finished": finished,
            "threshold": threshold,
            "rows": rows,
            "warnings": misleading.find_warnings(rows, complete=finished),
            "models": subject.describe(),
            "digests": digests,
            **provenance(config, seconds=before + time.perf_counter() - start),
        }
        if jax.process_index() == 0:
            write_json(workdir / "attack.json", result)
        return result

    def keep(row, examples):
        # The pictures first: a row that is written is not made again.
        if examples is not None and jax.process_index() == 0:
            path = examples_path(workdir, len(rows))
            path.parent.mkdir(exist_ok=True)
            fields = {k: v for k, v in examples._asdict().items() if v is not None}
            with naming(path):
                np.savez_compressed(path, **fields)
        rows.append(row)
        write(finished=False)

    attack_table(
        judge,
        runs,
        threats,
        sanity=config["sanity"],
        rows=tuple(rows),
        on_row=keep,
        num_examples=config["num_pictures"],
        progress=jax.process_index() == 0,
    )
    return write(finished=True)


def examples_path(workdir: Path, number: int) -> Path:
    """Returns where the pictures of a row lie."""
    return workdir / "examples" / f"{number:03d}.npz"
