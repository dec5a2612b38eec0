r"""Opens a web page on which a person tries a defence.

  python -m launch.demo
  python -m launch.demo --purifier=runs/small/remover --detector=runs/small/detector \
      --classifier=runs/small/classifier --reports=runs/small/evaluation/evaluation.json

Choose an image, make it worse by a corruption or an attack, and see what the defence
makes of it. Needs `pip install uronet_jax[demo]` and no network; --share makes the page
public through Gradio's server, as for Colab.
"""

import signal
import sys

from absl import flags

from launch import cli
from uronet_jax.command import programs_folder
from uronet_jax.demo import studio as studios
from uronet_jax.loading import check_models_match, usual_models
from uronet_jax.photos.purify import load_photo_models
from uronet_jax.pretrained import USUAL_PRETRAINED
from uronet_jax.reports.side_by_side import published_reports, read_reports

_PURIFIER = flags.DEFINE_string(
    "purifier",
    None,
    f"As in uronet purify, such as median:size=5. Default: {USUAL_PRETRAINED}.",
)
_DETECTOR = flags.DEFINE_string(
    "detector", None, "As in uronet purify: of a detector behind that purifier."
)
_CLASSIFIER = flags.DEFINE_string(
    "classifier", None, "Folder of a run, or file of PyTorch weights."
)
_CLASS_NAMES = flags.DEFINE_list(
    "class_names", None, "Of the classifier's labels. Default: the data set's."
)
_THRESHOLD = flags.DEFINE_float(
    "threshold", 0.5, "Probability above which an image is called degraded."
)
_DATA = flags.DEFINE_string(
    "data", None, "Data set of the images. Default: what the classifier learned on."
)
_SPLIT = flags.DEFINE_string("split", "test", "Its split.")
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Folder of the prepared data sets. Default: see uronet prepare."
)
_REPORTS = flags.DEFINE_list(
    "reports",
    None,
    "JSON files of `uronet evaluate`, for the table. Default: those of a clone's docs.",
)
_HOST = flags.DEFINE_string("host", "127.0.0.1", "Address to listen at.")
_PORT = flags.DEFINE_integer("port", 7860, "Port to listen at.", 1, 65535)
_SHARE = flags.DEFINE_bool("share", False, "Make the page public for some days.")
_SEED = flags.DEFINE_integer("seed", 0, "Of noises and attacks.", lower_bound=0)


def main(argv: list[str]) -> None:
    """Serves the page that the flags describe."""
    del argv  # Checked by `cli.run`.
    studios.check_gradio()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # And clean up.
    with studios.private_uploads():
        from uronet_jax.demo import page as pages

        pages.check_port(_HOST.value, _PORT.value)
        purifier, detector = usual_models(_PURIFIER.value, _DETECTOR.value)
        named = {"purifier": purifier, "detector": detector}
        named["classifier"] = _CLASSIFIER.value
        models = load_photo_models(**named)
        try:
            check_models_match(models.purifier, models.detector, models.classifier)
        except ValueError as error:
            if _PURIFIER.value is not None:
                raise
            raise ValueError(
                f"{error} ({purifier} was taken because --purifier is missing)"
            ) from error
        images = studios.open_images(models, _DATA.value, _SPLIT.value, _DATA_DIR.value)
        options = {"threshold": _THRESHOLD.value, "class_names": _CLASS_NAMES.value}
        studio = studios.DefenseStudio(models, images, seed=_SEED.value, **options)
        published = programs_folder() / "docs" / "results"
        given = _REPORTS.value
        reports = read_reports(given) if given else published_reports(published)
        parts = [f"{role} `{spec}`" for role, spec in named.items() if spec]
        page = pages.build_page(studio, reports, about=", ".join(parts))
        studio.warm_up()
        host = {"host": _HOST.value, "port": _PORT.value, "share": _SHARE.value}
        address = pages.serve(page, **host)
        print(f"open {address} in a browser; Ctrl-C ends it", flush=True)
        page.block_thread()


if __name__ == "__main__":
    cli.run(main)
