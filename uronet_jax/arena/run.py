"""Runs an arena: judges every defence cell by cell, and makes the board of them."""

import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from uronet_jax import sharding
from uronet_jax.arena.bench import Bench
from uronet_jax.arena.cards import (
    DefenceCard,
    check_names,
    make_card,
    read_defence_card,
)
from uronet_jax.arena.columns import ARENA_COLUMNS, Trial
from uronet_jax.arena.contenders import Contender, load_contender
from uronet_jax.arena.fairness import flags_of
from uronet_jax.arena.store import (
    ARENA_SCHEMA,
    DONE,
    FAILED,
    CellStore,
    check_free,
    read_defences,
    write_defence,
)
from uronet_jax.attacks.loop import check_budget
from uronet_jax.batches import check_number, check_whole
from uronet_jax.checkpoints import locked_workdir
from uronet_jax.corruptions import find_corruption, list_corruptions
from uronet_jax.progress import Progress, StoppedError
from uronet_jax.records import provenance, write_json
from uronet_jax.specs import known_name


def check_arena(config: Mapping[str, Any]) -> None:
    """Checks every field that can be checked without files.

    Args:
        config: The fields of `configs/arena.py`.

    Raises:
        ValueError: If a field names something unknown or is out of range, or several
            processes are connected.
    """
    if jax.process_count() > 1:
        raise ValueError(
            f"an arena is run by one process, with all its devices, and "
            f"{jax.process_count()} are connected: start one, without --num_processes"
        )
    sharding.check_batch_size(config["batch_size"], sharding.data_mesh())
    check_whole("seed", config["seed"], 0, 2**31)
    check_whole("num_seeds", config["num_seeds"], 1)
    check_whole("data.num_examples", config["data"]["num_examples"], 0)
    check_number("false_alarms", config["false_alarms"], 0.0, below=1.0)
    if config["data"]["validation_split"].startswith("test"):
        raise ValueError(
            f"data.validation_split is {config['data']['validation_split']!r}: "
            "thresholds must not be set on test images; name a part of train"
        )
    for name in config["columns"]:
        known_name("column", name, ARENA_COLUMNS)
    for field in ("corruptions", "unseen"):
        section = config[field]
        for noise in section["names"] or list_corruptions(section["suite"]):
            for severity in section["severities"]:
                find_corruption(section["suite"], noise, severity)
    attack = config["attack"]
    check_budget(attack["epsilon"], "linf")
    for name in ("steps", "queries", "targets", "samples"):
        check_whole(f"attack.{name}", attack[name], 1)
    check_whole("attack.num_images", attack["num_images"], 0)
    sharding.check_batch_size(attack["batch_size"], sharding.data_mesh())
    check_whole("eps_star.steps", config["eps_star"]["steps"], 1, 1000)
    check_whole("fairness.other_seed", config["fairness"]["other_seed"], 1)


