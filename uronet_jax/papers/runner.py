"""Computes a paper's experiments: trains what is missing, measures, writes rows.

Every finished model and every finished part of a result is on disk at once, so that a
run goes on where it was stopped.
"""

import itertools
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from uronet_jax.checkpoints import locked_workdir
from uronet_jax.papers.all_models import open_store
from uronet_jax.papers.experiments import (
    EXPERIMENTS,
    Lack,
    LackError,
    check_needs,
)
from uronet_jax.papers.kinds import ModelKey
from uronet_jax.papers.laboratory import Laboratory
from uronet_jax.papers.pages.all_papers import PAGE_LAYOUTS
from uronet_jax.papers.parts import Part
from uronet_jax.papers.store import Store
from uronet_jax.records import provenance, write_json
from uronet_jax.reports import figures
from uronet_jax.reports.results import REPRODUCTION, REPRODUCTION_VERSION
from uronet_jax.specs import nearest_name
from uronet_jax.training.run import check_same_config, flatten_config

# Experiments whose result is also a picture.
_PICTURES = {name for name, layout in PAGE_LAYOUTS.items() if layout.drawn}


def choose_experiments(names: str) -> list[str]:
    """Returns the experiments that a comma-separated list, or `all`, stands for."""
    chosen = [name.strip() for name in names.split(",") if name.strip()]
    if chosen == ["all"]:
        return list(EXPERIMENTS)
    unknown = [name for name in chosen if name not in EXPERIMENTS]
    if unknown or not chosen:
        known = "; ".join(f"{name}: {e.summary}" for name, e in EXPERIMENTS.items())
        raise ValueError(
            f"unknown experiment {', '.join(map(repr, unknown)) or repr(names)}"
            f"{nearest_name((unknown or [names])[0], EXPERIMENTS)}: choose all or some "
            f"of {known}"
        )
    return list(dict.fromkeys(chosen))


def run_experiments(
    config: Mapping[str, Any],
    experiments: Sequence[str],
    workdir: str | os.PathLike,
    *,
    preset: Mapping[str, Any],
    data_dir: str | None = None,
    force: bool = False,
    skip_missing: bool = False,
    stop: Callable[[], bool] = lambda: False,
    progress: bool = True,
) -> dict[str, str]:
    """Computes experiments, from where `workdir` stands.

    With `force` finished results are computed and written anew; finished models stay.
    With `skip_missing` experiments without data are left out; otherwise they are an
    error. `preset` is the config before anything in it was changed; `stop` is asked
    between dispatches.

    Returns:
        Experiment -> why it, or a part of it, was left out.

    Raises:
        ValueError: If the config is wrong, or not that of the results in `workdir`.
        OSError: If data or a classifier are missing, or `workdir` cannot be used.
        StoppedError: If it was asked to stop; run it again to go on.
    """
    if jax.process_count() > 1:
        raise ValueError(
            "launch.reproduce runs in one process: start it without others"
        )
    store = open_store(config, workdir, data_dir=data_dir, stop=stop, progress=progress)
    workdir = Path(workdir)
    begun = _read_results(workdir, config, experiments)
    left_out, missing = {}, {}
    for name in experiments:
        try:
            missing[name] = check_needs(store, name)
        except LackError as error:
            if not skip_missing:
                raise
            left_out[name] = str(error)
            continue
        if missing[name]:
            texts = (f"{what}: {why}" for what, why in missing[name].values())
            left_out[name] = f"a part, for want of {'; '.join(texts)}"
    if not missing:
        raise FileNotFoundError("; ".join(left_out.values()))
    if progress:
        for name, why in left_out.items():
            print(f"{name}, left out: {why}", flush=True)
    for name, lacking in missing.items():
        if name in begun:
            _check_weights(store, name, lacking, begun[name])
    for name, lacking in missing.items():
        store.check(_models(_parts(store, name, lacking)))
    with locked_workdir(workdir):
        # Another run may have gone on meanwhile.
        begun, laboratory = _read_results(workdir, config, missing), Laboratory(store)
        for name, lacking in missing.items():
            _compute(
                name, laboratory, lacking, begun.get(name, {}), preset, force=force
            )
            if name in _PICTURES and not _is_drawn(name, workdir):
                draw_figure(name, workdir)
            if progress:
                print(f"{name}: {workdir / name}.json", flush=True)
    return left_out


