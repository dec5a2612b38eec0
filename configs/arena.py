r"""The arena: which defence to put before, or into, a classifier of CIFAR-10.

  python -m launch.arena --config=configs/arena.py:small --workdir=runs/arena

`full` and `small` judge the same defences around one ResNet-20, on 10,000 and on 200
test images; `mnist` and `mnist_small` judge others on MNIST, `smoke` a few on generated
images. All classifiers that learned to be robust started from the weights of that one
and took the same number of updates, the budget: 3,520, and 1,000 on MNIST.
docs/howto/arena.md says how to train them; the row of one that is not there fails, and
the others go on.
"""

from typing import Any

from ml_collections import config_dict

from configs import common

PRESETS = (*common.PRESETS, "mnist", "mnist_small")
# Title -> what `load_purifier` reads.
_TRANSFORMATIONS = {
    "JPEG": "jpeg",
    "Bit depth": "bit_depth",
    "Median": "median",
    "Feature distillation": "feature_distillation",
    "Wavelets": "wavelet",
    "Resize and pad": "resize_pad",
    "Pixel deflection": "pixel_deflection",
    "Gaussian noise": "gaussian_noise",
    "Total variation": "total_variation",
    "Total variation (ART)": "total_variation_art",
    "Sparse layer": "sparse_layer",
}
# Digits are black and white.
_TRANSFORMATIONS_OF_DIGITS = {"One bit": "bit_depth:bits=1"}
# Those that take longest are judged last.
_SLOW = ("total_variation_art", "sparse_layer")
_RANDOM = ("total_variation", "total_variation_art", "resize_pad", "pixel_deflection")
_RANDOM += ("gaussian_noise",)
# Title -> folder, what it learned on, and minutes of an H100 that others shared.
_CLASSIFIERS = {
    "GNT": ("gnt", "Gaussian noise of sigma 0.1", 2.1),
    "Speckle": ("speckle", "speckle noise of five strengths", 1.1),
    "ANT 1x1": ("ant_1x1", "noise of an adversarial generator, 1x1", 3.4),
    "ANT 3x3": ("ant_3x3", "noise of an adversarial generator, 3x3", None),
    "AugMix": ("augmix", "AugMix's images, without its consistency loss", 1.0),
    "PGD training": ("pgd", "PGD within 8/255", 2.8),
    "Fine-tuned": ("finetuned", "clean images", None),
}
# Those of MNIST, with minutes of one CPU core.
_CLASSIFIERS_OF_DIGITS = {
    "GNT": ("gnt", "Gaussian noise of sigma 0.3", 2.2),
    "Speckle": ("speckle", "speckle noise of five strengths", 2.2),
    "ANT 1x1": ("ant_1x1", "noise of an adversarial generator, 1x1", 5.2),
    "PGD training": ("pgd", "PGD within 0.3", 9.3),
}


def get_config(preset: str = "full") -> config_dict.ConfigDict:
    """Returns the arena at `full`, `small` or `smoke` size, or of MNIST."""
    common.check_preset(preset, PRESETS)
    mnist = preset.startswith("mnist")
    size = "small" if preset == "mnist_small" else "full" if mnist else preset

    def choose(full, small, smoke):
        return {"full": full, "small": small, "smoke": smoke}[size]

    config = config_dict.ConfigDict()
    config.preset = size
    config.seed = 1  # Of noises, attacks and draws of random defences.
    # How many seeds, from that one on, degradations are drawn with.
    config.num_seeds = choose(3, 1, 1)
    # The classifier that stands behind purifiers, and that grey boxes know.
    models = "runs/arena_mnist" if mnist else "runs/arena"
    config.classifier = choose(
        *["runs/models/cifar10_resnet20.npz"] * 2, "runs/smoke/classifier"
    )
    if mnist:
        config.classifier = f"{models}/classifier"
    last = 55_000 if mnist else 45_000
    config.data = config_dict.create(
        name=choose(*["mnist" if mnist else "cifar10"] * 2, "generated"),
        split="test",
        # Thresholds of detectors are set on these.
        validation_split=choose(
            f"train[{last}:]", f"train[{last}:{last + 300}]", "train[240:]"
        ),
        num_examples=choose(0, 200, 8),  # The first so many of the split; 0 for all.
    )
    # Cards of the defences; see docs/howto/arena.md.
    config.defences = _smoke() if size == "smoke" else _defences(models, mnist)
    # Names of those that are judged now; empty: all. The others' results stay.
    config.only = ()
    # Columns, see `uronet_jax.arena.columns`; the cheap ones first.
    config.columns = (
        *("clean", "fairness", "cost", "noises", "corruptions", "unseen"),
        *("grey_pgd", "grey_autoattack", "eps_star"),
        *("white_pgd", "white_autoattack", "detector_aware"),
    )
    # Share of clean validation images that a detector flags.
    config.false_alarms = 0.05
    some = choose((), (), ("GN", "SPN"))
    config.noises = config_dict.create(names=some, severities=choose((), (), (3,)))
    suite = "mnist_c" if mnist else "cifar_c"
    config.corruptions = config_dict.create(
        suite=suite,
        names=choose((), (), ("gaussian_noise", "contrast")),
        severities=(1,) if mnist else choose((1, 2, 3, 4, 5), (3,), (3,)),
    )
    config.unseen = config_dict.create(
        suite="sensor",
        names=choose((), (), ("banding",)),
        severities=choose((1, 2, 3, 4, 5), (2, 4), (3,)),
    )
    config.attack = config_dict.create(
        epsilon=0.3 if mnist else 8 / 255,
        steps=choose(40, 10, 1),  # Of PGD and APGD.
        queries=choose(5000, 100, 2),  # Of Square.
        targets=choose(9, 3, 2),
        fab=size == "full",  # Whether AutoAttack has it.
        samples=choose(16, 8, 2),  # Of a random defence, that gradients average over.
        num_images=choose(1000, 32, 4),  # That white boxes attack; 0 for all.
        batch_size=choose(500, 32, 4),
    )
    config.eps_star = config_dict.create(
        num_images=choose(1000, 50, 4), steps=choose(40, 10, 2)
    )
    # Signs of cheating: noises are drawn with a seed that is so much larger, too.
    config.fairness = config_dict.create(
        num_images=choose(1000, 100, 8), severities=(3,), other_seed=1000
    )
    config.batch_size = choose(1000, 200, 8)
    return config


