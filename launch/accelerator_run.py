r"""Measures and trains what is worth most, on an accelerator that is lent for minutes.

  python -m launch.accelerator_run --minutes=12 --packed=DATA --out=DIR

In this order: ceilings of the device; training steps beside `torch.compile`,
corruptions and attacks beside their peers, one at a time; then, three at a time, the
universal remover, adversarial noise training on MNIST (three seeds, and several
strengths) and CIFAR-10, with attacks, Tables 7 and 2, all at `full`. Everything ends in
time and keeps what it has; the same command goes on.
DIR gets the JSON files of the benchmarks, `accelerator_run.json` (what came of each
stage) and `results.tar.0000`, ...: these, and results, logs and models of the trainings
(`cat results.tar.* | tar x`). Exit status 1 if a stage failed.

A bundle is for x86-64 Linux without a network, with JAX, Flax and PyTorch for its card:

  python -m launch.accelerator_run --bundle --packed=DATA --out=DIR --part_mb=50 \
      --classifier=cifar10_resnet20.npz
  # There, in a copy of this repository, with the parts in DIR:
  mkdir BUNDLE && cat DIR/bundle.tar.xz.* | tar xJ -C BUNDLE && PYTHONPATH=BUNDLE/site \
      python -m launch.accelerator_run --minutes=12 --packed=BUNDLE/data \
      --classifier=BUNDLE/models/cifar10_resnet20.npz --out=OUT
"""

import sys
from pathlib import Path

from absl import flags

from launch import cli
from uronet_jax.batches import check_number
from uronet_jax.benchmarking import bundle
from uronet_jax.benchmarking.accelerator_run import CLASSIFIER, run_on_accelerator
from uronet_jax.benchmarking.accelerator_stages import DATA_SETS
from uronet_jax.progress import StopSignal


def main(argv: list[str]) -> None:
    """Does what the flags describe."""
    del argv
    values = flags.FLAGS
    out, classifier = Path(values.out), values.classifier and Path(values.classifier)
    packed = values.packed and Path(values.packed)
    check_number("--part_mb", values.part_mb, 0.001)
    both = {"classifier": classifier, "part_bytes": int(values.part_mb * 1e6)}
    if values.bundle and not packed:
        raise ValueError("--bundle needs --packed, the folder of the packed data sets")
    if values.bundle:
        parts = bundle.write_bundle(out, packed, python=values.python, **both)
        for path in parts:
            print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
        return
    if values.minutes is None:
        raise ValueError("--minutes is missing: how long may it take?")
    failed = run_on_accelerator(
        out,
        Path(values.workdir),
        seconds=60 * values.minutes,
        packed=packed,
        names=values.stages,
        rehearsal=values.rehearsal,
        stop=StopSignal(),
        **both,
    )
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    flags.DEFINE_float("minutes", None, "All has ended after these; ending takes 0.5.")
    flags.DEFINE_string("out", None, "Folder for results, or for a bundle.")
    flags.DEFINE_string(
        "packed",
        None,
        f"Folder of {' and '.join(DATA_SETS)}, see launch.prepare_data --from=packed.",
    )
    flags.DEFINE_string("classifier", None, f"A .npz file, if {CLASSIFIER} is none.")
    flags.DEFINE_string("workdir", "runs/accelerator", "Folder of the trainings.")
    flags.DEFINE_list("stages", "all", "all, or some of the stages by name.")
    flags.DEFINE_bool("rehearsal", False, "Tiny sizes and generated images.")
    flags.DEFINE_bool("bundle", False, "Write a bundle instead.")
    flags.DEFINE_string("python", "3.12", "Of the machine that a bundle is for.")
    flags.DEFINE_float("part_mb", 2000.0, "Size of the parts of archives.")
    flags.mark_flag_as_required("out")
    cli.run(main)
