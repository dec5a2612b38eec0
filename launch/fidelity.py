r"""Compares the corruptions with stored outputs of the original programs.

  python -m launch.fidelity --golden_dir=FOLDER \
      --out=docs/results/corruption_fidelity.json

The folder holds the archives that `uronet_jax.benchmarking.fidelity` describes.
"""

from absl import flags

from launch import cli
from uronet_jax.benchmarking.fidelity import measure_fidelity


def main(argv: list[str]) -> None:
    """Measures and writes."""
    del argv
    rows = measure_fidelity(flags.FLAGS.golden_dir, flags.FLAGS.out)
    worst = max(rows, key=lambda row: row["max_difference"])
    print(f"wrote {flags.FLAGS.out}; largest difference: {worst}")


if __name__ == "__main__":
    flags.DEFINE_string("golden_dir", None, "Folder of the archives.", required=True)
    flags.DEFINE_string("out", None, "JSON file to write to.", required=True)
    cli.run(main)
