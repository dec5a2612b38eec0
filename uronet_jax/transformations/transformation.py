"""What every input transformation is."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from uronet_jax.batches import check_batch, check_number, check_whole
from uronet_jax.specs import known_name


@dataclasses.dataclass(frozen=True, eq=False)
class Transformation:
    """An input transformation and what there is to say of it.

    Attributes:
        function: `(images, **parameters) -> images`; of one with data `(images, data,
            **parameters)`, of a random one `(images, key, index, **parameters)`.
        parameters: Name -> usual value. A text is the path of a file.
        ranges: Name -> smallest and largest value, of numbers.
        text: What it does, for people.
        source: Paper.
        gradient: `exact`, or `straight-through` where its own is zero or undefined.
        random: Whether it takes a typed key and the number of each image.
        load: Of one with data, such as filters: `(**files) -> data`, a pytree of
            arrays, given the parameters that are texts; the function gets the others.
    """

    function: Callable[..., jax.Array]
    parameters: Mapping[str, Any]
    ranges: Mapping[str, tuple[float, float]]
    text: str
    source: str
    gradient: str = "exact"
    random: bool = False
    load: Callable[..., Any] | None = None

    @property
    def files(self) -> list[str]:
        """Names of the parameters that are paths of files."""
        return [
            name for name, usual in self.parameters.items() if isinstance(usual, str)
        ]

    def check(self, parameters: Mapping[str, Any]) -> None:
        """Raises ValueError if a parameter is unknown or out of range."""
        for name, value in parameters.items():
            known_name("parameter", name, self.parameters)
            if name in self.files:
                if not isinstance(value, str):
                    raise ValueError(f"{name} must be the path of a file: {value!r}")
                continue
            whole = isinstance(self.parameters[name], int)
            (check_whole if whole else check_number)(name, value, *self.ranges[name])

    def __call__(
        self,
        images: jax.Array,
        *,
        data: Any = None,
        key: jax.Array | None = None,
        index: jax.Array | None = None,
        **parameters: Any,
    ) -> jax.Array:
        """Returns transformed images, of the given type; computes in float32.

        Args:
            images: `[B, H, W, C]`, float, in `[0, 1]`, which is not looked at: in
                a chain they may be what a network has made.
            data: What `load` returned, of one with data.
            key: Typed PRNG key, of a random one.
            index: Integer `[B]`, the number of each image, of a random one.
            **parameters: Those numbers that are not to have their usual values.
        """
        self.check(parameters)
        check_batch(images, index if self.random else None)
        dtype, images = images.dtype, jnp.asarray(images, jnp.float32)
        numbers = {**self.parameters, **parameters}
        for name in self.files:
            del numbers[name]
        given = (images,) if self.load is None else (images, data)
        if self.random:
            given = *given, key, index
        return self.function(*given, **numbers).astype(dtype)
