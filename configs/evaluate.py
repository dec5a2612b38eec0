"""The defence, or a bare classifier, on all 18 degradations of the test split.

python -m launch.evaluate --config=configs/evaluate.py:small \
    --workdir=runs/small/evaluation
"""

from ml_collections import config_dict

from configs import common


def get_config(preset: str = "full") -> config_dict.ConfigDict:
    """Returns the evaluation of the `full`, `small` or `smoke` models."""
    config = common.judged(preset)
    config.suite = config_dict.create(
        name="uronet",
        noises=(),  # Empty: all of the suite.
        severities=(),
        # Judge the images that `launch.make_corrupted` wrote, or a published set.
        folder="",
        # The photographs of frost; without them frost is made from generated textures.
        frost_dir="",
        # What the paper leaves open, see docs/results/cifar10_resnet20_undefended.md.
        spn_reading="per_pixel",
        un_reading="per_element",
    )
    # An image is purified if its degraded probability is above the threshold that
    # this share of clean validation images exceed.
    config.gate_false_alarms = 0.05
    config.batch_size = 32 if preset == "smoke" else 512
    return config
