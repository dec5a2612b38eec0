"""Memory: peaks of training, corruption and evaluation, and what XLA plans.

Peaks are those of a process of its own:

  python -m uronet_jax.benchmarking.memory corrupt_in_turn '{"side": 224, ...}'

Prints one line of JSON. The arguments are those of the function in `MEASUREMENTS`.
"""

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from uronet_jax import host, sharding
from uronet_jax.attacks import ATTACKS, flax_logits, misclassification
from uronet_jax.benchmarking import base, timing
from uronet_jax.benchmarking.base import BenchmarkRow, BenchmarkRun, BenchmarkSizes
from uronet_jax.benchmarking.corruptions import (
    SUITE,
    corrupt_photographs,
    corruption_names,
    photographs,
)
from uronet_jax.benchmarking.steps import (
    ADAM,
    first_device,
    separation_step,
    widths_text,
)
from uronet_jax.corruptions import (
    Degradation,
    make_degradation,
    suite_degradations,
)
from uronet_jax.data.augment import flip_crop
from uronet_jax.data.sources import ArraySource
from uronet_jax.defense import DefenseFunction, classifier_function
from uronet_jax.evaluation.attack_judge import ATTACK_MEMORY
from uronet_jax.evaluation.defense_views import find_blind
from uronet_jax.evaluation.judge import Judge
from uronet_jax.models import compute_dtype, make_classifier, make_remover
from uronet_jax.training.optimizers import make_optimizer
from uronet_jax.training.pairs import drawn_pairs
from uronet_jax.training.remover import remover_task
from uronet_jax.training.run import fit
from uronet_jax.training.state import create_state

# What this project asks of itself: of a whole process, and of an evaluation alone.
MAX_PROCESS_GB = 4.0
MAX_EVALUATION_GB = 3.0
# Sides of images; the last is a tile of `photos.purify`.
REMOVER_SIDES = (64, 224, 512)
MEASURED_ATTACKS = (
    *("pgd_linf", "apgd_ce_linf", "square_linf"),
    *("carlini_wagner_l2", "deepfool_l2", "fab_linf"),
)
# By `Attack.class_gradients`.
MOST_MEMORY = {
    False: "most of an attack over a gradient",
    True: "most of one on several classes over a gradient",
}
PEAK, BEYOND_MODELS = "peak host GB", "host GB beyond the models"


def generated_source(num_images: int, image_shape: Sequence[int]) -> ArraySource:
    """Returns `num_images` random uint8 images of ten classes, in memory."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (num_images, *image_shape), np.uint8)
    labels = rng.integers(0, 10, num_images).astype(np.int32)
    return ArraySource("random", "train", images, labels, tuple("0123456789"))


@dataclasses.dataclass(frozen=True)
class GeneratedImages:
    """A source that makes every image from its index as it is read, and holds none."""

    count: int
    image_shape: tuple[int, ...]
    name: str = "generated"
    split: str = "test"

    def __len__(self) -> int:
        """Returns the number of images."""
        return self.count

    def read(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns uint8 images `[N, H, W, C]` and labels of ten classes `[N]`."""
        images = [
            np.random.default_rng(row).integers(0, 256, self.image_shape, np.uint8)
            for row in rows
        ]
        return np.stack(images), np.asarray(rows, np.int32) % 10


def all_degradations() -> Degradation:
    """Returns a mix of all entries of the suite of noises."""
    return make_degradation([(e.kind, e.parameter) for e in suite_degradations()])


def train_remover(**sizes: Any) -> dict[str, float]:
    """Trains a remover on a resident set, validates it once, returns `peaks()`."""
    host.keep_freed_memory()  # As the training command does.
    sizes = BenchmarkSizes(**sizes)
    dtype, num_steps = compute_dtype(sizes.dtype), sizes.memory_steps
    fit(
        remover_task(
            make_remover("paper", widths=sizes.widths, dtype=dtype),
            make_optimizer("adam", peak_rate=1e-3, num_steps=num_steps),
            drawn_pairs(all_degradations(), flip_crop),
            image_shape=tuple(sizes.image_shape),
        ),
        generated_source(sizes.train_images, sizes.image_shape),
        generated_source(sizes.batch_size, sizes.image_shape),
        batch_size=sizes.batch_size,
        num_steps=num_steps,
        mesh=first_device(),
        pipeline="on_device",
        steps_per_dispatch=num_steps,
        progress=False,
    )
    return peaks()


