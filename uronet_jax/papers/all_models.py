"""The models and attacks of all papers, in one store."""

import os
from collections.abc import Mapping
from typing import Any

from uronet_jax import sharding
from uronet_jax.papers.adversarial_noise.models import noise_kinds
from uronet_jax.papers.made_images import NamedAttack
from uronet_jax.papers.reconstructive.models import attack_runs, reconstructive_kinds
from uronet_jax.papers.store import Store
from uronet_jax.papers.uronet.kinds import make_kinds
from uronet_jax.papers.uronet.settings import check_settings


def open_store(
    config: Mapping[str, Any], workdir: str | os.PathLike, **options: Any
) -> Store:
    """Returns the store of a config; checks all of it and computes nothing.

    Args:
        config: The fields of `configs/reproduce.py`.
        workdir: Where everything is kept.
        **options: Further ones of `Store`.

    Raises:
        ValueError: If a field of the config is wrong.
    """
    # First, as it knows the fields by the names that they have there.
    check_settings(config, sharding.data_mesh())
    kinds = make_kinds(config) | noise_kinds(config) | reconstructive_kinds(config)
    runs = attack_runs(config).items()
    attacks = {title: NamedAttack(run, "reconstructive") for title, run in runs}
    return Store(config, workdir, kinds, attacks, **options)
