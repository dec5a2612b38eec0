"""PGD and AutoAttack on one network, against the packages that people use for them.

Everybody has the same weights, images and labels, and goes from images on the host to
adversarial images on the host.
"""

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from uronet_jax.attacks import autoattack, flax_logits, misclassification, pgd
from uronet_jax.attacks.adaptive import without_success
from uronet_jax.benchmarking import timing
from uronet_jax.benchmarking.corruptions import photographs
from uronet_jax.benchmarking.row import Row, limit, new_row

OURS = "uronet_jax"
EPSILON, STEP_SIZE, PGD_STEPS = 8 / 255, 2 / 255, 40
# Of the time of the peer.
MAX_RATIO = {"cpu": 1.0, "gpu": 0.5}
# Of the mean losses that two libraries reach; rounding decides signs near zero.
MAX_LOSS_DIFFERENCE = 0.02


class AttackPeer(NamedTuple):
    """A package with attacks.

    Attributes:
        name: With its version.
        pgd: `(images, labels) -> adversarial images` of the network: L-inf, `EPSILON`,
            `PGD_STEPS` steps of `STEP_SIZE` from the image itself, to the end.
        autoattack: Likewise, AutoAttack standard; None if it has none.
    """

    name: str
    pgd: Callable[[np.ndarray, np.ndarray], np.ndarray]
    autoattack: Callable[[np.ndarray, np.ndarray], np.ndarray] | None


# `(module, variables) -> (peers, notes on those that are absent)`.
MakePeers = Callable[[nn.Module, Any], tuple[Sequence[AttackPeer], list[str]]]


class Problem(NamedTuple):
    """A network, images, and the labels it gives them.

    Attributes:
        module: Flax classifier.
        variables: Of it.
        images: float32 `[N, H, W, C]` in `[0, 1]`, on the host.
        labels: int32 `[N]`.
    """

    module: nn.Module
    variables: Any
    images: np.ndarray
    labels: np.ndarray


def make_problem(
    module: nn.Module, variables: Any, image_shape: Sequence[int], count: int
) -> Problem:
    """Returns generated images with the labels that the network gives them."""
    height, width, channels = image_shape
    if height != width:
        raise ValueError(f"need square images: {list(image_shape)}")
    images = photographs(count, height)[..., :channels].astype(np.float32) / 255
    logits = jax.jit(functools.partial(module.apply, train=False))(variables, images)
    labels = np.asarray(jnp.argmax(logits, axis=-1), np.int32)
    return Problem(module, variables, images, labels)


def pgd_row(problem: Problem, make_peers: MakePeers, *, repeats: int) -> Row:
    """PGD of 40 steps on one batch, against every peer."""
    module, variables, images, labels = problem
    peers, notes = make_peers(module, variables)
    logits_fn = flax_logits(module, variables, train=False)
    # To the end, as the peers do: no image is left at its first success.
    loss_fn = without_success(misclassification(logits_fn, labels))

    def ours() -> np.ndarray:
        adversarial = pgd(
            jax.random.key(0),
            jnp.asarray(images),
            loss_fn,
            epsilon=EPSILON,
            step_size=STEP_SIZE,
            steps=PGD_STEPS,
            random_start=False,
        )
        return np.asarray(adversarial)

    start = time.perf_counter()
    expected = ours()
    first = time.perf_counter() - start
    contestants: dict[str, Callable[[], Any]] = {OURS: ours}
    for peer in peers:
        contestants[peer.name] = functools.partial(peer.pgd, images, labels)

    def mean_loss(adversarial: np.ndarray) -> float:
        return float(loss_fn(jnp.asarray(adversarial)).mean())

    reached = mean_loss(expected)
    agreement = {
        peer.name: loss_difference(reached, mean_loss(peer.pgd(images, labels)))
        for peer in peers
    }
    row = new_row(
        f"PGD of {PGD_STEPS} steps, L-inf, {len(images)} images of "
        f"{images.shape[1]}x{images.shape[2]}, from the host to the host, without "
        "compiling; agreement is that of the mean loss which is reached",
        timing.interleave(contestants, repeats=repeats),
        pairs=[(OURS, peer.name) for peer in peers],
        notes=notes,
    )
    if jax.devices()[0].platform == "gpu":  # Absolute times are of accelerators only.
        row["values"]["first call with compiling, s"] = first
    for comparison in row["comparisons"]:
        comparison["agreement"] = agreement[comparison["peer"]]
        bound = MAX_RATIO.get(jax.devices()[0].platform)
        if bound is not None:
            comparison |= limit(comparison["ratio"], bound)
    return row


def autoattack_row(problem: Problem, make_peers: MakePeers, *, batch_size: int) -> Row:
    """AutoAttack standard, once, against the peers that have it."""
    module, variables, images, labels = problem
    peers, notes = make_peers(module, variables)
    logits_fn = flax_logits(module, variables, train=False)

    def ours() -> None:
        autoattack(
            jax.random.key(0),
            images,
            labels,
            logits_fn,
            epsilon=EPSILON,
            batch_size=batch_size,
        )

    contestants: Mapping[str, Callable[[], Any]] = {
        OURS: ours,
        **{
            peer.name: functools.partial(peer.autoattack, images, labels)
            for peer in peers
            if peer.autoattack is not None
        },
    }
    return new_row(
        f"AutoAttack standard, L-inf, {len(images)} images of "
        f"{images.shape[1]}x{images.shape[2]}, each on the points that still stand",
        timing.interleave(contestants, repeats=1),
        pairs=[(OURS, name) for name in contestants if name != OURS],
        notes=[
            *notes,
            "the network is untrained: nearly all images fall to APGD-CE",
        ],
    )


def loss_difference(ours: float, theirs: float) -> float:
    """Returns how far two attacks raised a loss, as a relative difference.

    The images themselves are no measure: where a gradient is nearly zero its sign is
    chance, and the difference grows from step to step.

    Raises:
        ValueError: If it is more than that explains.
    """
    difference = abs(ours - theirs) / max(abs(theirs), 1e-12)
    if not difference <= MAX_LOSS_DIFFERENCE:
        raise ValueError(
            f"the peer computes another attack: it raises the mean loss to "
            f"{theirs:.4g}, ours to {ours:.4g}"
        )
    return difference
