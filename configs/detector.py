"""The detector of degraded images on CIFAR-10, behind a purifier.

  python -m launch.train --config=configs/detector.py:small \
      --config.purifier=runs/small/remover --workdir=runs/small/detector

`:full` and `:small` are the paper's Wide-ResNet 10-2, `:smoke` is four steps.
"""

from ml_collections import config_dict

from configs import common


def get_config(preset: str = "full") -> config_dict.ConfigDict:
    """Returns the experiment at `full`, `small` or `smoke` size."""
    config = common.base("detector", preset)
    common.add_degradation(config, clean_entries=0)
    # Every image enters twice, clean and degraded.
    config.batch_size //= 2
    # What it stands behind: the folder of a run, or a transformation such as
    # jpeg:quality=75, or several of these joined by +.
    config.purifier = f"runs/{preset}/remover"
    config.model = config_dict.create(
        name="cnn_narrow" if preset == "smoke" else "wrn10_2",
        inputs="image",  # clean, image_only
    )
    # full: 14 epochs of 45,000; small: 2 epochs of 10,000.
    common.set_length(config, 10_000 if preset == "full" else 320, every=160)
    config.optimizer = common.adam()
    return config
