"""A classifier of CIFAR-10 images, clean or degraded.

  python -m launch.train --config=configs/classifier.py:small \
      --workdir=runs/small/classifier

`:full` is ResNet-20 for 200 epochs (set `model.name=wrn16_8` for the other one of the
paper), `:small` ResNet-8 on 10,000 images, `:smoke` four steps. To have it learn on
degraded images set `degradation.suite=uronet` and what else is there. Half of each
batch with Gaussian noise, from given weights (GNT of Rusak et al.):

  --config.degradation.noises="('gaussian_noise',)" \
  --config.degradation.parameters="(0.5,)" --config.degradation.clean_share=0.5 \
  --config.initial=runs/small/classifier

`:imagenet` is the same of ResNet-50 at 224x224 from torchvision's weights, and
`:imagenet_smoke` four steps of it on generated images, from random ones.
"""

from ml_collections import config_dict

from configs import common

PRESETS = common.IMAGENET_PRESETS


def get_config(preset: str = "full") -> config_dict.ConfigDict:
    """Returns the experiment at `full`, `small` or `smoke` size, or `imagenet`."""
    common.check_preset(preset, PRESETS)
    if preset.startswith("imagenet"):
        return _imagenet(get_config(preset.removeprefix("imagenet")[1:] or "full"))
    config = common.base("classifier", preset)
    config.model = config_dict.create(
        name={"full": "resnet20", "small": "resnet8", "smoke": "resnet8"}[preset]
    )
    common.add_degradation(config, clean_entries=0, suite="")
    # full: 200 epochs of 45,000; small: 6 epochs of 10,000.
    common.set_length(config, 70_400 if preset == "full" else 480, every=160)
    config.optimizer = common.sgd(warmup_steps=0 if preset == "smoke" else 100)
    return config


def _imagenet(config: config_dict.ConfigDict) -> config_dict.ConfigDict:
    common.set_imagenet(config)
    epoch = common.IMAGENET_EPOCH
    common.set_length(config, 120 * epoch, every=epoch)
    return config
