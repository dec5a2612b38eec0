"""Purifies image files: files, folders and patterns, of any size and format.

  python -m launch.purify photos/ --out=clean
  python -m launch.purify photos/ --out=clean --purifier=median
  python -m launch.purify 'photos/**/*.jpg' --out=clean --purifier=runs/small/remover \
      --detector=runs/small/detector --classifier=runs/small/classifier

Writes the pictures as PNG, verdicts.csv and contact_sheet.png. Run the same again after
an interruption: what is finished is not made anew. Exit status 1: some files failed,
see verdicts.csv; 2: nothing could be done; 130 or 143: a signal stopped it.
"""

import signal
import sys
from pathlib import Path

from absl import flags

from launch import cli
from uronet_jax.loading import usual_models
from uronet_jax.photos.inputs import CONTACT_SHEET, VERDICTS
from uronet_jax.photos.purify import load_photo_models, purify_files
from uronet_jax.pretrained import USUAL_PRETRAINED
from uronet_jax.progress import Progress, StopSignal

_OUT = flags.DEFINE_string("out", None, "Folder to write to.", required=True)
_PURIFIER = flags.DEFINE_string(
    "purifier",
    None,
    f"Run, weights, median:size=5, several by +. Default: {USUAL_PRETRAINED}.",
)
_DETECTOR = flags.DEFINE_string(
    "detector",
    None,
    "Folder of a run behind that purifier, or pretrained weights, which bring their "
    "own; empty: none.",
)
_CLASSIFIER = flags.DEFINE_string(
    "classifier", None, "Folder of a run, or file of PyTorch weights."
)
_CLASS_NAMES = flags.DEFINE_list(
    "class_names", None, "Of the classifier's labels. Default: their numbers."
)
_THRESHOLD = flags.DEFINE_float(
    "threshold", 0.5, "Probability above which a picture is called degraded."
)
_TILE = flags.DEFINE_integer("tile", 512, "Side of the windows of large pictures.")
_SAME_SUFFIX = flags.DEFINE_bool(
    "same_suffix",
    False,
    "Write files of the same kind instead of PNG; .gif and other rare kinds fail.",
)
_SEED = flags.DEFINE_integer("seed", 0, "Of random purifiers.", lower_bound=0)


def main(argv: list[str]) -> None:
    """Purifies what the arguments name."""
    stop = StopSignal()
    purifier, detector = usual_models(_PURIFIER.value, _DETECTOR.value)
    done = purify_files(
        argv[1:],
        _OUT.value,
        load_photo_models(purifier, detector, _CLASSIFIER.value),
        class_names=_CLASS_NAMES.value,
        threshold=_THRESHOLD.value,
        tile=_TILE.value,
        same_suffix=_SAME_SUFFIX.value,
        seed=_SEED.value,
        progress=Progress(stop),
    )
    for note in done.notes:
        print(note)
    for row in done.rows:
        if row["error"]:
            print(f"failed: {row['file']}: {row['error']}", file=sys.stderr)
    kept = f" ({done.kept} were finished before)" if done.kept else ""
    print(f"purified {done.made} pictures{kept}, {done.failed} failed")
    written = [x for x in (VERDICTS, CONTACT_SHEET) if (Path(_OUT.value) / x).exists()]
    print(f"wrote {' and '.join(written)} to {_OUT.value}")
    if done.left:
        again = "run the same command to resume"
        print(f"stopped by {stop.received}, {done.left} are left; {again}")
        sys.exit(128 + signal.Signals[stop.received])
    if done.failed:
        sys.exit(1)


if __name__ == "__main__":
    cli.run(main, takes_arguments=True)
