"""Purifiers: what stands before a classifier and makes a clean picture of an image.

One contract for all, trained or not. A purifier is a hashable function

    purifier(variables, images, key=None, index=None) -> Separation

of its variables (None if it has none), images `[B, H, W, C]` in `[0, 1]`, and, if it is
random, a typed key and the number `[B]` of each image. Two that are equal share
compiled programs. Modules of Flax and `transformations` become purifiers by
`as_purifier`; several in a row are one (`chain`).
"""

import dataclasses
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.interpreters.partial_eval import dce_jaxpr

from uronet_jax.batches import check_key
from uronet_jax.models import Separation
from uronet_jax.specs import known_name, parse_parameters
from uronet_jax.transformations import TRANSFORMATIONS

# Folded into every key, and no image's number: else a random purifier that is given
# the key of a degradation would draw its very noise once more.
_OWN_DRAWS = 2**32 - 1


def own_key(key: jax.Array, index: jax.Array | None = None) -> jax.Array:
    """Returns the key of a purifier's draws, another one than that of the noise.

    Args:
        key: Typed PRNG key, that of a degradation too.
        index: Numbers of the images in their set, `[B]`: batches of one set differ in
            these, not in the key.
    """
    check_key(key)
    key = jax.random.fold_in(key, _OWN_DRAWS)
    return key if index is None else jax.random.fold_in(key, index[0])


class Purifier(Protocol):
    """See the head of this module."""

    def __call__(
        self,
        variables: Any,
        images: jax.Array,
        key: jax.Array | None = None,
        index: jax.Array | None = None,
    ) -> Separation:
        """Returns the clean picture and the noise pattern, `[B, H, W, C]` each."""
        ...


@dataclasses.dataclass(frozen=True)
class NetworkPurifier:
    """A Flax module that returns a `Separation`, or clean pictures alone.

    A random one draws from its stream `defense` (`self.make_rng("defense")`).
    """

    module: nn.Module

    def __call__(self, variables, images, key=None, index=None) -> Separation:
        """Applies the module to its variables."""
        key = None if key is None else own_key(key, index)
        rngs = None if key is None else {"defense": key}
        found = self.module.apply(variables, images, rngs=rngs)
        return found if isinstance(found, Separation) else _separate(images, found)


@dataclasses.dataclass(frozen=True)
class TransformationPurifier:
    """An input transformation by name.

    Attributes:
        name: A key of `TRANSFORMATIONS`.
        parameters: The numbers that are not usual.
        files: The paths that are not usual; they make no other program.
    """

    name: str
    parameters: tuple[tuple[str, Any], ...] = ()
    files: tuple[tuple[str, str], ...] = dataclasses.field(default=(), compare=False)

    def load(self) -> Any:
        """Returns its variables, arrays from files; None if it has none.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If no file is named and it needs one, or one is damaged or holds
                something else.
        """
        load = TRANSFORMATIONS[self.name].load
        return None if load is None else load(**dict(self.files))

    def __call__(self, variables, images, key=None, index=None) -> Separation:
        """Transforms the images; `variables` are what `load` returns."""
        transformation = TRANSFORMATIONS[self.name]
        if transformation.load is not None and variables is None:
            raise ValueError(
                f"the purifier {self.name} has variables: give it those that its "
                "method load() returns"
            )
        if transformation.random and key is None:
            raise ValueError(f"the purifier {self.name} is random: give it a key")
        if transformation.random:
            check_key(key)
            key = jax.random.fold_in(key, _OWN_DRAWS)
            index = jnp.arange(len(images)) if index is None else index
        clean = transformation(
            images, data=variables, key=key, index=index, **dict(self.parameters)
        )
        return _separate(images, clean)


