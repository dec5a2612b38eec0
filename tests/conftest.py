"""Strict JAX for every test: four CPU devices, no silent rank promotion."""

import os

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def key():
    """Returns the root key of a test."""
    return jax.random.key(0)


@pytest.fixture(scope="session")
def data_dir():
    """Returns the folder with the packed data sets, or skips the test."""
    folder = os.environ.get("URONET_PACKED_DIR", "")
    if not folder:
        pytest.skip("needs packed data sets: set URONET_PACKED_DIR to their folder")
    return folder
