"""Prepares a data set, once, so that every other program can open it by name.

  python -m launch.prepare_data --name=cifar10 --from=packed --input=FOLDER
  python -m launch.prepare_data --name=birds --input=photos --resize=64,64
  python -m launch.prepare_data --name=cifar10       # official set; needs TensorFlow

Photos lie in photos/<class>/ or photos/<split>/<class>/. Without --from the kind of
input is deduced.
"""

from absl import flags

from launch import cli
from launch.sizes import parse_size
from uronet_jax.data import prepare, sources

_NAME = flags.DEFINE_string("name", None, "Name of the data set.", required=True)
_FROM = flags.DEFINE_enum(
    "from", None, prepare.INPUT_KINDS, "Kind of input; deduced by default."
)
_INPUT = flags.DEFINE_string(
    "input", None, "Folder or .npz file to read. None: an official TFDS set."
)
_DATA_DIR = flags.DEFINE_string(
    "data_dir",
    None,
    "Folder to write to. Default: $URONET_DATA_DIR, else ~/tensorflow_datasets.",
)
_RESIZE = flags.DEFINE_list("resize", None, "HEIGHT,WIDTH of the stored images.")
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace the data set if it exists.")
_SKIP_BROKEN = flags.DEFINE_bool(
    "skip_broken", False, "Leave out image files that cannot be read, and say which."
)
_SCALE_16BIT = flags.DEFINE_bool(
    "scale_16bit", False, "Take 16-bit image files too: 65535 becomes 255."
)


def main(argv: list[str]) -> None:
    """Prepares the data set that the flags describe."""
    del argv  # Checked by `cli.run`.
    prepared = prepare.prepare(
        _NAME.value,
        source=_FROM.value or prepare.deduce_source(_NAME.value, _INPUT.value),
        input_path=_INPUT.value,
        data_dir=_DATA_DIR.value,
        resize=parse_size(_RESIZE.value),
        overwrite=_OVERWRITE.value,
        skip_broken=_SKIP_BROKEN.value,
        scale_16bit=_SCALE_16BIT.value,
    )
    for note in prepared.notes:
        print(f"{_NAME.value}: {note}")
    print(f"wrote {prepared.folder}")
    for split, size in sources.split_sizes(prepared.folder).items():
        source = sources.open_source(_NAME.value, split, data_dir=_DATA_DIR.value)
        shape = "x".join(str(n) for n in source.image_shape)
        print(f"  {split}: {size} images, {shape}, {source.num_classes} classes")


if __name__ == "__main__":
    cli.run(main)