def run_arena(
    config: Mapping[str, Any],
    workdir: str | os.PathLike,
    *,
    data_dir: str | None = None,
    cards: Sequence[str | os.PathLike] = (),
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Judges defences and writes `workdir/arena.json`, the board.

    Cells that are there are not measured again. A defence that fails has a status and
    an error in its row; the others go on.

    Args:
        config: The fields of `configs/arena.py`.
        workdir: Folder to write to; an arena that stopped there goes on.
        data_dir: Folder of the prepared data sets.
        cards: Files of cards that are judged in place of `config["defences"]`; the
            board has these and all whose results lie there already.
        progress: Shows how far it is, and tells to stop.

    Returns:
        What arena.json holds: `rows`, one for each defence, with its `card`, `status`
        (`done` or `failed`), `errors`, `flags`, and `cells`, column -> values; what the
        rows are of (`arena`); `refused` results; `notes`; and where it was made.

    Raises:
        ValueError: If a field or a card is wrong, or two defences have one name.
        FileNotFoundError: If a card, the classifier or the data set is missing.
        StoppedError: If it was told to stop; finished cells are on disk.
    """
    check_arena(config)
    progress = progress or Progress()
    judged = [read_defence_card(path) for path in cards]
    if not judged:
        judged = [
            make_card(fields, f"defence {i + 1} of the config")
            for i, fields in enumerate(config["defences"])
        ]
    check_names(judged)
    if not cards and config["only"]:
        known = {card.name: card for card in judged}
        judged = [known[known_name("defence", x, known)] for x in config["only"]]
    workdir = Path(workdir)
    with locked_workdir(workdir):
        for card in judged:
            check_free(workdir, card)
        bench = Bench(config, workdir, data_dir)
        arena = {
            "images": bench.digest,
            "classifier": bench.classifier.identity,
            "settings": _digest({x: config[x] for x in _settings(config["columns"])}),
        }
        store = CellStore(workdir)
        trial = Trial(config, progress)
        total = len(judged) * len(config["columns"])
        with progress.bar(total, "arena", "cell") as bar:
            for card in judged:
                row = _judge(card, bench, trial, store, bar)
                write_defence(workdir, card.slug, {**row, "arena": arena})
        rows, refused = read_defences(workdir, arena)
        order = {card.name: i for i, card in enumerate(judged)}
        rows.sort(key=lambda row: order.get(row["card"]["name"], len(order)))
        content = {
            "schema": ARENA_SCHEMA,
            "arena": arena,
            "num_images": len(bench.labels),
            "rows": rows,
            "refused": refused,
            "notes": store.notes,
            # That of all cells on the board, whenever they were measured.
            **provenance(dict(config), seconds=sum(row["seconds"] for row in rows)),
        }
        write_json(workdir / "arena.json", content)
    return content


def _settings(columns: Sequence[str]) -> list[str]:
    """Returns the fields of the config that values depend on."""
    own = [field for name in columns for field in ARENA_COLUMNS[name].fields]
    return sorted({"data", "seed", "columns", *own})


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _judge(
    card: DefenceCard, bench: Bench, trial: Trial, store: CellStore, bar: Any
) -> dict[str, Any]:
    """Returns the row of a defence; what it raises is in it."""
    row: dict[str, Any] = {"card": card.describe(), "status": DONE, "errors": {}}
    cells, seconds, columns = {}, 0.0, trial.config["columns"]
    try:
        contender = load_contender(
            card, bench.classifier, bench.images, bench.threshold
        )
    except StoppedError:
        raise
    except Exception as error:  # Of whatever it is made of.
        reason = store.explain(card, "load", error)
        row |= {"status": FAILED, "errors": {"load": reason}}
        bar.update(len(columns))
        return {**row, "cells": {}, "flags": [], "seconds": 0.0}
    for name in columns:
        trial.progress.stopping()
        cell = _cell(name, contender, bench, trial, store)
        seconds += cell["seconds"]
        if cell["status"] == DONE:
            cells[name] = cell["values"]
        else:
            row["status"] = FAILED
            row["errors"][name] = cell["error"]
        bar.update()
    return {
        **row,
        "cells": cells,
        "flags": flags_of(cells),
        "seconds": round(seconds, 1),
    }


def _cell(
    name: str, contender: Contender, bench: Bench, trial: Trial, store: CellStore
) -> dict[str, Any]:
    """Returns a cell, from disk or measured."""
    column = ARENA_COLUMNS[name]
    fields = ("data", "seed", *column.fields)
    made_of = {
        "images": bench.digest,
        "classifier": bench.classifier.identity,
        "defence": contender.identity,
        "settings": _digest({field: trial.config[field] for field in fields}),
    }
    if column.version:  # Older cells, of version 0, do not name it.
        made_of["version"] = column.version
    if column.timed:
        made_of["device"] = jax.devices()[0].device_kind
    cell = store.read(contender.card, name, made_of)
    if cell is not None:
        return cell
    start = time.perf_counter()
    cell = {"made_of": made_of, "status": DONE, "values": {}}
    try:
        cell["values"] = column.measure(bench, contender, trial)
    except StoppedError:
        raise
    except Exception as error:  # Of whatever it is made of.
        reason = store.explain(contender.card, name, error)
        cell |= {"status": FAILED, "error": reason}
    cell["seconds"] = round(time.perf_counter() - start, 2)
    store.write(contender.card, name, cell)
    return cell
