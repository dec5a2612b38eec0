r"""Reconstructive training of a purifier on CIFAR-10 (Patrick et al., WACV-W 2022).

  python -m launch.make_attacked --dataset=cifar10 --train_split='train[:10000]' \
      --validation_split='train[45000:46000]' --classifier=runs/small/classifier \
      --attack=fgsm_linf:epsilon=0.01 --out=runs/small/attacked
  python -m launch.train --config=configs/reconstructor.py:small \
      --workdir=runs/small/reconstructor

`:full` is the published network and length, `:small` a quarter of the filters and a
tenth of the epochs, `:smoke` four steps. It can learn on corruptions as well:
`--config.degradation.folder= --config.degradation.suite=uronet`.
"""

from ml_collections import config_dict

from configs import common


def get_config(preset: str = "full") -> config_dict.ConfigDict:
    """Returns the experiment at `full`, `small` or `smoke` size."""
    config = common.base("reconstructor", preset)
    config.data.augmentation = "none"  # The paper's; copies were attacked as they are.
    common.add_degradation(config, clean_entries=0, suite="")
    # Of launch.make_attacked, against the classifier below.
    config.degradation.folder = f"runs/{preset}/attacked"
    # The paper's code shows attacked images alone.
    config.degradation.clean_share = 0.25
    # The frozen one: folder of its run, or a file of PyTorch weights.
    config.classifier = f"runs/{preset}/classifier"
    config.model = config_dict.create(
        variant="code",  # A key of models.RECONSTRUCTOR_VARIANTS: paper
        width={"full": 48, "small": 12, "smoke": 4}[preset],
    )
    config.reconstruction = config_dict.create(
        # Steps on the visual loss alone: 50 epochs, small: 5.
        warmup_steps={"full": 17_600, "small": 400, "smoke": 2}[preset],
        visual_weight=0.005,  # After these. The code's; the paper's formula has 1.
        class_weight=1.0,
        labels="true",  # predictions: the classifier's own of the clean images
    )
    # full: 200 epochs of 45,000; small: 20 epochs of 10,000.
    common.set_length(config, 70_400 if preset == "full" else 1_600, every=400)
    config.optimizer = common.adam()
    config.optimizer.schedule = "constant"
    return config
