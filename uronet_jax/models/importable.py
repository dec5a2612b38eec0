"""Which networks have weights elsewhere, and the images that they take."""

from typing import NamedTuple

from uronet_jax.batches import known_name
from uronet_jax.models.inputs import MOBILENET_V1, Preprocessing
from uronet_jax.models.pytorch_layouts import FAMILIES

# Name in `CLASSIFIERS` -> how images were made for its published weights.
PREPROCESSING: dict[str, Preprocessing] = {
    **{name: family.preprocessing for family in FAMILIES for name in family.names},
    "mobilenet_v1": MOBILENET_V1,
}


def preprocessing(name: str) -> Preprocessing:
    """Returns how images were made for the published weights of a network.

    Args:
        name: One of `CLASSIFIERS` that has such weights, a key of `PREPROCESSING`.

    Raises:
        ValueError: If there are none. Such a network takes the statistics of the data
            that it is trained on.
    """
    return PREPROCESSING[known_name("network with weights", name, PREPROCESSING)]


class Importable(NamedTuple):
    """A family of networks whose weights are read, and the images that they take.

    Attributes:
        family: What it is called.
        names: What `CLASSIFIERS` calls its networks.
        smallest: Least height and width in pixels.
        source: Whose names of weights are known.
        preprocessing: How its images are made.
    """

    family: str
    names: tuple[str, ...]
    smallest: int
    source: str
    preprocessing: Preprocessing


def list_importable() -> list[Importable]:
    """Returns what networks `load_classifier` makes of PyTorch's weights."""
    return [
        Importable(x.title, x.names, x.network.smallest, x.source, x.preprocessing)
        for x in FAMILIES
    ]
