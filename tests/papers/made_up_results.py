"""Made-up results of the papers' experiments: their numbers with known differences."""

import itertools
import json

from uronet_jax.papers.pages.all_papers import PAGE_LAYOUTS
from uronet_jax.papers.pages.comparison import group_runs
from uronet_jax.papers.pages.layout import published_rows
from uronet_jax.reports.results import (
    REPRODUCTION,
    REPRODUCTION_VERSION,
    TEST_IMAGES,
    Result,
    load_folder,
)

NOISES = ("GN", "UN", "SPN", "SN", "IN", "SPKN")
PROVENANCE = {
    "versions": {"jax": "0.10.2"},
    "device": {"platform": "gpu", "kind": "H200", "count": 2, "processes": 1},
    "seconds": 1800.0,
}
SPN_1, UN_3 = 20.48, 18.19  # Published for ResNet, severities 1 and 3.


def run(
    experiment, *, preset="full", shift=0.0, seed=0, rows=None, overridden=(), **config
):
    """Returns a result whose numbers are the paper's own plus a shift."""
    if rows is None:
        rows = [
            {
                **{k: int(v) if v.isdigit() else v or None for k, v in row.items()},
                "value": float(row["value"]) + shift,
            }
            for row in PAGE_LAYOUTS[experiment].published_rows()
        ]
    rows = [{"num_images": TEST_IMAGES} | row for row in rows]
    return PROVENANCE | {
        "schema": REPRODUCTION,
        "schema_version": REPRODUCTION_VERSION,
        "experiment": experiment,
        "rows": rows,
        "overridden": list(overridden),
        "config": {"preset": preset, "seed": seed, **config},
    }


def evaluation(spn=SPN_1, un=UN_3, *, preset="full", models=(), **suite):
    """Returns undefended accuracies of a ResNet, by default the paper's own."""
    readings = {"spn_reading": "per_pixel", "un_reading": "per_element"}
    rows = (("GN", 1, 32.97), ("SPN", 1, spn), ("UN", 3, un))
    return PROVENANCE | {
        "config": {
            "preset": preset,
            "seed": 1,
            "classifier": "runs/full/classifier",
            "data": {"name": "cifar10", "split": "test", "num_examples": 0},
            "suite": {"name": "uronet"} | readings | suite,
        },
        "models": {"classifier": {"name": "resnet20"}, **dict(models)},
        "summary": {"num_images": 10_000, "clean_accuracy": 0.9173},
        "rows": [
            {"noise": noise, "severity": severity, "undefended_accuracy": value / 100}
            for noise, severity, value in rows
        ],
    }


def detection(test_attack, value, severity=1, **extra):
    row = {"dataset": "CIFAR-10", "train_noise": "GN", "train_severity": severity}
    row |= {"test_attack": test_attack, "metric": "detection_accuracy", "value": value}
    return row | extra


# Points that the remover of each noise gives back under attack.
GAINS = dict(zip(NOISES, (60, 80, 90, 70, 84, 40), strict=True))
CLASSIFIERS = ("ResNet", "Wide-ResNet16-8")


def gains(classifiers=CLASSIFIERS):
    """Returns rows of Figure 6: half as much to gain where attacks are transferred."""
    rows = []
    for classifier, attacked, attack in itertools.product(
        classifiers, classifiers, ("IFGSM", "PGD0", "PGD10")
    ):
        base = {"dataset": "CIFAR-10", "classifier": classifier, "attack": attack}
        base |= {"attacked_classifier": attacked}
        base |= {"train_noise": None, "train_severity": None}
        rows.append(base | {"metric": "adversarial_accuracy", "value": 5.0})
        for noise, gain in GAINS.items():
            gain = gain if classifier == attacked else gain / 2
            row = base | {"train_noise": noise, "train_severity": 1}
            rows.append(row | {"metric": "accuracy_gain", "value": float(gain)})
            rows.append(row | {"metric": "robust_accuracy", "value": 5.0 + gain})
    return rows


def ablation_rows(drop=25.0, pattern=4.0, grey=60.0):
    """Returns rows of the ablations: detectors on all tests, removers."""
    rows = []
    trained = {"dataset": "CIFAR-10", "train_noise": "GN", "train_severity": 1}
    for kind, loss, other in (
        ("detector_other", drop, "vgg16, image"),
        ("detector_image_only", pattern, "wrn10_2, image_only"),
    ):
        # The changed one first: which is which must not follow from the order.
        for variant, lost in ((other, loss), ("wrn10_2, image", 0.0)):
            base = trained | {"ablation": kind, "variant": variant, "own": not lost}
            base |= {"metric": "detection_accuracy", "value": 99.0 - lost}
            rows += [base | test for test in tests_of(NOISES)]
    base = {"ablation": "dcae", "dataset": "CIFAR-10", "classifier": "ResNet"}
    base |= {"test_noise": "GN", "test_severity": 1, "metric": "accuracy"}
    rows += [base | {"variant": "remover", "value": 58.0}]
    rows += [base | {"variant": "dcae", "value": 50.0}]
    base |= {"ablation": "grey", "dataset": "Fashion-MNIST"}
    base |= {"classifier": "custom 5-layer CNN"}
    for test in tests_of(("GN", "UN", "SPN")):
        rows += [base | test | {"variant": "undefended", "value": 20.0}]
        rows += [base | test | {"variant": "remover", "value": 20.0 + grey}]
    return rows