def corrupt_in_turn(count: int, side: int, names: list[str]) -> dict[str, float]:
    """Runs every corruption at severity 5 on one batch, returns `peaks()`."""
    images = photographs(count, side)
    for name in names:
        np.asarray(corrupt_photographs(images, name, severity=5))
    return peaks()


def evaluate_generated(count: int, side: int, batch_size: int) -> dict[str, float]:
    """Judges a small defence under one noise; its memory beyond that of the models."""
    host.keep_freed_memory()  # As the evaluation command does.
    source, mesh = GeneratedImages(count, (side, side, 3)), first_device()
    remover = make_remover("paper", widths=(4, 4))
    classifier = make_classifier("cnn_narrow", 10)
    images = np.zeros((1, side, side, 3), np.float32)
    variables = {
        name: jax.jit(module.init)(jax.random.key(0), images)
        for name, module in (("purifier", remover), ("classifier", classifier))
    }
    jax.block_until_ready(variables)
    before = host_bytes("VmRSS")
    judge = Judge(source, batch_size=batch_size, mesh=mesh)
    defense = DefenseFunction(classifier_function(classifier), remover)
    variables = sharding.replicate(variables, mesh)
    judge.measure(defense, variables, suite_degradations("uronet")[0])
    return {BEYOND_MODELS: (host_bytes("VmHWM") - before) / 1e9}


def training_memory_row(run: BenchmarkRun) -> BenchmarkRow:
    """Peak memory of training the remover on a resident data set."""
    sizes = run.sizes
    return base.new_row(
        f"training of the {widths_text(sizes)} remover (batch "
        f"{sizes.batch_size}), {sizes.train_images:,} images resident, in a process of "
        f"its own: {sizes.memory_steps} steps and a validation",
        values=measure_apart(train_remover, **dataclasses.asdict(sizes)),
        at_most={} if base.on_gpu() else {PEAK: MAX_PROCESS_GB},
    )


def corruption_memory_row(run: BenchmarkRun) -> BenchmarkRow:
    """Peak memory of one process that runs every corruption in turn."""
    names = corruption_names(run)
    count, side = (2, 28) if run.tiny else (64, 224)
    return base.new_row(
        f"all of {len(names)} corruptions of {SUITE} at severity 5 on {count} "
        f"images of {side}x{side}x3, one after the other in one process: no single one "
        "needs more",
        values=measure_apart(corrupt_in_turn, count=count, side=side, names=names),
        at_most={} if base.on_gpu() else {PEAK: MAX_PROCESS_GB},
    )


def evaluation_memory_row(run: BenchmarkRun) -> BenchmarkRow:
    """Memory that evaluating many large images takes beyond the models."""
    count, side, batch_size = (10, 16, 4) if run.tiny else (20_000, 224, 32)
    return base.new_row(
        f"evaluation of {count:,} images of {side}x{side}x3 (batch {batch_size}) "
        "that are made as they are read, under one noise through remover and "
        "classifier, in a process of its own: peak host memory less that before the "
        "first image",
        values=measure_apart(
            evaluate_generated, count=count, side=side, batch_size=batch_size
        ),
        at_most={BEYOND_MODELS: MAX_EVALUATION_GB},
    )


def remover_memory_row(run: BenchmarkRun) -> BenchmarkRow:
    """Memory that XLA plans for the remover by the side of its images, and its time."""
    sides, count = (8, 32) if run.tiny else REMOVER_SIDES, 1
    sizes = run.sizes
    module = make_remover(
        "paper", widths=sizes.widths, dtype=compute_dtype(sizes.dtype)
    )
    *trained, _ = sides
    values, contestants = {}, {}
    for side in sides:
        shape, name = (side, side, 3), f"{side}x{side}"
        images = np.random.default_rng(0).random((count, *shape), np.float32)
        variables = jax.jit(module.init)(jax.random.key(0), images)
        purify = jax.jit(module.apply).lower(variables, images).compile()
        values[f"{name}, purified: MB an image"] = planned_bytes(purify) / count / 1e6
        arguments = jax.device_put((variables, images))
        contestants[name] = lambda call=purify, given=arguments: jax.block_until_ready(
            call(*given)
        )
        if side not in trained:
            continue
        state = create_state(module, ADAM, jax.random.key(0), shape)
        batch = {"clean": images, "degraded": images}
        step = jax.jit(separation_step(module)).lower(state, {}, batch).compile()
        values[f"{name}, trained on: MB an image"] = planned_bytes(step) / count / 1e6
    seconds = timing.interleave(contestants, repeats=sizes.repeats)
    first, *others = contestants
    return base.new_row(
        f"the {widths_text(sizes)} remover ({sizes.dtype}) on one image at a time, of "
        f"sides {', '.join(map(str, sides))}, the last a tile of a photograph: "
        "temporary memory that XLA plans for the compiled program, without weights; "
        "and the time to purify one",
        seconds,
        [base.comparison(seconds, name, first) for name in others],
        values=values,
    )


