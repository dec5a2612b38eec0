r"""Radii within which no L2 perturbation changes what a smoothed defence says.

python -m launch.certify --config=configs/certify.py:small \
    --workdir=runs/small/certification

Of a remover that learned on the noise, see configs/remover.py:smoothing. With
`--config.purifier=` the classifier is smoothed as it is.
"""

from ml_collections import config_dict

from configs import common


def get_config(preset: str = "full") -> config_dict.ConfigDict:
    """Returns the certification of the `full`, `small` or `smoke` models."""
    config = common.judged(preset)
    # The best of a run that learned the classifier's labels is the last: its validation
    # knows the error of the picture alone.
    config.checkpoint = "last"
    config.classifier_title = ""  # What pages call it; empty: by its network.
    # The smoothed classifier always purifies.
    del config.detector, config.data.validation_split
    # Of the split, before num_examples: 500 of CIFAR-10, those of the papers, or 100.
    config.data.every = {"full": 20, "small": 100, "smoke": 1}[preset]
    config.data.num_examples = 8 if preset == "smoke" else 0
    # Deviation of the noise, in units of intensities in [0, 1]; it is not clipped. The
    # remover must have learned on the same.
    config.sigma = 0.18 if preset == "small" else 0.25
    # Whether the defence begins by clipping what it gets to [0, 1]: for one that
    # learned on clipped noise.
    config.clip = preset == "small"
    # Noisy copies of an image: that choose its class, and that bound its probability.
    # At most sigma * 3.2 can be certified with 10,000, sigma * 2.5 with 1,000.
    config.num_selection = {"full": 100, "small": 20, "smoke": 10}[preset]
    config.num_samples = {"full": 10_000, "small": 1_000, "smoke": 30}[preset]
    config.alpha = 0.001  # Probability that the certificate of an image is wrong.
    # L2, at which the share of images is told; rows hold the radius of each.
    config.radii = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
    # Images at a time over all devices, and copies of each: the product is a batch.
    config.batch_size = {"full": 40, "small": 1, "smoke": 4}[preset]
    config.samples_at_once = {"full": 100, "small": 20, "smoke": 10}[preset]
    return config
