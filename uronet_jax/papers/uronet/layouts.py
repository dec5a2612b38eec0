"""How the numbers of the URoNet paper's experiments are laid out as tables."""

from uronet_jax.papers.pages.layout import Layout, join_columns


def _mitigated_noise(cell):
    return f"{cell['noise']}-{cell['test_severity']}" if cell["noise"] else "clean"


def _remover(cell):
    severity = cell["remover_train_severity"]
    return f"remover {severity}" if severity else "undefended"


def _method(cell):
    name, _, _ = cell["method"].partition(" (")
    return "undefended" if name == "none" else name


def _attacked(cell):
    return f"{cell['attack']} on {cell['attacked_classifier']}"


def _gain(cell):
    """Gains by the remover's noise, below the accuracy under attack."""
    return cell["train_noise"] or _UNDEFENDED


def _tested(cell):
    severity = cell["test_severity"]
    return cell["test_noise"] if severity == "0" else f"{cell['test_noise']}-{severity}"


def _universal(cell):
    if cell["condition"] == "detection":
        return "detection"
    names = {"noisy": "undefended", "mitigated": "purified"}
    return f"{cell['classifier']}: {names[cell['condition']]}"


def _ablation(cell):
    return _ABLATIONS.get(cell["ablation"], cell["ablation"])


def _ablation_row(cell):
    if cell["metric"] == "detection_accuracy":
        return f"{_TRAINED(cell)}, {cell['variant']}"
    return _TESTED(cell)


def _ablation_column(cell):
    if cell["metric"] == "detection_accuracy":
        return _TESTED(cell)
    names = {"dcae": "one head", "remover": "two heads"}
    return f"{cell['classifier']}: {names.get(cell['variant'], cell['variant'])}"


def _quantity(cell):
    return cell["metric"].replace("_", " ")


def _seen(cell):
    """Figure 5 may show the same quantity of clean, noisy and purified images."""
    shown = cell.get("images")
    return f"{_quantity(cell)}, {shown}" if shown else _quantity(cell)


_UNDEFENDED = "accuracy when attacked"
_ABLATIONS = {
    "detector_other": "another detector behind the same removers",
    "detector_image_only": "a detector without the noise pattern",
    "detector_clean": "a detector that sees the purified image, not the given one",
    "dcae": "a remover with one head (DCAE)",
    "grey": "grey images",
}
_TRAINED = join_columns("train_noise", "train_severity")
_TESTED = join_columns("test_noise", "test_severity")
_NOISE = join_columns("noise", "severity")
_DATASET = join_columns("dataset")
_CLASSIFIER = join_columns("dataset", "classifier", separator=", ")


def _detection(number: int, title: str, block=_DATASET, **names) -> Layout:
    names = {"row": _TRAINED, "column": _TESTED} | names
    file = f"uronet/uronet_table{number:02}.csv"
    return Layout(f"Table {number}: {title}", block, published=file, **names)


def _mitigation(number: int, dataset: str, **names) -> Layout:
    return Layout(
        f"Table {number}: accuracy on {dataset}, undefended and behind removers of "
        "each severity",
        _CLASSIFIER,
        _mitigated_noise,
        _remover,
        f"uronet/uronet_table{number:02}.csv",
        counted=lambda cell: cell["condition"] == "mitigated",
        counted_name="mitigated cells",
        **names,
    )


def _unseen(number: int, dataset: str, whole: str) -> Layout:
    """Tables 9 and 10, whose own numbers stand there where ours are of other things."""
    return _mitigation(
        number,
        dataset,
        reference=f"uronet/uronet_table{number:02}.csv",
        reference_row=lambda cell: f"{cell['classifier']}, {_mitigated_noise(cell)}",
        reference_note=f"**The paper's own numbers**, of {whole} and of three networks "
        "with ImageNet's weights: only how much a remover gives back compares.",
    )


def _figure(number: int, title: str, row=_NOISE, column=_quantity):
    title = f"Figure {number}: {title}"
    return Layout(title, _DATASET, row, column, drawn=True)


def _universal_models(title: str, **names) -> Layout:
    metrics = ("detection_accuracy", "accuracy")
    return Layout(title, _DATASET, _tested, _universal, metrics=metrics, **names)


_OURS = {"context": True, "counted_name": "cells of URoNet"}
URONET_LAYOUTS = {
    "table2": _detection(2, "detection on CIFAR-10, one line per trained detector"),
    "table3": _detection(3, "detection on CIFAR-100, one line per trained detector"),
    "table4": _detection(
        4,
        "detection across data sets, one line per trained detector",
        join_columns("train_dataset", "test_dataset", separator=" to "),
    ),
    "table5": _detection(
        5,
        "detection of attacks, one line per detector trained on a noise",
        column=join_columns("test_attack"),
    ),
    "table6": _detection(
        6,
        "detection of noises, one column per detector trained on an attack",
        row=_TESTED,
        column=join_columns("train_attack"),
        same={"FGSM40": "IFGSM40"},  # What its text and its other half call it.
    ),
    "table7": _mitigation(7, "CIFAR-10"),
    "table8": _mitigation(8, "CIFAR-100"),
    "table9": _unseen(9, "Tiny ImageNet", "all 200 classes"),
    "table10": _unseen(10, "ImageNette", "the whole set"),
    "table11": Layout(
        "Table 11: accuracy on attacked images",
        _CLASSIFIER,
        join_columns("defence"),
        join_columns("attack"),
        "uronet/uronet_table11.csv",
        counted=lambda cell: cell["defence"].startswith("URoNet"),
        **_OURS,
    ),
    "table12": Layout(
        "Table 12: accuracy on CIFAR-10 behind several denoisers",
        _CLASSIFIER,
        join_columns("noise", "inferred_severity"),
        _method,
        "uronet/uronet_table12.csv",
        counted=lambda cell: cell["method"] == "URoNet",
        **_OURS,
    ),
    "figure1": _figure(1, "noise patterns, amplified ten times; zero is mid-grey"),
    "figure2": _figure(2, "the images of these patterns"),
    "figure4": _figure(
        4,
        "every noise at every severity",
        join_columns("noise"),
        lambda cell: f"PSNR in dB, severity {cell['severity']}",
    ),
    "figure5": _figure(5, "where the classifier looks (Grad-CAM)", column=_seen),
    "figure5_photographs": _figure(
        5, "where the classifier looks (Grad-CAM), photographs", column=_seen
    ),
    "figure6": Layout(
        "Figure 6: points of accuracy that removers of noise give back under attacks",
        _CLASSIFIER,
        _gain,
        _attacked,
        "uronet/uronet_figure06.csv",
        metrics=("accuracy_gain", "adversarial_accuracy"),
        derived=("robust_accuracy",),
        first=(_UNDEFENDED, "GN", "UN", "SPN"),
    ),
    "resolutions": Layout(
        "Removers of smaller images in front of classifiers of photographs",
        _CLASSIFIER,
        join_columns("noise", "test_severity"),
        join_columns("remover"),
    ),
    "ablations": Layout(
        "Section 3.3: ablations", _ablation, _ablation_row, _ablation_column
    ),
    "universal": _universal_models(
        "One remover and one detector for all 18 degradations",
        written=False,  # All of it stands in the table beside single noises.
    ),
    "universal_corruptions": _universal_models(
        "One remover and one detector trained on all corruptions of CIFAR-10-C"
    ),
    "universal_trials": Layout(
        "Short trainings of the universal remover, judged on validation images",
        _CLASSIFIER,
        _tested,
        join_columns("variant"),
    ),
    "zero_shot": _universal_models("The universal models on what they never saw"),
}
