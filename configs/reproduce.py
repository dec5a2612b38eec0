"""The tables and figures of the paper.

  python -m launch.reproduce --config=configs/reproduce.py:small \
      --experiment=table2,table7 --workdir=runs/small/reproduction

`full` has the paper's data and sizes, for accelerators; `small` is for a CPU, `smoke` a
few steps on generated images.

Budget of `full` in PFLOP (forward passes counted, times three for a training step): a
remover 2.6, a detector 0.55, so Table 2 56; Table 7 the Wide-ResNet 16-8 as well, 84;
Table 12 six removers with one head, 10; Table 5 its attacks, 0.2. Together 150: 16
minutes at the 156 TFLOP/s that a remover's step reached on an H100, see
docs/results/benchmark_h100.json. The universal remover and its detector take 24, the
nine trials 27, the Wide-ResNet 28-10 of CIFAR-100 283. The classifiers that learn noise
on MNIST took 13 minutes on an H100 that other runs shared.

Budget of `small` on two idle cores, Tables 2 and 7 together, in seconds of one core:
18 removers of 800 steps 2,200 (0.14 a step), 18 detectors of 160 steps 600 (0.2 each),
the second classifier 400, 18 x 19 sets of 1,000 images for Table 2 360, Table 7 200. So
about 35 minutes; on busy cores it took 80. The universal remover takes 2,600 (0.26 a
step), that of the corruptions as long, the trials 2,200. Tables 9 and 10 took 500 and
2,100 on a busy core with six and three noises, one classifier,
--config.remover.num_steps=3000, batch_size=1, --config.evaluation.num_images=500,
batch_size=50 and --config.fine_tuning.num_steps=281 and 60; Figure 5 of photographs and
`resolutions`, 300 more, use their models. A folder keeps the config it was begun with.
"""

from ml_collections import config_dict

from configs import common
from uronet_jax.corruptions import list_corruptions

# The paper's two sets and the grey one; generated images stand for all of them.
_SETS = {
    "data": ("cifar10", "CIFAR-10"),
    "second": ("cifar100", "CIFAR-100"),
    "grey": ("fashion_mnist", "Fashion-MNIST"),
    "digits": ("mnist", "MNIST"),
}
# What of the sets of photographs `small` is judged on.
_SMALL = {"tiny": "ten classes at 64x64", "imagenette": "1,500 images at 224x224"}


