"""Which networks have weights elsewhere, and the images that they take."""

from typing import NamedTuple

from uronet_jax.batches import known_name
from uronet_jax.models.inputs import MOBILENET_V1, Preprocessing
from uronet_jax.models.keras_layouts import KERAS_FAMILIES
from uronet_jax.models.pytorch_layouts import FAMILIES

# Name in `CLASSIFIERS` -> how images were made for its published weights.
PREPROCESSING: dict[str, Preprocessing] = {
    **{name: family.preprocessing for family in FAMILIES for name in family.names},
    "mobilenet_v1": MOBILENET_V1,
}
# Likewise for Keras' weights.
KERAS_PREPROCESSING: dict[str, Preprocessing] = {
    name: family.preprocessing for family in KERAS_FAMILIES for name in family.names
}


def preprocessing(name: str, *, keras: bool = False) -> Preprocessing:
    """Returns how images were made for the published weights of a network.

    Args:
        name: One of `CLASSIFIERS` that has such weights, a key of `PREPROCESSING`.
        keras: Whether for Keras' weights; then a key of `KERAS_PREPROCESSING`.

    Raises:
        ValueError: If there are none. Such a network takes the statistics of the data
            that it is trained on.
    """
    table = KERAS_PREPROCESSING if keras else PREPROCESSING
    return table[known_name("network with weights", name, table)]


class Importable(NamedTuple):
    """A family of networks whose weights are read, and the images that they take.

    Attributes:
        library: `pytorch` or `keras`.
        family: What it is called.
        names: What `CLASSIFIERS` calls its networks.
        smallest: Least height and width in pixels.
        source: Whose names of weights are known.
        preprocessing: How its images are made.
    """

    library: str
    family: str
    names: tuple[str, ...]
    smallest: int
    source: str
    preprocessing: Preprocessing


def list_importable() -> list[Importable]:
    """Returns what networks `load_classifier` makes of other libraries' weights."""
    return [
        Importable(
            library, x.title, x.names, x.network.smallest, x.source, x.preprocessing
        )
        for library, families in (("pytorch", FAMILIES), ("keras", KERAS_FAMILIES))
        for x in families
    ]
