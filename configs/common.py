"""What the experiments share: data, cadence and presets."""

from collections.abc import Sequence

from ml_collections import config_dict

from uronet_jax.specs import nearest_name

PRESETS = ("full", "small", "smoke")


def base(phase: str, preset: str) -> config_dict.ConfigDict:
    """Returns the fields that every phase of training has.

    Presets are `full` (the paper's data and sizes), `small` (10,000 images and narrow
    networks, for a CPU) and `smoke` (a few steps on generated images).
    """
    check_preset(preset)
    config = config_dict.ConfigDict()
    config.phase = phase
    config.preset = preset
    config.seed = 0
    # Computation; parameters are always float32. bfloat16 is for accelerators.
    config.dtype = "bfloat16" if preset == "full" else "float32"
    config.data = config_dict.create(
        name="generated" if preset == "smoke" else "cifar10",
        # The test split is for launch.evaluate only.
        train_split={
            "full": "train[:45000]",
            "small": "train[:10000]",
            "smoke": "train[:192]",
        }[preset],
        validation_split={
            "full": "train[45000:]",
            "small": "train[45000:46000]",
            "smoke": "train[192:]",
        }[preset],
        pipeline="auto",  # on_device, streamed
        # Or flip_resized_crop, that of photographs, or flip_crop_augmix.
        augmentation="none" if preset == "smoke" else "flip_crop",
    )
    config.batch_size = 16 if preset == "smoke" else 128  # Global, over all devices.
    config.eval_batch_size = 32 if preset == "smoke" else 512
    config.steps_per_dispatch = 2 if preset == "smoke" else 20
    config.log_every = 2 if preset == "smoke" else 20
    config.tensorboard = False
    # Weights to start from: the folder of a run of the same model, a name of pretrained
    # weights (removers, detectors), or, of a ResNet, a file of PyTorch weights. Empty:
    # random ones.
    config.initial = ""
    # All of them but the last layer, which is drawn: for other classes.
    config.new_head = False
    return config


# Presets of classifiers of photographs.
IMAGENET_PRESETS = (*PRESETS, "imagenet", "imagenet_smoke")
# Updates in an epoch of these.
IMAGENET_EPOCH = 19_812


def set_imagenet(config: config_dict.ConfigDict) -> None:
    """Makes a `full` or `smoke` config of a classifier one of ResNet-50 at 224x224.

    ImageNet prepared by that name, with torchvision's order of classes, and
    torchvision's weights. The optimizer is that of the paper on adversarial noise
    training, with a cosine in place of its steps.
    """
    smoke = config.preset == "smoke"
    config.model.name = "resnet50"
    config.data.name = "generated_224" if smoke else "imagenet"
    last = 12 if smoke else 1_268_000
    config.data.train_split = f"train[:{last}]"
    config.data.validation_split = f"train[{last}:]"
    config.data.augmentation = "none" if smoke else "flip_resized_crop"
    # The paper has 70, which few numbers of devices divide.
    config.batch_size = 4 if smoke else 64
    config.eval_batch_size = 4 if smoke else 256
    # Also .npz, or .pt where torch is installed.
    config.initial = "" if smoke else "runs/models/resnet50.safetensors"
    config.optimizer.peak_rate = 1e-3
    config.optimizer.warmup_steps = 0
    config.optimizer.weight_decay = 0.0
    config.optimizer.nesterov = False


def judged(preset: str) -> config_dict.ConfigDict:
    """Returns what launch.evaluate and launch.attack share: the models and images."""
    check_preset(preset)
    config = config_dict.ConfigDict()
    config.preset = preset
    config.seed = 1  # Of noises and of attacks' random starts; training uses 0.
    # Folders of the runs. The classifier may also be a file of PyTorch weights
    # (.safetensors, .npz, .pt), and the purifier a transformation such as
    # jpeg:quality=75, or several of these joined by +. Without one the classifier is
    # bare; an empty detector leaves the other two.
    config.classifier = f"runs/{preset}/classifier"
    config.purifier = f"runs/{preset}/remover"
    config.detector = f"runs/{preset}/detector"
    config.checkpoint = "best"  # last
    config.data = config_dict.create(
        name="generated" if preset == "smoke" else "cifar10",
        split="test",
        # Thresholds are set on images that neither remover nor detector learned from.
        validation_split="train[192:]" if preset == "smoke" else "train[45000:]",
        num_examples=0,  # The first so many of the split; 0 for all.
        # The class of the classifier that each label of the data is, for a data set of
        # some of its classes or in another order: (0, 217, 482). Empty: they are equal.
        labels=(),
    )
    return config


def adam() -> config_dict.ConfigDict:
    """Returns the optimizer of removers and detectors."""
    return config_dict.create(
        name="adam", peak_rate=1e-3, schedule="cosine", warmup_steps=0, clip_norm=0.0
    )


def sgd(warmup_steps: int) -> config_dict.ConfigDict:
    """Returns the optimizer of classifiers, the Wide-ResNet recipe."""
    return config_dict.create(
        name="sgd",
        peak_rate=0.1,
        schedule="cosine",
        warmup_steps=warmup_steps,
        weight_decay=5e-4,
        momentum=0.9,
        nesterov=True,
        clip_norm=0.0,
    )


def check_preset(preset: str, known: Sequence[str] = PRESETS) -> None:
    """Raises ValueError if `preset` is unknown."""
    if preset not in known:
        hint = nearest_name(preset, known)
        raise ValueError(
            f"unknown preset {preset!r}{hint}: choose from {', '.join(known)}"
        )


def add_degradation(
    config: config_dict.ConfigDict, clean_entries: int, suite: str = "uronet"
) -> None:
    """Adds the degradations that a model learns on.

    Every image draws one of the entries, or with `copies` one of its stored copies. The
    paper trains one remover per noise and severity:
    `--config.degradation.noises="('GN',)"`, `.severities="(1,)"` and
    `.clean_entries=0`.
    """
    config.degradation = config_dict.create(
        suite=suite,  # Empty (classifiers only): clean images.
        noises=(),  # Empty: all of the suite; likewise the next.
        severities=(),
        # Without a suite: how strong noises of corruptions.NOISES are, such as
        # noises=("gaussian_noise",), parameters=(0.08, 0.12, 0.18).
        parameters=(),
        spn_reading="per_pixel",
        un_reading="per_element",
        clean_entries=clean_entries,
        # Of the training set, each image with a corruption of its own, made beforehand;
        # 0 draws anew in every step, which knows the noises alone.
        copies=0,
        # Copies that lie there instead, of no suite: train.npy and validation.npy.
        folder="",
        clean_share=0.0,  # Of images that are shown as they are.
    )


def set_length(config: config_dict.ConfigDict, num_steps: int, every: int) -> None:
    """Sets the number of updates and how often the run is judged and saved."""
    if config.preset == "smoke":
        num_steps, every = 4, 2
    config.num_steps = num_steps
    config.eval_every = every
    config.checkpoint_every = every
