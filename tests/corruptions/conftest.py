"""What tests of corruptions share."""

import jax
import numpy as np
import pytest

from uronet_jax.benchmarking.fidelity import ARCHIVES
from uronet_jax.corruptions import suite_settings


@pytest.fixture
def strict_promotion():
    # For every test of a file: programs are compiled anew for each mode.
    with jax.numpy_dtype_promotion("strict"):
        yield


@pytest.fixture(scope="session")
def images():
    return np.random.default_rng(0).uniform(size=(2, 32, 32, 3)).astype(np.float32)


@pytest.fixture(params=ARCHIVES)
def originals(request, golden):
    """Returns `load(name)`: setting, image, draws and output of each severity."""
    arrays, suite = golden(request.param), ARCHIVES[request.param]
    severities = (3,) if "224" in request.param else range(1, 6)

    def load(name):
        for severity in severities:
            prefix = f"{name}/{severity}/"
            draws = {
                key.removeprefix(prefix).split("_")[0]: np.float32(arrays[key])[None]
                for key in arrays.files
                if key.startswith(prefix)
            }
            output = np.int32(draws.pop("out"))[0]
            setting = suite_settings(suite, name).settings[severity - 1]
            yield setting, arrays["input"], draws, output

    return load
