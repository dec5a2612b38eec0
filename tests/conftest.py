"""Strict JAX for every test: four CPU devices, no silent rank promotion."""

import functools
import gc
import math
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np
import pytest

from uronet_jax import sharding

if jax.__version_info__ < (0, 11):
    # XLA's older way to compile fusions takes half the time; later versions have only
    # the newer one, and end a process that names the flag. XLA_FLAGS="" tests that one.
    # And processes that share the cores gain nothing by several threads each.
    flags = "--xla_cpu_use_fusion_emitters=false"
    flags += " --xla_cpu_parallel_codegen_split_count=1"
    os.environ.setdefault("XLA_FLAGS", flags)
# Tracing makes objects by the million, most of which stay: looking through them again
# and again takes a tenth of the time.
gc.set_threshold(200_000, 50, 50)
# Of this process, when `memory` last freed what it could.
_PEAK = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_numpy_rank_promotion", "raise")
# Test time is compile time: XLA compiles twice as fast without its optimisations. The
# processes that tests start do likewise.
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
# But what is timed, or compared with other programs or closely, is what users run.
OPTIMISED = (
    "test_fidelity",
    "test_oracles",
    "test_layers",
)

# A program is compiled once in a session: the processes of pytest and those that tests
# start inherit the folder from the first one.
_PROGRAMS = None
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _PROGRAMS = tempfile.TemporaryDirectory(prefix="uronet_jax_programs.")
    for name, value in {
        "jax_compilation_cache_dir": _PROGRAMS.name,
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }.items():
        jax.config.update(name, value)
        os.environ[name.upper()] = str(value)


def pytest_unconfigure():
    if _PROGRAMS is not None:
        _PROGRAMS.cleanup()


# The longest files, first: with two processes none of them must be the last.
LONGEST = (
    "test_launch_reproduce",
    "test_launch",
    "test_experiment",
    "test_models",
    "test_suites",
    "test_adversarial_noise",
    "test_attacks",
    "test_command",
    "test_training",
    "test_purify",
    "test_robustness",
    "test_benchmark",
    "test_noise",
    "test_transformations",
    "test_autoattack",
    "test_laboratory",
    "test_launch_attack",
    "test_layers",
    "test_sparse_layer",
    "test_reconstructive_training",
    "test_tiles",
    "test_imagenet_resnet",
    "test_attacks_slices",
    "test_total_variation",
    "test_augment",
    "test_corrupted",
    "test_grid",
    "test_pipelines",
    "test_reconstructor",
    "test_blur",
    "test_apgd",
    "test_resume",
)


# Fixtures that are folders beside the checkout.
FILES = {"data_dir", "models_dir", "golden"}


def pytest_collection_modifyitems(items):
    def place(item):
        name = item.path.stem
        return LONGEST.index(name) if name in LONGEST else len(LONGEST)

    items.sort(key=place)
    for item in items:
        if not FILES.isdisjoint(item.fixturenames):
            item.add_marker("needs_files")


@pytest.fixture(scope="module", autouse=True)
def memory():
    """Forgets compiled programs when the process has grown by a half."""
    global _PEAK
    yield
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if peak > 1.5 * _PEAK:
        jax.clear_caches()
        gc.collect()
        _PEAK = peak


@pytest.fixture(scope="module", autouse=True)
def optimisations(request):
    """Compiles a file of tests with or without XLA's optimisations."""
    optimised = request.path.stem.startswith(OPTIMISED)
    jax.config.update("jax_disable_most_optimizations", not optimised)


@pytest.fixture(scope="session")
def mesh():
    """Returns the mesh of all four devices."""
    return sharding.data_mesh()


@pytest.fixture
def start():
    """Returns `start(*arguments, **variables) -> process` of this Python.

    No process outlives the test.
    """
    root, processes = Path(__file__).parent.parent, []

    def start(*arguments, **variables):
        environment = {"PYTHONPATH": str(root), "JAX_PLATFORMS": "cpu", **variables}
        pipes = dict.fromkeys(("stdout", "stderr"), subprocess.PIPE)
        command, environment = [sys.executable, *arguments], os.environ | environment
        processes.append(
            subprocess.Popen(command, cwd=root, env=environment, text=True, **pipes)
        )
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture
def key():
    """Returns the root key of a test."""
    return jax.random.key(0)


def _folder(variable, what):
    folder = os.environ.get(variable, "")
    if not folder:
        pytest.skip(f"needs {what}: set {variable} to their folder")
    return folder


@pytest.fixture(scope="session")
def data_dir():
    """Returns the folder with the packed data sets, or skips the test."""
    return _folder("URONET_PACKED_DIR", "packed data sets")


@pytest.fixture(scope="session")
def models_dir():
    """Returns the folder with trained classifiers, or skips the test."""
    return _folder("URONET_MODELS_DIR", "trained classifiers")


@pytest.fixture(scope="session")
def golden():
    """Returns `load(file) -> arrays`: outputs of the original corruptions, or skips."""
    folder = _folder("URONET_GOLDEN_DIR", "outputs of the original corruptions")
    return lambda name: np.load(f"{folder}/{name}.npz")


@pytest.fixture(scope="session")
def make_variables():
    """Returns `make(module, image_shape) -> variables`, random ones.

    A module's own initialisation takes seconds to compile on CPU; this takes none.
    """

    def make(module, image_shape, seed=0):
        rng = np.random.default_rng(seed)

        def draw(path, like):
            x = rng.normal(size=like.shape)
            name = path[-1].key
            if name == "kernel":
                x *= math.sqrt(2 / math.prod(like.shape[:-1]))
            elif name in ("scale", "var"):  # Of a batch norm: positive.
                x = 1 + 0.2 * np.tanh(x)
            else:
                x *= 0.1
            return x.astype(like.dtype)

        shapes = shapes_of(module, tuple(image_shape))
        return jax.tree_util.tree_map_with_path(draw, shapes)

    @functools.cache
    def shapes_of(module, image_shape):
        images = jax.ShapeDtypeStruct((1, *image_shape), np.float32)
        return jax.eval_shape(module.init, jax.random.key(0), images)

    return make
