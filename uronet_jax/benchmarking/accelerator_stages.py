"""What is measured and trained on an accelerator that is lent for minutes, in order.

Each stage is a command of `launch` that keeps what it has when it is stopped, so that
the same command goes on.
"""

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path

from uronet_jax.data.sources import find_prepared

# Data sets that the trainings take.
DATA_SETS = ("cifar10", "mnist")


@dataclasses.dataclass(frozen=True, eq=False)
class Stage:
    """A command, and the JSON that it writes.

    Attributes:
        name: For logs and `--stages`.
        command: Module and flags, after `python -m`.
        result: JSON that it writes, the last of several, or a data set that it
            prepares.
        rows: Names of the rows of a finished benchmark; empty for a reproduction, whose
            result says itself whether it is finished.
        environment: Variables that it needs beside those of this process.
        seconds: After these it is stopped.
        keeps_models: Whether its trained models are worth carrying away.
    """

    name: str
    command: tuple[str, ...]
    result: Path
    rows: tuple[str, ...] = ()
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    seconds: float = float("inf")
    keeps_models: bool = False

    def is_finished(self) -> bool:
        """Returns whether nothing is left to do."""
        if self.result.suffix != ".json":
            return find_prepared(self.result.name, self.result.parent) is not None
        if not self.result.exists():
            return False
        content = json.loads(self.result.read_text(encoding="utf-8"))
        if self.rows:
            return set(self.rows) <= content["rows"].keys()
        return content["finished"]


def preparations(packed: Path, data_dir: Path) -> list[Stage]:
    """Returns what makes the data sets of the trainings from packed ones."""
    return [
        Stage(
            f"prepare_{name}",
            ("launch.prepare_data", f"--name={name}", "--from=packed")
            + (f"--input={packed}", f"--data_dir={data_dir}"),
            data_dir / name,
            environment={"JAX_PLATFORMS": "cpu"},
        )
        for name in DATA_SETS
    ]


def timed_stages(out: Path, card: str, *, rehearsal: bool) -> list[Stage]:
    """Returns what is timed, one at a time; `card` is a part of the files' names."""
    tiny = ("--scale=tiny", "--repeats=1") if rehearsal else ()
    half = ("--dtype=bfloat16", "--skip_naive")
    steps = ("remover", "classifier", "detector", "adversarial_noise_32")
    judged = ("corrupted_set", "corruptions_32")
    attacks = ("attack_pgd", "attack_autoattack")
    # The shortest first: most of the time is compilation, each network's twice.
    photos = ("remover_224", "resnet50_224", "efficientnet_lite0_224")
    # A step takes 50 ms and more.
    few = half if rehearsal else (*half, "--steps_per_sample=10")
    big = half if rehearsal else (*half, "--batch_size=1024")
    return [
        Stage(
            name,
            ("launch.benchmark", f"--what={','.join(rows)}", *flags, *tiny)
            + (f"--out={out / f'{file}.json'}",),
            out / f"{file}.json",
            rows,
            seconds=seconds,
        )
        for name, file, rows, flags, seconds in (
            ("ceilings", f"benchmark_ceilings_{card}", ("ceilings",), (), 60.0),
            ("steps", f"benchmark_{card}", steps, half, 180.0),
            ("large_steps", f"benchmark_{card}_batch1024", steps[:2], big, 90.0),
            ("large_images", f"benchmark_{card}_224", photos, few, 180.0),
            ("serving", f"benchmark_serving_{card}", ("serving",), half, 60.0),
            ("corruptions", f"benchmark_corruptions_{card}", judged, (), 90.0),
            ("attacks", f"benchmark_attacks_{card}", attacks, (), 90.0),
        )
    ]


def trainings(workdir: Path, data_dir: Path, *, rehearsal: bool) -> list[Stage]:
    """Returns the reproductions, which run side by side."""
    preset = "smoke" if rehearsal else "full"
    # As on a CPU: in TF32 perturbations of 0.001 would be rounded away.
    exact = {"JAX_DEFAULT_MATMUL_PRECISION": "highest"}
    seeds = [
        (f"ant_mnist_{seed}", "ant_mnist", (f"--config.seed={seed}",), exact)
        for seed in (1, 2)
    ]
    one = ("--config.data.other_classifier=",)
    return [
        Stage(
            name,
            ("launch.reproduce", f"--config=configs/reproduce.py:{preset}")
            + (f"--experiment={experiments}", f"--workdir={workdir / name}")
            + (f"--data_dir={data_dir}", *flags),
            workdir / name / f"{experiments.split(',')[-1]}.json",
            environment=environment,
            keeps_models=name in ("universal", "ant_cifar10"),
        )
        for name, experiments, flags, environment in (
            ("universal", "universal", one, {}),
            ("ant_mnist_0", "ant_mnist,ant_mnist_attacks,ant_mnist_scan", (), exact),
            ("ant_cifar10", "ant_cifar10,ant_noise,ant_cifar10_attacks", (), exact),
            *seeds,
            ("table7", "table7", (), {}),
            ("table2", "table2", (), {}),
        )
    ]


def card_name(kind: str) -> str:
    """Returns a short name of a JAX `device_kind`: `h100` of `NVIDIA H100 80GB`."""
    found = re.search(r"\b[A-Z]+\d+\w*\b", kind)
    return re.sub(r"\W+", "_", found[0] if found else kind).lower()
