"""The packages that the attacks are compared with; each is optional."""

import importlib.metadata
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from uronet_jax.adapters import foolbox_model
from uronet_jax.attacks import flax_logits
from uronet_jax.benchmarking.attacks import (
    EPSILON,
    PGD_STEPS,
    STEP_SIZE,
    AttackPeer,
)


def attack_peers(
    module: nn.Module, variables: Any, *, threads: int, batch_size: int
) -> tuple[Sequence[AttackPeer], list[str]]:
    """Gives every installed peer the same network.

    Args:
        module: Flax classifier: a ResNet or a Wide ResNet.
        variables: Of it.
        threads: CPU threads of PyTorch.
        batch_size: Images that AutoAttack takes at once.

    Returns:
        The peers, and a note on each that is absent.
    """
    peers, notes = [], []
    for make in (_foolbox, _torchattacks):
        try:
            peers.append(make(module, variables, threads, batch_size))
        except ImportError as error:
            notes.append(
                f"{make.__name__[1:]} is absent ({error}): pip install "
                "uronet_jax[benchmark]"
            )
    return peers, notes


def _foolbox(module, variables, threads, batch_size) -> AttackPeer:
    del threads, batch_size
    import foolbox

    model = foolbox_model(flax_logits(module, variables, train=False))
    attack = foolbox.attacks.LinfPGD(
        abs_stepsize=STEP_SIZE, steps=PGD_STEPS, random_start=False
    )

    def pgd(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
        # `run` is the attack alone, without foolbox's own check of the outcome.
        return np.asarray(
            attack.run(model, jnp.asarray(images), jnp.asarray(labels), epsilon=EPSILON)
        )

    return AttackPeer(f"foolbox {foolbox.__version__}", pgd, None)


def _torchattacks(module, variables, threads, batch_size) -> AttackPeer:
    import torch
    import torchattacks

    from launch.benchmark_peers import TorchPeer

    channels = variables["params"]["Conv_0"]["kernel"].shape[2]
    peer = TorchPeer(
        platform=jax.devices()[0].platform, dtype="float32", threads=threads
    )

    def run(make_attack, memory_format):
        network = peer.network(module, variables, channels)
        network = network.to(memory_format=memory_format)

        def attack(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
            adversarial = []
            for start in range(0, len(images), batch_size):
                part = slice(start, start + batch_size)
                x = peer.tensor(images[part]).contiguous(memory_format=memory_format)
                y = torch.from_numpy(labels[part].astype(np.int64)).to(x.device)
                adversarial.append(make_attack(network)(x, y))
            return torch.cat(adversarial).detach().permute(0, 2, 3, 1).cpu().numpy()

        return attack

    return AttackPeer(
        f"torchattacks {importlib.metadata.version('torchattacks')}",
        run(
            lambda network: torchattacks.PGD(
                network,
                eps=EPSILON,
                alpha=STEP_SIZE,
                steps=PGD_STEPS,
                random_start=False,
            ),
            torch.channels_last,
        ),
        run(
            lambda network: _autoattack(torchattacks, network),
            # Parts of it cannot take channels-last memory.
            torch.contiguous_format,
        ),
    )


def _autoattack(torchattacks, network):
    """Returns AutoAttack with the steps of its paper, which are not the defaults."""
    attack = torchattacks.AutoAttack(
        network, norm="Linf", eps=EPSILON, version="standard", n_classes=10
    )
    for part in attack._autoattack.attacks:
        if part.attack == "Square":
            part.rescale_schedule = False
        else:
            part.steps = 100
    return attack
