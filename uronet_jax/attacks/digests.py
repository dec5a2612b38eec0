"""Digests of arrays: which models and images a stored result under attack is of."""

import hashlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def digest(tree: Any) -> str:
    """Returns a short hash of the arrays of a pytree and of where they stand in it.

    What is no array, such as the architecture of a network, is not in it.
    """
    total = hashlib.sha256()
    for path, array in jax.tree_util.tree_leaves_with_path(tree):
        if jnp.issubdtype(getattr(array, "dtype", None), jax.dtypes.prng_key):
            array = jax.random.key_data(array)
        array = np.asarray(array)
        name = jax.tree_util.keystr(path)
        total.update(f"{name} {array.dtype}{array.shape}".encode())
        total.update(array.tobytes())
    return total.hexdigest()[:16]
