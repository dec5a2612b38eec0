"""The noise remover on CIFAR-10.

  python -m launch.train --config=configs/remover.py:small --workdir=runs/small/remover

`:full` is the paper's width, `:small` a quarter of it, `:smoke` four steps.
"""

from ml_collections import config_dict

from configs import common


def get_config(preset: str = "full") -> config_dict.ConfigDict:
    """Returns the experiment at `full`, `small` or `smoke` size."""
    config = common.base("remover", preset)
    # One remover for all degradations; it must also leave clean pictures alone.
    common.add_degradation(config, clean_entries=2)
    config.model = config_dict.create(
        variant="skip",  # A key of models.REMOVER_VARIANTS: paper, blend, ...
        widths={"full": (64, 128, 256), "small": (16, 32, 64), "smoke": (4, 4)}[preset],
    )
    config.loss = config_dict.create(noise_weight=1.0)
    # full: 50 epochs of 45,000; small: 15 epochs of 10,000.
    common.set_length(config, 17_600 if preset == "full" else 1_200, every=240)
    config.optimizer = config_dict.create(
        name="adam", peak_rate=1e-3, schedule="cosine", warmup_steps=0, clip_norm=0.0
    )
    return config
