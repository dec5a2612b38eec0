"""Peak memory of a training run, measured in a process of its own.

  python -m uronet_jax.benchmarking.memory '{"widths": [64, 128, 256], ...}'

Prints one line of JSON. The arguments are those of `measure`.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from uronet_jax import host, sharding
from uronet_jax.corruptions import make_degradation, suite_degradations
from uronet_jax.data.augment import flip_crop
from uronet_jax.data.sources import ArraySource
from uronet_jax.models import compute_dtype, make_remover
from uronet_jax.training import tasks
from uronet_jax.training.optimizers import make_optimizer
from uronet_jax.training.pairs import drawn_pairs
from uronet_jax.training.run import fit


def generated_source(num_images: int, image_shape: Sequence[int]) -> ArraySource:
    """Returns `num_images` random uint8 images of ten classes, in memory."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (num_images, *image_shape), np.uint8)
    labels = rng.integers(0, 10, num_images).astype(np.int32)
    return ArraySource("random", "train", images, labels, tuple("0123456789"))


def measure(
    *,
    widths: Sequence[int],
    batch_size: int,
    dtype: str,
    image_shape: Sequence[int],
    num_images: int,
    num_steps: int,
) -> dict[str, float]:
    """Trains a remover for some steps, validates it once, and reads the peak memory.

    Args:
        widths: Of the remover, `paper` variant.
        batch_size: Images in a step.
        dtype: Computation type.
        image_shape: `(H, W, C)`.
        num_images: Size of the training set, resident on the device.
        num_steps: Updates.

    Returns:
        `peak host GB` of this process, and `peak device GB` where the device
        counts them.
    """
    fit(
        tasks.remover_task(
            make_remover("paper", widths=widths, dtype=compute_dtype(dtype)),
            make_optimizer("adam", peak_rate=1e-3, num_steps=num_steps),
            drawn_pairs(
                make_degradation([(e.kind, e.parameter) for e in suite_degradations()]),
                flip_crop,
            ),
            image_shape=tuple(image_shape),
        ),
        generated_source(num_images, image_shape),
        generated_source(batch_size, image_shape),
        batch_size=batch_size,
        num_steps=num_steps,
        mesh=sharding.data_mesh(jax.devices()[:1]),
        pipeline="on_device",
        steps_per_dispatch=num_steps,
        progress=False,
    )
    return peaks()


def peaks() -> dict[str, float]:
    """Returns `peak host GB` of this process, and `peak device GB` if it is counted."""
    result = {"peak host GB": peak_host_bytes() / 1e9}
    device = jax.devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in device:
        result["peak device GB"] = device["peak_bytes_in_use"] / 1e9
    return result


def run(module: str, arguments: Mapping[str, Any]) -> dict[str, float]:
    """Runs `python -m module '<arguments as JSON>'` and returns the JSON it prints.

    Raises:
        RuntimeError: If the process fails; the message ends as its errors do.
    """
    root = str(Path(__file__).parents[2])
    child = subprocess.run(
        [sys.executable, "-m", module, json.dumps(arguments)],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")]),
            # This process may hold most of the device's memory already.
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    if child.returncode:
        raise RuntimeError(f"the memory measurement failed:\n{child.stderr[-2000:]}")
    return json.loads(child.stdout.splitlines()[-1])


def peak_host_bytes() -> int:
    """Returns the largest resident size that this process ever had."""
    status = Path("/proc/self/status")
    if status.exists():
        # Not getrusage: on Linux that also counts the process that started this one.
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


if __name__ == "__main__":
    host.keep_freed_memory()  # As the training command does.
    print(json.dumps(measure(**json.loads(sys.argv[1]))))
