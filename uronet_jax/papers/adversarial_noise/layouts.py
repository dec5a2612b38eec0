"""How the numbers of the experiments on adversarial noise training are laid out.

A cell has the columns `dataset`, `network`, `model`, `test` and `metric`.
"""

from collections.abc import Mapping
from statistics import mean
from typing import Any

from uronet_jax.papers.pages.layout import Chart, Layout, join_columns

_SUMMARY = (
    "clean",
    "corruptions",
    "corruptions without noises",
    "16 with identity",
    "19 corruptions",
    "PGD linf",
    "DDN l2",
)
_ATTACKS = _SUMMARY[-2:]
# Means that are drawn over the sigma of training, and what has no single one.
_MEANS, _LEVELS = _SUMMARY[1:3], ("GNT mult", "Vanilla")
# Endings of the names of tables.
_SINGLE, _SIGMA, _FOOLED = (
    ", single corruptions",
    ", Gaussian noise",
    ", images that no such noise fools",
)
# What charts show, the most important first; models of one sigma: the best of them.
_CHARTED = ("Vanilla", "ANT 1x1", "ANT 3x3", "GNT", "GNT mult")
_CHARTED += ("PGD training", "Speckle")
_BARS = 5


def _table(cell):
    """The ending of the name of a cell's table."""
    if cell["metric"] == "never_fooled":
        return _FOOLED
    if cell["metric"] == "eps_star" or cell["test"] in _SUMMARY:
        return ""
    return _SIGMA if cell["test"].startswith("sigma ") else _SINGLE


def _block(cell):
    return f"{cell['dataset']}, {cell['network']}{_table(cell)}"


def _model(cell):
    return cell["model"]


def _published_model(cell):
    """With what is not as in most of the paper's table."""
    usual = ("ImageNet", "ResNet-50")
    names = [cell[x] for x in ("dataset", "network") if cell[x] not in usual]
    return ", ".join([*names, cell["model"]])


def _row(cell):
    return cell["test"] if _table(cell) == _SINGLE else _model(cell)


def _column(cell):
    if _table(cell) == _SINGLE:
        return _model(cell)
    return f"eps* {cell['test']}" if cell["metric"] == "eps_star" else cell["test"]


def _is_single_sigma(model: str) -> bool:
    return model.startswith("GNT ") and model != "GNT mult"


def _charted(models: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Returns the models to draw: those with one sigma by the best alone."""
    single = {name: mean(x.values()) for name, x in models.items() if x}
    single = {name: x for name, x in single.items() if _is_single_sigma(name)}
    best = max(single, key=single.__getitem__, default="")
    chosen = [best if name == "GNT" else name for name in _CHARTED]
    return [name for name in chosen if name in models]


def _chart(block: str, lines: Mapping[str, Mapping[str, float]]) -> Chart | None:
    """Returns accuracy over sigma as lines, on single corruptions as bars.

    Of the first table it is over the sigma of training, as in the paper's Figure 2.
    """
    if block.endswith(_SIGMA):
        return Chart(
            "lines",
            {
                name: [
                    [float(test.removeprefix("sigma ")) for test in lines[name]],
                    [value / 100.0 for value in lines[name].values()],
                ]
                for name in _charted(lines)
            },
        )
    if block.endswith(_SINGLE):
        models: dict[str, dict[str, float]] = {}
        for test, line in lines.items():
            for name, value in line.items():
                models.setdefault(name, {})[test] = value / 100.0
        return Chart("bars", {x: models[x] for x in _charted(models)[:_BARS]})
    return _over_training(lines)


def _over_training(lines: Mapping[str, Mapping[str, float]]) -> Chart | None:
    """Returns accuracy on corruptions over the sigma learned; None for one alone."""
    models = [name for name in lines if _is_single_sigma(name)]
    data: dict[str, dict[str, Any]] = {"lines": {}, "levels": {}}
    for test in _MEANS:
        found = {
            float(name.removeprefix("GNT ")): lines[name][test] / 100.0
            for name in models
            if test in lines[name]
        }
        if len(found) < 2:
            return None
        data["lines"][f"GNT, {test}"] = [list(found), list(found.values())]
        for name in _LEVELS:
            if test in lines.get(name, {}):
                data["levels"][f"{name}, {test}"] = lines[name][test] / 100.0
    return Chart("training", data)


def _is_attacked(cell) -> bool:
    return cell["metric"] != "accuracy" or cell["test"] in _ATTACKS


def _comparison(dataset: str, *, attacked: bool) -> Layout:
    return Layout(
        f"{dataset} under attack: classifiers that learn noise, beside Tables 2 and 4 "
        "of Rusak et al. 2020"
        if attacked
        else f"{dataset}: classifiers that learn noise, beside Tables 1 and 3 of Rusak "
        "et al. 2020",
        _block,
        _row,
        _column,
        metrics=("accuracy", "eps_star", "never_fooled"),
        first=_CHARTED[:1],
        widest=16,
        chart=_chart,
        reference="adversarial_noise/ant_tables.csv",
        reference_cells=lambda cell: _is_attacked(cell) == attacked,
        reference_row=_published_model,
        reference_note="**The paper's own numbers.** Another data set and another "
        "network: ImageNet and ResNet-50 where a line does not say otherwise. Only the "
        "order of the models can be compared. "
        + (
            "eps* grows with the root of the number of elements: at 224x224x3 it is 7 "
            "times that at 32x32x3 and 14 times that at 28x28, for noise of the same "
            "strength."
            if attacked
            else "In brackets: a corruption of the test was seen in training."
        ),
    )


def _accuracies(title: str) -> Layout:
    """A line for each model, a column for each test, and nothing drawn."""
    return Layout(
        title,
        join_columns("dataset", "network", separator=", "),
        _model,
        join_columns("test"),
        metrics=("accuracy",),
        chart=lambda block, lines: None,
    )


ADVERSARIAL_NOISE_LAYOUTS = {
    "ant_cifar10": _comparison("CIFAR-10", attacked=False),
    "ant_cifar10_attacks": _comparison("CIFAR-10", attacked=True),
    "ant_mnist": _comparison("MNIST", attacked=False),
    "ant_mnist_attacks": _comparison("MNIST", attacked=True),
    "ant_mnist_scan": _accuracies("MNIST: how strong the noise should be"),
    "ant_defences": _accuracies(
        "Both defences: a remover before a classifier that learned noise"
    ),
    "ant_noise": Layout(
        "Learned noise: images of it, and how it is distributed",
        join_columns("dataset", "network", separator=", "),
        _model,
        join_columns("test"),
        drawn=True,
    ),
}
