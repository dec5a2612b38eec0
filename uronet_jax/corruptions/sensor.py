"""Faults of a camera's sensor: bands and dead columns."""

import functools

import jax
import jax.numpy as jnp

from uronet_jax import batches
from uronet_jax.corruptions.operation import (
    Constants,
    Operation,
    one_number,
    whole_column,
)


def _apply_banding(key, images, amplitude, shared, index):
    draw = functools.partial(jax.random.uniform, shape=(2,), dtype=jnp.float32)
    phase, waves = jnp.moveaxis(batches.per_image(draw, key, index), -1, 0)
    rows = jnp.arange(images.shape[1]) / images.shape[1]
    turns = (2.0 + 4.0 * waves)[:, None] * rows[None, :] + phase[:, None]
    wave = amplitude * jnp.sin(2.0 * jnp.pi * turns)
    return images + wave[:, :, None, None]


banding = Operation(
    """Adds horizontal bands, as of a sensor that is read out under flickering light.

    `clip(x + amplitude * sin(2 pi (n y / H + phase)))` in row y, the same for all
    columns and channels. The number of waves `n`, in `[2, 6)`, and the phase are
    uniform and differ between images. Differentiable in `images`.

    Parameters:
        amplitude: Of the wave, in `[0, 1]`, in units of the intensity range.
    """,
    one_number("amplitude", 0.0, 1.0),
    _apply_banding,
    formula="x + amplitude sin(2 pi (n row / H + phase)), n from U(2, 6)",
    source="this project",
    example={"amplitude": 0.06},
)


def _apply_dead_columns(key, images, count, shared, index):
    draw = functools.partial(jax.random.permutation, x=images.shape[2])
    dead = batches.per_image(draw, key, index) < count
    return jnp.where(dead[:, None, :, None], 0.0, images)


dead_columns = Operation(
    """Blackens whole columns, as of a sensor with broken read-out lines.

    Gradients pass through the other columns.

    Parameters:
        count: How many columns of each image, drawn without replacement; whole
            number, from 0 to the width.
    """,
    lambda shape, settings: Constants(whole_column(settings, "count", 0, shape[1])),
    _apply_dead_columns,
    formula="count random columns become black",
    source="this project",
    example={"count": 3},
)