def attack_memory_row(run: BenchmarkRun) -> BenchmarkRow:
    """Memory that XLA plans for attacks on a network for photographs."""
    name, side, count = ("resnet8", 16, 2) if run.tiny else ("resnet50", 224, 4)
    module = make_classifier(name, 10 if run.tiny else 1000)
    images = jax.ShapeDtypeStruct((count, side, side, 3), np.float32)
    labels = jax.ShapeDtypeStruct((count,), np.int32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    variables = jax.eval_shape(module.init, key, images)

    def gradient(variables, key, images, labels):
        logits_fn = flax_logits(module, variables, train=False)
        return find_blind(misclassification(logits_fn, labels, loss="margin"), images)

    def attacking(attack):
        def attacked(variables, key, images, labels):
            logits_fn = flax_logits(module, variables, train=False)
            options = {} if attack.minimal else {"epsilon": 8 / 255}
            return attack(key, images, logits_fn, labels, **options)

        return attacked

    programs = {"gradient": gradient}
    programs |= {x: attacking(ATTACKS[x]) for x in MEASURED_ATTACKS}
    values = {}
    for what, program in programs.items():
        compiled = jax.jit(program).lower(variables, key, images, labels).compile()
        values[f"{what}: MB an image"] = planned_bytes(compiled) / count / 1e6
    one, *each = values.values()
    largest = {
        MOST_MEMORY[many]: max(
            memory / one
            for name, memory in zip(MEASURED_ATTACKS, each, strict=True)
            if ATTACKS[name].class_gradients == many
        )
        for many in MOST_MEMORY
    }
    return base.new_row(
        f"attacks on {name} at {side}x{side} (float32), {count} images at a time: "
        "temporary memory that XLA plans for the compiled program, without weights",
        values=values | largest,
        at_most={text: ATTACK_MEMORY[many] for many, text in MOST_MEMORY.items()},
    )


def planned_bytes(compiled: jax.stages.Compiled) -> int:
    """Returns the temporary memory of a program; 0 where the backend does not say."""
    memory = compiled.memory_analysis()
    return 0 if memory is None else memory.temp_size_in_bytes


MEASUREMENTS = {
    f.__name__: f for f in (train_remover, corrupt_in_turn, evaluate_generated)
}


def measure_apart(
    function: Callable[..., dict[str, float]], **arguments: Any
) -> dict[str, float]:
    """Returns what one of `MEASUREMENTS` does, called in a new process."""
    root, what = str(Path(__file__).parents[2]), function.__name__
    child = subprocess.run(
        [sys.executable, "-m", __spec__.name, what, json.dumps(arguments)],
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


def peaks() -> dict[str, float]:
    """Returns `peak host GB` of this process, and `peak device GB` if it is counted."""
    result = {PEAK: host_bytes("VmHWM") / 1e9}
    device = jax.devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in device:
        result["peak device GB"] = device["peak_bytes_in_use"] / 1e9
    return result


def host_bytes(field: str) -> int:
    """Returns resident bytes: most ever (`VmHWM`), or, on Linux, now (`VmRSS`)."""
    status = Path("/proc/self/status")
    if status.exists():
        # Not getrusage: on Linux that also counts the process that started this one.
        for line in status.read_text(encoding="utf-8").splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


if __name__ == "__main__":
    print(json.dumps(MEASUREMENTS[sys.argv[1]](**json.loads(sys.argv[2]))))
