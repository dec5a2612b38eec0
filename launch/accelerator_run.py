r"""Measures and trains what is worth most, on an accelerator that is lent for minutes.

  python -m launch.accelerator_run --minutes=12 --packed=DATA --out=DIR

In this order: ceilings of the device; training steps beside `torch.compile`,
corruptions and attacks beside their peers, one at a time; then, three at a time, the
universal remover, adversarial noise training on MNIST (three seeds) and CIFAR-10,
Tables 7 and 2, all at `full`. Everything ends in time and keeps what it has; the same
command goes on.
DIR gets the JSON files of the benchmarks, `accelerator_run.json` (what came of each
stage) and `results.tar.xz.00`, ...: results, logs and models of the trainings
(`cat results.tar.xz.* | tar xJ`). Exit status 1 if a stage failed.

On a machine without a network a bundle brings packages, data and classifier:

  python -m launch.accelerator_run --bundle --packed=DATA --out=DIR --part_mb=50 \
      --classifier=cifar10_resnet20.npz
  # There, in a copy of this repository, with the parts in DIR:
  cat DIR/bundle.tar.xz.* | tar xJ -C BUNDLE && PYTHONPATH=BUNDLE/site \
      python -m launch.accelerator_run --minutes=12 --packed=BUNDLE/data \
      --classifier=BUNDLE/models/cifar10_resnet20.npz --out=OUT
"""

import sys
from pathlib import Path

from absl import flags

from launch import cli
from uronet_jax.benchmarking import bundle
from uronet_jax.benchmarking.accelerator_run import (
    CLASSIFIER,
    DATA_SETS,
    run_on_accelerator,
)


def main(argv: list[str]) -> None:
    """Does what the flags describe."""
    del argv
    values = flags.FLAGS
    out, packed = Path(values.out), Path(values.packed)
    classifier = Path(values.classifier) if values.classifier else None
    sizes = {"classifier": classifier, "part_bytes": int(values.part_mb * 1e6)}
    for name in DATA_SETS:
        bundle.packed_files(packed, name)
    if values.bundle:
        for path in bundle.write_bundle(out, packed, python=values.python, **sizes):
            print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
        return
    if not values.minutes:
        raise ValueError("--minutes is missing: how long may it take?")
    failed = run_on_accelerator(
        out,
        packed,
        Path(values.workdir),
        seconds=60 * values.minutes,
        names=values.stages,
        rehearsal=values.rehearsal,
        stop=cli.StopSignal(),
        **sizes,
    )
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    flags.DEFINE_float("minutes", None, "Everything has ended after these.")
    flags.DEFINE_string("out", None, "Folder for results, or for a bundle.")
    flags.DEFINE_string(
        "packed",
        None,
        f"Folder of the packed data sets {' and '.join(DATA_SETS)}, see "
        "launch.prepare_data --from=packed.",
    )
    flags.DEFINE_string("classifier", None, f"A .npz file, if {CLASSIFIER} is none.")
    flags.DEFINE_string("workdir", "runs/accelerator", "Folder of the trainings.")
    flags.DEFINE_list("stages", "all", "all, or some of the stages by name.")
    flags.DEFINE_bool("rehearsal", False, "Tiny sizes and generated images.")
    flags.DEFINE_bool("bundle", False, "Write a bundle instead.")
    flags.DEFINE_string("python", "3.12", "Of the machine that a bundle is for.")
    flags.DEFINE_float("part_mb", 2000.0, "Size of the parts of archives.")
    flags.mark_flags_as_required(["out", "packed"])
    cli.run(main)