def _read_results(
    workdir: Path, config: Mapping[str, Any], experiments: Iterable[str]
) -> dict[str, dict[str, Any]]:
    """Returns the results that are there; ValueError if one cannot be continued."""
    results = {}
    for name in experiments:
        path = workdir / f"{name}.json"
        if not path.exists():
            continue
        try:
            stored = results[name] = json.loads(path.read_text(encoding="utf-8"))
            found = stored.get("schema"), stored.get("schema_version")
        except (ValueError, AttributeError) as error:
            raise ValueError(f"{path} is no result ({error}): move it away") from error
        if found != (REPRODUCTION, REPRODUCTION_VERSION):
            raise ValueError(
                f"{path} has schema {found[0]} version {found[1]}, this program writes "
                f"{REPRODUCTION} version {REPRODUCTION_VERSION}: choose another "
                "--workdir, or move the file away to have it computed anew"
            )
        needed = ("config", "rows", "parts", "sessions")
        if lacking := [field for field in needed if field not in stored]:
            raise ValueError(
                f"{path} lacks {', '.join(lacking)}: move it away to have it computed "
                "anew"
            )
        depends_on = EXPERIMENTS[name].depends_on
        try:
            check_same_config(depends_on(stored["config"]), depends_on(config))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
    return results


def _classifiers(
    store: Store, name: str, lacking: Mapping[str, Lack]
) -> dict[str, dict[str, str]]:
    """Returns data set -> title -> identity of the classifiers of an experiment."""
    needs = EXPERIMENTS[name].needs
    wanted = {need for group in needs if group not in lacking for need in needs[group]}
    return {
        role: {title: store.identity(role, title) for title in store.classifiers(role)}
        for role in sorted(EXPERIMENTS[name].roles)
        if f"{role}.classifier" in wanted
    }


def _purifiers(store: Store, name: str) -> dict[str, str]:
    """Returns title -> identity of the purifiers that the config names."""
    named = EXPERIMENTS[name].purifiers(store.config)
    return {title: store.named_purifier(x).identity for title, x in named.items()}


def _check_weights(
    store: Store, name: str, lacking: Mapping[str, Lack], begun: Mapping[str, Any]
) -> None:
    """Raises ValueError if a result that is there is of other weights."""
    path, stored = store.workdir / f"{name}.json", begun.get("classifiers")
    if stored is None:
        raise ValueError(
            f"{path} does not say of which classifiers it is: move it away to have it "
            "measured anew"
        )
    changed = [
        store.classifiers(role)[title]
        for role, titles in _classifiers(store, name, lacking).items()
        for title, identity in titles.items()
        if stored.get(role, {}).get(title, identity) != identity
    ]
    purifiers = begun.get("purifiers", {})  # Earlier results do not say.
    changed += [
        EXPERIMENTS[name].purifiers(store.config)[title]
        for title, identity in _purifiers(store, name).items()
        if purifiers.get(title, identity) != identity
    ]
    if changed:
        raise ValueError(
            f"{path} was measured with other weights of {changed[0]}: restore them, "
            "choose another --workdir, or move models, images and results that rest "
            "on them away"
        )


def _parts(store: Store, name: str, lacking: Mapping[str, Lack]) -> list[Part]:
    """Returns the parts of an experiment that can be computed."""
    return [p for p in EXPERIMENTS[name].parts(store) if p.group not in lacking]


def _models(parts: Iterable[Part]) -> list[ModelKey]:
    return [key for part in parts for key in part.models]


