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

settings = quickstart.Settings(
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
    "02_corruptions.ipynb": """
side = 32
names = ("gaussian_noise", "fog", "jpeg_compression")
severities = (1, 5)
""",
}


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
    client = NotebookClient(
        notebook,
        timeout=300,
        kernel_name="python3",
        resources={"metadata": {"path": os.fspath(tmp_path)}},
    )
    client.execute()
    assert (tmp_path / "gallery.png").stat().st_size > 10_000
