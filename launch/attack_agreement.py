r"""Compares every attack with foolbox and torchattacks, on one network and its images.

  pip install -e ".[oracles]"
  python -m launch.attack_agreement --classifier=resnet20.npz --dataset=cifar10 \
      --out=docs/results/attack_agreement.json

A row that the file holds already is not measured again. Let nothing else run beside it.
"""

from absl import flags

from launch import cli
from uronet_jax.benchmarking.agreement import measure_agreement


def main(argv: list[str]) -> None:
    """Measures and writes."""
    del argv
    values = flags.FLAGS
    result = measure_agreement(
        values.classifier,
        values.out,
        dataset=values.dataset,
        num_images=values.num_images,
        data_dir=values.data_dir,
    )
    print(f"wrote {values.out}: {len(result['rows'])} rows")


if __name__ == "__main__":
    flags.DEFINE_string(
        "classifier", None, "Run, or PyTorch weights of a ResNet.", required=True
    )
    flags.DEFINE_string("dataset", "cifar10", "Name of the prepared data set.")
    flags.DEFINE_string("data_dir", None, "Folder of the prepared data sets.")
    flags.DEFINE_integer("num_images", 32, "Test images that are right without attack.")
    flags.DEFINE_string("out", None, "JSON file to write to.", required=True)
    cli.run(main)
