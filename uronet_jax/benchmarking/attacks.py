"""PGD and AutoAttack on one network, against the packages that people use for them.

Everybody has the same weights, images and labels, and goes from images on the host to
adversarial images on the host.
"""

import functools
import importlib.metadata
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from uronet_jax import host
from uronet_jax.adapters import foolbox_model
from uronet_jax.attacks import autoattack, flax_logits, misclassification, pgd
from uronet_jax.attacks.adaptive import without_success
from uronet_jax.benchmarking import base, timing
from uronet_jax.benchmarking.base import OURS, BenchmarkRow, BenchmarkRun
from uronet_jax.benchmarking.corruptions import photographs
from uronet_jax.benchmarking.torch_peer import TorchPeer
from uronet_jax.models import make_classifier
from uronet_jax.training.state import create_state

FOOLBOX, TORCHATTACKS = "foolbox", "torchattacks"
EPSILON, STEP_SIZE, PGD_STEPS = 8 / 255, 2 / 255, 40

_PGD = {"steps": PGD_STEPS, "random_start": False}
# Of the time of the peer.
MAX_RATIO = {"cpu": 1.0, "gpu": 0.5}
# Of the mean losses that two libraries reach; rounding decides signs near zero.
MAX_LOSS_DIFFERENCE = 0.02

# `(images, labels) -> adversarial images`, on the host.
PeerAttack = Callable[[np.ndarray, np.ndarray], np.ndarray]


def _without_tf32(row: Callable[..., BenchmarkRow]) -> Callable[..., BenchmarkRow]:
    """Lets a row compute in full float32 on a GPU, as `TorchPeer.network` does."""

    @functools.wraps(row)
    def exact(*args: Any, **kwargs: Any) -> BenchmarkRow:
        with jax.default_matmul_precision("highest"):
            return row(*args, **kwargs)

    return exact