def _compute(
    name: str,
    laboratory: Laboratory,
    lacking: Mapping[str, Lack],
    begun: Mapping[str, Any],
    preset: Mapping[str, Any],
    *,
    force: bool,
) -> None:
    """Computes what is not on disk of an experiment."""
    store, start = laboratory.store, time.perf_counter()
    path = store.workdir / f"{name}.json"
    parts = _parts(store, name, lacking)
    rows = iter(begun.get("rows", ()))
    done = {k: list(itertools.islice(rows, n)) for k, n in begun.get("parts", ())}
    classifiers = begun.get("classifiers", {}) | _classifiers(store, name, lacking)
    purifiers = begun.get("purifiers", {}) | _purifiers(store, name)
    lost = name in _PICTURES and not path.with_suffix(".npz").exists()
    if force or lost:  # What cannot be computed now is kept.
        for part in parts:
            done.pop(part.key, None)
    remaining = [part for part in parts if part.key not in done]
    if not remaining:
        return
    sessions = begun["sessions"] if done else []
    wanted = store.with_purifiers(_models(remaining))
    if any(map(store.is_unfinished, wanted)):
        laboratory.forget()  # Training needs the memory.
    store.ensure(wanted)
    training = round(time.perf_counter() - start, 1)
    with store.progress.bar(len(parts), name, "part") as bar:
        bar.update(len(parts) - len(remaining))
        for count, part in enumerate(remaining, 1):
            store.progress.stopping()
            done[part.key] = part.rows(laboratory)
            # In their own order, whatever was there first.
            keys = [p.key for p in parts if p.key in done]
            keys += [key for key in done if key not in keys]
            seconds = time.perf_counter() - start
            origin = provenance(dict(store.config), seconds=seconds)
            session = {
                "parts": count,
                "training_seconds": training,
                **{x: origin[x] for x in ("seconds", "device", "versions")},
            }
            totals = {
                field: round(sum(x[field] for x in (*sessions, session)), 1)
                for field in ("seconds", "training_seconds")
            }
            result = {
                "schema": REPRODUCTION,
                "schema_version": REPRODUCTION_VERSION,
                "experiment": name,
                "finished": all(p.key in done for p in parts),
                "missing": [lack.what for lack in lacking.values()],
                "overridden": _overridden(store.config, preset),
                "classifiers": classifiers,
                **({"purifiers": purifiers} if purifiers else {}),
                "parts": [[key, len(done[key])] for key in keys],
                "rows": [row for key in keys for row in done[key]],
                **origin,
                "sessions": [*sessions, session],
                **totals,
            }
            write_json(path, result)
            bar.update()


def _overridden(config: Mapping[str, Any], preset: Mapping[str, Any]) -> list[str]:
    """Returns the fields, joined by dots, in which a config is not its preset."""
    preset, config = flatten_config(preset), flatten_config(config)
    return sorted(
        name
        for name in preset | config
        if preset.get(name, "absent") != config.get(name, "absent")
    )


def _is_drawn(name: str, workdir: Path) -> bool:
    """Whether the picture of an experiment is there, and not older than its arrays."""
    picture, arrays = workdir / f"{name}.png", workdir / f"{name}.npz"
    return picture.exists() and picture.stat().st_mtime >= arrays.stat().st_mtime


def draw_figure(name: str, workdir: Path) -> None:
    """Draws a figure of images from the arrays that its experiment left."""
    with np.load(workdir / f"{name}.npz") as file:
        arrays = dict(file)
    if name.startswith("figure5"):
        seen = {
            x: (arrays[x], arrays[f"{x}_map"]) for x in arrays if f"{x}_map" in arrays
        }
        figures.attention_gallery(workdir / f"{name}.png", seen)
        return
    if name == "ant_noise":
        clean = arrays.pop("clean")
        shown = {
            x: (arrays[x], arrays[f"{x}_noise"])
            for x in arrays
            if f"{x}_noise" in arrays
        }
        figures.noise_samples(workdir / "ant_noise.png", clean, shown, amplify=0.2)
        return
    labels = None
    columns = {heading.replace("_", " "): x for heading, x in arrays.items()}
    if name == "figure4":
        # One image: a line for each noise, a column for each severity.
        clean = arrays.pop("clean")[0]
        places = [heading.split("_") for heading in arrays]
        labels = list(dict.fromkeys(noise for noise, _ in places))
        columns = {"clean": np.stack([clean] * len(labels))}
        for severity in dict.fromkeys(severity for _, severity in places):
            columns[f"severity {severity}"] = np.stack(
                [arrays[f"{noise}_{severity}"][0] for noise in labels]
            )
    figures.gallery(workdir / f"{name}.png", columns, labels)
