"""How much noise a classifier stands: the median distance to its border along noise.

E. Rusak et al., *A simple way to make neural networks robust against diverse image
corruptions*, ECCV 2020, equation 4 (eps*), with the search of its public code. Every
image has one direction of noise and moves along it, clipped to `[0, 1]`.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from statistics import mean, stdev
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from uronet_jax import batches, sharding
from uronet_jax.attacks import balls
from uronet_jax.attacks.loop import iterate
from uronet_jax.evaluation.judge import Judge
from uronet_jax.models import NoiseGenerator, learned_noise
from uronet_jax.progress import progress_bar
from uronet_jax.training.state import to_float

# How far the coarse search goes after its steps: eleven, from an image itself on.
_COARSE = tuple(1.8**b for b in range(11))


def gaussian_direction(key: jax.Array, index: jax.Array, shape: Any) -> jax.Array:
    """Draws `N(0, 1)`, `[B, *shape]`, by key and index `[B]` of the image."""
    return _draw(jax.random.normal, key, index, shape)


def uniform_direction(key: jax.Array, index: jax.Array, shape: Any) -> jax.Array:
    """Draws `U(-1, 1)`, `[B, *shape]`, by key and index `[B]` of the image."""
    draw = functools.partial(jax.random.uniform, minval=-1.0, maxval=1.0)
    return _draw(draw, key, index, shape)


def _draw(draw, key, index, shape):
    size = math.prod(shape)
    noise = batches.per_image(lambda k: draw(k, (size,), jnp.float32), key, index)
    return noise.reshape(-1, *shape)


NOISE_DIRECTIONS = {"gaussian": gaussian_direction, "uniform": uniform_direction}


@dataclasses.dataclass(frozen=True)
class _Learned:
    """Equal ones share a program, whatever the parameters."""

    generator: NoiseGenerator

    def __call__(self, params, key, index, shape):
        return learned_noise(self.generator, params, key, index, shape)


def learned_direction(generator: NoiseGenerator, params: Any) -> Partial:
    """Returns the direction that a generator with these parameters draws."""
    return Partial(_Learned(generator), params)


class _Search(NamedTuple):
    """What does not change during a search: `[B, H, W, C]`, labels `[B]`."""

    images: jax.Array
    noise: jax.Array
    labels: jax.Array
    variables: Any


class _State(NamedTuple):
    """Where a search is, all `[B]`: the next radius, and how much it changes then."""

    radius: jax.Array
    change: jax.Array
    distance: jax.Array
    finite: jax.Array
    active: jax.Array


def noise_distances(
    judge: Judge,
    classify: Callable[[Any, jax.Array], jax.Array],
    variables: Any,
    direction: Callable[..., jax.Array] = gaussian_direction,
    *,
    seed: int = 0,
    draw: int = 0,
    steps: int = 40,
) -> np.ndarray:
    """Returns how far every image is from being misclassified along its noise.

    Candidates are `clip(x + radius n)`, where `n` is the noise at length 1. The coarse
    search tries the radii 0, 1, 1.8, ..., 1.8^9 up to the first that is wrong, or goes
    on to 1.8^10. From there the radius changes by its half, quarter, ...: less after a
    wrong candidate, more after a right one. The distance is the L2 norm, *after
    clipping*, of the last wrong candidate of the bisection. What is wrong along a ray
    need not stay wrong farther out: it is a border that the search meets, not
    necessarily the nearest.

    One program serves any number of images and all directions. A search ends early when
    no radius changes any more in float32, which alters no distance.

    Args:
        judge: Holds the images, the batch size and the mesh.
        classify: `(variables, images) -> logits [B, K]`, hashable, each image on its
            own and without randomness. Equal ones share a program.
        variables: Of the classifier, on the mesh.
        direction: `(key, index, shape) -> noise [B, *shape]` of any length, where
            `shape` is `(H, W, C)`; a module-level function such as those of
            `NOISE_DIRECTIONS`, or a `Partial` with its arrays, see `learned_direction`.
        seed: Of the noise. Image `i` always gets the same.
        draw: Another number is another draw of it.
        steps: Of the bisection. The paper has 40.

    Returns:
        float64 `[N]`, in units of the intensities: 0 where an image is wrong already,
        infinite where no candidate is wrong. (The paper's code has the number of
        elements in place of infinity.)

    Raises:
        ValueError: If an argument, the shape of the noise or that of the logits is
            wrong, before any search; if noise or logits are not finite, with the
            numbers of the images.
    """
    _check(classify, [direction], seed, draw, steps)
    mesh = judge.mesh
    begin, fetch = _compile_begin(mesh), _compile_fetch(mesh)
    if not isinstance(direction, Partial):
        direction = Partial(direction)
    key = jax.random.fold_in(jax.random.key(seed), draw)
    direction, key = sharding.replicate((direction, key), mesh)
    found, waiting = [], None
    for batch in judge.batches():
        search, state = begin(direction, key, batch)
        search = search._replace(variables=variables)
        state = iterate(_step, classify, search, state, len(_COARSE) + steps)
        # The devices are busy with this batch while the one before is fetched.
        if waiting is not None:
            found.append(jax.device_get(waiting))
        waiting = fetch(state.distance, state.finite, batch["mask"])
    found.append(jax.device_get(waiting))
    distance, finite, mask = map(np.concatenate, zip(*found, strict=True))
    distance, bad = distance[mask], np.flatnonzero(~finite[mask])
    if bad.size:
        raise ValueError(
            f"noise or logits of {bad.size} images are not finite, the first "
            f"{bad[:5].tolist()}: a network that overflows cannot be judged"
        )
    return distance.astype(np.float64)


@functools.cache
def _compile_begin(mesh):
    def begin(direction, key, batch):
        images = to_float(batch["image"])
        noise = direction(key, batch["index"], images.shape[1:])
        if noise.shape != images.shape or not jnp.issubdtype(noise.dtype, jnp.floating):
            raise ValueError(
                f"a direction must return floating-point noise {list(images.shape)} "
                f"like the images: {noise.dtype}{list(noise.shape)}"
            )
        finite = jnp.isfinite(noise).all(axis=(1, 2, 3))
        noise = balls.direction(noise.astype(images.dtype), "l2")
        zero = jnp.zeros(len(images), images.dtype)
        state = _State(zero, zero, zero + jnp.inf, finite, jnp.ones_like(finite))
        return _Search(images, noise, batch["label"], None), state

    return sharding.compile_split(begin, mesh)


@functools.cache
def _compile_fetch(mesh):
    return sharding.compile_replicated(lambda *arrays: arrays, mesh)


def _step(classify, search, i, state):
    """Tries the next candidate of every image; see `attacks.loop`."""
    images = search.images
    moved = images + balls.expand(state.radius, images) * search.noise
    candidates = jnp.clip(moved, 0.0, 1.0)
    logits = classify(search.variables, candidates)
    if logits.ndim != 2 or len(logits) != len(images) or logits.shape[-1] < 2:
        raise ValueError(
            f"the classifier must return logits [{len(images)}, classes], two classes "
            f"or more: {list(logits.shape)}"
        )
    wrong = jnp.argmax(logits, axis=-1) != search.labels
    last = len(_COARSE) - 1
    coarse = i <= last

    farther = jnp.asarray(_COARSE, images.dtype)[jnp.minimum(i, last)]
    bisected = state.radius + jnp.where(wrong, -state.change, state.change)
    radius = jnp.where(coarse, jnp.where(wrong, state.radius, farther), bisected)
    size = balls.size(candidates - images, "l2")
    return _State(
        radius,
        jnp.where(coarse, radius, state.change) / 2,
        jnp.where(wrong & ~coarse, size, state.distance),
        state.finite & jnp.isfinite(logits).all(axis=-1),
        coarse | (radius != state.radius),
    )


def noise_robustness(
    judge: Judge,
    classify: Callable[[Any, jax.Array], jax.Array],
    variables: Any,
    noises: Mapping[str, Any] = NOISE_DIRECTIONS,
    *,
    seed: int = 0,
    steps: int = 40,
    progress: bool = False,
) -> list[dict[str, Any]]:
    """Measures eps*, the median of `noise_distances`, for several kinds of noise.

    Args:
        judge: See `noise_distances`, as for the following.
        classify: Likewise.
        variables: Likewise.
        noises: Name -> direction, or a sequence of directions over which eps* is
            averaged: the paper trains four generators. Each of a sequence has draws of
            its own.
        seed: Of the noise.
        steps: Of the bisection.
        progress: Whether there is a progress bar.

    Returns:
        One row per noise, fit for JSON:

        - `noise`, `num_images`, and `clean_accuracy`, a fraction;
        - `eps_star`: median L2 distance over all images, those included that are wrong
          already, at 0; None if it is infinite. Of a sequence the mean over the
          directions for which it is finite, since one that fools few images, such as
          that of a generator that learned nothing, says nothing good of the classifier;
        - `infinite`: whether it is: half of the images or more are never fooled, in
          a sequence for every direction;
        - `never_fooled`: share of the images that no candidate fools; of a sequence
          the mean;
        - of a sequence also `eps_stars`, one per direction, None where infinite,
          `never_fooled_each`, likewise, and `eps_star_std`, the sample standard
          deviation (`ddof=1`; the paper does not say which it has) of those that are
          finite; None for fewer than two.

    Raises:
        ValueError: See `noise_distances`; if there is no noise, or a sequence is empty.
    """
    groups = {
        name: noise if isinstance(noise, Sequence) else (noise,)
        for name, noise in noises.items()
    }
    if not groups or not all(groups.values()):
        empty = [name for name, group in groups.items() if not group]
        raise ValueError(f"need a direction for each noise: none for {empty or 'any'}")
    directions = [direction for group in groups.values() for direction in group]
    _check(classify, directions, seed, 0, steps)
    rows = []
    with progress_bar(
        len(directions), description="noise", unit="direction", shown=progress
    ) as bar:
        for name, group in groups.items():
            distances = []
            for draw, direction in enumerate(group):
                options = {"seed": seed, "draw": draw, "steps": steps}
                distances.append(
                    noise_distances(judge, classify, variables, direction, **options)
                )
                bar.update()
            rows.append(_row(name, distances, isinstance(noises[name], Sequence)))
    return rows


def _row(name, distances, several):
    medians = [float(np.median(x)) for x in distances]
    finite = [x for x in medians if math.isfinite(x)]
    never_fooled = [float(np.mean(np.isinf(x))) for x in distances]
    row = {
        "noise": name,
        "num_images": len(distances[0]),
        # An image that is right has to move, so its distance is above 0.
        "clean_accuracy": float(np.mean(distances[0] > 0)),
        "eps_star": mean(finite) if finite else None,
        "infinite": not finite,
        "never_fooled": mean(never_fooled),
    }
    if several:
        row["eps_star_std"] = stdev(finite) if len(finite) > 1 else None
        row["eps_stars"] = [x if math.isfinite(x) else None for x in medians]
        row["never_fooled_each"] = never_fooled
    return row


def eps_star_text(row: Mapping[str, Any], number_format: str = ".1f") -> str:
    """Returns eps* of a row of `noise_robustness` as text.

    Such as `39.0`, `15.7 ± 0.6` of several generators, `15.7 ± 0.6 (1 of 4 infinite)`
    or `infinite`.
    """
    if row["infinite"]:
        return "infinite"
    text, spread = format(row["eps_star"], number_format), row.get("eps_star_std")
    text = text if spread is None else f"{text} ± {spread:{number_format}}"
    each = row.get("eps_stars", ())
    count = sum(x is None for x in each)
    return f"{text} ({count} of {len(each)} infinite)" if count else text


def _check(classify, directions, seed, draw, steps):
    for name, value, *bounds in (
        ("seed", seed, 0, 2**32 - 1),
        ("draw", draw, 0),
        ("steps", steps, 1, 1000),
    ):
        batches.check_whole(name, value, *bounds)
    if not callable(classify) or not _is_hashable(classify):
        raise ValueError(
            "the classifier must be a hashable function (variables, images) -> logits: "
            f"{classify!r}"
        )
    for direction in directions:
        if not callable(direction):
            raise ValueError(
                "a direction must be a function (key, index, shape) -> noise: "
                f"{direction!r}; choose from NOISE_DIRECTIONS, or see learned_direction"
            )


def _is_hashable(value):
    try:
        hash(value)
    except TypeError:
        return False
    return True
