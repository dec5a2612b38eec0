"""A defence on clean images and on every degradation, as a table of tidy rows."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from uronet_jax.corruptions import (
    find_corruption,
    list_corruptions,
    list_severities,
    suite_degradations,
)
from uronet_jax.data import corrupted
from uronet_jax.data.frost import FROST_SCALES, load_frost
from uronet_jax.data.sources import RelabelledSource
from uronet_jax.defense import DefenseFunction
from uronet_jax.evaluation import corruption_errors
from uronet_jax.evaluation.examples import ExamplePictures, example_pictures
from uronet_jax.evaluation.judge import (
    CorruptionEntry,
    Entry,
    Judge,
    StoredEntry,
    detection_metrics,
)
from uronet_jax.evaluation.subject import check_subject, load_subject
from uronet_jax.progress import progress_bar


def evaluate_defense(
    config: Mapping[str, Any], data_dir: str | None, *, examples: bool = False
) -> tuple[dict[str, Any], ExamplePictures | None]:
    """Judges what a config names.

    Args:
        config: The fields of `configs/evaluate.py`.
        data_dir: Folder of the prepared data sets.
        examples: Whether to make pictures too.

    Returns:
        A dict of `summary` and `rows`, see `defense_table`, and `models`, the
        architecture of each; and the pictures, or None.

    Raises:
        ValueError: If models and data do not belong together, or a name is unknown.
        FileNotFoundError: If a model or the data set is missing.
    """
    if examples and jax.process_count() > 1:
        raise ValueError(
            "pictures are taken by one process: leave out --html, or run it alone"
        )
    suite = config["suite"]
    check_suite(suite, config["data"])
    check_subject(config, "gate_false_alarms")
    subject = load_subject(config, data_dir)
    source = subject.test_source
    entries = make_entries(suite, source)  # Raises, before anything is computed.
    gate = subject.threshold(config["gate_false_alarms"])
    judge = subject.judge(source, seed=config["seed"])
    summary, rows = defense_table(
        judge,
        subject.defense,
        subject.variables,
        entries,
        gate=gate,
        progress=jax.process_index() == 0,
    )
    if suite["name"] != "uronet":
        summary["corruptions"] = suite_summary(rows, summary, suite)
    result = {"summary": summary, "rows": rows, "models": subject.describe()}
    if not examples:
        return result, None
    return result, example_pictures(
        judge, subject.defense, subject.variables, entries, config["seed"]
    )


def defense_table(
    judge: Judge,
    defense: DefenseFunction,
    variables: Any,
    entries: Sequence[Entry],
    *,
    gate: float | None = None,
    progress: bool = False,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Judges a defence on clean images and on every degradation.

    Args:
        judge: Holds the images.
        defense: What is judged, without a gate.
        variables: Of its models, on the mesh.
        entries: The degradations.
        gate: Threshold on the degraded probability above which an image is
            purified; set it on validation images with `subject.choose_gate`. None
            leaves the gated accuracies out.
        progress: Whether there is a progress bar.

    Returns:
        Summary of the clean images and one row per degradation. All accuracies and
        rates are fractions in `[0, 1]`, PSNR is in dB and averaged over images.
        `detection_accuracy` is that of the balanced set of the clean and the
        degraded images at probability 1/2.
    """
    measured = measure_defense(judge, defense, variables, entries, gate=gate)
    summary, rows = next(measured), []
    with progress_bar(
        len(entries), description="degradations", unit="entry", shown=progress
    ) as bar:
        for row in measured:
            rows.append(row)
            bar.update()
    return summary, rows


def measure_defense(
    judge: Judge,
    defense: DefenseFunction,
    variables: Any,
    entries: Sequence[Entry],
    *,
    gate: float | None = None,
) -> Iterator[dict[str, Any]]:
    """Yields the summary and then the rows of `defense_table`, as they are measured."""
    clean = judge.measure(defense, variables)
    summary: dict[str, Any] = {
        "num_images": len(clean["undefended"]),
        "clean_accuracy": float(clean["undefended"].mean()),
    }
    if "purified" in clean:
        summary["purified_clean_accuracy"] = float(clean["purified"].mean())
        summary["clean_psnr_purified"] = float(clean["psnr_purified"].mean())
    if "probability" in clean:
        summary["false_alarm_rate"] = float((clean["probability"] > 0.5).mean())
        if gate is not None:
            summary["gate"] = gate
            summary["gated_clean_accuracy"] = _gated(clean, gate)
            summary["gated_clean_share_purified"] = float(
                (clean["probability"] > gate).mean()
            )
    yield summary
    for entry in entries:
        yield _row(entry, clean, judge.measure(defense, variables, entry), gate)