def get_config(preset: str = "full") -> config_dict.ConfigDict:
    """Returns the reproduction at `full`, `small` or `smoke` size."""
    common.check_preset(preset)
    full, smoke = preset == "full", preset == "smoke"

    def choose(full, small, smoke):
        return {"full": full, "small": small, "smoke": smoke}[preset]

    config = config_dict.ConfigDict()
    config.preset = preset
    config.seed = 0  # Run several in folders of their own to see the spread.
    # Computation; parameters are always float32. bfloat16 is for accelerators.
    config.dtype = "bfloat16" if full else "float32"
    for role, (name, title) in _SETS.items():
        is_grey = role in ("grey", "digits")
        generated = "generated_grey" if is_grey else "generated"
        last = 60_000 if is_grey else 50_000
        config[role] = config_dict.create(
            name=generated if smoke else name,
            title=title,  # What the rows call it, smoke runs too.
            train_split=choose(f"train[:{last - 5000}]", "train[:10000]", "train[:48]"),
            validation_split=choose(
                f"train[{last - 5000}:]",
                f"train[{last - 5000}:{last - 4500}]",
                "train[240:]",
            ),
            test_split="test",
            # Classifiers: the folder of a run, a file of PyTorch weights
            # (.safetensors, .npz, .pt), `train:` and the name of one to train here, or
            # `tune:` and a file of weights for other classes.
            # An empty one is left out.
            classifier="train:cnn_narrow" if smoke else "",
            classifier_title="",
            other_classifier="",
            other_classifier_title="",
        )
    config.data.classifier = choose(
        *["runs/models/cifar10_resnet20.npz"] * 2, "train:cnn_narrow"
    )
    config.data.classifier_title = "ResNet"
    # Small: another architecture for transferred attacks, not the paper's.
    config.data.other_classifier = choose("train:wrn16_8", "train:resnet8", "train:cnn")
    config.data.other_classifier_title = choose(
        "Wide-ResNet16-8", "ResNet-8", "Wide-ResNet16-8"
    )
    config.second.classifier = choose(
        "train:wrn28_10", "train:resnet8", "train:cnn_narrow"
    )
    config.second.classifier_title = choose(
        "Wide-ResNet28-10", "ResNet-8", "Wide-ResNet28-10"
    )
    config.second.other_classifier = choose("train:wrn16_8", "", "train:cnn")
    config.second.other_classifier_title = "Wide-ResNet16-8"
    config.grey.classifier = choose("train:cnn", "train:cnn", "train:cnn_narrow")
    config.grey.classifier_title = "custom 5-layer CNN"

    # Tables 9 and 10, photographs: prepare the sets with --resize=64,64 and 224,224.
    # The paper's classifiers have weights of ImageNet, which are not downloaded: give
    # the files. Each is fine-tuned under a new head.
    photographs = {
        # Name at full and small size, title, images of train and where to split them.
        "tiny": ("tiny_imagenet", "tiny_imagenet10", "Tiny-ImageNet", 95_000, 4_500),
        "imagenette": ("imagenette", "imagenette224", "ImageNette", 9_000, 900),
    }
    for role, (whole, some, title, last, small_last) in photographs.items():
        split = choose(last, small_last, 48)
        config[role] = config_dict.create(
            name=choose(whole, some, "generated"),
            title=choose(title, f"{title}, {_SMALL[role]}", title),
            train_split=f"train[:{split}]",
            validation_split="train[240:]" if smoke else f"train[{split}:]",
            test_split="test" if smoke else "validation",
            classifier=choose(
                "tune:runs/models/densenet121.pth",
                "tune:runs/models/efficientnet_lite0.safetensors",
                "train:cnn_narrow",
            ),
            classifier_title=choose(
                "DenseNet", "EfficientNet-Lite0, fine-tuned", "DenseNet"
            ),
            other_classifier=choose(
                "tune:runs/models/mobilenet_v1.h5", "", "train:cnn_narrow"
            ),
            other_classifier_title="MobileNet",
            third_classifier=choose(
                "tune:runs/models/vgg16.pth", "", "train:cnn_narrow"
            ),
            third_classifier_title="VGG16",
        )
    # From scratch, beside the one with weights of ImageNet.
    if preset == "small":
        config.tiny.other_classifier = "train:vgg11_narrow"
        config.tiny.other_classifier_title = "VGG-11 of a quarter width, from scratch"

    config.augmentation = "none" if smoke else "flip_crop"
    config.digits.augmentation = "none"  # They are not mirrored.
    config.pipeline = "auto"  # on_device, streamed
    config.steps_per_dispatch = choose(50, 20, 1)
    config.log_every = choose(100, 20, 1)
    config.suite = config_dict.create(
        noises=("GN", "UN", "SPN", "SN", "IN", "SPKN"),
        severities=(1, 2, 3),
        # What the paper leaves open, see docs/results/cifar10_resnet20_undefended.md.
        spn_reading="per_pixel",
        un_reading="per_element",
    )
    config.evaluation = config_dict.create(
        num_images=choose(0, 1000, 16),  # The first so many test images; 0 for all.
        batch_size=choose(1000, 500, 16),
    )
    config.optimizer = config_dict.create(
        name="adam",
        peak_rate=choose(1e-3, 3e-3, 1e-3),  # Short runs need the higher one.
        schedule="cosine",
        warmup_steps=0,
        clip_norm=0.0,
    )
    # One remover for each noise and severity, and one detector behind each. In the time
    # of `small` the paper's remover without skip connections only learns to blur.
    config.remover = config_dict.create(
        variant=choose("paper", "skip", "paper"),
        widths=choose((64, 128, 256), (16, 32), (4, 4)),
        noise_weight=1.0,
        # Epochs: 20 of 45,000 images, 2.6 of 10,000.
        num_steps=choose(7_040, 800, 2),
        batch_size=choose(128, 32, 8),
        checkpoint_every=choose(1_000, 200, 1),
    )
    config.detector = config_dict.create(
        name=choose("wrn10_2", "wrn10_1", "cnn_narrow"),
        inputs="image",  # clean
        # Epochs: 5 of 45,000 images, 0.5 of 10,000, each image clean and noisy.
        num_steps=choose(3_520, 160, 2),
        batch_size=choose(64, 32, 8),
        checkpoint_every=choose(1_000, 80, 1),
    )
    # Remover and detector for all 18 degradations, blind to which it is. What helped in
    # `universal_trials`: a head that blends image and picture, more filters, and being
    # held to the classifier's answers. One head made `skip` a little worse, but takes
    # two thirds of the computation; what it removes is its noise pattern.
    config.universal = config_dict.create(
        variant="blend_dcae",
        widths=choose((96, 192, 384), (32, 64, 128), (4, 4)),
        clean_entries=2,
        # Of the first classifier's answers, in the loss; 0 leaves them out.
        consistency_weight=choose(0.001, 0.001, 0.0),
        mirror=True,  # Whether pictures are means over an image and its mirror image.
        num_steps=choose(35_200, 10_000, 2),
        batch_size=choose(128, 32, 8),
        checkpoint_every=choose(1_000, 500, 1),
    )
    # What could make it better, in shorter trainings; see `kinds.universal_trials`.
    config.universal_trials = config_dict.create(
        names=choose(
            *[
                (
                    *("paper", "skip", "residual", "blend", "one_head", "wider"),
                    *("consistency", "weak_consistency", "combined"),
                )
            ]
            * 2,
            ("skip", "consistency"),
        ),
        widths=choose((64, 128, 256), (24, 48, 96), (4, 4)),
        wider=choose((96, 192, 384), (32, 64, 128), (6, 6)),
        consistency_weight=0.02,
        weak_consistency_weight=0.001,
        clean_entries=2,
        num_steps=choose(7_040, 800, 2),
        batch_size=choose(128, 32, 8),
        checkpoint_every=choose(1_000, 200, 1),
    )
    # The same trained on the corruptions of a suite instead, each image with one of its
    # own, at one severity; `copies` of the training set are drawn and stored. The
    # remover sees a share of clean images too.
    config.universal_corruptions = config_dict.create(
        suite="cifar_c",
        names=("fog", "contrast") if smoke else list_corruptions("cifar_c"),
        severities=(1, 2, 3, 4, 5),
        copies=choose(10, 4, 2),
        clean_share=0.1,
        tested_severities=choose((1, 2, 3, 4, 5), (1, 3, 5), (3,)),
    )
    config.universal_detector = config_dict.create(
        num_steps=choose(10_560, 800, 2),
        batch_size=choose(64, 32, 8),
        checkpoint_every=choose(1_000, 200, 1),
    )
    # Classifiers that are trained here.
    config.training = config_dict.create(
        num_steps=choose(70_400, 400, 2),
        batch_size=choose(128, 128, 8),
        checkpoint_every=choose(5_000, 200, 1),
        optimizer=config_dict.create(
            name="sgd",
            peak_rate=0.1,
            schedule="cosine",
            warmup_steps=0 if smoke else 100,
            weight_decay=5e-4,
            momentum=0.9,
            nesterov=True,
            clip_norm=0.0,
        ),
    )
    # Classifiers that start from weights of other classes, `tune:`.
    config.fine_tuning = config_dict.create(
        num_steps=choose(14_080, 300, 2),
        batch_size=choose(64, 16, 8),
        checkpoint_every=choose(1_000, 100, 1),
        optimizer=config_dict.create(
            name="sgd",
            peak_rate=choose(0.01, 0.02, 0.01),
            schedule="cosine",
            warmup_steps=0 if smoke else 20,
            weight_decay=1e-4,
            momentum=0.9,
            nesterov=True,
            clip_norm=0.0,
        ),
    )
    # Removers in front of classifiers of photographs: those of Tiny ImageNet, of their
    # own size, and a pretrained one.
    config.resolutions = config_dict.create(
        severity=choose(2, 2, 2),
        num_images=choose(0, 100, 16),
        universal="" if smoke else "universal-cifar10",  # Empty: left out.
    )
    # Classifiers that learn noise, from the weights of the one on clean images. The
    # paper's sizes are for 224x224 images of ImageNet.
    config.noise_training = _noise_training(
        network=choose("resnet20", "resnet20", "cnn_narrow"),
        network_title="ResNet-20",
        clean_steps=0,  # It is given.
        # Epochs: 10 of 45,000 images; 3 of them with data.train_split=train[:45000],
        # as small results were made, 13 of 10,000.
        num_steps=choose(3_520, 1_056, 2),
        restart_every=choose(352, 176, 1),
        restart_steps=choose(100, 50, 1),
        restart_rate=1e-2,
        sigmas=(0.1,),
        epsilon=5.5,  # Of Gaussian noise with the first sigma.
        epsilons=(),  # Others that are tried.
        generator_epsilon=choose(5.5, 5.5, 6.0),  # Of the generators that judge.
        pgd_steps=0,  # Adversarial training is left out.
        pgd_epsilon=0.0,
        pgd_step_size=0.0,
        suite="cifar_c",
        tested_severities=choose((), (1, 3, 5), (1,)),  # Empty: all.
        tested_sigmas=(0.02, 0.05, 0.1, 0.15, 0.2, 0.3),
        optimizer=config_dict.create(
            **{"name": "sgd", "peak_rate": 0.02, "schedule": "cosine"},
            **{"warmup_steps": 0, "weight_decay": 0.0, "momentum": 0.9},
            **{"nesterov": True, "clip_norm": 0.0},
        ),
        preset=preset,
    )
    config.mnist_noise_training = _noise_training(
        network=choose("cnn_madry", "cnn_madry", "cnn_narrow"),
        network_title="CNN of Madry et al.",
        # Epochs, each: 11 of 55,000 images; 18 of 10,000.
        clean_steps=choose(4_690, 1_407, 2),
        num_steps=choose(4_690, 1_407, 2),
        restart_every=choose(469, 235, 1),
        restart_steps=choose(200, 100, 1),
        restart_rate=1e-2,
        sigmas=(0.1, 0.3, 0.5, 0.7),
        # 9.7 is the paper's of ImageNet, for each element; see ant_mnist_scan.
        epsilon=5.6,
        epsilons=choose(*[(3.0, 4.0, 5.6, 7.0, 8.3, 9.7)] * 2, (3.0,)),
        generator_epsilon=9.7,
        # Madry et al. have 40 steps of 0.01.
        pgd_steps=choose(10, 7, 1),
        pgd_epsilon=0.3,
        pgd_step_size=choose(0.05, 0.08, 0.3),
        suite="mnist_c",
        tested_severities=(),
        tested_sigmas=(0.1, 0.2, 0.3, 0.5, 0.7, 1.0),
        optimizer=config.optimizer.copy_and_resolve_references(),
        preset=preset,
    )
    # Reconstructive training, and the transformations beside it: attacks and defences
    # are `title=` and what `parse_run` or `load_purifier` reads.
    config.reconstructive = config_dict.create(
        attacks=("FGSM=fgsm_linf:epsilon=0.01", "DeepFool=deepfool_l2:steps=2")
        if smoke
        else (
            "FGSM=fgsm_linf:epsilon=0.01",
            "PGD=pgd_linf:epsilon=0.01,step_size=0.004,steps=10",
            "DeepFool=deepfool_l2:overshoot=0.02,steps=50",
        ),
        # On whole defences, besides those with a budget.
        further_white_box=choose(
            (
                "PGD-40=pgd_linf:epsilon=0.01,steps=40,restarts=1",
                "Square=square_linf:epsilon=0.01,steps=1000",
            ),
            # Each is compiled for every defence, and random ones are asked 16 times a
            # step: hours on a CPU.
            (),
            (),
        ),
        # Defences that nobody attacks who knows them: these take long on a CPU.
        no_white_box=choose((), ("RRP", "STL", "TVM", "TVM (ART)"), ()),
        # On which of them autoencoders learn.
        learned=("FGSM",) if smoke else ("FGSM", "PGD"),
        transformations=("RRP=resize_pad",)
        if smoke
        else (
            *("PD=pixel_deflection", "RRP=resize_pad", "FD=feature_distillation"),
            *("STL=sparse_layer", "JPEG=jpeg", "bit depth=bit_depth"),
            *("TVM=total_variation", "TVM (ART)=total_variation_art"),
            *("median=median", "wavelets=wavelet"),
        ),
        # The URoNet remover beside them, what `load_purifier` reads; the universal one,
        # trained here, where it is empty; `none` leaves it out.
        remover="",
        patches=choose(1_000_000, 50_000, 100),  # For quilting; 0 leaves it out.
        variant="code",
        width=choose(48, 24, 4),
        # Epochs: 50 and 150 of 45,000 images; 2 and 8 of 10,000.
        warmup_steps=choose(18_000, 400, 1),
        num_steps=choose(72_000, 2_000, 2),
        batch_size=choose(125, 50, 8),
        checkpoint_every=choose(1_000, 200, 1),
        visual_weight=0.005,
        class_weight=1.0,
        clean_share=0.25,  # Of those that see clean images too; 0 leaves them out.
        num_train=0,  # Images that are attacked; 0 for all.
        num_test=choose(0, 500, 16),
        num_white_box=choose(1_000, 48, 16),
        optimizer=config_dict.create(
            **{"name": "adam", "peak_rate": 1e-3, "schedule": "constant"},
            **{"warmup_steps": 0, "clip_norm": 0.0},
        ),
    )
    config.attack = config_dict.create(
        epsilon=0.03,
        step_size=0.01,
        steps=choose(40, 10, 2),  # At most; the paper's 40 or 20.
        restarts=choose(10, 10, 1),  # Of PGD10.
        num_test=choose(0, 500, 16),  # Images that are attacked; 0 for all.
        num_train=choose(0, 2_000, 16),
        batch_size=choose(1000, 32, 16),
    )
    config.ablations = config_dict.create(
        detector=choose(
            "vgg16", "vgg11_narrow", "wrn10_1"
        ),  # Instead of config.detector.
        # Noises whose removers and detectors are varied, at severity 1.
        noises=choose(
            ("GN", "UN", "SPN", "SN", "IN", "SPKN"),
            ("GN", "UN", "SPN"),
            ("GN", "UN", "SPN"),
        ),
    )
    config.zero_shot = config_dict.create(
        severities=choose((1, 2, 3, 4, 5), (1, 3, 5), (3,)),
    )
    return config


