"""How the numbers of the experiments on reconstructive training are laid out.

A cell has the columns `dataset`, `classifier`, `defence`, `attack`, `threat` (what the
attacker knows: `grey box` the classifier, `white box` the defence too) and `metric`.
"""

from uronet_jax.papers.pages.layout import Layout

# Endings of the names of tables, by what is measured.
_TABLES = {
    "accuracy": "accuracy, {threat}",
    "zero_gradients": "images without a gradient in percent, {threat}",
    "psnr": "PSNR in dB of what the classifier sees",
    "ssim": "SSIM of what the classifier sees",
    "mean_absolute_change": "mean distance from the original, in levels of 255",
}
_METRICS = tuple(x for x in _TABLES if x != "mean_absolute_change")


def _block(cell):
    table = _TABLES[cell["metric"]].format(threat=cell["threat"])
    return f"{cell['dataset']}, {cell['classifier']}: {table}"


def _defence(cell):
    return cell["defence"]


def _attack(cell):
    return cell["attack"]


# What becomes a table, its lines and its columns; and what most have.
_LINES = (_block, _defence, _attack)
_SHOWN = {
    "metrics": _METRICS,
    "first": ("none",),
    "chart": lambda block, lines: None,
}


def _comparison(title: str, network: str, table: int) -> Layout:
    return Layout(
        f"{title}: beside Table {table} of Patrick et al. 2022",
        *_LINES,
        **_SHOWN,
        reference="reconstructive/reconstructive_tables.csv",
        reference_cells=lambda cell: cell["network"] == network,
        reference_row=_defence,
        reference_note=f"**The paper's own numbers**, of ImageNet and {network}: only "
        "the order of the defences can be compared.",
    )


RECONSTRUCTIVE_LAYOUTS = {
    "reconstructive": _comparison(
        "Reconstructive training and input transformations", "VGG19", 2
    ),
    "reconstructive_transfer": _comparison(
        "The same before another classifier, which is attacked", "InceptionV3", 3
    ),
    "reconstructive_labels": Layout(
        "Whether labels leak: attacks made with labels and with predictions",
        *_LINES,
        **_SHOWN,
    ),
    "reconstructive_figure1": Layout(
        "Perturbations before and after reconstruction",
        *_LINES,
        metrics=("mean_absolute_change",),
        drawn=True,
    ),
}
