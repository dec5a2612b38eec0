r"""Writes a whole defence as one file that JAX alone runs, to serve it.

  python -m launch.export --out=defense.stablehlo --purifier=runs/small/remover \
      --detector=runs/small/detector --classifier=runs/small/classifier

Weights are inside, the number of images is free, CPU and CUDA run it. Takes uint8
images. defense.json beside it describes input and outputs; docs/SERVING.md shows a
server.
"""

from absl import flags

from launch import cli
from uronet_jax.exporting import export_defense
from uronet_jax.loading import detector_for, load_defense

_OUT = flags.DEFINE_string("out", None, "File to write.", required=True)
_CLASSIFIER = flags.DEFINE_string(
    "classifier",
    None,
    "Folder of a run, or file of PyTorch weights.",
    required=True,
)
_PURIFIER = flags.DEFINE_string(
    "purifier",
    None,
    "Folder of a run, pretrained weights, a transformation such as median:size=5, or "
    "several, joined by +. Default: none.",
)
_DETECTOR = flags.DEFINE_string(
    "detector",
    None,
    "Folder of a run behind that purifier, or pretrained weights, which bring their "
    "own; empty: none.",
)
_GATE = flags.DEFINE_float(
    "gate", None, "Purify only above this degraded probability. Default: always."
)
_THRESHOLD = flags.DEFINE_float(
    "threshold", 0.5, "Probability above which a picture is to be called degraded."
)


def main(argv: list[str]) -> None:
    """Exports what the flags name."""
    del argv  # Checked by `cli.run`.
    parts = {
        "purifier": _PURIFIER.value,
        "detector": detector_for(_PURIFIER.value, _DETECTOR.value),
        "classifier": _CLASSIFIER.value,
    }
    about = export_defense(
        load_defense(**parts, gate=_GATE.value),
        _OUT.value,
        threshold=_THRESHOLD.value,
        models={role: spec for role, spec in parts.items() if spec},
    )
    taken, shape = about["input"], about["input"]["shape"]
    print(f"takes {taken['dtype']} {shape}, gives {', '.join(about['outputs'])}")
    print(f"wrote {_OUT.value} and its description")


if __name__ == "__main__":
    cli.run(main)
