"""The notebooks run from top to bottom, with tiny settings in place of their own."""

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).parent.parent / "notebooks"
TINY = {
    "01_quickstart.ipynb": """
from uronet_jax import quickstart

settings = quickstart.QuickstartSettings(
    classifier="cnn_narrow",
    classifier_steps=2,
    detector="cnn_narrow",
    remover_widths=(2, 2),
    remover_steps=2,
    detector_steps=2,
    batch_size=16,
    num_test_images=40,
    progress=False,
)
# Networks after two steps protect nothing.
quickstart.check = lambda report: None
""",
    "03_attacks.ipynb": """
from uronet_jax.models import make_classifier, make_remover

settings = quickstart.QuickstartSettings()
epsilon, steps, num_images = 0.1, 2, 16
threats = ("grey_box", "white_box")


def train(settings):  # The first notebook trains: any weights will do here.
    def draw(module, channels=1):
        one, rng = np.zeros((1, 28, 28, channels)), np.random.default_rng(0)
        shapes = jax.eval_shape(module.init, jax.random.key(0), one)
        return jax.tree.map(lambda x: np.float32(rng.normal(0, 0.1, x.shape)), shapes)

    classifier, detector = (make_classifier("cnn_narrow", n) for n in (10, 2))
    remover = make_remover("skip", widths=(2, 2))
    variables = {"classifier": draw(classifier), "detector": draw(detector, 2)}
    variables |= {"purifier": draw(remover)}
    return quickstart.QuickstartModels(
        classifier=classifier, remover=remover, detector=detector, variables=variables
    )


quickstart.train = train
""",
    "04_results.ipynb": """
from uronet_jax import records

rows = [
    {**row, "num_images": 1000, "value": float(row["value"]) - 1.0}
    for row in layout.published_rows("uronet/uronet_table05.csv")
]
made_up = {"schema": results.REPRODUCTION, "experiment": "table5", "rows": rows}
made_up |= {"config": {"preset": "small"}, "versions": {}, "seconds": 60.0}
made_up["device"] = {"platform": "cpu", "kind": "cpu", "count": 1, "processes": 1}
made_up |= {"schema_version": results.REPRODUCTION_VERSION}
folder, drawn = "results", "pictures"
records.write_json(f"{folder}/table5_small.json", made_up)
""",
    "02_corruptions.ipynb": """
side = 32
names = ("gaussian_noise", "fog", "jpeg_compression")
severities = (1, 5)
""",
}


@pytest.mark.long
@pytest.mark.filterwarnings("default")  # Those of Jupyter are not ours.
@pytest.mark.parametrize("name", sorted(p.name for p in FOLDER.glob("*.ipynb")))
def test_runs(name, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.fspath(FOLDER.parent))
    notebook = nbformat.read(FOLDER / name, as_version=4)
    nbformat.validate(notebook)
    (parameters,) = [
        cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])
    ]
    parameters.source = TINY[name]
    assert all(not cell.get("outputs") for cell in notebook.cells), "strip the outputs"
    options = {"timeout": 300, "kernel_name": "python3"}
    resources = {"metadata": {"path": os.fspath(tmp_path)}}
    NotebookClient(notebook, resources=resources, **options).execute()
    assert max(p.stat().st_size for p in tmp_path.rglob("*.png")) > 10_000
