"""Makes weights that ship (`pretrained`) of the runs of a purifier and a detector."""

import dataclasses
import json
import math
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from uronet_jax.data import open_source
from uronet_jax.defense import Prediction, make_defense
from uronet_jax.image_quality import PSNR_CAP
from uronet_jax.loading import (
    LoadedModel,
    PretrainedModels,
    check_detector,
    check_models_match,
    detector_inputs,
    load_model,
    load_pretrained,
)
from uronet_jax.pretrained import PretrainedEntry, write_pretrained
from uronet_jax.rounding import BITS
from uronet_jax.training.experiment import has_copies, make_pairs
from uronet_jax.training.pairs import clean_pairs

# What a person writes of a card; the rest follows from the runs.
WRITTEN_SECTIONS = ("Numbers", "Limits", "How to make it again")
# Of a config: what a model is and how it learned, without paths of the machine.
_KEPT = (
    *("phase", "dtype", "model", "resolved", "data", "degradation", "loss"),
    *("optimizer", "num_steps", "batch_size", "seed", "best_metric"),
)


def pack_pretrained(
    purifier: str | os.PathLike,
    detector: str | os.PathLike,
    name: str,
    *,
    about: str,
    card: str | os.PathLike,
    folder: str | os.PathLike | None = None,
    mirror: bool | None = None,
    bits: Sequence[Sequence[int]] = BITS,
    which: str = "best",
    count: int = 256,
    data_dir: str | None = None,
) -> PretrainedEntry:
    """Writes an entry and returns it.

    Args:
        purifier: Folder of a purifier's run.
        detector: Folder of a detector's run behind that purifier.
        name: See `write_pretrained`.
        about: One line: data and degradations.
        card: Markdown file with the sections `WRITTEN_SECTIONS`; the numbers name the
            JSON in docs/results that they are from.
        folder: Where entries lie, by default in the package.
        mirror: The purifier's `model.mirror`; None leaves it as it learned.
        bits: Of the weights, see `rounding.BITS`.
        which: Checkpoint of both runs, see `load_model`.
        count: Validation images of the purifier's run, clean and degraded, on which it
            is measured how far rounding the weights moves the outputs.
        data_dir: Folder of the prepared data sets.

    Raises:
        ValueError: If the models do not belong together, the card lacks a section, or
            see `write_pretrained`.
        FileNotFoundError: If a run, the card or the data are missing.
    """
    written = _read_card(card)
    models = PretrainedModels(
        _in_float32(load_model(purifier, role="purifier", which=which)),
        _in_float32(load_model(detector, role="detector", which=which)),
    )
    check_models_match(*models)
    check_detector(models.detector, models.purifier)
    if mirror is not None:
        models = models._replace(purifier=_mirrored(models.purifier, mirror))
    images = _images(models.purifier.config, count, data_dir)
    before = _outputs(models, images)
    entry = PretrainedEntry(
        about,
        {role: _config(model.config) for role, model in models._asdict().items()},
        {role: model.variables for role, model in models._asdict().items()},
        {},
        written,
        bits,
    )
    with tempfile.TemporaryDirectory() as trial:
        write_pretrained(name, entry, trial)
        packed = load_pretrained(name, folder=trial)
    # So that nobody puts the detector behind another one.
    entry.configs["detector"]["resolved"]["purifier"] = packed.purifier.identity
    moved = _differences(before, _outputs(packed, images))
    entry = entry._replace(rounding=moved)
    entry = entry._replace(card=_card(name, entry, packed))
    write_pretrained(name, entry, folder)
    return entry


def _read_card(path: str | os.PathLike) -> str:
    if not Path(path).is_file():
        raise FileNotFoundError(f"no card at {path}: write one, in Markdown")
    text = Path(path).read_text(encoding="utf-8").strip()
    found = re.findall(r"^## (.+?) *$", text, re.MULTILINE)
    missing = [name for name in WRITTEN_SECTIONS if name not in found]
    if missing:
        raise ValueError(
            f"{path} lacks the section {', '.join(f'`## {x}`' for x in missing)}"
        )
    numbers = re.split(r"^## ", text, flags=re.MULTILINE)
    (numbers,) = (x for x in numbers if x.startswith("Numbers"))
    if not re.search(r"docs/results/\w+\.json", numbers):
        raise ValueError(
            f"{path}: the numbers must name the JSON that they are from, such as "
            "docs/results/cifar10_universal.json"
        )
    return text


def _in_float32(model: LoadedModel) -> LoadedModel:
    return dataclasses.replace(model, module=model.module.clone(dtype=jnp.float32))


def _mirrored(purifier: LoadedModel, mirror: bool) -> LoadedModel:
    if not hasattr(purifier.module, "mirror"):
        raise ValueError("only a remover can be shown mirror images: leave mirror out")
    config = purifier.config | {"model": purifier.config["model"] | {"mirror": mirror}}
    module = purifier.module.clone(mirror=mirror)
    return dataclasses.replace(purifier, module=module, config=config)


