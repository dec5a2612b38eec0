r"""Adversarial noise training of a CIFAR-10 classifier (Rusak et al., ECCV 2020).

  python -m launch.train --config=configs/adversarial_noise.py:small \
      --workdir=runs/small/adversarial_noise

It goes on from the classifier of configs/classifier.py: `:full` with the paper's
restarts on ResNet-20, `:small` a tenth of it on ResNet-8, `:smoke` from random weights,
four steps. `:imagenet` is the paper's own, ResNet-50 at 224x224 from torchvision's
weights, and `:imagenet_smoke` four steps of it on generated images; its numbers are not
measured here. The result is a classifier like any other.
"""

from ml_collections import config_dict

from configs import common

PRESETS = common.IMAGENET_PRESETS


def get_config(preset: str = "full") -> config_dict.ConfigDict:
    """Returns the experiment at `full`, `small` or `smoke` size, or `imagenet`."""
    common.check_preset(preset, PRESETS)
    if preset.startswith("imagenet"):
        return _imagenet(get_config(preset.removeprefix("imagenet")[1:] or "full"))
    config = common.base("adversarial_noise", preset)
    config.model = config_dict.create(
        name={"full": "resnet20", "small": "resnet8", "smoke": "cnn_narrow"}[preset]
    )
    config.initial = "" if preset == "smoke" else f"runs/{preset}/classifier"
    config.noise = config_dict.create(
        generator="1x1",  # 3x3
        # L2 norm after clipping: 0.1 an element. The paper's 135 at 224x224x3 is 0.35,
        # under which a CIFAR-10 classifier guesses; of 32x32x3 that would be 19.3.
        epsilon=5.5,
        rate=1e-4,  # Adam's, of the generator.
        # Updates of the classifier between restarts, of each of which the generator is
        # kept for replay: an epoch. 0: one generator all along.
        restart_every={"full": 352, "small": 80, "smoke": 2}[preset],
        # Steps of a new generator alone; 0 goes on with the one there is.
        restart_steps={"full": 1000, "small": 100, "smoke": 1}[preset],
        restart_rate={"full": 5e-4, "small": 5e-3, "smoke": 5e-4}[preset],
    )
    # Of a batch; the rest is clean. With noise=0 and replay=0.5 all noise is of
    # generators drawn from all that were kept.
    config.shares = config_dict.create(
        noise=0.3,
        replay=0.2,
        replay_slices=2,  # Each with the noise of one kept generator.
        # Of what the section `degradation` says, such as stylised copies of the images
        # in degradation.folder.
        degraded=0.0,
    )
    common.add_degradation(config, clean_entries=0, suite="")
    # Steps of generators alone are counted too.
    # full: 30 epochs of 45,000; small: 6 epochs of 10,000.
    cycle = config.noise.restart_every + config.noise.restart_steps
    common.set_length(config, 30 * cycle if preset == "full" else 6 * cycle, cycle)
    config.optimizer = common.sgd(warmup_steps=0)
    config.optimizer.peak_rate = {"full": 1e-3, "small": 1e-2, "smoke": 1e-3}[preset]
    config.optimizer.weight_decay = 0.0
    return config


def _imagenet(config: config_dict.ConfigDict) -> config_dict.ConfigDict:
    common.set_imagenet(config)
    config.noise.epsilon = 135.0
    if config.preset == "full":
        config.noise.restart_every = common.IMAGENET_EPOCH
        cycle = common.IMAGENET_EPOCH + config.noise.restart_steps
        common.set_length(config, 120 * cycle, cycle)
    # 50 % are clean: of 4 images each of the others has to be one.
    if config.preset == "smoke":
        config.shares.noise, config.shares.replay = 0.25, 0.25
        config.shares.replay_slices = 1
    return config
