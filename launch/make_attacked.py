r"""Stores attacked copies of training and validation images, for what learns on them.

  python -m launch.make_attacked --dataset=cifar10 --train_split='train[:10000]' \
      --validation_split='train[45000:46000]' --classifier=runs/small/classifier \
      --attack=pgd_linf:epsilon=0.01,step_size=0.004,steps=10 --out=runs/small/attacked

Any attack of docs/ATTACKS.md. Trainings read it as `config.degradation.folder`. Run the
same again after an interruption: what is there is not made anew.
"""

from absl import flags

from launch import cli
from uronet_jax import sharding
from uronet_jax.data import open_source
from uronet_jax.data.sources import check_disjoint
from uronet_jax.evaluation.attacked_copies import LED_FROM, attack_parts
from uronet_jax.evaluation.threat_models import parse_run
from uronet_jax.loading import load_classifier
from uronet_jax.progress import Progress, StoppedError, StopSignal

_DATASET = flags.DEFINE_string("dataset", None, "Name of the data set.", required=True)
_TRAIN = flags.DEFINE_string("train_split", None, "Split, or a slice.", required=True)
_VALIDATION = flags.DEFINE_string(
    "validation_split", None, "Split, or a slice.", required=True
)
_CLASSIFIER = flags.DEFINE_string(
    "classifier",
    None,
    "What is attacked: the folder of a run, or a file of PyTorch weights.",
    required=True,
)
_ATTACK = flags.DEFINE_string(
    "attack",
    None,
    "Such as fgsm_linf:epsilon=0.01 or deepfool_l2:overshoot=0.02,steps=50.",
    required=True,
)
_LABELS = flags.DEFINE_enum(
    "labels",
    "true",
    LED_FROM,
    "From what the images are led away: their labels, or what the classifier says.",
)
_OUT = flags.DEFINE_string("out", None, "Folder to write to.", required=True)
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Default: $URONET_DATA_DIR, else ~/tensorflow_datasets."
)
_SEED = flags.DEFINE_integer("seed", 0, "Of random starts.", lower_bound=0)
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", 256, "Images at a time, over all devices."
)


def main(argv: list[str]) -> None:
    """Makes the copies that the flags describe."""
    del argv  # Checked by `cli.run`.
    splits = {"train": _TRAIN.value, "validation": _VALIDATION.value}
    run, data_dir = parse_run(_ATTACK.value), _DATA_DIR.value
    check_disjoint(_DATASET.value, splits, data_dir=data_dir, section="flags")
    stop = StopSignal()
    try:
        made = attack_parts(
            _OUT.value,
            {
                part: open_source(_DATASET.value, split, data_dir=data_dir)
                for part, split in splits.items()
            },
            load_classifier(_CLASSIFIER.value),
            run,
            seed=_SEED.value,
            labels=_LABELS.value,
            batch_size=_BATCH_SIZE.value,
            mesh=sharding.data_mesh(),
            progress=Progress(stop),
        )
    except StoppedError:
        print(f"stopped by {stop.received}; saved. Run the same command to resume.")
        return
    for part, images in made.items():
        print(f"{_OUT.value}/{part}.npy: {len(images)} images after {run.name}")


if __name__ == "__main__":
    cli.run(main)