def _config(config: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: config[key] for key in _KEPT if key in config}
    kept |= {"dtype": "float32", "learned_in": config["dtype"]}
    kept = json.loads(json.dumps(kept))
    folder = (kept.get("degradation") or {}).get("folder")
    if folder:
        kept["degradation"]["folder"] = Path(folder).name
    return kept


def _images(config: Mapping[str, Any], count: int, data_dir: str | None) -> np.ndarray:
    """Returns validation images as they are, and degraded as in training."""
    data = config["data"]
    source = open_source(data["name"], data["validation_split"], data_dir=data_dir)
    index = np.arange(min(count, len(source)), dtype=np.int32)
    batch = {"image": source.read(index)[0], "index": index}
    # Stored copies may lie elsewhere by now.
    pairs = clean_pairs() if has_copies(config) else make_pairs(config)
    look = jax.jit(pairs.validation)
    return np.concatenate(look(jax.random.key(0), pairs.frozen, batch))


def _outputs(models: PretrainedModels, images: np.ndarray) -> Prediction:
    defend = jax.jit(
        make_defense(
            models.purifier.module,
            models.detector.module,
            lambda _, images: jnp.mean(images, axis=(1, 2)),  # None is asked.
            inputs=detector_inputs(models.detector),
        )
    )
    variables = {role: model.variables for role, model in models._asdict().items()}
    variables["classifier"] = {}
    parts = np.array_split(images, max(1, len(images) // 64))
    found = [jax.device_get(defend(variables, part)) for part in parts]
    return jax.tree.map(lambda *x: np.concatenate(x), *found)


def _differences(before: Prediction, after: Prediction) -> dict[str, float]:
    levels = 255.0 * np.abs(after.clean - before.clean)
    old, new = before.degraded_probability, after.degraded_probability
    return {
        "images": len(levels),
        "psnr": _psnr(levels / 255.0),
        "grey_levels_mean": float(levels.mean()),
        "grey_levels_max": float(levels.max()),
        "probability_max": float(np.abs(new - old).max()),
        "verdicts_changed": int(np.sum((old > 0.5) != (new > 0.5))),
    }


def _psnr(errors: np.ndarray) -> float:
    """Returns that of all images together, at most as for equal ones."""
    mse = float(np.square(errors, dtype=np.float64).mean())
    return -10.0 * math.log10(max(mse, 10.0 ** (-PSNR_CAP / 10.0)))


def _in_words(bits: Sequence[Sequence[int]]) -> str:
    kernels = [f"of more than {size:,} weights in {count}" for size, count in bits]
    return f"float16; kernels {', '.join(kernels)} bits" if bits else "float16"


def _card(name: str, entry: PretrainedEntry, models: PretrainedModels) -> str:
    height, width, channels = models.purifier.image_shape
    moved = entry.rounding
    lines = [
        f"# {name}",
        "",
        f"{entry.about}",
        "",
        f"A purifier and the detector behind it, for images of {height}x{width}x"
        f"{channels}. Weights in {_in_words(entry.bits)}, computation in float32.",
        "",
        "```python",
        "import uronet_jax",
        "",
        f'defense = uronet_jax.load_defense("{name}", "{name}", "YOUR_CLASSIFIER")',
        "```",
        "",
        "## Data and recipe",
        "",
        "|  | purifier | detector |",
        "| :--- | :--- | :--- |",
    ]
    flat = {role: flatten_dict(config, sep=".") for role, config in _told(entry)}
    counts = {
        role: sum(x.size for x in jax.tree.leaves(model.variables))
        for role, model in models._asdict().items()
    }
    flat = {role: {"weights": counts[role]} | fields for role, fields in flat.items()}
    for field in dict.fromkeys(key for fields in flat.values() for key in fields):
        cells = [json.dumps(flat[role].get(field, "")).strip('"') for role in flat]
        if any(cells):
            lines.append(f"| {' | '.join([field, *cells])} |")
    lines += [
        "",
        "## Rounding",
        "",
        f"On {moved['images']} images (validation, clean and degraded), against the "
        "run itself in float32: the picture moves by "
        f"{moved['grey_levels_mean']:.3f} of 255 grey levels on average and by "
        f"{moved['grey_levels_max']:.2f} at most (PSNR {moved['psnr']:.1f} dB), the "
        f"degraded probability by {moved['probability_max']:.2g} at most; verdicts "
        f"that change: {moved['verdicts_changed']}.",
        "",
        entry.card,
        "",
    ]
    return "\n".join(lines)


def _told(entry: PretrainedEntry):
    """Yields role and config, without what is of no use to a reader."""
    for role, config in entry.configs.items():
        resolved = {"image_shape": config["resolved"]["image_shape"]}
        told = {key: x for key, x in config.items() if key != "dtype"}
        yield role, told | {"resolved": resolved}
