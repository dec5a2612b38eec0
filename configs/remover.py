"""The noise remover on CIFAR-10.

  python -m launch.train --config=configs/remover.py:small --workdir=runs/small/remover

`:full` is the paper's width, `:small` a quarter of it, `:smoke` four steps.
`:universal`, `:universal_small` and `:universal_smoke` are the one remover for all
degradations that does best: it blends image and picture, is held to a classifier's
answers, has more filters, trains longer, and looks at mirror images.
`:smoothing`, `:smoothing_small` and `:smoothing_smoke` stand before a classifier that
launch.certify smooths: one Gaussian noise, not clipped, here of sigma 0.25; of another
--config.degradation.parameters='(0.5,)'. A second run, which starts from the first, can
hold it to the classifier's labels: --config.initial=runs/full/smoothing
--config.loss.instability=0.1 --config.optimizer.peak_rate=5e-4
`:smoothing_small` is such a second run, a short one, of the weights that come with the
package; they know clipped noise, here of sigma 0.18.
"""

from ml_collections import config_dict

from configs import common

PRESETS = (
    *(*common.PRESETS, "universal", "universal_small", "universal_smoke"),
    *("smoothing", "smoothing_small", "smoothing_smoke"),
)


def get_config(preset: str = "full") -> config_dict.ConfigDict:
    """Returns the experiment at `full`, `small` or `smoke` size, or a variant of it."""
    common.check_preset(preset, PRESETS)
    if preset == "universal" or preset.startswith("universal_"):
        return _universal(preset.removeprefix("universal").lstrip("_") or "full")
    if preset == "smoothing" or preset.startswith("smoothing_"):
        return _smoothing(preset.removeprefix("smoothing").lstrip("_") or "full")
    config = common.base("remover", preset)
    # One remover for all degradations; it must also leave clean pictures alone.
    common.add_degradation(config, clean_entries=2)
    config.model = config_dict.create(
        variant="skip",  # A key of models.REMOVER_VARIANTS: paper, blend, ...
        widths={"full": (64, 128, 256), "small": (16, 32, 64), "smoke": (4, 4)}[preset],
        # Whether pictures are means over an image and its mirror image, once trained.
        mirror=False,
    )
    # Weights of training.losses.PURIFIER_LOSSES. The last one asks a classifier: the
    # folder of its run, or a file of PyTorch weights.
    config.loss = config_dict.create(clean_mse=1.0, noise_mse=1.0, inconsistency=0.0)
    config.classifier = ""
    # full: 50 epochs of 45,000; small: 15 epochs of 10,000.
    common.set_length(config, 17_600 if preset == "full" else 1_200, every=240)
    config.optimizer = common.adam()
    return config


def _universal(preset: str) -> config_dict.ConfigDict:
    config = get_config(preset)
    config.model = config_dict.create(
        variant="blend_dcae",
        widths={"full": (96, 192, 384), "small": (32, 64, 128)}.get(preset, (4, 4)),
        mirror=True,
    )
    config.loss.inconsistency = 0.001
    config.classifier = f"runs/{preset}/classifier"
    # full: 100 epochs of 45,000; small: 32 epochs of 10,000.
    common.set_length(config, 35_200 if preset == "full" else 10_000, every=500)
    if preset == "small":
        config.batch_size = 32
        config.optimizer.peak_rate = 3e-3  # Short runs need the higher one.
    return config


def _smoothing(preset: str) -> config_dict.ConfigDict:
    """The denoiser of Salman et al., "Denoised Smoothing", NeurIPS 2020."""
    config = get_config(preset)
    # One head, and a picture that is in [0, 1] whatever the image is.
    config.model.variant = "skip_dcae"
    config.degradation.update(
        suite="", noises=("gaussian_noise",), parameters=(0.25,), clean_entries=0
    )
    config.degradation.clip = False
    # The paper's second loss, cross-entropy of the label that the classifier gives the
    # clean picture, is for a second run, as there.
    config.loss = config_dict.create(clean_mse=1.0, instability=0.0)
    config.classifier = f"runs/{preset}/classifier"
    # full: 28 epochs of 45,000.
    common.set_length(config, 10_000, every=400)
    if preset == "small":
        config.initial = "universal-cifar10"
        config.model.update(variant="blend_dcae", widths=(96, 192, 384))
        config.degradation.update(parameters=(0.18,), clip=True)
        config.loss.instability = 0.1
        config.data.train_split = "train[:45000]"
        config.data.validation_split = "train[45000:45080]"
        config.batch_size, config.eval_batch_size = 32, 40
        config.steps_per_dispatch = config.log_every = 10
        common.set_length(config, 80, every=80)  # Minutes on one core.
        config.optimizer.update(peak_rate=1e-4, warmup_steps=5)
    return config
