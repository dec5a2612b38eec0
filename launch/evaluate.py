"""Judges a defence on clean test images and on every degradation of a suite.

  python -m launch.evaluate --config=configs/evaluate.py:small \
      --workdir=runs/small/evaluation

Writes evaluation.json (rows, config, versions, device, seconds) and evaluation.md, and
over a suite of corruptions accuracy.png.
"""

import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import flags

from launch import cli, wiring
from uronet_jax.checkpoints import locked_workdir
from uronet_jax.corruptions import (
    find_corruption,
    list_corruptions,
    list_severities,
    suite_degradations,
)
from uronet_jax.data import corrupted
from uronet_jax.data.frost import FROST_SCALES, load_frost
from uronet_jax.evaluation import corruption_errors, protocols
from uronet_jax.reports import defense_table as defence
from uronet_jax.reports import figures, suites, tables
from uronet_jax.reports.provenance import provenance


def evaluate(config: dict[str, Any], data_dir: str | None) -> dict[str, Any]:
    """Judges what `config` names.

    Args:
        config: The fields of `configs/evaluate.py`.
        data_dir: Folder of the prepared data sets.

    Returns:
        `summary` and `rows`, see `protocols.defence_table`, and `models`, the
        architecture of each.

    Raises:
        ValueError: If models and data do not belong together, or a name is unknown.
        FileNotFoundError: If a model or the data set is missing.
    """
    suite = config["suite"]
    check_suite(suite, config["data"])
    wiring.check_subject(config, "gate_false_alarms")
    subject = wiring.load_subject(config, data_dir)
    gate = subject.threshold(config["gate_false_alarms"])
    images, labels = subject.test_images()
    summary, rows = protocols.defence_table(
        subject.judge((images, labels), seed=config["seed"]),
        make_entries(suite, images.shape[1:], labels),
        gate=gate,
        progress=jax.process_index() == 0,
    )
    if suite["name"] != "uronet":
        summary["corruptions"] = suite_summary(rows, summary, suite)
    return {
        "summary": summary,
        "rows": rows,
        "models": {
            name: model.config["model"] for name, model in subject.models.items()
        },
    }


def check_suite(suite: Mapping[str, Any], data: Mapping[str, Any]) -> None:
    """Raises ValueError if `config.suite` names what does not exist or fit the data."""
    if suite["frost_dir"] and suite["name"] not in FROST_SCALES:
        raise ValueError(
            f"suite.frost_dir={suite['frost_dir']} is for {', '.join(FROST_SCALES)}, "
            f"which have frost: {suite['name']} has none"
        )
    if suite["folder"]:
        manifest = corrupted.read_manifest(suite["folder"])
        for field, ours in (("dataset", data["name"]), ("split", data["split"])):
            if manifest.get(field, ours) != ours:
                raise ValueError(
                    f"{suite['folder']} holds images of {field} {manifest[field]}: set "
                    f"data.name and data.split to that, not to {ours}"
                )
        made_of = manifest.get("suite")
        if suite["name"] != (made_of or suite["name"]) or suite["name"] == "uronet":
            raise ValueError(
                f"{suite['folder']} holds images of {made_of or 'a published set'}: "
                f"set suite.name to it, not to {suite['name']}"
            )
        if suite["frost_dir"]:
            raise ValueError(
                "suite.frost_dir is for corruptions that are made here; the images in "
                f"suite.folder={suite['folder']} are made already: leave one out"
            )
        known = corrupted.list_stored(suite["folder"])
        unknown = [noise for noise in suite["noises"] if noise not in known]
        if unknown:
            raise ValueError(
                f"{suite['folder']} holds no {', '.join(unknown)}: choose suite.noises "
                f"from {', '.join(known)}"
            )
    else:
        for noise in suite["noises"] or list_corruptions(suite["name"]):
            for severity in suite["severities"] or list_severities(suite["name"]):
                find_corruption(suite["name"], noise, severity)


