r"""Learns a dictionary of the transformation `sparse_layer` from clean images.

  python -m launch.learn_dictionary --dataset=cifar10 --split='train[:5000]' \
      --out=colour.npy
  python -m launch.learn_dictionary --dataset=cifar10 --split='train[:5000]' --grey \
      --out=grey.npy

These two made the dictionaries of the package. Another is used as
`sparse_layer:dictionary=colour.npy`. How it was learned is written beside it, in JSON.
"""

import time
from pathlib import Path

import numpy as np
from absl import flags

from launch import cli
from uronet_jax.data import open_source
from uronet_jax.records import provenance, write_json
from uronet_jax.transformations.dictionary_learning import learn_dictionary

_DATASET = flags.DEFINE_string("dataset", None, "Name of the data set.", required=True)
_SPLIT = flags.DEFINE_string("split", "train", "Split, whole or sliced.")
_OUT = flags.DEFINE_string("out", None, "File .npy to write.", required=True)
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Default: $URONET_DATA_DIR, else ~/tensorflow_datasets."
)
_GREY = flags.DEFINE_bool("grey", False, "Learn from the luma of colour images.")
_FILTERS = flags.DEFINE_integer("filters", 64, "How many.", lower_bound=1)
_SIZE = flags.DEFINE_integer("size", 8, "Side of a filter.", lower_bound=2)
_WEIGHT = flags.DEFINE_float("weight", 0.2, "Of the l1 norm.", lower_bound=1e-3)
_SMOOTHING = flags.DEFINE_float("smoothing", 5.0, "Of the low-pass.", lower_bound=0.0)
_LEARNING_RATE = flags.DEFINE_float("learning_rate", 0.03, "Adam's, at first.")
_STEPS = flags.DEFINE_integer("steps", 200, "Batches to look at.", lower_bound=1)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 32, "Images in one.", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 0, "Of all random numbers.", lower_bound=0)


def main(argv: list[str]) -> None:
    """Learns and writes the dictionary that the flags describe."""
    del argv  # Checked by `cli.run`.
    path = Path(_OUT.value)
    if path.suffix != ".npy":
        raise ValueError(f"--out must end in .npy: {path}")
    for file in (path, path.with_suffix(".json")):
        if file.exists():
            raise ValueError(f"{file} is there: choose another --out")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()  # Fails now if it cannot be written.
    source = open_source(_DATASET.value, _SPLIT.value, data_dir=_DATA_DIR.value)
    images = source.arrays()[0].astype(np.float32) / 255
    if _GREY.value and images.shape[-1] == 3:
        images = images @ np.array([[0.299], [0.587], [0.114]], np.float32)
    settings = {
        **{"filters": _FILTERS.value, "size": _SIZE.value, "weight": _WEIGHT.value},
        **{"smoothing": _SMOOTHING.value, "learning_rate": _LEARNING_RATE.value},
        **{"steps": _STEPS.value, "batch_size": _BATCH_SIZE.value},
        "seed": _SEED.value,
    }
    start = time.monotonic()
    dictionary, objective = learn_dictionary(images, **settings, progress=True)
    seconds = time.monotonic() - start
    np.save(path, dictionary)
    data = {"dataset": _DATASET.value, "split": _SPLIT.value, "images": len(images)}
    config = {**settings, **data, "grey": _GREY.value}
    means = {"first": objective[0], "last_50": objective[-50:].mean()}
    record = {**provenance(config, seconds=seconds), "objective": means}
    write_json(path.with_suffix(".json"), record)
    print(f"{path}: {list(dictionary.shape)}, objective {means}")


if __name__ == "__main__":
    cli.run(main)
