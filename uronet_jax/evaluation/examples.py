"""A few images of an evaluation to look at, one for each degradation."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from uronet_jax.defense import Defense, DefenseFunction
from uronet_jax.evaluation.judge import CLEAN_ENTRY, Entry, Judge

_BATCH = 16


class ExamplePictures(NamedTuple):
    """Images of an evaluation, `[N, H, W, C]` each.

    Attributes:
        entries: What was done to each, noise and severity.
        clean: As in the data set.
        degraded: As the defence was shown them.
        purified: What it made of them; None without a purifier.
        noise: What it removed, in `[-1, 1]`; likewise.
    """

    entries: list[tuple[str, int]]
    clean: np.ndarray
    degraded: np.ndarray
    purified: np.ndarray | None
    noise: np.ndarray | None


def example_pictures(
    judge: Judge,
    defense: DefenseFunction,
    variables: Any,
    entries: Sequence[Entry],
    seed: int = 0,
) -> ExamplePictures:
    """Returns the first images, each under another degradation, as they were judged.

    Args:
        judge: Holds the images.
        defense: What is judged.
        variables: Of its models.
        entries: The degradations; of each noise the middle one is taken.
        seed: Of random purifiers.
    """
    of_noise: dict[str, list[Entry]] = {}
    for entry in entries:
        of_noise.setdefault(entry.noise, []).append(entry)
    chosen = [found[len(found) // 2] for found in of_noise.values()]
    numbers = [i % len(judge) for i in range(len(chosen))]
    clean = judge.pictures(CLEAN_ENTRY, max(numbers) + 1)[numbers]
    degraded = np.stack(
        [
            judge.pictures(entry, number + 1)[number]
            for entry, number in zip(chosen, numbers, strict=True)
        ]
    )
    purified = noise = None
    if defense.purifier is not None:
        shown = Defense(
            defense.purifier,
            defense.detector,
            defense.classify,
            variables,
            image_shape=clean.shape[1:],
            inputs=defense.inputs,
            batch_size=min(_BATCH, len(chosen)),
        )(degraded, jax.random.key(seed))
        purified, noise = shown.clean, shown.noise
    names = [(entry.noise, entry.severity) for entry in chosen]
    return ExamplePictures(names, clean, degraded, purified, noise)
