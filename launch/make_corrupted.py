r"""Writes a corrupted test set, in the layout of CIFAR-10-C or of ImageNet-C.

  python -m launch.make_corrupted --dataset=cifar10 --suite=cifar_c --out=cifar10_c
  python -m launch.make_corrupted --dataset=photos --split=validation \
      --suite=imagenet_c --corruptions=fog,snow --severities=3 --out=photos_c

Run the same again after an interruption: what is complete is not made anew.
"""

from absl import flags

from launch import cli
from uronet_jax.corruptions import SUITES
from uronet_jax.data import corrupted, open_source
from uronet_jax.data.frost import load_suite_frost

_DATASET = flags.DEFINE_string("dataset", None, "Name of the data set.", required=True)
_SPLIT = flags.DEFINE_string("split", "test", "Split, whole or sliced.")
_SUITE = flags.DEFINE_enum(
    "suite", None, list(SUITES), "Corruptions and severities.", required=True
)
_OUT = flags.DEFINE_string("out", None, "Folder to write to.", required=True)
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Default: $URONET_DATA_DIR, else ~/tensorflow_datasets."
)
_CORRUPTIONS = flags.DEFINE_list("corruptions", None, "Default: all of the suite.")
_SEVERITIES = flags.DEFINE_list("severities", None, "Default: all of the suite.")
_SEED = flags.DEFINE_integer("seed", 0, "Of all random numbers.", lower_bound=0)
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", None, "Images at a time, over all devices. Default: by image size."
)
_LAYOUT = flags.DEFINE_enum(
    "layout",
    None,
    list(corrupted.FILE_LAYOUTS),
    "arrays: <corruption>.npy. folders: <corruption>/<severity>/<class>/*.JPEG. "
    "Default: arrays for sides of at most 64 pixels.",
)
_FROST_DIR = flags.DEFINE_string(
    "frost_dir", None, "Folder of photographs of frost. Default: generated textures."
)
_VERIFY = flags.DEFINE_bool(
    "verify", False, "Compare all files with their checksums in the end."
)


def main(argv: list[str]) -> None:
    """Writes the set that the flags describe."""
    del argv  # Checked by `cli.run`.
    severities = _SEVERITIES.value
    if severities is not None:
        if not all(severity.isdecimal() for severity in severities):
            raise ValueError(
                f"--severities takes numbers such as 1,3: {','.join(severities)}"
            )
        severities = [int(severity) for severity in severities]
    frost_dir = _FROST_DIR.value
    corrupted.write(
        open_source(_DATASET.value, _SPLIT.value, data_dir=_DATA_DIR.value),
        _OUT.value,
        suite=_SUITE.value,
        names=_CORRUPTIONS.value,
        severities=severities,
        seed=_SEED.value,
        layout=_LAYOUT.value,
        batch_size=_BATCH_SIZE.value,
        frost_textures=load_suite_frost(frost_dir, _SUITE.value) if frost_dir else None,
    )
    if _VERIFY.value:
        print(f"{corrupted.verify(_OUT.value)} files are as the manifest says")
    described = corrupted.read_manifest(_OUT.value)["corruptions"]
    if described.get("frost", {}).get("textures") == "procedural":
        print("frost is of generated textures, not the benchmark's: see --frost_dir")
    names = corrupted.list_stored(_OUT.value)
    print(f"{_OUT.value} holds {len(names)} corruptions: {', '.join(names)}")


if __name__ == "__main__":
    cli.run(main)
