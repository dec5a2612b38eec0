"""The defence, or a bare classifier, on all 18 degradations of the test split.

python -m launch.evaluate --config=configs/evaluate.py:small \
    --workdir=runs/small/evaluation
"""

from ml_collections import config_dict

from configs import common


def get_config(preset: str = "full") -> config_dict.ConfigDict:
    """Returns the evaluation of the `full`, `small` or `smoke` models."""
    common.check_preset(preset)
    config = config_dict.ConfigDict()
    config.preset = preset
    config.seed = 1  # Of the degradations; training uses 0.
    # Folders of the runs. The classifier may also be a .npz file of PyTorch weights.
    # The purifier may also be a transformation such as jpeg:quality=75, or several of
    # these joined by +. An empty one judges the bare classifier, an empty detector
    # the other two.
    config.classifier = f"runs/{preset}/classifier"
    config.purifier = f"runs/{preset}/remover"
    config.detector = f"runs/{preset}/detector"
    config.checkpoint = "best"  # last
    config.data = config_dict.create(
        name="generated" if preset == "smoke" else "cifar10",
        split="test",
        # The gate is set on images that neither remover nor detector learned from.
        validation_split={
            "full": "train[45000:]",
            "small": "train[45000:]",
            "smoke": "train[192:]",
        }[preset],
        num_examples=0,  # The first so many of the split; 0 for all.
    )
    config.suite = config_dict.create(
        name="uronet",
        noises=(),  # Empty: all of the suite.
        severities=(),
        # Judge the images that `launch.make_corrupted` wrote, or a published set.
        folder="",
        # The photographs of frost; without them frost is made from generated textures.
        frost_dir="",
        # What the paper leaves open, see docs/RESULTS.md.
        spn_reading="per_pixel",
        un_reading="per_element",
    )
    # An image is purified if its degraded probability is above the threshold that
    # this share of clean validation images exceed.
    config.gate_false_alarms = 0.05
    config.batch_size = 32 if preset == "smoke" else 512
    return config