def make_entries(
    suite: Mapping[str, Any], image_shape: Sequence[int], labels: np.ndarray
) -> list[protocols.Entry]:
    """Lists what is judged.

    Args:
        suite: `config.suite`, checked.
        image_shape: `(H, W, C)` of the clean images.
        labels: Of the clean images; those of stored images must be the same.

    Raises:
        ValueError: If stored images are of other labels, or there are too few.
        FileNotFoundError: If stored images or frost photographs are missing.
    """
    name = suite["name"]
    severities = suite["severities"] or list_severities(name)
    if suite["folder"]:
        entries: list[protocols.Entry] = []
        manifest = corrupted.read_manifest(suite["folder"])
        for noise in suite["noises"] or corrupted.list_stored(suite["folder"]):
            for severity in severities:
                images, stored = corrupted.load_stored(suite["folder"], noise, severity)
                if not np.array_equal(stored[: len(labels)], labels):
                    raise ValueError(
                        f"the labels in {suite['folder']} are not those of the clean "
                        "images: it holds another data set, split or order"
                    )
                details = {}
                if noise == "frost" and "suite" in manifest:
                    details["textures"] = manifest["corruptions"][noise]["textures"]
                entries.append(
                    protocols.StoredEntry(
                        noise, severity, images[: len(labels)], details
                    )
                )
        return entries
    noises = suite["noises"] or list_corruptions(name)
    if name == "uronet":
        readings = {key: suite[key] for key in ("spn_reading", "un_reading")}
        return list(
            suite_degradations(name, noises=noises, severities=severities, **readings)
        )
    changes: dict[str, dict[str, Any]] = {}
    if suite["frost_dir"] and "frost" in noises:
        textures = load_frost(suite["frost_dir"], scale=FROST_SCALES[name])
        changes["frost"] = {"textures": textures}
    return [
        protocols.CorruptionEntry(noise, severity, name, changes.get(noise, {}))
        for noise in noises
        for severity in severities
    ]


def corruption_rows(
    rows: Sequence[Mapping[str, Any]], column: str
) -> list[dict[str, Any]]:
    """Returns `corruption`, `severity` and the `accuracy` of `undefended` or so."""
    return [
        {
            "corruption": row["noise"],
            "severity": row["severity"],
            "accuracy": row[f"{column}_accuracy"],
        }
        for row in rows
    ]


def suite_summary(
    rows: Sequence[Mapping[str, Any]],
    summary: Mapping[str, float],
    suite: Mapping[str, Any],
) -> dict[str, dict[str, Any]]:
    """Averages over a suite as its benchmark does; see `corruption_errors.summarize`.

    Returns:
        Of the classifier alone (`undefended`), and behind the remover (`purified`).
    """
    cleans = {"undefended": "clean_accuracy", "purified": "purified_clean_accuracy"}
    return {
        column: corruption_errors.summarize(
            corruption_rows(rows, column),
            clean_accuracy=summary[clean],
            # The figures of ImageNet-C need all of it.
            alexnet=suite["name"] == "imagenet_c"
            and not suite["noises"]
            and not suite["severities"],
        )
        for column, clean in cleans.items()
        if clean in summary
    }


def render(result: dict[str, Any]) -> str:
    """Returns the result as Markdown."""
    config = result["config"]
    parts = [
        f"# Evaluation on {config['data']['name']} ({config['preset']})\n",
        defence.summary_list(result["summary"]),
    ]
    if "corruptions" in result["summary"]:
        parts.append(suites.render(result))
    return "\n".join([*parts, defence.rows_table(result["rows"])])


def run(
    config: dict[str, Any], workdir: str | os.PathLike, *, data_dir: str | None = None
) -> dict[str, Any]:
    """Judges what `config` names and writes the result to `workdir`.

    Args:
        config: The fields of `configs/evaluate.py`.
        workdir: Folder to write evaluation.json and evaluation.md to.
        data_dir: Folder of the prepared data sets.

    Returns:
        What evaluation.json holds.

    Raises:
        ValueError: See `evaluate`.
        OSError: If data or models are missing or `workdir` cannot be used.
    """
    start = time.perf_counter()
    with locked_workdir(workdir):
        result = evaluate(config, data_dir)
        result |= provenance(config, seconds=time.perf_counter() - start)
        if jax.process_index() == 0:
            tables.write_json(os.path.join(workdir, "evaluation.json"), result)
            path = os.path.join(workdir, "evaluation.md")
            with open(path, "w", encoding="utf-8") as file:
                file.write(render(result))
            if "corruptions" in result["summary"]:
                figures.accuracy_heat_map(
                    os.path.join(workdir, "accuracy.png"),
                    corruption_rows(result["rows"], "undefended"),
                    "accuracy of the classifier alone, in percent",
                )
    return result


def main(argv: list[str]) -> None:
    """Evaluates what the flags describe."""
    del argv
    values = flags.FLAGS
    result = run(values.config.to_dict(), values.workdir, data_dir=values.data_dir)
    if jax.process_index() == 0:
        print(render(result))


if __name__ == "__main__":
    cli.define_experiment_flags("configs/evaluate.py:PRESET")
    cli.run(main)
