"""The defence, or a bare classifier, under attack by those who know it and who do not.

python -m launch.attack --config=configs/attack.py:small --workdir=runs/small/attack
"""

from ml_collections import config_dict

from configs import common


def get_config(preset: str = "full") -> config_dict.ConfigDict:
    """Returns the evaluation of the `full`, `small` or `smoke` models."""
    config = common.judged(preset)
    # The first so many of the split; 0 for all.
    config.data.num_examples = {"full": 1000, "small": 100, "smoke": 6}[preset]
    # Threat models; detector_aware needs a detector.
    config.threats = ("grey_box", "white_box", "detector_aware", "adaptive")
    config.attacks = {
        "full": (
            *("fgsm_linf", "pgd_linf", "apgd_ce_linf", "apgd_dlr_linf"),
            *("apgd_t_linf", "square_linf"),
            *("pgd_l2", "apgd_ce_l2", "deepfool_l2", "ddn_l2"),
        ),
        "small": ("fgsm_linf", "pgd_linf", "pgd_l2", "deepfool_l2"),
        # The program of the sanity check, which saves half of the compilation.
        "smoke": ("ifgsm_linf",),
    }[preset]
    # Largest perturbation, in units of intensities in [0, 1]; not of minimal attacks.
    config.epsilon = config_dict.create(linf=8 / 255, l2=0.5)
    # Of attacks that step along a gradient within a budget. Several numbers are
    # several attacks: more steps must not be weaker than fewer.
    config.steps = {"full": (40,), "small": (20,), "smoke": (2,)}[preset]
    config.restarts = 0  # Of attacks that take it.
    config.queries = 1000  # Of attacks without gradient.
    # First attack a batch with a budget of all intensities, which must break anything.
    config.sanity = True
    # An image is flagged if its degraded probability is above the threshold that this
    # share of clean validation images exceed.
    config.false_alarms = 0.05
    # Whether only flagged images are purified.
    config.gated = False
    # Of each attack, in the figure.
    config.num_pictures = 2 if preset == "smoke" else 4
    # A CPU is fastest with few at a time.
    config.batch_size = {"full": 500, "small": 32, "smoke": 4}[preset]
    return config