def _card(name: str, kind: str, load: dict[str, Any], **fields: Any) -> dict[str, Any]:
    usual = {
        "authors": "this project",
        "trained_on": "nothing",
        "training_minutes": None,
        "parameters": None,
        "random": False,
        "link": "",
    }
    return {"name": name, "kind": kind, "load": load, **usual, **fields}


def _defences(models: str, mnist: bool) -> tuple[dict[str, Any], ...]:
    named = {**(_TRANSFORMATIONS_OF_DIGITS if mnist else {}), **_TRANSFORMATIONS}
    bare = _card("None", "classifier alone", {}, training_minutes=0.0)
    transformations = [
        _card(
            title,
            "input transformation",
            {"purifier": name},
            training_minutes=0.0,
            random=name in _RANDOM,
            link="TRANSFORMATIONS.md",
        )
        for title, name in named.items()
    ]
    weights = "universal-grey" if mnist else "universal-cifar10"
    both = {"purifier": weights, "detector": weights}
    learned = {
        "trained_on": "the 18 noises of URoNet",
        "link": f"../uronet_jax/pretrained_weights/{weights}.md",
    }
    removers = [
        _card("Remover", "remover", {"purifier": weights}, **learned),
        _card("Remover, gated", "remover", {**both, "gated": True}, **learned),
        _card("Remover, JPEG", "chain", {"purifier": f"{weights}+jpeg"}, **learned),
    ]
    robust = _CLASSIFIERS_OF_DIGITS if mnist else _CLASSIFIERS
    classifiers = [
        _card(
            title,
            "classifier",
            {"classifier": f"{models}/{folder}"},
            trained_on=what,
            training_minutes=minutes,
            link="ADVERSARIAL_NOISE.md",
        )
        for title, (folder, what, minutes) in robust.items()
    ]
    noises = learned["trained_on"]
    pairs = [
        ("Median", "median", "ANT 1x1", robust["ANT 1x1"][1]),
        ("Remover", weights, "ANT 1x1", f"{noises}; an adversarial generator"),
    ]
    if mnist:
        pairs += [
            ("Remover", weights, "GNT", f"{noises}; Gaussian noise"),
            ("One bit", "bit_depth:bits=1", "PGD training", robust["PGD training"][1]),
        ]
    together = [
        _card(
            f"{title}, {other}",
            "purifier and classifier",
            {"purifier": purifier, "classifier": f"{models}/{robust[other][0]}"},
            trained_on=what,
        )
        for title, purifier, other, what in pairs
    ]
    chained = _card(
        "Wavelets, median",
        "chain",
        {"purifier": "wavelet+median"},
        training_minutes=0.0,
    )
    autoencoder = _card(
        "RT autoencoder",
        "autoencoder",
        {"purifier": f"{models}/reconstructor"},
        trained_on="PGD within 8/255 on the classifier",
        link="RECONSTRUCTIVE_TRAINING.md",
    )
    classifiers += [] if mnist else [autoencoder]
    slow = [x for x in transformations if x["load"]["purifier"] in _SLOW]
    fast = [x for x in transformations if x not in slow]
    first, last = removers[:2], removers[2:]
    fast = [*fast[:5], chained, *first, *fast[5:]]
    return (bare, *fast, *classifiers, *together, *last, *slow)


def _smoke() -> tuple[dict[str, Any], ...]:
    return (
        _card("None", "classifier alone", {}),
        _card("Bit depth", "input transformation", {"purifier": "bit_depth"}),
        _card(
            "Gaussian noise",
            "input transformation",
            {"purifier": "gaussian_noise"},
            random=True,
        ),
        _card(
            "Remover, gated",
            "remover",
            {
                "purifier": "runs/smoke/remover",
                "detector": "runs/smoke/detector",
                "gated": True,
            },
        ),
    )
