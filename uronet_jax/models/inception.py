"""Inception V3 for photographs (Szegedy et al., CVPR 2016).

As torchvision has it, without its second head, which only training uses, and without
dropout. Layers have torchvision's names.
"""

from collections.abc import Iterator
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from uronet_jax.models import layers


class Filters(NamedTuple):
    """How many filters a convolution has, and their size."""

    features: int
    size: int | tuple[int, int] = 1


_ACROSS, _DOWN = (1, 7), (7, 1)
# The last step of a branch may be two convolutions, laid beside each other.
Branch = tuple[Filters | tuple[Filters, Filters], ...]


def _small(pooled: int) -> dict[str, Branch]:
    return {
        "branch1x1": (Filters(64),),
        "branch5x5": (Filters(48), Filters(64, 5)),
        "branch3x3dbl": (Filters(64), Filters(96, 3), Filters(96, 3)),
        "branch_pool": (Filters(pooled),),
    }


def _long(inner: int) -> dict[str, Branch]:
    across, down = Filters(inner, _ACROSS), Filters(inner, _DOWN)
    last = Filters(192, _ACROSS)
    return {
        "branch1x1": (Filters(192),),
        "branch7x7": (Filters(inner), across, Filters(192, _DOWN)),
        "branch7x7dbl": (Filters(inner), down, across, down, last),
        "branch_pool": (Filters(192),),
    }


def _wide() -> dict[str, Branch]:
    both = Filters(384, (1, 3)), Filters(384, (3, 1))
    return {
        "branch1x1": (Filters(320),),
        "branch3x3": (Filters(384), both),
        "branch3x3dbl": (Filters(448), Filters(384, 3), both),
        "branch_pool": (Filters(192),),
    }


# Convolutions before the blocks: strides and padding, and whether a pool follows.
_STEM = {
    "Conv2d_1a_3x3": (Filters(32, 3), {"strides": 2, "padding": 0}, False),
    "Conv2d_2a_3x3": (Filters(32, 3), {"padding": 0}, False),
    "Conv2d_2b_3x3": (Filters(64, 3), {}, True),
    "Conv2d_3b_1x1": (Filters(80), {}, False),
    "Conv2d_4a_3x3": (Filters(192, 3), {"padding": 0}, True),
}
# Block -> its branches. A block that has no `branch_pool` halves the resolution.
_BLOCKS: dict[str, dict[str, Branch]] = {
    "Mixed_5b": _small(32),
    "Mixed_5c": _small(64),
    "Mixed_5d": _small(64),
    "Mixed_6a": {
        "branch3x3": (Filters(384, 3),),
        "branch3x3dbl": (Filters(64), Filters(96, 3), Filters(96, 3)),
    },
    "Mixed_6b": _long(128),
    "Mixed_6c": _long(160),
    "Mixed_6d": _long(160),
    "Mixed_6e": _long(192),
    "Mixed_7a": {
        "branch3x3": (Filters(192), Filters(320, 3)),
        "branch7x7x3": (
            Filters(192),
            Filters(192, _ACROSS),
            Filters(192, _DOWN),
            Filters(192, 3),
        ),
    },
    "Mixed_7b": _wide(),
    "Mixed_7c": _wide(),
}


def _names(branch: str, steps: Branch) -> list[list[str]]:
    """Returns the names of the convolutions of each step of a branch."""
    if len(steps) == 1:
        return [[branch]]
    return [
        [f"{branch}_{number}"]
        if isinstance(step, Filters)
        else [f"{branch}_{number}{letter}" for letter in "ab"]
        for number, step in enumerate(steps, 1)
    ]


def inception_layers() -> Iterator[tuple[str, ...]]:
    """Yields the path of every convolution with its batch norm."""
    for name in _STEM:
        yield (name,)
    for block, branches in _BLOCKS.items():
        for branch, steps in branches.items():
            for names in _names(branch, steps):
                for name in names:
                    yield block, name


class ConvNorm(nn.Module):
    """A convolution, batch norm and a rectifier.

    Attributes:
        step: How many filters, and their size.
        strides: Step along height and width.
        padding: See `layers.find_padding`.
        dtype: Computation type.
    """

    step: Filters
    strides: int = 1
    padding: str | int = "half"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Maps `[B, H, W, I]` to `[B, H', W', features]`."""
        x = layers.Conv(
            *self.step, self.strides, self.padding, use_bias=False, dtype=self.dtype
        )(x)
        x = layers.batch_norm(x, train=train, dtype=self.dtype, epsilon=1e-3)
        return nn.relu(x)


class InceptionBlock(nn.Module):
    """Branches that are laid beside each other.

    Attributes:
        block: A key of `_BLOCKS`.
        border_counts: See `layers.overlapping_mean_pool`.
        dtype: Computation type.
    """

    block: str
    border_counts: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Maps `[B, H, W, I]` to `[B, H', W', O]`."""
        branches = _BLOCKS[self.block]
        halves = "branch_pool" not in branches
        found = []
        for branch, steps in branches.items():
            y = x
            if branch == "branch_pool":
                y = layers.overlapping_mean_pool(x, border_counts=self.border_counts)
            for number, names in enumerate(_names(branch, steps), 1):
                last = halves and number == len(steps)
                options = {"strides": 2, "padding": 0} if last else {}
                step = steps[number - 1]
                parts = [step] if isinstance(step, Filters) else step
                convs = [
                    ConvNorm(part, dtype=self.dtype, name=name, **options)
                    for name, part in zip(names, parts, strict=True)
                ]
                y = jnp.concatenate([conv(y, train=train) for conv in convs], axis=-1)
            found.append(y)
        if halves:
            found.append(layers.overlapping_max_pool(x, padding=0))
        return jnp.concatenate(found, axis=-1)


class InceptionV3(layers.Classifier):
    """Inception V3: blocks of branches with kernels up to 7, also of one row.

    Attributes:
        border_counts: Whether means over 3x3 pixels count the zeros around the image,
            as torchvision has it; Keras' weights are for means without.
    """

    border_counts: bool = True
    smallest: ClassVar[int] = 75  # Else nothing is left behind the last halving.

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        """Returns logits `[B, num_classes]` of images `[B, H, W, C]` in `[0, 1]`."""
        x = self.normalized(images)
        for name, (step, options, pooled) in _STEM.items():
            x = ConvNorm(step, dtype=self.dtype, name=name, **options)(x, train=train)
            x = layers.overlapping_max_pool(x, padding=0) if pooled else x
        for block in _BLOCKS:
            x = InceptionBlock(block, self.border_counts, self.dtype, name=block)(
                x, train=train
            )
        return self.logits(x)
