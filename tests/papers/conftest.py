"""What tests of the papers share."""

import pytest

from uronet_jax.papers.pages import pictures
from uronet_jax.reports import figures


@pytest.fixture(autouse=True)
def no_transformations_are_drawn(monkeypatch):
    """Each is compiled for it: a black square does where pages are written."""

    def draw(path, image, names, *, other, description):
        figures.gallery(path, {"": 0 * image[None]}, description=description)

    monkeypatch.setattr(pictures, "draw_transformations", draw)
