r"""Adversarial training of a CIFAR-10 classifier (Madry et al., ICLR 2018).

  python -m launch.train --config=configs/adversarial_training.py:small \
      --workdir=runs/small/adversarial_training

`:full` is ResNet-20 for 100 epochs under ten steps of PGD, `:small` ResNet-8 from the
weights of configs/classifier.py on 10,000 images, `:smoke` four steps. The result is a
classifier like any other.
"""

from ml_collections import config_dict

from configs import common


def get_config(preset: str = "full") -> config_dict.ConfigDict:
    """Returns the experiment at `full`, `small` or `smoke` size."""
    config = common.base("adversarial_training", preset)
    config.model = config_dict.create(
        name={"full": "resnet20", "small": "resnet8", "smoke": "cnn_narrow"}[preset]
    )
    config.initial = "runs/small/classifier" if preset == "small" else ""
    config.attack = config_dict.create(
        epsilon=8 / 255,
        step_size=2 / 255,
        steps={"full": 10, "small": 7, "smoke": 1}[preset],
        norm="linf",  # l2
    )
    common.add_degradation(config, clean_entries=0, suite="")
    # full: 100 epochs of 45,000; small: 3 epochs of 10,000.
    common.set_length(config, 35_200 if preset == "full" else 240, every=80)
    config.optimizer = common.sgd(warmup_steps=0 if preset == "smoke" else 80)
    if preset == "small":
        config.optimizer.peak_rate = 0.02
    return config