def _noise_training(
    *, preset: str, optimizer: config_dict.ConfigDict, **fields
) -> config_dict.ConfigDict:
    """Returns a section on classifiers that learn noise."""
    smoke = preset == "smoke"
    return config_dict.create(
        models=(
            *(f"GNT {sigma:g}" for sigma in fields["sigmas"]),
            *("GNT mult", "Speckle"),
            *("ANT 1x1", "ANT 1x1 without replay", "ANT 3x3"),
            *(("PGD training",) if fields["pgd_steps"] else ()),
        ),
        dtype="float32",  # Perturbations of 0.001 would be rounded away in bfloat16.
        sigma_set=(0.08, 0.12, 0.18, 0.26, 0.38),
        speckle_set=(0.15, 0.2, 0.35, 0.45, 0.6),
        rate=1e-4,
        batch_size=8 if smoke else 128,
        checkpoint_every=1 if smoke else 176,
        clean_optimizer=optimizer.copy_and_resolve_references(),
        optimizer=optimizer,
        eps_star_images={"full": 10_000, "small": 200, "smoke": 8}[preset],
        # Learned noise of the distance to the border: how many generators, and steps.
        generators={"full": 4, "small": 2, "smoke": 1}[preset],
        generator_steps={"full": 1_000, "small": 100, "smoke": 2}[preset],
        # PGD within the first; DDN within the second times the root of the elements:
        # the paper's 0.001 and 0.12 at 224x224x3.
        attacked_images={"full": 10_000, "small": 100, "smoke": 8}[preset],
        attack_linf=0.001,
        attack_l2=0.12 / (224 * 224 * 3) ** 0.5,
        **fields,
    )