@dataclasses.dataclass(frozen=True)
class Chain:
    """Purifiers one after the other; `variables` holds those of each."""

    stages: tuple[Purifier, ...]

    def __call__(self, variables, images, key=None, index=None) -> Separation:
        """Purifies the pictures that the stage before has made."""
        if variables is None or len(variables) != len(self.stages):
            raise ValueError(
                f"the variables of a chain are {len(self.stages)}, those of each "
                "purifier or None"
            )
        clean = images
        for i, (stage, own) in enumerate(zip(self.stages, variables, strict=True)):
            stage_key = None if key is None else jax.random.fold_in(key, i)
            clean = stage(own, clean, stage_key, index).clean
        return _separate(images, clean)


def _separate(images: jax.Array, clean: jax.Array) -> Separation:
    return Separation(clean, images - clean)


def as_purifier(value: Any) -> Purifier | None:
    """Returns a Flax module as a purifier; a purifier, and None, as they are.

    Anything that cannot be called is a `ValueError`.
    """
    if value is not None and not callable(value):
        raise ValueError(
            f"{value!r} is no purifier: of a name parse_purifier makes one, of the "
            "folder of a run load_purifier"
        )
    return NetworkPurifier(value) if isinstance(value, nn.Module) else value


def random_stages(purifier: Purifier | None, variables: Any, images: Any) -> list[str]:
    """Returns the names of what draws in a purifier; none if it is not random.

    A transformation says so itself; anything else is random if it uses a key it is
    given.

    Args:
        purifier: Or None.
        variables: Of it.
        images: `[B, H, W, C]`, or what has their shape and dtype; nothing is computed.
    """
    if isinstance(purifier, Chain):
        parts = zip(purifier.stages, variables, strict=True)
        return [x for stage, own in parts for x in random_stages(stage, own, images)]
    if isinstance(purifier, TransformationPurifier):
        return [purifier.name] if TRANSFORMATIONS[purifier.name].random else []
    if purifier is not None and _uses_key(purifier, variables, images):
        return ["the purifier"]
    return []


def _uses_key(purifier: Purifier, variables: Any, images: Any) -> bool:
    """Returns whether what a purifier makes depends on the key, by its program.

    What happens without a key does not tell: that may be an error or one fixed draw.
    """
    key = jax.random.key(0)
    traced = jax.make_jaxpr(lambda key, x: purifier(variables, x, key))(key, images)
    _, used = dce_jaxpr(traced.jaxpr, [True] * len(traced.jaxpr.outvars))
    return used[0]


def make_transformation(name: str, **parameters: Any) -> TransformationPurifier:
    """Returns an input transformation as a purifier.

    Args:
        name: A key of `TRANSFORMATIONS`.
        **parameters: Those that are not to have their usual values.

    Raises:
        ValueError: If the name or a parameter is unknown, or a value is out of range.
    """
    transformation = TRANSFORMATIONS[
        known_name("transformation", name, TRANSFORMATIONS)
    ]
    transformation.check(parameters)
    numbers, files = [], []
    for item in sorted(parameters.items()):
        (files if item[0] in transformation.files else numbers).append(item)
    return TransformationPurifier(name, tuple(numbers), tuple(files))


def chain(*stages: Purifier) -> Purifier:
    """Returns purifiers, one after the other, as one.

    Its variables are the tuple of theirs; those of a single one are its own.
    """
    stages = tuple(map(as_purifier, stages))
    if not stages:
        raise ValueError("a chain needs at least one purifier")
    return stages[0] if len(stages) == 1 else Chain(stages)


def parse_purifier(text: str) -> TransformationPurifier:
    """Reads `name` or `name:parameter=value,...`, such as `jpeg:quality=75`.

    Values are numbers, or paths without a comma, as in `quilting:patches=patches.npy`.

    Raises:
        ValueError: If the text has another form, or see `make_transformation`.
    """
    name = text.partition(":")[0].strip()
    files = TRANSFORMATIONS[name].files if name in TRANSFORMATIONS else []
    name, parameters = parse_parameters(text, "purifier", "jpeg:quality=75", files)
    return make_transformation(name, **parameters)
