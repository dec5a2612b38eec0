"""Certificates by randomised smoothing: radii within which no perturbation helps.

The smoothed classifier says of an image x what a defence f says most often of noisy
copies, `g(x) = argmax_c P(f(x + N(0, sigma^2)) = c)`. Where a class has at least the
probability p > 1/2, g says it everywhere within the L2 distance `sigma Phi^-1(p)` of x,
whatever f is: Cohen, Rosenfeld & Kolter, "Certified Adversarial Robustness via
Randomized Smoothing", ICML 2019. With a purifier in front of a classifier that never
saw noise this is the denoised smoothing of Salman et al., NeurIPS 2020.

The noise is not clipped: the theorem is about noise that does not depend on the image.
But f may begin by clipping what it gets to `[0, 1]`.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from statistics import NormalDist, mean
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

from uronet_jax import sharding
from uronet_jax.batches import check_number, check_whole
from uronet_jax.data.pipelines import evaluation_batches
from uronet_jax.data.sources import Subset
from uronet_jax.defense import DefenseFunction
from uronet_jax.evaluation.judge import as_float
from uronet_jax.evaluation.metrics import binomial_interval
from uronet_jax.progress import progress_bar
from uronet_jax.purifiers import Chain, NetworkPurifier, random_stages

_Rows = Sequence[Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class Smoothing:
    """How a defence is smoothed, and how sure a certificate is.

    Attributes:
        sigma: Deviation of the noise, above 0, in units of intensities in `[0, 1]`.
        num_selection: Noisy copies that choose the class (`n0` of the paper).
        num_samples: Further ones that bound its probability (`n`).
        alpha: Probability that the certificate of an image is wrong, in `(0, 1)`.

    Raises:
        ValueError: If a number is out of range.
    """

    sigma: float
    num_selection: int = 100
    num_samples: int = 10_000
    alpha: float = 0.001

    def __post_init__(self):
        """Checks the numbers."""
        check_number("sigma", self.sigma, above=0.0)
        check_whole("num_selection", self.num_selection, 1, 10**9)
        check_whole("num_samples", self.num_samples, 1, 10**9)
        check_number("alpha", self.alpha, above=0.0, below=1.0)


def probability_bound(successes: int, trials: int, alpha: float) -> float:
    """Returns the lower confidence bound of a probability, at level `1 - alpha`.

    The one-sided interval of Clopper & Pearson (Biometrika, 1934), exact, in float64.

    Args:
        successes: `0 .. trials`.
        trials: 1 or more.
        alpha: In `(0, 1)`.

    Raises:
        ValueError: If a number is out of range.
    """
    check_whole("trials", trials, 1)
    check_whole("successes", successes, 0, trials)
    check_number("alpha", alpha, above=0.0, below=1.0)
    if not successes:
        return 0.0
    return float(special.betaincinv(successes, trials - successes + 1, alpha))


def certified_radius(
    successes: int, trials: int, *, sigma: float, alpha: float
) -> float | None:
    """Returns the L2 radius that counts certify, None to abstain.

    That is `sigma Phi^-1(p)` for the bound p of `probability_bound`, if p > 1/2.
    Arguments and errors are those of `probability_bound` and `Smoothing`.
    """
    check_number("sigma", sigma, above=0.0)
    bound = probability_bound(successes, trials, alpha)
    return sigma * NormalDist().inv_cdf(bound) if bound > 0.5 else None


def predicted_class(counts: np.ndarray, alpha: float) -> int | None:
    """Returns what the smoothed classifier says, None to abstain.

    PREDICT of the paper: the most frequent class, unless the two most frequent ones
    could be equally likely, by the exact two-sided binomial test at level `alpha`.

    Args:
        counts: Integer `[K]`, how often each class was the answer.
        alpha: Probability of a wrong answer, in `(0, 1)`.

    Raises:
        ValueError: If there are no counts, or `alpha` is out of range.
    """
    check_number("alpha", alpha, above=0.0, below=1.0)
    counts = np.asarray(counts)
    if counts.ndim != 1 or counts.dtype.kind not in "iu" or counts.sum() < 1:
        raise ValueError(
            f"counts must be integers [K], one or more above 0: {counts.tolist()}"
        )
    top = int(np.argmax(counts))
    first, second = int(counts[top]), int(np.delete(counts, top).max(initial=0))
    if first == second:
        return None
    chance = 2.0 * special.betainc(first, second + 1, 0.5)
    return top if chance <= alpha else None


def certify(
    defense: DefenseFunction,
    variables: Any,
    images: Any,
    smoothing: Smoothing,
    *,
    mesh: jax.sharding.Mesh,
    batch_size: int,
    samples_at_once: int = 100,
    clip: bool = False,
    seed: int = 0,
    rows: _Rows = (),
    on_rows: Callable[[list[dict[str, Any]]], None] | None = None,
    progress: bool = False,
) -> list[dict[str, Any]]:
    """Certifies every image: PREDICT and CERTIFY of Cohen et al.

    The noise of copy j of image i follows from `seed`, i and j alone. So rows do not
    depend on batches or devices, as far as the network rounds alike in them.

    Args:
        defense: What is smoothed: any classifier behind any purifier, or none, and also
            behind a gate.
        variables: See `DefenseFunction.answer`; on the mesh.
        images: A source, or images `[N, H, W, C]` and labels `[N]`.
        smoothing: The noise, and how many copies.
        mesh: Where to run; its devices share the images of a batch.
        batch_size: Images at a time, over all devices.
        samples_at_once: Noisy copies of each at a time: a step computes
            `batch_size * samples_at_once`.
        clip: Whether the defence begins by clipping what it gets to `[0, 1]`, for
            which most purifiers are made. What is smoothed may be any function.
        seed: Of the noise.
        rows: Those of an earlier call that was cut short; they are not made again.
        on_rows: Called with all rows after each batch.
        progress: Whether there is a progress bar.

    Returns:
        A row for each image, with `image` (its number), `label`, `predicted` (the class
        that is certified; None: abstained), `radius` (L2, in units of intensities; 0
        where abstained), `successes` (of `num_samples`, of the class selected) and
        `prediction` (that of PREDICT on the same copies; None: abstained).

    Raises:
        ValueError: If a number is out of range, there are no images, a label is none of
            the classes, the purifier returns another shape or draws for whole batches,
            or logits are not finite.
    """
    check_whole("seed", seed, 0, 2**32 - 1)
    check_whole("samples_at_once", samples_at_once, 1)
    sharding.check_batch_size(batch_size, mesh)
    rows = [dict(row) for row in rows]
    done, source = len(rows), not isinstance(images, tuple)
    length = len(images if source else images[0])
    if done >= length > 0:
        return rows
    if done and source:
        images = Subset(images, np.arange(done, length))
    elif done:
        images = tuple(x[done:] for x in images)
    batches = evaluation_batches(images, batch_size=batch_size, mesh=mesh)
    classes = _check_labels(defense, variables, images)
    key = sharding.replicate(jax.random.key(seed), mesh)
    count = _compile_count(defense, mesh, samples_at_once, clip)
    whole = sharding.compile_replicated(lambda facts: facts, mesh)
    local = batch_size // jax.process_count()
    nothing = sharding.split_batch(np.zeros((local, classes + 1), np.int32), mesh)
    sigma, first = np.float32(smoothing.sigma), np.int32(done)
    bar = progress_bar(
        length, done, description="certifying", unit="image", shown=progress
    )
    with bar:
        for batch in batches:
            given = {name: batch[name] for name in ("image", "index")}

            def run(start, stop, given=given):
                votes = nothing
                for number in range(start, stop, samples_at_once):
                    now = np.int32(number), np.int32(stop)
                    votes = count(variables, key, given, first, sigma, *now, votes)
                return votes

            n0, n = smoothing.num_selection, smoothing.num_samples
            facts = {name: batch[name] for name in ("label", "index", "mask")}
            facts |= {"selection": run(0, n0), "estimation": run(n0, n0 + n)}
            made = _rows_of(jax.device_get(whole(facts)), smoothing, done)
            rows += made
            if on_rows is not None:
                on_rows(rows)
            bar.update(len(made))
    return rows


@functools.cache  # Another sigma, seed or number of copies is the same program.
def _compile_count(
    defense: DefenseFunction, mesh: jax.sharding.Mesh, samples: int, clip: bool
) -> Callable:
    """Returns what counts the answers to the copies `start .. start + samples - 1`.

    It is `count(variables, key, batch, first, sigma, start, stop, votes) -> votes` with
    those before `stop` added, int32 `[B, K + 1]`; behind the classes stands how many
    were not finite. Devices, which share the images, exchange nothing: four of a CPU
    hung where every call replicated its result.
    """

    def count(variables, key, batch, first, sigma, start, stop, votes):
        images = as_float(batch["image"])
        number = start + jnp.arange(samples, dtype=jnp.int32)
        keys = _copy_keys(key, first + batch["index"], number)
        noise = jax.vmap(
            lambda k: jax.random.normal(k, (images[0].size,), jnp.float32)
        )(keys)
        noise = noise.reshape(len(images), samples, *images.shape[1:])
        copies = images[:, None] + sigma * noise
        copies = copies.reshape(-1, *images.shape[1:])
        copies = jnp.clip(copies, 0.0, 1.0) if clip else copies
        copies = sharding.constrain_batch(copies, mesh)
        # Numbers by which a random purifier draws anew for every copy.
        draw = jax.vmap(lambda k: jax.random.bits(jax.random.fold_in(k, 1)))(keys)
        draw = (draw >> 1).astype(jnp.int32)
        _check_purifier(defense, variables, copies, key, draw)
        logits = defense.answer(variables, copies, key, draw).logits
        finite = jnp.isfinite(logits).all(axis=-1)
        answer = jnp.where(finite, jnp.argmax(logits, axis=-1), logits.shape[-1])
        found = jax.nn.one_hot(answer, logits.shape[-1] + 1, dtype=jnp.int32)
        found = found.reshape(len(images), samples, -1)
        return votes + jnp.sum(found * (number < stop)[None, :, None], axis=1)

    return sharding.compile_split(count, mesh)


def _copy_keys(key: jax.Array, index: jax.Array, number: jax.Array) -> jax.Array:
    """Returns keys `[B * S]`: of each image, and of each of its copies."""

    def of_image(i):
        own = jax.random.fold_in(key, i)
        return jax.vmap(lambda j: jax.random.fold_in(own, j))(number)

    return jax.vmap(of_image)(index).reshape(-1)


def _check_labels(defense, variables, images) -> int:
    """Returns how many classes there are; a label of none is a ValueError."""
    if isinstance(images, tuple):
        shape, largest = images[0].shape[1:], int(images[1].max())
    else:
        shape, largest = images.image_shape, images.num_classes - 1
    one = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    found = jax.eval_shape(defense.classify, variables["classifier"], one)
    classes = found.shape[-1]
    if largest >= classes:
        raise ValueError(
            f"the classifier knows {classes} classes, so labels must be 0 to "
            f"{classes - 1}: found {largest}"
        )
    return classes


def _check_purifier(defense, variables, copies, key, draw) -> None:
    """Raises ValueError, while tracing, if a purifier cannot be smoothed."""
    purifier = defense.purifier
    if purifier is None:
        return
    own = variables.get("purifier")
    made = jax.eval_shape(purifier, own, copies, key, draw).clean
    if made.shape != copies.shape:
        raise ValueError(
            f"the purifier makes {list(made.shape)} of images {list(copies.shape)}: it "
            "must keep their shape"
        )
    parts = [(purifier, own)]
    if isinstance(purifier, Chain):
        parts = list(zip(purifier.stages, own, strict=True))
    networks = [part for part in parts if isinstance(part[0], NetworkPurifier)]
    if any(random_stages(*part, copies) for part in networks):
        raise ValueError(
            "the purifier draws once for a batch, and a certificate needs draws for "
            "every copy: give a transformation, or a network that does not draw"
        )


def _rows_of(facts, smoothing, done):
    """Returns the rows of a batch from its votes `[B, K + 1]`."""
    shown = facts["mask"]
    numbers, labels = done + facts["index"][shown], facts["label"][shown]
    selection, estimation = (facts[x][shown] for x in ("selection", "estimation"))
    broken = (selection[:, -1] > 0) | (estimation[:, -1] > 0)
    if broken.any():
        raise ValueError(
            f"the logits of noisy images are not finite, in {broken.sum()} images, "
            f"the first {numbers[broken][:5].tolist()}: such a defence cannot be "
            "certified"
        )
    made = []
    for number, label, n0, n in zip(
        numbers, labels, selection[:, :-1], estimation[:, :-1], strict=True
    ):
        top = int(np.argmax(n0))
        radius = certified_radius(
            int(n[top]),
            smoothing.num_samples,
            sigma=smoothing.sigma,
            alpha=smoothing.alpha,
        )
        made.append(
            {
                "image": int(number),
                "label": int(label),
                "predicted": None if radius is None else top,
                "radius": radius or 0.0,
                "successes": int(n[top]),
                "prediction": predicted_class(n, smoothing.alpha),
            }
        )
    return made


def summarize_certificates(rows: _Rows, radii: Sequence[float]) -> dict[str, Any]:
    """Returns what the rows of `certify` say together.

    Args:
        rows: One or more.
        radii: L2, 0 or more.

    Returns:
        `num_images`; `accuracy` of the smoothed classifier (PREDICT; to abstain is
        wrong); `abstained`, the share that CERTIFY gives no class; `certified`, for
        each of `radii` the `radius`, the `accuracy` (share of images whose class is
        right and certified at least so far) and its 95 % interval (Wilson) over the
        choice of images, `accuracy_low` and `accuracy_high`; and
        `average_certified_radius`, in which other images count 0 (Zhai et al., MACER,
        ICLR 2020).

    Raises:
        ValueError: If there are no rows, or a radius is negative.
    """
    if not rows:
        raise ValueError("need at least one row of a certified image")
    for radius in radii:
        check_number("each of radii", radius, 0.0)
    own = [
        row["radius"] if row["predicted"] == row["label"] else -math.inf for row in rows
    ]
    certified = []
    for radius in radii:
        right = sum(x >= radius for x in own)
        low, high = binomial_interval(right, len(rows))
        certified.append(
            {
                "radius": float(radius),
                "accuracy": right / len(rows),
                "accuracy_low": low,
                "accuracy_high": high,
            }
        )
    return {
        "num_images": len(rows),
        "accuracy": mean(float(row["prediction"] == row["label"]) for row in rows),
        "abstained": mean(float(row["predicted"] is None) for row in rows),
        "certified": certified,
        "average_certified_radius": mean(max(x, 0.0) for x in own),
    }
