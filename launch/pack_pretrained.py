r"""Makes pretrained weights of the runs of a purifier and of the detector behind it.

  python -m launch.pack_pretrained --name=universal-cifar10 --card=card.md \
      --purifier=runs/universal --detector=runs/universal_detector \
      --about='CIFAR-10, 18 noises'

Writes weights in few bits, a JSON that rebuilds the models and the card, and tells how
far rounding moved the outputs. The card is a Markdown file with the sections Numbers
(which name their JSON in docs/results), Limits and How to make it again; data and
recipe are added from the runs.
"""

from absl import flags

from launch import cli
from uronet_jax.packing import pack_pretrained
from uronet_jax.rounding import BITS


def _required(name: str, text: str) -> flags.FlagHolder[str]:
    return flags.DEFINE_string(name, None, text, required=True)


_PURIFIER = _required("purifier", "Folder of the run of a purifier.")
_DETECTOR = _required("detector", "Folder of the run of a detector behind it.")
_NAME = _required("name", "Lower-case words joined by hyphens.")
_ABOUT = _required("about", "One line: data and degradations.")
_CARD = _required("card", "Markdown file with the sections that a person writes.")
_OUT = flags.DEFINE_string("out", None, "Folder of entries. Default: the package's.")
_MIRROR = flags.DEFINE_bool(
    "mirror",
    None,
    "Whether the purifier sees mirror images too. Default: as it learned.",
)
_BITS = flags.DEFINE_list(
    "bits",
    [f"{size}:{count}" for size, count in BITS],
    "SIZE:BITS,...: kernels of more than SIZE weights take BITS bits each; float16.",
)
_CHECKPOINT = flags.DEFINE_enum("checkpoint", "best", ("best", "last"), "Of both runs.")
_IMAGES = flags.DEFINE_integer("images", 256, "That rounding is measured on.", 1)
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Default: $URONET_DATA_DIR, else ~/tensorflow_datasets."
)


def read_bits(text: str) -> tuple[int, int]:
    """Returns size and bits of `SIZE:BITS`; ValueError if a text is otherwise."""
    size, _, count = text.partition(":")
    if not (size.isdecimal() and count.isdecimal()):
        raise ValueError(f"--bits {text!r}: write SIZE:BITS, such as 10000:8")
    return int(size), int(count)


def main(argv: list[str]) -> None:
    """Packs what the flags name."""
    del argv  # Checked by `cli.run`.
    entry = pack_pretrained(
        _PURIFIER.value,
        _DETECTOR.value,
        _NAME.value,
        about=_ABOUT.value,
        card=_CARD.value,
        folder=_OUT.value,
        mirror=_MIRROR.value,
        bits=[read_bits(pair) for pair in _BITS.value],
        which=_CHECKPOINT.value,
        count=_IMAGES.value,
        data_dir=_DATA_DIR.value,
    )
    for name, value in entry.rounding.items():
        print(f"rounding: {name} {value:.4g}")
    print(f"wrote {_NAME.value} to {_OUT.value or 'the package'}")


if __name__ == "__main__":
    cli.run(main)
