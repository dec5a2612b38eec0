"""What every input transformation is."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from uronet_jax.batches import check_number, check_whole


class Transformation(NamedTuple):
    """An input transformation and what there is to say of it.

    Attributes:
        function: `(images, **parameters) -> images`; of a random one
            `(images, key, index, **parameters)`.
        parameters: Name -> usual value.
        ranges: Name -> smallest and largest value.
        text: What it does, for people.
        source: Paper.
        gradient: `exact`, or `straight-through` where its own is zero or undefined.
        random: Whether it takes a typed key and the number of each image.
    """

    function: Callable[..., jax.Array]
    parameters: Mapping[str, Any]
    ranges: Mapping[str, tuple[float, float]]
    text: str
    source: str
    gradient: str = "exact"
    random: bool = False

    def check(self, parameters: Mapping[str, Any]) -> None:
        """Raises ValueError if a parameter is unknown or out of range."""
        for name, value in parameters.items():
            if name not in self.parameters:
                known = ", ".join(self.parameters)
                raise ValueError(f"unknown parameter {name!r}: choose from {known}")
            whole = isinstance(self.parameters[name], int)
            (check_whole if whole else check_number)(name, value, *self.ranges[name])

    def __call__(
        self,
        images: jax.Array,
        *,
        key: jax.Array | None = None,
        index: jax.Array | None = None,
        **parameters: Any,
    ) -> jax.Array:
        """Returns transformed images.

        Args:
            images: `[B, H, W, C]`, float, in `[0, 1]`.
            key: Typed PRNG key, of a random one.
            index: Integer `[B]`, the number of each image, of a random one.
            **parameters: Those that are not to have their usual values.
        """
        self.check(parameters)
        parameters = {**self.parameters, **parameters}
        if self.random:
            return self.function(images, key, index, **parameters)
        return self.function(images, **parameters)
