"""The picture of the input transformations."""

import numpy as np

from uronet_jax.reports import figures, transformation_gallery


def test_shows_each_transformation_of_each_row(tmp_path, monkeypatch):
    shown, write = {}, figures.gallery

    def gallery(path, columns, labels, **options):
        shown.update(columns, labels=labels)
        write(path, columns, labels, **options)

    monkeypatch.setattr(figures, "gallery", gallery)
    path = tmp_path / "gallery.png"
    image = np.random.default_rng(0).uniform(size=(8, 8, 3)).astype(np.float32)
    transformation_gallery.draw_transformations(
        path,
        image,
        ["gaussian_noise", "bit_depth", "quilting"],
        other=image[::-1],
        description="d",
    )
    columns = ["", "gaussian\nnoise", "bit\ndepth", "quilting", "labels"]
    assert list(shown) == columns
    inputs = shown[""]
    assert len(shown["labels"]) == len(inputs) == 3
    np.testing.assert_array_equal(inputs[0], image)
    assert np.all(np.abs(inputs[1:] - image).max(axis=(1, 2, 3)) > 0.1)
    np.testing.assert_allclose(shown["bit\ndepth"], np.round(7 * inputs) / 7, atol=1e-6)
    assert figures.description_of(path) == "d"