def peer_attack(
    package: str,
    find: Callable[[Any], Callable[..., Any]],
    options: Mapping[str, Any],
    module: nn.Module,
    variables: Any,
    *,
    epsilon: float | None = None,
    batch_size: int | None = None,
    channels_last: bool = False,
) -> PeerAttack:
    """Returns an attack of a package on a network of ours, with `options`.

    `find(its module)` is the attack. `epsilon` is for foolbox, None where it looks for
    the smallest perturbation; the last two are for torchattacks, some of whose attacks
    cannot take channels last.
    """
    if package == FOOLBOX:
        import foolbox

        attack = find(foolbox.attacks)(**options)
        network = foolbox_model(flax_logits(module, variables, train=False))

        def run(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
            inputs = jnp.asarray(images), jnp.asarray(labels)
            if hasattr(attack, "run") and epsilon is not None:
                # The attack alone, without foolbox's own check of the outcome.
                return np.asarray(attack.run(network, *inputs, epsilon=epsilon))
            return np.asarray(attack(network, *inputs, epsilons=None)[1])

        return run

    import torch
    import torchattacks

    platform, threads = jax.devices()[0].platform, host.num_threads()
    peer = TorchPeer(platform=platform, dtype="float32", threads=threads)
    twin = peer.network(module, variables, channels_last=channels_last)
    attack = find(torchattacks)(twin, **options)
    layout = torch.channels_last if channels_last else torch.contiguous_format

    def run_torch(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
        torch.manual_seed(0)
        adversarial = []
        for start in range(0, len(images), batch_size or len(images)):
            part = slice(start, start + (batch_size or len(images)))
            x = peer.tensor(images[part]).contiguous(memory_format=layout)
            adversarial.append(attack(x, peer.tensor(labels[part])))
        return torch.cat(adversarial).detach().permute(0, 2, 3, 1).cpu().numpy()

    return run_torch


def torch_autoattack(network: Any, *, steps: Mapping[str, int], **options: Any) -> Any:
    """Returns AutoAttack of torchattacks for ten classes, with other steps."""
    import torchattacks

    attack = torchattacks.AutoAttack(network, n_classes=10, **options)
    for part in attack._autoattack.attacks:
        if part.attack == "Square":
            part.rescale_schedule = False
            part.n_queries = steps.get("square", part.n_queries)
        else:
            part.steps = steps["fab" if part.attack == "FAB" else "apgd"]
    return attack


# Row -> package -> attack and options, to the end: the steps are those of the papers.
TIMED = {
    "pgd": {
        FOOLBOX: (lambda fb: fb.LinfPGD, _PGD | {"abs_stepsize": STEP_SIZE}),
        TORCHATTACKS: (lambda ta: ta.PGD, _PGD | {"eps": EPSILON, "alpha": STEP_SIZE}),
    },
    "autoattack": {
        TORCHATTACKS: (
            lambda ta: torch_autoattack,
            {"norm": "Linf", "eps": EPSILON, "steps": {"apgd": 100, "fab": 100}},
        )
    },
}


def attack_peers(
    row: str, module: nn.Module, variables: Any, batch_size: int
) -> tuple[dict[str, PeerAttack], list[str]]:
    """Returns package and version -> attack of `TIMED[row]`, and who is absent."""
    make = functools.partial(
        peer_attack,
        module=module,
        variables=variables,
        epsilon=EPSILON,
        batch_size=batch_size,
        channels_last=row == "pgd",
    )
    peers, notes = base.installed(
        {
            package: functools.partial(make, package, *attack)
            for package, attack in TIMED[row].items()
        }
    )
    return {with_version(package): peers[package] for package in peers}, notes


def with_version(package: str) -> str:
    """Returns the name of a package with its version."""
    return f"{package} {importlib.metadata.version(package)}"


def _problem(run: BenchmarkRun, row: str, count: int, make_peers: Callable) -> tuple:
    """Returns logits, images, the labels that they have, who attacks them, notes."""
    side, _, channels = run.sizes.image_shape
    module = make_classifier("resnet8" if run.tiny else "resnet20", 10)
    optimizer, key = optax.sgd(0.1), jax.random.key(0)
    variables = create_state(module, optimizer, key, run.sizes.image_shape).variables
    images = photographs(count, side)[..., :channels].astype(np.float32) / 255
    logits_fn = flax_logits(module, variables, train=False)
    labels = np.asarray(jnp.argmax(jax.jit(logits_fn)(images), axis=-1), np.int32)
    peers, notes = make_peers(row, module, variables, run.sizes.batch_size)
    peers = {name: functools.partial(x, images, labels) for name, x in peers.items()}
    return logits_fn, images, labels, peers, notes


@_without_tf32
def pgd_row(run: BenchmarkRun, make_peers: Callable = attack_peers) -> BenchmarkRow:
    """PGD of 40 steps on one batch, against every peer."""
    logits_fn, images, labels, attacks, notes = _problem(
        run, "pgd", run.sizes.batch_size, make_peers
    )
    # To the end, as the peers do: no image is left at its first success.
    loss_fn = without_success(misclassification(logits_fn, labels))
    options = _PGD | {"epsilon": EPSILON, "step_size": STEP_SIZE}

    def ours() -> np.ndarray:
        x = jnp.asarray(images)
        return np.asarray(pgd(jax.random.key(0), x, loss_fn, **options))

    def mean_loss(adversarial: np.ndarray) -> float:
        return float(loss_fn(jnp.asarray(adversarial)).mean())

    start = time.perf_counter()
    adversarial = ours()
    first = time.perf_counter() - start
    reached = mean_loss(adversarial)
    agreement = {
        name: loss_difference(reached, mean_loss(attack()))
        for name, attack in attacks.items()
    }
    seconds = timing.interleave({OURS: ours, **attacks}, repeats=run.sizes.repeats)
    bound = MAX_RATIO.get(jax.devices()[0].platform)
    return base.new_row(
        f"PGD of {PGD_STEPS} steps, L-inf, {_images_text(images)}, from the host to "
        "the host, without compiling; agreement is that of the mean loss which is "
        "reached",
        seconds,
        [
            base.comparison(seconds, OURS, peer, bound, agreement=found)
            for peer, found in agreement.items()
        ],
        values={"first call with compiling, s": first} if base.on_gpu() else {},
        notes=notes,
    )


@_without_tf32
def autoattack_row(
    run: BenchmarkRun, make_peers: Callable = attack_peers
) -> BenchmarkRow:
    """AutoAttack standard, once, against the peers that have it."""
    count = 4 if run.tiny else 1_000 if base.on_gpu() else 64
    logits_fn, images, labels, attacks, notes = _problem(
        run, "autoattack", count, make_peers
    )
    options = {"epsilon": EPSILON, "batch_size": run.sizes.batch_size}

    def ours() -> None:
        autoattack(jax.random.key(0), images, logits_fn, labels, **options)

    seconds = timing.interleave({OURS: ours, **attacks}, repeats=1)
    return base.new_row(
        f"AutoAttack standard, L-inf, {_images_text(images)}, each on the points that "
        "still stand",
        seconds,
        [base.comparison(seconds, OURS, name) for name in attacks],
        notes=[*notes, "the network is untrained: nearly all images fall to APGD-CE"],
    )


def _images_text(images: np.ndarray) -> str:
    return f"{len(images)} images of {images.shape[1]}x{images.shape[2]}"


def loss_difference(ours: float, theirs: float) -> float:
    """Returns how far two attacks raised a loss, as a relative difference."""
    # The images themselves are no measure: where a gradient is nearly zero its sign is
    # chance, and the difference grows from step to step.
    difference = abs(ours - theirs) / max(abs(theirs), 1e-12)
    if not difference <= MAX_LOSS_DIFFERENCE:
        raise ValueError(
            f"the peer computes another attack: it raises the mean loss to "
            f"{theirs:.4g}, ours to {ours:.4g}"
        )
    return difference