def _row(entry, clean, measured, gate):
    row: dict[str, Any] = {
        "noise": entry.noise,
        "severity": entry.severity,
        **entry.fields,
        "undefended_accuracy": float(measured["undefended"].mean()),
    }
    if "purified" in measured:
        row["purified_accuracy"] = float(measured["purified"].mean())
    if "probability" in measured:
        row |= detection_metrics(clean["probability"], measured["probability"])
        if gate is not None:
            row["gated_accuracy"] = _gated(measured, gate)
    for name in ("psnr_noisy", "psnr_purified", "ssim_noisy", "ssim_purified"):
        if name in measured:
            row[name] = float(measured[name].mean(dtype=np.float64))
    return row


def _gated(measured: Mapping[str, np.ndarray], gate: float) -> float:
    purify = measured["probability"] > gate
    return float(np.where(purify, measured["purified"], measured["undefended"]).mean())


def check_suite(suite: Mapping[str, Any], data: Mapping[str, Any]) -> None:
    """Raises ValueError if `config.suite` names what does not exist or fit the data."""
    name, folder = suite["name"], suite["folder"]
    if suite["frost_dir"] and name not in FROST_SCALES:
        raise ValueError(
            f"suite.frost_dir={suite['frost_dir']} is for {', '.join(FROST_SCALES)}, "
            f"which have frost: {name} has none"
        )
    if not folder:
        for noise in suite["noises"] or list_corruptions(name):
            for severity in suite["severities"] or list_severities(name):
                find_corruption(name, noise, severity)
        return
    manifest = corrupted.read_manifest(folder)
    for field, ours in (("dataset", data["name"]), ("split", data["split"])):
        if manifest.get(field, ours) != ours:
            raise ValueError(
                f"{folder} holds images of {field} {manifest[field]}: set data.name "
                f"and data.split to that, not to {ours}"
            )
    made_of = manifest.get("suite")
    if name != (made_of or name) or name == "uronet":
        raise ValueError(
            f"{folder} holds images of {made_of or 'a published set'}: set suite.name "
            f"to it, not to {name}"
        )
    if suite["frost_dir"]:
        raise ValueError(
            "suite.frost_dir is for corruptions that are made here; the images in "
            f"suite.folder={folder} are made already: leave one out"
        )
    known = corrupted.list_stored(folder)
    unknown = [noise for noise in suite["noises"] if noise not in known]
    if unknown:
        raise ValueError(
            f"{folder} holds no {', '.join(unknown)}: choose suite.noises from "
            f"{', '.join(known)}"
        )


def make_entries(suite: Mapping[str, Any], source: Any) -> list[Entry]:
    """Lists what is judged.

    Args:
        suite: `config.suite`, checked.
        source: The clean images; stored ones must have the same labels.

    Raises:
        ValueError: If stored images are of other labels, or there are too few.
        FileNotFoundError: If stored images or frost photographs are missing.
    """
    name = suite["name"]
    severities = suite["severities"] or list_severities(name)
    if suite["folder"]:
        return _stored_entries(suite, severities, source)
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
        CorruptionEntry(noise, severity, name, changes.get(noise, {}))
        for noise in noises
        for severity in severities
    ]


def _stored_entries(suite, severities, source) -> list[Entry]:
    folder = suite["folder"]
    manifest = corrupted.read_manifest(folder)
    if isinstance(source, RelabelledSource):
        source = source.source
    rows = np.array_split(np.arange(len(source)), -(-len(source) // 1024))
    labels = np.concatenate([source.read(some)[1] for some in rows])
    entries = []
    for noise in suite["noises"] or corrupted.list_stored(folder):
        for severity in severities:
            images, stored = corrupted.load_stored(folder, noise, severity)
            if not np.array_equal(stored[: len(labels)], labels):
                raise ValueError(
                    f"the labels in {folder} are not those of the clean images: it "
                    "holds another data set, split or order"
                )
            details = {}
            if noise == "frost" and "suite" in manifest:
                details["textures"] = manifest["corruptions"][noise]["textures"]
            entries.append(StoredEntry(noise, severity, images[: len(labels)], details))
    return entries


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
        Of the classifier alone (`undefended`), and behind the purifier (`purified`).
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