def tests_of(noises):
    """Returns what the degradations of noises are called in rows."""
    return [
        {"test_noise": noise, "test_severity": severity}
        for noise, severity in itertools.product(noises, (1, 2, 3))
    ]


def grey_clean(value=91.45):
    """Returns the accuracy of the grey classifier on clean images."""
    row = next(row for row in ablation_rows() if row["ablation"] == "grey")
    return row | {"test_noise": "clean", "test_severity": 0, "value": value}


def universal(detection=99.9, accuracy=86.0):
    """Returns rows of the universal models on clean images and 18 degradations."""
    base = {"dataset": "CIFAR-10", "model": "skip"}
    clean = base | {"test_noise": "clean", "test_severity": 0}
    found = {"classifier": None, "condition": "detection"}
    rows = [clean | found | {"metric": "false_alarm_rate", "value": 0.5}]
    found |= {"metric": "detection_accuracy", "value": detection}
    noisy = [base | test for test in tests_of(NOISES)]
    rows += [test | found for test in noisy]
    for test in (clean, *noisy):
        for condition, value in (("noisy", 30.0), ("mitigated", accuracy)):
            row = test | {"classifier": "ResNet", "condition": condition}
            rows.append(row | {"metric": "accuracy", "value": value})
    return rows


# Models of the experiments on noise -> what the paper's table calls them.
NOISE_MODELS = {
    name: name
    for name in ("Vanilla", "GNT 0.5", "GNT mult", "Speckle", "ANT 1x1")
    + ("ANT 1x1 without replay", "ANT 3x3")
} | {"PGD training": "Adversarial training (Shafahi et al. 2019)"}


def noise_training(dataset="CIFAR-10", network="ResNet-20", published=NOISE_MODELS):
    """Returns rows on a data set, and those under attack: the numbers of ImageNet."""
    theirs = [
        row
        for row in published_rows("adversarial_noise/ant_tables.csv")
        if row["network"] == "ResNet-50" and row["metric"] != "top5_accuracy"
    ]
    rows = []
    for i, (model, name) in enumerate(published.items()):
        base = {"dataset": dataset, "network": network, "model": model}
        for row in theirs:
            if row["model"] == name:
                found = {"test": row["test"], "metric": row["metric"]}
                found |= {"std": float(row["std"])} if row["std"] else {}
                if row["test"].startswith("corruptions"):
                    found["severities"] = "all"
                rows.append(base | found | {"value": float(row["value"])})
        tests = {"fog": 50, "contrast": 40, "snow": 30} | {
            f"sigma {sigma:g}": 70 - 100 * sigma for sigma in (0.05, 0.1)
        }
        bonus = -9.0 if model == "PGD training" else float(i)
        for test, value in tests.items():
            found = {"test": test, "metric": "accuracy", "value": value + bonus}
            rows.append(base | found)
        found = {"test": "gaussian", "metric": "never_fooled", "value": 1.5}
        rows.append(base | found)
    return rows


def under_attack(rows):
    """Returns those of `ant_cifar10_attacks`, and the others."""
    tests = ("PGD linf", "DDN l2")
    found = [x["metric"] != "accuracy" or x["test"] in tests for x in rows]
    pairs = list(zip(rows, found, strict=True))
    return [x for x, is_one in pairs if is_one], [x for x, one in pairs if not one]


def noise_defences(severities="1, 3, 5"):
    """Returns rows of a remover, a classifier that learned noise, and both."""
    rows = []
    for model, values in {
        "none": (91.5, 27.0, 12.1, 70.2),
        "remover": (92.0, 74.5, 45.2, 76.6),
        "ANT 1x1": (90.5, 60.0, 30.0, 75.0),
        "remover + ANT 1x1": (90.0, 80.0, 50.0, 77.0),
    }.items():
        tests = ("clean", "18 noises", "worst noise", "19 corruptions")
        for test, value in zip(tests, values, strict=True):
            base = {"dataset": "CIFAR-10", "network": "ResNet-20", "model": model}
            base |= {"test": test, "metric": "accuracy", "value": value}
            if test == "19 corruptions":
                base["severities"] = severities
            rows.append(base)
    return rows


def other_classifier(rows, name="ResNet-8"):
    """Returns rows with the paper's second classifier under another name."""
    return [
        {**row, "classifier": name} if row["classifier"] != "ResNet" else row
        for row in rows
    ]


def store(folder, **contents):
    folder.mkdir(exist_ok=True)
    for name, content in contents.items():
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return load_folder(folder)


def groups(**contents):
    """Returns the groups of results by their names, whatever these say."""
    return group_runs(Result(n, "reproduction", c) for n, c in contents.items())


def one_group(experiment, **options):
    (group,) = groups(a=run(experiment, **options))
    return group
